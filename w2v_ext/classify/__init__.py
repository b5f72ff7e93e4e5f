"""Text classification as fastText does it, at the speed of the hardware.

>>> from w2v_ext.classify import TextClassifier
>>> model = TextClassifier(word_ngrams=2).fit("train.txt")             # lines: __label__good a film to remember
>>> model.predict("a film to remember", k=2)
>>> model.test("test.txt").precision

On the command line: ``python -m w2v_ext.classify train|test|predict``.
"""

from .classifier import FitState, Prediction, TextClassifier
from .config import ClassifierConfig
from .lines import Lines, encode_lines, read_lines, text_lines
from .report import LabelReport, Report

__all__ = [
    "ClassifierConfig",
    "FitState",
    "LabelReport",
    "Lines",
    "Prediction",
    "Report",
    "TextClassifier",
    "encode_lines",
    "read_lines",
    "text_lines",
]
