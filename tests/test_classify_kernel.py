"""The classifier's kernels against the NumPy reference: the same steps, draws and answers."""

import numpy as np
import pytest
import torch
from instruction_sets import KERNELS, in_process

from w2v_ext import _text
from w2v_ext.classify import ops, reference
from w2v_ext.classify.lines import Encoded
from w2v_ext.classify.tree import LabelTree, label_tree
from w2v_ext.tables import padded_weight

NO_TREE = LabelTree(np.empty(0, np.int32), np.empty(0, np.int32), np.empty(0, np.int64))
LOSSES = ("softmax", "hs", "ova")


def make_case(loss, dim, num_labels, seed=0, lines=40, num_words=50, num_rows=300):
    """Random weights and lines: words with several rows and with none, rows of zeros, words twice, empty lines."""
    rng = np.random.default_rng(seed)
    tokens = [rng.integers(0, num_words, rng.integers(0, 12)) for _ in range(lines)]
    ngrams = [rng.integers(-1, num_rows, max(0, len(line) - 1)) for line in tokens]
    rows = [rng.integers(-1, num_rows, rng.integers(0, 4)) for _ in range(num_words)]
    labels = [rng.choice(num_labels, rng.integers(1, min(4, num_labels + 1)), replace=False) for _ in range(lines)]
    flat = lambda parts: torch.from_numpy(np.concatenate([*parts, []]).astype(np.int32))  # noqa: E731
    ends = lambda parts: torch.from_numpy(np.cumsum([len(part) for part in parts]).astype(np.int64))  # noqa: E731
    encoded = Encoded(flat(tokens), ends(tokens), flat(ngrams), ends(ngrams), flat(rows), ends(rows))
    line_rows = [
        [int(row) for word in line for row in rows[word]] + grams.tolist()
        for line, grams in zip(tokens, ngrams, strict=True)
    ]
    tree = label_tree(np.sort(rng.integers(1, 50, num_labels))[::-1]) if loss == "hs" else NO_TREE
    weights = []
    for size in (num_rows, num_labels - (loss == "hs")):
        weight = padded_weight(size, dim)
        weight.copy_(torch.from_numpy(rng.normal(0, 0.5, (size, dim))))
        weights.append(weight)
    order = rng.permutation(lines).astype(np.int32)
    return weights, encoded, line_rows, labels, (flat(labels), ends(labels)), tree, order


def train(case, loss, *, threads=1, cuts=(), lr=0.2, epoch=1, epochs=3, seed=7):
    weights, encoded, _, _, labels, tree, order = case
    total, edges = np.zeros(2), [0, *cuts, len(order)]
    for begin, end in zip(edges, edges[1:], strict=False):
        total += ops.train_classifier_(
            *weights, encoded, *labels, torch.from_numpy(tree.path), torch.from_numpy(tree.path_ends),
            torch.from_numpy(order), loss=loss, lr=lr, seed=seed, epoch=epoch, epochs=epochs, begin=begin, end=end,
            threads=threads,
        )  # fmt: skip
    return total


def worst_difference(loss, dim, num_labels):
    case = make_case(loss, dim, num_labels)
    weights, _, line_rows, labels, _, tree, order = case
    before = [w.double().numpy().copy() for w in weights]
    expected = [w.copy() for w in before]
    total, examples = train(case, loss)
    wanted = reference.train_lines_(
        *expected, line_rows, labels, order, loss=loss, lr=0.2, seed=7, epoch=1, epochs=3, tree=tree
    )
    assert examples == wanted[1] > 30
    assert total == pytest.approx(wanted[0], rel=2e-6)
    moved = min(np.abs(e - b).max() for e, b in zip(expected, before, strict=True))
    assert moved > 0.003
    return max(np.abs(w.numpy() - e).max() for w, e in zip(weights, expected, strict=True))


# Only float32 rounding is left: the weights are around 1.
@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize(("dim", "num_labels"), [(1, 2), (7, 3), (16, 5), (100, 2), (129, 17), (300, 40)])
def test_kernel_matches_the_reference(loss, dim, num_labels):
    assert worst_difference(loss, dim, num_labels) < 3e-6


@pytest.mark.parametrize("loss", LOSSES)
def test_answers_match_the_reference(loss):
    weights, encoded, line_rows, _, _, tree, _ = make_case(loss, 20, 23)
    children = torch.from_numpy(tree.children)
    for k, threshold in ((1, 0.0), (5, 0.02), (23, 0.0)):
        labels, probabilities = ops.classify(
            *weights, encoded, children, loss=loss, k=k, threshold=threshold, threads=2
        )
        for line, rows in enumerate(line_rows):
            if not any(row >= 0 for row in rows):
                assert (labels[line] == -1).all() and (probabilities[line] == 0).all()
                continue
            wanted = reference.probabilities(*(w.double().numpy() for w in weights), rows, loss, tree)
            best = [label for label in np.argsort(-wanted) if wanted[label] >= threshold][:k]
            assert labels[line, : len(best)].tolist() == best and (labels[line, len(best) :] == -1).all()
            np.testing.assert_allclose(probabilities[line, : len(best)], wanted[best], rtol=1e-4, atol=1e-7)
        if loss != "ova" and k == 23:
            given = (labels >= 0).any(dim=1)
            np.testing.assert_allclose(probabilities.sum(dim=1)[given], 1, rtol=1e-5)


def test_a_tie_goes_to_the_first_label():
    case = make_case("softmax", 8, 6)
    case[0][1].zero_()
    no_tree = torch.empty(0, dtype=torch.int32)
    labels, _ = ops.classify(*case[0], case[1], no_tree, loss="softmax", k=3, threshold=0.0, threads=1)
    assert {tuple(row) for row in labels.tolist()} <= {(0, 1, 2), (-1, -1, -1)}


@pytest.mark.parametrize("loss", LOSSES)
def test_where_the_order_is_cut_changes_nothing_with_one_thread(loss):
    whole, cut = make_case(loss, 33, 9), make_case(loss, 33, 9)
    sums = train(whole, loss), train(cut, loss, cuts=(1, 2, 17, 30))
    for a, b in zip(whole[0], cut[0], strict=True):
        assert torch.equal(a, b)
    np.testing.assert_allclose(*sums, rtol=1e-12)


@pytest.mark.parametrize("loss", LOSSES)
def test_threads_train_the_same_model_but_for_the_order(loss):
    """With a small step the order matters in second order only: what was learnt must be the same sum.

    Where the system stops a thread between reading and writing a row, what others add to it meanwhile is lost, now and
    then a good part of it; so this looks at the median of a few runs.
    """

    def moves(threads):
        case = make_case(loss, 12, 5, lines=400, num_rows=20_000, num_words=500)
        before = [w.clone() for w in case[0]]
        _, examples = train(case, loss, threads=threads, lr=1e-3)
        assert examples > 350
        return [(w - b).double() for w, b in zip(case[0], before, strict=True)]

    alone, together = moves(1), [moves(4) for _ in range(5)]
    for part, one in enumerate(alone):
        assert np.median([float((one - four[part]).norm() / one.norm()) for four in together]) < 0.05


@pytest.mark.parametrize("kernels", KERNELS)
def test_every_instruction_set_matches_the_reference(kernels):
    code = (
        "import test_classify_kernel as t\n"
        "t.test_answers_match_the_reference('hs'); t.test_answers_match_the_reference('softmax')\n"
        "print(float(max(t.worst_difference(l, d, n) for l in t.LOSSES for d, n in [(100, 2), (7, 20)])))"
    )
    assert in_process(kernels, code) < 3e-6


def test_hashes_and_ngrams_match_the_reference():
    words = ["film", "naïve", "</s>", "词语", "a", "film" * 20]
    hashes = _text.word_hashes(words)
    assert [h & 0xFFFFFFFF for h in hashes.tolist()] == [reference.word_hash(word.encode()) for word in words]
    tokens = [[0, 1, 2], [], [5], [3, 3, 4, 0, 1, 2]]
    flat = torch.tensor(sum(tokens, []), dtype=torch.int32)
    ends = torch.tensor(np.cumsum([len(line) for line in tokens]))
    lines = torch.arange(4, dtype=torch.int32)
    for most in (1, 2, 3, 9):
        wanted = [reference.ngram_buckets(hashes[line].tolist(), most, 1000) for line in tokens]
        rows = torch.full((1000,), -1, dtype=torch.int32)
        hashed = torch.from_numpy(hashes)
        found, found_ends, free = ops.ngram_rows_(rows, flat, ends, hashed, lines, most, 10, 1)
        assert found_ends.tolist() == np.cumsum([len(line) for line in wanted]).tolist()
        met = list(dict.fromkeys(sum(wanted, [])))  # numbered as they come
        assert free == 10 + len(met)
        assert found.tolist() == [10 + met.index(bucket) for bucket in sum(wanted, [])]
        assert (rows >= 0).sum() == len(met)
        again = ops.ngram_rows_(rows, flat, ends, hashed, lines[:3], most, -1, 2)  # numbers nothing, passes over line 3
        assert again[0].tolist() == found.tolist()[: found_ends[2]]
        assert again[1].tolist() == [*found_ends.tolist()[:3], int(found_ends[2])]


def test_tree():
    tree = label_tree(np.array([10, 5, 2, 1]))
    assert np.diff(tree.path_ends, prepend=0).tolist() == [1, 2, 3, 3]
    counts = np.sort(np.random.default_rng(0).integers(1, 1000, 77))[::-1]
    tree = label_tree(counts)
    lengths = np.diff(tree.path_ends, prepend=0)
    assert len(tree.children) == 2 * 76 and sorted(tree.children.tolist()) == list(range(2 * 77 - 2))
    assert (np.diff(lengths) >= 0).all()  # rarer labels are never nearer to the root
    assert np.sum(0.5**lengths) == 1  # Kraft: every branch ends in a label
    for label in range(77):  # the path leads from the root to the label
        path = tree.path[tree.path_ends[label - 1] if label else 0 : tree.path_ends[label]]
        at = 2 * 77 - 2
        for step in path[::-1]:
            assert at - 77 == step >> 1
            at = tree.children[2 * (at - 77) + (step & 1)]
        assert at == label


def test_wrong_arguments_are_named():
    def call(change):
        weights, encoded, _, _, labels, tree, order = make_case("softmax", 8, 4)
        arguments = dict(
            in_weight=weights[0], out_weight=weights[1], labels=labels[0], label_ends=labels[1],
            path=torch.from_numpy(tree.path), path_ends=torch.from_numpy(tree.path_ends), order=torch.from_numpy(order),
            loss="softmax", lr=0.1, seed=1, epoch=0, epochs=1, begin=0, end=len(order), threads=1,
        )  # fmt: skip
        lines = Encoded(**{**vars(encoded), **{k: v for k, v in change.items() if k in vars(encoded)}})
        arguments.update({k: v for k, v in change.items() if k not in vars(encoded)})
        return ops.train_classifier_(lines=lines, **arguments)

    int32 = lambda *values: torch.tensor(values, dtype=torch.int32)  # noqa: E731
    assert call({})[1] > 0
    for change, error, message in (
        ({"in_weight": torch.zeros(300, 8)}, ValueError, "in_weight: expected 64-byte aligned rows"),
        ({"out_weight": padded_weight(4, 9)}, ValueError, "out_weight: expected float32 of shape"),
        ({"loss": "nce"}, ValueError, "loss: expected softmax, hs or ova, got nce"),
        ({"lr": -1.0}, ValueError, "lr: expected a positive number, got -1"),
        ({"threads": 0}, ValueError, "threads: expected an integer from 1"),
        ({"begin": 5, "end": 4}, ValueError, "begin, end: expected"),
        ({"epoch": 1}, ValueError, "epoch: expected"),
        ({"tokens": torch.zeros(3)}, ValueError, "tokens: expected a contiguous int32 tensor"),
        ({"ends": torch.tensor([3, 2])}, ValueError, "ends: expected rising numbers"),
        ({"ngram_ends": torch.tensor([0])}, ValueError, "ngram_ends: expected shape"),
        ({"label_ends": torch.tensor([0])}, ValueError, "label_ends: expected shape"),
        ({"order": int32(99), "end": 1}, IndexError, "order: 99 is out of range"),
        ({"tokens": torch.full((1000,), 77, dtype=torch.int32)}, IndexError, "tokens: 77 is out of range"),
        ({"rows": torch.full((1000,), 300, dtype=torch.int32)}, IndexError, "rows, ngrams: 300 is out of range"),
        ({"rows": torch.full((1000,), -2, dtype=torch.int32)}, IndexError, "rows, ngrams: -2 is out of range"),
        ({"labels": torch.full((1000,), 4, dtype=torch.int32)}, IndexError, "labels: 4 is out of range"),
    ):
        with pytest.raises(error, match=message):
            call(change)
