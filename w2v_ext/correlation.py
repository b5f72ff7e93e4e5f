"""Pearson's and Spearman's correlation with p-values and confidence intervals, in NumPy and `math` alone."""

from __future__ import annotations

import math
from statistics import NormalDist
from typing import NamedTuple

import numpy as np


class Correlation(NamedTuple):
    """A correlation coefficient and its two-sided p-value, as SciPy returns them."""

    statistic: float
    pvalue: float


def pearson(x: np.ndarray, y: np.ndarray) -> Correlation:
    """Return Pearson's r of two samples (n,), n >= 2, and the p-value of no correlation (t distribution, n - 2).

    Both are NaN where one of the samples is constant.

    Raises:
        ValueError: shapes that do not match, or fewer than two values.
    """
    x, y = (np.asarray(values, dtype=np.float64) for values in (x, y))
    if x.ndim != 1 or x.shape != y.shape or len(x) < 2:
        raise ValueError(f"x, y: expected two samples of one shape (n,) with n >= 2, got {x.shape} and {y.shape}")
    x, y = x - x.mean(), y - y.mean()
    norms = float(np.linalg.norm(x)) * float(np.linalg.norm(y))
    if not norms > 0:
        return Correlation(math.nan, math.nan)
    r = min(1.0, max(-1.0, float(x @ y) / norms))
    return Correlation(r, p_value(r, len(x)))


def spearman(x: np.ndarray, y: np.ndarray) -> Correlation:
    """Return Spearman's rho: `pearson` of the ranks, equal values sharing their mean rank."""
    return pearson(ranks(x), ranks(y))


def ranks(values: np.ndarray) -> np.ndarray:
    """Return the ranks (n,) float64 from 1 of values (n,); equal ones share the mean of the ranks they take."""
    _, place, count = np.unique(np.asarray(values), return_inverse=True, return_counts=True)
    last = np.cumsum(count)  # the rank of the last of each group of equals
    return (last - (count - 1) / 2)[place.reshape(-1)]


def p_value(r: float, n: int) -> float:
    """Return the probability of a coefficient at least as far from 0 as r among n pairs that are not correlated.

    With t = r sqrt((n - 2) / (1 - r²)) from Student's distribution of n - 2 degrees of freedom, this is the
    regularised incomplete beta function I_{1 - r²}((n - 2) / 2, 1 / 2). It is 1 for n = 2.
    """
    if n <= 2:
        return 1.0
    return _incomplete_beta((n - 2) / 2, 0.5, (1 - r) * (1 + r), r * r)


def interval(r: float, n: int, confidence: float = 0.95, *, of_ranks: bool = False) -> tuple[float, float]:
    """Return the confidence interval of a correlation of n pairs by Fisher's transformation, tanh(atanh(r) ± z s).

    s is 1 / sqrt(n - 3) for Pearson's r; for Spearman's rho (`of_ranks`) it is sqrt((1 + rho² / 2) / (n - 3))
    (Bonett and Wright 2000, Psychometrika 65). For n <= 3, or a coefficient that is NaN, nothing is known: (-1, 1).
    """
    if not 0 < confidence < 1:
        raise ValueError(f"confidence: expected a number between 0 and 1, got {confidence!r}")
    if n <= 3 or math.isnan(r):
        return -1.0, 1.0
    if abs(r) >= 1:
        return r, r
    half = NormalDist().inv_cdf((1 + confidence) / 2) * math.sqrt((1 + (r * r / 2 if of_ranks else 0)) / (n - 3))
    return math.tanh(math.atanh(r) - half), math.tanh(math.atanh(r) + half)


def _incomplete_beta(a: float, b: float, x: float, rest: float) -> float:
    """I_x(a, b) by its continued fraction (Abramowitz and Stegun 26.5.8), with `rest` = 1 - x.

    The fraction converges fast for x < (a + 1) / (a + b + 2), and elsewhere by I_x(a, b) = 1 - I_{1-x}(b, a).
    """
    if x <= 0 or rest <= 0:
        return 0.0 if x <= 0 else 1.0
    if x > (a + 1) / (a + b + 2):
        return 1 - _incomplete_beta(b, a, rest, x)
    scale = a * math.log(x) + b * math.log(rest) + math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b)
    # Lentz's method: `above` and `below` are the ratios of successive numerators and denominators.
    tiny = 1e-300
    below = 1 / _not_zero(1 - (a + b) * x / (a + 1), tiny)
    above, value = 1.0, below
    for m in range(1, 1000):
        for term in (
            m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m)),
            -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1)),
        ):
            below = 1 / _not_zero(1 + term * below, tiny)
            above = _not_zero(1 + term / above, tiny)
            value *= above * below
        if abs(above * below - 1) < 1e-15:
            break
    return math.exp(scale) * value / a


def _not_zero(value: float, tiny: float) -> float:
    return value if abs(value) > tiny else tiny
