"""Loading and saving vectors, beside gensim.

    python -m pytest bench/test_formats_bench.py --benchmark-only --benchmark-group-by=group

W2V_EXT_BENCH_ROWS rows (default 100,000) of 300 numbers with the digits that float32 needs. Both sides read the same
file; the vectors they give are compared before anything is timed. Our times of saving include the fsync of a file that
is whole or not there; gensim saves a tenth of the rows.
"""

import os

import numpy as np
import pytest

from w2v_ext import formats

gensim = pytest.importorskip("gensim.models")
ROWS, DIM = int(os.environ.get("W2V_EXT_BENCH_ROWS", 100_000)), 300
BINARY = {"text": False, "binary": True}


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("vectors")
    rng = np.random.default_rng(0)
    words = [f"word{i}" for i in range(ROWS)]
    vectors = rng.normal(scale=0.2, size=(ROWS, DIM)).astype(np.float32)
    for name, binary in BINARY.items():
        formats.save_word2vec_format(folder / name, words, vectors, binary=binary)
        got_words, got = formats.load_word2vec_format(folder / name, binary=binary)
        assert got_words == words and np.array_equal(got, vectors)
        some = gensim.KeyedVectors.load_word2vec_format(str(folder / name), binary=binary, limit=1000)
        assert some.index_to_key == words[:1000] and np.array_equal(some.vectors, vectors[:1000])
    return folder


def numbers(benchmark):
    benchmark.extra_info["million_numbers_per_second"] = ROWS * DIM / benchmark.stats.stats.median / 1e6


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("name", BINARY)
def test_load(benchmark, files, name, threads):
    benchmark.group = f"load {name}"
    load = lambda: formats.load_word2vec_format(files / name, binary=BINARY[name], threads=threads)  # noqa: E731
    benchmark.pedantic(load, rounds=5, warmup_rounds=1)
    numbers(benchmark)


@pytest.mark.parametrize("name", BINARY)
def test_load_gensim(benchmark, files, name):
    benchmark.group = f"load {name}"
    load = lambda: gensim.KeyedVectors.load_word2vec_format(str(files / name), binary=BINARY[name])  # noqa: E731
    benchmark.pedantic(load, rounds=1)
    numbers(benchmark)


@pytest.mark.parametrize("name", BINARY)
def test_save(benchmark, files, name, tmp_path):
    benchmark.group = f"save {name}"
    table = formats.load_vectors(files / "binary")
    save = lambda: formats.save_word2vec_format(tmp_path / "v", table.words, table.vectors, binary=BINARY[name])  # noqa: E731
    benchmark.pedantic(save, rounds=3)
    numbers(benchmark)


@pytest.mark.parametrize("name", BINARY)
def test_save_gensim(benchmark, files, name, tmp_path):
    benchmark.group = f"save {name}"
    table = gensim.KeyedVectors.load_word2vec_format(str(files / "binary"), binary=True, limit=ROWS // 10)
    save = lambda: table.save_word2vec_format(str(tmp_path / "v"), binary=BINARY[name])  # noqa: E731
    benchmark.pedantic(save, rounds=1)
    benchmark.extra_info["million_numbers_per_second"] = ROWS // 10 * DIM / benchmark.stats.stats.median / 1e6
