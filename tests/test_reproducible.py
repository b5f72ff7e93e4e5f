"""--reproducible: any number of threads and processes gives the same bits, and so does a run that was interrupted."""

import json

import numpy as np
import pytest
import torch
from forks import run_ranks

import w2v_ext
from w2v_ext import TrainConfig, Trainer, corpus_from_sequences
from w2v_ext.methods import TrainingError
from w2v_ext.reproducible import Workers, add_in_order_
from w2v_ext.train import main as train
from w2v_ext.trainer import Interrupted

MODELS = {
    "skipgram": {},
    "cbow": {"model": "cbow"},
    "skipgram-hs": {"loss": "hs"},
    "cbow-hs": {"model": "cbow", "loss": "hs", "cbow_mean": True},
    "softmax": {"loss": "softmax"},
    "fasttext": {"model": "fasttext", "buckets": 1000},
    "fasttext-cbow": {"model": "fasttext-cbow", "buckets": 1000},
    "glove": {"model": "glove", "window": 3, "sample": TrainConfig.sample},  # it uses none
}


def sentences():
    rng = np.random.default_rng(3)
    return [[f"w{i}" for i in rng.zipf(1.3, 12).clip(1, 700)] for _ in range(1500)]


@pytest.fixture(scope="module")
def corpus():
    return corpus_from_sequences(sentences())


def config(**changes):
    settings = {"dim": 20, "epochs": 2, "seed": 5, "device": "cpu", "sample": 0, "reproducible": 4, "sync_every": 256}
    return TrainConfig(**{**settings, "checkpoint_minutes": 0, **changes})


def bits(trainer):
    tensors = {name: tensor.numpy().tobytes() for name, tensor in trainer.method.saved_tensors().items()}
    return tensors, trainer.state.losses, trainer.state.words


@pytest.mark.parametrize("model", MODELS)
def test_threads_change_no_bit(corpus, tmp_path, model):
    settings = {**MODELS[model], "cache_dir": str(tmp_path)}
    one, *others = (bits(Trainer(corpus, config(threads=threads, **settings)).fit()) for threads in (1, 2, 3, 4))
    assert all(other == one for other in others)
    assert one[1][1] < one[1][0]
    assert bits(Trainer(corpus, config(threads=2, **{**settings, "seed": 6})).fit())[0] != one[0]


def test_one_worker_is_one_thread(corpus):
    alone = Trainer(corpus, config(reproducible=0, threads=1)).fit()
    worker = Trainer(corpus, config(reproducible=1, threads=4)).fit()
    assert bits(worker)[0] == bits(alone)[0]
    assert worker.state.losses == pytest.approx(alone.state.losses, rel=1e-12)


def test_workers_learn_what_one_thread_learns(corpus):
    alone = Trainer(corpus, config(reproducible=0, threads=1)).fit()
    for workers in (2, 4, 8):
        together = Trainer(corpus, config(reproducible=workers, threads=2, sync_every=0)).fit()
        assert together.state.losses[1] == pytest.approx(alone.state.losses[1], rel=0.05)


RANKS = """
import sys, torch
from w2v_ext import Trainer, corpus_from_sequences
from w2v_ext.distributed import process_group
from test_reproducible import MODELS, bits, config, sentences

out = sys.argv[1]
with process_group("cpu"):
    corpus = corpus_from_sequences(sentences())
    for model in ("skipgram", "cbow-hs", "fasttext"):
        trainer = Trainer(corpus, config(threads=2, **MODELS[model])).fit()
        torch.save(bits(trainer), f"{out}/{model}-{trainer.method.rank}")
    trainer = Trainer(corpus, config(threads=1))
    trainer.load_checkpoint(out)
    torch.save(bits(trainer.fit()), f"{out}/resumed-{trainer.method.rank}")
"""


def stop_in_the_middle(trainer, directory):
    def stop(t):
        t._stop = 2 if t.state.epoch == 1 else 0

    trainer.method.part //= 16  # the corpus is short: stop within an epoch
    with pytest.raises(Interrupted):
        trainer.fit(on_epoch=stop, checkpoint_dir=directory)


@pytest.mark.parametrize("ranks", [2, 4])
def test_processes_change_no_bit(corpus, tmp_path, ranks):
    stop_in_the_middle(Trainer(corpus, config(threads=3)), tmp_path)
    run_ranks(ranks, RANKS, tmp_path)
    for model in ("skipgram", "cbow-hs", "fasttext"):
        one = bits(Trainer(corpus, config(threads=1, **MODELS[model])).fit())
        for rank in range(ranks):
            assert torch.load(tmp_path / f"{model}-{rank}") == one, (model, rank)
            if model == "skipgram":
                assert torch.load(tmp_path / f"resumed-{rank}") == one, rank


def test_the_command_writes_the_same_files(tmp_path):
    text = tmp_path / "text.txt"
    text.write_text("\n".join(" ".join(words) for words in sentences()))
    for name, threads in (("a", 1), ("b", 4)):
        flags = ["--corpus", text, "--out", tmp_path / name, "--dim", "20", "--epochs", "2", "--min-count", "1"]
        flags += ["--reproducible", "4", "--threads", threads, "--device", "cpu"]
        assert train(list(map(str, flags))) == 0
    for file in ("model.safetensors", "vocab.tsv"):
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()
    losses = [json.loads((tmp_path / name / "metrics.json").read_text())["loss"] for name in "ab"]
    assert losses[0] == losses[1]


@pytest.mark.parametrize("every", [1, 7000])
def test_checkpoints_change_no_bit_wherever_they_are_made(corpus, tmp_path, every):
    plain = bits(Trainer(corpus, config(threads=2)).fit())
    saved = Trainer(corpus, config(threads=2, checkpoint_words=every, checkpoint_keep=100))
    saved.fit(checkpoint_dir=tmp_path)
    assert bits(saved) == plain
    assert list(tmp_path.glob("checkpoint*.safetensors"))
    for path in tmp_path.glob("checkpoint*.safetensors"):
        resumed = Trainer(corpus, config(threads=1))
        resumed.load_checkpoint(path)
        assert bits(resumed.fit()) == plain


def test_text_and_queries_do_not_depend_on_threads_either(tmp_path):
    text = tmp_path / "text.txt"
    text.write_text("\n".join(" ".join(words) for words in 20 * sentences()))
    one, three = (w2v_ext.prepare_corpus(text, cache_dir=tmp_path / str(n), threads=n) for n in (1, 3))
    assert np.array_equal(one.ids, three.ids)
    assert one.vocab.to_bytes() == three.vocab.to_bytes()
    vectors = Trainer(one, config(threads=1, epochs=1)).fit().keyed_vectors()
    before, found = torch.get_num_threads(), []
    for threads in (1, 2):
        torch.set_num_threads(threads)
        found.append([vectors.most_similar(word) for word in one.vocab.words[:50]])
    torch.set_num_threads(before)
    assert found[0] == found[1]


def test_sums_have_one_order():
    parts = torch.tensor([[1e8], [1.0], [-1e8], [1.0]])
    expected = (parts[0] + parts[1]) + (parts[2] + parts[3])
    assert add_in_order_(parts.clone()).item() == expected.item() != parts.double().sum().item()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"reproducible": 3}, "reproducible: expected 0 or a power of two, got 3"),
        ({"reproducible": 128}, "reproducible: expected an integer <= 64, got 128"),
        ({"device": "cuda"}, "device: expected cpu or auto with reproducible = 4, got 'cuda'"),
    ],
)
def test_settings_that_do_not_hold(settings, message):
    with pytest.raises(ValueError, match=message):
        config(**settings)


def test_what_workers_cannot_do(corpus):
    method = Trainer(corpus, config()).method
    with pytest.raises(ValueError, match="begin: expected a multiple of 1024, the positions of a turn, got 5"):
        method.train(0, 5, 100)
    with pytest.raises(ValueError, match="lock: expected nothing beside reproducible"):
        Workers(method, 4, 1)


def test_a_damaged_corpus_is_an_error_in_threads_too(corpus):
    trainer = Trainer(corpus, config(threads=2))
    for method in trainer.method._methods:
        method.ids = method.ids.clone()
        method.ids[100] = 100_000
    with pytest.raises(TrainingError, match="is damaged"):
        trainer.fit()


def test_pytorchs_own_threads_stay_as_they_were(corpus):
    before = torch.get_num_threads()
    Trainer(corpus, config(threads=2)).fit()
    assert torch.get_num_threads() == before
