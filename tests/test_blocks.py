"""Embedding blocks against torch.nn, complex numbers, and each other."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from w2v_ext import optim
from w2v_ext.blocks import BertEmbedding, CompressedEmbedding, Embedding, LowRankEmbedding
from w2v_ext.quantize import METHODS, compress
from w2v_ext.rotary import RotaryEmbedding, reorder_projection, rotary_permutation

FLOATS = {torch.float64: 1e-12, torch.float32: 1e-5, torch.bfloat16: 2e-2, torch.float16: 2e-3}


def randn(*shape, dtype=torch.float64, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


# ---- Embedding -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sparse", [False, True])
@pytest.mark.parametrize("scale_grad_by_freq", [False, True])
@pytest.mark.parametrize("max_norm", [None, 1.0])
def test_embedding_is_torchs(sparse, scale_grad_by_freq, max_norm):
    options = {"padding_idx": 2, "max_norm": max_norm, "scale_grad_by_freq": scale_grad_by_freq}
    ours = Embedding(10, 4, sparse=sparse, dtype=torch.float64, **options)
    theirs = nn.Embedding(10, 4, dtype=torch.float64, **options)
    theirs.load_state_dict(ours.state_dict())
    assert ours.weight[2].abs().sum() == 0
    ids = torch.tensor([[1, 2, 1, 5], [5, 5, 0, 2]])
    factor = randn(2, 4, 4)
    for embedding in (ours, theirs):
        (embedding(ids) * factor).sum().backward()
    assert ours.weight.grad.is_sparse == sparse
    torch.testing.assert_close(ours.weight, theirs.weight)
    grad = ours.weight.grad.to_dense() if sparse else ours.weight.grad
    torch.testing.assert_close(grad, theirs.weight.grad, rtol=1e-14, atol=1e-14)
    assert grad[2].abs().sum() == 0


def test_torch_refuses_what_embedding_allows():
    embedding = nn.Embedding(10, 4, sparse=True, scale_grad_by_freq=True)
    with pytest.raises(RuntimeError, match="scale_grad_by_freq"):
        embedding(torch.tensor([1, 1])).sum().backward()


def test_embedding_learns_with_a_row_optimizer_and_can_be_copied():
    embedding = copy.deepcopy(Embedding(10, 4, 0, sparse=True, scale_grad_by_freq=True, init="zeros"))
    optimizer = optim.SparseSGD(embedding.parameters(), 1.0)
    embedding(torch.tensor([0, 3, 3, 3, 4])).sum().backward()
    optimizer.step()
    expected = torch.zeros(10, 4)
    expected[[3, 4]] = -1.0  # three times a third, and once
    torch.testing.assert_close(embedding.weight.detach(), expected)
    with torch.no_grad():
        assert embedding(torch.tensor([[3]], dtype=torch.int32)).shape == (1, 1, 4)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Embedding(0, 4), "num_embeddings: expected an integer >= 1, got 0"),
        (lambda: Embedding(3, 4, 3), "padding_idx: expected a row of 3, got 3"),
        (lambda: Embedding(3, 4, max_norm=-1), "max_norm: expected a finite number > 0, got -1"),
        (lambda: Embedding(3, 4, init="best"), "init: expected one of .*, got 'best'"),
        (lambda: LowRankEmbedding(3, 4, 5), "rank: expected at most embedding_dim = 4, got 5"),
        (lambda: BertEmbedding(3, 4, max_positions=0), "max_positions: expected an integer >= 1, got 0"),
        (
            lambda: BertEmbedding(3, 4, tokens=nn.Embedding(3, 5)),
            r"tokens: expected an embedding of \(3, 4\), got \(3, 5",
        ),
        (lambda: BertEmbedding(3, 4, max_positions=2)(torch.zeros(1, 3).long()), "ids: expected positions below max_p"),
        (lambda: BertEmbedding(3, 4, segments=0)(torch.zeros(1, 3).long(), torch.zeros(1, 3)), "segments: expected No"),
        (lambda: RotaryEmbedding(5), "rotary_dim: expected an even number from 2 to dim = 5, got 5"),
        (lambda: RotaryEmbedding(4, rotary_dim=6), "rotary_dim: expected an even number from 2 to dim = 4, got 6"),
        (lambda: RotaryEmbedding(4, convention="gpt"), "convention: expected one of interleaved, half, got 'gpt'"),
        (lambda: RotaryEmbedding(4, base=0), "base: expected a number > 0, got 0"),
        (lambda: RotaryEmbedding(4)(torch.zeros(3, 6)), r"x: expected shape .* with D = 4, got \(3, 6\)"),
        (lambda: RotaryEmbedding(4)(torch.zeros(3, 4), offset=-1), "positions: expected numbers >= 0"),
        (lambda: reorder_projection(torch.zeros(6, 3), 4, "half"), r"weight: expected shape \(heads \* 4, ...\), got"),
        (lambda: rotary_permutation(4, "neox"), "to: expected one of interleaved, half, got 'neox'"),
    ],
)
def test_what_makes_no_sense_is_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


# ---- BertEmbedding -------------------------------------------------------------------------------------------------


def test_bert_embedding_is_a_sum_normalised():
    made = BertEmbedding(20, 8, max_positions=16, padding_idx=0, dtype=torch.float64).eval()
    ids, segments = torch.tensor([[3, 5, 0], [7, 7, 1]]), torch.tensor([[0, 0, 1], [1, 0, 1]])
    total = made.tokens.weight[ids] + made.positions.weight[4:7] + made.segments.weight[segments]
    expected = (total - total.mean(-1, keepdim=True)) / (total.var(-1, correction=0, keepdim=True) + 1e-12).sqrt()
    torch.testing.assert_close(made(ids, segments, offset=4), expected)
    torch.testing.assert_close(made(ids), made(ids, torch.zeros_like(ids)))
    torch.testing.assert_close(made(ids)[:, 1:], made(ids[:, 1:], offset=1))
    made.train()
    dropped = (made(ids.repeat(50, 1)) == 0).double().mean().item()
    assert dropped == pytest.approx(0.1, abs=0.05)


@pytest.mark.slow  # imports transformers
def test_bert_embedding_is_that_of_transformers():
    transformers = pytest.importorskip("transformers")
    config = transformers.BertConfig(vocab_size=30, hidden_size=16, max_position_embeddings=12, num_attention_heads=2)
    theirs = transformers.models.bert.modeling_bert.BertEmbeddings(config).eval()
    ours = BertEmbedding(30, 16, max_positions=12, padding_idx=0).eval()
    names = {
        "word_embeddings": "tokens",
        "position_embeddings": "positions",
        "token_type_embeddings": "segments",
        "LayerNorm": "norm",
    }
    state = {
        key.replace(name, names[name]): v for key, v in theirs.state_dict().items() for name in names if name in key
    }
    ours.load_state_dict(state)
    ids, segments = torch.randint(30, (3, 12)), torch.randint(2, (3, 12))
    torch.testing.assert_close(ours(ids, segments), theirs(ids, segments), rtol=1e-5, atol=1e-5)


def test_bert_embedding_takes_an_embedding_and_does_without_segments():
    tokens = nn.Embedding(20, 8)
    made = BertEmbedding(20, 8, tokens=tokens, segments=0)
    assert made.tokens is tokens
    assert made.segments is None
    assert made(torch.zeros(2, 3).long()).shape == (2, 3, 8)


# ---- rotary --------------------------------------------------------------------------------------------------------


def turned_as_complex_numbers(x, positions, rotary_dim, convention, base=10_000.0):
    """The definition, in complex128."""
    part = x[..., :rotary_dim].double()
    a, b = (part[..., 0::2], part[..., 1::2]) if convention == "interleaved" else part.chunk(2, -1)
    angles = positions.double()[..., None] * base ** (-torch.arange(0, rotary_dim, 2).double() / rotary_dim)
    z = torch.complex(a, b) * torch.polar(torch.ones_like(angles), angles)
    both = (
        torch.stack((z.real, z.imag), -1).flatten(-2)
        if convention == "interleaved"
        else torch.cat((z.real, z.imag), -1)
    )
    return torch.cat((both, x[..., rotary_dim:].double()), -1)


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("convention", ["half", "interleaved"])
@pytest.mark.parametrize(("dim", "rotary_dim"), [(2, 2), (8, 8), (10, 6), (64, 64), (64, 16)])
def test_rotary_is_a_product_of_complex_numbers(dtype, convention, dim, rotary_dim):
    rotary = RotaryEmbedding(dim, convention=convention, rotary_dim=rotary_dim, max_positions=4)
    x = randn(2, 3, 9, dim, dtype=dtype)
    for offset in (0, 5, 100):
        got = rotary(x, offset=offset)
        assert got.dtype == dtype
        expected = turned_as_complex_numbers(x, torch.arange(offset, offset + 9), rotary_dim, convention)
        torch.testing.assert_close(got.double(), expected, rtol=FLOATS[dtype], atol=FLOATS[dtype])
    positions = torch.tensor([[7, 0, 3, 3, 900, 1, 2, 5, 6], [0, 1, 2, 3, 4, 5, 6, 7, 8]])[:, None]
    expected = turned_as_complex_numbers(x, positions, rotary_dim, convention)
    torch.testing.assert_close(
        rotary(x, positions=positions).double(), expected, rtol=FLOATS[dtype], atol=FLOATS[dtype]
    )


@pytest.mark.parametrize("convention", ["half", "interleaved"])
def test_rotary_scores_depend_on_the_distance_alone(convention):
    rotary = RotaryEmbedding(16, convention=convention, rotary_dim=12)
    q, k = randn(1, 16), randn(1, 16, seed=1)
    scores = [(rotary(q, offset=i + 7) * rotary(k, offset=i)).sum().item() for i in (0, 1, 500)]
    assert scores == pytest.approx([scores[0]] * 3, abs=1e-9)
    assert rotary(q, offset=90).norm() == pytest.approx(q.norm().item())
    x = q.clone().requires_grad_()
    assert torch.autograd.gradcheck(lambda x: rotary(x, offset=3), (x,))


@pytest.mark.parametrize("rotary_dim", [16, 10])
def test_conventions_convert_into_each_other(rotary_dim):
    half, interleaved = (RotaryEmbedding(16, convention=c, rotary_dim=rotary_dim) for c in ("half", "interleaved"))
    x = randn(3, 5, 16)
    to_half, back = (rotary_permutation(16, c, rotary_dim=rotary_dim) for c in ("half", "interleaved"))
    torch.testing.assert_close(half(x[..., to_half]), interleaved(x)[..., to_half])
    torch.testing.assert_close(interleaved(x[..., back]), half(x)[..., back])
    assert torch.equal(to_half[back], torch.arange(16))
    # Attention scores of two heads, with projections made for the interleaved convention.
    q_weight, k_weight, bias = randn(32, 12), randn(32, 12, seed=1), randn(32, seed=2)
    tokens = randn(5, 12, seed=3)

    def scores(rotary, *projections):
        q, k = (F.linear(tokens, *p).view(5, 2, 16).transpose(0, 1) for p in projections)
        return rotary(q) @ rotary(k).transpose(1, 2)

    reorder = lambda weight: reorder_projection(weight, 16, "half", rotary_dim=rotary_dim)  # noqa: E731
    want = scores(interleaved, (q_weight, bias), (k_weight,))
    got = scores(half, (reorder(q_weight), reorder(bias)), (reorder(k_weight),))
    torch.testing.assert_close(got, want)
    assert not torch.allclose(scores(half, (q_weight, bias), (k_weight,)), want)


def test_rotary_has_no_state():
    assert not RotaryEmbedding(8).state_dict()
    assert "half" in repr(RotaryEmbedding(8))


# ---- low rank and compressed ---------------------------------------------------------------------------------------


def test_low_rank_embedding_is_the_truncated_svd():
    vectors = randn(30, 12, dtype=torch.float32)
    u, s, v = torch.linalg.svd(vectors, full_matrices=False)
    made = LowRankEmbedding.from_vectors(vectors, 5)
    ids = torch.tensor([[3, 0], [29, 3]])
    torch.testing.assert_close(made(ids), ((u * s)[:, :5] @ v[:5])[ids], rtol=1e-4, atol=1e-5)
    assert sum(p.numel() for p in made.parameters()) == 5 * (30 + 12)
    made = LowRankEmbedding(30, 12, 5, padding_idx=0, sparse=True)
    made(ids).sum().backward()
    assert made.table.weight.grad.is_sparse
    assert made(torch.tensor([0])).abs().sum() == 0
    torch.testing.assert_close(made(ids).norm(dim=-1), made.table(ids).norm(dim=-1))


@pytest.mark.parametrize("method", METHODS)
def test_compressed_embedding_decodes_what_is_looked_up(method, tmp_path):
    vectors = randn(300, 12, dtype=torch.float32)
    packed = compress(vectors, method)
    made = CompressedEmbedding(packed)
    ids = torch.tensor([[3, 0, 7], [299, 3, 3]], dtype=torch.int32)
    torch.testing.assert_close(made(ids), packed.decode()[ids.long()])
    torch.save(made.state_dict(), tmp_path / "state.pt")
    other = CompressedEmbedding.from_vectors(randn(300, 12, seed=1), method, dtype=torch.bfloat16)
    other.load_state_dict(torch.load(tmp_path / "state.pt"))
    torch.testing.assert_close(other(ids), made(ids).bfloat16())
    assert not list(made.parameters())
    assert method in repr(made)
    with pytest.raises(IndexError):
        made(torch.tensor([300]))


def test_rotary_tables_of_an_inference_serve_training():
    rotary = RotaryEmbedding(8)
    with torch.inference_mode():
        rotary(torch.randn(1, 5, 8))
    x = torch.randn(1, 5, 8, requires_grad=True)
    rotary(x).sum().backward()
    assert x.grad is not None


@pytest.mark.parametrize("method", ["int8", "int8-symmetric", "pq", "low-rank"])
@pytest.mark.parametrize("wrong", [-1, 300])
def test_compressed_ids_out_of_range(method, wrong):
    options = {"rank": 2} if method == "low-rank" else {}
    embedding = CompressedEmbedding.from_vectors(torch.randn(300, 8), method, **options)
    with pytest.raises(IndexError, match=rf"ids: expected numbers from 0 to 299, got .*{wrong}"):
        embedding(torch.tensor([3, wrong]))


@pytest.mark.parametrize("sparse", [False, True])
def test_embedding_of_given_vectors(sparse):
    vectors = torch.randn(6, 3)
    frozen = Embedding.from_pretrained(vectors, padding_idx=2)
    assert torch.equal(frozen(torch.arange(6)), vectors) and not frozen.weight.requires_grad
    theirs = torch.nn.Embedding.from_pretrained(vectors.clone(), False, 2, sparse=sparse, scale_grad_by_freq=not sparse)
    ours = Embedding.from_pretrained(vectors.clone(), False, 2, sparse=sparse, scale_grad_by_freq=not sparse)
    ids = torch.tensor([1, 2, 1, 4])
    for embedding in (ours, theirs):
        embedding(ids).square().sum().backward()
    torch.testing.assert_close(ours.weight.grad.to_dense(), theirs.weight.grad.to_dense())
    with pytest.raises(ValueError, match=r"embeddings: expected shape \(V, D\), got \(6,\)"):
        Embedding.from_pretrained(torch.randn(6))
