"""KeyedVectors: tables computed by hand, the corners, and gensim's answers where gensim is installed."""

import sys

import numpy as np
import pytest
import torch

from w2v_ext.files import FormatError
from w2v_ext.keyedvectors import KeyedVectors
from w2v_ext.model_files import save_model

# Directions that can be reckoned with in the head: cosines are 1, 0.8, 0.6, 0, -1.
TABLE = {
    "east": [1, 0],
    "far_east": [5, 0],
    "steep": [3, 4],
    "flat": [8, 6],
    "north": [0, 2],
    "west": [-3, 0],
    "nowhere": [0, 0],
}


@pytest.fixture
def kv():
    return KeyedVectors(list(TABLE), np.array(list(TABLE.values())))


def rounded(result):
    return [(word, round(score, 6)) for word, score in result]


def test_lookup(kv):
    assert len(kv) == 7 and kv.vector_size == 2
    assert kv.vectors.dtype == np.float32
    assert kv.index_to_key[3] == "flat" and kv.key_to_index["flat"] == 3
    assert "flat" in kv and "round" not in kv
    assert kv["flat"].tolist() == [8, 6]
    assert kv[["west", "flat"]].tolist() == [[-3, 0], [8, 6]]
    assert kv[[]].shape == (0, 2)
    assert kv.get_index("flat") == kv.get_index(3) == kv.get_index(np.int64(3)) == 3
    assert kv.get_index("round", default=42) == 42
    assert kv.get_vector("flat", norm=True) == pytest.approx([0.8, 0.6])
    assert kv.get_vector("nowhere", norm=True).tolist() == [0, 0]
    assert repr(kv) == "KeyedVectors(7 words, dim 2)"


def test_norms(kv):
    assert kv.norms.dtype == np.float32
    assert kv.norms.tolist() == [1, 5, 5, 10, 2, 3, 0]
    kv.vectors[0] = [6, 8]
    assert kv.norms[0] == 1
    kv.fill_norms(force=True)
    assert kv.norms[0] == 10


def test_looked_up_vectors_cannot_be_written(kv):
    with pytest.raises(ValueError, match="read-only"):
        kv["flat"][0] = 1
    kv.vectors[0, 0] = 1  # the array itself can


def test_most_similar_by_hand(kv):
    assert rounded(kv.most_similar("east", topn=6)) == [
        ("far_east", 1.0),
        ("flat", 0.8),
        ("steep", 0.6),
        ("north", 0.0),
        ("nowhere", 0.0),
        ("west", -1.0),
    ]
    # (east + north) / 2 points to 45°: 1.4 / sqrt(2) with steep as with flat; the earlier row comes first.
    assert rounded(kv.most_similar(["east", "north"], topn=2)) == [("steep", 0.989949), ("flat", 0.989949)]
    # east - west at length 1 each is (2, 0)
    assert rounded(kv.most_similar(positive=["east"], negative=["west"], topn=2)) == [("far_east", 1.0), ("flat", 0.8)]
    assert rounded(kv.most_similar(negative="west", topn=1)) == [("east", 1.0)]
    # words count at length 1, vectors as they are: (1, 0) + (0, 3) is (1, 3); with steep (0.6 + 2.4) / sqrt(10)
    assert rounded(kv.most_similar(["far_east", np.array([0.0, 3.0])], topn=2)) == [
        ("steep", 0.948683),
        ("north", 0.948683),
    ]
    # 3 east + 4 north is along steep
    assert rounded(kv.most_similar([("east", 3), ("north", 4.0)], topn=1)) == [("steep", 1.0)]


def test_most_similar_accepts_what_gensim_accepts(kv):
    expected = kv.most_similar(["east"])
    for same in ("east", 0, np.int64(0), ("east", 2.0), ("east", 2), [("east", 0.5)], ("east",)):
        assert kv.most_similar(same) == expected
    assert kv.similar_by_word("east") == expected
    assert len(kv.most_similar(("east", "north"))) == 5
    by_vector = kv.similar_by_vector(np.array([7, 0]), topn=2)
    assert by_vector == kv.most_similar(kv["far_east"], topn=2) == kv.most_similar(kv.vectors[1:2], topn=2)
    assert rounded(by_vector) == [("east", 1.0), ("far_east", 1.0)]  # a vector leaves no word out
    assert kv.most_similar(positive=[], negative=["west"])[0][0] == "east"


def test_topn(kv):
    assert kv.most_similar("east", topn=0) == kv.most_similar("east", topn=-1) == []
    assert len(kv.most_similar("east", topn=100)) == 6
    everything = kv.most_similar("east", topn=None)
    assert everything == pytest.approx([1, 1, 0.6, 0.8, 0, -1, 0])
    assert everything.dtype == np.float32


def test_restrict_vocab(kv):
    assert [word for word, _ in kv.most_similar("west", restrict_vocab=4)] == ["steep", "flat", "east", "far_east"]
    assert [word for word, _ in kv.most_similar("east", restrict_vocab=3)] == ["far_east", "steep"]
    assert kv.most_similar("east", topn=None, restrict_vocab=3).shape == (3,)
    assert kv.most_similar("east", restrict_vocab=1) == []
    assert len(kv.most_similar("east", restrict_vocab=100)) == 6
    with pytest.raises(ValueError, match="restrict_vocab: expected None or a positive number, got 0"):
        kv.most_similar("east", restrict_vocab=0)


def test_zero_vectors_are_similar_to_nothing(kv):
    assert {score for _, score in kv.most_similar("nowhere")} == {0.0}
    assert [word for word, _ in kv.most_similar("nowhere", topn=3)] == ["east", "far_east", "steep"]
    assert not np.isnan(kv.most_similar("nowhere", topn=None)).any()
    assert kv.similarity("nowhere", "east") == 0 and kv.distance("nowhere", "nowhere") == 1
    assert kv.n_similarity(["nowhere"], ["east"]) == 0
    assert kv.doesnt_match(["east", "far_east", "nowhere"]) == "nowhere"


@pytest.mark.parametrize("dim", [1, 7, 100, 129])
def test_equal_scores_come_in_the_order_of_their_rows(dim):
    rng = np.random.default_rng(dim)
    for _ in range(10):  # a matrix-vector product may round equal rows differently; whether it does depends on the draw
        row = rng.normal(size=dim)
        vectors = np.tile(row, (1001, 1))
        vectors[::3] *= -1
        kv = KeyedVectors([str(i) for i in range(1001)], vectors)
        equal = [str(i) for i in range(1001) if i % 3]
        query = rng.normal(size=dim) * 0.1 + row
        for topn in (1, 3, 600):
            result = kv.similar_by_vector(query, topn=topn)
            assert [word for word, _ in result] == equal[:topn]
            assert len({score for _, score in result}) == 1


def test_rows_that_diverged_are_no_neighbours():
    kv = KeyedVectors(["a", "b", "c", "d"], np.array([[1, 0], [np.nan, 0], [1, 1], [-1, 0]]))
    assert [word for word, _ in kv.most_similar("a")] == ["c", "d"]


def test_similarities_by_hand(kv):
    assert kv.similarity("east", "flat") == pytest.approx(0.8)
    assert kv.similarity("flat", "steep") == pytest.approx(0.96)
    assert kv.distance("east", "west") == pytest.approx(2)
    # means: (3, 0) and (1.5, 3), not brought to length 1 first
    assert kv.n_similarity(["east", "far_east"], ["steep", "north"]) == pytest.approx(1.5 / np.hypot(1.5, 3))
    assert kv.n_similarity("east", ["flat"]) == pytest.approx(0.8)
    assert kv.n_similarity(["east", "x"], ["flat"]) == pytest.approx(0.8)  # unknown words are passed over
    assert kv.n_similarity(["east"], ["x"]) == 0
    assert kv.doesnt_match(["east", "far_east", "flat", "west"]) == "west"
    assert kv.doesnt_match(["east", "unknown", "far_east", "north"]) == "north"
    assert isinstance(kv.similarity("east", "flat"), float)


@pytest.mark.parametrize(
    ("call", "kind", "message"),
    [
        (lambda kv: kv["x"], KeyError, "Key 'x' not present"),
        (lambda kv: kv[["east", "x"]], KeyError, "Key 'x' not present"),
        (lambda kv: kv[7], KeyError, "Key '7' not present"),
        (lambda kv: kv[-1], KeyError, "Key '-1' not present"),
        (lambda kv: kv.similarity("east", "x"), KeyError, "Key 'x' not present"),
        (lambda kv: kv.most_similar("x"), KeyError, "positive: Key 'x' not present"),
        (lambda kv: kv.most_similar("east", ["west", "x"]), KeyError, "negative: Key 'x' not present"),
        (lambda kv: kv.most_similar(), ValueError, "positive, negative: expected at least one word or vector"),
        (lambda kv: kv.most_similar([np.ones(3)]), ValueError, r"positive: expected a vector of shape \(2,\), got \(3"),
        (lambda kv: kv.most_similar([np.array([1, np.inf])]), ValueError, "positive: the vector is not finite"),
        (lambda kv: kv.most_similar([None]), ValueError, "positive: expected a vector of shape|positive: the vector"),
        (lambda kv: kv.most_similar([{}]), ValueError, "positive: expected words, vectors or"),
        (lambda kv: kv.most_similar([("east", "west")]), ValueError, "positive: expected .word, weight. .* 'west'"),
        (lambda kv: kv.most_similar([("east", np.nan)]), ValueError, "positive: expected .* weight nan"),
        (lambda kv: kv.similar_by_vector(np.ones(3)), ValueError, r"vector: expected a vector of shape \(2,\)"),
        (lambda kv: kv.n_similarity(["east"], []), ValueError, "ws2: expected at least one word"),
        (lambda kv: kv.doesnt_match(["x", "y"]), ValueError, r"words: none of \['x', 'y'\] is in the vocabulary"),
        (lambda kv: KeyedVectors(["a"], np.ones(2)), ValueError, r"vectors: expected shape \(V, D\), got \(2,\)"),
        (lambda kv: KeyedVectors(["a"], np.ones((2, 2))), ValueError, "words: expected 2 to match vectors, got 1"),
        (lambda kv: KeyedVectors(["a", "a"], np.ones((2, 2))), ValueError, "words: 'a' appears twice"),
        (lambda kv: KeyedVectors(["a"], np.ones((1, 2)), [1, 2]), ValueError, r"counts: expected shape \(1,\) .* \(2,"),
    ],
)
def test_errors(kv, call, kind, message):
    with pytest.raises(kind, match=message):
        call(kv)


def test_load_a_model(tmp_path):
    in_weight = torch.tensor([[1.0, 2.0], [3.0, 4.0]], dtype=torch.bfloat16)
    save_model(tmp_path, in_weight, torch.zeros(2, 2, dtype=torch.bfloat16), ["b", "a"], [7, 3], {})
    kv = KeyedVectors.load(tmp_path)
    assert kv.index_to_key == ["b", "a"] and kv.counts.tolist() == [7, 3]
    assert kv.vectors.dtype == np.float32 and kv.vectors.tolist() == [[1, 2], [3, 4]]
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(FormatError, match="model.safetensors: no such file"):
        KeyedVectors.load(tmp_path)
    with pytest.raises(FileNotFoundError, match="none"):
        KeyedVectors.load(tmp_path / "none")


@pytest.mark.parametrize("binary", [False, True])
def test_word2vec_files(tmp_path, kv, binary):
    kv.save_word2vec_format(tmp_path / "v", binary=binary)
    again = KeyedVectors.load_word2vec_format(tmp_path / "v", binary=binary)
    assert again.index_to_key == kv.index_to_key and again.counts is None
    assert again.vectors.tobytes() == kv.vectors.tobytes()
    assert len(KeyedVectors.load_word2vec_format(tmp_path / "v", binary=binary, limit=2)) == 2
    KeyedVectors(["rare", "common"], np.eye(2), [1, 9]).save_word2vec_format(tmp_path / "v", binary=binary)
    assert KeyedVectors.load_word2vec_format(tmp_path / "v", binary=binary).index_to_key == ["common", "rare"]
    (tmp_path / "v").write_bytes(b"1 1\n\xff 1\n")
    with pytest.raises(FormatError, match="not UTF-8"):
        KeyedVectors.load_word2vec_format(tmp_path / "v")
    assert "\ufffd" in KeyedVectors.load_word2vec_format(tmp_path / "v", unicode_errors="replace")


# ---- gensim ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def both():
    gensim = pytest.importorskip("gensim.models", reason="compares with gensim where it is installed")
    words = [f"w{i}" for i in range(500)]
    vectors = np.random.default_rng(3).normal(size=(500, 37)).astype(np.float32)
    theirs = gensim.KeyedVectors(37)
    theirs.add_vectors(words, vectors)
    return KeyedVectors(words, vectors), theirs


def assert_same(ours, theirs):
    assert [word for word, _ in ours] == [word for word, _ in theirs]
    assert [score for _, score in ours] == pytest.approx([score for _, score in theirs], abs=1e-5)


VECTOR = np.random.default_rng(4).normal(size=37).astype(np.float32)


@pytest.mark.parametrize(
    "query",
    [
        {"positive": "w1"},
        {"positive": ["w1", "w2"], "negative": ["w3"]},
        {"negative": ["w3", "w4"]},
        {"positive": [VECTOR]},
        {"positive": VECTOR, "topn": 3},
        {"positive": ["w1", VECTOR], "negative": [VECTOR[::-1]]},
        {"positive": [("w1", 0.3), "w2"], "negative": [("w5", 0.7), ("w6", -2.0)]},
        {"positive": ["w1", "w1", "w2"]},
        {"positive": [4, "w2"], "topn": 20},
        {"positive": ["w1"], "restrict_vocab": 50},
        {"positive": ["w450"], "restrict_vocab": 50, "topn": 100},
        {"positive": ["w1", "w2"], "topn": 499},
        {"positive": ["w1"], "topn": 0},
    ],
)
def test_most_similar_as_gensim(both, query):
    ours, theirs = both
    assert_same(ours.most_similar(**query), theirs.most_similar(**query))


def test_the_rest_as_gensim(both):
    ours, theirs = both
    words = [f"w{i}" for i in range(20)]
    everything = {"positive": ["w1"], "negative": ["w2"], "topn": None}
    assert ours.most_similar(**everything) == pytest.approx(theirs.most_similar(**everything), abs=1e-5)
    assert_same(ours.similar_by_word("w9", topn=5), theirs.similar_by_word("w9", topn=5))
    assert_same(ours.similar_by_vector(VECTOR, topn=5), theirs.similar_by_vector(VECTOR, topn=5))
    assert ours.similarity("w1", "w2") == pytest.approx(theirs.similarity("w1", "w2"), abs=1e-5)
    assert ours.distance("w1", "w2") == pytest.approx(theirs.distance("w1", "w2"), abs=1e-5)
    assert ours.n_similarity(words[:5], words[5:]) == pytest.approx(theirs.n_similarity(words[:5], words[5:]), abs=1e-5)
    for start in range(0, 500, 5):
        group = [f"w{i}" for i in range(start, start + 5)]
        assert ours.doesnt_match(group) == theirs.doesnt_match(group)
    assert ours.get_vector("w3", norm=True) == pytest.approx(theirs.get_vector("w3", norm=True), abs=1e-6)
    theirs.fill_norms()
    assert ours.norms == pytest.approx(theirs.norms, rel=1e-6)
    assert (ours[["w1", "w2"]] == theirs[["w1", "w2"]]).all()


# ---- changing, attributes, files ---------------------------------------------------------------------------------


def test_new_vectors_forget_old_norms(kv):
    assert kv.norms[0] == 1
    kv.vectors = kv.vectors * 2
    assert kv.norms[0] == 2
    kv.add_vectors(["more"], [[0, 7]])
    assert kv.norms.tolist() == [2, 10, 10, 20, 4, 6, 0, 7]
    kv.unit_normalize_all()
    assert kv.norms.tolist() == [1, 1, 1, 1, 1, 1, 0, 1]
    assert kv["flat"] == pytest.approx([0.8, 0.6])


def test_adding_leaves_the_callers_array_alone():
    array = np.eye(2, dtype=np.float32)
    kv = KeyedVectors(["a", "b"], array)
    kv["a"] = np.array([5.0, 5.0])
    assert array.tolist() == [[1, 0], [0, 1]] and kv["a"].tolist() == [5, 5]
    array.flags.writeable = False
    other = KeyedVectors(["a", "b"], array)
    other.unit_normalize_all()
    assert kv.add_vector("c", [1, 2]) == 2 and kv.add_vector("a", [1, 2]) == 0


def test_attributes(kv):
    assert kv.counts is None
    kv.set_vecattr("flat", "count", 3)
    assert kv.counts.tolist() == [0, 0, 0, 3, 0, 0, 0]
    kv.add_vectors(["new", "west"], [[1, 1], [9, 9]], extras={"count": np.array([8, 9])})
    assert kv.counts.tolist() == [0, 0, 0, 3, 0, 0, 0, 8] and kv["west"].tolist() == [-3, 0]
    kv.add_vectors(["west"], [[9, 9]], extras={"count": np.array([9])}, replace=True)
    assert kv.get_vecattr("west", "count") == 9 and kv["west"].tolist() == [9, 9]
    kv.counts = range(8)
    assert kv.counts.dtype == np.int64 and kv.get_vecattr("flat", "count") == 3
    kv.sort_by_descending_frequency()
    assert kv.index_to_key[0] == "new" and kv.counts.tolist() == [7, 6, 5, 4, 3, 2, 1, 0]
    assert kv.most_similar("far_east", topn=1)[0][0] == "east"


@pytest.mark.parametrize(
    ("call", "kind", "message"),
    [
        (lambda kv: KeyedVectors(["a"]), ValueError, "vectors: expected them with words"),
        (lambda kv: KeyedVectors(0), ValueError, "vectors: expected .* vector_size >= 1 alone, got 0"),
        (lambda kv: KeyedVectors(), ValueError, "vectors: expected .* got None"),
        (lambda kv: kv.add_vectors(["a", "b"], np.ones((1, 2))), ValueError, r"weights: .* \(2, 2\), got \(1, 2\)"),
        (lambda kv: kv.add_vectors(["a", "a"], np.ones((2, 2))), ValueError, "keys: 'a' appears twice"),
        (lambda kv: kv.add_vectors("a", [1, 2], {"n": np.ones(2)}), ValueError, "extras: expected 1 values of 'n'"),
        (lambda kv: kv.sort_by_descending_frequency(), ValueError, "counts: expected them for sorting, got none"),
        (lambda kv: kv.set_vecattr("x", "n", 1), KeyError, "Key 'x' not present"),
        (lambda kv: kv.get_vecattr("east", "n"), KeyError, "attr: there is no attribute 'n', only none at all"),
        (lambda kv: kv.most_similar_to_given("east", []), ValueError, "keys_list: expected at least one"),
        (lambda kv: kv.most_similar_cosmul(negative="east"), ValueError, "positive: expected at least one word"),
        (lambda kv: kv.relative_cosine_similarity("east", "flat", 0), ValueError, "topn: .* got none with topn = 0"),
        (lambda kv: kv.get_mean_vector(["east"], [1, 2]), ValueError, r"weights: expected shape \(1,\) .* \(2,\)"),
        (lambda kv: kv.distances(np.ones(3)), ValueError, r"word_or_vector: expected a vector of shape \(2,\)"),
    ],
)
def test_more_errors(kv, call, kind, message):
    with pytest.raises(kind, match=message):
        call(kv)


def test_cosmul_by_hand(kv):
    # (1 + cos) / 2 with east over (1 + cos) / 2 with steep
    expected = {"far_east": 1 / 0.8, "flat": 0.9 / 0.98, "north": 0.5 / 0.9, "west": 0, "nowhere": 0.5 / 0.5}
    got = dict(kv.most_similar_cosmul("east", "steep"))
    assert list(got) == sorted(expected, key=expected.get, reverse=True)
    assert got == pytest.approx(expected, abs=1e-5)
    assert kv.most_similar_cosmul("east", topn=0) == []
    assert list(dict(kv.most_similar_cosmul("east", restrict_vocab=3))) == ["far_east", "steep"]
    assert kv.most_similar_cosmul(0, 2) == kv.most_similar_cosmul("east", "steep")
    # against the opposite the divisor is 1e-6, where float32 knows little
    assert kv.most_similar_cosmul("east", "west", topn=1)[0] == ("far_east", pytest.approx(1e6, rel=1e-3))


def test_zero_and_nan_rows_in_comparisons(kv):
    assert kv.distances("nowhere").tolist() == [1] * 7
    assert kv.closer_than("east", "north") == ["far_east", "steep", "flat"]
    assert kv.rank("east", "west") == 6
    kv.vectors[5] = np.nan
    kv.fill_norms(force=True)
    assert "west" not in dict(kv.most_similar("east", topn=10)) | dict(kv.most_similar_cosmul("east", topn=10))
    assert kv.closer_than("east", "north") == ["far_east", "steep", "flat"]


def test_save_and_load(tmp_path, kv):
    kv.save(tmp_path / "plain")
    again = KeyedVectors.load(tmp_path / "plain")
    assert again.index_to_key == kv.index_to_key and again.counts is None
    assert again.vectors.tobytes() == kv.vectors.tobytes()
    kv.counts = np.arange(7)
    kv.set_vecattr("east", "colour", "red")
    with pytest.warns(UserWarning, match="attributes are not saved: colour"):
        kv.save(tmp_path / "counted")
    assert KeyedVectors.load(tmp_path / "counted").counts.tolist() == list(range(7))
    kv.save_word2vec_format(tmp_path / "v.bin", binary=True)
    kv.save_word2vec_format(tmp_path / "v.txt")
    for name in ("v.bin", "v.txt"):
        assert KeyedVectors.load(tmp_path / name)["flat"].tolist() == [8, 6]
    kv.add_vectors([7_000], [[1, 1]])
    with pytest.raises(ValueError, match="words: expected strings to save, got 7000"):
        kv.save(tmp_path / "numbers")


def test_wmdistance_without_pot(kv, monkeypatch):
    monkeypatch.setitem(sys.modules, "ot", None)
    with pytest.raises(ImportError, match=r"pip install 'w2v_ext\[wmd\]'"):
        kv.wmdistance(["east"], ["west"])


def test_words_without_rows():
    class Guessing(KeyedVectors):
        """Has a vector for every word, as a model with subwords would."""

        def __contains__(self, key):
            return True

        def get_vector(self, key, norm=False):
            if key in self.key_to_index:
                return super().get_vector(key, norm)
            return np.float32([1, 0])

    kv = Guessing(["a", "b"], [[1, 1], [1, 0]], [5, 3])
    assert kv.most_similar("unseen", topn=1) == [("b", 1.0)]
    assert kv.similarity("unseen", "b") == 1
    everything = kv.vectors_for_all(["unseen", "a"], copy_vecattrs=True)
    assert everything.index_to_key == ["unseen", "a"] and everything.counts.tolist() == [0, 5]
    assert kv.vectors_for_all(["unseen", "a"], allow_inference=False).index_to_key == ["a"]
