"""A model to go on from: how it is read, and what may go on from it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from .config import TrainConfig
from .files import FormatError
from .model_files import ModelFiles, load_model
from .subwords import TENSORS

OF_WORDS = ("skipgram", "cbow")  # a row for each word
OF_NGRAMS = ("fasttext", "fasttext-cbow")


def load_old(directory: str | Path) -> ModelFiles:
    """Read a model directory with all that :class:`w2v_ext.continued.Start` needs, the n-grams' rows too.

    Raises:
        FormatError: it is none, or a file of it is missing or damaged; the message begins with ``continue_from``.
    """
    path = Path(directory)
    if not (path / "model.safetensors").is_file():
        found = (
            "a directory without model.safetensors" if path.is_dir() else "a file" if path.exists() else "no such path"
        )
        raise FormatError(
            f"continue_from: expected a directory that w2v_ext.train made, got {directory} ({found}); "
            "vectors in a file are for intersect"
        )
    try:
        return load_model(path, extra=TENSORS)
    except FormatError as error:
        raise FormatError(f"continue_from: {error}") from error


def check_old(saved: dict[str, Any], config: TrainConfig, name: str = "the old model") -> None:
    """Refuse a training whose tables mean something else than those of the model that it is to go on from.

    Args:
        saved: the old model's settings; what is not among them is taken to be as in ``config``.
        config: of the training.
        name: of the old model in messages.

    Raises:
        ValueError: naming the setting, the rule and the value.
    """
    old, known = saved.get("model", config.model), OF_WORDS + OF_NGRAMS
    if old not in known:
        reason = ", whose directory has neither biases nor squares" if old == "glove" else ""
        raise ValueError(
            f"continue_from: expected a model of {', '.join(known[:-1])} or {known[-1]}, got {old!r}{reason}"
        )
    as_trained = f", as {name} was trained with, got"
    kind = OF_NGRAMS if old in OF_NGRAMS else OF_WORDS
    if config.model not in kind:
        raise ValueError(f"model: expected {' or '.join(kind)}{as_trained} {config.model!r}")
    loss = saved.get("loss", config.loss)
    if (loss == "hs") != (config.loss == "hs"):  # a row for each inner node, or for each word
        raise ValueError(f"loss: expected {'hs' if loss == 'hs' else 'ns or softmax'}{as_trained} {config.loss!r}")
    for setting in ("min_n", "max_n", "buckets") if kind is OF_NGRAMS else ():
        was, now = saved.get(setting, getattr(config, setting)), getattr(config, setting)
        if was != now:
            raise ValueError(f"{setting}: expected {was!r}{as_trained} {now!r}")


def check_rows_of_words(config: TrainConfig, setting: str) -> None:
    """Refuse a model in which a word's vector is not a row of its own that could be set, or kept as it is.

    Args:
        config: of the training.
        setting: that asks for it.

    Raises:
        ValueError: naming the setting, the rule and the model.
    """
    if config.model not in OF_WORDS:
        raise ValueError(f"{setting}: expected model = {' or '.join(OF_WORDS)}, got {config.model!r}")
