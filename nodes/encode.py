"""The nodes that encode a prompt and that show its tokens."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
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


class InspectSD2Text:
    """Shows the tokens of a prompt, each with its weight and chunk."""

    TITLE = "Inspect SD2 Text"
    CATEGORY = "SD2"
    DESCRIPTION = "Shows the tokens of a prompt in order, each with its weight and chunk."
    SEARCH_ALIASES = ["token counter", "tokenize", "show tokens", "sd2"]
    RETURN_TYPES = ("STRING",)
    RETURN_NAMES = ("tokens",)
    OUTPUT_TOOLTIPS = ("The same table as text.",)
    FUNCTION = "inspect"
    OUTPUT_NODE = True

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {
            "required": {"clip": CLIP_INPUT, "text": TEXT_INPUT},
            "optional": {"syntax": _option_input("syntax")},
        }

    @classmethod
    def IS_CHANGED(
        cls, text: str | None = None, syntax: str | None = "comfy", **_others: Any
    ) -> Any:
        # An edited textual inversion is read again.
        from ..clip.encode_text import embeddings_fingerprint

        return embeddings_fingerprint(text, syntax)

    def inspect(self, clip: Clip, text: str, syntax: str = "comfy") -> dict[str, Any]:
        from ..clip.encode_options import EncodeOptions
        from ..clip.encode_text import tokenize_with, tokenizer_for

        options = EncodeOptions(syntax=syntax)
        table = tokenize_with(tokenizer_for(clip), text, options).table()
        return {"ui": {"text": [table]}, "result": (table,)}
