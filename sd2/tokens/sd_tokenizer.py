"""Text to chunks of weighted tokens, as ComfyUI makes them, for any one CLIP text encoder.

``SDTokenizer`` serves one encoder, ``SD1Tokenizer`` is what a CLIP holds: that, under the encoder's
letter. The names, attributes and methods are ComfyUI's, because other packs use them.
``SDTokenizer.tokenize`` is the one place where text becomes tokens; all else is a view of it.

Groups decide where chunks end. A group is a segment of equal weight, up to the next embedding:
one of ``max_word_length`` tokens or more is cut wherever the chunk is full, even inside a word; a
shorter one moves to the next chunk as a whole.
"""

import os
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from typing import Any

from ..errors import OptionError
from ..syntax.comfy import ParsedText, Segment, parse_comfy, parse_unweighted
from .a1111_chunks import A1111Chunks
from .bpe import ClipTokenizer, clip_tokenizer, read_vocabulary
from .comfy_groups import EMBEDDING_PREFIX, TokenGroups
from .tokenized_text import Token, TokenizedText

CONTEXT_LENGTH = 77
MAX_WORD_LENGTH = 8


class SDTokenizer:
    """The tokenizer of one text encoder.

    ``tokenizer_path`` is a folder with another ``vocab.json`` and ``merges.txt``;
    ``embedding_size`` is the encoder's width and may be set later; ``tokenizer_data`` may hold
    ``<embedding_key>_max_length``.
    """

    def __init__(
        self,
        tokenizer_path: str | os.PathLike[str] | None = None,
        max_length: int = CONTEXT_LENGTH,
        pad_with_end: bool = True,
        embedding_directory: str | os.PathLike[str] | Sequence[str] | None = None,
        embedding_size: int = 768,
        embedding_key: str = "clip_l",
        tokenizer_data: Mapping[str, Any] | None = None,
    ) -> None:
        data = tokenizer_data or {}
        self.max_length: int = data.get(f"{embedding_key}_max_length", max_length)
        if self.max_length < 3:
            raise OptionError(
                f"{embedding_key}_max_length is {self.max_length}; "
                "a chunk needs 3 positions or more, for start, end and one token."
            )
        self._path = tokenizer_path
        self.pad_with_end = pad_with_end
        self.pad_to_max_length = True
        self.max_word_length = MAX_WORD_LENGTH
        self.tokens_start = 1
        self.embedding_identifier = EMBEDDING_PREFIX
        self.embedding_directory = embedding_directory
        self.embedding_size = embedding_size
        self.embedding_key = embedding_key

    @cached_property
    def _clip(self) -> ClipTokenizer:
        if self._path is None:
            return clip_tokenizer()
        return ClipTokenizer(read_vocabulary(self._path))

    @property
    def tokenizer(self) -> Any:
        """The vocabulary's tokenizer as a ``transformers`` object, for packs that ask for it."""
        return self._clip.transformers

    @property
    def inv_vocab(self) -> Mapping[int, str]:
        return self._clip.vocabulary.tokens

    @property
    def start_token(self) -> int:
        return self._clip.vocabulary.start

    @property
    def end_token(self) -> int:
        return self._clip.vocabulary.end

    @property
    def pad_token(self) -> int:
        # SD2 pads with 0: OpenCLIP's batches were filled up with zeros.
        return self.end_token if self.pad_with_end else 0

    def tokenize(
        self, text: str, *, disable_weights: bool = False, keep_words: bool = False
    ) -> TokenizedText:
        """*text* in ComfyUI's dialect, or with all its brackets as text."""
        if not isinstance(text, str):
            raise OptionError(
                f"The text is a {type(text).__name__}, not a string. Encode texts one by one."
            )
        parsed = parse_unweighted(text) if disable_weights else parse_comfy(text)
        return self.tokenize_parsed(parsed, keep_words=keep_words)

    def tokenize_parsed(self, parsed: ParsedText, *, keep_words: bool = False) -> TokenizedText:
        """The segments of a dialect as tokens; with *keep_words* no chunk's end cuts a word."""
        groups = TokenGroups(
            self._clip.encode, self._folders(), self.embedding_size, self.embedding_key
        )
        for segment in parsed.segments:
            groups.add(segment)
        units = groups.groups
        if keep_words:
            units = [unit for group in units for unit in self._words(group)]
        return TokenizedText(
            chunks=tuple(self._frame(chunk) for chunk in self._fill(units, keep=keep_words)),
            vocabulary=self._clip.vocabulary,
            embeddings=tuple(groups.used.values()),
            ignored=tuple(groups.ignored.values()),
            warnings=(*parsed.warnings, *groups.warnings),
        )

    def tokenize_sections(
        self,
        sections: Sequence[Sequence[Segment]],
        warnings: Sequence[str] = (),
        *,
        keep_words: bool = False,
    ) -> TokenizedText:
        """A1111's sections as tokens, in A1111's chunks."""
        vocabulary = self._clip.vocabulary
        filling = A1111Chunks(
            encode=self._clip.encode,
            ends_word=vocabulary.ends_word,
            folders=self._folders(),
            width=self.embedding_size,
            key=self.embedding_key,
            capacity=self.max_length - 2,
            keep_words=keep_words,
        )
        return TokenizedText(
            chunks=tuple(self._frame(chunk) for chunk in filling.fill(sections)),
            vocabulary=vocabulary,
            embeddings=tuple(filling.used.values()),
            ignored=tuple(filling.ignored.values()),
            warnings=(*warnings, *filling.warnings),
        )

    def tokenize_with_weights(
        self,
        text: str,
        return_word_ids: bool = False,
        **kwargs: Any,
    ) -> list[list[tuple[Any, ...]]]:
        """The chunks of *text*, each a list of ``(id or vector, weight)`` or ``(…, word id)``.

        Of *kwargs*, which ComfyUI's nodes fill for all its text encoders alike, only
        ``disable_weights`` changes anything here. ``tokenizer_options`` may ask for a
        ``<embedding_key>_min_length`` or ``_min_padding``: every chunk has all the padding that the
        encoder's positions leave room for, and a longer chunk it could not take.
        """
        disable_weights = bool(kwargs.get("disable_weights", False))
        tokens = self.tokenize(text, disable_weights=disable_weights)
        tokens.log_ignored()
        return tokens.pairs(return_word_ids)

    def untokenize(
        self, token_weight_pair: Sequence[tuple[Any, ...]]
    ) -> list[tuple[tuple[Any, ...], str]]:
        """Each entry of one chunk with the vocabulary's text of it."""
        return [(entry, self._entry_text(entry[0])) for entry in token_weight_pair]

    def decode(self, token_ids: Sequence[int], skip_special_tokens: bool = True) -> str:
        text: str = self.tokenizer.decode(token_ids, skip_special_tokens=skip_special_tokens)
        return text

    def state_dict(self) -> dict[str, Any]:
        """Nothing: ComfyUI saves this with a checkpoint, and a vocabulary is no weight."""
        return {}

    def _entry_text(self, value: Any) -> str:
        if isinstance(value, int):
            return self.inv_vocab.get(value, f"<unknown token {value}>")
        return f"<embedding of {self.embedding_key}>"

    def _folders(self) -> list[str] | None:
        folders = self.embedding_directory
        if folders is None:
            return None
        if isinstance(folders, str | os.PathLike):
            return [os.fspath(folders)]
        return [os.fspath(folder) for folder in folders]

    def _words(self, group: list[Token]) -> Iterator[list[Token]]:
        """A group that may be cut, as words that may not; another group is one such word."""
        if len(group) < self.max_word_length or group[0].kind == "embedding":
            yield group
            return
        word: list[Token] = []
        for token in group:
            word.append(token)
            if isinstance(token.value, int) and self._clip.vocabulary.ends_word(token.value):
                yield word
                word = []
        if word:
            yield word

    def _fill(self, groups: Sequence[Sequence[Token]], *, keep: bool = False) -> list[list[Token]]:
        """Chunks of *groups*; with *keep* only those that no chunk could hold are cut."""
        capacity = self.max_length - 2
        chunk: list[Token] = []
        chunks = [chunk]
        for group in groups:
            # A group that fits nowhere has to be cut too (only if max_length is set very small).
            cut = len(group) > capacity or (len(group) >= self.max_word_length and not keep)
            if not cut and len(chunk) + len(group) > capacity:
                chunk = []
                chunks.append(chunk)
            done = 0
            while done < len(group):
                if len(chunk) == capacity:
                    chunk = []
                    chunks.append(chunk)
                part = group[done : done + capacity - len(chunk)]
                chunk.extend(part)
                done += len(part)
        return chunks

    def _frame(self, content: Sequence[Token]) -> tuple[Token, ...]:
        start = Token(self.start_token, 1.0, 0, "start")
        end = Token(self.end_token, 1.0, 0, "end")
        pad = Token(self.pad_token, 1.0, 0, "pad")
        return (start, *content, end, *[pad] * (self.max_length - 2 - len(content)))


class SD1Tokenizer:
    """The tokenizers of a CLIP: one, as the attribute ``clip_<clip_name>``."""

    def __init__(
        self,
        embedding_directory: str | os.PathLike[str] | Sequence[str] | None = None,
        tokenizer_data: Mapping[str, Any] | None = None,
        clip_name: str = "l",
        tokenizer: type[SDTokenizer] = SDTokenizer,
    ) -> None:
        self.clip_name = clip_name
        self.clip = f"clip_{clip_name}"
        data = tokenizer_data or {}
        make = data.get(f"{self.clip}_tokenizer_class", tokenizer)
        setattr(self, self.clip, make(embedding_directory=embedding_directory, tokenizer_data=data))

    def tokenize(self, text: str, *, disable_weights: bool = False) -> TokenizedText:
        """As ``SDTokenizer.tokenize``."""
        return self._only.tokenize(text, disable_weights=disable_weights)

    def tokenize_with_weights(
        self, text: str, return_word_ids: bool = False, **kwargs: Any
    ) -> dict[str, list[list[tuple[Any, ...]]]]:
        """The chunks of *text* under the encoder's letter."""
        return {self.clip_name: self._only.tokenize_with_weights(text, return_word_ids, **kwargs)}

    def untokenize(
        self, token_weight_pair: Sequence[tuple[Any, ...]]
    ) -> list[tuple[tuple[Any, ...], str]]:
        return self._only.untokenize(token_weight_pair)

    def decode(self, token_ids: Sequence[int], skip_special_tokens: bool = True) -> str:
        return self._only.decode(token_ids, skip_special_tokens)

    def state_dict(self) -> dict[str, Any]:
        return self._only.state_dict()

    @property
    def _only(self) -> SDTokenizer:
        tokenizer: SDTokenizer = getattr(self, self.clip)
        return tokenizer
