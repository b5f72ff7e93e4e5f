"""Labels beside their points that never overlap: greedy, most important label first; what finds no room is left out."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

# Which way from the point: right of it is read best. A label away from its point may also stand between these eight.
_DIRECTIONS = ((1, 0), (1, 1), (1, -1), (0, 1), (0, -1), (-1, 0), (-1, 1), (-1, -1))
_BETWEEN = ((1, 0.5), (1, -0.5), (0.5, 1), (0.5, -1), (-0.5, 1), (-0.5, -1), (-1, 0.5), (-1, -0.5))
_RINGS = (0.0, 6.0, 14.0, 24.0, 36.0)  # gaps to the point beyond the first, in points (1/72 inch)


@dataclass(frozen=True)
class Placement:
    """Where a label stands: its box (left, bottom, right, top), and whether it needs a line to its point."""

    index: int
    box: tuple[float, float, float, float]
    far: bool


def place_labels(
    points: np.ndarray,
    sizes: np.ndarray,
    order: np.ndarray,
    bounds: tuple[float, float, float, float],
    *,
    obstacles: np.ndarray | None = None,
    radius: float = 3.0,
    gap: float = 2.0,
    scale: float = 1.0,
) -> list[Placement]:
    """Choose a place for each label, so that no two boxes overlap, none covers a point and none leaves the bounds.

    Of the free places the nearest is taken, right before above, below and left. A label away from its point is joined
    to it by a line, and no line crosses another label. A label that finds no free place is left out.

    Args:
        points: (n, 2) the points that are labelled, in pixels.
        sizes: (n, 2) width and height of the labels.
        order: (n,) indices of points, most important first.
        bounds: left, bottom, right, top.
        obstacles: (m, 2) points that should not be covered; those of the labels by default.
        radius: of a point's marker.
        gap: between boxes, and between a point and its label.
        scale: pixels per point (1/72 inch).

    Returns:
        The labels that found a place, in `order`.
    """
    obstacles = points if obstacles is None else obstacles
    left, bottom, right, top = bounds
    boxes = np.empty((len(points), 4))  # of the labels placed so far
    lines = np.empty((0, 2))  # points along the lines drawn so far
    placed: list[Placement] = []
    near, far = np.array(_DIRECTIONS, float), np.array(_DIRECTIONS + _BETWEEN, float)
    for index in order:
        x, y = points[index]
        width, height = sizes[index]
        best = None
        for ring, extra in enumerate(_RINGS):
            away = radius + gap + extra * scale
            directions = far if ring else near
            reach = 1 / np.linalg.norm(directions, axis=1, keepdims=True)  # corners lie on the same circle
            centers = points[index] + directions * (away * reach + np.array([width, height]) / 2)
            low, high = centers - np.array([width, height]) / 2, centers + np.array([width, height]) / 2
            inside = (low >= (left, bottom)).all(axis=1) & (high <= (right, top)).all(axis=1)
            for place in np.flatnonzero(inside):
                box = (*low[place].tolist(), *high[place].tolist())
                if _hits(box, boxes[: len(placed)], gap) or _covers(box, obstacles, radius) or _covers(box, lines, 0.0):
                    continue
                if ring and any(_hits((a, b, a, b), boxes[: len(placed)], 0.0) for a, b in _line(x, y, box)):
                    continue
                best = Placement(int(index), box, ring > 0)
                break
            if best is not None:
                break
        if best is not None:
            boxes[len(placed)] = best.box
            if best.far:
                lines = np.concatenate([lines, _line(x, y, best.box)])
            placed.append(best)
    return placed


def _line(x: float, y: float, box: tuple[float, float, float, float]) -> np.ndarray:
    """Points (8, 2) along the line from a point to the nearest place of a box."""
    end = np.clip([x, y], box[:2], box[2:])
    return np.array([x, y]) + np.linspace(0.1, 1, 8)[:, None] * (end - [x, y])


def _hits(box: tuple[float, float, float, float], boxes: np.ndarray, gap: float) -> bool:
    x0, y0, x1, y1 = box
    apart = (
        (boxes[:, 0] >= x1 + gap) | (boxes[:, 2] + gap <= x0) | (boxes[:, 1] >= y1 + gap) | (boxes[:, 3] + gap <= y0)
    )
    return not bool(apart.all())


def _covers(box: tuple[float, float, float, float], points: np.ndarray, radius: float) -> bool:
    """Tell whether a disc of this radius around one of the points reaches into the box."""
    x0, y0, x1, y1 = box
    x, y = points[:, 0], points[:, 1]
    away_x = np.maximum(np.maximum(x0 - x, x - x1), 0)
    away_y = np.maximum(np.maximum(y0 - y, y - y1), 0)
    return bool((away_x * away_x + away_y * away_y <= radius * radius).any())
