"""Word vectors against people's judgments: similar pairs and analogies, by gensim's definitions, all at once.

Words of a test set are looked up among the first `restrict_vocab` words. With `case_insensitive`, both sides are
compared in upper case, and of several words that become one, the first (the most frequent one) stands for them.
"""

from __future__ import annotations

import io
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from .correlation import Correlation, interval, pearson, spearman
from .keyedvectors import KeyedVectors
from .nearest import as_device, unit_rows
from .sources import list_files, open_source, read_chunks

PathLike = str | os.PathLike[str]
Question = tuple[str, str, str, str]
_LOOKED_AT = 5  # of an analogy's answers: gensim looks no further for one that is not a word of the question


@dataclass(frozen=True)
class WordPairs:
    """How the similarities of word pairs agree with people's scores.

    Attributes:
        name: the file.
        pearson, spearman: coefficient and two-sided p-value.
        pearson_interval, spearman_interval: 95 % confidence intervals by Fisher's transformation; `correlation`.
        pairs: how many pairs were compared.
        oov: how many pairs have a word that is not in the vocabulary.
        oov_percent: the same in percent of the pairs in the file.
    """

    name: str
    pearson: Correlation
    spearman: Correlation
    pearson_interval: tuple[float, float]
    spearman_interval: tuple[float, float]
    pairs: int
    oov: int
    oov_percent: float


@dataclass
class Section:
    """The analogy questions of one section, answered: those that came out right, and the others."""

    name: str
    correct: list[Question] = field(default_factory=list)
    incorrect: list[Question] = field(default_factory=list)
    oov: int = 0

    @property
    def accuracy(self) -> float:
        """The part of the answered questions that came out right; 0 where there are none."""
        answered = len(self.correct) + len(self.incorrect)
        return len(self.correct) / answered if answered else 0.0


@dataclass(frozen=True)
class WordAnalogies:
    """The answers to a file of analogy questions.

    Attributes:
        name: the file.
        sections: in the order of the file.
        total: all of them as one, "Total accuracy".
        accuracy: that of `total`.
        oov: questions with a word that is not in the vocabulary.
        oov_percent: the same in percent of the questions in the file.
    """

    name: str
    sections: tuple[Section, ...]
    total: Section
    accuracy: float
    oov: int
    oov_percent: float


def evaluate_word_pairs(
    vectors: KeyedVectors,
    pairs: PathLike,
    *,
    delimiter: str = "\t",
    encoding: str = "utf8",
    restrict_vocab: int | None = 300_000,
    case_insensitive: bool = True,
    dummy4unknown: bool = False,
) -> WordPairs:
    """Compare cosine similarities with the scores in a file, as gensim's `evaluate_word_pairs` does.

    Args:
        vectors: the words.
        pairs: lines `word<delimiter>word<delimiter>number`; lines that begin with # and any others are passed over.
            Plain, gzip, xz or zstd.
        delimiter: between the columns.
        encoding: of the file.
        restrict_vocab: take only the first so many words for known; None: all.
        case_insensitive: see the module.
        dummy4unknown: count pairs with an unknown word as similarity 0, instead of leaving them out.

    Raises:
        ValueError: fewer than two pairs are left to compare.
        OSError: the file cannot be read.
    """
    known = _known_words(vectors, restrict_vocab, case_insensitive)
    people: list[float] = []
    rows: list[tuple[int, int]] = []
    oov = 0
    for line in _lines(pairs, encoding):
        fields = (line.upper() if case_insensitive else line).split(delimiter)
        if line.startswith("#") or len(fields) != 3:
            continue
        try:
            score = float(fields[2])
        except ValueError:
            continue
        found = known.get(fields[0], -1), known.get(fields[1], -1)
        if min(found) < 0:
            oov += 1
            if not dummy4unknown:
                continue
        people.append(score)
        rows.append(found)
    if len(people) < 2:
        raise ValueError(f"{pairs}: expected at least two pairs of known words and a number, got {len(people)}")
    left, right = np.array(rows).T
    one, other = (vectors.vectors[side].astype(np.float64) for side in (left, right))
    lengths = np.linalg.norm(one, axis=1) * np.linalg.norm(other, axis=1)
    model = (one * other).sum(axis=1) / np.where(lengths > 0, lengths, 1)
    model[np.minimum(left, right) < 0] = 0
    model = model.round(12)  # of words with themselves it is 1, not 1 - 1e-16 for some: ranks would differ
    of_values, of_ranks = pearson(people, model), spearman(people, model)
    n = len(people)
    return WordPairs(
        name=os.fspath(pairs),
        pearson=of_values,
        spearman=of_ranks,
        pearson_interval=interval(of_values.statistic, n),
        spearman_interval=interval(of_ranks.statistic, n, of_ranks=True),
        pairs=n,
        oov=oov,
        oov_percent=100 * oov / (n if dummy4unknown else n + oov),
    )


def evaluate_word_analogies(
    vectors: KeyedVectors,
    analogies: PathLike,
    *,
    restrict_vocab: int | None = 300_000,
    case_insensitive: bool = True,
    dummy4unknown: bool = False,
    similarity_function: str = "most_similar",
    device: str | torch.device = "cpu",
) -> WordAnalogies:
    """Answer the questions "a is to b as c is to ?" of a file, as gensim's `evaluate_word_analogies` does.

    The answer is the first of the five words nearest to b - a + c that is not a, b or c; right if it is the fourth word
    of the line. All questions are answered together, in matrix products.

    Args:
        vectors: the words.
        analogies: lines of four words, in sections that begin with a line `: name`; other lines are passed over.
        restrict_vocab: look only at the first so many words, for questions and answers; None: all.
        case_insensitive: see the module.
        dummy4unknown: count questions with an unknown word as wrong, instead of leaving them out.
        similarity_function: "most_similar", or "most_similar_cosmul" for 3CosMul (gensim's own takes the name, and
            answers by `most_similar` all the same).
        device: where the products are computed.

    Raises:
        ValueError: a question stands before the first section, there are no questions, or a bad option.
        OSError: the file cannot be read.
    """
    methods = {"most_similar": _answers_by_sum, "most_similar_cosmul": _answers_by_product}
    if similarity_function not in methods:
        raise ValueError(f"similarity_function: expected one of {', '.join(methods)}, got {similarity_function!r}")
    known = _known_words(vectors, restrict_vocab, case_insensitive)
    sections: list[Section] = []
    asked: list[tuple[Section, Question, list[int] | None]] = []
    for number, line in enumerate(_lines(analogies, "utf8"), 1):
        if line.startswith(": "):
            sections.append(Section(line.lstrip(": ").strip()))
            continue
        words = tuple((line.upper() if case_insensitive else line).split())
        if not sections and words:
            raise ValueError(f"{analogies}: line {number}: expected a section (': name') before the first question")
        if len(words) != 4:
            continue
        rows = [known.get(word, -1) for word in words]
        if min(rows) < 0:
            sections[-1].oov += 1
        asked.append((sections[-1], words, rows[:3] if min(rows) >= 0 else None))
    if not asked:
        raise ValueError(f"{analogies}: expected questions of four words, got none")
    questions = np.array([rows for _, _, rows in asked if rows], dtype=np.int64).reshape(-1, 3)
    answers = iter(methods[similarity_function](vectors, questions, restrict_vocab, device) if len(questions) else ())
    for section, words, rows in asked:
        guess = None
        for row in next(answers).tolist() if rows else ():
            if row < 0:
                break
            guess = vectors.index_to_key[row]
            guess = guess.upper() if case_insensitive else guess
            if guess not in words[:3]:
                break
        if guess == words[3]:
            section.correct.append(words)
        elif rows or dummy4unknown:
            section.incorrect.append(words)
    total = Section(
        "Total accuracy",
        [question for section in sections for question in section.correct],
        [question for section in sections for question in section.incorrect],
        sum(section.oov for section in sections),
    )
    return WordAnalogies(
        os.fspath(analogies), tuple(sections), total, total.accuracy, total.oov, 100 * total.oov / len(asked)
    )


def _answers_by_sum(vectors: KeyedVectors, rows: np.ndarray, limit: int | None, device: Any) -> np.ndarray:
    """Return the rows (n, 5) nearest to b - a + c at length 1, for questions a, b, c (n, 3)."""
    distinct, place = np.unique(rows, return_inverse=True)
    units = vectors.vectors[distinct].astype(np.float64)
    norms = np.linalg.norm(units, axis=1, keepdims=True)
    units /= np.where(norms > 0, norms, 1)
    a, b, c = np.moveaxis(place.reshape(rows.shape), 1, 0)
    return vectors.nearest_rows(units[b] + units[c] - units[a], _LOOKED_AT, 0, limit, exclude=rows, device=device)[0]


def _answers_by_product(vectors: KeyedVectors, rows: np.ndarray, limit: int | None, device: Any) -> np.ndarray:
    """Return the rows (n, 5) with the highest 3CosMul, in float32, for questions a, b, c (n, 3)."""
    device = as_device(device)
    units = unit_rows(vectors.vectors[:limit], vectors.norms[:limit], device)
    answers = []
    for part in torch.from_numpy(rows).to(device).split(256):
        a, b, c = ((1 + units[part[:, i]] @ units.T) / 2 for i in range(3))  # (256, V) each
        scores = b.mul_(c).div_(a.add_(1e-6)).scatter_(1, part, -torch.inf)
        best = scores.topk(min(_LOOKED_AT, scores.shape[1]))
        answers.append(torch.where(best.values > -torch.inf, best.indices, -1).cpu().numpy())
    return np.concatenate(answers)


def _known_words(vectors: KeyedVectors, restrict_vocab: int | None, case_insensitive: bool) -> dict[str, int]:
    if restrict_vocab is not None and restrict_vocab < 1:
        raise ValueError(f"restrict_vocab: expected None or a positive number, got {restrict_vocab}")
    words = vectors.index_to_key[:restrict_vocab]
    spelt = [str(word).upper() for word in words] if case_insensitive else words
    return {word: row for row, word in zip(range(len(words) - 1, -1, -1), reversed(spelt), strict=True)}


def _lines(path: PathLike, encoding: str) -> Iterator[str]:
    """Yield the lines of a text file, plain or compressed. OSError, or ValueError where it is not `encoding`."""
    (file,) = list_files(path)
    with open_source(file) as (raw, head):
        data = b"".join(bytes(chunk) for chunk in read_chunks(file, raw, head, lambda done: None))
    try:
        yield from io.StringIO(data.decode(encoding), newline=None)
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: not {encoding} at byte {error.start}") from error
