"""Chunked cross-entropy and sampled loss beside plain PyTorch."""

import pytest
import torch
import torch.nn.functional as F

import w2v_ext
from w2v_ext import reference
from w2v_ext.seq2seq import chunked_cross_entropy, sampled_loss
from w2v_ext.seq2seq import reference as seq2seq_reference
from w2v_ext.seq2seq.loss import chunk_rows, set_noise_bias

pytestmark = pytest.mark.usefixtures("one_thread")


def make(rows=37, size=5, vocab=13, dtype=torch.float64, ignored=9):
    generator = torch.Generator().manual_seed(0)
    draw = lambda *shape: torch.randn(*shape, dtype=dtype, generator=generator, requires_grad=True)  # noqa: E731
    target = torch.randint(1, vocab, (rows,), generator=generator)
    target[torch.randperm(rows, generator=generator)[:ignored]] = 0
    return draw(rows, size), draw(vocab, size), draw(vocab), target


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 0.7])
@pytest.mark.parametrize("with_bias", [False, True])
@pytest.mark.parametrize("chunk", [None, 1, 10, 28, 64, 1000])
@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_is_plain_cross_entropy(smoothing, with_bias, chunk, reduction):
    features, weight, bias, target = make()
    bias = bias if with_bias else None
    leaves = [x for x in (features, weight, bias) if x is not None]
    options = {"label_smoothing": smoothing, "reduction": reduction}
    want = F.cross_entropy(F.linear(features, weight, bias), target, ignore_index=0, **options)
    got = chunked_cross_entropy(features, weight, bias, target, chunk=chunk, **options)
    torch.testing.assert_close(got, want, rtol=0, atol=1e-12)
    for a, b in zip(torch.autograd.grad(3 * got, leaves), torch.autograd.grad(3 * want, leaves), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-12)
    own = seq2seq_reference.cross_entropy(features, weight, bias, target, smoothing)
    total = got if reduction == "sum" else got * (target != 0).sum()
    torch.testing.assert_close(total, own, rtol=0, atol=1e-11)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
@pytest.mark.parametrize("rows", [1, 64, 150, 700])
def test_chunks_of_blocks(monkeypatch, dtype, rows):
    monkeypatch.setattr("w2v_ext.seq2seq.loss._CHUNK_NUMBERS", 64 * 13)
    monkeypatch.setattr("w2v_ext.seq2seq.loss._BLOCK_ROWS", 192)
    assert chunk_rows(13) == (192, 64)
    leaves = features, weight, bias, target = make(rows=rows, ignored=rows // 9)
    want = F.cross_entropy(F.linear(features, weight, bias), target, ignore_index=0, label_smoothing=0.1)
    with torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.bfloat16):
        got = chunked_cross_entropy(*leaves, label_smoothing=0.1)
    close = {"rtol": 0, "atol": 1e-12 if dtype == torch.float64 else 2e-2}
    torch.testing.assert_close(got, want, **close)
    for a, b in zip(torch.autograd.grad(got, leaves[:3]), torch.autograd.grad(want, leaves[:3]), strict=True):
        torch.testing.assert_close(a, b, **close)


def test_gradcheck():
    features, weight, bias, target = make(rows=6, size=3, vocab=5, ignored=2)
    run = lambda *leaves: chunked_cross_entropy(*leaves, target, label_smoothing=0.2, chunk=3)  # noqa: E731
    assert torch.autograd.gradcheck(run, (features, weight, bias))


@pytest.mark.parametrize("frozen", [0, 1, 2])
def test_what_needs_no_gradient_gets_none(frozen):
    features, weight, bias, target = make()
    leaves = [features, weight, bias]
    want = torch.autograd.grad(chunked_cross_entropy(*leaves, target), leaves)
    leaves[frozen] = leaves[frozen].detach()
    chunked_cross_entropy(*leaves, target).backward()
    for place, leaf in enumerate(leaves):
        if place == frozen:
            assert leaf.grad is None
        else:
            torch.testing.assert_close(leaf.grad, want[place])
    with torch.no_grad():
        assert not chunked_cross_entropy(*leaves, target).requires_grad


def test_batches_of_sequences_and_extreme_scores():
    features, weight, bias, target = make(rows=12)
    flat = chunked_cross_entropy(features, weight, bias, target)
    shaped = chunked_cross_entropy(features.view(3, 4, -1), weight, bias, target.view(3, 4).int())
    assert torch.equal(flat, shaped)
    huge = chunked_cross_entropy(features * 1e5, weight, bias, target)
    assert torch.isfinite(huge) and huge > 1e3
    nothing = chunked_cross_entropy(features, weight, bias, torch.zeros(12, dtype=torch.int64))
    (slope,) = torch.autograd.grad(nothing, features)
    assert nothing == 0 and (slope == 0).all()
    assert chunked_cross_entropy(features[:0], weight, None, target[:0]) == 0


def test_under_autocast():
    features, weight, bias, target = make(rows=300, size=64, vocab=500, dtype=torch.float32)
    want = F.cross_entropy(F.linear(features, weight, bias), target, ignore_index=0, label_smoothing=0.1)
    with torch.autocast("cpu", torch.bfloat16):
        got = chunked_cross_entropy(features, weight, bias, target, label_smoothing=0.1)
    assert got.dtype == torch.float32
    torch.testing.assert_close(got, want, rtol=5e-3, atol=0)
    leaves = [features, weight, bias]
    for a, b in zip(torch.autograd.grad(got, leaves), torch.autograd.grad(want, leaves), strict=True):
        assert a.dtype == torch.float32 and (a - b).norm() < 0.02 * b.norm()


def test_memory_is_one_chunk():
    events = []

    class Watch(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            out = function(*args, **(kwargs or {}))
            events.extend(x.numel() for x in (out if isinstance(out, (tuple, list)) else [out]) if hasattr(x, "numel"))
            return out

    features, weight, bias, target = make(rows=4096, size=8, vocab=5000, dtype=torch.float32)
    with Watch():
        chunked_cross_entropy(features, weight, bias, target, label_smoothing=0.1).backward()
    assert max(events) <= chunk_rows(5000)[0] * 5000 < 4096 * 5000 / 4


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"reduction": "none"}, "reduction: expected mean or sum, got 'none'"),
        ({"label_smoothing": 1.0}, r"label_smoothing: expected a number in \[0, 1\), got 1.0"),
        ({"chunk": 0}, "chunk: expected an integer >= 1, got 0"),
        ({"weight": torch.zeros(13, 4)}, r"weight: expected shape \(V, 5\) to match features, got \(13, 4\)"),
        ({"bias": torch.zeros(12)}, r"bias: expected shape \(13,\) to match weight, got \(12,\)"),
        ({"target": torch.zeros(3)}, r"target: expected shape \(37,\) to match features, got \(3,\)"),
        ({"target": torch.full((37,), 13)}, r"target: expected words in \[0, 13\) or 0, got 13 to 13"),
        ({"target": torch.full((37,), -1)}, r"target: expected words in \[0, 13\) or 0, got -1 to -1"),
    ],
)
def test_bad_input(change, message):
    features, weight, bias, target = make()
    arguments = {"features": features, "weight": weight, "bias": bias, "target": target, **change}
    with pytest.raises(ValueError, match=message):
        chunked_cross_entropy(**arguments)


def test_sampled_loss_is_the_fused_loss():
    features, weight, _, target = make(dtype=torch.float32)
    alias = w2v_ext.alias_table(torch.arange(13).double())
    got = sampled_loss(features, weight, target, alias, negative=4, seed=7)
    rows = target != 0
    drawn = w2v_ext.sample_negatives(alias, target[rows], 4, 7)
    center = torch.arange(int(rows.sum()))
    want = reference.negative_sampling_loss(features[rows], weight, center, target[rows], drawn)
    torch.testing.assert_close(got, want)
    for a, b in zip(*(torch.autograd.grad(x, (features, weight)) for x in (got, want)), strict=True):
        torch.testing.assert_close(a, b)
    whole = sampled_loss(features, weight, target, alias, negative=4, seed=7, reduction="sum")
    torch.testing.assert_close(whole, want * rows.sum())
    with pytest.raises(ValueError, match="reduction: expected mean or sum, got 'none'"):
        sampled_loss(features, weight, target, alias, negative=4, seed=7, reduction="none")


def test_sampled_scores_with_the_noise_for_a_bias_are_the_softmax():
    torch.manual_seed(0)
    p = torch.cat([torch.zeros(2), torch.arange(1.0, 39.0)])
    noise = p.pow(0.75) / p.pow(0.75).sum()
    alias = w2v_ext.alias_table(noise.double())
    target = torch.multinomial(p, 3000, replacement=True)
    seen = torch.bincount(target, minlength=40) / len(target)
    features = torch.eye(4)[:1].repeat(len(target), 1)
    weight = torch.zeros(40, 4, requires_grad=True)
    optimizer = torch.optim.Adam([weight], 0.05)
    for step in range(150):
        optimizer.zero_grad()
        sampled_loss(features, weight, target, alias, negative=8, seed=step).backward()
        optimizer.step()
    bias = torch.zeros(40)
    set_noise_bias(bias, noise)
    learnt = (weight[:, 0].detach() + bias).softmax(0)
    torch.testing.assert_close(learnt, seen, rtol=0.15, atol=2e-3)
    without = weight[:, 0].detach().softmax(0)
    assert (without - seen).abs().max() > 2 * (learnt - seen).abs().max()  # the bias matters
    assert learnt[0] < 1e-6


def test_a_second_derivative_is_refused():
    features, weight = (torch.randn(n, 4, requires_grad=True) for n in (6, 9))
    loss = chunked_cross_entropy(features, weight, None, torch.arange(1, 7))
    (grad,) = torch.autograd.grad(loss, features, create_graph=True)
    plain = F.cross_entropy(F.linear(features, weight), torch.arange(1, 7))
    torch.testing.assert_close(grad, torch.autograd.grad(plain, features)[0])
    with pytest.raises(RuntimeError, match="chunked_cross_entropy has no second derivative"):
        grad.square().sum().backward()
