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


def _syntax_input() -> tuple[list[str], dict[str, Any]]:
    from ..sd2.tokens.tokenize_text import SYNTAXES

    return (
        list(SYNTAXES),
        {
            "default": "comfy",
            "tooltip": "How brackets are read. comfy: as ComfyUI. a1111: as AUTOMATIC1111 and "
            "Forge, with [x], [from:to:when], [a|b], BREAK and AND; nested weights multiply.",
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
        from ..sd2.model.token_weights import MASKINGS, TOKEN_NORMALIZATIONS, WEIGHT_INTERPRETATIONS
        from ..sd2.tokens.tokenize_text import CHUNK_SPLITS, MOST_STEPS

        return {
            "required": {"clip": CLIP_INPUT, "text": _text_input()},
            "optional": {
                "syntax": _syntax_input(),
                "weight_interpretation": (
                    list(WEIGHT_INTERPRETATIONS),
                    {
                        "default": "comfy",
                        "tooltip": "What a weight does. comfy: away from the empty prompt. A1111: "
                        "multiplies, then restores the mean. compel: weights below 1 fade words "
                        "out. comfy++: moves a word away from its absence. down_weight: only "
                        "weakens, relative to the largest weight.",
                    },
                ),
                "token_normalization": (
                    list(TOKEN_NORMALIZATIONS),
                    {
                        "default": "none",
                        "tooltip": "none: weights as typed. mean: shifted so that they average 1. "
                        "length: shared among the tokens of a weighted stretch. length+mean: both.",
                    },
                ),
                "stop_at_clip_layer": (
                    "INT",
                    {
                        "default": 0,
                        "min": -24,
                        "max": 0,
                        "tooltip": "Clip skip, counted on 24 layers as by CLIP Set Last Layer: "
                        "0 = as loaded, -2 = SD2's default, -1 = the very last layer.",
                    },
                ),
                "steps": (
                    "INT",
                    {
                        "default": 0,
                        "min": 0,
                        "max": MOST_STEPS,
                        "tooltip": "The sampler's steps, for A1111's [a:b:5] and [a|b]; "
                        "0 = not known: 20 are assumed.",
                    },
                ),
                "chunk_split": (
                    list(CHUNK_SPLITS),
                    {
                        "default": "tokens",
                        "tooltip": "Where a prompt of more than 75 tokens is cut. tokens: where 75 "
                        "are full, even inside a word, as ComfyUI does. words: between words.",
                    },
                ),
                "masking": (
                    list(MASKINGS),
                    {
                        "default": "compatible",
                        "tooltip": "What a weight below 1 masks in compel, comfy++ and down_weight."
                        " words: the words of that weight. compatible: as ComfyUI_ADV_CLIP_emb "
                        "does it under NumPy 2: the first places of the prompt.",
                    },
                ),
            },
        }

    @classmethod
    def IS_CHANGED(
        cls, text: str | None = None, syntax: str | None = "comfy", **_others: Any
    ) -> Any:
        # A textual inversion that was edited is read again.
        from ..clip.encode_text import embeddings_identity

        return embeddings_identity(text, syntax)

    def encode(
        self,
        clip: Clip,
        text: str,
        syntax: str = "comfy",
        weight_interpretation: str = "comfy",
        token_normalization: str = "none",
        stop_at_clip_layer: int = 0,
        steps: int = 0,
        chunk_split: str = "tokens",
        masking: str = "compatible",
    ) -> tuple[Conditioning, str]:
        from ..clip.encode_text import encode_text

        encoded = encode_text(
            clip,
            text,
            syntax=syntax,
            weight_interpretation=weight_interpretation,
            token_normalization=token_normalization,
            stop_at_clip_layer=stop_at_clip_layer,
            steps=steps,
            chunk_split=chunk_split,
            masking=masking,
        )
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
        return {
            "required": {"clip": CLIP_INPUT, "text": _text_input()},
            "optional": {"syntax": _syntax_input()},
        }

    @classmethod
    def IS_CHANGED(
        cls, text: str | None = None, syntax: str | None = "comfy", **_others: Any
    ) -> Any:
        # A textual inversion that was edited is read again.
        from ..clip.encode_text import embeddings_identity

        return embeddings_identity(text, syntax)

    def inspect(self, clip: Clip, text: str, syntax: str = "comfy") -> dict[str, Any]:
        from ..clip.encode_text import read_text

        table = read_text(clip, text, syntax=syntax).table()
        return {"ui": {"text": [table]}, "result": (table,)}
