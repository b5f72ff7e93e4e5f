"""Compressed vectors: hand-made tables, bounds on the error, files."""

import itertools

import numpy as np
import pytest
import torch

from w2v_ext import KeyedVectors
from w2v_ext.compress import measure_loss
from w2v_ext.files import FormatError
from w2v_ext.formats.tensors import pack_words, write_tensors
from w2v_ext.kmeans import kmeans
from w2v_ext.quantize import METHODS, Compressed, compress, load_compressed, save_compressed


def vectors(rows=500, dim=12, rank=5, seed=0):
    rng = np.random.default_rng(seed)
    return (rng.normal(size=(rows, rank)) @ rng.normal(size=(rank, dim)) + 0.1 * rng.normal(size=(rows, dim))).astype(
        "f4"
    )


def test_int8_by_hand():
    packed = compress(torch.tensor([[0.0, 1.0, 255.0], [-1.0, -1.0, -1.0]]), "int8")
    assert packed.tensors["codes"].tolist() == [[0, 1, 255], [0, 0, 0]]
    assert packed.tensors["low"].tolist() == [0, -1] and packed.tensors["step"].tolist() == [1, 0]
    assert packed.decode().tolist() == [[0, 1, 255], [-1, -1, -1]]
    assert packed.num_bytes == 6 + 16 and len(packed) == 2


def test_symmetric_by_hand():
    packed = compress(torch.tensor([[-254.0, 2.0, 0.0], [0.0, 0.0, 0.0]]), "int8-symmetric")
    assert packed.tensors["codes"].tolist() == [[-127, 1, 0], [0, 0, 0]]
    assert packed.decode([0]).tolist() == [[-254, 2, 0]] and packed.decode(slice(1, 2)).tolist() == [[0, 0, 0]]


@pytest.mark.parametrize("scale", [1e-30, 1, 1e20, 2e37])
@pytest.mark.parametrize(("method", "levels"), [("int8", 255), ("int8-symmetric", 254)])
def test_8_bits_are_within_half_a_step(method, levels, scale):
    x = vectors() * np.float32(scale)
    span = x.max(1) - x.min(1) if method == "int8" else 2 * np.abs(x).max(1)
    error = np.abs(compress(x, method).decode().numpy().astype(float) - x).max(1)
    assert (error <= 0.5001 * span / levels + 1e-6 * np.abs(x).max(1) + 2e-45).all()


def test_int8_of_the_widest_range():
    big = np.finfo(np.float32).max
    decoded = compress(np.array([[-big, 0, big]], np.float32), "int8").decode()
    assert decoded.isfinite().all() and decoded[0, 2] == pytest.approx(big, rel=1e-2)


def test_low_rank_is_the_svd():
    x = vectors()
    u, s, vt = np.linalg.svd(x.astype(float), full_matrices=False)
    for rank in (1, 5, 12):
        packed = compress(x, "low-rank", rank=rank)
        np.testing.assert_allclose(packed.decode(), (u[:, :rank] * s[:rank]) @ vt[:rank], atol=2e-5)
        right = packed.tensors["right"]
        np.testing.assert_allclose(right @ right.T, np.eye(rank), atol=1e-5)


def test_pq_of_few_distinct_parts_is_exact():
    """Directions whose two halves are each one of 16: 256 centroids hold them all."""
    half = np.random.default_rng(0).normal(size=(16, 3))
    half /= np.linalg.norm(half, axis=1, keepdims=True)
    x = np.array([[*half[a], *half[b]] for a, b in itertools.product(range(16), repeat=2)] * 4, dtype=np.float32)
    x *= np.random.default_rng(1).uniform(0.5, 3, (len(x), 1)).astype("f4")
    packed = compress(x, "pq", parts=2)
    np.testing.assert_allclose(packed.decode(), x, rtol=1e-4, atol=1e-5)
    assert packed.tensors["codes"].shape == (1024, 2) and packed.tensors["centroids"].shape == (2, 256, 3)


@pytest.mark.parametrize(("dim", "parts"), [(1, 1), (7, 3), (12, 12), (13, 4)])
def test_pq_sizes(dim, parts):
    """Dimensions that do not divide, and more rows than centroids; more parts, less error."""
    x = vectors(700, dim)
    packed = compress(x, "pq", parts=parts)
    assert packed.decode().shape == (700, dim)
    error = np.linalg.norm(packed.decode().numpy() - x) / np.linalg.norm(x)
    assert error < (0.1 if parts in (1, 12) and dim in (1, 12) else 0.5)
    assert torch.equal(packed.decode(), compress(x, "pq", parts=parts).decode())  # the seed decides


def test_kmeans_ends_where_nothing_moves():
    x = torch.randn(3, 400, 2, generator=torch.Generator().manual_seed(0))
    centroids, nearest = kmeans(x, 8, iterations=200)
    for points, found, of in zip(x, centroids, nearest, strict=True):
        assert torch.equal(torch.cdist(points, found).argmin(1), of)
        for i in range(8):
            np.testing.assert_allclose(points[of == i].mean(0), found[i], atol=1e-5)


def test_kmeans_uses_every_centroid():
    """Two heaps, and all first centroids in one of them or equal: those that get no points move to far ones."""
    x = torch.cat([torch.zeros(300, 1), torch.arange(1.0, 11.0).repeat(3)[:, None]])[None]
    centroids, nearest = kmeans(x, 11, iterations=50)
    assert sorted(centroids[0, :, 0].round().tolist()) == list(range(11))
    np.testing.assert_allclose(centroids[0, nearest[0]], x[0], atol=1e-6)


def test_kmeans_fewer_points_than_centroids():
    x = torch.tensor([[[1.0], [2.0]]])
    centroids, nearest = kmeans(x, 5)
    assert torch.equal(centroids[0, nearest[0]], x[0])
    assert kmeans(torch.empty(2, 0, 3), 4)[1].shape == (2, 0)
    with pytest.raises(ValueError, match="x, k: expected shape"):
        kmeans(torch.empty(2, 3), 4)


@pytest.mark.parametrize("method", METHODS)
def test_no_rows(method):
    packed = compress(np.empty((0, 3), np.float32), method)
    assert packed.decode().shape == (0, 3)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (([1.0, 2.0],), r"vectors: expected shape \(V, D\) with D >= 1, got \(2,\)"),
        (([[1.0], [float("nan")]],), "vectors: row 1 is not finite"),
        (([[1.0]], "zip"), "method: expected one of int8, .* got 'zip'"),
    ],
)
def test_bad_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        compress(np.array(arguments[0]), *arguments[1:])


@pytest.mark.parametrize("method", METHODS)
def test_files(tmp_path, method):
    words = [f"w {i}" for i in range(500)]
    packed = compress(vectors(), method)
    save_compressed(tmp_path / "c", words, packed)
    got_words, got, counts = load_compressed(tmp_path / "c")
    assert got_words == words and counts is None and got.method == method
    assert torch.equal(got.decode(), packed.decode())


@pytest.mark.parametrize(
    ("kind", "dim", "changes", "message"),
    [
        ("int8", 2, {"codes": torch.zeros(3, 2)}, "codes is torch.float32"),
        ("int8", 3, {}, r"codes is torch.uint8 of shape \(3, 2\), expected"),
        ("int8", 2, {"step": torch.zeros(2)}, "step is"),
        ("int8", 2, {"step": torch.full((3,), torch.nan)}, "step is not finite"),
        ("zip", 2, {}, "holds 'zip' of dim 2, expected one of int8"),
        ("int8", "x", {}, "of dim 'x'"),
        ("pq", 2, {"norms": torch.ones(3), "centroids": torch.ones(2, 1, 1), "codes": torch.ones(3, 2).byte()}, "fit"),
        ("pq", 2, {}, "has no tensor centroids"),
    ],
)
def test_damaged_files(tmp_path, kind, dim, changes, message):
    tensors = {"codes": torch.zeros(3, 2).byte(), "low": torch.zeros(3), "step": torch.zeros(3), **changes}
    write_tensors(tmp_path / "c", kind, {**tensors, **pack_words(["a", "b", "c"])}, {"dim": dim})
    with pytest.raises(FormatError, match=f"c: .*{message}"):
        load_compressed(tmp_path / "c")


def test_loss(tmp_path):
    x = vectors()
    kv = KeyedVectors([f"w{i}" for i in range(500)], x)
    exact = Compressed("low-rank", {"left": torch.from_numpy(x), "right": torch.eye(12)}, 12)
    lines = [f"W{i}\tw{i + 1}\t{i % 7}\n" for i in range(50)]
    (tmp_path / "pairs").write_text("".join([*lines, "absent\tw1\t1\n"]))
    loss = measure_loss(kv, exact, tmp_path / "pairs")
    assert (loss.error, loss.recall, loss.queries, loss.pairs, loss.oov) == (0, 1, 500, 50, 1)
    assert loss.spearman_before == loss.spearman_after and loss.bytes_before == 24_000
    noise = Compressed("low-rank", {"left": torch.randn(500, 12), "right": torch.eye(12)}, 12)
    assert measure_loss(kv, noise).recall < 0.1
    errors = [measure_loss(kv, compress(x, "low-rank", rank=r)).recall for r in (1, 3, 5)]
    assert errors == sorted(errors) and errors[0] < 0.5 < errors[2]


def test_recall_by_hand():
    """Of the 2 neighbours of each of 4 words on a circle, one is lost."""
    angle = np.array([0, 1, 2, 20]) * np.pi / 40
    before = np.stack([np.cos(angle), np.sin(angle)], 1).astype("f4")
    after = before[[0, 3, 2, 1]]
    packed = Compressed("low-rank", {"left": torch.from_numpy(after), "right": torch.eye(2)}, 2)
    near = {0: [1, 2], 1: [0, 2], 2: [0, 1], 3: [1, 2]}
    moved = {0: [3, 2], 1: [2, 3], 2: [3, 0], 3: [0, 2]}
    expected = np.mean([len(set(near[i]) & set(moved[i])) / 2 for i in range(4)])
    assert measure_loss(KeyedVectors(list("abcd"), before), packed, topn=2).recall == expected
