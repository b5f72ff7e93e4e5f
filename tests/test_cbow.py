"""CBOW: the kernel against the NumPy emulation, draw for draw, and what the trainer makes of it."""

import numpy as np
import pytest
import torch
from instruction_sets import KERNELS, in_process
from test_sgns_kernel import make_case
from test_softmax import assert_learns_the_planted_meaning, assert_resumes, planted_corpus

from w2v_ext import TrainConfig, Trainer, corpus_from_sequences, family_ops, reference_epochs
from w2v_ext.tables import keep_thresholds, padded_weight

planted_corpus = planted_corpus  # a fixture

VARIANTS = [(True, False), (True, True), (False, False), (False, True)]  # mean, divide


def train(weights, ids, alias, keep, *, cuts=(), **options):
    settings = {"mean": True, "divide": False, "window": 5, "negative": 5, "seed": 7, "epoch": 0, "epochs": 2}
    settings |= {"lr": 0.05, "threads": 1, **options}
    total = np.zeros(3)
    edges = [0, *cuts, len(ids)]
    for begin, end in zip(edges, edges[1:], strict=False):
        total += family_ops.train_cbow_(*weights, ids, alias, keep, begin=begin, end=end, **settings)
    return total


def worst_difference(dim, window, negative, mean=True, divide=False, repeats=False):
    """Largest difference from the emulation, and largest change of a weight."""
    weights, ids, alias, keep = make_case(vocab=30 if repeats else 20_000, dim=dim, repeats=repeats)
    before = [w.double().numpy().copy() for w in weights]
    expected = [w.copy() for w in before]
    options = {"mean": mean, "divide": divide, "window": window, "negative": negative, "epoch": 1}
    stats = train(weights, ids, alias, keep, **options)
    wanted = reference_epochs.train_cbow_(
        *expected, ids.numpy(), alias.numpy().view(np.uint32), keep.numpy().view(np.uint32),
        seed=7, epochs=2, lr=0.05, **options,
    )  # fmt: skip
    assert stats[1] == wanted[1] > 0
    assert stats[2] == wanted[2]
    assert stats[0] == pytest.approx(wanted[0], rel=1e-5)
    moved = max(np.abs(e - b).max() for e, b in zip(expected, before, strict=True))
    return max(np.abs(w.numpy() - e).max() for w, e in zip(weights, expected, strict=True)), moved


# Only float32 rounding is left: the weights are around 1.
@pytest.mark.parametrize("dim", [1, 7, 16, 33, 50, 100, 129])
@pytest.mark.parametrize(("window", "negative"), [(1, 1), (5, 5), (2, 13), (12, 6)])
def test_kernel_matches_the_emulation(dim, window, negative):
    difference, moved = worst_difference(dim, window, negative)
    assert difference < 5e-6
    assert moved > 0.01


@pytest.mark.parametrize(("mean", "divide"), VARIANTS)
def test_mean_or_sum_divided_or_not(mean, divide):
    assert worst_difference(20, 4, 5, mean, divide)[0] < 5e-6
    assert worst_difference(20, 4, 5, mean, divide, repeats=True)[0] < 1e-5


@pytest.mark.parametrize("negative", [1, 2, 3, 4, 5, 6, 7, 8, 11, 12, 14, 15, 17, 31, 40])
def test_every_group_of_outputs(negative):
    assert worst_difference(20, 3, negative)[0] < 5e-6


@pytest.mark.parametrize(("window", "negative"), [(1, 1), (5, 5), (4, 7), (4, 30)])
def test_words_that_meet_twice_in_a_block(window, negative):
    # 30 words of Zipf's law: contexts, centres and negatives are often the same word.
    assert worst_difference(16, window, negative, repeats=True)[0] < 1e-5


@pytest.mark.parametrize("kernels", KERNELS)
def test_every_instruction_set_matches_the_emulation(kernels):
    code = "import test_cbow as t; worst = [t.worst_difference(*c)[0] for c in [(100, 5, 5), (7, 3, 8), (33, 4, 17)]]"
    assert in_process(kernels, f"{code}\nprint(float(max(worst)))") < 5e-6


@pytest.mark.parametrize(("mean", "divide"), VARIANTS)
def test_the_gradient_is_autograds_where_it_should_be(mean, divide):
    # One block, one step: what each context gets is the gradient of the loss where it is divided as the sum was.
    weights, _, alias, _ = make_case(vocab=300, dim=16)
    ids = torch.tensor([5, 6, 7, -1], dtype=torch.int32)
    keep = keep_thresholds(np.ones(300))
    before = [w.double().clone() for w in weights]
    lr = 1e-3
    train(weights, ids, alias, keep, mean=mean, divide=divide, window=1, negative=1, lr=lr)
    noise = [
        reference_epochs.sample_alias(alias.numpy().view(np.uint32), reference_epochs.draw(key, place * 2 + 1))
        for key in [reference_epochs.sentence_key(7, 0, 0)]
        for place in (0, 2)
    ]
    assert not set(noise) & {5, 6, 7}
    leaves = [w.clone().requires_grad_() for w in before]
    loss = 0.0
    for center, contexts, negative in [(5, [6], noise[0]), (6, [5, 7], noise[0]), (7, [6], noise[1])]:
        h = leaves[0][contexts].sum(0) / (len(contexts) if mean else 1)
        scores = leaves[1][[center, negative]] @ h
        loss = loss - torch.nn.functional.logsigmoid(scores * torch.tensor([1.0, -1.0])).sum()
    loss.backward()
    moved = [(w.double() - b) / -lr for w, b in zip(weights, before, strict=True)]
    torch.testing.assert_close(moved[1], leaves[1].grad, rtol=0, atol=2e-3)  # lr's second order, and float32
    if mean == divide:
        torch.testing.assert_close(moved[0], leaves[0].grad, rtol=0, atol=2e-3)
    else:  # the contexts of centre 6 get twice or half the gradient, those of one context the same
        factor = torch.tensor([2.0 if mean else 0.5, 2.0 if mean else 0.5]).unsqueeze(1)
        torch.testing.assert_close(moved[0][[5, 7]], leaves[0].grad[[5, 7]] * factor, rtol=0, atol=2e-3)
        torch.testing.assert_close(moved[0][6], leaves[0].grad[6], rtol=0, atol=2e-3)


def test_one_thread_is_bit_identical_however_the_corpus_is_cut():
    results = []
    for cuts in ((), (1,), (17, 18, 90), tuple(range(5, 100, 5))):
        case = make_case()
        train(*case, cuts=cuts)
        results.append(case[0])
    for other in results[1:]:
        assert torch.equal(results[0][0], other[0])
        assert torch.equal(results[0][1], other[1])


def test_threads_train_every_sentence_once():
    case, alone = (make_case(vocab=5120, sentences=3000) for _ in range(2))  # ten hot rows
    stats, expected = train(*case, threads=3), train(*alone)
    assert (stats[1], stats[2]) == (expected[1], expected[2])
    assert stats[0] == pytest.approx(expected[0], rel=0.05)


def test_padding_stays_zero_and_special_rows_are_not_touched():
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


def test_bad_arguments():
    weights, ids, alias, keep = make_case()
    with pytest.raises(ValueError, match="window: expected an integer from 1 to 10000, got 0"):
        train(weights, ids, alias, keep, window=0)
    with pytest.raises(ValueError, match="negative: expected an integer from 1 to 1000, got 0"):
        train(weights, ids, alias, keep, negative=0)
    with pytest.raises(ValueError, match="in_weight: expected 64-byte aligned rows"):
        train([torch.zeros(30, 20), torch.zeros(30, 20)], ids, alias, keep)
    with pytest.raises(ValueError, match="alias: expected 29 words as in_weight, got 30"):
        train([padded_weight(29, 16), padded_weight(29, 16)], ids, alias, keep[:29])
    ids[5] = 30
    with pytest.raises(IndexError, match="ids: word 30 at position 5 is out of range for in_weight with 30 rows"):
        train(weights, ids, alias, keep, threads=2)


# ---- the trainer ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("mean", "divide"), VARIANTS)
def test_learns_the_planted_meaning(planted_corpus, mean, divide):
    # The divided gradient is smaller by the number of contexts, and wants a larger rate.
    settings = {"model": "cbow", "cbow_mean": mean, "cbow_divide_gradient": divide, "lr": 0.1 if divide else 0.05}
    assert_learns_the_planted_meaning(planted_corpus, settings)


def test_a_resumed_run_gives_the_same_bits(planted_corpus, tmp_path):
    assert_resumes(planted_corpus, {"model": "cbow"}, tmp_path)


def test_device_auto_takes_the_cpu():
    corpus = corpus_from_sequences([[1, 2, 3], [2, 3, 1]] * 3)
    trainer = Trainer(corpus, TrainConfig(model="cbow", sample=0, epochs=1, threads=1))
    assert trainer.device.type == "cpu"
    assert trainer.fit().state.epoch == 1
