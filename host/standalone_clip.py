"""The standalone host's CLIP handle: ``comfy.sd.CLIP``'s interface without ComfyUI."""

from __future__ import annotations

import copy
import threading
from collections.abc import Mapping
from functools import partial
from typing import Any

import torch

from ..sd2.sd2_clip import SD2ClipModel
from ..sd2.sd2_tokenizer import SD2Tokenizer
from .interface import Conditioning, Tokens, WeightChange


def with_weights(model: SD2ClipModel, changed: Mapping[str, torch.Tensor]) -> SD2ClipModel:
    """A model that shares all of *model*'s tensors but those *changed*."""
    shared = {id(tensor): tensor for tensor in (*model.parameters(), *model.buffers())}
    twin = copy.deepcopy(model, dict(shared))
    for name, tensor in changed.items():
        owner, _, leaf = name.rpartition(".")
        setattr(twin.get_submodule(owner), leaf, torch.nn.Parameter(tensor, requires_grad=False))
    return twin


def _changes_nothing(layer: torch.nn.Module) -> bool:
    """Whether a block's two outputs are zero, as in the stand-in for one that a file lacks."""
    outputs = (layer.get_submodule("self_attn.out_proj"), layer.get_submodule("mlp.fc2"))
    return not any(tensor.any() for output in outputs for tensor in output.parameters())


class StandaloneClip:
    """A text encoder, its tokenizer, and what a node chose for them.

    Clones share the model; a lock keeps their options apart while one encodes.
    """

    def __init__(self, cond_stage_model: SD2ClipModel, tokenizer: SD2Tokenizer) -> None:
        self.cond_stage_model = cond_stage_model
        self.tokenizer = tokenizer
        self.layer_idx: int | None = None
        self.tokenizer_options: dict[str, Any] = {}
        self.patches: dict[str, list[tuple[float, WeightChange, float]]] = {}
        """Of each changed weight, in order: strength of the patch, the patch, strength of before;
        a record, as they are applied already."""
        self._lock = threading.Lock()

    def clone(self) -> StandaloneClip:
        """A handle of its own on the same weights."""
        twin = StandaloneClip(self.cond_stage_model, self.tokenizer)
        twin.layer_idx = self.layer_idx
        twin.tokenizer_options = dict(self.tokenizer_options)
        twin.patches = dict(self.patches)
        twin._lock = self._lock
        return twin

    def clip_layer(self, layer_idx: int | None) -> None:
        """Take hidden states from this layer; None: as loaded."""
        self.layer_idx = layer_idx

    def set_tokenizer_option(self, option_name: str, value: Any) -> None:
        """Set what ``tokenize`` passes on as ``tokenizer_options``."""
        self.tokenizer_options[option_name] = value

    def tokenize(self, text: str, return_word_ids: bool = False, **kwargs: Any) -> Tokens:
        """``{"h": chunks}``; see ``SD2Tokenizer.tokenize_with_weights``."""
        options = {**self.tokenizer_options, **kwargs.pop("tokenizer_options", {})}
        if options:
            kwargs["tokenizer_options"] = options
        return self.tokenizer.tokenize_with_weights(text, return_word_ids, **kwargs)

    def encode_from_tokens(
        self, tokens: Tokens, return_pooled: bool | str = False, return_dict: bool = False
    ) -> Any:
        """*cond*, or ``(cond, pooled)``, or both in a dict under ``cond`` and ``pooled_output``.

        *cond* is (1, 77 * chunks, 1024), *pooled* (1, 1024), in float32 on the CPU.
        ``return_pooled="unprojected"`` leaves the text projection out. The last block is computed
        only if *pooled* or its states are asked for.
        """
        model = self.cond_stage_model
        # no_grad, not inference_mode: a trainer may put the result through layers that it trains.
        with self._lock, torch.no_grad():
            model.reset_clip_options()
            if self.layer_idx is not None:
                model.set_clip_options({"layer": self.layer_idx})
            if return_pooled == "unprojected":
                model.set_clip_options({"projected_pooled": False})
            cond, pooled = model.encode_token_weights(
                tokens, return_pooled=bool(return_pooled or return_dict)
            )
        if return_dict:
            return {"cond": cond, "pooled_output": pooled}
        return (cond, pooled) if return_pooled else cond

    def encode_from_tokens_scheduled(
        self,
        tokens: Tokens,
        unprojected: bool = False,
        add_dict: Mapping[str, Any] | None = None,
        show_pbar: bool = True,
    ) -> Conditioning:
        """``[[cond, {"pooled_output": pooled, **add_dict}]]``: there are no hooks to schedule."""
        cond, pooled = self.encode_from_tokens(tokens, "unprojected" if unprojected else True)
        return [[cond, {"pooled_output": pooled, **(add_dict or {})}]]

    def encode(self, text: str) -> torch.Tensor:
        """Text to *cond*, (1, 77 * chunks, 1024)."""
        cond: torch.Tensor = self.encode_from_tokens(self.tokenize(text))
        return cond

    def get_sd(self) -> dict[str, torch.Tensor]:
        """All tensors, named ``clip_h.transformer.text_model…``; they are not copies."""
        return {**self.cond_stage_model.state_dict(), **self.tokenizer.state_dict()}

    def load_sd(self, sd: dict[str, torch.Tensor], full_model: bool = False) -> Any:
        """Copy tensors in; names start with ``text_model.``, or ``clip_h.`` if *full_model*.

        For all handles on this model, which from then on is no file's: ``source`` is None.
        """
        model: Any = self.cond_stage_model
        model.source = None
        load = partial(model.load_state_dict, strict=False) if full_model else model.load_sd
        with self._lock:
            result = load(sd)
        encoder = model.clip_h
        layers = encoder.transformer.text_model.encoder.layers
        encoder.identity_layers = frozenset(
            number for number in encoder.identity_layers if _changes_nothing(layers[number])
        )
        return result

    def add_patches(
        self,
        patches: Mapping[str, WeightChange],
        strength_patch: float = 1.0,
        strength_model: float = 1.0,
    ) -> list[str]:
        """Change weights for this handle alone; returns the names that were changed.

        *patches* maps a tensor's name to what makes ``change(strength_model * weight,
        strength_patch)`` of it, in fp32, as a small change would vanish in fp16.
        """
        own = self.cond_stage_model.state_dict()
        changed = {
            name: change(own[name].float() * strength_model, strength_patch).to(own[name].dtype)
            for name, change in patches.items()
            if name in own
        }
        self.cond_stage_model = with_weights(self.cond_stage_model, changed)
        for name in changed:
            patch = (strength_patch, patches[name], strength_model)
            self.patches[name] = [*self.patches.get(name, []), patch]
        return list(changed)
