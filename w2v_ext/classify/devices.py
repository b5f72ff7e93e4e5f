"""Where the lines of a classifier are trained: on the CPU, or in the memory of a CUDA device."""

from __future__ import annotations

import time

import numpy as np
import torch
from torch import Tensor

from ..methods.cuda_epoch import choose_device, device_weight
from ..ops import cpu_kernels
from ..trainer import TrainingError
from . import ops
from .config import ClassifierConfig
from .lines import Encoded, Lines
from .tree import LabelTree

LINES_IN_FLIGHT = 64  # as many as threads of the CPU train between two looks at what the others have learnt
_NO_PLACE = 2**63 - 1


class CpuLines:
    """Trains weights in place, by threads.

    Args:
        config: the settings.
        weights: ``in_weight`` and ``out_weight``, as `tables.padded_weight` makes them.
        encoded, lines: their rows and their labels.
        tree: of the labels, for ``hs``.
    """

    def __init__(
        self,
        config: ClassifierConfig,
        weights: tuple[Tensor, Tensor],
        encoded: Encoded,
        lines: Lines,
        tree: LabelTree | None,
    ) -> None:
        tree = tree or LabelTree(*3 * [np.empty(0, np.int32)])
        self.config, self.weights, self.encoded = config, weights, encoded
        self.labels = torch.from_numpy(lines.line_labels), torch.from_numpy(lines.label_ends)
        self.tree = torch.from_numpy(tree.path), torch.from_numpy(tree.path_ends.astype(np.int64))
        self.seconds = 0.0  # of all calls of train

    def train(self, order: Tensor, epoch: int, begin: int, end: int) -> tuple[float, int]:
        """Train on lines ``order[begin:end]``; gives the loss, summed over lines, and their number."""
        config, started = self.config, time.perf_counter()
        found = ops.train_classifier_(
            *(*self.weights, self.encoded, *self.labels, *self.tree, order),
            loss=config.loss,
            lr=config.lr,
            seed=config.seed,
            epoch=epoch,
            epochs=config.epochs,
            begin=begin,
            end=end,
            threads=config.num_threads,
        )
        self.seconds += time.perf_counter() - started
        return found

    def finish(self) -> None:
        """Leave the weights as they are now where they came from."""

    def metrics(self) -> dict:
        """Device and its settings, as JSON."""
        return {"device": "cpu", "threads": self.config.num_threads, "cpu_kernels": cpu_kernels()}


class CudaLines(CpuLines):
    """Trains copies of the weights on a CUDA device; see `CpuLines`."""

    def __init__(
        self,
        device: torch.device,
        config: ClassifierConfig,
        weights: tuple[Tensor, Tensor],
        encoded: Encoded,
        lines: Lines,
        tree: LabelTree | None,
    ) -> None:
        super().__init__(config, weights, encoded, lines, tree)
        self.device, self._host, self._order = device, weights, (-1, None)
        self._longest = int(np.diff(self.tree[1].numpy(), prepend=0).max(initial=0))
        self.weights = tuple(device_weight(*weight.shape, torch.float32, device) for weight in weights)
        for weight, start in zip(self.weights, weights, strict=True):
            weight.copy_(start)
        self.encoded = Encoded(*(part.to(device) for part in encoded.arguments))
        self.labels, self.tree = (tuple(part.to(device) for part in parts) for parts in (self.labels, self.tree))
        self._sums = torch.zeros(2, dtype=torch.float64, device=device)
        self._bad = torch.full((1,), _NO_PLACE, device=device)
        self.lines_in_flight = config.lines_in_flight or LINES_IN_FLIGHT

    def train(self, order: Tensor, epoch: int, begin: int, end: int) -> tuple[float, int]:
        """Train on lines ``order[begin:end]``, and wait for the device.

        Raises:
            IndexError: a line with a number that is out of range, with its place.
        """
        config, started = self.config, time.perf_counter()
        if self._order[0] != epoch:
            self._order = (epoch, order.to(self.device))
        with torch.cuda.device(self.device):
            self._sums.zero_()
            ops.train_classifier_cuda_(
                *(*self.weights, self._sums, self._bad, self.encoded, *self.labels, *self.tree, self._order[1]),
                longest=self._longest,
                loss=config.loss,
                lr=config.lr,
                seed=config.seed,
                epoch=epoch,
                epochs=config.epochs,
                begin=begin,
                end=end,
                lines_in_flight=self.lines_in_flight,
            )
            loss, examples = self._sums.tolist()  # waits
            place = int(self._bad.item())
        if place != _NO_PLACE:
            raise IndexError(f"order: line {int(order[place])} at place {place} has a number that is out of range")
        self.seconds += time.perf_counter() - started
        return loss, int(examples)

    def finish(self) -> None:
        """Copy the weights back."""
        for weight, host in zip(self.weights, self._host, strict=True):
            host.copy_(weight)

    def metrics(self) -> dict:
        """Device and its settings, as JSON."""
        return {"device": torch.cuda.get_device_name(self.device), "lines_in_flight": self.lines_in_flight}


def training_device(config: ClassifierConfig) -> torch.device:
    """The device that ``config.device`` stands for.

    Raises:
        TrainingError: it cannot be used; the message says why.
    """
    try:
        return choose_device(config.device)
    except RuntimeError as error:
        raise TrainingError(str(error)) from None


def lines_on(
    device: torch.device,
    config: ClassifierConfig,
    weights: tuple[Tensor, Tensor],
    encoded: Encoded,
    lines: Lines,
    tree: LabelTree | None,
) -> CpuLines:
    """The lines and weights on a device; see `CpuLines`.

    Raises:
        TrainingError: they do not fit it.
    """
    if device.type == "cpu":
        return CpuLines(config, weights, encoded, lines, tree)
    try:
        return CudaLines(device, config, weights, encoded, lines, tree)
    except torch.OutOfMemoryError as error:
        reason = str(error).partition("\n")[0]
        raise TrainingError(
            f"device: {len(weights[0])} rows x {config.dim} do not fit {device} ({reason}); use --device cpu, or lower "
            "dim or buckets"
        ) from error
