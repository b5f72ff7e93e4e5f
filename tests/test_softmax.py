"""Hierarchical softmax, for skip-gram and CBOW: against autograd, and against the NumPy emulation."""

import numpy as np
import pytest
import torch
from instruction_sets import KERNELS, in_process
from test_sgns_kernel import make_case

from w2v_ext import (
    CorpusOptions,
    TrainConfig,
    Trainer,
    family_ops,
    prepare_corpus,
    reference_epochs,
)
from w2v_ext.huffman import HuffmanTree, huffman_tree
from w2v_ext.model_files import load_model
from w2v_ext.synthetic import BUILTIN_CLASSES, write_builtin_corpus
from w2v_ext.tables import keep_thresholds
from w2v_ext.train import main
from w2v_ext.trainer import Interrupted


@pytest.fixture(scope="module")
def planted_corpus(tmp_path_factory):
    folder = tmp_path_factory.mktemp("corpus")
    write_builtin_corpus(folder / "text.txt", sentences=15_000)
    with prepare_corpus(folder / "text.txt", CorpusOptions(), cache_dir=folder / "cache") as opened:
        yield opened


def assert_learns_the_planted_meaning(corpus, settings):
    """A word's neighbours are of its class."""
    settings = {"dim": 24, "epochs": 5, "threads": 2, "seed": 5, **settings}
    trainer = Trainer(corpus, TrainConfig(**settings)).fit()
    vectors = trainer.keyed_vectors()
    right = total = 0
    for words in BUILTIN_CLASSES.values():
        for word in words:
            neighbours = [w for w, _ in vectors.most_similar(word, topn=5)]
            right += sum(w in words for w in neighbours)
            total += len(neighbours)
    assert right / total > 0.9
    assert trainer.state.losses == sorted(trainer.state.losses, reverse=True)
    return trainer


def assert_resumes(corpus, settings, folder):
    """A run that is stopped and resumed gives the bits of one that is not."""
    config = TrainConfig(**{"dim": 24, "epochs": 2, "threads": 1, "seed": 5, **settings})
    whole = Trainer(corpus, config).fit()
    stopped = Trainer(corpus, config)

    def stop(trainer):
        trainer._stop = trainer.state.epoch == 1 or trainer.state.position > 0

    with pytest.raises(Interrupted):
        stopped.fit(on_progress=stop, checkpoint_dir=folder)
    resumed = Trainer(corpus, config)
    resumed.load_checkpoint(folder)
    assert 0 < resumed.words_done < resumed.total_words
    resumed.fit()
    assert resumed.state.losses == pytest.approx(whole.state.losses, rel=1e-12)
    for name, weight in whole.method.weights.items():
        assert torch.equal(weight, resumed.method.weights[name])


# ---- the tree ------------------------------------------------------------------------------------------------------


def test_tree_by_hand():
    # 1 + 1 = 2, 2 + 2 = 4, 3 + 4 = 7, 5 + 7 = 12; the lighter gets code 0, of equals the node.
    tree = huffman_tree([5, 3, 2, 1, 1])
    paths = [list(zip(tree.nodes(w).tolist(), tree.codes(w).tolist(), strict=True)) for w in range(5)]
    assert paths == [
        [(0, 0)],
        [(0, 1), (1, 0)],
        [(0, 1), (1, 1), (2, 1)],
        [(0, 1), (1, 1), (2, 0), (3, 0)],
        [(0, 1), (1, 1), (2, 0), (3, 1)],
    ]


@pytest.mark.parametrize("counts", [[1, 1], [0, 0, 5], [7] * 33, [10**15, 1, 1, 10**6], list(range(100, 0, -1))])
def test_tree_is_a_prefix_code_of_the_least_cost(counts):
    import heapq

    tree = huffman_tree(counts)
    codes = {tuple(tree.codes(w).tolist()) for w in range(len(counts))}
    assert len(codes) == len(counts)
    assert not any(a != b and a[: len(b)] == b for a in codes for b in codes)
    assert sum(2.0 ** -len(code) for code in codes) == 1
    below = {(): 0}  # the same turns lead to the same node
    for w in range(len(counts)):
        turns, nodes = tree.codes(w).tolist(), tree.nodes(w).tolist()
        for depth, node in enumerate(nodes):
            assert below.setdefault(tuple(turns[:depth]), node) == node
    assert sorted(below.values()) == list(range(len(counts) - 1))
    heap, cost = list(counts), 0
    heapq.heapify(heap)
    while len(heap) > 1:
        both = heapq.heappop(heap) + heapq.heappop(heap)
        cost += both
        heapq.heappush(heap, both)
    assert int((np.diff(tree.start) * np.array(counts)).sum()) == cost


def test_nodes_come_by_falling_count():
    counts = np.random.default_rng(0).integers(0, 1000, 500)
    tree = huffman_tree(counts)
    passing = np.zeros(499, np.int64)
    for w in range(500):
        passing[tree.nodes(w)] += counts[w]
    assert (np.diff(passing) <= 0).all()


def test_bad_counts():
    with pytest.raises(ValueError, match="counts: expected at least two non-negative integers"):
        huffman_tree([3])
    with pytest.raises(ValueError, match="counts: expected at least two non-negative integers"):
        huffman_tree([3, -1])


# ---- hierarchical softmax ------------------------------------------------------------------------------------------


def train_hs(weights, ids, tree, keep, *, cuts=(), **options):
    settings = {"cbow": False, "mean": True, "divide": False, "window": 5, "seed": 7, "epoch": 0, "epochs": 2}
    settings |= {"lr": 0.05, "threads": 1, **options}
    start, path = torch.from_numpy(tree.start), torch.from_numpy(tree.steps)
    total = np.zeros(3)
    edges = [0, *cuts, len(ids)]
    for begin, end in zip(edges, edges[1:], strict=False):
        total += family_ops.train_hs_(*weights, ids, start, path, keep, begin=begin, end=end, **settings)
    return total


def hs_case(vocab=30, dim=16, repeats=True, slope=1.0, **more):
    """make_case's, with a tree of counts that fall as rank ** -slope: the steeper, the longer the paths."""
    weights, ids, _, keep = make_case(vocab=vocab, dim=dim, repeats=repeats, **more)
    counts = (1e12 * np.arange(1.0, vocab + 1) ** -slope).astype(np.int64)
    return weights, ids, huffman_tree(counts), keep


def worst_difference(dim, window, cbow, mean=True, divide=False, repeats=False, slope=1.0, vocab=20_000):
    """Largest difference from the emulation, and largest change of a weight."""
    weights, ids, tree, keep = hs_case(30 if repeats else vocab, dim, repeats, slope)
    before = [w.double().numpy().copy() for w in weights]
    expected = [w.copy() for w in before]
    options = {"cbow": cbow, "mean": mean, "divide": divide, "window": window, "epoch": 1}
    stats = train_hs(weights, ids, tree, keep, **options)
    wanted = reference_epochs.train_hs_(
        *expected, ids.numpy(), tree, keep.numpy().view(np.uint32), seed=7, epochs=2, lr=0.05, **options
    )
    assert stats[1] == wanted[1] > 0
    assert stats[2] == wanted[2]
    assert stats[0] == pytest.approx(wanted[0], rel=1e-5)
    moved = max(np.abs(e - b).max() for e, b in zip(expected, before, strict=True))
    return max(np.abs(w.numpy() - e).max() for w, e in zip(weights, expected, strict=True)), moved


@pytest.mark.parametrize("cbow", [False, True])
@pytest.mark.parametrize("dim", [1, 7, 16, 33, 100, 129])
@pytest.mark.parametrize("window", [1, 5, 12])
def test_kernel_matches_the_emulation(dim, window, cbow):
    difference, moved = worst_difference(dim, window, cbow)
    assert difference < 1e-5
    assert moved > 0.01


@pytest.mark.parametrize("cbow", [False, True])
@pytest.mark.parametrize("slope", [0.0, 2.0, 5.0, 9.0])  # paths of 12 nodes; the others of more and more lengths
def test_paths_of_every_length(cbow, slope):
    vocab = 40 if slope > 2 else 3000
    lengths = np.diff(hs_case(vocab, slope=slope)[2].start)
    assert slope < 9 or (len(set(lengths.tolist())) > 20 and lengths.max() > 32)
    weights, ids, tree, keep = hs_case(vocab, 20, False, slope, length=30)
    expected = [w.double().numpy().copy() for w in weights]
    options = {"cbow": cbow, "mean": True, "divide": False, "window": 4, "epoch": 1}
    stats = train_hs(weights, ids, tree, keep, **options)
    wanted = reference_epochs.train_hs_(
        *expected, ids.numpy(), tree, keep.numpy().view(np.uint32), seed=7, epochs=2, lr=0.05, **options
    )
    assert stats[0] == pytest.approx(wanted[0], rel=1e-5)
    assert max(np.abs(w.numpy() - e).max() for w, e in zip(weights, expected, strict=True)) < 1e-5


@pytest.mark.parametrize(
    ("cbow", "mean", "divide"), [(False, True, False), (True, True, True), (True, False, False), (True, False, True)]
)
def test_words_that_meet_twice_in_a_window(cbow, mean, divide):
    assert worst_difference(16, 4, cbow, mean, divide, repeats=True)[0] < 1e-5


@pytest.mark.parametrize("kernels", KERNELS)
def test_every_instruction_set_matches_the_emulation(kernels):
    code = "import test_softmax as t; worst = [t.worst_difference(d, 5, c)[0] for d in (100, 7) for c in (False, True)]"
    assert in_process(kernels, f"{code}\nprint(float(max(worst)))") < 1e-5


@pytest.mark.parametrize("cbow", [False, True])
def test_hs_loss_and_gradient_are_autograds(cbow):
    # One pair of words, once each way: a step so small that it is the gradient.
    weights, _, tree, _ = hs_case(40, slope=3.0)
    ids = torch.tensor([3, 30, -1], dtype=torch.int32)
    before = [w.double().clone() for w in weights]
    lr = 1e-3
    stats = train_hs(weights, ids, tree, keep_thresholds(np.ones(40)), cbow=cbow, divide=True, window=1, lr=lr)
    leaves = [w.clone().requires_grad_() for w in before]
    log_probability = [hs_log_probabilities(leaves[1], leaves[0][v], tree)[w] for w, v in ((3, 30), (30, 3))]
    loss = -sum(log_probability)
    loss.backward()
    assert stats[0] == pytest.approx(float(loss.detach()), rel=1e-3)
    for weight, old, leaf in zip(weights, before, leaves, strict=True):
        torch.testing.assert_close((weight.double() - old) / -lr, leaf.grad, rtol=0, atol=5e-3)


def hs_log_probabilities(out_weight, v, tree: HuffmanTree):
    """(V,) log-probabilities of all words."""
    words = range(len(tree.start) - 1)
    scores = [(1 - 2 * torch.from_numpy(tree.codes(w))) * (out_weight[tree.nodes(w).tolist()] @ v) for w in words]
    return torch.stack([torch.nn.functional.logsigmoid(s).sum() for s in scores])


def test_hs_probabilities_sum_to_one():
    weights, _, tree, _ = hs_case(40, slope=3.0)
    total = hs_log_probabilities(weights[1].double(), weights[0][3].double(), tree).exp().sum()
    assert float(total) == pytest.approx(1, abs=1e-12)


@pytest.mark.parametrize("cbow", [False, True])
def test_one_thread_is_bit_identical_however_the_corpus_is_cut(cbow):
    results = []
    for cuts in ((), (17, 18, 90), tuple(range(5, 100, 5))):
        case = hs_case()
        train_hs(*case, cuts=cuts, cbow=cbow)
        results.append(case[0])
    for other in results[1:]:
        assert torch.equal(results[0][0], other[0])
        assert torch.equal(results[0][1], other[1])


@pytest.mark.parametrize("cbow", [False, True])
def test_threads_train_every_sentence_once(cbow):
    case, alone = (hs_case(5120, sentences=3000) for _ in range(2))  # ten hot nodes
    stats, expected = train_hs(*case, threads=3, cbow=cbow), train_hs(*alone, cbow=cbow)
    assert (stats[1], stats[2]) == (expected[1], expected[2])
    assert stats[0] == pytest.approx(expected[0], rel=0.05)


def test_bad_paths():
    weights, ids, tree, keep = hs_case()
    bad = tree.steps.copy()
    bad[3] = 2 * 29
    with pytest.raises(ValueError, match="path: expected nodes below 29, got 29 at position 3"):
        train_hs(weights, ids, HuffmanTree(tree.start, bad), keep)
    start = tree.start.copy()
    start[4] = start[3]
    with pytest.raises(ValueError, match="path_start: expected rising numbers, got .* at position 3"):
        train_hs(weights, ids, HuffmanTree(start, tree.steps), keep)
    with pytest.raises(ValueError, match=r"path_start: expected a contiguous int64 tensor of shape \(V \+ 1,\)"):
        train_hs(weights, ids, HuffmanTree(tree.start[1:], tree.steps), keep)


@pytest.mark.parametrize("model", ["skipgram", "cbow"])
def test_hs_learns_the_planted_meaning(planted_corpus, model):
    trainer = assert_learns_the_planted_meaning(planted_corpus, {"model": model, "loss": "hs", "epochs": 10})
    assert not trainer.out_weight[-1].any()  # V words, V - 1 nodes


@pytest.mark.parametrize("model", ["skipgram", "cbow"])
def test_a_resumed_hs_run_gives_the_same_bits(planted_corpus, model, tmp_path):
    assert_resumes(planted_corpus, {"model": model, "loss": "hs"}, tmp_path)


# ---- what is trained where -----------------------------------------------------------------------------------------


def test_the_command_line_trains_every_model(tmp_path):
    (tmp_path / "text.txt").write_text("a b c d e f g h\n" * 200)
    for model in ("skipgram", "cbow"):
        for loss in ("ns", "hs", "softmax"):
            out = tmp_path / f"{model}-{loss}"
            line = f"--corpus {tmp_path / 'text.txt'} --out {out} --model {model} --loss {loss} --dim 8 --epochs 1"
            assert main([*line.split(), "--sample", "0", "--threads", "1"]) == 0
            files = load_model(out)
            assert files.in_weight.shape == files.out_weight.shape == (8, 8)
            assert (files.config["model"], files.config["loss"]) == (model, loss)
            assert files.out_weight[:-1].any(dim=1).all()
            assert files.out_weight[-1].any() == (loss != "hs")
