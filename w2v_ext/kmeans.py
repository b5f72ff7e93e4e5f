"""k-means (Lloyd 1982) for many small problems at once: what product quantisation needs."""

from __future__ import annotations

import torch

_SAMPLES_PER_CENTROID = 128  # twice as many lower the error of the IMDB vectors (dim 100) from 0.231 to 0.229
_BLOCK = 256  # points whose distances to all centroids exist at a time: they stay in the cache


def assign(x: torch.Tensor, centroids: torch.Tensor) -> torch.Tensor:
    """Return the nearest centroid (M, N) int64 of each point: x (M, N, S), centroids (M, K, S)."""
    half = (centroids * centroids).sum(2)[:, :, None] / 2  # (M, K, 1)
    columns = x.transpose(1, 2).contiguous()  # (M, S, N): the minimum over K is then taken for many points at a time
    found = [
        torch.baddbmm(half, centroids, block, alpha=-1).min(1).indices  # |x - c|² / 2 without the term of x
        for block in columns.split(_BLOCK, dim=2)
    ]
    return torch.cat(found, dim=1) if found else torch.empty(x.shape[:2], dtype=torch.long)


def kmeans(x: torch.Tensor, k: int, *, iterations: int = 20, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Cluster M problems of N points in S dimensions at once.

    Centroids are learnt from up to 128 · k points drawn at random, beginning with k of these; one that loses all its
    points takes over the point that is farthest from its own centroid.

    Args:
        x: (M, N, S) float32.
        k: centroids of each problem.
        iterations: passes over the sample; fewer where no point changes its centroid.
        seed: of the draw.

    Returns:
        Centroids (M, k, S) float32, and the nearest one of every point (M, N) int64.

    Raises:
        ValueError: `x` is not 3-D, or `k` is less than 1.
    """
    if x.dim() != 3 or k < 1:
        raise ValueError(f"x, k: expected shape (M, N, S) and k >= 1, got {tuple(x.shape)} and {k}")
    problems, points, size = x.shape
    if points == 0:
        return torch.zeros(problems, k, size), torch.empty(problems, 0, dtype=torch.long)
    generator = torch.Generator().manual_seed(seed)
    sample = x[:, torch.randperm(points, generator=generator)[: _SAMPLES_PER_CENTROID * k]].contiguous()
    centroids = sample[:, torch.arange(k) % sample.shape[1]].clone()
    nearest = None
    for _ in range(iterations):
        last, nearest = nearest, assign(sample, centroids)
        if last is not None and torch.equal(last, nearest):
            break
        _move(sample, nearest, centroids)
    return centroids, assign(x, centroids)


def _move(sample: torch.Tensor, nearest: torch.Tensor, centroids: torch.Tensor) -> None:
    """Put each centroid at the mean of its points."""
    problems, k, size = centroids.shape
    flat = (nearest + k * torch.arange(problems)[:, None]).flatten()
    sums = torch.zeros(problems * k, size).index_add_(0, flat, sample.flatten(0, 1)).view(problems, k, size)
    counts = torch.bincount(flat, minlength=problems * k).view(problems, k, 1)
    centroids.copy_(torch.where(counts > 0, sums / counts.clamp(min=1), centroids))
    for m in torch.nonzero((counts == 0).flatten(1).any(1)).flatten().tolist():
        empty = torch.nonzero(counts[m, :, 0] == 0).flatten()
        distance = (sample[m] - centroids[m, nearest[m]]).square().sum(1)
        far = distance.topk(min(len(empty), len(distance))).indices
        centroids[m, empty[: len(far)]] = sample[m, far]
