"""What :class:`w2v_ext.Trainer` asks of a model."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..config import TrainConfig
from ..huffman import HuffmanTree


class TrainingError(RuntimeError):
    """Training cannot go on; the message says why and what to change."""


class Method:
    """A model in training: its tables, and a pass over a part of its data.

    The trainer cuts an epoch, positions 0 to ``length``, into parts and calls :meth:`train` with one after the other.
    What a part does depends on the settings, the epoch and the place alone, so that with one thread any cut gives the
    same bits.

    Attributes:
        config: the settings it was made with.
        weights: what training moves, by name, updated in place; a checkpoint holds these. ``in_weight`` (V, D) is
            among them.
        length: positions of an epoch: ids of the corpus, or other things to learn from.
        device: where the weights are.
        constant_lr: whether the learning rate stays what it is, and does not fall linearly over the run.
        prepared: what was made of the corpus before training, in words, where that is worth a line.
        tree: where the rows of ``out_weight`` are inner nodes, and not words, the tree that they are of.
    """

    config: TrainConfig
    weights: dict[str, Tensor]
    length: int
    device: torch.device = torch.device("cpu")
    constant_lr: bool = False
    prepared: str = ""
    tree: HuffmanTree | None = None
    sorted_tables: frozenset[str] = frozenset({"in_weight", "out_weight"})  # those whose rows go by frequency
    part: int | None = None  # positions to train at a time; None: as the clock says
    points: int = 50  # parts of a run, at least: of the curve of its loss
    writes: bool = True  # files: of several processes one does

    def train(self, epoch: int, begin: int, end: int) -> tuple[float, int, int]:
        """Train on ``begin`` to ``end`` of an epoch, and wait for it.

        Returns:
            Loss (summed over pairs), pairs, and words trained on.

        Raises:
            IndexError: a word that is not in the vocabulary, with its place.
        """
        raise NotImplementedError

    def settle(self) -> None:
        """Bring the weights to where several processes agree, before they are saved or an epoch ends."""

    def follow(self, state: Any) -> Any:
        """Take over the weights, read from a checkpoint, and the state of the process that read them."""
        return state

    def agree(self, *wishes: bool) -> tuple[bool, ...]:
        """Each wish that any of several processes has."""
        return wishes

    def word_vectors(self) -> Tensor:
        """(V, D) float32 on the CPU, contiguous: a copy of the vectors of the words as they are now."""
        weight = self.weights["in_weight"]
        return torch.empty(weight.shape).copy_(weight)

    def saved_tensors(self) -> dict[str, Tensor]:
        """What the model directory holds, as float32: ``in_weight`` and, if there is one, ``out_weight``."""
        names = ("in_weight", "out_weight")
        return {name: self.weights[name].float() for name in names if name in self.weights}

    @property
    def where(self) -> str:
        """What it trains on, in words: ``2 threads, avx512``."""
        raise NotImplementedError

    def metrics(self) -> dict:
        """Device and its settings, as JSON, for ``metrics.json``."""
        raise NotImplementedError


def kept_shares(counts: np.ndarray, keep: np.ndarray) -> np.ndarray:
    """(V,) each word's share of the words that subsampling leaves.

    Args:
        counts: (V,) how often each word occurs.
        keep: (V,) the probability with which an occurrence is kept.
    """
    left = np.asarray(counts, np.float64) * keep
    return left / max(left.sum(), 1e-300)


def learning_rate(config: TrainConfig, num_ids: int, epoch: int, place: int) -> float:
    """As the kernels': falls linearly over all epochs, to a 10,000th."""
    return config.lr * max(1 - (num_ids * epoch + place) / (num_ids * config.epochs), 1e-4)


@contextmanager
def torch_threads(count: int) -> Iterator[None]:
    """PyTorch with so many threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
