"""Vocabulary: ids, files, the noise distribution and subsampling, by hand-computed tables."""

from pathlib import Path

import numpy as np
import pytest

from w2v_ext.vocab import SPECIALS, Vocabulary


@pytest.fixture
def vocab():
    return Vocabulary(["the", "cat", "sat"], [6, 3, 1])


def test_look_up(vocab):
    assert len(vocab) == 3 and vocab["cat"] == 1 and vocab.total_count == 10
    assert "sat" in vocab and "dog" not in vocab and 3 not in vocab
    with pytest.raises(KeyError, match="'dog' is not in the vocabulary"):
        vocab["dog"]


def test_encode_drops_unknown_words_without_specials(vocab):
    ids = vocab.encode(["cat", "dog", "the"])
    assert ids.dtype == np.int32 and ids.tolist() == [1, 0]
    assert vocab.encode([]).dtype == np.int32
    assert vocab.decode(ids) == ["cat", "the"]
    for bad in (-1, 3):
        with pytest.raises(IndexError, match=f"ids: expected 0 <= id < 3, got {bad}"):
            vocab.decode([0, bad])


def test_encode_with_specials():
    vocab = Vocabulary.from_counts({"a": 2, "<UNK>": 9, "b": 2, "c": 1}, min_count=2, specials=True)
    assert vocab.words == [*SPECIALS, "a", "b"] and vocab.counts.tolist() == [0, 0, 0, 0, 2, 2]
    assert vocab.encode(["b", "c", "a", "<EOS>"]).tolist() == [5, 3, 4, 2]


def test_from_counts_sorts_by_count_then_bytes():
    counts = {"b": 2, "é": 2, "a": 2, "Z": 5, "z": 1, "\U00010000": 2, "\uffff": 2}
    vocab = Vocabulary.from_counts(counts)
    assert vocab.words == ["Z", "a", "b", "é", "\uffff", "\U00010000", "z"]
    assert Vocabulary.from_counts(counts, max_vocab=2).words == ["Z", "a"]
    assert Vocabulary.from_counts(counts, min_count=2).words[-1] == "\U00010000"


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"min_count": 4}, "min_count: no word is seen 4 times; the largest count is 3"),
        ({"min_count": 0}, "min_count: expected a whole number >= 1, got 0"),
        ({"min_count": 1.5}, "min_count: expected a whole number >= 1, got 1.5"),
        ({"max_vocab": 0}, "max_vocab: expected a whole number >= 1 or None, got 0"),
        ({"max_vocab": True}, "max_vocab: expected a whole number >= 1 or None, got True"),
    ],
)
def test_from_counts_refuses(kwargs, message):
    with pytest.raises(ValueError, match=message):
        Vocabulary.from_counts({"a": 3, "b": 1}, **kwargs)


def test_constructor_refuses():
    with pytest.raises(ValueError, match=r"counts: expected shape \(2,\) to match words, got \(1,\)"):
        Vocabulary(["a", "b"], [1])
    with pytest.raises(ValueError, match="counts: expected numbers >= 0, got -1"):
        Vocabulary(["a"], [-1])
    with pytest.raises(ValueError, match="num_specials: expected 0, or 4 with words that begin with"):
        Vocabulary(["a"], [1], num_specials=1)
    with pytest.raises(ValueError, match="words: expected each once, got 'a' twice"):
        Vocabulary(["a", "b", "a"], [1, 1, 1])["b"]


@pytest.mark.parametrize("specials", [False, True])
def test_save_and_load(tmp_path, specials):
    counts = {"é": 5, "new york": 4, " ": 3, "\u2028\x85": 2, "<unk>": 1, '"': 10**15}
    vocab = Vocabulary.from_counts(counts, specials=specials)
    vocab.save(tmp_path / "vocab.tsv")
    loaded = Vocabulary.load(tmp_path / "vocab.tsv")
    assert loaded.words == vocab.words and np.array_equal(loaded.counts, vocab.counts)
    assert loaded.num_specials == (4 if specials else 0)
    assert [p.name for p in tmp_path.iterdir()] == ["vocab.tsv"]
    assert (tmp_path / "vocab.tsv").read_text(encoding="utf-8").split("\n")[4 if specials else 0] == f'"\t{10**15}'


@pytest.mark.parametrize(
    ("word", "message"),
    [(word, "words: expected text without tab or line break, got") for word in ("a\tb", "a\nb", "a\rb", "")]
    + [("\ud800", "words: .* cannot be written as UTF-8")],
)
def test_save_refuses_what_it_could_not_load(tmp_path, word, message):
    with pytest.raises(ValueError, match=message):
        Vocabulary([word], [1]).save(tmp_path / "vocab.tsv")
    assert list(tmp_path.iterdir()) == []


def test_save_names_the_path_it_cannot_write(tmp_path, vocab, monkeypatch):
    with pytest.raises(FileNotFoundError, match=str(tmp_path / "no" / "vocab.tsv")):
        vocab.save(tmp_path / "no" / "vocab.tsv")
    (tmp_path / "v").write_text("old")

    def full(*args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(OSError, match=f"cannot write {tmp_path / 'v'}: No space left on device"):
        vocab.save(tmp_path / "v")
    assert [p.name for p in tmp_path.iterdir()] == ["v"] and (tmp_path / "v").read_text() == "old"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"a\t3\nb 2\n", "line 2: expected word, tab, count, got 'b 2'"),
        (b"a\t3\nb\tx\n", "line 2: expected word, tab, count, got 'b\\\\tx'"),
        (b"1\t2\t3\n4\n", "line 1: expected word, tab, count"),
        (b"a\t\n", "line 1: expected word, tab, count"),
        (b"a\t3\n\nb\t2\n", "line 2: expected word, tab, count, got ''"),
        (b"a\t-3\n", "line 1: expected word, tab, count"),
        ("a\t٣\n".encode(), "line 1: expected word, tab, count"),
        (b"a\t9999999999999999999\n", "line 1: expected word, tab, count"),
        (b"a\t3\na\t2\n", "line 2: 'a' stands in line 1 already"),
        (b"a\t3\nb\xff\t2\n", "line 2: not UTF-8 at byte 1 of the line"),
    ],
)
def test_load_names_file_and_line(tmp_path, text, message):
    (tmp_path / "vocab.tsv").write_bytes(text)
    with pytest.raises(ValueError, match=f"{tmp_path / 'vocab.tsv'}: {message}"):
        Vocabulary.load(tmp_path / "vocab.tsv")


def test_load_takes_dos_line_ends_and_a_missing_last_one(tmp_path):
    (tmp_path / "v").write_bytes(b"a\t3\r\nb\t2\r\n")
    assert Vocabulary.load(tmp_path / "v").words == ["a", "b"]
    (tmp_path / "v").write_bytes(b"a\t3\nb\t2")
    assert Vocabulary.load(tmp_path / "v").counts.tolist() == [3, 2]


def test_noise_distribution():
    vocab = Vocabulary([*SPECIALS, "a", "b", "c"], [0, 0, 0, 0, 16, 81, 1], num_specials=4)
    noise = vocab.noise_distribution()
    assert noise.dtype == np.float64
    np.testing.assert_allclose(noise, [0, 0, 0, 0, 8 / 36, 27 / 36, 1 / 36], rtol=1e-15)
    np.testing.assert_allclose(vocab.noise_distribution(1.0)[4:], [16 / 98, 81 / 98, 1 / 98], rtol=1e-15)
    np.testing.assert_allclose(vocab.noise_distribution(0.0), [0] * 4 + [1 / 3] * 3, rtol=1e-15)
    with pytest.raises(ValueError, match="power: expected weights with a finite sum > 0"):
        vocab.noise_distribution(float("nan"))
    with pytest.raises(ValueError, match="power: expected weights with a finite sum > 0"):
        Vocabulary(["a"], [0]).noise_distribution()


def test_keep_probabilities():
    vocab = Vocabulary([*SPECIALS, "a", "b", "c"], [0, 0, 0, 0, 900, 99, 1], num_specials=4)
    keep = vocab.keep_probabilities(1e-2)
    # a: f = 0.9, (sqrt(90) + 1) / 90; b: f = 0.099, (sqrt(9.9) + 1) / 9.9; c: f = 0.001, above 1
    expected = [1, 1, 1, 1, 10.4868329805 / 90, 4.14642654451 / 9.9, 1]
    np.testing.assert_allclose(keep, expected, rtol=1e-10)
    assert keep.dtype == np.float64
    assert vocab.keep_probabilities(0).tolist() == [1.0] * 7
    for bad in (-1e-3, float("nan"), float("inf")):
        with pytest.raises(ValueError, match="sample: expected a finite number >= 0, got"):
            vocab.keep_probabilities(bad)
