"""From D dimensions to two: PCA, t-SNE (scikit-learn) and UMAP (umap-learn)."""

from __future__ import annotations

import os
import warnings
from dataclasses import dataclass
from typing import Literal

import numpy as np

Method = Literal["pca", "tsne", "umap"]
NAMES = {"pca": "PCA", "tsne": "t-SNE", "umap": "UMAP"}


@dataclass(frozen=True)
class Projection:
    """Points on the plane.

    Attributes:
        points: (n, 2) float64.
        method: "pca", "tsne" or "umap".
        description: method and settings, for the foot of a picture.
    """

    points: np.ndarray
    method: str
    description: str


def project(
    vectors: np.ndarray,
    method: Method = "pca",
    *,
    seed: int = 0,
    perplexity: float = 30.0,
    neighbors: int = 15,
    min_dist: float = 0.3,
) -> Projection:
    """Lay vectors out on a plane, by the cosine: all are first brought to length 1.

    Args:
        vectors: (n, D), n >= 2; a zero vector stays zero.
        method: "pca" keeps the two directions of greatest variance (distances can be trusted, little is seen);
            "tsne" (van der Maaten & Hinton, JMLR 2008) and "umap" (McInnes et al., 2018) keep neighbourhoods (distances
            between groups mean little).
        seed: equal seeds give equal pictures on the same machine.
        perplexity: of t-SNE; lowered to (n - 1) / 3 where n is small.
        neighbors: of UMAP; lowered to n - 1 where n is small.
        min_dist: of UMAP, how tightly points may lie.

    Raises:
        ValueError: an unknown method, fewer than two vectors, values that are not finite.
        ImportError: scikit-learn or umap-learn is missing; it names the extra.
    """
    vectors = np.asarray(vectors, np.float64)
    if vectors.ndim != 2 or len(vectors) < 2:
        raise ValueError(f"vectors: expected shape (n, D) with n >= 2, got {vectors.shape}")
    if not np.isfinite(vectors).all():
        raise ValueError("vectors: expected finite values")
    norms = np.linalg.norm(vectors, axis=1, keepdims=True)
    units = vectors / np.where(norms > 0, norms, 1)
    if method == "pca":
        return _pca(units)
    if method == "tsne":
        return _tsne(units, seed, perplexity)
    if method == "umap":
        return _umap(units, seed, neighbors, min_dist)
    raise ValueError(f"method: expected one of pca, tsne, umap, got {method!r}")


def principal_axes(units: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Return coordinates (n, count) along the principal axes, and each axis' share of the variance.

    An axis points where its greatest component is positive, so that a picture does not flip between machines.
    """
    centered = units - units.mean(axis=0)
    _, singular, axes = np.linalg.svd(centered, full_matrices=False)
    signs = np.sign(axes[np.arange(len(axes)), np.abs(axes).argmax(axis=1)])
    points = centered @ (axes * signs[:, None]).T[:, :count]
    if points.shape[1] < count:  # fewer dimensions than asked for
        points = np.pad(points, ((0, 0), (0, count - points.shape[1])))
    variances = singular**2
    return points, variances / max(variances.sum(), 1e-300)


def _pca(units: np.ndarray) -> Projection:
    points, shares = principal_axes(units, 2)
    return Projection(points, "pca", f"PCA of unit vectors; the two axes hold {shares[:2].sum():.0%} of the variance")


def _tsne(units: np.ndarray, seed: int, perplexity: float) -> Projection:
    try:
        from sklearn.manifold import TSNE
        from threadpoolctl import threadpool_limits  # comes with scikit-learn
    except ImportError as error:
        raise ImportError("t-SNE needs scikit-learn: pip install 'w2v_ext[viz]'") from error
    if not perplexity > 0:
        raise ValueError(f"perplexity: expected a number > 0, got {perplexity}")
    perplexity = min(perplexity, (len(units) - 1) / 3)
    # Fifty principal axes hold what neighbourhoods depend on, and cost a fraction (as the authors of t-SNE do).
    reduced = principal_axes(units, min(50, *units.shape))[0] if units.shape[1] > 50 else units
    start = principal_axes(units, 2)[0]
    start = start / max(start[:, 0].std(), 1e-300) * 1e-4
    tsne = TSNE(perplexity=perplexity, init=start.astype(np.float32), learning_rate="auto", random_state=seed)
    # Half of the cores: its many short parallel loops wait for the slowest thread, so that with all cores on a machine
    # that also does something else, a map of 2,000 words took 56 s on two cores, and 6 s on one of them.
    with threadpool_limits(max(1, (os.cpu_count() or 1) // 2), user_api="openmp"):
        points = tsne.fit_transform(reduced.astype(np.float32))
    return Projection(points.astype(np.float64), "tsne", f"t-SNE of unit vectors, perplexity {perplexity:.3g}")


def _umap(units: np.ndarray, seed: int, neighbors: int, min_dist: float) -> Projection:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of the packages it looks for
            import umap
    except ImportError as error:
        raise ImportError("UMAP needs umap-learn: pip install 'w2v_ext[umap]'") from error
    if neighbors < 2:
        raise ValueError(f"neighbors: expected a number >= 2, got {neighbors}")
    if len(units) < 4:
        raise ValueError(f"vectors: UMAP needs at least 4 vectors, got {len(units)}")
    neighbors = min(neighbors, len(units) - 1)
    reducer = umap.UMAP(n_neighbors=neighbors, min_dist=min_dist, metric="cosine", random_state=seed, n_jobs=1)
    if len(units) <= 20:  # the spectral start needs more points than that
        reducer.init = "random"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        points = reducer.fit_transform(units.astype(np.float32))
    description = f"UMAP of unit vectors, {neighbors} neighbours, min_dist {min_dist:g}"
    return Projection(np.asarray(points, np.float64), "umap", description)
