"""Going on from every model with every loss: what goes on, and what is refused."""

import numpy as np
import pytest
import torch
from test_continued import run

from w2v_ext import FastTextVectors, KeyedVectors, TrainConfig, Trainer, corpus_from_sequences
from w2v_ext.continued import Start, merge_corpus
from w2v_ext.formats.table import VectorTable
from w2v_ext.methods import _on_cuda
from w2v_ext.model_files import ModelFiles, load_model
from w2v_ext.old_model import OF_NGRAMS, OF_WORDS

KINDS = [[first + second + "x" for second in "efgh"] for first in "abc"]  # of words, that stand together
SENTENCES = [["b", "new", "b", "rare", "c"], ["rare"], ["new", "b", "c", "new", "d"]] * 4


def config(**settings):
    usual = {"dim": 6, "epochs": 2, "threads": 1, "min_count": 1, "device": "cpu"}
    return TrainConfig(**usual | ({"sample": 0} if settings.get("model") != "glove" else {}) | settings)


def old_model(**settings):
    table = torch.zeros(3, 6)
    return ModelFiles(table, table, ["a", "b", "c"], np.array([100, 5, 1]), settings)


@pytest.fixture
def text(tmp_path, monkeypatch):
    """Some sentences in ``text.txt`` of the working directory."""
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    often = np.array([9, 3, 2, 1]) / 15
    lines = [" ".join(rng.choice(KINDS[i % 3], 10, p=often)) for i in range(150)]
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


# ---- every model goes on -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("model", "loss", "device"),
    [
        (model, loss, device)
        for model in ("skipgram", "cbow", "fasttext", "fasttext-cbow")
        for loss in (("ns", "hs", "softmax") if model in OF_WORDS else ("ns",))
        for device in ("cpu", "emulated")
        if (loss, device) != ("softmax", "emulated")
    ],
)
def test_the_loss_goes_on_where_it_was(text, model, loss, device, request):
    make = on(device, request)  # of the passes that measure
    settings = {
        "model": model,
        "loss": loss,
        "epochs": 20,
        "lr": 0.02,
        "cbow_mean": model == "cbow",
        **({"min_n": 2, "max_n": 3, "buckets": 20} if model in OF_NGRAMS else {}),
    }
    corpus = corpus_of(text)
    first = Trainer(corpus, config(**settings)).fit()
    old = model_of(first)
    again = merge_corpus(corpus, old.words, old.counts)
    assert again.vocab.words == corpus.vocab.words

    def loss_at(corpus, start, weights=None):
        trainer = make(corpus, config(**{**settings, "epochs": 1, "lr": 1e-9}), start=start)
        for name, weight in (weights or {}).items():
            trainer.method.weights[name].copy_(weight)
        loss, pairs, _ = trainer.method.train(0, 0, len(corpus.ids) if device == "cpu" else 1000)
        return loss / pairs

    want = loss_at(corpus, None, first.method.weights)
    got, fresh = loss_at(again, Start(again.vocab, old=old)), loss_at(again, None)
    assert want < 0.95 * fresh
    assert got == pytest.approx(want, rel=1e-5)


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize(("loss", "then"), [("ns", "softmax"), ("softmax", "ns"), ("hs", "hs")])
def test_old_words_begin_as_they_were(text, loss, then, workers):
    corpus = corpus_of(text)
    first = Trainer(corpus, config(loss=loss)).fit()
    old = model_of(first)
    more = merge_corpus(corpus_from_sequences([["aex", "nex", "nex", "zzz"]] * 9), old.words, old.counts)
    reproducible = workers if then != "softmax" else 0
    trainer = Trainer(more, config(loss=then, reproducible=reproducible), start=Start(more.vocab, old=old))
    vectors, before = trainer.keyed_vectors(), first.keyed_vectors()
    for word in corpus.vocab.words:
        assert (vectors[word] == before[word]).all()


def test_the_command_tells_how_many_nodes_are_kept(text, capsys):
    common = ("--dim", 6, "--epochs", 1, "--loss", "hs")
    assert run("--corpus", "text.txt", "--out", "old", *common) == 0
    capsys.readouterr()
    assert run("--corpus", "text.txt", "--continue-from", "old", "--out", "again") == 0
    assert "began with 12 words of old, 0 new; 11 of 11 nodes of its tree\n" in capsys.readouterr().out
    (text / "more.txt").write_text("aex aex nex nex " * 20)
    assert run("--corpus", "more.txt", "--continue-from", "old", "--out", "more") == 0
    out = capsys.readouterr().out
    kept = int(out.partition("began with 12 words of old, 1 new; ")[2].partition(" of 11 nodes of its tree")[0])
    assert 0 < kept < 11
    assert load_model("more").config["loss"] == "hs"


# ---- n-grams -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("device", ["cpu", "emulated"])
@pytest.mark.parametrize("model", ["fasttext", "fasttext-cbow"])
@pytest.mark.parametrize("old_words_stay", [True, False])
def test_rows_of_ngrams_are_carried_over_one_by_one(text, model, old_words_stay, device, request, monkeypatch):
    """What new words take apart or add to a group, row by row."""
    monkeypatch.setattr("w2v_ext.methods.subword._ROWS", 5)
    settings = {"model": model, "min_n": 2, "max_n": 3, "buckets": 1000}
    first = Trainer(corpus_of(text), config(**settings)).fit()
    old = model_of(first)
    more = corpus_from_sequences([["aex", "aeq", "aexafx", "zzz"]] * 9)
    if old_words_stay:
        more = merge_corpus(more, old.words, old.counts)
    make = on(device, request)
    trainer, fresh = (make(more, config(**settings), start=s) for s in (Start(more.vocab, old=old), None))
    groups, known = trainer.method.groups, trainer.method.groups.of(old.words, trainer.method.settings)
    values = first.method.subword_table().weight
    sums = [torch.cat(t.method.host_tables()) for t in (trainer, fresh)]
    rows = [(g, w, None) for g, w in enumerate(more.vocab.words)]
    rows += [(g, None, b) for b, g in zip(groups.buckets.tolist(), groups.bucket_groups.tolist(), strict=True)]
    unknown = np.zeros(len(sums[0]))
    want = np.zeros(sums[0].shape)
    for group, word, bucket in rows:
        if word is not None and word in old.words:
            want[group] += values[old.words.index(word)]
        elif bucket is not None and bucket in known.buckets:
            want[group] += values[known.bucket_groups[known.buckets.tolist().index(bucket)]]
        else:
            unknown[group] += 1
    of_both = (unknown > 0) & (unknown < groups.group_rows)
    assert of_both.any() != old_words_stay  # where they stay, new words take apart what was one group
    want += sums[1].numpy() * np.sqrt(unknown / groups.group_rows)[:, None]
    np.testing.assert_allclose(sums[0].numpy(), want, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("workers", [0, 2])
def test_words_with_known_ngrams_begin_as_they_were(text, workers):
    settings = {"model": "fasttext", "min_n": 2, "max_n": 3, "buckets": 1000, "reproducible": workers}
    corpus = corpus_of(text)
    first = Trainer(corpus, config(**settings)).fit()
    old, before = model_of(first), first.keyed_vectors()
    more = merge_corpus(corpus_from_sequences([["aex", "aexafx", "zzz"]] * 9), old.words, old.counts)
    trainer = Trainer(more, config(**settings), start=Start(more.vocab, old=old))
    vectors = trainer.keyed_vectors()
    assert "bexcfx" not in vectors.index_to_key  # which has no n-gram that came with new words
    for word in (*corpus.vocab.words, "bexcfx"):
        np.testing.assert_allclose(vectors[word], before[word], rtol=1e-5, atol=1e-7)
    out, old_out = trainer.out_weight, first.out_weight
    for word in corpus.vocab.words:
        assert torch.equal(out[more.vocab[word]], old_out[corpus.vocab[word]])
    assert not out[more.vocab["zzz"]].any()


def test_fasttext_goes_on_by_the_command(text, capsys):
    common = ("--model", "fasttext", "--dim", 6, "--epochs", 2, "--buckets", 500, "--min-n", 2, "--max-n", 3)
    assert run("--corpus", "text.txt", "--out", "old", *common) == 0
    (text / "more.txt").write_text("aex zzz zzz afx " * 20)
    assert run("--corpus", "more.txt", "--continue-from", "old", "--out", "more", "--lr", "1e-9") == 0
    assert "began with 12 words of old, 1 new\n" in capsys.readouterr().out
    old, more = KeyedVectors.load("old"), KeyedVectors.load("more")
    for word in (*old.index_to_key, "aexafx"):
        np.testing.assert_allclose(more[word], old[word], rtol=1e-5, atol=1e-7)
    assert run("--corpus", "more.txt", "--continue-from", "more", "--out", "x", "--model", "fasttext-cbow") == 0

    old.save_fasttext_bin("old.bin")
    FastTextVectors.load("old.bin").save("theirs")
    assert run("--corpus", "more.txt", "--continue-from", "theirs", "--out", "x", "--lr", "1e-9") == 0
    for word in old.index_to_key:
        np.testing.assert_allclose(KeyedVectors.load("x")[word], old[word], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"subword_groups": None}, "continue_from: expected a model with subword_weight, .* without subword_groups"),
        (
            {"subword_weight": torch.zeros(90, 5)},
            "the n-grams do not fit the model: subword_weight: expected .* dim = 6",
        ),
        ({"subword_groups": torch.full((90,), 99)}, "continue_from: the n-grams do not fit the model: rows: expected"),
    ],
)
def test_damaged_rows_of_ngrams_are_refused(text, change, message):
    corpus = corpus_of(text)
    old = model_of(Trainer(corpus, config(model="fasttext", buckets=500)))
    old.extra.update(change)
    for name in [name for name, tensor in old.extra.items() if tensor is None]:
        del old.extra[name]
    with pytest.raises(ValueError, match=message):
        Trainer(corpus, config(model="fasttext", buckets=500), start=Start(corpus.vocab, old=old))


def corpus_of(folder):
    return corpus_from_sequences([line.split() for line in (folder / "text.txt").read_text().splitlines()])


def model_of(trainer):
    """A trainer's model as its directory would have it."""
    tensors, vocab = trainer.method.saved_tensors(), trainer.corpus.vocab
    tensors = {name: tensor.clone() for name, tensor in tensors.items()}
    into, out = tensors.pop("in_weight"), tensors.pop("out_weight")
    return ModelFiles(into, out, vocab.words, vocab.counts, trainer.config.to_dict(), tensors)


def on(device, request):
    """Makes trainers on the CPU, or with the CUDA operators emulated there."""
    if device == "cpu":
        return Trainer
    pretended = request.getfixturevalue("pretended_cuda")

    def make(corpus, config, start=None):
        trainer = Trainer(corpus, config)
        trainer.method = _on_cuda(corpus, config, pretended)
        if start is not None:
            trainer.method = start(trainer.method, corpus.ids)
        return trainer

    return make
