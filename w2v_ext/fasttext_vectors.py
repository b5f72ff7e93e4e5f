"""Word vectors of a model with n-grams: words that were never seen have vectors too."""

from __future__ import annotations

import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from . import model_files
from .files import FormatError
from .formats import fasttext
from .formats.fasttext_write import write_fasttext_bin
from .formats.streams import open_chunks
from .keyedvectors import KeyedVectors, PathLike
from .queries import Key, unit
from .subwords import TENSORS, SubwordSettings, SubwordTable

_HEADER_BYTES = 56  # magic number, version, twelve settings; two of them are minn and maxn


class FastTextVectors(KeyedVectors):
    """`KeyedVectors` that make vectors of unseen words from their n-grams, as fastText and gensim do.

    ``word in vectors`` is true of every word that has n-grams; ``has_index_for`` tells whether it was seen.

    Attributes:
        subwords: the rows of words and n-grams.
        config: the settings that the model was trained with, as far as they are known.
        out_weight: (V, D) the output vectors, or None where they are not known. `save_fasttext_bin` writes them.
        header: settings of the fastText file that it was read from, under fastText's names; empty where there was none.
    """

    def __init__(
        self,
        words: list[str],
        vectors: np.ndarray,
        counts: np.ndarray | None = None,
        *,
        subwords: SubwordTable,
        config: dict[str, Any] | None = None,
        out_weight: np.ndarray | None = None,
        header: Mapping[str, int | float | str] | None = None,
    ) -> None:
        """Take over words, their vectors and the rows of their n-grams.

        Raises:
            ValueError: shapes that do not match, or a word that comes twice.
        """
        super().__init__(words, vectors, counts)
        if subwords.num_words != len(words) or subwords.weight.shape[1] != self.vector_size:
            raise ValueError(
                f"subwords: expected those of {len(words)} words x {self.vector_size}, got {subwords.num_words} words "
                f"x {subwords.weight.shape[1]}"
            )
        self.subwords, self.config, self.out_weight = subwords, dict(config or {}), out_weight
        self.header = dict(header or {})

    def __repr__(self) -> str:
        s = self.subwords.settings
        return f"FastTextVectors({len(self)} words, dim {self.vector_size}, n-grams of {s.min_n} to {s.max_n})"

    def __contains__(self, key: object) -> bool:
        return self.has_index_for(key) or (isinstance(key, str) and self.subwords.has_ngrams(key))

    def get_vector(self, key: Key, norm: bool = False) -> np.ndarray:
        """Return the vector (D,) float32 of a word, read-only; of an unseen one, the mean of its n-grams.

        A word too short to have n-grams has a zero vector, as in fastText.

        Raises:
            KeyError: a row number that there is not.
        """
        if not isinstance(key, str) or self.has_index_for(key):
            return super().get_vector(key, norm)
        (vector,) = self.subwords.vectors([key])
        if norm:
            vector = unit(vector).astype(np.float32)
        vector.flags.writeable = False
        return vector

    # ---- files ---------------------------------------------------------------------------------------------------

    @classmethod
    def load(cls, path: PathLike, format: str | None = None, **options: Any) -> FastTextVectors:
        """Load a model directory with n-grams, or fastText's .bin.

        Args:
            path: the directory or file.
            format: ``model`` or ``fasttext-bin``; None tells it by what is there.
            options: none; `KeyedVectors.load` has some, for the words alone.

        Raises:
            FormatError: the model has no n-grams, is supervised or quantised, or a file is missing or damaged.
            OSError: the file cannot be read.
        """
        if options:
            raise ValueError(f"{next(iter(options))}: not an option where n-grams are loaded")
        is_bin = not Path(path).is_dir() if format is None else format == "fasttext-bin"
        return cls._load_bin(Path(path)) if is_bin else cls._load_model(Path(path))

    @classmethod
    def _load_bin(cls, path: Path) -> FastTextVectors:
        model = fasttext.load_fasttext_bin(path, supervised=False)
        kind, settings = model.settings["model"], model.settings
        if settings["maxn"] == 0:
            raise FormatError(f"{path}: a model without n-grams (maxn is 0); KeyedVectors.load reads it")
        size, buckets = len(model.words), int(settings["bucket"])
        try:
            # fastText begins with one character where minn is 0.
            lengths = SubwordSettings(max(1, int(settings["minn"])), int(settings["maxn"]), buckets)
        except ValueError as error:  # fastText itself makes no such model
            raise FormatError(f"{path}: {error}") from None
        table = SubwordTable(
            lengths,
            size,
            model.in_weight,
            np.arange(buckets, dtype=np.int32),
            np.arange(size, size + buckets, dtype=np.int32),
        )
        config = {"model": "fasttext-cbow" if kind == "cbow" else "fasttext"}
        names = {"window": "ws", "epochs": "epoch", "min_count": "min_count", "negative": "neg", "sample": "t"}
        names["loss"] = "loss"
        config |= {ours: settings[theirs] for ours, theirs in names.items()}
        out = model.out_weight if len(model.out_weight) == size else None
        vectors, header = model.word_vectors(), {**settings, "num_tokens": model.num_tokens}
        return cls(model.words, vectors, model.counts, subwords=table, config=config, out_weight=out, header=header)

    @classmethod
    def _load_model(cls, path: Path) -> FastTextVectors:
        model = model_files.load_model(path, TENSORS)
        missing = [name for name in TENSORS if name not in model.extra]
        if missing:
            raise FormatError(f"{path / 'model.safetensors'}: has no tensor {missing[0]}: a model without n-grams")
        weight, buckets, rows = (model.extra[name].numpy() for name in TENSORS)
        try:
            settings = SubwordSettings(*(model.config[name] for name in ("min_n", "max_n", "buckets")))
            table = SubwordTable(settings, len(model.words), weight.astype(np.float32, copy=False), buckets, rows)
            out = None if model.out_weight is None else model.out_weight.float().numpy()
            vectors = model.in_weight.float().numpy()
            return cls(model.words, vectors, model.counts, subwords=table, config=model.config, out_weight=out)
        except (KeyError, ValueError) as error:
            raise FormatError(f"{path}: the n-grams do not fit the model: {error}") from error

    def save(self, directory: PathLike) -> None:
        """Save as a model directory, with n-grams, which `load` and `KeyedVectors.load` read.

        Raises:
            ValueError: words were added, which have no rows of their own; or a word that no vocabulary can hold.
            OSError: the directory cannot be written.
        """
        self._check_rows()
        s, table = self.subwords.settings, self.subwords
        tensors = {
            "subword_weight": table.weight,
            "subword_buckets": table.buckets.astype(np.int32),
            "subword_groups": table.rows.astype(np.int32),
        }
        config = {**self.config, "min_n": s.min_n, "max_n": s.max_n, "buckets": s.buckets}
        counts = np.zeros(len(self), np.int64) if self.counts is None else self.counts
        if self.counts is None:
            config["counts"] = False
        model_files.save_model(
            directory, self.vectors, self.out_weight, self.index_to_key, counts, config, extra=tensors
        )

    def save_fasttext_bin(self, path: PathLike) -> None:
        """Write fastText's .bin, which fastText and gensim load: the same vectors, of unseen words too.

        The file has a row for each of the buckets, used or not: 4 D buckets bytes.

        Raises:
            ValueError: words were added, or a word with white space.
            OSError: the file cannot be written.
        """
        self._check_rows()
        write_fasttext_bin(
            path, self.index_to_key, self.vectors, self.counts, subwords=self.subwords, out_weight=self.out_weight,
            config=self.config, header=self.header,
        )  # fmt: skip

    def _check_rows(self) -> None:
        if len(self) != self.subwords.num_words:
            raise ValueError(
                f"words: {len(self)}, but the model has rows of {self.subwords.num_words}; added words cannot "
                "be saved with n-grams"
            )


def has_subwords(path: PathLike) -> bool:
    """Tell whether a path is a model directory with n-grams, or fastText's .bin with them, plain or compressed."""
    if Path(path).is_dir():
        return TENSORS[0] in model_files.tensor_names(path)
    header = b""
    with open_chunks(Path(path)) as chunks:
        while len(header) < _HEADER_BYTES and (chunk := next(chunks, b"")):
            header += chunk
    if not header.startswith(fasttext.MAGIC) or len(header) < _HEADER_BYTES:
        return False
    minn, maxn = struct.unpack("<2i", header[44:52])
    return max(1, minn) <= maxn
