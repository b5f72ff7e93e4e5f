"""CBOW and hierarchical softmax on CUDA, emulated and on a GPU where there is one, against the CPU's kernels."""

import numpy as np
import pytest
import torch
from test_sgns_kernel import make_case

from w2v_ext import TrainConfig, Trainer, corpus_from_sequences, family_ops, ops
from w2v_ext.huffman import huffman_tree
from w2v_ext.methods import _on_cuda, cuda_epoch
from w2v_ext.methods.cuda_epoch import default_sentences_in_flight, device_weight
from w2v_ext.methods.cuda_family import hottest_sum

MODELS = ("cbow", "cbow-hs", "skipgram-hs")
VARIANTS = [("cbow", True, False), ("cbow", False, True), ("cbow", True, True), ("cbow", False, False)]
VARIANTS += [("cbow-hs", True, False), ("cbow-hs", False, True), ("skipgram-hs", True, False)]
NO_PLACE = 2**63 - 1


def case_of(model, *, vocab=30, slope=1.0, **more):
    """Weights, ids, keep, and the noise or a tree: the steeper the counts, the longer its paths."""
    weights, ids, alias, keep = make_case(vocab=vocab, **more)
    counts = (1e12 * np.arange(1.0, vocab + 1) ** -slope).astype(np.int64)
    return weights, ids, keep, alias if model == "cbow" else huffman_tree(counts)


def settings_of(model, negative=5, **changes):
    settings = {"mean": True, "divide": False, "window": 5, "seed": 7, "epoch": 0, "epochs": 2, "lr": 0.05, **changes}
    return settings | ({"negative": negative} if model == "cbow" else {"cbow": model == "cbow-hs"})


def on_cpu(case, model, hot_words=0, **changes):
    weights, ids, keep, other = case
    settings = {**settings_of(model, **changes), "begin": 0, "end": len(ids), "threads": 1}
    if model == "cbow":
        return family_ops.train_cbow_(*weights, ids, other, keep, **settings)
    paths = torch.from_numpy(other.start), torch.from_numpy(other.steps)
    return family_ops.train_hs_(*weights, ids, *paths, keep, **settings)


def on_cuda(device, case, model, flight=1, cuts=(), **changes):
    """Train copies: gives them on the CPU, the sums, and the first bad place."""
    start, ids, keep, other = case
    tables = [device_weight(*w.shape, torch.float32, device) for w in start]
    for table, weight in zip(tables, start, strict=True):
        table.copy_(weight)
    sums, bad = torch.zeros(3, dtype=torch.float64, device=device), torch.full((1,), NO_PLACE, device=device)
    settings = {**settings_of(model, **changes), "first": 0, "num_ids": len(ids), "sentences_in_flight": flight}
    ids, keep, edges = ids.to(device), keep.to(device), [0, *cuts, len(ids)]
    for begin, end in zip(edges, edges[1:], strict=False):
        part = {**settings, "begin": begin, "end": end}
        if model == "cbow":
            family_ops.train_cbow_cuda_(*tables, sums, bad, ids, other.to(device), keep, **part)
        else:
            paths = [torch.from_numpy(steps).to(device) for steps in (other.start, other.steps)]
            longest = part.pop("longest", int(np.diff(other.start).max()))
            family_ops.train_hs_cuda_(*tables, sums, bad, ids, *paths, keep, longest=longest, **part)
    for table in tables:
        assert not torch.as_strided(table, (len(table), table.stride(0)), (table.stride(0), 1))[
            :, table.shape[1] :
        ].any()
    return [t.cpu() for t in tables], sums.tolist(), int(bad.item())


def assert_as_on_the_cpu(device, model, tolerance=5e-6, case=None, **changes):
    case = case or {}
    moved, sums, bad = on_cuda(device, case_of(model, **case), model, **changes)
    expected = case_of(model, **case)
    wanted = on_cpu(expected, model, **changes)
    assert bad == NO_PLACE
    assert sums[1:] == list(wanted[1:])
    assert sums[1] > 0
    assert sums[0] == pytest.approx(wanted[0], rel=1e-5)
    for got, want, start in zip(moved, expected[0], case_of(model, **case)[0], strict=True):
        assert (got - want).abs().max() < tolerance * max(1, want.abs().max())
        assert (want - start).abs().max() > 0.01


# ---- the kernels ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("model", "mean", "divide"), VARIANTS)
def test_mean_or_sum_divided_or_not(any_cuda, model, mean, divide):
    options = {"mean": mean, "divide": divide}
    assert_as_on_the_cpu(any_cuda, model, case={"vocab": 2000, "dim": 20, "repeats": False}, **options)
    assert_as_on_the_cpu(any_cuda, model, 2e-5, case={"dim": 20}, **options)  # 30 words: most blocks have one twice


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize(("dim", "window"), [(1, 1), (7, 5), (100, 5), (130, 12), (300, 3)])
def test_every_dimension_and_window(any_cuda, lanes, model, dim, window):
    case = {"vocab": 2000, "dim": dim, "repeats": False, "sentences": 6}
    assert_as_on_the_cpu(any_cuda, model, case=case, window=window, epoch=1)


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("hot_words", [3, 30])
def test_rows_of_frequent_words_go_back_after_every_block(any_cuda, lanes, model, hot_words):
    assert_as_on_the_cpu(any_cuda, model, 2e-5, case={"dim": 20}, hot_words=hot_words)


@pytest.mark.parametrize("negative", [1, 4, 6, 13, 40])
def test_any_number_of_negatives(any_cuda, negative):
    case = {"vocab": 20_000, "dim": 12, "repeats": False, "sentences": 6}
    assert_as_on_the_cpu(any_cuda, "cbow", case=case, negative=negative)


@pytest.mark.parametrize("model", MODELS[1:])
@pytest.mark.parametrize("slope", [0.0, 3.0, 10.0])
def test_paths_of_any_length(any_cuda, model, slope):
    assert_as_on_the_cpu(any_cuda, model, case={"vocab": 120, "dim": 12, "repeats": False, "slope": slope})


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("length", [3, 4, 200])
def test_long_and_short_sentences(any_cuda, model, length):
    case = {"vocab": 2000, "dim": 8, "repeats": False, "length": length, "sentences": 9}
    assert_as_on_the_cpu(any_cuda, model, case=case)


@pytest.mark.parametrize("model", MODELS)
def test_one_sentence_in_flight_is_the_same_however_the_corpus_is_cut(any_cuda, model):
    case = {"vocab": 200, "dim": 8, "sentences": 60}
    whole, *_ = on_cuda(any_cuda, case_of(model, **case), model)
    parts, *_ = on_cuda(any_cuda, case_of(model, **case), model, cuts=(1, 2, 255, 256, 300))
    for one, other in zip(whole, parts, strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("flight", [3, 40])
def test_warps_share_the_sentences(any_cuda, model, flight):
    case = {"vocab": 200, "dim": 8, "sentences": 120}
    alone, one, _ = on_cuda(any_cuda, case_of(model, **case), model, lr=1e-4)
    together, many, _ = on_cuda(any_cuda, case_of(model, **case), model, flight, lr=1e-4)
    assert many[1:] == one[1:]
    assert many[0] == pytest.approx(one[0], rel=1e-3)
    for got, want, start in zip(together, alone, case_of(model, **case)[0], strict=True):
        assert (got - want).norm() < 0.02 * (want - start).norm()  # no update is lost


@pytest.mark.parametrize("model", MODELS)
def test_a_diverged_weight_shows_in_the_loss(any_cuda, model):
    case = case_of(model)
    case[0][0].fill_(float("nan"))
    assert np.isnan(on_cuda(any_cuda, case, model)[1][0])


@pytest.mark.parametrize("model", MODELS)
def test_bad_words_and_settings_are_named(any_cuda, model):
    case = case_of(model)
    case[1][5] = 30
    assert on_cuda(any_cuda, case, model)[2] == 5
    settings = [
        ({"window": 0}, "window: expected an integer from 1"),
        ({"lr": 0.0}, "lr: expected a positive number"),
        ({"epoch": 2}, "epoch: expected 0 <= epoch < epochs, got 2 of 2"),
        ({"flight": 0}, "sentences_in_flight: expected an integer from 1"),
        ({"window": 10_000}, "dim, window: expected the 20002 rows of a block.s windows to fit"),
    ]
    if model == "cbow":
        settings.append(({"negative": 0}, "negative: expected an integer from 1"))
    else:
        settings.append(({"longest": 0}, "longest: expected 1 to 29 nodes on the longest path, got 0"))
    for changes, message in settings:
        with pytest.raises((ValueError, RuntimeError), match=message):
            on_cuda(any_cuda, case_of(model), model, **changes)


# ---- the trainer ---------------------------------------------------------------------------------------------------


def small_corpus():
    rng = np.random.default_rng(0)
    # No word twice in a sentence: with several groups of outputs, repeated ones differ in second order.
    return corpus_from_sequences([rng.permutation(300)[:30].tolist() for _ in range(25)])


def train_both(device, corpus, **changes):
    """Trainers of the CPU, and of CUDA with one sentence in flight."""
    settings = {"dim": 20, "min_count": 1, "sample": 0, "epochs": 2, "threads": 1, **changes}
    here = Trainer(corpus, TrainConfig(device="cpu", **settings)).fit()
    config = TrainConfig(device="cuda" if device.type == "cuda" else "cpu", sentences_in_flight=1, **settings)
    there = Trainer(corpus, config)
    if device.type == "cpu":
        there.method = _on_cuda(corpus, config, device)
    return here, there


@pytest.mark.parametrize("settings", [{"model": "cbow"}, {"loss": "hs"}, {"model": "cbow", "loss": "hs", "lr": 0.01}])
def test_the_trainer_gives_the_cpu_trainers_vectors(any_cuda, settings, monkeypatch):
    here, there = train_both(any_cuda, small_corpus(), **settings)
    there.fit()
    assert there.state.words == here.state.words
    assert there.state.losses == pytest.approx(here.state.losses, rel=1e-4)
    assert "1 sentences in flight" in there.where
    for one, other in zip(there.method.weights.values(), here.method.weights.values(), strict=True):
        assert (one.cpu() - other).abs().max() < 1e-3 * other.abs().max()
    assert len(there.keyed_vectors()) == len(there.corpus.vocab)
    monkeypatch.setattr(cuda_epoch, "RESIDENT_SHARE", 0)
    monkeypatch.setattr(cuda_epoch, "CHUNK_IDS", 400)
    _, streamed = train_both(any_cuda, small_corpus(), **settings)
    assert streamed.method.streams
    streamed.fit()
    for one, other in zip(streamed.method.weights.values(), there.method.weights.values(), strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("settings", [{}, {"model": "cbow"}, {"loss": "hs"}, {"model": "fasttext"}])
def test_frequent_words_are_known_to_the_kernels(pretended_cuda, monkeypatch, settings):
    monkeypatch.setattr(cuda_epoch, "HOT_ROW_COPIES", 0.2)
    config = TrainConfig(min_count=1, dim=4, sample=0, sentences_in_flight=3, **settings)
    method = _on_cuda(small_corpus(), config, pretended_cuda)
    asked = []
    monkeypatch.setattr(ops, "_call", lambda operator, *arguments: asked.append(arguments[-1]))
    method._launch(method._ids, 0, 0, 0, 1)
    if settings.get("model") == "fasttext":
        assert method.hot_words == 0
        assert asked == [3]  # the sentences: the operator takes no frequent words
    else:
        assert asked == [method.hot_words]
        assert 0 < method.hot_words < len(method.in_weight)


def test_a_tree_bears_fewer_sentences_in_flight(pretended_cuda, monkeypatch):
    assert default_sentences_in_flight(132, 1e-4, 5, 1.0) == cuda_epoch.HOT_OUTPUT_COPIES
    monkeypatch.setattr(cuda_epoch, "WARPS_PER_MULTIPROCESSOR", 1000)
    corpus = small_corpus()
    flights = [
        _on_cuda(corpus, TrainConfig(min_count=1, dim=4, sample=0, loss=loss), pretended_cuda).sentences_in_flight
        for loss in ("ns", "hs")
    ]
    assert flights[0] > flights[1] == cuda_epoch.HOT_OUTPUT_COPIES


def test_sums_of_rows_bear_more_copies_than_rows(pretended_cuda, monkeypatch):
    monkeypatch.setattr(cuda_epoch, "WARPS_PER_MULTIPROCESSOR", 1000)
    config = TrainConfig(min_count=1, dim=4, sample=0, model="fasttext", buckets=1000)
    method = _on_cuda(small_corpus(), config, pretended_cuda)
    hottest = hottest_sum(small_corpus().vocab.counts, method.keep_probabilities, method.groups)
    bounds = [cuda_epoch.HOT_COPIES / (11 * hottest), cuda_epoch.HOT_SUM_COPIES / (11 * hottest)]
    assert bounds[0] < method.sentences_in_flight == int(bounds[1]) < 3000


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device and a CUDA build of PyTorch")
@pytest.mark.parametrize("model", ["skipgram", "cbow"])
def test_the_full_softmax_is_the_cpus(model):
    settings = {"model": model, "loss": "softmax", "dim": 20, "min_count": 1, "sample": 0, "epochs": 2}
    here = Trainer(small_corpus(), TrainConfig(device="cpu", **settings)).fit()
    there = Trainer(small_corpus(), TrainConfig(device="cuda", **settings)).fit()
    assert there.device.type == "cuda"
    assert there.state.losses == pytest.approx(here.state.losses, rel=1e-4)
    for one, other in zip(there.method.weights.values(), here.method.weights.values(), strict=True):
        assert (one.cpu() - other).abs().max() < 1e-3 * other.abs().max()
