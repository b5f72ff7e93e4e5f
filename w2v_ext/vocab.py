"""Vocabulary: the words of a corpus, their counts and ids, and the two distributions word2vec draws from."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from pathlib import Path

import numpy as np

from .files import write_files

SPECIALS = ("<PAD>", "<SOS>", "<EOS>", "<UNK>")  # ids 0..3 where a vocabulary has them
UNK_ID = SPECIALS.index("<UNK>")


class Vocabulary:
    """Words with their counts; a word's id is its place.

    Args:
        words: V different strings, usually by falling count.
        counts: (V,) integers >= 0; 0 for special tokens.
        num_specials: how many of the first words are special tokens: 0, or 4 for `SPECIALS`.

    Raises:
        ValueError: lengths differ, a count is negative, or `num_specials` does not fit the words.
    """

    def __init__(self, words: Sequence[str], counts: Sequence[int] | np.ndarray, num_specials: int = 0):
        self.words = list(words)
        numbers = np.asarray(counts)
        if numbers.size and numbers.dtype.kind not in "iu":
            raise ValueError(f"counts: expected integers, got {numbers.dtype}")
        self.counts = numbers.astype(np.int64)  # (V,)
        self.num_specials = int(num_specials)
        if self.counts.shape != (len(self.words),):
            raise ValueError(f"counts: expected shape ({len(self.words)},) to match words, got {self.counts.shape}")
        if len(self.words) and self.counts.min() < 0:
            raise ValueError(f"counts: expected numbers >= 0, got {self.counts.min()}")
        if self.num_specials and (self.num_specials != len(SPECIALS) or tuple(self.words[: len(SPECIALS)]) != SPECIALS):
            raise ValueError(
                f"num_specials: expected 0, or {len(SPECIALS)} with words that begin with {SPECIALS}, "
                f"got {num_specials} with {tuple(self.words[: len(SPECIALS)])}"
            )

    @classmethod
    def from_counts(
        cls, mapping: Mapping[str, int], *, min_count: int = 1, max_vocab: int | None = None, specials: bool = False
    ) -> Vocabulary:
        """Make a vocabulary from word counts, sorted by (count descending, UTF-8 bytes ascending).

        Words seen less than `min_count` times are left out, then all but the first `max_vocab` (special tokens do not
        count towards it). With `specials`, ids 0..3 are `SPECIALS`, and a word that equals one of them is left out.

        Raises:
            ValueError: no word is left, or an option makes no sense.
        """
        check_limits(min_count, max_vocab)
        counts = {word: count for word, count in mapping.items() if not (specials and word in SPECIALS)}
        # UTF-8 keeps the order of code points, so comparing strings compares their bytes.
        kept = sorted((word for word, n in counts.items() if n >= min_count), key=lambda word: (-counts[word], word))
        kept = kept[:max_vocab]
        if not kept:
            raise ValueError(no_words_message(min_count, max(counts.values(), default=0)))
        special = list(SPECIALS) if specials else []
        return cls(special + kept, [0] * len(special) + [counts[word] for word in kept], len(special))

    def __len__(self) -> int:
        return len(self.words)

    def __contains__(self, word: object) -> bool:
        return word in self.word_to_id

    def __getitem__(self, word: str) -> int:
        try:
            return self.word_to_id[word]
        except KeyError:
            raise KeyError(f"{word!r} is not in the vocabulary") from None

    def __repr__(self) -> str:
        return f"Vocabulary({len(self)} words, {self.num_specials} special, total count {self.total_count})"

    @cached_property
    def word_to_id(self) -> dict[str, int]:
        """Every word's id; made when first asked for. ValueError if a word stands in the list twice."""
        ids = {word: i for i, word in enumerate(self.words)}
        if len(ids) != len(self.words):
            twice = next(word for i, word in enumerate(self.words) if ids[word] != i)
            raise ValueError(f"words: expected each once, got {twice!r} twice")
        return ids

    @property
    def total_count(self) -> int:
        """The sum of all counts."""
        return int(self.counts.sum())

    def encode(self, tokens: Iterable[str]) -> np.ndarray:
        """Return the (N,) int32 ids of `tokens`; unknown ones become <UNK>, or vanish if there are no specials."""
        lookup = self.word_to_id.get
        if self.num_specials:
            return np.fromiter((lookup(token, UNK_ID) for token in tokens), dtype=np.int32)
        return np.fromiter((i for i in map(lookup, tokens) if i is not None), dtype=np.int32)

    def decode(self, ids: Iterable[int]) -> list[str]:
        """Return the words of `ids`. IndexError for an id outside [0, V)."""
        found = []
        for i in ids:
            if not 0 <= i < len(self.words):
                raise IndexError(f"ids: expected 0 <= id < {len(self.words)}, got {i}")
            found.append(self.words[i])
        return found

    def to_bytes(self) -> bytes:
        r"""Return `word<TAB>count` lines in UTF-8, which `parse` reads.

        Raises:
            ValueError: a word is empty, or contains a tab, a line break, or half of a surrogate pair.
        """
        for word in self.words:
            if not word or "\t" in word or "\n" in word or "\r" in word:
                raise ValueError(f"words: expected text without tab or line break, got {word!r}")
        text = "".join(f"{word}\t{count}\n" for word, count in zip(self.words, self.counts.tolist(), strict=True))
        try:
            return text.encode("utf-8")
        except UnicodeEncodeError as error:
            raise ValueError(f"words: {text[error.start]!r} cannot be written as UTF-8") from None

    def save(self, path: str | os.PathLike) -> None:
        """Write `to_bytes` to a file, which appears whole or not at all. OSError if it cannot be written."""
        write_files({Path(path): lambda target: target.write_bytes(self.to_bytes())})

    @classmethod
    def load(cls, path: str | os.PathLike) -> Vocabulary:
        """Read what `save` wrote. ValueError naming file and line where a line is not word, tab, count."""
        return cls.parse(Path(path).read_bytes(), path)

    @classmethod
    def parse(cls, data: bytes, path: str | os.PathLike) -> Vocabulary:
        """Read the bytes of a vocabulary file; `path` is for messages."""
        words, counts = _parse_clean(data) or _parse_lines(data, path)
        has_specials = tuple(words[: len(SPECIALS)]) == SPECIALS
        return cls(words, np.array(counts, dtype=np.int64), len(SPECIALS) if has_specials else 0)

    def noise_distribution(self, power: float = 0.75) -> np.ndarray:
        """Return the (V,) float64 probabilities that negatives are drawn with: count**power, normalised.

        Special tokens get 0. ValueError if no other word has a count.
        """
        weights = np.zeros(len(self), dtype=np.float64)
        counts = self.counts[self.num_specials :]
        np.power(counts, power, out=weights[self.num_specials :], where=counts > 0, dtype=np.float64)
        total = weights.sum()
        if not (np.isfinite(total) and total > 0):
            raise ValueError(f"power: expected weights with a finite sum > 0, got {total} with power = {power}")
        return weights / total

    def keep_probabilities(self, sample: float) -> np.ndarray:
        """Return the (V,) float64 probabilities of keeping a word under word2vec's subsampling.

        `min(1, (sqrt(f / sample) + 1) * sample / f)` with f = count / total count; `sample = 0` keeps everything.
        """
        if not (np.isfinite(sample) and sample >= 0):
            raise ValueError(f"sample: expected a finite number >= 0, got {sample}")
        keep = np.ones(len(self), dtype=np.float64)
        seen = self.counts > 0
        if sample > 0 and seen.any():
            ratio = sample * self.total_count / self.counts[seen]  # sample / f
            keep[seen] = np.minimum(1.0, np.sqrt(ratio) + ratio)
        return keep


def _parse_clean(data: bytes) -> tuple[list[str], list[int]] | None:
    """Parse a file without fault (three times as fast as line by line); None where anything is unusual."""
    try:
        rows = [line.rpartition("\t") for line in data.decode("utf-8").removesuffix("\n").split("\n")]
    except UnicodeDecodeError:
        return None
    words, numbers = [row[0] for row in rows], [row[2] for row in rows]
    digits = "".join(numbers)
    if not (digits.isascii() and digits.isdigit() and all(numbers) and max(map(len, numbers)) <= 18):
        return None
    if len(set(words)) != len(words) or "\t" in "".join(words) or not all(row[1] for row in rows):
        return None
    return words, list(map(int, numbers))


def _parse_lines(data: bytes, path: str | os.PathLike) -> tuple[list[str], list[int]]:
    """Parse a vocabulary file line by line. ValueError naming the first bad line."""
    lines = data.split(b"\n")
    if lines[-1] == b"":
        lines.pop()
    first_seen: dict[str, int] = {}
    counts = []
    for number, line in enumerate(lines, 1):
        word, tab, count = line.rstrip(b"\r").rpartition(b"\t")
        if not tab or not count.isdigit() or len(count) > 18 or b"\t" in word:
            shown = line[:80].decode("utf-8", "replace")
            raise ValueError(f"{path}: line {number}: expected word, tab, count, got {shown!r}")
        try:
            text = word.decode("utf-8")
        except UnicodeDecodeError as error:
            raise ValueError(f"{path}: line {number}: not UTF-8 at byte {error.start} of the line") from None
        if first_seen.setdefault(text, number) != number:
            raise ValueError(f"{path}: line {number}: {text!r} stands in line {first_seen[text]} already")
        counts.append(int(count))
    return list(first_seen), counts


def check_limits(min_count: int, max_vocab: int | None) -> None:
    """Raise ValueError unless both limits are whole numbers >= 1 (or `max_vocab` None)."""
    if isinstance(min_count, bool) or not isinstance(min_count, int) or min_count < 1:
        raise ValueError(f"min_count: expected a whole number >= 1, got {min_count!r}")
    if max_vocab is not None and (isinstance(max_vocab, bool) or not isinstance(max_vocab, int) or max_vocab < 1):
        raise ValueError(f"max_vocab: expected a whole number >= 1 or None, got {max_vocab!r}")


def no_words_message(min_count: int, largest_count: int) -> str:
    """Say that `min_count` left nothing."""
    return f"min_count: no word is seen {min_count} times; the largest count is {largest_count}"
