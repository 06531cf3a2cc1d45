"""CLIP's vocabulary and the tokenizer over it: the same tokens in every environment.

``transformers`` names its CLIP tokenizer differently in 4.x and 5.x, and the slow one of 4.x gives
other tokens when ``ftfy`` happens to be installed. So the tokenizer is put together here from the
parts of ``tokenizers``, the library behind transformers' fast one, which every supported version
brings along; transformers itself is imported only if somebody asks for its wrapper.

The vocabulary is OpenAI's (see NOTICE). It differs from open_clip's ``SimpleTokenizer`` where that
cleans text first (ftfy, HTML entities); ComfyUI and transformers do not, and neither do we.
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
# runs of anything else that is no blank.
WORD_PATTERN = (
    r"<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d"
    r"|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"
)

# Lower case by our own hand where tokenizers' versions disagree: letters that Unicode 17 added, of
# which 0.21 (transformers 4.50) knows nothing. And half a surrogate pair, which JSON can carry but
# no encoder takes, becomes the replacement character.
_REPAIRS = {
    **{capital: capital + 1 for capital in (0xA7CE, 0xA7D2, 0xA7D4)},
    **{capital: capital + 27 for capital in range(0x16EA0, 0x16EB9)},
    **dict.fromkeys(range(0xD800, 0xE000), 0xFFFD),
}


def byte_symbols() -> dict[int, str]:
    """A printable character for each byte, in vocabulary order: BPE works on characters.

    Bytes that print in Latin-1 stand for themselves; the others take the characters from 256 on.
    """
    printable = [*range(ord("!"), ord("~") + 1), *range(0xA1, 0xAC + 1), *range(0xAE, 0xFF + 1)]
    symbols = {byte: chr(byte) for byte in printable}
    rest = (byte for byte in range(256) if byte not in symbols)
    symbols.update({byte: chr(256 + i) for i, byte in enumerate(rest)})
    return symbols


@dataclass(frozen=True)
class Vocabulary:
    """Token texts with their ids, and the BPE merges in order of priority."""

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
        """*tokens* as a person reads them. A character cut between tokens shows as ``\\xf0``."""
        raw = "".join(self.tokens[token].removesuffix(END_OF_WORD) for token in tokens)
        data = bytes(_symbol_bytes()[symbol] for symbol in raw)
        return data.decode("utf-8", errors="backslashreplace")


@cache
def _symbol_bytes() -> dict[str, int]:
    return {symbol: byte for byte, symbol in byte_symbols().items()}


def parse_merges(text: str) -> list[tuple[str, str]]:
    """The pairs of a ``merges.txt``, whose first line may be a ``#version`` comment."""
    lines = text.split("\n")
    if lines[0].startswith("#version"):
        del lines[0]
    return [(first, second) for first, _, second in (line.partition(" ") for line in lines if line)]


@cache
def clip_vocabulary() -> Vocabulary:
    """CLIP's 49,408 tokens, rebuilt from the merges alone."""
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
    """The ``vocab.json`` and ``merges.txt`` of a tokenizer *folder*, in CLIP's format."""
    folder = Path(folder)
    try:
        ids = json.loads((folder / "vocab.json").read_text(encoding="utf-8"))
        merges = parse_merges((folder / "merges.txt").read_text(encoding="utf-8"))
        complete = {START_TEXT, END_TEXT} <= ids.keys()
    except (OSError, ValueError, AttributeError) as error:
        raise UnreadableFileError(
            f"{folder}: not a CLIP tokenizer folder ({error}). "
            "It must hold vocab.json and merges.txt; leave tokenizer_path empty for CLIP's own."
        ) from error
    if not complete:
        raise UnreadableFileError(f"{folder}/vocab.json: {START_TEXT} or {END_TEXT} is missing.")
    return Vocabulary(ids, merges)


class ClipTokenizer:
    """Text to token ids over one vocabulary."""

    def __init__(self, vocabulary: Vocabulary) -> None:
        self.vocabulary = vocabulary
        self._tokenizer = _build(vocabulary)

    def encode(self, text: str) -> list[int]:
        """The ids of *text*, without start and end. Any length; never a warning."""
        repaired = text.translate(_REPAIRS)
        ids: list[int] = self._tokenizer.encode(repaired, add_special_tokens=False).ids
        return ids

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """``encode`` of many texts, on all processors."""
        repaired = [text.translate(_REPAIRS) for text in texts]
        encodings = self._tokenizer.encode_batch(repaired, add_special_tokens=False)
        return [encoding.ids for encoding in encodings]

    def decode(self, ids: Sequence[int]) -> str:
        """The text of *ids*, in lower case and with a blank between words."""
        text: str = self._tokenizer.decode(list(ids)) if ids else ""  # which it panics at
        return text

    @cached_property
    def transformers(self) -> Any:
        """The same tokenizer as a ``transformers`` one, for packs that expect that class."""
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
    """The tokenizer over CLIP's vocabulary, built once per process."""
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
    # Matched after normalisation, so that <|EndOfText|> in a text is the end token as well.
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
