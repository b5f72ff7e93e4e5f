"""The trainer: what it learns, that it is reproducible, and that an interrupted run loses nothing."""

import json
import math
import os

import numpy as np
import pytest
import torch

from w2v_ext import CorpusOptions, TrainConfig, Trainer, corpus_from_sequences, prepare_corpus
from w2v_ext.synthetic import BUILTIN_ANALOGIES, BUILTIN_CLASSES, write_builtin_corpus
from w2v_ext.tables import keep_thresholds, padded_weight
from w2v_ext.trainer import CHECKPOINT, Interrupted, TrainingError


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    folder = tmp_path_factory.mktemp("corpus")
    write_builtin_corpus(folder / "text.txt", sentences=15_000)
    with prepare_corpus(folder / "text.txt", CorpusOptions(), cache_dir=folder / "cache") as opened:
        yield opened


def config(**changes):
    return TrainConfig(**{"dim": 24, "epochs": 3, "threads": 1, "seed": 5, **changes})


def weights(trainer):
    return trainer.in_weight.clone(), trainer.out_weight.clone()


def assert_same(a, b):
    assert torch.equal(a[0], b[0])
    assert torch.equal(a[1], b[1])


def test_learns_the_planted_meaning(tmp_path):
    write_builtin_corpus(tmp_path / "text.txt")
    corpus = prepare_corpus(tmp_path / "text.txt", cache_dir=tmp_path)
    trainer = Trainer(corpus, TrainConfig(threads=2)).fit()
    vectors = trainer.keyed_vectors()
    right = total = 0
    for words in BUILTIN_CLASSES.values():
        for word in words:
            neighbours = [w for w, _ in vectors.most_similar(word, topn=5)]
            right += sum(w in words for w in neighbours)
            total += len(neighbours)
    assert right / total > 0.95
    found = [vectors.most_similar([b, c], [a], topn=1)[0][0] == d for a, b, c, d in BUILTIN_ANALOGIES]
    assert np.mean(found) > 0.9
    assert vectors.most_similar(["king", "woman"], ["man"], topn=1)[0][0] == "queen"


def test_loss_starts_at_log_two_per_output_and_falls(corpus):
    trainer = Trainer(corpus, config(lr=1e-7, epochs=1)).fit()
    # Each pair has one positive and five negatives, less the few negatives that are the centre itself.
    assert 0.99 * 6 * math.log(2) < trainer.state.losses[0] < (1 + 1e-6) * 6 * math.log(2)
    losses = Trainer(corpus, config()).fit().state.losses
    assert losses == sorted(losses, reverse=True)
    assert losses[-1] < 3


def test_one_thread_and_one_seed_are_bit_identical(corpus):
    first, second = (weights(Trainer(corpus, config()).fit()) for _ in range(2))
    assert_same(first, second)
    other = weights(Trainer(corpus, config(seed=6)).fit())
    assert not torch.equal(first[0], other[0])


def interrupt_at(trainer, words, directory):
    def on_progress(t):
        t._stop = t._stop or t.words_done >= words

    with pytest.raises(Interrupted) as stop:
        trainer.fit(on_progress=on_progress, checkpoint_dir=directory)
    assert stop.value.checkpoint == directory / CHECKPOINT
    return trainer


@pytest.mark.parametrize("fraction", [0.01, 0.4, 0.7])
def test_resumed_run_is_bit_identical_to_an_uninterrupted_one(corpus, tmp_path, monkeypatch, fraction):
    whole = Trainer(corpus, config()).fit()
    monkeypatch.setattr("w2v_ext.trainer._SLICE_SECONDS", 0.002)
    stopped = interrupt_at(Trainer(corpus, config()), fraction * whole.total_words, tmp_path)
    assert 0 < stopped.words_done < whole.total_words
    resumed = Trainer(corpus, config())
    resumed.load_checkpoint(tmp_path)
    assert resumed.words_done == stopped.words_done
    resumed.fit()
    assert_same(weights(whole), weights(resumed))
    assert resumed.state.losses == pytest.approx(whole.state.losses, rel=1e-12)
    assert resumed.state.words == whole.state.words


def test_checkpoints_are_saved_by_the_clock(corpus, tmp_path, monkeypatch):
    monkeypatch.setattr("w2v_ext.trainer._SLICE_SECONDS", 0.01)
    Trainer(corpus, config(checkpoint_minutes=1e-9)).fit(checkpoint_dir=tmp_path)
    resumed = Trainer(corpus, config(checkpoint_minutes=1e-9))
    resumed.load_checkpoint(tmp_path)
    assert 0 < resumed.words_done < resumed.total_words


@pytest.mark.parametrize(
    ("name", "value"), [("dim", 25), ("window", 4), ("negative", 6), ("epochs", 4), ("lr", 0.03), ("seed", 6)]
)
def test_resuming_with_a_changed_setting_names_it(corpus, tmp_path, name, value):
    interrupt_at(Trainer(corpus, config()), 0, tmp_path)
    with pytest.raises(ValueError, match=f"resume: setting '{name}' has changed: .* now it is {value}"):
        Trainer(corpus, config(**{name: value})).load_checkpoint(tmp_path)


def test_resuming_may_change_the_number_of_threads(corpus, tmp_path):
    interrupt_at(Trainer(corpus, config()), 0, tmp_path)
    resumed = Trainer(corpus, config(threads=2))
    resumed.load_checkpoint(tmp_path)
    assert resumed.fit().state.epoch == 3


def test_resuming_on_another_corpus_is_refused(corpus, tmp_path):
    interrupt_at(Trainer(corpus, config()), 0, tmp_path)
    other = corpus_from_sequences([[1, 2, 3, 4]] * 10)
    with pytest.raises(ValueError, match="resume: the corpus has changed"):
        Trainer(other, config()).load_checkpoint(tmp_path)


def test_damaged_or_missing_checkpoint_is_named(corpus, tmp_path):
    with pytest.raises(FileNotFoundError, match="no checkpoint to go on from: .*checkpoint.safetensors"):
        Trainer(corpus, config()).load_checkpoint(tmp_path)
    interrupt_at(Trainer(corpus, config()), 0, tmp_path)
    data = (tmp_path / CHECKPOINT).read_bytes()
    for damaged in (b"", data[:100], data[:-1000], b"\0" * len(data), b"{}" + data[2:]):
        (tmp_path / CHECKPOINT).write_bytes(damaged)
        trainer = Trainer(corpus, config())
        before = weights(trainer)
        with pytest.raises(ValueError, match="resume: .*checkpoint.safetensors is not a complete checkpoint"):
            trainer.load_checkpoint(tmp_path)
        assert_same(before, weights(trainer))


def test_divergence_stops_with_advice(corpus):
    with pytest.raises(TrainingError, match="lr: the loss became (nan|inf) .* below 1e\\+30"):
        Trainer(corpus, config(lr=1e30)).fit()


def test_damaged_ids_are_named(tmp_path):
    (tmp_path / "text.txt").write_text("a b c d e f g h\n" * 1000)
    corpus = prepare_corpus(tmp_path / "text.txt", cache_dir=tmp_path)
    trainer = Trainer(corpus, config())
    with (corpus.path / "ids.bin").open("r+b") as file:  # after the checks of opening it
        file.seek(4 * 500)
        file.write((1_000_000).to_bytes(4, "little"))
    before = corpus._opened[1]
    os.utime(corpus.path / "ids.bin", ns=(before.st_atime_ns, before.st_mtime_ns))  # as a failing disk would do it
    with pytest.raises(TrainingError, match=r"corpus: .*ids.bin is damaged \(ids: word 1000000 at position 500"):
        trainer.fit()


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a CUDA device")
def test_cuda_is_refused_where_it_is_not_there(corpus):
    with pytest.raises(TrainingError, match="device: training on cuda is not available: PyTorch .*; use --device cpu"):
        Trainer(corpus, config(device="cuda"))
    with pytest.raises(TrainingError, match="weight_dtype: bfloat16 is for training on cuda, got a CPU"):
        Trainer(corpus, config(weight_dtype="bfloat16"))
    assert Trainer(corpus, config(device="auto")).device.type == "cpu"


def test_learning_rate_falls_to_a_ten_thousandth(corpus):
    trainer = Trainer(corpus, config())
    rates = [trainer.lr]
    trainer.fit(on_progress=lambda t: rates.append(t.lr))
    assert rates[0] == 0.025
    assert rates == sorted(rates, reverse=True)
    assert rates[-1] == pytest.approx(0.025 / 10_000)


def test_integer_sequences_train_too():
    # Two groups of items that only meet their own kind.
    rng = np.random.default_rng(0)
    walks = [rng.choice(np.arange(10) + 10 * (i % 2), 20) for i in range(3000)]
    vectors = Trainer(corpus_from_sequences(walks), config(sample=0, epochs=5)).fit().keyed_vectors()
    for item in ("3", "14"):
        neighbours = {int(word) // 10 for word, _ in vectors.most_similar(item, topn=9)}
        assert neighbours == {int(item) // 10}


def test_sentences_of_one_word_give_no_pairs():
    trainer = Trainer(corpus_from_sequences([[1], [2], [1], [2]]), config(epochs=1, sample=0))
    with pytest.raises(TrainingError, match="sample: no two words were left side by side with sample = 0"):
        trainer.fit()
    assert trainer.state.losses == [None]
    assert trainer.out_weight.abs().sum() == 0


def test_an_epoch_without_pairs_has_no_loss():
    corpus = corpus_from_sequences([[1, 2, 3], [2, 3, 1]] * 3)
    losses = Trainer(corpus, config(epochs=40, sample=1e-3)).fit().state.losses
    assert None in losses
    assert all(loss is None or 0 < loss < 6 for loss in losses)


def test_special_tokens_are_never_trained(tmp_path):
    (tmp_path / "text.txt").write_text("a b c d e f g h\n" * 200)
    corpus = prepare_corpus(tmp_path / "text.txt", CorpusOptions(specials=True), cache_dir=tmp_path)
    trainer = Trainer(corpus, config(sample=0))
    before = trainer.in_weight[:4].clone()
    trainer.fit()
    assert corpus.vocab.words[:4] == ["<PAD>", "<SOS>", "<EOS>", "<UNK>"]
    assert torch.equal(trainer.in_weight[:4], before)
    assert trainer.in_weight[0].abs().sum() == 0
    assert trainer.out_weight[:4].abs().sum() == 0
    assert trainer.out_weight[4:].abs().sum() > 0


def test_thresholds_hold_probabilities():
    thresholds = keep_thresholds(np.array([1.0, 0.5, 0.0, 2.0**-32])).numpy().view(np.uint32)
    assert thresholds.tolist() == [2**32 - 1, 2**31 - 1, 0, 0]


@pytest.mark.parametrize(("rows", "dim"), [(3, 1), (3, 15), (3, 16), (3, 17), (3, 100), (40_000, 20)])
def test_padded_rows_are_aligned(rows, dim):
    weight = padded_weight(rows, dim)
    assert weight.shape == (rows, dim)
    assert not weight.any()
    assert weight.data_ptr() % 64 == 0
    assert weight.stride(0) % 16 == 0


def test_metrics_are_complete(corpus):
    trainer = Trainer(corpus, config()).fit()
    metrics = trainer.metrics()
    json.dumps(metrics)
    assert metrics["raw_words_per_second"] == pytest.approx(corpus.num_tokens * 3 / metrics["train_seconds"])
    assert 0 < metrics["trained_words_per_second"] < metrics["raw_words_per_second"]
    assert len(metrics["loss"]) == 3


def test_other_things_than_a_corpus_and_settings():
    with pytest.raises(TypeError, match="corpus: expected a Corpus, as prepare_corpus makes it, got str"):
        Trainer("text.txt", TrainConfig(dim=5))
    with pytest.raises(TypeError, match="config: expected a TrainConfig, got dict"):
        Trainer(corpus_from_sequences([["a", "b"]]), {"dim": 5})
    with pytest.raises(TypeError, match="sources: expected paths, got a list; corpus_from_sequences takes sequences"):
        prepare_corpus([["a", "b"], ["a"]])
