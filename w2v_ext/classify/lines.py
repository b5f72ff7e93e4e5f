"""Labelled text, encoded: the words and labels of each line, and the rows that they stand for in a model.

A line is an example. Its tokens are separated by ASCII white space; those that begin with the prefix (``__label__``)
are its labels, all others its words, and every line ends with the word ``</s>``, as in fastText.
"""

from __future__ import annotations

import os
import secrets
import tempfile
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from .. import _text
from ..sources import describe_error, list_files, open_source, read_chunks
from .ops import ngram_rows_

END = "</s>"
Progress = Callable[[int, int | None], None]
Sources = str | os.PathLike[str] | Sequence[str | os.PathLike[str]]


@dataclass(frozen=True)
class Lines:
    """Encoded lines, empty ones included.

    Attributes:
        words: the K different words, by falling count; `word_counts` (K,) int64.
        labels: the different labels, with their prefix, by falling count; `label_counts` int64.
        tokens: (T,) int32, places in `words`; line i has `tokens[ends[i-1]:ends[i]]`, `ends` (N,) int64.
        line_labels: int32, places in `labels`; line i has `line_labels[label_ends[i-1]:label_ends[i]]`.
        sources: names of the sources, and how many lines each has.
    """

    words: list[str]
    word_counts: np.ndarray
    labels: list[str]
    label_counts: np.ndarray
    tokens: np.ndarray
    ends: np.ndarray
    line_labels: np.ndarray
    label_ends: np.ndarray
    sources: list[tuple[str, int]]

    def __len__(self) -> int:
        return len(self.ends)

    @property
    def labels_per_line(self) -> np.ndarray:
        """How many labels each line has, (N,) int64."""
        return np.diff(self.label_ends, prepend=0)

    def is_blank(self) -> np.ndarray:
        """Whether a line has neither words nor labels, (N,) bool."""
        return (np.diff(self.ends, prepend=0) == 1) & (self.labels_per_line == 0)

    def name_of(self, line: int) -> str:
        """The source and the number of a line, for messages."""
        for name, count in self.sources:
            if line < count:
                return f"{'standard input' if name == '-' else name}: line {line + 1}"
            line -= count
        return f"line {line + 1}"


def _builder(errors: str, threads: int) -> _text.Builder:
    spill = Path(tempfile.gettempdir()) / f"w2v_ext-codes-{secrets.token_hex(8)}"
    return _text.Builder(tokenizer="ascii", replace_errors=errors == "replace", threads=threads, spill_path=str(spill))


def _finish(builder: _text.Builder, label: str, names: Sequence[str]) -> Lines:
    found = builder.labelled_lines(label)
    counts = found.pop("source_lines").tolist()
    del found["replacements"], found["dropped_tokens"]
    return Lines(sources=list(zip(names, counts, strict=True)), **found)


def read_lines(
    sources: Sources,
    *,
    label: str = "__label__",
    errors: str = "strict",
    threads: int = 1,
    progress: Progress | None = None,
) -> Lines:
    """Read labelled text from files (plain, gzip, xz, zstd), directories, or ``-`` for standard input.

    Args:
        sources: one or several.
        label: the prefix of labels.
        errors: ``strict`` or ``replace``; see `ClassifierConfig`.
        threads: that cut and count.
        progress: called now and then with the bytes read so far, and of how many (None: not known).

    Raises:
        ValueError: a file is empty, or a directory has none.
        CorpusError: text that is not UTF-8, or damaged compressed data; the message says where.
        OSError: a file cannot be read.
    """
    files = list_files(sources)
    total = None if any(file.size is None for file in files) else sum(file.size or 0 for file in files)
    finished = 0

    def report(done: int) -> None:
        if progress is not None:
            progress(finished + done, total)

    builder = _builder(errors, threads)
    try:
        for file in files:
            with open_source(file) as (raw, head):
                file.check_unchanged(raw)
                builder.begin_source(file.name)
                if file.is_plain(head):
                    raw.seek(0)
                    builder.read_fd(raw.fileno(), report)
                else:
                    for chunk in read_chunks(file, raw, head, report):
                        builder.feed(chunk)
                builder.end_source()
                file.check_unchanged(raw)
            finished += file.size or 0
        return _finish(builder, label, [file.name for file in files])
    except _text.TextError as error:
        raise describe_error(error) from error


def encode_lines(
    chunks: Iterable[bytes], *, label: str = "__label__", errors: str = "strict", name: str = "text"
) -> Lines:
    """Encode text that is at hand, as `read_lines` does.

    Raises:
        _text.TextError: text that is not UTF-8; `sources.describe_error` puts it into words.
    """
    builder = _builder(errors, 1)
    builder.begin_source(name)
    for chunk in chunks:
        builder.feed(chunk)
    builder.end_source()
    return _finish(builder, label, [name])


def text_lines(texts: Iterable[str], labels: Iterable[str | Sequence[str]] | None = None) -> Iterable[bytes]:
    """Write texts, and their labels where given, as lines: a line break inside a text becomes a space.

    Raises:
        TypeError: something that is not text.
        ValueError: there are more texts than labels or fewer, or a label is empty or has white space in it.
    """
    if labels is None:
        for i, text in enumerate(texts):
            yield _one_line(text, i)
        return
    pairs = zip(texts, labels, strict=True)
    i = 0
    while True:
        try:
            text, names = next(pairs)
        except StopIteration:
            return
        except ValueError:
            raise ValueError(f"labels: expected as many as there are texts, but one of the two ends at {i}") from None
        names = [names] if isinstance(names, str) else list(names)
        for name in names:
            if not isinstance(name, str) or not name or any(c.isspace() or c == "\0" for c in name):
                raise ValueError(f"labels: expected text without white space, got {name!r} for text {i}")
        yield " ".join(names).encode() + b" " + _one_line(text, i)
        i += 1


def _one_line(text: str, place: int) -> bytes:
    if not isinstance(text, str):
        raise TypeError(f"texts: expected strings, got {type(text).__name__} at {place}")
    try:
        return text.replace("\n", " ").encode() + b"\n"
    except UnicodeEncodeError as error:
        raise ValueError(f"texts: {text[error.start]!r} in text {place} cannot be written as UTF-8") from None


@dataclass(frozen=True)
class Encoded:
    """What the kernels need of some lines.

    Attributes:
        tokens, ends: of the lines.
        ngrams: int32, rows of the model: line i's n-grams have `ngrams[ngram_ends[i-1]:ngram_ends[i]]`.
        ngram_ends: (N,) int64.
        rows: int32, rows of the model; word w has `rows[row_ends[w-1]:row_ends[w]]`. -1, here too, is a row of zeros.
        row_ends: (K,) int64.
    """

    tokens: Tensor
    ends: Tensor
    ngrams: Tensor
    ngram_ends: Tensor
    rows: Tensor
    row_ends: Tensor

    @property
    def arguments(self) -> tuple[Tensor, ...]:
        """In the order of the operators."""
        return self.tokens, self.ends, self.ngrams, self.ngram_ends, self.rows, self.row_ends


def encode_words(
    lines: Lines,
    known: np.ndarray,
    bucket_rows: np.ndarray,
    *,
    word_ngrams: int,
    min_n: int,
    max_n: int,
    used: np.ndarray | None = None,
    number_from: int = -1,
    threads: int = 1,
) -> tuple[Encoded, int]:
    """Find the rows of the lines' words, subwords and n-grams.

    Args:
        lines: the lines.
        known: (K,) int64, each word's own row, or -1.
        bucket_rows: (buckets,) int32, the row of each bucket, or -1; changed where `number_from` is given.
        word_ngrams: the longest.
        min_n, max_n: lengths of subwords; `max_n` 0 for none.
        used: int32, the lines that n-grams are wanted of; None: all.
        number_from: buckets that have no row yet get this one and the next, in the order in which they are met: first
            those of subwords, then those of n-grams.
        threads: at least 1.

    Returns:
        The rows, and the first row that is free.
    """
    if max_n:
        ids, ends = _text.subwords(lines.words, min_n=min_n, max_n=max_n, buckets=len(bucket_rows))
        if number_from >= 0:
            buckets, first = np.unique(ids, return_index=True)
            buckets = buckets[np.argsort(first)]
            bucket_rows[buckets] = np.arange(number_from, number_from + len(buckets))
            number_from += len(buckets)
        has_row = known >= 0
        starts = np.concatenate([[0], ends[:-1]])
        rows = np.insert(bucket_rows[ids], starts[has_row], known[has_row].astype(np.int32))
        row_ends = ends + np.cumsum(has_row)
    else:
        rows, row_ends = known[known >= 0].astype(np.int32), np.cumsum(known >= 0)
    tokens, ends = torch.from_numpy(lines.tokens), torch.from_numpy(lines.ends)
    hashes = torch.from_numpy(_text.word_hashes(lines.words))
    wanted = torch.arange(len(lines), dtype=torch.int32) if used is None else torch.from_numpy(used)
    ngrams, ngram_ends, free = ngram_rows_(
        torch.from_numpy(bucket_rows), tokens, ends, hashes, wanted, word_ngrams, number_from, threads
    )
    row_ends = torch.from_numpy(row_ends.astype(np.int64))
    return Encoded(tokens, ends, ngrams, ngram_ends, torch.from_numpy(rows), row_ends), free
