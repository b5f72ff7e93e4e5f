"""The code that trains an epoch on the GPU, run on the CPU lane by lane: the ring of rows, windows, hand-out, chunks.

``csrc/epoch_warp.h`` is plain C++ when the compiler is not nvcc; ``tests/cpp/emulate_epoch.cpp`` gives it 32 lanes.
Here it is compiled, with undefined behaviour checked, and compared with the NumPy reference and the CPU's kernel.
"""

import ctypes
import os
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch
from test_sgns_kernel import make_case, train

import w2v_ext
from w2v_ext import reference
from w2v_ext.tables import keep_thresholds

ROOT = Path(__file__).resolve().parents[1]
COMPILER = next((c for c in (os.environ.get("CXX"), "c++", "g++", "clang++") if c and shutil.which(c)), None)


@pytest.fixture(scope="module")
def emulation(tmp_path_factory):
    if COMPILER is None:
        pytest.skip("needs a C++20 compiler")
    target = tmp_path_factory.mktemp("emulation") / "emulate_epoch.so"
    flags = "-std=c++20 -O0 -Wall -Wextra -Werror -fPIC -shared -fsanitize=undefined -fno-sanitize-recover=undefined"
    source = ROOT / "tests" / "cpp" / "emulate_epoch.cpp"
    subprocess.run([COMPILER, *flags.split(), f"-I{ROOT / 'csrc'}", str(source), "-o", str(target)], check=True)
    library = ctypes.CDLL(str(target))
    library.emulate_epoch.restype = ctypes.c_int64
    library.chunk_end.restype = library.shared_bytes.restype = ctypes.c_int64
    library.round_number.restype = ctypes.c_float
    return library


def pointer(array):
    return None if array is None else ctypes.c_void_p(array.ctypes.data)


def emulate(
    library, weights, ids, alias, keep, *, window=5, negative=5, seed=7, epoch=0, epochs=2, lr=0.05, begin=0, end=None,
    first=0, last=None, chunks=None, order=0, prefetch=0, hot=0,
):  # fmt: skip
    """Train (V, D) float32 or bfloat16 tensors in place; gives loss, pairs, words, the bad word's place, the counts."""
    dim, stride = weights[0].shape[1], -(-weights[0].shape[1] // 8) * 8
    bfloat16 = weights[0].dtype == torch.bfloat16
    tables = []
    for weight in weights:
        table = torch.zeros(len(weight), stride, dtype=weight.dtype)
        table[:, :dim] = weight
        tables.append(table)
    arrays = [t.view(torch.int16).numpy() if bfloat16 else t.numpy() for t in tables]
    last = len(ids) if last is None else last
    part = np.ascontiguousarray(ids.numpy()[first:last])
    if chunks is None:  # as the operator chooses
        chunks = -(-dim // 128) if dim <= 384 and negative <= 5 else 0
    sums, counts = np.zeros(3), np.zeros(3, np.int64)
    i64, u32 = ctypes.c_int64, ctypes.c_uint32
    bad = library.emulate_epoch(
        int(bfloat16), order, chunks, pointer(arrays[0]), pointer(arrays[1]), i64(stride), i64(dim), pointer(part),
        i64(first), i64(last), i64(len(ids)), i64(begin), i64(len(ids) if end is None else end),
        pointer(alias.numpy()), pointer(keep.numpy()), u32(len(alias)), window, negative, ctypes.c_uint64(seed),
        u32(epoch), u32(epochs), ctypes.c_double(lr), prefetch, hot, pointer(sums), pointer(counts),
    )  # fmt: skip
    for weight, table in zip(weights, tables, strict=True):
        assert not table[:, dim:].any()  # the padding stays zero
        weight.copy_(table[:, :dim])
    return *sums, bad, counts


def assert_as_on_the_cpu(library, case, tolerance=5e-6, **options):
    weights, ids, alias, keep = case
    own = [w.clone() for w in weights]
    chunks, hot = options.pop("chunks", None), options.pop("hot", 0)
    *sums, bad, counts = emulate(library, own, ids, alias, keep, chunks=chunks, hot=hot, **options)
    wanted = train(weights, ids, alias, keep, **options)
    assert bad == -1
    assert sums[1:] == list(wanted[1:])
    assert sums[1] > 0
    assert sums[0] == pytest.approx(wanted[0], rel=1e-5)
    for got, want in zip(own, weights, strict=True):
        assert (got - want).abs().max() < tolerance * max(1, want.abs().max())
    return own, counts


# ---- the numbers ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dim", [1, 7, 100, 128, 129, 300, 390])
@pytest.mark.parametrize(("window", "negative"), [(1, 1), (5, 5), (2, 13), (20, 3)])
def test_matches_the_reference(emulation, dim, window, negative):
    weights, ids, alias, keep = make_case(vocab=20_000, dim=dim, repeats=False)
    expected = [w.double().numpy().copy() for w in weights]
    own = [w.clone() for w in weights]
    *sums, bad, _ = emulate(emulation, own, ids, alias, keep, window=window, negative=negative, epoch=1)
    wanted = reference.train_sgns_(
        *expected, ids.numpy(), alias.numpy().view(np.uint32), keep.numpy().view(np.uint32),
        window=window, negative=negative, seed=7, epoch=1, epochs=2, lr=0.05,
    )  # fmt: skip
    assert bad == -1
    assert sums[1:] == list(wanted[1:])
    assert sums[0] == pytest.approx(wanted[0], rel=1e-5)
    for got, want in zip(own, expected, strict=True):
        assert np.abs(got.numpy() - want).max() < 5e-6


@pytest.mark.parametrize(("window", "negative"), [(1, 1), (5, 5), (12, 4), (20, 3)])
@pytest.mark.parametrize("dim", [5, 100])
def test_words_that_repeat_share_a_row_as_on_the_cpu(emulation, dim, window, negative):
    # 30 words, Zipf: nearly every block holds a word twice. The CPU's kernel moves the one row in memory.
    assert_as_on_the_cpu(emulation, make_case(dim=dim), window=window, negative=negative)


@pytest.mark.parametrize(("window", "negative"), [(12, 6), (4, 9), (2, 40)])
def test_words_that_repeat_with_several_groups_of_outputs_differ_in_second_order_only(emulation, window, negative):
    # Each group of outputs meets the contexts as they were before the block, in the reference as the contexts before
    # them have left them: the difference goes with lr squared.
    for lr in (1e-2, 1e-3):
        weights, ids, alias, keep = make_case()
        before, expected = [w.double().numpy().copy() for w in weights], [w.double().numpy().copy() for w in weights]
        _, pairs, words, *_ = emulate(emulation, weights, ids, alias, keep, window=window, negative=negative, lr=lr)
        wanted = reference.train_sgns_(
            *expected, ids.numpy(), alias.numpy().view(np.uint32), keep.numpy().view(np.uint32),
            window=window, negative=negative, seed=7, epoch=0, epochs=2, lr=lr,
        )  # fmt: skip
        assert [pairs, words] == list(wanted[1:])
        moved = max(np.abs(e - b).max() for e, b in zip(expected, before, strict=True))
        assert max(np.abs(w.numpy() - e).max() for w, e in zip(weights, expected, strict=True)) < 5 * lr * moved


def test_a_negative_that_is_a_centre_counts_for_the_other_centre_only(emulation):
    # Two words, noise on word 0 alone: with scores 0 each positive costs ln 2, and each negative, except for centre 0.
    weights = [torch.zeros(2, 16) for _ in range(2)]
    ids = torch.tensor([1, 0, 1, 1, -1], dtype=torch.int32)
    alias, keep = w2v_ext.alias_table(torch.tensor([1.0, 0.0])), keep_thresholds(np.ones(2))
    loss, pairs, *_ = emulate(emulation, weights, ids, alias, keep, window=1, negative=3)
    assert pairs == 6  # two of them with centre 0
    assert loss == pytest.approx((6 + 4 * 3) * np.log(2), rel=1e-6)


@pytest.mark.parametrize("chunks", [1, 2, 3, 0])
def test_rows_in_registers_or_read_again(emulation, chunks):
    assert_as_on_the_cpu(emulation, make_case(dim=128 * max(chunks, 1) - 28), chunks=chunks)


def test_the_order_of_the_lanes_changes_nothing(emulation):
    results = []
    for order in (0, 1):
        weights, *rest = make_case(dim=70)
        own = [w.clone() for w in weights]
        emulate(emulation, own, *rest, order=order, window=7, negative=8)
        results.append(own)
    for one, other in zip(*results, strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("length", [3, 4, 40, 200, 1000])
def test_long_and_short_sentences(emulation, length):
    assert_as_on_the_cpu(emulation, make_case(vocab=300, length=length, sentences=9, seed=3), tolerance=2e-5)


def test_words_that_are_never_kept(emulation):
    weights, ids, alias, _ = make_case(length=300)
    keep = keep_thresholds(np.where(np.arange(30) < 25, 0.01, 1.0))  # stretches of 32 words with none that is kept
    assert_as_on_the_cpu(emulation, (weights, ids, alias, keep))


def test_empty_sentences_and_no_last_marker(emulation):
    weights, _, alias, keep = make_case()
    for words in ([-1, -1, 1, 2, 3, -1, -1, 4, -1, 5, 6], [1, 2, 3, 4], [-1, 7, 8, -1]):
        ids = torch.tensor(words, dtype=torch.int32)
        assert_as_on_the_cpu(emulation, (weights, ids, alias, torch.full_like(keep, -1)))


def test_rows_are_read_once_and_added_once(emulation):
    # 60 different words in one sentence: with 32-lane reads of a row of 4 columns, one read and one add per row each.
    weights, _, alias, keep = make_case(vocab=60, dim=4)
    ids = torch.tensor([*range(60), -1], dtype=torch.int32)
    *_, counts = emulate(emulation, weights, ids, alias, torch.full_like(keep, -1), prefetch=1)
    assert list(counts[:2]) == [60 + 30 * 7] * 2  # 60 rows of in; 30 blocks' rows of out
    assert counts[2] == 2 * 60 + 30 * 5


@pytest.mark.parametrize("hot", [3, 30])
@pytest.mark.parametrize(("window", "negative"), [(1, 1), (5, 5), (20, 3)])
@pytest.mark.parametrize("dim", [7, 130, 400])
def test_rows_of_frequent_words_go_back_after_every_block(emulation, hot, window, negative, dim):
    _, few = assert_as_on_the_cpu(emulation, make_case(dim=dim), window=window, negative=negative)
    _, counts = assert_as_on_the_cpu(emulation, make_case(dim=dim), window=window, negative=negative, hot=hot)
    assert counts[0] - few[0] == counts[1] - few[1] > 0  # read once more, added once more


def test_frequent_words_are_given_back_wherever_they_lie(emulation):
    # 60 different words, all hot, in windows of up to 42: more than a word of bits tells of.
    weights, _, alias, keep = make_case(vocab=60, dim=4)
    ids = torch.tensor([*range(60), -1], dtype=torch.int32)
    *_, counts = emulate(emulation, weights, ids, alias, torch.full_like(keep, -1), window=20, negative=3, hot=60)
    held = [min(center + 2 + 20, 60) - max(center - 20, 0) for center in range(0, 60, 2)]
    assert max(held) == 42
    assert counts[1] == sum(held) + 30 * 5  # and 30 blocks' rows of out
    assert sum(held) + 30 * 5 <= counts[0] <= sum(held) + 30 * 5 + 60


def test_a_diverged_weight_shows_in_the_loss(emulation):
    weights, *rest = make_case()
    weights[0].fill_(float("nan"))
    assert np.isnan(emulate(emulation, weights, *rest)[0])


def test_word_out_of_range_is_reported(emulation):
    weights, ids, alias, keep = make_case()
    ids[5] = 30
    assert emulate(emulation, weights, ids, alias, keep)[3] == 5


# ---- hand-out and chunks -------------------------------------------------------------------------------------------


def test_every_sentence_is_handed_out_once(emulation):
    case = make_case(vocab=200, sentences=300)
    whole, _ = assert_as_on_the_cpu(emulation, case, tolerance=2e-5)
    weights, *rest = make_case(vocab=200, sentences=300)
    own, sums = [w.clone() for w in weights], np.zeros(3)
    edges = [0, 1, 2, 255, 256, 257, 600, 601, len(rest[0])]
    for begin, end in zip(edges, edges[1:], strict=False):
        *part, _, _ = emulate(emulation, own, *rest, begin=begin, end=end)
        sums += part
    for one, other in zip(own, whole, strict=True):
        assert torch.equal(one, other)


def test_chunks_of_a_corpus_train_as_the_whole(emulation):
    weights, ids, alias, keep = make_case(vocab=200, sentences=100)
    whole, parts = [w.clone() for w in weights], [w.clone() for w in weights]
    emulate(emulation, whole, ids, alias, keep)
    first, cuts = 0, 0
    while first < len(ids):
        last = emulation.chunk_end(
            pointer(ids.numpy()), ctypes.c_int64(len(ids)), ctypes.c_int64(first), ctypes.c_int64(60)
        )
        assert first < last <= first + 60
        assert ids[last - 1] == -1
        emulate(emulation, parts, ids, alias, keep, first=first, last=last, begin=first, end=last)
        first, cuts = last, cuts + 1
    assert cuts > 10
    for one, other in zip(parts, whole, strict=True):
        assert torch.equal(one, other)


def test_where_a_chunk_may_end(emulation):
    ids = np.array([1, 2, -1, 3, -1, 4, 5, 6, 7, -1, 8], np.int32)

    def end(begin, limit):
        return emulation.chunk_end(pointer(ids), ctypes.c_int64(11), ctypes.c_int64(begin), ctypes.c_int64(limit))

    assert [end(0, limit) for limit in (1, 2, 3, 4, 5, 6, 9, 10, 11, 99)] == [-1, -1, 3, 3, 5, 5, 5, 10, 11, 11]
    assert [end(5, limit) for limit in (4, 5, 6)] == [-1, 10, 11]


# ---- bfloat16 ------------------------------------------------------------------------------------------------------


def test_stochastic_rounding_keeps_the_mean(emulation):
    rng = np.random.default_rng(0)
    for number in (1.0 + 2**-10, -3.3, 1e-20, 0.0, 2.0**-126):
        down = np.float32(number).view(np.uint32) & np.uint32(0xFFFF0000)
        step = abs(float((down + np.uint32(0x10000)).view(np.float32)) - float(down.view(np.float32)))
        drawn = [emulation.round_number(ctypes.c_float(number), int(b)) for b in rng.integers(0, 65536, 4000)]
        assert set(np.float32(drawn).view(np.uint32) & 0xFFFF) == {0}
        assert np.mean(drawn) == pytest.approx(number, abs=0.05 * step)
    for number in (float("inf"), float("-inf")):
        assert emulation.round_number(ctypes.c_float(number), 65535) == number
    assert np.isnan(emulation.round_number(ctypes.c_float(float("nan")), 65535))
    assert emulation.round_number(ctypes.c_float(1.5), 65535) == 1.5  # what bfloat16 holds stays


@pytest.mark.parametrize(("dim", "negative", "hot"), [(20, 5, 0), (130, 3, 0), (20, 9, 0), (20, 5, 50), (130, 3, 200)])
def test_bfloat16_follows_float32(emulation, dim, negative, hot):
    weights, *rest = make_case(vocab=200, dim=dim, sentences=200)
    start = [w.bfloat16() for w in weights]
    exact, rounded = [w.float() for w in start], [w.clone() for w in start]
    emulate(emulation, exact, *rest, negative=negative, lr=0.01)
    *sums, bad, _ = emulate(emulation, rounded, *rest, negative=negative, lr=0.01, hot=hot)
    assert bad == -1
    for got, want, before in zip(rounded, exact, start, strict=True):
        moved = want - before.float()
        assert (got.float() - want).norm() < 0.5 * moved.norm()  # rounding: of many steps, in any direction
        assert torch.cosine_similarity((got.float() - before.float()).flatten(), moved.flatten(), dim=0) > 0.9


# ---- shared memory -------------------------------------------------------------------------------------------------


def test_a_warp_takes_as_much_shared_memory_as_documented(emulation):
    assert emulation.shared_bytes(5, 5, ctypes.c_int64(100)) < 14 * 1024
    assert emulation.shared_bytes(5, 5, ctypes.c_int64(300)) < 227 / 5 * 1024  # 5 warps on an SM of the H100
    assert emulation.shared_bytes(10_000, 1000, ctypes.c_int64(1 << 20)) > 1 << 36  # no overflow: refused by its size
