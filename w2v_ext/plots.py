"""Pictures: maps of words, the loss of a run, how neighbours change; PNG, SVG or PDF, without a display.

Every function returns matplotlib's `Figure` and, given `out`, saves it.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from .files import write_files
from .fonts import BASE, check_drawable
from .keyedvectors import KeyedVectors
from .labels import place_labels
from .palette import GREY, INK, PALETTE, SOFT
from .projection import NAMES, Method, project
from .selection import Selection, select_words
from .themes import Themes

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

PathLike = str | os.PathLike[str]
FORMATS = ("png", "svg", "pdf")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", ">", "*")  # another one after every ten groups


@contextmanager
def drawing(families: Sequence[str] = (BASE,)) -> Iterator[None]:
    """Draw in the library's style, whatever the user's own settings of matplotlib are.

    Raises:
        ImportError: matplotlib is missing; it names the extra.
    """
    try:
        import matplotlib
    except ImportError as error:
        raise ImportError("pictures need matplotlib: pip install 'w2v_ext[viz]'") from error
    style = {
        "font.family": list(families),
        "font.size": 9,
        "text.color": INK,
        "axes.edgecolor": "#c8ced6",
        "axes.labelcolor": INK,
        "axes.titlesize": 11,
        "axes.titleweight": "bold",
        "axes.titlelocation": "left",
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.unicode_minus": False,
        "xtick.color": "#5a6470",
        "ytick.color": "#5a6470",
        "grid.color": "#e6e9ee",
        "axes.axisbelow": True,
        "legend.frameon": False,
        "figure.dpi": 150,
        "savefig.dpi": 150,
        "svg.fonttype": "path",  # letters as curves: the labels keep their size where the font is missing
        "svg.hashsalt": "w2v_ext",  # the same picture gives the same bytes
        "pdf.fonttype": 42,
    }
    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(style)
        yield


def check_outputs(paths: Sequence[PathLike], more: str = "") -> list[Path]:
    """Return the paths a figure is saved to.

    Raises:
        ValueError: a suffix other than .png, .svg and .pdf; `more` names what else the caller takes.
    """
    for path in map(Path, paths):
        if path.suffix.lower().lstrip(".") not in FORMATS:
            raise ValueError(f"out: expected a file name that ends in .png, .svg{more} or .pdf, got {str(path)!r}")
    return list(map(Path, paths))


def save_figure(figure: Figure, out: PathLike | Sequence[PathLike] | None) -> Figure:
    """Save a figure to one or more files, in the formats of their suffixes; each appears whole or not at all."""
    if out is not None:
        paths = check_outputs([out] if isinstance(out, (str, os.PathLike)) else list(out))

        def writer(path: Path) -> Callable[[Path], None]:
            kind = path.suffix.lower().lstrip(".")
            dates = {"svg": {"Date": None}, "pdf": {"CreationDate": None}}.get(kind)
            return lambda target: figure.savefig(target, format=kind, metadata=dates)

        with drawing():
            write_files({path: writer(path) for path in paths})
    return figure


# ---- the map -----------------------------------------------------------------------------------------------------


def plot_map(
    vectors: KeyedVectors,
    out: PathLike | Sequence[PathLike] | None = None,
    *,
    method: Method = "tsne",
    words: Sequence[str] = (),
    themes: Themes | None = None,
    around: Sequence[str] = (),
    neighbors: int = 12,
    top: int | None = None,
    skip: int = 0,
    clusters: int = 0,
    labels: int = 300,
    title: str | None = None,
    size: tuple[float, float] = (10.0, 7.5),
    font: PathLike | None = None,
    seed: int = 0,
    perplexity: float = 30.0,
) -> Figure:
    """Draw words on a plane, groups coloured, with labels that do not overlap.

    Args:
        vectors: the word vectors.
        out: file or files (.png, .svg, .pdf), or None.
        method: "pca", "tsne" or "umap"; see `projection.project` for what each keeps, `seed` and `perplexity`.
        words, themes, around, neighbors, top, skip, clusters: which words; see `selection.select_words`.
        labels: at most this many labels; words of groups come first. What finds no room goes without one.
        title: above the picture.
        size: width and height in inches.
        font: a font file for the labels. Without it, one of the installed fonts that has the characters.

    Raises:
        ValueError: see `select_words`, `project`; MissingFontError where no font can draw the labels.
        ImportError: a package is missing; it names the extra.
    """
    if labels < 0:
        raise ValueError(f"labels: expected a number >= 0, got {labels}")
    if not all(1 <= side <= 200 for side in size):
        raise ValueError(f"size: expected a width and a height from 1 to 200 inches, got {tuple(size)}")
    chosen = select_words(
        vectors,
        words=words,
        themes=themes,
        around=around,
        neighbors=neighbors,
        top=top,
        skip=skip,
        clusters=clusters,
        seed=seed,
    )
    flat = project(vectors.vectors[chosen.rows], method, seed=seed, perplexity=perplexity)
    texts = [vectors.index_to_key[row] for row in chosen.rows]
    heading = title if title is not None else f"{len(texts):,} of {len(vectors):,} words, {NAMES[method]}"
    figure = draw_map(texts, flat.points, chosen, labels, heading, flat.description, size, font)
    return save_figure(figure, out)


def draw_map(
    texts: Sequence[str],
    points: np.ndarray,
    chosen: Selection,
    labels: int,
    title: str,
    foot: str,
    size: tuple[float, float],
    font: PathLike | None = None,
) -> Figure:
    """Draw `points` (n, 2) of `texts` (n), in the order of `chosen`, that are already on the plane; see `plot_map`."""
    with drawing():  # before fonts are asked for: a missing matplotlib names its extra
        from matplotlib.figure import Figure

        families, undrawable = check_drawable([*texts, *chosen.names, title], font)
    with drawing(families):
        width, height = size
        figure = Figure(figsize=size)
        axes = figure.add_axes((0.02, 0.05, 0.96, 0.95 - 0.4 / height))
        axes.set_xticks([])
        axes.set_yticks([])
        for spine in axes.spines.values():
            spine.set_visible(True)
        order = np.argsort(chosen.groups < 0, kind="stable")  # words of groups first
        area = float(np.clip(5000 / len(texts), 5, 26))
        for group in range(-1, len(chosen.names)):
            inside = chosen.groups == group
            style = {"c": GREY, "marker": "o", "s": 0.7 * area} if group < 0 else {**group_style(group), "s": area}
            label = None if group < 0 else plain(chosen.names[group])
            axes.scatter(*points[inside].T, **style, linewidths=0, zorder=2 if group < 0 else 3, label=label)
        _legend_beside(figure, axes, len(chosen.names))
        axes.set_aspect("equal", adjustable="datalim")
        axes.margins(0.04)
        axes.set_title(title, parse_math=False, pad=6)
        drawable = [index for index in order.tolist() if texts[index] not in undrawable][:labels]
        written = _write_labels(figure, axes, texts, points, chosen.groups, drawable, math.sqrt(area) / 2)
        if written < len(texts):
            foot += f". Words without a label: {len(texts) - written:,}"
        figure.text(0.02, 0.018, foot, fontsize=7, color=SOFT, parse_math=False)
    return figure


def group_style(group: int) -> dict[str, str]:
    """Colour and marker of the n-th group."""
    turn = group // len(PALETTE)
    return {"c": PALETTE[group % len(PALETTE)], "marker": MARKERS[turn % len(MARKERS)]}


def plain(text: str) -> str:
    """Return a text in which matplotlib finds no formula, for where `parse_math=False` cannot be said."""
    return text.replace("$", r"\$")


def _legend_beside(figure: Figure, axes: Axes, groups: int) -> None:
    """Put the legend to the right, and give the axes what is left."""
    if not groups:
        return
    columns = 1 if groups <= 34 else 2
    legend = figure.legend(
        loc="upper right",
        bbox_to_anchor=(0.985, 0.955),
        ncols=columns,
        fontsize=8 if groups <= 24 else 7,
        handletextpad=0.3,
        borderaxespad=0,
        markerscale=1.3,
    )
    share = legend.get_window_extent().width / figure.bbox.width
    left, bottom, _, height = axes.get_position().bounds
    axes.set_position((left, bottom, max(0.97 - share - left - 0.01, 0.3), height))


def _write_labels(
    figure: Figure,
    axes: Axes,
    texts: Sequence[str],
    points: np.ndarray,
    groups: np.ndarray,
    order: Sequence[int],
    radius: float,
) -> int:
    """Place and write the labels of `order`; gives how many found room. Offsets are in points (1/72 inch)."""
    figure.draw_without_rendering()  # settles the limits of the axes
    axes.autoscale(False)  # and the lines to the labels shall not move them
    from matplotlib.patheffects import withStroke

    halo = [withStroke(linewidth=1.6, foreground="white", alpha=0.85)]  # letters stay legible on points and lines
    scale = figure.dpi / 72
    size = 8 if len(order) <= 160 else 7 if len(order) <= 300 else 6
    pixels = axes.transData.transform(points)
    written = []
    for index in order:
        color = "#6b7480" if groups[index] < 0 else PALETTE[groups[index] % len(PALETTE)]
        style = {"fontsize": size, "color": color, "ha": "center", "va": "center", "parse_math": False, "zorder": 5}
        style["path_effects"] = halo
        written.append(
            axes.annotate(
                texts[index], points[index], (0, 0), textcoords="offset points", annotation_clip=False, **style
            )
        )
    boxes = [text.get_window_extent() for text in written]
    sizes = np.zeros((len(texts), 2))
    for index, box in zip(order, boxes, strict=True):
        sizes[index] = box.width, box.height * 0.86  # without most of the line spacing
    placed = place_labels(
        pixels,
        sizes,
        np.asarray(order, np.int64),
        axes.get_window_extent().padded(-3 * scale).extents,
        radius=radius * scale,
        gap=1.2 * scale,
        scale=scale,
    )
    annotation = dict(zip(order, written, strict=True))
    for place in placed:
        x, y = pixels[place.index]
        left, bottom, right, top = place.box
        text = annotation.pop(place.index)
        text.set_position((((left + right) / 2 - x) / scale, ((bottom + top) / 2 - y) / scale))
        if place.far:
            end = (np.clip(x, left, right), np.clip(y, bottom, top))
            line = axes.transData.inverted().transform([(x, y), end])
            axes.plot(*line.T, color=text.get_color(), linewidth=0.4, alpha=0.7, zorder=4)
    for text in annotation.values():
        text.remove()
    return len(placed)
