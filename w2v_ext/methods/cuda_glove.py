"""GloVe on a CUDA device: counts and their arrangement as on the CPU, cells and tables in the device's memory."""

from __future__ import annotations

import time

import torch
from torch import Tensor

from .. import ops
from ..config import TrainConfig
from ..cooccurrence import Cooccurrences
from ..corpus import Corpus
from .glove import Glove, tournament

CELLS_PER_MULTIPROCESSOR = 8  # in flight: two for each scheduler
_NO_PLACE = 2**63 - 1


class CudaGlove(Glove):
    """GloVe by AdaGrad on a GPU; ``train_glove_cuda_`` does the work, in the order of cells that the CPU has.

    Threads of the CPU share no word; warps in flight may. So results differ from run to run in the last bits, and more
    where a word's cells are in flight together; with one in flight they are the CPU's to rounding.

    Args:
        device: a CUDA device.
        corpus, config, cooccurrences: as :class:`Glove` takes them; ``config.sentences_in_flight`` counts cells.

    Attributes:
        cells_in_flight: how many are.
    """

    def __init__(
        self, device: torch.device, corpus: Corpus, config: TrainConfig, cooccurrences: Cooccurrences | None = None
    ) -> None:
        super().__init__(corpus, config, cooccurrences)
        self.device = device
        dim = config.dim
        self._table, self._biases = self._table.contiguous().to(device), self._biases.to(device)
        sides = {"in_weight": 0, "out_weight": 2, "in_squares": 1, "out_squares": 3}
        self.weights = {name: self._table[:, side, :dim] for name, side in sides.items()} | {"biases": self._biases}
        self._host_cells, self._cells = self._cells, self._cells.to(device)
        self._sums = torch.zeros(2, dtype=torch.float64, device=device)
        self._bad = torch.full((1,), _NO_PLACE, device=device)
        # No more than there are words in a block of cells: each is then met twice at a time, on average.
        words_of_block = max(1, 2 * len(corpus.vocab) // self._num_tiles)
        multiprocessors = torch.cuda.get_device_properties(device).multi_processor_count
        self.cells_in_flight = config.sentences_in_flight or min(
            CELLS_PER_MULTIPROCESSOR * multiprocessors, words_of_block
        )
        self._order: tuple[int, Tensor, Tensor] | None = None

    def train(self, epoch: int, begin: int, end: int) -> tuple[float, int, int]:
        """Train on the cells ``begin`` to ``end`` in the order of this epoch; waits for the device.

        Raises:
            IndexError: a cell with a word that is not in the vocabulary, with its place.
        """
        started = time.perf_counter()
        if self._order is None or self._order[0] != epoch:
            blocks, _ = tournament(self._num_tiles, self._sizes, self.config.seed, epoch)
            starts = torch.cat([blocks.new_zeros(1), blocks[:, 1].cumsum(0)])
            self._order = (epoch, blocks[:, 0].contiguous().to(self.device), starts.to(self.device))
        with torch.cuda.device(self.device):
            self._sums.zero_()
            ops.train_glove_cuda_(
                *(self._table, self._biases, self._sums, self._bad, self._cells, *self._order[1:]),
                lr=self.config.lr,
                begin=begin,
                end=end,
                cells_in_flight=self.cells_in_flight,
            )
            loss, nonzeros = self._sums.tolist()  # waits
            place = int(self._bad.item())
        if place != _NO_PLACE:
            raise IndexError(f"cells: the one at place {place} has a word that is out of range for the table")
        self._seconds += time.perf_counter() - started
        self._trained += int(nonzeros)
        words = self.num_tokens * end // self.length - self.num_tokens * begin // self.length
        return loss, int(nonzeros), words

    def word_vectors(self) -> Tensor:
        """(V, D) float32 on the CPU, as :meth:`Glove.word_vectors` says."""
        first = self.weights["in_weight"].cpu()
        return (first + self.weights["out_weight"].cpu() if self.config.vectors == "sum" else first).contiguous()

    @property
    def where(self) -> str:
        """What it trains on, in words: ``NVIDIA H200, 1056 cells in flight``."""
        return f"{torch.cuda.get_device_name(self.device)}, {self.cells_in_flight} cells in flight"

    def metrics(self) -> dict:
        """Device, counts and speed, as JSON."""
        found = {key: value for key, value in super().metrics().items() if key not in ("threads", "cpu_kernels")}
        return {
            **found,
            "device": torch.cuda.get_device_name(self.device),
            "cells_in_flight": self.cells_in_flight,
        }
