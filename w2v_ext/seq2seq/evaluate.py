"""BLEU and chrF of translations, by sacrebleu, with the signatures that say how they were counted."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from .validation import bleu_tokenizer


@dataclass(frozen=True)
class Score:
    """A number and how it was counted."""

    name: str
    score: float
    signature: str
    details: str


def _import_metrics() -> Any:
    try:
        from sacrebleu import metrics
    except ImportError:
        raise ImportError("evaluate needs the package sacrebleu: pip install 'w2v_ext[seq2seq]'") from None
    return metrics


def score_translations(
    translations: Sequence[str], references: Sequence[str], *, tokenize: str | None = None
) -> list[Score]:
    """Score translations against one reference each.

    Args:
        translations, references: lines, in the same order.
        tokenize: sacreBLEU's tokenizer; by default "zh" for Chinese references and "13a" for others.

    Returns:
        BLEU, BLEU of the lower-cased text (``-lc``) and chrF.

    Raises:
        ValueError: different numbers of lines (both are named), or none; an unknown tokenizer.
        ImportError: sacrebleu is missing; the extra is named.
    """
    metrics = _import_metrics()
    if len(translations) != len(references):
        raise ValueError(
            f"references: expected {len(translations):,} lines, one a translation, got {len(references):,}"
        )
    if not references:
        raise ValueError("references: expected at least one line, got none")
    tokenize = bleu_tokenizer(list(references)) if tokenize is None else tokenize
    known = list(metrics.BLEU.TOKENIZERS)
    if tokenize not in known:
        raise ValueError(f"tokenize: expected one of {', '.join(known)}, got {tokenize!r}")
    scores = []
    for name, metric in (
        ("BLEU", metrics.BLEU(tokenize=tokenize, force=True)),
        ("BLEU -lc", metrics.BLEU(tokenize=tokenize, lowercase=True, force=True)),
        ("chrF", metrics.CHRF()),
    ):
        result = metric.corpus_score(list(translations), [list(references)])
        details = str(result).split(" ", 3)[3] if name.startswith("BLEU") else ""  # n-gram precisions, brevity
        scores.append(Score(name, float(result.score), str(metric.get_signature()), details))
    return scores


def as_dicts(scores: Sequence[Score]) -> list[dict]:
    """The scores as JSON values."""
    return [asdict(score) for score in scores]
