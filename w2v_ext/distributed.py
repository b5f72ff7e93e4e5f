"""Several processes, each with all of the tables, that train on parts of one corpus: what torchrun starts.

The corpus is dealt out in turns: of every ``ranks * sync_every`` ids, rank r takes the r-th ``sync_every``. So the
learning rate, which goes by the place in the corpus, follows the progress of all, and every sentence has the draws that
it would have in one process. After its part of a turn each rank gives away *deltas*, what its rows have moved since the
ranks last agreed on them, and all add up everybody's (as Hogwild's threads do, only later). Rows of frequent words move
most, so they are exchanged more often than rare ones (Ji et al. 2016): words are sorted by frequency, the first 256
rows take part in every turn, the next 1,792 in every fourth, and so on. An exchange runs while the next turn is
trained.
"""

from __future__ import annotations

import contextlib
import os
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from .methods.base import Method

FIRST_TIER, TIER_GROWTH = 256, 8  # rows that are exchanged in every turn; each further tier has so many times the rows
PERIOD_GROWTH, LONGEST_PERIOD = 4, 64  # and is exchanged so many times more rarely, down to every 64th turn
UNSORTED_PERIOD = 16  # of tables whose rows are not sorted by frequency
TURNS = 16  # between two looks at the clock, the keyboard and the sums
MOST_IDS = 1 << 16  # of a rank in a turn, by default
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
    """
    if num_ranks() == 1:
        yield
        return
    backend = "gloo"
    if device != "cpu" and torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]) % torch.cuda.device_count())
        backend = "cpu:gloo,cuda:nccl"
    store, number, ranks = next(dist.rendezvous("env://", timeout=_LONG))
    store = dist.PrefixStore(_name_of_attempt(store, number, ranks), store)
    dist.init_process_group(backend, store=store, rank=number, world_size=ranks, timeout=_LONG)
    try:
        yield
    finally:
        with contextlib.suppress(RuntimeError):  # the others may be gone already
            dist.destroy_process_group()


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


@dataclass
class _Tier:
    """Rows of one table that are exchanged together."""

    rows: Tensor  # a view of the weights
    base: Tensor  # what all ranks last agreed on, float32
    period: int  # in turns
    given: Tensor | None = None  # this rank's delta that is under way,
    sum: Tensor | None = None  # where everybody's are added up,
    work: dist.Work | None = None  # and the exchange itself

    def start(self) -> int:
        self.given = self.rows.float() - self.base
        self.sum = self.given.clone()
        self.work = dist.all_reduce(self.sum, async_op=True)
        return self.sum.numel() * self.sum.element_size()

    def finish(self) -> None:
        if self.work is None:
            return
        self.work.wait()
        self.base += self.sum
        self.rows += (self.sum - self.given).to(self.rows.dtype)  # what the others have moved
        self.work = self.given = self.sum = None


def tier_bounds(rows: int) -> list[tuple[int, int, int]]:
    """The rows of a table sorted by frequency as (first, last, period in turns)."""
    bounds, first, last, period = [], 0, FIRST_TIER, 1
    while first < rows:
        if period == LONGEST_PERIOD:
            last = rows
        bounds.append((first, min(last, rows), period))
        first, last, period = last, last * TIER_GROWTH, min(period * PERIOD_GROWTH, LONGEST_PERIOD)
    return bounds


class Ranks(Method):
    """A method whose data several processes share, each with weights of its own that follow one another.

    All processes must call all methods in the same order. Memory: another float32 copy of the tables, and during an
    exchange two more of the rows that take part.

    Args:
        inner: the method, with the same weights in every process.
        sync_every: positions that a rank trains on between two exchanges; 0 finds a number.

    Attributes:
        part: positions, of all ranks, that the trainer should ask for at a time.
        bytes_given: that this rank has put into exchanges.
    """

    def __init__(self, inner: Method, sync_every: int = 0) -> None:
        self.inner, self.weights, self.length, self.device = inner, inner.weights, inner.length, inner.device
        self.sorted_tables = inner.sorted_tables
        self.ranks, self.rank = dist.get_world_size(), dist.get_rank()
        self.sync_every = sync_every or max(1024, min(MOST_IDS, self.length // (200 * self.ranks)))
        self.part = TURNS * self.ranks * self.sync_every
        self.bytes_given = 0
        self._turn = 0
        self._tiers = [
            _Tier(weight[first:last], weight[first:last].float().clone(), period)
            for name, weight in self.weights.items()
            for first, last, period in (
                tier_bounds(len(weight)) if name in self.sorted_tables else [(0, len(weight), UNSORTED_PERIOD)]
            )
        ]

    @property
    def writes(self) -> bool:
        """Whether this process writes the files."""
        return self.rank == 0

    def train(self, epoch: int, begin: int, end: int) -> tuple[float, int, int]:
        """Train on this rank's parts of ``begin`` to ``end``; gives the sums over all ranks."""
        sums = torch.zeros(3, dtype=torch.float64)
        turn = self.ranks * self.sync_every
        for start in range(begin, end, turn):
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
        for tier in self._tiers:
            tier.finish()
        for tier in self._tiers:
            if self._turn % tier.period == 0:
                self.bytes_given += tier.start()

    def settle(self) -> None:
        """Exchange everything, and wait: all ranks have the same bits afterwards."""
        for tier in self._tiers:
            tier.finish()
        for tier in self._tiers:
            self.bytes_given += tier.start()
        for tier in self._tiers:
            tier.finish()
            tier.rows.copy_(tier.base)
            tier.base.copy_(tier.rows)  # where the weights are of a shorter type
        self._turn = 0

    def follow(self, state: Any) -> Any:
        """Take over the weights of rank 0 and what it gives as its state, unless that is None; gives that state."""
        box = [state]
        dist.broadcast_object_list(box)
        if box[0] is not None:
            for tier in self._tiers:
                tier.base.copy_(tier.rows)
                dist.broadcast(tier.base, 0)
                tier.rows.copy_(tier.base)
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
