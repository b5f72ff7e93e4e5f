"""The rows of a table that are nearest to queries by cosine: exact, ordered, and within bounded memory.

Products in float32 round differently with the shape of the product, by less than `ROUNDING`. So they only choose who
may be among the best; those are computed again in float64, row by row. The answer therefore does not depend on the
batch, the number of threads or the device, equal vectors get equal scores, and equal scores keep the order of their
rows.
"""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator, Sequence

import numpy as np
import torch

ROUNDING = 1e-5  # of a product of two unit vectors in float32; seen: 4e-7 at D = 300, 2e-6 at D = 4096
_SPARE = 16  # candidates kept beyond k, so that those within ROUNDING of the k-th are among them
_BLOCK = 64  # rows of which only the best is looked at first
_CPU_TILE = (256, 32_768)  # queries, rows: 32 MB of scores
_GPU_TILE = (1_024, 131_072)  # 512 MB of scores
_NO_ROWS = np.empty(0, dtype=np.int64)


def as_device(device: str | torch.device) -> torch.device:
    """Return the device by its name. ValueError for one that is not here."""
    try:
        found = torch.device(device)
    except (RuntimeError, TypeError) as error:
        raise ValueError(f"device: expected cpu or cuda, got {device!r}") from error
    if found.type == "cuda" and not torch.cuda.is_available():
        raise ValueError(f"device: {device} is not available: PyTorch sees no CUDA device")
    return found


def exact_scores(rows: np.ndarray, query: np.ndarray) -> np.ndarray:
    """Return the cosines (..., n) float64 of rows (..., n, D) and queries (..., D) of length 1; 0 for zero rows."""
    rows = rows.astype(np.float64)
    norms = np.sqrt((rows * rows).sum(axis=-1))
    return (rows * query[..., None, :]).sum(axis=-1) / np.where(norms > 0, norms, 1)


def cosines(rows: np.ndarray, norms: np.ndarray, query: np.ndarray) -> np.ndarray:
    """Return the cosines (n,) float32 of rows (n, D) with the given norms and a query (D,) of length 1."""
    # A zero row has dot product 0 with everything: similarity 0, not NaN.
    return rows @ query.astype(np.float32) / np.where(norms > 0, norms, 1)


def nearest_one(
    rows: np.ndarray, norms: np.ndarray, query: np.ndarray, k: int, exclude: Sequence[int] | np.ndarray = ()
) -> tuple[np.ndarray, np.ndarray]:
    """Return (rows, scores) of the up to k rows nearest to one query, best first.

    Args:
        rows: (n, D) float32.
        norms: (n,) their lengths. Rows whose length is not finite are nobody's neighbours.
        query: (D,) float64, of length 1 or zero.
        k: how many, >= 0.
        exclude: rows to leave out.

    Returns:
        (m,) int64 and (m,) float64, m <= k.
    """
    scores = cosines(rows, norms, query)
    scores[~np.isfinite(norms)] = -np.inf
    scores[np.asarray(exclude, dtype=np.int64)] = -np.inf
    k = min(k, int(np.count_nonzero(scores > -np.inf)))
    if k < 1:
        return _NO_ROWS, np.empty(0)
    threshold = np.partition(scores, len(scores) - k)[len(scores) - k]
    best = np.flatnonzero((scores >= threshold - ROUNDING) & (scores > -np.inf))  # ascending rows
    exact = exact_scores(rows[best], query)
    order = np.argsort(-exact, kind="stable")[:k]  # stable: equal scores stay in the order of their rows
    return best[order], exact[order]


def nearest(
    rows: np.ndarray,
    norms: np.ndarray,
    queries: np.ndarray,
    k: int,
    *,
    exclude: Sequence[Sequence[int]] | None = None,
    device: str | torch.device = "cpu",
    units: torch.Tensor | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Return (rows, scores) of the k rows nearest to each of Q queries: `nearest_one` for all of them, tile by tile.

    Memory beyond the arguments and the result: about 100 MB on the CPU, 1.5 GB on a GPU (D = 300).

    Args:
        rows: (n, D) float32.
        norms: (n,) their lengths.
        queries: (Q, D) float64, of length 1 or zero.
        k: how many, >= 0.
        exclude: for each query the rows to leave out.
        device: where the products are computed.
        units: (n, D) float32 on that device, `unit_rows` of rows, where it is at hand.

    Returns:
        (Q, k) int64 and (Q, k) float64. Where there are fewer than k rows, -1 and NaN fill the rest.
    """
    n = len(rows)
    found = np.full((len(queries), k), -1, dtype=np.int64)
    scores = np.full((len(queries), k), np.nan)
    if k < 1 or n < 1 or not len(queries):
        return found, scores
    exclude = exclude if exclude is not None else [()] * len(queries)
    kept = min(n, k + _SPARE)
    with _full_precision():
        likely, values = _candidates(rows, norms, queries, kept, exclude, as_device(device), units)
    step = max(1, (1 << 24) // (kept * rows.shape[1]))  # queries at a time: 128 MB of float64
    for first in range(0, len(queries), step):
        part = slice(first, first + step)
        ids = np.sort(likely[part], axis=1)  # ascending rows, so that the stable sort keeps equals in their order
        valid = ids < n
        exact = exact_scores(rows[np.where(valid, ids, 0)], queries[part])  # (step, kept)
        exact[~valid] = -np.inf
        order = np.argsort(-exact, axis=1, kind="stable")[:, :k]
        best = np.take_along_axis(exact, order, axis=1)
        width = best.shape[1]
        found[part, :width] = np.where(best > -np.inf, np.take_along_axis(ids, order, axis=1), -1)
        scores[part, :width] = np.where(best > -np.inf, best, np.nan)
        # Whoever was not kept scored at most as much as the last one kept: that must not reach the k-th.
        last_kept, last_wanted = values[part, -1], best[:, -1]
        doubtful = (last_kept > -np.inf) & ~(last_wanted > last_kept + ROUNDING) & (kept < n)
        for i in (np.flatnonzero(doubtful) + first).tolist():
            one, its_scores = nearest_one(rows, norms, queries[i], k, exclude[i])
            found[i], scores[i] = -1, np.nan
            found[i, : len(one)], scores[i, : len(one)] = one, its_scores
    return found, scores


def unit_rows(rows: np.ndarray, norms: np.ndarray, device: str | torch.device) -> torch.Tensor:
    """Return rows (n, D) at length 1 as a float32 tensor on a device; rows without a finite length become zero."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
        units = torch.from_numpy(np.ascontiguousarray(rows)).to(device, copy=True)  # read only
        lengths = torch.from_numpy(np.ascontiguousarray(norms, dtype=np.float32)).to(device)
    units /= torch.where(lengths > 0, lengths, 1).unsqueeze(1)
    units[~torch.isfinite(lengths)] = 0
    return units


def _candidates(
    rows: np.ndarray,
    norms: np.ndarray,
    queries: np.ndarray,
    kept: int,
    exclude: Sequence[Sequence[int]],
    device: torch.device,
    units: torch.Tensor | None,
) -> tuple[np.ndarray, np.ndarray]:
    """Return the `kept` rows (Q, kept) with the highest float32 scores (Q, kept); row n, score -inf where none is."""
    n = len(rows)
    height, width = _GPU_TILE if device.type == "cuda" else _CPU_TILE
    width = min(width, -(-n // _BLOCK) * _BLOCK)
    asked = torch.from_numpy(queries.astype(np.float32)).to(device)  # (Q, D)
    values = torch.full((len(queries), kept), -torch.inf, device=device)
    likely = torch.full((len(queries), kept), n, dtype=torch.int64, device=device)
    # (query, row) of everything that is left out, by row: each tile takes its own.
    out_query = np.repeat(np.arange(len(queries)), [len(e) for e in exclude])
    out_row = np.fromiter((row for e in exclude for row in e), dtype=np.int64, count=len(out_query))
    by_row = np.argsort(out_row, kind="stable")
    out_query, out_row = out_query[by_row], out_row[by_row]
    for start in range(0, n, width):
        stop = min(n, start + width)
        tile = units[start:stop] if units is not None else unit_rows(rows[start:stop], norms[start:stop], device)
        tile = torch.nn.functional.pad(tile, (0, 0, 0, -len(tile) % _BLOCK))  # whole blocks
        no_row = np.ones(len(tile), dtype=bool)
        no_row[: stop - start] = ~np.isfinite(norms[start:stop])
        none = torch.from_numpy(np.flatnonzero(no_row)).to(device)
        outside = slice(*np.searchsorted(out_row, [start, stop]))
        for first in range(0, len(queries), height):
            part = slice(first, first + height)
            scores = asked[part] @ tile.T
            scores[:, none] = -torch.inf
            here = (out_query[outside] >= first) & (out_query[outside] < first + height)
            if here.any():
                places = out_query[outside][here] - first, out_row[outside][here] - start
                scores[tuple(torch.from_numpy(place).to(device) for place in places)] = -torch.inf
            _merge(scores, start, values[part], likely[part])
    likely[values == -torch.inf] = n
    return likely.cpu().numpy(), values.cpu().numpy()


def _merge(scores: torch.Tensor, start: int, values: torch.Tensor, likely: torch.Tensor) -> None:
    """Merge a tile (q, t) of scores of the rows from `start` on into the best so far, `values` and `likely` (q, kept).

    Only blocks whose best row beats the worst one kept are looked into, and never more of them than rows are kept: a
    further block's best is less than the best of each of those.
    """
    blocks = scores.view(len(scores), -1, _BLOCK)
    best = blocks.amax(dim=2)  # (q, t / _BLOCK)
    kept = values.shape[1]
    wanted = int((best > values[:, -1:]).sum(dim=1).max())
    if wanted == 0:
        return
    chosen = best.topk(min(wanted, kept), dim=1).indices  # (q, c)
    inside = torch.arange(_BLOCK, device=scores.device)
    fresh = torch.gather(blocks, 1, chosen.unsqueeze(2).expand(-1, -1, _BLOCK)).flatten(1)  # (q, c * _BLOCK)
    places = (chosen.unsqueeze(2) * _BLOCK + inside).flatten(1) + start
    every, everywhere = torch.cat([values, fresh], dim=1), torch.cat([likely, places], dim=1)
    top = every.topk(kept, dim=1)  # sorted: the last one is the worst kept
    values.copy_(top.values)
    likely.copy_(torch.gather(everywhere, 1, top.indices))


@contextlib.contextmanager
def _full_precision() -> Iterator[None]:
    """Keep products in whole float32: TF32 or bfloat16 inside them would round by more than `ROUNDING`."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)
