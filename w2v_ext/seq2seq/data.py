"""Pairs of sentences as numbers, and batches of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from ..vocab import Vocabulary
from .encoder import EOS_ID, PAD_ID, SOS_ID

_ROWS = 8  # batches hold a multiple of it: oneDNN builds kernels anew for every shape, and tensor cores like it


@dataclass(frozen=True)
class Sequences:
    """Many sequences of word ids in two arrays.

    Attributes:
        ids: (N,) int32, one sequence after the other.
        offsets: (n + 1,) int64: sequence i is ``ids[offsets[i] : offsets[i + 1]]``.
    """

    ids: np.ndarray
    offsets: np.ndarray

    @classmethod
    def from_lists(cls, sequences: Sequence[np.ndarray]) -> Sequences:
        """Join arrays of ids."""
        offsets = np.zeros(len(sequences) + 1, np.int64)
        np.cumsum([len(s) for s in sequences], out=offsets[1:])
        return cls(np.concatenate([np.zeros(0, np.int32), *sequences]).astype(np.int32), offsets)

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __getitem__(self, i: int) -> np.ndarray:
        return self.ids[self.offsets[i] : self.offsets[i + 1]]

    @property
    def lengths(self) -> np.ndarray:
        """(n,) int64."""
        return np.diff(self.offsets)


@dataclass(frozen=True)
class Skipped:
    """Pairs that were left out, and the line of the first of each kind."""

    empty: int = 0
    too_long: int = 0
    first_empty: int | None = None
    first_too_long: int | None = None

    def __str__(self) -> str:
        parts = []
        for count, what, first in (
            (self.empty, "with an empty side", self.first_empty),
            (self.too_long, "too long", self.first_too_long),
        ):
            if count:
                parts.append(f"{count:,} {what} (first: line {first:,})")
        return "; ".join(parts)


@dataclass(frozen=True)
class Pairs:
    """Encoded pairs.

    Attributes:
        src: words and <EOS>.
        tgt: words, without <SOS> and <EOS>.
        skipped: what was left out.
        rows: the lines that they are of, counted from 0.
        unknown: share of <UNK> among the words of source and target.
    """

    src: Sequences
    tgt: Sequences
    skipped: Skipped
    rows: np.ndarray
    unknown: tuple[float, float] = field(default=(0.0, 0.0))

    def __len__(self) -> int:
        return len(self.src)


def encode_pairs(
    src: Sequence[Sequence[str]],
    tgt: Sequence[Sequence[str]],
    src_vocab: Vocabulary,
    tgt_vocab: Vocabulary,
    *,
    max_len: int | None = None,
    name: str = "pairs",
) -> Pairs:
    """Turn tokens into numbers; pairs with an empty side, or one above `max_len` tokens, are left out and counted.

    Raises:
        ValueError: no pair is left; the message says why.
    """
    kept, empty, too_long = [], [], []
    for row, (a, b) in enumerate(zip(src, tgt, strict=True)):
        if not a or not b:
            empty.append(row + 1)
        elif max_len is not None and max(len(a), len(b)) > max_len:
            too_long.append(row + 1)
        else:
            kept.append(row)
    skipped = Skipped(len(empty), len(too_long), *(some[0] if some else None for some in (empty, too_long)))
    if not kept:
        limit = "" if max_len is None else f"; max_len is {max_len} tokens"
        why = f"{skipped}{limit}" if len(src) else "there are no lines"
        raise ValueError(f"{name}: expected at least one pair to use, got none: {why}")
    ends = np.array([EOS_ID], np.int32)
    source = [np.concatenate([src_vocab.encode(src[row]), ends]) for row in kept]
    target = [tgt_vocab.encode(tgt[row]) for row in kept]
    unknown = tuple(float(np.mean(np.concatenate(side) == 3)) for side in (source, target))
    return Pairs(Sequences.from_lists(source), Sequences.from_lists(target), skipped, np.array(kept), unknown)


def count_tokens(lines: Sequence[Sequence[str]]) -> dict[str, int]:
    """How often each token occurs."""
    counts: dict[str, int] = {}
    for line in lines:
        for token in line:
            counts[token] = counts.get(token, 0) + 1
    return counts


@dataclass(frozen=True)
class Batch:
    """What the model is given.

    Attributes:
        src: (B, S) int64, <EOS> at the end, padded with 0.
        src_lengths: (B,) int64 on the CPU.
        tgt_in: (B, T) int64: <SOS> and the words.
        tgt_out: (B, T) int64: the words and <EOS>.
        num_tokens: targets that count: words and <EOS>, without padding.
    """

    src: Tensor
    src_lengths: Tensor
    tgt_in: Tensor
    tgt_out: Tensor
    num_tokens: int

    def to(self, device: torch.device | str) -> Batch:
        """The same on a device; lengths stay on the CPU."""
        move = lambda x: x.to(device, non_blocking=True)  # noqa: E731
        return Batch(move(self.src), self.src_lengths, move(self.tgt_in), move(self.tgt_out), self.num_tokens)


def pad_sequences(sequences: Sequence[np.ndarray]) -> tuple[Tensor, Tensor]:
    """Pad to the longest: (B, T) int64 with 0 behind, and the lengths (B,)."""
    lengths = torch.tensor([len(s) for s in sequences], dtype=torch.int64)
    padded = np.full((len(sequences), max(map(len, sequences), default=0)), PAD_ID, np.int64)
    for row, sequence in enumerate(sequences):
        padded[row, : len(sequence)] = sequence
    return torch.from_numpy(padded), lengths


def make_batch(pairs: Pairs, rows: Sequence[int]) -> Batch:
    """The pairs of these rows as tensors."""
    src, lengths = pad_sequences([pairs.src[row] for row in rows])
    targets = [pairs.tgt[row] for row in rows]
    tgt_in, _ = pad_sequences([np.concatenate([[SOS_ID], words]) for words in targets])
    tgt_out, sizes = pad_sequences([np.concatenate([words, [EOS_ID]]) for words in targets])
    return Batch(src, lengths, tgt_in, tgt_out, int(sizes.sum()))


def make_batches(
    src_lengths: np.ndarray, tgt_lengths: np.ndarray, batch_tokens: int, seed: tuple[int, ...] | None = None
) -> list[np.ndarray]:
    """Put pairs of like length together.

    A batch holds as many pairs as fit: rows x the longer of its longest source and longest target is at most
    `batch_tokens`, padding included; a pair that is longer by itself is a batch of its own. With a seed, which pairs
    meet and the order of the batches are drawn anew; without one both follow from the lengths.

    Args:
        src_lengths, tgt_lengths: (n,) tokens of each pair.
        batch_tokens: at least 1.
        seed: such as (seed, epoch): the same seed gives the same batches.

    Returns:
        Rows of each batch; every row stands in one of them.
    """
    if batch_tokens < 1:
        raise ValueError(f"batch_tokens: expected an integer >= 1, got {batch_tokens}")
    key = np.maximum(src_lengths, tgt_lengths).astype(np.float64)
    rng = None
    if seed is not None:
        rng = np.random.default_rng(seed)
        key += rng.uniform(0, 1 + key / 8)  # neighbours differ from epoch to epoch
    order = np.lexsort((src_lengths, key))
    longest = np.maximum(src_lengths, tgt_lengths)[order].tolist()
    batches, start = [], 0
    while start < len(longest):
        end, widest = start, 0
        while end < len(longest) and (end + 1 - start) * max(widest, longest[end]) <= batch_tokens:
            widest = max(widest, longest[end])
            end += 1
        size = max(end - start, 1)
        if size > _ROWS and end < len(longest):
            size -= size % _ROWS
        batches.append(order[start : start + size])
        start += size
    if rng is not None:
        batches = [batches[i] for i in rng.permutation(len(batches))]
    return batches
