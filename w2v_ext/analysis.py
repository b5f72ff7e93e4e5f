"""How good are these vectors, seen from inside: a report of figures that need no test set.

What each figure means and costs stands in `quality` and in `geometry`. Rows that are zero or not finite have no
direction: they are counted and named, and left out of every figure.
"""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Sequence

import numpy as np

from . import geometry
from .correlation import spearman
from .keyedvectors import KeyedVectors
from .nearest import as_device
from .quality import (
    Anomaly,
    Distribution,
    FrequencyBand,
    FrequencyNorms,
    Isotropy,
    PairSimilarity,
    QualityReport,
    ThemeFigures,
)
from .themes import Themes, check_themes

PAIR_WORDS = 50_000
SAMPLE_PAIRS = 1_000_000
_QUANTILES = (0.001, 0.01, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99, 0.999)
_LISTED = 50  # anomalies that are listed; all are counted
_SCATTER = 4000  # words of the picture of frequency against norm


def analyze_embedding_quality(
    vectors: KeyedVectors,
    *,
    themes: Themes | None = None,
    pairs: Sequence[tuple[str, str]] = (),
    top_pairs: int = 20,
    k_sigma: float = 3.0,
    pair_words: int | None = PAIR_WORDS,
    sample_pairs: int = SAMPLE_PAIRS,
    seed: int = 0,
    device: str = "cpu",
) -> QualityReport:
    """Judge word vectors from inside: similar pairs, themes, norms, similarities, anomalies, isotropy, frequency.

    Nothing of size V × V is made. The mean and standard deviation of the cosines of all pairs are exact, at V·D²
    multiply-adds. The most similar pairs cost n²·D/2 for the first n = `pair_words` words (50,000 words of dimension
    100: seconds on two cores); quantiles and histogram of the similarities come from `sample_pairs` random pairs. Both
    limits are said in `notes` where they bite.

    Args:
        vectors: V words, in order of falling frequency where `pair_words` shall mean the most frequent.
        themes: name -> words that belong together.
        pairs: pairs of words whose cosine is wanted.
        top_pairs: how many of the most similar pairs are listed.
        k_sigma: a norm further than this many standard deviations from the mean is an anomaly.
        pair_words: how many words are searched for the most similar pairs; None for all.
        sample_pairs: random pairs of the histogram; where there are no more than this many, all are taken.
        seed: of the random pairs.
        device: "cpu" or "cuda", where the matrix products run.

    Raises:
        ValueError: an argument out of range, no word with a direction, or a theme that is no list of words.
    """
    _check(top_pairs, k_sigma, pair_words, sample_pairs)
    device = str(as_device(device))
    groups = check_themes(themes)
    started = time.perf_counter()
    norms = vectors.norms.astype(np.float64)
    usable = np.isfinite(norms) & (norms > 0)  # a row with a NaN has no finite norm
    rows = np.flatnonzero(usable)
    if not len(rows):
        raise ValueError(f"vectors: expected at least one that is finite and not zero, got none of {len(vectors)}")
    zero, nonfinite = np.flatnonzero(norms == 0), np.flatnonzero(~np.isfinite(norms))
    notes = [
        f"{len(bad):,} {kind} vectors are left out of all figures"
        for bad, kind in ((zero, "zero"), (nonfinite, "non-finite"))
        if len(bad)
    ]

    sums = geometry.moments(vectors.vectors, rows, device)
    cosines = geometry.sample_cosines(vectors.vectors, rows, sample_pairs, seed)
    total_pairs = len(rows) * (len(rows) - 1) // 2
    if len(cosines) < total_pairs:
        notes.append(
            f"similarity histogram, quantiles and extremes: {len(cosines):,} random pairs of {total_pairs:,}; mean and "
            "standard deviation: all pairs"
        )
    searched = rows if pair_words is None else rows[:pair_words]
    if len(searched) < len(rows):
        notes.append(f"most similar pairs: among the first {len(searched):,} words of {len(rows):,}")
    similar = geometry.most_similar_pairs(vectors.vectors, searched, top_pairs, device)
    words = vectors.index_to_key
    theme_figures, theme_similarity = _themes(vectors, groups, usable, sums)
    anomaly_count, anomalies = _anomalies(vectors, norms, rows, k_sigma)
    return QualityReport(
        vocab_size=len(vectors),
        dim=vectors.vector_size,
        zero_count=len(zero),
        zero_words=[words[row] for row in zero[:_LISTED]],
        nonfinite_count=len(nonfinite),
        nonfinite_words=[words[row] for row in nonfinite[:_LISTED]],
        pair_words=len(searched),
        most_similar=[PairSimilarity(words[a], words[b], cosine) for a, b, cosine in similar],
        themes=theme_figures,
        theme_similarity=theme_similarity,
        pairs=[_pair(vectors, usable, first, second) for first, second in pairs],
        norms=_distribution(norms[rows], bins=60),
        similarities=dataclasses.replace(
            _distribution(cosines, bins=80, span=(-1.0, 1.0)), mean=sums.cosine_mean, std=sums.cosine_std
        ),
        similarity_pairs=len(cosines),
        k_sigma=k_sigma,
        anomaly_count=anomaly_count,
        anomalies=anomalies,
        isotropy=_isotropy(vectors.vectors, rows, sums, device),
        frequency=_frequency(vectors, norms, rows),
        notes=notes,
        seconds=time.perf_counter() - started,
    )


def _check(top_pairs: int, k_sigma: float, pair_words: int | None, sample_pairs: int) -> None:
    if top_pairs < 0:
        raise ValueError(f"top_pairs: expected a number >= 0, got {top_pairs}")
    if not (k_sigma > 0 and math.isfinite(k_sigma)):
        raise ValueError(f"k_sigma: expected a number > 0, got {k_sigma}")
    if pair_words is not None and pair_words < 2:
        raise ValueError(f"pair_words: expected None or a number >= 2, got {pair_words}")
    if sample_pairs < 1:
        raise ValueError(f"sample_pairs: expected a number >= 1, got {sample_pairs}")


def _pair(vectors: KeyedVectors, usable: np.ndarray, first: str, second: str) -> PairSimilarity:
    missing = tuple(w for w in (first, second) if w not in vectors or not usable[vectors.key_to_index[w]])
    return PairSimilarity(first, second, None if missing else vectors.similarity(first, second), missing)


def _themes(
    vectors: KeyedVectors, groups: dict[str, tuple[str, ...]], usable: np.ndarray, sums: geometry.Moments
) -> tuple[list[ThemeFigures], list[list[float | None]]]:
    figures, means, squares, sizes = [], [], [], []
    for name, words in groups.items():
        known = tuple(word for word in words if word in vectors and usable[vectors.key_to_index[word]])
        missing = tuple(word for word in words if word not in known)
        rows = np.array([vectors.key_to_index[word] for word in known], np.int64)
        units = geometry.unit_rows(vectors.vectors, rows).double().numpy()
        total = units.sum(axis=0)
        n = len(known)
        means.append(total / max(n, 1))
        squares.append(float((units * units).sum()))
        sizes.append(n)
        if n < 2:
            figures.append(ThemeFigures(name, known, missing, None, None, None, None))
            continue
        typical = (units @ total - (units * units).sum(axis=1)) / (n - 1)  # mean cosine of each to the others
        mean = float(typical.mean())
        lift = mean - sums.cosine_mean
        deviations = lift / sums.cosine_std if sums.cosine_std > 0 else None
        worst = int(typical.argmin())
        figures.append(
            ThemeFigures(name, known, missing, mean, lift, deviations, (known[worst], float(typical[worst])))
        )
    between: list[list[float | None]] = [
        [
            figures[i].mean_similarity if i == j else float(means[i] @ means[j]) if sizes[i] and sizes[j] else None
            for j in range(len(figures))
        ]
        for i in range(len(figures))
    ]
    return figures, between


def _distribution(values: np.ndarray, bins: int, span: tuple[float, float] | None = None) -> Distribution:
    if not len(values):
        nan = float("nan")
        return Distribution(nan, nan, nan, nan, {}, [], [])
    if span is not None:
        values = np.clip(values, *span)  # a cosine may round to 1.0000001
    counts, edges = np.histogram(values, bins=bins, range=span)
    values = values.astype(np.float64)
    quantiles = dict(zip(map(str, _QUANTILES), np.quantile(values, _QUANTILES).tolist(), strict=True))
    low, high = float(values.min()), float(values.max())
    return Distribution(
        float(values.mean()), float(values.std()), low, high, quantiles, edges.tolist(), counts.tolist()
    )


def _anomalies(vectors: KeyedVectors, norms: np.ndarray, rows: np.ndarray, k_sigma: float) -> tuple[int, list[Anomaly]]:
    mean, std = norms[rows].mean(), norms[rows].std()
    if not std > 0:
        return 0, []
    deviations = (norms[rows] - mean) / std
    far = np.flatnonzero(np.abs(deviations) > k_sigma)
    listed = far[np.argsort(-np.abs(deviations[far]), kind="stable")][:_LISTED]
    counts = vectors.counts
    return len(far), [
        Anomaly(
            vectors.index_to_key[rows[i]],
            float(norms[rows[i]]),
            float(deviations[i]),
            None if counts is None else int(counts[rows[i]]),
        )
        for i in listed
    ]


def _isotropy(vectors: np.ndarray, rows: np.ndarray, sums: geometry.Moments, device: str) -> Isotropy:
    covariance = sums.second - np.outer(sums.mean, sums.mean)
    variances = np.linalg.eigvalsh(covariance)[::-1].clip(min=0)
    total = variances.sum()
    mean_square = float(np.trace(sums.second))
    return Isotropy(
        partition_ratio=geometry.partition_ratio(vectors, rows, sums.second, device),
        iso_score=geometry.iso_score(variances),
        mean_cosine=sums.cosine_mean,
        effective_dimensions=float(total**2 / (variances @ variances)) if total > 0 else float("nan"),
        mean_share=float(sums.mean @ sums.mean) / mean_square,
        variance_shares=(variances / total).tolist() if total > 0 else [],
    )


def _frequency(vectors: KeyedVectors, norms: np.ndarray, rows: np.ndarray) -> FrequencyNorms | None:
    if vectors.counts is None:
        return None
    rows = rows[vectors.counts[rows] > 0]  # <PAD> and <UNK> need not occur
    if not len(rows):
        return None
    counts, lengths = vectors.counts[rows], norms[rows]
    power = np.floor(np.log2(counts)).astype(int)
    bands = []
    for value in np.unique(power):
        inside = power == value
        band = lengths[inside]
        low, high = int(counts[inside].min()), int(counts[inside].max())
        bands.append(FrequencyBand(low, high, int(inside.sum()), float(band.mean()), float(band.std())))
    # Evenly in log(rank), as frequencies fall: or nearly all of the picture would be the rarest words.
    some = np.unique(np.geomspace(1, len(rows), _SCATTER).astype(int) - 1)
    if len(some) < min(len(rows), _SCATTER):
        rest = np.linspace(0, len(rows) - 1, min(len(rows), _SCATTER) - len(some)).astype(int)
        some = np.union1d(some, rest)
    by_count = np.argsort(-counts, kind="stable")
    sample = [(int(counts[i]), float(lengths[i]), vectors.index_to_key[rows[i]]) for i in by_count[some]]
    return FrequencyNorms(spearman(counts, lengths).statistic if len(rows) > 1 else math.nan, bands, sample)
