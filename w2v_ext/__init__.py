"""Word embeddings in PyTorch at the speed of the hardware.

>>> import w2v_ext
>>> loss = w2v_ext.negative_sampling_loss(in_weight, out_weight, center, pos, neg)   # the fused op
>>> corpus = w2v_ext.prepare_corpus("text.txt")                                      # text, encoded once
>>> vectors = w2v_ext.Trainer(corpus, w2v_ext.TrainConfig()).fit().keyed_vectors()   # the direct path
>>> w2v_ext.KeyedVectors.load("vectors").most_similar("king")                        # what comes out

On the command line: ``python -m w2v_ext.train --corpus text.txt --out vectors``.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from . import optim, reference
from .config import TrainConfig
from .corpus import Corpus, CorpusOptions, corpus_from_sequences, prepare_corpus
from .keyedvectors import KeyedVectors
from .models import SkipGramNegSampling
from .ops import alias_table, cpu_kernels, negative_sampling_loss, sample_negatives, sgns_step_
from .trainer import Trainer
from .vocab import Vocabulary

if TYPE_CHECKING:
    from .analysis import analyze_embedding_quality
    from .approximate import ApproximateIndex
    from .classify import TextClassifier
    from .embeddings import init_embedding_, pretrained_embedding
    from .fasttext_vectors import FastTextVectors
    from .formats import load_vectors, save_vectors
    from .page import write_map_page
    from .plots import plot_map
    from .search import DocumentIndex, build_index

__version__ = "0.1.0"

__all__ = [
    "ApproximateIndex",
    "Corpus",
    "CorpusOptions",
    "DocumentIndex",
    "FastTextVectors",
    "KeyedVectors",
    "SkipGramNegSampling",
    "TextClassifier",
    "TrainConfig",
    "Trainer",
    "Vocabulary",
    "alias_table",
    "analyze_embedding_quality",
    "build_index",
    "corpus_from_sequences",
    "cpu_kernels",
    "init_embedding_",
    "load_vectors",
    "negative_sampling_loss",
    "optim",
    "plot_map",
    "prepare_corpus",
    "pretrained_embedding",
    "reference",
    "sample_negatives",
    "save_vectors",
    "sgns_step_",
    "write_map_page",
]

_LATER = {  # name -> the module it is imported from when it is first asked for: training needs none of them
    "ApproximateIndex": "approximate",
    "DocumentIndex": "search",
    "FastTextVectors": "fasttext_vectors",
    "TextClassifier": "classify",
    "analyze_embedding_quality": "analysis",
    "build_index": "search",
    "init_embedding_": "embeddings",
    "load_vectors": "formats",
    "plot_map": "plots",
    "pretrained_embedding": "embeddings",
    "save_vectors": "formats",
    "write_map_page": "page",
}


def __getattr__(name: str) -> Any:
    if name not in _LATER:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = globals()[name] = getattr(import_module(f".{_LATER[name]}", __name__), name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
