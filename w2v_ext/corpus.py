"""Text, or sequences of items, to a memory-mapped corpus of word ids.

The work (tokenise, count, encode) is done in C++ (`csrc/text`), which reads the text once. Finished corpora
(`corpus_files`) are kept in a cache directory, found again by their sources' paths, sizes and times and by the options.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import time
import warnings
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from . import _text
from .corpus_files import (
    CACHE_FORMAT,
    TOKENIZERS,
    Corpus,
    CorpusOptions,
    cached_corpus,
    checksum,
    digest_of_contents,
    temporary_corpus,
)
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
from .vocab import SPECIALS, Vocabulary, no_words_message

__all__ = ["TOKENIZERS", "Corpus", "CorpusError", "CorpusOptions", "corpus_from_sequences", "prepare_corpus"]

DEFAULT_OPTIONS = CorpusOptions()

Progress = Callable[[int, "int | None"], object]


def prepare_corpus(
    sources: str | os.PathLike | Sequence[str | os.PathLike],
    options: CorpusOptions = DEFAULT_OPTIONS,
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
        return temporary_corpus(fill)
    root = cache_directory(cache_dir, "corpora")
    made_from = [CACHE_FORMAT, dataclasses.asdict(options), [(f.path, f.size, f.mtime_ns) for f in files]]
    entry = root / hashlib.sha256(json.dumps(made_from).encode()).hexdigest()[:32]
    try:
        return Corpus.open(entry)
    except FileNotFoundError:
        pass
    except CorpusError as error:
        warnings.warn(f"{error}; making the corpus again", RuntimeWarning, stacklevel=2)
    return cached_corpus(root, fill, lambda _: entry.name)


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
        return temporary_corpus(fill)
    return cached_corpus(cache_directory(cache_dir, "corpora"), fill, digest_of_contents)


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
    meta["checksum"] = checksum(meta)
    (directory / "corpus.json").write_text(json.dumps(meta, indent=1) + "\n", encoding="utf-8")


# --- the cache --------------------------------------------------------------------------------------------------------
