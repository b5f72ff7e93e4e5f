"""GloVe (Pennington et al. 2014): vectors whose products are the logarithms of co-occurrence counts.

The cells of the counts' lower half are cut into blocks of a tile of words by a tile of words, so small that the tables
of both tiles stay in a core's L2 cache while a block is trained on: each row is then fetched once per block, not once
per nonzero. An epoch is a tournament: in every round each tile meets another one, so that the blocks of a round share
no word and threads train them side by side without ever meeting. The result is the same for any number of threads.
Who meets whom when is drawn anew for every epoch; within a block the cells are shuffled, once.
"""

from __future__ import annotations

import os
import time
import warnings
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from .. import _text, ops
from ..config import TrainConfig
from ..cooccurrence import Cooccurrences, count_cooccurrences
from ..corpus import Corpus
from ..files import cache_directory
from ..tables import padded_weight
from .base import Method, TrainingError

_TILE_BYTES = 1 << 19  # of the tables of one tile; a block has two
_TILE_CELLS = 1 << 23  # of a row of blocks, which is held in memory while it is shuffled
_LEAST_TILES = 64  # where there are words enough, so that a round has work for many threads
_CELL_BYTES = 16


class Glove(Method):
    """GloVe by AdaGrad on the CPU; ``train_glove_`` does the work.

    A position is a cell of the lower half of the counts, which stands for two nonzeros, or one on the diagonal.

    Args:
        corpus: what to count, or with ``cooccurrences`` only the vocabulary that it was counted with.
        config: ``window``, ``x_max``, ``alpha``, ``count_memory`` and ``vectors`` are GloVe's.
        cooccurrences: counts made before; default: counted here, with ``config.window``.

    Attributes:
        weights: ``in_weight`` and ``out_weight`` (V, D), the paper's w and w~; ``in_squares`` and ``out_squares``
            (V, D), AdaGrad's sums of squared steps; ``biases`` (V, 4): b, its sum, b~, its sum. float32.
        nonzeros: of the symmetric matrix.

    Raises:
        TrainingError: no two words stand near each other.
    """

    constant_lr = True

    def __init__(self, corpus: Corpus, config: TrainConfig, cooccurrences: Cooccurrences | None = None) -> None:
        self.config, self.num_tokens = config, corpus.num_tokens
        folder = cache_directory(config.cache_dir, "counts")
        folder.mkdir(parents=True, exist_ok=True)
        started = time.perf_counter()
        counts = cooccurrences or count_cooccurrences(
            corpus,
            window=config.window,
            memory=int(config.count_memory * 2**30),
            threads=config.num_threads,
            directory=folder,
        )
        self.count_seconds = time.perf_counter() - started
        try:
            self.nonzeros, self.length = counts.nnz, counts.num_cells
            if not self.length:
                raise TrainingError("corpus: expected words that stand near each other, got sentences of one word each")
            self._arrange(counts, len(corpus.vocab), folder)
        finally:
            if cooccurrences is None:
                counts.close()
        self.arrange_seconds = time.perf_counter() - started - self.count_seconds
        self._make_tables(len(corpus.vocab), corpus.vocab.num_specials)
        self._plan: tuple[int, Tensor, Tensor] | None = None
        self._seconds, self._trained = 0.0, 0

    def _arrange(self, counts: Cooccurrences, vocab_size: int, folder: Path) -> None:
        config = self.config
        tiles = tile_borders(counts.row_starts(), config.dim)
        path = folder / f"cells-{os.getpid()}-{id(self):x}"
        try:
            sizes = _text.arrange_cells(
                counts.parts,
                tiles=tiles,
                x_max=config.x_max,
                alpha=config.alpha,
                seed=config.seed,
                threads=config.num_threads,
                path=str(path),
            )
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
                cells = np.memmap(path, dtype="<i4", mode="r").reshape(-1, 4)
                self._cells = torch.from_numpy(np.asarray(cells))  # (N, 4) int32, never written to
        finally:
            path.unlink(missing_ok=True)  # the mapping keeps it
        self._num_tiles, self._sizes = len(tiles) - 1, sizes

    def _make_tables(self, vocab_size: int, num_specials: int) -> None:
        config, dim = self.config, self.config.dim
        padded = -(-dim // 16) * 16
        self._table = padded_weight(vocab_size, 4 * padded).view(vocab_size, 4, padded)
        self._biases = torch.zeros(vocab_size, 4)
        generator = torch.Generator().manual_seed(config.seed)
        for side in (0, 2):
            self._table[:, side, :dim].uniform_(-0.5 / dim, 0.5 / dim, generator=generator)
        if num_specials:
            self._table[0, 0::2] = 0  # <PAD>
        self.weights = {
            "in_weight": self._table[:, 0, :dim],
            "out_weight": self._table[:, 2, :dim],
            "in_squares": self._table[:, 1, :dim],
            "out_squares": self._table[:, 3, :dim],
            "biases": self._biases,
        }

    def train(self, epoch: int, begin: int, end: int) -> tuple[float, int, int]:
        """Train on the cells ``begin`` to ``end`` in the order of this epoch."""
        config, started = self.config, time.perf_counter()
        if self._plan is None or self._plan[0] != epoch:
            self._plan = (epoch, *tournament(self._num_tiles, self._sizes, config.seed, epoch))
        loss, nonzeros = ops.train_glove_(
            self._table,
            self._biases,
            self._cells,
            *self._plan[1:],
            lr=config.lr,
            begin=begin,
            end=end,
            threads=config.num_threads,
        )
        self._seconds += time.perf_counter() - started
        self._trained += nonzeros
        words = self.num_tokens * end // self.length - self.num_tokens * begin // self.length
        return loss, nonzeros, words

    def word_vectors(self) -> Tensor:
        """(V, D) float32: the sum of both tables, or the first alone, as ``config.vectors`` says; a copy."""
        first = super().word_vectors()
        return first.add_(self.weights["out_weight"]) if self.config.vectors == "sum" else first

    def saved_tensors(self) -> dict[str, Tensor]:
        """``in_weight``: the word vectors as :meth:`word_vectors` gives them; ``out_weight``: the second table."""
        return {"in_weight": self.word_vectors(), "out_weight": self.weights["out_weight"].cpu().contiguous()}

    @property
    def where(self) -> str:
        """What it trains on, in words: ``2 threads, avx512``."""
        return f"{self.config.num_threads} threads, {ops.cpu_kernels()}"

    @property
    def prepared(self) -> str:
        """What was made of the corpus, in words."""
        seconds = self.count_seconds + self.arrange_seconds
        return f"counts: {self.nonzeros:,} nonzeros, window {self.config.window}, ready in {seconds:.2f} s"

    def metrics(self) -> dict:
        """Device, counts and speed, as JSON."""
        return {
            "device": "cpu",
            "threads": self.config.num_threads,
            "cpu_kernels": ops.cpu_kernels(),
            "nonzeros": self.nonzeros,
            "count_seconds": self.count_seconds,
            "arrange_seconds": self.arrange_seconds,
            "nonzeros_per_second": self._trained / max(self._seconds, 1e-9),
        }


def tile_borders(row_starts: np.ndarray, dim: int) -> list[int]:
    """Cut V words into tiles, ascending from 0 to V.

    Args:
        row_starts: (V + 1,) how many cells stand before each row.
        dim: D; a word has 4 D floats, padded.
    """
    vocab_size = len(row_starts) - 1
    padded = -(-dim // 16) * 16
    most = max(1, min(_TILE_BYTES // (16 * padded), max(16, vocab_size // _LEAST_TILES)))
    borders = [0]
    while borders[-1] < vocab_size:
        first = borders[-1]
        full = int(np.searchsorted(row_starts, row_starts[first] + _TILE_CELLS, side="right")) - 1
        borders.append(max(first + 1, min(first + most, full, vocab_size)))
    return borders


def tournament(num_tiles: int, sizes: np.ndarray, seed: int, epoch: int) -> tuple[Tensor, Tensor]:
    """The order of blocks in an epoch: rounds in which no tile plays twice, large blocks first.

    Rounds are those of the circle method over tiles in random order, in random order, and one in which every tile meets
    itself.

    Args:
        num_tiles: T.
        sizes: (T (T + 1) / 2,) cells of the blocks (0, 0), (1, 0), (1, 1), (2, 0), ..., which lie in this order.
        seed, epoch: decide the order, and nothing else does.

    Returns:
        (B, 2) int64: first cell and number of cells of each block that has any, and (R + 1,) int64: the first block of
        each round. See ``ops.train_glove_``.
    """
    even = num_tiles + num_tiles % 2
    player = np.argsort(_draws(seed, epoch, 0, even), kind="stable")
    pair, turn = np.arange(1, max(even // 2, 1)), np.arange(max(even - 1, 0))[:, None]
    fixed = np.full_like(turn, even - 1)
    left = player[np.hstack([fixed, (turn + pair) % max(even - 1, 1)])]  # (rounds, pairs)
    right = player[np.hstack([turn, (turn - pair) % max(even - 1, 1)])]
    with_self = np.arange(num_tiles)
    row = np.concatenate([np.maximum(left, right).ravel(), with_self])
    column = np.concatenate([np.minimum(left, right).ravel(), with_self])
    when = np.argsort(_draws(seed, epoch, 1, even), kind="stable")
    games = np.concatenate([np.repeat(when[: even - 1], left.shape[1]), np.full(num_tiles, when[even - 1])])

    plays = row < num_tiles  # an odd one out rests
    block = row[plays] * (row[plays] + 1) // 2 + column[plays]
    games, filled = games[plays], sizes[block] > 0
    block, games = block[filled], games[filled]
    order = np.lexsort((block, -sizes[block], games))
    block, games = block[order], games[order]
    first = np.cumsum(sizes) - sizes
    borders = np.concatenate([[0], np.flatnonzero(np.diff(games)) + 1, [len(games)]])
    return torch.from_numpy(np.stack([first[block], sizes[block]], 1)), torch.from_numpy(borders.astype(np.int64))


def _draws(seed: int, epoch: int, purpose: int, count: int) -> np.ndarray:
    """(count,) uint64 from SplitMix64 (Steele et al. 2014), keyed: the same with every release of NumPy."""
    with np.errstate(over="ignore"):
        state = np.full(1, seed, np.uint64)
        for number in (epoch, purpose):
            state = _mix(state + np.uint64(0x9E3779B97F4A7C15)) ^ np.uint64(number)
        return _mix(_mix(state) + np.arange(1, count + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15))


def _mix(x: np.ndarray) -> np.ndarray:
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))
