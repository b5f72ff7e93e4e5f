"""Initial values, shortened rows, and pretrained vectors for a vocabulary."""

import numpy as np
import pytest
import torch

from w2v_ext import KeyedVectors, Vocabulary, formats
from w2v_ext.embeddings import INITS, init_embedding_, limit_norms, pretrained_embedding
from w2v_ext.vocab import SPECIALS

TABLE = {"king": [1.0, 2.0], "queen": [3.0, 4.0], "york": [0.0, 6.0]}
KV = KeyedVectors(list(TABLE), np.array(list(TABLE.values())))


@pytest.mark.parametrize(
    ("init", "settings", "std", "bound"),
    [
        ("word2vec", {}, 0.5 / 64 / 3**0.5, 0.5 / 64),
        ("uniform", {}, 0.1 / 3**0.5, 0.1),
        ("uniform", {"scale": 2.0}, 2 / 3**0.5, 2),
        ("normal", {}, 1 / 8, None),
        ("normal", {"scale": 3.0}, 3, None),
        ("xavier_uniform", {}, (2 / 1064) ** 0.5, (6 / 1064) ** 0.5),
        ("xavier_normal", {}, (2 / 1064) ** 0.5, None),
        ("kaiming_uniform", {}, (2 / 64) ** 0.5, (6 / 64) ** 0.5),
        ("kaiming_normal", {}, (2 / 64) ** 0.5, None),
        ("zeros", {}, 0, 0),
    ],
)
def test_init(init, settings, std, bound):
    weight = torch.full((1000, 64), torch.nan)
    generator = torch.Generator().manual_seed(0)
    assert init_embedding_(weight, init, padding_idx=3, generator=generator, **settings) is weight
    assert not weight[3].any() and weight.isfinite().all()
    assert float(weight.std()) == pytest.approx(std, rel=0.02) and abs(float(weight.mean())) <= 0.02 * std
    if bound is not None:
        assert 0.99 * bound <= weight.abs().max() <= bound
    again = init_embedding_(torch.empty(1000, 64), init, padding_idx=3, generator=generator.manual_seed(0), **settings)
    assert torch.equal(again, weight)


def test_every_init_is_tested():
    assert {case[0] for case in test_init.pytestmark[0].args[1]} == set(INITS)


@pytest.mark.parametrize(
    ("weight", "settings", "message"),
    [
        (torch.empty(3), {}, r"weight: expected shape \(V, D\), got \(3,\)"),
        (torch.empty(3, 2), {"init": "he"}, "init: expected one of word2vec, .* got 'he'"),
        (
            torch.empty(3, 2),
            {"init": "zeros", "scale": 1.0},
            "scale: expected a number >= 0 with init uniform or normal",
        ),
        (torch.empty(3, 2), {"init": "normal", "scale": -1.0}, "scale: .* got -1.0"),
    ],
)
def test_bad_init(weight, settings, message):
    with pytest.raises(ValueError, match=message):
        init_embedding_(weight, **settings)


def test_limit_norms():
    x = torch.tensor([[3.0, 4.0], [0.3, 0.4], [0.0, 0.0]])
    np.testing.assert_allclose(limit_norms(x, 1), [[0.6, 0.8], [0.3, 0.4], [0, 0]], rtol=1e-6)
    assert limit_norms(x, 1)[1:].equal(x[1:])
    assert isinstance(limit_norms(x.numpy(), 2.0), np.ndarray) and limit_norms(x.half(), 1).dtype == torch.float16
    embedding = torch.nn.Embedding.from_pretrained(x.clone(), max_norm=1.0)
    np.testing.assert_allclose(limit_norms(x, 1), embedding(torch.arange(3)), atol=1e-6)
    for bad in (0, -1, float("nan")):
        with pytest.raises(ValueError, match="max_norm: expected a number > 0"):
            limit_norms(x, bad)


@pytest.mark.parametrize(
    "source", [KV, formats.VectorTable(list(TABLE), KV.vectors), TABLE], ids=["kv", "table", "dict"]
)
def test_pretrained(source):
    vocab = Vocabulary([*SPECIALS, "queen", "new", "king"], [0, 0, 0, 0, 3, 2, 1], 4)
    made = pretrained_embedding(vocab, source)
    weight = made.embedding.weight
    assert weight.shape == (7, 2) and weight.dtype == torch.float32
    assert weight[[4, 6]].tolist() == [[3, 4], [1, 2]]
    assert made.found == ["queen", "king"] and made.missing == ["<SOS>", "<EOS>", "new"] and made.composed == []
    assert made.coverage == 2 / 5
    assert not weight[0].any() and made.embedding.padding_idx == 0  # <PAD>
    assert not weight[3].any()  # <UNK>
    assert weight[[1, 2, 5]].all() and weight[[1, 2, 5]].abs().max() < 6  # drawn with the found vectors' deviation
    assert weight.requires_grad
    assert torch.equal(weight, pretrained_embedding(vocab, source).embedding.weight)  # the seed decides
    made.embedding(torch.tensor([0, 4])).sum().backward()
    assert not made.embedding.weight.grad[0].any() and made.embedding.weight.grad[4].all()


def test_pretrained_settings():
    words = ["King", "<UNK>", "new"]
    made = pretrained_embedding(words, KV, lowercase=True, unk_vector="mean", freeze=True, init="zeros", sparse=True)
    assert made.embedding.weight.tolist() == [[1, 2], [1, 2], [0, 0]]
    assert made.found == ["King"] and made.missing == ["new"]
    assert not made.embedding.weight.requires_grad and made.embedding.sparse and made.embedding.padding_idx is None
    made = pretrained_embedding(["queen", "pad"], KV, pad="pad", max_norm=1.0)
    np.testing.assert_allclose(made.embedding.weight.detach(), [[0.6, 0.8], [0, 0]], rtol=1e-6)
    assert made.embedding.padding_idx == 1 and made.embedding.max_norm == 1
    trained = {"<UNK>": np.array([5.0, 5.0]), **TABLE}
    made = pretrained_embedding(["<UNK>", "king"], trained)
    assert made.embedding.weight.tolist() == [[5, 5], [1, 2]] and made.found == ["king"]


def test_subword_hook():
    asked = []

    def hook(word):
        asked.append(word)
        return np.array([9.0, 9.0]) if "york" in word else None

    made = pretrained_embedding(["<PAD>", "<UNK>", "king", "newyork", "zzz"], KV, subwords=hook, init="zeros")
    assert made.embedding.weight.tolist() == [[0, 0], [0, 0], [1, 2], [9, 9], [0, 0]]
    assert (made.found, made.composed, made.missing) == (["king"], ["newyork"], ["zzz"])
    assert asked == ["newyork", "zzz"]


def test_fasttext_composes_unknown_words(tmp_path):
    from test_fasttext_bin import small_model

    (tmp_path / "v.bin").write_bytes(small_model(words=(b"king", b"b"), buckets=7))
    model = formats.load_fasttext_bin(tmp_path / "v.bin")
    for source, subwords in ((model, None), (formats.load_vectors(tmp_path / "v.bin"), model)):
        made = pretrained_embedding(["king", "kings", ""], source, subwords=subwords)
        assert (made.found, made.composed) == (["king"], ["kings", ""])
        assert made.embedding.weight[1].tolist() == model.vector("kings").tolist() != model.vector("king").tolist()


@pytest.mark.parametrize(
    ("words", "source", "settings", "message"),
    [
        (["a", "a"], KV, {}, "vocabulary: expected each word once, got 'a' twice"),
        (["a", "b"], KV, {}, "vocabulary: none of its 2 words has a vector in source"),
        (
            ["king"],
            "vectors.bin",
            {},
            "source: expected KeyedVectors, VectorTable, FastTextModel or a mapping, got str",
        ),
        (["a", "b"], {"a": [1], "b": [1, 2]}, {}, "source: expected vectors of one length"),
        (["king"], KV, {"unk_vector": "random"}, "unk_vector: expected zero or mean, got 'random'"),
        (["king"], KV, {"init": "he"}, "init: expected one of"),
    ],
)
def test_bad_arguments(words, source, settings, message):
    with pytest.raises(ValueError, match=message):
        pretrained_embedding(words, source, **settings)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_pretrained_vectors_are_finite(value):
    with pytest.raises(ValueError, match="source: expected finite vectors, got one of 'b' that is not"):
        pretrained_embedding(["a", "b", "c"], {"a": np.ones(3), "b": np.array([1, value, 1])})
