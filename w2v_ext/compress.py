"""``python -m w2v_ext.compress SRC DST``: smaller vectors, and what that costs in quality."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import torch
import tyro

from .convert import check_destination, read_source, report_errors
from .files import FormatError
from .quantize import Compressed, compress, save_compressed

DESCRIPTION = """Compress vectors of any format into one safetensors file, and report the loss.

int8 keeps a quarter of the bytes and nearly everything; pq keeps a byte for every few numbers; low-rank keeps the
strongest directions. The file is read wherever vectors are read, as float32. The report compares the 10 nearest
neighbours of some words before and after, and, given --pairs (WordSim-353 and the like), the rank correlation with
human scores."""


@dataclass(frozen=True)
class Loss:
    """What compressing costs.

    Attributes:
        bytes_before, bytes_after: of the vectors (float32) and of what stands for them.
        error: |X - X'| / |X|, Frobenius norms.
        recall: of the 10 nearest words (cosine) of a word, the share that is still among them; mean over the queries.
        queries: how many words were asked.
        spearman_before, spearman_after: rank correlation with human scores, where pairs were given.
        pairs: how many pairs were in the vocabulary.
    """

    bytes_before: int
    bytes_after: int
    error: float
    recall: float
    queries: int
    spearman_before: float | None = None
    spearman_after: float | None = None
    pairs: int | None = None


def measure_loss(
    words: Sequence[str],
    vectors: np.ndarray,
    packed: Compressed,
    pairs: Sequence[tuple[str, str, float]] | None = None,
    *,
    queries: int = 1000,
    topn: int = 10,
    seed: int = 0,
) -> Loss:
    """Compare vectors with their compressed form.

    Args:
        words: V words.
        vectors: (V, D) float32.
        packed: the compressed vectors.
        pairs: (word, word, human score), as in WordSim-353; words that are unknown are tried in lower case.
        queries: how many words, drawn at random, to compare the neighbours of.
        topn: how many neighbours; at most V - 1.
        seed: of the draw.
    """
    before = torch.from_numpy(np.ascontiguousarray(vectors, np.float32))
    after = packed.decode()
    chosen = np.random.default_rng(seed).permutation(len(before))[:queries]
    topn = min(topn, len(before) - 1)
    recall = 1.0
    if topn > 0:
        near = [_neighbours(x, chosen, topn) for x in (before, after)]
        recall = float(np.mean([len(np.intersect1d(a, b)) / topn for a, b in zip(*near, strict=True)]))
    norm = torch.linalg.vector_norm(before, dtype=torch.float64)
    error = torch.linalg.vector_norm(before - after, dtype=torch.float64) / norm if norm > 0 else norm
    result = Loss(before.numel() * 4, packed.num_bytes, float(error), recall, len(chosen))
    if pairs is None:
        return result
    index = {word: i for i, word in enumerate(words)}
    find = lambda word: index.get(word, index.get(word.lower()))  # noqa: E731
    known = [(a, b, s) for a, b, s in ((find(x), find(y), s) for x, y, s in pairs) if a is not None and b is not None]
    scores = [_spearman(_cosines(x, known), [s for _, _, s in known]) for x in (before, after)]
    return Loss(**{**result.__dict__, "spearman_before": scores[0], "spearman_after": scores[1], "pairs": len(known)})


def _unit(x: torch.Tensor) -> torch.Tensor:
    return torch.nn.functional.normalize(x.float(), dim=-1)


def _neighbours(x: torch.Tensor, chosen: np.ndarray, topn: int) -> np.ndarray:
    x = _unit(x)
    found = []
    for some in torch.from_numpy(chosen).split(max(1, (1 << 26) // max(1, len(x)))):
        scores = x[some] @ x.T
        scores[torch.arange(len(some)), some] = -torch.inf  # not the word itself
        found.append(scores.topk(topn, dim=1).indices)
    return torch.cat(found).numpy()


def _cosines(x: torch.Tensor, pairs: Sequence[tuple[int, int, float]]) -> list[float]:
    left, right = ([pair[side] for pair in pairs] for side in (0, 1))
    return (_unit(x[left].double()) * _unit(x[right].double())).sum(1).tolist()


def _ranks(values: Sequence[float]) -> np.ndarray:
    """Ranks; equal values share the mean of theirs."""
    _, inverse, counts = np.unique(np.asarray(values), return_inverse=True, return_counts=True)
    return (np.cumsum(counts) - (counts - 1) / 2)[inverse]


def _spearman(a: Sequence[float], b: Sequence[float]) -> float:
    if len(a) < 2:
        return float("nan")
    with np.errstate(invalid="ignore", divide="ignore"):
        return float(np.corrcoef(_ranks(a), _ranks(b))[0, 1])


def read_pairs(path: str | Path) -> list[tuple[str, str, float]]:
    """Read word pairs with scores: three columns between tabs; other lines (comments, a header) are passed over.

    Raises:
        FormatError: no line is one.
        OSError: the file cannot be read.
    """
    pairs = []
    for line in Path(path).read_text(encoding="utf-8", errors="replace").splitlines():
        fields = line.split("\t")
        try:
            pairs.append((fields[0], fields[1], float(fields[2])))
        except (IndexError, ValueError):
            continue
    if not pairs:
        raise FormatError(f"{path}: expected lines of word, tab, word, tab, score; found none")
    return pairs


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
    return report_errors(lambda: run(line))


def run(line: CommandLine) -> Loss:
    """Read, compress, write and report, as the command line does."""
    pairs = None if line.pairs is None else read_pairs(line.pairs)
    if line.queries < 1:
        raise ValueError(f"queries: expected a number >= 1, got {line.queries}")
    dst = Path(line.dst)
    check_destination(Path(line.src), dst, is_directory=False, force=line.force)
    _, table = read_source(line.src)
    packed = compress(table.vectors, line.method, parts=line.parts, rank=line.rank, seed=line.seed)
    save_compressed(dst, table.words, packed, table.counts)
    loss = measure_loss(table.words, table.vectors, packed, pairs, queries=line.queries, seed=line.seed)
    if line.as_json:
        print(json.dumps({"method": line.method, "out": str(dst), **asdict(loss)}))
        return loss
    shape = f"{len(table.words):,} x {packed.dim}"
    print(
        f"{line.method}: {shape}, {loss.bytes_before:,} -> {loss.bytes_after:,} bytes ({_ratio(loss)}), saved to {dst}"
    )
    print(f"relative error {loss.error:.4f}, recall@10 {loss.recall:.3f} ({loss.queries:,} queries)")
    if loss.pairs is not None:
        change = f"{loss.spearman_before:.4f} -> {loss.spearman_after:.4f}"
        print(f"Spearman {change} ({loss.pairs} of {len(pairs or [])} pairs)")
    return loss


def _ratio(loss: Loss) -> str:
    return f"{loss.bytes_before / max(1, loss.bytes_after):.1f} times smaller"


if __name__ == "__main__":
    sys.exit(main())
