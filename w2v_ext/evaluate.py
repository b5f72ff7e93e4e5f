"""``python -m w2v_ext.evaluate``: how good word vectors are, by people's judgments and by groups of words."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro

from .command_line import read_vectors, run_command
from .groups import Clusters, Outliers, evaluate_clusters, evaluate_outliers, read_groups, read_outliers
from .json_values import json_text
from .judgments import Section, WordAnalogies, WordPairs, evaluate_word_analogies, evaluate_word_pairs
from .keyedvectors import KeyedVectors

__all__ = [
    "Clusters",
    "Outliers",
    "Section",
    "WordAnalogies",
    "WordPairs",
    "evaluate",
    "evaluate_clusters",
    "evaluate_outliers",
    "evaluate_word_analogies",
    "evaluate_word_pairs",
    "read_groups",
    "read_outliers",
]

DESCRIPTION = """Judge word vectors: similar pairs (Pearson, Spearman), analogies, clusters, outliers.

VECTORS are a model directory, or a file or directory in any format that w2v_ext.convert reads.
Figures follow gensim's definitions."""


@dataclass(frozen=True)
class EvaluateConfig:
    """What to judge by."""

    vectors: tyro.conf.Positional[Annotated[str, tyro.conf.arg(metavar="VECTORS")]]
    """Model directory, or vectors in any format."""
    pairs: tuple[str, ...] = ()
    """Files of word pairs with people's scores: word, tab, word, tab, number."""
    analogies: tuple[str, ...] = ()
    """Files of analogy questions: four words a line, in sections that begin with ': name'."""
    groups: tuple[str, ...] = ()
    """Files of word groups, ': name' and then words: clusters are compared with them, and the words of the other groups
    are each one's outliers."""
    outliers: tuple[str, ...] = ()
    """Files of one outlier test each: the group's words, an empty line, the outliers, one word a line."""
    restrict_vocab: int | None = 300_000
    """Look only at the first so many words, in pairs and analogies (None: all)."""
    case_sensitive: bool = False
    """Tell upper from lower case, in pairs and analogies."""
    dummy4unknown: bool = False
    """Count what has unknown words as similarity 0, or as wrong, instead of leaving it out."""
    cosmul: bool = False
    """Answer analogies by 3CosMul instead of 3CosAdd."""
    device: str = "cpu"
    """Where analogies are computed: cpu or cuda."""
    json: bool = False
    """Print one JSON object."""


def evaluate(vectors: KeyedVectors, config: EvaluateConfig) -> dict[str, Any]:
    """Return all figures that `config` asks for, as JSON has them; percentages are in [0, 100], accuracies in [0, 1].

    Raises:
        ValueError, OSError: a file cannot be read, or has nothing to judge by.
    """
    options = {
        "restrict_vocab": config.restrict_vocab,
        "case_insensitive": not config.case_sensitive,
        "dummy4unknown": config.dummy4unknown,
    }
    report: dict[str, Any] = {
        "vectors": config.vectors,
        "words": len(vectors),
        "dim": vectors.vector_size,
        "restrict_vocab": config.restrict_vocab,
        "case_insensitive": not config.case_sensitive,
        "dummy4unknown": config.dummy4unknown,
    }
    if config.pairs:
        report["pairs"] = [_pairs_json(evaluate_word_pairs(vectors, path, **options)) for path in config.pairs]
    if config.analogies:
        function = "most_similar_cosmul" if config.cosmul else "most_similar"
        found = [
            evaluate_word_analogies(vectors, path, similarity_function=function, device=config.device, **options)
            for path in config.analogies
        ]
        report["analogies"] = [{"file": one.name, "method": function, **_analogies_json(one)} for one in found]
    if config.groups:
        report["groups"] = []
        for path in config.groups:
            groups = read_groups(path)
            figures = {"clusters": asdict(evaluate_clusters(vectors, groups))}
            figures["outliers"] = asdict(evaluate_outliers(vectors, groups))
            report["groups"].append({"file": path, **figures})
    if config.outliers:
        report["outliers"] = asdict(evaluate_outliers(vectors, [read_outliers(path) for path in config.outliers]))
    return report


def _pairs_json(found: WordPairs) -> dict[str, Any]:
    result: dict[str, Any] = {"file": found.name}
    for name in ("pearson", "spearman"):
        one, (low, high) = getattr(found, name), getattr(found, f"{name}_interval")
        result[name] = {"statistic": one.statistic, "pvalue": one.pvalue, "low95": low, "high95": high}
    return {**result, "pairs": found.pairs, "oov": found.oov, "oov_percent": found.oov_percent}


def _analogies_json(found: WordAnalogies) -> dict[str, Any]:
    sections = [
        {
            "section": one.name,
            "accuracy": one.accuracy,
            "correct": len(one.correct),
            "answered": len(one.correct) + len(one.incorrect),
            "oov": one.oov,
        }
        for one in (*found.sections, found.total)
    ]
    total = sections.pop()
    del total["section"]
    return {**total, "oov_percent": found.oov_percent, "sections": sections}


def table(report: dict[str, Any]) -> list[str]:
    """Return the lines that the command prints of a report."""
    lines = [f"{report['vectors']}: {report['words']:,} words, dim {report['dim']}"]
    names = [Path(one["file"]).name for one in (*report.get("pairs", ()), *report.get("groups", ()))]
    names += [s["section"] for one in report.get("analogies", ()) for s in one["sections"]]
    width = max([len("outlier tests"), *map(len, names)]) + 2
    if "pairs" in report:
        lines += [
            "",
            f"{'pairs':<{width}}{'Spearman':>9}  {'95 %':<15}{'Pearson':>9}  {'95 %':<15}{'pairs':>6}  unknown",
        ]
        for one in report["pairs"]:
            row = f"{Path(one['file']).name:<{width}}"
            for name in ("spearman", "pearson"):
                c = one[name]
                row += f"{c['statistic']:>9.4f}  {c['low95']:>6.3f}..{c['high95']:<7.3f}"
            lines.append(f"{row}{one['pairs']:>6}  {one['oov_percent']:.1f} %")
    for one in report.get("analogies", ()):
        lines += ["", f"{'analogies':<{width}}{'accuracy':>9}  {'correct of answered':<21}unknown"]
        for row in (*one["sections"], {**one, "section": "total"}):
            asked = f"{row['correct']:,} of {row['answered']:,}"
            lines.append(f"{row['section']:<{width}}{row['accuracy']:>9.4f}  {asked:<21}{row['oov']:,}")
    if "groups" in report or "outliers" in report:
        lines += ["", f"{'groups':<{width}}{'purity':>9}{'NMI':>9}{'outlier accuracy':>18}{'OPP':>9}  unknown"]
    for one in report.get("groups", ()):
        c, o = one["clusters"], one["outliers"]
        figures = f"{c['purity']:>9.4f}{c['nmi']:>9.4f}{o['accuracy']:>18.4f}{o['opp']:>9.2f}"
        lines.append(f"{Path(one['file']).name:<{width}}{figures}  {c['oov']}")
    if "outliers" in report:
        o = report["outliers"]
        lines.append(f"{'outlier tests':<{width}}{'':>18}{o['accuracy']:>18.4f}{o['opp']:>9.2f}  {o['oov']}")
    return lines


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; gives its exit status: 0, 2 for bad input, 130 when interrupted."""
    config = tyro.cli(
        tyro.conf.FlagCreatePairsOff[EvaluateConfig],
        args=arguments,
        prog="python -m w2v_ext.evaluate",
        description=DESCRIPTION,
    )
    return run_command(lambda: _print_figures(config))


def _print_figures(config: EvaluateConfig) -> None:
    if not (config.pairs or config.analogies or config.groups or config.outliers):
        raise ValueError("expected something to judge by: --pairs, --analogies, --groups or --outliers")
    report = evaluate(read_vectors(config.vectors, "vectors"), config)
    print(json_text(report, indent=1) if config.json else "\n".join(table(report)))


if __name__ == "__main__":
    sys.exit(main())
