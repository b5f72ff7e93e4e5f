"""What a run writes down: history.json, and TensorBoard's files, read back with TensorBoard's own reader."""

import json
import re
import sys

import numpy as np
import pytest

import w2v_ext
from w2v_ext import monitor
from w2v_ext.monitor import HistoryMonitor, TensorBoardMonitor, load_history
from w2v_ext.synthetic import builtin_corpus_path
from w2v_ext.train import main


@pytest.fixture
def text(tmp_path):
    rng = np.random.default_rng(0)
    words = np.array([f"w{i}" for i in range(48)] + ["你好", "a|b*"])
    lines = [" ".join(rng.choice(words, 12)) for _ in range(400)]
    path = tmp_path / "text.txt"
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


@pytest.fixture
def corpus(text):
    return w2v_ext.prepare_corpus(text)


def config(**changes):
    return w2v_ext.TrainConfig(**{"dim": 8, "epochs": 3, "threads": 1, **changes})


# ---- history -----------------------------------------------------------------------------------------------------


def test_history_of_a_run(text, tmp_path):
    out = tmp_path / "model"
    arguments = ["--corpus", text, "--out", out, "--dim", "8", "--epochs", "3", "--threads", "1"]
    assert main([*map(str, arguments), "--probe", "w1,你好,absent", "--probe-pairs", "w1:w2,w1:absent"]) == 0
    history = load_history(out)
    metrics = json.loads((out / "metrics.json").read_text())
    assert [e["loss"] for e in history["epochs"]] == metrics["loss"]
    assert [e["epoch"] for e in history["epochs"]] == [1, 2, 3]
    assert [e["words"] for e in history["epochs"]] == [4800, 9600, 14400]
    assert [s["words"] for s in history["steps"]] == [4800, 9600, 14400]
    last = history["epochs"][-1]
    kv = w2v_ext.KeyedVectors.load(out)
    assert set(last["neighbors"]) == {"w1", "你好"}
    assert [tuple(n) for n in last["neighbors"]["你好"]] == kv.most_similar("你好", topn=10)
    assert last["pairs"] == {"w1:w2": pytest.approx(kv.similarity("w1", "w2"), abs=1e-6)}
    assert history["steps"][-1]["lr"] < history["steps"][0]["lr"]
    assert all(s["words_per_second"] > 0 for s in history["steps"])
    assert [s["loss"] for s in history["steps"]] == pytest.approx(metrics["loss"])  # one slice an epoch here


def test_steps_are_the_loss_of_their_slice_and_no_crumbs():
    corpus = w2v_ext.prepare_corpus(builtin_corpus_path())
    trainer = w2v_ext.Trainer(corpus, config(epochs=1))
    record = HistoryMonitor(trainer)
    trainer.fit(on_progress=record.on_progress, on_epoch=record.on_epoch)
    steps = trainer.state.history["steps"]
    words = np.diff([0] + [s["words"] for s in steps])
    assert len(steps) >= 10
    assert words.min() >= words[0] / 2 - 2
    losses = np.array([s["loss"] for s in steps])
    assert np.average(losses, weights=words) == pytest.approx(trainer.state.losses[0], rel=0.01)
    assert losses[0] > 1.2 * losses.mean()
    assert losses[-1] < losses.mean()


def test_history_goes_on_after_a_checkpoint(corpus, tmp_path):
    whole = w2v_ext.Trainer(corpus, config())
    record = HistoryMonitor(whole, ["w1"])
    whole.fit(on_progress=record.on_progress, on_epoch=record.on_epoch)

    class Stop(Exception):
        pass

    def stop_after_two(trainer):
        record.on_epoch(trainer)
        if trainer.state.epoch == 2:
            trainer.save_checkpoint(tmp_path)
            raise Stop

    first = w2v_ext.Trainer(corpus, config())
    record = HistoryMonitor(first, ["w1"])
    with pytest.raises(Stop):
        first.fit(on_progress=record.on_progress, on_epoch=stop_after_two)
    second = w2v_ext.Trainer(corpus, config())
    second.load_checkpoint(tmp_path)
    record = HistoryMonitor(second, ["w1"])
    second.fit(on_progress=record.on_progress, on_epoch=record.on_epoch)
    for one, other in zip(second.state.history["epochs"], whole.state.history["epochs"], strict=True):
        assert {**one, "train_seconds": 0} == {**other, "train_seconds": 0}


def test_long_runs_keep_a_bounded_number_of_steps(corpus, monkeypatch):
    monkeypatch.setattr(monitor, "_MOST_STEPS", 8)
    trainer = w2v_ext.Trainer(corpus, config(epochs=50))
    record = HistoryMonitor(trainer)
    every = []

    def on_progress(t):
        every.append((t.words_done, t.slice_loss))
        record.on_progress(t)

    trainer.fit(on_progress=on_progress, on_epoch=record.on_epoch)
    steps = trainer.state.history["steps"]
    assert len(every) == 50
    assert 4 <= len(steps) < 8
    assert steps[-1]["words"] == trainer.total_words
    assert len(trainer.state.history["epochs"]) == 50
    # Each step is the mean of what it stands for, and together they are the mean of all.
    weights = np.diff([0] + [s["words"] for s in steps])
    mean = np.average([s["loss"] for s in steps], weights=weights)
    assert mean == pytest.approx(np.mean([loss for _, loss in every]), rel=1e-6)


def test_a_slice_without_pairs_has_no_loss(tmp_path):
    trainer = w2v_ext.Trainer(w2v_ext.corpus_from_sequences([["a", "b"]] * 5), config(sample=1e-12, epochs=1))
    record = HistoryMonitor(trainer)
    with pytest.raises(w2v_ext.trainer.TrainingError, match="nothing was learnt"):
        trainer.fit(on_progress=record.on_progress, on_epoch=record.on_epoch)
    assert trainer.state.history["steps"][0]["loss"] is None
    json.dumps(trainer.state.history, allow_nan=False)


def test_damaged_and_missing_histories(tmp_path):
    with pytest.raises(FileNotFoundError, match="written by python -m w2v_ext.train"):
        load_history(tmp_path)
    for content, message in (("{", "not valid JSON"), ("[]", "expected an object"), ('{"epochs": [1]}', "expected an")):
        (tmp_path / "history.json").write_text(content)
        with pytest.raises(w2v_ext.files.FormatError, match=f"history.json: {message}"):
            load_history(tmp_path)


def test_a_save_without_history_removes_that_of_another_model(tmp_path):
    from w2v_ext.model_files import save_model

    weight = np.ones((2, 3), np.float32)
    save_model(tmp_path, weight, None, ["a", "b"], [2, 1], {}, history={"epochs": [], "steps": []})
    assert load_history(tmp_path) == {"epochs": [], "steps": []}
    save_model(tmp_path, weight, None, ["a", "b"], [2, 1], {})
    assert not (tmp_path / "history.json").exists()


@pytest.mark.parametrize("value", ["king", "king:", "a:b:c", "a:b,c", 7])
def test_bad_probe_pairs(value):
    with pytest.raises(
        ValueError, match=re.escape(f"probe_pairs: expected pairs like king:queen,good:bad, got {value!r}")
    ):
        w2v_ext.TrainConfig(probe_pairs=value)
    assert w2v_ext.TrainConfig(probe_pairs=" a : b ,c:d,").probe_word_pairs == [("a", "b"), ("c", "d")]


# ---- TensorBoard -------------------------------------------------------------------------------------------------


@pytest.fixture
def read():
    """Everything in a TensorBoard directory, through TensorBoard's event reader."""
    name = "tensorboard.backend.event_processing.event_accumulator"
    reader = pytest.importorskip(name, reason="needs tensorboard (extra tensorboard)")

    def read(directory):
        events = reader.EventAccumulator(str(directory), size_guidance={"scalars": 0, "tensors": 0})
        return events.Reload()

    return read


def text_of(event):
    return event.tensor_proto.string_val[0].decode()


def test_tensorboard_of_a_run(text, tmp_path, read):
    out, board = tmp_path / "model", tmp_path / "deep" / "board"
    arguments = [
        "--corpus",
        text,
        "--out",
        out,
        "--tensorboard",
        board,
        "--dim",
        "8",
        "--epochs",
        "3",
        "--threads",
        "1",
    ]
    assert main([*map(str, arguments), "--probe", "w1,你好,absent", "--probe-pairs", "w1:w2,你好:w3,w1:absent"]) == 0
    events = read(board)
    metrics = json.loads((out / "metrics.json").read_text())
    tags = {
        "Loss/Batch",
        "Loss/Epoch",
        "LearningRate",
        "Speed/WordsPerSecond",
        "Similarity/w1:w2",
        "Similarity/你好:w3",
    }
    assert set(events.Tags()["scalars"]) == tags
    assert [(e.step, e.value) for e in events.Scalars("Loss/Epoch")] == [
        (i, pytest.approx(loss, rel=1e-6)) for i, loss in enumerate(metrics["loss"], 1)
    ]
    assert [e.step for e in events.Scalars("Loss/Batch")] == [4800, 9600, 14400]
    assert [e.value for e in events.Scalars("Loss/Batch")] == pytest.approx(metrics["loss"], rel=1e-6)
    assert [e.value for e in events.Scalars("LearningRate")] == pytest.approx([0.025 * f for f in (2 / 3, 1 / 3, 1e-4)])
    assert all(e.value > 0 for e in events.Scalars("Speed/WordsPerSecond"))
    kv = w2v_ext.KeyedVectors.load(out)
    assert events.Scalars("Similarity/w1:w2")[-1].value == pytest.approx(kv.similarity("w1", "w2"), abs=1e-6)
    assert set(events.Tags()["tensors"]) == {"Neighbors/w1/text_summary", "Neighbors/你好/text_summary"}
    shown = events.Tensors("Neighbors/你好/text_summary")
    assert [e.step for e in shown] == [1, 2, 3]
    rows = text_of(shown[-1]).splitlines()[2:]
    for row, (word, cosine) in zip(rows, kv.most_similar("你好", topn=10), strict=True):
        assert row == f"| {word.replace('|', chr(92) + '|').replace('*', chr(92) + '*')} | {cosine:.3f} |"


def test_projector_has_the_vectors_and_their_metadata(text, tmp_path):
    config_pb2 = pytest.importorskip("tensorboard.plugins.projector.projector_config_pb2", reason="needs tensorboard")
    text_format = pytest.importorskip("google.protobuf.text_format")
    out, board = tmp_path / "model", tmp_path / "board"
    arguments = [
        "--corpus",
        text,
        "--out",
        out,
        "--tensorboard",
        board,
        "--dim",
        "8",
        "--epochs",
        "1",
        "--threads",
        "1",
    ]
    for _ in range(2):  # a second run in the same place replaces the first one's
        assert main([*map(str, arguments)]) == 0
    parsed = text_format.Parse((board / "projector_config.pbtxt").read_text(), config_pb2.ProjectorConfig())
    assert len(parsed.embeddings) == 1
    embedding = parsed.embeddings[0]
    kv = w2v_ext.KeyedVectors.load(out)
    rows = np.loadtxt(board / embedding.tensor_path, delimiter="\t")
    np.testing.assert_allclose(rows, kv.vectors, rtol=1e-5)
    metadata = [line.split("\t") for line in (board / embedding.metadata_path).read_text("utf-8").splitlines()]
    assert metadata[0] == ["word", "count"]
    assert metadata[1:] == [[w, str(c)] for w, c in zip(kv.index_to_key, kv.counts, strict=True)]
    monitor.write_projector(tmp_path / "few", kv, 3)
    assert len((tmp_path / "few/projector/vectors.tsv").read_text().splitlines()) == 3


def test_a_new_run_in_the_same_place_hides_the_old_one(corpus, tmp_path, read):
    for epochs in (5, 2):
        trainer = w2v_ext.Trainer(corpus, config(epochs=epochs))
        board = TensorBoardMonitor(trainer, tmp_path, projector_words=0)
        trainer.fit(on_progress=board.on_progress, on_epoch=board.on_epoch)
        board.close(trainer)
    assert [e.step for e in read(tmp_path).Scalars("Loss/Batch")] == [4800, 9600]
    assert not (tmp_path / "projector_config.pbtxt").exists()


def test_a_resumed_run_goes_on_from_its_checkpoint(corpus, tmp_path, read):
    def fit(trainer, save_at):
        board = TensorBoardMonitor(trainer, tmp_path, projector_words=0)

        def on_epoch(t):
            board.on_epoch(t)
            if t.state.epoch == save_at:
                t.save_checkpoint(tmp_path)

        trainer.fit(on_progress=board.on_progress, on_epoch=on_epoch)
        board.close(trainer)

    fit(w2v_ext.Trainer(corpus, config(epochs=4)), save_at=2)
    again = w2v_ext.Trainer(corpus, config(epochs=4))
    again.load_checkpoint(tmp_path)
    fit(again, save_at=None)
    assert [e.step for e in read(tmp_path).Scalars("Loss/Batch")] == [4800, 9600, 14400, 19200]


def test_an_interrupted_run_leaves_readable_events_and_no_projector(corpus, tmp_path, read):
    trainer = w2v_ext.Trainer(corpus, config())
    board = TensorBoardMonitor(trainer, tmp_path)

    def stop(t):
        board.on_epoch(t)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        trainer.fit(on_progress=board.on_progress, on_epoch=stop)
    board.close(trainer)
    assert [e.step for e in read(tmp_path).Scalars("Loss/Epoch")] == [1]
    assert not (tmp_path / "projector").exists()


def test_a_full_disk_ends_the_records_and_not_the_training(corpus, tmp_path, monkeypatch):
    pytest.importorskip("tensorboard", reason="needs tensorboard (extra tensorboard)")
    trainer = w2v_ext.Trainer(corpus, config())
    lines = []
    board = TensorBoardMonitor(trainer, tmp_path, report=lines.append)

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(board._writer, "add_scalar", full)
    trainer.fit(on_progress=board.on_progress, on_epoch=board.on_epoch)
    board.close(trainer)
    assert trainer.state.epoch == 3
    assert len(lines) == 1
    assert "No space left on device" in lines[0]


def test_problems_are_told_before_the_training(text, tmp_path, monkeypatch, capsys):
    (tmp_path / "file").touch()
    arguments = ["--corpus", str(text), "--out", str(tmp_path / "m"), "--tensorboard", str(tmp_path / "file")]
    pytest.importorskip("tensorboard", reason="needs tensorboard (extra tensorboard)")
    assert main(arguments) == 2
    captured = capsys.readouterr()
    assert f"tensorboard: cannot write to {tmp_path / 'file'}" in captured.err
    assert "epoch" not in captured.out
    assert not (tmp_path / "m").exists()
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    assert main(arguments) == 2
    assert "pip install 'w2v_ext[tensorboard]'" in capsys.readouterr().err
