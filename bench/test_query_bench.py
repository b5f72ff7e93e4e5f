"""1,000 queries for the 10 nearest words: one by one, in a batch, by the approximate index, and gensim.

    python -m pytest bench/test_query_bench.py --benchmark-only --benchmark-group-by=param:rows

Vectors of 300 dimensions in 1,000 clusters, off centre, as trained ones are; `W2V_EXT_BENCH_VECTORS=FILE` takes real
ones instead. Every answer is checked before it is timed: the exact ones against float64, the approximate ones by their
recall@10, which stands in the row. Queries one by one and gensim's are timed over 50 of the 1,000.
"""

import os
import resource
import time
from functools import lru_cache

import numpy as np
import pytest

from w2v_ext.approximate import ApproximateIndex
from w2v_ext.keyedvectors import KeyedVectors

QUERIES, ONE_BY_ONE = 1_000, 50
FILE = os.environ.get("W2V_EXT_BENCH_VECTORS")
ROWS = [0] if FILE else [100_000, 1_000_000]


@lru_cache(maxsize=1)
def vectors(rows):
    if FILE:
        return KeyedVectors.load(FILE)
    rng = np.random.default_rng(0)
    centres = rng.standard_normal((1_000, 300), dtype=np.float32) + 0.5
    table = centres[rng.integers(1_000, size=rows)]
    for start in range(0, rows, 50_000):
        part = table[start : start + 50_000]
        part += rng.standard_normal(part.shape, dtype=np.float32)
    return KeyedVectors([f"w{i}" for i in range(rows)], table)


def queries(kv):
    return [kv.index_to_key[i] for i in np.random.default_rng(1).integers(len(kv), size=QUERIES)]


def check_exact(kv, asked, answers):
    """Against float64, for a few of them."""
    for word, answer in list(zip(asked, answers, strict=True))[:3]:
        query, scores = kv.get_vector(word).astype(np.float64), np.empty(len(kv))
        for start in range(0, len(kv), 50_000):
            part = kv.vectors[start : start + 50_000].astype(np.float64)
            scores[start : start + len(part)] = part @ query / np.linalg.norm(part, axis=1) / np.linalg.norm(query)
        scores[kv.key_to_index[word]] = -np.inf
        best = np.argsort(-scores, kind="stable")[:10]
        assert [w for w, _ in answer] == [kv.index_to_key[i] for i in best]
        np.testing.assert_allclose([s for _, s in answer], scores[best], atol=1e-6)


def recall(exact, found):
    return float(np.mean([len({*dict(a)} & {*dict(b)}) / len(a) for a, b in zip(exact, found, strict=True)]))


def record(benchmark, kv, count, **more):
    mean = benchmark.stats.stats.median
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    benchmark.extra_info.update(
        words=len(kv), dim=kv.vector_size, queries_per_second=round(count / mean), peak_mb=round(peak), **more
    )


@pytest.mark.parametrize("rows", ROWS)
@pytest.mark.parametrize("side", ["gensim", "one_by_one", "batch"])
def test_exact(benchmark, rows, side):
    kv = vectors(rows)
    asked = queries(kv)
    if side == "batch":
        run = lambda: kv.most_similar_batch(asked)  # noqa: E731
    else:
        asked = asked[:ONE_BY_ONE]
        target = kv
        if side == "gensim":
            target = pytest.importorskip("gensim.models").KeyedVectors(kv.vector_size)
            target.index_to_key, target.key_to_index, target.vectors = kv.index_to_key, kv.key_to_index, kv.vectors
            target.fill_norms()
        run = lambda: [target.most_similar(word) for word in asked]  # noqa: E731
    check_exact(kv, asked, run())
    benchmark.pedantic(run, rounds=3, iterations=1)
    record(benchmark, kv, len(asked), recall_at_10=1.0)


@pytest.mark.parametrize("rows", ROWS[:1])
@pytest.mark.parametrize("expansion", [32, 128, 512])
def test_approximate(benchmark, rows, expansion):
    kv = vectors(rows)
    asked = queries(kv)
    index, seconds = approximate(rows)
    index.expansion_search = expansion
    run = lambda: kv.most_similar_batch(asked, indexer=index)  # noqa: E731
    found = recall(kv.most_similar_batch(asked), run())
    assert found > 0.5
    benchmark.pedantic(run, rounds=5, iterations=1)
    record(benchmark, kv, len(asked), recall_at_10=round(found, 4), build_seconds=round(seconds, 1))


@lru_cache(maxsize=1)
def approximate(rows):
    start = time.perf_counter()
    index = ApproximateIndex(vectors(rows))
    return index, time.perf_counter() - start
