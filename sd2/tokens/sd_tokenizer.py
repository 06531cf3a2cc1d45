"""Tokenizes text into weighted chunks for one CLIP text encoder, under ComfyUI's names.

``SDTokenizer`` serves one text encoder; ``SD1Tokenizer`` is the tokenizer of a CLIP and holds an
``SDTokenizer`` under the encoder's letter. Classes, attributes and methods have ComfyUI's names,
because other packs use them.
"""

import os
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

from ..config import CONTEXT_LENGTH, PAD_TOKEN
from ..errors import OptionError
from ..syntax.comfy import parse_comfy, parse_unweighted
from ..syntax.segments import Section
from .a1111_groups import a1111_groups
from .bpe import ClipTokenizer, clip_tokenizer, read_vocabulary
from .chunks import MAX_WORD_LENGTH, fill_by_comma, fill_by_group, fill_by_word, frame
from .comfy_groups import comfy_groups
from .embedding_tokens import EMBEDDING_PREFIX, EmbeddingTokens
from .tokenized_text import Token, TokenizedText


def require_text(text: object) -> None:
    """Raise OptionError if *text* is not a string."""
    if not isinstance(text, str):
        raise OptionError(
            f"The text is a {type(text).__name__}, not a string. Encode texts one by one."
        )


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
        """The tokenizer as a ``transformers`` object, for packs that use it as one."""
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
        return self.end_token if self.pad_with_end else PAD_TOKEN

    def tokenize(
        self, text: str, *, disable_weights: bool = False, keep_words: bool = False
    ) -> TokenizedText:
        """Tokenize *text* as ComfyUI does, or with all its brackets as text.

        With *keep_words*, chunks end between words only.
        """
        require_text(text)
        parsed = parse_unweighted(text) if disable_weights else parse_comfy(text)
        embeddings = self._embedding_tokens()
        [segments] = parsed.sections
        groups = comfy_groups(segments, self._clip.encode, embeddings)
        capacity = self.max_length - 2
        if keep_words:
            ends_word = self._clip.vocabulary.ends_word
            chunks = fill_by_word(groups, capacity, ends_word, cut_from=self.max_word_length)
        else:
            chunks = fill_by_group(groups, capacity, cut_from=self.max_word_length)
        return self._tokenized(chunks, embeddings, parsed.warnings)

    def tokenize_a1111(
        self, sections: Sequence[Section], *, keep_words: bool = False
    ) -> TokenizedText:
        """Tokenize the sections of a prompt in A1111's syntax, as A1111 does."""
        embeddings = self._embedding_tokens()
        groups = a1111_groups(sections, self._clip.encode, embeddings)
        ends_word = self._clip.vocabulary.ends_word if keep_words else None
        chunks = fill_by_comma(groups, self.max_length - 2, ends_word)
        return self._tokenized(chunks, embeddings)

    def tokenize_with_weights(
        self,
        text: str,
        return_word_ids: bool = False,
        **kwargs: Any,
    ) -> list[list[tuple[Any, ...]]]:
        """Return the chunks of *text* as lists of ``(id or vector, weight)`` or ``(…, word id)``.

        ComfyUI's nodes pass *kwargs* for all its text encoders; only ``disable_weights`` has an
        effect here. ``<embedding_key>_min_length`` and ``_min_padding`` of ``tokenizer_options``
        have none, because each chunk is already as long as the encoder accepts.
        """
        disable_weights = bool(kwargs.get("disable_weights", False))
        tokens = self.tokenize(text, disable_weights=disable_weights)
        tokens.log_ignored()
        return tokens.pairs(return_word_ids)

    def untokenize(
        self, token_weight_pair: Sequence[tuple[Any, ...]]
    ) -> list[tuple[tuple[Any, ...], str]]:
        """Return each pair of one chunk with the vocabulary's text for its token."""
        return [(pair, self._token_text(pair[0])) for pair in token_weight_pair]

    def decode(self, token_ids: Sequence[int], skip_special_tokens: bool = True) -> str:
        text: str = self.tokenizer.decode(token_ids, skip_special_tokens=skip_special_tokens)
        return text

    def state_dict(self) -> dict[str, Any]:
        """Return nothing: ComfyUI saves this with checkpoints, which need no vocabulary."""
        return {}

    def _token_text(self, value: Any) -> str:
        if isinstance(value, int):
            return self.inv_vocab.get(value, f"<unknown token {value}>")
        return f"<embedding of {self.embedding_key}>"

    def _embedding_tokens(self) -> EmbeddingTokens:
        folders = self.embedding_directory
        if isinstance(folders, str | os.PathLike):
            folders = [os.fspath(folders)]
        elif folders is not None:
            folders = [os.fspath(folder) for folder in folders]
        return EmbeddingTokens(folders, self.embedding_size, self.embedding_key)

    def _tokenized(
        self,
        contents: Sequence[Sequence[Token]],
        embeddings: EmbeddingTokens,
        warnings: Sequence[str] = (),
    ) -> TokenizedText:
        start = Token(self.start_token, 1.0, 0, "start")
        end = Token(self.end_token, 1.0, 0, "end")
        pad = Token(self.pad_token, 1.0, 0, "pad")
        return TokenizedText(
            chunks=tuple(
                tuple(frame(content, start, end, pad, self.max_length)) for content in contents
            ),
            vocabulary=self._clip.vocabulary,
            embeddings=tuple(embeddings.used.values()),
            ignored=tuple(embeddings.ignored.values()),
            warnings=(*warnings, *embeddings.warnings),
        )


class SD1Tokenizer:
    """The tokenizer of a CLIP: holds an ``SDTokenizer`` as ``clip_<clip_name>``."""

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
        """Tokenize *text*; see ``SDTokenizer.tokenize``."""
        return self._only.tokenize(text, disable_weights=disable_weights)

    def tokenize_with_weights(
        self, text: str, return_word_ids: bool = False, **kwargs: Any
    ) -> dict[str, list[list[tuple[Any, ...]]]]:
        """Return the chunks of *text* under the encoder's letter."""
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
