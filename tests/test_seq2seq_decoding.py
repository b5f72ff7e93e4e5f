"""Greedy and beam search beside exhaustive search, one by one, and by hand."""

import itertools
import math

import pytest
import torch
from test_seq2seq_model import LENGTHS, SHAPES, VOCAB, make_input, make_model

from w2v_ext.seq2seq import SearchOptions, search
from w2v_ext.seq2seq.decoding import length_penalty

pytestmark = pytest.mark.usefixtures("one_thread")

NAMES = ["plain", "context-mean-tied", "luong", "deep-bahdanau", "feeding"]


def make(name, end_bias=1.0):
    model = make_model(**SHAPES[name]).eval()
    with torch.no_grad():
        model.decoder.output_bias[2] += end_bias
    return model


def log_probability(model, src, length, ids):
    """Of a whole translation by teacher forcing."""
    tgt = torch.tensor([[1, *ids]])
    logits = model(src[None, :length], torch.tensor([length]), tgt)[0].clone()
    log_p = logits.log_softmax(-1)
    return sum(log_p[t, word].item() for t, word in enumerate([*ids, 2]))


def many_sentences(count=40):
    generator = torch.Generator().manual_seed(5)
    lengths = torch.randint(1, 8, (count,), generator=generator)
    src = torch.randint(3, VOCAB, (count, 7), generator=generator)
    return src.masked_fill(torch.arange(7) >= lengths[:, None], 0), lengths


@pytest.mark.parametrize("alpha", [0.0, 2.0])
@pytest.mark.parametrize("name", NAMES)
def test_greedy_is_beam_one(name, alpha):
    model = make(name, end_bias=0.0)
    model.decoder.embed.embedding.weight.data.mul_(3)  # so that sentences differ
    model.encoder.embed.embedding.weight.data.mul_(3)
    src, lengths = many_sentences()
    for step in range(-8, 12):  # a bias with which some sentences end early and others late
        with torch.no_grad():
            model.decoder.output_bias[2] = 0.25 * step
        greedy = model.generate(src, lengths, max_len=9).tolist()
        found = search(model, src, lengths, SearchOptions(beam=1, alpha=alpha, max_len=9))
        for (hypothesis,), words in zip(found, greedy, strict=True):
            assert hypothesis.ids == [word for word in words if word not in (0, 2)]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("beam", [1, 3, 5])
def test_a_batch_is_one_by_one(name, beam):
    model = make(name)
    src, lengths, _ = make_input()
    options = SearchOptions(beam=beam, nbest=beam, max_len=8)
    together = search(model, src, lengths, options)
    for row, length in enumerate(LENGTHS):
        (alone,) = search(model, src[row : row + 1, :length], lengths[row : row + 1], options)
        assert [h.ids for h in alone] == [h.ids for h in together[row]]
        assert [h.attended for h in alone] == [h.attended for h in together[row]]
        for a, b in zip(alone, together[row], strict=True):
            assert a.score == pytest.approx(b.score, abs=1e-10)


@pytest.mark.parametrize("name", NAMES)
def test_scores_are_those_of_teacher_forcing(name):
    model = make(name)
    src, lengths, _ = make_input()
    options = SearchOptions(beam=4, nbest=4, alpha=0.7, max_len=30)
    for row, found in enumerate(search(model, src, lengths, options)):
        assert [h.score for h in found] == sorted((h.score for h in found), reverse=True)
        assert len({tuple(h.ids) for h in found}) == len(found)
        for h in found:
            if len(h.ids) < 30:
                raw = log_probability(model, src[row], LENGTHS[row], h.ids)
                assert h.score == pytest.approx(raw / length_penalty(len(h.ids) + 1, 0.7), abs=1e-9)


@pytest.mark.parametrize("alpha", [0.0, 1.0, 2.0])
def test_a_wide_beam_finds_the_best_of_all(alpha):
    model = make("luong", end_bias=2.0)
    src, lengths, _ = make_input()
    longest = 3
    options = SearchOptions(beam=9**2, nbest=3, alpha=alpha, max_len=longest)
    words = [3, 4, 5, 6, 7, 8, 9, 10]
    for row, found in enumerate(search(model, src, lengths, options)):
        everything = []
        for size in range(longest):
            for ids in itertools.product(words, repeat=size):
                raw = log_probability(model, src[row], LENGTHS[row], list(ids))
                everything.append((raw / length_penalty(size + 1, alpha), list(ids)))
        everything.sort(reverse=True)
        ended = [h for h in found if len(h.ids) < longest]
        for h, (score, ids) in zip(ended, everything[: len(ended)], strict=True):
            assert h.ids == ids and h.score == pytest.approx(score, abs=1e-9)


def test_a_beam_is_no_worse_than_greedy():
    model = make("plain")
    src, lengths, _ = make_input()
    scores = [
        sum(found[0].score for found in search(model, src, lengths, SearchOptions(beam=beam, alpha=0, max_len=8)))
        for beam in (1, 8)
    ]
    assert scores[1] >= scores[0] - 1e-12


def test_length_penalty():
    assert length_penalty(1, 1.0) == 1 and length_penalty(7, 2.0) == 4 and length_penalty(9, 0.0) == 1


def test_no_sequence_twice():
    model = make("plain", end_bias=-20)
    src, lengths, _ = make_input()
    for size in (1, 2, 3):
        found = search(model, src, lengths, SearchOptions(beam=3, nbest=3, max_len=8, no_repeat=size))
        for h in itertools.chain(*found):
            grams = [tuple(h.ids[i : i + size]) for i in range(len(h.ids) - size + 1)]
            assert len(grams) == len(set(grams)) and len(h.ids) == 8
    free = search(model, src, lengths, SearchOptions(beam=1, max_len=8))
    assert any(len(set(h.ids)) < 8 for (h,) in free)  # so that the rule had something to forbid


def test_limits():
    model = make("luong", end_bias=-50)
    src, lengths, _ = make_input()
    found = search(model, src, lengths)
    assert [len(h.ids) for (h,) in found] == [2 * n + 10 for n in LENGTHS]
    for row, (h,) in enumerate(found):
        assert len(h.attended) == len(h.ids) and max(h.attended) < LENGTHS[row]
    assert search(model, src[:0], lengths[:0]) == []
    model = make("plain", end_bias=100)
    assert [[(h.ids, h.attended) for h in found] for found in search(model, src, lengths)] == [[([], None)]] * 3
    everything = search(make("plain"), src, lengths, SearchOptions(beam=30, nbest=30, max_len=2))
    assert all(1 < len(found) <= 30 and all(math.isfinite(h.score) for h in found) for found in everything)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"beam": 0}, "beam: expected an integer >= 1, got 0"),
        ({"beam": 2.0}, "beam: expected an integer >= 1, got 2.0"),
        ({"max_len": 0}, "max_len: expected an integer >= 1, got 0"),
        ({"no_repeat": -1}, "no_repeat: expected an integer >= 0, got -1"),
        ({"nbest": 6}, "nbest: expected at most the beam, 5, got 6"),
        ({"alpha": float("nan")}, "alpha: expected a number >= 0, got nan"),
    ],
)
def test_bad_options(options, message):
    with pytest.raises(ValueError, match=message):
        SearchOptions(**options)
