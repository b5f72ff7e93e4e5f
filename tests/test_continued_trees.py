"""Hierarchical softmax goes on over a tree of other counts: which nodes are the old ones, and what the others get."""

import numpy as np
import pytest
import torch
from test_continued_models import config, model_of

from w2v_ext import Trainer, corpus_from_sequences
from w2v_ext.continued import Start, merge_corpus
from w2v_ext.huffman import equal_splits, huffman_tree, nodes_by_odds
from w2v_ext.model_files import ModelFiles


def splits(tree, words):
    """The words of a tree, by their names there, below each of its inner nodes: of code 0 and of code 1."""
    below = [[set(), set()] for _ in range(len(tree.start) - 2)]
    for row, name in words.items():
        for node, code in zip(tree.nodes(row).tolist(), tree.codes(row).tolist(), strict=True):
            below[node][code].add(name)
    return below


@pytest.mark.parametrize("seed", range(20))
def test_nodes_that_split_the_common_words_in_the_same_way_are_found(seed):
    rng = np.random.default_rng(seed)
    old_size, size, common = rng.integers(2, 40, 2).tolist() + [0]
    common = int(rng.integers(0, min(old_size, size) + 1))
    old_rows, rows = rng.permutation(old_size)[:common], rng.permutation(size)[:common]
    old_counts, counts = rng.zipf(1.5, old_size).clip(1, 1000), rng.zipf(1.5, size).clip(1, 1000)
    if seed % 2:  # most of the tree is as it was
        counts[rows] = old_counts[old_rows]
    old, new = huffman_tree(old_counts), huffman_tree(counts)
    one, other = (
        splits(t, dict(zip(r.tolist(), range(common), strict=True))) for t, r in ((old, old_rows), (new, rows))
    )
    wanted = {
        (n, o, a != b)
        for n, b in enumerate(other)
        for o, a in enumerate(one)
        if all(a) and all(b) and a in (b, b[::-1])
    }
    found = equal_splits(new, old, rows, old_rows)
    assert {(n, o, bool(m)) for n, o, m in zip(*found, strict=True)} == wanted
    assert len(found[0]) == len(wanted)
    assert [part.dtype for part in found] == [np.int64, np.int64, bool]


def test_a_tree_with_the_same_words_keeps_all_nodes(monkeypatch):
    monkeypatch.setattr("w2v_ext.huffman._WORDS", 7)
    tree = huffman_tree(np.arange(100, 1, -1))
    nodes, others, mirrored = equal_splits(tree, tree, np.arange(99), np.arange(99))
    assert sorted(nodes) == list(range(98))
    assert (nodes == others).all()
    assert not mirrored.any()


def test_nodes_by_odds_are_the_old_ones_where_the_tree_is(monkeypatch):
    monkeypatch.setattr("w2v_ext.huffman._COLUMNS", 2)
    rng = np.random.default_rng(0)
    counts = rng.permutation(np.arange(1, 41) ** 2)
    old, vectors = huffman_tree(counts), rng.normal(size=(40, 5)).astype(np.float32)
    turned = rng.permutation(40)
    new = huffman_tree(counts[turned])
    nodes, others, mirrored = equal_splits(new, old, np.arange(40), turned)
    found = nodes_by_odds(new, old, np.arange(40), turned, vectors)
    sign = np.where(mirrored, -1, 1)[:, None]
    assert len(nodes) > 20
    np.testing.assert_allclose(found[nodes], sign * vectors[others], rtol=1e-5, atol=1e-6)
    assert not found[-1].any()


@pytest.mark.parametrize("seed", range(5))
def test_nodes_by_odds_have_the_slope_of_the_old_odds(seed):
    """Against the derivative of the old model's own odds, at h = 0."""
    rng = np.random.default_rng(seed)
    old, new = huffman_tree(rng.integers(1, 50, 12)), huffman_tree(rng.integers(1, 50, 15))
    rows, old_rows = rng.permutation(15)[:10], rng.permutation(12)[:10]
    vectors = rng.normal(size=(12, 4)).astype(np.float32)
    h = torch.zeros(4, dtype=torch.float64, requires_grad=True)
    of_word = {}
    for row, old_row in zip(rows.tolist(), old_rows.tolist(), strict=True):
        u = torch.from_numpy(vectors[old.nodes(old_row)]).double()
        of_word[row] = torch.sigmoid(u @ h * torch.from_numpy(1.0 - 2 * old.codes(old_row))).prod()
    found = nodes_by_odds(new, old, rows, old_rows, vectors)
    for node, (left, right) in enumerate(splits(new, {row: row for row in rows.tolist()})):
        want = torch.zeros(4)
        if left and right:
            odds = torch.log(sum(of_word[w] for w in left) / sum(of_word[w] for w in right))
            (want,) = torch.autograd.grad(odds, h, retain_graph=True)
        np.testing.assert_allclose(found[node], want.numpy(), rtol=1e-5, atol=1e-6)


def test_the_loss_goes_on_over_another_tree():
    """Nodes of the same split are next to none where all paths pass: the others must do as well."""
    rng = np.random.default_rng(0)
    often = 1 / np.arange(1, 101)
    sentences = [rng.choice(100, 12, p=often / often.sum()) + 100 * (i % 4) for i in range(3300)]
    sentences = [[f"w{n}" for n in sentence] for sentence in sentences]
    corpus, more = corpus_from_sequences(sentences[:3000]), corpus_from_sequences(sentences[3000:])
    settings = {"model": "cbow", "loss": "hs", "cbow_mean": True}
    first = Trainer(corpus, config(epochs=5, **settings)).fit()
    old = model_of(first)
    more = merge_corpus(more, old.words, old.counts)
    start = Start(more.vocab, old=old)
    on, fresh = (Trainer(more, config(epochs=1, lr=1e-9, **settings), start=s).fit().loss for s in (start, None))
    assert start.nodes < 0.5 * len(old.words)
    assert on - first.loss < 0.5 * (fresh - first.loss)  # and in real text nearly nothing, see Start._set_nodes


def probabilities(in_weight, out_weight, counts):
    """(V, V) of each word after each word."""
    tree, found = huffman_tree(counts), []
    for word in range(len(counts)):
        u = out_weight[tree.nodes(word)].double() * torch.from_numpy(1.0 - 2 * tree.codes(word))[:, None]
        found.append(torch.sigmoid(in_weight.double() @ u.T).prod(1))
    return torch.stack(found, 1)


def test_a_mirrored_tree_predicts_what_the_old_one_did():
    """Of two words the more frequent has code 1; and the one that was rarer is now more frequent."""
    generator = torch.Generator().manual_seed(0)
    into, out = torch.randn(3, 6, generator=generator), torch.randn(3, 6, generator=generator)
    out[-1] = 0
    old = ModelFiles(into, out, ["a", "b", "c"], np.array([10, 4, 3]), {"loss": "hs"})
    corpus = merge_corpus(corpus_from_sequences([["c", "c", "a"]] * 2), old.words, old.counts)
    assert corpus.vocab.words == ["a", "c", "b"]
    start = Start(corpus.vocab, old=old)
    weights = Trainer(corpus, config(loss="hs"), start=start).method.weights
    assert start.nodes == 2
    order = [0, 2, 1]
    before = probabilities(into, out, old.counts)[order][:, order]
    after = probabilities(weights["in_weight"], weights["out_weight"], corpus.vocab.counts)
    torch.testing.assert_close(after, before, rtol=1e-6, atol=0)
    assert not torch.equal(weights["out_weight"][1], out[1])
    assert not weights["out_weight"][-1].any()
