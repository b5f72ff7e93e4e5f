"""Which words go on a map, and which group each belongs to."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from .keyedvectors import KeyedVectors
from .themes import Themes, check_themes

DEFAULT_TOP = 200


@dataclass(frozen=True)
class Selection:
    """Words of a map, most important label first.

    Attributes:
        rows: (n,) their rows in the vectors.
        groups: (n,) index into `names`, or -1.
        names: of the groups.
        missing: asked for, and not in the vocabulary (or without a finite vector).
    """

    rows: np.ndarray
    groups: np.ndarray
    names: list[str]
    missing: list[str]


def select_words(
    vectors: KeyedVectors,
    *,
    words: Sequence[str] = (),
    themes: Themes | None = None,
    around: Sequence[str] = (),
    neighbors: int = 12,
    top: int | None = None,
    skip: int = 0,
    clusters: int = 0,
    seed: int = 0,
) -> Selection:
    """Collect the words of a map; a word that is asked for twice keeps its first group.

    Args:
        vectors: where they come from.
        words: single words, in no group.
        themes: name -> words; a group each.
        around: words that are each a group with their `neighbors` nearest.
        neighbors: how many of those.
        top: this many words from the head of the vocabulary, in no group; 200 where nothing else is asked for.
        skip: leave out that many words at the head of the vocabulary (in many languages the first hundred say little).
        clusters: cut the words that are in no group into this many groups by k-means (scikit-learn), each named by its
            three most central words.
        seed: of k-means.

    Raises:
        ValueError: a number out of range, or fewer than two of the words are in the vocabulary.
        ImportError: `clusters` needs scikit-learn; it names the extra.
    """
    for name, number in (("neighbors", neighbors), ("skip", skip), ("clusters", clusters), ("top", top or 0)):
        if number < 0:
            raise ValueError(f"{name}: expected a number >= 0, got {number}")
    groups = check_themes(themes)
    chosen: dict[int, int] = {}  # row -> group
    missing: list[str] = []
    names: list[str] = []
    norms = vectors.norms

    def take(word: str, group: int) -> None:
        row = vectors.key_to_index.get(word)
        if row is None or not np.isfinite(norms[row]) or norms[row] == 0:
            missing.append(word)
        else:
            chosen.setdefault(row, group)

    for name, members in groups.items():
        names.append(name)
        for word in members:
            take(word, len(names) - 1)
    for center in around:
        names.append(center)
        take(center, len(names) - 1)
        if center in vectors:
            for word, _ in vectors.most_similar(center, topn=neighbors):
                take(word, len(names) - 1)
    for word in words:
        take(word, -1)
    if top is None:
        top = 0 if chosen or missing else DEFAULT_TOP
    usable = np.flatnonzero(np.isfinite(norms) & (norms > 0))
    for row in usable[skip : skip + top].tolist():
        chosen.setdefault(row, -1)
    if len(chosen) < 2:
        absent = f"; not in the vocabulary: {', '.join(missing[:10])}" if missing else ""
        raise ValueError(f"words: expected at least two words of the vocabulary for a map, got {len(chosen)}{absent}")
    rows = np.fromiter(chosen, np.int64)
    group = np.fromiter(chosen.values(), np.int64)
    if clusters:
        _cluster(vectors, rows, group, names, clusters, seed)
    return Selection(rows, group, names, list(dict.fromkeys(missing)))


def _cluster(
    vectors: KeyedVectors, rows: np.ndarray, group: np.ndarray, names: list[str], clusters: int, seed: int
) -> None:
    try:
        from sklearn.cluster import KMeans
    except ImportError as error:
        raise ImportError("clusters: k-means needs scikit-learn: pip install 'w2v_ext[viz]'") from error
    free = np.flatnonzero(group < 0)
    if len(free) < clusters:
        raise ValueError(f"clusters: expected at most as many as words in no group, {len(free)}, got {clusters}")
    units = vectors.vectors[rows[free]] / vectors.norms[rows[free]][:, None]
    means = KMeans(clusters, n_init=4, random_state=seed).fit(units)
    closeness = (units * means.cluster_centers_[means.labels_]).sum(axis=1)
    for cluster in range(clusters):
        members = np.flatnonzero(means.labels_ == cluster)
        central = members[np.argsort(-closeness[members], kind="stable")][:3]
        group[free[members]] = len(names)
        names.append(", ".join(vectors.index_to_key[rows[free[i]]] for i in central))
