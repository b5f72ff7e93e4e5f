"""Word vectors against groups of words that belong together: clusters found again, and the odd one out."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from .keyedvectors import KeyedVectors

PathLike = str | os.PathLike[str]


@dataclass(frozen=True)
class Clusters:
    """How k-means of the word vectors agrees with given groups.

    Attributes:
        purity: the part of the words that belong to the largest group of their cluster.
        nmi: normalised mutual information, 2 I(clusters; groups) / (H(clusters) + H(groups)), 0 to 1.
        words, groups: how many were compared.
        oov: words that are not in the vocabulary, or in several groups: left out.
    """

    purity: float
    nmi: float
    words: int
    groups: int
    oov: int


@dataclass(frozen=True)
class Outliers:
    """How well words that do not belong to a group are told from it (Camacho-Collados and Navigli 2016).

    Attributes:
        accuracy: the part of the tests in which the outlier was the word least similar to the others.
        opp: outlier position percentage: its mean place by similarity, 100 for the least similar, in percent.
        tests: how many (group, outlier) were tested.
        oov: outliers and group words that are not in the vocabulary: left out.
    """

    accuracy: float
    opp: float
    tests: int
    oov: int


def read_groups(path: PathLike) -> dict[str, list[str]]:
    """Read groups of words: a line `: name`, then its words, any number a line; # begins a comment line.

    Raises:
        ValueError: a word stands before the first name, a name comes twice, or there are no groups.
    """
    groups: dict[str, list[str]] = {}
    words: list[str] | None = None
    for number, line in enumerate(Path(path).read_text(encoding="utf-8").splitlines(), 1):
        if line.startswith(":"):
            name = line.lstrip(": ").strip()
            if name in groups:
                raise ValueError(f"{path}: line {number}: the group {name!r} comes twice")
            words = groups[name] = []
        elif line.strip() and not line.startswith("#"):
            if words is None:
                raise ValueError(f"{path}: line {number}: expected a group (': name') before the first word")
            words += line.split()
    if not groups:
        raise ValueError(f"{path}: expected groups (': name', then words), got none")
    return groups


def read_outliers(path: PathLike) -> tuple[list[str], list[str]]:
    """Read one test of the 8-8-8 kind: the group's words, one a line, an empty line, the outliers, one a line.

    Raises:
        ValueError: there are not two such parts.
    """
    parts: list[list[str]] = [[]]
    for line in Path(path).read_text(encoding="utf-8").splitlines():
        if line.strip():
            parts[-1].append(line.strip())
        elif parts[-1]:
            parts.append([])
    parts = [part for part in parts if part]
    if len(parts) != 2:
        raise ValueError(f"{path}: expected the words of a group, an empty line and outliers, got {len(parts)} parts")
    return parts[0], parts[1]


def evaluate_clusters(
    vectors: KeyedVectors, groups: Mapping[str, Sequence[str]], *, restarts: int = 10, seed: int = 0
) -> Clusters:
    """Cluster the groups' words by k-means of their unit vectors, k the number of groups, and compare.

    The best of `restarts` runs, by the sum of squares, counts; the same seed gives the same figures.

    Raises:
        ValueError: fewer than two groups have a word in the vocabulary.
    """
    owner: dict[str, str | None] = {}
    for name, words in groups.items():
        for word in dict.fromkeys(words):
            owner[word] = None if word in owner else name
    known = [word for word, name in owner.items() if name is not None and word in vectors]
    names = sorted({owner[word] for word in known})
    if len(names) < 2:
        raise ValueError(f"groups: expected words of at least two in the vocabulary, got {len(names)}")
    units = np.stack([vectors.get_vector(word, norm=True) for word in known]).astype(np.float64)
    rng = np.random.default_rng(seed)
    runs = [_kmeans(units, len(names), rng) for _ in range(restarts)]
    found = min(runs, key=lambda run: run[0])[1]
    table = np.zeros((len(names), len(names)))  # (clusters, groups)
    np.add.at(table, (found, [names.index(owner[word]) for word in known]), 1)
    joint = table / len(known)
    each, other = joint.sum(axis=1), joint.sum(axis=0)
    filled = joint > 0
    information = float((joint[filled] * np.log(joint[filled] / np.outer(each, other)[filled])).sum())
    entropies = sum(float(-(p[p > 0] * np.log(p[p > 0])).sum()) for p in (each, other))
    return Clusters(
        purity=float(table.max(axis=1).sum() / len(known)),
        nmi=max(0.0, 2 * information / entropies),
        words=len(known),
        groups=len(names),
        oov=len(owner) - len(known),
    )


def _kmeans(points: np.ndarray, k: int, rng: np.random.Generator) -> tuple[float, np.ndarray]:
    """Return the sum of squares and the cluster (n,) of each point (n, D): Lloyd's method from k-means++ centres."""
    centres = points[[rng.integers(len(points))]]
    squares = ((points - centres[0]) ** 2).sum(axis=1)
    while len(centres) < k:
        total = squares.sum()
        pick = rng.choice(len(points), p=squares / total if total > 0 else None)
        centres = np.vstack([centres, points[pick]])
        squares = np.minimum(squares, ((points - points[pick]) ** 2).sum(axis=1))
    cluster = np.full(len(points), -1)
    for _ in range(300):
        distances = (points**2).sum(axis=1)[:, None] - 2 * points @ centres.T + (centres**2).sum(axis=1)
        before, cluster = cluster, distances.argmin(axis=1)
        if (before == cluster).all():
            break
        for c in np.unique(cluster):  # an empty cluster stays where it was
            centres[c] = points[cluster == c].mean(axis=0)
    return float(distances.min(axis=1).sum()), cluster


def evaluate_outliers(
    vectors: KeyedVectors, tests: Mapping[str, Sequence[str]] | Sequence[tuple[Sequence[str], Sequence[str]]]
) -> Outliers:
    """Put each outlier among the words of its group, and see whether it is the least similar to all the others.

    Args:
        vectors: the words.
        tests: (group, outliers) pairs; or groups by name, when the words of all other groups are each one's outliers.

    Raises:
        ValueError: no group of two known words has a known outlier.
    """
    if isinstance(tests, Mapping):
        groups = {name: list(dict.fromkeys(words)) for name, words in tests.items()}
        tests = [
            (words, [w for other in groups if other != name for w in groups[other] if w not in words])
            for name, words in groups.items()
        ]
    places: list[float] = []
    unknown: set[str] = set()
    for group, outliers in tests:
        unknown.update(word for word in (*group, *outliers) if word not in vectors)
        inside = [word for word in dict.fromkeys(group) if word in vectors]
        outside = [word for word in dict.fromkeys(outliers) if word in vectors]
        if len(inside) < 2 or not outside:
            continue
        units = np.stack([vectors.get_vector(word, norm=True) for word in inside]).astype(np.float64)  # (n, D)
        strangers = np.stack([vectors.get_vector(word, norm=True) for word in outside]).astype(np.float64)  # (m, D)
        near = units @ units.T
        own = near.sum(axis=1) - np.diag(near)  # (n,) similarity of each word to the rest of its group
        cross = strangers @ units.T  # (m, n)
        # The place of the outlier: how many words of the group are more similar to all the others than it is.
        places += ((own + cross) > cross.sum(axis=1, keepdims=True)).mean(axis=1).tolist()
    if not places:
        raise ValueError("tests: no group of two known words has a known outlier")
    return Outliers(
        accuracy=float(np.mean(np.array(places) == 1)),
        opp=100 * float(np.mean(places)),
        tests=len(places),
        oov=len(unknown),
    )
