"""Too little memory: it is said what to lower, before a table is made or with what was saved before still there."""

import pytest
import torch
from test_faults import settings, text

from w2v_ext import memory
from w2v_ext.checkpoints import CHECKPOINT, checkpoint_files
from w2v_ext.train import main

text = text  # a fixture


def test_more_memory_than_there_is(tmp_path, monkeypatch, capsys):
    (tmp_path / "t").write_text("".join(f"w{i} w{i + 1} " * 2 for i in range(300)))
    monkeypatch.setattr(memory, "available_memory", lambda: 100 << 20)
    flags = ["--corpus", tmp_path / "t", "--out", tmp_path / "m", "--min-count", "1", "--dim", "100000"]
    assert main(list(map(str, flags))) == 2
    assert (
        "error: dim: the tables of 301 words x 100000 take 0.2 GiB, more than there is (0.1 GiB); lower dim, or the "
        "vocabulary by max_vocab or min_count" in capsys.readouterr().err
    )
    assert not (tmp_path / "m").exists()


def test_available_memory(monkeypatch, tmp_path):
    monkeypatch.setattr(memory, "_MEMINFO", tmp_path / "meminfo")
    monkeypatch.setattr(memory, "_CGROUP", tmp_path / "memory.max")
    assert memory.available_memory() is None
    memory.check_memory(1 << 60, "nobody knows")
    (tmp_path / "meminfo").write_text("MemTotal:  9 kB\nMemAvailable:  4096 kB\n")
    assert memory.available_memory() == 4 << 20
    (tmp_path / "memory.max").write_text("max\n")
    assert memory.available_memory() == 4 << 20
    (tmp_path / "memory.max").write_text("1048576\n")
    assert memory.available_memory() == 1 << 20
    with pytest.raises(MemoryError, match=r"x takes 1.0 GiB, more than there is \(0.0 GiB\); lower y"):
        memory.check_memory(1 << 30, "x takes", "lower y")


def test_out_of_memory_on_the_device_names_what_to_lower(text, tmp_path, monkeypatch, capsys):
    from w2v_ext.methods import SkipGram

    train, calls = SkipGram.train, []

    def full(self, *where):
        calls.append(where)
        if len(calls) > 4:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has ...")
        return train(self, *where)

    monkeypatch.setattr(SkipGram, "train", full)
    assert main(list(map(str, settings(text, tmp_path / "m", **{"checkpoint-words": 1})))) == 2
    said = capsys.readouterr().err
    assert "error: device: out of memory on cpu in epoch " in said
    assert "(CUDA out of memory); lower dim, or the vocabulary by max_vocab or min_count" in said
    assert [p.name for p in checkpoint_files(tmp_path / "m")][0] == CHECKPOINT  # what was saved before stays
