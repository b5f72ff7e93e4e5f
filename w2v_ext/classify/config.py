"""The settings of a text classifier: one dataclass, from which the command line is made."""

from __future__ import annotations

import math
import os
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal

from ..config import TrainConfig


@dataclass(frozen=True)
class ClassifierConfig:
    """Settings of ``python -m w2v_ext.classify train``; names and defaults are fastText's where it has them.

    Raises:
        ValueError: a setting of the wrong type or out of range; the message names it, the rule and the value.
    """

    dim: int = 100
    """Dimension of the vectors."""
    epochs: int = 5
    """Passes over the text, each in an order of its own."""
    lr: float = 0.1
    """Learning rate at the start; falls linearly to 0."""
    word_ngrams: int = 2
    """Longest run of words that has a vector of its own; 1: words only, their order is lost."""
    min_n: int = 0
    """Shortest subword, in characters."""
    max_n: int = 0
    """Longest subword; 0: no subwords."""
    buckets: int = 2_000_000
    """Word n-grams and subwords are hashed into so many; only those that occur take memory."""
    loss: Literal["softmax", "hs", "ova"] = "softmax"
    """softmax: one label a line; hs: the same by a tree, for thousands of labels; ova: one sigmoid per label, for lines
    with several."""
    min_count: int = 1
    """Words that occur less often have no vector of their own."""
    min_count_label: int = 0
    """Labels that occur less often are left out."""
    label: str = "__label__"
    """Tokens that begin like this are labels."""
    pretrained: str | None = None
    """Vectors to begin with: a model directory, or a file of any format that can be read."""
    errors: Literal["strict", "replace"] = "strict"
    """On bytes that are not UTF-8, or tokens beyond 64 KiB: stop, or replace and go on."""
    threads: int = 0
    """Threads; 0 takes all cores. With 1 thread, equal seeds give bit-identical models."""
    device: Literal["cpu", "cuda"] = "cpu"
    """Where to train."""
    lines_in_flight: int = 0
    """Lines that a GPU trains at the same time; 0 takes 64. 1 gives the CPU's model with 1 thread."""
    seed: int = 1
    """Seed of every random number."""

    def __post_init__(self) -> None:
        """Check every setting."""
        for name, low, high in (
            ("dim", 1, 2**20),
            ("epochs", 1, 2**31 - 1),
            ("word_ngrams", 1, 100),
            ("min_n", 0, 64),
            ("max_n", 0, 64),
            ("buckets", 1, 2**30),
            ("min_count", 1, 2**62),
            ("min_count_label", 0, 2**62),
            ("threads", 0, 4096),
            ("lines_in_flight", 0, 2**20),
            ("seed", 0, 2**63 - 1),
        ):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
                raise ValueError(f"{name}: expected an integer from {low} to {high}, got {value!r}")
        lr = self.lr
        if isinstance(lr, bool) or not isinstance(lr, (int, float)) or not (math.isfinite(lr) and lr > 0):
            raise ValueError(f"lr: expected a number > 0, got {lr!r}")
        for name, choices in (
            ("loss", ("softmax", "hs", "ova")),
            ("errors", ("strict", "replace")),
            ("device", ("cpu", "cuda")),
        ):
            if getattr(self, name) not in choices:
                raise ValueError(f"{name}: expected one of {', '.join(choices)}, got {getattr(self, name)!r}")
        if self.min_n > self.max_n:
            raise ValueError(f"min_n: expected at most max_n = {self.max_n}, got {self.min_n}")
        if (
            not isinstance(self.label, str)
            or not self.label
            or any(c.isspace() or "\ud800" <= c <= "\udfff" for c in self.label)
        ):
            raise ValueError(f"label: expected a prefix without white space, got {self.label!r}")
        if self.pretrained is not None:
            if not isinstance(self.pretrained, (str, os.PathLike)) or not os.fspath(self.pretrained):
                raise ValueError(f"pretrained: expected a path, got {self.pretrained!r}")
            object.__setattr__(self, "pretrained", os.fspath(self.pretrained))

    @property
    def num_threads(self) -> int:
        """Threads to use: ``threads``, or every core this process may run on."""
        return TrainConfig(threads=self.threads).num_threads

    def to_dict(self) -> dict[str, Any]:
        """The settings as JSON values; :meth:`from_dict` reads them back."""
        return asdict(self)

    @classmethod
    def from_dict(cls, settings: dict[str, Any], source: str = "settings") -> ClassifierConfig:
        """Make a configuration from a mapping; unknown names are errors that name ``source``."""
        known = [field.name for field in fields(cls)]
        for name in settings:
            if name not in known:
                raise ValueError(f"{source}: unknown setting {name!r}; known: {', '.join(known)}")
        return cls(**settings)
