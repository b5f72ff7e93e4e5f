"""How good a classifier's answers are: precision and recall at k, and of each label."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from ..vocab import Vocabulary
from .lines import Lines
from .preparation import source_names


@dataclass(frozen=True)
class LabelReport:
    """One label's figures; None where nothing was predicted, or nothing is there to be found.

    Attributes:
        label: with its prefix.
        lines: that have it.
        predicted: lines it was predicted for.
        right: lines it was predicted for that have it.
    """

    label: str
    lines: int
    predicted: int
    right: int

    @property
    def precision(self) -> float | None:
        """Right / predicted."""
        return self.right / self.predicted if self.predicted else None

    @property
    def recall(self) -> float | None:
        """Right / lines."""
        return self.right / self.lines if self.lines else None

    @property
    def f1(self) -> float | None:
        """2 right / (lines + predicted), the harmonic mean of the two."""
        return 2 * self.right / (self.lines + self.predicted) if self.lines + self.predicted else None


@dataclass(frozen=True)
class Report:
    """What `TextClassifier.test` gives.

    Attributes:
        n: lines that have a label that the model knows.
        k, threshold: of the predictions.
        precision: of all predictions, the share that is right; None without any.
        recall: of all labels of the lines, the share that was predicted.
        labels: one report per label of the model.
        without_label: lines that have words and no label, which do not count.
        unknown_labels: label -> how often; labels that the model does not know, which do not count.
    """

    n: int
    k: int
    threshold: float
    precision: float | None
    recall: float | None
    labels: list[LabelReport]
    without_label: int
    unknown_labels: dict[str, int]

    def to_dict(self) -> dict[str, Any]:
        """As JSON values."""
        labels = [
            {**asdict(label), "precision": label.precision, "recall": label.recall, "f1": label.f1}
            for label in self.labels
        ]
        return {**{key: value for key, value in vars(self).items() if key != "labels"}, "labels": labels}

    def __str__(self) -> str:
        width = max(len(label.label) for label in self.labels)
        rows = [
            f"N    {self.n:,}",
            f"P@{self.k}  {_figure(self.precision)}",
            f"R@{self.k}  {_figure(self.recall)}",
            "",
            f"{'label':<{width}}  precision  recall      F1     lines",
        ]
        for label in self.labels:
            figures = f"{_figure(label.precision):>9}  {_figure(label.recall):>6}  {_figure(label.f1):>6}"
            rows.append(f"{label.label:<{width}}  {figures}  {label.lines:>8,}")
        return "\n".join(rows)


def _figure(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"


def count_answers(
    answers: np.ndarray, labels: np.ndarray, label_ends: np.ndarray, num_labels: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Count for each label the lines that have it, those it was predicted for, and those where that is right.

    Args:
        answers: (N, k) integers, -1 where there is none.
        labels, label_ends: line i has labels[label_ends[i-1]:label_ends[i]], each once.
        num_labels: L.

    Returns:
        Three times (L,) int64.
    """
    line = np.repeat(np.arange(len(label_ends)), np.diff(label_ends, prepend=0))
    given = answers >= 0
    answered_line = np.broadcast_to(np.arange(len(answers))[:, None], answers.shape)[given]
    answered = answers[given].astype(np.int64)
    right = np.isin(answered_line * num_labels + answered, line * num_labels + labels)
    counts = (labels, answered, answered[right])
    return tuple(np.bincount(array, minlength=num_labels) for array in counts)


def judge(lines: Lines, labels: Vocabulary, answer: Callable[[], np.ndarray], k: int, threshold: float) -> Report:
    """Compare answers with the labels of lines; see `TextClassifier.test`.

    Args:
        lines: N lines.
        labels: that the model knows.
        answer: gives the places (N, k) in `labels` that are predicted, -1 where there is none.
        k, threshold: of the answers, for the report.
    """
    here = labels.word_to_id
    place = np.array([here.get(name, -1) for name in lines.labels], np.int64)
    unknown = {
        name: int(count) for name, count, row in zip(lines.labels, lines.label_counts, place, strict=True) if row < 0
    }
    bare = np.flatnonzero((lines.labels_per_line == 0) & ~lines.is_blank())
    if len(bare):
        warnings.warn(
            f"input: {len(bare):,} of {len(lines):,} lines have no label and do not count (the first is "
            f"{lines.name_of(int(bare[0]))})",
            stacklevel=4,
        )
    if unknown:
        shown = ", ".join(f"{name} ({count:,})" for name, count in list(unknown.items())[:5])
        more = f" and {len(unknown) - 5:,} more" if len(unknown) > 5 else ""
        warnings.warn(f"input: labels that the model does not know do not count: {shown}{more}", stacklevel=4)
    line = np.repeat(np.arange(len(lines)), lines.labels_per_line)
    gold = place[lines.line_labels]
    pairs = np.unique((line * len(labels) + gold)[gold >= 0])  # a label twice on a line is one
    line, gold = np.divmod(pairs, len(labels))
    counted = np.unique(line)
    if not len(counted):
        raise ValueError(f"input: expected lines with labels that the model knows, {source_names(lines)} has none")
    answers = answer()
    ends = np.searchsorted(line, counted, side="right")
    found = count_answers(answers[counted], gold, ends, len(labels))
    columns = (column.tolist() for column in found)
    reports = [LabelReport(*row) for row in zip(labels.words, *columns, strict=True)]
    there, predicted, right = (int(column.sum()) for column in found)
    return Report(
        n=len(counted),
        k=k,
        threshold=threshold,
        precision=right / predicted if predicted else None,
        recall=right / there,
        labels=reports,
        without_label=len(bare),
        unknown_labels=unknown,
    )
