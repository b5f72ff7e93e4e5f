"""``python -m w2v_ext.seq2seq`` as a user meets it."""

import io
import json
import os
import subprocess
import sys
import time

import numpy as np
import pytest

from w2v_ext.formats import save_vectors
from w2v_ext.seq2seq import SearchOptions, Translator, cli
from w2v_ext.seq2seq.example import PAIRS
from w2v_ext.seq2seq.translate import stream

pytestmark = pytest.mark.usefixtures("one_thread")

MODULE = [sys.executable, "-m", "w2v_ext.seq2seq"]
ONE_THREAD = {**os.environ, "OMP_NUM_THREADS": "1"}


def run(*arguments):
    try:
        return cli.main([str(a) for a in arguments])
    except SystemExit as stop:
        return stop.code


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """The built-in pairs, learnt by heart."""
    folder = tmp_path_factory.mktemp("example") / "model"
    done = subprocess.run(
        [*MODULE, "train", "--out", folder], env=ONE_THREAD, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    (folder.parent / "out.txt").write_text(done.stdout)
    return folder


@pytest.fixture
def files(tmp_path):
    (tmp_path / "s").write_text("".join(f"{a}\n" for a, _ in PAIRS))
    (tmp_path / "t").write_text("".join(f"{b}\n" for _, b in PAIRS))
    return tmp_path


def test_the_built_in_pairs_are_printed_back(model):
    out = (model.parent / "out.txt").read_text()
    assert "5 of 5 pairs by heart" in out
    assert all(f"  {source} -> {target}" in out for source, target in PAIRS)
    assert json.loads((model / "metrics.json").read_text())["history"][-1]["bleu"] > 99


def test_translate_streams_in_order(model):
    lines = [PAIRS[i][0] for i in (3, 0, 4)] + ["", PAIRS[1][0]]
    done = subprocess.run(
        [*MODULE, "translate", "--model", model, "--beam", "3", "--batch-lines", "2"],
        input="\ufeff" + "\r\n".join(lines), env=ONE_THREAD, capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert done.returncode == 0 and done.stderr == "", done
    assert done.stdout.split("\n") == [*(PAIRS[i][1] for i in (3, 0, 4)), "", PAIRS[1][1], ""]


def test_translate_answers_line_by_line(model):
    process = subprocess.Popen(
        [*MODULE, "translate", "--model", model], env=ONE_THREAD, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    try:
        for source, target in PAIRS[:2]:
            process.stdin.write(f"{source}\n".encode())
            process.stdin.flush()
            assert process.stdout.readline().decode().strip() == target
        process.stdin.close()
        assert process.wait(30) == 0
    finally:
        process.kill()


def test_translate_when_nobody_reads(model):
    process = subprocess.Popen(
        [*MODULE, "translate", "--model", model],
        env=ONE_THREAD,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    process.stdout.close()
    process.stdin.write(f"{PAIRS[0][0]}\n".encode())
    process.stdin.flush()  # and it stays open
    assert process.wait(60) == 0
    assert process.stderr.read() == b""
    process.stdin.close()


def test_translate_with_standard_input_closed(model):
    command = f"{' '.join(map(str, MODULE))} translate --model {model} <&-"
    done = subprocess.run(["sh", "-c", command], env=ONE_THREAD, capture_output=True, text=True, timeout=60)
    assert (
        done.returncode == 2 and "error: standard input: expected lines to translate, but it is closed" in done.stderr
    )


def test_nbest_and_scores(model, monkeypatch, capsys):
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(f"{PAIRS[0][0]}\n\n".encode())))
    assert run("translate", "--model", model, "--nbest", 3) == 0
    rows = [line.split("\t") for line in capsys.readouterr().out.splitlines()]
    assert [row[0] for row in rows] == ["1"] * 3 + ["2"] * 3 and rows[0][2] == PAIRS[0][1]
    assert float(rows[0][1]) > float(rows[1][1]) > float(rows[2][1]) and rows[3][2] == ""
    monkeypatch.setattr(sys, "stdin", io.StringIO(f"{PAIRS[1][0]}\n"))
    assert run("translate", "--model", model, "--scores", "--beam", 1) == 0
    score, text = capsys.readouterr().out.strip().split("\t")
    assert -1 < float(score) < 0 and text == PAIRS[1][1]
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"a\n\xff\n")))
    assert run("translate", "--model", model) == 2
    assert "standard input: line 2: not UTF-8: byte 0xff" in capsys.readouterr().err


def test_evaluate(model, files, capsys):
    pytest.importorskip("sacrebleu", reason="sacrebleu is not installed (extra: seq2seq)")
    common = ("evaluate", "--model", model, "--src", files / "s", "--ref", files / "t")
    assert run(*common, "--out", files / "o") == 0
    bleu, lower, chrf = capsys.readouterr().out.splitlines()
    assert bleu.startswith("BLEU      100.00") and "nrefs:1|case:mixed|eff:no|tok:13a|smooth:exp|version:" in bleu
    assert lower.startswith("BLEU -lc  100.00") and "case:lc" in lower
    assert chrf.startswith("chrF      100.00") and "nrefs:1|case:mixed|eff:yes|nc:6|nw:0" in chrf
    assert (files / "o").read_text() == (files / "t").read_text()
    assert run(*common, "--json", "--tokenize", "char", "--beam", 1) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["beam"] == 1 and "tok:char" in report["scores"][0]["signature"]
    assert run(*common, "--tokenize", "klingon") == 2
    assert "tokenize: expected one of " in capsys.readouterr().err
    (files / "t").write_text("one\n")
    assert run(*common) == 2
    assert "src and ref: expected as many lines in both files, got 5 in " in capsys.readouterr().err
    assert run("evaluate", "--model", model) == 2
    assert "src: expected a file, got none" in capsys.readouterr().err


def test_attention(model, tmp_path, capsys):
    pytest.importorskip("matplotlib", reason="matplotlib is not installed (extra: viz)")
    common = ("attention", "--model", model, "--src", PAIRS[2][0])
    for name, magic in (("a.png", b"\x89PNG"), ("a.svg", b"<?xml"), ("a.pdf", b"%PDF")):
        assert run(*common, "--out", tmp_path / name) == 0
        assert (tmp_path / name).read_bytes().startswith(magic)
    out = capsys.readouterr().out.splitlines()
    assert out[0].split("\t")[0] == "Two" and out[7].split("\t")[0] == "."
    assert run(*common, "--tgt", "Two dogs", "--out", tmp_path / "b.png") == 0
    assert [line.split("\t")[0] for line in capsys.readouterr().out.splitlines()[:3]] == ["Two", "dogs", "<EOS>"]
    assert run(*common, "--out", tmp_path / "a.gif") == 2
    assert "out: expected a name that ends in .png, .svg or .pdf, got " in capsys.readouterr().err
    assert run("attention", "--model", model) == 2
    assert "src: expected a sentence, got none" in capsys.readouterr().err


def test_unknown_words_are_copied(model):
    translator = Translator.load(model, SearchOptions(beam=1))
    translator.model.decoder.output_bias.data[3] = 50.0  # nothing but <UNK>
    translator.model.decoder.output_bias.data[2] = 40.0
    translator.options = SearchOptions(beam=1, max_len=4)
    source, _, _ = translator.align(PAIRS[0][0], PAIRS[0][1])
    (found,) = translator.translate([PAIRS[0][0]])
    assert "<UNK>" not in found.text and set(found.text.split()) <= set(source)
    translator.copy_unknown = False
    assert translator.translate([PAIRS[0][0]])[0].text == "<UNK> " * 3 + "<UNK>"


def test_stream_hands_errors_on(model):
    translator = Translator.load(model)

    def lines():
        yield PAIRS[0][0]
        raise OSError("the line is dead")

    found = []
    with pytest.raises(OSError, match="the line is dead"):
        found.extend(stream(translator, lines(), 1))
    assert [f.text for f in found] == [PAIRS[0][1]]
    with pytest.raises(ValueError, match="batch_lines: expected an integer >= 1, got 0"):
        next(stream(translator, [], 0))
    assert list(stream(translator, [], 4)) == []

    def slow():
        for source, _ in PAIRS * 3:
            time.sleep(0.001)
            yield source

    assert [f.text for f in stream(translator, slow(), 4)] == [target for _, target in PAIRS] * 3


def test_split(files, capsys):
    (files / "p.tsv").write_text("".join(f"{i}\t{i * i}\n" for i in range(20)) + "\n")
    assert run("split", "--tsv", files / "p.tsv", "--out", files / "parts", "--valid", 3, "--test", 4) == 0
    out = capsys.readouterr().out
    assert out == f"13 train, 3 valid, 4 test pairs in {files / 'parts'}; left out: 1 lines without text on a side\n"
    assert len((files / "parts" / "train.src").read_text().splitlines()) == 13


def small(files, out, *more):
    return ("train", "--src", files / "s", "--tgt", files / "t", "--out", out, "--tokenizer", "char", "--embed-size", 8,
            "--hidden-size", 8, "--epochs", 2, "--device", "cpu", *more)  # fmt: skip


def test_train_resume_and_config(files, capsys):
    assert run(*small(files, files / "m", "--no-bidirectional", "--no-tied", "--attention", "none")) == 0
    assert "training: 5 pairs" in capsys.readouterr().out
    config = json.loads((files / "m" / "config.json").read_text())
    assert config["bidirectional"] is config["tied"] is False and config["attention"] == "none"
    assert run("train", "--config", files / "m" / "config.json", "--epochs", 4, "--resume") == 0
    assert "resumed in epoch 3" in (out := capsys.readouterr().out) and "epoch 4/4" in out
    assert run("train", "--config", files / "m" / "config.json", "--lr", 0.5, "--resume") == 2
    assert "resume: setting 'lr' has changed" in capsys.readouterr().err
    assert run("train", "--config", files / "m" / "config.json") == 0
    assert "is of an earlier run; starting anew (--resume goes on)" in capsys.readouterr().out
    assert run(*small(files, files / "n", "--resume")) == 2
    assert "resume: no state to go on from" in capsys.readouterr().err and not (files / "n").exists()


def test_tensorboard(files):
    pytest.importorskip("tensorboard", reason="tensorboard is not installed (extra: viz)")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    text = ("--valid-src", files / "s", "--valid-tgt", files / "t", "--batch-tokens", 20, "--epochs", 5)
    assert run(*small(files, files / "m", *text, "--tensorboard")) == 0
    events = EventAccumulator(str(files / "m" / "tensorboard"))
    events.Reload()
    assert {"train/loss", "train/lr", "valid/loss", "valid/BLEU"} <= set(events.Tags()["scalars"])
    assert events.Tags()["images"] == ["attention"]
    assert {f"sample/{i}/text_summary" for i in (1, 2, 3)} <= set(events.Tags()["tensors"])


def test_pretrained_vectors(files, capsys):
    words = sorted({c for a, _ in PAIRS for c in a})
    vectors = np.random.default_rng(0).normal(size=(len(words), 8)).astype(np.float32)
    save_vectors(files / "v.safetensors", words, vectors)
    from w2v_ext.seq2seq import load_model

    assert run(*small(files, files / "m", "--src-vectors", files / "v.safetensors", "--freeze-vectors")) == 0
    out = capsys.readouterr().out
    assert f"source vectors: {len(words)} of {len(words)} tokens found" in out
    trained, _, text = load_model(files / "m")
    rows = trained.encoder.embed.embedding.weight[[text.src_vocab[word] for word in words]].detach().numpy()
    np.testing.assert_allclose(rows, vectors / np.sqrt((vectors**2).sum(1).mean()), rtol=1e-5)
    assert run(*small(files, files / "m", "--src-vectors", files / "v.safetensors", "--embed-size", 10)) == 2
    assert "embed_size: expected 8, the size of the vectors in" in capsys.readouterr().err
    assert run(*small(files, files / "m", "--tgt-vectors", files / "none")) == 2
    assert "tgt_vectors: no such file or directory" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ("train", "--src", "s", "--tgt", "short", "--out", "m"),
            "expected as many lines in both files, got 5 in s and 1",
        ),
        (("train", "--src", "s", "--tgt", "empty", "--out", "m"), "empty: the file is empty"),
        (("train", "--src", "s", "--tgt", "none", "--out", "m"), "none: No such file or directory"),
        (("train", "--src", "s", "--tgt", "blank", "--out", "m"), "expected words in the target, got only empty lines"),
        (
            ("train", "--src", "blank", "--tgt", "t", "--out", "m", "--tokenizer", "bpe"),
            "training text: expected words in the source, got only empty lines",
        ),
        (("train", "--src", "s", "--tgt", "t", "--out", "m", "--max-len", 1), "got none: 5 too long (first: line 1)"),
        (("train", "--src", "s", "--out", "m"), "tgt: expected a file beside src=s, got none"),
        (("train", "--tsv", "s", "--out", "m"), "s: line 1: expected at least 2 columns, got 1"),
        (("train", "--src", "s", "--tgt", "t", "--out", "m", "--lr", "-1"), "lr: expected a number > 0, got -1.0"),
        (("train", "--config", "s", "--out", "m"), "config: expected s to hold a mapping of settings"),
        (("translate", "--model", "m"), "model: no such directory: m"),
        (("translate", "--model", ".", "--beam", "0"), "beam: expected an integer >= 1, got 0"),
        (("translate", "--model", "."), "config.json: no such file; the directory of a translation model has one"),
        (("split", "--tsv", "s", "--out", "m"), "s: line 1: expected at least 2 columns"),
        (("teach",), "command: expected one of train, translate, evaluate, attention, split, got 'teach'"),
    ],
)
def test_bad_input_leaves_nothing(files, monkeypatch, capsys, arguments, message):
    monkeypatch.chdir(files)
    (files / "short").write_text("one\n")
    (files / "empty").touch()
    (files / "blank").write_text("\n" * 5)
    before = sorted(p.name for p in files.iterdir())
    chars = ("--tokenizer", "char") if arguments[0] == "train" and "--tokenizer" not in arguments else ()
    assert run(*arguments, *chars) == 2
    assert message in capsys.readouterr().err
    assert sorted(p.name for p in files.iterdir()) == before


def test_unknown_tokenizer_and_missing_extra(files, monkeypatch, capsys):
    assert run("train", "--src", files / "s", "--tgt", files / "t", "--tokenizer", "spacy") == 2
    assert "spacy" in capsys.readouterr().err
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    assert run("train", "--src", files / "s", "--tgt", files / "t", "--out", files / "m") == 2
    assert "pip install 'w2v_ext[seq2seq]'" in capsys.readouterr().err
    monkeypatch.setitem(sys.modules, "jieba", None)
    assert run("train", "--src", files / "s", "--tgt", files / "t", "--out", files / "m", "--tokenizer", "jieba") == 2
    assert "pip install 'w2v_ext[chinese]'" in capsys.readouterr().err


def test_help(capsys):
    assert run("--help") == 0
    out = capsys.readouterr().out
    assert all(name in out for name in cli.COMMANDS)
    assert run() == 2
    for name in cli.COMMANDS:
        assert run(name, "--help") == 0
        assert f"python -m w2v_ext.seq2seq {name}" in capsys.readouterr().out.replace("\n", " ")


@pytest.mark.skipif(not hasattr(os, "kill"), reason="needs signals")
def test_interrupted_and_resumed(files):
    import signal

    arguments = [str(a) for a in small(files, files / "m", "--epochs", 100_000, "--average", 1)]
    process = subprocess.Popen(
        [*MODULE, *arguments], env=ONE_THREAD, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    for line in process.stdout:
        if line.startswith("epoch 2/"):
            break
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130 and "go on with the same command and --resume" in err
    assert (files / "m" / "last.safetensors").exists() and (files / "m" / "model.safetensors").exists()
