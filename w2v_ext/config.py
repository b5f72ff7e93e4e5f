"""The settings of a training run: one dataclass, from which the command line and the config file are made."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Callable
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Literal

from .files import parse_json
from .packages import import_package
from .subwords import SubwordSettings

DEFAULTS_OF_A_MODEL: dict[str, dict[str, Any]] = {"glove": {"window": 10, "epochs": 20, "lr": 0.05}}
"""Defaults that differ from word2vec's; see :meth:`TrainConfig.for_model`."""

SETTINGS_OF_THE_MACHINE = (
    "out",
    "threads",
    "device",
    "sentences_in_flight",
    "probe",
    "probe_pairs",
    "tensorboard",
    "cache_dir",
    "count_memory",
    "checkpoint_minutes",
    "checkpoint_words",
    "checkpoint_keep",
)
"""Settings that may change between a run and its resumption; all others shape the result."""

MODELS_OF_A_SETTING: dict[str, tuple[str, ...]] = {
    **dict.fromkeys(("cbow_mean", "cbow_divide_gradient"), ("cbow",)),
    **dict.fromkeys(("min_n", "max_n", "buckets"), ("fasttext", "fasttext-cbow")),
    **dict.fromkeys(("x_max", "alpha", "vectors"), ("glove",)),
    **dict.fromkeys(("sample", "noise_power"), ("skipgram", "cbow", "fasttext", "fasttext-cbow")),
}
"""Settings that not every model uses: with another model they must have their defaults, as saved files do."""


@dataclass(frozen=True)
class TrainConfig:
    """Settings of ``python -m w2v_ext.train`` and :class:`w2v_ext.Trainer`; the defaults are word2vec's.

    Raises:
        ValueError: a setting of the wrong type or out of range; the message names it, the rule and the value.
    """

    corpus: tuple[str, ...] = ()
    """Text files (plain, .gz, .xz, .zst), directories, - for standard input, or text8, which is downloaded.
    Without it a small corpus with planted meaning is generated."""
    out: str = "vectors"
    """Directory of the model."""

    continue_from: str | None = None
    """Model directory to go on from: its words stay, its settings hold where no flag says otherwise."""
    intersect: str | None = None
    """Vectors, in any format, that the words which they share with the text begin with."""
    lock: Literal["nothing", "intersect", "old"] = "nothing"
    """Words whose vectors must not move: those of --intersect, or of --continue-from as well."""

    model: Literal["skipgram", "cbow", "fasttext", "fasttext-cbow", "glove"] = "skipgram"
    """What to train: skip-gram predicts each context by itself, CBOW the centre from all its contexts together;
    fasttext and fasttext-cbow make words of n-grams; glove fits the counts of words side by side."""
    loss: Literal["ns", "hs", "softmax"] = "ns"
    """How the probability of a word is learnt: negative sampling, hierarchical softmax, or the full softmax (for small
    vocabularies)."""
    cbow_mean: bool = False
    """CBOW predicts from the mean of the contexts, as word2vec does, or else from their sum. (fasttext-cbow: always
    from the mean, as fastText does.)"""
    cbow_divide_gradient: bool = False
    """CBOW gives each context the gradient divided by the number of contexts, or else whole. Exact is whole for the sum
    and divided for the mean (which wants --lr 0.075); word2vec takes the mean and gives it whole."""
    dim: int = 100
    """Dimension of the vectors."""
    window: int = 5
    """Largest distance between centre and context; the actual one is drawn from 1 to this for every centre. (glove: all
    up to this, a pair at distance d counts 1 / d.)"""
    negative: int = 5
    """Negative samples per centre, shared by its contexts and with a neighbouring centre. (fasttext: per context;
    fasttext-cbow: of each centre's own.)"""
    epochs: int = 5
    """Passes over the corpus."""
    sample: float = 1e-3
    """Subsampling threshold: words more frequent than this are thinned out; 0 keeps all."""
    lr: float = 0.025
    """Learning rate at the start; falls linearly to a 10,000th of it. (glove: stays, under AdaGrad.)"""
    optimizer: Literal["sgd", "adagrad", "rowwise-adagrad", "adam"] = "sgd"
    """How rows are stepped (skipgram and cbow with ns): plain SGD in one fused kernel, or a batch at a time, many times
    slower, by momentum, AdaGrad or Adam; the next four settings ask for batches too. rowwise-adagrad wants --lr 0.1,
    adagrad 0.05, adam 0.005."""
    momentum: float = 0.0
    """Of sgd, in [0, 1)."""
    weight_decay: float = 0.0
    """Pulls the rows that a batch touches to zero; as AdamW does for adam, and by the gradient for the others."""
    clip_norm: float = 0.0
    """The longest gradient of a batch, all rows together; 0: any."""
    max_norm: float = 0.0
    """Rows that are longer after a step are shortened to this; 0: any."""
    batch_size: int = 512
    """Centres of a batch, whose gradients are summed."""
    noise_power: float = 0.75
    """Negatives are drawn in proportion to count to this power."""
    min_n: int = 3
    """Shortest n-gram of characters that fasttext and fasttext-cbow make words of."""
    max_n: int = 6
    """Longest n-gram of characters."""
    buckets: int = 2_000_000
    """Buckets that n-grams are hashed into."""
    x_max: float = 10.0
    """GloVe: counts from this on have full weight; the paper has 100 for billions of words."""
    alpha: float = 0.75
    """GloVe: below x_max the weight is (count / x_max) to this power."""
    count_memory: float = 1.0
    """GloVe: GiB for counting co-occurrences; what does not fit goes through the disk."""
    vectors: Literal["sum", "in"] = "sum"
    """GloVe: the vectors of words are the sums of both tables, or the first alone."""

    tokenizer: Literal["whitespace", "word", "char", "jieba"] = "whitespace"
    """How lines are cut into tokens; char cuts Chinese, Japanese and Korean into characters."""
    lowercase: bool = False
    """Lower-case the text."""
    min_count: int = 5
    """Words that occur less often are left out."""
    max_vocab: int | None = None
    """Keep at most this many words, the most frequent."""
    errors: Literal["strict", "replace"] = "strict"
    """On bytes that are not UTF-8, or tokens beyond 64 KiB: stop, or replace and go on."""

    threads: int = 0
    """Threads; 0 takes all cores. With 1 thread, equal seeds give bit-identical vectors."""
    reproducible: int = 0
    """Let so many workers (1, 2, 4, 8, ...) do the work, with tables of their own that are brought together in a fixed
    order: equal seeds give bit-identical vectors for any number of threads, and of processes that share the workers. On
    the CPU. 0: as fast as can be."""
    seed: int = 1
    """Seed of every random number."""
    device: Literal["cpu", "cuda", "auto"] = "auto"
    """Where to train; auto is cuda where there is a device and the CUDA kernels were built."""
    sentences_in_flight: int = 0
    """Sentences (glove: cells) that a GPU trains at the same time; 0 finds a number. 1 gives the CPU's vectors with 1
    thread (fasttext: nearly)."""
    weight_dtype: Literal["float32", "bfloat16"] = "float32"
    """Of the tables while they are trained; bfloat16, with stochastic rounding, on a GPU only."""
    probe: str = ""
    """Words, separated by commas, whose neighbours are shown after each epoch."""
    probe_pairs: str = ""
    """Pairs of words, king:queen,good:bad, whose similarity is recorded while training."""
    tensorboard: str | None = None
    """Directory to write TensorBoard's curves, neighbours and projector to."""
    cache_dir: str | None = None
    """Where encoded corpora are kept (default: $W2V_EXT_CACHE or ~/.cache/w2v_ext)."""
    checkpoint_minutes: float = 10.0
    """Save a checkpoint this often; 0 saves only when interrupted."""
    checkpoint_words: int = 0
    """Save a checkpoint after so many words of the text as well; 0 goes by the clock alone."""
    checkpoint_keep: int = 1
    """How many checkpoints to keep: the newest and those before it."""
    sync_every: int = 0
    """With torchrun: words that each process trains on between two exchanges of rows; 0 finds a number."""

    def __post_init__(self) -> None:
        """Check every setting."""
        self._check_texts()
        highest = {"dim": 2**20, "window": 10_000, "negative": 1000, "epochs": 2**31, "min_count": 2**62}
        for name, high in highest.items():
            self._check_integer(name, 1, high)
        SubwordSettings(self.min_n, self.max_n, self.buckets)
        self._check_integer("threads", 0, 4096)
        self._check_integer("sentences_in_flight", 0, 2**20)
        self._check_integer("checkpoint_words", 0, 2**62)
        self._check_integer("checkpoint_keep", 1, 1000)
        self._check_integer("sync_every", 0, 2**40)
        self._check_integer("seed", 0, 2**63 - 1)
        self._check_integer("batch_size", 1, 2**24)
        self._check_integer("reproducible", 0, 64)
        if self.reproducible & (self.reproducible - 1):
            raise ValueError(f"reproducible: expected 0 or a power of two, got {self.reproducible}")
        if self.max_vocab is not None:
            self._check_integer("max_vocab", 2, 2**31)
        for name, low in (
            ("lr", None),
            ("sample", 0),
            ("noise_power", 0),
            ("x_max", None),
            ("alpha", 0),
            ("count_memory", 2**-10),
            ("checkpoint_minutes", 0),
            ("momentum", 0),
            ("weight_decay", 0),
            ("clip_norm", 0),
            ("max_norm", 0),
        ):
            self._check_number(name, low)
        if self.momentum >= 1:
            raise ValueError(f"momentum: expected a number in [0, 1), got {self.momentum!r}")
        if self.momentum > 0 and self.optimizer != "sgd":
            raise ValueError(f"momentum: expected 0 with optimizer = {self.optimizer}, got {self.momentum!r}")
        for name, choices in (
            ("model", ("skipgram", "cbow", "fasttext", "fasttext-cbow", "glove")),
            ("loss", ("ns", "hs", "softmax")),
            ("vectors", ("sum", "in")),
            ("optimizer", ("sgd", "adagrad", "rowwise-adagrad", "adam")),
            ("tokenizer", ("whitespace", "word", "char", "jieba")),
            ("errors", ("strict", "replace")),
            ("lock", ("nothing", "intersect", "old")),
            ("device", ("cpu", "cuda", "auto")),
            ("weight_dtype", ("float32", "bfloat16")),
        ):
            if getattr(self, name) not in choices:
                raise ValueError(f"{name}: expected one of {', '.join(choices)}, got {getattr(self, name)!r}")
        for name in ("lowercase", "cbow_mean", "cbow_divide_gradient"):
            if not isinstance(getattr(self, name), bool):
                raise ValueError(f"{name}: expected true or false, got {getattr(self, name)!r}")
        for name, models in MODELS_OF_A_SETTING.items():
            value = getattr(self, name)
            if self.model not in models and value != getattr(TrainConfig, name):
                known = " or ".join(filter(None, (", ".join(models[:-1]), models[-1])))
                raise ValueError(f"{name}: only for model = {known}, got {value!r} with {self.model!r}")
        if self.reproducible and self.device == "cuda":
            raise ValueError(f"device: expected cpu or auto with reproducible = {self.reproducible}, got 'cuda'")

    def _check_texts(self) -> None:
        corpus = (self.corpus,) if isinstance(self.corpus, (str, os.PathLike)) else self.corpus
        if not isinstance(corpus, (list, tuple)) or not all(isinstance(path, (str, os.PathLike)) for path in corpus):
            raise ValueError(f"corpus: expected paths, got {self.corpus!r}")
        object.__setattr__(self, "corpus", tuple(os.fspath(path) for path in corpus))
        if isinstance(self.probe, (list, tuple)) and all(isinstance(word, str) for word in self.probe):
            object.__setattr__(self, "probe", ",".join(self.probe))
        if not isinstance(self.probe, str):
            raise ValueError(f"probe: expected words separated by commas, got {self.probe!r}")
        if isinstance(self.probe_pairs, (list, tuple)) and all(isinstance(pair, str) for pair in self.probe_pairs):
            object.__setattr__(self, "probe_pairs", ",".join(self.probe_pairs))
        if not isinstance(self.probe_pairs, str) or any(
            len(pair) != 2 or not all(pair) for pair in self.probe_word_pairs
        ):
            raise ValueError(f"probe_pairs: expected pairs like king:queen,good:bad, got {self.probe_pairs!r}")
        for name in ("out", "cache_dir", "tensorboard", "continue_from", "intersect"):
            value = getattr(self, name)
            if name != "out" and value is None:
                continue
            if not isinstance(value, (str, os.PathLike)) or not os.fspath(value):
                raise ValueError(f"{name}: expected a path, got {value!r}")
            object.__setattr__(self, name, os.fspath(value))

    def _check_integer(self, name: str, low: int, high: int) -> None:
        value = getattr(self, name)
        if isinstance(value, bool) or not isinstance(value, int) or value < low:
            raise ValueError(f"{name}: expected an integer >= {low}, got {value!r}")
        if value > high:
            raise ValueError(f"{name}: expected an integer <= {high}, got {value!r}")

    def _check_number(self, name: str, low: float | None) -> None:
        value = getattr(self, name)
        number = isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
        if not number or (value <= 0 if low is None else value < low):
            raise ValueError(f"{name}: expected a number {'> 0' if low is None else f'>= {low}'}, got {value!r}")

    @property
    def is_batched(self) -> bool:
        """Whether an optimiser steps the rows, a batch at a time, and no epoch kernel does."""
        shortening = self.momentum, self.weight_decay, self.clip_norm, self.max_norm
        return self.optimizer != "sgd" or any(value > 0 for value in shortening)

    @property
    def num_threads(self) -> int:
        """Threads to use: ``threads``, or every core this process may run on; torchrun's processes share them."""
        if self.threads:
            return self.threads
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        return max(1, cores // int(os.environ.get("LOCAL_WORLD_SIZE", "1")))

    @property
    def probe_words(self) -> list[str]:
        """The probe words as a list."""
        return [word.strip() for word in self.probe.split(",") if word.strip()]

    @property
    def probe_word_pairs(self) -> list[tuple[str, ...]]:
        """The probe pairs as tuples of two words."""
        pairs = (pair.strip() for pair in self.probe_pairs.split(","))
        return [tuple(word.strip() for word in pair.split(":")) for pair in pairs if pair]

    def to_dict(self) -> dict[str, Any]:
        """The settings as JSON values; :meth:`from_dict` reads them back."""
        return {key: list(value) if isinstance(value, tuple) else value for key, value in asdict(self).items()}

    @classmethod
    def for_model(cls, model: str, **settings: Any) -> TrainConfig:
        """A configuration with the usual settings of a model where none are given: GloVe's window, epochs and lr."""
        return cls(**{"model": model, **DEFAULTS_OF_A_MODEL.get(str(model), {}), **settings})

    @classmethod
    def from_dict(cls, settings: dict[str, Any], source: str = "settings") -> TrainConfig:
        """Make a configuration from a mapping, as :meth:`for_model`; unknown names are errors that name ``source``."""
        known = [field.name for field in fields(cls)]
        for name in settings:
            if name not in known:
                raise ValueError(f"{source}: unknown setting {name!r}; known: {', '.join(known)}")
        return cls.for_model(**{"model": cls.model, **settings})

    @classmethod
    def from_file(cls, path: str | Path, **settings: Any) -> TrainConfig:
        """Read settings from a YAML or JSON file, as :func:`read_settings`; those given here win over the file's."""
        return cls.from_dict({**read_settings(path), **settings}, f"config {path}")

    def changed_settings(self, other: TrainConfig) -> list[str]:
        """Names of the settings that shape the result and differ between the two."""
        return [
            field.name
            for field in fields(self)
            if field.name not in SETTINGS_OF_THE_MACHINE and getattr(self, field.name) != getattr(other, field.name)
        ]


def read_settings(path: str | Path) -> dict[str, Any]:
    """Read what a YAML or JSON file (a model's ``config.json`` is one) sets; dashes in names are allowed.

    Raises:
        ValueError: it holds no mapping of names to values. What they are is not checked.
    """
    load, failure = (parse_json, (ValueError,)) if str(path).endswith(".json") else _yaml_reader()
    try:
        loaded = load(Path(path).read_text(encoding="utf-8"))
    except failure as error:
        raise ValueError(f"config: {path} is not valid YAML or JSON: {error}") from error
    if loaded is None:
        loaded = {}
    if not isinstance(loaded, dict):
        raise ValueError(f"config: expected {path} to hold a mapping of settings, got {type(loaded).__name__}")
    return {name: _number(value) for name, value in flat_settings(loaded, path).items()}


def flat_settings(loaded: dict[Any, Any], path: str | Path) -> dict[str, Any]:
    """The settings of a file, with underscores in their names.

    Raises:
        ValueError: a value that is neither a scalar nor a list of scalars. It is not shown: a few lines of YAML can
            stand for more nested lists than there is memory to write them down.
    """
    for name, value in loaded.items():
        inside = value if isinstance(value, (list, tuple, set)) else [value]
        if any(isinstance(item, (dict, list, tuple, set)) for item in inside):
            raise ValueError(f"config: {path}: {name}: expected a value or a list of values, got something nested")
    return {str(name).replace("-", "_"): value for name, value in loaded.items()}


def _yaml_reader() -> tuple[Callable[[str], Any], tuple[type[Exception], ...]]:
    yaml = import_package("yaml", "PyYAML", "to read a YAML file (or write it as .json)")
    return yaml.safe_load, (yaml.YAMLError, ValueError, RecursionError)  # a date of month 13 is a ValueError


def _number(value: Any) -> Any:
    """YAML 1.1 reads 1e-3, which lacks the dot, as a string: take it as the number that it is."""
    return float(value) if isinstance(value, str) and re.fullmatch(r"[-+]?\d+[eE][-+]?\d+", value) else value
