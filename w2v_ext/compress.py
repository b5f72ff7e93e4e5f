"""``python -m w2v_ext.compress SRC DST``: smaller vectors, and what that costs in quality."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import tyro

from .command_line import read_table, run_command
from .convert import WITH_NGRAMS, check_destination
from .fasttext_vectors import has_subwords
from .json_values import json_text
from .judgments import evaluate_word_pairs
from .keyedvectors import KeyedVectors
from .quantize import Compressed, compress, save_compressed
from .reporting import Report

DESCRIPTION = """Compress vectors of any format into one safetensors file, and report the loss.

int8 keeps a quarter of the bytes and nearly everything; pq keeps a byte for every few numbers; low-rank keeps the
strongest directions. The file is read wherever vectors are read, as float32; it has no n-grams. The report compares
the 10 nearest neighbours of some words before and after, and, given --pairs (WordSim-353 and the like), the rank
correlation with human scores."""

PathLike = str | os.PathLike[str]


@dataclass(frozen=True)
class Loss:
    """What compressing costs.

    Attributes:
        bytes_before, bytes_after: of the vectors (float32) and of what stands for them.
        error: |X - X'| / |X|, Frobenius norms.
        recall: of the 10 nearest words (cosine) of a word, the share that is still among them; mean over the queries.
        queries: how many words were asked.
        spearman_before, spearman_after: rank correlation with human scores, where pairs were given.
        pairs, oov: how many pairs were compared, and how many have a word that is not in the vocabulary.
    """

    bytes_before: int
    bytes_after: int
    error: float
    recall: float
    queries: int
    spearman_before: float | None = None
    spearman_after: float | None = None
    pairs: int | None = None
    oov: int | None = None


def measure_loss(
    vectors: KeyedVectors,
    packed: Compressed,
    pairs: PathLike | None = None,
    *,
    queries: int = 1000,
    topn: int = 10,
    seed: int = 0,
) -> Loss:
    """Compare vectors with their compressed form.

    Args:
        vectors: V words.
        packed: their compressed vectors.
        pairs: file of word pairs with human scores, such as WordSim-353; see `judgments.evaluate_word_pairs`.
        queries: how many words, drawn at random, to compare the neighbours of.
        topn: how many neighbours; at most V - 1.
        seed: of the draw.

    Raises:
        ValueError, OSError: `pairs` cannot be read, or has nothing to judge by.
    """
    before = vectors.vectors
    after = KeyedVectors(vectors.index_to_key, packed.decode().numpy())
    chosen = np.random.default_rng(seed).permutation(len(before))[:queries]
    topn = min(topn, len(before) - 1)
    recall = 1.0
    if topn > 0:
        near = [x.nearest_rows(x.vectors[chosen], topn, exclude=chosen[:, None])[0] for x in (vectors, after)]
        recall = float(np.mean([len(np.intersect1d(a, b)) / topn for a, b in zip(*near, strict=True)]))
    norm = np.linalg.norm(vectors.norms.astype(np.float64))
    error = np.linalg.norm((before - after.vectors).ravel()) / norm if norm > 0 else 0.0
    judged = [] if pairs is None else [evaluate_word_pairs(x, pairs, restrict_vocab=None) for x in (vectors, after)]
    return Loss(
        before.size * 4,
        packed.num_bytes,
        float(error),
        recall,
        len(chosen),
        *(found.spearman.statistic for found in judged),
        *((judged[0].pairs, judged[0].oov) if judged else ()),
    )


# ---- the command -------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class CommandLine:
    """What the command takes."""

    src: tyro.conf.Positional[Annotated[str, tyro.conf.arg(metavar="SRC")]]
    """Vectors in any format: a file, or a directory such as a model."""
    dst: tyro.conf.Positional[Annotated[str, tyro.conf.arg(metavar="DST")]]
    """File to write (safetensors)."""
    method: Literal["int8", "int8-symmetric", "pq", "low-rank"] = "int8"
    """How: 8 bits with each row's own range, 8 bits symmetric about 0, product quantisation, or low rank."""
    parts: int | None = None
    """pq: parts of a vector, a byte each; default dim / 4."""
    rank: int | None = None
    """low-rank: how many directions are kept; default dim / 2."""
    pairs: str | None = None
    """File of word pairs and human scores, to report the correlation before and after."""
    queries: int = 1000
    """How many words to compare the neighbours of."""
    seed: int = 0
    """Of what is drawn at random."""
    as_json: Annotated[bool, tyro.conf.arg(name="json")] = False
    """Report as JSON."""
    force: bool = False
    """Overwrite DST."""


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; gives its exit status: 0, 2 for bad input, 130 when interrupted."""
    line = tyro.cli(
        tyro.conf.FlagCreatePairsOff[CommandLine],
        args=arguments,
        prog="python -m w2v_ext.compress",
        description=DESCRIPTION,
    )
    return run_command(lambda: run(line))


def run(line: CommandLine) -> Loss:
    """Read, compress, write and report, as the command line does."""
    if line.queries < 1:
        raise ValueError(f"queries: expected a number >= 1, got {line.queries}")
    dst = Path(line.dst)
    check_destination(Path(line.src), dst, is_directory=False, force=line.force)
    name, table = read_table(line.src, "src")
    if not table.words:
        raise ValueError(f"src: expected at least one word, {line.src} has none")
    vectors = KeyedVectors(*table)
    if name in WITH_NGRAMS and has_subwords(line.src):
        Report(sys.stderr).line(f"note: the n-grams of {line.src} are left out: a compressed file has words only")
    if line.pairs is not None:
        evaluate_word_pairs(vectors, line.pairs, restrict_vocab=None)  # what is wrong with them is said at once
    packed = compress(vectors.vectors, line.method, parts=line.parts, rank=line.rank, seed=line.seed)
    loss = measure_loss(vectors, packed, line.pairs, queries=line.queries, seed=line.seed)
    save_compressed(dst, vectors.index_to_key, packed, vectors.counts)
    if line.as_json:
        print(json_text({"method": line.method, "out": str(dst), **asdict(loss)}))
        return loss
    shape = f"{len(vectors):,} x {packed.dim}"
    print(
        f"{line.method}: {shape}, {loss.bytes_before:,} -> {loss.bytes_after:,} bytes ({_ratio(loss)}), saved to {dst}"
    )
    print(f"relative error {loss.error:.4f}, recall@10 {loss.recall:.3f} ({loss.queries:,} queries)")
    if loss.pairs is not None:
        change = f"{loss.spearman_before:.4f} -> {loss.spearman_after:.4f}"
        print(f"Spearman {change} ({loss.pairs} of {loss.pairs + loss.oov} pairs)")
    return loss


def _ratio(loss: Loss) -> str:
    return f"{loss.bytes_before / max(1, loss.bytes_after):.1f} times smaller"


if __name__ == "__main__":
    sys.exit(main())
