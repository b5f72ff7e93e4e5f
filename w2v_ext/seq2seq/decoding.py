"""Beam search over a batch; a beam of one is greedy."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from .encoder import EOS_ID, PAD_ID, SOS_ID
from .model import Seq2SeqModel


@dataclass(frozen=True)
class SearchOptions:
    """How translations are looked for.

    Attributes:
        beam: hypotheses kept for each sentence; 1 is greedy.
        alpha: a hypothesis' log probability is divided by ``((5 + length) / 6) ** alpha`` (Wu et al. 2016, eq. 14;
            length counts <EOS>); 0 does not.
        nbest: translations to return for each sentence, at most `beam`.
        max_len: longest translation in tokens; None: twice the source and 10.
        no_repeat: no sequence of so many words occurs twice in a translation; 0 allows all.

    Raises:
        ValueError: an option out of range.
    """

    beam: int = 5
    alpha: float = 1.0
    nbest: int = 1
    max_len: int | None = None
    no_repeat: int = 0

    def __post_init__(self) -> None:
        """Check every option."""
        for name, low in (("beam", 1), ("nbest", 1), ("no_repeat", 0), ("max_len", 1)):
            value = getattr(self, name)
            if name == "max_len" and value is None:
                continue
            if isinstance(value, bool) or not isinstance(value, int) or value < low:
                raise ValueError(f"{name}: expected an integer >= {low}, got {value!r}")
        if self.nbest > self.beam:
            raise ValueError(f"nbest: expected at most the beam, {self.beam}, got {self.nbest}")
        if not (math.isfinite(self.alpha) and self.alpha >= 0):
            raise ValueError(f"alpha: expected a number >= 0, got {self.alpha!r}")


@dataclass(frozen=True)
class Hypothesis:
    """A translation.

    Attributes:
        ids: words, without <EOS>.
        score: log probability (natural, <EOS> included) after the length penalty.
        attended: for each word the place in the source most looked at; None without attention.
    """

    ids: list[int]
    score: float
    attended: list[int] | None


def length_penalty(length: float, alpha: float) -> float:
    """``((5 + length) / 6) ** alpha``."""
    return ((5 + length) / 6) ** alpha


@torch.no_grad()
def search(
    model: Seq2SeqModel, src: Tensor, lengths: Tensor, options: SearchOptions | None = None
) -> list[list[Hypothesis]]:
    """Translate a batch; a sentence ends on its own, whatever the others do, and leaves the batch.

    A sentence is done once `beam` hypotheses have ended and none that is alive could still be better than the best
    `nbest` of them; the scores that are left to an alive one are bounded by the penalty at the greatest length.

    Args:
        model: in evaluation mode (its dropout is not touched here).
        src: (B, S) words, padded with 0; lengths: (B,).
        options: of the search.

    Returns:
        For each sentence its best hypotheses, best first. One that reached `max_len` without <EOS> counts as ended
        there; where fewer than `nbest` exist, fewer are given.
    """
    options = options or SearchOptions()
    batch, beam, device = src.shape[0], options.beam, src.device
    if batch == 0:
        return []
    limits = [options.max_len or 2 * int(n) + 10 for n in lengths]
    state, memory = model.encode(src, lengths)
    vocab_size = model.decoder.vocab_size
    ended: list[list[Hypothesis]] = [[] for _ in range(batch)]
    sentences = list(range(batch))  # those still searched
    tokens = torch.full((batch, 1), SOS_ID, dtype=torch.int64, device=device)
    scores = torch.zeros(
        batch, 1, dtype=torch.float64 if memory.values.dtype == torch.float64 else torch.float32, device=device
    )
    histories: list[list[tuple[list[int], list[int]]]] = [[([], [])] for _ in sentences]
    for step in range(1, max(limits) + 1):
        out = model.decoder.features(tokens.view(-1, 1), state, memory)
        log_p = model.decoder.logits(out.features[:, 0]).to(scores.dtype).log_softmax(-1)
        log_p[:, [PAD_ID, SOS_ID]] = float("-inf")
        log_p = log_p.view(len(sentences), -1, vocab_size)
        if options.no_repeat:
            _block_repeats(log_p, histories, options.no_repeat)
        width = log_p.shape[1]
        candidates = (scores[..., None] + log_p).flatten(1)  # (sentences, width x V)
        best, where = candidates.topk(min(2 * beam, candidates.shape[1]), 1)  # at most beam of them end in <EOS>
        looked = None if out.attention is None else out.attention[:, 0].argmax(-1).view(len(sentences), width).tolist()
        rows, next_tokens, next_scores, alive = [], [], [], []
        for i, (sentence, row_best, row_where) in enumerate(zip(sentences, best.tolist(), where.tolist(), strict=True)):
            kept = _advance(
                ended[sentence], histories[i], row_best, row_where, vocab_size, step, limits[sentence], options,
                None if looked is None else looked[i],
            )  # fmt: skip
            if _is_done(ended[sentence], kept, limits[sentence], options):
                continue
            while len(kept) < beam:  # fewer words than places: a hypothesis that can never win
                kept.append((float("-inf"), kept[0][1], EOS_ID, kept[0][3]))
            alive.append(i)
            next_scores.append([score for score, *_ in kept])
            rows += [i * width + origin for _, origin, _, _ in kept]
            next_tokens += [token for _, _, token, _ in kept]
            histories[i] = [history for *_, history in kept]
        if not alive:
            break
        if len(alive) < len(sentences):
            memory = memory.select(torch.tensor(alive, device=device))
        sentences, histories = [sentences[i] for i in alive], [histories[i] for i in alive]
        state = out.state.select(torch.tensor(rows, device=device))
        tokens = torch.tensor(next_tokens, device=device)
        scores = torch.tensor(next_scores, dtype=scores.dtype, device=device)
    order = lambda found: sorted(found, key=lambda h: -h.score)[: options.nbest]  # noqa: E731
    return [order(found) for found in ended]


def _advance(
    ended: list[Hypothesis],
    histories: list[tuple[list[int], list[int]]],
    scores: list[float],
    places: list[int],
    vocab_size: int,
    step: int,
    limit: int,
    options: SearchOptions,
    looked: list[int] | None,
) -> list[tuple[float, int, int, tuple[list[int], list[int]]]]:
    """Go through a sentence's candidates, best first: those that end go to `ended`, the others are returned.

    Like all of the beam, only the first `beam` candidates may end: one that is worse than as many others is not a
    hypothesis at all, and with a beam of one the search is greedy.
    """
    kept = []
    for rank, (score, place) in enumerate(zip(scores, places, strict=True)):
        if score == float("-inf") or len(kept) == options.beam:
            break
        origin, token = divmod(place, vocab_size)
        ids, attended = histories[origin]
        if token == EOS_ID:
            if rank < options.beam:
                found = None if looked is None else list(attended)
                ended.append(Hypothesis(list(ids), score / length_penalty(step, options.alpha), found))
            continue
        history = ([*ids, token], attended if looked is None else [*attended, looked[origin]])
        kept.append((score, origin, token, history))
    if step >= limit:
        for score, _, _, (ids, attended) in kept:
            ended.append(
                Hypothesis(ids, score / length_penalty(step, options.alpha), None if looked is None else attended)
            )
        return []
    return kept


def _is_done(ended: list[Hypothesis], kept: list[tuple], limit: int, options: SearchOptions) -> bool:
    if not kept:
        return True
    if options.beam == 1:
        return bool(ended)  # greedy: the first end is the end
    if len(ended) < options.beam:
        return False
    worst_of_best = sorted((h.score for h in ended), reverse=True)[options.nbest - 1]
    return worst_of_best >= kept[0][0] / length_penalty(limit, options.alpha)


def _block_repeats(log_p: Tensor, histories: list[list[tuple[list[int], list[int]]]], size: int) -> None:
    """Rule out, in place, words that would complete a sequence of `size` words for the second time."""
    for i, beams in enumerate(histories):
        for j, (ids, _) in enumerate(beams):
            if len(ids) < size:
                continue
            ending = ids[len(ids) - size + 1 :]
            words = [ids[k + size - 1] for k in range(len(ids) - size + 1) if ids[k : k + size - 1] == ending]
            log_p[i, j, words] = float("-inf")
