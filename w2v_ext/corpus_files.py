"""A corpus on disk: a directory of three files, and the cache that keeps such directories.

    ids.bin      little-endian int32: the ids of a sentence, then -1, then the next sentence
    vocab.tsv    word<TAB>count, in the order of the ids
    corpus.json  which sources and options made it, how many tokens it has, and a checksum

`corpus` makes them.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import secrets
import shutil
import tempfile
import weakref
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from .files import abandoned, parse_json
from .sources import CorpusError
from .vocab import Vocabulary, check_limits

CACHE_FORMAT = 1  # raised when the files of a corpus, or what a tokeniser makes of a text, change
TOKENIZERS = ("whitespace", "word", "char", "jieba")
_CHUNK = 1 << 20  # ids looked at in one go


@dataclass(frozen=True)
class CorpusOptions:
    """What decides the ids that come out of a text.

    Attributes:
        tokenizer: "whitespace": split as `str.split()` does. "word": runs of letters, marks, digits and underscores,
            inner apostrophes kept ("don't"), everything else dropped. "char": the same, but each ideograph, kana or
            hangul syllable is a token of its own. "jieba": `jieba.cut`, then whitespace.
        lowercase: lower-case every character by itself, as `str.lower()` does (a final sigma becomes the usual one).
        min_count: leave out words seen less often.
        max_vocab: keep this many of the most frequent words (special tokens come on top).
        specials: reserve ids 0..3 for `<PAD>`, `<SOS>`, `<EOS>`, `<UNK>`; such words in the text are left out.
        errors: "strict": invalid UTF-8, or a token of more than 65,536 bytes, is an error. "replace": U+FFFD for each
            invalid sequence, as Python does; such tokens are dropped; both are counted in corpus.json.
        max_line_tokens: a line with more in-vocabulary tokens is unbroken text, ...
        split_tokens: ... and becomes sentences of this many tokens.
    """

    tokenizer: str = "whitespace"
    lowercase: bool = False
    min_count: int = 5
    max_vocab: int | None = None
    specials: bool = False
    errors: str = "strict"
    max_line_tokens: int = 10_000
    split_tokens: int = 1_000

    def __post_init__(self) -> None:
        if self.tokenizer not in TOKENIZERS:
            raise ValueError(f"tokenizer: expected one of {', '.join(TOKENIZERS)}, got {self.tokenizer!r}")
        if self.errors not in ("strict", "replace"):
            raise ValueError(f"errors: expected strict or replace, got {self.errors!r}")
        for name in ("lowercase", "specials"):
            if not isinstance(getattr(self, name), bool):
                raise ValueError(f"{name}: expected True or False, got {getattr(self, name)!r}")
        check_limits(self.min_count, self.max_vocab)
        for name in ("max_line_tokens", "split_tokens"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value < 2**31:
                raise ValueError(f"{name}: expected a whole number from 1 to 2**31 - 1, got {value!r}")
        if self.split_tokens > self.max_line_tokens:
            raise ValueError(
                f"split_tokens: expected at most max_line_tokens = {self.max_line_tokens}, got {self.split_tokens}"
            )


class Corpus:
    """An open corpus.

    Attributes:
        ids: (num_tokens + num_sentences,) int32, read-only, memory-mapped; -1 behind each sentence.
        vocab: the `Vocabulary`.
        meta: what corpus.json says.
        path: the directory.
        num_tokens, num_sentences: in-vocabulary tokens; sentences (none is empty).
        raw_words: tokens read, out-of-vocabulary ones included.
    """

    def __init__(self, path: Path, ids: np.ndarray, vocab: Vocabulary, meta: dict[str, Any], temporary: bool = False):
        self.path, self.ids, self.vocab, self.meta = path, ids, vocab, meta
        self.num_tokens: int = meta["num_tokens"]
        self.num_sentences: int = meta["num_sentences"]
        self.raw_words: int = meta["raw_words"]
        self._remove = weakref.finalize(self, shutil.rmtree, path, True) if temporary else None
        self._opened: tuple[int, os.stat_result] | None = None  # the file of ids, and what it was when it was opened

    @classmethod
    def open(cls, path: str | os.PathLike) -> Corpus:
        """Open a corpus directory. FileNotFoundError without one; CorpusError naming the file that is damaged.

        The ids are checked by their number and by samples; `verify` reads them all.
        """
        path = Path(path)
        if not path.is_dir():
            raise FileNotFoundError(f"{path}: no such corpus directory")
        meta = _read_meta(path / "corpus.json")
        try:
            data = (path / "vocab.tsv").read_bytes()
        except FileNotFoundError:
            raise CorpusError(f"{path / 'vocab.tsv'}: the file is missing from the corpus") from None
        if hashlib.sha256(data).hexdigest() != meta["vocab_sha256"]:
            raise CorpusError(f"{path / 'vocab.tsv'}: damaged: its checksum is not the one in corpus.json")
        try:
            vocab = Vocabulary.parse(data, path / "vocab.tsv")
        except ValueError as error:
            raise CorpusError(str(error)) from error
        ids_path = path / "ids.bin"
        try:
            size = ids_path.stat().st_size
        except FileNotFoundError:
            raise CorpusError(f"{ids_path}: the file is missing from the corpus") from None
        expected = 4 * (meta["num_tokens"] + meta["num_sentences"])
        if size != expected or size == 0:
            raise CorpusError(f"{ids_path}: damaged: expected {expected} bytes, got {size}")
        with open(ids_path, "rb") as file:
            corpus = cls(path, np.memmap(file, dtype="<i4", mode="r"), vocab, meta)
            corpus._opened = os.dup(file.fileno()), os.fstat(file.fileno())
        weakref.finalize(corpus, os.close, corpus._opened[0])
        n, step = len(corpus.ids), 4096
        for start in np.linspace(0, max(0, n - step), num=16, dtype=np.int64).tolist():
            corpus._check_range(start, start + step)
        return corpus

    def check_unchanged(self) -> None:
        """CorpusError if the mapped file has been written to or cut since it was opened.

        Of a part that was cut off nothing can be read: the system ends a process that tries (SIGBUS). A file that was
        replaced by another of its name does not matter, the one that is mapped stays.
        """
        if self._opened is None:
            return
        descriptor, before = self._opened
        now = os.fstat(descriptor)
        if (now.st_size, now.st_mtime_ns) != (before.st_size, before.st_mtime_ns):
            raise CorpusError(
                f"{self.path / 'ids.bin'}: was changed while it was in use: it had {before.st_size} bytes, now it has "
                f"{now.st_size}"
            )

    def verify(self) -> None:
        """Read every id and compare with the counts. CorpusError naming the file."""
        markers = 0
        for start in range(0, len(self.ids), _CHUNK):
            self._check_range(start, start + _CHUNK)
            markers += np.count_nonzero(self.ids[start : start + _CHUNK] == -1)
        if markers != self.num_sentences:
            raise CorpusError(f"{self.path / 'ids.bin'}: damaged: {markers} sentences, not {self.num_sentences}")

    def _check_range(self, start: int, stop: int) -> None:
        part = self.ids[start:stop]
        if part.min() < -1 or part.max() >= len(self.vocab) or (stop >= len(self.ids) and part[-1] != -1):
            raise CorpusError(
                f"{self.path / 'ids.bin'}: damaged: expected ids from -1 to {len(self.vocab) - 1}, the last one -1, "
                f"got {part.min()} to {part.max()} around position {start}"
            )

    def sentences(self) -> Iterator[np.ndarray]:
        """Yield each sentence as an int32 array, a read-only view of the mapped file."""
        ids, begin = np.asarray(self.ids), 0
        for start in range(0, len(ids), _CHUNK):
            for end in (np.flatnonzero(ids[start : start + _CHUNK] < 0) + start).tolist():
                yield ids[begin:end]
                begin = end + 1

    def close(self) -> None:
        """Let go of the mapped file; remove the directory if it was a temporary one."""
        self.ids = np.empty(0, dtype=np.int32)
        if self._remove is not None:
            self._remove()

    def __enter__(self) -> Corpus:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"Corpus({str(self.path)!r}, {self.num_tokens} tokens, {len(self.vocab)} words)"


def checksum(meta: dict[str, Any]) -> str:
    """Return the checksum of a corpus.json, which stands in it."""
    rest = {key: value for key, value in meta.items() if key != "checksum"}
    return hashlib.sha256(json.dumps(rest, sort_keys=True).encode()).hexdigest()


def _read_meta(path: Path) -> dict[str, Any]:
    try:
        meta = parse_json(path.read_bytes())
    except FileNotFoundError:
        raise CorpusError(f"{path}: the file is missing from the corpus") from None
    except ValueError as error:
        raise CorpusError(f"{path}: damaged: {error}") from None
    if not isinstance(meta, dict) or meta.get("checksum") != checksum(meta):
        raise CorpusError(f"{path}: damaged: its checksum does not fit its contents")
    if meta.get("format") != CACHE_FORMAT:
        raise CorpusError(f"{path}: expected format {CACHE_FORMAT}, got {meta.get('format')!r}: make the corpus again")
    for name in ("num_tokens", "num_sentences", "raw_words", "vocab_sha256"):
        value, kind = meta.get(name), str if name == "vocab_sha256" else int
        if not isinstance(value, kind) or (kind is int and not 0 <= value < 1 << 62):
            raise CorpusError(f"{path}: damaged: {name} is {value!r:.80}")
    return meta


def digest_of_contents(directory: Path) -> str:
    """Return a name for a corpus by its words and ids."""
    digest = hashlib.sha256((directory / "vocab.tsv").read_bytes())
    with open(directory / "ids.bin", "rb") as file:
        while data := file.read(_CHUNK):
            digest.update(data)
    return digest.hexdigest()[:32]


def temporary_corpus(fill: Callable[[Path], None]) -> Corpus:
    """Return the corpus that `fill` writes to a directory, which is removed with it."""
    directory = Path(tempfile.mkdtemp(prefix="w2v_ext-"))
    try:
        fill(directory)
        corpus = Corpus.open(directory)
    except BaseException:
        shutil.rmtree(directory, ignore_errors=True)
        raise
    corpus._remove = weakref.finalize(corpus, shutil.rmtree, directory, True)
    return corpus


def cached_corpus(root: Path, fill: Callable[[Path], None], name_of: Callable[[Path], str]) -> Corpus:
    """Return the corpus that `fill` writes to a directory below `root`; it appears there whole or not at all.

    What killed processes have left there is removed.
    """
    root.mkdir(parents=True, exist_ok=True)
    for left in root.glob(".building-*"):
        if abandoned(left):
            shutil.rmtree(left, ignore_errors=True)
    work = root / f".building-{os.getpid()}-{secrets.token_hex(4)}"
    work.mkdir()
    try:
        fill(work)
        entry = root / name_of(work)
        _move_into_place(work, entry)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    return Corpus.open(entry)


def _move_into_place(work: Path, entry: Path) -> None:
    """Rename a finished corpus; keep the one already there if another process was first, unless it is damaged."""
    while True:
        try:
            os.rename(work, entry)
            return
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                raise
        try:
            Corpus.open(entry).close()
            return
        except FileNotFoundError:
            continue
        except CorpusError:
            aside = work.with_name(f"{work.name}-damaged-{secrets.token_hex(4)}")
            try:
                os.rename(entry, aside)
            except FileNotFoundError:
                continue  # another process has moved it away
            shutil.rmtree(aside, ignore_errors=True)
