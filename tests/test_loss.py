"""The fused loss and its gradients against hand-computed numbers and the reference."""

import math

import pytest
import torch

import w2v_ext
from w2v_ext import reference

TOLERANCE = {  # of values around 1, a few roundings each
    torch.float64: 1e-13,
    torch.float32: 2e-6,
    torch.bfloat16: 1.6e-2,
    torch.float16: 2e-3,
}
DTYPES = list(TOLERANCE)


def make_batch(dtype, vocab=50, dim=7, batch=16, positives=1, negatives=5, index=torch.int64, seed=0):
    g = torch.Generator().manual_seed(seed)
    weights = [torch.randn(vocab, dim, generator=g, dtype=torch.float64).to(dtype).requires_grad_() for _ in range(2)]
    center = torch.randint(vocab, (batch,), generator=g, dtype=index)
    pos = torch.randint(vocab, (batch, positives), generator=g, dtype=index)
    neg = torch.randint(vocab, (batch, negatives), generator=g, dtype=index)
    return *weights, center, pos, neg


def assert_matches_reference(args, dtype, **options):
    loss = w2v_ext.negative_sampling_loss(*args, **options)
    expected = reference.negative_sampling_loss(*args, reduction=options.get("reduction", "mean"))
    tolerance = TOLERANCE[dtype]
    accumulator = torch.float64 if dtype == torch.float64 else torch.float32
    assert loss.dtype == accumulator
    torch.testing.assert_close(loss, expected, rtol=1e-5 if accumulator == torch.float32 else 1e-13, atol=1e-6)
    weight = torch.linspace(0.5, 1.5, loss.numel(), dtype=loss.dtype).view_as(loss)
    grads = torch.autograd.grad(loss, args[:2], weight)
    wanted = torch.autograd.grad(expected, args[:2], weight)
    for grad, want in zip(grads, wanted, strict=True):
        assert grad.dtype == dtype
        if options.get("sparse_grad"):
            assert grad.is_coalesced()
            grad = grad.to_dense()
        scale = want.abs().max().clamp(min=1)
        torch.testing.assert_close(grad / scale, want / scale, rtol=0, atol=tolerance)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("sparse_grad", [False, True])
@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_loss_and_gradients_match_the_reference(dtype, sparse_grad, reduction):
    assert_matches_reference(make_batch(dtype), dtype, sparse_grad=sparse_grad, reduction=reduction)


@pytest.mark.parametrize("dim", [1, 2, 7, 16, 31, 64, 100, 129, 300])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_every_dimension(dtype, dim):
    assert_matches_reference(make_batch(dtype, dim=dim), dtype)


@pytest.mark.parametrize(("positives", "negatives"), [(1, 0), (0, 3), (3, 1), (2, 25)])
@pytest.mark.parametrize("index", [torch.int32, torch.int64])
def test_any_number_of_positives_and_negatives(positives, negatives, index):
    args = make_batch(torch.float64, positives=positives, negatives=negatives, index=index)
    assert_matches_reference(args, torch.float64)


def test_positives_without_a_second_dimension():
    args = make_batch(torch.float64)
    flat = (*args[:3], args[3].squeeze(1), args[4])
    assert w2v_ext.negative_sampling_loss(*flat) == w2v_ext.negative_sampling_loss(*args)


def test_many_threads_and_hot_rows_sum_exactly_once():
    # 3,000 examples over 4 rows: every row is hot, and the work is cut among threads in the middle of them.
    assert_matches_reference(make_batch(torch.float64, vocab=4, batch=3000), torch.float64)
    assert_matches_reference(make_batch(torch.float64, vocab=4, batch=3000), torch.float64, sparse_grad=True)


def test_more_rows_than_two_radix_digits():
    args = list(make_batch(torch.float32, vocab=10, dim=3))
    big = torch.zeros(5_000_000, 3)
    shift = torch.tensor([0, 1, 2047, 2048, 4_194_303, 4_194_304, 4_999_990])
    args[2] = args[2] + shift[args[2] % 7]
    args[4] = args[4] + shift[args[4] % 7]
    big[:] = torch.linspace(-1, 1, 5_000_000).unsqueeze(1)
    args[0], args[1] = big.clone().requires_grad_(), big.requires_grad_()
    loss = w2v_ext.negative_sampling_loss(*args, sparse_grad=True)
    grads = torch.autograd.grad(loss, args[:2])
    wanted = torch.autograd.grad(reference.negative_sampling_loss(*args), args[:2])
    for grad, want in zip(grads, wanted, strict=True):
        rows = grad.indices()[0]
        assert torch.equal(rows, torch.unique(rows))
        torch.testing.assert_close(grad.values(), want[rows])
        assert want.abs().sum() == pytest.approx(grad.values().abs().sum().item(), rel=1e-5)


def test_table_computed_by_hand():
    # v = (1, 2), u_pos = (0.5, 0), u_neg = (0, -0.5), (1, 1): scores 0.5, -1, 3
    in_weight = torch.tensor([[1.0, 2.0]], dtype=torch.float64, requires_grad=True)
    out_weight = torch.tensor([[0.5, 0.0], [0.0, -0.5], [1.0, 1.0]], dtype=torch.float64, requires_grad=True)
    zero = torch.tensor([0])
    loss = w2v_ext.negative_sampling_loss(in_weight, out_weight, zero, zero, torch.tensor([[1, 2]]))
    # -log s(0.5) = 0.474077, -log s(1) = 0.313262, -log s(-3) = 3.048587
    assert loss.item() == pytest.approx(0.4740769841801067 + 0.31326168751822286 + 3.048587351573742, abs=1e-12)
    loss.backward()
    # coefficients s(0.5) - 1 = -0.377541, s(-1) = 0.268941, s(3) = 0.952574
    c = [-0.3775406687981454, 0.2689414213699951, 0.9525741268224334]
    expected_in = [0.5 * c[0] + c[2], -0.5 * c[1] + c[2]]
    torch.testing.assert_close(in_weight.grad, torch.tensor([expected_in], dtype=torch.float64), atol=1e-12, rtol=0)
    expected_out = torch.tensor([[x, 2 * x] for x in c], dtype=torch.float64)
    torch.testing.assert_close(out_weight.grad, expected_out, atol=1e-12, rtol=0)


def test_coefficients_are_sigmoid_minus_label():
    in_weight, out_weight, center, pos, neg = make_batch(torch.float64, positives=2, negatives=3)
    _, coef, _ = torch.ops.w2v_ext.negative_sampling_loss(in_weight, out_weight, center, pos, neg, False)
    scores = torch.einsum("bd,bkd->bk", in_weight[center], out_weight[torch.cat([pos, neg], 1)])
    label = torch.tensor([1, 1, 0, 0, 0])
    torch.testing.assert_close(coef, (torch.sigmoid(scores) - label).detach(), atol=1e-14, rtol=0)


@pytest.mark.parametrize("score", [-1e4, -100.0, -88.0, -20.0, -1e-3, 0.0, 1e-3, 20.0, 88.0, 100.0, 1e4])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_loss_is_exact_for_extreme_scores(score, dtype):
    in_weight = torch.tensor([[score]], dtype=dtype, requires_grad=True)
    out_weight = torch.tensor([[1.0]], dtype=dtype, requires_grad=True)
    zero = torch.zeros(1, dtype=torch.int64)
    none = torch.zeros(1, 0, dtype=torch.int64)
    rel = 1e-6 if dtype == torch.float32 else 1e-14
    positive = w2v_ext.negative_sampling_loss(in_weight, out_weight, zero, zero, none)
    negative = w2v_ext.negative_sampling_loss(in_weight, out_weight, zero, none, zero.unsqueeze(1))
    softplus = max(score, 0) + math.log1p(math.exp(-abs(score)))
    assert negative.item() == pytest.approx(softplus, rel=rel, abs=1e-38)
    assert positive.item() == pytest.approx(max(-score, 0) + math.log1p(math.exp(-abs(score))), rel=rel, abs=1e-38)
    (grad,) = torch.autograd.grad(negative, in_weight)
    assert math.isfinite(grad.item())
    sigmoid = 1 / (1 + math.exp(-score)) if score > -700 else 0.0
    assert grad.item() == pytest.approx(sigmoid, rel=rel, abs=1e-38)


@pytest.mark.parametrize("dtype", DTYPES)
def test_loss_at_initialisation(dtype):
    model = w2v_ext.SkipGramNegSampling(100, 20, dtype=dtype)
    _, _, center, pos, neg = make_batch(dtype, vocab=100, negatives=7)
    assert model(center, pos, neg).item() == pytest.approx(8 * math.log(2), rel=1e-6)
    assert 0.8 * 0.5 / 20 < model.in_weight.float().abs().max() <= 0.5 / 20 * 1.01
    assert model.out_weight.abs().max() == 0


def test_module_trains_with_dense_and_sparse_optimisers():
    losses = {}
    for sparse in (False, True):
        torch.manual_seed(0)
        model = w2v_ext.SkipGramNegSampling(30, 8, sparse_grad=sparse)
        optimizer = torch.optim.SGD(model.parameters(), lr=5.0)
        center = torch.arange(30)
        pos = (center + 1) % 30
        for step in range(200):
            neg = torch.randint(30, (30, 4), generator=torch.Generator().manual_seed(step))
            optimizer.zero_grad()
            loss = model(center, pos, neg)
            loss.backward()
            optimizer.step()
        losses[sparse] = loss.item()
    assert losses[False] < 2.0 < 5 * math.log(2)
    assert losses[True] == pytest.approx(losses[False], rel=1e-4)


def test_gradcheck():
    args = make_batch(torch.float64, vocab=9, dim=3, batch=5, positives=2, negatives=3)
    for reduction in ("mean", "none"):
        assert torch.autograd.gradcheck(
            lambda a, b, r=reduction: w2v_ext.negative_sampling_loss(a, b, *args[2:], reduction=r), args[:2]
        )


def test_gradcheck_of_tied_weights():
    weight, _, center, pos, neg = make_batch(torch.float64, vocab=9, dim=3, batch=5)
    assert torch.autograd.gradcheck(lambda w: w2v_ext.negative_sampling_loss(w, w, center, pos, neg), (weight,))


def test_only_one_weight_needs_a_gradient():
    args = list(make_batch(torch.float64))
    args[1] = args[1].detach()
    (grad,) = torch.autograd.grad(w2v_ext.negative_sampling_loss(*args), args[0])
    (want,) = torch.autograd.grad(reference.negative_sampling_loss(*args), args[0])
    torch.testing.assert_close(grad, want)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_opcheck(dtype):
    args = make_batch(dtype)
    torch.library.opcheck(torch.ops.w2v_ext.negative_sampling_loss.default, (*args, False))
    step = [a.detach() for a in args]
    torch.library.opcheck(torch.ops.w2v_ext.sgns_step_.default, (*step, 0.1))


@pytest.mark.parametrize("backend", ["aot_eager", pytest.param("inductor", marks=pytest.mark.slow)])
def test_compile_fullgraph_with_changing_batch_sizes(backend):
    torch.compiler.reset()
    loss = w2v_ext.negative_sampling_loss
    compiled = torch.compile(lambda *args: loss(*args), fullgraph=True, dynamic=True, backend=backend)
    for batch in (16, 5):
        args = make_batch(torch.float32, batch=batch)
        grads = torch.autograd.grad(compiled(*args), args[:2])
        wanted = torch.autograd.grad(w2v_ext.negative_sampling_loss(*args), args[:2])
        for grad, want in zip(grads, wanted, strict=True):
            torch.testing.assert_close(grad, want)


def test_autocast_leaves_the_result_alone():
    args = make_batch(torch.float32)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = w2v_ext.negative_sampling_loss(*args)
    assert inside == w2v_ext.negative_sampling_loss(*args)


def test_second_derivative_is_refused():
    args = make_batch(torch.float64)
    grad = torch.autograd.grad(w2v_ext.negative_sampling_loss(*args), args[0], create_graph=True)[0]
    with pytest.raises(RuntimeError, match="no second derivative"):
        grad.sum().backward()


@pytest.mark.parametrize("sparse_grad", [False, True])
def test_empty_batch_gives_zero_and_a_zero_gradient(sparse_grad):
    in_weight, out_weight, center, pos, neg = make_batch(torch.float32, batch=0)
    loss = w2v_ext.negative_sampling_loss(in_weight, out_weight, center, pos, neg, sparse_grad=sparse_grad)
    assert loss.item() == 0
    loss.backward()
    grad = in_weight.grad.to_dense() if sparse_grad else in_weight.grad
    assert grad.shape == in_weight.shape
    assert grad.abs().sum() == 0


def test_weights_that_are_not_contiguous():
    args = list(make_batch(torch.float64))
    wide = torch.randn(50, 20, dtype=torch.float64)
    args[0] = wide[:, 3:10].detach().requires_grad_()  # rows strided
    args[1] = torch.randn(7, 50, dtype=torch.float64).t().detach().requires_grad_()  # columns strided
    assert not args[1].is_contiguous()
    assert_matches_reference(args, torch.float64)


def test_indices_that_are_not_contiguous():
    args = list(make_batch(torch.float64, batch=32))
    args[2], args[3], args[4] = args[2][::2], args[3][::2], args[4].flip(1)[::2]
    assert_matches_reference(args, torch.float64)


def bad(**changes):
    names = ("in_weight", "out_weight", "center", "pos", "neg")
    args = dict(zip(names, make_batch(torch.float32), strict=True))
    for name, change in changes.items():
        args[name] = change(args[name])
    return [args[name] for name in names]


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"in_weight": lambda t: t[0]}, ValueError, r"in_weight: expected shape \(V, D\), got \(7,\)"),
        ({"out_weight": lambda t: t[:, :6]}, ValueError, r"out_weight: .* D = 7 to match in_weight, got \(50, 6\)"),
        ({"in_weight": lambda t: t.int()}, ValueError, "in_weight: expected dtype float32.*got Int"),
        ({"out_weight": lambda t: t.double()}, ValueError, "out_weight: expected the dtype of in_weight, Float, got D"),
        ({"center": lambda t: t.float()}, ValueError, "center: expected dtype int32 or int64, got Float"),
        ({"neg": lambda t: t.short()}, ValueError, "neg: expected dtype int32 or int64, got Short"),
        ({"center": lambda t: t.unsqueeze(1)}, ValueError, r"center: expected shape \(B,\), got \(16, 1\)"),
        ({"pos": lambda t: t[:5]}, ValueError, r"pos: expected shape .* B = 16 to match center, got \(5, 1\)"),
        ({"neg": lambda t: t[:, 0]}, ValueError, r"neg: expected shape \(B, K\) with B = 16 .* got \(16,\)"),
        ({"center": lambda t: t + 50}, IndexError, r"center: index \d+ at position 0 is out of range for in_weight wi"),
        ({"pos": lambda t: -t - 1}, IndexError, r"pos: index -\d+ at position 0, 0 is out of range for out_weight"),
        (
            {"neg": lambda t: t.index_fill(0, torch.tensor([3]), 50)},
            IndexError,
            "neg: index 50 at position 3, 0 .*50 r",
        ),
    ],
)
def test_bad_arguments_are_named(changes, error, message):
    with pytest.raises(error, match=message):
        w2v_ext.negative_sampling_loss(*bad(**changes))


def test_unknown_reduction():
    with pytest.raises(ValueError, match="reduction: expected one of mean, sum, none, got 'avg'"):
        w2v_ext.negative_sampling_loss(*bad(), reduction="avg")


def test_other_device():
    with pytest.raises(ValueError, match="center: expected to be on the device of in_weight, cpu, got meta"):
        w2v_ext.negative_sampling_loss(*bad(center=lambda t: t.to("meta")))


def test_full_softmax_reference_matches_cross_entropy():
    in_weight, out_weight, center, pos, _ = make_batch(torch.float64)
    loss, grad_in, grad_out = reference.skipgram_softmax_loss(
        in_weight.detach().numpy(), out_weight.detach().numpy(), center.numpy(), pos[:, 0].numpy()
    )
    expected = torch.nn.functional.cross_entropy(in_weight[center] @ out_weight.T, pos[:, 0])
    wanted = torch.autograd.grad(expected, (in_weight, out_weight))
    assert loss == pytest.approx(expected.item(), rel=1e-13)
    torch.testing.assert_close(torch.from_numpy(grad_in), wanted[0])
    torch.testing.assert_close(torch.from_numpy(grad_out), wanted[1])


@pytest.mark.parametrize(
    ("name", "place", "message"),
    [
        ("center", (3,), "center: index 50 at position 3 is out of range for in_weight with 50 rows"),
        ("pos", (2, 0), "pos: index -1 at position 2, 0 is out of range for out_weight with 50 rows"),
        ("neg", (15, 4), "neg: index 99 at position 15, 4 is out of range for out_weight with 50 rows"),
    ],
)
def test_checked_indices_are_named_alike_everywhere(name, place, message):
    args = dict(zip(("in_weight", "out_weight", "center", "pos", "neg"), make_batch(torch.float32), strict=True))
    args[name][place] = int(message.split()[2])
    for check in (False, True):
        with pytest.raises(IndexError, match=message):
            w2v_ext.negative_sampling_loss(**args, check_indices=check)
        with pytest.raises(IndexError, match=message), torch.no_grad():
            w2v_ext.sgns_step_(**args, lr=0.1, check_indices=check)


@pytest.mark.parametrize("sparse_grad", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_examples_without_targets_have_a_zero_gradient(dtype, sparse_grad):
    args = make_batch(dtype, positives=0, negatives=0)
    loss = w2v_ext.negative_sampling_loss(*args, sparse_grad=sparse_grad)
    assert loss.item() == 0
    for grad in torch.autograd.grad(loss, args[:2]):
        assert not grad.to_dense().any()


@pytest.mark.parametrize("narrow", [0, 1])
def test_autocast_brings_weights_of_two_widths_together(narrow):
    args = list(make_batch(torch.float32))
    args[narrow] = args[narrow].detach().bfloat16().requires_grad_()
    with pytest.raises(ValueError, match="out_weight: expected the dtype of in_weight"):
        w2v_ext.negative_sampling_loss(*args)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = w2v_ext.negative_sampling_loss(*args)
    wide = [a.detach().float().requires_grad_() for a in args[:2]]
    expected = w2v_ext.negative_sampling_loss(*wide, *args[2:])
    assert loss == expected
    pairs = zip(torch.autograd.grad(loss, args[:2]), torch.autograd.grad(expected, wide), strict=True)
    for weight, (grad, want) in zip(args[:2], pairs, strict=True):
        assert torch.equal(grad, want.to(weight.dtype))


def test_draws_take_integers():
    alias = w2v_ext.alias_table(torch.ones(5))
    with pytest.raises(ValueError, match="positive: expected integers, got torch.float32"):
        w2v_ext.sample_negatives(alias, torch.tensor([0.7]), 3, 0)
    with pytest.raises(ValueError, match="seed: expected an integer of 64 bits, got 9223372036854775808"):
        w2v_ext.sample_negatives(alias, torch.tensor([0]), 3, 2**63)
