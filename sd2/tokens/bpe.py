"""CLIP's vocabulary and BPE tokenizer, with the same tokens in every environment.

``transformers`` names its CLIP tokenizer differently in 4.x and 5.x, and the slow one of 4.x gives
other tokens if ``ftfy`` is installed. So the tokenizer is built here from the parts of
``tokenizers``, the library that transformers' fast tokenizer uses and that every supported version
requires; transformers itself is imported only for its wrapper class.

The vocabulary is OpenAI's (see NOTICE). The tokens differ from those of open_clip's
``SimpleTokenizer`` for text that it cleans first (ftfy, HTML entities); ComfyUI and transformers do
not clean text, and neither does this module.
"""

import gzip
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import UnreadableFileError

if TYPE_CHECKING:
    from tokenizers import Tokenizer

MERGES_FILE = Path(__file__).parent / "clip_merges.txt.gz"
START_TEXT = "<|startoftext|>"
END_TEXT = "<|endoftext|>"
END_OF_WORD = "</w>"

# CLIP's words: the two special tokens, English contractions, runs of letters, single digits, and
# runs of any other characters but blanks.
WORD_PATTERN = (
    r"<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d"
    r"|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"
)

# Lower case where versions of tokenizers differ: letters that Unicode 17 added and 0.21 (which
# transformers 4.50 requires) does not know. Half a surrogate pair, which JSON can carry but UTF-8
# cannot, becomes the replacement character.
_REPAIRS = {
    **{capital: capital + 1 for capital in (0xA7CE, 0xA7D2, 0xA7D4)},
    **{capital: capital + 27 for capital in range(0x16EA0, 0x16EB9)},
    **dict.fromkeys(range(0xD800, 0xE000), 0xFFFD),
}


def byte_symbols() -> dict[int, str]:
    """Map each byte to a printable character, in vocabulary order: BPE works on characters.

    Bytes that are printable in Latin-1 map to themselves, the others to the characters from 256 on.
    """
    printable = [*range(ord("!"), ord("~") + 1), *range(0xA1, 0xAC + 1), *range(0xAE, 0xFF + 1)]
    symbols = {byte: chr(byte) for byte in printable}
    rest = (byte for byte in range(256) if byte not in symbols)
    symbols.update({byte: chr(256 + i) for i, byte in enumerate(rest)})
    return symbols


@dataclass(frozen=True)
class Vocabulary:
    """The texts of tokens with their ids, and the BPE merges in order of priority."""

    ids: dict[str, int]
    merges: list[tuple[str, str]]

    @cached_property
    def tokens(self) -> dict[int, str]:
        """The raw text of each id: bytes as symbols, and ``</w>`` where a word ends."""
        return {index: text for text, index in self.ids.items()}

    @property
    def start(self) -> int:
        return self.ids[START_TEXT]

    @property
    def end(self) -> int:
        return self.ids[END_TEXT]

    def ends_word(self, token: int) -> bool:
        text = self.tokens[token]
        return text.endswith(END_OF_WORD) or text in (START_TEXT, END_TEXT)

    def readable(self, *tokens: int) -> str:
        """Decode *tokens* for display. A character cut between tokens shows as ``\\xf0``."""
        raw = "".join(self.tokens[token].removesuffix(END_OF_WORD) for token in tokens)
        data = bytes(_symbol_bytes()[symbol] for symbol in raw)
        return data.decode("utf-8", errors="backslashreplace")


@cache
def _symbol_bytes() -> dict[str, int]:
    return {symbol: byte for byte, symbol in byte_symbols().items()}


def parse_merges(text: str) -> list[tuple[str, str]]:
    """Parse the pairs of a ``merges.txt``; its first line may be a ``#version`` comment."""
    lines = text.split("\n")
    if lines[0].startswith("#version"):
        del lines[0]
    return [(first, second) for first, _, second in (line.partition(" ") for line in lines if line)]


@cache
def clip_vocabulary() -> Vocabulary:
    """Build CLIP's 49,408 tokens from the merges alone."""
    merges = parse_merges(gzip.decompress(MERGES_FILE.read_bytes()).decode("utf-8"))
    symbols = list(byte_symbols().values())
    texts = [
        *symbols,
        *(symbol + END_OF_WORD for symbol in symbols),
        *(first + second for first, second in merges),
        START_TEXT,
        END_TEXT,
    ]
    return Vocabulary({text: index for index, text in enumerate(texts)}, merges)


def read_vocabulary(folder: str | os.PathLike[str]) -> Vocabulary:
    """Read ``vocab.json`` and ``merges.txt`` of a tokenizer *folder* in CLIP's format."""
    folder = Path(folder)
    try:
        ids = json.loads((folder / "vocab.json").read_text(encoding="utf-8"))
        merges = parse_merges((folder / "merges.txt").read_text(encoding="utf-8"))
        complete = {START_TEXT, END_TEXT} <= ids.keys()
    except (OSError, ValueError, AttributeError) as error:
        raise UnreadableFileError(
            f"{folder}: not a CLIP tokenizer folder ({error}). "
            "It must contain vocab.json and merges.txt. Leave tokenizer_path empty for CLIP's own."
        ) from error
    if not complete:
        raise UnreadableFileError(
            f"{folder}/vocab.json: {START_TEXT} or {END_TEXT} is missing. Choose a CLIP tokenizer."
        )
    return Vocabulary(ids, merges)


class ClipTokenizer:
    """Converts text to token ids with one vocabulary."""

    def __init__(self, vocabulary: Vocabulary) -> None:
        self.vocabulary = vocabulary
        self._tokenizer = _build(vocabulary)

    def encode(self, text: str) -> list[int]:
        """Return the ids of *text*, of any length, without start and end."""
        repaired = text.translate(_REPAIRS)
        ids: list[int] = self._tokenizer.encode(repaired, add_special_tokens=False).ids
        return ids

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """Encode many texts, on all processors."""
        repaired = [text.translate(_REPAIRS) for text in texts]
        encodings = self._tokenizer.encode_batch(repaired, add_special_tokens=False)
        return [encoding.ids for encoding in encodings]

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text of *ids*, in lower case and with a blank between words."""
        text: str = self._tokenizer.decode(list(ids)) if ids else ""  # decode([]) panics
        return text

    @cached_property
    def transformers(self) -> Any:
        """The same tokenizer as a ``transformers`` object, for packs that use that class."""
        from transformers import PreTrainedTokenizerFast

        return PreTrainedTokenizerFast(
            tokenizer_object=self._tokenizer,
            unk_token=END_TEXT,
            bos_token=START_TEXT,
            eos_token=END_TEXT,
            pad_token=END_TEXT,
            clean_up_tokenization_spaces=False,
        )


@cache
def clip_tokenizer() -> ClipTokenizer:
    """Return the tokenizer of CLIP's vocabulary, built once per process."""
    return ClipTokenizer(clip_vocabulary())


def _build(vocabulary: Vocabulary) -> "Tokenizer":
    from tokenizers import (
        AddedToken,
        Regex,
        Tokenizer,
        decoders,
        normalizers,
        pre_tokenizers,
        processors,
    )
    from tokenizers.models import BPE

    tokenizer = Tokenizer(
        BPE(
            vocab=vocabulary.ids,
            merges=vocabulary.merges,
            end_of_word_suffix=END_OF_WORD,
            unk_token=END_TEXT,
        )
    )
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.NFC(), normalizers.Replace(Regex(r"\s+"), " "), normalizers.Lowercase()]
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(WORD_PATTERN), behavior="removed", invert=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    # Matched after normalization, so that <|EndOfText|> in a text is the end token too.
    tokenizer.add_special_tokens(
        [AddedToken(text, normalized=True) for text in (START_TEXT, END_TEXT)]
    )
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{START_TEXT} $A {END_TEXT}",
        special_tokens=[(START_TEXT, vocabulary.start), (END_TEXT, vocabulary.end)],
    )
    tokenizer.decoder = decoders.Sequence(
        [decoders.ByteLevel(), decoders.Replace(END_OF_WORD, " "), decoders.Strip(" ", 0, 1)]
    )
    return tokenizer
