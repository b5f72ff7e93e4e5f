"""The full softmax against NumPy, and what its training promises."""

import numpy as np
import pytest
import torch
from test_softmax import assert_learns_the_planted_meaning, assert_resumes, planted_corpus

from w2v_ext import (
    TrainConfig,
    Trainer,
    corpus_from_sequences,
    reference,
    reference_epochs,
)
from w2v_ext.methods import softmax
from w2v_ext.windows import draw_windows

planted_corpus = planted_corpus  # a fixture

SIDES = [("skipgram", True, False), ("cbow", True, False), ("cbow", True, True), ("cbow", False, False)]


def softmax_method(model="skipgram", mean=True, divide=False, sentences=40, seed=7, **more):
    """A corpus of 40 words with the method over it, and its weights drawn large."""
    rng = np.random.default_rng(seed)
    probability = 1.0 / np.arange(1, 41)
    walks = [rng.choice(40, n, p=probability / probability.sum()) for n in rng.integers(1, 60, sentences)]
    settings = {"model": model, "loss": "softmax", "dim": 20}
    if model == "cbow":
        settings |= {"cbow_mean": mean, "cbow_divide_gradient": divide}
    settings |= {"window": 4, "sample": 0.05, "lr": 0.05, "epochs": 2, "threads": 1, "seed": seed}
    method = Trainer(corpus_from_sequences(walks), TrainConfig(**settings | more)).method
    for weight in method.weights.values():
        weight.copy_(torch.from_numpy(rng.normal(0, 0.4, weight.shape)))
    return method


@pytest.mark.parametrize(("model", "mean", "divide"), SIDES)
def test_softmax_matches_the_emulation(model, mean, divide):
    method = softmax_method(model, mean, divide)
    before = [w.double().numpy().copy() for w in method.weights.values()]
    expected = [w.copy() for w in before]
    stats = method.train(1, 0, method.length)
    wanted = reference_epochs.train_softmax_(
        *expected, method.ids.numpy(), method.keep.numpy().view(np.uint32), cbow=model == "cbow", mean=mean,
        divide=divide, window=4, seed=7, epoch=1, epochs=2, lr=0.05, stretch=softmax.STRETCH, batch=softmax.BATCH,
    )  # fmt: skip
    assert stats[1:] == wanted[1:]
    assert stats[0] == pytest.approx(wanted[0], rel=1e-5)
    assert wanted[1] > 2 * softmax.BATCH
    for weight, want, old in zip(method.weights.values(), expected, before, strict=True):
        assert np.abs(weight.numpy() - want).max() < 2e-5
        assert np.abs(want - old).max() > 0.05


def test_softmax_is_the_reference_loss_and_gradient():
    # One batch, a step so small that it is the gradient: of autograd's cross entropy, and of the NumPy reference.
    method = softmax_method(sentences=1, sample=0, window=2, lr=1e-4)
    before = [w.double().clone() for w in method.weights.values()]
    windows = draw_windows(
        method.ids.numpy(), method.keep.numpy().view(np.uint32), begin=0, end=1, window=2, slots=1, seed=7, epoch=0
    )
    centers = np.repeat(windows.words, np.diff(windows.first))
    assert 2 <= len(windows.words) <= softmax.BATCH
    loss, pairs, _ = method.train(0, 0, method.length)
    mean, *grads = reference.skipgram_softmax_loss(*(w.numpy() for w in before), centers, windows.contexts)
    leaves = [w.clone().requires_grad_() for w in before]
    entropy = torch.nn.functional.cross_entropy(
        leaves[0][centers] @ leaves[1].T, torch.from_numpy(windows.contexts), reduction="sum"
    )
    entropy.backward()
    assert loss == pytest.approx(mean * pairs, rel=1e-6)
    assert loss == pytest.approx(float(entropy.detach()), rel=1e-6)
    for weight, old, grad, leaf in zip(method.weights.values(), before, grads, leaves, strict=True):
        moved = (weight.double() - old) / -1e-4
        torch.testing.assert_close(moved, torch.from_numpy(grad * pairs), rtol=0, atol=2e-2)
        torch.testing.assert_close(leaf.grad, torch.from_numpy(grad * pairs), rtol=0, atol=1e-9)


@pytest.mark.parametrize("model", ["skipgram", "cbow"])
def test_softmax_is_bit_identical_however_the_corpus_is_cut(model):
    whole = softmax_method(model, sentences=100)
    whole.train(0, 0, whole.length)
    cut = softmax_method(model, sentences=100)
    edges = [0, 1, 511, 512, 513, 700, 1600, cut.length]
    parts = [cut.train(0, begin, end) for begin, end in zip(edges, edges[1:], strict=False)]
    assert sum(part[1] for part in parts) > 0
    for name, weight in whole.weights.items():
        assert torch.equal(weight, cut.weights[name])


def test_windows_are_those_of_the_kernels():
    method = softmax_method(sentences=300)
    ids, keep = method.ids.numpy(), method.keep.numpy().view(np.uint32)
    for slots, begin, end in ((1, 0, len(ids)), (6, 0, len(ids)), (1, 77, 1500), (1, 5, 6), (1, 9, 9)):
        drawn = draw_windows(ids, keep, begin=begin, end=end, window=4, slots=slots, seed=7, epoch=3)
        starts = np.concatenate([[0], np.flatnonzero(ids < 0)[:-1] + 1])
        wanted, kept = [], 0
        options = {"window": 4, "slots": slots, "seed": 7, "epoch": 3, "epochs": 4, "lr": 1}
        for start, sentence in zip(starts.tolist(), reference_epochs.sentences(ids, keep, **options), strict=True):
            if not begin <= start < end:
                continue
            kept += len(sentence.words)
            for c, word in enumerate(sentence.words if len(sentence.words) > 1 else []):
                wanted.append((start, word, [sentence.words[i] for i in sentence.contexts(c)]))
        contexts = [drawn.contexts[a:b].tolist() for a, b in zip(drawn.first, drawn.first[1:], strict=False)]
        assert list(zip(drawn.starts.tolist(), drawn.words.tolist(), contexts, strict=True)) == wanted
        assert drawn.kept == kept


def test_softmax_names_a_word_out_of_range():
    method = softmax_method()
    method.ids = method.ids.clone()
    method.ids[9] = 1000
    rows = len(method.in_weight)
    with pytest.raises(
        IndexError, match=f"ids: word 1000 at position 9 is out of range for in_weight with {rows} rows"
    ):
        method.train(0, 0, method.length)


@pytest.mark.parametrize("model", ["skipgram", "cbow"])
def test_softmax_learns_the_planted_meaning(planted_corpus, model):
    assert_learns_the_planted_meaning(planted_corpus, {"model": model, "loss": "softmax", "epochs": 2, "lr": 0.05})


@pytest.mark.parametrize("model", ["skipgram", "cbow"])
def test_a_resumed_softmax_run_gives_the_same_bits(planted_corpus, model, tmp_path):
    assert_resumes(planted_corpus, {"model": model, "loss": "softmax"}, tmp_path)


@pytest.mark.parametrize("settings", [{"loss": "softmax"}, {"model": "cbow"}, {"loss": "hs"}])
def test_these_models_are_trained_in_float32(settings):
    corpus = corpus_from_sequences([[1, 2, 3], [2, 3, 1]] * 3)
    with pytest.raises(ValueError, match="weight_dtype: expected float32 for model = .*, got 'bfloat16'"):
        Trainer(corpus, TrainConfig(**settings, weight_dtype="bfloat16"))
