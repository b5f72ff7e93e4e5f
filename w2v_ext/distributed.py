"""Several processes, each with all of the tables, that train on parts of one corpus: what torchrun starts.

The corpus is dealt out in turns: of every ``ranks * sync_every`` ids, rank r takes the r-th ``sync_every``. So the
learning rate, which goes by the place in the corpus, follows the progress of all, and every sentence has the draws that
it would have in one process. After its part of a turn each rank gives away *deltas*, what its rows have moved since the
ranks last agreed on them, and all add up everybody's (as Hogwild's threads do, only later). The row of a frequent word
is near its balance after a part of a turn, in every rank: four such moves added up would throw it four times as far,
and the vectors diverge. So what points the same way is bounded, in the manner of Adasum (Maleki et al. 2021). Rows of
frequent words move most, so they are exchanged more often than rare ones (Ji et al. 2016): words are sorted by
frequency, the first 256 rows take part in every turn, the next 1,792 in every fourth, and so on. An exchange runs while
the next turn is trained.
"""

from __future__ import annotations

import contextlib
import math
import os
import time
import uuid
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from .exchange import GatheredRows, Signals, SummedRows
from .footprint import REMEDY
from .methods.base import Method, TrainingError
from .shared_memory import shared_by_all_ranks

FIRST_TIER, TIER_GROWTH = 256, 8  # rows that are exchanged in every turn; each further tier has so many times the rows
PERIOD_GROWTH, LONGEST_PERIOD = 4, 64  # and is exchanged so many times more rarely, down to every 64th turn
UNSORTED_PERIOD = 16  # of tables whose rows are not sorted by frequency
TURNS = 16  # between two looks at the clock, the keyboard and the sums
MOST_IDS = 1 << 16  # of a rank in a turn, by default
PIECE_ROWS = 512  # rows that are worked on together on a CPU: four arrays of them fit a core's L2
CUDA_PIECE_FLOATS = 1 << 24  # of the rows that are worked on together on a GPU: some five times as much for a moment
MOST_FLOATS = 1 << 28  # in one exchange
OVERSHOOT = 1.0  # how far a row goes at most that all ranks move the same way, in moves of one of them
GATHERED = 4  # ranks up to which everybody sends its bfloat16 deltas to everybody; more add them up in a ring
_LONG = timedelta(hours=2)  # a rank that has died is torchrun's business; one that reads a corpus takes its time


def num_ranks() -> int:
    """How many processes torchrun started for this run; 1 without torchrun."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def rank() -> int:
    """The number of this process among them, from 0."""
    return int(os.environ.get("RANK", "0"))


@contextlib.contextmanager
def process_group(device: str = "cpu") -> Iterator[None]:
    """Join the processes that torchrun started (gloo, and NCCL where each has a GPU), and leave them at the end.

    Does nothing without torchrun.

    Args:
        device: ``cpu``, ``cuda`` or ``auto``, as in :class:`w2v_ext.TrainConfig`.

    Raises:
        ValueError: two processes would have the same GPU.
    """
    if num_ranks() == 1:
        yield
        return
    store, number, ranks = next(dist.rendezvous("env://", timeout=_LONG))
    store = dist.PrefixStore(_name_of_attempt(store, number, ranks), store)
    backend = "gloo"
    if device != "cpu" and torch.cuda.is_available():
        _take_gpu(store, number, ranks)
        backend = "cpu:gloo,cuda:nccl"
    dist.init_process_group(backend, store=store, rank=number, world_size=ranks, timeout=_LONG)
    try:
        yield
    finally:
        with contextlib.suppress(RuntimeError):  # the others may be gone already
            dist.destroy_process_group()


def _take_gpu(store: dist.Store, number: int, ranks: int) -> None:
    """Choose this process' GPU; an error in all processes where two have the same, which NCCL would refuse later."""
    count = torch.cuda.device_count()
    index = int(os.environ.get("LOCAL_RANK", "0")) % count  # where each process is shown one of its own, that is 0
    name = f"{torch.cuda.get_device_properties(index).uuid} {os.environ.get('CUDA_VISIBLE_DEVICES')}"
    store.set(f"w2v_ext/gpu/{number}", name)
    first: dict[bytes, int] = {}
    for other in range(ranks):
        before = first.setdefault(store.get(f"w2v_ext/gpu/{other}"), other)
        if before != other:
            raise ValueError(
                f"device: expected at most one process for each GPU ({count} visible on this machine), got ranks "
                f"{before} and {other} on the same; start fewer with --nproc-per-node, or use --device cpu"
            )
    torch.cuda.set_device(index)


def _name_of_attempt(store: dist.Store, number: int, ranks: int) -> str:
    """A name that the processes of this attempt share, and those of no other.

    torchrun keeps one store for all its attempts, and gloo would find in it the addresses of processes that have died.
    Its restart count is no name: after a failure on one machine only that machine's agent counts. So rank 0 makes one
    up, and tells each rank that says hello; what it finds of earlier attempts it greets in vain.
    """
    own = uuid.uuid4().hex
    if number != 0:
        store.set(f"w2v_ext/hello/{number}", own)
        name = store.get(f"w2v_ext/welcome/{own}").decode()
        store.set(f"w2v_ext/joined/{name}/{number}", "")
        return name
    missing = set(range(1, ranks))
    while missing:
        for other in sorted(missing):
            if store.check([f"w2v_ext/joined/{own}/{other}"]):
                missing.remove(other)
            elif store.check([f"w2v_ext/hello/{other}"]):
                store.set(f"w2v_ext/welcome/{store.get(f'w2v_ext/hello/{other}').decode()}", own)
        time.sleep(0.01)
    return own


@contextlib.contextmanager
def first_of_each_machine() -> Iterator[None]:
    """Let one process of each machine do what is inside before the others do: it makes what they then find made."""
    joined = dist.is_available() and dist.is_initialized()
    first = int(os.environ.get("LOCAL_RANK", "0")) == 0
    if joined and not first:
        dist.barrier()
    yield
    if joined and first:
        dist.barrier()


def tier_bounds(rows: int) -> list[tuple[int, int, int]]:
    """The rows of a table sorted by frequency as (first, last, period in turns)."""
    bounds, first, last, period = [], 0, FIRST_TIER, 1
    while first < rows:
        if period == LONGEST_PERIOD:
            last = rows
        bounds.append((first, min(last, rows), period))
        first, last, period = last, last * TIER_GROWTH, min(period * PERIOD_GROWTH, LONGEST_PERIOD)
    return bounds


def piece_rows(device: str, gathers: bool, dim: int) -> int:
    """How many rows are worked on together: more would take more memory for what is between, or leave the cache."""
    if device == "cpu":
        return 1 << 40 if gathers else PIECE_ROWS  # in one pass, where it is fused, there is nothing between
    return max(1, CUDA_PIECE_FLOATS // dim)


def turns_of_epoch(ranks: int) -> int:
    """Turns that an epoch has by default: with more ranks a row is staler at the end of a turn.

    Four ranks lose .02 of WS353 on the IMDB corpus with 200 turns, .01 with 530 (docs/distributed.md).
    """
    return 200 if ranks <= 2 else 530


class Ranks(Method):
    """A method whose data several processes share, each with weights of its own that follow one another.

    All processes must call all methods in the same order. Memory: another float32 copy of the tables, and for exchanges
    one in bfloat16 for each rank (two, which all have in common, on one machine); beyond 4 ranks two in float32.

    Args:
        inner: the method, with the same weights in every process.
        sync_every: positions that a rank trains on between two exchanges; 0 finds a number.
        overshoot: c; of more than two ranks, a row moves by the sum S of the deltas d, or by less:
            S min(1, c sum |d|^2 / |S|^2). So deltas that have nothing to do with one another add up, and where all are
            the same the row goes c times as far as in one. Infinity: always by S.

    Attributes:
        part: positions, of all ranks, that the trainer should ask for at a time.
        bytes_given: that this rank has put into exchanges.

    Raises:
        TrainingError: there is not as much memory.
    """

    def __init__(self, inner: Method, sync_every: int = 0, overshoot: float = OVERSHOOT) -> None:
        self.inner, self.weights, self.length, self.device = inner, inner.weights, inner.length, inner.device
        self.sorted_tables = inner.sorted_tables
        self.ranks, self.rank = dist.get_world_size(), dist.get_rank()
        turns = turns_of_epoch(self.ranks)
        self.sync_every = sync_every or max(1024, min(MOST_IDS, self.length // (turns * self.ranks)))
        self.part = TURNS * self.ranks * self.sync_every
        self.bytes_given = 0
        bounded = self.ranks > 2 and math.isfinite(overshoot)  # two throw a row as far beyond its balance at most
        self._overshoot = overshoot if bounded else 0
        self._turn = 0
        try:
            self._lay_out()
        except RuntimeError as error:
            if not isinstance(error, torch.OutOfMemoryError) and "allocate memory" not in str(error):
                raise
            reason = str(error).rpartition("DefaultCPUAllocator: ")[2].partition(". ")[0]
            raise TrainingError(
                f"device: out of memory on {self.device} for what {self.ranks} processes exchange ({reason}); "
                f"{REMEDY}, or start fewer processes"
            ) from error

    def _lay_out(self) -> None:
        """Cut the tables into tiers and pieces: those of short periods first, so that an exchange is all up to one."""
        tiers = [
            (period, weight[first:last])
            for name, weight in self.weights.items()
            for first, last, period in (
                tier_bounds(len(weight)) if name in self.sorted_tables else [(0, len(weight), UNSORTED_PERIOD)]
            )
        ]
        tiers.sort(key=lambda tier: tier[0])
        gathers = self.ranks <= GATHERED
        pieces = [
            (period, rows)
            for period, tier in tiers
            for rows in tier.split(piece_rows(self.device.type, gathers, tier.shape[1]))
        ]
        # Where the sums of moves travel, those of their squares travel with them.
        floats = sum(rows.numel() + (0 if gathers else len(rows)) for _, rows in pieces)
        self._moves = buffers = self._buffers(floats, gathers)
        self._layouts: list[list[GatheredRows | SummedRows]] = [[] for _ in buffers]
        self._ends: dict[int, tuple[int, int]] = {}  # of each period: how many pieces and floats up to there
        at = 0
        for period, rows in pieces:
            base, end = rows.float().clone(memory_format=torch.contiguous_format), at + rows.numel()
            for layout, buffer in zip(self._layouts, buffers, strict=True):
                moves = buffer[:, at:end].unflatten(1, rows.shape)
                if gathers:
                    layout.append(GatheredRows(rows, base, moves, self.rank))
                else:
                    squares = buffer[0, end : end + len(rows)]
                    layout.append(SummedRows(rows, base, torch.empty_like(base), moves[0], squares))
            at = end if gathers else end + len(rows)
            self._ends[period] = len(self._layouts[0]), at
        self._begun = 0
        self._under_way: list[GatheredRows | SummedRows] = []
        self._works: list[dist.Work] = []

    def _buffers(self, floats: int, gathers: bool) -> list[Tensor]:
        """Where moves lie: (R, floats) bfloat16, everybody's, or (1, floats) float32, their sum.

        Two in turns where all ranks have them in common: there nobody has to copy what the others have moved, and while
        one is read, the other is written.
        """
        self._signals: Signals | None = None
        if not gathers:
            return [torch.empty(1, floats, dtype=torch.float32, device=self.device)]
        shape = (2, self.ranks, floats)
        shared = shared_by_all_ranks(8 * self.ranks + 2 * math.prod(shape)) if self.device.type == "cpu" else None
        if shared is None:
            return [torch.empty(self.ranks, floats, dtype=torch.bfloat16, device=self.device)]
        counts, moves = shared.bytes.split([8 * self.ranks, 2 * math.prod(shape)])
        self._signals = Signals(counts.view(torch.int64), self.rank, shared.gone)
        return list(moves.view(torch.bfloat16).view(shape))

    @property
    def writes(self) -> bool:
        """Whether this process writes the files."""
        return self.rank == 0

    def train(self, epoch: int, begin: int, end: int) -> tuple[float, int, int]:
        """Train on this rank's parts of ``begin`` to ``end``; gives the sums over all ranks."""
        sums = torch.zeros(3, dtype=torch.float64)
        for start in range(begin, end, self.ranks * self.sync_every):
            first = min(start + self.rank * self.sync_every, end)
            last = min(first + self.sync_every, end)
            if first < last:
                sums += torch.tensor(self.inner.train(epoch, first, last), dtype=torch.float64)
            self._exchange()
        dist.all_reduce(sums)
        loss, pairs, words = sums.tolist()
        return loss, int(pairs), int(words)

    def _exchange(self) -> None:
        self._turn += 1
        self._finish()
        period = max((period for period in self._ends if self._turn % period == 0), default=0)
        if period:
            self._start(period)

    def _start(self, period: int) -> None:
        """Begin to exchange all rows of this period and of shorter ones."""
        pieces, floats = self._ends[period]
        buffer = self._moves[self._begun % len(self._moves)]
        self._under_way = self._layouts[self._begun % len(self._layouts)][:pieces]
        self._begun += 1
        for piece in self._under_way:
            piece.begin()
        self.bytes_given += buffer.element_size() * floats
        if self._signals is not None:
            self._signals.post(self._begun)
            return
        for start in range(0, floats, MOST_FLOATS):
            place = slice(start, min(start + MOST_FLOATS, floats))
            if self.ranks <= GATHERED:
                self._works += self._to_each_other(buffer[:, place])
            else:
                self._works.append(dist.all_reduce(buffer[0, place], async_op=True))

    def _to_each_other(self, parts: Tensor) -> list[dist.Work]:
        """Begin to send this rank's row of ``parts`` (R, ...) to each other one, and to receive theirs."""
        others = [rank for rank in range(self.ranks) if rank != self.rank]
        receives = [dist.P2POp(dist.irecv, parts[rank], rank) for rank in others]
        return dist.batch_isend_irecv(receives + [dist.P2POp(dist.isend, parts[self.rank], rank) for rank in others])

    def _finish(self) -> None:
        """Take in what is under way."""
        if self._signals is not None:
            self._signals.wait(self._begun)
        for work in self._works:
            work.wait()
        for piece in self._under_way:
            piece.end(self._overshoot)
        self._works, self._under_way = [], []

    def settle(self) -> None:
        """Exchange everything, and wait: all ranks have the same bits afterwards."""
        self._finish()
        self._start(max(self._ends))
        self._finish()
        for piece in self._layouts[0]:
            piece.rows.copy_(piece.base)
            piece.base.copy_(piece.rows)  # where the weights are of a shorter type
        self._turn = 0

    def follow(self, state: Any) -> Any:
        """Take over the weights of rank 0 and what it gives as its state, unless that is None; gives that state."""
        box = [state]
        dist.broadcast_object_list(box)
        if box[0] is not None:
            for piece in self._layouts[0]:
                piece.base.copy_(piece.rows)
                dist.broadcast(piece.base, 0)
                piece.rows.copy_(piece.base)
            self._turn = 0
        return box[0]

    def agree(self, *wishes: bool) -> tuple[bool, ...]:
        """Each wish that any rank has, for all ranks."""
        asked = torch.tensor([int(wish) for wish in wishes], dtype=torch.int32)
        dist.all_reduce(asked, dist.ReduceOp.MAX)
        return tuple(bool(wish) for wish in asked.tolist())

    def word_vectors(self) -> Tensor:
        """(V, D) float32 on the CPU, as this rank has them; after :meth:`settle` all have the same."""
        return self.inner.word_vectors()

    def saved_tensors(self) -> dict[str, Tensor]:
        """What the model directory holds."""
        return self.inner.saved_tensors()

    @property
    def where(self) -> str:
        """What it trains on, in words: ``2 ranks of 1 threads, avx512``."""
        return f"{self.ranks} ranks of {self.inner.where}"

    def metrics(self) -> dict:
        """Device and ranks, as JSON."""
        return {
            **self.inner.metrics(),
            "ranks": self.ranks,
            "sync_every": self.sync_every,
            "exchanged_bytes_per_rank": self.bytes_given,
        }
