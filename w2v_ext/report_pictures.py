"""The pictures inside a quality report, as SVG."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

import numpy as np

from .fonts import BASE, check_drawable
from .palette import GREY, INK, PALETTE
from .plots import drawing
from .quality import Distribution, QualityReport

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_SMALL = (5.6, 3.3)  # inches


def svg(figure: Figure) -> bytes:
    """Return a figure as SVG."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None})
    return buffer.getvalue()


def png(figure: Figure) -> bytes:
    """Return a figure as PNG: smaller than SVG where there are hundreds of labels."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    return buffer.getvalue()


def draw(report: QualityReport) -> dict[str, bytes]:
    """Draw what the report has: similarities, norms and spectrum, and where they are there frequency, themes, between.

    Raises:
        ImportError: matplotlib is missing; it names the extra.
    """
    with drawing():
        names = [theme.name for theme in report.themes]
        families = check_drawable(names)[0] if names else [BASE]
    with drawing(families):
        pictures = {
            "similarities": _similarities(report),
            "norms": _norms(report),
            "spectrum": _spectrum(report),
        }
        if report.frequency is not None:
            pictures["frequency"] = _frequency(report)
        if any(theme.mean_similarity is not None for theme in report.themes):
            pictures["themes"] = _themes(report)
            if 2 <= len(report.themes) <= 40:
                pictures["between"] = _between(report)
    return pictures


def _axes(size: tuple[float, float] = _SMALL) -> tuple[Figure, Axes]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=size, layout="constrained")
    return figure, figure.add_subplot()


def _histogram(axes: Axes, values: Distribution, color: str) -> None:
    counts, edges = np.array(values.counts, float), np.array(values.edges)
    share = counts / max(counts.sum(), 1) * 100
    inside = np.flatnonzero(counts)
    axes.stairs(share, edges, fill=True, color=color, alpha=0.75)
    axes.set_xlim(edges[inside[0]], edges[inside[-1] + 1])
    axes.set_ylabel("% of them")
    axes.grid(axis="y")


def _similarities(report: QualityReport) -> bytes:
    figure, axes = _axes((10.6, 3.0))
    _histogram(axes, report.similarities, PALETTE[0])
    axes.axvline(report.similarities.mean, color=INK, linestyle="--", linewidth=1)
    axes.set_xlabel("cosine")
    high = max(report.similarities.counts) / max(sum(report.similarities.counts), 1) * 100
    known = [pair for pair in report.pairs if pair.similarity is not None]
    if 0 < len(known) <= 30:
        marks = np.array([pair.similarity for pair in known])
        axes.plot(marks, np.full(len(marks), -0.03 * high), "^", color=PALETTE[1], markersize=5, clip_on=False)
        axes.plot([], [], "^", color=PALETTE[1], markersize=5, label="the pairs asked for")
        low, top = axes.get_xlim()
        axes.set_xlim(min(low, marks.min() - 0.02), max(top, marks.max() + 0.02))
        axes.legend(loc="upper right")
    axes.set_ylim(0, high * 1.08)
    return svg(figure)


def _norms(report: QualityReport) -> bytes:
    figure, axes = _axes()
    _histogram(axes, report.norms, PALETTE[2])
    low, high = axes.get_xlim()
    for sign in (-1, 1):
        place = report.norms.mean + sign * report.k_sigma * report.norms.std
        if low < place < high:
            axes.axvline(place, color=INK, linestyle="--", linewidth=1)
    axes.set_xlabel("norm")
    return svg(figure)


def _spectrum(report: QualityReport) -> bytes:
    figure, axes = _axes()
    shares = np.array(report.isotropy.variance_shares) * 100
    axes.bar(
        np.arange(1, len(shares) + 1), shares, width=0.8 if len(shares) <= 60 else 1.0, color=PALETTE[6], alpha=0.8
    )
    if len(shares):
        axes.axhline(100 / len(shares), color=INK, linestyle="--", linewidth=1)
        axes.annotate("isotropic", (len(shares), 100 / len(shares)), (0, 3), textcoords="offset points", ha="right")
        axes.set_xlim(0.3, len(shares) + 0.7)
    axes.set_xlabel("principal axis")
    axes.set_ylabel("% of the variance")
    axes.grid(axis="y")
    return svg(figure)


def _frequency(report: QualityReport) -> bytes:
    figure, axes = _axes()
    counts, norms = ([item[i] for item in report.frequency.sample] for i in (0, 1))
    axes.scatter(counts, norms, s=3, color=GREY, linewidths=0, rasterized=True)
    bands = report.frequency.bands
    middle = [np.sqrt(band.lowest * band.highest) for band in bands]
    mean, std = (np.array([getattr(band, name) for band in bands]) for name in ("mean_norm", "std_norm"))
    axes.fill_between(middle, mean - std, mean + std, color=PALETTE[1], alpha=0.15, linewidth=0)
    axes.plot(middle, mean, "o-", color=PALETTE[1], markersize=3.5, linewidth=1.4)
    axes.set_xscale("log")
    axes.set_xlabel("count in the corpus")
    axes.set_ylabel("norm")
    axes.grid(True)
    return svg(figure)


def _themes(report: QualityReport) -> bytes:
    known = sorted((t for t in report.themes if t.mean_similarity is not None), key=lambda t: t.mean_similarity)
    figure, axes = _axes((_SMALL[0], 0.9 + 0.24 * max(len(known), 3)))
    mean, std = report.similarities.mean, report.similarities.std
    axes.axvspan(mean - std, mean + std, color=GREY, alpha=0.3, linewidth=0)
    axes.axvline(mean, color=INK, linestyle="--", linewidth=1)
    places = np.arange(len(known))
    values = [theme.mean_similarity for theme in known]
    axes.hlines(places, mean, values, color=PALETTE[0], linewidth=2)
    axes.plot(values, places, "o", color=PALETTE[0], markersize=6)
    for place, value in zip(places, values, strict=True):
        right = value >= mean
        where = {"xytext": (7 if right else -7, 0), "ha": "left" if right else "right"}
        axes.annotate(f"{value:.2f}", (value, place), textcoords="offset points", va="center", fontsize=7.5, **where)
    axes.set_yticks(places, [theme.name for theme in known])
    for label in axes.get_yticklabels():
        label.set_parse_math(False)
    axes.set_ylim(-0.6, len(known) - 0.4)
    axes.margins(x=0.1)
    axes.set_xlabel("mean cosine within the theme")
    return svg(figure)


def _between(report: QualityReport) -> bytes:
    names = [theme.name for theme in report.themes]
    matrix = np.array([[np.nan if v is None else v for v in row] for row in report.theme_similarity], float)
    side = 1.7 + 0.3 * max(len(names), 4)
    figure, axes = _axes((min(side + 0.9, 11), min(side, 10)))
    image = axes.imshow(matrix, cmap="Blues", vmin=min(0.0, np.nanmin(matrix)), vmax=max(np.nanmax(matrix), 0.05))
    axes.set_xticks(range(len(names)), names, rotation=60, ha="right", rotation_mode="anchor")
    axes.set_yticks(range(len(names)), names)
    for label in [*axes.get_xticklabels(), *axes.get_yticklabels()]:
        label.set_parse_math(False)
    axes.tick_params(length=0)
    for spine in axes.spines.values():
        spine.set_visible(False)
    if len(names) <= 14:
        low, high = image.get_clim()
        for row, column in np.ndindex(*matrix.shape):
            value = matrix[row, column]
            if np.isfinite(value):
                light = (value - low) / (high - low) < 0.6
                axes.text(
                    column, row, f"{value:.2f}", ha="center", va="center", fontsize=6.5, color=INK if light else "white"
                )
    figure.colorbar(image, ax=axes, shrink=0.7).outline.set_visible(False)
    return svg(figure)
