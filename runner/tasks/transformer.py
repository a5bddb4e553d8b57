"""A causal transformer in the manner of GPT-2, small enough to read."""

from __future__ import annotations

import functools
import math
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional


class Transformer(nn.Module):
    """Tokens, int64 (n, t) -> logits of the token that follows each, (n, t, vocabulary); t <= context.

    Learned positions, GELU, four times the width in the feed-forward layers, embeddings not shared with the output.
    Weights start normal with standard deviation sqrt(2 / (5 * width)), which is GPT-2's 0.02 at its width of 768; those
    that end a residual branch with that over sqrt(2 * depth); biases start at 0.

    Args:
        vocabulary: number of different tokens.
        context: most tokens that it can look back on, the present one included.
        width: numbers that describe one token; `heads` divides it.
        depth: blocks of attention and feed-forward layer.
        heads: attention heads of a block.
        dropout: probability of dropping a number of the embedding, an attention weight or a branch's output.
        norm: "pre" puts LayerNorm at the start of a residual branch, "post" behind the sum.
        qk_norm: whether queries and keys pass a LayerNorm of their own in every head.
        base_width: width w0 at which the learning rate was chosen, for muP: embeddings start with the standard
            deviation that they have at w0, the output with sqrt(w0 / width) times its own, and attention is scaled by
            sqrt(w0 / heads) / (width / heads), so that nothing changes at the width w0. None is the usual way.
    Source: Radford et al. 2019 (GPT-2); initial weights: Nguyen & Salazar 2019, arXiv:1910.05895; post-norm: Vaswani
        et al. 2017, arXiv:1706.03762; qk_norm: Dehghani et al. 2023, arXiv:2302.05442; base_width: Yang et al. 2022,
        arXiv:2203.03466, table 3 and definition 4.1.
    """

    def __init__(
        self,
        vocabulary: int,
        *,
        context: int,
        width: int,
        depth: int,
        heads: int,
        dropout: float,
        norm: Literal["pre", "post"],
        qk_norm: bool,
        base_width: int | None = None,
    ) -> None:
        super().__init__()
        scale = None if base_width is None else math.sqrt(base_width / heads) / (width // heads)
        self._at_width = functools.partial(
            Transformer,
            vocabulary,
            context=context,
            depth=depth,
            heads=heads,
            dropout=dropout,
            norm=norm,
            qk_norm=qk_norm,
        )
        self._base_width = base_width
        self.tokens = nn.Embedding(vocabulary, width)
        self.positions = nn.Embedding(context, width)
        self.dropout = nn.Dropout(dropout)
        self.blocks = nn.ModuleList(
            Block(width, heads=heads, dropout=dropout, norm=norm, qk_norm=qk_norm, scale=scale) for _ in range(depth)
        )
        self.norm = nn.LayerNorm(width) if norm == "pre" else nn.Identity()
        self.head = nn.Linear(width, vocabulary, bias=False)
        self._initialise(width, depth=depth, base_width=base_width or width)

    def base_model(self) -> Transformer | None:
        """Return this model at its base width, freshly initialised; None where it declares none."""
        return None if self._base_width is None else self._at_width(width=self._base_width)

    def forward(self, tokens: Tensor) -> Tensor:
        """Return the logits."""
        positions = torch.arange(tokens.shape[1], device=tokens.device)
        x = self.dropout(self.tokens(tokens) + self.positions(positions))
        for block in self.blocks:
            x = block(x)
        logits: Tensor = self.head(self.norm(x))
        return logits

    def _initialise(self, width: int, *, depth: int, base_width: int) -> None:
        std = math.sqrt(2 / (5 * width))
        factors = {
            "tokens.weight": math.sqrt(width / base_width),
            "positions.weight": math.sqrt(width / base_width),
            "head.weight": math.sqrt(base_width / width),
        }
        for name, parameter in self.named_parameters():
            if name.endswith("bias"):
                nn.init.zeros_(parameter)
            elif parameter.ndim == 2:
                ends_branch = name.endswith(("mix.weight", "shrink.weight"))
                factor = 1 / math.sqrt(2 * depth) if ends_branch else factors.get(name, 1.0)
                nn.init.normal_(parameter, std=std * factor)


class Block(nn.Module):
    """Attention, then a feed-forward layer, each on a residual branch; (n, t, width) -> (n, t, width)."""

    def __init__(
        self,
        width: int,
        *,
        heads: int,
        dropout: float,
        norm: Literal["pre", "post"],
        qk_norm: bool,
        scale: float | None,
    ) -> None:
        super().__init__()
        self.is_pre = norm == "pre"
        self.attention_norm = nn.LayerNorm(width)
        self.attention = Attention(width, heads=heads, dropout=dropout, qk_norm=qk_norm, scale=scale)
        self.feed_forward_norm = nn.LayerNorm(width)
        self.feed_forward = FeedForward(width)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        """Return x changed by both branches."""
        if self.is_pre:
            x = x + self.dropout(self.attention(self.attention_norm(x)))
            x = x + self.dropout(self.feed_forward(self.feed_forward_norm(x)))
        else:
            x = self.attention_norm(x + self.dropout(self.attention(x)))
            x = self.feed_forward_norm(x + self.dropout(self.feed_forward(x)))
        return x


class Attention(nn.Module):
    """Causal multi-head self-attention; (n, t, width) -> (n, t, width); scale None is 1 / sqrt(width / heads)."""

    def __init__(self, width: int, *, heads: int, dropout: float, qk_norm: bool, scale: float | None) -> None:
        super().__init__()
        self.heads = heads
        self.scale = scale
        self.dropout = dropout
        self.project = nn.Linear(width, 3 * width)
        self.query_norm = nn.LayerNorm(width // heads) if qk_norm else nn.Identity()
        self.key_norm = nn.LayerNorm(width // heads) if qk_norm else nn.Identity()
        self.mix = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        """Return what every token gathers from itself and those before it."""
        query, key, value = self._projected(x)
        gathered = functional.scaled_dot_product_attention(
            query,
            key,
            value,
            dropout_p=self.dropout if self.training else 0.0,
            is_causal=True,
            scale=self.scale,
        )
        mixed: Tensor = self.mix(gathered.transpose(1, 2).flatten(-2))
        return mixed

    def attention_logits(self, x: Tensor) -> Tensor:
        """Return what the softmax is taken of, (n, heads, t, t), -inf for tokens that come later."""
        query, key, _ = self._projected(x)
        scale = query.shape[-1] ** -0.5 if self.scale is None else self.scale
        later = torch.ones(x.shape[1], x.shape[1], dtype=torch.bool, device=x.device).triu(1)
        return (query @ key.transpose(-2, -1) * scale).masked_fill(later, -math.inf)

    def _projected(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return queries, keys and values, (n, heads, t, width / heads) each."""
        query, key, value = self.project(x).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        return self.query_norm(query), self.key_norm(key), value


class FeedForward(nn.Module):
    """Two linear layers with a GELU between them; (n, t, width) -> (n, t, width)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.widen = nn.Linear(width, 4 * width)
        self.shrink = nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        """Return the layers' output."""
        output: Tensor = self.shrink(functional.gelu(self.widen(x)))
        return output
