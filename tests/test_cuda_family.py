"""CBOW and hierarchical softmax on CUDA: the kernels on the CPU's emulation, and on a GPU where there is one."""

import types

import numpy as np
import pytest
import torch
from test_cbow import train as train_cbow
from test_cuda_on_cpu import emulated
from test_sgns_kernel import make_case
from test_softmax import hs_case, train_hs

from w2v_ext import TrainConfig, Trainer, corpus_from_sequences, family_ops, ops
from w2v_ext.methods.cuda_epoch import device_weight

emulated = emulated  # a fixture
VARIANTS = [("cbow", True, False), ("cbow", False, True), ("cbow-hs", True, True), ("skipgram-hs", True, False)]


def train_on(device, weights, ids, alias_or_tree, keep, model, sentences_in_flight=1, **options):
    """An epoch by the CUDA operators: the weights as they are after it, and loss, pairs, words."""
    settings = {"mean": True, "divide": False, "window": 5, "seed": 7, "epoch": 0, "epochs": 2, "lr": 0.05}
    settings |= {"begin": 0, "end": len(ids), "sentences_in_flight": sentences_in_flight, **options}
    tables = [device_weight(*w.shape, torch.float32, device) for w in weights]
    for table, weight in zip(tables, weights, strict=True):
        table.copy_(weight)
    sums = torch.zeros(3, dtype=torch.float64, device=device)
    bad = torch.full((1,), 2**63 - 1, device=device)
    common = (*tables, sums, bad, ids.to(device))
    if model == "cbow":
        family_ops.train_cbow_cuda_(*common, alias_or_tree.to(device), keep.to(device), **settings)
    else:
        tree = alias_or_tree
        paths = [torch.from_numpy(part).to(device) for part in (tree.start, tree.steps)]
        longest, settings = int(np.diff(tree.start).max()), {k: v for k, v in settings.items() if k != "negative"}
        family_ops.train_hs_cuda_(
            *common, *paths, keep.to(device), longest=longest, cbow=model == "cbow-hs", **settings
        )
    return [t.cpu() for t in tables], sums.tolist(), int(bad.item())


def compare(device, model, mean, divide, dim, vocab=5000, **options):
    """An epoch with one sentence in flight against the CPU's with one thread."""
    options = {"mean": mean, "divide": divide, **options}
    repeats = vocab < 100
    if model == "cbow":
        options["negative"] = 5
        case = make_case(vocab=vocab, dim=dim, repeats=repeats)
    else:
        case = hs_case(vocab=vocab, dim=dim, repeats=repeats)
    moved, sums, bad = train_on(device, *case, model, **options)
    if model == "cbow":
        wanted = train_cbow(*case, **options)
    else:
        wanted = train_hs(*case, cbow=model == "cbow-hs", **options)
    assert bad == 2**63 - 1
    assert sums[1:] == wanted[1:].tolist()
    assert sums[0] == pytest.approx(wanted[0], rel=1e-5)
    for weight, want in zip(moved, case[0], strict=True):
        assert (weight - want).abs().max() < 2e-5


@pytest.fixture
def on_emulation(emulated, monkeypatch):
    names = ("alias_table", "cpu_kernels", "train_sgns_", "train_cbow_", "train_hs_")
    kept = {name: getattr(ops._ops, name) for name in names}
    cuda = {name: getattr(emulated, name) for name in ("train_cbow_cuda_", "train_hs_cuda_")}
    monkeypatch.setattr(ops, "_ops", types.SimpleNamespace(**kept, **cuda))
    return torch.device("cpu")


@pytest.mark.parametrize(("model", "mean", "divide"), VARIANTS)
@pytest.mark.parametrize(("dim", "window", "vocab"), [(7, 2, 5000), (33, 5, 5000), (16, 4, 30)])
def test_epoch_matches_the_cpu(on_emulation, model, mean, divide, dim, window, vocab):
    compare(on_emulation, model, mean, divide, dim, vocab, window=window, epoch=1)


@pytest.mark.parametrize("model", ["cbow", "cbow-hs", "skipgram-hs"])
def test_warps_share_the_sentences(on_emulation, model):
    case = make_case(sentences=120) if model == "cbow" else hs_case(sentences=120)
    options = {"negative": 5} if model == "cbow" else {}
    _, one, _ = train_on(on_emulation, *case, model, **options)
    _, many, _ = train_on(on_emulation, *case, model, 7, **options)
    assert many[1:] == one[1:]
    assert many[0] == pytest.approx(one[0], rel=0.05)


def test_bad_words_and_settings_are_named(on_emulation):
    weights, ids, alias, keep = make_case()
    ids[5] = 30
    assert train_on(on_emulation, weights, ids, alias, keep, "cbow", negative=5)[2] == 5
    with pytest.raises(ValueError, match="window: expected an integer from 1"):
        train_on(on_emulation, weights, ids, alias, keep, "cbow", negative=5, window=0)
    with pytest.raises(ValueError, match="negative: expected an integer from 1"):
        train_on(on_emulation, weights, ids, alias, keep, "cbow", negative=0)
    with pytest.raises(ValueError, match="dim, window: expected a block's rows and scores to fit"):
        train_on(on_emulation, weights, ids, alias, keep, "cbow", negative=5, window=9000)


@pytest.mark.cuda
@pytest.mark.parametrize(("model", "mean", "divide"), VARIANTS)
@pytest.mark.parametrize("dim", [7, 100])
def test_epoch_matches_the_cpu_on_a_gpu(model, mean, divide, dim):
    if not torch.cuda.is_available() or not ops.has_cuda_kernels():
        pytest.skip("needs a CUDA device and the CUDA kernels")
    compare(torch.device("cuda"), model, mean, divide, dim, epoch=1)


@pytest.mark.cuda
@pytest.mark.parametrize("settings", [{"model": "cbow"}, {"loss": "hs"}, {"loss": "softmax"}])
def test_the_trainer_on_a_gpu(settings):
    if not torch.cuda.is_available() or not ops.has_cuda_kernels():
        pytest.skip("needs a CUDA device and the CUDA kernels")
    corpus = corpus_from_sequences([[1, 2, 3, 4, 5], [2, 3, 1]] * 300)
    trainer = Trainer(corpus, TrainConfig(**settings, device="cuda", sample=0, epochs=3, dim=16)).fit()
    assert trainer.device.type == "cuda"
    assert trainer.state.losses == sorted(trainer.state.losses, reverse=True)
