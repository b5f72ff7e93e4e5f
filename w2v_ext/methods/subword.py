"""fastText's models: skip-gram and continuous bag of words, of words that are the mean of their n-grams."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from .. import family_ops
from ..config import TrainConfig
from ..corpus import Corpus
from ..subwords import SubwordGroups, SubwordSettings, SubwordTable
from ..tables import padded_weight
from .skipgram import CorpusMethod

_ROWS = 1 << 16  # that are copied at a time
STRETCH = 512  # ids (and the sentence begun): how far apart words see what others with their n-grams have learnt


def stretch_of(threads: int) -> int:
    """Ids that each of so many threads trains before the others see it: together at most 1024 to 8 threads.

    With 16 threads in step, one epoch over 17 M words gives analogies .500 with 128 ids each; one thread .496. (When
    the words of a window shared their negatives: .508 with 512 ids, .512 with 128, one thread .519.) Each stretch ends
    with bringing the frequent rows together, so they should not get much shorter.
    """
    return max(128, min(STRETCH, 2 * STRETCH // (1 << (threads - 1).bit_length())))


class FastText(CorpusMethod):
    """Words as the mean of their own row and their n-grams' (Bojanowski et al. 2017), with negative sampling.

    Attributes:
        groups: which rows there are; those that always move together are kept as one, their sum.
        weights: ``in_weight`` (V, D), the sums of the rows that only one word has; ``ngram_weight`` (C, D), all other
            sums; ``out_weight`` (V, D).
    """

    def __init__(self, corpus: Corpus, config: TrainConfig) -> None:
        self.settings = SubwordSettings(config.min_n, config.max_n, config.buckets)
        self.groups = SubwordGroups.of(corpus.vocab.words, self.settings)
        size, sums = len(corpus.vocab), len(self.groups.group_rows)
        super().__init__(corpus, config, rows=sums + size)
        names = ("first", "entries", "word_rows", "group_rows")
        self._layout = {name: torch.from_numpy(getattr(self.groups, name)) for name in names}
        self.weights["ngram_weight"] = padded_weight(sums - size, config.dim)
        self.weights["out_weight"] = padded_weight(size, config.dim)
        # Rows start as U(-1/D, 1/D) / sqrt(m), equal for the m rows of a group: the words' vectors are as far from zero
        # as if all of them started apart.
        generator = torch.Generator().manual_seed(config.seed)
        start = self._layout["group_rows"].sqrt()[:, None] / config.dim
        for name, factor in (("in_weight", start[:size]), ("ngram_weight", start[size:])):
            self.weights[name].uniform_(-1, 1, generator=generator).mul_(factor)
        if corpus.vocab.num_specials:
            self.in_weight[0] = 0  # <PAD>

    def begin_with(self, table: SubwordTable, words: np.ndarray, table_words: np.ndarray) -> None:
        """Set rows to those of a trained table, in place; those that it lacks stay as they begin in any training.

        A group's sum is then that of its known rows, and what is random of it becomes that of ``u`` rows in place of
        ``m``, times sqrt(u / m).

        Args:
            table: (R, D) rows of words and n-grams, with n-grams hashed as here.
            words, table_words: (S,) integers, the words that both have by their numbers here and in the table.
        """
        groups, rows, times = self.groups.rows_in(table, words, table_words)
        number = self.groups.group_rows
        unknown = number - np.bincount(groups, times, minlength=len(number))
        factor = torch.from_numpy(np.sqrt(unknown / number).astype(np.float32))[:, None]
        first = 0
        for name in ("in_weight", "ngram_weight"):
            weight = self.weights[name]
            last = first + len(weight)
            weight.mul_(factor[first:last].to(weight.device))
            begin, end = np.searchsorted(groups, (first, last)).tolist()
            for part in np.split(np.arange(begin, end), range(_ROWS, end - begin, _ROWS)):
                values = torch.from_numpy(table.weight[rows[part]] * times[part, None].astype(np.float32))
                to = torch.from_numpy(groups[part] - first)
                weight.index_add_(0, to.to(weight.device), values.to(weight.device))
            first = last

    def steps_per_id(self) -> dict[str, np.ndarray]:
        """As the base class; the row of a group is moved with each word that has it, by its share of the word."""
        steps, size = super().steps_per_id(), len(self.in_weight)
        number = np.diff(self.groups.first)
        of_entry = np.repeat(steps["in_weight"] / np.maximum(number, 1), number)
        rows = size + len(self.weights["ngram_weight"])
        of_group = np.bincount(self.groups.entries, weights=of_entry, minlength=rows)
        return {**steps, "in_weight": of_group[:size], "ngram_weight": of_group[size:]}

    def train(self, epoch: int, begin: int, end: int) -> tuple[float, int, int]:
        """Train on the stretches of ``stretch_of(threads)`` ids that begin in ``ids[begin:end]``."""
        config = self.config
        return family_ops.train_subwords_(
            self.in_weight,
            self.weights["ngram_weight"],
            self.weights["out_weight"],
            **self._layout,
            ids=self.ids,
            alias=self.alias,
            keep=self.keep,
            cbow=config.model == "fasttext-cbow",
            window=config.window,
            negative=config.negative,
            seed=config.seed,
            epoch=epoch,
            epochs=config.epochs,
            lr=config.lr,
            begin=begin,
            end=end,
            stretch=stretch_of(config.num_threads),
            threads=config.num_threads,
        )

    def word_vectors(self) -> Tensor:
        """(V, D) float32: the means of the words' rows."""
        return family_ops.compose_subwords(*self.host_tables(), **self._layout)

    def host_tables(self) -> tuple[Tensor, Tensor]:
        """``in_weight`` and ``ngram_weight`` on the CPU, laid out as the operators there want them."""
        return self.in_weight, self.weights["ngram_weight"]

    def saved_tensors(self) -> dict[str, Tensor]:
        """``in_weight``, the words' vectors, ``out_weight``, and what makes vectors of other words.

        ``subword_weight`` (V + C, D) has the row of each group, ``subword_buckets`` (U,) the buckets in use, ascending,
        ``subword_groups`` (U,) the group of each.
        """
        table = self.subword_table()
        return {
            "in_weight": self.word_vectors(),
            "out_weight": self.weights["out_weight"].cpu().contiguous(),
            "subword_weight": torch.from_numpy(table.weight),
            "subword_buckets": torch.from_numpy(table.buckets),
            "subword_groups": torch.from_numpy(table.rows),
        }

    def subword_table(self) -> SubwordTable:
        """The rows of words and n-grams as they are now, as a copy."""
        sums = torch.cat(self.host_tables())
        weight = sums.div_(self._layout["group_rows"][:, None]).numpy()
        return SubwordTable(self.settings, len(self.in_weight), weight, self.groups.buckets, self.groups.bucket_groups)
