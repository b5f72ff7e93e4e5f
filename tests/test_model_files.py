"""The model directory: exact round trips, and every way a file can be wrong."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from w2v_ext.files import FormatError
from w2v_ext.model_files import load_model, save_model


def save(directory, seed=0, metrics=None, **config):
    weights = torch.randn(2, 3, 4, generator=torch.Generator().manual_seed(seed))
    save_model(directory, weights[0], weights[1], ["a", "new york", "词"], [9, 4, 0], {"dim": 4, **config}, metrics)
    return weights


def snapshot(directory):
    return {entry.name: entry.read_bytes() for entry in directory.iterdir()}


def test_model_round_trip(tmp_path):
    weights = save(tmp_path / "new" / "model", metrics={"loss": [4.1, 3.9]}, out=tmp_path, seed_used=np.int64(3))
    directory = tmp_path / "new" / "model"
    assert sorted(snapshot(directory)) == ["config.json", "metrics.json", "model.safetensors", "vocab.tsv"]
    assert (directory / "vocab.tsv").read_bytes() == "a\t9\nnew york\t4\n词\t0\n".encode()
    assert json.loads((directory / "metrics.json").read_text()) == {"loss": [4.1, 3.9]}
    model = load_model(directory)
    assert torch.equal(model.in_weight, weights[0]) and torch.equal(model.out_weight, weights[1])
    assert model.words == ["a", "new york", "词"]
    assert model.counts.dtype == np.int64 and model.counts.tolist() == [9, 4, 0]
    assert model.config == {"dim": 4, "out": str(tmp_path), "seed_used": 3}
    modes = {entry.stat().st_mode for entry in directory.iterdir()}
    assert len(modes) == 1, "all files are readable by the same people"


def test_model_variants(tmp_path):
    padded = torch.arange(24, dtype=torch.bfloat16).reshape(3, 8)
    save_model(tmp_path, padded[:, :5], None, ["a", "b", "c"], torch.tensor([1, 2, 3]), {})
    model = load_model(tmp_path)
    assert model.out_weight is None
    assert model.in_weight.dtype == torch.bfloat16 and torch.equal(model.in_weight, padded[:, :5])
    tied = np.ones((1, 2), dtype=np.float32)
    save_model(tmp_path, tied, tied, ["a"], [1], {})
    assert torch.equal(load_model(tmp_path).out_weight, torch.ones(1, 2))
    save_model(tmp_path, torch.empty(0, 2), None, [], [], {})
    assert load_model(tmp_path).words == []


def test_metrics_of_an_earlier_model_go(tmp_path):
    save(tmp_path, metrics={"loss": 1})
    save(tmp_path, seed=1)
    assert not (tmp_path / "metrics.json").exists()


def test_interrupted_save_leaves_the_earlier_model(tmp_path, monkeypatch):
    save(tmp_path, metrics={"loss": 1})
    before = snapshot(tmp_path)

    def interrupt(path):
        raise KeyboardInterrupt

    monkeypatch.setattr("w2v_ext.files._fsync", interrupt)
    with pytest.raises(KeyboardInterrupt):
        save(tmp_path, seed=1)
    assert snapshot(tmp_path) == before


def test_files_are_replaced_not_rewritten(tmp_path):
    """Whoever has the earlier model open goes on reading that one."""
    save(tmp_path)
    before = snapshot(tmp_path)
    opened = {name: (tmp_path / name).open("rb") for name in before}
    save(tmp_path, seed=1, more="settings")
    try:
        assert {name: file.read() for name, file in opened.items()} == before
    finally:
        for file in opened.values():
            file.close()
    assert snapshot(tmp_path) != before


def test_crash_between_the_renames_is_noticed(tmp_path):
    save(tmp_path)
    (tmp_path / "vocab.tsv").write_text("x\t9\ny\t4\nz\t0\n")
    with pytest.raises(FormatError, match="vocab.tsv: is not the vocabulary that model.safetensors was saved with"):
        load_model(tmp_path)


@pytest.mark.skipif(sys.platform == "win32", reason="needs a limit on file sizes")
@pytest.mark.parametrize(
    ("limit", "named"), [(1000, "model.safetensors"), (5000, "config.json"), (1000, "v.txt"), (1000, "v.gz")]
)
def test_full_disk(tmp_path, limit, named):
    """A limit on file sizes makes writes fail as a full disk does; it cannot be taken back, hence the subprocess."""
    save(tmp_path)
    before = snapshot(tmp_path)
    script = f"""
import resource, numpy as np
from w2v_ext import formats, model_files
resource.setrlimit(resource.RLIMIT_FSIZE, ({limit}, resource.RLIM_INFINITY))
words, vectors = [str(i) for i in range(50)], np.random.default_rng(0).normal(size=(50, 16))
try:
    if {named[0]!r} == "v":
        formats.save_word2vec_format({str(tmp_path / named)!r}, words, vectors)
    else:
        vectors = vectors[:, :20 if {limit} < 2000 else 4].astype("float32")
        model_files.save_model({str(tmp_path)!r}, vectors, None, words, range(50), {{"note": "x" * 9000}})
except OSError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60)
    assert f"cannot write {tmp_path / named}: " in done.stdout and "File too large" in done.stdout, done
    assert snapshot(tmp_path) == before


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write anywhere")
def test_read_only_directory(tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(PermissionError, match=f"cannot write {tmp_path / 'model.safetensors'}"):
        save(tmp_path)
    with pytest.raises(PermissionError, match=f"cannot make the directory {tmp_path / 'x'}"):
        save(tmp_path / "x")


def test_read_only_errors_name_the_path(tmp_path, monkeypatch):
    """The same as root, who is not stopped by permissions."""
    monkeypatch.setattr("w2v_ext.files.make_new", lambda path: os.open("/", os.O_WRONLY))
    with pytest.raises(IsADirectoryError, match=f"cannot write {tmp_path / 'model.safetensors'}: "):
        save(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_directory_is_a_file(tmp_path):
    (tmp_path / "f").touch()
    for path in (tmp_path / "f", tmp_path / "f" / "g"):
        with pytest.raises(OSError, match=f"cannot make the directory {path}: "):
            save(path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"in_weight": torch.ones(2, 4)}, r"in_weight: expected shape \(3, D\) to match words, got \(2, 4\)"),
        ({"in_weight": torch.ones(3)}, r"in_weight: expected shape \(3, D\) to match words, got \(3,\)"),
        ({"out_weight": torch.ones(3, 5)}, r"out_weight: expected shape \(3, 4\) to match words, got \(3, 5\)"),
        ({"words": ["a", "b", "c\td"]}, r"words: expected text without tab or line break, got 'c\\td'"),
        ({"words": ["a", "b", "a"]}, "words: expected each once, got 'a' twice"),
        ({"words": ["a", "", "c"]}, "words: expected text without tab or line break, got ''"),
        ({"words": ["a", "b", "\ud800"]}, r"words: .*ud800. cannot be written as UTF-8"),
        ({"counts": [1, 2]}, r"counts: expected shape \(3,\) to match words, got \(2,\)"),
        ({"counts": [1, 2, -3]}, "counts: expected numbers >= 0, got -3"),
        ({"counts": [1.0, 2.0, 3.0]}, "counts: expected integers, got float64"),
    ],
)
def test_save_model_refuses(tmp_path, change, message):
    good = {"in_weight": torch.ones(3, 4), "out_weight": None, "words": list("abc"), "counts": [1, 2, 3], "config": {}}
    with pytest.raises(ValueError, match=message):
        save_model(tmp_path / "m", **(good | change))
    assert not (tmp_path / "m").exists()
    with pytest.raises(TypeError, match="cannot be written as JSON"):
        save_model(tmp_path / "m", **(good | {"config": {"f": object()}}))
    assert not (tmp_path / "m").exists()


def damage(name, change):
    def apply(directory):
        path = directory / name
        path.write_bytes(change(path.read_bytes()))

    return apply


def tensors(metadata=None, **weights):
    return lambda directory: save_file(weights, directory / "model.safetensors", metadata=metadata)


@pytest.mark.parametrize(
    ("apply", "message"),
    [
        (lambda d: (d / "model.safetensors").unlink(), "model.safetensors: no such file"),
        (lambda d: (d / "vocab.tsv").unlink(), "vocab.tsv: cannot be read: No such file"),
        (lambda d: (d / "config.json").unlink(), "config.json: cannot be read: No such file"),
        (damage("model.safetensors", lambda b: b[:-1]), "model.safetensors: damaged or truncated"),
        (damage("model.safetensors", lambda b: b[:20]), "model.safetensors: damaged or truncated"),
        (damage("model.safetensors", lambda b: b""), "model.safetensors: damaged or truncated"),
        (damage("model.safetensors", lambda b: b"\xff" * 8 + b[8:]), "model.safetensors: damaged or truncated"),
        (tensors(other=torch.ones(3, 4)), "model.safetensors: has no tensor in_weight"),
        (tensors(in_weight=torch.ones(3)), r"in_weight is torch.float32 of shape \(3,\), expected float \(V, D\)"),
        (tensors(in_weight=torch.ones(3, 4).int()), "in_weight is torch.int32"),
        (tensors(in_weight=torch.ones(3, 4), out_weight=torch.ones(2, 4)), r"out_weight is .* of shape \(2, 4\)"),
        (tensors({"w2v_ext": '{"version": 2}'}, in_weight=torch.ones(3, 4)), "format version 2, this library reads 1"),
        (damage("vocab.tsv", lambda b: b + b"z\t1\n"), "vocab.tsv: 4 words, but model.safetensors has 3 rows"),
        (
            damage("vocab.tsv", lambda b: b[:-1]),
            "vocab.tsv: is not the vocabulary that model.safetensors was saved with",
        ),
        (damage("vocab.tsv", lambda b: b"\n" + b), "vocab.tsv: line 1: expected word, tab, count, got ''"),
        (damage("vocab.tsv", lambda b: b.replace(b"4", b"-4")), "vocab.tsv: line 2: expected word, tab, count"),
        (damage("vocab.tsv", lambda b: b.replace(b"4", b"4" * 30)), "vocab.tsv: line 2: expected word, tab, count"),
        (
            damage("vocab.tsv", lambda b: b.replace(b"new york", b"a")),
            "vocab.tsv: line 2: 'a' stands in line 1 already",
        ),
        (damage("vocab.tsv", lambda b: b"\xff" + b), "vocab.tsv: line 1: not UTF-8 at byte 0"),
        (damage("config.json", lambda b: b[:-3]), "config.json: not valid JSON"),
        (damage("config.json", lambda b: b"\xff"), "config.json: not valid JSON"),
        (damage("config.json", lambda b: b"[1]"), "config.json: expected a JSON object, got list"),
    ],
)
def test_damaged_model(tmp_path, apply, message):
    save(tmp_path)
    apply(tmp_path)
    with pytest.raises(FormatError, match=message) as error:
        load_model(tmp_path)
    assert str(error.value).startswith(str(tmp_path))
