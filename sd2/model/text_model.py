"""OpenCLIP ViT-H/14's text tower in torch, under transformers' tensor names.

Written from the CLIP paper (arXiv 2103.00020) and open_clip's ViT-H-14 configuration: pre-norm
blocks, causal attention without any padding mask, the exact GELU. The model knows neither files
nor devices; layer classes (``operations.Linear`` …) are injected, since ComfyUI's move and cast
weights on their own.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import gelu, scaled_dot_product_attention

from ..config import TextEncoderConfig


class Past:
    """Keys and values of the sequences' first places; each block adds those that it computes.

    Attention is causal, so a place depends on none behind it: where a text changes further on,
    its beginning need not be computed again.
    """

    def __init__(
        self, length: int = 0, known: Iterable[tuple[Tensor, Tensor]] = (), *, keep: bool = False
    ) -> None:
        self.length = length
        """How many places are known."""
        self._known = iter(known)
        self._keep = keep
        self.blocks: list[tuple[Tensor, Tensor]] = []
        """With *keep*: keys and values of all places, (B, T, W), by block, as far as computed."""

    def extend(self, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """The next block's keys and values, behind the known ones."""
        if self.length:
            known_keys, known_values = next(self._known)
            keys = torch.cat([known_keys[:, : self.length], keys], dim=1)
            values = torch.cat([known_values[:, : self.length], values], dim=1)
        if self._keep:
            self.blocks.append((keys, values))
        return keys, values


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

    def forward(self, x: Tensor, past: Past) -> Tensor:
        q, k, v = self.q_proj(x), *past.extend(self.k_proj(x), self.v_proj(x))
        visible = None
        if past.length:  # the last place of q sees all of k
            places = torch.arange(k.shape[1], device=x.device)
            visible = places <= places[past.length :, None]  # (places of q, places of k)
        q, k, v = self._split(q), self._split(k), self._split(v)
        out = scaled_dot_product_attention(q, k, v, visible, is_causal=visible is None)
        return self.out_proj(out.transpose(1, 2).flatten(2))  # type: ignore[no-any-return]

    def row(self, x: Tensor, position: Tensor, past: Past) -> Tensor:
        """The output at one place of each sequence: (B, T, W), (B,) -> (B, W)."""
        batch = torch.arange(len(x), device=x.device)
        q = self._split(self.q_proj(x[batch, position - past.length].unsqueeze(1)))
        keys, values = past.extend(self.k_proj(x), self.v_proj(x))
        visible = torch.arange(keys.shape[1], device=x.device) <= position[:, None]  # (B, T)
        out = scaled_dot_product_attention(
            q, self._split(keys), self._split(values), attn_mask=visible[:, None, None, :]
        )
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

    def forward(self, x: Tensor, past: Past) -> Tensor:
        x = x + self.self_attn(self.layer_norm1(x), past)
        return x + self.mlp(self.layer_norm2(x))  # type: ignore[no-any-return]

    def row(self, x: Tensor, position: Tensor, past: Past) -> Tensor:
        """``forward`` at one place of each sequence only: (B, T, W), (B,) -> (B, W)."""
        batch = torch.arange(len(x), device=x.device)
        attended = self.self_attn.row(self.layer_norm1(x), position, past)
        x = x[batch, position - past.length] + attended
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

    def with_positions(self, embeds: Tensor) -> Tensor:
        """Token vectors (B, T, W) with those of their positions added."""
        positions = torch.arange(embeds.shape[1], device=embeds.device)
        return embeds + self.embeddings.position_embedding(positions).to(embeds.dtype)  # type: ignore[no-any-return]

    def forward(
        self, x: Tensor, wanted: Collection[int], pooled_at: Tensor, past: Past
    ) -> tuple[dict[int, Tensor], Tensor]:
        """Hidden states of the *wanted* layers, and the last layer's rows at *pooled_at*.

        *x* are token vectors with positions, (B, T, W), of the places behind *past*, and so are
        the states; layers count from 0. *pooled_at* is (P,), for the first P sequences and counted
        with the past; the rows are (P, W). Nothing is layer-normed. No block above the highest one
        asked for is computed, and the last block only at the pooled rows unless wanted whole.
        """
        layers: Sequence[EncoderLayer] = list(self.encoder.layers)  # type: ignore[arg-type]
        last = len(layers) - 1
        pooled = len(pooled_at)
        depth = last if pooled else max(wanted)
        states: dict[int, Tensor] = {}
        for index in range(depth + 1):
            if index == last and last not in wanted:
                return states, layers[last].row(x[:pooled], pooled_at, past)
            x = layers[index](x, past)
            if index in wanted:
                states[index] = x
        batch = torch.arange(pooled, device=x.device)
        return states, x[batch, pooled_at - past.length]


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
