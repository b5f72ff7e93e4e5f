"""What ranks that train the same rows exchange: how far each has moved them since all agreed on them.

A rank *gives* its moves and, once everybody's are there, *takes* them: the base moves by their sum, and its own rows by
what the others have moved (they have moved on meanwhile). What bfloat16 rounds off a move stays in the rows, and goes
with the next one.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from . import ops
from .methods.base import TrainingError

_LOOK_SECONDS = 0.05  # between two looks at who is still there, while one waits


def give_rows_(moves: Tensor, rows: Tensor, base: Tensor, own: int) -> None:
    """Note in ``moves[own]`` how far rows are from their base, in one pass over them, on the CPU.

    Args:
        moves: (R, N, D) bfloat16, the numbers of each rank contiguous; changed in place.
        rows: (N, D) float32 with contiguous rows.
        base: (N, D) float32, contiguous.
        own: this rank, from 0 to R - 1.

    Equivalent in PyTorch: ``moves[own] = rows - base``.

    Raises:
        ValueError: a shape, dtype, stride or number is not as above.
    """
    ops._call(torch.ops.w2v_ext.give_rows_, moves, rows, base, own)


def take_rows_(rows: Tensor, base: Tensor, moves: Tensor, own: int, overshoot: float) -> None:
    """Move the base by everybody's moves, and rows by the others', in one pass over them, on the CPU.

    Args:
        rows: (N, D) float32 with contiguous rows; changed in place.
        base: (N, D) float32, contiguous; changed in place.
        moves: (R, N, D) bfloat16, the numbers of each rank contiguous.
        own: this rank, from 0 to R - 1.
        overshoot: c >= 0; a row's sum S of the moves d is shortened to S min(1, c sum |d|^2 / |S|^2); 0: never.

    Equivalent in PyTorch, where overshoot is 0::

        base += moves.float().sum(0)
        rows += moves.float().sum(0) - moves[own]

    Raises:
        ValueError: a shape, dtype, stride or number is not as above.
    """
    ops._call(torch.ops.w2v_ext.take_rows_, rows, base, moves, own, overshoot)


class Signals:
    """What ranks with memory in common tell each other: how many exchanges each has begun.

    Args:
        counts: (R,) int64 zeros on the CPU, the same memory in all ranks.
        own: this rank, from 0 to R - 1.
        gone: gives the ranks whose processes have ended.
    """

    def __init__(self, counts: Tensor, own: int, gone: Callable[[], list[int]]) -> None:
        self.counts, self.own, self._gone = counts, own, gone

    def post(self, count: int) -> None:
        """Tell all that this rank has begun so many; they then see what it had written before."""
        ops._call(torch.ops.w2v_ext.post_count_, self.counts, self.own, count)

    def wait(self, count: int) -> None:
        """Wait until all have begun so many; signals are handled.

        Raises:
            TrainingError: a rank that has not begun as many has ended. Waiting on, this process would heed no SIGTERM,
                and torchrun would wait 30 s before it kills it and starts all anew.
        """
        while not ops._call(torch.ops.w2v_ext.counts_reach, self.counts, count, _LOOK_SECONDS):
            for other in self._gone():
                if (begun := self.counts[other].item()) < count:  # asked last: it may have begun, and gone in peace
                    raise TrainingError(
                        f"rank {other} is gone: its process ended after {begun} exchanges, {count} have begun; go "
                        "on with --resume auto (torchrun --max-restarts does so by itself)"
                    )


@dataclass
class GatheredRows:
    """Rows of one table whose moves everybody sends to everybody, as bfloat16."""

    rows: Tensor  # (N, D), a view of the weights
    base: Tensor  # (N, D) float32, what all ranks last agreed on
    moves: Tensor  # (R, N, D) bfloat16, everybody's
    own: int  # which of them are this rank's

    def begin(self) -> None:
        """Note what this rank has moved."""
        if self._fused:
            give_rows_(self.moves, self.rows, self.base, self.own)
        else:
            self.moves[self.own].copy_(self.rows - self.base)

    def end(self, overshoot: float) -> None:
        """Move by what everybody has given; by less, where that points the same way and would go too far."""
        if self._fused:
            take_rows_(self.rows, self.base, self.moves, self.own, overshoot)
            return
        move = self.moves.float().sum(0)
        if overshoot:
            _shorten(move, squared_lengths(self.moves).sum(0), overshoot)
        self.base += move
        self.rows += move - self.moves[self.own]

    @property
    def _fused(self) -> bool:
        return self.rows.device.type == "cpu" and self.rows.dtype == torch.float32


@dataclass
class SummedRows:
    """Rows of one table whose moves are added up on their way, in float32; few enough to stay in a core's cache."""

    rows: Tensor  # (N, D), a view of the weights
    base: Tensor  # (N, D) float32, what all ranks last agreed on
    given: Tensor  # (N, D) float32, this rank's move that is under way
    move: Tensor  # (N, D) float32, and then the sum of everybody's
    squares: Tensor  # (N,) float32, the squared lengths of the moves, and then their sums

    def begin(self) -> None:
        """Note what this rank has moved."""
        self.given.copy_(self.rows - self.base)
        self.move.copy_(self.given)
        self.squares.copy_(squared_lengths(self.given))

    def end(self, overshoot: float) -> None:
        """Move by what everybody has given; by less, where that points the same way and would go too far."""
        if overshoot:
            _shorten(self.move, self.squares, overshoot)
        self.base += self.move
        self.rows += self.move - self.given


def squared_lengths(moves: Tensor) -> Tensor:
    """(..., D): the squared length of each row, in float32."""
    return torch.linalg.vector_norm(moves, dim=-1, dtype=torch.float32).square_()


def _shorten(move: Tensor, squares: Tensor, overshoot: float) -> None:
    move *= (overshoot * squares / squared_lengths(move).clamp_(min=1e-30)).clamp_(max=1)[:, None]
