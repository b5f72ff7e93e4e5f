"""CBOW, hierarchical softmax and fastText's models on a CUDA device: the twins of those in ``cbow`` and ``subword``."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from .. import family_ops
from ..config import TrainConfig
from ..corpus import Corpus
from ..huffman import huffman_tree
from ..subwords import SubwordGroups
from ..tables import padded_weight
from .base import kept_shares
from .cuda_epoch import CudaEpoch, device_weight
from .skipgram import CorpusMethod
from .subword import FastText


class CudaCbow(CudaEpoch):
    """CBOW with negative sampling: ``train_cbow_cuda_``.

    Args:
        device: a CUDA device.
        corpus, config: as :class:`w2v_ext.methods.cbow.Cbow` takes them.
    """

    def __init__(self, device: torch.device, corpus: Corpus, config: TrainConfig, hottest_output: float = 0.0) -> None:
        start = CorpusMethod(corpus, config)
        shares = kept_shares(corpus.vocab.counts, start.keep_probabilities)
        super().__init__(
            *(device, config, start.in_weight, start.ids, start.alias, start.keep, shares),
            hottest_output=hottest_output,
        )

    def _queue(self, ids: Tensor, **settings: float) -> None:
        config = self.config
        family_ops.train_cbow_cuda_(
            *(self.in_weight, self.out_weight, self._sums, self._bad, ids, self._alias, self._keep),
            mean=config.cbow_mean,
            divide=config.cbow_divide_gradient,
            negative=config.negative,
            **settings,
        )


class CudaTree(CudaCbow):
    """Skip-gram or CBOW with a Huffman tree: ``train_hs_cuda_``; ``out_weight`` has a row per inner node."""

    def __init__(self, device: torch.device, corpus: Corpus, config: TrainConfig) -> None:
        self.tree = huffman_tree(corpus.vocab.counts)
        parts = (self.tree.start, self.tree.steps)
        self._path_start, self._path = (torch.from_numpy(part).to(device) for part in parts)
        self._longest = int(np.diff(self.tree.start).max())
        super().__init__(device, corpus, config, hottest_output=1.0)  # the root is on every path

    def _queue(self, ids: Tensor, **settings: float) -> None:
        config = self.config
        family_ops.train_hs_cuda_(
            *(self.in_weight, self.out_weight, self._sums, self._bad, ids, self._path_start, self._path, self._keep),
            longest=self._longest,
            cbow=config.model == "cbow",
            mean=config.cbow_mean,
            divide=config.cbow_divide_gradient,
            **settings,
        )


class CudaFastText(CudaEpoch, FastText):
    """fastText's models: ``train_subwords_cuda_``. Tables are as :class:`FastText` has them, on the device."""

    def __init__(self, device: torch.device, corpus: Corpus, config: TrainConfig) -> None:
        FastText.__init__(self, corpus, config)
        self._start = self.weights
        self._device_layout = {name: part.to(device) for name, part in self._layout.items()}
        self._device_layout["first_entry"] = self._device_layout.pop("first")
        hottest = hottest_sum(corpus.vocab.counts, self.keep_probabilities, self.groups)
        shares = np.array([hottest])  # of a sum: no word has rows of its own alone, which could be given back early
        CudaEpoch.__init__(
            *(self, device, config, self.in_weight, self.ids, self.alias, self.keep, shares), own_rows=False
        )
        del self._start

    def _make_weights(self, in_weight: Tensor) -> None:
        self.weights = {}
        for name, weight in self._start.items():
            self.weights[name] = device_weight(*weight.shape, torch.float32, self.device)
            self.weights[name].copy_(weight)
        self.in_weight = self.weights["in_weight"]

    def _queue(self, ids: Tensor, hot_words: int, **settings: float) -> None:
        config = self.config
        family_ops.train_subwords_cuda_(
            *(self.weights[name] for name in ("in_weight", "ngram_weight", "out_weight")),
            *(self._sums, self._bad),
            **self._device_layout,
            ids=ids,
            alias=self._alias,
            keep=self._keep,
            cbow=config.model == "fasttext-cbow",
            negative=config.negative,
            **settings,
        )

    def host_tables(self) -> tuple[Tensor, Tensor]:
        """Copies, on the CPU."""
        found = []
        for name in ("in_weight", "ngram_weight"):
            found.append(padded_weight(*self.weights[name].shape))
            found[-1].copy_(self.weights[name])
        return tuple(found)


def hottest_sum(counts: np.ndarray, keep: np.ndarray, groups: SubwordGroups) -> float:
    """The share of the words that subsampling leaves which have the sum of rows that most of them have.

    Args:
        counts, keep: (V,) of the words, as :func:`kept_shares` takes them.
        groups: which sums each word has.
    """
    left = np.asarray(counts, np.float64) * keep
    of_entries = np.repeat(left, np.diff(groups.first))
    return float(np.bincount(groups.entries, of_entries).max() / max(left.sum(), 1e-300))
