"""Damage to files: of their bytes, of the numbers in them, of JSON and safetensors by their structure."""

from __future__ import annotations

import contextlib
import copy
import gzip
import json
import lzma
import math
import random
import re
import struct
import zlib
from typing import Any

import zstandard

_NUMBERS = (0, 1, 2, 7, 127, 128, 255, 256, 2**15, 2**16, 2**20, 2**31 - 1, 2**31, 2**32 - 1, 2**40, 2**62, 2**63 - 1)
_TEXTS = (b"0", b"-1", b"1", b"3", b"99999999999999999999", b"1e999", b"nan", b"inf", b"-0", b"1e-400", b"", b"0x10")
_VALUES = (
    None, True, False, 0, 1, -1, 3, 2**31, 2**63, 10**30, 0.5, -0.0, 1e308, float("inf"), float("nan"), "", "x", "..",
    "../../x", "/etc/passwd", "\0", "\ud800", "é" * 300, [], {}, [[]], [1, 2], [None] * 5, {"": {}}, {"a": [1]},
)  # fmt: skip


def mutate_bytes(rng: random.Random, data: bytes, other: bytes) -> bytes:
    """One to three small damages; `other` is where foreign bytes come from."""
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        at = rng.randrange(len(data) + 1)
        size = rng.choice((1, 2, 4, 8, 16, 64))
        kind = rng.randrange(10)
        if kind == 0 and data:  # a bit
            at %= len(data)
            data = data[:at] + bytes([data[at] ^ 1 << rng.randrange(8)]) + data[at + 1 :]
        elif kind == 1:  # the end is missing
            data = data[:at]
        elif kind == 2:  # a number of one to eight bytes
            layout = rng.choice("bhiq")
            size = struct.calcsize(layout)
            number = rng.choice(_NUMBERS) * rng.choice((1, -1)) + rng.choice((0, 0, 1, -1))
            packed = (number & (1 << 8 * size) - 1).to_bytes(size, rng.choice(("little", "little", "big")))
            data = data[:at] + packed + data[at + size :]
        elif kind == 3:  # a number in digits
            places = list(re.finditer(rb"[-+.\deE]+", data))
            if places:
                place = rng.choice(places[:3] if rng.random() < 0.5 else places)
                data = data[: place.start()] + rng.choice(_TEXTS) + data[place.end() :]
        elif kind == 4:  # a part is missing
            data = data[:at] + data[at + size :]
        elif kind == 5:  # a part again and again
            data = data[:at] + data[at : at + size] * rng.choice((2, 2, 3, 50)) + data[at + size :]
        elif kind == 6:  # a part of another file
            start = rng.randrange(len(other) + 1)
            data = data[:at] + other[start : start + size] + data[at + rng.choice((0, size)) :]
        elif kind == 7:  # noise
            data = data[:at] + rng.randbytes(size) + data[at + rng.choice((0, size)) :]
        elif kind == 8:  # the begin of one, the end of another
            data = data[:at] + other[rng.randrange(len(other) + 1) :]
        else:  # bytes that mean something to a parser
            mark = rng.choice(
                (b"\n", b"\r\n", b" ", b"\t", b"\0", b"\xff", b"\xed\xa0\x80", b"\xef\xbb\xbf", b"{", b"[")
            )
            data = data[:at] + mark * rng.choice((1, 1, 2, 300)) + data[at:]
    return data


def mutate_json(rng: random.Random, value: Any) -> Any:
    """Change, remove, double or rename one value somewhere inside; lists and dicts are changed in place."""
    parents = []
    pending = [value]
    while pending:
        parent = pending.pop()
        items = parent.values() if isinstance(parent, dict) else parent if isinstance(parent, list) else ()
        if items or (parent is value and isinstance(parent, (dict, list))):
            parents.append(parent)
        pending += items
    if not parents or rng.random() < 0.03:
        return copy.deepcopy(rng.choice(_VALUES))
    parent = rng.choice(parents)
    keys = list(parent) if isinstance(parent, dict) else list(range(len(parent)))
    if not keys:
        return copy.deepcopy(rng.choice(_VALUES))
    key, kind = rng.choice(keys), rng.randrange(6)
    if kind == 0:
        del parent[key]
    elif kind == 1:
        parent[key] = copy.deepcopy(parent[rng.choice(keys)])
    elif kind == 2 and isinstance(parent[key], (int, float)) and not isinstance(parent[key], bool):
        parent[key] = rng.choice((parent[key] + 1, parent[key] - 1, -parent[key], *_NUMBERS))
    elif kind == 3 and isinstance(parent, dict):
        parent[rng.choice(("", "x", *map(str, keys)))] = parent.pop(key)
    elif kind == 4 and isinstance(parent, list):
        parent.append(copy.deepcopy(parent[key]))
    else:
        parent[key] = copy.deepcopy(rng.choice(_VALUES))
    return value


def mutate_json_bytes(rng: random.Random, data: bytes) -> bytes:
    """The text of a JSON file with a value changed, or nested too deep, or with a number of too many digits."""
    extreme = rng.random()
    if extreme < 0.01:
        depth = rng.choice((100, 20_000))
        return b'{"a":' * depth + b"1" + b"}" * depth if extreme < 0.005 else b"[" * depth + b"]" * depth
    try:
        value = json.loads(data)
    except (ValueError, RecursionError):
        return data
    for _ in range(rng.choice((1, 1, 2))):
        value = mutate_json(rng, value)
    text = json.dumps(value, ensure_ascii=rng.random() < 0.5).encode("utf-8", "surrogatepass")
    return re.sub(rb"\d+", b"9" * 5000, text, count=1) if extreme > 0.99 else text


def mutate_safetensors(rng: random.Random, data: bytes) -> bytes:
    """A safetensors file with its header changed and its length put right; the metadata are JSON inside JSON."""
    size = int.from_bytes(data[:8], "little")
    try:
        header = json.loads(data[8 : 8 + size])
        names = [name for name in header if isinstance(header[name], dict) and "shape" in header[name]]
        damaged = not all(isinstance(header[name]["shape"], list) for name in names)
    except (ValueError, TypeError, RecursionError):
        return data
    if not isinstance(header, dict) or not names or damaged:
        return data
    metadata = header.get("__metadata__")
    if isinstance(metadata, dict) and metadata and rng.random() < 0.4:
        name = rng.choice(list(metadata))  # its value may be any, where this is not the first damage
        metadata[name] = mutate_json_bytes(rng, str(metadata[name]).encode("utf-8", "replace")).decode(
            "utf-8", "replace"
        )
    elif rng.random() < 0.5:  # shapes that agree with the offsets, but not with each other
        entry = header[rng.choice(names)]
        shape = entry["shape"]
        kind = rng.randrange(4)
        if kind == 0:
            shape.reverse()
        elif kind == 1:
            entry["shape"] = [rng.choice((0, 1)), *shape] if rng.random() < 0.5 else [*shape, 1]
        elif kind == 2 and shape:
            entry["shape"] = [1, math.prod(shape) if all(type(n) is int for n in shape) else 0]
        else:
            same = {"F32": ("I32", "U32"), "I64": ("F64", "U64"), "U8": ("I8", "BOOL", "F8_E4M3"), "I32": ("F32",)}
            entry["dtype"] = rng.choice(same.get(str(entry.get("dtype")), ("F32",)))
    else:
        header = mutate_json(rng, header)
    try:
        text = json.dumps(header).encode()
    except (TypeError, ValueError):
        return data
    return len(text).to_bytes(8, "little") + text + data[8 + size :]


_PACKERS = {
    b"\x1f\x8b": (gzip.decompress, lambda data: gzip.compress(data, mtime=0)),
    b"\xfd7": (lzma.decompress, lzma.compress),
    b"\x28\xb5": (
        lambda data: zstandard.ZstdDecompressor().decompress(data, max_output_size=1 << 16),
        zstandard.ZstdCompressor(write_checksum=True).compress,
    ),
}


def mutate_file(rng: random.Random, name: str, data: bytes, other: bytes) -> bytes:
    """Damage the contents of a file as fits what it is."""
    if data[:2] in _PACKERS and rng.random() < 0.5:
        unpack, pack = _PACKERS[data[:2]]
        with contextlib.suppress(
            EOFError, ValueError, OSError, MemoryError, zlib.error, lzma.LZMAError, zstandard.ZstdError
        ):
            return pack(mutate_file(rng, name, unpack(data), other))
    if data[8:9] == b"{" and rng.random() < 0.6:
        return mutate_safetensors(rng, data)
    if name.endswith(".json") and rng.random() < 0.7:
        return mutate_json_bytes(rng, data)
    return mutate_bytes(rng, data, other)
