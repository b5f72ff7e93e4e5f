"""fastText's binary models: the words' vectors are fastText's own, bit by bit; a damaged file is refused."""

import gzip
import re
import struct

import numpy as np
import pytest

from w2v_ext import FastTextVectors, KeyedVectors, convert, formats
from w2v_ext.files import FormatError
from w2v_ext.formats import load_vectors, save_vectors, sniff
from w2v_ext.formats.fasttext_write import write_fasttext_model


def same_bits(a, b):
    return a.dtype == b.dtype == np.float32 and a.shape == b.shape and a.tobytes() == b.tobytes()


@pytest.fixture(scope="module")
def fasttext_models(tmp_path_factory):
    """Small models of fastText itself: file and model by name."""
    fasttext = pytest.importorskip("fasttext", reason="compares with fastText where it is installed")
    folder = tmp_path_factory.mktemp("fasttext")
    rng = np.random.default_rng(0)
    words = np.array([f"w{i}ord" for i in range(60)] + ["naïve", "词语", "x", "a-b"])
    lines = [" ".join(rng.choice(words, 8)) for _ in range(300)]
    (folder / "text").write_text("\n".join(lines) + "\n", encoding="utf-8")
    (folder / "labels").write_text("\n".join(f"__label__{i % 2} {line}" for i, line in enumerate(lines)) + "\n")
    # fastText gives a tenth of the matrix to each thread to initialise: fewer than 11 leave some as malloc gave it.
    common = {"dim": 10, "epoch": 1, "minCount": 1, "thread": 11, "verbose": 0, "lr": 0.01}
    models = {
        "subwords": fasttext.train_unsupervised(str(folder / "text"), minn=3, maxn=6, bucket=500, **common),
        "short": fasttext.train_unsupervised(str(folder / "text"), "cbow", minn=1, maxn=2, bucket=100, **common),
        "whole": fasttext.train_unsupervised(str(folder / "text"), minn=0, maxn=0, **common),
        "supervised": fasttext.train_supervised(str(folder / "labels"), wordNgrams=2, bucket=300, **common),
    }
    for name, model in models.items():
        model.save_model(str(folder / f"{name}.bin"))
    return {name: (folder / f"{name}.bin", model) for name, model in models.items()}


@pytest.mark.parametrize("name", ["subwords", "short", "whole", "supervised"])
def test_fasttext_bin(fasttext_models, name, tmp_path):
    path, theirs = fasttext_models[name]
    assert sniff(path).name == "fasttext-bin"
    model = formats.load_fasttext_bin(path)
    words, counts = theirs.get_words(include_freq=True)
    assert model.words == words and model.counts.tolist() == counts.tolist()
    vectors = np.stack([theirs.get_word_vector(word) for word in words])
    assert same_bits(model.word_vectors(), vectors)
    if name != "supervised":
        table = load_vectors(path)
        assert table.words == words and table.counts.tolist() == counts.tolist()
        assert same_bits(table.vectors, vectors)
        assert same_bits(load_vectors(path, limit=3).vectors, vectors[:3])
    assert model.settings["dim"] == 10 and model.settings["model"] == {"short": "cbow", "supervised": name}.get(
        name, "skipgram"
    )
    assert model.labels == (theirs.get_labels() if name == "supervised" else [])
    assert same_bits(model.in_weight, theirs.get_input_matrix())
    assert same_bits(model.out_weight, theirs.get_output_matrix())
    write_fasttext_model(tmp_path / "again.bin", model)
    assert (tmp_path / "again.bin").read_bytes() == path.read_bytes()
    for word in ["unseen", "naïveté", "词", "q", "", "</s>", "w1ord"]:
        assert same_bits(model.vector(word), theirs.get_word_vector(word)), word
        rows, ends = model.subword_rows([word, "x"])
        assert rows[: ends[0]].tolist() == theirs.get_subwords(word)[1].tolist(), word


def test_gensim_reads_the_same_fasttext_vectors(fasttext_models):
    gensim = pytest.importorskip("gensim.models.fasttext", reason="compares with gensim where it is installed")
    path, _ = fasttext_models["subwords"]
    theirs, table = gensim.load_facebook_vectors(path), load_vectors(path)
    for word, vector in zip(table.words, table.vectors, strict=True):
        if word != "</s>":  # which gensim gives subwords, and fastText does not
            np.testing.assert_allclose(vector, theirs[word], rtol=1e-4, atol=1e-7)


def test_fasttext_reads_what_we_write(tmp_path, fasttext_models):
    import fasttext

    path, _ = fasttext_models["subwords"]
    table = load_vectors(path)
    save_vectors(tmp_path / "v.vec", *table)
    text = path.with_name("text")
    model = fasttext.train_unsupervised(
        str(text), dim=10, epoch=0, minCount=1, maxn=0, thread=11, verbose=0, pretrainedVectors=str(tmp_path / "v.vec")
    )
    for word, vector in zip(table.words, table.vectors, strict=True):
        assert same_bits(model.get_word_vector(word), vector)


def small_model(
    dim=2, words=(b"a", b"b"), buckets=3, version=12, quantised=0, rows=None, maxn=3, kind=0, end=b"", model=2
):
    """The bytes of a fastText model, written by hand."""
    data = struct.pack("<2i", 793712314, version) + struct.pack(
        "<12id", dim, 5, 1, 1, 5, 1, 2, model, buckets, 2, maxn, 100, 0.1
    )
    data += struct.pack("<3i2q", len(words), len(words), 0, 9, -1)
    data += b"".join(word + b"\0" + struct.pack("<qb", 7, kind) for word in words)
    for n in (len(words) + buckets if rows is None else rows, len(words)):
        data += struct.pack("<b2q", quantised, n, dim) + np.arange(min(n * dim, 999), dtype="<f4").tobytes()
    return data + end


def test_fasttext_bin_by_hand(tmp_path):
    (tmp_path / "v").write_bytes(small_model())
    table = load_vectors(tmp_path / "v")
    assert table.words == ["a", "b"] and table.counts.tolist() == [7, 7]
    model = formats.load_fasttext_bin(tmp_path / "v")
    assert model.in_weight.tolist() == [[0, 1], [2, 3], [4, 5], [6, 7], [8, 9]]
    rows, _ = model.subword_rows(["a"])  # itself, "<a", "<a>", "a>"
    assert rows[0] == 0 and len(rows) == 4
    assert table.vectors[0].tolist() == pytest.approx(model.in_weight[rows].mean(0).tolist())


@pytest.mark.parametrize("packed", [False, True])
def test_classifiers_are_no_word_vectors(tmp_path, packed, capsys):
    path, data = tmp_path / "s.bin", small_model(model=3)
    path.write_bytes(gzip.compress(data) if packed else data)
    assert formats.load_fasttext_bin(path).settings["model"] == "supervised"
    message = r"s.bin: a supervised model \(a classifier\), expected vectors of words; python -m w2v_ext.classify and "
    for load in (load_vectors, KeyedVectors.load, FastTextVectors.load):
        with pytest.raises(FormatError, match=message):
            load(path)
    assert convert.main([str(path), str(tmp_path / "v.txt")]) == 2
    assert re.search(message, capsys.readouterr().err)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"abcd", "not a fastText .bin: it does not begin with fastText's magic number"),
        (small_model(version=13), "at byte 8: expected fastText's format version 11 or 12, got 13"),
        (small_model(dim=0), "at byte 64: the setting dim is 0, expected 1 to"),
        (small_model(buckets=0), r"the settings have subwords \(maxn > 0\), but no buckets"),
        (small_model(maxn=65), "the setting maxn is 65, expected 0 to 64"),
        (small_model(kind=1), "entry 1 of 2 of the dictionary: kind 1, count 7; words come first"),
        (small_model(quantised=1), r"the input matrix is quantised \(.ftz\), which is not supported"),
        (small_model(rows=4), r"the input matrix has 4 rows, expected 5 \(words and buckets\)"),
        (small_model(rows=10**12), r"truncated at byte .*, in the input matrix"),
        (small_model(end=b"x"), "more data follow the output matrix"),
        (small_model()[:-1], "truncated at byte .*, in the output matrix"),
        (small_model()[:100], "truncated at byte 100, in entry 1 of 2 of the dictionary"),
        (
            small_model(words=(b"x" * (1 << 21),)),
            "at byte 92: entry 1 of 1 of the dictionary of more than 65536 bytes",
        ),
    ],
)
def test_damaged_fasttext_bin(tmp_path, data, message):
    (tmp_path / "v").write_bytes(data)
    with pytest.raises(FormatError, match=rf"v: (at byte \d+: )?{message}"):
        formats.load_fasttext_bin(tmp_path / "v")


def test_fasttext_words_that_are_not_utf8(tmp_path):
    (tmp_path / "v").write_bytes(small_model(words=(b"a", b"\xff")))
    with pytest.raises(FormatError, match="v: entry 2 of the dictionary: the word b'.xff' is not UTF-8"):
        load_vectors(tmp_path / "v")
    with pytest.warns(UserWarning, match="v: 1 faults passed over, first entry 2 of the dictionary"):
        table = load_vectors(tmp_path / "v", bad_rows="skip")
    assert table.words == ["a"] and len(table.vectors) == len(table.counts) == 1
    assert load_vectors(tmp_path / "v", errors="replace").words == ["a", "\ufffd"]


def test_models_that_gensim_writes(tmp_path):
    """Where fastText itself is not installed, this is what holds subwords and hashing to an independent program."""
    gensim = pytest.importorskip("gensim.models.fasttext", reason="compares with gensim where it is installed")
    rng = np.random.default_rng(0)
    words = np.array([f"w{i}ord" for i in range(40)] + ["naïve", "词语", "x", "a-b"])
    text = [list(rng.choice(words, 8)) for _ in range(100)]
    theirs = gensim.FastText(
        text, vector_size=9, bucket=200, min_n=2, max_n=4, min_count=1, epochs=1, seed=1, workers=1
    )
    gensim.save_facebook_model(theirs, str(tmp_path / "v.bin"))
    table, model = load_vectors(tmp_path / "v.bin"), formats.load_fasttext_bin(tmp_path / "v.bin")
    assert set(table.words) == set(words) and sorted(table.words) == sorted(theirs.wv.index_to_key)
    for word in [*table.words, "unseen", "naïveté", "词", "w1ords"]:
        np.testing.assert_allclose(model.vector(word), theirs.wv[word], rtol=1e-4, atol=1e-7, err_msg=word)
    for word, vector in zip(table.words, table.vectors, strict=True):
        np.testing.assert_allclose(vector, theirs.wv[word], rtol=1e-4, atol=1e-7, err_msg=word)
    assert dict(zip(table.words, table.counts.tolist(), strict=True)) == {
        word: theirs.wv.get_vecattr(word, "count") for word in table.words
    }
