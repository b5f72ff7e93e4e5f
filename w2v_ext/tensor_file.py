"""Writes safetensors files from tensors of any layout and device without a copy of the whole.

`safetensors.torch.save_file` takes contiguous CPU tensors: of rows that are padded, or on a GPU, that is a second table
in memory. Reading stays with the `safetensors` package.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import Tensor

from .packages import import_package

_NAMES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.uint8: "U8",
}
_CHUNK = 1 << 20  # bytes of a tensor that are copied at a time


@contextlib.contextmanager
def open_tensors(path: str | Path) -> Iterator[Any]:
    """Open a safetensors file as ``safetensors.safe_open`` does, and be sure that it is one file.

    The package opens it twice, for the header and for the numbers. Between the two another file may take the name, and
    readers would get the numbers of one model and the words of another.

    Raises:
        SafetensorError: it is damaged. OSError: it cannot be read.
    """
    safe_open = import_package("safetensors", "safetensors", "to read safetensors files").safe_open
    for _ in range(100):
        before = os.stat(path)
        with safe_open(path, framework="pt") as file:
            after = os.stat(path)
            if (before.st_ino, before.st_mtime_ns, before.st_size) == (after.st_ino, after.st_mtime_ns, after.st_size):
                yield file
                return
    raise OSError(f"{path}: is replaced all the time, and cannot be read")


def write_tensors(path: str | Path, tensors: dict[str, Tensor], metadata: dict[str, str] | None = None) -> None:
    """Write tensors to a safetensors file, in the order given.

    Args:
        path: the file; see `files.write_files` for one that is whole or not there.
        tensors: by name; any strides, any device; float64, float32, float16, bfloat16, int64, int32 or uint8.
        metadata: strings by name.

    Raises:
        ValueError: a tensor of another dtype.
        OSError: the file cannot be written.
    """
    header: dict[str, object] = {"__metadata__": metadata} if metadata else {}
    place = 0
    for name, tensor in tensors.items():
        if tensor.dtype not in _NAMES:
            known = ", ".join(str(dtype).removeprefix("torch.") for dtype in _NAMES)
            raise ValueError(f"tensors: {name}: expected one of {known}, got {tensor.dtype}")
        end = place + tensor.numel() * tensor.element_size()
        header[name] = {"dtype": _NAMES[tensor.dtype], "shape": list(tensor.shape), "data_offsets": [place, end]}
        place = end
    text = json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode("utf-8")
    text += b" " * (-len(text) % 8)  # so that the numbers are aligned
    with open(path, "wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for tensor in tensors.values():
            _write(file, tensor.detach())


def _write(file: BinaryIO, tensor: Tensor) -> None:
    if tensor.numel() == 0:
        return
    rows = tensor.reshape(1) if tensor.dim() == 0 else tensor
    step = max(1, _CHUNK * len(rows) // (rows.numel() * rows.element_size()))
    for part in rows.split(step):
        file.write(memoryview(part.cpu().contiguous().view(-1).view(torch.uint8).numpy()))
