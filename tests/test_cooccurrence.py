"""Counts of co-occurrences against a count of every pair."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from w2v_ext import reference
from w2v_ext.cooccurrence import CELL, count_cooccurrences


def exact_counts(ids, vocab_size, window):
    """(V, V) float32: every pair of places, in integers; distances one by one, so that long corpora are quick too."""
    unit = math.lcm(*range(1, window + 1))
    total = np.zeros(vocab_size * vocab_size, np.int64)
    ids = np.asarray(ids, np.int64)
    broken = ids < 0
    for distance in range(1, min(window, len(ids) - 1) + 1):
        a, b = ids[:-distance], ids[distance:]
        ends = np.cumsum(broken)
        same = ~broken[:-distance] & (ends[:-distance] == ends[distance:])
        pairs = a[same] * vocab_size + b[same]
        total += np.bincount(pairs, minlength=len(total)) * (unit // distance)
    total = total.reshape(vocab_size, vocab_size)
    return ((total + total.T) / unit).astype(np.float32)


def dense(counts):
    matrix = np.zeros((counts.vocab_size, counts.vocab_size), np.float32)
    rows, columns, values = counts.to_coo()
    matrix[rows, columns] = values
    return matrix


def ids_of(sentences):
    return np.array([word for sentence in sentences for word in [*sentence, -1]], np.int32)


def zipf_ids(rng, words, vocab_size):
    ids = np.minimum(rng.zipf(1.2, words) - 1, vocab_size - 1).astype(np.int32)
    ids[rng.random(words) < 0.05] = -1
    ids[-1] = -1
    return ids


@settings(deadline=None, max_examples=150)
@given(
    st.lists(st.lists(st.integers(0, 11), max_size=30), min_size=1, max_size=8),
    st.integers(1, 22),
    st.integers(1, 4),
)
def test_counts_are_exact(sentences, window, threads):
    ids = ids_of(sentences)
    with count_cooccurrences(ids, vocab_size=12, window=window, threads=threads) as counts:
        assert np.array_equal(dense(counts), exact_counts(ids, 12, window))
        assert counts.nnz == np.count_nonzero(dense(counts)) == len(counts) == len(list(counts))


@pytest.mark.parametrize("threads", [1, 3])
def test_counts_are_exact_when_they_spill(threads):
    rng = np.random.default_rng(7)
    ids = zipf_ids(rng, 150_000, 3000)
    expected = exact_counts(ids, 3000, 10)
    with count_cooccurrences(ids, vocab_size=3000, memory=1 << 20, threads=threads) as counts:
        assert counts.runs > threads and counts.spilled_bytes > 1 << 20
        assert np.array_equal(dense(counts), expected)
    with count_cooccurrences(ids, vocab_size=3000, threads=threads) as counts:
        assert counts.runs == 0
        assert np.array_equal(dense(counts), expected)


def test_long_windows_are_rounded_only():
    rng = np.random.default_rng(3)
    ids = zipf_ids(rng, 5000, 50)
    ids[ids < 0] = 0
    ids[-1] = -1
    with count_cooccurrences(ids, vocab_size=50, window=100, threads=2) as counts:
        np.testing.assert_allclose(dense(counts), reference.cooccurrences(ids, 50, 100), rtol=1e-6)


def test_words_of_one_sentence_by_hand():
    with count_cooccurrences(ids_of([[0, 1, 0, 2], [2]]), vocab_size=4, window=2) as counts:
        expected = {(0, 1): 2, (0, 0): 1, (1, 2): 0.5, (0, 2): 1}
        assert {(min(i, j), max(i, j)): x for i, j, x in counts} == expected
        cells = np.concatenate(list(counts.cells()))
        assert cells.dtype == CELL and (cells["row"] >= cells["column"]).all()
        assert counts.row_starts().tolist() == [0, 1, 2, 4, 4]


def test_the_files_go(tmp_path):
    counts = count_cooccurrences(ids_of([[0, 1]]), vocab_size=2, directory=tmp_path)
    assert list(tmp_path.iterdir())
    counts.close()
    assert not list(tmp_path.iterdir())
    with pytest.raises(IndexError):
        count_cooccurrences(ids_of([[0, 5]]), vocab_size=2, directory=tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"window": 0}, ValueError, "window: expected an integer from 1 to 10000, got 0"),
        ({"window": 1.5}, ValueError, "window: expected an integer from 1 to 10000, got 1.5"),
        ({"memory": 1000}, ValueError, "memory: expected an integer from 1048576 "),
        ({"threads": 0}, ValueError, "threads: expected an integer from 1 to 1024, got 0"),
        ({"vocab_size": None}, ValueError, "vocab_size: expected the number of words beside ids, got None"),
        ({"corpus": np.zeros(3)}, ValueError, r"corpus: expected ids of shape \(N,\) and dtype int32, got \(3,\)"),
        ({"vocab_size": 1}, IndexError, "ids: word 1 at position 1 is out of range"),
        ({"corpus": np.array([0, -2, -1], np.int32)}, IndexError, "ids: word -2 at position 1 is out of range"),
    ],
)
def test_bad_arguments_of_counting(change, error, message):
    arguments = {"corpus": ids_of([[0, 1]]), "vocab_size": 2, **change}
    with pytest.raises(error, match=message):
        count_cooccurrences(arguments.pop("corpus"), **arguments)


def test_a_progress_that_raises_stops_counting(tmp_path):
    def stop(_):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        count_cooccurrences(
            zipf_ids(np.random.default_rng(0), 1000, 50), vocab_size=50, directory=tmp_path, progress=stop
        )
    assert not list(tmp_path.iterdir())
