"""The prompt encoder node and the one that shows its tokens."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ..host.interface import Clip, Conditioning

CLIP_INPUT = (
    "CLIP",
    {"tooltip": "SD2's text encoder, from Load SD2 CLIP or any loader of an SD2 checkpoint."},
)


def _text_input() -> tuple[str, dict[str, Any]]:
    return (
        "STRING",
        {
            "multiline": True,
            "default": "",
            "tooltip": "The prompt. (word:1.3) weights a word, embedding:name inserts a textual "
            "inversion, \\( and \\) are plain brackets.",
        },
    )


class EncodeSD2Text:
    """Turns a prompt into conditioning."""

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

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {
            "required": {"clip": CLIP_INPUT, "text": _text_input()},
            "optional": {
                "stop_at_clip_layer": (
                    "INT",
                    {
                        "default": 0,
                        "min": -24,
                        "max": 0,
                        "tooltip": "Clip skip, counted on 24 layers as by CLIP Set Last Layer: "
                        "0 = as loaded, −2 = SD2's default, −1 = the very last layer.",
                    },
                ),
            },
        }

    @classmethod
    def IS_CHANGED(cls, text: str | None = None, **_others: Any) -> Any:
        from ..encoding import embeddings_identity

        return embeddings_identity(text)

    def encode(
        self, clip: Clip, text: str, stop_at_clip_layer: int = 0
    ) -> tuple[Conditioning, str]:
        from ..encoding import encode_text

        encoded = encode_text(clip, text, stop_at_clip_layer=stop_at_clip_layer)
        return encoded.conditioning, encoded.report


class InspectSD2Text:
    """Shows how a prompt is read: each token with its weight and chunk."""

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
        return {"required": {"clip": CLIP_INPUT, "text": _text_input()}}

    @classmethod
    def IS_CHANGED(cls, text: str | None = None, **_others: Any) -> Any:
        from ..encoding import embeddings_identity

        return embeddings_identity(text)

    def inspect(self, clip: Clip, text: str) -> dict[str, Any]:
        from ..encoding import read_text, token_table

        table = token_table(read_text(clip, text))
        return {"ui": {"text": [table]}, "result": (table,)}
