"""The standalone host's CLIP handle: ``comfy.sd.CLIP``'s interface without ComfyUI."""

from __future__ import annotations

import copy
import threading
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch

from ..sd2.errors import NotFiniteError
from ..sd2.model.nonfinite import explain, find_nonfinite, is_finite
from ..sd2.sd2_clip import SD2ClipModel
from ..sd2.sd2_tokenizer import SD2Tokenizer
from .interface import Conditioning, Tokens, WeightChange

if TYPE_CHECKING:
    from typing_extensions import Self


def with_weights(model: SD2ClipModel, changed: Mapping[str, torch.Tensor]) -> SD2ClipModel:
    """Copy *model*, sharing all tensors except those *changed*, by name."""
    shared = {id(tensor): tensor for tensor in (*model.parameters(), *model.buffers())}
    twin = copy.deepcopy(model, dict(shared))
    for name, tensor in changed.items():
        owner, _, leaf = name.rpartition(".")
        # Not by attribute: that reads the shared one, of which what was derived is then forgotten.
        parameters = twin.get_submodule(owner)._parameters
        parameters[leaf] = torch.nn.Parameter(tensor, requires_grad=False)
    return twin


def _wider(one: torch.dtype, other: torch.dtype) -> torch.dtype:
    return other if one.itemsize < other.itemsize else one


def _check_fits(name: str, weight: torch.Tensor, dtype: torch.dtype, strength: float) -> None:
    """Raise NotFiniteError unless *dtype* holds all values of a changed weight."""
    largest = torch.finfo(dtype).max
    low, high = (float(bound) for bound in torch.aminmax(weight))  # NaN if there is one
    if not -largest <= low <= high <= largest:
        found = f"as large as {max(-low, high):g}" if low <= high else "that are not numbers"
        raise NotFiniteError(
            f"The changed weight {name} has values {found}, more than {largest:g}, the most that "
            f"{str(dtype).removeprefix('torch.')} holds. Lower the strength, which is "
            f"{strength:g}; if that does not help, the file of the change is damaged."
        )


class StandaloneClip:
    """A text encoder, its tokenizer, and the options that a node chose for them.

    Clones share the model; a lock keeps one clone's options in place while it encodes.
    """

    def __init__(self, cond_stage_model: SD2ClipModel, tokenizer: SD2Tokenizer) -> None:
        self.cond_stage_model = cond_stage_model
        self.tokenizer = tokenizer
        self.layer_idx: int | None = None
        self.tokenizer_options: dict[str, Any] = {}
        self.patches: dict[str, list[tuple[float, WeightChange, float]]] = {}
        """Per changed weight, in order: (patch strength, patch, strength of the weight before it).
        Kept for the record: they are already applied."""
        self._lock = threading.Lock()

    def clone(self) -> Self:
        """Make a handle with options of its own on the same weights."""
        twin = type(self)(self.cond_stage_model, self.tokenizer)
        twin.layer_idx = self.layer_idx
        twin.tokenizer_options = dict(self.tokenizer_options)
        twin.patches = dict(self.patches)
        twin._lock = self._lock
        return twin

    def clip_layer(self, layer_idx: int | None) -> None:
        """Return the states of this layer; None: of the layer chosen at loading."""
        self.layer_idx = layer_idx

    def set_tokenizer_option(self, option_name: str, value: Any) -> None:
        """Set an option that ``tokenize`` passes on as ``tokenizer_options``."""
        self.tokenizer_options[option_name] = value

    def tokenize(self, text: str, return_word_ids: bool = False, **kwargs: Any) -> Tokens:
        """Tokenize to ``{"h": chunks}``; see ``SD2Tokenizer.tokenize_with_weights``."""
        options = {**self.tokenizer_options, **kwargs.pop("tokenizer_options", {})}
        if options:
            kwargs["tokenizer_options"] = options
        return self.tokenizer.tokenize_with_weights(text, return_word_ids, **kwargs)

    def encode_from_tokens(
        self, tokens: Tokens, return_pooled: bool | str = False, return_dict: bool = False
    ) -> Any:
        """Encode to *cond*, to ``(cond, pooled)``, or to a dict of ``cond`` and ``pooled_output``.

        *cond* is (1, 77 * chunks, 1024), *pooled* (1, 1024), in float32 on the CPU.
        ``return_pooled="unprojected"`` omits the text projection. The last block is computed only
        if *pooled* or its states are requested.

        Raises NotFiniteError rather than return NaN or infinity, unless token weights cause it.
        """
        model = self.cond_stage_model
        # no_grad, not inference_mode: the result may be the input of layers in training.
        with self._lock, torch.no_grad():
            model.reset_clip_options()
            if self.layer_idx is not None:
                model.set_clip_options({"layer": self.layer_idx})
            if return_pooled == "unprojected":
                model.set_clip_options({"projected_pooled": False})
            cond, pooled = model.encode_token_weights(
                tokens, return_pooled=bool(return_pooled or return_dict)
            )
            if not is_finite(cond, pooled):
                self._refuse_nonfinite(tokens)
        if return_dict:
            return {"cond": cond, "pooled_output": pooled}
        return (cond, pooled) if return_pooled else cond

    def _refuse_nonfinite(self, tokens: Tokens) -> None:
        """Raise NotFiniteError if the encoder itself, without token weights, is not finite."""
        model = self.cond_stage_model
        weightless = {"h": [[(pair[0], 1.0) for pair in chunk] for chunk in tokens["h"]]}
        origin = find_nonfinite(
            model.inner.transformer, lambda: model.encode_token_weights(weightless)
        )
        if origin is not None:
            raise NotFiniteError(explain(origin, model.source, self.patches))

    def encode_from_tokens_scheduled(
        self,
        tokens: Tokens,
        unprojected: bool = False,
        add_dict: Mapping[str, Any] | None = None,
        show_pbar: bool = True,
    ) -> Conditioning:
        """Encode to ``[[cond, {"pooled_output": pooled, **add_dict}]]``; no hooks are scheduled."""
        cond, pooled = self.encode_from_tokens(tokens, "unprojected" if unprojected else True)
        return [[cond, {"pooled_output": pooled, **(add_dict or {})}]]

    def encode(self, text: str) -> torch.Tensor:
        """Encode text to *cond*, (1, 77 * chunks, 1024)."""
        cond: torch.Tensor = self.encode_from_tokens(self.tokenize(text))
        return cond

    def get_sd(self) -> dict[str, torch.Tensor]:
        """Return all tensors, named ``clip_h.transformer.text_model…``, in the dtype loaded as.

        Those that the encoder stores in that dtype are not copies.
        """
        model = self.cond_stage_model
        dtype = model.clip_h.weights_dtype()
        own = {name: t.to(_wider(t.dtype, dtype)) for name, t in model.state_dict().items()}
        return {**own, **self.tokenizer.state_dict()}

    def load_sd(self, sd: dict[str, torch.Tensor], full_model: bool = False) -> Any:
        """Copy tensors in; names start with ``text_model.``, or ``clip_h.`` if *full_model*.

        The tensors of all handles on this model change, and its ``source`` becomes None.
        """
        model = self.cond_stage_model
        with self._lock:
            return model.load_state_dict(sd, strict=False) if full_model else model.load_sd(sd)

    def add_patches(
        self,
        patches: Mapping[str, WeightChange],
        strength_patch: float = 1.0,
        strength_model: float = 1.0,
    ) -> list[str]:
        """Change weights for this handle alone; return the names of those that were changed.

        *patches* maps a weight's name to its change: the weight becomes ``change(strength_model *
        weight, strength_patch)``. Computed in fp32, because a small change would vanish in fp16.

        Raises NotFiniteError if a weight would hold NaN or infinity, and changes none.
        """
        self.cond_stage_model.clip_h.check_files()
        own = self.cond_stage_model.state_dict()
        dtype = self.cond_stage_model.clip_h.weights_dtype()
        changed = {}
        for name, change in patches.items():
            if name in own:
                weight = change(own[name].float() * strength_model, strength_patch)
                stored_as = _wider(own[name].dtype, dtype)
                _check_fits(name, weight, stored_as, strength_patch)
                changed[name] = weight.to(stored_as)
        self.cond_stage_model = with_weights(self.cond_stage_model, changed)
        for name in changed:
            patch = (strength_patch, patches[name], strength_model)
            self.patches[name] = [*self.patches.get(name, []), patch]
        return list(changed)
