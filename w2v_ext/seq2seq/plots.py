"""Pictures of where a translation looks."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..files import write_files

_FONTS = ("Noto Sans CJK SC", "Noto Sans CJK JP", "WenQuanYi Zen Hei", "PingFang SC", "Microsoft YaHei", "SimHei")


def _import_figure() -> Any:
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError:
        raise ImportError("pictures need the package matplotlib: pip install 'w2v_ext[viz]'") from None
    return Figure, FigureCanvasAgg


def attention_figure(source: Sequence[str], target: Sequence[str], weights: np.ndarray) -> Any:
    """Draw weights (T, S): a row for each target token, a column for each source token; a matplotlib Figure.

    No window is opened, and the figure belongs to no global state. Chinese needs one of the usual fonts on the system.
    """
    weights = np.asarray(weights)
    if weights.shape != (len(target), len(source)):
        raise ValueError(f"weights: expected shape {(len(target), len(source))}, got {weights.shape}")
    figure_class, canvas = _import_figure()
    from matplotlib import font_manager

    there = {font.name for font in font_manager.fontManager.ttflist}
    family = [*(name for name in _FONTS if name in there), "DejaVu Sans"]
    figure = figure_class(
        figsize=(max(3.5, 0.34 * len(source) + 1.6), max(2.5, 0.3 * len(target) + 1.4)), layout="constrained"
    )
    canvas(figure)
    axes = figure.add_subplot()
    image = axes.imshow(weights, cmap="Blues", vmin=0, vmax=1, aspect="auto")
    axes.xaxis.tick_top()
    axes.set_xticks(range(len(source)), source, rotation=60, ha="left", rotation_mode="anchor", family=family, size=9)
    axes.set_yticks(range(len(target)), target, family=family, size=9)
    axes.set_xticks(np.arange(-0.5, len(source)), minor=True)
    axes.set_yticks(np.arange(-0.5, len(target)), minor=True)
    axes.grid(which="minor", color="0.92", linewidth=0.6)
    axes.tick_params(which="both", length=0)
    for spine in axes.spines.values():
        spine.set_visible(False)
    figure.colorbar(image, ax=axes, shrink=0.7, label="attention").outline.set_visible(False)
    return figure


def save_figure(figure: Any, path: str | Path) -> None:
    """Write a figure as PNG, SVG or PDF, as the suffix says; whole or not at all. ValueError for another suffix."""
    path = Path(path)
    kind = path.suffix.lower().removeprefix(".")
    if kind not in ("png", "svg", "pdf"):
        raise ValueError(f"out: expected a name that ends in .png, .svg or .pdf, got {path}")
    write_files({path: lambda target: figure.savefig(target, format=kind, dpi=150)})
