"""The step on CUDA, bad arguments and indices, and sums in a fixed order; see test_cuda.py."""

import subprocess
import sys

import pytest
import torch
from test_cuda import (
    ARGUMENT_ERROR,
    assert_rows_close,
    cuda_batch,
    detached,
    either_gradient,
)
from test_loss import DTYPES, bad

import w2v_ext
from w2v_ext import reference

pytestmark = [
    pytest.mark.cuda,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device and a CUDA build of PyTorch"),
]


# ---- the step ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_step_is_one_step_of_sgd(dtype, reduction):
    args = detached(cuda_batch(dtype))
    expected = detached(args)
    loss = w2v_ext.sgns_step_(*args, 0.3, reduction=reduction)
    want = reference.sgns_step_(*expected, 0.3, reduction=reduction)
    torch.testing.assert_close(loss, want, rtol=1e-5, atol=1e-6)
    for weight, wanted in zip(args[:2], expected[:2], strict=True):
        assert_rows_close(weight, wanted, dtype)


@pytest.mark.parametrize("dim", [1, 7, 100, 129, 300])
def test_step_on_hot_rows_and_every_dimension(dim):
    args = detached(cuda_batch(torch.float64, vocab=5, dim=dim, batch=2000, positives=2))
    expected = detached(args)
    w2v_ext.sgns_step_(*args, 0.5)
    reference.sgns_step_(*expected, 0.5)
    for weight, wanted in zip(args[:2], expected[:2], strict=True):
        torch.testing.assert_close(weight, wanted, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("dim", [12, 128, 300])
@pytest.mark.parametrize("vocab", [40, 3000, 20_000, 100_000, 200_000])
def test_rows_that_occur_once_or_often(dtype, dim, vocab):
    # 33,000 occurrences: of up to 132,000 rows each is written by one warp, beyond that by atomics. A sum of n numbers
    # of either sign may round n times, each time by half a last bit of what it has reached.
    args = cuda_batch(dtype, vocab=vocab, dim=dim, batch=3000, negatives=10)
    exact = [a.detach().double().requires_grad_() for a in args[:2]]
    wanted = torch.autograd.grad(reference.negative_sampling_loss(*exact, *args[2:], reduction="sum"), exact)
    loss = w2v_ext.negative_sampling_loss(*args, reduction="sum")
    roundings = 33_000 / vocab * torch.finfo(torch.float32).eps / 2
    for grad, want in zip(torch.autograd.grad(loss, args[:2]), wanted, strict=True):
        assert_rows_close(grad.double(), want, dtype, roundings)
    stepped = detached(args)
    w2v_ext.sgns_step_(*stepped, 0.3)
    expected = [a.detach() for a in exact]
    reference.sgns_step_(*expected, *args[2:], 0.3)
    for weight, want in zip(stepped[:2], expected, strict=True):
        assert_rows_close(weight.double(), want, dtype, roundings)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_small_steps_of_16_bit_rows_are_summed_before_they_are_rounded(dtype):
    # 4,096 examples move a number by 5e-4 or 1e-3 each: rounded one by one, they get stuck at 2, or never leave 8.
    args = [torch.zeros(1, 1, dtype=dtype, device="cuda"), torch.full((1, 1), 8.0, dtype=dtype, device="cuda")]
    index = torch.zeros(4096, dtype=torch.int64, device="cuda")
    none = index.new_zeros(4096, 0)
    w2v_ext.sgns_step_(*args, index, index, none, 1e-3 / 8, reduction="sum")
    assert args[0].item() == pytest.approx(4096 * 0.5 * 1e-3, rel=1e-2)
    args = [torch.ones(1, 1, dtype=dtype, device="cuda"), torch.full((1, 1), 8.0, dtype=dtype, device="cuda")]
    w2v_ext.sgns_step_(*args, index, none, index.unsqueeze(1), 1e-3, reduction="sum")
    assert args[1].item() == pytest.approx(8 - 4096 * 1e-3, rel=1e-2)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_rows_in_wider_memory_are_updated_in_place_and_nothing_else(dtype):
    args = detached(cuda_batch(dtype))
    wide = torch.full((50, 16), 9.0, dtype=dtype, device="cuda")
    wide[:, :7] = args[0]
    expected = detached(args)
    args[0] = wide[:, :7]
    w2v_ext.sgns_step_(*args, 0.3)
    reference.sgns_step_(*expected, 0.3)
    assert_rows_close(wide[:, :7], expected[0], dtype)
    assert (wide[:, 7:] == 9.0).all()


@pytest.mark.parametrize("dtype", DTYPES)
def test_empty_batch_changes_nothing(dtype):
    args = detached(cuda_batch(dtype, batch=0))
    before = args[0].clone()
    assert w2v_ext.sgns_step_(*args, 0.3).item() == 0
    assert torch.equal(before, args[0])


# ---- errors --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"in_weight": lambda t: t[0]}, r"in_weight: expected shape \(V, D\), got \(7,\)"),
        ({"out_weight": lambda t: t[:, :6]}, r"out_weight: .* D = 7 to match in_weight, got \(50, 6\)"),
        ({"in_weight": lambda t: t.int()}, "in_weight: expected dtype float32.*got Int"),
        ({"out_weight": lambda t: t.double()}, "out_weight: expected the dtype of in_weight, Float, got D"),
        ({"center": lambda t: t.float()}, "center: expected dtype int32 or int64, got Float"),
        ({"neg": lambda t: t.short()}, "neg: expected dtype int32 or int64, got Short"),
        ({"center": lambda t: t.unsqueeze(1)}, r"center: expected shape \(B,\), got \(16, 1\)"),
        ({"pos": lambda t: t[:5]}, r"pos: expected shape .* B = 16 to match center, got \(5, 1\)"),
        ({"neg": lambda t: t[:, 0]}, r"neg: expected shape \(B, K\) with B = 16 .* got \(16,\)"),
    ],
)
def test_bad_arguments_are_named(changes, message):
    with pytest.raises(ARGUMENT_ERROR, match=message):
        w2v_ext.negative_sampling_loss(*(t.cuda() for t in bad(**changes)))


@pytest.mark.parametrize("name", ["out_weight", "center", "pos", "neg"])
def test_tensors_on_the_cpu_are_named(name):
    args = dict(zip(("in_weight", "out_weight", "center", "pos", "neg"), cuda_batch(torch.float32), strict=True))
    args[name] = args[name].cpu()
    with pytest.raises(ARGUMENT_ERROR, match=f"{name}: expected to be on the device of in_weight"):
        w2v_ext.negative_sampling_loss(**args)


def test_gradient_of_another_shape_or_device_is_named():
    args = detached(cuda_batch(torch.float32))
    backward = torch.ops.w2v_ext.negative_sampling_loss_backward
    coef = torch.zeros(16, 6, device="cuda")
    with pytest.raises(ARGUMENT_ERROR, match=r"grad_loss: expected shape \(B,\) = \(16,\) .* got \(15,\)"):
        backward(torch.ones(15, device="cuda"), coef, *args)
    with pytest.raises(ARGUMENT_ERROR, match=r"coef: expected shape \(B, P \+ K\) .* got \(16, 5\)"):
        backward(torch.ones(16, device="cuda"), coef[:, 1:], *args)
    with pytest.raises(ARGUMENT_ERROR, match="grad_loss: expected to be on the device of in_weight"):
        backward(torch.ones(16), coef, *args)
    with pytest.raises(ARGUMENT_ERROR, match=r"center_grad: expected shape \(B, D\) .* got \(16, 3\)"):
        backward(torch.ones(16, device="cuda"), coef, *args, torch.ones(16, 3, device="cuda"))


def test_bad_steps_change_nothing():
    args = detached(cuda_batch(torch.float32))
    before = detached(args)
    with pytest.raises(ARGUMENT_ERROR, match="out_weight: expected other memory than in_weight's"):
        w2v_ext.sgns_step_(args[0], args[0], *args[2:], 0.1)
    with pytest.raises(ARGUMENT_ERROR, match=r"in_weight: expected contiguous rows .* got stride\(1\) = 50"):
        w2v_ext.sgns_step_(torch.zeros(7, 50, device="cuda").t(), *args[1:], 0.1)
    for now, then in zip(args, before, strict=True):
        assert torch.equal(now, then)


BAD_INDICES = [("center", 4), ("pos", -1), ("neg", 2**32)]
CALLS = ["negative_sampling_loss(*args)", "sgns_step_(*args, 0.1)"]


@pytest.fixture(scope="module")
def failed_programs():
    """Each bad call in a process of its own, all at once: a failed assertion on the device ends the use of CUDA."""
    running = {}
    for call in CALLS:
        for name, index in BAD_INDICES:
            program = f"""
import torch, w2v_ext
weights = [torch.zeros(4, 3, device="cuda") for _ in range(2)]
index = dict(center=torch.zeros(2, dtype=torch.int64), pos=torch.zeros(2, 1, dtype=torch.int64),
             neg=torch.zeros(2, 5, dtype=torch.int64))
index["{name}"].view(-1)[-1] = {index}
args = *weights, *(i.cuda() for i in index.values())
w2v_ext.{call}
torch.cuda.synchronize()
"""
            command = [sys.executable, "-c", program]
            running[call, name] = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    yield running
    for process in running.values():
        process.kill()
        process.wait()


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("name", [name for name, _ in BAD_INDICES])
def test_index_out_of_range_is_named(failed_programs, call, name):
    output, _ = failed_programs[call, name].communicate(timeout=300)
    assert failed_programs[call, name].returncode != 0
    assert f"{name}: index out of range for {'in' if name == 'center' else 'out'}_weight" in output


@pytest.mark.parametrize(("name", "index"), BAD_INDICES)
def test_checked_index_out_of_range_is_an_index_error(name, index):
    args = dict(zip(("in_weight", "out_weight", "center", "pos", "neg"), cuda_batch(torch.float32), strict=True))
    args[name].view(-1)[-1] = 50 if name == "center" else index
    with pytest.raises(IndexError, match=f"{name}: index .* is out of range for .*_weight with 50 rows"):
        w2v_ext.negative_sampling_loss(**args, check_indices=True)
    with pytest.raises(IndexError, match=f"{name}: index"), torch.no_grad():
        w2v_ext.sgns_step_(**args, lr=0.1, check_indices=True)


# ---- sums in a fixed order -----------------------------------------------------------------------------------------


@pytest.fixture
def deterministic():
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("vocab", "batch", "dim"), [(50, 16, 7), (4, 3000, 33), (1, 500, 128), (3000, 900, 130)])
def test_deterministic_gradients_match_the_reference(deterministic, dtype, vocab, batch, dim):
    args = cuda_batch(dtype, vocab=vocab, batch=batch, dim=dim)
    loss = w2v_ext.negative_sampling_loss(*args, reduction="sum")
    exact = [a.detach().double().requires_grad_() for a in args[:2]]
    wanted = torch.autograd.grad(reference.negative_sampling_loss(*exact, *args[2:], reduction="sum"), exact)
    for grad, want in zip(torch.autograd.grad(loss, args[:2]), wanted, strict=True):
        assert grad.dtype == dtype
        assert_rows_close(grad.double(), want, dtype)


@either_gradient
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_deterministic_results_are_the_same_bits(deterministic, dtype, sparse_grad):
    args = cuda_batch(dtype, vocab=40, batch=20_000, dim=100)
    results = []
    for _ in range(3):
        loss = w2v_ext.negative_sampling_loss(*args, sparse_grad=sparse_grad)
        stepped = detached(args)
        w2v_ext.sgns_step_(*stepped, 0.3, reduction="sum")
        results.append([*(g.to_dense() for g in torch.autograd.grad(loss, args[:2])), *stepped[:2]])
    for other in results[1:]:
        for one, two in zip(results[0], other, strict=True):
            assert torch.equal(one, two)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("vocab", "dim"), [(50, 7), (5, 129)])
def test_deterministic_step_is_one_step_of_sgd(deterministic, dtype, vocab, dim):
    args = detached(cuda_batch(dtype, vocab=vocab, dim=dim, batch=300))
    expected = detached(args)
    w2v_ext.sgns_step_(*args, 0.3)
    reference.sgns_step_(*expected, 0.3)
    for weight, wanted in zip(args[:2], expected[:2], strict=True):
        assert_rows_close(weight, wanted, dtype)


def test_loss_and_gradients_in_a_cuda_graph(deterministic):
    args = cuda_batch(torch.float32, batch=300)
    want = torch.autograd.grad(w2v_ext.negative_sampling_loss(*args), args[:2])
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        torch.autograd.grad(w2v_ext.negative_sampling_loss(*args), args[:2])
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        grads = torch.autograd.grad(w2v_ext.negative_sampling_loss(*args), args[:2])
    graph.replay()
    torch.cuda.synchronize()
    for got, wanted in zip(grads, want, strict=True):
        assert torch.equal(got, wanted)
