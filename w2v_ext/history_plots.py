"""Pictures of a run: its loss, and how the neighbours of the probe words change from epoch to epoch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from .fonts import check_drawable
from .palette import GREY, INK, PALETTE, SOFT
from .plots import PathLike, drawing, save_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

History = dict[str, list[dict[str, Any]]]
_MOST_COLUMNS = 8
_RANKS = 8


def plot_loss(
    history: History,
    out: PathLike | Sequence[PathLike] | None = None,
    *,
    title: str = "Loss per pair",
    size: tuple[float, float] = (8.0, 4.8),
) -> Figure:
    """Draw the loss of a run: its course, the mean of every epoch, and the learning rate below.

    Args:
        history: from `monitor.load_history`.
        out: file or files (.png, .svg, .pdf), or None.
        title: above the picture.
        size: width and height in inches.

    Raises:
        ValueError: the history has no epoch with a loss.
        ImportError: matplotlib is missing; it names the extra.
    """
    epochs = [epoch for epoch in history["epochs"] if epoch.get("loss") is not None]
    if not epochs:
        raise ValueError("history: expected at least one epoch with a loss, got none")
    steps = [step for step in history["steps"] if step.get("loss") is not None]
    per_epoch = epochs[0]["words"] / epochs[0]["epoch"]
    with drawing():
        from matplotlib.figure import Figure
        from matplotlib.ticker import MaxNLocator

        figure = Figure(figsize=size, layout="constrained")
        loss, rate = figure.subplots(2, 1, sharex=True, height_ratios=[4, 1])
        if len(steps) > 1:
            x = [step["words"] / per_epoch for step in steps]
            loss.plot(
                x,
                [step["loss"] for step in steps],
                color=PALETTE[0],
                linewidth=1,
                alpha=0.75,
                label="as training went on",
            )
            rate.plot(x, [step["lr"] for step in steps], color=PALETTE[2], linewidth=1.2)
        x = [epoch["epoch"] for epoch in epochs]
        values = [epoch["loss"] for epoch in epochs]
        starts = [place - 1 for place in x]
        loss.hlines(values, starts, x, color=PALETTE[1], linewidth=2.2, label="mean of each epoch", zorder=3)
        for place in sorted({0, len(x) - 1}):
            above = (x[place] - 0.5, values[place]), (0, 5)
            loss.annotate(f"{values[place]:.4f}", *above, textcoords="offset points", ha="center", color=PALETTE[1])
        if len(steps) <= 1:
            rate.plot(x, [epoch["lr"] for epoch in epochs], "o-", color=PALETTE[2], markersize=3, linewidth=1.2)
        seen = values + [step["loss"] for step in steps[len(steps) // 50 :]]
        low, high = min(seen), max(seen)
        loss.set_ylim(low - 0.05 * (high - low or 1), high + 0.12 * (high - low or 1))  # the first moments go beyond
        loss.set_xlim(0, max(x) * 1.01)
        loss.set_ylabel("loss")
        rate.set_ylabel("learning rate")
        rate.set_ylim(bottom=0)
        rate.set_xlabel(f"epoch ({per_epoch:,.0f} words each)")
        rate.xaxis.set_major_locator(MaxNLocator(10, integer=True))
        for axes in (loss, rate):
            axes.grid(True)
        loss.legend(loc="upper right")
        loss.set_title(title, parse_math=False)
        figure.align_ylabels()
    return save_figure(figure, out)


def plot_neighbors(
    history: History,
    out: PathLike | Sequence[PathLike] | None = None,
    *,
    words: Sequence[str] = (),
    ranks: int = _RANKS,
    title: str = "Nearest neighbours, epoch by epoch",
    font: PathLike | None = None,
) -> Figure:
    """Draw how the neighbours of probe words change: a panel a word, a column an epoch, lines from place to place.

    A word that was not among the neighbours of the column before is coloured; so a panel in grey has settled. Beyond
    eight epochs, eight of them are shown.

    Args:
        history: from `monitor.load_history`.
        out: file or files (.png, .svg, .pdf), or None.
        words: which probe words; all that were recorded by default.
        ranks: how many neighbours.
        title: above the picture.
        font: a font file for the words.

    Raises:
        ValueError: no neighbours, or not those of a word, were recorded (train with --probe).
        ImportError: matplotlib is missing; it names the extra.
    """
    epochs = history["epochs"]
    recorded = list(dict.fromkeys(word for epoch in epochs for word in epoch.get("neighbors", {})))
    if not recorded:
        raise ValueError("history: no neighbours were recorded; train with --probe WORD,WORD,...")
    for word in words:
        if word not in recorded:
            raise ValueError(f"words: no neighbours of {word!r} were recorded, only of {', '.join(recorded)}")
    if ranks < 1:
        raise ValueError(f"ranks: expected a number >= 1, got {ranks}")
    words = list(words) or recorded
    tables = {word: _columns(epochs, word, ranks) for word in words}
    with drawing():
        from matplotlib.figure import Figure

        texts = [other for table in tables.values() for _, column in table for other in column]
        families, undrawable = check_drawable([*texts, *words, title], font)
    with drawing(families):
        across = 1 if len(words) == 1 or max(len(table) for table in tables.values()) > 5 else 2
        rows = -(-len(words) // across)
        longest = max(len(text) for text in texts) if texts else 1
        columns = max(len(table) for table in tables.values())
        width = float(np.clip(across * columns * max(0.11 * longest, 0.95), 5, 16))
        deepest = max(len(column) for table in tables.values() for _, column in table)
        figure = Figure(figsize=(width, rows * (0.24 * deepest + 0.75) + 0.4), layout="constrained")
        grid = figure.subplots(rows, across, squeeze=False).ravel()
        for axes in grid[len(words) :]:
            axes.axis("off")
        for axes, word in zip(grid, words, strict=False):
            _draw_neighbors(axes, word, tables[word], undrawable)
        figure.suptitle(title, x=0.01, ha="left", weight="bold", parse_math=False)
        figure.get_layout_engine().set(hspace=0.06)
    return save_figure(figure, out)


def _columns(epochs: list[dict[str, Any]], word: str, ranks: int) -> list[tuple[int, list[str]]]:
    """Return (epoch, neighbours), at most eight of them, the first and the last among them."""
    found = [(e["epoch"], [w for w, _ in e["neighbors"][word]][:ranks]) for e in epochs if word in e["neighbors"]]
    chosen = np.unique(np.linspace(0, len(found) - 1, min(len(found), _MOST_COLUMNS)).round().astype(int))
    return [found[i] for i in chosen]


def _draw_neighbors(axes: Axes, word: str, table: list[tuple[int, list[str]]], undrawable: set[str]) -> None:
    deepest = max(len(column) for _, column in table)
    axes.set_xlim(-0.5, len(table) - 0.5)
    axes.set_ylim(deepest - 0.4, -0.6)
    for place, (_, column) in enumerate(table):
        before = table[place - 1][1] if place else column
        for rank, other in enumerate(column):
            if other in before and place:
                line = ((place - 1 + 0.36, place - 0.36), (before.index(other), rank))
                axes.plot(*line, color=GREY, linewidth=1.1, zorder=1, solid_capstyle="round")
            new = other not in before
            text = "·" if other in undrawable else other
            color, weight = (PALETTE[1], "bold") if new else (INK, "normal")
            axes.text(
                place, rank, text, ha="center", va="center", color=color, weight=weight, fontsize=8, parse_math=False
            )
    kept = [len(set(a) & set(b)) for (_, a), (_, b) in zip(table, table[1:], strict=False)]
    axes.set_xticks(range(len(table)), [f"epoch {epoch}" for epoch, _ in table], fontsize=7.5)
    axes.xaxis.tick_top()
    axes.tick_params(length=0)
    axes.set_yticks([])
    for spine in axes.spines.values():
        spine.set_visible(False)
    settled = f"   kept from column to column: {', '.join(map(str, kept))} of {deepest}" if kept else ""
    axes.set_title(word, parse_math=False, pad=4)
    axes.set_title(settled, loc="right", fontsize=7.5, weight="normal", color=SOFT)
