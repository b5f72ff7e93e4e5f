"""LSTM sequence-to-sequence: translation with word vectors that may come from this library.

>>> from w2v_ext.seq2seq import LSTMDecoder, LSTMEncoder, Seq2SeqModel, Translator
>>> model = Seq2SeqModel(LSTMEncoder(10_000, 256, 512), LSTMDecoder(8_000, 256, 512))     # plain modules
>>> Translator.load("translation").translate(["Zwei Hunde laufen durch den Schnee."])     # a trained one

On the command line: ``python -m w2v_ext.seq2seq train|translate|evaluate|attention|split``.
"""

from . import reference
from .attention import BahdanauAttention, LuongAttention, Memory
from .config import Seq2SeqConfig, build_model
from .corpus import prepare_text
from .decoder import DecoderOutput, DecoderState, LSTMDecoder
from .decoding import Hypothesis, SearchOptions, search
from .encoder import EncoderOutput, LSTMEncoder
from .files import TextFiles, load_model
from .loss import chunked_cross_entropy, sampled_loss
from .model import Seq2SeqModel
from .tokenizers import Tokenizer, train_tokenizer
from .training import Seq2SeqTrainer
from .translate import Translation, Translator

__all__ = [
    "BahdanauAttention",
    "DecoderOutput",
    "DecoderState",
    "EncoderOutput",
    "Hypothesis",
    "LSTMDecoder",
    "LSTMEncoder",
    "LuongAttention",
    "Memory",
    "SearchOptions",
    "Seq2SeqConfig",
    "Seq2SeqModel",
    "Seq2SeqTrainer",
    "TextFiles",
    "Tokenizer",
    "Translation",
    "Translator",
    "build_model",
    "chunked_cross_entropy",
    "load_model",
    "prepare_text",
    "reference",
    "sampled_loss",
    "search",
    "train_tokenizer",
]
