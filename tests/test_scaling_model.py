"""The model of bench/scaling_model.py does its sums, and knows the same tiers as the exchange."""

import sys
from dataclasses import replace
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "bench"))
import scaling_model as model

from w2v_ext.distributed import tier_bounds

MACHINE = model.Machine("made up", 1e6, 4e9, 1e9, 1e9, 0.0, 0.0)


def test_floats_are_those_of_the_tiers_for_the_vocabulary_that_was_tried():
    for vocab in (100, 2048, model.TRIED_VOCAB):
        expected = sum(2 * 100 * (last - first) / period for first, last, period in tier_bounds(vocab))
        assert model.floats_per_turn(model.Run(1e6, vocab)) == pytest.approx(expected)


def test_a_turn_by_hand():
    run = model.Run(1e6, 256)  # one tier: 51,200 floats a turn
    p = model.predict(MACHINE, run, 2, 10_000)
    assert p.compute == pytest.approx(0.01)
    assert p.network == pytest.approx(2 * 51_200 / 1e9)
    assert p.memory == pytest.approx(76 * 51_200 / 4e9)
    assert p.turn == pytest.approx(0.01 + 0.0001024 + 0.0009728)
    assert p.words_per_second == pytest.approx(20_000 / p.turn)
    assert p.bytes_per_word == pytest.approx(10.24)
    overlapped = model.predict(replace(MACHINE, overlap=1.0), run, 2, 10_000)
    assert overlapped.turn == pytest.approx(0.01 + 0.0009728)
    assert model.predict(MACHINE, run, 1, 10_000).efficiency == pytest.approx(1)


def test_bytes_touched_by_hand():
    assert [model.touched_bytes(ranks, fused=True) for ranks in (2, 4)] == [30, 34]
    assert [model.touched_bytes(ranks, fused=False) for ranks in (2, 4, 8)] == [76, 116, 80]


def test_copies_by_hand():
    assert [model.copies(ranks, fused=True) for ranks in (1, 2, 4)] == [1, 3, 3]
    assert [model.copies(ranks, fused=False) for ranks in (1, 2, 4, 8)] == [1, 4.5, 6.5, 4.5]


def test_beyond_a_few_ranks_bytes_are_a_rings():
    assert model.sent_bytes(1000, 4) == 6000
    assert model.sent_bytes(1000, 8) == 7000
    assert model.sent_bytes(1000, 64) < 8000


def test_the_best_interval_is_the_shortest_that_suffices_or_the_longest_that_was_tried():
    run = model.Run(1e9, 300_000)
    best = model.best_interval(MACHINE, run, 4)
    assert best == model.longest_interval(run, 4)  # this machine is too slow for any
    fast = replace(MACHINE, memory_bandwidth=1e14, link=1e14)
    best = model.best_interval(fast, run, 4)
    assert model.predict(fast, run, 4, best).efficiency >= 0.95
    assert best == 1024 or model.predict(fast, run, 4, best / 2).efficiency < 0.95


def test_what_breaks_first():
    run = model.Run(1e9, 300_000, dim=100)
    assert model.breaks_first(replace(MACHINE, memory=1e6), run, 2) == "tables"
    assert model.breaks_first(replace(MACHINE, memory=1e12, link=1e6), run, 8) == "network"
    assert model.breaks_first(replace(MACHINE, memory=1e12, memory_bandwidth=1e7), run, 8) == "exchange"
    assert model.breaks_first(replace(MACHINE, memory=1e12, memory_bandwidth=1e14, link=1e14), run, 8) == "compute"


def test_the_tail_may_wait_longer_in_larger_vocabularies():
    assert [model.tail_period(vocab) for vocab in (1000, 49_192, 100_000, 5_000_000)] == [64, 64, 128, 4096]


def test_local_rates():
    exchange = {"turn": 0.01, "settle": 0.5}
    assert model.local_rate(1e6, 1, 10**6, None, {}, 2) == 1e6
    assert model.local_rate(1e6, 2, 10**6, 5000, exchange, 2) == pytest.approx(1e6 / (0.5 + 1.0 + 0.5))
    assert model.local_rate(1e6, 4, 10**6, 2500, exchange, 2) == pytest.approx(1e6 / (0.5 + 1.0 + 0.5))


def test_the_tables_are_whole():
    lines = model.tables()
    rows = [line for line in lines if line.startswith("| 1e+")]
    assert len(rows) == 5 * 7
    assert all(line.count("|") == 10 for line in rows)
