"""The kernel of the chunked cross-entropy beside PyTorch's own operators, on the CPU (emulated) and on a GPU."""

import pytest
import torch
import torch.nn.functional as F

from w2v_ext import ops
from w2v_ext.seq2seq import chunked_cross_entropy
from w2v_ext.seq2seq import loss as seq2seq_loss

DTYPES = [torch.float32, torch.float64, torch.bfloat16, torch.float16]


def make(rows, vocab, dtype, device, scale=3.0):
    """Scores, bias in the dtype of sums, targets that meet the first and the last word."""
    generator = torch.Generator().manual_seed(rows * vocab)
    total = torch.float64 if dtype == torch.float64 else torch.float32
    scores = (scale * torch.randn(rows, vocab, generator=generator)).to(dtype)
    bias = torch.randn(vocab, generator=generator).to(total)
    target = torch.randint(vocab, (rows,), generator=generator)
    target[0], target[-1] = vocab - 1, 0
    return scores.to(device), bias.to(device), target.to(device)


def expected(scores, bias, target, smoothing):
    """Losses and slopes in float64, by autograd."""
    x = scores.double().requires_grad_()
    shifted = x if bias is None else x + bias.double()
    losses = F.cross_entropy(shifted, target, label_smoothing=smoothing, reduction="none")
    return losses.detach(), torch.autograd.grad(losses.sum(), x)[0]


def slopes_of(scores, bias, target, smoothing, with_slopes=True):
    total = torch.float64 if scores.dtype == torch.float64 else torch.float32
    losses = torch.full((len(scores),), 7, dtype=total, device=scores.device)
    ops._call(ops._ops.softmax_slopes_cuda_, scores, bias, target, smoothing, losses, with_slopes)
    return losses


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("vocab", [1, 2, 33, 2048, 2049, 9000])
@pytest.mark.parametrize(("smoothing", "with_bias"), [(0.0, True), (0.1, False), (0.3, True)])
def test_losses_and_slopes(any_cuda, dtype, vocab, smoothing, with_bias):
    scores, bias, target = make(5, vocab, dtype, any_cuda)
    bias = bias if with_bias else None
    losses, slopes = expected(scores, bias, target, smoothing)
    got = slopes_of(scores, bias, target, smoothing)
    close = 1e-12 if dtype == torch.float64 else 2e-5
    torch.testing.assert_close(got.double(), losses, rtol=close, atol=close)
    rounding = {torch.float64: 1e-12, torch.float32: 1e-5, torch.float16: 2**-11, torch.bfloat16: 2**-8}[dtype]
    torch.testing.assert_close(scores.double(), slopes, rtol=rounding, atol=1e-7)


@pytest.mark.parametrize("lanes", ["first lane ahead", "last lane ahead"], indirect=True)
def test_more_parts_than_lanes_and_rows_of_a_wider_table(any_cuda, lanes):
    whole, bias, target = make(3, 70_007, torch.float32, any_cuda)  # 32 parts of 2,188 columns
    before = whole.clone()
    scores = whole[:, 3:-4]
    bias, target = bias[3:-4].contiguous(), target.clamp(max=scores.shape[1] - 1)
    losses, slopes = expected(scores, bias, target, 0.1)
    got = slopes_of(scores, bias, target, 0.1)
    torch.testing.assert_close(got.double(), losses, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(scores.double(), slopes, rtol=2e-5, atol=1e-9)
    assert torch.equal(whole[:, :3], before[:, :3]) and torch.equal(whole[:, -4:], before[:, -4:])
    again = before[:, 3:-4].clone()
    assert torch.equal(slopes_of(again, bias, target, 0.1), got) and torch.equal(again, scores)


def test_scores_stay_where_no_slopes_are_wanted(any_cuda):
    scores, bias, target = make(4, 3000, torch.float32, any_cuda)
    before = scores.clone()
    losses, _ = expected(scores, bias, target, 0.2)
    torch.testing.assert_close(slopes_of(scores, bias, target, 0.2, False).double(), losses, rtol=1e-6, atol=1e-6)
    assert torch.equal(scores, before)


def test_scores_far_apart(any_cuda):
    scores, _, target = make(4, 2500, torch.float32, any_cuda, scale=1e4)
    scores[1, :2100] = -torch.inf  # all of the first part, some of the second
    target[1] = 2400
    losses, slopes = expected(scores, None, target, 0.0)
    torch.testing.assert_close(slopes_of(scores, None, target, 0.0).double(), losses, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(scores.double(), slopes, rtol=1e-6, atol=1e-6)
    scores[2, 2000] = torch.nan
    assert slopes_of(scores, None, target, 0.0).isnan().tolist() == [False, False, True, False]
    assert scores[2].isnan().all()


def test_large_scores_close_together(any_cuda):
    scores, _, target = make(4, 2500, torch.float32, any_cuda)
    scores += 1e4
    losses, slopes = expected(scores, None, target, 0.0)
    torch.testing.assert_close(slopes_of(scores, None, target, 0.0).double(), losses, rtol=1e-6, atol=1e-5)
    torch.testing.assert_close(scores.double(), slopes, rtol=1e-5, atol=1e-9)


@pytest.fixture
def with_kernel(any_cuda, monkeypatch):
    """Chunked cross-entropy by the kernel, of which the emulated device would not be."""
    calls = []
    kernel = seq2seq_loss._slopes_by_kernel
    monkeypatch.setattr(seq2seq_loss, "_has_kernel", lambda _: True)
    monkeypatch.setattr(seq2seq_loss, "_slopes_by_kernel", lambda *given: calls.append(given) or kernel(*given))
    return any_cuda, calls


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
@pytest.mark.parametrize(("rows", "chunk"), [(1, None), (70, None), (150, 64), (150, 7)])
def test_chunked_cross_entropy_by_the_kernel(with_kernel, dtype, rows, chunk):
    device, calls = with_kernel
    generator = torch.Generator().manual_seed(0)
    compute = torch.float64 if dtype == torch.float64 else torch.float32
    draw = lambda *shape: torch.randn(*shape, generator=generator, dtype=compute).to(device).requires_grad_()  # noqa: E731
    leaves = features, weight, bias = draw(rows, 8), draw(3000, 8), draw(3000)
    target = torch.randint(1, 3000, (rows,), generator=generator).to(device)
    target[rows // 3 : rows // 2] = 0
    options = {"ignore_index": 0, "label_smoothing": 0.1}
    want = F.cross_entropy(F.linear(features, weight, bias), target, **options)
    with torch.autocast(device.type, torch.bfloat16, enabled=dtype == torch.bfloat16):
        got = chunked_cross_entropy(features, weight, bias, target, chunk=chunk, label_smoothing=0.1)
    assert calls
    close = {torch.float64: 1e-12, torch.float32: 1e-5, torch.bfloat16: 2e-2}[dtype]
    torch.testing.assert_close(got, want, rtol=close, atol=close)
    found, wanted = (torch.autograd.grad(2 * loss, leaves) for loss in (got, want))
    for a, b in zip(found, wanted, strict=True):
        assert (a - b).norm() <= close * b.norm()
    with torch.no_grad(), torch.autocast(device.type, torch.bfloat16, enabled=dtype == torch.bfloat16):
        alone = chunked_cross_entropy(features, weight, bias, target, chunk=chunk, label_smoothing=0.1)
    assert torch.equal(alone, got.detach())
    assert not calls[-1][-1]  # whether slopes are wanted


def test_float64_stays_float64_under_autocast(with_kernel):
    device, calls = with_kernel
    leaves = [torch.randn(*shape, dtype=torch.float64, device=device) for shape in ((70, 8), (3000, 8), (3000,))]
    target = torch.arange(1, 71, device=device)
    with torch.autocast(device.type, torch.bfloat16):
        got = chunked_cross_entropy(*leaves, target)
    assert calls and got.dtype == torch.float64
    torch.testing.assert_close(got, F.cross_entropy(F.linear(*leaves), target), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"scores": torch.zeros(4, 9).int()}, "scores: expected dtype float32, float64, bfloat16 or float16, got Int"),
        ({"scores": torch.zeros(36)}, r"scores: expected shape \(N, V\), V >= 1, with contiguous rows, got \(36,\)"),
        (
            {"scores": lambda device: torch.zeros(9, 4, device=device).T},
            r"scores: expected shape .* with contiguous rows, got \(4, 9\)",
        ),
        (
            {"scores": lambda device: torch.zeros(1, 9, device=device).expand(4, 9)},
            r"scores: expected rows that do not overlap, got stride\(0\) = 0",
        ),
        ({"bias": torch.zeros(8)}, r"bias: expected a contiguous Float tensor of shape \(9,\), got \(8,\)"),
        ({"bias": torch.zeros(9).double()}, "bias: expected a contiguous Float tensor"),
        ({"target": torch.zeros(4).int()}, "target: expected a contiguous Long tensor"),
        ({"losses": torch.zeros(3)}, r"losses: expected a contiguous Float tensor of shape \(4,\), got \(3,\)"),
        ({"smoothing": 1.0}, r"smoothing: expected a number in \[0, 1\), got 1"),
    ],
)
def test_bad_arguments(any_cuda, change, message):
    scores, bias, target = make(4, 9, torch.float32, any_cuda)
    given = {"scores": scores, "bias": bias, "target": target, "smoothing": 0.0, "losses": torch.zeros(4).to(any_cuda)}
    for name, value in change.items():
        given[name] = value.to(any_cuda) if isinstance(value, torch.Tensor) else value
    if callable(given["scores"]):  # made where it is used: a copy would have other strides
        given["scores"] = given["scores"](any_cuda)
    with pytest.raises(ValueError, match=message):
        ops._call(ops._ops.softmax_slopes_cuda_, *given.values(), True)
    slopes_of(scores[:0], bias, target[:0], 0.0)  # no rows: nothing to do
