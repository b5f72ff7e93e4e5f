"""Training that does not begin at nothing: new text for an old model, vectors from elsewhere, rows that are locked.

>>> old = load_old("old")
>>> corpus = merge_corpus(prepare_corpus("new.txt", CorpusOptions(min_count=1)), old.words, old.counts, min_count=5)
>>> start = Start(corpus.vocab, old=old, foreign=formats.load_vectors("glove.6B.100d.txt"), lock="intersect")
>>> vectors = Trainer(corpus, config, start=start).fit().keyed_vectors()

``python -m w2v_ext.train --continue-from OLD --corpus NEW ... --intersect FILE --lock intersect`` does this with files.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from .config import TrainConfig
from .corpus import Corpus
from .corpus_files import checksum, temporary_corpus
from .distributed import num_ranks
from .formats import load_vectors
from .formats.table import VectorTable
from .huffman import HuffmanTree, equal_splits, huffman_tree, nodes_by_odds
from .methods import FastText, Method
from .model_files import ModelFiles
from .old_model import check_old, check_rows_of_words, load_old
from .subwords import TENSORS, SubwordSettings, SubwordTable
from .vocab import Vocabulary

LOCKS = ("nothing", "intersect", "old")
PIECE = 1 << 16  # ids between two restorations of the locked rows
_BLOCK = 1 << 22  # ids renumbered at a time


def settings_of(directory: str | Path) -> TrainConfig:
    """The settings to go on with from a model directory: its own, but for the text and what it had begun from.

    Raises:
        ValueError: the directory is damaged, or was not made by ``w2v_ext.train``; the message begins with
            ``continue_from``.
    """
    old = load_old(directory)
    fresh = TrainConfig()
    anew = ("corpus", "out", "continue_from", "intersect", "lock", "tensorboard", "probe", "probe_pairs", "cache_dir")
    kept = {"dim": old.in_weight.shape[1]}  # where the settings are not all there: a directory made of fastText's .bin
    kept |= {name: value for name, value in old.config.items() if name not in anew}
    try:
        return dataclasses.replace(TrainConfig.from_dict(kept), out=fresh.out)
    except ValueError as error:
        raise ValueError(f"continue_from: {directory}/config.json: {error}") from error


def prepare_start(corpus: Corpus, config: TrainConfig) -> tuple[Corpus, Start | None]:
    """What ``continue_from``, ``intersect`` and ``lock`` of a configuration ask for.

    Args:
        corpus: with all its words, where the configuration has ``continue_from``.

    Returns:
        The corpus to train on, and the start for the trainer; (corpus, None) where nothing is asked for.

    Raises:
        ValueError, FormatError, OSError: vectors that cannot be read, or do not fit.
    """
    if config.continue_from is None and config.intersect is None:
        if config.lock != "nothing":
            raise ValueError(f"lock: expected continue_from or intersect beside it, got {config.lock!r} alone")
        return corpus, None
    if config.lock != "nothing" and num_ranks() > 1:
        raise ValueError(f"lock: expected one process, got {num_ranks()}")
    old = None
    if config.continue_from is not None:
        old = load_old(config.continue_from)
        check_old(old.config, config, f"continue_from = {config.continue_from}")
        corpus = merge_corpus(corpus, old.words, old.counts, min_count=config.min_count, max_vocab=config.max_vocab)
    foreign = None
    if config.intersect is not None:
        check_rows_of_words(config, "intersect")
        foreign = load_vectors(config.intersect)
    return corpus, Start(corpus.vocab, old=old, foreign=foreign, lock=config.lock)


def merge_corpus(
    corpus: Corpus,
    words: Sequence[str],
    counts: np.ndarray,
    *,
    min_count: int = 1,
    max_vocab: int | None = None,
) -> Corpus:
    """The corpus over the words of an old model and its own, with the counts of both added.

    All old words stay. New ones come in if they occur at least ``min_count`` times in the corpus, the most frequent
    first, as long as there are fewer than ``max_vocab`` words in all. Words are ordered by their added counts, as
    trainers want them, and the ids renumbered; sentences of which nothing is left are left out.

    Args:
        corpus: made with ``min_count=1``, or old words that are rare in it are lost.
        words, counts: of the old model, V words and (V,) integers.

    Returns:
        A corpus in a temporary directory, which goes with it.

    Raises:
        ValueError: a corpus with special tokens, or none of its words is left.
    """
    if corpus.vocab.num_specials:
        raise ValueError("corpus: expected one without special tokens, as the old model has none")
    known = {word: int(count) for word, count in zip(words, counts, strict=True)}
    fresh = {word: int(n) for word, n in zip(corpus.vocab.words, corpus.vocab.counts, strict=True)}
    joining = [word for word in corpus.vocab.words if word not in known and fresh[word] >= min_count]
    if max_vocab is not None:
        joining = joining[: max(0, max_vocab - len(known))]
    total = {word: count + fresh.get(word, 0) for word, count in known.items()}
    total.update((word, fresh[word]) for word in joining)
    vocab = Vocabulary.from_counts(total, min_count=1) if min(total.values()) >= 1 else _with_zeros(total)
    lookup = vocab.word_to_id
    new_id = np.array([lookup.get(word, -2) for word in corpus.vocab.words] + [-1], np.int32)  # -1 stays -1

    def fill(directory: Path) -> None:
        vocab.save(directory / "vocab.tsv")
        sentences = tokens = 0
        last = -1  # the id before the block: a marker, as at the beginning of a sentence
        with open(directory / "ids.bin", "wb") as file:
            for begin in range(0, len(corpus.ids), _BLOCK):
                ids = new_id[corpus.ids[begin : begin + _BLOCK]]
                ids = ids[ids != -2]
                before = np.concatenate(([last], ids[:-1])) if len(ids) else ids
                ids = ids[(ids != -1) | (before != -1)]  # no empty sentences
                if len(ids):
                    last = int(ids[-1])
                sentences += int(np.count_nonzero(ids == -1))
                tokens += int(np.count_nonzero(ids != -1))
                file.write(ids.astype("<i4").tobytes())
        if tokens == 0:
            raise ValueError("corpus: none of its words is in the old model or frequent enough to join it")
        meta = {name: value for name, value in corpus.meta.items() if name != "checksum"}
        digest = hashlib.sha256((directory / "vocab.tsv").read_bytes()).hexdigest()
        meta |= {"num_tokens": tokens, "num_sentences": sentences, "vocab_sha256": digest}
        meta["checksum"] = checksum(meta)
        (directory / "corpus.json").write_text(json.dumps(meta) + "\n", encoding="utf-8")

    return temporary_corpus(fill)


def _with_zeros(total: dict[str, int]) -> Vocabulary:
    """A vocabulary with words that no text has been counted for."""
    words = sorted(total, key=lambda word: (-total[word], word))
    return Vocabulary(words, [total[word] for word in words])


class Start:
    """What a training begins with, for ``Trainer(corpus, config, start=...)``.

    Args:
        vocab: of the corpus that is trained on.
        old: a model whose word and output vectors its words begin with; the others begin as in any training. Of a
            tree, the inner nodes that divide the old words as a node of the old tree does begin with its vector, and
            the others with one that gives nearly the odds which the old model gives (``huffman.nodes_by_odds``).
        foreign: vectors that take the place of the word vectors of words that both have (the output vectors stay), as
            gensim's ``intersect_word2vec_format`` does; no word is added.
        lock: whose word vectors training must not move: of ``nothing``; of words that ``foreign`` has (``intersect``,
            gensim's ``lockf=0``); of the words of the ``old`` model as well as of those.

    Attributes:
        old_words, intersected: how many words of the vocabulary have a row from there.
        locked: (L,) int64 rows.
        nodes: how many inner nodes have a vector of the old tree, once they were set; None where there is no tree.

    Raises:
        ValueError: ``lock`` names what is not given.
    """

    def __init__(
        self,
        vocab: Vocabulary,
        *,
        old: ModelFiles | None = None,
        foreign: VectorTable | None = None,
        lock: str = "nothing",
    ) -> None:
        if lock not in LOCKS:
            raise ValueError(f"lock: expected one of {', '.join(LOCKS)}, got {lock!r}")
        if (lock == "intersect" and foreign is None) or (lock == "old" and old is None):
            raise ValueError(f"lock: expected vectors to lock, got {lock!r} without them")
        self._old, self._foreign, self._lock, self._vocab_size = old, foreign, lock, len(vocab)
        self._old_rows = _shared_rows(vocab, old.words if old is not None else [])
        self._foreign_rows = _shared_rows(vocab, foreign.words if foreign is not None else [])
        self.old_words, self.intersected = len(self._old_rows[0]), len(self._foreign_rows[0])
        rows = [self._foreign_rows[0]] if lock != "nothing" else []
        rows += [self._old_rows[0]] if lock == "old" else []
        self.locked = torch.cat(rows).unique() if rows else torch.empty(0, dtype=torch.int64)
        self.nodes: int | None = None

    def __call__(self, method: Method, ids: np.ndarray) -> Method:
        """Set the weights of a method, in place; gives it, with its rows locked where that is asked for.

        Raises:
            ValueError: vectors of another dimension, or a model or loss that cannot go on from the old one's; see
            :func:`w2v_ext.old_model.check_old`.
        """
        if self._old is not None:
            check_old(self._old.config, method.config)
        if self._foreign is not None:
            check_rows_of_words(method.config, "intersect")
        if self._lock != "nothing":
            check_rows_of_words(method.config, "lock")
        dim = method.weights["in_weight"].shape[1]
        for name, table in method.weights.items():
            if name == "ngram_weight" or "." in name:
                continue  # n-grams have their own number of rows, and an optimiser's state begins anew
            if name not in ("in_weight", "out_weight") or len(table) != self._vocab_size:
                raise ValueError(
                    f"model: expected word and output vectors for each of {self._vocab_size} words to go on with, got "
                    f"{name} of shape {tuple(table.shape)}"
                )
        if self._old is not None:
            _check_dim("continue_from", self._old.in_weight.shape[1], dim)
            if self._old.out_weight is None:
                raise ValueError("continue_from: expected a model with out_weight, got one that was saved without it")
            to, source = self._old_rows
            if isinstance(method, FastText):
                method.begin_with(_subwords_of(self._old, method.settings), to.numpy(), source.numpy())
            else:
                _copy_rows(method.weights["in_weight"], to, self._old.in_weight[source])
            if method.tree is None:
                _copy_rows(method.weights["out_weight"], to, self._old.out_weight[source])
            else:
                self._set_nodes(method.weights["out_weight"], method.tree)
        if self._foreign is not None:
            _check_dim("intersect", self._foreign.vectors.shape[1], dim)
            to, source = self._foreign_rows
            _copy_rows(method.weights["in_weight"], to, torch.from_numpy(self._foreign.vectors[source.numpy()]))
        return LockedRows(method, self.locked, ids) if len(self.locked) else method

    def _set_nodes(self, out_weight: Tensor, tree: HuffmanTree) -> None:
        """Copy the vectors of inner nodes; those without a counterpart get the odds of the old words below them.

        After a tenth of new text next to no node has a counterpart near the root, where all words pass. With those
        alone the loss of 1,000 further reviews begins at 7.65, as from nothing; with the odds at 7.26, where the old
        model had ended (CBOW, 5,000 reviews, 12,462 words).
        """
        to, source = (rows.numpy() for rows in self._old_rows)
        old_tree, old_out = huffman_tree(self._old.counts), self._old.out_weight.float()
        out_weight.copy_(torch.from_numpy(nodes_by_odds(tree, old_tree, to, source, old_out.numpy())))
        nodes, old_nodes, mirrored = equal_splits(tree, old_tree, to, source)
        values = old_out[torch.from_numpy(old_nodes)]
        values[torch.from_numpy(mirrored)] *= -1  # codes are -1 and 1 in the loss: what was likely stays likely
        _copy_rows(out_weight, torch.from_numpy(nodes), values)
        self.nodes = len(nodes)

    def line(self, config: TrainConfig) -> str:
        """Tell what a trainer's tables began with, after they were set; ``config`` names where it is from."""
        parts = []
        if self._old is not None:
            new = self._vocab_size - self.old_words
            parts.append(f"{self.old_words:,} words of {config.continue_from}, {new:,} new")
            if self.nodes is not None:
                parts.append(f"{self.nodes:,} of {len(self._old.words) - 1:,} nodes of its tree")
        if self._foreign is not None:
            parts.append(f"{self.intersected:,} of {len(self._foreign.words):,} vectors of {config.intersect}")
        if len(self.locked):
            parts.append(f"{len(self.locked):,} rows locked")
        return f"began with {'; '.join(parts)}"


def _shared_rows(vocab: Vocabulary, words: Sequence[str]) -> tuple[Tensor, Tensor]:
    """The rows of words that both have, in the vocabulary and among ``words``; the first of a word that comes twice."""
    first: dict[int, int] = {}
    for i, word in enumerate(words):
        row = vocab.word_to_id.get(word)
        if row is not None:
            first.setdefault(row, i)
    return torch.tensor(list(first), dtype=torch.int64), torch.tensor(list(first.values()), dtype=torch.int64)


def _subwords_of(old: ModelFiles, settings: SubwordSettings) -> SubwordTable:
    missing = [name for name in TENSORS if name not in old.extra]
    if missing:
        raise ValueError(f"continue_from: expected a model with {', '.join(TENSORS)}, got one without {missing[0]}")
    weight, buckets, rows = (old.extra[name].numpy() for name in TENSORS)
    try:
        _check_dim("subword_weight", weight.shape[-1], old.in_weight.shape[1])
        return SubwordTable(settings, len(old.words), weight.astype(np.float32, copy=False), buckets, rows)
    except ValueError as error:
        raise ValueError(f"continue_from: the n-grams do not fit the model: {error}") from error


def _copy_rows(weight: Tensor, rows: Tensor, values: Tensor) -> None:
    weight.index_copy_(0, rows.to(weight.device), values.to(weight.device, weight.dtype))


def _check_dim(name: str, got: int, dim: int) -> None:
    if got != dim:
        raise ValueError(f"{name}: expected vectors of dim = {dim}, got {got}")


class LockedRows(Method):
    """A method whose word vectors of some rows stay what they are.

    The kernels move every row. Those that are locked and occur in the text are set back after each ``PIECE`` of it,
    always at the same places, so that the result does not depend on how the trainer cuts an epoch; in between, the
    words around them see them moved by the steps of one piece. What is read from here is always the locked value.

    Args:
        inner: the method, its weights as they are to stay.
        rows: (L,) int64, the rows.
        ids: (N,) of the corpus, sentences of word ids closed by -1.

    Raises:
        ValueError: a method that does not learn from the ids.
    """

    def __init__(self, inner: Method, rows: Tensor, ids: np.ndarray) -> None:
        if inner.length != len(ids):
            raise ValueError("lock: expected a model that learns from the text word by word, got another")
        self.inner, self.weights, self.length, self.device = inner, inner.weights, inner.length, inner.device
        self.sorted_tables, self.points = inner.sorted_tables, inner.points
        self._ids = ids
        weight = self.weights["in_weight"]
        self._rows = rows.to(self.device)
        self._values = weight[self._rows].clone()
        self._place = torch.full((len(weight),), -1, dtype=torch.int64)  # of a locked row among them
        self._place[rows] = torch.arange(len(rows))

    def train(self, epoch: int, begin: int, end: int) -> tuple[float, int, int]:
        """Train on ``begin`` to ``end``, and set back the locked rows wherever a piece ends."""
        loss, pairs, words = 0.0, 0, 0
        while begin < end:
            piece_end = min((begin // PIECE + 1) * PIECE, self.length)
            stop = min(end, piece_end)
            part = self.inner.train(epoch, begin, stop)
            loss, pairs, words = loss + part[0], pairs + part[1], words + part[2]
            if stop == piece_end:
                self._restore(piece_end)
            begin = stop
        return loss, pairs, words

    def _restore(self, piece_end: int) -> None:
        """Set back the locked rows among the words of the sentences that began in the piece."""
        begin = (piece_end - 1) // PIECE * PIECE
        stop = piece_end
        while stop < self.length and self._ids[stop - 1] >= 0:  # to the end of the last sentence
            tail = np.flatnonzero(self._ids[stop : stop + 4096] < 0)
            stop += int(tail[0]) + 1 if len(tail) else 4096
        seen = np.bincount(self._ids[begin:stop] + 1, minlength=len(self._place) + 1)[1:]
        places = self._place[torch.from_numpy(np.flatnonzero(seen))]
        places = places[places >= 0].to(self.device)
        self.weights["in_weight"].index_copy_(0, self._rows[places], self._values[places])

    def word_vectors(self) -> Tensor:
        """As the method's, with the locked rows as they are to stay."""
        vectors = self.inner.word_vectors()
        return vectors.index_copy_(0, self._rows.cpu(), self._values.to("cpu", vectors.dtype))

    def saved_tensors(self) -> dict[str, Tensor]:
        """As the method's, with the locked rows as they are to stay."""
        tensors = dict(self.inner.saved_tensors())
        tensors["in_weight"] = self.word_vectors()
        return tensors

    @property
    def where(self) -> str:
        """As the method's."""
        return self.inner.where

    def metrics(self) -> dict:
        """As the method's, and how many rows are locked."""
        return {**self.inner.metrics(), "locked_rows": len(self._rows)}
