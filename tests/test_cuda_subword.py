"""fastText's models on CUDA, emulated on the CPU and on a GPU where there is one."""

import numpy as np
import pytest
import torch
from test_subword_kernel import LAYOUT, make_case, make_words, train

from w2v_ext import TrainConfig, Trainer, corpus_from_sequences, family_ops
from w2v_ext.fasttext_vectors import FastTextVectors
from w2v_ext.methods import FastText, _on_cuda
from w2v_ext.methods.cuda_epoch import device_weight
from w2v_ext.methods.cuda_family import hottest_sum
from w2v_ext.reference import draw, sentence_key
from w2v_ext.subword_reference import examples_of
from w2v_ext.subwords import SubwordGroups
from w2v_ext.tables import padded_weight

NO_PLACE = 2**63 - 1


def on_cuda(device, weights, groups, ids, alias, keep, *, flight=1, cuts=(), **options):
    """Train copies of the three tables: gives them on the CPU, the sums, and the first bad place."""
    settings = {"window": 5, "negative": 5, "seed": 7, "epoch": 0, "epochs": 2, "lr": 0.05, "cbow": False, **options}
    tables = [device_weight(*w.shape, torch.float32, device) for w in weights]
    for table, weight in zip(tables, weights, strict=True):
        table.copy_(weight)
    layout = {name: torch.from_numpy(getattr(groups, name)).to(device) for name in LAYOUT}
    layout["first_entry"] = layout.pop("first")
    sums, bad = torch.zeros(3, dtype=torch.float64, device=device), torch.full((1,), NO_PLACE, device=device)
    corpus = {"ids": ids.to(device), "alias": alias.to(device), "keep": keep.to(device), "num_ids": len(ids)}
    settings |= {**corpus, "first": 0, "sentences_in_flight": flight}
    edges = [0, *cuts, len(ids)]
    for begin, end in zip(edges, edges[1:], strict=False):
        family_ops.train_subwords_cuda_(*tables, sums, bad, **layout, begin=begin, end=end, **settings)
    return [t.cpu() for t in tables], sums.tolist(), int(bad.item())


def assert_as(got, want, start, tolerance=1e-5):
    for one, other, before in zip(got, want, start, strict=True):
        assert (one - other).abs().max() < tolerance * max(1, other.abs().max())
        assert (other - before).abs().max() > 1e-3


def assert_as_on_the_cpu(device, case, tolerance=1e-5, **options):
    weights, *rest = case
    start = [w.clone() for w in weights]
    moved, sums, bad = on_cuda(device, start, *rest, **options)
    wanted = train(weights, *rest, stretch=1, **options)
    assert bad == NO_PLACE
    assert sums[1:] == list(wanted[1:])
    assert sums[0] == pytest.approx(wanted[0], rel=1e-5)
    assert_as(moved, weights, start, tolerance)


# ---- the kernel ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("cbow", [False, True])
@pytest.mark.parametrize(("dim", "negative"), [(1, 1), (16, 5), (100, 5), (130, 2), (20, 13), (8, 40)])
def test_sentences_within_a_window_are_as_on_the_cpu(any_cuda, lanes, cbow, dim, negative):
    # All words of a sentence are together at its second block: what each has moved is added when all are trained.
    case = make_case(dim=dim, length=14, sentences=10)
    assert_as_on_the_cpu(any_cuda, case, window=12, negative=negative, cbow=cbow, epoch=1)


def own_rows_case(vocab=40, **more):
    """As make_case, with words that share no row: it does not matter when rows are read and added to."""
    weights, _, *rest = make_case(vocab=vocab, **more)
    dim = weights[0].shape[1]
    rng = np.random.default_rng(3)
    words = np.arange(vocab, dtype=np.int32)
    entries = np.stack([words, vocab + 2 * words, vocab + 2 * words + 1], 1).ravel()
    group_rows = np.concatenate([np.ones(vocab), np.tile([2.0, 3.0], vocab)]).astype(np.float32)
    groups = SubwordGroups(
        np.arange(0, 3 * vocab + 1, 3), entries, np.full(vocab, 6, np.float32), group_rows, words[:0], words[:0]
    )
    weights[1] = padded_weight(2 * vocab, dim)
    weights[1].copy_(torch.from_numpy(rng.normal(0, 0.4, (2 * vocab, dim))))
    return weights, groups, *rest


@pytest.mark.parametrize("cbow", [False, True])
@pytest.mark.parametrize(("window", "length"), [(1, 60), (5, 200), (3, 4)])
def test_long_sentences_of_words_that_share_no_row_are_as_on_the_cpu(any_cuda, cbow, window, length):
    case = own_rows_case(length=length, sentences=9)
    assert_as_on_the_cpu(any_cuda, case, 1e-4, window=window, cbow=cbow)


class NearWords:
    """The vectors of a sentence's words as long as they are near: made when they come, given back when they go."""

    def __init__(self, kept, sums, groups):
        self.kept, self.sums, self.groups = kept, sums, groups
        self.vectors, self.begun, self.entered, self.left = {}, {}, 0, 0

    def rows(self, word):
        return self.groups.entries[self.groups.first[word] : self.groups.first[word + 1]]

    def enter(self, until):
        for word in self.kept[self.entered : until]:
            if word not in self.vectors:
                self.vectors[word] = self.sums[self.rows(word)].sum(0) / self.groups.word_rows[word]
                self.begun[word] = self.vectors[word].copy()
        self.entered = max(self.entered, min(until, len(self.kept)))

    def leave(self, until):
        while self.left < until:
            word = self.kept[self.left]
            self.left += 1
            if word not in self.kept[self.left : self.entered]:
                step = self.vectors.pop(word) - self.begun.pop(word)
                for row in self.rows(word):
                    self.sums[row] += self.groups.group_rows[row] * step


def reference_epoch(sums, out, groups, ids, alias, keep, *, cbow, window, negative, seed, epoch, epochs, lr):
    """One epoch in float64, in place, as the kernel is meant to do it."""
    slots, start = 1 + negative, 0
    for stop in np.flatnonzero(ids < 0):
        sentence, offset, start = ids[start:stop].tolist(), start, int(stop) + 1
        key = sentence_key(seed, epoch, offset)
        at = [i for i, word in enumerate(sentence) if draw(key, i * slots) >> 32 <= keep[word]]
        kept = [sentence[i] for i in at]
        rate = lr * max(1 - (len(ids) * epoch + offset) / (len(ids) * epochs), 1e-4)
        reach = [1 + ((draw(key, i * slots) & 0xFFFFFFFF) * window >> 32) for i in at]
        near = NearWords(kept, sums, groups)
        for c in range(len(kept) if len(kept) > 1 else 0):
            if c % 2 == 0:  # words come and go before every second centre
                near.leave(c - window)
                near.enter(c + 2 + window)
            for bag, outputs in examples_of(c, kept, at, reach, key, alias, cbow, window, negative):
                weight = np.array([-1.0] + [float(word != outputs[0]) for word in outputs[1:]])
                u = out[outputs]
                v = np.average([near.vectors[word] for word in bag], axis=0, weights=groups.word_rows[bag])
                t = np.where(weight < 0, -1, 1) * (u @ v)
                coef = -rate * weight * np.exp(-np.logaddexp(0, -t))
                for word in bag:
                    near.vectors[word] += coef @ u
                np.add.at(out, outputs, np.outer(coef, v))
        near.leave(near.entered)


@pytest.mark.parametrize("cbow", [False, True])
@pytest.mark.parametrize(("window", "length"), [(1, 40), (3, 60), (5, 25)])
def test_words_share_rows_as_long_as_they_are_near(any_cuda, cbow, window, length):
    weights, groups, ids, alias, keep = make_case(length=length)
    moved, *_ = on_cuda(any_cuda, weights, groups, ids, alias, keep, window=window, cbow=cbow, epoch=1)
    sums = torch.cat(weights[:2]).double().numpy()
    out = weights[2].double().numpy().copy()
    reference_epoch(
        sums, out, groups, ids.numpy(), alias.numpy().view(np.uint32), keep.numpy().view(np.uint32), cbow=cbow,
        window=window, negative=5, seed=7, epoch=1, epochs=2, lr=0.05,
    )  # fmt: skip
    assert_as([torch.cat(moved[:2]).double(), moved[2].double()], [torch.from_numpy(sums), torch.from_numpy(out)],
              [torch.cat(weights[:2]).double(), weights[2].double()], 5e-5)  # fmt: skip


@pytest.mark.parametrize("cbow", [False, True])
def test_cuts_and_warps(any_cuda, cbow):
    case = make_case(sentences=60)
    alone, one, _ = on_cuda(any_cuda, *case, cbow=cbow, lr=1e-4)
    cut, *_ = on_cuda(any_cuda, *case, cbow=cbow, lr=1e-4, cuts=(1, 2, 255, 256, 300))
    together, many, _ = on_cuda(any_cuda, *case, cbow=cbow, lr=1e-4, flight=9)
    assert many[1:] == one[1:]
    assert many[0] == pytest.approx(one[0], rel=1e-3)
    for got, other, want, start in zip(together, cut, alone, case[0], strict=True):
        assert torch.equal(other, want)
        assert (got - want).norm() < 0.05 * (want - start).norm()


def test_bad_words_and_settings_are_named(any_cuda):
    case = make_case()
    case[2][5] = 40
    assert on_cuda(any_cuda, *case)[2] == 5
    for changes, message in (
        ({"window": 0}, "window: expected an integer from 1"),
        ({"negative": 1001}, "negative: expected an integer from 1"),
        ({"flight": 0}, "sentences_in_flight: expected an integer from 1"),
        ({"window": 10_000}, "dim, window: expected the 20002 rows of a block.s windows to fit"),
    ):
        with pytest.raises((ValueError, RuntimeError), match=message):
            on_cuda(any_cuda, *make_case(), **changes)
    weights, groups, *rest = make_case()
    short = SubwordGroups(groups.first, groups.entries, groups.word_rows[1:], groups.group_rows, *2 * [groups.buckets])
    with pytest.raises((ValueError, RuntimeError), match=r"word_rows: expected a contiguous Float tensor of"):
        on_cuda(any_cuda, weights, short, *rest)
    with pytest.raises((ValueError, RuntimeError), match="ngram_weight: expected the dtype, columns, strides"):
        on_cuda(any_cuda, [weights[0], weights[1][:, :8], weights[2]], groups, *rest)


# ---- the trainer ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("model", ["fasttext", "fasttext-cbow"])
def test_the_trainer(any_cuda, model):
    rng, words = np.random.default_rng(0), make_words(40)
    corpus = corpus_from_sequences([[words[i] for i in rng.permutation(40)[:6]] for _ in range(120)])
    settings = {"model": model, "dim": 12, "min_count": 1, "sample": 0, "epochs": 2, "buckets": 1000, "lr": 0.05}
    here = Trainer(corpus, TrainConfig(device="cpu", threads=1, **settings))
    start = [w.clone() for w in here.method.weights.values()]
    here.method.train(0, 0, len(corpus.ids))
    config = TrainConfig(device="cuda" if any_cuda.type == "cuda" else "cpu", sentences_in_flight=1, **settings)
    there = Trainer(corpus, config)
    if any_cuda.type == "cpu":
        there.method = _on_cuda(corpus, config, any_cuda)
    assert isinstance(there.method, FastText)
    assert list(there.method.weights) == list(here.method.weights)
    for one, other in zip(there.method.weights.values(), start, strict=True):
        assert torch.equal(one.cpu(), other)
    there.fit()
    assert there.state.losses[1] < there.state.losses[0]
    vectors = there.keyed_vectors()
    assert isinstance(vectors, FastTextVectors)
    assert np.isfinite(vectors["bananana"]).all()
    saved = there.method.saved_tensors()
    np.testing.assert_allclose(saved["in_weight"].numpy(), vectors.vectors, rtol=1e-6)
    assert saved["out_weight"].is_contiguous()
    assert {t.device.type for t in saved.values()} == {"cpu"}


def test_the_hottest_sum_counts_all_words_that_have_it():
    groups = SubwordGroups(np.array([0, 2, 4, 5]), np.array([0, 3, 1, 3, 2], np.int32), *4 * [np.empty(0)])
    assert hottest_sum(np.array([5, 3, 2]), np.array([1.0, 1.0, 0.5]), groups) == pytest.approx(8 / 9)
