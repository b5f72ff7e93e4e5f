"""CBOW and hierarchical softmax on a CUDA device: the twins of :mod:`w2v_ext.methods.cbow`."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from .. import family_ops
from ..huffman import HuffmanTree
from .base import Method
from .cuda_epoch import default_sentences_in_flight, device_weight
from .skipgram import CorpusMethod

_NO_PLACE = 2**63 - 1


class CudaFamily(Method):
    """Weights and all ids of the corpus on a device, in float32, and the kernels that train there.

    Args:
        device: a CUDA device.
        start: the model on the CPU: its ids, noise, subsampling and start of the word vectors.
        tree: of hierarchical softmax, or None for negative sampling.
        hottest: the most frequent word's share of the words that subsampling leaves.
    """

    def __init__(self, device: torch.device, start: CorpusMethod, tree: HuffmanTree | None, hottest: float) -> None:
        self.device, self.config, self.length = device, start.config, start.length
        self.weights: dict[str, Tensor] = {
            name: device_weight(*start.in_weight.shape, torch.float32, device) for name in ("in_weight", "out_weight")
        }
        self.weights["in_weight"].copy_(start.in_weight)
        self._host_ids, self._ids = start.ids, start.ids.to(device)
        self._alias, self._keep = start.alias.to(device), start.keep.to(device)
        self._longest = int(np.diff(tree.start).max()) if tree else 0
        self._paths = [torch.from_numpy(part).to(device) for part in (tree.start, tree.steps)] if tree else []
        self._sums = torch.zeros(3, dtype=torch.float64, device=device)
        self._bad = torch.full((1,), _NO_PLACE, device=device)
        multiprocessors = torch.cuda.get_device_properties(device).multi_processor_count
        self.sentences_in_flight = self.config.sentences_in_flight or default_sentences_in_flight(
            multiprocessors, hottest, self.config.window
        )
        self.train(0, 0, 0)  # trains on nothing, and checks what can be checked

    def train(self, epoch: int, begin: int, end: int) -> tuple[float, int, int]:
        """Train on the sentences that start in ``ids[begin:end]``; waits for the device."""
        config = self.config
        tables = (*self.weights.values(), self._sums, self._bad, self._ids)
        options = {
            "mean": config.cbow_mean, "divide": config.cbow_divide_gradient, "window": config.window,
            "seed": config.seed, "epoch": epoch, "epochs": config.epochs, "lr": config.lr, "begin": begin, "end": end,
            "sentences_in_flight": self.sentences_in_flight,
        }  # fmt: skip
        with torch.cuda.device(self.device):
            self._sums.zero_()
            if self._paths:
                cbow = config.model == "cbow"
                family_ops.train_hs_cuda_(
                    *tables, *self._paths, self._keep, longest=self._longest, cbow=cbow, **options
                )
            else:
                family_ops.train_cbow_cuda_(*tables, self._alias, self._keep, negative=config.negative, **options)
            loss, pairs, words = self._sums.tolist()  # waits
            place = int(self._bad.item())
        if place != _NO_PLACE:
            raise IndexError(
                f"ids: word {int(self._host_ids[place])} at position {place} is out of range for in_weight with "
                f"{len(self.weights['in_weight'])} rows"
            )
        return loss, int(pairs), int(words)

    @property
    def where(self) -> str:
        """What it trains on, in words: ``NVIDIA H200, 528 sentences in flight``."""
        return f"{torch.cuda.get_device_name(self.device)}, {self.sentences_in_flight} sentences in flight"

    def metrics(self) -> dict:
        """Device and its settings, as JSON."""
        return {"device": torch.cuda.get_device_name(self.device), "sentences_in_flight": self.sentences_in_flight}
