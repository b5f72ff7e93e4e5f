"""One safetensors file with words and vectors, and what it shares with compressed vectors (see `w2v_ext.quantize`).

Tensors: `vectors` (V, D), `words` (N,) uint8 (the words in UTF-8, one after another), `word_ends` (V,) int64 (where
each ends), and `counts` (V,) int64 where they are known. Words may hold any character.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType

import numpy as np
import torch

from ..files import FormatError, own_metadata, write_files
from ..packages import import_package
from ..tensor_file import open_tensors
from .collect import ReadOptions
from .table import PathLike, VectorTable, first_not_finite, first_repeated

KIND = "vectors"
_VERSION = 1


def safetensors_module(name: str = "safetensors") -> ModuleType:
    """The package, imported where it is used; ImportError naming it where it is missing."""
    return import_package(name, "safetensors", "to read and write safetensors files")


def pack_words(words: Sequence[str], counts: np.ndarray | None = None) -> dict[str, torch.Tensor]:
    """Return the tensors `words`, `word_ends` and, given counts, `counts`. ValueError for a word that is not UTF-8."""
    try:
        encoded = [word.encode("utf-8") for word in words]
    except UnicodeEncodeError as error:
        raise ValueError(f"words: {error.object!r} cannot be written as UTF-8: {error.reason}") from error
    ends = np.cumsum([len(word) for word in encoded], dtype=np.int64) if encoded else np.zeros(0, np.int64)
    tensors = {
        "words": torch.from_numpy(np.frombuffer(b"".join(encoded), np.uint8).copy()),
        "word_ends": torch.from_numpy(ends),
    }
    if counts is not None:
        tensors["counts"] = torch.from_numpy(np.ascontiguousarray(counts, np.int64))
    return tensors


def unpack_words(path: Path, tensors: dict[str, torch.Tensor], rows: int) -> tuple[list[str], np.ndarray | None]:
    """Return the words and counts that `pack_words` packed. FormatError naming the file where they are damaged."""
    packed, word_ends = tensors["words"], tensors["word_ends"]
    kinds_fit = packed.dtype == torch.uint8 and word_ends.dtype == torch.int64
    if not kinds_fit or packed.dim() != 1 or word_ends.shape != (rows,):
        raise FormatError(
            f"{path}: expected words (N,) uint8 and word_ends ({rows},) int64, got {tuple(packed.shape)} "
            f"{packed.dtype}, {tuple(word_ends.shape)} {word_ends.dtype}"
        )
    blob, ends = packed.numpy(), word_ends.numpy()
    starts = np.concatenate([[0], ends[:-1]]) if rows else ends
    if (np.diff(np.concatenate([[0], ends])) < 0).any() or (ends[-1] if rows else 0) != len(blob):
        raise FormatError(f"{path}: word_ends does not rise to the {len(blob)} bytes of words")
    data = blob.tobytes()
    try:
        words = [data[start:end].decode("utf-8") for start, end in zip(starts.tolist(), ends.tolist(), strict=True)]
    except UnicodeDecodeError as error:
        raise FormatError(f"{path}: word {error.object[:40]!r} is not UTF-8") from error
    if len(set(words)) != len(words):
        raise FormatError(f"{path}: the word {first_repeated(words)!r} comes twice")
    counts = tensors.get("counts")
    if counts is not None and (counts.dtype != torch.int64 or counts.shape != (rows,)):
        raise FormatError(f"{path}: expected counts ({rows},) int64, got {tuple(counts.shape)} {counts.dtype}")
    return words, None if counts is None else counts.numpy()


def write_tensors(path: PathLike, kind: str, tensors: dict[str, torch.Tensor], settings: dict | None = None) -> None:
    """Write tensors to a file whose metadata say what `kind` they are; OSError if it cannot be written."""
    about = {"kind": kind, "version": _VERSION, **(settings or {})}
    # One entry, as safetensors writes several in random order: the same vectors give the same bytes.
    metadata = {"w2v_ext": json.dumps(about, sort_keys=True)}
    write_files(
        {
            Path(path): lambda target: safetensors_module("safetensors.torch").save_file(
                tensors, target, metadata=metadata
            )
        }
    )


def read_tensors(path: Path) -> tuple[dict, dict[str, torch.Tensor]]:
    """Read what `write_tensors` wrote: metadata and tensors.

    Raises:
        FormatError: damaged, or not of this library.
        OSError: the file cannot be read.
    """
    path.open("rb").close()  # a missing file is an OSError, not a SafetensorError
    try:
        with open_tensors(path) as file:
            about = own_metadata(file)
            tensors = {name: file.get_tensor(name) for name in file.keys()}
    except (safetensors_module().SafetensorError, ValueError) as error:
        raise FormatError(f"{path}: damaged or truncated: {error}") from error
    if "kind" not in about:
        raise FormatError(
            f"{path}: has no words: expected a file with words and vectors, got tensors {sorted(tensors)}"
        )
    if about.get("version") != _VERSION:
        raise FormatError(f"{path}: format version {about.get('version')}, this library reads {_VERSION}")
    return about, tensors


def need(path: Path, tensors: dict[str, torch.Tensor], *names: str) -> None:
    """FormatError unless all these tensors are there."""
    missing = [name for name in names if name not in tensors]
    if missing:
        raise FormatError(f"{path}: has no tensor {missing[0]}")


def write_safetensors(path: Path, table: VectorTable) -> None:
    """Write words, vectors and counts as one safetensors file."""
    tensors = {
        "vectors": torch.from_numpy(np.ascontiguousarray(table.vectors)),
        **pack_words(table.words, table.counts),
    }
    write_tensors(path, KIND, tensors)


def read_safetensors(path: Path, options: ReadOptions) -> VectorTable:
    """Read what `write_safetensors` wrote.

    Raises:
        FormatError: damaged, or without words.
        OSError: the file cannot be read.
    """
    about, tensors = read_tensors(path)
    if about["kind"] != KIND:
        raise FormatError(f"{path}: holds {about['kind']!r}, expected {KIND!r}")
    need(path, tensors, "vectors", "words", "word_ends")
    return finish_table(path, tensors["vectors"], tensors, options)


def finish_table(
    path: Path, vectors: torch.Tensor, tensors: dict[str, torch.Tensor], options: ReadOptions
) -> VectorTable:
    """Put vectors and packed words together, checked, and cut to the wanted rows."""
    if vectors.dim() != 2 or vectors.shape[1] < 1 or not vectors.is_floating_point():
        raise FormatError(f"{path}: vectors is {vectors.dtype} of shape {tuple(vectors.shape)}, expected float (V, D)")
    words, counts = unpack_words(path, tensors, len(vectors))
    rows = as_numpy(vectors, options)
    bad = first_not_finite(rows)
    if bad is not None:
        raise FormatError(f"{path}: row {bad}: the vector of {words[bad]!r} is not finite")
    limit = options.limit
    return VectorTable(words[:limit], rows[:limit], None if counts is None else counts[:limit])


def as_numpy(vectors: torch.Tensor, options: ReadOptions) -> np.ndarray:
    """Return a float tensor of any dtype as an array of the wanted one."""
    array = vectors.double().numpy() if vectors.dtype == torch.float64 else vectors.float().numpy()
    return array.astype(options.dtype, copy=False)
