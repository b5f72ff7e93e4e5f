"""``python -m w2v_ext.phrases``: text in which words that belong together are one word, new_york.

Two neighbours become a phrase where they stand together more often than their own frequencies explain (Mikolov et al.,
NIPS 2013, section 4). Scores are gensim's or word2phrase's. Counting and joining work on word ids, in C++
(`csrc/text/bigrams.h`).
"""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import tyro

from . import _text
from .command_line import progress_bar, run_command
from .corpus import Corpus, CorpusOptions, prepare_corpus
from .files import cache_directory, write_files
from .reporting import Report

DESCRIPTION = """Join words that belong together: "in new york city" becomes "in new_york city", or "in new_york_city"
with --passes 2. OUT is a text, one line for each line of CORPUS that is not empty; the best phrases are shown."""

SCORINGS = ("default", "word2phrase", "npmi")
THRESHOLDS = {"default": 10.0, "word2phrase": 100.0, "npmi": 0.5}  # gensim's, word2phrase's own, and ours


@dataclass(frozen=True)
class Phrase:
    """Two neighbouring words that became one.

    Attributes:
        text: the new word.
        count: how often the two stood side by side, in the pass that found it.
        score: by the scoring that was asked for.
    """

    text: str
    count: int
    score: float


@dataclass(frozen=True)
class PhraseOptions:
    """What counts as a phrase.

    Attributes:
        threshold: the score must be higher; `THRESHOLDS` has usual ones.
        min_count: "default" and "word2phrase" take it off the count of a pair, so rare ones score low; "npmi" leaves
            rarer ones out.
        scoring: "default": (count(ab) - min_count) / (count(a) count(b)) times the number of distinct words and pairs,
            as gensim; "word2phrase": times the number of all words, as word2vec's program of that name; "npmi":
            ln(p(ab) / (p(a) p(b))) / -ln p(ab), from -1 to 1, probabilities as shares of all words.
        passes: how often to join; each pass can make phrases of twice as many words.
        delimiter: stands between the words of a phrase.

    Raises:
        ValueError: an option out of its range.
    """

    threshold: float = 10.0
    min_count: int = 5
    scoring: str = "default"
    passes: int = 1
    delimiter: str = "_"

    def __post_init__(self) -> None:
        if self.scoring not in SCORINGS:
            raise ValueError(f"scoring: expected one of {', '.join(SCORINGS)}, got {self.scoring!r}")
        number = isinstance(self.threshold, (int, float)) and not isinstance(self.threshold, bool)
        npmi = self.scoring == "npmi"
        if not number or not (-1 <= self.threshold <= 1 if npmi else 0 < self.threshold < np.inf):
            rule = "a number from -1 to 1 with npmi" if npmi else "a number > 0"
            raise ValueError(f"threshold: expected {rule}, got {self.threshold!r}")
        for name, high in (("min_count", 2**62), ("passes", 16)):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= high:
                raise ValueError(f"{name}: expected an integer from 1 to {high}, got {value!r}")
        if not isinstance(self.delimiter, str) or not self.delimiter or any(c.isspace() for c in self.delimiter):
            raise ValueError(f"delimiter: expected characters other than white space, got {self.delimiter!r}")


@dataclass(frozen=True)
class PhrasePass:
    """One pass over a corpus: its words, and which pairs of them become one.

    Attributes:
        words: of the vocabulary, old ones first; joined words that are new stand behind.
        pairs: (N, 3) int64: first word, second word, joined word, as ids.
        phrases: the N phrases, in the order of ``pairs``.
        distinct_pairs: different neighbours in the corpus, rare ones too.
        readings: how often the ids were read to count them; more than one a thread where memory was short.
    """

    words: list[str]
    pairs: np.ndarray
    phrases: list[Phrase]
    distinct_pairs: int
    readings: int

    def join(self, sentence: Sequence[str]) -> list[str]:
        """Join the phrases in a sentence, from left to right."""
        return join_tokens(sentence, self._joined)

    @property
    def _joined(self) -> dict[tuple[str, str], str]:
        return {(self.words[a], self.words[b]): self.words[c] for a, b, c in self.pairs.tolist()}


def join_tokens(sentence: Sequence[str], joined: dict[tuple[str, str], str]) -> list[str]:
    """Put ``joined[a, b]`` in the place of neighbours a, b, from left to right; a word is joined once only."""
    result, i = [], 0
    while i < len(sentence):
        phrase = joined.get((sentence[i], sentence[i + 1])) if i + 1 < len(sentence) else None
        result.append(sentence[i] if phrase is None else phrase)
        i += 1 if phrase is None else 2
    return result


def score_pairs(
    counts: np.ndarray, first: np.ndarray, second: np.ndarray, *, distinct: int, words: int, options: PhraseOptions
) -> np.ndarray:
    """(N,) float64 scores of pairs, as gensim's ``original_scorer`` and ``npmi_scorer`` and word2phrase give them.

    Args:
        counts, first, second: (N,) int64: how often the pair, its first and its second word occur.
        distinct: different words and different pairs in the corpus together.
        words: all words of the corpus.
        options: ``scoring`` and ``min_count``.
    """
    if options.scoring != "npmi":
        scale = distinct if options.scoring == "default" else words
        return (counts - options.min_count) / (first * second).astype(np.float64) * scale
    pair, a, b = counts / float(words), first / float(words), second / float(words)
    with np.errstate(divide="ignore", invalid="ignore"):  # a corpus of one pair only
        scores = np.log(pair / (a * b)) / -np.log(pair)
    return np.where((counts >= options.min_count) & (pair < 1), scores, -np.inf)


def find_phrases(
    ids: np.ndarray,
    words: Sequence[str],
    options: PhraseOptions | None = None,
    *,
    threads: int = 1,
    memory: int = 1 << 30,
    progress: Callable[[int], object] | None = None,
) -> PhrasePass:
    """Find the pairs of neighbouring words that score higher than the threshold; one pass.

    All pairs are counted, exactly. Memory that is short costs further readings of the ids, nothing else.

    Args:
        ids: (N,) int32, sentences of word ids, each closed by -1.
        words: the V words.
        options: the defaults are gensim's.
        threads, memory: for counting; memory in bytes.
        progress: called with the ids read.

    Raises:
        IndexError: an id that is not in the vocabulary.
    """
    options = options or PhraseOptions()
    if memory < 1 << 16:
        raise ValueError(f"memory: expected at least 65,536 bytes, got {memory}")
    found = _text.count_bigrams(
        np.ascontiguousarray(ids, np.int32),
        vocab_size=len(words),
        min_count=options.min_count,
        threads=threads,
        memory=memory,
        progress=progress,
    )
    counts, frequent = found["words"], found["frequent"]
    distinct = int(np.count_nonzero(counts)) + found["distinct"]
    scores = score_pairs(
        frequent[:, 2],
        counts[frequent[:, 0]],
        counts[frequent[:, 1]],
        distinct=distinct,
        words=int(counts.sum()),
        options=options,
    )
    chosen = scores > options.threshold
    frequent, scores = frequent[chosen], scores[chosen]
    all_words = list(words)
    ids_of = {word: i for i, word in enumerate(all_words)}
    joined, phrases = [], []
    for (a, b, count), score in zip(frequent.tolist(), scores.tolist(), strict=True):
        text = f"{all_words[a]}{options.delimiter}{all_words[b]}"
        number = ids_of.setdefault(text, len(all_words))
        if number == len(all_words):
            all_words.append(text)
        joined.append((a, b, number))
        phrases.append(Phrase(text, count, score))
    pairs = np.array(joined, np.int64).reshape(-1, 3)
    return PhrasePass(all_words, pairs, phrases, found["distinct"], found["readings"])


def join_corpus(
    corpus: Corpus,
    out: str | os.PathLike,
    options: PhraseOptions | None = None,
    *,
    threads: int = 1,
    memory: int = 1 << 30,
    directory: str | os.PathLike | None = None,
    on_pass: Callable[[PhrasePass], object] | None = None,
    progress: Callable[[int, int | None], object] | None = None,
) -> list[Phrase]:
    """Write a corpus as text with its phrases joined.

    Args:
        corpus: from `prepare_corpus` with ``min_count=1``: what is left out of its vocabulary is left out of the text.
        out: the text file; it appears whole or not at all.
        options: what counts as a phrase, and how many passes.
        threads, memory: as in `find_phrases`.
        directory: for the ids of each pass, 4 bytes a word (default: the system's temporary folder).
        on_pass: called with each pass once it is counted.
        progress: called with (ids read, ids in all) of the step at work.

    Returns:
        The phrases of all passes, best first.
    """
    options = options or PhraseOptions()
    folder = Path(tempfile.mkdtemp(prefix="w2v_ext-phrases-", dir=directory))
    found: list[Phrase] = []
    try:
        ids, words = corpus.ids, list(corpus.vocab.words)
        for number in range(options.passes):
            report = _of_all(progress, len(ids))
            one = find_phrases(ids, words, options, threads=threads, memory=memory, progress=report)
            if on_pass is not None:
                on_pass(one)
            found += one.phrases
            if not one.phrases:
                break
            path = folder / f"ids-{number}"
            _text.join_bigrams(ids, vocab_size=len(words), pairs=one.pairs, path=str(path), progress=report)
            ids, words = np.memmap(path, dtype="<i4", mode="r"), one.words
            (folder / f"ids-{number - 1}").unlink(missing_ok=True)
        report = _of_all(progress, len(ids))
        write_files({Path(out): lambda target: _text.write_lines(ids, words=words, path=str(target), progress=report)})
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return sorted(found, key=lambda phrase: (-phrase.score, phrase.text))


def _of_all(progress: Callable[[int, int | None], object] | None, total: int) -> Callable[[int], object] | None:
    return None if progress is None else lambda done: progress(done, total)


def _threads(threads: int) -> int:
    return threads or (len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1)


# --- the command ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class CommandLine:
    """What the command takes."""

    corpus: tuple[str, ...]
    """Text files (plain, .gz, .xz, .zst), directories, or - for standard input."""
    out: str
    """Text file to write, plain."""
    threshold: float | None = None
    """A pair must score higher (default: 10, with word2phrase 100, with npmi 0.5)."""
    min_count: int = 5
    """Taken off the count of a pair (default, word2phrase), or the least count (npmi)."""
    scoring: Literal["default", "word2phrase", "npmi"] = "default"
    """word2vec's score scaled as gensim does, or as word2vec's own word2phrase, or normalised pointwise mutual
    information."""
    passes: int = 1
    """How often to join: 2 finds phrases of up to four words."""
    delimiter: str = "_"
    """Between the words of a phrase."""
    table: str | None = None
    """File to write all phrases to: phrase, tab, count, tab, score."""
    top: int = 20
    """How many of the best phrases to show."""
    tokenizer: Literal["whitespace", "word", "char"] = "whitespace"
    """How lines are cut into words; OUT has the words with one blank between."""
    lowercase: bool = False
    """Lower-case the text."""
    errors: Literal["strict", "replace"] = "strict"
    """On bytes that are not UTF-8, or tokens beyond 64 KiB: stop, or replace and go on."""
    memory: Annotated[float, tyro.conf.arg(metavar="GIB")] = 1.0
    """GiB for counting; less reads the words more often."""
    threads: int = 0
    """Threads; 0 takes all cores."""
    cache_dir: str | None = None
    """Where encoded corpora are kept (default: $W2V_EXT_CACHE or ~/.cache/w2v_ext)."""
    force: bool = False
    """Overwrite OUT."""


def run(line: CommandLine) -> None:
    """Find phrases and write the text, as the command line does."""
    threshold = THRESHOLDS[line.scoring] if line.threshold is None else line.threshold
    options = PhraseOptions(threshold, line.min_count, line.scoring, line.passes, line.delimiter)
    if not 0 <= line.threads <= 1024:
        raise ValueError(f"threads: expected an integer from 0 to 1024, got {line.threads}")
    if not 2**-10 <= line.memory <= 2**30:
        raise ValueError(f"memory: expected GiB from 0.001 on, got {line.memory}")
    if not line.corpus:
        raise ValueError("corpus: expected at least one path after --corpus, got none")
    targets = [Path(line.out), *([Path(line.table)] if line.table else [])]
    for target in targets:
        _check_target(target, line)
    threads = line.threads or (
        len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    )
    corpus_options = CorpusOptions(line.tokenizer, line.lowercase, min_count=1, errors=line.errors)
    started = time.perf_counter()
    with progress_bar("reading", "B") as progress:
        corpus = prepare_corpus(
            line.corpus, corpus_options, cache_dir=line.cache_dir, threads=min(threads, 16), progress=progress
        )
    seconds = time.perf_counter() - started
    report = Report(sys.stdout)  # the text is not written yet
    report.line(f"corpus: {corpus.num_tokens:,} words, {len(corpus.vocab):,} distinct, ready in {seconds:.2f} s")
    folder = cache_directory(line.cache_dir, "phrases")
    folder.mkdir(parents=True, exist_ok=True)
    started = time.perf_counter()
    with corpus, progress_bar("joining", " words") as progress:
        phrases = join_corpus(
            corpus,
            line.out,
            options,
            threads=threads,
            memory=int(line.memory * 2**30),
            directory=folder,
            on_pass=lambda one: report.line(f"{len(one.phrases):,} phrases of {one.distinct_pairs:,} pairs of words"),
            progress=progress,
        )
    if line.table:
        write_files({Path(line.table): lambda target: _write_table(target, phrases)})
    for phrase in phrases[: line.top]:
        print(f"  {phrase.score:12,.4g}  {phrase.count:9,}  {phrase.text}")
    print(f"joined in {time.perf_counter() - started:.2f} s; saved to {line.out}")


def _check_target(target: Path, line: CommandLine) -> None:
    name = "out" if target == Path(line.out) else "table"
    if str(target) == "-":
        raise ValueError(f"{name}: expected the name of a file, got '-'; what is reported goes to standard output")
    if target.is_dir():
        raise ValueError(f"{name}: {target} is a directory")
    if target.exists() and any(source != "-" and target.samefile(source) for source in line.corpus):
        raise ValueError(f"{name}: {target} is what is read")
    if target.exists() and not line.force:
        raise ValueError(f"{name}: {target} is there already; --force overwrites it")
    if not target.parent.is_dir():
        raise FileNotFoundError(f"{name}: no such directory: {target.parent}")


def _write_table(target: Path, phrases: Sequence[Phrase]) -> None:
    with open(target, "w", encoding="utf-8", newline="\n") as file:
        file.writelines(_table_lines(phrases))


def _table_lines(phrases: Sequence[Phrase]) -> Iterator[str]:
    for phrase in phrases:
        yield f"{phrase.text}\t{phrase.count}\t{phrase.score!r}\n"


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; gives its exit status: 0, 2 for bad input, 130 when interrupted."""
    line = tyro.cli(
        tyro.conf.FlagCreatePairsOff[CommandLine],
        args=arguments,
        prog="python -m w2v_ext.phrases",
        description=DESCRIPTION,
    )
    return run_command(lambda: run(line))


if __name__ == "__main__":
    sys.exit(main())
