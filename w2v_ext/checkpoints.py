"""The checkpoint of a run, ``checkpoint.safetensors``, and those before it, ``checkpoint-1.safetensors`` and so on."""

from __future__ import annotations

import json
import os
import re
import shutil
from pathlib import Path
from typing import Any

from torch import Tensor

from .files import parse_json, remove_abandoned, write_files
from .packages import import_package
from .tensor_file import open_tensors, write_tensors

CHECKPOINT = "checkpoint.safetensors"


def checkpoint_files(directory: str | Path) -> list[Path]:
    """The checkpoints in a directory, the newest first."""
    ages = {0: CHECKPOINT} if (Path(directory) / CHECKPOINT).exists() else {}
    for path in Path(directory).glob("checkpoint-*.safetensors"):  # one may be missing, after a kill between two names
        if found := re.fullmatch(r"checkpoint-([1-9]\d*)\.safetensors", path.name):
            ages[int(found[1])] = path.name
    return [Path(directory) / name for _, name in sorted(ages.items())]


def _numbered(directory: Path, age: int) -> Path:
    return directory / (f"checkpoint-{age}.safetensors" if age else CHECKPOINT)


def save_checkpoint(directory: str | Path, weights: dict[str, Tensor], metadata: dict[str, Any], keep: int) -> Path:
    """Write a checkpoint, which appears whole or not at all, and keep the ``keep - 1`` before it; gives its path.

    At every moment at least one whole checkpoint is there, if there was one before; one that cannot be written leaves
    those before it as they were.
    """
    directory = Path(directory)
    path = _numbered(directory, 0)
    directory.mkdir(parents=True, exist_ok=True)
    texts = {name: json.dumps(value) for name, value in metadata.items()}

    def make_room() -> None:
        if keep > 1 and path.exists():
            for age in range(keep - 1, 1, -1):
                if _numbered(directory, age - 1).exists():
                    os.replace(_numbered(directory, age - 1), _numbered(directory, age))
            _copy(path, _numbered(directory, 1))

    write_files({path: lambda target: write_tensors(target, weights, texts)}, before_renaming=make_room)
    return path


def _copy(path: Path, to: Path) -> None:
    """A second name for a file, or where the file system has no such thing, a copy; it replaces what was there."""
    remove_abandoned(to)
    temporary = to.with_name(f".{to.name}.{os.getpid()}.tmp")
    temporary.unlink(missing_ok=True)
    try:
        try:
            os.link(path, temporary)
        except OSError:
            shutil.copyfile(path, temporary)
        os.replace(temporary, to)
    finally:
        temporary.unlink(missing_ok=True)


def remove_checkpoints(directory: str | Path) -> None:
    """Remove the checkpoints of a run that has ended."""
    for path in reversed(checkpoint_files(directory)):
        path.unlink(missing_ok=True)


def read_checkpoint(path: str | Path, names: list[str]) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The tensors of these names, and the metadata.

    Raises:
        FileNotFoundError: there is none.
        ValueError: the file is damaged or lacks a tensor.
    """
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"resume: no checkpoint to go on from: {path} does not exist")
    safetensors = import_package("safetensors", "safetensors", "to read a checkpoint")
    try:
        with open_tensors(path) as file:
            metadata = {name: parse_json(text) for name, text in (file.metadata() or {}).items()}
            return {name: file.get_tensor(name) for name in names}, metadata
    except (safetensors.SafetensorError, TypeError, ValueError, OSError) as error:
        raise ValueError(f"resume: {path} is not a complete checkpoint: {error}") from error
