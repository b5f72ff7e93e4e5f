"""Word vectors as ``nn.Embedding``: pretrained ones for any vocabulary, initial values, shorter rows."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import nn

from .formats.fasttext import FastTextModel
from .formats.table import VectorTable
from .vocab import Vocabulary

Init = Literal[
    "word2vec", "uniform", "normal", "xavier_uniform", "xavier_normal", "kaiming_uniform", "kaiming_normal", "zeros"
]
INITS: tuple[str, ...] = Init.__args__

SubwordHook = Callable[[str], np.ndarray | None]


def init_embedding_(
    weight: torch.Tensor,
    init: Init = "word2vec",
    *,
    scale: float | None = None,
    padding_idx: int | None = None,
    generator: torch.Generator | None = None,
) -> torch.Tensor:
    """Fill an embedding's weight (V, D) with initial values, in place, and return it.

    Args:
        weight: (V, D), any float dtype and device.
        init: one of `INITS`:

            - `word2vec`: uniform in ±0.5 / D, as word2vec.c begins;
            - `uniform`: uniform in ±scale, by default 0.1;
            - `normal`: normal with standard deviation scale, by default 1 / √D (rows of length about 1);
            - `xavier_uniform`, `xavier_normal` (Glorot and Bengio 2010), `kaiming_uniform`, `kaiming_normal` (He et
              al. 2015, for ReLU): `torch.nn.init`, with fan in D and fan out V;
            - `zeros`.
        scale: for `uniform` and `normal`.
        padding_idx: a row that is set to zero.
        generator: of random numbers.

    Raises:
        ValueError: an unknown `init`, a `scale` that it does not take, a weight that is not 2-D.
    """
    if weight.dim() != 2:
        raise ValueError(f"weight: expected shape (V, D), got {tuple(weight.shape)}")
    if init not in INITS:
        raise ValueError(f"init: expected one of {', '.join(INITS)}, got {init!r}")
    if scale is not None and (init not in ("uniform", "normal") or not (math.isfinite(scale) and scale >= 0)):
        raise ValueError(f"scale: expected a number >= 0 with init uniform or normal, got {scale} with {init!r}")
    dim = weight.shape[1]
    with torch.no_grad():
        if init == "word2vec":
            weight.uniform_(-0.5 / dim, 0.5 / dim, generator=generator)
        elif init == "uniform":
            bound = 0.1 if scale is None else scale
            weight.uniform_(-bound, bound, generator=generator)
        elif init == "normal":
            weight.normal_(0, dim**-0.5 if scale is None else scale, generator=generator)
        elif init == "zeros":
            weight.zero_()
        elif init.startswith("xavier"):
            getattr(nn.init, f"{init}_")(weight, generator=generator)
        else:
            getattr(nn.init, f"{init}_")(weight, nonlinearity="relu", generator=generator)
        if padding_idx is not None:
            weight[padding_idx] = 0
    return weight


def limit_norms(vectors: Any, max_norm: float) -> Any:
    """Return vectors (V, D) with those longer than `max_norm` shortened to it, as `nn.Embedding(max_norm=...)` does.

    Args:
        vectors: a tensor or an array; the result is of the same kind and dtype.
        max_norm: Euclidean length, > 0.

    Raises:
        ValueError: `max_norm` is not a number > 0, or `vectors` is not 2-D.
    """
    if not (math.isfinite(max_norm) and max_norm > 0):
        raise ValueError(f"max_norm: expected a number > 0, got {max_norm}")
    tensor = torch.as_tensor(vectors)
    if tensor.dim() != 2:
        raise ValueError(f"vectors: expected shape (V, D), got {tuple(tensor.shape)}")
    norms = torch.linalg.vector_norm(tensor.float(), dim=1, keepdim=True)
    limited = torch.where(norms > max_norm, (tensor * (max_norm / norms)).to(tensor.dtype), tensor)
    return limited if isinstance(vectors, torch.Tensor) else limited.numpy()


@dataclass(frozen=True)
class PretrainedEmbedding:
    """What `pretrained_embedding` made.

    Attributes:
        embedding: (V, D), row i for word i of the vocabulary.
        found: words that have a pretrained vector.
        composed: words whose vector was made of their subwords.
        missing: the others, which have initial values; `pad` and `unk` are in none of the three.
    """

    embedding: nn.Embedding
    found: list[str]
    composed: list[str]
    missing: list[str]

    @property
    def coverage(self) -> float:
        """The share of words that have a pretrained or composed vector."""
        known = len(self.found) + len(self.composed)
        return known / max(1, known + len(self.missing))


def pretrained_embedding(
    vocabulary: Vocabulary | Sequence[str],
    source: Any,
    *,
    init: Init = "normal",
    scale: float | None = None,
    pad: str | None = "<PAD>",
    unk: str | None = "<UNK>",
    unk_vector: Literal["zero", "mean"] = "zero",
    lowercase: bool = False,
    subwords: FastTextModel | SubwordHook | None = None,
    freeze: bool = False,
    sparse: bool = False,
    max_norm: float | None = None,
    seed: int = 0,
) -> PretrainedEmbedding:
    """Make an `nn.Embedding` for a vocabulary from pretrained vectors.

    Args:
        vocabulary: V distinct words; row i is for word i.
        source: the vectors: `KeyedVectors`, a `formats.VectorTable`, a `formats.FastTextModel`, or a mapping from words
            to vectors (D,).
        init: how words begin that have no vector; see `init_embedding_`.
        scale: of it; None takes, for `normal` and `uniform`, the standard deviation of the found vectors (and √3 of
            it, which is the same for a uniform distribution).
        pad: the padding word; if it is in the vocabulary, its row is zero and stays so (`padding_idx`).
        unk: the word for unknown words; its row is `unk_vector`, unless `source` has a vector for it.
        unk_vector: `zero`, or the `mean` of the found vectors.
        lowercase: look for words that are not found in lower case as well.
        subwords: where vectors of other words come from: a `FastTextModel`, or a function from a word to a vector (D,),
            or None where it knows none. A `FastTextModel` as `source` does this by itself.
        freeze: keep the vectors as they are in training.
        sparse: sparse gradients.
        max_norm: rows longer than this are shortened, now and whenever they are looked up.
        seed: of the initial values.

    Raises:
        ValueError: a word twice in the vocabulary, vectors of different lengths or with NaN or infinity, or no word
            found.
    """
    words = list(vocabulary.words if isinstance(vocabulary, Vocabulary) else vocabulary)
    row_of = {word: i for i, word in enumerate(words)}
    if len(row_of) != len(words):
        twice = next(word for i, word in enumerate(words) if row_of[word] != i)
        raise ValueError(f"vocabulary: expected each word once, got {twice!r} twice")
    if unk_vector not in ("zero", "mean"):
        raise ValueError(f"unk_vector: expected zero or mean, got {unk_vector!r}")
    if subwords is None and isinstance(source, FastTextModel):
        subwords = source
    padding_idx = row_of.get(pad) if pad is not None else None
    wanted = [word for word in words if word != pad]

    names, found_vectors = _look_up(source, wanted, lowercase)
    others = [word for word in wanted if word not in names]
    composed, composed_vectors = _compose(subwords, [word for word in others if word != unk])
    dims = {vector.shape for vector in (*found_vectors, *composed_vectors)}
    if not dims:
        raise ValueError(f"vocabulary: none of its {len(words)} words has a vector in source")
    if len(dims) > 1 or len(next(iter(dims))) != 1:
        raise ValueError(f"source: expected vectors of one length (D,), got shapes {sorted(dims)}")

    known = torch.from_numpy(np.stack([*found_vectors, *composed_vectors]).astype(np.float32))  # (found, D)
    if len(wrong := (~known.isfinite().all(1)).nonzero()):
        word = [*names, *composed][int(wrong[0])]
        raise ValueError(f"source: expected finite vectors, got one of {word!r} that is not")
    weight = torch.empty(len(words), known.shape[1])
    if scale is None and init in ("normal", "uniform"):
        scale = float(known.std(correction=0)) * (3**0.5 if init == "uniform" else 1)
    init_embedding_(weight, init, scale=scale, generator=torch.Generator().manual_seed(seed))
    if unk in row_of and unk not in names:
        weight[row_of[unk]] = known.mean(0) if unk_vector == "mean" else 0
    weight[[row_of[word] for word in (*names, *composed)]] = known
    if max_norm is not None:
        weight = limit_norms(weight, max_norm)
    if padding_idx is not None:
        weight[padding_idx] = 0
    embedding = nn.Embedding.from_pretrained(
        weight, freeze=freeze, padding_idx=padding_idx, sparse=sparse, max_norm=max_norm
    )
    apart = {unk, *names, *composed}
    missing = [word for word in others if word not in apart]
    return PretrainedEmbedding(embedding, [word for word in names if word != unk], composed, missing)


def _look_up(source: Any, words: list[str], lowercase: bool) -> tuple[dict[str, None], list[np.ndarray]]:
    """The words that `source` knows, in order, and their vectors."""
    if isinstance(source, FastTextModel):
        index, get = source.key_to_index, source.vector
    elif isinstance(source, VectorTable):
        index = {word: i for i, word in enumerate(source.words)}
        get = lambda word: source.vectors[index[word]]  # noqa: E731
    elif hasattr(source, "key_to_index"):
        index, get = source.key_to_index, lambda word: source.vectors[source.key_to_index[word]]
    elif isinstance(source, Mapping):
        index, get = source, lambda word: np.asarray(source[word])
    else:
        raise ValueError(
            f"source: expected KeyedVectors, VectorTable, FastTextModel or a mapping, got {type(source).__name__}"
        )
    names: dict[str, None] = {}
    vectors = []
    for word in words:
        name = word if word in index else word.lower() if lowercase else None
        if name in index:
            names[word] = None
            vectors.append(get(name))
    return names, vectors


def _compose(subwords: FastTextModel | SubwordHook | None, words: list[str]) -> tuple[list[str], list[np.ndarray]]:
    if subwords is None:
        return [], []
    composed, vectors = [], []
    for word in words:
        if isinstance(subwords, FastTextModel):
            vector = subwords.vector(word) if len(subwords.subword_rows([word])[0]) else None
        else:
            vector = subwords(word)
        if vector is not None:
            composed.append(word)
            vectors.append(np.asarray(vector))
    return composed, vectors
