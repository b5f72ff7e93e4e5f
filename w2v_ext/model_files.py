"""The model directory: ``model.safetensors``, ``vocab.tsv``, ``config.json``, ``metrics.json`` and ``history.json``.

Never a pickle.
"""

from __future__ import annotations

import json
import os
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from .files import FormatError, own_metadata, parse_json, write_files
from .packages import import_package
from .tensor_file import open_tensors, write_tensors
from .vocab import Vocabulary

_VERSION = 1

PathLike = str | os.PathLike[str]


@dataclass(frozen=True)
class ModelFiles:
    """What a model directory holds.

    Attributes:
        in_weight: (V, D) word vectors, in the dtype they were saved in.
        out_weight: (V, D) output vectors, or None where the model was saved without them.
        words: the V words, row by row.
        counts: (V,) int64, how often each word occurred.
        config: the settings the model was trained with.
        extra: further tensors that were asked for, by name, as far as they are there.
    """

    in_weight: torch.Tensor
    out_weight: torch.Tensor | None
    words: list[str]
    counts: np.ndarray
    config: dict[str, Any]
    extra: dict[str, torch.Tensor] = field(default_factory=dict)


# ---- writing safely ----------------------------------------------------------------------------------------------


def save_model(
    directory: PathLike,
    in_weight: torch.Tensor | np.ndarray,
    out_weight: torch.Tensor | np.ndarray | None,
    words: Sequence[str],
    counts: Sequence[int] | np.ndarray | torch.Tensor,
    config: dict[str, Any],
    metrics: dict[str, Any] | None = None,
    history: dict[str, Any] | None = None,
    extra: Mapping[str, torch.Tensor | np.ndarray] | None = None,
) -> None:
    """Write a model directory: `model.safetensors`, `vocab.tsv`, `config.json` and, where given, metrics and history.

    All files are complete on disk before the first of them gets its real name, so a save that is interrupted or fails
    leaves an earlier model in the directory as it was. Without `metrics` or `history`, an old `metrics.json` or
    `history.json` is removed: it would speak of another model.

    Args:
        directory: made when missing.
        in_weight: (V, D) word vectors, any float dtype and device.
        out_weight: (V, D) output vectors, or None.
        words: V distinct words without tab or newline.
        counts: (V,) non-negative integers.
        config: settings, as JSON (paths become strings).
        metrics: measurements, as JSON.
        history: the course of the training, as JSON; see `monitor.HistoryMonitor`.
        extra: further tensors, by name.

    Raises:
        ValueError: shapes that do not match, or a word that `vocab.tsv` cannot hold.
        TypeError: `config`, `metrics` or `history` holds what JSON cannot.
        OSError: the directory cannot be made or written, naming the path.
    """
    directory = Path(directory)
    tensors = {"in_weight": torch.as_tensor(in_weight)}
    if out_weight is not None:
        tensors["out_weight"] = torch.as_tensor(out_weight)
    vocabulary = Vocabulary(words, counts)
    _ = vocabulary.word_to_id  # each word once
    vocab = vocabulary.to_bytes()
    for name, tensor in tensors.items():
        if tensor.dim() != 2 or tensor.shape[0] != len(words) or tensor.shape != tensors["in_weight"].shape:
            expected = f"({len(words)}, D)" if name == "in_weight" else str(tuple(tensors["in_weight"].shape))
            raise ValueError(f"{name}: expected shape {expected} to match words, got {tuple(tensor.shape)}")
    for name, tensor in (extra or {}).items():
        tensors[name] = torch.as_tensor(tensor).detach().cpu().contiguous()
    # The checksum ties the two files together, should a crash fall between their renames.
    metadata = {"w2v_ext": json.dumps({"version": _VERSION, "vocab_crc32": zlib.crc32(vocab)})}
    contents = {"vocab.tsv": vocab, "config.json": _json_bytes(config)}
    for name, value in (("metrics.json", metrics), ("history.json", history)):
        if value is not None:
            contents[name] = _json_bytes(value)

    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OSError(error.errno, f"cannot make the directory {directory}: {error.strerror}") from error
    writers = {directory / "model.safetensors": lambda target: write_tensors(target, tensors, metadata)}
    for name, data in contents.items():
        writers[directory / name] = lambda target, data=data: target.write_bytes(data)
    write_files(writers)
    for name in {"metrics.json", "history.json"}.difference(contents):
        (directory / name).unlink(missing_ok=True)


def _json_bytes(value: dict[str, Any]) -> bytes:
    def convert(item: object) -> object:
        if isinstance(item, Path):
            return str(item)
        if isinstance(item, np.generic):
            return item.item()
        raise TypeError(f"{item!r} cannot be written as JSON")

    return (json.dumps(value, indent=2, ensure_ascii=False, default=convert) + "\n").encode("utf-8")


def tensor_names(directory: PathLike) -> set[str]:
    """Return the names of the tensors of a model directory; none where it is no such directory, or damaged."""
    path = Path(directory) / "model.safetensors"
    if not path.is_file():
        return set()
    safetensors = import_package("safetensors", "safetensors", "to read a model")
    try:
        with open_tensors(path) as file:
            return set(file.keys())
    except (safetensors.SafetensorError, OSError):
        return set()


def load_model(directory: PathLike, extra: Sequence[str] = ()) -> ModelFiles:
    """Read a model directory written by `save_model`, and those of the further tensors that `extra` names.

    Raises:
        FormatError: a file is missing or damaged, or the files do not belong together; the message names the file.
    """
    directory = Path(directory)
    tensors, metadata = _read_tensors(directory / "model.safetensors", extra)
    others = {name: tensors.pop(name) for name in extra if name in tensors}
    vocab = _read_bytes(directory / "vocab.tsv")
    try:
        vocabulary = Vocabulary.parse(vocab, directory / "vocab.tsv")
    except ValueError as error:
        raise FormatError(str(error)) from error
    words, counts = vocabulary.words, vocabulary.counts
    rows = tensors["in_weight"].shape[0]
    if len(words) != rows:
        raise FormatError(f"{directory / 'vocab.tsv'}: {len(words)} words, but model.safetensors has {rows} rows")
    if metadata.get("vocab_crc32", zlib.crc32(vocab)) != zlib.crc32(vocab):
        raise FormatError(f"{directory / 'vocab.tsv'}: is not the vocabulary that model.safetensors was saved with")
    path = directory / "config.json"
    try:
        config = parse_json(_read_bytes(path))
    except ValueError as error:  # JSONDecodeError and UnicodeDecodeError
        raise FormatError(f"{path}: not valid JSON: {error}") from error
    if not isinstance(config, dict):
        raise FormatError(f"{path}: expected a JSON object, got {type(config).__name__}")
    return ModelFiles(tensors["in_weight"], tensors.get("out_weight"), words, counts, config, others)


def _read_bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise FormatError(f"{path}: cannot be read: {error.strerror}") from error


def _read_tensors(path: Path, extra: Sequence[str]) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    if not path.is_file():
        raise FormatError(f"{path}: no such file; a model directory has one")
    safetensors = import_package("safetensors", "safetensors", "to read a model")
    wanted = {"in_weight", "out_weight", *extra}
    try:
        with open_tensors(path) as file:
            metadata = own_metadata(file)
            tensors = {name: file.get_tensor(name) for name in file.keys() if name in wanted}
    except (safetensors.SafetensorError, OSError, ValueError) as error:
        raise FormatError(f"{path}: damaged or truncated: {error}") from error
    if metadata.get("version", _VERSION) != _VERSION:
        raise FormatError(f"{path}: format version {metadata['version']}, this library reads {_VERSION}")
    if "in_weight" not in tensors:
        if (path.parent / "labels.tsv").exists():
            raise FormatError(f"{path}: of a text classifier, not of vectors; TextClassifier.load reads it")
        raise FormatError(f"{path}: has no tensor in_weight")
    for name, tensor in tensors.items():
        if name in extra:
            continue
        if tensor.dim() != 2 or tensor.shape != tensors["in_weight"].shape or not tensor.is_floating_point():
            raise FormatError(f"{path}: {name} is {tensor.dtype} of shape {tuple(tensor.shape)}, expected float (V, D)")
    return tensors, metadata
