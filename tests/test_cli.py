"""``python -m w2v_ext.train`` as a user meets it: files, output, bad input, Ctrl-C."""

import gzip
import hashlib
import http.server
import json
import lzma
import os
import re
import resource
import signal
import subprocess
import sys
import threading
import time
import zipfile

import numpy as np
import pytest
from safetensors.numpy import load_file

import w2v_ext
from w2v_ext import download
from w2v_ext.train import main
from w2v_ext.trainer import CHECKPOINT

SMALL = ["--dim", "16", "--epochs", "2", "--threads", "1"]


@pytest.fixture
def text(tmp_path):
    rng = np.random.default_rng(0)
    words = np.array([f"w{i}" for i in range(50)])
    lines = [" ".join(rng.choice(words, 12)) for _ in range(400)]
    path = tmp_path / "text.txt"
    path.write_text("\n".join(lines) + "\n")
    return path


def run(*arguments):
    """The exit status; flags that cannot be parsed leave through SystemExit."""
    try:
        return main([str(a) for a in arguments])
    except SystemExit as stop:
        return stop.code


def tensors(directory):
    return load_file(directory / "model.safetensors")


def assert_same_vectors(*directories):
    first, *others = map(tensors, directories)
    for other in others:
        for name in ("in_weight", "out_weight"):
            np.testing.assert_array_equal(first[name], other[name])


def files(directory):
    return sorted(p.name for p in directory.iterdir()) if directory.exists() else []


def test_model_directory(text, tmp_path, capsys):
    out = tmp_path / "model"
    assert run("--corpus", text, "--out", out, *SMALL, "--probe", "w1,absent") == 0
    assert files(out) == ["config.json", "history.json", "metrics.json", "model.safetensors", "vocab.tsv"]
    weights = tensors(out)
    assert weights["in_weight"].shape == weights["out_weight"].shape == (50, 16)
    words = [line.split("\t") for line in (out / "vocab.tsv").read_text().splitlines()]
    counts = [int(count) for _, count in words]
    assert counts == sorted(counts, reverse=True)
    assert sum(counts) == 400 * 12
    metrics = json.loads((out / "metrics.json").read_text())
    for key in ("raw_words_per_second", "trained_words_per_second", "prepare_seconds", "train_seconds"):
        assert metrics[key] > 0
    assert len(metrics["loss"]) == 2
    config = json.loads((out / "config.json").read_text())
    assert config["dim"] == 16
    assert config["corpus"] == [str(text)]
    kv = w2v_ext.KeyedVectors.load(out)
    assert len(kv) == 50
    np.testing.assert_array_equal(kv[words[0][0]], weights["in_weight"][0])
    printed = capsys.readouterr().out
    assert "epoch 1/2" in printed
    assert re.search(r"w1: w\d+ 0?\.?\d", printed)
    assert "absent: (not in the vocabulary)" in printed


def test_same_command_gives_the_same_bytes(text, tmp_path):
    for out in ("a", "b"):
        run("--corpus", text, "--out", tmp_path / out, *SMALL)
    for name in ("model.safetensors", "vocab.tsv"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


def test_compressed_files_directories_and_several_files_give_the_same_vectors(text, tmp_path):
    data = text.read_bytes()
    (tmp_path / "text.gz").write_bytes(gzip.compress(data))
    (tmp_path / "text.xz").write_bytes(lzma.compress(data))
    (tmp_path / "folder").mkdir()
    half = data.index(b"\n", len(data) // 2) + 1
    (tmp_path / "folder/1.txt").write_bytes(data[:half])
    (tmp_path / "folder/2.txt").write_bytes(data[half:])
    for i, source in enumerate((["text.txt"], ["text.gz"], ["text.xz"], ["folder"], ["folder/1.txt", "folder/2.txt"])):
        assert run("--corpus", *(tmp_path / s for s in source), "--out", tmp_path / f"m{i}", *SMALL) == 0
        assert_same_vectors(tmp_path / "m0", tmp_path / f"m{i}")


def test_standard_input(text, tmp_path):
    command = [sys.executable, "-m", "w2v_ext.train", "--corpus", "-", "--out", tmp_path / "m", *SMALL]
    with text.open("rb") as file:
        subprocess.run(command, stdin=file, check=True, capture_output=True)
    run("--corpus", text, "--out", tmp_path / "n", *SMALL)
    assert_same_vectors(tmp_path / "m", tmp_path / "n")


def test_config_file_and_a_models_own_config(text, tmp_path):
    (tmp_path / "settings.yaml").write_text(f"corpus: [{text}]\ndim: 8\nepochs: 1\nthreads: 1\nout: {tmp_path}/m")
    assert run("--config", tmp_path / "settings.yaml") == 0
    assert run("--config", tmp_path / "m/config.json", "--out", tmp_path / "again") == 0
    assert tensors(tmp_path / "m")["in_weight"].shape == (50, 8)
    assert_same_vectors(tmp_path / "m", tmp_path / "again")


def test_built_in_corpus_shows_neighbours_and_analogies(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    start = time.monotonic()
    assert run() == 0
    assert time.monotonic() - start < 60
    printed = capsys.readouterr().out
    assert "generated" in printed
    assert re.search(r"violin: (trumpet|harp|cello|flute|banjo|oboe|piano|saxophone|trombone)", printed)
    assert "king - man + woman = queen" in printed
    assert "vectors/model.safetensors" in [f"vectors/{name}" for name in files(tmp_path / "vectors")]


def bad_sources(tmp_path):
    (tmp_path / "empty.txt").write_bytes(b"")
    (tmp_path / "blank.txt").write_bytes(b"  \n \n")
    (tmp_path / "latin.txt").write_bytes(b"abc def\n" * 3 + b"caf\xe9 au lait\n")
    (tmp_path / "rare.txt").write_text("a b c d e\n")
    (tmp_path / "one.txt").write_text("word " * 50)
    (tmp_path / "bare").mkdir()
    (tmp_path / "cut.gz").write_bytes(gzip.compress(b"some text " * 1000)[:-9])


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("missing.txt", "corpus: no such file or directory: .*missing.txt"),
        ("empty.txt", "empty.txt"),
        ("blank.txt", "blank.txt"),
        ("latin.txt", "latin.txt.*offset 27.*--errors replace"),
        ("rare.txt", "min_count.*5.*1"),
        ("one.txt", "two words"),
        ("bare", "bare"),
        ("cut.gz", "cut.gz"),
    ],
)
def test_bad_corpora(tmp_path, capsys, source, message):
    bad_sources(tmp_path)
    out = tmp_path / "model"
    assert run("--corpus", tmp_path / source, "--out", out, *SMALL) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert re.search(message, error, re.DOTALL), error
    assert "Traceback" not in error
    assert not out.exists()


def test_corpus_without_a_path(tmp_path, capsys):
    assert run("--corpus", "--out", tmp_path / "m") == 2
    assert "corpus: expected at least one path after --corpus, got none" in capsys.readouterr().err
    assert not (tmp_path / "m").exists()


def test_a_closed_pipe_ends_the_report_but_not_the_training(text, tmp_path):
    command = [sys.executable, "-m", "w2v_ext.train", "--corpus", text, "--out", tmp_path / "m", *SMALL]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    process.stdout.close()
    _, error = process.communicate(timeout=60)
    assert process.returncode == 0, error
    assert error == b""
    assert (tmp_path / "m/model.safetensors").exists()


def test_a_table_beyond_memory_names_the_setting(tmp_path):
    limit = "import resource as r, sys; r.setrlimit(r.RLIMIT_AS, (2**33, 2**33))"
    code = f"{limit}; from w2v_ext.train import main"
    words = tmp_path / "many.txt"
    words.write_text("".join(f"w{i} w{i + 1} " * 2 for i in range(3000)))
    flags = f"['--corpus', {str(words)!r}, '--out', {str(tmp_path / 'm')!r}, '--dim', '1000000', '--min-count', '1']"
    done = subprocess.run([sys.executable, "-c", f"{code}; sys.exit(main({flags}))"], capture_output=True, text=True)
    assert done.returncode == 2, done.stderr
    # Both tables, or where the machine has memory for them, which the process may not use, the first.
    words = r"(the tables of 3001 words x 1000000 take 22\.4|a table of 3001 words x 1000000 takes 11\.2) GiB"
    assert re.search(f"error: dim: {words}, more than there is", done.stderr)
    assert not (tmp_path / "m").exists()


def test_errors_replace_goes_on(tmp_path):
    (tmp_path / "latin.txt").write_bytes(b"one two three caf\xe9\n" * 20)
    assert run("--corpus", tmp_path / "latin.txt", "--out", tmp_path / "m", "--errors", "replace", *SMALL) == 0
    assert "caf\ufffd\t20\n" in (tmp_path / "m/vocab.tsv").read_text()


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--dim", "0"], "dim: expected an integer >= 1, got 0"),
        (["--window", "-1"], "window: expected an integer >= 1, got -1"),
        (["--negative", "0"], "negative: expected an integer >= 1, got 0"),
        (["--epochs", "0"], "epochs: expected an integer >= 1, got 0"),
        (["--lr", "0"], "lr: expected a number > 0, got 0"),
        (["--lr", "nan"], "lr: expected a number > 0, got nan"),
        (["--device", "cuda"], "device: training on cuda is not available"),
        (["--config", "absent.yaml"], "absent.yaml"),
    ],
)
def test_bad_settings(text, tmp_path, capsys, flags, message):
    assert run("--corpus", text, "--out", tmp_path / "m", *flags) == 2
    assert message in capsys.readouterr().err
    assert files(tmp_path / "m") == []


@pytest.mark.parametrize("flags", [["--dim", "ten"], ["--nonsense", "1"], ["--device", "tpu"]])
def test_flags_that_cannot_be_parsed(text, tmp_path, capsys, flags):
    assert run("--corpus", text, "--out", tmp_path / "m", *flags) == 2
    assert flags[0] in "".join(capsys.readouterr())
    assert not (tmp_path / "m").exists()


def test_output_that_cannot_be_a_directory(text, tmp_path, capsys):
    (tmp_path / "file").write_text("mine")
    assert run("--corpus", text, "--out", tmp_path / "file", *SMALL) == 2
    assert re.search("out: cannot write to .*file", capsys.readouterr().err)
    assert (tmp_path / "file").read_text() == "mine"


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_read_only_output_directory(text, tmp_path, capsys):
    (tmp_path / "m").mkdir(mode=0o500)
    assert run("--corpus", text, "--out", tmp_path / "m", *SMALL) == 2
    assert re.search("out: cannot write to .*m", capsys.readouterr().err)


def limited(command, size):
    """Run a command that may write no file beyond `size` bytes, as on a full disk."""

    def limit():
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))

    return subprocess.run(
        [sys.executable, "-m", "w2v_ext.train", *command], preexec_fn=limit, capture_output=True, text=True
    )


def test_full_disk_leaves_the_old_model(text, tmp_path):
    out = tmp_path / "m"
    run("--corpus", text, "--out", out, *SMALL)
    before = {name: (out / name).read_bytes() for name in files(out)}
    done = limited(["--corpus", text, "--out", out, "--dim", "2000", "--epochs", "1", "--threads", "1"], 100_000)
    assert done.returncode == 2, done.stderr
    assert done.stderr.startswith("error: ")
    assert "model.safetensors" in done.stderr
    assert {name: (out / name).read_bytes() for name in files(out)} == before


def start(*arguments):
    command = [sys.executable, "-u", "-m", "w2v_ext.train", *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_ctrl_c_saves_a_checkpoint_and_resume_ends_bit_identical(tmp_path, capsys):
    rng = np.random.default_rng(0)
    words = np.array([f"w{i}" for i in range(1000)])
    text = tmp_path / "text.txt"
    text.write_text("\n".join(" ".join(rng.choice(words, 50)) for _ in range(6000)))
    settings = ["--corpus", text, "--threads", "1", "--epochs", "6", "--dim", "100"]
    process = start(*settings, "--out", tmp_path / "m")
    for line in process.stdout:
        if line.startswith("epoch 1/6"):
            break
    process.send_signal(signal.SIGINT)
    _, error = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "interrupted; checkpoint in" in error
    assert "--resume" in error
    assert files(tmp_path / "m") == [CHECKPOINT]

    assert run(*settings, "--out", tmp_path / "m", "--resume", "--lr", "0.05") == 2
    assert "resume: setting 'lr' has changed" in capsys.readouterr().err

    resumed = start(*settings, "--out", tmp_path / "m", "--resume")
    printed, error = resumed.communicate(timeout=120)
    assert resumed.returncode == 0, error
    assert re.search("resumed at epoch [2-6]", printed)
    assert CHECKPOINT not in files(tmp_path / "m")
    assert run(*settings, "--out", tmp_path / "n") == 0
    assert_same_vectors(tmp_path / "m", tmp_path / "n")


def test_resume_without_a_checkpoint(text, tmp_path, capsys):
    assert run("--corpus", text, "--out", tmp_path / "m", "--resume", *SMALL) == 2
    assert "resume: no checkpoint to go on from" in capsys.readouterr().err


def test_resume_from_a_corrupt_checkpoint(text, tmp_path, capsys):
    (tmp_path / "m").mkdir()
    (tmp_path / "m" / CHECKPOINT).write_bytes(b"not a checkpoint")
    assert run("--corpus", text, "--out", tmp_path / "m", "--resume", *SMALL) == 2
    assert re.search(f"resume: .*{CHECKPOINT} is not a complete checkpoint", capsys.readouterr().err)
    assert (tmp_path / "m" / CHECKPOINT).read_bytes() == b"not a checkpoint"


def test_text8_comes_from_the_cache_or_the_network(text, tmp_path, monkeypatch):
    # The real file is 31 MB away; a local server plays its part.
    with zipfile.ZipFile(tmp_path / "text8.zip", "w") as archive:
        archive.write(text, "text8")

    class Handler(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *args):
            super().__init__(*args, directory=str(tmp_path))

        def log_message(self, *args):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    url = f"http://127.0.0.1:{server.server_port}/text8.zip"
    defaults = download.text8_path.__kwdefaults__
    local = {"url": url, "size": text.stat().st_size, "md5": hashlib.md5(text.read_bytes()).hexdigest()}
    monkeypatch.setattr(download.text8_path, "__kwdefaults__", {**defaults, **local})
    monkeypatch.chdir(tmp_path)
    try:
        assert run("--corpus", "text8", "--out", tmp_path / "m", *SMALL) == 0
    finally:
        server.shutdown()
    assert run("--corpus", "text8", "--out", tmp_path / "n", *SMALL) == 0  # the server is gone
    run("--corpus", text, "--out", tmp_path / "o", *SMALL)
    assert_same_vectors(tmp_path / "m", tmp_path / "n", tmp_path / "o")


def test_help_names_every_setting(capsys):
    assert run("--help") == 0
    printed = capsys.readouterr().out
    for flag in (
        "--corpus --out --dim --window --negative --epochs --min-count --max-vocab --sample --lr --threads --seed "
        "--device --probe --resume --config --errors --tokenizer --lowercase"
    ).split():
        assert flag in printed
