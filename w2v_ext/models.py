"""Modules for training with autograd."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from .ops import negative_sampling_loss


class SkipGramNegSampling(nn.Module):
    """Skip-gram with negative sampling as a module; ``forward(center, pos, neg)`` is the mean loss.

    Args:
        vocab_size: V, at least 1.
        embed_dim: D, at least 1.
        sparse_grad: gradients as coalesced COO tensors, for ``torch.optim.SGD`` or ``SparseAdam``. Not under
            ``DistributedDataParallel``, which takes sparse gradients of ``nn.Embedding`` only: there, give the weights
            of two of them, made with ``sparse=True``, to :func:`w2v_ext.negative_sampling_loss`.
        device, dtype: of the parameters.

    Attributes:
        in_weight: (V, D) word vectors, initialised U(-0.5/D, 0.5/D) as word2vec does.
        out_weight: (V, D) output vectors, initialised to zero; so the first loss is (K + 1) ln 2.
    """

    def __init__(
        self,
        vocab_size: int,
        embed_dim: int,
        *,
        sparse_grad: bool = False,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        for name, value in (("vocab_size", vocab_size), ("embed_dim", embed_dim)):
            if value < 1:
                raise ValueError(f"{name}: expected an integer >= 1, got {value}")
        self.sparse_grad = sparse_grad
        self.in_weight = nn.Parameter(torch.empty(vocab_size, embed_dim, device=device, dtype=dtype))
        self.out_weight = nn.Parameter(torch.empty(vocab_size, embed_dim, device=device, dtype=dtype))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw the word vectors anew and set the output vectors to zero."""
        bound = 0.5 / self.in_weight.shape[1]
        nn.init.uniform_(self.in_weight, -bound, bound)
        nn.init.zeros_(self.out_weight)

    def forward(self, center: Tensor, pos: Tensor, neg: Tensor) -> Tensor:
        """Mean loss of center (B,), pos (B,) or (B, P), neg (B, K): see :func:`w2v_ext.negative_sampling_loss`."""
        return negative_sampling_loss(self.in_weight, self.out_weight, center, pos, neg, sparse_grad=self.sparse_grad)

    def extra_repr(self) -> str:
        """The settings, for ``print(model)``."""
        vocab_size, embed_dim = self.in_weight.shape
        return f"vocab_size={vocab_size}, embed_dim={embed_dim}, sparse_grad={self.sparse_grad}"
