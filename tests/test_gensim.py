"""Equal answers: every method of `KeyedVectors` beside gensim's, on the same vectors, over thousands of queries."""

import warnings

import numpy as np
import pytest

from w2v_ext.keyedvectors import KeyedVectors

gensim = pytest.importorskip("gensim.models", reason="compares with gensim where it is installed")

V, D, QUERIES = 3000, 40, 3000
COPIES = {100: 5, 2000: 5, 700: 31}  # rows that are the same vector as another one: ties


@pytest.fixture(scope="module")
def both():
    rng = np.random.default_rng(7)
    words = [f"w{i}" for i in range(V)]
    vectors = rng.normal(size=(V, D)) + 0.7 * rng.normal(size=D)  # off centre, as trained vectors are
    vectors *= rng.lognormal(size=(V, 1))
    vectors = vectors.astype(np.float32)
    for copy, original in COPIES.items():
        vectors[copy] = vectors[original]
    counts = rng.integers(1, 500, V)
    theirs = gensim.KeyedVectors(D)
    theirs.add_vectors(words, vectors)
    for word, count in zip(words, counts.tolist(), strict=True):
        theirs.set_vecattr(word, "count", count)
    return KeyedVectors(words, vectors, counts), theirs


def assert_same(ours, theirs, where=""):
    """The same scores to 1e-5 and the same words in the same order, but where gensim's own scores are equal."""
    if not isinstance(theirs, list):
        np.testing.assert_allclose(ours, theirs, atol=1e-5, err_msg=where)
        return
    assert len(ours) == len(theirs), where
    scores = np.array([score for _, score in theirs])
    np.testing.assert_allclose([score for _, score in ours], scores, atol=1e-5, rtol=1e-5, err_msg=where)
    ours, theirs = [word for word, _ in ours], [word for word, _ in theirs]
    for i in [i for i in range(len(ours)) if ours[i] != theirs[i]]:
        # Float32 cannot tell these: within gensim's rounding there must be a neighbour in the list, or the cut.
        gaps = np.abs(np.delete(scores, i) - scores[i])
        assert i == len(ours) - 1 or gaps.min() < 1e-6, f"{where}: {ours} {theirs}"


def random_item(rng):
    kind = rng.random()
    if kind < 0.7:
        return f"w{rng.integers(V)}"
    if kind < 0.8:
        return int(rng.integers(V))
    return rng.normal(size=D).astype(np.float32)


def random_query(rng):
    query = {"topn": [1, 3, 10, 25, 200, None, 0, V + 5][rng.choice(8, p=[0.1, 0.1, 0.5, 0.1, 0.1, 0.04, 0.02, 0.04])]}
    for side, most in (("positive", 4), ("negative", 3)):
        items = [random_item(rng) for _ in range(rng.integers(0, most))]
        weighted = [(item, float(rng.normal())) if rng.random() < 0.2 else item for item in items]
        query[side] = weighted
    if not query["positive"] and not query["negative"]:
        query["positive"] = f"w{rng.choice([*COPIES, *COPIES.values()])}"
    if rng.random() < 0.2:
        query["restrict_vocab"] = int(rng.integers(1, V + 10))
    elif rng.random() < 0.2:
        query["clip_start"] = int(rng.integers(0, V // 2))
        query["clip_end"] = int(rng.integers(V // 2, V + 10)) if rng.random() < 0.7 else None
    return query


def test_most_similar(both):
    ours, theirs = both
    rng = np.random.default_rng(1)
    for i in range(QUERIES):
        query = random_query(rng)
        assert_same(ours.most_similar(**query), theirs.most_similar(**query), f"query {i}: {query}")


def test_most_similar_cosmul(both):
    ours, theirs = both
    rng = np.random.default_rng(2)
    for i in range(1000):
        words = [[f"w{j}" for j in rng.integers(V, size=rng.integers(low, 4))] for low in (1, 0)]
        topn = [None, 1, 10, 100][rng.choice(4, p=[0.05, 0.1, 0.7, 0.15])]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            expected = theirs.most_similar_cosmul(*words, topn=topn)
        assert_same(ours.most_similar_cosmul(*words, topn=topn), expected, f"query {i}: {words}")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        assert_same(ours.most_similar_cosmul("w1", "w2"), theirs.most_similar_cosmul("w1", "w2"))
        vector = theirs.get_vector("w9", norm=True)
        assert_same(ours.most_similar_cosmul([vector], ["w2"]), theirs.most_similar_cosmul([vector], ["w2"]))


def test_comparisons(both):
    ours, theirs = both
    rng = np.random.default_rng(3)
    close = lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5)  # noqa: E731
    for _ in range(2000):
        a, b = (f"w{i}" for i in rng.integers(V, size=2))
        group = [f"w{i}" for i in rng.integers(V + 300, size=rng.integers(1, 7))]  # one in eleven is unknown
        others = [f"w{i}" for i in rng.integers(V + 300, size=rng.integers(1, 7))]
        known = [w for w in group if w in theirs]
        close(ours.similarity(a, b), theirs.similarity(a, b))
        close(ours.distance(a, b), theirs.distance(a, b))
        close(ours.n_similarity(group, others), theirs.n_similarity(group, others))
        close(ours.get_mean_vector(group), theirs.get_mean_vector(group))
        if known:
            assert ours.most_similar_to_given(a, known) == theirs.most_similar_to_given(a, known)
            close(ours.distances(a, known), theirs.distances(a, known))
            if len(known) < 3:
                continue  # two words are equally far from their mean: which comes last is a matter of rounding
            for norm in (True, False):
                mine, yours = (kv.rank_by_centrality(group, use_norm=norm) for kv in (ours, theirs))
                close([score for score, _ in mine], [score for score, _ in yours])
                assert [w for _, w in mine] == [w for _, w in yours] or len(set(known)) < len(known)
            if len(set(known)) == len(known):
                assert ours.doesnt_match(group) == theirs.doesnt_match(group)


def test_whole_vocabulary(both):
    ours, theirs = both
    rng = np.random.default_rng(4)
    for _ in range(300):
        a, b = (f"w{i}" for i in rng.choice([i for i in range(V) if i not in (*COPIES, 5, 31)], 2, replace=False))
        np.testing.assert_allclose(ours.distances(a), theirs.distances(a), atol=1e-5)
        assert ours.closer_than(a, b) == theirs.closer_than(a, b)
        assert ours.rank(a, b) == theirs.rank(a, b)
        topn = int(rng.integers(1, 30))
        rcs = ours.relative_cosine_similarity(a, b, topn), theirs.relative_cosine_similarity(a, b, topn)
        assert rcs[0] == pytest.approx(rcs[1], abs=1e-5)
    vector = rng.normal(size=D).astype(np.float32)
    np.testing.assert_allclose(ours.distances(vector), theirs.distances(vector), atol=1e-5)
    np.testing.assert_allclose(ours.distances(vector, ["w1", 3]), theirs.distances(vector, ["w1", 3]), atol=1e-5)
    assert_same(ours.similar_by_vector(vector), theirs.similar_by_vector(vector))
    assert_same(ours.similar_by_key("w77", topn=5), theirs.similar_by_key("w77", topn=5))
    assert_same(ours.similar_by_word("w77", 5, 100), theirs.similar_by_word("w77", 5, 100))
    np.testing.assert_allclose(ours.get_normed_vectors(), theirs.get_normed_vectors(), atol=1e-6)
    np.testing.assert_allclose(
        ours.cosine_similarities(vector, ours.vectors), theirs.cosine_similarities(vector, theirs.vectors), atol=1e-5
    )


def test_mean_vectors(both):
    ours, theirs = both
    rng = np.random.default_rng(5)
    for _ in range(500):
        keys = [random_item(rng) for _ in range(rng.integers(1, 6))] + ["unknown"] * int(rng.integers(2))
        weights = rng.normal(size=len(keys)).astype(np.float32)
        options = {"weights": weights, "pre_normalize": bool(rng.integers(2)), "post_normalize": bool(rng.integers(2))}
        np.testing.assert_allclose(
            ours.get_mean_vector(keys, **options), theirs.get_mean_vector(keys, **options), atol=1e-5, rtol=1e-4
        )
    for kv in both:
        with pytest.raises(KeyError, match="Key 'unknown' not present in vocabulary"):
            kv.get_mean_vector(["w1", "unknown"], ignore_missing=False)
        with pytest.raises(ValueError):
            kv.get_mean_vector([])
        with pytest.raises(ValueError, match="weights"):
            kv.get_mean_vector(["w1"], weights=[1, 2])
        for call in (kv.most_similar, kv.most_similar_cosmul, kv.distances, kv.similar_by_key):
            with pytest.raises(KeyError):
                call("unknown")


def test_word_movers_distance(both):
    pytest.importorskip("ot", reason="needs POT")
    ours, theirs = both
    rng = np.random.default_rng(6)
    for _ in range(200):
        documents = [[f"w{i}" for i in rng.integers(40, size=rng.integers(1, 12))] + ["unknown"] for _ in range(2)]
        for norm in (True, False):
            want = theirs.wmdistance(*documents, norm=norm)
            assert ours.wmdistance(*documents, norm=norm) == pytest.approx(want, rel=1e-5, abs=1e-5)
    assert ours.wmdistance(["w1", "w2"], ["w2", "w1"]) == pytest.approx(0, abs=1e-6)
    assert ours.wmdistance(["w1"], ["w1"]) == theirs.wmdistance(["w1"], ["w1"]) == 0
    assert ours.wmdistance(["unknown"], ["w1"]) == theirs.wmdistance([], ["w1"]) == float("inf")
    # Different words at one point: gensim gives up and says infinity.
    assert ours.wmdistance(["w5"], ["w100"]) == 0


def test_changing():
    rng = np.random.default_rng(8)
    vectors = rng.normal(size=(50, 6)).astype(np.float32)
    ours, theirs = KeyedVectors(6), gensim.KeyedVectors(6)
    for kv in (ours, theirs):
        kv.add_vectors([f"w{i}" for i in range(30)], vectors[:30])
        for i in range(30):
            kv.set_vecattr(f"w{i}", "count", (i * 7) % 10)
        kv.add_vectors(["w3", "new", "w4"], vectors[30:33])  # w3, w4 are there and stay
        kv.add_vectors(["w7", "more"], vectors[33:35], replace=True)
        kv["w8"] = vectors[36]
        kv[["w9", "last"]] = vectors[37:39]
        kv.add_vectors("lone", vectors[40])
        kv.allocate_vecattrs() if kv is theirs else None
    assert ours.index_to_key == theirs.index_to_key
    assert ours.key_to_index == theirs.key_to_index
    np.testing.assert_array_equal(ours.vectors, theirs.vectors)
    assert ours.get_vecattr("w4", "count") == theirs.get_vecattr("w4", "count") == 8
    assert ours.counts.tolist() == theirs.expandos["count"].tolist()
    for kv in (ours, theirs):
        kv.sort_by_descending_frequency()
    assert ours.index_to_key == theirs.index_to_key
    np.testing.assert_array_equal(ours.vectors, theirs.vectors)
    theirs.fill_norms(force=True)
    np.testing.assert_allclose(ours.norms, theirs.norms, rtol=1e-6)
    wanted = ["w9", "absent", "w2", "w9", "last"]
    mine, yours = (kv.vectors_for_all(wanted, copy_vecattrs=True) for kv in (ours, theirs))
    assert mine.index_to_key == yours.index_to_key == ["w9", "w2", "last"]
    np.testing.assert_array_equal(mine.vectors, yours.vectors)
    for word in mine.index_to_key:
        assert mine.get_vecattr(word, "count") == yours.get_vecattr(word, "count")
    for kv in (ours, theirs):
        kv.unit_normalize_all()
    np.testing.assert_allclose(ours.vectors, theirs.vectors, atol=1e-6)
    np.testing.assert_allclose(ours.norms, 1, rtol=1e-6)
    for kv in (ours, theirs):
        assert 3 in kv and 300 not in kv and "w3" in kv and kv.has_index_for("w3") and not kv.has_index_for("x")
        with pytest.raises(TypeError):
            kv.set_vecattr("w1", "count", 1.5)
        with pytest.raises(KeyError):
            kv.get_vecattr("w1", "colour")
        kv.set_vecattr("w1", "colour", "red")
        assert kv.get_vecattr("w1", "colour") == "red"
