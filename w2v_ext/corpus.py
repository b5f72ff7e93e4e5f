"""Text, or sequences of items, to a memory-mapped corpus of word ids.

A corpus is a directory of three files:

    ids.bin      little-endian int32: the ids of a sentence, then -1, then the next sentence
    vocab.tsv    word<TAB>count, in the order of the ids
    corpus.json  which sources and options made it, how many tokens it has, and a checksum

The work (tokenise, count, encode) is done in C++ (`csrc/text`), which reads the text once. Finished corpora are kept
in a cache directory, found again by their sources' paths, sizes and times and by the options.
"""

from __future__ import annotations

import dataclasses
import errno
import hashlib
import json
import os
import secrets
import shutil
import tempfile
import time
import warnings
import weakref
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from . import _text
from .files import cache_directory
from .sources import (
    CorpusError,
    SourceFile,
    describe_error,
    feed_sequences,
    import_jieba,
    list_files,
    open_source,
    read_chunks,
    segment,
)
from .vocab import SPECIALS, Vocabulary, check_limits, no_words_message

CACHE_FORMAT = 1  # raised when the files of a corpus, or what a tokeniser makes of a text, change
TOKENIZERS = ("whitespace", "word", "char", "jieba")
_CHUNK = 1 << 20  # ids looked at in one go

Progress = Callable[[int, "int | None"], object]


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
        vocab = Vocabulary.parse(data, path / "vocab.tsv")
        ids_path = path / "ids.bin"
        try:
            size = ids_path.stat().st_size
        except FileNotFoundError:
            raise CorpusError(f"{ids_path}: the file is missing from the corpus") from None
        expected = 4 * (meta["num_tokens"] + meta["num_sentences"])
        if size != expected or size == 0:
            raise CorpusError(f"{ids_path}: damaged: expected {expected} bytes, got {size}")
        corpus = cls(path, np.memmap(ids_path, dtype="<i4", mode="r"), vocab, meta)
        n, step = len(corpus.ids), 4096
        for start in np.linspace(0, max(0, n - step), num=16, dtype=np.int64).tolist():
            corpus._check_range(start, start + step)
        return corpus

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


def prepare_corpus(
    sources: str | os.PathLike | Sequence[str | os.PathLike],
    options: CorpusOptions = CorpusOptions(),
    *,
    cache_dir: str | os.PathLike | None = None,
    threads: int | None = None,
    progress: Progress | None = None,
) -> Corpus:
    """Read text once and return its corpus; return the cached one where sources and options are the same.

    Args:
        sources: files (plain, gzip, xz or zstd, told by their first bytes), directories (all files below, sorted,
            hidden ones left out), or "-" for standard input; several are read one after the other. UTF-8.
        options: tokeniser, vocabulary and error handling; see `CorpusOptions`.
        cache_dir: the cache; default `$W2V_EXT_CACHE`, else `~/.cache/w2v_ext`. Corpora are kept in its folder
            `corpora`; what comes from standard input or a pipe is built in a temporary directory, which
            `Corpus.close` removes.
        threads: tokenising threads; default one for each CPU this process may use, at most 16. Results do not depend
            on it.
        progress: called with (bytes read, bytes in all or None) several times a second.

    Raises:
        FileNotFoundError, PermissionError, OSError: a source cannot be read, or the cache not written.
        CorpusError: invalid UTF-8, an overlong token, a damaged compressed file, a source that changes meanwhile.
        ValueError: a source without words, a vocabulary of fewer than two words, an option that makes no sense.
        ImportError: `tokenizer="jieba"` without jieba.
    """
    threads = _check_threads(threads)
    files = list_files(sources)
    if options.tokenizer == "jieba":
        import_jieba()

    def fill(directory: Path) -> None:
        _build_from_files(files, options, threads, directory, progress)

    if any(f.size is None for f in files):
        return _temporary_corpus(fill)
    root = cache_directory(cache_dir, "corpora")
    made_from = [CACHE_FORMAT, dataclasses.asdict(options), [(f.path, f.size, f.mtime_ns) for f in files]]
    entry = root / hashlib.sha256(json.dumps(made_from).encode()).hexdigest()[:32]
    try:
        return Corpus.open(entry)
    except FileNotFoundError:
        pass
    except CorpusError as error:
        warnings.warn(f"{error}; making the corpus again", RuntimeWarning, stacklevel=2)
    return _cached_corpus(root, fill, lambda _: entry.name)


def corpus_from_sequences(
    sequences: Iterable[Iterable[int] | Iterable[str]] | np.ndarray,
    *,
    min_count: int = 1,
    max_vocab: int | None = None,
    specials: bool = False,
    cache_dir: str | os.PathLike | None = None,
) -> Corpus:
    """Make a corpus from sequences of items: baskets (item2vec), walks on a graph (node2vec), ready-made tokens.

    Args:
        sequences: an iterable, read once, of sequences of integers or strings; or a 2-D integer array whose rows are
            the sequences. Negative integers are padding and skipped. An item's word is `str(item)`. A sequence of
            more than 10,000 items is split at every 1,000, as long lines are.
        min_count, max_vocab, specials: as in `CorpusOptions`.
        cache_dir: the cache to keep the corpus in (equal contents share one entry); None: a temporary directory,
            which `Corpus.close` removes.

    Raises:
        TypeError: an item is neither integer nor string, a sequence is a string.
        ValueError: a string is empty or has a tab or a line break, there are no items, fewer than two words are left.
    """
    options = CorpusOptions(min_count=min_count, max_vocab=max_vocab, specials=specials)

    def fill(directory: Path) -> None:
        _build_from_sequences(sequences, options, directory)

    if cache_dir is None:
        return _temporary_corpus(fill)
    return _cached_corpus(cache_directory(cache_dir, "corpora"), fill, _digest_of_contents)


# --- building ---------------------------------------------------------------------------------------------------------


def _check_threads(threads: int | None) -> int:
    if threads is None:
        cpus = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        return min(cpus, 16)
    if isinstance(threads, bool) or not isinstance(threads, int) or not 1 <= threads <= 1024:
        raise ValueError(f"threads: expected a whole number from 1 to 1024, got {threads!r}")
    return threads


def _make_builder(tokenizer: str, options: CorpusOptions, threads: int, directory: Path) -> _text.Builder:
    return _text.Builder(
        tokenizer=tokenizer,
        lowercase=options.lowercase,
        replace_errors=options.errors == "replace",
        threads=threads,
        spill_path=str(directory / "codes.tmp"),
    )


def _build_from_files(
    files: list[SourceFile], options: CorpusOptions, threads: int, directory: Path, progress: Progress | None
) -> None:
    uses_jieba = options.tokenizer == "jieba"
    builder = _make_builder("whitespace" if uses_jieba else options.tokenizer, options, threads, directory)
    total = None if any(f.size is None for f in files) else sum(f.size for f in files)
    finished, last_report, replacements = 0, 0.0, 0

    def report(done: int, now: bool = False) -> None:
        nonlocal last_report
        if progress is not None and (now or time.monotonic() - last_report > 0.05):
            progress(finished + done, total)
            last_report = time.monotonic()

    try:
        for file in files:
            with open_source(file) as (raw, head):
                file.check_unchanged(raw)
                builder.begin_source(file.name)
                if file.is_plain(head) and not uses_jieba:
                    raw.seek(0)
                    builder.read_fd(raw.fileno(), report)
                else:
                    chunks = read_chunks(file, raw, head, report)
                    if uses_jieba:
                        chunks, counted = segment(chunks, file.name, options.errors)
                    for chunk in chunks:
                        builder.feed(chunk)
                    if uses_jieba:
                        replacements += counted[0]
                builder.end_source()
                file.check_unchanged(raw)
            finished += file.size or 0
        report(0, now=True)
        found = builder.make_vocabulary(options.min_count, options.max_vocab, SPECIALS if options.specials else ())
    except _text.TextError as error:
        raise describe_error(error, uses_jieba) from None
    found["replacements"] += replacements
    words_of = dict.fromkeys((f.argument for f in files), 0)
    for file, words in zip(files, found["source_words"], strict=True):
        words_of[file.argument] += words
    for argument, words in words_of.items():
        if words == 0:
            name = "standard input" if argument == "-" else argument
            raise ValueError(f"{name}: there are no words in it (tokenizer = {options.tokenizer})")
    sources = [{"path": f.path, "size": f.size, "mtime_ns": f.mtime_ns} for f in files]
    _finish(builder, found, options, directory, sources)


def _build_from_sequences(sequences: Any, options: CorpusOptions, directory: Path) -> None:
    builder = _make_builder("items", options, _check_threads(None), directory)
    builder.begin_source("sequences")
    try:
        feed_sequences(builder, sequences)
        builder.end_source()
        found = builder.make_vocabulary(options.min_count, options.max_vocab, SPECIALS if options.specials else ())
    except _text.TextError as error:
        raise describe_error(error) from None
    if found["raw_words"] == 0:
        raise ValueError("sequences: there are no items in them")
    _finish(builder, found, options, directory, [])


def _finish(
    builder: _text.Builder, found: dict[str, Any], options: CorpusOptions, directory: Path, sources: list[dict]
) -> None:
    num_specials = len(SPECIALS) if options.specials else 0
    words, kept = found["words"], len(found["words"]) - num_specials
    if kept == 0:
        raise ValueError(no_words_message(options.min_count, found["largest_count"]))
    if kept == 1:
        raise ValueError(
            f"vocabulary: needs at least two words, got only {words[-1]!r} (min_count = {options.min_count}, "
            f"max_vocab = {options.max_vocab}, distinct words in the text: {found['distinct_words']})"
        )
    written = builder.write_ids(str(directory / "ids.bin"), options.max_line_tokens, options.split_tokens)
    Vocabulary(words, found["counts"], num_specials).save(directory / "vocab.tsv")
    meta = {
        "format": CACHE_FORMAT,
        "sources": sources,
        "options": dataclasses.asdict(options),
        **written,
        **{name: found[name] for name in ("raw_words", "distinct_words", "replacements", "dropped_tokens")},
        "vocab_sha256": hashlib.sha256((directory / "vocab.tsv").read_bytes()).hexdigest(),
    }
    meta["checksum"] = _checksum(meta)
    (directory / "corpus.json").write_text(json.dumps(meta, indent=1) + "\n", encoding="utf-8")


# --- the cache --------------------------------------------------------------------------------------------------------


def _checksum(meta: dict[str, Any]) -> str:
    rest = {key: value for key, value in meta.items() if key != "checksum"}
    return hashlib.sha256(json.dumps(rest, sort_keys=True).encode()).hexdigest()


def _read_meta(path: Path) -> dict[str, Any]:
    try:
        meta = json.loads(path.read_bytes())
    except FileNotFoundError:
        raise CorpusError(f"{path}: the file is missing from the corpus") from None
    except ValueError as error:
        raise CorpusError(f"{path}: damaged: {error}") from None
    if not isinstance(meta, dict) or meta.get("checksum") != _checksum(meta):
        raise CorpusError(f"{path}: damaged: its checksum does not fit its contents")
    if meta.get("format") != CACHE_FORMAT:
        raise CorpusError(f"{path}: expected format {CACHE_FORMAT}, got {meta.get('format')!r}: make the corpus again")
    return meta


def _digest_of_contents(directory: Path) -> str:
    digest = hashlib.sha256((directory / "vocab.tsv").read_bytes())
    with open(directory / "ids.bin", "rb") as file:
        while data := file.read(_CHUNK):
            digest.update(data)
    return digest.hexdigest()[:32]


def _temporary_corpus(fill: Callable[[Path], None]) -> Corpus:
    directory = Path(tempfile.mkdtemp(prefix="w2v_ext-"))
    try:
        fill(directory)
        corpus = Corpus.open(directory)
    except BaseException:
        shutil.rmtree(directory, ignore_errors=True)
        raise
    corpus._remove = weakref.finalize(corpus, shutil.rmtree, directory, True)
    return corpus


def _cached_corpus(root: Path, fill: Callable[[Path], None], name_of: Callable[[Path], str]) -> Corpus:
    root.mkdir(parents=True, exist_ok=True)
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
