"""The nodes that encode a prompt and that show its tokens."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import groupby
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ..clip.encode_text import EncodedText
    from ..host.interface import Clip, Conditioning

CLIP_INPUT = (
    "CLIP",
    {"tooltip": "SD2's text encoder, from Load SD2 CLIP or any loader of an SD2 checkpoint."},
)

TEXT_INPUT = (
    "STRING",
    {
        "multiline": True,
        "default": "",
        # The editor resolves {a|b} and comments before a run.
        "dynamicPrompts": True,
        "tooltip": "The prompt. (word:1.3) weights a word, embedding:name inserts a textual "
        "inversion, \\( and \\) are plain brackets.",
    },
)


TEXTS_INPUT = (
    "STRING",
    {
        **TEXT_INPUT[1],
        "tooltip": "One prompt a line; empty lines are left out. A text that is linked is split in "
        "the same way. Of a linked list of several texts each is one prompt, with its line breaks.",
    },
)

COMPARE_WITH_INPUT = (
    "STRING",
    {
        **TEXT_INPUT[1],
        "advanced": True,
        "tooltip": "Another text, to compare: both are encoded, and the table shows for each token "
        "how far apart the conditionings are. Empty: nothing is compared.",
    },
)


def _option_input(name: str) -> tuple[Any, dict[str, Any]]:
    """Return the widget of one of ``EncodeOptions``; all but the syntax are ``advanced``."""
    from ..clip.encode_options import ENCODE_OPTIONS, Choice, EncodeOptions

    option = ENCODE_OPTIONS[name]
    advanced = {} if name == "syntax" else {"advanced": True}
    about = {"default": getattr(EncodeOptions, name), "tooltip": option.help, **advanced}
    if isinstance(option, Choice):
        return list(option.choices), about
    return "INT", {**about, "min": option.low, "max": option.high}


class EncodeSD2Text:
    """Encodes a prompt into conditioning."""

    TITLE = "Encode SD2 Text"
    CATEGORY = "SD2"
    DESCRIPTION = "Encodes a prompt with SD2's text encoder into conditioning for a sampler."
    SEARCH_ALIASES = ["prompt", "clip text encode", "positive", "negative", "text", "sd2"]
    RETURN_TYPES = ("CONDITIONING", "STRING")
    RETURN_NAMES = ("CONDITIONING", "tokens")
    OUTPUT_TOOLTIPS = (
        "The encoded prompt, for a sampler's positive or negative input.",
        "How many tokens and chunks the prompt takes, and what of it was ignored.",
    )
    FUNCTION = "encode"
    # Values of the widget masking, of before 0.1.0, where padding is now; js/saved_widgets.js too.
    RETIRED_WIDGETS = {7: ("compatible", "words")}

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        from ..clip.encode_options import ENCODE_OPTIONS

        return {
            "required": {"clip": CLIP_INPUT, "text": TEXT_INPUT},
            "optional": {name: _option_input(name) for name in ENCODE_OPTIONS},
        }

    @classmethod
    def IS_CHANGED(
        cls, text: str | None = None, syntax: str | None = "comfy", **_others: Any
    ) -> Any:
        # An edited textual inversion is read again.
        from ..clip.encode_text import embeddings_fingerprint

        return embeddings_fingerprint(text, syntax)

    def encode(self, clip: Clip, text: str, **options: Any) -> tuple[Conditioning, str]:
        from ..clip.encode_text import encode_text

        encoded = encode_text(clip, text, **options)
        return encoded.conditioning, encoded.report


class EncodeSD2TextList:
    """Encodes several prompts, in batches, into a list of conditionings."""

    TITLE = "Encode SD2 Text List"
    CATEGORY = "SD2"
    DESCRIPTION = (
        "Encodes many prompts in batches, each with the result of Encode SD2 Text. What is "
        "connected runs once for each prompt."
    )
    SEARCH_ALIASES = ["batch prompts", "prompt list", "multiple prompts", "lines", "sd2"]
    RETURN_TYPES = ("CONDITIONING", "STRING")
    RETURN_NAMES = ("CONDITIONING", "tokens")
    OUTPUT_TOOLTIPS = (
        "A list: the encoded prompts, in order.",
        "A list: the report of Encode SD2 Text for each prompt.",
    )
    INPUT_IS_LIST = True
    OUTPUT_IS_LIST = (True, True)
    FUNCTION = "encode"

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        from ..clip.encode_options import ENCODE_OPTIONS

        return {
            "required": {"clip": CLIP_INPUT, "texts": TEXTS_INPUT},
            "optional": {name: _option_input(name) for name in ENCODE_OPTIONS},
        }

    @classmethod
    def IS_CHANGED(
        cls,
        texts: Sequence[str | None] = (None,),
        syntax: Sequence[str | None] = ("comfy",),
        **_others: Any,
    ) -> Any:
        # An edited textual inversion is read again.
        from ..clip.encode_text import embeddings_fingerprint

        return [embeddings_fingerprint(text, one) for text in texts for one in syntax]

    def encode(
        self, clip: Sequence[Clip], texts: Sequence[str], **options: Sequence[Any]
    ) -> tuple[list[Conditioning], list[str]]:
        from ..clip.encode_text import encode_texts

        calls = _calls({"texts": _prompts(texts), "clip": clip, **options})
        encoded: list[EncodedText] = []
        for shared, some in groupby(calls, _without_texts):
            encoded += encode_texts(texts=[one["texts"] for one in some], **shared)
        return [one.conditioning for one in encoded], [one.report for one in encoded]


def _prompts(texts: Sequence[str]) -> Sequence[str]:
    """Return the prompts: the lines of one text, or several texts as they are."""
    if len(texts) != 1 or not isinstance(texts[0], str):
        return texts
    return [line for line in texts[0].splitlines() if line.strip()] or [""]


def _calls(inputs: Mapping[str, Sequence[Any]]) -> list[dict[str, Any]]:
    """Return the inputs of each call as ComfyUI chooses them: short lists repeat their last."""
    from ..sd2.errors import OptionError

    empty = [name for name, values in inputs.items() if not values]
    if empty:
        raise OptionError(f"The list that is linked to {empty[0]} is empty: nothing to encode.")
    return [
        {name: values[min(number, len(values) - 1)] for name, values in inputs.items()}
        for number in range(max(map(len, inputs.values())))
    ]


def _without_texts(call: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in call.items() if name != "texts"}


class InspectSD2Text:
    """Shows the tokens of a prompt, each with its weight and chunk."""

    TITLE = "Inspect SD2 Text"
    CATEGORY = "SD2"
    DESCRIPTION = (
        "Shows the tokens of a prompt in order, each with its weight and chunk, and how far its "
        "conditioning is from that of another text."
    )
    SEARCH_ALIASES = ["token counter", "tokenize", "show tokens", "compare prompts", "sd2"]
    RETURN_TYPES = ("STRING",)
    RETURN_NAMES = ("tokens",)
    OUTPUT_TOOLTIPS = ("The same table as text.",)
    FUNCTION = "inspect"
    OUTPUT_NODE = True

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {
            "required": {"clip": CLIP_INPUT, "text": TEXT_INPUT},
            "optional": {
                "syntax": _option_input("syntax"),
                "compare_with": COMPARE_WITH_INPUT,
            },
        }

    @classmethod
    def IS_CHANGED(
        cls,
        text: str | None = None,
        syntax: str | None = "comfy",
        compare_with: str | None = "",
        **_others: Any,
    ) -> Any:
        # An edited textual inversion is read again.
        from ..clip.encode_text import embeddings_fingerprint

        return [embeddings_fingerprint(one, syntax) for one in (text, compare_with)]

    def inspect(
        self, clip: Clip, text: str, syntax: str = "comfy", compare_with: str = ""
    ) -> dict[str, Any]:
        from ..clip.compare import compare
        from ..clip.encode_options import EncodeOptions
        from ..clip.encode_text import encode_text, tokenize_with, tokenizer_for

        options = EncodeOptions(syntax=syntax)
        table = tokenize_with(tokenizer_for(clip), text, options).table()
        if compare_with.strip():
            a, b = (encode_text(clip, one, syntax=syntax) for one in (text, compare_with))
            table = f"{table}\n\n{compare(a, b).table()}"
        return {"ui": {"text": [table]}, "result": (table,)}
