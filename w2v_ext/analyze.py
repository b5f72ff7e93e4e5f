"""``python -m w2v_ext.analyze``: the quality report of a model, on the command line."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from .analysis import PAIR_WORDS, SAMPLE_PAIRS, analyze_embedding_quality
from .command_line import read_vectors, run_command
from .files import write_files
from .keyedvectors import KeyedVectors
from .themes import parse_pairs, parse_themes

DESCRIPTION = """Judge word vectors from inside: similar pairs, themes, norms, similarities, anomalies, isotropy, and
frequency against norm. The report goes to the terminal, and where asked to JSON and to one HTML page with pictures."""


@dataclass(frozen=True)
class Options:
    """The settings of the report."""

    model: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="MODEL")]
    """Model directory, or vectors in any format."""
    html: str | None = None
    """Write the report, with pictures, to this HTML file (needs the extra viz)."""
    json: str | None = None
    """Write the figures to this JSON file; - writes them to the terminal, in place of the text."""
    theme: tuple[str, ...] = ()
    """Groups of words that belong together, NAME=WORD,WORD,..."""
    themes: str | None = None
    """YAML or JSON file of groups, NAME: [WORD, ...]; or the word builtin, for the groups of the built-in corpus."""
    pair: tuple[str, ...] = ()
    """Pairs of words, WORD,WORD."""
    pairs: str | None = None
    """File of pairs, two words a line."""
    top_pairs: int = 20
    """How many of the most similar pairs are listed."""
    k_sigma: float = 3.0
    """A norm further than this many standard deviations from the mean is an anomaly."""
    pair_words: int = PAIR_WORDS
    """Search the most similar pairs among this many of the first words; 0 for all (the time grows with its square)."""
    sample_pairs: int = SAMPLE_PAIRS
    """Random pairs for the histogram of similarities."""
    seed: int = 0
    """Seed of the random pairs."""
    device: str = "cpu"
    """cpu or cuda: where the matrix products run."""
    title: str | None = None
    """Title of the HTML page."""


def run(options: Options) -> None:
    """Analyse, print and write."""
    for name, value in (("html", options.html), ("json", options.json)):
        if value and value != "-" and not Path(value).parent.is_dir():
            raise OSError(f"{name}: no such directory: {Path(value).parent}")
    vectors = read_vectors(options.model, "model")
    themes = parse_themes(options.theme, options.themes)
    report = analyze_embedding_quality(
        vectors,
        themes=themes,
        pairs=parse_pairs(options.pair, options.pairs),
        top_pairs=options.top_pairs,
        k_sigma=options.k_sigma,
        pair_words=options.pair_words or None,
        sample_pairs=options.sample_pairs,
        seed=options.seed,
        device=options.device,
    )
    files = {}
    if options.json and options.json != "-":
        files[Path(options.json)] = report.to_json() + "\n"
    if options.html:
        title = options.title or f"Embedding quality: {Path(options.model).name or options.model}"
        files[Path(options.html)] = report.to_html(title, _theme_map(vectors, themes))
    write_files({path: lambda target, text=text: target.write_text(text, "utf-8") for path, text in files.items()})
    print(report.to_json() if options.json == "-" else report.to_text())
    for path in files:
        print(f"wrote {path}", file=sys.stderr if options.json == "-" else sys.stdout)


def _theme_map(vectors: KeyedVectors, themes: dict[str, tuple[str, ...]]) -> list[tuple[str, bytes]]:
    """Return a map of the themes' words for the HTML page, if there are any."""
    from .plots import plot_map
    from .report_pictures import png

    known = {word for words in themes.values() for word in words if word in vectors}
    if len(known) < 3:
        return []
    figure = plot_map(
        vectors, method="pca", themes=themes, labels=250, size=(10.4, 6.4), title="The words of the themes"
    )
    return [
        ("Principal components of the words of the themes; see python -m w2v_ext.plot for t-SNE and UMAP.", png(figure))
    ]


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; gives its exit status: 0, 2 for bad input, 130 when interrupted."""
    options = tyro.cli(Options, args=arguments, prog="python -m w2v_ext.analyze", description=DESCRIPTION)
    return run_command(lambda: run(options))


if __name__ == "__main__":
    sys.exit(main())
