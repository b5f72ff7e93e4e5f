"""Embedding blocks under their usual names, thin over ``torch.nn``.

>>> Embedding(10_000, 256, padding_idx=0, sparse=True)                    # nn.Embedding, and what it refuses
>>> BertEmbedding(10_000, 256, max_positions=512)                         # token + position + segment
>>> q, k = rotary(q), rotary(k)                                           # rotary = RotaryEmbedding(64)
>>> LowRankEmbedding(10_000, 256, rank=64), CompressedEmbedding.from_vectors(kv.vectors, "int8")
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .embeddings import Init, init_embedding_
from .quantize import Compressed, compress

__all__ = ["BertEmbedding", "CompressedEmbedding", "Embedding", "LowRankEmbedding"]


class Embedding(nn.Embedding):
    """``nn.Embedding`` with a choice of initial values, and with ``sparse`` and ``scale_grad_by_freq`` together.

    PyTorch's own sparse gradient holds one row per index and no counts, so its backward refuses
    ``scale_grad_by_freq``. Here the gradient of each looked-up vector is divided by how often its index occurs in the
    call before it becomes a row; the sum is the dense gradient. ``max_norm`` shortens rows of the weight in place when
    they are looked up, as in PyTorch; the weight must then not be used elsewhere in the same graph before the lookup.
    Row optimisers (:mod:`w2v_ext.optim`) have a ``max_norm`` of their own, after the step.

    Args:
        num_embeddings, embedding_dim, padding_idx, max_norm, norm_type, scale_grad_by_freq, sparse, device, dtype: as
            in ``nn.Embedding``.
        init: initial values; see :func:`w2v_ext.init_embedding_`. ``normal`` has standard deviation ``scale``, by
            default 1 / sqrt(D), where ``nn.Embedding`` has 1.
        scale: of it.

    Raises:
        ValueError: sizes below 1, a ``padding_idx`` out of range, an unknown ``init``.
    """

    def __init__(
        self,
        num_embeddings: int,
        embedding_dim: int,
        padding_idx: int | None = None,
        max_norm: float | None = None,
        norm_type: float = 2.0,
        scale_grad_by_freq: bool = False,
        sparse: bool = False,
        *,
        init: Init = "normal",
        scale: float | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        _check_sizes(num_embeddings=num_embeddings, embedding_dim=embedding_dim)
        if padding_idx is not None and not -num_embeddings <= padding_idx < num_embeddings:
            raise ValueError(f"padding_idx: expected a row of {num_embeddings}, got {padding_idx}")
        if max_norm is not None and not 0 < max_norm < float("inf"):
            raise ValueError(f"max_norm: expected a finite number > 0, got {max_norm}")
        self._init, self._scale = init, scale
        super().__init__(
            num_embeddings,
            embedding_dim,
            padding_idx,
            max_norm,
            norm_type,
            scale_grad_by_freq,
            sparse,
            device=device,
            dtype=dtype,
        )

    @classmethod
    def from_pretrained(
        cls,
        embeddings: Tensor,
        freeze: bool = True,
        padding_idx: int | None = None,
        max_norm: float | None = None,
        norm_type: float = 2.0,
        scale_grad_by_freq: bool = False,
        sparse: bool = False,
    ) -> Embedding:
        """An embedding whose weight is ``embeddings`` (V, D), not copied; arguments as of ``nn.Embedding``'s.

        Raises:
            ValueError: another shape, a ``padding_idx`` out of range.
        """
        if embeddings.dim() != 2:
            raise ValueError(f"embeddings: expected shape (V, D), got {tuple(embeddings.shape)}")
        options = (padding_idx, max_norm, norm_type, scale_grad_by_freq, sparse)
        embedding = cls(*embeddings.shape, *options, device="meta", dtype=embeddings.dtype)
        embedding.weight = nn.Parameter(embeddings, requires_grad=not freeze)
        return embedding

    def reset_parameters(self) -> None:
        """Draw the initial values anew; the row of ``padding_idx`` is zero."""
        init_embedding_(self.weight, self._init, scale=self._scale, padding_idx=self.padding_idx)

    def forward(self, ids: Tensor) -> Tensor:
        """The vectors (..., D) of ids (...), int32 or int64."""
        if not (self.sparse and self.scale_grad_by_freq):
            return super().forward(ids)
        vectors = F.embedding(ids, self.weight, self.padding_idx, self.max_norm, self.norm_type, sparse=True)
        if vectors.requires_grad:
            _, place, counts = ids.unique(return_inverse=True, return_counts=True)
            share = (1 / counts.to(vectors.dtype))[place].unsqueeze(-1)  # (..., 1)
            vectors.register_hook(lambda grad: grad * share)
        return vectors


class BertEmbedding(nn.Module):
    """Token, position and segment embeddings, added, normalised and dropped out, as in BERT (Devlin et al. 2019).

    Args:
        num_embeddings: V, words. embedding_dim: D.
        max_positions: learned positions, the longest sequence. segments: kinds of token; 0: none.
        padding_idx: a word whose vector is zero and stays so (its position and segment are added all the same).
        dropout: probability. eps: of the layer norm.
        tokens: an embedding (V, D) to use for the words, such as ``pretrained_embedding(...).embedding``; None makes
            one, initialised normal with standard deviation 0.02, as all are.
        device, dtype: of the parameters.

    Raises:
        ValueError: sizes below 1, or ``tokens`` of another shape.
    """

    def __init__(
        self,
        num_embeddings: int,
        embedding_dim: int,
        *,
        max_positions: int = 512,
        segments: int = 2,
        padding_idx: int | None = None,
        dropout: float = 0.1,
        eps: float = 1e-12,
        tokens: nn.Module | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        _check_sizes(num_embeddings=num_embeddings, embedding_dim=embedding_dim, max_positions=max_positions)
        where: dict[str, Any] = {"init": "normal", "scale": 0.02, "device": device, "dtype": dtype}
        self.tokens = Embedding(num_embeddings, embedding_dim, padding_idx, **where) if tokens is None else tokens
        shape = getattr(self.tokens, "num_embeddings", num_embeddings), getattr(self.tokens, "embedding_dim", 0)
        if shape != (num_embeddings, embedding_dim):
            raise ValueError(f"tokens: expected an embedding of ({num_embeddings}, {embedding_dim}), got {shape}")
        self.positions = Embedding(max_positions, embedding_dim, **where)
        self.segments = Embedding(segments, embedding_dim, **where) if segments else None
        self.norm = nn.LayerNorm(embedding_dim, eps=eps, device=device, dtype=dtype)
        self.dropout = nn.Dropout(dropout)

    def forward(self, ids: Tensor, segments: Tensor | None = None, *, offset: int = 0) -> Tensor:
        """The inputs (B, T, D) of the first layer.

        Args:
            ids: (B, T) words. segments: (B, T), or None for the first kind.
            offset: position of the first word, for a sequence that is read in parts.

        Raises:
            ValueError: more positions than there are, or segments where there are none.
        """
        length = ids.shape[-1]
        if offset < 0 or offset + length > self.positions.num_embeddings:
            raise ValueError(
                f"ids: expected positions below max_positions = {self.positions.num_embeddings}, got {length} words "
                f"from position {offset} on"
            )
        x = self.tokens(ids) + self.positions(torch.arange(offset, offset + length, device=ids.device))
        if self.segments is not None:
            x = x + self.segments(torch.zeros_like(ids) if segments is None else segments)
        elif segments is not None:
            raise ValueError("segments: expected None, as this embedding was made with segments = 0")
        return self.dropout(self.norm(x))


class LowRankEmbedding(nn.Module):
    """An embedding (V, D) of rank R: a table (V, R) and a matrix (R, D), as ALBERT factorises it (Lan et al. 2020).

    R (V + D) numbers in place of V D. Gradients of the table may be sparse.

    Args:
        num_embeddings: V. embedding_dim: D. rank: R, at most D.
        padding_idx, sparse: of the table, as in ``nn.Embedding``. device, dtype: of the parameters.

    Raises:
        ValueError: sizes below 1, or a rank above D.
    """

    def __init__(
        self,
        num_embeddings: int,
        embedding_dim: int,
        rank: int,
        *,
        padding_idx: int | None = None,
        sparse: bool = False,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        _check_sizes(num_embeddings=num_embeddings, embedding_dim=embedding_dim, rank=rank)
        if rank > embedding_dim:
            raise ValueError(f"rank: expected at most embedding_dim = {embedding_dim}, got {rank}")
        self.num_embeddings, self.embedding_dim, self.rank = num_embeddings, embedding_dim, rank
        self.table = Embedding(num_embeddings, rank, padding_idx, sparse=sparse, device=device, dtype=dtype)
        self.project = nn.Linear(rank, embedding_dim, bias=False, device=device, dtype=dtype)
        nn.init.orthogonal_(self.project.weight)  # keeps lengths

    @classmethod
    def from_vectors(cls, vectors: np.ndarray | Tensor, rank: int, **options: Any) -> LowRankEmbedding:
        """The best approximation of vectors (V, D) of that rank, by truncated singular value decomposition."""
        packed = compress(vectors, "low-rank", rank=rank)
        made = cls(len(packed), packed.dim, rank, **options)
        with torch.no_grad():
            made.table.weight.copy_(packed.tensors["left"])
            made.project.weight.copy_(packed.tensors["right"].T)
            if made.table.padding_idx is not None:
                made.table.weight[made.table.padding_idx] = 0
        return made

    def forward(self, ids: Tensor) -> Tensor:
        """The vectors (..., D) of ids (...)."""
        return self.project(self.table(ids))


class CompressedEmbedding(nn.Module):
    """A fixed embedding that is kept compressed and decoded row by row when it is looked up.

    8 bits a number (``int8``, ``int8-symmetric``), product quantisation (``pq``) or low rank, as
    :func:`w2v_ext.quantize.compress` makes them; the tensors are buffers and part of ``state_dict``. It has no
    gradient. (``torch.ao.nn.quantized.Embedding`` has 8 bits too, on the CPU only, and without the other forms.)

    Args:
        packed: compressed vectors (V, D), such as ``load_compressed(path)[1]``.
        dtype: of the vectors it gives; None: float32.
    """

    def __init__(self, packed: Compressed, *, dtype: torch.dtype | None = None) -> None:
        super().__init__()
        self.num_embeddings, self.embedding_dim = len(packed), packed.dim
        self.method, self.dtype = packed.method, dtype or torch.float32
        self._names = tuple(packed.tensors)
        for name, tensor in packed.tensors.items():
            self.register_buffer(name, tensor)

    @classmethod
    def from_vectors(
        cls, vectors: np.ndarray | Tensor, method: str = "int8", *, dtype: torch.dtype | None = None, **options: Any
    ) -> CompressedEmbedding:
        """Compress vectors (V, D); ``options`` are those of :func:`w2v_ext.quantize.compress`."""
        return cls(compress(vectors, method, **options), dtype=dtype)

    def forward(self, ids: Tensor) -> Tensor:
        """The vectors (..., D) of ids (...).

        Raises:
            IndexError: an id out of range.
        """
        if ids.device.type != "cpu" or torch.compiler.is_compiling():  # not to be waited for
            ids = ids.masked_fill(ids < 0, self.num_embeddings)  # negative ones would count from the end
        elif ids.numel() and not 0 <= int(ids.min()) <= int(ids.max()) < self.num_embeddings:
            found = f"{int(ids.min())} to {int(ids.max())}"
            raise IndexError(f"ids: expected numbers from 0 to {self.num_embeddings - 1}, got {found}")
        packed = Compressed(self.method, {name: getattr(self, name) for name in self._names}, self.embedding_dim)
        return packed.decode(ids.reshape(-1).long()).to(self.dtype).view(*ids.shape, self.embedding_dim)

    def extra_repr(self) -> str:
        """The settings, for ``print(model)``."""
        return f"{self.num_embeddings}, {self.embedding_dim}, method={self.method!r}"


def _check_sizes(**sizes: int) -> None:
    for name, value in sizes.items():
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise ValueError(f"{name}: expected an integer >= 1, got {value!r}")
