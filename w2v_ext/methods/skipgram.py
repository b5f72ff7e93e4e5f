"""Skip-gram with negative sampling on the CPU, and where the data of all models over a corpus is prepared."""

from __future__ import annotations

import copy
import dataclasses
import warnings

import numpy as np
import torch
from torch import Tensor

from .. import ops
from ..config import TrainConfig
from ..corpus import Corpus
from ..footprint import check_tables
from ..tables import keep_thresholds, padded_weight
from .base import Method


class CorpusMethod(Method):
    """A model that learns from the ids of a corpus, on the CPU.

    Attributes:
        ids: (N,) int32, sentences of word ids, each closed by -1; never written to.
        alias: (V, 2) int32, the noise distribution.
        keep: (V,) int32 with the bits of uint32 thresholds; ``keep_probabilities`` are the same as numbers.
        in_weight: (V, D) float32, U(-0.5/D, 0.5/D) as word2vec does.
    """

    def __init__(self, corpus: Corpus, config: TrainConfig, rows: int | None = None) -> None:
        """MemoryError if tables of so many rows, all together (None: ``in_weight`` only), are more than there is."""
        vocab = corpus.vocab
        check_tables(len(vocab), len(vocab) if rows is None else rows, config)
        self.config = config
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
            self.ids = torch.from_numpy(np.asarray(corpus.ids))
        self.length = len(self.ids)
        noise = vocab.noise_distribution(config.noise_power)
        self.alias = ops.alias_table(torch.from_numpy(noise))
        self.keep_probabilities = vocab.keep_probabilities(config.sample)
        self.keep = keep_thresholds(self.keep_probabilities)
        self._kept = vocab.counts / max(vocab.counts.sum(), 1) * self.keep_probabilities  # of an id, by word
        self._noise = noise / noise.sum()
        generator = torch.Generator().manual_seed(config.seed)
        self.in_weight = padded_weight(len(vocab), config.dim)
        self.in_weight.uniform_(-0.5 / config.dim, 0.5 / config.dim, generator=generator)
        if vocab.num_specials:
            self.in_weight[0] = 0  # <PAD>
        self.weights: dict[str, Tensor] = {"in_weight": self.in_weight}

    def twin(self, weights: dict[str, Tensor]) -> CorpusMethod:
        """The same model over the same data with other tables, shaped and padded as these, trained by one thread."""
        twin = copy.copy(self)
        twin.config = dataclasses.replace(self.config, threads=1)
        twin.weights, twin.in_weight = weights, weights["in_weight"]
        return twin

    def steps_per_id(self) -> dict[str, np.ndarray]:
        """About how often an id of the corpus moves each row of the tables, float64: as centre, context, negative."""
        as_word = self._kept * (self.config.window + 1)  # windows are half as wide on average, and have two sides
        drawn = self._noise * self._kept.sum() * self.config.negative
        return {"in_weight": as_word, "out_weight": as_word + drawn}

    @property
    def where(self) -> str:
        """What it trains on, in words: ``2 threads, avx512``."""
        return f"{self.config.num_threads} threads, {ops.cpu_kernels()}"

    def metrics(self) -> dict:
        """Device and its settings, as JSON."""
        return {"device": "cpu", "threads": self.config.num_threads, "cpu_kernels": ops.cpu_kernels()}


class SkipGram(CorpusMethod):
    """Skip-gram with negative sampling: ``train_sgns_``, an epoch of blocks of neighbouring centres."""

    def __init__(self, corpus: Corpus, config: TrainConfig) -> None:
        super().__init__(corpus, config, rows=2 * len(corpus.vocab))
        self.weights["out_weight"] = padded_weight(*self.in_weight.shape)

    def train(self, epoch: int, begin: int, end: int) -> tuple[float, int, int]:
        """Train on the sentences that start in ``ids[begin:end]``."""
        config = self.config
        return ops.train_sgns_(
            self.in_weight,
            self.weights["out_weight"],
            self.ids,
            self.alias,
            self.keep,
            window=config.window,
            negative=config.negative,
            seed=config.seed,
            epoch=epoch,
            epochs=config.epochs,
            lr=config.lr,
            begin=begin,
            end=end,
            threads=config.num_threads,
        )


class BatchMethod(CorpusMethod):
    """A model whose steps are PyTorch's operators on batches of centres, on the CPU or on CUDA.

    Args:
        rows: of all tables together, for the memory they take.
    """

    def __init__(self, corpus: Corpus, config: TrainConfig, device: torch.device, rows: int) -> None:
        super().__init__(corpus, config, rows=rows)
        self.device = device
        self.weights["out_weight"] = padded_weight(*self.in_weight.shape)
        if device.type != "cpu":
            self.weights = {name: weight.to(device) for name, weight in self.weights.items()}
            self.in_weight = self.weights["in_weight"]

    @property
    def where(self) -> str:
        """What it trains on, in words: ``2 threads`` or ``cuda:0``."""
        return f"{self.config.num_threads} threads" if self.device.type == "cpu" else str(self.device)

    def metrics(self) -> dict:
        """Device and its settings, as JSON."""
        return super().metrics() if self.device.type == "cpu" else {"device": torch.cuda.get_device_name(self.device)}
