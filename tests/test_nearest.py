"""Batches of queries: the very answers of single ones, through every tile; and the approximate index."""

import json

import numpy as np
import pytest
import torch

from w2v_ext import nearest as nearest_module
from w2v_ext.approximate import ApproximateIndex
from w2v_ext.files import FormatError
from w2v_ext.keyedvectors import KeyedVectors
from w2v_ext.nearest import nearest, unit_rows

DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.cuda)]


@pytest.fixture
def small_tiles(monkeypatch):
    """Tiles that a test fills many of, of sizes that divide nothing."""
    monkeypatch.setattr(nearest_module, "_CPU_TILE", (7, 192))
    monkeypatch.setattr(nearest_module, "_GPU_TILE", (7, 192))


def words(n):
    return [f"w{i}" for i in range(n)]


def table(n, dim, seed=0):
    rng = np.random.default_rng(seed)
    vectors = rng.normal(size=(n, dim)).astype(np.float32)
    vectors[rng.integers(n, size=n // 10)] = vectors[rng.integers(n, size=n // 10)]  # copies: ties
    vectors[n // 3] = 0
    if n > 10:
        vectors[n // 2] = np.nan
        vectors[n // 5, -1] = np.inf
    return vectors


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize(("n", "dim"), [(1, 3), (5, 1), (63, 2), (64, 8), (191, 5), (193, 100), (1000, 7), (5000, 33)])
def test_batches_equal_single_queries(n, dim, device, small_tiles):
    if device == "cuda" and not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")
    with np.errstate(invalid="ignore", over="ignore"):
        kv = KeyedVectors(words(n), table(n, dim))
        rng = np.random.default_rng(1)
        ids = [i for i in range(n) if np.isfinite(kv.norms[i])]
        queries = []
        for _ in range(40):
            some = [int(i) for i in rng.choice(ids, 3)]
            kinds = [some[0], some[1:], rng.normal(size=dim), {"positive": some[:2], "negative": some[2:]}]
            queries.append(kinds[rng.integers(4)])
        for options in ({}, {"topn": 1}, {"topn": 300}, {"restrict_vocab": 70}, {"clip_start": 3, "clip_end": -2}):
            got = kv.most_similar_batch(queries, device=device, **options)
            for query, answer in zip(queries, got, strict=True):
                arguments = query if isinstance(query, dict) else {"positive": query}
                assert answer == kv.most_similar(**arguments, **options)


def test_no_neighbours_where_there_are_none(small_tiles):
    kv = KeyedVectors(words(3), np.eye(3))
    assert kv.most_similar_batch(["w0", "w1"], topn=5) == [[("w1", 0.0), ("w2", 0.0)], [("w0", 0.0), ("w2", 0.0)]]
    assert kv.most_similar_batch([["w0", "w1", "w2"]]) == [[]]
    assert kv.most_similar_batch(["w0"], topn=0) == [[]]
    assert kv.most_similar_batch([]) == []
    rows, scores = kv.nearest_rows(np.eye(3)[:2], topn=4)
    assert rows.tolist() == [[0, 1, 2, -1], [1, 0, 2, -1]] and np.isnan(scores[:, 3]).all()
    assert kv.nearest_rows(np.zeros((1, 3)), topn=2)[0].tolist() == [[0, 1]]  # nothing is similar to zero
    assert kv.nearest_rows(np.empty((0, 3)))[0].shape == (0, 10)


def test_more_ties_than_are_kept(small_tiles):
    vectors = np.tile(np.float32([[3, 4]]), (2000, 1))
    vectors[1234:] = [4, 3]
    kv = KeyedVectors(words(2000), vectors)
    rows, scores = kv.nearest_rows(np.array([[4.0, 3.0], [3.0, 4.0]]), topn=5)
    assert rows.tolist() == [[1234, 1235, 1236, 1237, 1238], [0, 1, 2, 3, 4]]
    assert scores == pytest.approx(1)


def test_near_ties_are_told_apart(small_tiles):
    # Cosines that differ by 1e-8, where a float32 product of 300 numbers is off by 5e-8.
    rng = np.random.default_rng(0)
    query = rng.normal(size=300).astype(np.float32)
    query /= np.float32(np.linalg.norm(query))
    across = rng.normal(size=(2000, 300))
    across -= np.outer(across @ query, query)
    across /= np.linalg.norm(across, axis=1, keepdims=True)
    kv = KeyedVectors(words(2000), 0.5 * query + 0.75**0.5 * across)
    exact = kv.vectors.astype(np.float64) @ query / np.linalg.norm(kv.vectors.astype(np.float64), axis=1)
    expected = [f"w{i}" for i in np.argsort(-exact, kind="stable")[:20]]
    assert [word for word, _ in kv.most_similar([query], topn=20)] == expected
    assert [word for word, _ in kv.most_similar_batch([query], topn=20)[0]] == expected
    assert [word for word, _ in kv.most_similar_cosmul([query], topn=20)] == expected


def test_rows_that_lie_on_the_device_already(small_tiles):
    with np.errstate(invalid="ignore"):
        kv = KeyedVectors(words(1000), table(1000, 9))
        queries = np.random.default_rng(2).normal(size=(30, 9))
        queries /= np.linalg.norm(queries, axis=1, keepdims=True)
        units = unit_rows(kv.vectors, kv.norms, "cpu")
        want, got = (nearest(kv.vectors, kv.norms, queries, 8, units=given) for given in (None, units))
    np.testing.assert_array_equal(got[0], want[0])
    np.testing.assert_array_equal(got[1], want[1])


def test_precision_setting_changes_nothing():
    kv = KeyedVectors(words(500), table(500, 64))
    expected = kv.most_similar_batch(words(20))
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("medium")
    try:
        assert kv.most_similar_batch(words(20)) == expected
        assert torch.get_float32_matmul_precision() == "medium"
    finally:
        torch.set_float32_matmul_precision(before)


@pytest.mark.parametrize(
    ("call", "kind", "message"),
    [
        (lambda kv: kv.most_similar_batch(["w0", "x"]), KeyError, "Key 'x' not present"),
        (lambda kv: kv.most_similar_batch([{"positiv": "w0"}]), ValueError, "queries: .* in a query, got 'positiv'"),
        (lambda kv: kv.most_similar_batch([[]]), ValueError, "positive, negative: expected at least one"),
        (lambda kv: kv.nearest_rows(np.ones((2, 4))), ValueError, r"queries: expected shape \(Q, 3\), got \(2, 4\)"),
        (lambda kv: kv.nearest_rows([[1, np.nan, 0]]), ValueError, "queries: query 0 is not finite"),
        (
            lambda kv: kv.most_similar_batch(["w0"], device="abacus"),
            ValueError,
            "device: expected cpu or cuda, got 'aba",
        ),
        (lambda kv: kv.most_similar("w0", indexer=object(), restrict_vocab=2), ValueError, "indexer: expected none"),
        (lambda kv: kv.most_similar_batch(["w0"], indexer=object(), clip_end=1), ValueError, "indexer: expected none"),
    ],
)
def test_errors(call, kind, message):
    with pytest.raises(kind, match=message):
        call(KeyedVectors(words(3), np.eye(3)))


# ---- the approximate index ---------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def indexed():
    pytest.importorskip("usearch", reason="needs usearch")
    rng = np.random.default_rng(5)
    centres = rng.normal(size=(100, 24))
    vectors = (centres[rng.integers(100, size=4000)] + 0.5 * rng.normal(size=(4000, 24))).astype(np.float32)
    vectors[17] = 0
    kv = KeyedVectors(words(4000), vectors)
    return kv, ApproximateIndex(kv, threads=1)


def test_approximate_index(indexed):
    kv, index = indexed
    assert len(index) == 3999
    queries = [*words(120)[20:], {"positive": ["w1", "w2"], "negative": ["w3"]}, kv["w5"]]
    exact = kv.most_similar_batch(queries)
    found = kv.most_similar_batch(queries, indexer=index)
    recall = np.mean([len({*dict(a)} & {*dict(b)}) / 10 for a, b in zip(exact, found, strict=True)])
    assert recall > 0.95
    for query, a, b in zip(queries, exact, found, strict=True):
        arguments = query if isinstance(query, dict) else {"positive": query}
        assert kv.most_similar_batch([query], indexer=index) == [kv.most_similar(**arguments, indexer=index)]
        scores = dict(a)
        assert {w: s for w, s in b if w in scores} == pytest.approx({w: s for w, s in a if w in dict(b)}, abs=1e-14)
        assert len(b) == 10 and [s for _, s in b] == sorted((s for _, s in b), reverse=True)
    assert found[0][0][0] != "w20" and found[-1][0][0] == "w5"  # words are left out, vectors are not words
    assert kv.most_similar("w1", topn=None, indexer=index).shape == (4000,)
    assert kv.most_similar_batch(queries, indexer=ApproximateIndex(kv, threads=1)) == found


def test_index_files(indexed, tmp_path):
    kv, index = indexed
    index.save(tmp_path / "index")
    again = ApproximateIndex.load(tmp_path / "index", kv)
    assert again.expansion_search == index.expansion_search
    assert kv.most_similar_batch(words(50), indexer=again) == kv.most_similar_batch(words(50), indexer=index)
    other = KeyedVectors(kv.index_to_key, kv.vectors + 1)
    with pytest.raises(FormatError, match="index was built from other vectors"):
        ApproximateIndex.load(tmp_path / "index", other)
    graph = tmp_path / "index" / "index.usearch"
    graph.write_bytes(graph.read_bytes()[:-100])
    with pytest.raises(FormatError, match="index.usearch: damaged"):
        ApproximateIndex.load(tmp_path / "index", kv)
    (tmp_path / "index" / "index.json").write_text(json.dumps({"version": 99}))
    with pytest.raises(FormatError, match="index.json: expected version 1"):
        ApproximateIndex.load(tmp_path / "index", kv)
    with pytest.raises(FormatError, match="none.*cannot be read"):
        ApproximateIndex.load(tmp_path / "none", kv)


def test_index_errors(indexed, monkeypatch):
    kv, _ = indexed
    with pytest.raises(ValueError, match="dtype: expected f32, f16 or i8, got 'f8'"):
        ApproximateIndex(kv, dtype="f8")
    with pytest.raises(ValueError, match="connectivity: expected a positive whole number, got 0"):
        ApproximateIndex(kv, connectivity=0)
    monkeypatch.setitem(__import__("sys").modules, "usearch.index", None)
    with pytest.raises(ImportError, match=r"pip install 'w2v_ext\[ann\]'"):
        ApproximateIndex(kv)


def test_an_indexer_of_gensims_kind():
    class Indexer:
        def most_similar(self, vector, num_neighbors):
            return [("w1", 0.9), ("w0", 0.8), ("w2", 0.7)][:num_neighbors]

    kv = KeyedVectors(words(3), np.eye(3))
    assert kv.most_similar("w0", topn=1, indexer=Indexer()) == [("w1", 0.9)]
    assert kv.most_similar_batch(["w0", "w1"], topn=2, indexer=Indexer()) == [
        [("w1", 0.9), ("w2", 0.7)],
        [("w0", 0.8), ("w2", 0.7)],
    ]
