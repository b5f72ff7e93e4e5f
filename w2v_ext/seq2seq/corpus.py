"""From the files that the settings name to encoded training and validation pairs."""

from __future__ import annotations

import zlib
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from ..vocab import Vocabulary
from .config import Seq2SeqConfig
from .data import Pairs, count_tokens, encode_pairs
from .example import PAIRS
from .files import TextFiles
from .lines import read_parallel, read_tsv
from .tokenizers import check_tokenizer, train_tokenizer


@dataclass(frozen=True)
class TrainingText:
    """All that training needs of the text.

    Attributes:
        train: encoded pairs.
        valid: encoded pairs, or None.
        valid_lines: source and target lines of `valid` as they were read, for BLEU.
        files: tokenizers and vocabularies.
    """

    train: Pairs
    valid: Pairs | None
    valid_lines: tuple[list[str], list[str]]
    files: TextFiles

    def checksum(self) -> int:
        """A number that tells these training pairs from others."""
        return zlib.crc32(self.train.tgt.ids, zlib.crc32(self.train.src.ids))


def read_pairs(config: Seq2SeqConfig, valid: bool = False) -> tuple[list[str], list[str]] | None:
    """The lines of training or validation text; None where no validation text is named."""
    src, tgt, tsv = (
        (config.valid_src, config.valid_tgt, config.valid_tsv) if valid else (config.src, config.tgt, config.tsv)
    )
    if tsv is not None:
        return read_tsv(tsv, config.columns)
    if src is not None and tgt is not None:
        return read_parallel(src, tgt)
    if config.is_builtin:
        return [pair[0] for pair in PAIRS], [pair[1] for pair in PAIRS]
    return None


def prepare_text(
    config: Seq2SeqConfig, files: TextFiles | None = None, report: Callable[[str], None] = lambda line: None
) -> TrainingText:
    """Read, tokenize and encode what the settings name.

    Args:
        config: the settings.
        files: tokenizers and vocabularies of an earlier run, which then are not made anew.
        report: is told what was read and what was left out, a line at a time.

    Raises:
        ValueError, OSError, ImportError: text or tokenizer that cannot be used.
    """
    for name in ("tokenizer", "tgt_tokenizer"):
        if getattr(config, name) is not None:
            check_tokenizer(getattr(config, name), name)
    src, tgt = read_pairs(config)
    for name, lines in (("source", src), ("target", tgt)):
        if not any(line.strip() for line in lines):
            raise ValueError(f"training text: expected words in the {name}, got only empty lines")
    valid = read_pairs(config, valid=True)
    if files is None:
        files = _make_files(config, src, tgt)
        a, b = files.src_tokenizer.encode_all(src), files.tgt_tokenizer.encode_all(tgt)
        files = _make_vocabularies(config, files, a, b)
    else:
        a, b = files.src_tokenizer.encode_all(src), files.tgt_tokenizer.encode_all(tgt)
    train = encode_pairs(a, b, files.src_vocab, files.tgt_vocab, max_len=config.max_len, name="training text")
    report(_describe("training", train, files))
    valid_pairs, valid_lines = None, ([], [])
    if valid is not None:
        a, b = (t.encode_all(lines) for t, lines in zip((files.src_tokenizer, files.tgt_tokenizer), valid, strict=True))
        valid_pairs = encode_pairs(a, b, files.src_vocab, files.tgt_vocab, name="validation text")
        valid_lines = tuple([side[row] for row in valid_pairs.rows] for side in valid)
        if not config.is_builtin:
            report(_describe("validation", valid_pairs, files))
    return TrainingText(train, valid_pairs, valid_lines, files)


def _describe(name: str, pairs: Pairs, files: TextFiles) -> str:
    sides = " and ".join(
        f"{side.lengths.sum():,} tokens ({len(vocab):,} distinct known, {unknown:.2%} <UNK>)"
        for side, vocab, unknown in zip(
            (pairs.src, pairs.tgt), (files.src_vocab, files.tgt_vocab), pairs.unknown, strict=True
        )
    )
    skipped = f"; left out: {pairs.skipped}" if str(pairs.skipped) else ""
    return f"{name}: {len(pairs):,} pairs, {sides}{skipped}"


def _make_files(config: Seq2SeqConfig, src: list[str], tgt: list[str]) -> TextFiles:
    """Tokenizers, still without vocabularies."""
    options = {"lowercase": config.lowercase, "subword_vocab": config.subword_vocab}
    nothing = Vocabulary([], np.zeros(0, np.int64))
    if config.joint:
        both = train_tokenizer(config.tokenizer, [*src, *tgt], **options)
        return TextFiles(both, both, nothing, nothing)
    return TextFiles(
        train_tokenizer(config.tokenizer, src, **options),
        train_tokenizer(config.tgt_tokenizer or config.tokenizer, tgt, **options),
        nothing,
        nothing,
    )


def _make_vocabularies(
    config: Seq2SeqConfig, files: TextFiles, src: list[list[str]], tgt: list[list[str]]
) -> TextFiles:
    counts = [count_tokens(side) for side in (src, tgt)]
    if config.joint:
        for word, count in counts[1].items():
            counts[0][word] = counts[0].get(word, 0) + count
        counts[1] = counts[0]
    limits = {"min_count": config.min_count, "max_vocab": config.max_vocab, "specials": True}
    vocabs = [Vocabulary.from_counts(side, **limits) for side in counts]
    return TextFiles(files.src_tokenizer, files.tgt_tokenizer, *vocabs)
