"""``python -m w2v_ext.convert`` and ``python -m w2v_ext.compress`` as a user meets them."""

import json
import subprocess
import sys

import numpy as np
import pytest

from w2v_ext import compress, convert
from w2v_ext.formats import FORMATS, load_vectors, save_vectors
from w2v_ext.model_files import save_model

WORDS = ["the", "naïve", "词", "x"]
VECTORS = np.random.default_rng(0).normal(size=(4, 8)).astype(np.float32)
LOSSLESS = [name for name, f in FORMATS.items() if f.write and "lossy" not in f.about]


def run(main, *arguments):
    try:
        return main([str(a) for a in arguments])
    except SystemExit as stop:
        return stop.code


@pytest.fixture
def model(tmp_path):
    save_model(tmp_path / "model", VECTORS, VECTORS, WORDS, [9, 4, 2, 1], {"dim": 8})
    return tmp_path / "model"


@pytest.mark.parametrize("first", LOSSLESS)
def test_every_path_is_exact(tmp_path, model, first):
    assert run(convert.main, model, tmp_path / "a", "--to", first) == 0
    for second in LOSSLESS:
        assert run(convert.main, tmp_path / "a", tmp_path / f"b-{second}", "--to", second) == 0
        table = load_vectors(tmp_path / f"b-{second}")
        assert table.words == WORDS and table.vectors.tobytes() == VECTORS.tobytes(), (first, second)


def test_report_and_suffix(tmp_path, model, capsys):
    assert run(convert.main, model, tmp_path / "v.txt.gz", "--limit", 2) == 0
    out, err = capsys.readouterr()
    assert out.startswith(f"2 words x 8: model {model} (") and f"-> word2vec-text {tmp_path / 'v.txt.gz'} (" in out
    assert err == ""
    assert run(convert.main, tmp_path / "v.txt.gz", tmp_path / "m") == 0
    assert load_vectors(tmp_path / "m", "model").words == WORDS[:2]


def test_from_is_obeyed(tmp_path, capsys):
    (tmp_path / "v").write_bytes(b"3 1\n4 1\n")  # a header, or the words 3 and 4
    assert run(convert.main, tmp_path / "v", tmp_path / "a.txt", "--from", "glove") == 0
    assert (tmp_path / "a.txt").read_bytes() == b"2 1\n3 1\n4 1\n"
    assert run(convert.main, tmp_path / "v", tmp_path / "b.txt") == 2
    assert "the header says 3 rows, the file ends after 1" in capsys.readouterr().err


def test_options(tmp_path, capsys):
    (tmp_path / "v").write_bytes("3 2\nnew york 3 4\nb x y\nnaïve 0.3 0.4\n".encode("latin-1"))
    flags = ["--bad-rows", "skip", "--encoding", "latin-1", "--replace-space", "_", "--max-norm", "1", "--threads", "1"]
    assert run(convert.main, tmp_path / "v", tmp_path / "a.txt", *flags) == 0
    words, vectors, _ = load_vectors(tmp_path / "a.txt")
    assert words == ["new_york", "naïve"]
    np.testing.assert_allclose(vectors, [[0.6, 0.8], [0.3, 0.4]], rtol=1e-6)
    assert "note: " in (err := capsys.readouterr().err) and "1 faults passed over, first line 3: not a number" in err


def test_overwriting(tmp_path, model, capsys):
    (tmp_path / "v.txt").write_text("precious")
    assert run(convert.main, model, tmp_path / "v.txt") == 2
    assert f"error: dst: {tmp_path / 'v.txt'} is there already; --force overwrites it" in capsys.readouterr().err
    assert (tmp_path / "v.txt").read_text() == "precious"
    assert run(convert.main, model, tmp_path / "v.txt", "--force") == 0
    assert load_vectors(tmp_path / "v.txt").words == WORDS
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "x").touch()
    for dst, flags, message in [
        (tmp_path / "full", (), "is there already"),
        (tmp_path / "full", ("--to", "glove", "--force"), "is a directory, and the format is a file"),
        (tmp_path / "v.txt", ("--to", "projector", "--force"), "is a file, and the format is a directory"),
        (model, ("--force",), "is what is read"),
    ]:
        assert run(convert.main, model, dst, *flags) == 2
        assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("none", "b.txt"), "src: no such file or directory: none"),
        (("v", "no/b.txt", "--replace-space", "_"), "cannot write no/b.txt: No such file or directory"),
        (("v", "b.xyz"), "b.xyz: the name does not tell the format"),
        (("v", "b.txt", "--to", "gensim"), "format: expected one of model, "),
        (("v", "b.txt", "--limit", "-1"), "limit: expected None or a number >= 0, got -1"),
        (("v", "b.txt", "--max-norm", "0"), "max_norm: expected a number > 0, got 0.0"),
        (("v", "b"), "words: expected text without tab or line break"),
        (("v", "b.vec"), "words: 'a\\tb' is empty or contains white space"),
    ],
)
def test_bad_input_leaves_nothing(tmp_path, monkeypatch, capsys, arguments, message):
    monkeypatch.chdir(tmp_path)
    save_vectors("v", ["a\tb"], [[1]], None, "safetensors")
    assert run(convert.main, *arguments) == 2
    assert message in capsys.readouterr().err
    assert [entry.name for entry in tmp_path.iterdir()] == ["v"]


def test_as_a_module(tmp_path, model):
    command = [sys.executable, "-m", "w2v_ext.convert", str(model), str(tmp_path / "v.bin")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0 and "word2vec-binary" in done.stdout and done.stderr == "", done
    helped = subprocess.run([*command[:3], "--help"], capture_output=True, text=True, timeout=60).stdout
    assert all(name in helped for name in FORMATS)


# ---- compress ----------------------------------------------------------------------------------------------------


@pytest.fixture
def many(tmp_path):
    rng = np.random.default_rng(1)
    vectors = (rng.normal(size=(600, 6)) @ rng.normal(size=(6, 12))).astype(np.float32)
    save_vectors(tmp_path / "many.safetensors", [f"w{i}" for i in range(600)], vectors, range(600, 0, -1))
    (tmp_path / "pairs").write_text(
        "# comment\nWord 1\tWord 2\tscore\n" + "".join(f"W{i}\tw{i + 1}\t{i}\n" for i in range(9))
    )
    return tmp_path


def test_compress_reports(many, capsys):
    arguments = (many / "many.safetensors", many / "c.safetensors", "--pairs", many / "pairs", "--queries", 100)
    assert run(compress.main, *arguments) == 0
    out = capsys.readouterr().out
    assert out.startswith("int8: 600 x 12, 28,800 -> 12,000 bytes (2.4 times smaller), saved to ")
    assert "recall@10 0.9" in out and "(100 queries)" in out and "(9 of 9 pairs)" in out
    assert run(compress.main, *arguments) == 2
    assert "is there already; --force" in capsys.readouterr().err
    assert run(compress.main, *arguments, "--force", "--method", "low-rank", "--rank", 6, "--json") == 0
    report = json.loads(capsys.readouterr().out)
    assert report["method"] == "low-rank" and report["recall"] > 0.99 and report["error"] < 1e-5
    assert report["spearman_before"] == pytest.approx(report["spearman_after"], abs=1e-3)
    assert len(load_vectors(many / "c.safetensors").words) == 600


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--parts", 3), "parts: only for pq, got 3 with 'int8'"),
        (("--rank", 3), "rank: only for low-rank, got 3 with 'int8'"),
        (("--method", "pq", "--parts", 13), "parts: expected 1 to 12, got 13"),
        (("--queries", 0), "queries: expected a number >= 1, got 0"),
        (("--pairs", "many.safetensors"), "many.safetensors: not utf8 at byte"),
    ],
)
def test_compress_bad_input(many, monkeypatch, capsys, flags, message):
    monkeypatch.chdir(many)
    assert run(compress.main, "many.safetensors", "c.safetensors", *flags) == 2
    assert message in capsys.readouterr().err
    assert not (many / "c.safetensors").exists()
