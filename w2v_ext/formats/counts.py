"""word2vec's vocabulary file (`-save-vocab`): a word and how often it occurred, one a line."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ..files import FormatError, write_files
from .streams import line_blocks, open_chunks
from .table import PathLike, encode_words

_LONGEST_LINE = 1 << 20


def read_counts(path: PathLike, encoding: str = "utf-8", errors: str = "strict") -> dict[str, int]:
    """Read words and counts; of a word that comes again the last count stays.

    Raises:
        FormatError: a line is not a word and a count, naming file and line.
        OSError: the file cannot be read.
    """
    counts: dict[str, int] = {}
    number = 0
    with open_chunks(Path(path)) as chunks:
        for block in line_blocks(chunks, lambda: _LONGEST_LINE):
            for line in block.splitlines():
                number += 1
                word, _, count = line.strip().rpartition(b" ")
                if not word or not count.isdigit() or len(count) > 18:
                    shown = line[:60].decode("utf-8", "replace")
                    raise FormatError(f"{path}: line {number}: expected a word and its count, got {shown!r}")
                try:
                    counts[word.decode(encoding, errors)] = int(count)
                except UnicodeDecodeError as error:
                    raise FormatError(f"{path}: line {number}: not {error.encoding}: {word!r}") from error
    return counts


def write_counts(path: PathLike, words: Sequence[str], counts: Sequence[int] | np.ndarray) -> None:
    """Write words and counts.

    Raises:
        ValueError: a word contains white space.
        OSError: the file cannot be written.
    """
    rows = zip(encode_words(words, where="the vocabulary file"), np.asarray(counts).tolist(), strict=True)
    data = b"".join(b"%b %d\n" % row for row in rows)
    write_files({Path(path): lambda target: target.write_bytes(data)})
