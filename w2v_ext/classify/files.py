"""A classifier's directory: ``model.safetensors``, ``vocab.tsv``, ``labels.tsv``, ``config.json``, ``metrics.json``.

`model.safetensors` holds word_weight (V, D), bucket_weight (R, D), buckets (R,) int32: the numbers of the buckets that
the rows of `bucket_weight` are for, and label_weight (L, D), or (L - 1, D) for hierarchical softmax. Never a pickle.
"""

from __future__ import annotations

import json
import os
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..files import FormatError, own_metadata, parse_json, write_files
from ..formats import load_fasttext_bin
from ..formats.fasttext import MAGIC
from ..packages import import_package
from ..tensor_file import open_tensors, write_tensors
from ..vocab import Vocabulary
from .config import ClassifierConfig

_VERSION = 1
_KIND = "classifier"
_TENSORS = ("word_weight", "bucket_weight", "buckets", "label_weight")
PathLike = str | os.PathLike[str]


@dataclass(frozen=True)
class ClassifierFiles:
    """What a directory holds; see the module."""

    words: Vocabulary
    labels: Vocabulary
    word_weight: Tensor
    bucket_weight: Tensor
    buckets: Tensor
    label_weight: Tensor
    config: dict[str, Any]


def save_classifier(directory: PathLike, files: ClassifierFiles, metrics: dict[str, Any] | None = None) -> None:
    """Write a classifier's directory; all of it, or nothing.

    Raises:
        ValueError: a word or label that its file cannot hold.
        OSError: the directory cannot be made or written, naming the path.
    """
    directory = Path(directory)
    tensors = {name: getattr(files, name) for name in _TENSORS}
    texts = {"vocab.tsv": files.words.to_bytes(), "labels.tsv": files.labels.to_bytes()}
    checksums = {name: zlib.crc32(data) for name, data in texts.items()}  # ties the files together
    metadata = {"w2v_ext": json.dumps({"kind": _KIND, "version": _VERSION, "crc32": checksums})}
    texts["config.json"] = _json_bytes({"kind": _KIND, **files.config})
    texts["metrics.json"] = _json_bytes(metrics or {})
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OSError(error.errno, f"cannot make the directory {directory}: {error.strerror}") from error
    writers = {directory / "model.safetensors": lambda target: write_tensors(target, tensors, metadata)}
    for name, data in texts.items():
        writers[directory / name] = lambda target, data=data: target.write_bytes(data)
    write_files(writers)


def _json_bytes(value: dict[str, Any]) -> bytes:
    return (json.dumps(value, indent=2, ensure_ascii=False) + "\n").encode("utf-8")


def load_classifier(path: PathLike) -> ClassifierFiles:
    """Read what `save_classifier` wrote, or a supervised `.bin` of fastText.

    Raises:
        FileNotFoundError: there is no such path.
        FormatError: a file is missing or damaged, or this is no classifier; the message names the file.
        ValueError: a setting in `config.json` does not hold.
    """
    path = Path(path)
    if path.is_file():
        return _from_fasttext(path)
    if not path.is_dir():
        raise FileNotFoundError(f"model: no such file or directory: {path}")
    config = _read_config(path / "config.json")
    tensors, metadata = _read_tensors(path / "model.safetensors")
    vocabularies = []
    for name in ("vocab.tsv", "labels.tsv"):
        data = _read_bytes(path / name)
        if metadata["crc32"].get(name) != zlib.crc32(data):
            raise FormatError(f"{path / name}: is not the one that model.safetensors was saved with")
        vocabularies.append(Vocabulary.parse(data, path / name))
    files = ClassifierFiles(*vocabularies, **tensors, config=config)
    _check(files, path / "model.safetensors")
    return files


def _check(files: ClassifierFiles, path: Path) -> None:
    config = ClassifierConfig.from_dict(files.config, f"{path.with_name('config.json')}")
    dim, num_outputs = config.dim, len(files.labels) - (config.loss == "hs")
    expected = {
        "word_weight": (len(files.words), dim),
        "bucket_weight": (len(files.buckets), dim),
        "label_weight": (num_outputs, dim),
    }
    for name, shape in expected.items():
        tensor = getattr(files, name)
        if tuple(tensor.shape) != shape or tensor.dtype != torch.float32:
            raise FormatError(f"{path}: {name} is {tensor.dtype} of shape {tuple(tensor.shape)}, expected {shape}")
    most, buckets = config.buckets, files.buckets
    if buckets.dtype != torch.int32 or buckets.dim() != 1:
        raise FormatError(f"{path}: buckets is {buckets.dtype} of shape {tuple(buckets.shape)}, expected int32 (R,)")
    if len(buckets) and not 0 <= int(buckets.min()) <= int(buckets.max()) < most:
        raise FormatError(f"{path}: buckets: expected numbers below {most}, got up to {int(buckets.max())}")


def _read_bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise FormatError(f"{path}: cannot be read: {error.strerror}") from error


def _read_config(path: Path) -> dict[str, Any]:
    try:
        config = parse_json(_read_bytes(path))
    except ValueError as error:
        if isinstance(error, FormatError):
            raise FormatError(f"{error}; a classifier's directory has one") from error
        raise FormatError(f"{path}: not valid JSON: {error}") from error
    if not isinstance(config, dict) or config.pop("kind", None) != _KIND:
        raise FormatError(
            f"{path.parent}: is no classifier (config.json does not say so); python -m w2v_ext.classify train makes one"
        )
    return config


def _read_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    if not path.is_file():
        raise FormatError(f"{path}: no such file; a classifier's directory has one")
    safetensors = import_package("safetensors", "safetensors", "to read a model")
    try:
        with open_tensors(path) as file:
            metadata = own_metadata(file)
            missing = set(_TENSORS).difference(file.keys())
            tensors = {} if missing else {name: file.get_tensor(name) for name in _TENSORS}
    except (safetensors.SafetensorError, OSError, ValueError) as error:
        raise FormatError(f"{path}: damaged or truncated: {error}") from error
    if missing or metadata.get("kind") != _KIND or not isinstance(metadata.get("crc32"), dict):
        raise FormatError(f"{path}: is no classifier's: it lacks {', '.join(sorted(missing)) or 'the mark of one'}")
    if metadata.get("version") != _VERSION:
        raise FormatError(f"{path}: format version {metadata.get('version')}, this library reads {_VERSION}")
    return tensors, metadata


def _from_fasttext(path: Path) -> ClassifierFiles:
    """Read a supervised model of fastText; labels keep their order, which the tree depends on."""
    with open(path, "rb") as file:
        head = file.read(len(MAGIC))
    if head != MAGIC:
        raise FormatError(f"{path}: expected a classifier's directory, or a supervised .bin of fastText")
    model = load_fasttext_bin(path)
    settings = model.settings
    if settings["model"] != "supervised":
        raise FormatError(
            f"{path}: a {settings['model']} model of fastText, which has no labels; expected a supervised one"
        )
    num_words = len(model.words)
    loss = "ova" if settings["loss"] == "ns" else settings["loss"]  # both are a sigmoid per label
    buckets = len(model.in_weight) - num_words
    in_weight = torch.from_numpy(model.in_weight)
    num_outputs = len(model.labels) - (loss == "hs")
    return ClassifierFiles(
        Vocabulary(model.words, model.counts),
        Vocabulary(model.labels, model.label_counts),
        in_weight[:num_words],
        in_weight[num_words:],
        torch.arange(buckets, dtype=torch.int32),
        torch.from_numpy(model.out_weight[:num_outputs]),
        {
            "dim": settings["dim"],
            "epochs": max(1, settings["epoch"]),
            "word_ngrams": max(1, settings["word_ngrams"]),
            "min_n": settings["minn"] if settings["maxn"] else 0,
            "max_n": settings["maxn"],
            "buckets": max(1, buckets),
            "loss": loss,
            "min_count": max(1, settings["min_count"]),
            "label": _prefix_of(model.labels),
        },
    )


def _prefix_of(labels: list[str]) -> str:
    """Return what labels begin with: the file does not say."""
    usual = "__label__"
    return usual if all(label.startswith(usual) for label in labels) else os.path.commonprefix(labels) or usual
