"""Models with n-grams after training: vectors of unseen words, model directories, fastText's .bin."""

import gzip
import json
import re

import numpy as np
import pytest

from w2v_ext import FastTextVectors, KeyedVectors, TrainConfig, Trainer, compress, convert, corpus_from_sequences, train
from w2v_ext.files import FormatError
from w2v_ext.formats import load_fasttext_bin, load_vectors, save_vectors

UNSEEN = ["unseen", "naïveté", "词", "q", "", "</s>", "kingdom", "ing"]


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    rng = np.random.default_rng(0)
    words = np.array(["king", "kings", "queen", "walking", "walked", "naïve", "词语", "x", "a-b", "bananana"])
    path = tmp_path_factory.mktemp("text") / "text.txt"
    path.write_text("\n".join(" ".join(rng.choice(words, 12)) for _ in range(400)) + "\n", encoding="utf-8")
    return path


@pytest.fixture(scope="module", params=["fasttext", "fasttext-cbow"])
def model(request, text, tmp_path_factory):
    """A model directory that the command line trained."""
    out = tmp_path_factory.mktemp(request.param) / "model"
    arguments = ["--corpus", text, "--out", out, "--model", request.param, "--dim", 12, "--buckets", 700]
    arguments += ["--epochs", 2, "--sample", 0, "--threads", 1, "--cache-dir", out.parent / "cache"]
    assert train.main(list(map(str, arguments))) == 0
    return out


def test_directory_gives_vectors_of_unseen_words(model):
    vectors = KeyedVectors.load(model)
    assert isinstance(vectors, FastTextVectors)
    assert json.loads((model / "config.json").read_text())["buckets"] == 700
    table = load_vectors(model)  # which knows nothing of n-grams
    assert table.vectors.tobytes() == vectors.vectors.tobytes()
    # A word's vector is the mean of its own row and its n-grams'.
    subwords = vectors.subwords
    for row, word in enumerate(vectors.index_to_key):
        ids, _ = subwords.settings.buckets_of([word])
        place = np.searchsorted(subwords.buckets, ids)
        assert (subwords.buckets[place] == ids).all()
        rows = [row, *subwords.rows[place]]
        np.testing.assert_allclose(vectors[word], subwords.weight[rows].mean(axis=0), atol=1e-6)
    assert "kingdom" in vectors and not vectors.has_index_for("kingdom")
    assert np.abs(vectors["kingdom"]).max() > 0
    assert "" not in vectors and (vectors.get_vector("") == 0).all()
    assert np.linalg.norm(vectors.get_vector("kingdom", norm=True)) == pytest.approx(1)
    with pytest.raises(KeyError):
        vectors.get_vector(1000)


def test_queries_take_unseen_words(model):
    vectors = FastTextVectors.load(model)
    near = vectors.most_similar("kingss", topn=3)
    assert len(near) == 3 and all(vectors.has_index_for(word) for word, _ in near)
    assert vectors.similarity("kingss", "kings") > vectors.similarity("kingss", "queen")
    assert vectors["kingss", "king"].shape == (2, 12)


def test_save_and_load_again(model, tmp_path):
    vectors = FastTextVectors.load(model)
    vectors.save(tmp_path / "again")
    again = KeyedVectors.load(tmp_path / "again")
    assert again.counts.tolist() == vectors.counts.tolist()
    assert again.out_weight.tobytes() == vectors.out_weight.tobytes()
    for word in [*vectors.index_to_key, *UNSEEN]:
        assert again.get_vector(word).tobytes() == vectors.get_vector(word).tobytes()
    vectors.add_vectors(["new"], np.zeros((1, 12)))
    with pytest.raises(ValueError, match="words: 11, but the model has rows of 10"):
        vectors.save(tmp_path / "other")


def test_fasttext_loads_the_bin(model, tmp_path):
    fasttext = pytest.importorskip("fasttext", reason="compares with fastText where it is installed")
    assert convert.main([str(model), str(tmp_path / "m.bin"), "--to", "fasttext-bin"]) == 0
    ours, theirs = FastTextVectors.load(model), fasttext.load_model(str(tmp_path / "m.bin"))
    assert theirs.get_words() == ours.index_to_key
    assert theirs.get_output_matrix().tobytes() == ours.out_weight.tobytes()
    for word in [*ours.index_to_key, *UNSEEN]:
        np.testing.assert_allclose(ours.get_vector(word), theirs.get_word_vector(word), rtol=1e-5, atol=1e-7)
    back = FastTextVectors.load(tmp_path / "m.bin")
    for word in [*ours.index_to_key, *UNSEEN]:
        assert back.get_vector(word).tobytes() == theirs.get_word_vector(word).tobytes()
    assert convert.main([str(tmp_path / "m.bin"), str(tmp_path / "n.bin"), "--to", "fasttext-bin"]) == 0
    assert (tmp_path / "n.bin").read_bytes() == (tmp_path / "m.bin").read_bytes()
    settings = load_fasttext_bin(tmp_path / "m.bin").settings
    assert settings["model"] == ("cbow" if model.parent.name.startswith("fasttext-cbow") else "skipgram")
    assert (settings["ws"], settings["epoch"], settings["neg"], settings["bucket"]) == (5, 2, 5, 700)


@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_conversions_keep_ngrams(model, tmp_path, capsys, suffix):
    ours = FastTextVectors.load(model)
    ours.save_fasttext_bin(tmp_path / "m.bin")
    source = tmp_path / f"m.bin{suffix}"
    if suffix:
        source.write_bytes(gzip.compress((tmp_path / "m.bin").read_bytes()))
    for src, dst, flags in [
        (source, "directory", ()),
        (source, "again.bin", ("--to", "fasttext-bin")),
        (model, "copy", ("--to", "model")),
        (tmp_path / "copy", "from-copy.bin", ("--to", "fasttext-bin")),
    ]:
        assert convert.main([str(src), str(tmp_path / dst), *flags]) == 0
        assert capsys.readouterr().err == ""
        back = FastTextVectors.load(tmp_path / dst)
        for word in [*ours.index_to_key, *UNSEEN]:
            np.testing.assert_allclose(back.get_vector(word), ours.get_vector(word), rtol=1e-5, atol=1e-7)
        assert back.out_weight.tobytes() == ours.out_weight.tobytes()
    assert (tmp_path / "again.bin").read_bytes() == (tmp_path / "m.bin").read_bytes()
    assert isinstance(KeyedVectors.load(tmp_path / "directory"), FastTextVectors)


def test_ngrams_that_are_left_out_are_told(model, tmp_path, capsys):
    FastTextVectors.load(model).save_fasttext_bin(tmp_path / "m.bin")
    for dst, flags, reason in [
        ("v.vec", (), "fasttext-vec has none|word2vec-text has none"),
        ("few", ("--limit", "3"), "what is asked for changes the words"),
        ("few.bin", ("--to", "fasttext-bin", "--max-norm", "1"), "what is asked for changes the words"),
    ]:
        for src in (model, tmp_path / "m.bin"):
            assert convert.main([str(src), str(tmp_path / dst), *flags, "--force"]) == 0
            assert re.fullmatch(f"note: the n-grams of {src} are left out: ({reason})\n", capsys.readouterr().err)
    assert compress.main([str(tmp_path / "m.bin"), str(tmp_path / "small")]) == 0
    said = f"note: the n-grams of {tmp_path / 'm.bin'} are left out: a compressed file has words only\n"
    assert capsys.readouterr().err == said
    assert compress.main([str(tmp_path / "v.vec"), str(tmp_path / "small"), "--force"]) == 0
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    "settings",
    [
        {"loss": "hs", "minCount": 3, "ws": 4, "t": 1e-3},
        {"loss": "softmax", "model": "cbow", "lrUpdateRate": 77, "wordNgrams": 2},
        {"maxn": 0, "minn": 0, "minCount": 2, "neg": 9},
    ],
)
def test_a_bin_stays_what_it_was(text, tmp_path, settings):
    fasttext = pytest.importorskip("fasttext", reason="compares with fastText where it is installed")
    # With fewer threads than 11 it leaves a part of the matrix as malloc gave it, which may be NaN.
    common = {"dim": 6, "epoch": 1, "bucket": 300, "minCount": 1, "thread": 11, "verbose": 0}
    theirs = fasttext.train_unsupervised(str(text), **{**common, **settings})
    path, again = tmp_path / "m.bin", tmp_path / "again.bin"
    theirs.save_model(str(path))
    (tmp_path / "m.gz").write_bytes(gzip.compress(path.read_bytes()))
    assert convert.main([str(tmp_path / "m.gz"), str(again), "--to", "fasttext-bin"]) == 0
    assert again.read_bytes() == path.read_bytes()
    loaded = fasttext.load_model(str(again))
    assert loaded.get_output_matrix().tobytes() == theirs.get_output_matrix().tobytes()
    assert loaded.get_output_matrix().any()
    if settings.get("maxn") != 0:  # from Python as well
        vectors = FastTextVectors.load(path)
        vectors.save_fasttext_bin(tmp_path / "saved.bin")
        assert (tmp_path / "saved.bin").read_bytes() == path.read_bytes()
        assert vectors.config["loss"] == settings["loss"]
        vectors.save(tmp_path / "directory")
        FastTextVectors.load(tmp_path / "directory").save_fasttext_bin(tmp_path / "back.bin")
        kept, told = (load_fasttext_bin(p).settings for p in (tmp_path / "back.bin", path))
        same = ("ws", "epoch", "min_count", "neg", "loss", "model", "bucket", "minn", "maxn", "t")
        assert {name: kept[name] for name in same} == {name: told[name] for name in same}


def test_gensim_loads_the_bin(model, tmp_path):
    gensim = pytest.importorskip("gensim.models.fasttext", reason="compares with gensim where it is installed")
    ours = FastTextVectors.load(model)
    ours.save_fasttext_bin(tmp_path / "m.bin")
    theirs = gensim.load_facebook_model(str(tmp_path / "m.bin")).wv
    assert theirs.index_to_key == ours.index_to_key
    for word in [*ours.index_to_key, "unseen", "naïveté", "kingdom", "ing"]:
        np.testing.assert_allclose(ours[word], theirs[word], rtol=1e-4, atol=1e-6)
    near = theirs.most_similar("kingss", topn=3)
    assert [word for word, _ in ours.most_similar("kingss", topn=3)] == [word for word, _ in near]


def test_any_vectors_become_a_bin_without_ngrams(tmp_path):
    fasttext = pytest.importorskip("fasttext", reason="compares with fastText where it is installed")
    vectors = np.random.default_rng(0).normal(size=(3, 5)).astype(np.float32)
    save_vectors(tmp_path / "v.bin", ["a", "bc", "é"], vectors, None, "fasttext-bin")
    theirs = fasttext.load_model(str(tmp_path / "v.bin"))
    assert [theirs.get_word_vector(word).tolist() for word in ("a", "bc", "é")] == vectors.tolist()
    assert (theirs.get_word_vector("unseen") == 0).all()
    assert load_vectors(tmp_path / "v.bin").vectors.tobytes() == vectors.tobytes()
    with pytest.raises(FormatError, match="v.bin: a model without n-grams"):
        FastTextVectors.load(tmp_path / "v.bin")
    with pytest.raises(ValueError, match="words: 'a b' is empty or contains white space"):
        save_vectors(tmp_path / "w.bin", ["a b"], vectors[:1], None, "fasttext-bin")
    assert not (tmp_path / "w.bin").exists()


def test_other_models_are_refused(tmp_path, text):
    fasttext = pytest.importorskip("fasttext", reason="compares with fastText where it is installed")
    (tmp_path / "labels").write_text("__label__a one two\n__label__b three four\n" * 20)
    # With fewer threads than 11 it leaves a part of the matrix as malloc gave it, which may be NaN.
    supervised = fasttext.train_supervised(str(tmp_path / "labels"), dim=4, epoch=1, verbose=0, thread=11)
    supervised.save_model(str(tmp_path / "s.bin"))
    with pytest.raises(FormatError, match=r"s.bin: a supervised model \(a classifier\), expected vectors of words"):
        FastTextVectors.load(tmp_path / "s.bin")
    KeyedVectors(["a", "b"], np.eye(2)).save(tmp_path / "plain")
    with pytest.raises(FormatError, match="has no tensor subword_weight: a model without n-grams"):
        FastTextVectors.load(tmp_path / "plain")
    assert type(KeyedVectors.load(tmp_path / "plain")) is KeyedVectors


def test_trainer_gives_them_too_and_resumes_to_the_bit(tmp_path, monkeypatch):
    from w2v_ext.trainer import Interrupted

    monkeypatch.setattr("w2v_ext.trainer._SLICE_SECONDS", 1e-3)
    rng = np.random.default_rng(0)
    corpus = corpus_from_sequences([rng.integers(100, 300, 30) for _ in range(5000)])
    config = TrainConfig(model="fasttext", dim=8, epochs=2, threads=1, min_n=1, max_n=3, buckets=500, sample=0)
    whole = Trainer(corpus, config).fit()
    stopped = Trainer(corpus, config)

    def stop(trainer):
        trainer._stop = trainer.words_done > 0.4 * trainer.total_words

    with pytest.raises(Interrupted):
        stopped.fit(on_progress=stop, checkpoint_dir=tmp_path)
    assert 0 < stopped.state.position
    resumed = Trainer(corpus, config)
    resumed.load_checkpoint(tmp_path)
    resumed.fit()
    for name, weight in whole.method.weights.items():
        assert weight.equal(resumed.method.weights[name])
    vectors = whole.keyed_vectors()
    assert isinstance(vectors, FastTextVectors) and np.abs(vectors["1000"]).max() > 0


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"min_n": 0}, "min_n: expected an integer from 1 to 64, got 0"),
        ({"min_n": 4, "max_n": 3}, "min_n: expected at most max_n = 3, got 4"),
        ({"buckets": 0}, "buckets: expected an integer from 1 to"),
    ],
)
def test_bad_settings(settings, message):
    with pytest.raises(ValueError, match=message):
        TrainConfig(model="fasttext", **settings)
