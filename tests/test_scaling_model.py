"""The model of bench/scaling_model.py does its sums, and knows the same tiers as the exchange."""

import json
import sys
from dataclasses import replace
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "bench"))
import scaling_measure as measuring
import scaling_model as model

from w2v_ext.distributed import tier_bounds

BENCH = Path(model.__file__).parent
MACHINE = model.Machine("made up", ((100, 1e6),), 4e9, 1e9, 1e9, 0.0, 0.0)


def stored(name):
    return json.loads((BENCH / "results" / f"{name}.json").read_text())


def test_floats_are_those_of_the_tiers_for_the_vocabulary_that_was_tried():
    for vocab in (100, 2048, model.TRIED_VOCAB):
        expected = sum(2 * 100 * (last - first) / period for first, last, period in tier_bounds(vocab))
        assert model.floats_per_turn(model.Run(1e6, vocab)) == pytest.approx(expected)


def test_a_turn_by_hand():
    run = model.Run(1e6, 256)  # one tier: 51,200 floats a turn, and all of them again after 50 turns
    floats = 51_200 * 51 / 50
    p = model.predict(MACHINE, run, 2, 10_000)
    assert p.compute == pytest.approx(0.01)
    assert p.network == pytest.approx(2 * floats / 1e9)
    assert p.memory == pytest.approx(76 * floats / 4e9)
    assert p.turn == pytest.approx(p.compute + p.network + p.memory)
    assert p.words_per_second == pytest.approx(20_000 / p.turn)
    assert p.bytes_per_word == pytest.approx(2 * floats / 10_000)
    overlapped = model.predict(replace(MACHINE, overlap=1.0), run, 2, 10_000)
    assert overlapped.turn == pytest.approx(p.compute + p.memory)
    assert model.predict(MACHINE, run, 1, 10_000).efficiency == pytest.approx(1)


def test_latency_and_launches_by_hand():
    run = model.Run(1e6, 2048)  # two tiers, of which the second takes part in every fourth turn
    p, slow = (model.predict(replace(MACHINE, latency=x, launch=x), run, 4, 10_000) for x in (0.0, 1e-5))
    assert slow.latency == pytest.approx(6e-5)
    assert slow.network - p.network == pytest.approx(6e-5)
    assert slow.memory - p.memory == pytest.approx(2 * 13 * 1.25 * 1e-5)


def test_ranks_that_share_cores_take_turns():
    run = model.Run(1e6, 256)
    own = model.predict(replace(MACHINE, sum_seconds=1e-9), run, 4, 10_000)
    p = model.predict(replace(MACHINE, sum_seconds=1e-9, cores=2), run, 4, 10_000)
    assert p.compute == pytest.approx(2 * own.compute)
    assert p.memory == pytest.approx(2 * own.memory)
    assert p.network == pytest.approx(own.network)
    assert model.predict(replace(MACHINE, cores=2), run, 1, 10_000).efficiency == pytest.approx(1)


def test_seconds_of_a_word_are_a_line_through_what_was_measured():
    assert replace(MACHINE, rates=((100, 1e6),)).rate(300) == pytest.approx(1e6 / 3)
    both = replace(MACHINE, rates=((100, 4e6), (300, 2e6)))
    assert [both.rate(100), both.rate(300)] == pytest.approx([4e6, 2e6])
    assert both.rate(200) == pytest.approx(1 / ((0.25 + 0.5) / 2 * 1e-6))


def test_bytes_touched_by_hand():
    assert [model.touched_bytes(ranks, fused=True) for ranks in (1, 2, 4)] == [28, 30, 34]
    assert [model.touched_bytes(ranks, fused=False) for ranks in (2, 4, 8)] == [76, 116, 80]


def test_copies_by_hand():
    assert [model.copies(ranks, shared=True) for ranks in (1, 2, 4)] == [1, 3, 3]
    assert [model.copies(ranks) for ranks in (1, 2, 4, 8)] == [1, 3, 4, 4]


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
    fast = replace(MACHINE, memory=1e12, memory_bandwidth=1e14, link=1e14)
    assert model.breaks_first(replace(MACHINE, memory=1e6), run, 2) == "tables"
    assert model.breaks_first(replace(fast, link=1e6), run, 8) == "network"
    assert model.breaks_first(replace(fast, latency=1.0), run, 8) == "latency"
    assert model.breaks_first(replace(fast, memory_bandwidth=1e7), run, 8) == "exchange"
    assert model.breaks_first(fast, run, 8) == "compute"


def test_staleness_breaks_where_the_interval_of_two_ranks_would_do():
    run = model.Run(1e9, 300_000, dim=100)
    machine = replace(model.CLUSTER, rates=((100, 20e6),))
    asked = model.asked_interval(machine, run, 8, 0.9)
    assert model.longest_interval(run, 8) < asked <= model.longest_interval(run, 2)
    assert [model.breaks_first(machine, run, ranks) for ranks in (2, 8, 64)] == ["compute", "staleness", "staleness"]
    slower = replace(machine, link=1.25e8)
    assert model.asked_interval(slower, run, 8, 0.9) > model.longest_interval(run, 2)
    assert model.breaks_first(slower, run, 8) == "network"


def test_the_tail_may_wait_longer_in_larger_vocabularies():
    assert [model.tail_period(vocab) for vocab in (1000, 49_192, 100_000, 5_000_000)] == [64, 64, 128, 4096]


def test_constants_by_hand():
    run = model.Run(1e6, 256)  # 51,200 floats a turn
    found = measuring.constants(51_200e-9, 0.25, run)  # a nanosecond each, a quarter of it for the sum
    assert found["sum_seconds"] == pytest.approx(0.25e-9)
    assert found["memory_bandwidth"] == pytest.approx(30 / 0.75e-9)


def test_predictions_for_local_ranks_lie_within_a_fifth_of_measurement():
    report, measured = stored("scaling-model"), stored("ranks-cpu")
    vocab = measured["runs"]["2x1"][0]["vocab_size"]
    constants = measuring.constants(
        report["exchanges"]["2"]["turn"], report["sums"]["share"], model.Run(float("inf"), vocab)
    )
    assert constants == pytest.approx(report["constants"])
    found = measuring.compare(constants, measured, report["exchanges"])
    for ranks in ("1", "2", "4"):
        row = found[ranks]
        assert row["predicted"] == pytest.approx(row["measured"], rel=0.2), ranks
        assert row["predicted"] == pytest.approx(report["ranks"][ranks]["predicted"])
    assert found["4"]["exchange"]["predicted"] == pytest.approx(found["4"]["exchange"]["measured"], rel=0.2)


def test_the_share_of_sums_is_a_share():
    found = measuring.share_of_sums(vocab=3000, dim=16, tries=4)
    assert found["quartiles"][0] <= found["share"] <= found["quartiles"][1] < 1


def test_the_gpu_is_as_it_was_measured():
    epoch = stored("gpu-h200")["parts"]["epoch"]
    for dim in (100, 300):
        rate = epoch[f"dim{dim}_float32"]["raw_words_per_second"]["median"]
        assert model.H200.rate(dim) == pytest.approx(rate, rel=0.01)
    assert model.H200.memory_bandwidth == pytest.approx(epoch["copy_bytes_per_second"], rel=0.01)


def test_the_tables_are_whole():
    rows = [line for line in model.tables() if line.startswith("| 1e+")]
    assert [row.count("|") for row in rows] == [6] * 5 + [8] * 10
    page = (BENCH.parent / "docs" / "scaling.md").read_text()
    missing = [line for line in model.tables() if line not in page]
    assert not missing, f"docs/scaling.md lacks {missing[0]}: python bench/scaling_model.py prints its tables"
