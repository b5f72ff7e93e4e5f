"""What comes before training: which lines, labels and words take part, and the vectors to begin with."""

from __future__ import annotations

import os
import warnings
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from ..formats import load_vectors
from .config import ClassifierConfig
from .lines import Lines


def source_names(lines: Lines) -> str:
    """What the lines were read from, for messages."""
    names = ["standard input" if name == "-" else name for name, _ in lines.sources]
    return ", ".join(names[:3]) + (" ..." if len(names) > 3 else "")


def choose_labels(lines: Lines, config: ClassifierConfig) -> tuple[Lines, np.ndarray]:
    """Leave out rare labels, and warn of what is odd.

    Returns:
        The lines, and the places (E,) int32 of those that have a label.

    Warns:
        UserWarning: lines without a label, labels that occur once.

    Raises:
        ValueError: no line has a label, or all have the same one.
    """
    if not len(lines) or lines.is_blank().all():
        raise ValueError(f"input: expected lines of labels and text, {source_names(lines)} has none")
    if not lines.labels:
        raise ValueError(
            f"input: expected lines with labels, which begin with {config.label!r}; none of the {len(lines):,} "
            f"lines has one (the first is {lines.name_of(0)})"
        )
    bare = np.flatnonzero((lines.labels_per_line == 0) & ~lines.is_blank())
    if len(bare):
        warnings.warn(
            f"input: {len(bare):,} of {len(lines):,} lines have no label and are left out (the first is "
            f"{lines.name_of(int(bare[0]))})",
            stacklevel=3,
        )
    once = [name for name, count in zip(lines.labels, lines.label_counts, strict=True) if count == 1]
    kept = int((lines.label_counts >= config.min_count_label).sum())
    if once and config.min_count_label < 2:
        shown = ", ".join(once[:5]) + (f" and {len(once) - 5:,} more" if len(once) > 5 else "")
        warnings.warn(f"input: seen once, too seldom to be learnt: {shown}", stacklevel=3)
    if kept < 2:
        raise ValueError(
            f"input: expected at least two different labels, got {kept} that occur {config.min_count_label} times"
            if kept < len(lines.labels)
            else f"input: expected at least two different labels, got {lines.labels[0]} on every line"
        )
    if kept < len(lines.labels):
        keep = lines.line_labels < kept
        ends = np.concatenate([[0], np.cumsum(keep)])[lines.label_ends]
        lines = replace(
            lines,
            labels=lines.labels[:kept],
            label_counts=lines.label_counts[:kept],
            line_labels=lines.line_labels[keep],
            label_ends=ends,
        )
    return lines, np.flatnonzero(lines.labels_per_line > 0).astype(np.int32)


def read_pretrained(
    path: str, dim: int, words: list[str], counts: np.ndarray
) -> tuple[list[str], np.ndarray, tuple[Tensor, Tensor]]:
    """Read vectors to begin with.

    Args:
        path: of the vectors, in any format.
        dim: that they must have.
        words, counts: of the lines.

    Returns:
        The words, those that only have a vector behind the others, as in fastText; their counts, 0 for these; and the
        places of the words that have a vector, with the vectors.

    Warns:
        UserWarning: none of the words of the lines has a vector.

    Raises:
        FileNotFoundError: there is no such path.
        ValueError: the vectors have another dimension.
    """
    if not os.path.exists(path):
        raise FileNotFoundError(f"pretrained: no such file or directory: {path}")
    table = load_vectors(path)
    if table.vectors.shape[1] != dim:
        raise ValueError(f"dim: expected {table.vectors.shape[1]}, as the vectors of {path} have, got {dim}")
    place = {word: i for i, word in enumerate(words)}
    new = [word for word in table.words if word not in place and word and not set(word) & set("\t\n\r")]
    place.update((word, i) for i, word in enumerate(new, len(words)))
    found = [(place[word], i) for i, word in enumerate(table.words) if word in place]
    if len(found) == len(new):
        warnings.warn(f"pretrained: {path} has none of the words of the input", stacklevel=4)
    rows, theirs = (torch.tensor(column) for column in zip(*found, strict=True)) if found else 2 * [torch.empty(0)]
    vectors = torch.from_numpy(np.ascontiguousarray(table.vectors, np.float32))[theirs.long()]
    counts = np.concatenate([counts, np.zeros(len(new), np.int64)])
    return words + new, counts, (rows.long(), vectors)
