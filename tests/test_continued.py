"""Going on from an old model, intersecting with other vectors, and rows that are locked."""

import numpy as np
import pytest
import torch

from w2v_ext import KeyedVectors, TrainConfig, Trainer, continued, corpus_from_sequences, train
from w2v_ext.continued import LockedRows, Start, merge_corpus
from w2v_ext.formats.table import VectorTable
from w2v_ext.model_files import ModelFiles, load_model

SENTENCES = [["b", "new", "b", "rare", "c"], ["rare"], ["new", "b", "c", "new", "d"]] * 4 + [["once", "b", "c"]]


def old_model(words=("a", "b", "c"), counts=(100, 5, 0), dim=6, out=True):
    table = torch.arange(len(words) * dim, dtype=torch.float32).view(len(words), dim) / 100
    return ModelFiles(table, table + 0.5 if out else None, list(words), np.array(counts), {})


def config(**settings):
    return TrainConfig(
        **{"dim": 6, "epochs": 2, "threads": 1, "min_count": 1, "sample": 0, "device": "cpu", **settings}
    )


def words_of(corpus):
    return [[corpus.vocab.words[i] for i in sentence] for sentence in corpus.sentences()]


# ---- the corpus ----------------------------------------------------------------------------------------------------


def test_words_and_counts_are_merged():
    corpus = merge_corpus(corpus_from_sequences(SENTENCES), ["a", "b", "c"], np.array([100, 5, 0]), min_count=5)
    counts = dict(zip(corpus.vocab.words, corpus.vocab.counts.tolist(), strict=True))
    assert counts == {"a": 100, "b": 5 + 13, "new": 12, "c": 9, "rare": 8}  # d 4 times and once: too rare, but for old
    assert corpus.vocab.words == ["a", "b", "new", "c", "rare"]
    kept = [[w for w in sentence if w in counts] for sentence in SENTENCES]
    assert words_of(corpus) == [sentence for sentence in kept if sentence]
    assert corpus.num_tokens == sum(map(len, kept))
    corpus.verify()


def test_rare_old_words_stay_and_empty_sentences_go(monkeypatch):
    monkeypatch.setattr(continued, "_BLOCK", 7)  # blocks that end anywhere
    sequences = [["x", "y"], ["z"], ["a", "x"], ["z"], ["z", "a"], ["x"]]
    corpus = merge_corpus(corpus_from_sequences(sequences), ["a", "never"], np.array([1, 0]), min_count=3)
    assert words_of(corpus) == [["x"], ["z"], ["a", "x"], ["z"], ["z", "a"], ["x"]]
    corpus = merge_corpus(corpus_from_sequences(sequences), ["a", "never"], np.array([1, 0]), min_count=4)
    assert words_of(corpus) == [["a"], ["a"]]
    assert corpus.vocab.words == ["a", "never"]
    assert corpus.num_sentences == 2
    corpus = merge_corpus(corpus_from_sequences(sequences), ["a"], np.array([1]), max_vocab=2)
    assert set(corpus.vocab.words) == {"a", "x"}
    with pytest.raises(ValueError, match="corpus: none of its words is in the old model or frequent enough"):
        merge_corpus(corpus_from_sequences(sequences), ["b"], np.array([1]), min_count=4)


# ---- the start -----------------------------------------------------------------------------------------------------


def test_old_rows_and_foreign_rows_are_where_they_belong():
    old = old_model()
    corpus = merge_corpus(corpus_from_sequences(SENTENCES), old.words, old.counts, min_count=5)
    foreign = VectorTable(["zebra", "c", "new"], np.full((3, 6), 7, np.float32), None)
    trainer = Trainer(corpus, config(), start=Start(corpus.vocab, old=old, foreign=foreign))
    fresh = Trainer(corpus, config())
    row = corpus.vocab.word_to_id
    for word, i in (("a", 0), ("b", 1)):
        assert torch.equal(trainer.in_weight[row[word]], old.in_weight[i])
    for word in ("c", "new"):
        assert trainer.in_weight[row[word]].tolist() == [7] * 6
    for word, i in (("a", 0), ("b", 1), ("c", 2)):
        assert torch.equal(trainer.out_weight[row[word]], old.out_weight[i])
    assert torch.equal(trainer.in_weight[row["rare"]], fresh.in_weight[row["rare"]])
    assert not trainer.out_weight[row["new"]].any()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda v: Start(v, lock="all"), "lock: expected one of nothing, intersect, old, got 'all'"),
        (lambda v: Start(v, lock="old"), "lock: expected vectors to lock, got 'old' without them"),
    ],
)
def test_a_start_that_makes_no_sense(make, message):
    with pytest.raises(ValueError, match=message):
        make(corpus_from_sequences(SENTENCES).vocab)


def test_vectors_that_do_not_fit():
    old = old_model(dim=5)
    corpus = merge_corpus(corpus_from_sequences(SENTENCES), old.words, old.counts)
    with pytest.raises(ValueError, match="continue_from: expected vectors of dim = 6, got 5"):
        Trainer(corpus, config(), start=Start(corpus.vocab, old=old))
    with pytest.raises(
        ValueError, match="continue_from: expected a model with out_weight, got one that was saved with"
    ):
        Trainer(corpus, config(), start=Start(corpus.vocab, old=old_model(out=False)))
    foreign = VectorTable(["b"], np.zeros((1, 3), np.float32), None)
    with pytest.raises(ValueError, match="intersect: expected vectors of dim = 6, got 3"):
        Trainer(corpus, config(), start=Start(corpus.vocab, foreign=foreign))


def test_a_model_with_other_tables():
    corpus = corpus_from_sequences(SENTENCES)
    method = Trainer(corpus, config()).method
    method.weights["out_weight"] = method.weights["out_weight"][1:]  # inner nodes of a tree, say
    with pytest.raises(ValueError, match=r"model: expected word and output vectors .*got out_weight of shape \(5, 6\)"):
        Start(corpus.vocab)(method, corpus.ids)


# ---- locked rows ---------------------------------------------------------------------------------------------------


def test_locked_rows_stay_and_others_move(monkeypatch):
    monkeypatch.setattr(continued, "PIECE", 16)
    corpus = corpus_from_sequences(SENTENCES)
    foreign = VectorTable(["b", "new"], np.full((2, 6), 0.25, np.float32), None)
    start = Start(corpus.vocab, foreign=foreign, lock="intersect")
    trainer = Trainer(corpus, config(lr=0.5), start=start)
    before = trainer.in_weight.clone()
    trainer.fit()
    after = torch.from_numpy(trainer.keyed_vectors().vectors)
    locked = torch.tensor([word in ("b", "new") for word in corpus.vocab.words])
    assert torch.equal(after[locked], before[locked])
    assert (after[~locked] != before[~locked]).any(1).sum() == len(after) - 2
    assert torch.equal(trainer.method.saved_tensors()["in_weight"], after)
    assert trainer.out_weight[locked].any()
    assert trainer.metrics()["locked_rows"] == 2


def test_where_an_epoch_is_cut_changes_nothing(monkeypatch):
    monkeypatch.setattr(continued, "PIECE", 16)
    corpus = corpus_from_sequences(SENTENCES)
    foreign = VectorTable(["b", "new"], np.full((2, 6), 0.25, np.float32), None)
    results = []
    for cut in (3, 16, 21, 1000):
        start = Start(corpus.vocab, foreign=foreign, lock="intersect")
        method = Trainer(corpus, config(lr=0.5), start=start).method
        assert isinstance(method, LockedRows)
        sums = [method.train(0, i, min(i + cut, method.length)) for i in range(0, method.length, cut)]
        results.append((method.word_vectors(), method.weights["out_weight"].clone(), sum(s[1] for s in sums)))
    for vectors, out, pairs in results[1:]:
        assert torch.equal(vectors, results[0][0])
        assert torch.equal(out, results[0][1])
        assert pairs == results[0][2]


def test_a_sentence_that_reaches_into_the_next_piece_is_restored(monkeypatch):
    monkeypatch.setattr(continued, "PIECE", 8)
    corpus = corpus_from_sequences([["a", "b"] * 5, ["c", "lock"] * 4, ["a", "c"]])
    foreign = VectorTable(["lock", "b"], np.full((2, 6), 0.25, np.float32), None)
    method = Trainer(corpus, config(lr=0.5), start=Start(corpus.vocab, foreign=foreign, lock="intersect")).method
    method.train(0, 0, method.length)
    rows = [corpus.vocab["lock"], corpus.vocab["b"]]
    assert (method.weights["in_weight"][rows] == 0.25).all()  # the weights themselves, at the end of the last piece


# ---- the command ---------------------------------------------------------------------------------------------------


def run(*arguments):
    return train.main([*map(str, arguments), "--device", "cpu", "--threads", "1"])


@pytest.fixture
def texts(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    for name, letters in (("old", "abcdefgh"), ("new", "efghijkl")):
        lines = [" ".join(rng.choice(list(letters), 10)) for _ in range(100)]
        (tmp_path / f"{name}.txt").write_text("\n".join(lines) + "\n")
    assert run("--corpus", "old.txt", "--out", "old", "--dim", 12, "--epochs", 1, "--lowercase") == 0
    return tmp_path


def test_continue_and_intersect_on_the_command_line(texts, capsys):
    capsys.readouterr()
    assert run("--continue-from", "old", "--corpus", "new.txt", "--out", "both") == 0
    assert "began with 8 words of old, 4 new" in capsys.readouterr().out
    both, old = load_model("both"), load_model("old")
    assert set(both.words) == set("abcdefghijkl")
    assert both.config["dim"] == 12
    assert both.config["lowercase"] is True  # the old model's settings hold
    counts = {name: dict(zip(m.words, m.counts.tolist(), strict=True)) for name, m in (("both", both), ("old", old))}
    assert counts["both"]["a"] == counts["old"]["a"]
    assert sum(counts["both"].values()) == 2000
    untouched, before = (m.in_weight[m.words.index("a")] for m in (both, old))
    assert torch.equal(untouched, before)  # a is not in the new text
    assert not torch.equal(*(m.in_weight[m.words.index("e")] for m in (both, old)))

    assert run("--continue-from", "both", "--intersect", "old", "--lock", "intersect", "--corpus", "new.txt",
               "--out", "both") == 0  # fmt: skip
    assert "began with 12 words of both, 0 new; 8 of 8 vectors of old; 8 rows locked" in capsys.readouterr().out
    again = load_model("both")
    for word in "abcdefgh":
        assert torch.equal(again.in_weight[again.words.index(word)], old.in_weight[old.words.index(word)])
    assert np.isfinite(KeyedVectors.load("both").vectors).all()


@pytest.mark.parametrize("named", ["by a flag", "in the file"])
def test_settings_of_the_old_model_lie_under_those_of_a_file_and_flags(texts, named):
    (texts / "c.yaml").write_text("window: 3\nlr: 0.01\n" + "continue-from: old\n" * (named == "in the file"))
    flags = ("--continue-from", "old") if named == "by a flag" else ()
    found, _ = train.parse_arguments(["--config", "c.yaml", "--corpus", "new.txt", "--lr", "0.02", *flags])
    assert found.continue_from == "old"
    assert (found.dim, found.lowercase) == (12, True)  # the old model's
    assert (found.window, found.lr) == (3, 0.02)  # the file's, and the flag's
    assert (found.epochs, found.out, found.corpus) == (1, "vectors", ("new.txt",))
    found, _ = train.parse_arguments(["--config", "old/config.json", "--window", "4"])  # a whole configuration, alone
    assert (found.dim, found.window, found.continue_from, found.out) == (12, 4, None, "old")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--continue-from", "nowhere"), "nowhere"),
        (("--continue-from", "old", "--dim", "10"), "continue_from: expected vectors of dim = 10, got 12"),
        (("--intersect", "nowhere.txt"), "nowhere.txt"),
        (("--lock", "old"), "lock: expected continue_from or intersect beside it, got 'old' alone"),
        (("--intersect", "old", "--lock", "old", "--dim", "12"), "lock: expected vectors to lock, got 'old' without"),
    ],
)
def test_bad_input_is_an_error(texts, capsys, arguments, message):
    assert run("--corpus", "new.txt", "--out", "x", *arguments) == 2
    assert message in capsys.readouterr().err
    assert not (texts / "x").exists()


@pytest.mark.parametrize("name", ["continue-from", "intersect"])
def test_new_text_is_not_made_up(texts, capsys, name):
    before = sorted(path.name for path in texts.iterdir())
    assert run(f"--{name}", "old", "--out", "old") == 2
    assert f"corpus: expected text beside {name.replace('-', '_')}, got none" in capsys.readouterr().err
    assert sorted(path.name for path in texts.iterdir()) == before
