"""The CUDA kernels against the reference on the same device, as test_loss.py and test_step.py do for the CPU's."""

import math

import pytest
import torch
from test_loss import DTYPES, TOLERANCE, make_batch

import w2v_ext
from w2v_ext import reference

pytestmark = [
    pytest.mark.cuda,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device and a CUDA build of PyTorch"),
]

ARGUMENT_ERROR = (ValueError, RuntimeError)  # PyTorch 2.15 makes RuntimeError of any std::invalid_argument
SPARSE = "w2v_ext::negative_sampling_loss_backward_sparse"
needs_sparse = pytest.mark.skipif(
    not torch._C._dispatch_has_kernel_for_dispatch_key(SPARSE, "CUDA"), reason="no sparse gradients on CUDA yet"
)
either_gradient = pytest.mark.parametrize("sparse_grad", [False, pytest.param(True, marks=needs_sparse)])


def on_device(args, device="cuda"):
    return [a.detach().to(device).requires_grad_(a.requires_grad) for a in args]


def cuda_batch(dtype, **options):
    return on_device(make_batch(dtype, **options))


def detached(args):
    return [a.detach().clone() for a in args]


def assert_matches_reference(args, dtype, **options):
    loss = w2v_ext.negative_sampling_loss(*args, **options)
    expected = reference.negative_sampling_loss(*args, reduction=options.get("reduction", "mean"))
    accumulator = torch.float64 if dtype == torch.float64 else torch.float32
    assert loss.is_cuda
    assert loss.dtype == accumulator
    torch.testing.assert_close(loss, expected, rtol=1e-5 if accumulator == torch.float32 else 1e-13, atol=1e-6)
    weight = torch.linspace(0.5, 1.5, loss.numel(), dtype=loss.dtype, device=loss.device).view_as(loss)
    grads = torch.autograd.grad(loss, args[:2], weight)
    wanted = torch.autograd.grad(expected, args[:2], weight)
    for grad, want in zip(grads, wanted, strict=True):
        assert grad.dtype == dtype
        if options.get("sparse_grad"):
            rows = grad.indices()[0]
            assert torch.equal(rows, torch.unique(rows))
            grad = grad.to_dense()
        assert_rows_close(grad, want, dtype)


def assert_rows_close(got, want, dtype, least=0.0):
    scale = want.abs().max().clamp(min=1)
    torch.testing.assert_close(got / scale, want / scale, rtol=0, atol=max(TOLERANCE[dtype], least))


# ---- the loss and its gradients ------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", DTYPES)
@either_gradient
@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_loss_and_gradients_match_the_reference(dtype, sparse_grad, reduction):
    assert_matches_reference(cuda_batch(dtype), dtype, sparse_grad=sparse_grad, reduction=reduction)


@pytest.mark.parametrize("dim", [1, 2, 7, 16, 31, 32, 33, 64, 100, 128, 129, 300])
@pytest.mark.parametrize("dtype", DTYPES)
def test_every_dimension(dtype, dim):
    assert_matches_reference(cuda_batch(dtype, dim=dim), dtype)


@pytest.mark.parametrize(("positives", "negatives"), [(1, 0), (0, 3), (3, 1), (2, 25)])
@pytest.mark.parametrize("index", [torch.int32, torch.int64])
def test_any_number_of_positives_and_negatives(positives, negatives, index):
    args = cuda_batch(torch.float64, positives=positives, negatives=negatives, index=index)
    assert_matches_reference(args, torch.float64)


def test_indices_of_different_widths():
    args = cuda_batch(torch.float64)
    args[2], args[4] = args[2].int(), args[4].int()
    assert_matches_reference(args, torch.float64)


def test_positives_without_a_second_dimension():
    args = cuda_batch(torch.float64)
    flat = (*args[:3], args[3].squeeze(1), args[4])
    assert w2v_ext.negative_sampling_loss(*flat) == w2v_ext.negative_sampling_loss(*args)


@either_gradient
def test_hot_rows_sum_exactly_once(sparse_grad):
    # 30,000 examples over 4 rows: thousands of warps add to the same addresses.
    assert_matches_reference(cuda_batch(torch.float64, vocab=4, batch=30_000), torch.float64, sparse_grad=sparse_grad)


@pytest.mark.parametrize("dtype", DTYPES)
def test_same_result_as_on_the_cpu(dtype):
    host = make_batch(dtype, dim=33)
    results = []
    for args in (host, on_device(host)):
        loss = w2v_ext.negative_sampling_loss(*args, reduction="sum")
        results.append([loss.detach().cpu(), *(g.cpu() for g in torch.autograd.grad(loss, args[:2]))])
    torch.testing.assert_close(results[1][0], results[0][0], rtol=1e-6, atol=0)
    for got, want in zip(results[1][1:], results[0][1:], strict=True):
        assert_rows_close(got, want, dtype)


def test_coefficients_are_sigmoid_minus_label():
    in_weight, out_weight, center, pos, neg = cuda_batch(torch.float64, positives=2, negatives=3)
    _, coef, _ = torch.ops.w2v_ext.negative_sampling_loss(in_weight, out_weight, center, pos, neg, False)
    scores = torch.einsum("bd,bkd->bk", in_weight[center], out_weight[torch.cat([pos, neg], 1)])
    label = torch.tensor([1, 1, 0, 0, 0], device="cuda")
    torch.testing.assert_close(coef, (torch.sigmoid(scores) - label).detach(), atol=1e-14, rtol=0)


@pytest.mark.parametrize("score", [-1e4, -100.0, -88.0, -20.0, -1e-3, 0.0, 1e-3, 20.0, 88.0, 100.0, 1e4])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_loss_is_exact_for_extreme_scores(score, dtype):
    in_weight = torch.tensor([[score]], dtype=dtype, device="cuda", requires_grad=True)
    out_weight = torch.tensor([[1.0]], dtype=dtype, device="cuda", requires_grad=True)
    zero = torch.zeros(1, dtype=torch.int64, device="cuda")
    none = torch.zeros(1, 0, dtype=torch.int64, device="cuda")
    rel = 1e-6 if dtype == torch.float32 else 1e-14
    positive = w2v_ext.negative_sampling_loss(in_weight, out_weight, zero, zero, none)
    negative = w2v_ext.negative_sampling_loss(in_weight, out_weight, zero, none, zero.unsqueeze(1))
    softplus = math.log1p(math.exp(-abs(score)))
    assert negative.item() == pytest.approx(max(score, 0) + softplus, rel=rel, abs=1e-38)
    assert positive.item() == pytest.approx(max(-score, 0) + softplus, rel=rel, abs=1e-38)
    (grad,) = torch.autograd.grad(negative, in_weight)
    sigmoid = 1 / (1 + math.exp(-score)) if score > -700 else 0.0
    assert grad.item() == pytest.approx(sigmoid, rel=rel, abs=1e-38)


def test_not_a_number_is_passed_on():
    in_weight, out_weight, center, pos, neg = detached(cuda_batch(torch.float32))
    in_weight.fill_(float("nan"))
    assert w2v_ext.negative_sampling_loss(in_weight, out_weight, center, pos, neg).isnan()


@either_gradient
def test_empty_batch_gives_zero_and_a_zero_gradient(sparse_grad):
    in_weight, out_weight, center, pos, neg = cuda_batch(torch.float32, batch=0)
    loss = w2v_ext.negative_sampling_loss(in_weight, out_weight, center, pos, neg, sparse_grad=sparse_grad)
    assert loss.item() == 0
    loss.backward()
    grad = in_weight.grad.to_dense() if sparse_grad else in_weight.grad
    assert grad.shape == in_weight.shape
    assert grad.abs().sum() == 0


def test_weights_that_are_not_contiguous():
    args = cuda_batch(torch.float64)
    args[0] = torch.randn(50, 20, dtype=torch.float64, device="cuda")[:, 3:10].requires_grad_()  # rows strided
    args[1] = torch.randn(7, 50, dtype=torch.float64, device="cuda").t().requires_grad_()  # columns strided
    assert not args[1].is_contiguous()
    assert_matches_reference(args, torch.float64)


def test_indices_that_are_not_contiguous():
    args = cuda_batch(torch.float64, batch=32)
    args[2], args[3] = args[2][::2], args[3][:1].expand(16, 1)
    args[4] = args[4].t().contiguous().t()[::2]
    assert_matches_reference(args, torch.float64)


@pytest.mark.slow
def test_more_numbers_than_fit_32_bits():
    rows, dim = 2**24 + 8, 128  # 8.6 GB
    if torch.cuda.mem_get_info()[0] < 30e9:
        pytest.skip("needs 30 GB of free GPU memory")
    big = torch.zeros(rows, dim, device="cuda")
    small = torch.randn(5, dim, device="cuda")
    big[-5:] = torch.randn(5, dim, device="cuda")
    _, _, center, pos, neg = cuda_batch(torch.float32, vocab=5)
    few = big[-5:].clone().requires_grad_()
    big.requires_grad_()
    center_of_big = center + rows - 5
    for args, near in (
        ((big, small, center_of_big, pos, neg), (few, small, center, pos, neg)),
        ((small, big, center, pos + rows - 5, neg + rows - 5), (small, few, center, pos, neg)),
    ):
        loss, want = w2v_ext.negative_sampling_loss(*args), w2v_ext.negative_sampling_loss(*near)
        torch.testing.assert_close(loss, want)
        (grad,) = torch.autograd.grad(loss, big)
        assert_rows_close(grad[-5:], torch.autograd.grad(want, few)[0], torch.float32)
        assert not grad[:-5].any()
        del grad
    w2v_ext.sgns_step_(big, small.clone(), center_of_big, pos, neg, 0.5)
    w2v_ext.sgns_step_(few, small.clone(), center, pos, neg, 0.5)
    assert_rows_close(big[-5:].detach(), few.detach(), torch.float32)
    assert not big[:-5].any()


# ---- as part of PyTorch --------------------------------------------------------------------------------------------


def test_gradcheck():
    args = cuda_batch(torch.float64, vocab=9, dim=3, batch=5, positives=2, negatives=3)
    for reduction in ("mean", "none"):
        assert torch.autograd.gradcheck(
            lambda a, b, r=reduction: w2v_ext.negative_sampling_loss(a, b, *args[2:], reduction=r),
            args[:2],
            nondet_tol=1e-12,  # rows are added up in any order
        )


def test_gradcheck_of_tied_weights():
    weight, _, center, pos, neg = cuda_batch(torch.float64, vocab=9, dim=3, batch=5)
    assert torch.autograd.gradcheck(
        lambda w: w2v_ext.negative_sampling_loss(w, w, center, pos, neg), (weight,), nondet_tol=1e-12
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_opcheck(dtype):
    args = cuda_batch(dtype)
    for with_center_grad in (False, True):
        torch.library.opcheck(torch.ops.w2v_ext.negative_sampling_loss.default, (*args, False, with_center_grad))
    torch.library.opcheck(torch.ops.w2v_ext.sgns_step_.default, (*detached(args), 0.1))


def test_compile_fullgraph_with_changing_batch_sizes():
    compiled = torch.compile(lambda *args: w2v_ext.negative_sampling_loss(*args), fullgraph=True, dynamic=True)
    for batch in (16, 5):
        args = cuda_batch(torch.float32, batch=batch)
        grads = torch.autograd.grad(compiled(*args), args[:2])
        wanted = torch.autograd.grad(w2v_ext.negative_sampling_loss(*args), args[:2])
        for grad, want in zip(grads, wanted, strict=True):
            torch.testing.assert_close(grad, want)


def test_autocast_leaves_the_result_alone():
    args = cuda_batch(torch.float32)
    with torch.autocast("cuda", dtype=torch.bfloat16):
        inside = w2v_ext.negative_sampling_loss(*args)
    assert inside == w2v_ext.negative_sampling_loss(*args)


def test_kernels_run_on_the_current_stream():
    # Inputs arrive late on a stream of their own: a kernel on any other stream would read what was there before.
    args = cuda_batch(torch.float32)
    late = [args[0].detach().clone().mul_(3), args[1].detach().clone()]
    want = w2v_ext.negative_sampling_loss(*late, *args[2:])
    stepped = detached([*late, *args[2:]])
    w2v_ext.sgns_step_(*stepped, 0.3)
    now = detached(args)
    torch.cuda.synchronize()
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        torch.cuda._sleep(100_000_000)  # cycles, some 50 ms
        now[0].mul_(3)
        loss = w2v_ext.negative_sampling_loss(*now)
        w2v_ext.sgns_step_(*now, 0.3)
    stream.synchronize()
    torch.testing.assert_close(loss, want)
    for got, wanted in zip(now[:2], stepped[:2], strict=True):
        torch.testing.assert_close(got, wanted)


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two CUDA devices")
def test_tensors_of_another_device_than_the_current_one():
    host = make_batch(torch.float64)
    with torch.cuda.device(0):
        args = on_device(host, "cuda:1")
        assert_matches_reference(args, torch.float64)
        assert torch.cuda.current_device() == 0


@pytest.mark.parametrize("dim", [7, 8])  # by atomics, and by the list of occurrences
def test_step_in_a_cuda_graph(dim):
    args = detached(cuda_batch(torch.float32, dim=dim))
    expected = detached(args)
    w2v_ext.sgns_step_(*detached(args), 0.1)  # loads the kernels
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):  # fails where anything waits for the device
        loss = w2v_ext.sgns_step_(*args, 0.1)
    for _ in range(3):
        graph.replay()
        want = w2v_ext.sgns_step_(*expected, 0.1)
        torch.testing.assert_close(loss, want)
    for got, wanted in zip(args[:2], expected[:2], strict=True):
        torch.testing.assert_close(got, wanted)


@either_gradient
def test_module_trains(sparse_grad):
    torch.manual_seed(0)
    model = w2v_ext.SkipGramNegSampling(30, 8, sparse_grad=sparse_grad).cuda()
    optimizer = torch.optim.SGD(model.parameters(), lr=5.0)
    center = torch.arange(30, device="cuda")
    pos = (center + 1) % 30
    for step in range(200):
        neg = torch.randint(30, (30, 4), generator=torch.Generator().manual_seed(step)).cuda()
        optimizer.zero_grad()
        loss = model(center, pos, neg)
        loss.backward()
        optimizer.step()
    assert loss.item() < 2.0 < 5 * math.log(2)
