"""The models that :class:`w2v_ext.Trainer` trains, and the choice among them."""

from __future__ import annotations

import warnings

import torch

from ..config import TrainConfig
from ..corpus import Corpus
from .base import Method, TrainingError, kept_shares
from .batched import Batched
from .cbow import Cbow, HierarchicalSoftmax
from .cuda_epoch import CudaEpoch, choose_device
from .cuda_family import CudaCbow, CudaFastText, CudaTree
from .cuda_glove import CudaGlove
from .glove import Glove
from .skipgram import CorpusMethod, SkipGram
from .softmax import FullSoftmax
from .subword import FastText

__all__ = ["CorpusMethod", "FastText", "Glove", "Method", "SkipGram", "TrainingError", "kept_shares", "make_method"]


def make_method(corpus: Corpus, config: TrainConfig) -> Method:
    """The model that ``config.model`` and ``config.loss`` name, on the device that ``config.device`` names.

    Raises:
        TrainingError: the device cannot be used, or the tables do not fit it.
        ValueError: settings that do not go together.
    """
    try:
        device = choose_device(config.device)
    except RuntimeError as error:
        raise TrainingError(str(error)) from None
    if (config.model, config.loss) != ("skipgram", "ns") and config.weight_dtype != "float32":
        raise ValueError(
            f"weight_dtype: expected float32 for model = {config.model} with loss = {config.loss}, got "
            f"{config.weight_dtype!r}"
        )
    if config.model in ("fasttext", "fasttext-cbow", "glove") and config.loss != "ns":
        raise ValueError(f"loss: expected ns for model = {config.model}, got {config.loss!r}")
    if config.is_batched:
        return _batched(corpus, config, device)
    if config.loss == "softmax":
        return FullSoftmax(corpus, config, device)
    if config.device == "auto" and (config.model, config.loss) != ("skipgram", "ns"):
        device = torch.device("cpu")  # measured with one seed so far: one's own choice
    if config.weight_dtype != "float32" and device.type == "cpu":
        raise TrainingError(f"weight_dtype: {config.weight_dtype} is for training on cuda, got a CPU to train on")
    if device.type == "cuda":
        on_device = _start_cuda(corpus, config, device)
        if on_device is not None:
            return on_device
    if config.model in ("fasttext", "fasttext-cbow"):
        return FastText(corpus, config)
    if config.model == "glove":
        return Glove(corpus, config)
    if config.loss == "hs":
        return HierarchicalSoftmax(corpus, config)
    return Cbow(corpus, config) if config.model == "cbow" else SkipGram(corpus, config)


def _batched(corpus: Corpus, config: TrainConfig, device: torch.device) -> Method:
    """The model trained by the steps of an optimiser; ``auto`` takes the CPU.

    Raises:
        ValueError: a model or a mode in which there are none.
    """
    asked = next(
        name for name in ("optimizer", "momentum", "weight_decay", "clip_norm", "max_norm") if _differs(config, name)
    )
    value = getattr(config, asked)
    if config.model not in ("skipgram", "cbow") or config.loss != "ns":
        raise ValueError(
            f"{asked}: expected the default with model = {config.model} and loss = {config.loss}, got {value!r}; only "
            "skipgram and cbow with ns have optimisers"
        )
    if config.weight_dtype != "float32":
        raise ValueError(f"weight_dtype: expected float32 with {asked} = {value}, got {config.weight_dtype!r}")
    if config.reproducible:
        raise ValueError(f"reproducible: expected 0 with {asked} = {value}, got {config.reproducible}")
    return Batched(corpus, config, device if config.device == "cuda" else torch.device("cpu"))


def _differs(config: TrainConfig, name: str) -> bool:
    return getattr(config, name) != getattr(TrainConfig, name)


def _on_cuda(corpus: Corpus, config: TrainConfig, device: torch.device) -> Method:
    """The model with its tables and the corpus on the device."""
    if config.model in ("fasttext", "fasttext-cbow"):
        return CudaFastText(device, corpus, config)
    if config.model == "glove":
        return CudaGlove(device, corpus, config)
    if config.loss == "hs":
        return CudaTree(device, corpus, config)
    if config.model == "cbow":
        return CudaCbow(device, corpus, config)
    start = CorpusMethod(corpus, config)
    shares = kept_shares(corpus.vocab.counts, start.keep_probabilities)
    return CudaEpoch(device, config, start.in_weight, start.ids, start.alias, start.keep, shares)


def _start_cuda(corpus: Corpus, config: TrainConfig, device: torch.device) -> Method | None:
    """What :func:`_on_cuda` gives; None, and the CPU, where it does not fit and ``auto`` leaves the choice."""
    try:
        return _on_cuda(corpus, config, device)
    except (torch.OutOfMemoryError, ValueError) as error:
        reason = str(error).partition("\n")[0]
        if config.device != "auto" or config.weight_dtype != "float32":
            if isinstance(error, ValueError):
                raise
            raise TrainingError(
                f"device: {len(corpus.vocab)} words x {config.dim} do not fit {device} ({reason}); use "
                "--device cpu, or lower dim, or the vocabulary by max_vocab or min_count"
            ) from error
    warnings.warn(f"device: training on the CPU: {device} cannot: {reason}", RuntimeWarning, stacklevel=4)
    return None
