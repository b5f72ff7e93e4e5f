"""The in-place SGD step against autograd's gradient and plain SGD."""

import pytest
import torch
from test_loss import TOLERANCE, bad, make_batch

import w2v_ext
from w2v_ext import reference


def detached(args):
    return [a.detach().clone() for a in args]


@pytest.mark.parametrize("dtype", list(TOLERANCE))
@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_step_is_one_step_of_sgd(dtype, reduction):
    args, expected = detached(make_batch(dtype)), detached(make_batch(dtype))
    loss = w2v_ext.sgns_step_(*args, 0.3, reduction=reduction)
    want = reference.sgns_step_(*expected, 0.3, reduction=reduction)
    torch.testing.assert_close(loss, want, rtol=1e-5, atol=1e-6)
    for weight, wanted in zip(args[:2], expected[:2], strict=True):
        scale = wanted.abs().max()
        torch.testing.assert_close(weight / scale, wanted / scale, rtol=0, atol=TOLERANCE[dtype])


@pytest.mark.parametrize("dim", [1, 7, 100, 129])
def test_hot_rows_and_every_dimension(dim):
    args = detached(make_batch(torch.float64, vocab=5, dim=dim, batch=2000, positives=2))
    expected = [a.clone() for a in args]
    w2v_ext.sgns_step_(*args, 0.5)
    reference.sgns_step_(*expected, 0.5)
    for weight, wanted in zip(args[:2], expected[:2], strict=True):
        torch.testing.assert_close(weight, wanted, rtol=1e-11, atol=1e-11)


def test_small_steps_of_a_hot_row_are_not_rounded_away():
    # 20,000 steps of 1e-9 each on weights of 1: added one by one they would leave a float32 as it is.
    center = torch.zeros(20_000, dtype=torch.int64)
    in_weight, out_weight = torch.full((2, 4), 1.0), torch.full((2, 4), 1.0)
    expected = [in_weight.double(), out_weight.double()]
    indices = (center, center, center.unsqueeze(1) + 1)
    w2v_ext.sgns_step_(in_weight, out_weight, *indices, 1e-9, reduction="sum")
    reference.sgns_step_(*expected, *indices, 1e-9, reduction="sum")
    assert (expected[0] - 1).abs().max() > 5e-6
    for got, want in zip((in_weight, out_weight), expected, strict=True):
        assert (got.double() - want).abs().max() < 1.3e-7  # one rounding


def test_result_does_not_depend_on_the_number_of_threads():
    results = []
    before = torch.get_num_threads()
    for threads in (1, 2, 3):
        args = detached(make_batch(torch.float32, vocab=20, dim=33, batch=3000))
        torch.set_num_threads(threads)
        try:
            w2v_ext.sgns_step_(*args, 0.5)
        finally:
            torch.set_num_threads(before)
        results.append(args[:2])
    for other in results[1:]:
        assert torch.equal(results[0][0], other[0])
        assert torch.equal(results[0][1], other[1])


def test_rows_in_wider_memory_are_updated_in_place_and_nothing_else():
    args = detached(make_batch(torch.float32))
    wide = torch.full((50, 16), 9.0)
    wide[:, :7] = args[0]
    expected = [a.clone() for a in args]
    args[0] = wide[:, :7]
    w2v_ext.sgns_step_(*args, 0.3)
    reference.sgns_step_(*expected, 0.3)
    torch.testing.assert_close(wide[:, :7], expected[0])
    assert (wide[:, 7:] == 9.0).all()


def test_parameters_that_require_grad():
    model = w2v_ext.SkipGramNegSampling(50, 7)
    before = model.out_weight.detach().clone()
    _, _, center, pos, neg = make_batch(torch.float32)
    loss = w2v_ext.sgns_step_(model.in_weight, model.out_weight, center, pos, neg, 0.1)
    assert not loss.requires_grad
    assert not torch.equal(before, model.out_weight)


def test_a_graph_notices_that_its_weights_were_stepped():
    args = make_batch(torch.float32)
    loss = w2v_ext.negative_sampling_loss(*args)
    w2v_ext.sgns_step_(*args, 0.1)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


def test_overlapping_memory_is_refused_and_columns_side_by_side_are_not():
    args = detached(make_batch(torch.float32))
    wide = torch.randn(51, 20)
    with pytest.raises(ValueError, match="out_weight: expected other memory"):
        w2v_ext.sgns_step_(wide[:50, :7], wide[1:, :7], *args[2:], 0.1)
    with pytest.raises(ValueError, match=r"in_weight: expected rows that do not overlap, got stride\(0\) = 0"):
        w2v_ext.sgns_step_(torch.zeros(1, 7).expand(50, 7), *args[1:], 0.1)
    left, right = wide[:50, :7], wide[:50, 7:14]
    expected = [left.clone(), right.clone(), *args[2:]]
    w2v_ext.sgns_step_(left, right, *args[2:], 0.1)
    reference.sgns_step_(*expected, 0.1)
    torch.testing.assert_close(left, expected[0])
    torch.testing.assert_close(right, expected[1])


def test_empty_batch_changes_nothing():
    args = detached(make_batch(torch.float32, batch=0))
    before = args[0].clone()
    assert w2v_ext.sgns_step_(*args, 0.3).item() == 0
    assert torch.equal(before, args[0])


def test_bad_arguments_change_nothing():
    args = detached(bad())
    before = [a.clone() for a in args]
    for lr in (0, -1.0, float("nan"), float("inf")):
        with pytest.raises(ValueError, match="lr: expected a positive number"):
            w2v_ext.sgns_step_(*args, lr)
    with pytest.raises(ValueError, match="reduction: expected mean or sum, got 'none'"):
        w2v_ext.sgns_step_(*args, 0.1, reduction="none")
    with pytest.raises(IndexError, match="neg: index"):
        w2v_ext.sgns_step_(*args[:4], args[4] + 50, 0.1)
    with pytest.raises(ValueError, match="out_weight: expected other memory than in_weight's"):
        w2v_ext.sgns_step_(args[0], args[0], *args[2:], 0.1)
    with pytest.raises(ValueError, match=r"in_weight: expected contiguous rows .* got stride\(1\) = 50"):
        w2v_ext.sgns_step_(torch.zeros(7, 50).t(), *args[1:], 0.1)
    for now, then in zip(args, before, strict=True):
        assert torch.equal(now, then)
