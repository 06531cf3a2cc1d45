"""Parses the names of tensors in LoRA files: which weight, and which part of its change.

Names of every trainer (kohya's, diffusers', PEFT's, ComfyUI's; with or without ``text_model.``) are
parsed by one pattern.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

TEXT_MODEL = "clip_h.transformer.text_model."

_NAME = re.compile(
    r"(?:base_model\.model\.)?"
    r"(?:lora_te1?_|text_encoder\.|text_encoders\.clip_h\.transformer\.|clip_h\.transformer\.)?"
    r"(?:base_model\.model\.)?"
    r"(?:text_model[._])?"
    r"(?:encoder[._]layers[._](?P<layer>\d+)[._]"
    r"(?:self_attn[._](?:to_)?(?P<attention>q|k|v|out)(?:_proj)?|mlp[._](?P<mlp>fc[12])"
    r"|(?P<norm>layer_norm[12]))"
    r"|(?P<final>final_layer_norm)|embeddings[._](?P<table>(?:token|position)_embedding)"
    r"|(?P<projection>text_projection))"
    r"(?P<part>[._].+)"
)

_PARTS = {
    part: re.compile(pattern)
    for part, pattern in {
        "up": r"\.lora_up\.weight|\.lora_B(\.(?!bias$)\w+)?(\.weight)?"
              r"|[._]lora(_linear_layer)?\.up\.weight",
        "down": r"\.lora_down\.weight|\.lora_A(\.\w+)?(\.weight)?"
                r"|[._]lora(_linear_layer)?\.down\.weight",
        **{name: rf"\.{name}" for name in (
            "hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b", "lokr_w1", "lokr_w1_a",
            "lokr_w1_b", "lokr_w2", "lokr_w2_a", "lokr_w2_b", "oft_blocks", "diff", "diff_b",
            "w_norm", "b_norm", "set_weight", "alpha",
        )},
        **{name: rf"\.{name}\.weight" for name in ("a1", "a2", "b1", "b2")},  # GLoRA's
        "dora_scale": r"\.dora_scale|\.lora_magnitude_vector(\.\w+)?(\.weight)?",
    }.items()
}  # fmt: skip

_NOT_APPLIED = {
    kind: re.compile(pattern)
    for kind, pattern in {
        "the bias of PEFT's LoRA (lora_bias)": r".*\.lora_B(\.\w+)?\.bias",
        "PEFT's LoRA of a table (lora_embedding)": r".*\.lora_embedding_[AB](\..+)?",
        "PEFT's OFT": r".*\.oft_[rR](\..+)?",
        "BOFT": r".*\.boft_[RSs](\..+)?",
        "OFT's rescale, which ComfyUI does not apply either": r".*\.rescale",
        "Tucker decomposition": r".*\.(hada_t[12]|lokr_t2|lora_mid\.weight)",
        "LyCORIS' sparse biases": r".*\.bias_(values|indices|size)",
        "(IA)³": r".*\.(ia3_l(\..+)?|on_input)",
        "VeRA": r".*\.?vera_(A|B|lambda_[bd])(\..+)?",
        "VB-LoRA": r".*\.vblora_\w+(\..+)?",
        "RandLoRA": r".*\.?randlora_\w+(\..+)?",
        "FourierFT": r".*\.fourierft_\w+(\..+)?",
        "HRA": r".*\.hra_u(\..+)?",
        "a change of a weight's shape (reshape_weight)": r".*\.reshape_weight",
        "bundled textual inversions: save them to files of their own": r"bundle_emb\..*",
    }.items()
}  # fmt: skip

_UNET = re.compile(
    r"(lora_)?unet[._]|(base_model\.model\.)?(model\.)?diffusion_model\."
    r"|(base_model\.model\.|lycoris_)?(down_blocks|mid_block|up_blocks)[._]"
)


@dataclass
class SortedNames:
    """The names of a LoRA file's tensors by what they are for."""

    modules: dict[str, dict[str, str]] = field(default_factory=dict)
    """By the module, ``clip_h.transformer.text_model.…q_proj``: the names by their part."""
    for_unet: int = 0
    """How many are for the UNet."""
    not_applied: dict[str, list[str]] = field(default_factory=dict)
    """By the kind of change, in words."""
    unmatched: list[str] = field(default_factory=list)

    def not_apply(self, names: Iterable[str], kind: str | None = None) -> None:
        """Record names of the text encoder that are not applied, of *kind* if that is known."""
        for name in names:
            known = kind or next((k for k, r in _NOT_APPLIED.items() if r.fullmatch(name)), None)
            (self.unmatched if known is None else self.not_applied.setdefault(known, [])).append(
                name
            )


def sort_names(names: Iterable[str]) -> SortedNames:
    """Sort *names*, of tensors of a LoRA file."""
    result = SortedNames()
    names = list(names)
    ia3 = {f"{name.removesuffix('.on_input')}.weight" for name in names if ".on_input" in name}
    for name in names:
        match = _NAME.fullmatch(name)
        part = match and next((p for p, r in _PARTS.items() if r.fullmatch(match["part"])), None)
        if match and part:
            module = result.modules.setdefault(_module(match.groupdict()), {})
            if part in module:  # under two spellings
                result.unmatched.append(name)
            else:
                module[part] = name
        elif _UNET.match(name):
            result.for_unet += 1
        elif name in ia3:  # LyCORIS' name for its vector
            result.not_apply([name], "(IA)³")
        elif match and match["part"] in (".weight", ".bias"):
            result.not_apply([name], "whole weights, as in a model")
        else:
            result.not_apply([name])
    return result


def _module(groups: Mapping[str, str | None]) -> str:
    """Full name of the module that a name is about."""
    if groups["projection"]:
        return TEXT_MODEL.removesuffix("text_model.") + "text_projection"
    if groups["final"]:
        return f"{TEXT_MODEL}final_layer_norm"
    if groups["table"]:
        return f"{TEXT_MODEL}embeddings.{groups['table']}"
    attention = groups["attention"]
    inner = f"self_attn.{attention}_proj" if attention else groups["norm"] or f"mlp.{groups['mlp']}"
    return f"{TEXT_MODEL}encoder.layers.{groups['layer']}.{inner}"
