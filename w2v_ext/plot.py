"""``python -m w2v_ext.plot``: pictures of a model, on the command line."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

import tyro

from .command_line import read_vectors, run_command
from .monitor import load_history
from .reporting import Report
from .themes import parse_themes, split_words

DESCRIPTION = """Draw a model: a map of its words (PNG, SVG, PDF, or an interactive HTML page), the loss of its
training, or how the neighbours of its probe words changed."""

Model = Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="MODEL")]


@dataclass(frozen=True)
class Map:
    """Words on a plane, by PCA, t-SNE or UMAP; a page to zoom and search in where --out ends in .html."""

    model: Model
    """Model directory, or vectors in any format."""
    out: tuple[str, ...] = ("map.png",)
    """Files to write: .png, .svg, .pdf, .html."""
    method: Literal["pca", "tsne", "umap"] = "tsne"
    """pca keeps the directions of greatest variance; tsne and umap keep neighbourhoods."""
    theme: tuple[str, ...] = ()
    """Groups of words, NAME=WORD,WORD,...; each gets a colour."""
    themes: str | None = None
    """YAML or JSON file of groups, NAME: [WORD, ...]; or the word builtin, for the groups of the built-in corpus."""
    words: str = ""
    """Single words, separated by commas."""
    around: str = ""
    """Words, separated by commas, that are shown with their nearest neighbours, a group each."""
    neighbors: int = 12
    """How many neighbours."""
    top: int | None = None
    """Add this many of the most frequent words (default: 200 where nothing else is asked for)."""
    skip: int = 0
    """Pass over this many of the most frequent words."""
    clusters: int = 0
    """Cut the words that are in no group into this many groups, by k-means."""
    labels: int = 300
    """At most this many labels on a picture."""
    title: str | None = None
    """Title."""
    size: tuple[float, float] = (10.0, 7.5)
    """Width and height of a picture in inches (150 dots each)."""
    font: str | None = None
    """Font file for the labels."""
    seed: int = 0
    """Seed of t-SNE, UMAP and k-means."""
    perplexity: float = 30.0
    """Of t-SNE: about how many neighbours count."""


@dataclass(frozen=True)
class Loss:
    """The loss of a training run, and its learning rate."""

    model: Model
    """Model directory."""
    out: tuple[str, ...] = ("loss.png",)
    """Files to write: .png, .svg, .pdf."""
    title: str = "Loss per pair"
    """Title."""


@dataclass(frozen=True)
class Neighbors:
    """How the neighbours of probe words changed from epoch to epoch (train with --probe)."""

    model: Model
    """Model directory."""
    out: tuple[str, ...] = ("neighbors.png",)
    """Files to write: .png, .svg, .pdf."""
    words: str = ""
    """Which probe words, separated by commas (default: all)."""
    ranks: int = 8
    """How many neighbours."""
    title: str = "Nearest neighbours, epoch by epoch"
    """Title."""
    font: str | None = None
    """Font file for the words."""


def draw_map(options: Map) -> None:
    """Write a map's pictures and pages."""
    from .page import write_map_page
    from .plots import check_outputs, plot_map

    pages = [path for path in options.out if path.endswith(".html")]
    pictures = check_outputs([path for path in options.out if path not in pages], more=", .html")
    vectors = read_vectors(options.model, "model")
    common = {
        "method": options.method,
        "words": split_words(options.words),
        "themes": parse_themes(options.theme, options.themes),
        "around": split_words(options.around),
        "neighbors": options.neighbors,
        "top": options.top,
        "skip": options.skip,
        "clusters": options.clusters,
        "title": options.title,
        "seed": options.seed,
        "perplexity": options.perplexity,
    }
    asked = {w for words in common["themes"].values() for w in words} | set(common["words"]) | set(common["around"])
    absent = sorted(word for word in asked if word not in vectors)
    if 0 < len(absent) < len(asked):  # where none is known, the error says so
        more = f" and {len(absent) - 10} more" if len(absent) > 10 else ""
        Report(sys.stderr).line(f"note: not in the vocabulary: {', '.join(absent[:10])}{more}")
    if pictures:
        plot_map(vectors, pictures, labels=options.labels, size=options.size, font=options.font, **common)
    for page in pages:
        write_map_page(vectors, page, **common)


def run(options: Map | Loss | Neighbors) -> None:
    """Draw what was asked for, and say where it is."""
    from .history_plots import plot_loss, plot_neighbors
    from .plots import check_outputs

    if not options.out:
        raise ValueError("out: expected at least one file, got none")
    if isinstance(options, Map):
        draw_map(options)
    elif isinstance(options, Loss):
        plot_loss(load_history(options.model), check_outputs(options.out), title=options.title)
    else:
        history, out = load_history(options.model), check_outputs(options.out)
        words = split_words(options.words)
        plot_neighbors(history, out, words=words, ranks=options.ranks, title=options.title, font=options.font)
    for path in options.out:
        print(f"wrote {path}")


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; gives its exit status: 0, 2 for bad input, 130 when interrupted."""
    commands = (
        Annotated[Map, tyro.conf.subcommand("map")]
        | Annotated[Loss, tyro.conf.subcommand("loss")]
        | Annotated[Neighbors, tyro.conf.subcommand("neighbors")]
    )
    options = tyro.cli(commands, args=arguments, prog="python -m w2v_ext.plot", description=DESCRIPTION)
    return run_command(lambda: run(options))


if __name__ == "__main__":
    sys.exit(main())
