"""OpenCLIP ViT-H/14's text tower in torch, under transformers' tensor names.

Written from the CLIP paper (arXiv 2103.00020) and open_clip's ViT-H-14 configuration: pre-norm
blocks, causal attention without a padding mask, the exact GELU. The model knows neither files nor
devices. Its layer classes (``operations.Linear`` …) are injected, because ComfyUI's layers move and
cast their own weights.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import gelu, scaled_dot_product_attention

from ..config import TextEncoderConfig
from .weights_fingerprint import WatchedList, WatchedModule


class KVCache:
    """Key/value cache for the first positions of each sequence, extended block by block.

    Attention is causal, so the keys and values of a position do not depend on later positions:
    where a text changes, only the positions from the change on are computed again.
    """

    def __init__(
        self, length: int = 0, cached: Iterable[tuple[Tensor, Tensor]] = (), *, keep: bool = False
    ) -> None:
        self.length = length
        """Number of cached positions."""
        self._cached = iter(cached)
        self._keep = keep
        self.blocks: list[tuple[Tensor, Tensor]] = []
        """With *keep*: keys and values of all positions, (B, T, W), of each computed block."""

    def extend(self, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Return the next block's cached keys and values with *keys* and *values* appended."""
        if self.length:
            cached_keys, cached_values = next(self._cached)
            keys = torch.cat([cached_keys[:, : self.length], keys], dim=1)
            values = torch.cat([cached_values[:, : self.length], values], dim=1)
        if self._keep:
            self.blocks.append((keys, values))
        return keys, values


class Attention(WatchedModule):
    """Causal multi-head self-attention."""

    def __init__(self, config: TextEncoderConfig, operations: Any, **placement: Any) -> None:
        super().__init__()
        width = config.hidden_size
        self.heads = config.num_attention_heads
        self.q_proj = operations.Linear(width, width, **placement)
        self.k_proj = operations.Linear(width, width, **placement)
        self.v_proj = operations.Linear(width, width, **placement)
        self.out_proj = operations.Linear(width, width, **placement)

    def _split(self, x: Tensor) -> Tensor:
        return x.view(*x.shape[:2], self.heads, -1).transpose(1, 2)  # (B, T, W) -> (B, H, T, W/H)

    def forward(self, x: Tensor, kv_cache: KVCache) -> Tensor:
        q, k, v = self.q_proj(x), *kv_cache.extend(self.k_proj(x), self.v_proj(x))
        visible = None
        if kv_cache.length:  # the last position of q attends to all of k
            positions = torch.arange(k.shape[1], device=x.device)
            visible = positions <= positions[kv_cache.length :, None]  # (positions of q, of k)
        q, k, v = self._split(q), self._split(k), self._split(v)
        out = scaled_dot_product_attention(q, k, v, visible, is_causal=visible is None)
        return self.out_proj(out.transpose(1, 2).flatten(2))  # type: ignore[no-any-return]

    def forward_at(self, x: Tensor, position: Tensor, kv_cache: KVCache) -> Tensor:
        """Compute the output at one position of each sequence: (B, T, W), (B,) -> (B, W)."""
        batch = torch.arange(len(x), device=x.device)
        q = self._split(self.q_proj(x[batch, position - kv_cache.length].unsqueeze(1)))
        keys, values = kv_cache.extend(self.k_proj(x), self.v_proj(x))
        visible = torch.arange(keys.shape[1], device=x.device) <= position[:, None]  # (B, T)
        out = scaled_dot_product_attention(
            q, self._split(keys), self._split(values), attn_mask=visible[:, None, None, :]
        )
        return self.out_proj(out.transpose(1, 2).flatten(1))  # type: ignore[no-any-return]


class MLP(WatchedModule):
    """Two linear layers with a GELU between them."""

    def __init__(self, config: TextEncoderConfig, operations: Any, **placement: Any) -> None:
        super().__init__()
        self.fc1 = operations.Linear(config.hidden_size, config.intermediate_size, **placement)
        self.fc2 = operations.Linear(config.intermediate_size, config.hidden_size, **placement)

    def forward(self, x: Tensor) -> Tensor:
        # Our own layers compute both in one kernel; a host's layers may not offer that.
        fc1_gelu = getattr(self.fc1, "gelu", None)
        return self.fc2(fc1_gelu(x) if fc1_gelu else gelu(self.fc1(x)))  # type: ignore[no-any-return]


class EncoderLayer(WatchedModule):
    """One transformer block."""

    def __init__(self, config: TextEncoderConfig, operations: Any, **placement: Any) -> None:
        super().__init__()
        width, eps = config.hidden_size, config.layer_norm_eps
        self.layer_norm1 = operations.LayerNorm(width, eps=eps, **placement)
        self.self_attn = Attention(config, operations, **placement)
        self.layer_norm2 = operations.LayerNorm(width, eps=eps, **placement)
        self.mlp = MLP(config, operations, **placement)

    def forward(self, x: Tensor, kv_cache: KVCache) -> Tensor:
        x = x + self.self_attn(self.layer_norm1(x), kv_cache)
        return x + self.mlp(self.layer_norm2(x))  # type: ignore[no-any-return]

    def forward_at(self, x: Tensor, position: Tensor, kv_cache: KVCache) -> Tensor:
        """Compute ``forward`` at one position of each sequence: (B, T, W), (B,) -> (B, W)."""
        batch = torch.arange(len(x), device=x.device)
        attended = self.self_attn.forward_at(self.layer_norm1(x), position, kv_cache)
        x = x[batch, position - kv_cache.length] + attended
        return x + self.mlp(self.layer_norm2(x))  # type: ignore[no-any-return]


class Embeddings(WatchedModule):
    """The token table and the position table."""

    def __init__(self, config: TextEncoderConfig, operations: Any, **placement: Any) -> None:
        super().__init__()
        width = config.hidden_size
        self.token_embedding = operations.Embedding(config.vocab_size, width, **placement)
        self.position_embedding = operations.Embedding(
            config.max_position_embeddings, width, **placement
        )


class Encoder(WatchedModule):
    """The stack of blocks."""

    def __init__(self, config: TextEncoderConfig, operations: Any, **placement: Any) -> None:
        super().__init__()
        self.layers = WatchedList(
            EncoderLayer(config, operations, **placement) for _ in range(config.num_hidden_layers)
        )


class TextTransformer(WatchedModule):
    """Embeddings, blocks and final layer norm: ``text_model.*``."""

    def __init__(self, config: TextEncoderConfig, operations: Any, **placement: Any) -> None:
        super().__init__()
        self.embeddings = Embeddings(config, operations, **placement)
        self.encoder = Encoder(config, operations, **placement)
        self.final_layer_norm = operations.LayerNorm(
            config.hidden_size, eps=config.layer_norm_eps, **placement
        )

    def with_positions(self, embeds: Tensor) -> Tensor:
        """Add the position vectors to token vectors (B, T, W)."""
        positions = torch.arange(embeds.shape[1], device=embeds.device)
        return embeds + self.embeddings.position_embedding(positions).to(embeds.dtype)  # type: ignore[no-any-return]

    def forward(
        self, x: Tensor, output_layers: Collection[int], pooled_at: Tensor, kv_cache: KVCache
    ) -> tuple[dict[int, Tensor], Tensor]:
        """Compute the states of *output_layers*, and the last layer's states at *pooled_at*.

        *x*, (B, T, W), are token vectors with positions added, of the positions after the cached
        ones; the returned states cover the same positions. Layers count from 0. *pooled_at*, (P,),
        holds one position for each of the first P sequences, counted from the sequence's start;
        its states are (P, W). The final layer norm is not applied. Blocks above the highest
        requested layer are not computed; the last block is computed at *pooled_at* only, unless it
        is one of *output_layers*.
        """
        layers: Sequence[EncoderLayer] = list(self.encoder.layers)  # type: ignore[arg-type]
        last = len(layers) - 1
        pooled = len(pooled_at)
        depth = last if pooled else max(output_layers)
        states: dict[int, Tensor] = {}
        for index in range(depth + 1):
            if index == last and last not in output_layers:
                return states, layers[last].forward_at(x[:pooled], pooled_at, kv_cache)
            x = layers[index](x, kv_cache)
            if index in output_layers:
                states[index] = x
        batch = torch.arange(pooled, device=x.device)
        return states, x[batch, pooled_at - kv_cache.length]


class CLIPTextModel(WatchedModule):
    """The whole text tower: ``text_model.*`` and ``text_projection.weight``."""

    def __init__(
        self,
        config: TextEncoderConfig,
        operations: Any,
        *,
        device: torch.device | str | None,
        dtype: torch.dtype | None,
    ) -> None:
        super().__init__()
        placement = {"device": device, "dtype": dtype}
        self.num_layers = config.num_hidden_layers
        self.text_model = TextTransformer(config, operations, **placement)
        self.text_projection = operations.Linear(
            config.hidden_size, config.projection_dim, bias=False, **placement
        )

    def get_input_embeddings(self) -> nn.Module:
        """Return the token table; transformers and ComfyUI call this name."""
        return self.text_model.embeddings.token_embedding  # type: ignore[no-any-return]

    def set_input_embeddings(self, embeddings: nn.Module) -> None:
        """Replace the token table."""
        self.text_model.embeddings.token_embedding = embeddings
