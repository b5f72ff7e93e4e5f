"""Training by an optimiser's steps: AdaGrad, Adam, momentum, weight decay, clipping, short rows."""

import numpy as np
import pytest
import torch
from test_softmax import assert_learns_the_planted_meaning, assert_resumes, planted_corpus

from w2v_ext import TrainConfig, Trainer, corpus_from_sequences, ops, reference, train
from w2v_ext.continued import Start
from w2v_ext.methods import make_method
from w2v_ext.methods.batched import Batched, batch_seed
from w2v_ext.model_files import ModelFiles
from w2v_ext.windows import draw_windows

planted_corpus = planted_corpus  # a fixture

OPTIMIZERS = [
    {"optimizer": "adagrad", "clip_norm": 0.5},
    {"optimizer": "rowwise-adagrad", "weight_decay": 0.01},
    {"optimizer": "adam", "weight_decay": 0.5},
    {"momentum": 0.9, "weight_decay": 0.01, "clip_norm": 2.0},
    {"max_norm": 1.7},
]
MODELS = [
    {"model": "skipgram"},
    {"model": "cbow"},
    {"model": "cbow", "cbow_mean": True},
    {"model": "cbow", "cbow_mean": True, "cbow_divide_gradient": True},
]


def make_trainer(sentences=60, **settings):
    """Walks over 30 words, and weights drawn large."""
    rng = np.random.default_rng(3)
    probability = 1.0 / np.arange(1, 31)
    walks = [rng.choice(30, n, p=probability / probability.sum()) for n in rng.integers(1, 40, sentences)]
    usual = {"dim": 12, "window": 3, "negative": 4, "sample": 0.05, "lr": 0.03, "epochs": 2, "threads": 1}
    usual |= {"device": "cpu", "batch_size": 50}
    trainer = Trainer(corpus_from_sequences(walks), TrainConfig(**usual | settings))
    for name in ("in_weight", "out_weight"):
        weight = trainer.method.weights[name]
        weight.copy_(torch.from_numpy(rng.normal(0, 0.4, weight.shape)))
    return trainer


def plain_epoch(method, epoch):
    """The weights, float64, after an epoch from what they are: dense gradients by autograd, row by row."""
    config, ids = method.config, method.ids.numpy()
    weights = {name: weight.double().clone() for name, weight in method.weights.items()}
    windows = draw_windows(
        *(ids, method.keep.numpy().view(np.uint32)),
        **{"begin": 0, "end": len(ids), "window": config.window, "slots": 1, "seed": config.seed, "epoch": epoch},
    )
    total = 0.0
    for number, begin in enumerate(range(0, len(windows.words), config.batch_size)):
        into, out = (weights[name].clone().requires_grad_() for name in ("in_weight", "out_weight"))
        centers = range(begin, min(begin + config.batch_size, len(windows.words)))
        contexts = [windows.contexts[windows.first[c] : windows.first[c + 1]] for c in centers]
        if config.model == "cbow":
            positive = [int(windows.words[c]) for c in centers]
        else:
            positive = [int(windows.words[c]) for c, near in zip(centers, contexts, strict=True) for _ in near]
        seed = batch_seed(config.seed, epoch, 0, number)
        negative = ops.sample_negatives(method.alias, torch.tensor(positive), config.negative, seed)
        assert not (negative == torch.tensor(positive)[:, None]).any()
        if config.model == "cbow":
            hidden = torch.stack(
                [into.detach()[near].sum(0) / (len(near) if config.cbow_mean else 1) for near in contexts]
            )
            hidden.requires_grad_()
            which = torch.arange(len(positive))
        else:
            hidden, which = into, torch.tensor([word for near in contexts for word in near.tolist()])
        loss = reference.negative_sampling_loss(
            hidden, out, which, torch.tensor(positive)[:, None], negative, reduction="sum"
        )
        loss.backward()
        grad = into.grad
        if config.model == "cbow":
            grad = torch.zeros_like(into)
            for row, near in zip(hidden.grad, contexts, strict=True):
                for word in near:
                    grad[word] += row / (len(near) if config.cbow_divide_gradient else 1)
        total += loss.item()
        rate = config.lr * (1 - (len(ids) * epoch + int(windows.starts[begin])) / (len(ids) * config.epochs))
        step(config, weights, {"in_weight": grad, "out_weight": out.grad}, rate)
    return weights, total


def step(config, weights, grads, rate):
    norm = sum(grad.square().sum() for grad in grads.values()).sqrt()
    shorter = min(1.0, config.clip_norm / (norm.item() + 1e-6)) if config.clip_norm else 1.0
    for name, grad in grads.items():
        weight, rows = weights[name], grad.abs().sum(1) > 0
        w, g = weight[rows], grad[rows] * shorter
        state = {key.partition(".")[2]: table for key, table in weights.items() if key.startswith(name + ".")}
        if config.optimizer == "adam":
            w = w * (1 - rate * config.weight_decay)
        else:
            g = g + config.weight_decay * w
        if config.optimizer == "sgd" and state:
            g = state["momentum_buffer"][rows] * config.momentum + g
            state["momentum_buffer"][rows] = g
        elif config.optimizer == "adagrad":
            state["sum"][rows] += g * g
            g = g / (state["sum"][rows].sqrt() + 1e-10)
        elif config.optimizer == "rowwise-adagrad":
            state["sum"][rows] += (g * g).mean(1)
            g = g / (state["sum"][rows].sqrt() + 1e-10)[:, None]
        elif config.optimizer == "adam":
            state["row_steps"][rows] += 1
            state["exp_avg"][rows] = 0.9 * state["exp_avg"][rows] + 0.1 * g
            state["exp_avg_sq"][rows] = 0.999 * state["exp_avg_sq"][rows] + 0.001 * g * g
            number = state["row_steps"][rows][:, None]
            second = (state["exp_avg_sq"][rows] / (1 - 0.999**number)).sqrt() + 1e-8
            g = state["exp_avg"][rows] / (1 - 0.9**number) / second
        w = w - rate * g
        if config.max_norm:
            w = w * (config.max_norm / w.norm(dim=1, keepdim=True)).clamp(max=1)
        weight[rows] = w


@pytest.mark.parametrize("model", MODELS, ids=lambda m: "-".join(map(str, m.values())))
@pytest.mark.parametrize("optimizer", OPTIMIZERS, ids=lambda o: str(next(iter(o.values()))))
def test_an_epoch_is_that_of_autograd_and_plain_steps(model, optimizer):
    trainer = make_trainer(**model, **optimizer)
    method = trainer.method
    assert isinstance(method, Batched)
    for epoch in range(2):
        expected, total = plain_epoch(method, epoch)
        before = {name: weight.clone() for name, weight in method.weights.items()}
        loss, pairs, words = method.train(epoch, 0, method.length)
        assert loss == pytest.approx(total, rel=1e-5)
        assert 0 < words <= trainer.corpus.num_tokens and pairs > 0
        for name, weight in expected.items():
            torch.testing.assert_close(method.weights[name].double(), weight, rtol=2e-4, atol=2e-5)
            assert not torch.equal(method.weights[name], before[name])
    if "max_norm" in optimizer:
        assert method.weights["out_weight"].norm(dim=1).max() <= 1.7 + 1e-5


@pytest.mark.parametrize("model", ["skipgram", "cbow"])
def test_where_an_epoch_is_cut_changes_nothing(model):
    settings = {"model": model, "optimizer": "adam", "batch_size": 40, "sentences": 600}
    whole, parts = make_trainer(**settings).method, make_trainer(**settings).method
    sums = whole.train(0, 0, whole.length)
    cuts = [0, 1, 4096, 5000, 8000, parts.length]
    assert parts.length > 2 * 4096 + 1000
    found = [parts.train(0, begin, end) for begin, end in zip(cuts, cuts[1:], strict=False)]
    assert [sum(part[i] for part in found) for i in range(3)] == pytest.approx(sums, rel=1e-12)
    for name, weight in whole.weights.items():
        assert torch.equal(weight, parts.weights[name])


@pytest.mark.parametrize(
    "settings", [{"optimizer": "adam", "lr": 0.02}, {"optimizer": "adagrad", "model": "cbow", "lr": 0.1}]
)
def test_it_learns_the_planted_meaning(planted_corpus, settings):
    assert_learns_the_planted_meaning(planted_corpus, {"epochs": 2, **settings})


@pytest.mark.parametrize(
    "settings", [{"optimizer": "adam", "lr": 0.005}, {"momentum": 0.5, "model": "cbow", "lr": 0.002}]
)
def test_a_resumed_run_gives_the_same_bits(planted_corpus, settings, tmp_path):
    assert_resumes(planted_corpus, settings, tmp_path)


def test_plain_sgd_stays_with_the_epoch_kernel():
    corpus = corpus_from_sequences([[1, 2, 3], [2, 3, 1]] * 3)
    assert not isinstance(make_method(corpus, TrainConfig(batch_size=4)), Batched)
    assert isinstance(make_method(corpus, TrainConfig(max_norm=4.0)), Batched)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"optimizer": "lion"}, "optimizer: expected one of sgd, adagrad, rowwise-adagrad, adam, got 'lion'"),
        ({"momentum": 1.0}, r"momentum: expected a number in \[0, 1\), got 1.0"),
        ({"momentum": 0.5, "optimizer": "adam"}, "momentum: expected 0 with optimizer = adam, got 0.5"),
        ({"clip_norm": -1.0}, "clip_norm: expected a number >= 0, got -1.0"),
        ({"batch_size": 0}, "batch_size: expected an integer >= 1, got 0"),
        ({"optimizer": "adam", "loss": "hs"}, "optimizer: expected the default with .* loss = hs, got 'adam'"),
        ({"max_norm": 2.0, "model": "fasttext"}, "max_norm: expected the default with model = fasttext .*, got 2.0"),
        ({"optimizer": "adam", "reproducible": 2}, "reproducible: expected 0 with optimizer = adam, got 2"),
        ({"optimizer": "adam", "weight_dtype": "bfloat16"}, "weight_dtype: expected float32 with optimizer = adam"),
    ],
)
def test_settings_that_do_not_go_together(settings, message):
    with pytest.raises(ValueError, match=message):
        Trainer(corpus_from_sequences([[1, 2, 3], [2, 3, 1]] * 3), TrainConfig(**settings))


def test_the_command_line_knows_optimisers(tmp_path, capsys):
    text = tmp_path / "text.txt"
    text.write_text("a b c d\nb c a d\n" * 20)
    out = tmp_path / "out"
    arguments = ["--corpus", str(text), "--out", str(out), "--optimizer", "adam", "--lr", "0.01", "--max-norm", "0.05"]
    assert train.main([*arguments, "--dim", "8", "--sample", "0", "--threads", "1"]) == 0
    assert "1 threads, adam" in capsys.readouterr().out
    from w2v_ext import KeyedVectors

    assert 0 < np.linalg.norm(KeyedVectors.load(out).vectors, axis=1).max() <= 0.05 + 1e-6


def test_it_goes_on_from_an_old_model():
    corpus = corpus_from_sequences([["a", "b", "c"], ["b", "c", "a"]] * 5)
    table = torch.arange(18.0).view(3, 6) / 10
    old = ModelFiles(table, table + 1, list(corpus.vocab.words), corpus.vocab.counts, {})
    settings = TrainConfig(dim=6, optimizer="adam", threads=1, min_count=1, sample=0)
    method = Trainer(corpus, settings, start=Start(corpus.vocab, old=old)).method
    assert torch.equal(method.weights["in_weight"], table) and torch.equal(method.weights["out_weight"], table + 1)
    assert not method.weights["in_weight.exp_avg"].any()


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device and a CUDA build of PyTorch")
@pytest.mark.parametrize("model", ["skipgram", "cbow"])
@pytest.mark.parametrize("optimizer", OPTIMIZERS, ids=lambda o: str(next(iter(o.values()))))
def test_on_a_gpu_it_is_the_cpus(model, optimizer):
    here = make_trainer(model=model, **optimizer).method
    there = make_trainer(model=model, **optimizer | {"device": "cuda"}).method
    assert there.device.type == "cuda"
    assert there.train(0, 0, there.length) == pytest.approx(here.train(0, 0, here.length), rel=1e-4)
    for name, weight in here.weights.items():
        assert (there.weights[name].cpu() - weight).abs().max() <= 1e-3 * weight.abs().max()
