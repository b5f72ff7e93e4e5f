"""Reading fastText's binary models (`.bin`): words, subwords and the matrices; quantised ones (`.ftz`) are refused.

The layout is that of fastText 0.9 (magic number 793712314, version 12, and 11 before it): the settings, the dictionary,
the input matrix (a row for each word, then one for each bucket of subwords), and the output matrix.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np

from .. import _text
from ..files import FormatError
from .collect import ReadOptions, RowCollector
from .streams import ByteStream, open_chunks, ordered_map, thread_count
from .table import PathLike, VectorTable, first_not_finite

MAGIC = struct.pack("<i", 793712314)
_VERSIONS = (11, 12)
SETTINGS = (
    "dim",
    "ws",
    "epoch",
    "min_count",
    "neg",
    "word_ngrams",
    "loss",
    "model",
    "bucket",
    "minn",
    "maxn",
    "lr_update_rate",
)
MODELS = {1: "cbow", 2: "skipgram", 3: "supervised"}
LOSSES = {1: "hs", 2: "ns", 3: "softmax", 4: "ova"}
_MAX_WORD_BYTES = 1 << 16
_MAX_N = 64  # longest subword: with _MAX_WORD_BYTES it bounds the memory that one word can ask for
_BLOCK_SUBWORDS = 1 << 20  # looked up at a time


@dataclass(frozen=True)
class FastTextModel:
    """What a fastText `.bin` holds.

    Attributes:
        words: the V words, as they stand in the file (bytes that are no UTF-8 as the `errors` argument says).
        counts: (V,) int64.
        labels: the labels of a supervised model, else empty; `label_counts` (L,) int64.
        in_weight: (V + buckets, D) float32: a row for each word, then one for each bucket.
        out_weight: (V or L, D) float32, or None where it was not read.
        settings: the training settings under fastText's names (`dim`, `ws`, `minn`, `maxn`, `bucket`, `t` ...);
            `model` is cbow, skipgram or supervised, `loss` is hs, ns, softmax or ova.
        num_tokens: tokens of the corpus.
    """

    words: list[str]
    counts: np.ndarray
    labels: list[str]
    label_counts: np.ndarray
    in_weight: np.ndarray
    out_weight: np.ndarray | None
    settings: dict[str, int | float | str]
    num_tokens: int

    @cached_property
    def key_to_index(self) -> dict[str, int]:
        """Word -> row."""
        return {word: i for i, word in enumerate(self.words)}

    def subword_rows(self, words: Sequence[str | bytes]) -> tuple[np.ndarray, np.ndarray]:
        """Return the rows of `in_weight` whose mean is each word's vector: its own if it is known, then its subwords'.

        Returns:
            `ids` (N,) int64, and `ends` (len(words),) int64: word i has ids[ends[i-1] : ends[i]]. A word that is
            unknown and too short to have subwords has none.
        """
        raw = [word.encode("utf-8", "surrogateescape") if isinstance(word, str) else word for word in words]
        known = np.fromiter((self.key_to_index.get(_text_of(word), -1) for word in words), np.int64, len(raw))
        settings = self.settings
        buckets = int(settings["bucket"]) if settings["maxn"] > 0 else 0
        ids, ends = _text.subwords(raw, min_n=int(settings["minn"]), max_n=int(settings["maxn"]), buckets=buckets)
        starts = np.concatenate([[0], ends[:-1]]) if len(ends) else ends
        ids = np.insert(ids + len(self.words), starts[known >= 0], known[known >= 0])
        return ids, ends + np.cumsum(known >= 0)

    def vector(self, word: str | bytes) -> np.ndarray:
        """Return the vector (D,) float32 of any word, as fastText does; zero for one without any subword."""
        return _text.mean_rows(self.in_weight, *self.subword_rows([word]))[0]

    def _blocks(self, words: list[str]) -> Iterator[list[str]]:
        """Some words at a time: their bytes times the longest subword bound how many subwords they have."""
        block, size = [], 0
        for word in words:
            block.append(word)
            size += len(word) * 4 * max(1, int(self.settings["maxn"]))
            if size > _BLOCK_SUBWORDS:
                yield block
                block, size = [], 0
        if block:
            yield block

    def word_vectors(self, threads: int = 0, limit: int | None = None) -> np.ndarray:
        """Return the vectors (V, D) float32 of the (first `limit`) words: means of their own row and the subwords'."""
        blocks = self._blocks(self.words[:limit])
        mean = lambda block: _text.mean_rows(self.in_weight, *self.subword_rows(block))  # noqa: E731
        found = list(ordered_map(mean, blocks, thread_count(threads)))
        return np.concatenate(found) if found else np.empty((0, self.in_weight.shape[1]), np.float32)


def _text_of(word: str | bytes) -> str:
    return word if isinstance(word, str) else word.decode("utf-8", "surrogateescape")


def load_fasttext_bin(
    path: PathLike, *, output: bool = True, supervised: bool = True, progress: object = None
) -> FastTextModel:
    """Read a fastText `.bin`, plain or compressed. Words that are not UTF-8 keep their bytes (surrogateescape).

    Args:
        path: the file.
        output: read the output matrix as well.
        supervised: False refuses classifiers, whose rows are no vectors of words to search in or to go on from.
        progress: called now and then with the bytes read so far, and of how many.

    Raises:
        FormatError: naming file and byte: not a fastText model, damaged, truncated, quantised, or a supervised one
            that is not wanted.
        OSError: the file cannot be read.
    """
    path = Path(path)
    with open_chunks(path, progress) as chunks:
        return _Reader(path, ByteStream(path, chunks)).read(output, supervised)


class _Reader:
    def __init__(self, path: Path, stream: ByteStream):
        self.path, self.stream = path, stream

    def _numbers(self, layout: str, what: str) -> tuple:
        return struct.unpack("<" + layout, self.stream.read(struct.calcsize("<" + layout), what))

    def _fail(self, message: str) -> FormatError:
        return FormatError(f"{self.path}: at byte {self.stream.offset}: {message}")

    def read(self, output: bool, supervised: bool) -> FastTextModel:
        if self.stream.read(4, "the magic number") != MAGIC:
            raise FormatError(f"{self.path}: not a fastText .bin: it does not begin with fastText's magic number")
        (version,) = self._numbers("i", "the version")
        if version not in _VERSIONS:
            raise self._fail(f"expected fastText's format version 11 or 12, got {version}")
        settings = self._read_settings(version)
        if settings["model"] == "supervised" and not supervised:
            raise FormatError(
                f"{self.path}: a supervised model (a classifier), expected vectors of words; python -m "
                "w2v_ext.classify and TextClassifier.load take it"
            )
        words, counts, labels, label_counts, tokens, pruned = self._read_dictionary()
        in_weight = self._read_matrix("the input matrix", settings["dim"])
        rows = len(words) + settings["bucket"]
        if pruned >= 0:
            raise self._fail(f"a pruned model ({pruned} subwords kept), which is not supported")
        if len(in_weight) != rows and not (settings["maxn"] == 0 and len(in_weight) == len(words)):
            raise self._fail(f"the input matrix has {len(in_weight)} rows, expected {rows} (words and buckets)")
        out_weight = self._read_matrix("the output matrix", settings["dim"]) if output else None
        if out_weight is not None and not self.stream.at_end():
            raise self._fail("more data follow the output matrix")
        return FastTextModel(words, counts, labels, label_counts, in_weight, out_weight, settings, tokens)

    def _read_settings(self, version: int) -> dict[str, int | float | str]:
        settings = dict(zip(SETTINGS, self._numbers("12i", "the settings"), strict=True))
        (settings["t"],) = self._numbers("d", "the settings")
        for name, least, most in (
            ("dim", 1, 1 << 20),
            ("bucket", 0, 1 << 31),
            ("minn", 0, _MAX_N),
            ("maxn", 0, _MAX_N),
        ):
            if not least <= settings[name] <= most:
                raise self._fail(f"the setting {name} is {settings[name]}, expected {least} to {most}")
        for name, names in (("model", MODELS), ("loss", LOSSES)):
            if settings[name] not in names:
                raise self._fail(f"the setting {name} is {settings[name]}, expected one of {sorted(names)}")
            settings[name] = names[settings[name]]
        if version == 11 and settings["model"] == "supervised":
            settings["maxn"] = 0  # supervised models of that version used no subwords, whatever they say
        if settings["maxn"] > 0 and settings["bucket"] == 0:
            raise self._fail("the settings have subwords (maxn > 0), but no buckets for them")
        return settings

    def _read_dictionary(self) -> tuple[list[str], np.ndarray, list[str], np.ndarray, int, int]:
        size, num_words, num_labels, tokens, pruned = self._numbers("3i2q", "the dictionary's sizes")
        if num_words < 0 or num_labels < 0 or size != num_words + num_labels:
            raise self._fail(f"{size} entries, but {num_words} words and {num_labels} labels")
        entries: dict[int, tuple[list[str], list[int]]] = {0: ([], []), 1: ([], [])}
        for i in range(size):
            what = f"entry {i + 1} of {size} of the dictionary"
            word = self.stream.read_past(b"\0", _MAX_WORD_BYTES, what)
            count, kind = self._numbers("qb", what)
            if kind != (i >= num_words) or count < 0:
                raise self._fail(f"{what}: kind {kind}, count {count}; words come first, and counts are >= 0")
            entries[kind][0].append(_text_of(word))
            entries[kind][1].append(count)
        if pruned > 0:
            self.stream.read(8 * min(pruned, 1 << 32), "the pruned subwords")
        (words, counts), (labels, label_counts) = entries[0], entries[1]
        return words, np.array(counts, np.int64), labels, np.array(label_counts, np.int64), tokens, pruned

    def _read_matrix(self, what: str, dim: int) -> np.ndarray:
        (quantised,) = self._numbers("b", what)
        if quantised:
            raise self._fail(f"{what} is quantised (.ftz), which is not supported: use the .bin it was made from")
        rows, columns = self._numbers("2q", what)
        if columns != dim or not 0 <= rows < 1 << 40:
            raise self._fail(f"{what} is said to have shape ({rows}, {columns}), expected {dim} columns")
        start = self.stream.offset
        matrix = self.stream.read_array((rows, columns), what)
        bad = first_not_finite(matrix)
        if bad is not None:
            raise FormatError(f"{self.path}: at byte {start + 4 * bad * columns}: row {bad} of {what} is not finite")
        return matrix


def read_fasttext_bin(path: Path, options: ReadOptions) -> VectorTable:
    """Read the words' vectors of a fastText `.bin`: the mean of a word's own row and those of its subwords.

    Raises:
        FormatError: see `load_fasttext_bin`; classifiers are refused.
        OSError: the file cannot be read.
    """
    model = load_fasttext_bin(path, output=False, supervised=False, progress=options.progress)
    vectors = model.word_vectors(options.threads, options.limit)
    bad = first_not_finite(vectors)
    if bad is not None:  # numbers of 1e38 add up to more than a float32 holds
        raise FormatError(f"{path}: the vector of {model.words[bad]!r} is not finite: its rows are too large")
    collector = RowCollector(path, replace(options, limit=None), vectors.shape[1], len(vectors))
    raw = [word.encode("utf-8", "surrogateescape") for word in model.words[: options.limit]]
    collector.add(raw, vectors, lambda i: f"entry {i + 1} of the dictionary", model.counts[: options.limit])
    return collector.finish()
