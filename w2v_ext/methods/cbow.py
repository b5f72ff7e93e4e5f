"""CBOW with negative sampling, and hierarchical softmax for CBOW and skip-gram, on the CPU."""

from __future__ import annotations

import numpy as np
import torch

from .. import family_ops
from ..config import TrainConfig
from ..corpus import Corpus
from ..huffman import huffman_tree
from ..tables import padded_weight
from .skipgram import CorpusMethod


class Cbow(CorpusMethod):
    """CBOW with negative sampling: ``train_cbow_``. ``out_weight`` (V, D) holds the output vectors of the words."""

    def __init__(self, corpus: Corpus, config: TrainConfig) -> None:
        super().__init__(corpus, config, rows=2 * len(corpus.vocab))
        self.weights["out_weight"] = padded_weight(*self.in_weight.shape)

    def train(self, epoch: int, begin: int, end: int) -> tuple[float, int, int]:
        """Train on the sentences that start in ``ids[begin:end]``."""
        config = self.config
        return family_ops.train_cbow_(
            self.in_weight,
            self.weights["out_weight"],
            self.ids,
            self.alias,
            self.keep,
            mean=config.cbow_mean,
            divide=config.cbow_divide_gradient,
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


class HierarchicalSoftmax(CorpusMethod):
    """Skip-gram or CBOW with a Huffman tree: ``train_hs_``.

    ``out_weight`` (V, D) holds a vector per inner node, V - 1 of them, from the root by falling count, as
    :func:`w2v_ext.huffman.huffman_tree` numbers them; the last row is 0. The tree follows from the counts.
    """

    def __init__(self, corpus: Corpus, config: TrainConfig) -> None:
        super().__init__(corpus, config, rows=2 * len(corpus.vocab))
        self.weights["out_weight"] = padded_weight(*self.in_weight.shape)
        self.tree = huffman_tree(corpus.vocab.counts)
        self.path_start, self.path = torch.from_numpy(self.tree.start), torch.from_numpy(self.tree.steps)

    def steps_per_id(self) -> dict[str, np.ndarray]:
        """As the base class; a node is moved for each word below it."""
        steps = super().steps_per_id()
        of_word = np.repeat(steps["in_weight"], np.diff(self.path_start.numpy()))
        steps["out_weight"] = np.bincount(self.path.numpy() >> 1, weights=of_word, minlength=len(self.in_weight))
        return steps

    def train(self, epoch: int, begin: int, end: int) -> tuple[float, int, int]:
        """Train on the sentences that start in ``ids[begin:end]``."""
        config = self.config
        return family_ops.train_hs_(
            self.in_weight,
            self.weights["out_weight"],
            self.ids,
            self.path_start,
            self.path,
            self.keep,
            cbow=config.model == "cbow",
            mean=config.cbow_mean,
            divide=config.cbow_divide_gradient,
            window=config.window,
            seed=config.seed,
            epoch=epoch,
            epochs=config.epochs,
            lr=config.lr,
            begin=begin,
            end=end,
            threads=config.num_threads,
        )
