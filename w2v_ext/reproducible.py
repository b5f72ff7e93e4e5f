"""Training whose result does not depend on how many threads or processes do the work: the same seed, the same bits.

The work is always that of P *workers*, however many threads and ranks carry them. Each worker has tables of its own and
trains by itself, as one thread does, which is reproducible. Of every ``P * sync_every`` ids worker p takes the p-th
``sync_every``, a *turn*. After a turn the rows of frequent words, and after more turns those of rarer ones, are brought
together: what each worker has moved its rows by is added up along one binary tree over the workers,
((0 + 1) + (2 + 3)) + ..., so in one order, and all workers go on from there. A rank carries a whole branch of that
tree, and the ranks are its upper part. Every 256th turn and the end of an epoch leave all workers with equal tables:
checkpoints are written there, and so change nothing.

A sum goes too far where the workers agree. Each of them has brought a row nearer to the same place by a share q of the
way; one after the other they would have brought it nearer by ``1 - (1 - q) ** P``, and not by ``P q``, which is beyond
that place: plain sums of 4 workers diverge. So the sum is taken times ``(1 - (1 - q) ** P) / (P q)``, where
``q = 1 - exp(-PULL * lr * n)`` for a row that a worker has moved n times, which follows from how often its word occurs:
rare rows are added up, and the most frequent nearly averaged. Measured with 4 workers in one epoch over 17 M words
(loss without workers 2.569), with 2,048 ids to a worker's turn: PULL = 0.1 gives 2.692 and 0.3 gives 2.569; with 4,096
ids 0.3 gives 2.575 and 1 gives 2.587, and poorer vectors.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor, wait
from functools import partial
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor

from . import ops
from .methods import CorpusMethod, Method, TrainingError
from .tables import padded_weight

TURN_IDS = 8192  # of all workers in a turn, by default, but at most a 200th of the corpus
TIERS = ((0, 256, 1), (256, 2048, 4), (2048, 16_384, 16), (16_384, 1 << 62, 256))  # rows by frequency; period in turns
UNSORTED_PERIOD = 16  # of tables whose rows are not sorted by frequency
ALL = 256  # turns after which all rows have been brought together
PULL = 0.3
_MERGED_FLOATS = 1 << 16  # of a worker, that a thread merges at a time: with the other workers', what L2 holds
_SENT_FLOATS = 1 << 23  # that a rank gives to the others at a time
_Rows = tuple[str, int, int]  # of a table: its name, first and last


class Workers(Method):
    """A method in P copies that always do the same, whatever the number of threads and ranks.

    Memory of a rank: the tables once for each of its workers, and once more.

    Args:
        inner: the method, its weights as all workers begin with; one that learns from the ids.
        workers: P, a power of two, and a multiple of the number of ranks.
        threads: how many work at the same time in this process.
        sync_every: ids that a worker trains on in a turn; 0 finds a number.

    Attributes:
        weights: of the first worker of this rank; equal for all after each ``part``.
        part: positions, of all workers, that the trainer should ask for at a time.
        bytes_given: that this rank has given to each of the others.

    Raises:
        ValueError: a number of workers that does not fit the ranks, or a method that cannot be copied.
        TrainingError: ranks that run different kernels.
    """

    def __init__(self, inner: Method, workers: int, threads: int, sync_every: int = 0) -> None:
        joined = dist.is_available() and dist.is_initialized()
        self.ranks, self.rank = (dist.get_world_size(), dist.get_rank()) if joined else (1, 0)
        if workers % self.ranks:
            raise ValueError(f"reproducible: expected a multiple of the {self.ranks} processes, got {workers}")
        if not isinstance(inner, CorpusMethod):
            raise ValueError("lock: expected nothing beside reproducible, got rows to lock")
        if self.ranks > 1:
            _same_everywhere(ops.cpu_kernels())
        self.workers, self.own_workers = workers, workers // self.ranks
        self.threads = min(threads, self.own_workers)
        self.length, self.sorted_tables, self.device = inner.length, inner.sorted_tables, inner.device
        self.sync_every = sync_every or max(64, min(TURN_IDS, self.length // 200) // workers)
        self.part = ALL * workers * self.sync_every
        self.bytes_given = 0
        self._turn, self._rate = 0, 0.0  # of the epoch, from 1; 0 where all workers agree. And its learning rate
        self._steps = {name: steps * self.sync_every for name, steps in inner.steps_per_id().items()}
        self._gains: dict[tuple[str, int, int, int], Tensor] = {}
        self._tables: dict[str, Tensor] = {}  # (workers of this rank, V, D and what pads it)
        self._base: dict[str, Tensor] = {}  # what all workers last agreed on
        self._gain: dict[str, Tensor] = {}  # (V, 1) times what a sum is to be taken
        for name, weight in inner.weights.items():
            rows, padded = len(weight), weight.stride(0)
            self._tables[name] = padded_weight(self.own_workers * rows, padded).view(self.own_workers, rows, padded)
            self._tables[name][:, :, : weight.shape[1]] = weight
            self._base[name] = self._tables[name][0].clone()
            self._gain[name] = torch.ones(rows, 1)
        dims = {name: weight.shape[1] for name, weight in inner.weights.items()}
        self._methods = [
            inner.twin({name: table[w, :, : dims[name]] for name, table in self._tables.items()})
            for w in range(self.own_workers)
        ]
        self.inner = self._methods[0]
        self.weights = self.inner.weights
        self._pool: ThreadPoolExecutor | None = None
        self._tiers = [
            (period, (name, first, min(last, table.shape[1])))
            for name, table in self._tables.items()
            for first, last, period in (TIERS if name in self.sorted_tables else [(0, table.shape[1], UNSORTED_PERIOD)])
            if first < table.shape[1]
        ]

    @property
    def writes(self) -> bool:
        """Whether this process writes the files."""
        return self.rank == 0

    def train(self, epoch: int, begin: int, end: int) -> tuple[float, int, int]:
        """Train on whole turns from ``begin`` on; gives the sums over all workers, which are rounded once."""
        turn = self.workers * self.sync_every
        if begin % turn:
            raise ValueError(f"begin: expected a multiple of {turn}, the positions of a turn, got {begin}")
        pool, sums = self._threads(), []
        config = self.inner.config
        for self._turn, start in enumerate(range(begin, end, turn), begin // turn + 1):
            if (self._turn - 1) % ALL == 0 or not self._rate:
                self._rate = config.lr * max(1 - (epoch + start / self.length) / config.epochs, 1e-4)
                self._gains.clear()
            running = []
            for w, method in enumerate(self._methods):
                first = min(start + (self.rank * self.own_workers + w) * self.sync_every, end)
                running.append(pool.submit(method.train, epoch, first, min(first + self.sync_every, end)))
            wait(running)
            sums += [work.result() for work in running]
            self._merge((rows, period) for period, rows in self._tiers if self._turn % period == 0)
        if self.ranks > 1:
            sums = _gather(torch.tensor(sums, dtype=torch.float64)).flatten(0, 1).tolist()
        losses, pairs, words = zip(*sums, strict=True) if sums else ((), (), ())
        return math.fsum(losses), int(sum(pairs)), int(sum(words))

    def settle(self) -> None:
        """Bring all rows together; afterwards all workers have the same bits."""
        turns = ((rows, self._turn % period) for period, rows in self._tiers)
        self._merge((rows, number) for rows, number in turns if number)
        self._turn, self._rate = 0, 0.0

    def _merge(self, due: Iterable[tuple[_Rows, int]]) -> None:
        """Bring rows together that have been trained for so many turns."""
        if self.workers == 1:
            return
        rows = []
        for of_tier, turns in due:
            rows.append(of_tier)
            self._find_gains(*of_tier, turns)
        if not rows:
            return
        if self.ranks == 1:
            self._in_threads(self._merge_here, rows, _MERGED_FLOATS)
            return
        self._in_threads(self._add_up, rows, _MERGED_FLOATS)
        for piece in self._pieces(rows, _SENT_FLOATS):
            self._exchange(*piece)
        self._in_threads(self._spread, rows, _MERGED_FLOATS)

    def _find_gains(self, name: str, first: int, last: int, turns: int) -> None:
        """Times what the sums are to be taken. NumPy does it in one thread, and so in the same way everywhere."""
        if (name, first, last, turns) not in self._gains:
            pull = np.maximum(self._steps[name][first:last] * (turns * PULL * self._rate), 1e-9)
            gains = np.expm1(-pull * self.workers) / (self.workers * np.expm1(-pull))
            self._gains[name, first, last, turns] = torch.from_numpy(gains.astype(np.float32))
        self._gain[name][first:last] = self._gains[name, first, last, turns][:, None]

    def _in_threads(self, do: Callable[[str, int, int], object], rows: list[_Rows], floats: int) -> None:
        pieces = list(self._pieces(rows, floats))
        if len(pieces) == 1:
            do(*pieces[0])
        else:
            list(self._threads().map(lambda piece: do(*piece), pieces))

    def _pieces(self, rows: list[_Rows], floats: int) -> Iterable[_Rows]:
        for name, first, last in rows:
            step = max(1, floats // self._base[name].shape[1])
            for start in range(first, last, step):
                yield name, start, min(start + step, last)

    def _add_up(self, name: str, first: int, last: int) -> Tensor:
        """What this rank's workers have moved rows by, in place of the rows of its first."""
        moved = self._tables[name][:, first:last].sub_(self._base[name][first:last])
        return add_in_order_(moved)

    def _exchange(self, name: str, first: int, last: int) -> None:
        """Put in place of that the same of all ranks."""
        moved = self._tables[name][0, first:last]
        self.bytes_given += moved.numel() * moved.element_size()
        moved.copy_(add_in_order_(_gather(moved)))

    def _spread(self, name: str, first: int, last: int) -> None:
        """Let all workers go on from the sum."""
        moved = self._tables[name][0, first:last].mul_(self._gain[name][first:last])
        base = self._base[name][first:last].add_(moved)
        self._tables[name][:, first:last] = base

    def _merge_here(self, name: str, first: int, last: int) -> None:
        self._add_up(name, first, last)
        self._spread(name, first, last)

    def _threads(self) -> ThreadPoolExecutor:
        """The threads that work, each with PyTorch's own threads off: sums that those share depend on their number."""
        if self._pool is None:
            usual, met = torch.get_num_threads(), threading.Barrier(self.threads)
            self._pool = ThreadPoolExecutor(self.threads, "w2v_ext", partial(torch.set_num_threads, 1))
            wait([self._pool.submit(met.wait) for _ in range(self.threads)])  # each has begun,
            torch.set_num_threads(usual)  # and what they have set is not for threads to come
        return self._pool

    def follow(self, state: Any) -> Any:
        """Take over the weights of rank 0 and what it gives as its state, unless that is None; gives that state."""
        if self.ranks > 1:
            box = [state]
            dist.broadcast_object_list(box)
            state = box[0]
        if state is not None:
            for name, base in self._base.items():
                base.copy_(self._tables[name][0])
                if self.ranks > 1:
                    dist.broadcast(base, 0)
                self._tables[name][:] = base
            self._turn, self._rate = 0, 0.0
        return state

    def agree(self, *wishes: bool) -> tuple[bool, ...]:
        """Each wish that any rank has, for all ranks."""
        if self.ranks == 1:
            return wishes
        asked = _gather(torch.tensor([int(wish) for wish in wishes], dtype=torch.int32))
        return tuple(bool(wish) for wish in asked.amax(0).tolist())

    def word_vectors(self) -> Tensor:
        """(V, D) float32 on the CPU, as the first worker of this rank has them; after a ``part`` all have the same."""
        return self.inner.word_vectors()

    def saved_tensors(self) -> dict[str, Tensor]:
        """What the model directory holds."""
        return self.inner.saved_tensors()

    @property
    def where(self) -> str:
        """What it trains on, in words: ``4 workers on 2 threads, avx512``."""
        ranks = f"{self.ranks} ranks of " if self.ranks > 1 else ""
        return f"{ranks}{self.own_workers} workers on {self.threads} threads, {ops.cpu_kernels()}"

    def metrics(self) -> dict:
        """Device, workers and ranks, as JSON."""
        facts = {"threads": self.threads, "workers": self.workers, "sync_every": self.sync_every, "ranks": self.ranks}
        return {**self.inner.metrics(), **facts, "exchanged_bytes_per_rank": self.bytes_given}


def add_in_order_(parts: Tensor) -> Tensor:
    """Add up (P, ...) along a binary tree, ((0 + 1) + (2 + 3)) + ..., in place; gives ``parts[0]``, the sum.

    Only whole tensors are added, number by number, so threads have no say in the order. P is a power of two.
    """
    while len(parts) > 1:
        parts[0::2] += parts[1::2]
        parts = parts[0::2]
    return parts[0]


def _gather(own: Tensor) -> Tensor:
    """(ranks, ...): the same tensor of every rank. Moves bits, and adds nothing."""
    own = own.contiguous()
    everybodys = torch.empty(dist.get_world_size(), *own.shape, dtype=own.dtype)
    dist.all_gather(list(everybodys.unbind(0)), own)
    return everybodys


def _same_everywhere(kernels: str) -> None:
    names: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(names, kernels)
    if len(set(names)) > 1:
        raise TrainingError(
            f"reproducible: expected the same kernels on all ranks, got {', '.join(names)}; set W2V_EXT_CPU to one "
            "that all machines have"
        )
