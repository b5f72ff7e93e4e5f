"""Tables too large for one device: every process keeps a part of the rows and fetches the others that its batch needs.

>>> model = ShardedSkipGram(50_000_000, 300)  # in every process that torchrun started; memory: 1 / processes
>>> optimizer = w2v_ext.optim.SparseAdagrad(model.parameters(), lr=0.05)
>>> loss = model(center, pos, neg)  # every process with a batch of its own
>>> loss.backward()
>>> optimizer.step()

Rows lie as ``torch.distributed.tensor`` (DTensor) lays out ``Shard(0)``, so that a table can be gathered, saved and
loaded by ``torch.distributed.checkpoint`` with any number of processes. A step asks the owners for the distinct rows of
its batch (all-to-all), runs :func:`w2v_ext.negative_sampling_loss` on those, and sends their gradients back, which
arrive as the sparse gradient of the owner's part.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from .ops import negative_sampling_loss

_DRAWN_TOGETHER = 1 << 14  # rows whose initial values come from one generator


def shard_bounds(num_rows: int, ranks: int, rank: int) -> tuple[int, int]:
    """The rows of a table that a rank keeps, as (first, last + 1): as many each, the last ranks fewer or none."""
    each = -(-num_rows // ranks)
    return min(rank * each, num_rows), min((rank + 1) * each, num_rows)


class ShardedSkipGram(nn.Module):
    """:class:`w2v_ext.SkipGramNegSampling` with its rows dealt out to the processes of a group.

    ``forward(center, pos, neg)`` is the mean loss over the batches of all processes, and its gradient is that of this
    mean: what one process would have with all batches and the whole tables. All processes must call ``forward`` and
    ``backward`` equally often; batches may differ in size, or be empty.

    Args:
        vocab_size: V, at least 1.
        embed_dim: D, at least 1.
        sparse_grad: gradients as sparse COO tensors (not coalesced), for :mod:`w2v_ext.optim`, ``torch.optim.SGD`` or
            ``SparseAdam``; otherwise dense, of this process's rows.
        seed: of the word vectors, which do not depend on the number of processes.
        group: the processes; by default all.
        device, dtype: of the parameters.

    Attributes:
        in_weight: this process's rows of the word vectors, U(-0.5/D, 0.5/D).
        out_weight: its rows of the output vectors, zero at first.
        first, last: which those are, ``first`` to ``last - 1``.

    Raises:
        ValueError: a size below 1, or no process group.
    """

    def __init__(
        self,
        vocab_size: int,
        embed_dim: int,
        *,
        sparse_grad: bool = True,
        seed: int = 0,
        group: dist.ProcessGroup | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        for name, value in (("vocab_size", vocab_size), ("embed_dim", embed_dim)):
            if value < 1:
                raise ValueError(f"{name}: expected an integer >= 1, got {value}")
        if not dist.is_available() or not dist.is_initialized():
            raise ValueError("group: expected torch.distributed.init_process_group to have been called, got none")
        self.vocab_size, self.sparse_grad, self.seed, self.group = vocab_size, sparse_grad, seed, group
        self.ranks = dist.get_world_size(group)
        self.first, self.last = shard_bounds(vocab_size, self.ranks, dist.get_rank(group))
        shape = (self.last - self.first, embed_dim)
        self.in_weight = nn.Parameter(torch.empty(shape, device=device, dtype=dtype))
        self.out_weight = nn.Parameter(torch.empty(shape, device=device, dtype=dtype))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw the word vectors anew and set the output vectors to zero."""
        dim = self.in_weight.shape[1]
        with torch.no_grad():
            self.out_weight.zero_()
            for block in range(self.first // _DRAWN_TOGETHER, -(-self.last // _DRAWN_TOGETHER)):
                start = block * _DRAWN_TOGETHER
                generator = torch.Generator().manual_seed((self.seed << 32) + block)
                drawn = torch.empty(_DRAWN_TOGETHER, dim).uniform_(-0.5 / dim, 0.5 / dim, generator=generator)
                first, last = max(self.first, start), min(self.last, start + _DRAWN_TOGETHER)
                self.in_weight[first - self.first : last - self.first] = drawn[first - start : last - start].to(
                    self.in_weight
                )

    def forward(self, center: Tensor, pos: Tensor, neg: Tensor) -> Tensor:
        """Mean loss of center (B,), pos (B,) or (B, P), neg (B, K), int32 or int64, over all processes' examples.

        Raises:
            IndexError: an index out of range.
        """
        pos = pos[:, None] if pos.dim() == 1 else pos
        for name, rows in (("center", center), ("pos", pos), ("neg", neg)):
            if rows.numel() and not 0 <= int(rows.min()) <= int(rows.max()) < self.vocab_size:
                raise IndexError(
                    f"{name}: expected indices from 0 to {self.vocab_size - 1}, got {int(rows.min())} to "
                    f"{int(rows.max())}"
                )
        in_rows, center = torch.unique(center.long(), return_inverse=True)  # (R,), (B,)
        out_rows, targets = torch.unique(torch.cat([pos.long(), neg.long()], 1), return_inverse=True)
        pos, neg = targets.split([pos.shape[1], neg.shape[1]], 1)
        in_weight, out_weight = _FetchRows.apply(self.in_weight, self.out_weight, in_rows, out_rows, self)
        own = negative_sampling_loss(in_weight, out_weight, center, pos, neg, reduction="sum")
        sums = torch.stack([own.detach().double(), own.new_tensor(len(center), dtype=torch.float64)])
        dist.all_reduce(sums, group=self.group)
        total, examples = sums[0], sums[1].clamp(min=1)
        own = own / examples.to(own.dtype)
        return own + ((total / examples).to(own.dtype) - own.detach())  # the value is the mean of all

    def distributed_weights(self) -> dict[str, Any]:
        """``in_weight`` and ``out_weight`` (V, D) as DTensors over this process's rows, without a copy.

        For ``torch.distributed.checkpoint``, which loads them into any number of processes, or ``full_tensor()``.
        """
        from torch.distributed.device_mesh import DeviceMesh
        from torch.distributed.tensor import DTensor, Shard

        kind = self.in_weight.device.type
        group = self.group or dist.group.WORLD
        mesh = DeviceMesh.from_group(group, kind)
        shape = torch.Size((self.vocab_size, self.in_weight.shape[1]))
        return {
            name: DTensor.from_local(weight.detach(), mesh, [Shard(0)], shape=shape, stride=(shape[1], 1))
            for name, weight in self.named_parameters()
        }

    def extra_repr(self) -> str:
        """The settings, for ``print(model)``."""
        return (
            f"vocab_size={self.vocab_size}, embed_dim={self.in_weight.shape[1]}, sparse_grad={self.sparse_grad}, "
            f"rows {self.first} to {self.last - 1} of {self.ranks} processes"
        )


class _FetchRows(torch.autograd.Function):
    """Rows (R, D) and (S, D) of the two tables from the processes that keep them; gradients go the other way."""

    @staticmethod
    def forward(
        ctx: Any, in_shard: Tensor, out_shard: Tensor, in_rows: Tensor, out_rows: Tensor, model: ShardedSkipGram
    ) -> tuple[Tensor, ...]:
        ctx.model = model
        ctx.shapes = in_shard.shape, out_shard.shape
        found, ctx.ways = [], []
        for shard, rows in ((in_shard, in_rows), (out_shard, out_rows)):
            asked, own, theirs = _ask(rows, model)
            found.append(_send(shard[asked], theirs, own, model.group))
            ctx.ways.append((asked, own, theirs))
        return tuple(found)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        results = []
        for grad, (asked, own, theirs), shape in zip(grads, ctx.ways, ctx.shapes, strict=True):
            values = _send(grad.contiguous(), own, theirs, ctx.model.group)
            if ctx.model.sparse_grad:
                results.append(torch.sparse_coo_tensor(asked[None], values, shape, check_invariants=False))
            else:
                results.append(values.new_zeros(shape).index_add_(0, asked, values))
        return *results, None, None, None


def _ask(rows: Tensor, model: ShardedSkipGram) -> tuple[Tensor, list[int], list[int]]:
    """Tell the owners of rows (R,), ascending, that they are wanted.

    Returns:
        The rows of this process's part that others want, one asking process after the other; how many rows this one
        wants of each, and each wants of this one.
    """
    each = -(-model.vocab_size // model.ranks)
    wanted = torch.bincount(rows // each, minlength=model.ranks)
    asked = torch.empty_like(wanted)
    dist.all_to_all_single(asked, wanted, group=model.group)
    own, theirs = wanted.tolist(), asked.tolist()
    return _send(rows, own, theirs, model.group) - model.first, own, theirs


def _send(values: Tensor, sizes: list[int], theirs: list[int], group: dist.ProcessGroup | None) -> Tensor:
    """Send ``sizes[r]`` rows to each process r; gives those that come, ``theirs[r]`` of each."""
    received = values.new_empty((sum(theirs), *values.shape[1:]))
    dist.all_to_all_single(received, values, theirs, sizes, group=group)
    return received
