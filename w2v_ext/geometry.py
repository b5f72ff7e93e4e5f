"""Figures about a cloud of V vectors in D dimensions, block by block: no V × V matrix, no second copy of the vectors.

Costs, in multiply-adds: moments of all V(V - 1)/2 cosines V·D² (exact, through sums of unit vectors), isotropy V·D²,
a sample of P pairs P·D, the most similar pairs of n words n²·D/2.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

_BLOCK = 1 << 16  # rows read at a time
_TILE = 2048  # rows and columns of a block of similarities


def unit_rows(
    vectors: np.ndarray, rows: np.ndarray | slice, device: str = "cpu", dtype: torch.dtype = torch.float32
) -> Tensor:
    """Return (n, D) rows at length 1; a zero row stays zero."""
    block = torch.as_tensor(vectors[rows]).to(device, dtype)
    norms = torch.linalg.vector_norm(block, dim=1, keepdim=True, dtype=torch.float64)
    return (block / norms.clamp_min(1e-300)).to(dtype)


@dataclass(frozen=True)
class Moments:
    """Sums over the n vectors that the exact figures are made of, in float64.

    Attributes:
        count: n, the rows that were summed.
        mean: (D,) mean vector.
        second: (D, D) Σ v vᵀ / n, of the vectors as they are.
        cosine_mean: mean cosine over all n(n - 1)/2 pairs of different rows; NaN below two rows.
        cosine_std: standard deviation of the same.
    """

    count: int
    mean: np.ndarray
    second: np.ndarray
    cosine_mean: float
    cosine_std: float


def moments(vectors: np.ndarray, rows: np.ndarray, device: str = "cpu") -> Moments:
    """Compute `Moments` of some rows of `vectors` (V, D).

    With unit vectors u: Σ_{i≠j} uᵢ·uⱼ = |Σ uᵢ|² - Σ |uᵢ|², and Σ_{i≠j} (uᵢ·uⱼ)² = |Σ uᵢ uᵢᵀ|²_F - Σ |uᵢ|⁴.
    """
    dim = vectors.shape[1]
    total, unit_total = (torch.zeros(dim, dtype=torch.float64, device=device) for _ in range(2))
    second, unit_second = (torch.zeros(dim, dim, dtype=torch.float64, device=device) for _ in range(2))
    squares = fourths = 0.0
    for start in range(0, len(rows), _BLOCK):
        block = torch.as_tensor(vectors[rows[start : start + _BLOCK]]).to(device, torch.float64)
        total += block.sum(dim=0)
        second += block.T @ block
        units = block / torch.linalg.vector_norm(block, dim=1, keepdim=True).clamp_min(1e-300)
        unit_total += units.sum(dim=0)
        unit_second += units.T @ units
        lengths = (units * units).sum(dim=1)
        squares += float(lengths.sum())
        fourths += float((lengths * lengths).sum())
    n = len(rows)
    pairs = n * (n - 1)
    mean = (float(unit_total @ unit_total) - squares) / pairs if pairs else float("nan")
    mean_square = (float((unit_second * unit_second).sum()) - fourths) / pairs if pairs else float("nan")
    std = float(np.sqrt(max(mean_square - mean * mean, 0.0))) if pairs else float("nan")
    return Moments(n, (total / max(n, 1)).cpu().numpy(), (second / max(n, 1)).cpu().numpy(), mean, std)


def partition_ratio(vectors: np.ndarray, rows: np.ndarray, second: np.ndarray, device: str = "cpu") -> float:
    """Return min Z(c) / max Z(c) with Z(c) = Σ_w exp(c·v_w), in (0, 1]; 1 is isotropic.

    Mu & Viswanath, "All-but-the-Top" (ICLR 2018), after Arora et al. (TACL 2016). As there, c runs over the
    eigenvectors of Σ v vᵀ; here over both signs of each, since an eigenvector's sign is arbitrary. Vectors are taken as
    they are, so that longer ones give a smaller ratio.
    """
    if not len(rows):
        return float("nan")
    directions = torch.from_numpy(np.linalg.eigh(second)[1]).to(device, torch.float32)  # (D, D), one a column
    logs = torch.full((2 * len(second),), -torch.inf, dtype=torch.float64, device=device)
    for start in range(0, len(rows), _BLOCK):
        scores = torch.as_tensor(vectors[rows[start : start + _BLOCK]]).to(device, torch.float32) @ directions
        parts = torch.cat([scores.logsumexp(dim=0), (-scores).logsumexp(dim=0)]).double()
        logs = torch.logaddexp(logs, parts)
    return float(torch.exp(logs.min() - logs.max()))


def iso_score(variances: np.ndarray) -> float:
    """Return the IsoScore of principal variances (D,), in [0, 1]; 1 is isotropic, 0 a line.

    Rudman et al., "IsoScore: Measuring the Uniformity of Embedding Space Utilization" (Findings of ACL 2022).
    """
    n = len(variances)
    length = np.linalg.norm(variances)
    if n < 2 or not length > 0:
        return float("nan")
    scaled = np.sqrt(n) * variances / length
    defect = np.linalg.norm(scaled - 1) / np.sqrt(2 * (n - np.sqrt(n)))  # in [0, 1]
    used = (n - defect**2 * (n - np.sqrt(n))) ** 2 / n**2  # share of the dimensions that are used, in [1/n, 1]
    return float((n * used - 1) / (n - 1))


def sample_cosines(vectors: np.ndarray, rows: np.ndarray, pairs: int, seed: int = 0) -> np.ndarray:
    """Return the cosines (float32) of random pairs of different rows, or of every pair where there are no more.

    Args:
        vectors: (V, D).
        rows: the n rows to draw from.
        pairs: how many pairs, drawn independently.
        seed: of the draws.
    """
    n = len(rows)
    if n * (n - 1) // 2 <= pairs:
        first, second = np.triu_indices(n, 1)
    else:
        rng = np.random.default_rng(seed)
        first = rng.integers(0, n, pairs)
        second = (first + rng.integers(1, n, pairs)) % n  # never the same row
    out = np.empty(len(first), np.float32)
    step = _BLOCK
    for start in range(0, len(first), step):
        part = slice(start, start + step)
        a, b = unit_rows(vectors, rows[first[part]]), unit_rows(vectors, rows[second[part]])
        out[part] = (a * b).sum(dim=1).numpy()
    return out


def most_similar_pairs(
    vectors: np.ndarray, rows: np.ndarray, count: int, device: str = "cpu"
) -> list[tuple[int, int, float]]:
    """Return the `count` pairs of rows with the highest cosine: (row, row, cosine), best first, equal ones by row.

    Every pair of the n rows is looked at, in blocks: n²·D/2 multiply-adds, memory for n·D floats and one block.
    Float32 finds more candidates than are asked for; float64 puts them in order.
    """
    n = len(rows)
    count = min(count, n * (n - 1) // 2)
    if count < 1:
        return []
    units = unit_rows(vectors, rows, device)
    wanted = count + 64  # what float32 may have put in a wrong order
    values = torch.empty(0, device=device)
    places = torch.empty(0, dtype=torch.int64, device=device)  # first * n + second
    threshold = -torch.inf
    for top in range(0, n, _TILE):
        left = units[top : top + _TILE]
        for start in range(top, n, _TILE):
            block = left @ units[start : start + _TILE].T
            if start == top:
                block = block.masked_fill_(torch.ones_like(block, dtype=torch.bool).tril(), -torch.inf)
            if not block.max() > threshold:
                continue
            best, where = block.flatten().topk(min(wanted, block.numel()))
            keep = best > threshold
            best, where = best[keep], where[keep]
            first, second = where // block.shape[1] + top, where % block.shape[1] + start
            values, places = torch.cat([values, best]), torch.cat([places, first * n + second])
            if len(values) > wanted:
                values, chosen = values.topk(wanted)
                places = places[chosen]
            if len(values) == wanted:
                threshold = float(values.min())
    first, second = rows[(places // n).cpu().numpy()], rows[(places % n).cpu().numpy()]
    exact = (unit_rows(vectors, first, dtype=torch.float64) * unit_rows(vectors, second, dtype=torch.float64)).sum(1)
    found = zip(first.tolist(), second.tolist(), exact.tolist(), strict=True)
    return sorted(found, key=lambda pair: (-pair[2], pair[0], pair[1]))[:count]
