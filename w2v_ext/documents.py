"""Documents as vectors: weighted means of their words' vectors, and their text, in a directory that can be searched.

    index.json                settings, counts, checksum
    documents.safetensors     vectors (N, D) float32 at length 1; offsets (N + 1,) int64 into texts.bin
    words.safetensors         vectors (V, D) float32, weights (V,) float32, common (C, D) float32
    vocab.tsv                 the V words and their counts
    texts.bin                 the documents' text, UTF-8, one after the other

Documents are read once, by the tokenisers that training uses, in bounded memory: their ids and vectors go to disk.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import shutil
import struct
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, get_args, get_type_hints

import numpy as np
import torch
from safetensors.numpy import save_file
from torch.nn.functional import embedding_bag

from . import _text
from .keyedvectors import KeyedVectors
from .sources import CorpusError, describe_error, list_files, open_source, read_chunks, segment
from .vocab import Vocabulary

PathLike = str | os.PathLike[str]
_VERSION = 1
_BATCH = 1 << 20  # tokens averaged at a time
_CHUNK = 1 << 20  # bytes of text handed on at a time


@dataclass(frozen=True)
class DocumentOptions:
    """How documents become vectors.

    Attributes:
        weighting: of a word's vector in its document's mean. "mean": 1. "tfidf": ln((1 + N) / (1 + df)) + 1, for N
            documents of which df have the word. "sif": a / (a + p), p the word's part of all words of the documents
            (Arora, Liang and Ma 2017, "A Simple but Tough-to-Beat Baseline for Sentence Embeddings").
        sif_a: the a of "sif".
        common: how many common components to remove: the first right singular vectors of the documents' vectors. None:
            1 with "sif", else 0.
        tokenizer: as in `CorpusOptions`; like the next one, it should be that of the training.
        lowercase: compare words in lower case.
        errors: what to do with text that is not UTF-8: "strict" is an error, "replace" puts U+FFFD in its place.
        unit: "line": each line of a file is a document; "file": each file is one.
    """

    weighting: Literal["mean", "tfidf", "sif"] = "sif"
    sif_a: float = 1e-3
    common: int | None = None
    tokenizer: Literal["whitespace", "word", "char", "jieba"] = "word"
    lowercase: bool = True
    errors: Literal["strict", "replace"] = "strict"
    unit: Literal["line", "file"] = "line"

    def __post_init__(self) -> None:
        hints = get_type_hints(DocumentOptions)
        for name in ("weighting", "tokenizer", "errors", "unit"):
            if getattr(self, name) not in (allowed := get_args(hints[name])):
                raise ValueError(f"{name}: expected one of {', '.join(allowed)}, got {getattr(self, name)!r}")
        if not isinstance(self.lowercase, bool):
            raise ValueError(f"lowercase: expected True or False, got {self.lowercase!r}")
        if not (isinstance(self.sif_a, (int, float)) and 0 < self.sif_a < float("inf")):
            raise ValueError(f"sif_a: expected a finite number > 0, got {self.sif_a!r}")
        if self.common is not None and (not isinstance(self.common, int) or self.common < 0):
            raise ValueError(f"common: expected None or a whole number >= 0, got {self.common!r}")

    @property
    def num_common(self) -> int:
        """How many common components are removed."""
        return (1 if self.weighting == "sif" else 0) if self.common is None else self.common


# ---- text to rows ------------------------------------------------------------------------------------------------


class Tokens:
    """The tokens of documents as rows of the vectors, -1 before each document; unknown words are left out."""

    def __init__(self, directory: Path, options: DocumentOptions, vectors: KeyedVectors) -> None:
        self._mark = f"document{secrets.token_hex(16)}"  # a token before each document: none is empty, all are kept
        self._directory, self._options, self._vectors = directory, options, vectors
        tokenizer = "whitespace" if options.tokenizer == "jieba" else options.tokenizer
        self._builder = _text.Builder(
            tokenizer=tokenizer,
            lowercase=options.lowercase,
            replace_errors=options.errors == "replace",
            threads=1,
            spill_path=str(directory / "codes.tmp"),
        )

    def read(self, name: str, documents: Iterable[bytes]) -> None:
        """Read documents, without line breaks in them; `name` is for messages."""
        self._builder.begin_source(name)
        if self._options.tokenizer == "jieba":
            lines, _ = segment((document + b"\n" for document in documents), name, self._options.errors)
            documents = _lines(lines)
        mark, waiting, size = self._mark.encode() + b" ", [], 0
        for document in documents:
            waiting += [mark, document, b"\n"]
            size += len(document)
            if size >= _CHUNK:
                self._builder.feed(b"".join(waiting))
                waiting, size = [], 0
        self._builder.feed(b"".join(waiting))
        self._builder.end_source()

    def finish(self) -> np.ndarray:
        """Return the rows, (tokens + documents,) int32, memory-mapped."""
        words = self._builder.make_vocabulary(1, None, ())["words"]
        if not words:
            raise ValueError("documents: there are none")
        self._builder.write_ids(str(self._directory / "ids.tmp"), 2**31 - 1, 2**31 - 1)
        row_of = np.array([self._vectors.get_index(word, -2) for word in words] + [-2], dtype=np.int32)
        row_of[words.index(self._mark)] = -1
        ids = np.memmap(self._directory / "ids.tmp", dtype="<i4", mode="r+")
        kept = 0
        for start in range(0, len(ids), _BATCH):
            rows = row_of[ids[start : start + _BATCH]]  # the -1 behind a document is the last entry, -2
            rows = rows[rows > -2]
            ids[kept : kept + len(rows)] = rows  # the mark before a document closes the one before
            kept += len(rows)
        return ids[:kept]


def tokenise(texts: Sequence[str], options: DocumentOptions, vectors: KeyedVectors, directory: Path) -> np.ndarray:
    """Return the rows of a few texts as `Tokens` does: -1 before each text."""
    tokens = Tokens(directory, options, vectors)
    try:
        tokens.read("query", [" ".join(text.splitlines()).encode("utf-8", "replace") for text in texts])
        return np.array(tokens.finish())
    except _text.TextError as error:
        raise describe_error(error, segmented=True) from None


def read_documents(
    sources: PathLike | Sequence[PathLike], options: DocumentOptions
) -> Iterator[tuple[str, Iterator[bytes]]]:
    """Yield (file, its documents) of files, plain or compressed, directories, or "-" for standard input."""
    for file in list_files(sources):
        with open_source(file) as (raw, head):
            chunks = read_chunks(file, raw, head, lambda done: None)
            lines = _lines(chunks)
            yield file.name, lines if options.unit == "line" else iter([b" ".join(lines)])


def _lines(chunks: Iterable[bytes | memoryview]) -> Iterator[bytes]:
    held: list[bytes] = []
    for chunk in chunks:
        *whole, rest = bytes(chunk).split(b"\n")
        if whole:
            yield b"".join([*held, whole[0]]).removesuffix(b"\r")
            for line in whole[1:]:
                yield line.removesuffix(b"\r")
            held = []
        held.append(rest)
    if last := b"".join(held):
        yield last.removesuffix(b"\r")


# ---- rows to vectors ---------------------------------------------------------------------------------------------


def batches(rows: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield (rows, offsets) of whole documents at a time, about `_BATCH` tokens; offsets are where each begins."""
    marks = np.concatenate([np.flatnonzero(rows[s : s + _BATCH] < 0) + s for s in range(0, len(rows), _BATCH)] or [[]])
    marks = np.append(marks.astype(np.int64), len(rows))  # (N + 1,)
    first = 0
    while first < len(marks) - 1:
        last = max(first + 1, int(np.searchsorted(marks, marks[first] + _BATCH, side="right")) - 1)
        part = np.asarray(rows[marks[first] : marks[last]])
        starts = marks[first:last] - marks[first] - np.arange(last - first)  # without the marks before
        yield part[part >= 0], starts
        first = last


def word_weights(rows: np.ndarray, vocab_size: int, options: DocumentOptions) -> tuple[np.ndarray, int]:
    """Return the weights (V,) float32 of all words, and the number of documents."""
    counts, found_in = np.zeros(vocab_size, dtype=np.int64), np.zeros(vocab_size, dtype=np.int64)
    number = 0
    for words, starts in batches(rows):
        document = np.repeat(np.arange(len(starts)), np.diff(np.append(starts, len(words))))
        counts += np.bincount(words, minlength=vocab_size)
        if options.weighting == "tfidf":
            pairs = np.unique(document * np.int64(vocab_size) + words)
            found_in += np.bincount(pairs % vocab_size, minlength=vocab_size)
        number += len(starts)
    if options.weighting == "tfidf":
        weights = np.log((1 + number) / (1 + found_in)) + 1
    elif options.weighting == "sif":
        weights = options.sif_a / (options.sif_a + counts / max(1, counts.sum()))
    else:
        weights = np.ones(vocab_size)
    return weights.astype(np.float32), number


def means(words: np.ndarray, starts: np.ndarray, vectors: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Return the weighted mean Σ wᵢ vᵢ / n (documents, D) float32 of documents' rows; without words it is zero."""
    ids, offsets = torch.from_numpy(words.astype(np.int64)), torch.from_numpy(starts.astype(np.int64))
    table = torch.from_numpy(vectors)
    sums = embedding_bag(ids, table, offsets, mode="sum", per_sample_weights=torch.from_numpy(weights)[ids])
    lengths = np.diff(np.append(starts, len(words)))
    return sums.numpy() / np.maximum(lengths, 1)[:, None].astype(np.float32)


def finish(rows: np.ndarray, common: np.ndarray) -> np.ndarray:
    """Remove the common components (C, D) from vectors (n, D), and scale them to length 1; zero stays zero."""
    rows = rows - (rows @ common.T) @ common
    norms = np.linalg.norm(rows, axis=1, keepdims=True)
    return (rows / np.where(norms > 1e-12, norms, 1)).astype(np.float32)


# ---- writing -----------------------------------------------------------------------------------------------------


def write_index(
    sources: PathLike | Sequence[PathLike],
    vectors: KeyedVectors,
    directory: Path,
    options: DocumentOptions,
    progress: Any = None,
) -> int:
    """Fill an empty directory with the index of documents, and return how many there are; see `search.build_index`."""
    tokens = Tokens(directory, options, vectors)
    offsets_path, position = directory / "offsets.tmp", 0
    try:
        with open(directory / "texts.bin", "wb") as texts, open(offsets_path, "wb") as offsets:

            def store(name: str, documents: Iterator[bytes]) -> Iterator[bytes]:
                nonlocal position
                for number, document in enumerate(documents, 1):
                    if options.errors == "strict":
                        _check_text(name, number, document)
                    offsets.write(struct.pack("<q", position))
                    texts.write(document)
                    position += len(document)
                    if progress is not None:
                        progress(1)
                    yield document

            for name, documents in read_documents(sources, options):
                tokens.read(name, store(name, documents))
            offsets.write(struct.pack("<q", position))
        rows = tokens.finish()
    except _text.TextError as error:
        raise describe_error(error, segmented=True) from None  # its offset would count the marks
    offsets_array = np.fromfile(offsets_path, dtype="<i8")
    weights, number = word_weights(rows, len(vectors), options)
    table = np.nan_to_num(vectors.vectors, nan=0.0, posinf=0.0, neginf=0.0)
    dim = vectors.vector_size
    path = directory / "documents.safetensors"
    places = _safetensors_header(path, {"vectors": ("F32", (number, dim)), "offsets": ("I64", (number + 1,))})
    np.memmap(path, dtype="<i8", mode="r+", offset=places["offsets"], shape=(number + 1,))[:] = offsets_array
    stored = np.memmap(path, dtype="<f4", mode="r+", offset=places["vectors"], shape=(number, dim))
    moments, first = np.zeros((dim, dim)), 0
    for words, starts in batches(rows):
        part = means(words, starts, table, weights)
        stored[first : first + len(part)] = part
        moments += part.T.astype(np.float64) @ part
        first += len(part)
    values = np.linalg.eigh(moments)[1][:, ::-1]  # the largest eigenvalue first
    common = np.ascontiguousarray(values[:, : options.num_common].T.astype(np.float32))  # (C, D)
    for start in range(0, number, 1 << 16):
        stored[start : start + (1 << 16)] = finish(stored[start : start + (1 << 16)], common)
    stored.flush()
    save_file({"vectors": table, "weights": weights, "common": common}, directory / "words.safetensors")
    counts = vectors.counts if vectors.counts is not None else np.zeros(len(vectors), dtype=np.int64)
    Vocabulary(vectors.index_to_key, counts).save(directory / "vocab.tsv")
    for name in ("codes.tmp", "ids.tmp", "offsets.tmp"):
        with contextlib.suppress(FileNotFoundError):
            (directory / name).unlink()
    meta = {"version": _VERSION, "documents": number, "text_bytes": position, "options": asdict(options)}
    (directory / "index.json").write_text(json.dumps(meta, indent=1) + "\n", encoding="utf-8")
    return number


def _check_text(name: str, number: int, document: bytes) -> None:
    try:
        document.decode("utf-8")
    except UnicodeDecodeError as error:
        raise CorpusError(
            f"{name}: document {number}: not UTF-8 at byte {error.start} of it; errors='replace' (--errors replace) "
            "puts U+FFFD in its place and goes on"
        ) from None


def _safetensors_header(path: Path, tensors: dict[str, tuple[str, tuple[int, ...]]]) -> dict[str, int]:
    """Write a safetensors file of the right size without its numbers, and return where each tensor begins.

    `safetensors` writes from memory, in which the vectors of a million documents need not fit.
    """
    header, position = {}, 0
    for name, (kind, shape) in tensors.items():
        size = int(np.prod(shape)) * {"F32": 4, "I64": 8}[kind]
        header[name] = {"dtype": kind, "shape": list(shape), "data_offsets": [position, position + size]}
        position += size
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        file.truncate(8 + len(text) + position)
    return {name: 8 + len(text) + entry["data_offsets"][0] for name, entry in header.items()}


def move_into_place(work: Path, target: Path) -> None:
    """Rename a finished index to its name; an index that is there gives way only when the new one is whole."""
    aside = work.with_name(f"{work.name}.old")
    if target.exists():
        os.rename(target, aside)
    try:
        os.rename(work, target)
    except OSError:
        if aside.exists():
            os.rename(aside, target)
        raise
    shutil.rmtree(aside, ignore_errors=True)
