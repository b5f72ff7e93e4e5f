"""Going on from every model with every loss: what goes on, and what is refused."""

import numpy as np
import pytest
import torch

from w2v_ext import TrainConfig, Trainer, corpus_from_sequences, train
from w2v_ext.continued import Start
from w2v_ext.formats.table import VectorTable
from w2v_ext.model_files import ModelFiles

SENTENCES = [["b", "new", "b", "rare", "c"], ["rare"], ["new", "b", "c", "new", "d"]] * 4


def config(**settings):
    return TrainConfig(
        **{"dim": 6, "epochs": 2, "threads": 1, "min_count": 1, "sample": 0, "device": "cpu", **settings}
    )


def old_model(**settings):
    table = torch.zeros(3, 6)
    return ModelFiles(table, table, ["a", "b", "c"], np.array([100, 5, 1]), settings)


def run(*arguments):
    return train.main([*map(str, arguments), "--device", "cpu", "--threads", "1"])


@pytest.fixture
def text(tmp_path, monkeypatch):
    """Some sentences in ``text.txt`` of the working directory."""
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    weights = np.arange(1, 13) / np.arange(1, 13).sum()
    words = [first + second + "x" for first in "abcd" for second in "efg"]
    lines = [" ".join(rng.choice(words, 10, p=weights)) for _ in range(100)]
    (tmp_path / "text.txt").write_text("\n".join(lines) + "\n")
    return tmp_path


# ---- what is refused -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("saved", "now", "message"),
    [
        ({"loss": "hs"}, {}, "loss: expected hs, as the old model was trained with, got 'ns'"),
        ({"loss": "hs"}, {"loss": "softmax"}, "loss: expected hs, as the old model was trained with, got 'softmax'"),
        ({"loss": "ns"}, {"loss": "hs"}, "loss: expected ns or softmax, as the old model was trained with, got 'hs'"),
        ({"model": "fasttext"}, {}, "model: expected fasttext or fasttext-cbow, as .* with, got 'skipgram'"),
        ({"model": "skipgram"}, {"model": "fasttext-cbow"}, "model: expected skipgram or cbow, as .* 'fasttext-cbow'"),
        ({"model": "cbow"}, {"model": "glove"}, "model: expected skipgram or cbow, as .* with, got 'glove'"),
        (
            {},
            {"model": "glove"},
            "continue_from: expected a model of skipgram, cbow, fasttext or fasttext-cbow, got 'g",
        ),
        ({"model": "glove"}, {}, "fasttext-cbow, got 'glove', whose directory has neither biases nor squares"),
        ({"model": "fasttext", "min_n": 2}, {"model": "fasttext"}, "min_n: expected 2, as .* trained with, got 3"),
        ({"model": "fasttext", "max_n": 5}, {"model": "fasttext"}, "max_n: expected 5, as .* trained with, got 6"),
        ({"buckets": 9}, {"model": "fasttext"}, "buckets: expected 9, as .* trained with, got 2000000"),
    ],
)
def test_tables_that_mean_something_else_are_refused(saved, now, message):
    corpus = corpus_from_sequences(SENTENCES)
    with pytest.raises(ValueError, match=message):
        Trainer(corpus, config(**now), start=Start(corpus.vocab, old=old_model(**saved)))


@pytest.mark.parametrize("model", ["fasttext", "fasttext-cbow", "glove"])
@pytest.mark.parametrize("lock", ["nothing", "intersect"])
def test_vectors_of_words_need_rows_of_words(model, lock):
    corpus = corpus_from_sequences(SENTENCES)
    foreign = VectorTable(["b"], np.zeros((1, 6), np.float32), None)
    with pytest.raises(ValueError, match=f"intersect: expected model = skipgram or cbow, got '{model}'"):
        Trainer(corpus, config(model=model), start=Start(corpus.vocab, foreign=foreign, lock=lock))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--loss", "hs"), "loss: expected ns or softmax, as continue_from = old was trained with, got 'hs'"),
        (("--model", "fasttext"), "model: expected skipgram or cbow, as continue_from = old was trained with, got 'fa"),
        (("--continue-from", "nosuch"), "continue_from: expected a directory that w2v_ext.train made, got nosuch (no "),
        (
            ("--continue-from", "f.bin"),
            "continue_from: expected a directory that w2v_ext.train made, got f.bin (a file)",
        ),
        (
            ("--continue-from", "."),
            "continue_from: expected a directory that w2v_ext.train made, got . (a directory wi",
        ),
        (("--continue-from", "torn"), "continue_from: torn/model.safetensors: damaged or truncated"),
        (("--continue-from", "odd"), "continue_from: odd/config.json: dim: expected an integer >= 1, got 'ten'"),
    ],
)
def test_the_command_names_what_it_cannot_go_on_from(text, capsys, arguments, message):
    common = ("--corpus", "text.txt", "--dim", 6, "--epochs", 1)
    assert run(*common, "--out", "old") == 0
    (text / "f.bin").write_bytes(b"\xba\x16\x4f\x2f")
    for name in ("torn", "odd"):
        (text / name).mkdir()
        for file in ("model.safetensors", "vocab.tsv", "config.json"):
            (text / name / file).write_bytes((text / "old" / file).read_bytes())
    (text / "torn" / "model.safetensors").write_bytes((text / "old" / "model.safetensors").read_bytes()[:100])
    (text / "odd" / "config.json").write_text('{"dim": "ten"}')
    given = arguments if "--continue-from" in arguments else ("--continue-from", "old", *arguments)
    assert run(*common, "--out", "x", *given) == 2
    assert message in capsys.readouterr().err
    assert not (text / "x").exists()


@pytest.mark.parametrize("flag", ["--intersect", "--lock"])
def test_the_command_sets_and_locks_no_rows_that_words_share(text, capsys, flag):
    common = ("--corpus", "text.txt", "--dim", 6, "--epochs", 1, "--model", "fasttext", "--buckets", 100)
    assert run(*common, "--out", "old") == 0
    given = ("--intersect", "old") if flag == "--intersect" else ("--continue-from", "old", "--lock", "old")
    assert run(*common, "--out", "x", *given) == 2
    assert f"{flag[2:]}: expected model = skipgram or cbow, got 'fasttext'" in capsys.readouterr().err
