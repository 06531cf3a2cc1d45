"""OpenCLIP ViT-H/14's text tower in torch, under transformers' tensor names.

Written from the CLIP paper (arXiv 2103.00020) and open_clip's ViT-H-14 configuration: pre-norm
blocks, causal attention without any padding mask, the exact GELU. The model knows neither files
nor devices; layer classes (``operations.Linear`` …) are injected, since ComfyUI's move and cast
weights on their own.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import gelu, scaled_dot_product_attention

from .config import TextEncoderConfig


class Attention(nn.Module):
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

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (self._split(proj(x)) for proj in (self.q_proj, self.k_proj, self.v_proj))
        out = scaled_dot_product_attention(q, k, v, is_causal=True)
        return self.out_proj(out.transpose(1, 2).flatten(2))  # type: ignore[no-any-return]

    def row(self, x: Tensor, position: Tensor) -> Tensor:
        """The output at one position of each sequence: (B, T, W), (B,) -> (B, W)."""
        batch = torch.arange(len(x), device=x.device)
        q = self._split(self.q_proj(x[batch, position].unsqueeze(1)))  # (B, H, 1, W/H)
        k, v = self._split(self.k_proj(x)), self._split(self.v_proj(x))
        visible = torch.arange(x.shape[1], device=x.device) <= position[:, None]  # (B, T)
        out = scaled_dot_product_attention(q, k, v, attn_mask=visible[:, None, None, :])
        return self.out_proj(out.transpose(1, 2).flatten(1))  # type: ignore[no-any-return]


class MLP(nn.Module):
    """Two linear layers with a GELU between them."""

    def __init__(self, config: TextEncoderConfig, operations: Any, **placement: Any) -> None:
        super().__init__()
        self.fc1 = operations.Linear(config.hidden_size, config.intermediate_size, **placement)
        self.fc2 = operations.Linear(config.intermediate_size, config.hidden_size, **placement)

    def forward(self, x: Tensor) -> Tensor:
        # Our own layers can do both in one kernel; a host's need not.
        fc1_gelu = getattr(self.fc1, "gelu", None)
        return self.fc2(fc1_gelu(x) if fc1_gelu else gelu(self.fc1(x)))  # type: ignore[no-any-return]


class EncoderLayer(nn.Module):
    """One transformer block."""

    def __init__(self, config: TextEncoderConfig, operations: Any, **placement: Any) -> None:
        super().__init__()
        width, eps = config.hidden_size, config.layer_norm_eps
        self.layer_norm1 = operations.LayerNorm(width, eps=eps, **placement)
        self.self_attn = Attention(config, operations, **placement)
        self.layer_norm2 = operations.LayerNorm(width, eps=eps, **placement)
        self.mlp = MLP(config, operations, **placement)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.self_attn(self.layer_norm1(x))
        return x + self.mlp(self.layer_norm2(x))  # type: ignore[no-any-return]

    def row(self, x: Tensor, position: Tensor) -> Tensor:
        """``forward(x)`` at one position of each sequence only: (B, T, W), (B,) -> (B, W)."""
        batch = torch.arange(len(x), device=x.device)
        x = x[batch, position] + self.self_attn.row(self.layer_norm1(x), position)
        return x + self.mlp(self.layer_norm2(x))  # type: ignore[no-any-return]


class Embeddings(nn.Module):
    """The two tables: tokens and positions."""

    def __init__(self, config: TextEncoderConfig, operations: Any, **placement: Any) -> None:
        super().__init__()
        width = config.hidden_size
        self.token_embedding = operations.Embedding(config.vocab_size, width, **placement)
        self.position_embedding = operations.Embedding(
            config.max_position_embeddings, width, **placement
        )


class Encoder(nn.Module):
    """The stack of blocks."""

    def __init__(self, config: TextEncoderConfig, operations: Any, **placement: Any) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            EncoderLayer(config, operations, **placement) for _ in range(config.num_hidden_layers)
        )


class TextTransformer(nn.Module):
    """Embeddings, blocks and final layer norm: ``text_model.*``."""

    def __init__(self, config: TextEncoderConfig, operations: Any, **placement: Any) -> None:
        super().__init__()
        self.embeddings = Embeddings(config, operations, **placement)
        self.encoder = Encoder(config, operations, **placement)
        self.final_layer_norm = operations.LayerNorm(
            config.hidden_size, eps=config.layer_norm_eps, **placement
        )

    def forward(
        self, embeds: Tensor, wanted: Collection[int], pooled_at: Tensor | None
    ) -> tuple[dict[int, Tensor], Tensor | None]:
        """Hidden states of the *wanted* layers, and the last layer's row at *pooled_at*.

        *embeds* are token vectors without positions, (B, T, W). Layers count from 0; the states
        are (B, T, W), *pooled_at* is (B,) and its rows (B, W). None of them is layer-normed.
        No block above the highest one asked for is computed, and the last block only at the
        pooled rows unless it is wanted whole.
        """
        positions = torch.arange(embeds.shape[1], device=embeds.device)
        x = embeds + self.embeddings.position_embedding(positions).to(embeds.dtype)
        layers: Sequence[EncoderLayer] = list(self.encoder.layers)  # type: ignore[arg-type]
        last = len(layers) - 1
        depth = last if pooled_at is not None else max(wanted)
        states: dict[int, Tensor] = {}
        for index in range(depth + 1):
            if index == last and last not in wanted:
                assert pooled_at is not None
                return states, layers[last].row(x, pooled_at)
            x = layers[index](x)
            if index in wanted:
                states[index] = x
        if pooled_at is None:
            return states, None
        return states, x[torch.arange(len(x), device=x.device), pooled_at]


class CLIPTextModel(nn.Module):
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
        """The token table, under the name that transformers and ComfyUI use."""
        return self.text_model.embeddings.token_embedding  # type: ignore[no-any-return]

    def set_input_embeddings(self, embeddings: nn.Module) -> None:
        """Replace the token table."""
        self.text_model.embeddings.token_embedding = embeddings
