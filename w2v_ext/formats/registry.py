"""The formats by name: which one a file or directory is in, reading and writing any of them."""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from .. import _text
from ..files import FormatError, parse_json
from . import fasttext
from .collect import ReadOptions
from .directories import (
    read_model,
    read_projector,
    read_static_embedding,
    write_model,
    write_projector,
    write_static_embedding,
)
from .fasttext_write import write_fasttext_bin
from .rows import read_binary, read_text
from .streams import COMPRESSED_SUFFIXES, Progress, open_chunks
from .table import PathLike, VectorTable, check_table
from .tensors import KIND, read_safetensors, write_safetensors
from .writing import write_row_file

_PEEK = 1 << 16
_NUMBER_BYTES = frozenset(b"0123456789+-.eE \t\r")


@dataclass(frozen=True)
class Format:
    """A format.

    Attributes:
        name: as `--to` and `--from` take it.
        about: one line for people.
        read: (path, options) -> table.
        write: (path, checked table, threads, progress), or None where it cannot be written.
        suffixes: file names that end so are written in this format unless another is named.
        is_directory: whether it is a directory of files.
    """

    name: str
    about: str
    read: Callable[[Path, ReadOptions], VectorTable]
    write: Callable[[Path, VectorTable, int, Progress | None], None] | None = None
    suffixes: tuple[str, ...] = ()
    is_directory: bool = False


def _rows(**settings: Any) -> Callable[[Path, VectorTable, int, Progress | None], None]:
    return lambda path, table, threads, progress: write_row_file(
        path, table, threads=threads, progress=progress, **settings
    )


def _compressed(path: Path, options: ReadOptions) -> VectorTable:
    from ..quantize import read_compressed

    return read_compressed(path, options)


def _compress(method: str) -> Callable[[Path, VectorTable, int, Progress | None], None]:
    def write(path: Path, table: VectorTable, threads: int, progress: Progress | None) -> None:
        from ..quantize import compress, save_compressed

        save_compressed(path, table.words, compress(table.vectors, method), table.counts)

    return write


FORMATS: dict[str, Format] = {
    f.name: f
    for f in (
        Format(
            "model",
            "model directory of w2v_ext (model.safetensors, vocab.tsv, config.json)",
            read_model,
            lambda path, table, threads, progress: write_model(path, table),
            is_directory=True,
        ),
        Format(
            "word2vec-text",
            "word2vec text: a line 'rows columns', then a word and its numbers a line",
            lambda path, options: read_text(path, options, header=True),
            _rows(),
            (".txt", ".w2v"),
        ),
        Format(
            "word2vec-binary", "word2vec binary: float32 after each word", read_binary, _rows(binary=True), (".bin",)
        ),
        Format(
            "glove",
            "GloVe text: as word2vec text, without the first line",
            lambda path, options: read_text(path, options, header=False),
            _rows(header=False),
            (".glove", ".glove.txt"),
        ),
        Format(
            "fasttext-vec",
            "fastText .vec: the same as word2vec text",
            lambda path, options: read_text(path, options, header=True),
            _rows(),
            (".vec",),
        ),
        Format(
            "fasttext-bin",
            "fastText .bin: words' vectors with their subwords'",
            fasttext.read_fasttext_bin,
            lambda path, table, threads, progress: write_fasttext_bin(path, *table),
        ),
        Format(
            "safetensors",
            "one safetensors file: words, vectors, counts",
            read_safetensors,
            lambda path, table, threads, progress: write_safetensors(path, table),
            (".safetensors",),
        ),
        Format(
            "static-embedding",
            "directory that sentence-transformers loads (StaticEmbedding)",
            read_static_embedding,
            lambda path, table, threads, progress: write_static_embedding(path, table),
            is_directory=True,
        ),
        Format(
            "projector",
            "directory for TensorBoard's projector (tensors.tsv, metadata.tsv)",
            read_projector,
            write_projector,
            is_directory=True,
        ),
        Format("int8", "safetensors, 8 bits a number, range of each row (lossy)", _compressed, _compress("int8")),
        Format(
            "int8-symmetric",
            "safetensors, 8 bits a number, symmetric about 0 (lossy)",
            _compressed,
            _compress("int8-symmetric"),
        ),
        Format("pq", "safetensors, product quantisation, a byte for 4 numbers (lossy)", _compressed, _compress("pq")),
        Format("low-rank", "safetensors, half of the directions (lossy)", _compressed, _compress("low-rank")),
    )
}


def find_format(name: str) -> Format:
    """Return a format by name. ValueError listing the names where there is none."""
    try:
        return FORMATS[name]
    except KeyError:
        raise ValueError(f"format: expected one of {', '.join(FORMATS)}, got {name!r}") from None


def format_for_writing(path: PathLike) -> Format:
    """Return the format that the name of a file asks for; a name without suffix is a model directory.

    Raises:
        ValueError: no format has that suffix.
    """
    path = Path(path)
    name = path.name.lower()
    for suffix in COMPRESSED_SUFFIXES:
        name = name.removesuffix(suffix)
    if not Path(name).suffix:
        return FORMATS["model"]
    found = [(len(suffix), f) for f in FORMATS.values() for suffix in f.suffixes if name.endswith(suffix)]
    if not found:
        known = sorted({suffix for f in FORMATS.values() for suffix in f.suffixes})
        raise ValueError(
            f"{path}: the name does not tell the format: expected one of the suffixes {', '.join(known)}, no suffix "
            "for a model directory, or the format's name (--to)"
        )
    return max(found, key=lambda pair: pair[0])[1]


def sniff(path: PathLike) -> Format:
    """Tell the format of a file or directory by what is in it.

    Raises:
        FormatError: it is in none of the formats.
        OSError: the file cannot be read.
    """
    path = Path(path)
    if path.is_dir():
        has = lambda *names: all((path / name).is_file() for name in names)  # noqa: E731
        if has("modules.json") or has("tokenizer.json", "model.safetensors"):
            return FORMATS["static-embedding"]
        if has("metadata.tsv") and (has("tensors.tsv") or has("vectors.tsv")):
            return FORMATS["projector"]
        return FORMATS["model"]  # whose reader says which file is missing
    data = b""
    with open_chunks(path) as chunks:
        while len(data) < _PEEK and (chunk := next(chunks, b"")):
            data += chunk
    return _sniff_bytes(path, data)


def _sniff_bytes(path: Path, data: bytes) -> Format:
    if not data:
        raise FormatError(f"{path}: the file is empty")
    if data.startswith(fasttext.MAGIC):
        return FORMATS["fasttext-bin"]
    if data.startswith(b"\x80") and data[1:2] in b"\x02\x03\x04\x05" or data.startswith(b"PK\x03\x04"):
        raise FormatError(
            f"{path}: a Python pickle or PyTorch file, which is never opened: it could run any program. Save the "
            "vectors in the word2vec format with the program that wrote it"
        )
    if data[8:9] == b"{" and struct.unpack("<Q", data[:8])[0] < 1 << 32:
        return _sniff_safetensors(data)
    end = data.find(b"\n")
    fields = data[: max(end, 0)].split()
    if end > 0 and len(fields) == 2 and all(field.isdigit() for field in fields):
        return _sniff_rows(data[end + 1 :], int(fields[1][:12]))
    if _text.count_numbers(data[:end] if end >= 0 else data) > 0:
        return FORMATS["glove"]
    shown = data[:40].decode("utf-8", "replace")
    raise FormatError(f"{path}: in none of the formats that w2v_ext reads; it begins with {shown!r}")


def _sniff_rows(data: bytes, dim: int) -> Format:
    """Text or binary, told by the first record after the header."""
    data = data.lstrip(b"\n")
    space = data.find(b" ")
    numbers = data[space + 1 : space + 1 + 4 * dim].partition(b"\n")[0]
    is_text = space < 0 or _NUMBER_BYTES.issuperset(numbers) or _text.count_numbers(data.partition(b"\n")[0]) == dim
    return FORMATS["word2vec-text" if is_text else "word2vec-binary"]


def _sniff_safetensors(data: bytes) -> Format:
    size = struct.unpack("<Q", data[:8])[0]
    try:
        header = parse_json(data[8 : 8 + size])
        kind = parse_json(header["__metadata__"]["w2v_ext"])["kind"]
    except (ValueError, KeyError, TypeError):
        kind = KIND  # whose reader says what is wrong
    return FORMATS.get(str(kind), FORMATS["safetensors"])


def load_vectors(
    path: PathLike,
    format: str | None = None,
    *,
    limit: int | None = None,
    errors: str = "strict",
    encoding: str = "utf-8",
    bad_rows: Literal["error", "skip"] = "error",
    dtype: np.typing.DTypeLike = np.float32,
    threads: int = 0,
    progress: Progress | None = None,
) -> VectorTable:
    """Read words and vectors in any format; ``KeyedVectors(*load_vectors(path))`` makes them searchable.

    Text and binary rows and fastText's .bin may be compressed (.gz, .xz, .zst). Nothing is ever unpickled.

    Args:
        path: a file or directory.
        format: a name of `FORMATS`; None tells it by what is in the file.
        limit: only the first `limit` words.
        errors: words that cannot be decoded: `strict`, or `replace`, `ignore` ... as in `bytes.decode`.
        encoding: of the words, in the formats of rows.
        bad_rows: in the formats of rows, `skip` leaves out damaged rows with a warning.
        dtype: float dtype of the vectors.
        threads: for parsing text; 0 takes all cores.
        progress: called now and then with the bytes read so far, and of how many.

    Returns:
        Words (V,), vectors (V, D) and counts (V,) or None.

    Raises:
        FormatError: the file is damaged or in no format; the message names it and the line, record or byte.
        OSError: the file cannot be read.
    """
    options = ReadOptions(limit, errors, encoding, bad_rows, dtype, threads, progress)
    return (sniff(path) if format is None else find_format(format)).read(Path(path), options)


def save_vectors(
    path: PathLike,
    words: Sequence[str],
    vectors: np.ndarray,
    counts: Sequence[int] | np.ndarray | None = None,
    format: str | None = None,
    *,
    threads: int = 0,
    progress: Progress | None = None,
) -> None:
    """Write words and vectors in any format; rows stay in their order.

    A `fasttext-bin` is written without n-grams; see `FastTextVectors.save_fasttext_bin` for one with them.

    Args:
        path: the file or directory; of a file, `.gz`, `.xz` or `.zst` at the end compresses formats of rows.
        words: V distinct words.
        vectors: (V, D), written as float32.
        counts: (V,) how often each word occurred, kept by the formats that can.
        format: a name of `FORMATS`; None tells it by the suffix (none: a model directory).
        threads: for formatting text; 0 takes all cores.
        progress: called now and then with the rows written so far, and of how many.

    Raises:
        ValueError: shapes that do not match, a value that is not finite, or a word that the format cannot hold.
        OSError: the file cannot be written. It is whole or not there.
    """
    path = Path(path)
    chosen = format_for_writing(path) if format is None else find_format(format)
    if chosen.write is None:
        raise ValueError(f"format: {chosen.name} can only be read")
    if path.suffix in COMPRESSED_SUFFIXES and chosen.name not in (
        "word2vec-text",
        "word2vec-binary",
        "glove",
        "fasttext-vec",
    ):
        raise ValueError(f"{path}: {chosen.name} is not written compressed")
    chosen.write(path, check_table(words, vectors, counts), threads, progress)
