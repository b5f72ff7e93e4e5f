"""Formats that are directories: the model directory, sentence-transformers' StaticEmbedding, the projector's."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..files import FormatError, own_metadata, parse_json, write_files
from ..model_files import load_model, save_model
from ..tensor_file import open_tensors
from .collect import ReadOptions
from .rows import read_text
from .streams import Progress
from .table import VectorTable, encode_words, first_not_finite, first_repeated
from .tensors import as_numpy, safetensors_module
from .writing import write_rows

_LINE_BREAKS = frozenset("\t\n\r")
_UNKNOWN_NAMES = ("[UNK]", "<UNK>", "<unk>")


def make_directory(directory: Path) -> None:
    """Make a directory and its parents. OSError naming it where that fails."""
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OSError(error.errno, f"cannot make the directory {directory}: {error.strerror}") from error


def _cut(table: VectorTable, options: ReadOptions, path: Path) -> VectorTable:
    bad = first_not_finite(table.vectors)
    if bad is not None:
        raise FormatError(f"{path}: row {bad}: the vector of {table.words[bad]!r} is not finite")
    limit = options.limit
    return VectorTable(
        table.words[:limit], table.vectors[:limit], None if table.counts is None else table.counts[:limit]
    )


# ---- the model directory -----------------------------------------------------------------------------------------


def read_model(path: Path, options: ReadOptions) -> VectorTable:
    """Read the word vectors (`in_weight`) of a model directory. FormatError naming the file that is damaged."""
    model = load_model(path)
    counts = None if model.config.get("counts") is False else model.counts
    return _cut(
        VectorTable(model.words, as_numpy(model.in_weight, options), counts), options, path / "model.safetensors"
    )


def write_model(path: Path, table: VectorTable) -> None:
    """Write a model directory without output vectors; counts that are not known become 0, and config.json says so."""
    if table.counts is None:
        save_model(path, table.vectors, None, table.words, np.zeros(len(table.words), np.int64), {"counts": False})
    else:
        save_model(path, table.vectors, None, table.words, table.counts, {})


# ---- sentence-transformers ---------------------------------------------------------------------------------------


def _tokenizer(words: Sequence[str], unknown: str, lowercase: bool) -> dict[str, Any]:
    """The tokenizer.json of a Hugging Face WordLevel tokenizer that splits at white space."""
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [],
        "normalizer": {"type": "Lowercase"} if lowercase else None,
        "pre_tokenizer": {"type": "WhitespaceSplit"},
        "post_processor": None,
        "decoder": None,
        "model": {"type": "WordLevel", "vocab": {word: i for i, word in enumerate(words)}, "unk_token": unknown},
    }


def write_static_embedding(path: Path, table: VectorTable, lowercase: bool | None = None) -> None:
    """Write a directory that sentence-transformers loads: a sentence is the mean of its words' vectors.

    `modules.json`, `tokenizer.json` (WordLevel, splitting at white space) and `model.safetensors` (`embedding.weight`).
    The tokenizer needs a word for what it does not know: where the vocabulary has none of [UNK], <UNK> and <unk>, a
    last row [UNK] of zeros is added, which `read_static_embedding` leaves out again.

    Args:
        path: the directory.
        table: words and vectors.
        lowercase: lower-case the text to embed; None does so where no word has an upper-case letter.
    """
    words, vectors = table.words, table.vectors
    unknown = next((name for name in _UNKNOWN_NAMES if name in set(words)), None)
    added = unknown is None
    if added:
        unknown, words = _UNKNOWN_NAMES[0], [*words, _UNKNOWN_NAMES[0]]
        vectors = np.concatenate([vectors, np.zeros((1, vectors.shape[1]), vectors.dtype)])
    if lowercase is None:
        lowercase = all(word == word.lower() for word in table.words)
    modules = [{"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.models.StaticEmbedding"}]
    tensors = {"embedding.weight": torch.from_numpy(vectors)}
    metadata = {"w2v_ext": json.dumps({"added_unknown": added})}

    def json_writer(value: object) -> Callable[[Path], object]:
        try:
            data = json.dumps(value, ensure_ascii=False, indent=1).encode("utf-8")
        except UnicodeEncodeError as error:
            raise ValueError(f"words: {error.object[error.start]!r} cannot be written as UTF-8") from error
        return lambda target: target.write_bytes(data)

    save_file = safetensors_module("safetensors.torch").save_file
    writers = {
        path / "tokenizer.json": json_writer(_tokenizer(words, unknown, lowercase)),
        path / "modules.json": json_writer(modules),
        path / "model.safetensors": lambda target: save_file(tensors, target, metadata=metadata),
    }
    make_directory(path)
    write_files(writers)


def _read_json(path: Path) -> Any:
    try:
        return parse_json(path.read_bytes())
    except OSError as error:
        raise FormatError(f"{path}: cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise FormatError(f"{path}: not valid JSON: {error}") from error


def _module_directory(path: Path) -> Path:
    """The directory of the StaticEmbedding: the one given, or the one that modules.json names."""
    if not (path / "modules.json").is_file():
        return path
    modules = _read_json(path / "modules.json")
    for module in modules if isinstance(modules, list) else []:
        if isinstance(module, dict) and str(module.get("type", "")).endswith("StaticEmbedding"):
            inside = path / str(module.get("path", ""))
            try:
                is_inside = inside.resolve().is_relative_to(path.resolve())
            except (ValueError, RuntimeError, OSError):  # a name that no file can have, links in a circle
                is_inside = False
            if not is_inside:
                raise FormatError(f"{path / 'modules.json'}: the path {module['path']!r} leads out of the directory")
            return inside
    raise FormatError(f"{path / 'modules.json'}: has no StaticEmbedding")


def read_static_embedding(path: Path, options: ReadOptions) -> VectorTable:
    """Read tokens and vectors of a StaticEmbedding (or model2vec) directory with any Hugging Face tokenizer.

    Raises:
        FormatError: a file is missing or damaged, or the files do not belong together.
    """
    path = _module_directory(path)
    name = path / "tokenizer.json"
    tokenizer = _read_json(name)
    try:
        vocab = tokenizer["model"]["vocab"]
        if isinstance(vocab, list):  # Unigram: [token, score]
            vocab = {token: i for i, (token, _) in enumerate(vocab)}
        vocab = {**vocab, **{token["content"]: token["id"] for token in tokenizer.get("added_tokens") or []}}
        ids = {int(i): str(token) for token, i in vocab.items()}
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise FormatError(f"{name}: expected a Hugging Face tokenizer with model.vocab ({error!r})") from error
    weights, metadata = _read_weight(path / "model.safetensors")
    rows = len(weights)
    if sorted(ids) != list(range(rows)) or len(vocab) != rows:
        raise FormatError(f"{name}: {len(vocab)} tokens, but model.safetensors has {rows} rows")
    words = [ids[i] for i in range(rows)]
    if len(set(words)) != len(words):
        raise FormatError(f"{name}: the token {first_repeated(words)!r} comes twice")
    if metadata.get("added_unknown"):
        words, weights = words[:-1], weights[:-1]
    return _cut(VectorTable(words, as_numpy(weights, options)), options, path / "model.safetensors")


def _read_weight(path: Path) -> tuple[torch.Tensor, dict]:
    try:
        with open_tensors(path) as file:
            metadata = own_metadata(file)
            names = set(file.keys())
            if names & {"mapping", "weights"}:
                raise FormatError(f"{path}: model2vec's tensors mapping and weights are not supported")
            name = next((name for name in ("embedding.weight", "embeddings") if name in names), None)
            if name is None:
                raise FormatError(f"{path}: has no tensor embedding.weight or embeddings, but {sorted(names)}")
            weight = file.get_tensor(name)
    except FormatError:
        raise
    except (safetensors_module().SafetensorError, OSError, ValueError) as error:
        raise FormatError(f"{path}: missing or damaged: {error}") from error
    if weight.dim() != 2 or weight.shape[1] < 1 or not weight.is_floating_point():
        raise FormatError(f"{path}: {name} is {weight.dtype} of shape {tuple(weight.shape)}, expected float (V, D)")
    return weight, metadata


# ---- TensorBoard's projector -------------------------------------------------------------------------------------

_PROJECTOR_CONFIG = 'embeddings {\n  tensor_path: "tensors.tsv"\n  metadata_path: "metadata.tsv"\n}\n'


def write_projector(path: Path, table: VectorTable, threads: int = 0, progress: Progress | None = None) -> None:
    """Write a directory for TensorBoard's projector: `tensors.tsv`, `metadata.tsv` and `projector_config.pbtxt`.

    Metadata are the words; with counts, a header and two columns. `tensorboard --logdir DIR` shows them, and
    https://projector.tensorflow.org loads the two TSV files.
    """
    words = encode_words(table.words, _LINE_BREAKS, "the projector's metadata")
    if table.counts is None:
        metadata = b"".join(word + b"\n" for word in words)
    else:
        rows = zip(words, table.counts.tolist(), strict=True)
        metadata = b"word\tcount\n" + b"".join(b"%b\t%d\n" % row for row in rows)
    tensors = path / "tensors.tsv"

    def write(target: Path) -> None:
        write_rows(target, tensors, [], table.vectors, header=False, separator="\t", threads=threads, progress=progress)

    make_directory(path)
    write_files(
        {
            tensors: write,
            path / "metadata.tsv": lambda target: target.write_bytes(metadata),
            path / "projector_config.pbtxt": lambda target: target.write_text(_PROJECTOR_CONFIG),
        }
    )


def read_projector(path: Path, options: ReadOptions) -> VectorTable:
    """Read a projector's directory: `tensors.tsv` (or `vectors.tsv`) and `metadata.tsv`, with or without a header.

    Raises:
        FormatError: naming file and line.
    """
    tensors = next((path / name for name in ("tensors.tsv", "vectors.tsv") if (path / name).is_file()), None)
    if tensors is None or not (path / "metadata.tsv").is_file():
        raise FormatError(f"{path}: expected tensors.tsv (or vectors.tsv) and metadata.tsv")
    everything = ReadOptions(dtype=options.dtype, threads=options.threads, progress=options.progress)
    vectors = read_text(tensors, everything, header=False, has_word=False).vectors
    metadata = path / "metadata.tsv"
    lines = metadata.read_bytes().split(b"\n")
    if lines[-1] == b"":
        lines.pop()
    header = len(lines) == len(vectors) + 1
    if not header and len(lines) != len(vectors):
        raise FormatError(f"{metadata}: {len(lines)} lines, but {tensors.name} has {len(vectors)} rows")
    try:
        rows = [line.decode(options.encoding, options.errors).rstrip("\r").split("\t") for line in lines]
    except UnicodeDecodeError as error:
        number = lines.index(error.object) + 1
        raise FormatError(f"{metadata}: line {number}: not {error.encoding}; errors='replace' goes on") from error
    names = rows.pop(0) if header else []
    words = [row[0] for row in rows]
    if len(set(words)) != len(words):
        word = first_repeated(words)
        number = len(words) - words[::-1].index(word) + header
        raise FormatError(f"{metadata}: line {number}: the word {word!r} comes twice")
    counts = None
    if "count" in names:
        column = names.index("count")
        if all(len(row) > column and row[column].isdecimal() and len(row[column]) < 19 for row in rows):
            counts = np.array([int(row[column]) for row in rows], np.int64)
    return _cut(VectorTable(words, vectors, counts), options, tensors)
