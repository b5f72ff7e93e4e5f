"""Attention for all steps of the decoder at once: Luong's and Bahdanau's."""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn

AttentionName = Literal["none", "luong", "dot", "bahdanau"]


class Memory(NamedTuple):
    """What the decoder looks at in the source.

    Attributes:
        values: (B, S, M) encoder outputs.
        keys: (B, S, A), computed from them once; None without attention.
        mask: (B, S) bool, true at tokens, false at padding.
        context: (B, C), fed to every step; None where it is not.
    """

    values: Tensor
    keys: Tensor | None
    mask: Tensor
    context: Tensor | None

    def select(self, rows: Tensor) -> Memory:
        """The memory of some sentences (R,) of the batch."""
        return Memory(*(part if part is None else part[rows] for part in self))


def _weights(scores: Tensor, mask: Tensor) -> Tensor:
    """Softmax over the source; in float32 at least, as sums of bfloat16 are not."""
    scores = scores.masked_fill(~mask[:, None], float("-inf"))
    compute = torch.float64 if scores.dtype == torch.float64 else torch.float32
    return scores.softmax(-1, dtype=compute).to(scores.dtype)


class LuongAttention(nn.Module):
    """Multiplicative attention (Luong et al. 2015, eq. 8, "general" or "dot").

    ``score(h_t, m_s) = h_t . W m_s``, or ``h_t . m_s`` without W.

    Args:
        query_size: H of the decoder.
        memory_size: M of the encoder outputs.
        general: learn W; otherwise the sizes must be equal.
    """

    def __init__(self, query_size: int, memory_size: int, *, general: bool = True) -> None:
        super().__init__()
        if not general and query_size != memory_size:
            raise ValueError(f"memory_size: expected {query_size}, as the query, for dot attention, got {memory_size}")
        self.key = nn.Linear(memory_size, query_size, bias=False) if general else nn.Identity()

    def forward(self, query: Tensor, memory: Memory) -> tuple[Tensor, Tensor]:
        """Query (B, T, H) to the contexts (B, T, M) and the weights (B, T, S)."""
        scores = query @ memory.keys.transpose(1, 2)  # (B, T, S)
        weights = _weights(scores, memory.mask)
        return weights @ memory.values.to(weights.dtype), weights


class BahdanauAttention(nn.Module):
    """Additive attention (Bahdanau et al. 2015): ``score(h_t, m_s) = v . tanh(W h_t + U m_s)``.

    Without input feeding the query is the decoder's output of the same step, so that all steps are computed at once;
    the (B, T, S, A) sums exist for as long.

    Args:
        query_size: H of the decoder.
        memory_size: M of the encoder outputs.
        size: A; by default H.
    """

    def __init__(self, query_size: int, memory_size: int, size: int | None = None) -> None:
        super().__init__()
        size = query_size if size is None else size
        self.key = nn.Linear(memory_size, size, bias=False)
        self.query = nn.Linear(query_size, size)
        self.score = nn.Linear(size, 1, bias=False)

    def forward(self, query: Tensor, memory: Memory) -> tuple[Tensor, Tensor]:
        """Query (B, T, H) to the contexts (B, T, M) and the weights (B, T, S)."""
        sums = self.query(query)[:, :, None] + memory.keys[:, None]  # (B, T, S, A)
        weights = _weights(self.score(sums.tanh())[..., 0], memory.mask)
        return weights @ memory.values.to(weights.dtype), weights


def make_attention(name: str, query_size: int, memory_size: int) -> nn.Module | None:
    """Make the attention of that name; None for "none".

    Raises:
        ValueError: an unknown name.
    """
    if name == "none":
        return None
    if name in ("luong", "dot"):
        return LuongAttention(query_size, memory_size, general=name == "luong")
    if name == "bahdanau":
        return BahdanauAttention(query_size, memory_size)
    raise ValueError(f"attention: expected one of {', '.join(AttentionName.__args__)}, got {name!r}")
