"""The classifier: fit, load, predict, test, save."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from ..tables import padded_weight
from ..trainer import TrainingError
from ..vocab import Vocabulary
from . import ops
from .config import ClassifierConfig
from .devices import CpuLines, lines_on, training_device
from .files import ClassifierFiles, load_classifier, save_classifier
from .lines import Encoded, Lines, Progress, Sources, encode_lines, encode_words, read_lines, text_lines
from .preparation import choose_labels, read_pretrained
from .report import Report, judge
from .tree import LabelTree, label_tree

_SLICE_SECONDS = 0.2  # between two looks at the keyboard and the progress bar

Prediction = list[tuple[str, float]]


@dataclass
class FitState:
    """How far a training is.

    Attributes:
        examples, total: lines trained on, and in all epochs together; words: their words, in the vocabulary or not.
        epoch: epochs that are over; losses: their mean losses per line.
        lr: at this point; loss: of the slice of lines just trained on, per line.
        read_seconds, prepare_seconds, train_seconds: of wall time.
    """

    examples: int = 0
    total: int = 0
    words: int = 0
    epoch: int = 0
    losses: list[float] = field(default_factory=list)
    lr: float = 0.0
    loss: float = math.nan
    read_seconds: float = 0.0
    prepare_seconds: float = 0.0
    train_seconds: float = 0.0


class TextClassifier:
    """Text classification as fastText does it: a linear model of the mean of the vectors of a line's words, subwords
    and runs of words (Joulin et al. 2017, "Bag of tricks for efficient text classification").

    Args:
        config: the settings; or
        settings: single ones of them, see `ClassifierConfig`.

    Attributes:
        config: the settings.
        words, labels: `Vocabulary`: the words that have a vector, and the labels, with their prefix.
        in_weight: (R, D) float32, rows of words and then of buckets; out_weight: (L, D), or (L - 1, D) for ``hs``.
        state: how far the training is, or was.

    Example::

        model = TextClassifier(word_ngrams=2, epochs=10).fit("train.txt")
        model.predict(["a film to remember"])    # [[("__label__good", 0.98)]]
        print(model.test("test.txt").precision)
        model.save("reviews")
    """

    def __init__(self, config: ClassifierConfig | None = None, **settings: Any) -> None:
        if config is not None and settings:
            raise TypeError(f"config: expected either it or settings, got it and {', '.join(settings)}")
        self.config = config if config is not None else ClassifierConfig.from_dict(settings)
        self.state = FitState()
        self.words = self.labels = Vocabulary([], [])
        self.in_weight = self.out_weight = torch.empty(0, self.config.dim)
        self._bucket_rows = np.empty(0, np.int32)
        self._tree: LabelTree | None = None
        self._place: dict[str, Any] = {}

    def __repr__(self) -> str:
        return f"TextClassifier({len(self.words)} words, {len(self.labels)} labels, dim {self.config.dim})"

    # ---- training ------------------------------------------------------------------------------------------------

    def fit(
        self,
        source: Sources | Iterable[str],
        labels: Iterable[str | Sequence[str]] | None = None,
        *,
        on_progress: Callable[[TextClassifier], None] | None = None,
        on_epoch: Callable[[TextClassifier], None] | None = None,
        reading: Progress | None = None,
    ) -> TextClassifier:
        """Train from the beginning.

        Args:
            source: files of lines ``__label__x text`` (plain, .gz, .xz, .zst), directories, or ``-`` for standard
                input; or, with `labels`, texts.
            labels: the label, or labels, of each text, with or without the prefix.
            on_progress: called a few times a second with this classifier.
            on_epoch: called after each epoch.
            reading: called while reading with the bytes done, and of how many.

        Returns:
            This classifier.

        Warns:
            UserWarning: lines without a label, labels that occur once.

        Raises:
            ValueError: no line has a label, all have the same one, no word is left, `pretrained` does not fit `dim`.
            TrainingError: the loss is no longer finite; the device cannot be used, or is too small.
            OSError: a file cannot be read.
        """
        config, started = self.config, time.perf_counter()
        self.state, device = FitState(), training_device(config)
        if labels is None:
            lines = read_lines(
                source, label=config.label, errors=config.errors, threads=config.num_threads, progress=reading
            )
        else:
            if isinstance(source, (str, bytes)):
                raise TypeError("source: expected texts beside labels, got one string")
            lines = encode_lines(text_lines(source, self._prefixed(labels)), label=config.label, name="texts")
        read = time.perf_counter()
        self.state.read_seconds = read - started
        lines, examples = choose_labels(lines, config)
        self.labels = Vocabulary(lines.labels, lines.label_counts)
        encoded = self._prepare(lines, examples)
        self.state.prepare_seconds = time.perf_counter() - read
        place = lines_on(device, config, (self.in_weight, self.out_weight), encoded, lines, self._tree)
        self._place = place.metrics()
        try:
            self._train(place, lines, examples, on_progress, on_epoch)
        finally:
            place.finish()
        return self

    def _prefixed(self, labels: Iterable[str | Sequence[str]]) -> Iterable[Sequence[str]]:
        prefix = self.config.label
        for names in labels:
            names = [names] if isinstance(names, str) else names
            if not isinstance(names, Iterable):
                raise TypeError(f"labels: expected a string, or several, for each text, got {names!r}")
            yield [name if not isinstance(name, str) or name.startswith(prefix) else prefix + name for name in names]

    def _prepare(self, lines: Lines, examples: np.ndarray) -> Encoded:
        """Choose the words, number the buckets that occur, and make the weights."""
        config = self.config
        kept = int((lines.word_counts >= config.min_count).sum())
        words, counts = lines.words[:kept], lines.word_counts[:kept]
        pretrained = None
        if config.pretrained is not None:
            words, counts, pretrained = read_pretrained(config.pretrained, config.dim, words, counts)
        if not words:
            raise ValueError(
                f"min_count: no word is seen {config.min_count} times; the largest count is {lines.word_counts.max()}"
            )
        self.words = Vocabulary(words, counts)
        # A word of the lines that is rare may yet have a pretrained vector.
        known = np.full(len(lines.words), -1, np.int64)
        known[:kept] = np.arange(kept)
        if len(words) > kept:
            place = {word: i for i, word in enumerate(words[kept:], kept)}
            known[kept:] = [place.get(word, -1) for word in lines.words[kept:]]

        self._bucket_rows = np.full(config.buckets if config.word_ngrams > 1 or config.max_n else 0, -1, np.int32)
        encoded, rows = encode_words(
            *(lines, known, self._bucket_rows),
            word_ngrams=config.word_ngrams,
            min_n=config.min_n,
            max_n=config.max_n,
            used=examples,
            number_from=len(words),
        )
        self.in_weight = padded_weight(rows, config.dim)
        generator = torch.Generator().manual_seed(config.seed)
        self.in_weight[: len(words)].uniform_(-1 / config.dim, 1 / config.dim, generator=generator)
        if pretrained is not None:
            self.in_weight[pretrained[0]] = pretrained[1]
        hierarchical = config.loss == "hs"
        self._tree = label_tree(self.labels.counts) if hierarchical else None
        self.out_weight = padded_weight(len(self.labels) - hierarchical, config.dim)
        return encoded

    def _train(
        self,
        place: CpuLines,
        lines: Lines,
        examples: np.ndarray,
        on_progress: Callable[[TextClassifier], None] | None,
        on_epoch: Callable[[TextClassifier], None] | None,
    ) -> None:
        config, state = self.config, self.state
        generator = torch.Generator().manual_seed(config.seed)
        chosen = torch.from_numpy(examples)
        words = int(np.diff(lines.ends, prepend=0)[examples].sum())
        state.total = len(examples) * config.epochs
        size = max(1, len(examples) // 64)
        for epoch in range(config.epochs):
            order = chosen[torch.randperm(len(chosen), generator=generator)]
            begin, total, trained = 0, 0.0, 0
            while begin < len(order):
                end = min(begin + size, len(order))
                loss, count = place.train(order, epoch, begin, end)
                seconds, state.train_seconds = place.seconds - state.train_seconds, place.seconds
                if not math.isfinite(loss):
                    raise TrainingError(
                        f"lr: the loss became {loss} in epoch {epoch + 1}; the model has diverged, try a learning rate "
                        f"below {config.lr}"
                    )
                begin, total, trained = end, total + loss, trained + count
                done = epoch + end / len(order)
                state.examples, state.words = epoch * len(order) + end, int(words * done)
                state.loss, state.lr = loss / max(count, 1), config.lr * (1 - done / config.epochs)
                wanted = max(size * _SLICE_SECONDS / max(seconds, 1e-3), 256)
                size = int(min(wanted, 4 * size + 256, len(order)))
                if on_progress is not None:
                    on_progress(self)
            if not trained:
                raise ValueError(f"min_count: no line has a word that is seen {config.min_count} times")
            state.losses.append(total / trained)
            state.epoch = epoch + 1
            if on_epoch is not None:
                on_epoch(self)

    def metrics(self) -> dict[str, Any]:
        """Speed and loss of the training; rates are per second of wall time in the kernel."""
        state = self.state
        return {
            "words_per_second": state.words / max(state.train_seconds, 1e-9),
            "lines_per_second": state.examples / max(state.train_seconds, 1e-9),
            "read_seconds": state.read_seconds,
            "prepare_seconds": state.prepare_seconds,
            "train_seconds": state.train_seconds,
            "loss": list(state.losses),
            "vocab_size": len(self.words),
            "buckets_used": len(self.in_weight) - len(self.words),
            "labels": len(self.labels),
            "torch": torch.__version__,
            **self._place,
        }

    # ---- using it ------------------------------------------------------------------------------------------------

    def predict(self, texts: str | Iterable[str], k: int = 1, threshold: float = 0.0) -> Prediction | list[Prediction]:
        """Find the most probable labels.

        Args:
            texts: one text, or several; labels in them are passed over, and a line break is a space.
            k: how many labels.
            threshold: labels below this probability are left out.

        Returns:
            For one text a list of (label, probability), the most probable first; for several, a list of such lists.

        Raises:
            ValueError: `k` or `threshold` out of range; the classifier has not been fitted.
        """
        several = [texts] if isinstance(texts, str) else texts
        found = self.predict_lines(encode_lines(text_lines(several), label=self.config.label), k, threshold)
        return found[0] if isinstance(texts, str) else found

    def predict_lines(self, lines: Lines, k: int = 1, threshold: float = 0.0) -> list[Prediction]:
        """Find the most probable labels of encoded lines; see `predict`."""
        labels, probabilities = self._answer(lines, k, threshold)
        names = self.labels.words
        return [
            [(names[label], probability) for label, probability in zip(*pair, strict=True) if label >= 0]
            for pair in zip(labels.tolist(), probabilities.tolist(), strict=True)
        ]

    def test(self, source: Sources, k: int = 1, threshold: float = 0.0, *, reading: Progress | None = None) -> Report:
        """Compare the predictions for labelled lines with their labels.

        Args:
            source: as in `fit`.
            k: labels predicted for each line.
            threshold: labels below this probability are not predicted.
            reading: called while reading with the bytes done, and of how many.

        Warns:
            UserWarning: lines without a label, labels that the model does not know; neither counts.

        Raises:
            ValueError: no line has a label that the model knows.
        """
        config = self.config
        lines = read_lines(
            source, label=config.label, errors=config.errors, threads=config.num_threads, progress=reading
        )
        return self.test_lines(lines, k, threshold)

    def test_lines(self, lines: Lines, k: int = 1, threshold: float = 0.0) -> Report:
        """Compare the predictions for encoded lines with their labels; see `test`."""
        self._check_fitted()
        return judge(lines, self.labels, lambda: self._answer(lines, k, threshold)[0], k, threshold)

    def _check_fitted(self) -> None:
        if not len(self.labels):
            raise ValueError("the classifier has not been fitted or loaded")

    def _answer(self, lines: Lines, k: int, threshold: float) -> tuple[np.ndarray, np.ndarray]:
        """Labels (N, k) int32 and probabilities (N, k) float32 of lines."""
        self._check_fitted()
        if isinstance(k, bool) or not isinstance(k, int) or k < 1:
            raise ValueError(f"k: expected an integer >= 1, got {k!r}")
        if isinstance(threshold, bool) or not isinstance(threshold, (int, float)) or math.isnan(threshold):
            raise ValueError(f"threshold: expected a number, got {threshold!r}")
        config, place = self.config, self.words.word_to_id
        known = np.fromiter((place.get(word, -1) for word in lines.words), np.int64, len(lines.words))
        encoded, _ = encode_words(
            *(lines, known, self._bucket_rows),
            word_ngrams=config.word_ngrams,
            min_n=config.min_n,
            max_n=config.max_n,
            threads=config.num_threads,
        )
        children = self._tree.children if self._tree is not None else np.empty(0, np.int32)
        labels, probabilities = ops.classify(
            self.in_weight,
            self.out_weight,
            encoded,
            torch.from_numpy(children),
            loss=config.loss,
            k=min(k, len(self.labels)),
            threshold=float(threshold),
            threads=config.num_threads,
        )
        return labels.numpy(), probabilities.numpy()

    # ---- files ---------------------------------------------------------------------------------------------------

    def save(self, directory: str | os.PathLike[str]) -> None:
        """Write a directory that `load` reads; see `files`. Nothing is half-written.

        Raises:
            ValueError: not fitted; a word or label that its file cannot hold.
            OSError: the directory cannot be written.
        """
        self._check_fitted()
        num_words = len(self.words)
        used = np.flatnonzero(self._bucket_rows >= 0)
        buckets = np.empty(len(used), np.int32)
        buckets[self._bucket_rows[used] - num_words] = used
        save_classifier(
            directory,
            ClassifierFiles(
                self.words,
                self.labels,
                self.in_weight[:num_words],
                self.in_weight[num_words:],
                torch.from_numpy(buckets),
                self.out_weight,
                self.config.to_dict(),
            ),
            self.metrics() if self.state.examples else None,
        )

    @classmethod
    def load(cls, path: str | os.PathLike[str], *, threads: int = 0) -> TextClassifier:
        """Read what `save` wrote, or a supervised `.bin` of fastText.

        Args:
            path: a directory or a file.
            threads: to predict with; 0 takes all cores.

        Raises:
            FileNotFoundError: there is no such path.
            FormatError: a file is missing or damaged, or this is no classifier.
        """
        files = load_classifier(path)
        settings = {**files.config, "threads": threads}
        model = cls(ClassifierConfig.from_dict(settings, f"{path}"))
        config, num_words = model.config, len(files.words)
        model.words, model.labels = files.words, files.labels
        model.in_weight = padded_weight(num_words + len(files.buckets), config.dim)
        model.in_weight[:num_words] = files.word_weight
        model.in_weight[num_words:] = files.bucket_weight
        model.out_weight = padded_weight(len(files.label_weight), config.dim)
        model.out_weight.copy_(files.label_weight)
        model._bucket_rows = np.full(config.buckets if config.word_ngrams > 1 or config.max_n else 0, -1, np.int32)
        if len(files.buckets):
            model._bucket_rows[files.buckets.numpy()] = np.arange(num_words, len(model.in_weight))
        model._tree = label_tree(files.labels.counts) if config.loss == "hs" else None
        return model
