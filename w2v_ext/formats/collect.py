"""What every reader shares: its options, and the rows it has read so far."""

from __future__ import annotations

import codecs
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np

from .. import _text
from ..files import FormatError
from .streams import Progress, thread_count
from .table import VectorTable


@dataclass(frozen=True)
class ReadOptions:
    """How to read vectors.

    Attributes:
        limit: only the first so many rows; what follows them is not looked at.
        errors: words that cannot be decoded: `strict`, or any error handler of `bytes.decode` (`replace`, `ignore`).
        encoding: of the words.
        bad_rows: `error`, or `skip`: leave out rows that are damaged (wrong number of columns, no number, not finite,
            no word, cannot be decoded), take a header's count or an early end as it is, and warn.
        dtype: float dtype of the vectors.
        threads: for parsing text; 0 takes all cores.
        progress: called now and then with the bytes read so far, and of how many.
    """

    limit: int | None = None
    errors: str = "strict"
    encoding: str = "utf-8"
    bad_rows: Literal["error", "skip"] = "error"
    dtype: np.typing.DTypeLike = np.float32
    threads: int = 0
    progress: Progress | None = field(default=None, compare=False)

    def __post_init__(self) -> None:
        """Check the values.

        Raises:
            ValueError: one that makes no sense.
        """
        if self.limit is not None and self.limit < 0:
            raise ValueError(f"limit: expected None or a number >= 0, got {self.limit}")
        if self.bad_rows not in ("error", "skip"):
            raise ValueError(f"bad_rows: expected error or skip, got {self.bad_rows!r}")
        if np.dtype(self.dtype).kind != "f":
            raise ValueError(f"dtype: expected a float type, got {np.dtype(self.dtype)}")
        thread_count(self.threads)
        for name, look_up in (("encoding", codecs.lookup), ("errors", codecs.lookup_error)):
            try:
                look_up(getattr(self, name))
            except LookupError as error:
                raise ValueError(f"{name}: {error}") from None


class _Left(NamedTuple):
    """What was left out: how much, and the first."""

    number: int
    first: str

    def and_(self, what: str) -> _Left:
        """One more."""
        return _Left(self.number + 1, self.first if self.number else what)


_NOTHING = _Left(0, "")


class RowCollector:
    """Takes rows as they come: decodes words, drops repeated ones, counts what is wrong."""

    def __init__(self, path: Path, options: ReadOptions, dim: int, wanted: int):
        self.path, self.options, self.dim, self.wanted = path, options, dim, wanted
        self.rows = 0  # taken from the file, repeated ones included
        self._words: list[str] = []
        self._seen: set[str] = set()
        self._values = _text.GrowingBuffer()
        self._counts: list[np.ndarray] = []
        self._repeated = self._skipped = _NOTHING  # only the first is kept: a file may have nothing else

    @property
    def full(self) -> bool:
        """Whether no more rows are wanted."""
        return self.rows >= self.wanted

    def fail(self, message: str) -> None:
        """Raise FormatError, or note what is skipped."""
        if self.options.bad_rows == "error":
            raise FormatError(f"{self.path}: {message}")
        self._skipped = self._skipped.and_(message)

    def add(
        self, raw: list[bytes], values: np.ndarray, place: Callable[[int], str], counts: np.ndarray | None = None
    ) -> None:
        """Take rows; `place(i)` says where row i of these stands."""
        self.rows += len(raw)
        values = self._convert(raw, values, place)
        kept = range(len(raw))
        try:
            words = [word.decode(self.options.encoding, self.options.errors) for word in raw]
        except UnicodeDecodeError:
            words, kept = self._decode_one_by_one(raw, place)
        new = set(words)
        if len(new) < len(words) or not self._seen.isdisjoint(new):
            once = [i for i, word in enumerate(words) if not (word in self._seen or self._seen.add(word))]
            first = set(once)
            for i, word in enumerate(words):
                if i not in first:
                    self._repeated = self._repeated.and_(word)
            words, kept = [words[i] for i in once], [kept[i] for i in once]
        else:
            self._seen |= new
        self._words += words
        if len(kept) < len(raw):
            values, counts = values[kept], None if counts is None else counts[kept]
        self._values.append(np.ascontiguousarray(values, dtype=self.options.dtype))
        if counts is not None:
            self._counts.append(counts)

    def _convert(self, raw: list[bytes], values: np.ndarray, place: Callable[[int], str]) -> np.ndarray:
        if np.dtype(self.options.dtype).itemsize >= values.itemsize:
            return values
        with np.errstate(over="ignore"):
            values = values.astype(self.options.dtype)
        finite = np.isfinite(values).all(axis=1)
        if not finite.all():  # skipping is for damaged files, and this one is not
            bad = int(finite.argmin())
            raise FormatError(f"{self.path}: {place(bad)}: the vector of {raw[bad]!r} is not finite as {values.dtype}")
        return values

    def _decode_one_by_one(self, raw: list[bytes], place: Callable[[int], str]) -> tuple[list[str], list[int]]:
        words, kept = [], []
        for i, word in enumerate(raw):
            try:
                words.append(word.decode(self.options.encoding, self.options.errors))
                kept.append(i)
            except UnicodeDecodeError as error:
                name = "UTF-8" if error.encoding == "utf-8" else error.encoding
                self.fail(
                    f"{place(i)}: the word {word[:40]!r} is not {name} (byte {error.start} of it); "
                    "errors='replace' or 'ignore' goes on"
                )
        return words, kept

    def finish(self) -> VectorTable:
        """Return the table, with a warning where something was left out."""
        if self._repeated.number:
            warnings.warn(
                f"{self.path}: {self._repeated.number} repeated words dropped, first {self._repeated.first!r}",
                stacklevel=5,
            )
        if self._skipped.number:
            warnings.warn(
                f"{self.path}: {self._skipped.number} faults passed over, first {self._skipped.first}", stacklevel=5
            )
        vectors = self._values.finish(np.dtype(self.options.dtype)).reshape(-1, self.dim)
        return VectorTable(self._words, vectors, np.concatenate(self._counts) if self._counts else None)
