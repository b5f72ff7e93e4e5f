"""Lines of text in pairs: two parallel files, or a file of tab-separated columns; compressed or not."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from ..files import write_files
from ..sources import CorpusError, list_files, open_source, read_chunks

PathLike = str | os.PathLike[str]
BOM = "\ufeff"


def read_lines(path: PathLike) -> Iterator[str]:
    r"""Yield the lines of a text file (plain, .gz, .xz, .zst; "-": standard input), without their ends.

    Only \n and \r\n end a line. A byte-order mark at the start is left out.

    Raises:
        CorpusError: bytes that are not UTF-8 (naming file and line), or damaged compressed data.
        ValueError: an empty file, a directory.
        OSError: the file cannot be read.
    """
    if os.path.isdir(path):
        raise ValueError(f"{path}: expected a file of lines, got a directory")
    (file,) = list_files(path)
    number, held = 0, b""
    with open_source(file) as (raw, head):
        for chunk in read_chunks(file, raw, head, lambda done: None):
            *lines, held = (held + bytes(chunk)).split(b"\n")
            for line in lines:
                number += 1
                yield _decode(line, number, path)
    if held:
        yield _decode(held, number + 1, path)


def _decode(line: bytes, number: int, path: PathLike) -> str:
    try:
        text = line.removesuffix(b"\r").decode("utf-8")
    except UnicodeDecodeError as error:
        name = "standard input" if path == "-" else path
        raise CorpusError(
            f"{name}: line {number}: not UTF-8: byte 0x{line[error.start]:02x} at byte {error.start} of the line"
        ) from None
    return text.removeprefix(BOM) if number == 1 else text


def read_parallel(src: PathLike, tgt: PathLike) -> tuple[list[str], list[str]]:
    """Read two files whose lines belong together.

    Raises:
        ValueError: the files have different numbers of lines; both are named.
    """
    pair = [list(read_lines(path)) for path in (src, tgt)]
    if len(pair[0]) != len(pair[1]):
        raise ValueError(
            f"src and tgt: expected as many lines in both files, got {len(pair[0]):,} in {src} and {len(pair[1]):,} in "
            f"{tgt}"
        )
    return pair[0], pair[1]


def read_tsv(path: PathLike, columns: Sequence[int] = (1, 2)) -> tuple[list[str], list[str]]:
    """Read two columns of a file of tab-separated values; further columns are passed over.

    Args:
        path: of the file.
        columns: places of source and target, counted from 1.

    Raises:
        ValueError: a place below 1, or a line with too few columns (its number is named). Lines without any text are
            pairs of empty strings, which `data.encode_pairs` counts and leaves out.
    """
    if len(columns) != 2 or min(columns) < 1 or columns[0] == columns[1]:
        raise ValueError(f"columns: expected two different places >= 1, got {tuple(columns)}")
    src, tgt = [], []
    for number, line in enumerate(read_lines(path), 1):
        cells = line.split("\t") if line.strip() else [""] * max(columns)
        if len(cells) < max(columns):
            raise ValueError(
                f"{path}: line {number}: expected at least {max(columns)} columns, got {len(cells)}: {line[:80]!r}"
            )
        src.append(cells[columns[0] - 1])
        tgt.append(cells[columns[1] - 1])
    return src, tgt


def split_pairs(
    src: Sequence[str], tgt: Sequence[str], valid: int, test: int
) -> tuple[list[int], list[int], list[int]]:
    """Split pairs into training, validation and test by a fixed hash of the source; the same on every machine.

    Pairs of one source stay on one side, so that no test source has been seen. Sources are taken in the order of their
    SHA-256 until `test` and then `valid` pairs are there; a source with too many pairs for what is left goes on.

    Returns:
        Places of the training, validation and test pairs, each in order.

    Raises:
        ValueError: there are not enough pairs.
    """
    if valid < 0 or test < 0 or valid + test >= len(src):
        raise ValueError(
            f"valid, test: expected numbers >= 0 that leave some of {len(src)} pairs, got {valid} and {test}"
        )
    places: dict[str, list[int]] = {}
    for i, text in enumerate(src):
        places.setdefault(text, []).append(i)
    order = sorted(places, key=lambda text: hashlib.sha256(text.encode()).digest())
    parts: dict[str, list[int]] = {"test": [], "valid": [], "train": []}
    wanted = {"test": test, "valid": valid, "train": len(src)}
    for text in order:
        group = places[text]
        part = next(name for name, some in parts.items() if len(some) + len(group) <= wanted[name])
        parts[part] += group
    return sorted(parts["train"]), sorted(parts["valid"]), sorted(parts["test"])


def write_split(tsv: PathLike, out: PathLike, valid: int, test: int, columns: Sequence[int] = (1, 2)) -> dict[str, int]:
    """Split a TSV file into ``{train,valid,test}.{src,tgt}`` in a directory; lines without text on a side are left out.

    Returns:
        The number of pairs of each part, and of empty lines.
    """
    src, tgt = read_tsv(tsv, columns)
    full = [i for i, (a, b) in enumerate(zip(src, tgt, strict=True)) if a.strip() and b.strip()]
    src, tgt, empty = [src[i] for i in full], [tgt[i] for i in full], len(src) - len(full)
    parts = dict(zip(("train", "valid", "test"), split_pairs(src, tgt, valid, test), strict=True))
    out = Path(out)
    out.mkdir(parents=True, exist_ok=True)
    writers = {}
    for name, rows in parts.items():
        for side, lines in (("src", src), ("tgt", tgt)):
            data = "".join(f"{lines[i]}\n" for i in rows).encode()
            writers[out / f"{name}.{side}"] = lambda target, data=data: target.write_bytes(data)
    write_files(writers)
    return {**{name: len(rows) for name, rows in parts.items()}, "empty": empty}
