"""The model directory and the state of a training: safetensors and JSON, never a pickle."""

from __future__ import annotations

import json
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..files import FormatError, own_metadata, write_files
from ..tensor_file import open_tensors
from ..vocab import Vocabulary
from .config import Seq2SeqConfig, build_model
from .model import Seq2SeqModel
from .tokenizers import Tokenizer

_VERSION = 1
MODEL, LAST, CONFIG, METRICS = "model.safetensors", "last.safetensors", "config.json", "metrics.json"


@dataclass(frozen=True)
class TextFiles:
    """What turns text into numbers and back, for both sides; with `joint` settings the two are one."""

    src_tokenizer: Tokenizer
    tgt_tokenizer: Tokenizer
    src_vocab: Vocabulary
    tgt_vocab: Vocabulary

    def contents(self) -> dict[str, bytes]:
        """File names and their bytes."""
        return {
            "src.vocab.tsv": self.src_vocab.to_bytes(),
            "tgt.vocab.tsv": self.tgt_vocab.to_bytes(),
            "src.tokenizer.json": self.src_tokenizer.to_json().encode(),
            "tgt.tokenizer.json": self.tgt_tokenizer.to_json().encode(),
        }

    def checksum(self) -> int:
        """A number that tells these files from others."""
        return zlib.crc32(b"\0".join(data for _, data in sorted(self.contents().items())))


def save_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: dict[str, Any]) -> None:
    """Write a safetensors file with JSON metadata; it is whole or not there."""
    from safetensors.torch import save_file

    own = {}
    seen: set[int] = set()
    for name, tensor in tensors.items():
        tensor = tensor.detach().to("cpu").contiguous()
        if tensor.numel() and tensor.data_ptr() in seen:  # safetensors refuses shared memory
            tensor = tensor.clone()
        seen.add(tensor.data_ptr())
        own[name] = tensor
    # One entry, as safetensors writes several in random order: the same state gives the same bytes.
    text = {"w2v_ext": json.dumps({"version": _VERSION, **metadata}, ensure_ascii=False, sort_keys=True)}
    write_files({path: lambda target: save_file(own, target, metadata=text)})


def load_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read what `save_tensors` wrote, to the CPU.

    Raises:
        FileNotFoundError: there is no such file.
        FormatError: it is damaged, or not of this library.
    """
    from safetensors import SafetensorError

    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file")
    try:
        with open_tensors(path) as file:
            metadata = own_metadata(file)
            tensors = {name: file.get_tensor(name) for name in file.keys()}
    except (SafetensorError, OSError, ValueError) as error:
        raise FormatError(f"{path}: damaged or truncated: {error}") from error
    if not metadata:
        raise FormatError(f"{path}: not a file of this library: it lacks the metadata")
    if metadata.get("version") != _VERSION:
        raise FormatError(f"{path}: expected format version {_VERSION}, got {metadata!r:.80}")
    return tensors, metadata


def model_tensors(model: Seq2SeqModel) -> dict[str, Tensor]:
    """The parameters, each once, by the first of its names."""
    return dict(model.named_parameters())


def check_tensors(model: Seq2SeqModel, tensors: Mapping[str, Tensor], path: Path | str) -> None:
    """FormatError naming a parameter of the model that is missing, unknown or of another shape or kind."""
    own = model_tensors(model)
    if missing := sorted(own.keys() - tensors.keys()):
        raise FormatError(f"{path}: lacks the parameter {missing[0]} ({len(missing)} in all)")
    if unknown := sorted(tensors.keys() - own.keys()):
        raise FormatError(f"{path}: has the unknown parameter {unknown[0]} ({len(unknown)} in all)")
    for name, parameter in own.items():
        if tensors[name].shape != parameter.shape:
            raise FormatError(
                f"{path}: {name} has shape {tuple(tensors[name].shape)}, expected {tuple(parameter.shape)} by "
                "the settings and vocabularies beside it"
            )
        if not tensors[name].is_floating_point():
            raise FormatError(f"{path}: {name} is {tensors[name].dtype}, expected floating-point numbers")


def put_tensors(model: Seq2SeqModel, tensors: Mapping[str, Tensor], path: Path | str) -> None:
    """Copy parameters into a model. FormatError as `check_tensors`."""
    check_tensors(model, tensors, path)
    with torch.no_grad():
        for name, parameter in model_tensors(model).items():
            parameter.copy_(tensors[name])
    model.flatten_parameters()


def save_text(directory: Path, config: Seq2SeqConfig, text: TextFiles) -> None:
    """Write settings, vocabularies and tokenizers of a model directory."""
    settings = (json.dumps(config.to_dict(), indent=2, ensure_ascii=False) + "\n").encode()
    contents = {CONFIG: settings, **text.contents()}
    write_files(
        {directory / name: lambda target, data=data: target.write_bytes(data) for name, data in contents.items()}
    )


def save_weights(path: Path, model: Seq2SeqModel, text: TextFiles, **notes: Any) -> None:
    """Write the weights of a model, tied by a checksum to the vocabularies they are of."""
    save_tensors(path, model_tensors(model), {"text": text.checksum(), **notes})


def load_text(directory: Path) -> tuple[Seq2SeqConfig, TextFiles]:
    """Read settings, vocabularies and tokenizers of a model directory. FormatError or OSError naming the file."""
    if not directory.is_dir():
        raise FileNotFoundError(f"model: no such directory: {directory}")
    for name in (CONFIG, "src.vocab.tsv", "tgt.vocab.tsv", "src.tokenizer.json", "tgt.tokenizer.json"):
        if not (directory / name).is_file():
            raise FormatError(f"{directory / name}: no such file; the directory of a translation model has one")
    try:
        config = Seq2SeqConfig.from_file(directory / CONFIG)
    except (ValueError, TypeError) as error:
        raise FormatError(f"{directory / CONFIG}: {error}") from error
    parts: list[Any] = []
    for side in ("src", "tgt"):
        path = directory / f"{side}.tokenizer.json"
        try:
            parts.append(Tokenizer.from_json(path.read_text(encoding="utf-8"), path))
        except UnicodeDecodeError as error:
            raise FormatError(f"{path}: not UTF-8: {error}") from error
    for side in ("src", "tgt"):
        path = directory / f"{side}.vocab.tsv"
        try:
            vocab = Vocabulary.load(path)
        except ValueError as error:
            raise FormatError(str(error)) from error
        if not vocab.num_specials:
            raise FormatError(
                f"{path}: expected <PAD>, <SOS>, <EOS> and <UNK> as the first words, got {vocab.words[:4]}"
            )
        parts.append(vocab)
    return config, TextFiles(*parts)


def load_model(
    directory: str | Path, device: str | torch.device = "cpu", weights: str = MODEL
) -> tuple[Seq2SeqModel, Seq2SeqConfig, TextFiles]:
    """Read a model directory, in evaluation mode; whatever device it was trained on.

    Args:
        directory: that ``train`` wrote.
        device: to put the model on.
        weights: the file of the weights.

    Raises:
        FileNotFoundError, FormatError: a file is missing, damaged, or does not belong to the others.
    """
    directory = Path(directory)
    config, text = load_text(directory)
    tensors, metadata = load_tensors(directory / weights)
    own = {name.removeprefix("model."): t for name, t in tensors.items() if not name.startswith("train.")}
    if config.num_layers > len(own):
        raise FormatError(f"{directory / weights}: {len(own)} parameters, too few for {config.num_layers} layers")
    sizes = len(text.src_vocab), len(text.tgt_vocab)
    try:
        with torch.device("meta"):  # sizes first: settings that the weights do not bear out may ask for any memory
            check_tensors(build_model(config, *sizes), own, directory / weights)
        model = build_model(config, *sizes)
    except (ValueError, RuntimeError) as error:
        if isinstance(error, FormatError):
            raise
        raise FormatError(f"{directory}: the settings and vocabularies do not fit together: {error}") from error
    put_tensors(model, own, directory / weights)
    if metadata.get("text") != text.checksum():
        raise FormatError(
            f"{directory / weights}: the vocabularies or tokenizers beside it are not those it was trained with"
        )
    return model.to(device).eval(), config, text
