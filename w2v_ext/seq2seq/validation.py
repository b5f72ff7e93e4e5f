"""How good the model is on the validation text: loss per token, and BLEU of greedy translations."""

from __future__ import annotations

import warnings
from dataclasses import dataclass

import torch

from .config import Seq2SeqConfig
from .corpus import TrainingText
from .data import make_batch, make_batches
from .decoding import SearchOptions
from .loss import chunked_cross_entropy
from .model import Seq2SeqModel
from .translate import Translator

_BATCH_TOKENS = 8000


@dataclass(frozen=True)
class Validation:
    """The result of a validation; all None where there is no validation text.

    Attributes:
        loss: cross-entropy per target token, without label smoothing, in nats.
        bleu: sacreBLEU of greedy translations, on lower-cased text where the model's text is; None without sacrebleu.
        translations: greedy, line by line.
    """

    loss: float | None
    bleu: float | None
    translations: list[str]


def bleu_tokenizer(lines: list[str]) -> str:
    """sacreBLEU's tokenizer for these references: zh where half of the letters are Chinese, else 13a."""
    letters = [c for line in lines[:1000] for c in line if c.isalpha()]
    chinese = sum("\u4e00" <= c <= "\u9fff" for c in letters)
    return "zh" if letters and 2 * chinese >= len(letters) else "13a"


@torch.no_grad()
def validation_loss(model: Seq2SeqModel, text: TrainingText) -> float:
    """Cross-entropy per target token of the validation pairs, in nats; the model in evaluation mode."""
    pairs = text.valid
    device = next(model.parameters()).device
    total, tokens = 0.0, 0
    for rows in make_batches(pairs.src.lengths, pairs.tgt.lengths + 1, _BATCH_TOKENS):
        batch = make_batch(pairs, rows).to(device)
        out = model.features(batch.src, batch.src_lengths, batch.tgt_in)
        decoder = model.decoder
        total += chunked_cross_entropy(
            out.features, decoder.output_weight, decoder.output_bias, batch.tgt_out, reduction="sum"
        ).item()
        tokens += batch.num_tokens
    return total / tokens


def validate(model: Seq2SeqModel, text: TrainingText, config: Seq2SeqConfig, dtype: torch.dtype) -> Validation:
    """Judge the model on the validation text, at the precision it is trained with; draws no random number."""
    if text.valid is None:
        return Validation(None, None, [])
    was_training = model.training
    model.eval()
    try:
        with torch.autocast(next(model.parameters()).device.type, dtype, enabled=dtype != torch.float32):
            loss = validation_loss(model, text)
            translator = Translator(model, text.files, SearchOptions(beam=1, alpha=0.0))
            translations = [t.text for t in translator.translate(text.valid_lines[0])]
    finally:
        model.train(was_training)
    return Validation(loss, _bleu(translations, text.valid_lines[1], config.lowercase), translations)


def _bleu(translations: list[str], references: list[str], lowercase: bool) -> float | None:
    try:
        from sacrebleu.metrics import BLEU
    except ImportError:
        warnings.warn("without sacrebleu there is no BLEU: pip install 'w2v_ext[seq2seq]'", stacklevel=2)
        return None
    metric = BLEU(lowercase=lowercase, tokenize=bleu_tokenizer(references), force=True)
    return metric.corpus_score(translations, [references]).score
