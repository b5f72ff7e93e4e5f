"""Word embeddings in PyTorch at the speed of the hardware.

>>> import w2v_ext
>>> loss = w2v_ext.negative_sampling_loss(in_weight, out_weight, center, pos, neg)   # the fused op
>>> corpus = w2v_ext.prepare_corpus("text.txt")                                      # text, encoded once
>>> vectors = w2v_ext.Trainer(corpus, w2v_ext.TrainConfig()).fit().keyed_vectors()   # the direct path
>>> w2v_ext.KeyedVectors.load("vectors").most_similar("king")                        # what comes out

On the command line: ``python -m w2v_ext.train --corpus text.txt --out vectors``.
"""

from . import reference
from .analysis import analyze_embedding_quality
from .config import TrainConfig
from .corpus import Corpus, CorpusOptions, corpus_from_sequences, prepare_corpus
from .keyedvectors import KeyedVectors
from .models import SkipGramNegSampling
from .ops import alias_table, cpu_kernels, negative_sampling_loss, sample_negatives, sgns_step_
from .trainer import Trainer
from .vocab import Vocabulary

__version__ = "0.1.0"

__all__ = [
    "Corpus",
    "CorpusOptions",
    "KeyedVectors",
    "SkipGramNegSampling",
    "TrainConfig",
    "Trainer",
    "Vocabulary",
    "alias_table",
    "analyze_embedding_quality",
    "corpus_from_sequences",
    "cpu_kernels",
    "negative_sampling_loss",
    "prepare_corpus",
    "reference",
    "sample_negatives",
    "sgns_step_",
]
