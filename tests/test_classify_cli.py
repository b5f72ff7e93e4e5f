"""``python -m w2v_ext.classify`` as a user meets it."""

import gzip
import io
import json
import subprocess
import sys

import pytest
from test_classify import make_lines

from w2v_ext.classify import TextClassifier
from w2v_ext.classify.cli import main

FAST = ["--dim", "16", "--epochs", "10", "--lr", "0.5", "--threads", "1"]


def run(*arguments):
    try:
        return main([str(a) for a in arguments])
    except SystemExit as stop:
        return stop.code


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cli")
    (folder / "train.txt").write_text("\n".join(make_lines(seed=0)) + "\n")
    (folder / "test.txt").write_text("\n".join(make_lines(seed=1)) + "\n")
    assert run("train", "--input", folder / "train.txt", "--out", folder / "model", *FAST) == 0
    return folder


def test_train(folder, tmp_path, capsys):
    assert run("train", "--input", folder / "train.txt", folder / "test.txt", "--out", tmp_path / "m", *FAST) == 0
    printed = capsys.readouterr().out
    assert "input: 800 lines, " in printed and "3 labels" in printed
    assert "epoch 10/10  loss 0." in printed and f"saved to {tmp_path / 'm'}" in printed
    config = json.loads((tmp_path / "m" / "config.json").read_text())
    assert config["kind"] == "classifier" and config["epochs"] == 10 and config["word_ngrams"] == 2
    assert run("train", "--input", folder / "train.txt", "--out", tmp_path / "a", *FAST, "--loss", "hs") == 0
    assert TextClassifier.load(tmp_path / "a").config.loss == "hs"


def test_same_command_same_bytes(folder, tmp_path):
    assert run("train", "--input", folder / "train.txt", "--out", tmp_path / "m", *FAST) == 0
    for name in ("model.safetensors", "vocab.tsv", "labels.tsv", "config.json"):
        assert (tmp_path / "m" / name).read_bytes() == (folder / "model" / name).read_bytes()


def test_test(folder, capsys):
    assert run("test", "--model", folder / "model", "--input", folder / "test.txt") == 0
    printed = capsys.readouterr().out.splitlines()
    assert printed[0].split() == ["N", "400"] and printed[1].split()[0] == "P@1" and float(printed[1].split()[1]) > 0.9
    assert printed[4].split() == ["label", "precision", "recall", "F1", "lines"] and len(printed) == 8
    assert run("test", "--model", folder / "model", "--input", folder / "test.txt", "-k", "2", "--json") == 0
    report = json.loads(capsys.readouterr().out)
    assert report["n"] == 400 and report["k"] == 2 and report["recall"] > 0.95 and len(report["labels"]) == 3


def test_predict(folder, capsys, monkeypatch):
    def predict(data, *arguments):
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(data)))
        code = run("predict", "--model", folder / "model", *arguments)
        return code, *capsys.readouterr()

    code, out, _ = predict(b"good1 good2\n\nbad1 bad2\nlast good3 good4", "-k", "2")
    lines = [line.split() for line in out.splitlines()]
    assert code == 0 and [len(line) for line in lines] == [4, 4, 4, 4]
    assert [line[0] for line in lines] == ["__label__good", lines[1][0], "__label__bad", "__label__good"]
    assert all(0 <= float(line[3]) <= float(line[1]) <= 1 for line in lines)
    assert predict(gzip.compress(b"good1 good2\n"), "-k", "2")[1].split() == lines[0]
    assert predict(b"good1 good2\n", "--threshold", "1.1") == (0, "\n", "")
    assert predict(b"") == (0, "", "")
    code, out, err = predict(b"good1\nbad \xff\n")
    assert code == 2 and err.startswith("error: standard input: not UTF-8: byte 0xff at offset 10")


def test_predict_answers_line_by_line(folder):
    command = [sys.executable, "-m", "w2v_ext.classify", "predict", "--model", folder / "model"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        for word in (b"good", b"bad", b"good"):
            process.stdin.write(word + b"1 " + word + b"2\n")
            process.stdin.flush()
            assert process.stdout.readline().startswith(b"__label__" + word)  # before the next line is there
        process.stdin.write(b"bad1 bad")
        process.stdin.close()
        assert process.stdout.read().startswith(b"__label__bad")
        assert process.wait() == 0


def test_predict_to_nobody(folder):
    command = (
        f"yes good1 | head -n 200000 | {sys.executable} -m w2v_ext.classify predict --model {folder}/model | head -n 1"
    )
    done = subprocess.run(["bash", "-c", f"set -o pipefail; {command}"], capture_output=True, text=True)
    assert done.stdout.startswith("__label__") and "Traceback" not in done.stderr and "error" not in done.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["train", "--out", "OUT"], "error: input: expected at least one file after --input, got none"),
        (["train", "--input", "absent", "--out", "OUT"], "absent: No such file or directory"),
        (["train", "--input", "EMPTY", "--out", "OUT"], "empty: the file is empty"),
        (["train", "--input", "TEXT", "--out", "OUT", "--dim", "0"], "dim: expected an integer"),
        (["train", "--input", "TEXT", "--out", "OUT", "--lr", "1e30", "--epochs", "50"], "error: lr: the loss became"),
        (["train", "--input", "TEXT", "--out", "OUT", "--pretrained", "no"], "error: pretrained: no such file"),
        (["train", "--input", "TEXT", "--out", "OUT", "--label", "@"], "none of the 400 lines has one"),
        (["test", "--model", "MODEL"], "error: input: expected at least one file"),
        (["test", "--model", "absent", "--input", "TEXT"], "error: model: no such file or directory: absent"),
        (["test", "--model", "MODEL", "--input", "TEXT", "-k", "0"], "error: k: expected an integer >= 1, got 0"),
        (["test", "--model", "TEXT", "--input", "TEXT"], "expected a classifier's directory, or a supervised .bin"),
        (["guess"], "error: command: expected one of train, test, predict, got 'guess'"),
    ],
)
def test_bad_input(folder, tmp_path, capsys, arguments, message):
    (tmp_path / "empty").write_text("")
    places = {
        "OUT": tmp_path / "out",
        "TEXT": folder / "train.txt",
        "MODEL": folder / "model",
        "EMPTY": tmp_path / "empty",
    }
    assert run(*(places.get(a, a) for a in arguments)) == 2
    captured = capsys.readouterr()
    assert message in captured.err and "Traceback" not in captured.err
    assert not (tmp_path / "out").exists()


def test_notes_are_one_line(folder, tmp_path, capsys):
    (tmp_path / "lines").write_text("\n".join([*make_lines(20), "no label", "__label__rare x"]) + "\n")
    assert run("train", "--input", tmp_path / "lines", "--out", tmp_path / "m", *FAST) == 0
    notes = [line for line in capsys.readouterr().err.splitlines() if line.startswith("note: ")]
    assert len(notes) == 2 and "1 of 22 lines have no label" in notes[0] and "__label__rare" in notes[1]


def test_help(capsys):
    assert run("--help") == 0 and "predict" in capsys.readouterr().out
    assert run() == 2
    assert run("train", "--help") == 0 and "--word-ngrams" in capsys.readouterr().out


def test_many_quick_epochs(tmp_path):
    """The part that is trained at once grows while it takes no time, and ends with the lines."""
    (tmp_path / "few.txt").write_text("__label__a one two\n__label__b three four\n")
    assert run("train", "--input", tmp_path / "few.txt", "--out", tmp_path / "m", "--dim", "2", "--epochs", "1500") == 0


def test_bytes_that_are_not_utf8(folder, capsys, monkeypatch):
    def feed(data):
        monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(data)))

    good, bad = make_lines(seed=2)[0].encode(), b"caf\xe9 word"
    feed(good)
    assert run("predict", "--model", folder / "model") == 0
    answer = capsys.readouterr().out
    feed(good + b"\n" + bad + b"\n" + good + b"\n")
    assert run("predict", "--model", folder / "model") == 2
    captured = capsys.readouterr()
    assert captured.out == answer  # what came before
    assert f"byte 0xe9 at offset {len(good) + 4}" in captured.err and "--errors replace" in captured.err
    feed(good + b"\n" + bad + b"\n" + good + b"\n")
    assert run("predict", "--model", folder / "model", "--errors", "replace") == 0
    lines = capsys.readouterr().out.splitlines(keepends=True)
    assert len(lines) == 3 and lines[0] == lines[2] == answer
    (folder / "latin").write_bytes(good + b"\n__label__x " + bad + b"\n")
    assert run("test", "--model", folder / "model", "--input", folder / "latin") == 2
    capsys.readouterr()
    assert run("test", "--model", folder / "model", "--input", folder / "latin", "--errors", "replace") == 0


def test_a_classifier_is_no_table_of_vectors(folder, capsys):
    from w2v_ext.convert import main as convert

    assert convert([str(folder / "model"), str(folder / "x.vec")]) == 2
    assert "of a text classifier, not of vectors; TextClassifier.load reads it" in capsys.readouterr().err


def test_labels_are_strings():
    with pytest.raises(TypeError, match="labels: expected a string, or several, for each text, got 0"):
        TextClassifier(dim=5).fit(["a b", "c d"], [0, 1])
