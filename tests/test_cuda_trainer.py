"""Training on a GPU: with one sentence in flight, number for number what the reference and the CPU's trainer give."""

import numpy as np
import pytest
import torch
from test_sgns_kernel import make_case, train
from test_trainer import assert_same, config, corpus, interrupt_at, weights  # noqa: F401  (corpus is a fixture)

from w2v_ext import TrainConfig, Trainer, corpus_from_sequences, ops, prepare_corpus, reference
from w2v_ext.methods import cuda_epoch
from w2v_ext.methods.cuda_epoch import device_weight
from w2v_ext.synthetic import BUILTIN_CLASSES, write_builtin_corpus
from w2v_ext.trainer import TrainingError

pytestmark = [
    pytest.mark.cuda,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device and a CUDA build of PyTorch"),
]


def train_cuda(
    start, ids, alias, keep, *, window=5, negative=5, seed=7, epoch=0, epochs=2, lr=0.05, flight=1, cuts=(),
    dtype=torch.float32, hot=0,
):  # fmt: skip
    """Train copies of two (V, D) tables; gives them on the CPU in float32, and loss, pairs, words."""
    tables = []
    for weight in start:
        table = device_weight(*weight.shape, dtype, torch.device("cuda"))
        table.copy_(weight)
        tables.append(table)
    sums, bad = torch.zeros(3, dtype=torch.float64, device="cuda"), torch.full((1,), 2**63 - 1, device="cuda")
    edges = [0, *cuts, len(ids)]
    on_device = [t.cuda() for t in (ids, alias, keep)]
    for begin, end in zip(edges, edges[1:], strict=False):
        ops.train_sgns_cuda_(
            *tables, sums, bad, *on_device, first=0, num_ids=len(ids), begin=begin, end=end, window=window,
            negative=negative, seed=seed, epoch=epoch, epochs=epochs, lr=lr, sentences_in_flight=flight,
            hot_words=hot,
        )  # fmt: skip
    for table in tables:
        whole = torch.as_strided(table, (len(table), table.stride(0)), (table.stride(0), 1))
        assert not whole[:, table.shape[1] :].any()  # the padding stays zero
    return [t.float().cpu() for t in tables], sums.tolist(), int(bad)


# ---- the kernel ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dim", [1, 7, 100, 128, 129, 300, 390])
@pytest.mark.parametrize(("window", "negative"), [(1, 1), (5, 5), (2, 13), (20, 3)])
def test_one_sentence_in_flight_matches_the_reference(dim, window, negative):
    start, ids, alias, keep = make_case(vocab=20_000, dim=dim, repeats=False)
    expected = [w.double().numpy().copy() for w in start]
    got, sums, bad = train_cuda(start, ids, alias, keep, window=window, negative=negative, epoch=1)
    wanted = reference.train_sgns_(
        *expected, ids.numpy(), alias.numpy().view(np.uint32), keep.numpy().view(np.uint32),
        window=window, negative=negative, seed=7, epoch=1, epochs=2, lr=0.05,
    )  # fmt: skip
    assert bad == 2**63 - 1
    assert sums[1:] == list(wanted[1:])
    assert sums[0] == pytest.approx(wanted[0], rel=1e-5)
    for one, other in zip(got, expected, strict=True):
        assert np.abs(one.numpy() - other).max() < 5e-6


@pytest.mark.parametrize(("window", "negative"), [(1, 1), (5, 5), (12, 4), (20, 3)])
@pytest.mark.parametrize("dim", [5, 100, 300])
@pytest.mark.parametrize("hot", [0, 10])
def test_one_sentence_in_flight_matches_the_cpu_where_words_repeat(dim, window, negative, hot):
    case = make_case(dim=dim)
    got, sums, _ = train_cuda(*case, window=window, negative=negative, hot=hot)
    wanted = train(*case, window=window, negative=negative)
    assert sums[1:] == list(wanted[1:])
    assert sums[0] == pytest.approx(wanted[0], rel=1e-5)
    for one, other in zip(got, case[0], strict=True):
        assert (one - other).abs().max() < 5e-6 * max(1, other.abs().max())


def test_one_sentence_in_flight_is_bit_identical_however_the_corpus_is_cut():
    case = make_case(vocab=200, sentences=300)
    results = [train_cuda(*case, cuts=cuts)[0] for cuts in ((), (), (1, 2, 255, 256, 257, 900))]
    for other in results[1:]:
        assert_same(results[0], other)


@pytest.mark.parametrize("flight", [2, 33, 528, 5000])
def test_many_sentences_in_flight_train_every_sentence_once(flight):
    case = make_case(vocab=5000, sentences=3000)
    _, sums, _ = train_cuda(*case, flight=flight, lr=0.01)
    wanted = train(*case, lr=0.01)
    assert sums[1:] == list(wanted[1:])
    assert sums[0] == pytest.approx(wanted[0], rel=0.05)


@pytest.mark.parametrize("dim", [16, 100, 300])
@pytest.mark.parametrize("hot", [0, 30])
def test_many_sentences_in_flight_lose_no_update(dim, hot):
    # lr so small that updates add up: what matters is that all of them arrive.
    case = make_case(vocab=300, sentences=3000, dim=dim)
    alone, _, _ = train_cuda(*case, lr=1e-5)
    together, _, _ = train_cuda(*case, lr=1e-5, flight=1000, hot=hot)
    for one, other, before in zip(together, alone, case[0], strict=True):
        assert (one - other).norm() < 0.02 * (other - before).norm()


@pytest.mark.parametrize(
    ("dim", "negative", "flight"), [(20, 5, 1), (130, 3, 1), (300, 5, 1), (20, 9, 1), (20, 5, 100)]
)
def test_bfloat16_follows_float32(dim, negative, flight):
    start, *rest = make_case(vocab=200, dim=dim, sentences=200)
    start = [w.bfloat16().float() for w in start]
    exact, *_ = train_cuda(start, *rest, negative=negative, lr=0.01)
    rounded, _, _ = train_cuda(start, *rest, negative=negative, lr=0.01, flight=flight, dtype=torch.bfloat16)
    for got, want, before in zip(rounded, exact, start, strict=True):
        moved = want - before
        assert (got - want).norm() < 0.5 * moved.norm()
        assert torch.cosine_similarity((got - before).flatten(), moved.flatten(), dim=0) > 0.9


def test_word_out_of_range_is_reported():
    case = make_case()
    case[1][5] = 30
    assert train_cuda(*case)[2] == 5


def test_diverged_weights_show_in_the_loss():
    start, *rest = make_case()
    start[0].fill_(float("nan"))
    assert np.isnan(train_cuda(start, *rest)[1][0])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"window": 0}, "window: expected an integer from 1"),
        ({"negative": 1001}, "negative: expected an integer from 1"),
        ({"lr": 0.0}, "lr: expected a positive number"),
        ({"flight": 0}, "sentences_in_flight: expected an integer from 1"),
        ({"hot": -1}, "hot_words: expected an integer from 0 to 30, got -1"),
        ({"window": 10_000}, "dim, window: expected the 20002 rows of a block.s windows to fit"),
        ({"epoch": 2}, "epoch: expected 0 <= epoch < epochs, got 2 of 2"),
    ],
)
def test_bad_settings(options, message):
    with pytest.raises((ValueError, RuntimeError), match=message):
        train_cuda(*make_case(), **options)


# ---- the trainer ---------------------------------------------------------------------------------------------------


def on_cuda(**changes):
    return config(**{"device": "cuda", "sentences_in_flight": 1, **changes})


def test_the_trainer_gives_the_cpu_trainers_vectors(corpus):  # noqa: F811
    cpu = Trainer(corpus, config(device="cpu", epochs=1)).fit()
    gpu = Trainer(corpus, on_cuda(epochs=1)).fit()
    assert gpu.device.type == "cuda"
    assert gpu.state.words == cpu.state.words
    assert gpu.state.losses == pytest.approx(cpu.state.losses, rel=1e-5)
    for one, other in zip(weights(gpu), weights(cpu), strict=True):
        assert (one.cpu() - other).abs().max() < 1e-3 * other.abs().max()  # rounding, after a million steps
    words = corpus.vocab.words[:20]
    near, far = gpu.keyed_vectors(), cpu.keyed_vectors()
    assert [near.most_similar(w, topn=1)[0][0] for w in words] == [far.most_similar(w, topn=1)[0][0] for w in words]


def test_learns_the_planted_meaning_with_many_sentences_in_flight(tmp_path):
    write_builtin_corpus(tmp_path / "text.txt")
    trainer = Trainer(prepare_corpus(tmp_path / "text.txt", cache_dir=tmp_path), TrainConfig(device="auto")).fit()
    assert trainer.device.type == "cuda"
    assert "sentences in flight" in trainer.where
    vectors = trainer.keyed_vectors()
    right = total = 0
    for words in BUILTIN_CLASSES.values():
        for word in words:
            neighbours = [w for w, _ in vectors.most_similar(word, topn=5)]
            right += sum(w in words for w in neighbours)
            total += len(neighbours)
    assert right / total > 0.9


@pytest.mark.parametrize("chunk", [2000, 1 << 20])
def test_a_streamed_corpus_gives_the_same_bits(corpus, monkeypatch, chunk):  # noqa: F811
    resident = Trainer(corpus, on_cuda(epochs=2)).fit()
    monkeypatch.setattr(cuda_epoch, "RESIDENT_SHARE", 0)
    monkeypatch.setattr(cuda_epoch, "CHUNK_IDS", chunk)
    streamed = Trainer(corpus, on_cuda(epochs=2))
    assert streamed.method.streams
    assert not resident.method.streams
    assert_same(weights(streamed.fit()), weights(resident))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_resumed_run_is_bit_identical(corpus, tmp_path, monkeypatch, dtype):  # noqa: F811
    pytest.importorskip("safetensors")
    whole = Trainer(corpus, on_cuda(weight_dtype=dtype)).fit()
    monkeypatch.setattr("w2v_ext.trainer._SLICE_SECONDS", 0.002)
    stopped = interrupt_at(Trainer(corpus, on_cuda(weight_dtype=dtype)), 0.4 * whole.total_words, tmp_path)
    assert 0 < stopped.words_done < whole.total_words
    resumed = Trainer(corpus, on_cuda(weight_dtype=dtype))
    resumed.load_checkpoint(tmp_path)
    resumed.fit()
    assert_same(weights(whole), weights(resumed))
    assert resumed.state.losses == pytest.approx(whole.state.losses, rel=1e-9)


def test_a_run_may_go_on_on_the_cpu(corpus, tmp_path):  # noqa: F811
    pytest.importorskip("safetensors")
    interrupt_at(Trainer(corpus, on_cuda()), 0, tmp_path)
    resumed = Trainer(corpus, config(device="cpu"))
    resumed.load_checkpoint(tmp_path)
    assert resumed.fit().state.epoch == 3


def test_training_on_a_stream_of_its_own(corpus):  # noqa: F811
    expected = weights(Trainer(corpus, on_cuda(epochs=1)).fit())
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        trainer = Trainer(corpus, on_cuda(epochs=1)).fit()
    stream.synchronize()
    assert_same(expected, weights(trainer))


def test_divergence_and_damage_are_named(corpus):  # noqa: F811
    with pytest.raises(TrainingError, match="lr: the loss became (nan|inf)"):
        Trainer(corpus, on_cuda(lr=1e30)).fit()
    damaged = corpus_from_sequences([[1, 2, 3, 4]] * 50)
    trainer = Trainer(damaged, on_cuda(sample=0))
    trainer.method._ids[7] = 1_000_000
    trainer.method._host_ids = trainer.method._ids.cpu()
    with pytest.raises(TrainingError, match=r"damaged \(ids: word 1000000 at position 7 is out of range"):
        trainer.fit()


def test_a_window_that_does_not_fit_is_named(corpus):  # noqa: F811
    with pytest.raises(
        (ValueError, RuntimeError), match="dim, window: expected the 2002 rows of a block.s windows to fit"
    ):
        Trainer(corpus, on_cuda(window=1000))


def test_metrics_name_the_device(corpus):  # noqa: F811
    trainer = Trainer(corpus, on_cuda(epochs=1, sentences_in_flight=50)).fit()
    metrics = trainer.metrics()
    assert metrics["device"] == torch.cuda.get_device_name()
    assert metrics["sentences_in_flight"] == 50
    assert metrics["raw_words_per_second"] > 0
