"""Word vectors to look up, compare, change and save: gensim's `KeyedVectors` over one float32 array.

`queries` holds the search for near words, `comparisons` what compares given words.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from . import model_files
from .comparisons import Comparisons
from .queries import Key, unit

PathLike = str | os.PathLike[str]


class KeyedVectors(Comparisons):
    """V words and their vectors of dimension D.

    Attributes:
        vectors: (V, D) float32; row i belongs to `index_to_key[i]`. Call `fill_norms(force=True)` after changing it.
        index_to_key: the V words.
        key_to_index: word -> row.
        expandos: further attributes of the words, name -> (V,) array; see `set_vecattr`.
    """

    def __init__(
        self,
        words: Sequence[str] | int = (),
        vectors: np.ndarray | None = None,
        counts: Sequence[int] | np.ndarray | None = None,
        *,
        vector_size: int | None = None,
    ) -> None:
        """Take over words and vectors; a float32 array is used as it is, without a copy.

        `KeyedVectors(300)` or `KeyedVectors(vector_size=300)` has no words yet; see `add_vectors`.

        Args:
            words: V distinct words; or D, for none.
            vectors: (V, D) numbers.
            counts: (V,) integers, optional: how often each word occurred in the corpus.
            vector_size: D, where there are no words.

        Raises:
            ValueError: shapes that do not match, or a word that comes twice.
        """
        if isinstance(words, (int, np.integer)):
            words, vector_size = (), int(words)
        if vectors is None:
            if len(words) or vector_size is None or vector_size < 1:
                raise ValueError(f"vectors: expected them with words, or a vector_size >= 1 alone, got {vector_size}")
            vectors = np.empty((0, vector_size), dtype=np.float32)
        self.expandos: dict[str, np.ndarray] = {}
        self.index_to_key = list(words)
        self.vectors = vectors
        self.key_to_index = {word: index for index, word in enumerate(self.index_to_key)}
        if len(self.key_to_index) != len(self.index_to_key):
            twice = next(w for i, w in enumerate(self.index_to_key) if self.key_to_index[w] != i)
            raise ValueError(f"words: {twice!r} appears twice")
        if counts is not None:
            self.counts = counts

    @property
    def vectors(self) -> np.ndarray:
        """(V, D) float32, the array itself."""
        return self._vectors

    @vectors.setter
    def vectors(self, value: np.ndarray) -> None:
        array = np.asarray(value, dtype=np.float32)
        if array.ndim != 2:
            raise ValueError(f"vectors: expected shape (V, D), got {array.shape}")
        if len(self.index_to_key) != len(array):
            raise ValueError(f"words: expected {len(array)} to match vectors, got {len(self.index_to_key)}")
        self._vectors = array
        self._forget()

    @property
    def counts(self) -> np.ndarray | None:
        """(V,) int64, how often each word occurred in the corpus, or None where that is not known."""
        return self.expandos.get("count")

    @counts.setter
    def counts(self, value: Sequence[int] | np.ndarray | None) -> None:
        if value is None:
            self.expandos.pop("count", None)
            return
        array = np.asarray(value, dtype=np.int64)
        if array.shape != (len(self),):
            raise ValueError(f"counts: expected shape ({len(self)},) to match words, got {array.shape}")
        self.expandos["count"] = array

    def _forget(self) -> None:
        """Forget what was computed from the vectors."""
        self._norms: np.ndarray | None = None
        self._on_device: tuple[str, torch.Tensor] | None = None

    # ---- files ---------------------------------------------------------------------------------------------------

    @classmethod
    def load(cls, path: PathLike, format: str | None = None, **options: Any) -> KeyedVectors:
        """Load a model directory, or a file or directory in any other of the formats that `formats` reads.

        A model directory with n-grams (fastText's models) gives `FastTextVectors`, which make vectors of unseen words.

        Args:
            path: the file or directory.
            format: a name of `formats.FORMATS`; None tells it by what is in the file.
            options: of `formats.load_vectors`: `limit`, `errors`, `encoding`, `bad_rows`, `threads`, `progress`.

        Raises:
            FormatError: a file is missing in the directory, or damaged; the message says where.
            OSError: the file cannot be read.
        """
        from . import fasttext_vectors, formats

        is_model = cls is KeyedVectors and format in (None, "model") and not options and Path(path).is_dir()
        if is_model and fasttext_vectors.has_subwords(path):
            return fasttext_vectors.FastTextVectors.load(path, "model")
        return cls(*formats.load_vectors(path, format, **options))

    def save(self, directory: PathLike) -> None:
        """Save words, vectors and counts as a model directory, which `load` reads; other attributes stay behind.

        Raises:
            ValueError: a key is not a string, or a word contains a tab or a line break.
            OSError: the directory cannot be written.
        """
        if other := next((key for key in self.index_to_key if not isinstance(key, str)), None):
            raise ValueError(f"words: expected strings to save, got {other!r}")
        if others := [name for name in self.expandos if name != "count"]:
            warnings.warn(f"attributes are not saved: {', '.join(others)}", stacklevel=2)
        counts = np.zeros(len(self), dtype=np.int64) if self.counts is None else self.counts
        config = {} if self.counts is not None else {"counts": False}
        model_files.save_model(directory, self.vectors, None, self.index_to_key, counts, config)

    @classmethod
    def load_word2vec_format(
        cls,
        fname: PathLike,
        fvocab: PathLike | None = None,
        binary: bool = False,
        encoding: str = "utf8",
        unicode_errors: str = "strict",
        limit: int | None = None,
        datatype: np.typing.DTypeLike = np.float32,
        no_header: bool = False,
    ) -> KeyedVectors:
        """Load a file in the word2vec text or binary format; see `formats.load_word2vec_format`.

        `fvocab` is a file of words and their counts, one a line; words that it lacks have count 0. `no_header=True`
        reads GloVe's text. Numbers are read as `datatype` and kept as float32.

        Raises:
            FormatError: a file is damaged; the message says where.
            OSError: a file cannot be read.
        """
        from . import formats

        counts = None if fvocab is None else formats.read_counts(fvocab, encoding, unicode_errors)
        words, vectors = formats.load_word2vec_format(
            fname,
            binary=binary,
            limit=limit,
            errors=unicode_errors,
            dtype=datatype,
            encoding=encoding,
            no_header=no_header,
        )
        return cls(words, vectors, None if counts is None else [counts.get(word, 0) for word in words])

    def save_word2vec_format(
        self,
        fname: PathLike,
        fvocab: PathLike | None = None,
        binary: bool = False,
        *,
        write_header: bool = True,
        prefix: str = "",
        sort_attr: str = "count",
    ) -> None:
        """Save in the word2vec text or binary format, most frequent words first where counts are known.

        Args:
            fname: the file to write; `.gz`, `.xz` or `.zst` at the end compresses it.
            fvocab: write words and their counts here, one a line.
            binary: the binary format instead of the text one.
            write_header: False leaves out the first line of the text format, as GloVe does.
            prefix: put before each word.
            sort_attr: the attribute, by falling value of which the words are sorted, where it is there.

        Raises:
            ValueError: a word contains white space, a value is not finite, or `fvocab` without counts.
            OSError: a file cannot be written.
        """
        from . import formats

        if fvocab is not None and sort_attr not in self.expandos:
            raise ValueError(f"fvocab: expected the words to have the attribute {sort_attr!r}")
        order = np.arange(len(self))
        if sort_attr in self.expandos:
            order = np.argsort(-self.expandos[sort_attr], kind="stable")
        words = [f"{prefix}{self.index_to_key[row]}" for row in order.tolist()]
        vectors = self._vectors if (np.diff(order) == 1).all() else self._vectors[order]
        formats.save_word2vec_format(Path(fname), words, vectors, binary=binary, header=write_header)
        if fvocab is not None:
            formats.write_counts(fvocab, words, self.expandos[sort_attr][order])

    # ---- looking up ----------------------------------------------------------------------------------------------

    @property
    def vector_size(self) -> int:
        """D, the length of a vector."""
        return self._vectors.shape[1]

    @property
    def norms(self) -> np.ndarray:
        """(V,) float32 Euclidean lengths of the vectors, computed when first asked for."""
        if self._norms is None:
            squares = np.einsum("ij,ij->i", self._vectors, self._vectors, dtype=np.float64)
            self._norms = np.sqrt(squares).astype(np.float32)
        return self._norms

    def fill_norms(self, force: bool = False) -> None:
        """Compute `norms` unless that is done; `force=True` computes them again, after `vectors` changed."""
        if force:
            self._forget()
        _ = self.norms

    def get_normed_vectors(self) -> np.ndarray:
        """Return all vectors at length 1, (V, D) float32; zero vectors stay zero."""
        return self._vectors / np.where(self.norms > 0, self.norms, 1)[:, None]

    def __len__(self) -> int:
        return len(self.index_to_key)

    def __contains__(self, key: object) -> bool:
        return self.has_index_for(key)

    def __repr__(self) -> str:
        return f"KeyedVectors({len(self)} words, dim {self.vector_size})"

    def __getitem__(self, key: Key | Iterable[Key]) -> np.ndarray:
        """Return the vector (D,) of a word, or the vectors (n, D) of a list of n words."""
        if isinstance(key, (str, int, np.integer)):
            return self.get_vector(key)
        rows = [self.get_vector(item) for item in key]
        return np.stack(rows) if rows else np.empty((0, self.vector_size), dtype=np.float32)

    def get_index(self, key: Key, default: int | None = None) -> int:
        """Return the row of a word; a row number stands for itself.

        Raises:
            KeyError: there is no such word, and no `default`.
        """
        index = self.key_to_index.get(key)
        if index is not None:
            return index
        if isinstance(key, (int, np.integer)) and 0 <= key < len(self):
            return int(key)
        if default is not None:
            return default
        raise KeyError(f"Key '{key}' not present")

    def has_index_for(self, key: object) -> bool:
        """Tell whether a word, or a row number, has a row."""
        return self.get_index(key, -1) >= 0

    def get_vector(self, key: Key, norm: bool = False) -> np.ndarray:
        """Return the vector (D,) float32 of a word, read-only; with `norm=True` at length 1 (zero stays zero).

        Raises:
            KeyError: there is no such word.
        """
        vector = self._vectors[self.get_index(key)]
        if norm:
            vector = unit(vector).astype(np.float32)
        vector.flags.writeable = False  # of this view only: writing into a looked-up vector would change the model
        return vector

    # ---- attributes ----------------------------------------------------------------------------------------------

    def set_vecattr(self, key: Key, attr: str, val: Any) -> None:
        """Set an attribute of a word. The first value of an attribute decides its type; other words have 0 (or None).

        Raises:
            KeyError: there is no such word.
            TypeError: the attribute holds values of another type.
        """
        row = self.get_index(key)
        kind = np.dtype(object) if isinstance(val, str) else np.asarray(val).dtype
        if attr not in self.expandos:
            self.expandos[attr] = np.full(len(self), None if kind.kind == "O" else 0, dtype=kind)
        array = self.expandos[attr]
        if not np.can_cast(kind, array.dtype, casting="same_kind"):
            raise TypeError(f"val: expected {array.dtype} as the attribute {attr!r} has it, got {val!r}")
        if not array.flags.writeable:
            array = self.expandos[attr] = array.copy()
        array[row] = val

    def get_vecattr(self, key: Key, attr: str) -> Any:
        """Return an attribute of a word, such as `"count"`.

        Raises:
            KeyError: there is no such word, or no such attribute.
        """
        row = self.get_index(key)
        if attr not in self.expandos:
            raise KeyError(f"attr: there is no attribute {attr!r}, only {', '.join(self.expandos) or 'none at all'}")
        return self.expandos[attr][row]

    # ---- changing ------------------------------------------------------------------------------------------------

    def add_vectors(
        self,
        keys: Key | Sequence[Key],
        weights: np.ndarray | Sequence[np.ndarray],
        extras: Mapping[str, np.ndarray] | None = None,
        replace: bool = False,
    ) -> None:
        """Add words with their vectors; a word that is there keeps its vector, unless `replace`.

        Args:
            keys: n distinct words, or one.
            weights: (n, D), or (D,) for one word.
            extras: attributes of the new words, name -> (n,); those not named are 0 for them.
            replace: give words that are there the new vector (and extras).

        Raises:
            ValueError: shapes that do not match, or a word that comes twice in `keys`.
        """
        if isinstance(keys, (str, int, np.integer)):
            keys, weights = [keys], np.reshape(np.asarray(weights), (1, -1))
        keys, rows = list(keys), np.asarray(weights, dtype=np.float32)
        if rows.shape != (len(keys), self.vector_size):
            if keys or rows.size:
                raise ValueError(f"weights: expected shape ({len(keys)}, {self.vector_size}), got {rows.shape}")
            return
        if len(set(keys)) != len(keys):
            seen: set[Key] = set()
            raise ValueError(f"keys: {next(k for k in keys if k in seen or seen.add(k))!r} appears twice")
        given = {name: np.asarray(values) for name, values in (extras or {}).items()}
        for name, values in given.items():
            if values.shape[:1] != (len(keys),):
                raise ValueError(f"extras: expected {len(keys)} values of {name!r}, got shape {values.shape}")
        known = np.array([key in self.key_to_index for key in keys], dtype=bool)
        fresh = np.flatnonzero(~known)
        before = len(self)
        for name in {**self.expandos, **given}:
            kind = self.expandos[name].dtype if name in self.expandos else given[name].dtype
            column = np.zeros((before + len(fresh), *given.get(name, np.empty(0)).shape[1:]), dtype=kind)
            if name in self.expandos:
                column[:before] = self.expandos[name]
            if name in given:
                column[before:] = given[name][fresh]
            self.expandos[name] = column
        self.index_to_key += [keys[i] for i in fresh]
        self.key_to_index.update((key, before + i) for i, key in enumerate(self.index_to_key[before:]))
        self.vectors = np.concatenate([self._vectors, rows[fresh]])  # a copy: the caller's array stays as it was
        if replace and known.any():
            at = [self.key_to_index[keys[i]] for i in np.flatnonzero(known)]
            self._vectors[at] = rows[known]
            for name, values in given.items():
                self.expandos[name][at] = values[known]

    def add_vector(self, key: Key, vector: np.ndarray) -> int:
        """Add one word, or replace its vector, and return its row. Each call copies all vectors: see `add_vectors`."""
        self.add_vectors([key], np.reshape(np.asarray(vector), (1, -1)), replace=True)
        return self.key_to_index[key]

    def __setitem__(self, keys: Key | list[Key], weights: np.ndarray | Sequence[np.ndarray]) -> None:
        """Add words with their vectors, and replace the vectors of those that are there."""
        self.add_vectors(keys, weights, replace=True)

    def unit_normalize_all(self) -> None:
        """Scale all vectors to length 1, in place where the array can be written; zero vectors stay zero."""
        if not self._vectors.flags.writeable:
            self._vectors = self._vectors.copy()
        self._vectors /= np.where(self.norms > 0, self.norms, 1)[:, None]
        self._forget()

    def sort_by_descending_frequency(self) -> None:
        """Sort the words by falling count; of equals the later one comes first, as gensim sorts.

        Raises:
            ValueError: the counts are not known.
        """
        if len(self) == 0:
            return
        if self.counts is None:
            raise ValueError("counts: expected them for sorting, got none")
        order = np.lexsort((-np.arange(len(self)), -self.counts))
        self.index_to_key = [self.index_to_key[row] for row in order.tolist()]
        self.key_to_index = {key: row for row, key in enumerate(self.index_to_key)}
        self.expandos = {name: values[order] for name, values in self.expandos.items()}
        self.vectors = self._vectors[order]

    def vectors_for_all(
        self, keys: Iterable[Key], allow_inference: bool = True, copy_vecattrs: bool = False
    ) -> KeyedVectors:
        """Return new `KeyedVectors` of the given words, in their order, each once; words without a vector are left out.

        Args:
            keys: words.
            allow_inference: take words that have a vector but no row, as a subclass with subwords may offer.
            copy_vecattrs: copy the attributes (such as counts) too; words without a row have 0.
        """
        wanted = [k for k in dict.fromkeys(keys) if (k in self if allow_inference else k in self.key_to_index)]
        result = KeyedVectors(wanted, self[wanted])
        if copy_vecattrs:
            rows = np.array([self.get_index(key, -1) for key in wanted], dtype=np.int64)
            for name, values in self.expandos.items():
                column = values[rows] if len(values) else np.zeros(len(rows), dtype=values.dtype)
                column[rows < 0] = 0
                result.expandos[name] = column
        return result
