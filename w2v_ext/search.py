"""Search by meaning: ``python -m w2v_ext.search`` finds the documents whose words are nearest to those of a query."""

from __future__ import annotations

import json
import os
import secrets
import shutil
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, NamedTuple

import numpy as np
import tyro
from safetensors import SafetensorError, safe_open
from tqdm import tqdm

from .command_line import read_vectors, run_command
from .documents import DocumentOptions, batches, finish, means, move_into_place, tokenise, write_index
from .files import FormatError, parse_json
from .json_values import json_text
from .keyedvectors import KeyedVectors
from .nearest import nearest
from .tensor_file import open_tensors
from .vocab import Vocabulary

PathLike = str | os.PathLike[str]
_VERSION = 1


class Hit(NamedTuple):
    """A document that was found: its number (from 0, as read), its cosine similarity to the query, its text."""

    document: int
    score: float
    text: str


def build_index(
    documents: PathLike | Sequence[PathLike],
    vectors: KeyedVectors,
    directory: PathLike,
    options: DocumentOptions | None = None,
    *,
    progress: Callable[[int], object] | None = None,
) -> DocumentIndex:
    """Read documents, write their index to a directory, and open it.

    Reading takes one pass and bounded memory beyond the word vectors: ids, text and vectors go to disk. The directory
    appears whole or not at all; an index that is there already is replaced.

    Args:
        documents: files (plain, gzip, xz, zstd), directories, or "-", one document a line or a file.
        vectors: the word vectors; the index has its own copy.
        directory: where the index goes.
        options: see `DocumentOptions`.
        progress: called with 1 for each document read.

    Raises:
        ValueError: there are no documents, or `directory` is something else than an index.
        FileNotFoundError, OSError: a source cannot be read, or the directory not written.
        CorpusError: invalid UTF-8, or a damaged compressed file.
    """
    target = Path(directory)
    if target.exists() and not (target / "index.json").is_file():
        raise ValueError(f"directory: {target} is there, and not an index: it will not be overwritten")
    target.parent.mkdir(parents=True, exist_ok=True)
    work = target.with_name(f".{target.name}.{os.getpid()}-{secrets.token_hex(4)}.tmp")
    work.mkdir()
    try:
        write_index(documents, vectors, work, options or DocumentOptions(), progress)
        move_into_place(work, target)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    return DocumentIndex(target)


class DocumentIndex:
    """An index on disk, opened for searching; document vectors and text are mapped, not read.

    Attributes:
        options: how it was made.
        vectors: (N, D) float32, the documents' vectors at length 1; zero for documents without a known word.
        words: the word vectors, `KeyedVectors`.
    """

    def __init__(self, directory: PathLike) -> None:
        """Open an index.

        Raises:
            FormatError: a file is missing or damaged; the message names it.
        """
        path = Path(directory)
        if not (path / "index.json").is_file():
            raise FormatError(f"{path}: no index.json: not an index, as python -m w2v_ext.search index makes it")
        try:
            meta = parse_json((path / "index.json").read_bytes())
            vocabulary = Vocabulary.load(path / "vocab.tsv")
            if not isinstance(meta, dict) or meta.get("version") != _VERSION:
                raise FormatError(f"{path / 'index.json'}: expected version {_VERSION}, as this library writes it")
            self.options = DocumentOptions(**meta["options"])
            number = int(meta["documents"])
            with safe_open(path / "words.safetensors", framework="np") as file:
                table, self._weights, self._common = (file.get_tensor(n) for n in ("vectors", "weights", "common"))
            with open_tensors(path / "documents.safetensors") as file:  # mapped, where NumPy's is a copy
                self.vectors, self._offsets = (file.get_tensor(n).numpy() for n in ("vectors", "offsets"))
            if self.vectors.shape != (number, table.shape[1]) or self._offsets.shape != (number + 1,):
                raise FormatError(f"{path / 'documents.safetensors'}: expected the vectors of {number} documents")
            _check_numbers(path, vocabulary, table, self._weights, self._common, self.vectors, self._offsets)
            if (path / "texts.bin").stat().st_size != self._offsets[-1] or meta["text_bytes"] != self._offsets[-1]:
                raise FormatError(f"{path / 'texts.bin'}: expected {self._offsets[-1]} bytes: damaged or truncated")
            self.words = KeyedVectors(vocabulary.words, table, vocabulary.counts)
        except OSError as error:
            raise FormatError(f"{error.filename or path}: cannot be read: {error.strerror or error}") from error
        except SafetensorError as error:
            raise FormatError(f"{path}: damaged or truncated safetensors file: {error}") from error
        except (KeyError, IndexError, TypeError, OverflowError) as error:
            raise FormatError(f"{path / 'index.json'}: damaged: {error}") from error
        except FormatError:
            raise
        except ValueError as error:
            raise FormatError(f"{path}: damaged: {error}") from error
        self._norms = np.ones(number, dtype=np.float32)  # or 0, which comes to the same
        self._texts = path / "texts.bin"

    def __len__(self) -> int:
        return len(self.vectors)

    def __repr__(self) -> str:
        return f"DocumentIndex({len(self)} documents, {self.options.weighting}, dim {self.vectors.shape[1]})"

    def text(self, document: int) -> str:
        """Return the text of a document. IndexError for a number outside [0, N)."""
        if not 0 <= document < len(self):
            raise IndexError(f"document: expected 0 <= number < {len(self)}, got {document}")
        start, stop = self._offsets[document : document + 2].tolist()
        with open(self._texts, "rb") as file:
            file.seek(start)
            return file.read(stop - start).decode("utf-8", "replace")

    def embed(self, texts: Sequence[str]) -> np.ndarray:
        """Return the vectors (n, D) float32 of texts, made as the documents' are; zero without a known word."""
        with tempfile.TemporaryDirectory() as folder:
            rows = tokenise(texts, self.options, self.words, Path(folder)) if texts else np.empty(0, dtype=np.int32)
        parts = [means(*batch, self.words.vectors, self._weights) for batch in batches(rows)]
        empty = np.empty((0, self.vectors.shape[1]), dtype=np.float32)
        return finish(np.concatenate([empty, *parts]), self._common)

    def search(self, query: str, k: int = 10) -> list[Hit]:
        """Return the k documents nearest to a text, best first; none where no word of it is known."""
        return self.search_batch([query], k)[0]

    def search_batch(self, queries: Sequence[str], k: int = 10, device: str = "cpu") -> list[list[Hit]]:
        """Return what `search` returns for each of many texts, computed together."""
        if k < 1:
            raise ValueError(f"k: expected a number >= 1, got {k}")
        vectors = self.embed(queries).astype(np.float64)
        norms = np.linalg.norm(vectors, axis=1, keepdims=True)
        vectors /= np.where(norms > 0, norms, 1)
        found, scores = nearest(self.vectors, self._norms, vectors, k, device=device)
        return [
            [Hit(row, score, self.text(row)) for row, score in zip(*pair, strict=True) if row >= 0] if norm > 0 else []
            for *pair, norm in zip(found.tolist(), scores.tolist(), norms[:, 0].tolist(), strict=True)
        ]


# ---- the command -------------------------------------------------------------------------------------------------


def _check_numbers(
    path: Path,
    vocabulary: Vocabulary,
    table: np.ndarray,
    weights: np.ndarray,
    common: np.ndarray,
    vectors: np.ndarray,
    offsets: np.ndarray,
) -> None:
    """FormatError unless the tensors of an index are of their kinds and belong together."""
    words, dim = len(vocabulary), table.shape[1] if table.ndim == 2 else 0
    shapes_fit = table.shape == (words, dim) and weights.shape == (words,) and common.shape == (len(common), dim)
    if not dim or not shapes_fit or {table.dtype, weights.dtype, common.dtype} != {np.dtype(np.float32)}:
        raise FormatError(
            f"{path / 'words.safetensors'}: expected float32: vectors ({words}, D), weights ({words},), common (C, D), "
            f"got {table.shape}, {weights.shape} and {common.shape}"
        )
    if vectors.dtype != np.float32 or offsets.dtype != np.int64:
        raise FormatError(f"{path / 'documents.safetensors'}: expected float32 vectors and int64 offsets")
    if offsets[0] != 0 or (offsets[1:] < offsets[:-1]).any():
        raise FormatError(f"{path / 'documents.safetensors'}: the offsets do not rise from 0")


@dataclass(frozen=True)
class IndexCommand(DocumentOptions):
    """Read documents and write their index."""

    vectors: str = tyro.MISSING
    """Model directory, or vectors in any format."""
    documents: tuple[str, ...] = tyro.MISSING
    """Files (plain, .gz, .xz, .zst), directories or - (standard input)."""
    out: str = tyro.MISSING
    """Where the index goes, a directory."""
    json: bool = False
    """Report as JSON."""


@dataclass(frozen=True)
class QueryCommand:
    """Find the documents nearest to a query."""

    index: tyro.conf.Positional[Annotated[str, tyro.conf.arg(metavar="INDEX")]]
    """The index, a directory."""
    query: tyro.conf.Positional[Annotated[tuple[str, ...], tyro.conf.arg(metavar="QUERY ...")]]
    """Texts to search for; - reads them from standard input, one a line."""
    k: Annotated[int, tyro.conf.arg(aliases=["-k"])] = 5
    """How many documents for each."""
    json: bool = False
    """Print one JSON object a query."""
    width: int = 160
    """Show so many characters of a document (0: all)."""


def _run_index(command: IndexCommand) -> None:
    options = DocumentOptions(**{name: getattr(command, name) for name in DocumentOptions.__dataclass_fields__})
    vectors = read_vectors(command.vectors, "vectors")
    with tqdm(unit=" documents", unit_scale=True, disable=None) as bar:
        index = build_index(command.documents, vectors, command.out, options, progress=bar.update)
    if command.json:
        figures = {"documents": len(index), "dim": index.vectors.shape[1], "weighting": options.weighting}
        print(json_text({"index": command.out, **figures}))
        return
    print(f"{len(index):,} documents, {options.weighting}, dim {index.vectors.shape[1]}; saved to {command.out}")


def _run_query(command: QueryCommand) -> None:
    if not command.query:
        raise ValueError("query: expected at least one text, or - to read texts from standard input")
    index = DocumentIndex(command.index)
    queries: list[str] = []
    for item in command.query:
        queries += [line.rstrip("\n") for line in sys.stdin] if item == "-" else [item]
    for query, hits in zip(queries, index.search_batch(queries, command.k), strict=True):
        if command.json:
            print(json.dumps({"query": query, "hits": [hit._asdict() for hit in hits]}, ensure_ascii=False))
            continue
        print(query if hits else f"{query}  (no known word)")
        for hit in hits:
            shown = hit.text if not command.width or len(hit.text) <= command.width else hit.text[: command.width] + "…"
            print(f"  {hit.score:.3f}  {hit.document:>8}  {shown}")


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; gives its exit status: 0, 2 for bad input, 130 when interrupted."""
    command = tyro.extras.subcommand_cli_from_dict(
        {"index": IndexCommand, "query": QueryCommand},
        args=arguments,
        prog="python -m w2v_ext.search",
        description="Search documents by meaning: weighted means of word vectors.",
        config=(tyro.conf.FlagCreatePairsOff,),
    )
    return run_command(lambda: (_run_index if isinstance(command, IndexCommand) else _run_query)(command))


if __name__ == "__main__":
    sys.exit(main())
