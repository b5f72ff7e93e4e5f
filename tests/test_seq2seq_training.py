"""Training: it learns, goes on exactly, stops in time, averages, and keeps what it had when something breaks."""

import dataclasses
import math
import warnings
from pathlib import Path

import pytest
import torch

from w2v_ext.files import FormatError
from w2v_ext.seq2seq import (
    SearchOptions,
    Seq2SeqConfig,
    Seq2SeqTrainer,
    Translator,
    build_model,
    load_model,
    prepare_text,
)
from w2v_ext.seq2seq import training as training_module
from w2v_ext.seq2seq.files import LAST, MODEL, load_tensors, save_text
from w2v_ext.seq2seq.run import train
from w2v_ext.seq2seq.state import choose_precision
from w2v_ext.seq2seq.validation import bleu_tokenizer
from w2v_ext.trainer import Interrupted, TrainingError

pytestmark = pytest.mark.usefixtures("one_thread")

DIGITS = "zero one two three four five six seven eight nine".split()


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """A small task: digits to words, backwards."""
    folder = tmp_path_factory.mktemp("text")
    for name, start, count in (("train", 100, 240), ("valid", 900, 20)):
        numbers = [str(n * 7919 % 10**5) for n in range(start, start + count)]
        (folder / f"{name}.src").write_text("".join(" ".join(n) + "\n" for n in numbers))
        (folder / f"{name}.tgt").write_text("".join(" ".join(DIGITS[int(d)] for d in n[::-1]) + "\n" for n in numbers))
    return {
        "src": str(folder / "train.src"),
        "tgt": str(folder / "train.tgt"),
        "valid_src": str(folder / "valid.src"),
        "valid_tgt": str(folder / "valid.tgt"),
    }


def settings(files, path, **changes):
    base = {
        **files, "out": str(path), "tokenizer": "whitespace", "embed_size": 16, "hidden_size": 16, "epochs": 3,
        "batch_tokens": 128, "warmup": 5, "dropout": 0.2, "embed_dropout": 0.1, "word_dropout": 0.05, "average": 2,
        "precision": "float32", "device": "cpu",
    }  # fmt: skip
    return Seq2SeqConfig(**{**base, **changes})


def make_trainer(config):
    text = prepare_text(config)
    torch.manual_seed(config.seed)
    model = build_model(config, len(text.files.src_vocab), len(text.files.tgt_vocab))
    Path(config.out).mkdir(exist_ok=True)
    save_text(Path(config.out), config, text.files)
    return Seq2SeqTrainer(model, text, config, config.out)


def weights(trainer):
    return torch.cat([p.detach().flatten() for p in trainer.model.parameters()])


VARIANTS = {
    "luong": {},
    "accumulate": {"accumulate": 3, "schedule": "inverse-sqrt", "batch_tokens": 64},
    "bfloat16": {"precision": "bfloat16", "schedule": "cosine"},
    "deep": {"num_layers": 2, "deep_attention": True, "attention": "bahdanau", "context": "max"},
    "loop": {"input_feeding": True, "epochs": 2},
    "own-words": {"teacher_forcing": 0.5, "attention": "none", "epochs": 2},
    "sampled": {"loss": "negative-sampling", "negative": 4, "tied": False},
}


@pytest.mark.parametrize("name", VARIANTS)
def test_resumed_is_uninterrupted(files, tmp_path, name):
    config = settings(files, tmp_path / "a", **VARIANTS[name])
    whole = make_trainer(config).fit()
    config = dataclasses.replace(config, out=str(tmp_path / "b"))
    for stop_at in (3, 7, 15):  # steps: within epochs and beyond one
        part = make_trainer(config)
        if stop_at > 3:
            part.load_state()

        def stop(trainer, tokens, stop_at=stop_at):
            if trainer.state.step == stop_at:
                trainer._request_stop(2, None)

        try:
            part.fit(on_step=stop)
        except Interrupted as caught:
            assert str(tmp_path / "b" / LAST) in str(caught)
            assert part.state.step == stop_at
    torch.manual_seed(12345)
    last = make_trainer(config)
    last.load_state()
    last.fit()
    assert torch.equal(weights(last), weights(whole))
    strip = lambda entry: {k: v for k, v in entry.items() if "seconds" not in k}  # noqa: E731
    assert [strip(e) for e in last.state.history] == [strip(e) for e in whole.state.history]
    a, b = (load_tensors(tmp_path / side / MODEL)[0] for side in "ab")
    assert a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


def test_it_learns_and_is_loaded_again(files, tmp_path, capsys):
    metrics = train(
        settings(files, tmp_path, epochs=60, lr=1e-2, dropout=0.0, embed_size=24, hidden_size=48, average=1)
    )
    assert metrics["history"][-1]["valid_loss"] < 0.2 * metrics["history"][0]["valid_loss"]
    assert max(entry["bleu"] for entry in metrics["history"]) > 80
    out = capsys.readouterr().out
    assert "training: 240 pairs, " in out and "tokens/s" in out and f"saved to {tmp_path}" in out and "  best" in out
    model, config, text = load_model(tmp_path)
    assert config.hidden_size == 48 and not model.training and len(text.src_vocab) == 14
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        "config.json", "last.safetensors", "metrics.json", "model.safetensors", "src.tokenizer.json", "src.vocab.tsv",
        "tgt.tokenizer.json", "tgt.vocab.tsv",
    ]  # fmt: skip


def test_accumulation_is_one_large_batch(files, tmp_path, monkeypatch):
    grads = []
    for accumulate in (1, 2):
        config = settings(files, tmp_path, accumulate=accumulate, dropout=0, embed_dropout=0, word_dropout=0, clip=0)
        trainer = make_trainer(config)
        rows = list(range(16))
        parts = [rows] if accumulate == 1 else [rows[:5], rows[5:]]
        monkeypatch.setattr(trainer, "batches", lambda parts=parts: parts)
        trainer.train_step()
        grads.append([p.grad.clone() for p in trainer.parameters.values()])
    for a, b in zip(*grads, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("what", ["loss", "gradient"])
def test_a_loss_that_is_no_number_stops_and_keeps_the_model(files, tmp_path, monkeypatch, what):
    trainer = make_trainer(settings(files, tmp_path, epochs=4, average=1))
    steps = len(trainer.batches())
    honest = trainer.batch_loss

    def broken(batch):
        loss = honest(batch)
        if trainer.state.step < steps + 2:
            return loss
        return loss * float("nan") if what == "loss" else loss + 0 * (loss - loss.detach()).sqrt()

    monkeypatch.setattr(trainer, "batch_loss", broken)
    found = "the loss became nan" if what == "loss" else "the gradient's length became nan"
    with pytest.raises(
        TrainingError, match=rf"lr: {found} in step {steps + 3} \(epoch 2\); model.safetensors and last"
    ):
        trainer.fit()
    assert all(torch.isfinite(p).all() for p in load_model(tmp_path)[0].parameters())
    assert torch.isfinite(weights(trainer)).all()
    assert load_tensors(tmp_path / LAST)[1]["state"]["step"] == steps


def test_early_stop_plateau_and_best(files, tmp_path, monkeypatch):
    scores = iter([5.0, 7.0, 6.0, 6.5, 6.9, 7.0, 7.0, 7.0, 9.0])
    result = lambda *_: training_module.Validation(1.0, next(scores), [])  # noqa: E731
    monkeypatch.setattr(training_module, "validate", result)
    config = settings(files, tmp_path, epochs=50, early_stop=6, patience=2, decay=0.5, average=1)
    trainer = make_trainer(config).fit()
    assert trainer.state.epoch == 8 and trainer.state.best_epoch == 2 and trainer.is_finished()
    assert [round(e["lr"] / config.lr, 4) for e in trainer.state.history] == [1, 1, 1, 1, 0.5, 0.5, 0.25, 0.25]
    assert load_tensors(tmp_path / MODEL)[1]["step"] == trainer.state.history[1]["step"]


def test_learning_rates(files, tmp_path):
    trainer = make_trainer(settings(files, tmp_path, lr=1.0, warmup=4, schedule="inverse-sqrt"))
    rates = []
    for step in (0, 1, 3, 15):
        trainer.state.step = step
        rates.append(trainer.lr())
    assert rates == [0.25, 0.5, 1.0, 0.5]
    trainer.config = settings(files, tmp_path, lr=1.0, warmup=0, schedule="cosine", epochs=4)
    trainer.state.epoch = 2
    assert trainer.lr() == pytest.approx(0.5)
    trainer.state.epoch = 4
    assert trainer.lr() == pytest.approx(0.01)


def test_averaging(files, tmp_path, monkeypatch):
    trainer = make_trainer(settings(files, tmp_path, epochs=5, average=3))
    kept = []
    trainer.fit(on_validation=lambda t, r: kept.append(weights(t).clone()))
    assert len(list(tmp_path.glob("snapshot-*"))) == 3
    before = weights(trainer).clone()
    seen = {}

    def judge(model, *_):
        seen["weights"] = torch.cat([p.detach().flatten() for p in model.parameters()])
        return training_module.Validation(0.5, seen["bleu"], [])

    monkeypatch.setattr(training_module, "validate", judge)
    for bleu, is_kept in ((-1.0, False), (100.0, True)):
        seen["bleu"] = bleu
        trainer.average()
        torch.testing.assert_close(seen["weights"], torch.stack(kept[-3:]).mean(0), rtol=1e-6, atol=1e-7)
        assert torch.equal(weights(trainer), before)
        assert (load_tensors(tmp_path / MODEL)[1]["averaged"] == 3) == is_kept
    trainer.remove_snapshots()
    assert not list(tmp_path.glob("snapshot-*"))


@pytest.mark.parametrize("limit", ["max_minutes", "max_cpu_minutes"])
def test_minutes(files, tmp_path, monkeypatch, limit):
    # The other clock stands still, so that each limit is seen to count its own.
    other = "process_time" if limit == "max_minutes" else "perf_counter"
    monkeypatch.setattr(training_module.time, other, lambda: 0.0)
    trainer = make_trainer(settings(files, tmp_path, epochs=1000, average=1, **{limit: 1e-6})).fit()
    assert trainer.state.step == 1 and len(trainer.state.history) == 1
    assert (trainer.state.seconds > 0) == (limit == "max_minutes") != (trainer.state.cpu_seconds > 0)
    assert (tmp_path / MODEL).exists() and (tmp_path / LAST).exists()


def test_without_validation_text_the_last_model_is_kept(files, tmp_path):
    files = {name: files[name] for name in ("src", "tgt")}
    trainer = make_trainer(settings(files, tmp_path, epochs=3)).fit()
    tensors, notes = load_tensors(tmp_path / MODEL)
    assert notes["step"] == trainer.state.step and trainer.state.history[-1]["bleu"] is None
    assert all(torch.equal(tensors[name], p) for name, p in trainer.model.named_parameters())
    assert trainer.average().loss is None


def test_validation_draws_nothing(files, tmp_path):
    trainer = make_trainer(settings(files, tmp_path))
    before = torch.get_rng_state()
    result = trainer._validate()
    assert torch.equal(torch.get_rng_state(), before) and math.isfinite(result.loss) and len(result.translations) == 20


def test_without_sacrebleu_the_loss_counts(files, tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "sacrebleu.metrics", None)
    with pytest.warns(UserWarning, match=r"w2v_ext\[seq2seq\]"):
        trainer = make_trainer(settings(files, tmp_path, epochs=1)).fit()
    assert trainer.state.history[0]["bleu"] is None and trainer.state.best_epoch == 1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"lr": 0.5}, "resume: setting 'lr' has changed: .*last.safetensors was made with 0.001, now it is 0.5"),
        ({"hidden_size": 32}, "resume: setting 'hidden_size' has changed"),
        ({"src": "tgt", "tgt": "src"}, "resume: setting 'src' has changed"),
    ],
)
def test_resume_refuses_other_settings(files, tmp_path, change, message):
    make_trainer(settings(files, tmp_path, epochs=1)).fit()
    change = {key: files.get(value, value) for key, value in change.items()}
    with pytest.raises(ValueError, match=message):
        make_trainer(settings(files, tmp_path, **change)).load_state()
    make_trainer(settings(files, tmp_path, epochs=2)).load_state()  # more epochs are no other run


def test_resume_refuses_other_text_and_damage(files, tmp_path):
    with pytest.raises(FileNotFoundError, match="resume: no state to go on from"):
        make_trainer(settings(files, tmp_path)).load_state()
    trainer = make_trainer(settings(files, tmp_path, epochs=1)).fit()
    trainer.text = dataclasses.replace(
        trainer.text, train=dataclasses.replace(trainer.text.train, src=trainer.text.train.tgt)
    )
    with pytest.raises(ValueError, match="resume: the training text has changed"):
        trainer.load_state()
    path = tmp_path / LAST
    data = path.read_bytes()
    for damaged in (data[:-100], data[:50], b"", data.replace(b"exp_avg_sq", b"exp_avg_xx")):
        path.write_bytes(damaged)
        with pytest.raises(FormatError, match="last.safetensors"):
            make_trainer(settings(files, tmp_path)).load_state()


def test_damaged_models(files, tmp_path):
    make_trainer(settings(files, tmp_path, epochs=1, average=1)).fit()
    assert load_model(tmp_path)

    def refuse(name, data, message, error=FormatError):
        path = tmp_path / name
        before = path.read_bytes()
        if data is None:
            path.unlink()
        else:
            path.write_bytes(data)
        with pytest.raises(error, match=message):
            load_model(tmp_path)
        path.write_bytes(before)

    model = (tmp_path / MODEL).read_bytes()
    refuse(MODEL, model[:-9], "model.safetensors: damaged or truncated")
    refuse(MODEL, b"", "model.safetensors: damaged or truncated")
    refuse(MODEL, None, "model.safetensors: no such file", FileNotFoundError)
    refuse("config.json", None, "config.json: no such file; the directory of a translation model has one")
    refuse("config.json", b"{", "config.json")
    refuse("config.json", b'{"hidden": 3}', "unknown setting 'hidden'")
    refuse("tgt.tokenizer.json", b"x", "tgt.tokenizer.json")
    refuse("tgt.tokenizer.json", b"\xff", "tgt.tokenizer.json: not UTF-8")
    vocab = (tmp_path / "tgt.vocab.tsv").read_bytes()
    refuse("tgt.vocab.tsv", vocab + b"more\t1\n", r"output_bias has shape \(14,\), expected \(15,\)")
    refuse("tgt.vocab.tsv", vocab.replace(b"seven", b"SEVEN"), "the vocabularies or tokenizers beside it are not those")
    refuse("tgt.vocab.tsv", b"a\t1\n", "expected <PAD>, <SOS>, <EOS> and <UNK> as the first words")
    refuse("src.vocab.tsv", b"no tab\n", "src.vocab.tsv: line 1")
    config = (tmp_path / "config.json").read_bytes()
    shared = config.replace(b'"joint": false', b'"joint": true').replace(b'embeddings": false', b'embeddings": true')
    (tmp_path / "src.vocab.tsv").write_bytes(vocab + b"more\t1\n")
    refuse("config.json", shared, "the settings and vocabularies do not fit together: share_embeddings: expected")
    other = settings(files, tmp_path, num_layers=2)
    save_text(tmp_path, other, prepare_text(other).files)
    with pytest.raises(FormatError, match="model.safetensors: lacks the parameter "):
        load_model(tmp_path)
    other = settings(files, tmp_path, attention="none")
    save_text(tmp_path, other, prepare_text(other).files)
    with pytest.raises(FormatError, match="has the unknown parameter decoder.attention.key.weight"):
        load_model(tmp_path)
    with pytest.raises(FileNotFoundError, match="model: no such directory"):
        load_model(tmp_path / "none")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"src": None}, "src: expected a file beside tgt="),
        ({"valid_tgt": None}, "valid_tgt: expected a file beside valid_src="),
        ({"tsv": "x"}, "tsv: expected either --tsv or --src and --tgt"),
        ({"valid_tsv": "x"}, "valid_tsv: expected either it or valid_src and valid_tgt"),
        ({"tokenizer": "spacy"}, "tokenizer: expected one of whitespace, word, char, jieba, bpe, unigram, got 'spacy'"),
        ({"epochs": 0}, "epochs: expected an integer >= 1, got 0"),
        ({"epochs": 1.5}, "epochs: expected an integer, got 1.5"),
        ({"max_vocab": 1}, "max_vocab: expected an integer >= 2, got 1"),
        ({"lr": 0}, "lr: expected a number > 0, got 0.0"),
        ({"lr": True}, "lr: expected a number, got True"),
        ({"lr": float("nan")}, "lr: expected a number > 0, got nan"),
        ({"dropout": 1.0}, r"dropout: expected a number in \[0, 1\), got 1.0"),
        ({"teacher_forcing": 2}, "teacher_forcing: expected a number between 0 and 1, got 2.0"),
        ({"max_cpu_minutes": -1}, "max_cpu_minutes: expected a number >= 0, got -1.0"),
        ({"clip": -1}, "clip: expected a number >= 0, got -1.0"),
        ({"decay": 1}, "decay: expected a number between 0 and 1, got 1.0"),
        ({"columns": (1, 1)}, "columns: expected two different places >= 1"),
        ({"columns": "12"}, "columns: expected two integers, got '12'"),
        ({"tied": "yes"}, "tied: expected true or false, got 'yes'"),
        ({"out": ""}, "out: expected a path, got ''"),
        ({"hidden_size": 15}, "hidden_size: expected an even number with bidirectional, got 15"),
        ({"share_embeddings": True}, "share_embeddings: expected joint"),
        ({"joint": True, "tgt_tokenizer": "char"}, "tgt_tokenizer: expected whitespace, as the other side, with joint"),
        ({"deep_attention": True}, "deep_attention: expected an attention, num_layers >= 2 and no input_feeding"),
        ({"freeze_vectors": True}, "freeze_vectors: expected src_vectors or tgt_vectors, got neither"),
        (
            {"loss": "negative-sampling", "teacher_forcing": 0.5},
            "teacher_forcing: expected 1 with loss=negative-sampling",
        ),
    ],
)
def test_bad_settings(files, tmp_path, change, message):
    with pytest.raises(ValueError, match=message):
        settings(files, tmp_path, **change)


def test_float16_needs_cuda(files, tmp_path):
    with pytest.raises(ValueError, match="precision: expected float32, bfloat16 or auto on the CPU, got float16"):
        make_trainer(settings(files, tmp_path, precision="float16"))
    assert choose_precision("auto", torch.device("cpu")) in (torch.float32, torch.bfloat16)


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device and a CUDA build of PyTorch")
@pytest.mark.parametrize("precision", ["float32", "auto", "float16"])
def test_a_model_trained_on_cuda_translates_the_same_on_the_cpu(files, tmp_path, precision):
    train(settings(files, tmp_path, epochs=60, lr=1e-2, dropout=0.0, device="cuda", precision=precision))
    lines = Path(files["valid_src"]).read_text().splitlines()
    texts = [
        [found.text for found in Translator.load(tmp_path, SearchOptions(beam=3), device=device).translate(lines)]
        for device in ("cuda", "cpu")
    ]
    assert texts[0] == texts[1] and len(set(texts[0])) > 1


def test_bleu_tokenizers():
    assert bleu_tokenizer(["今天 okay。"]) == "13a" and bleu_tokenizer(["今天我们去 ok"]) == "zh"
    assert bleu_tokenizer([""]) == "13a"


def test_no_warning_in_a_run(files, tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        make_trainer(settings(files, tmp_path, epochs=1, precision="bfloat16")).fit().average()
