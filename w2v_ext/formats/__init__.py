"""Reading and writing vectors in the formats of this field: word2vec, GloVe, fastText, safetensors and others.

>>> table = formats.load_vectors("glove.6B.100d.txt")            # any format, told by what is in the file
>>> kv = w2v_ext.KeyedVectors(*table)                            # words, vectors, counts
>>> formats.save_vectors("vectors.safetensors", *table)          # told by the suffix, or named

`FORMATS` lists them. Nothing here unpickles anything, and nothing believes a header: memory grows with the data that
are really there. Files are written under a temporary name and renamed when complete. ``python -m w2v_ext.convert`` goes
from any of them to any other.
"""

from ..files import FormatError
from .collect import ReadOptions
from .counts import read_counts, write_counts
from .fasttext import FastTextModel, load_fasttext_bin
from .registry import FORMATS, Format, find_format, format_for_writing, load_vectors, save_vectors, sniff
from .rows import load_word2vec_format
from .table import VectorTable
from .writing import save_word2vec_format

__all__ = [
    "FORMATS",
    "FastTextModel",
    "Format",
    "FormatError",
    "ReadOptions",
    "VectorTable",
    "find_format",
    "format_for_writing",
    "load_fasttext_bin",
    "load_vectors",
    "load_word2vec_format",
    "read_counts",
    "save_vectors",
    "save_word2vec_format",
    "sniff",
    "write_counts",
]
