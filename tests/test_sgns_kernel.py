"""The epoch kernel against the NumPy emulation, draw for draw, and the random numbers it rests on."""

import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from instruction_sets import KERNELS, in_process

import w2v_ext
from w2v_ext import ops, reference
from w2v_ext.tables import keep_thresholds, padded_weight


def make_case(vocab=30, dim=16, sentences=12, length=25, seed=0, repeats=True):
    rng = np.random.default_rng(seed)
    probability = 1.0 / np.arange(1, vocab + 1) if repeats else np.ones(vocab)
    probability /= probability.sum()
    ids = []
    for n in rng.integers(1, length, sentences):
        ids += [*rng.choice(vocab, n, p=probability, replace=repeats), -1]
    weights = []
    for _ in range(2):
        weight = padded_weight(vocab, dim)
        weight.copy_(torch.from_numpy(rng.normal(0, 0.4, (vocab, dim))))
        weights.append(weight)
    keep = keep_thresholds(np.clip(rng.random(vocab) * 2, 0.2, 1))
    return weights, torch.tensor(ids, dtype=torch.int32), w2v_ext.alias_table(torch.from_numpy(probability)), keep


def train(weights, ids, alias, keep, *, window=5, negative=5, seed=7, epoch=0, epochs=2, lr=0.05, threads=1, cuts=()):
    total = np.zeros(3)
    edges = [0, *cuts, len(ids)]
    for begin, end in zip(edges, edges[1:], strict=False):
        total += ops.train_sgns_(
            *weights, ids, alias, keep, window=window, negative=negative, seed=seed, epoch=epoch, epochs=epochs, lr=lr,
            begin=begin, end=end, threads=threads,
        )  # fmt: skip
    return total


def worst_difference(dim, window, negative, epoch=1, lr=0.05, repeats=False):
    """Largest difference from the emulation, and largest change of a weight."""
    weights, ids, alias, keep = make_case(vocab=30 if repeats else 20_000, dim=dim, repeats=repeats)
    before = [w.double().numpy().copy() for w in weights]
    expected = [w.copy() for w in before]
    stats = train(weights, ids, alias, keep, window=window, negative=negative, epoch=epoch, lr=lr)
    wanted = reference.train_sgns_(
        *expected, ids.numpy(), alias.numpy().view(np.uint32), keep.numpy().view(np.uint32),
        window=window, negative=negative, seed=7, epoch=epoch, epochs=2, lr=lr,
    )  # fmt: skip
    assert stats[1] == wanted[1] > 0
    assert stats[2] == wanted[2]
    assert stats[0] == pytest.approx(wanted[0], rel=1e-5 if negative <= 17 else 1e-3)
    moved = max(np.abs(e - b).max() for e, b in zip(expected, before, strict=True))
    return max(np.abs(w.numpy() - e).max() for w, e in zip(weights, expected, strict=True)), moved


# Only float32 rounding is left: the weights are around 1.
@pytest.mark.parametrize("dim", [1, 7, 16, 33, 100, 129])
@pytest.mark.parametrize(("window", "negative"), [(1, 1), (5, 5), (3, 4), (2, 13), (12, 6)])
def test_kernel_matches_the_emulation(dim, window, negative):
    difference, moved = worst_difference(dim, window, negative)
    assert difference < 5e-6
    assert moved > 0.01


@pytest.mark.parametrize("negative", [1, 2, 3, 4, 5, 6, 7, 11, 12, 17])
def test_every_group_of_outputs(negative):
    assert worst_difference(20, 3, negative)[0] < 5e-6


@pytest.mark.parametrize(("window", "negative"), [(1, 1), (5, 5), (4, 7)])
def test_words_that_meet_twice_in_a_block(window, negative):
    # 30 words of Zipf's law: contexts, centres and negatives are often the same word.
    assert worst_difference(16, window, negative, repeats=True)[0] < 1e-5


def test_words_that_meet_twice_with_many_negatives_differ_in_second_order_only():
    # With more than one group of outputs a context's two occurrences are moved at once, in the emulation one after the
    # other: the difference goes with lr squared.
    for lr in (1e-2, 1e-3):
        difference, moved = worst_difference(16, 4, 30, lr=lr, repeats=True)
        assert difference < 3 * lr * moved


def test_a_negative_that_is_a_centre_counts_for_the_other_centres_only():
    # Two words, noise on word 0 alone: with scores 0 each positive costs ln 2, and each negative, except for centre 0.
    weights = [padded_weight(2, 16) for _ in range(2)]
    ids = torch.tensor([1, 0, 1, 1, -1], dtype=torch.int32)
    alias = w2v_ext.alias_table(torch.tensor([1.0, 0.0]))
    loss, pairs, _ = train(weights, ids, alias, keep_thresholds(np.ones(2)), window=1, negative=3)
    assert pairs == 6  # two of them with centre 0
    assert loss == pytest.approx((6 + 4 * 3) * np.log(2), rel=1e-6)


@pytest.mark.parametrize("kernels", KERNELS)
def test_every_instruction_set_matches_the_emulation(kernels):
    code = (
        "import test_sgns_kernel as t\n"
        "print(float(max(t.worst_difference(d, w, k)[0] for d, w, k in [(100, 5, 5), (7, 3, 8), (33, 4, 2)])))"
    )
    assert in_process(kernels, code) < 5e-6


def test_unknown_instruction_set_is_refused():
    result = subprocess.run(
        [sys.executable, "-c", "import w2v_ext; w2v_ext.cpu_kernels()"],
        env={**os.environ, "W2V_EXT_CPU": "mmx"},
        capture_output=True,
        text=True,
    )
    assert "W2V_EXT_CPU: expected avx512, avx2 or portable" in result.stderr


def test_one_thread_is_bit_identical_however_the_corpus_is_cut():
    results = []
    for cuts in ((), (), (1,), (17, 18, 90), tuple(range(5, 100, 5))):
        case = make_case()
        train(*case, cuts=cuts)
        results.append(case[0])
    for other in results[1:]:
        assert torch.equal(results[0][0], other[0])
        assert torch.equal(results[0][1], other[1])


def test_seed_and_epoch_change_the_draws():
    outcomes = []
    for options in ({}, {"seed": 8}, {"epoch": 1}):
        case = make_case()
        train(*case, **options)
        outcomes.append(case[0][0].clone())
    assert not torch.equal(outcomes[0], outcomes[1])
    assert not torch.equal(outcomes[0], outcomes[2])


def test_threads_train_every_sentence_once():
    case = make_case(vocab=200, sentences=3000)
    stats = train(*case, threads=3)
    alone = make_case(vocab=200, sentences=3000)
    expected = train(*alone, threads=1)
    assert stats[1] == expected[1]
    assert stats[2] == expected[2]
    assert stats[0] == pytest.approx(expected[0], rel=0.05)


def test_threads_lose_no_update_of_a_hot_row():
    # lr so small that rows overlap in nothing: the sum over threads' copies is the sum that one thread finds.
    moved = []
    for threads in (1, 2, 4):
        weights, *rest = make_case(vocab=5120, sentences=5000)  # ten hot rows
        before = [w.clone() for w in weights]
        train(weights, *rest, lr=1e-6, threads=threads)
        moved.append([(w - b)[:10] for w, b in zip(weights, before, strict=True)])  # other rows may lose one in a race
    for other in moved[1:]:
        for got, want in zip(other, moved[0], strict=True):
            assert (got - want).norm() < 0.03 * want.norm()  # 0.0094 has been seen


def test_padding_stays_zero():
    weights, *rest = make_case(dim=20)
    train(weights, *rest, threads=2)
    for w in weights:
        whole = torch.as_strided(w, (w.shape[0], 32), (32, 1), w.storage_offset())
        assert (whole[:, 20:] == 0).all()


def test_first_loss_is_log_two_per_output():
    weights, ids, alias, keep = make_case(vocab=20_000, repeats=False)  # so that no negative is a centre
    weights[1].zero_()
    stats = train(weights, ids, alias, keep, lr=1e-9, negative=7)
    assert stats[0] / stats[1] == pytest.approx(8 * np.log(2), rel=1e-6)


def test_loss_is_exact_for_extreme_scores():
    weights, ids, alias, keep = make_case()
    for scale in (20.0, 1000.0):
        big = [padded_weight(*w.shape) for w in weights]
        for b, w in zip(big, weights, strict=True):
            b.copy_(w * scale)
        expected = [w.double().numpy().copy() for w in big]
        stats = train(big, ids, alias, keep, lr=1e-30)
        wanted = reference.train_sgns_(
            *expected, ids.numpy(), alias.numpy().view(np.uint32), keep.numpy().view(np.uint32),
            window=5, negative=5, seed=7, epoch=0, epochs=2, lr=1e-30,
        )  # fmt: skip
        assert stats[0] == pytest.approx(wanted[0], rel=1e-5)


def test_diverged_weights_show_in_the_loss():
    weights, *rest = make_case()
    weights[0].fill_(float("nan"))
    assert np.isnan(train(weights, *rest)[0])


# ---- random numbers ------------------------------------------------------------------------------------------------


def test_philox_known_answers():
    # Random123's known-answer vector for philox4x32-10, counter and key 0: 6627e8d5 e169c58d bc57ac4c 9b00dbd8.
    assert reference.sentence_key(0, 0, 0) == 0xE169C58D_6627E8D5


def test_splitmix_known_answers():
    # SplitMix64 from state 1234567 (published with the generator).
    assert [reference.draw(1234567, i) for i in range(3)] == [
        6457827717110365317,
        3203168211198807973,
        9817491932198370423,
    ]


@pytest.mark.parametrize("weights", [[1.0, 2.0, 3.0, 4.0], [5.0, 0.0, 1.0], [1e-9, 1.0], [1.0] * 7])
def test_alias_table_holds_the_distribution_exactly(weights):
    weights = np.array(weights)
    table = w2v_ext.alias_table(torch.from_numpy(weights)).numpy().view(np.uint32).astype(np.float64)
    n = len(weights)
    mass = np.zeros(n)
    for column, (threshold, alias) in enumerate(table):
        mass[column] += threshold / 2**32
        mass[int(alias)] += 1 - threshold / 2**32
    np.testing.assert_allclose(mass / n, weights / weights.sum(), atol=1e-9)
    assert (mass[weights == 0] == 0).all()


def test_negatives_follow_the_noise_distribution_and_miss_the_positive():
    weights = np.arange(1.0, 21.0) ** 0.75
    alias = w2v_ext.alias_table(torch.from_numpy(weights))
    positive = torch.arange(20).repeat(5000)
    drawn = w2v_ext.sample_negatives(alias, positive, 8, seed=3)
    assert drawn.shape == (100_000, 8)
    assert not (drawn == positive.unsqueeze(1)).any()
    free = w2v_ext.sample_negatives(alias, torch.full((100_000,), -1), 8, seed=4)
    counts = np.bincount(free.flatten().numpy(), minlength=20)
    expected = weights / weights.sum() * free.numel()
    chi_squared = ((counts - expected) ** 2 / expected).sum()
    assert chi_squared < 50  # 19 degrees of freedom: above this once in 10,000
    assert torch.equal(drawn, w2v_ext.sample_negatives(alias, positive, 8, seed=3))
    assert not torch.equal(drawn, w2v_ext.sample_negatives(alias, positive, 8, seed=4))


def test_negatives_when_nearly_all_noise_is_the_positive():
    alias = w2v_ext.alias_table(torch.tensor([1.0, 1e-12, 1e-12, 0.0]))
    drawn = w2v_ext.sample_negatives(alias, torch.zeros(500, dtype=torch.int64), 4, seed=0)
    assert set(drawn.flatten().tolist()) == {1, 2}  # 3 has no weight
    table = alias.numpy().view(np.uint32)
    key = reference.sentence_key(0, 0, 7)
    assert drawn[7].tolist() == [reference.sample_negative(table, reference.draw(key, k), 0) for k in range(4)]
    lonely = w2v_ext.alias_table(torch.tensor([0.0, 1.0, 0.0]))
    assert w2v_ext.sample_negatives(lonely, torch.tensor([1]), 4, seed=0).tolist() == [[2] * 4]


@pytest.mark.parametrize(
    ("weights", "message"),
    [([], "1 to 2"), ([1.0, -1.0], "got -1 at position 1"), ([float("nan")], "position 0"), ([0.0, 0.0], "sum, got 0")],
)
def test_bad_noise_weights(weights, message):
    with pytest.raises(ValueError, match=message):
        w2v_ext.alias_table(torch.tensor(weights))


def test_bad_positive():
    alias = w2v_ext.alias_table(torch.ones(3))
    with pytest.raises(IndexError, match="positive: index 3 at position 1 is out of range for 3 words"):
        w2v_ext.sample_negatives(alias, torch.tensor([0, 3]), 2, seed=0)
    with pytest.raises(ValueError, match="at least two words"):
        w2v_ext.sample_negatives(w2v_ext.alias_table(torch.ones(1)), torch.tensor([0]), 2, seed=0)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"window": 0}, "window: expected an integer from 1"),
        ({"negative": 0}, "negative: expected an integer from 1"),
        ({"lr": 0.0}, "lr: expected a positive number"),
        ({"epoch": 2}, "epoch: expected 0 <= epoch < epochs, got 2 of 2"),
        ({"threads": 0}, "threads: expected an integer from 1"),
    ],
)
def test_bad_settings(options, message):
    with pytest.raises(ValueError, match=message):
        train(*make_case(), **options)


def test_weights_that_are_not_padded_are_refused():
    weights, *rest = make_case(dim=20)
    with pytest.raises(ValueError, match="in_weight: expected 64-byte aligned rows, all padded"):
        train([w.contiguous() for w in weights], *rest)


def test_word_out_of_range_is_named():
    weights, ids, alias, keep = make_case()
    ids[5] = 30
    with pytest.raises(IndexError, match="ids: word 30 at position 5 is out of range for in_weight with 30 rows"):
        train(weights, ids, alias, keep)
    with pytest.raises(IndexError, match="ids: word 30"):
        train(weights, ids, alias, keep, threads=2)


@pytest.mark.parametrize("threads", [1, 2])
def test_numbers_too_small_for_full_speed_are_zeros(threads):
    """Scores near 90, as words have that noise never separates, make coefficients below 1e-38, slow to compute with."""
    weights = [padded_weight(3, 16) for _ in range(2)]
    weights[0][:2, :2] = torch.tensor([20.0, 1.0])
    weights[1][:2, 0] = 4.6
    keep = keep_thresholds(np.ones(3))
    noise = w2v_ext.alias_table(torch.tensor([0.0, 0.0, 1.0]))
    train(weights, torch.tensor([0, 1, -1], dtype=torch.int32), noise, keep, threads=threads)
    assert weights[1][2, 0] != 0  # it has trained
    for weight in weights:
        assert not ((weight != 0) & (weight.abs() < 1e-38)).any()
    assert torch.tensor(1e-39) * 0.5 > 0  # and this thread computes as before
