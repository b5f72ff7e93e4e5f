"""Checkpoints: several of them, written whole, found again when the newest is damaged; SIGTERM."""

import os
import signal
import subprocess
import sys

import pytest
import torch

import w2v_ext
from w2v_ext import checkpoints
from w2v_ext.checkpoints import CHECKPOINT, checkpoint_files, read_checkpoint, remove_checkpoints, save_checkpoint


def save(folder, value, keep):
    return save_checkpoint(folder, {"x": torch.full((3,), value)}, {"number": value}, keep)


def values(folder):
    return [read_checkpoint(path, ["x"])[1]["number"] for path in checkpoint_files(folder)]


@pytest.mark.parametrize("links", [True, False])
def test_the_last_ones_are_kept(tmp_path, monkeypatch, links):
    if not links:  # a file system without a second name for a file

        def refuse(*_):
            raise OSError("not supported")

        monkeypatch.setattr(checkpoints.os, "link", refuse)
    for value in range(1, 6):
        save(tmp_path, value, 3)
        assert values(tmp_path) == [v for v in (value, value - 1, value - 2) if v > 0]
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        "checkpoint-1.safetensors",
        "checkpoint-2.safetensors",
        CHECKPOINT,
    ]
    remove_checkpoints(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_write_that_fails_leaves_the_one_before(tmp_path, monkeypatch):
    save(tmp_path, 1, 2)

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoints, "write_tensors", full)
    with pytest.raises(OSError, match=r"cannot write .*checkpoint\.safetensors: No space left on device"):
        save(tmp_path, 2, 2)
    assert values(tmp_path) == [1]  # and none has been moved
    assert not [p for p in tmp_path.iterdir() if p.name.endswith(".tmp")]


def make_trainer(**changes):
    corpus = w2v_ext.corpus_from_sequences([[1, 2, 3, 4, 5]] * 4000)
    settings = {"dim": 8, "epochs": 8, "threads": 1, "sample": 0, "min_count": 1, "device": "cpu"}
    return w2v_ext.Trainer(corpus, w2v_ext.TrainConfig(**settings, **changes))


@pytest.mark.parametrize("name", [CHECKPOINT, "checkpoint-1.safetensors"])
def test_what_a_killed_write_left_is_removed(tmp_path, name):
    save(tmp_path, 1, 2)
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    left = tmp_path / f".{name}.{dead.pid}.tmp"
    left.touch()
    save(tmp_path, 2, 2)
    assert left.exists()  # it may be somebody's still
    os.utime(left, (0, 0))
    save(tmp_path, 3, 2)
    assert not left.exists()
    assert values(tmp_path) == [3, 2]


def test_words_between_checkpoints_and_the_one_before_a_damaged_one(tmp_path):
    seen = []
    trainer = make_trainer(checkpoint_words=40_000, checkpoint_minutes=0, checkpoint_keep=2)
    original = trainer.save_checkpoint
    trainer.save_checkpoint = lambda folder: (seen.append(trainer.words_done), original(folder))
    trainer.fit(checkpoint_dir=tmp_path)
    assert len(seen) >= 2
    assert all(later - earlier >= 40_000 for earlier, later in zip([0, *seen], seen, strict=False))

    (tmp_path / CHECKPOINT).write_bytes((tmp_path / CHECKPOINT).read_bytes()[:-100])
    again = make_trainer()
    with pytest.raises(ValueError, match="is not a complete checkpoint"):
        again.load_checkpoint(tmp_path)
    with pytest.warns(
        RuntimeWarning, match=rf"{CHECKPOINT} is not a complete checkpoint: .*; trying the one before it"
    ):
        assert again.resume_if_possible(tmp_path)
    assert again.words_done == seen[-2]
    again.fit()
    assert torch.equal(again.in_weight, trainer.in_weight)


def test_nothing_to_resume_from(tmp_path):
    trainer = make_trainer()
    assert not trainer.resume_if_possible(tmp_path)
    assert trainer.words_done == 0
    trainer.save_checkpoint(tmp_path)
    with pytest.raises(ValueError, match="setting 'lr' has changed"):
        make_trainer(lr=0.5).resume_if_possible(tmp_path)


def test_sigterm_saves_and_says_so(tmp_path):
    text = tmp_path / "text.txt"
    text.write_text("\n".join("the quick brown fox jumps over the lazy dog " * 3 for _ in range(3000)))
    command = [
        sys.executable,
        "-u",
        "-m",
        "w2v_ext.train",
        "--corpus",
        text,
        "--out",
        tmp_path / "m",
        "--epochs",
        "500",
    ]
    process = subprocess.Popen(map(str, command), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    for line in process.stdout:
        if line.startswith("epoch 1/500"):
            break
    process.send_signal(signal.SIGTERM)
    _, error = process.communicate(timeout=60)
    assert process.returncode == 143
    assert "interrupted; checkpoint in" in error
    assert [p.name for p in (tmp_path / "m").iterdir()] == [CHECKPOINT]
