"""The CUDA operators themselves, host code and kernels, on the CPU: so that they are tried where there is no GPU.

``tests/cpp/cuda_on_cpu`` is as much of CUDA as they use: threads of a warp are fibers that switch where CUDA's wait for
each other. A lane runs as far ahead of the others as it may, so that a forgotten ``__syncwarp`` shows. The operators
register as ``torch.ops.w2v_emulated``. What is not tried here: inline PTX, vector atomics, and anything that two warps
do at the same time.
"""

from pathlib import Path

import numpy as np
import pytest
import torch
from test_glove import make_cells, make_tables, one_block
from test_loss import DTYPES, TOLERANCE, make_batch
from test_row_steps import COMMON, RULES, assert_steps_match_the_reference, randn
from test_sgns_kernel import make_case, train
from test_trainer import config, weights

from w2v_ext import Trainer, corpus_from_sequences, ops, reference, row_steps
from w2v_ext.methods import cuda_epoch
from w2v_ext.methods.cuda_epoch import CudaEpoch, device_weight
from w2v_ext.trainer import TrainingError

# ---- the loss ------------------------------------------------------------------------------------------------------


def assert_rows_close(got, want, tolerance):
    scale = want.abs().max().clamp(min=1)
    torch.testing.assert_close(got.double() / scale, want / scale, rtol=0, atol=tolerance)


def assert_matches_reference(ops, dtype, in_order, tolerance=None, saved=True, **options):
    args = make_batch(dtype, **options)
    weights, indices = [a.detach() for a in args[:2]], args[2:]
    tolerance = tolerance or TOLERANCE[dtype]
    loss, coef, center_grad = ops.negative_sampling_loss(*weights, *indices, False, True)
    assert loss.dtype == coef.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    exact = [w.double().requires_grad_() for w in weights]
    want = reference.negative_sampling_loss(*exact, *indices, reduction="none")
    torch.testing.assert_close(loss.double(), want.detach(), rtol=1e-5, atol=1e-6)

    upstream = torch.linspace(0.5, 1.5, len(loss), dtype=loss.dtype)
    backward = ops.negative_sampling_loss_backward_sorted if in_order else ops.negative_sampling_loss_backward
    wanted = torch.autograd.grad(want, exact, upstream.double())
    center_grad = center_grad if saved else center_grad[:, :0]
    for grad, want in zip(backward(upstream, coef, *weights, *indices, center_grad), wanted, strict=True):
        assert grad.dtype == dtype
        assert_rows_close(grad, want, tolerance)

    stepped, expected = [w.clone() for w in weights], [w.double() for w in weights]
    (ops.sgns_step_sorted_ if in_order else ops.sgns_step_)(*stepped, *indices, 0.3 / len(loss))
    reference.sgns_step_(*expected, *indices, 0.3)
    for weight, want in zip(stepped, expected, strict=True):
        assert_rows_close(weight, want, tolerance)


both_orders = pytest.mark.parametrize("in_order", [False, True])


@both_orders
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("saved", [False, True])
def test_examples_without_targets(emulated, dtype, in_order, saved):
    assert_matches_reference(emulated, dtype, in_order, saved=saved, positives=0, negatives=0, dim=8)


@both_orders
@pytest.mark.parametrize("dtype", DTYPES)
def test_every_dimension(emulated, dtype, in_order):
    for dim in (1, 7, 32, 33, 100, 128, 129, 132, 300):
        assert_matches_reference(emulated, dtype, in_order, dim=dim)


@both_orders
@pytest.mark.parametrize("dtype", DTYPES)
def test_gradients_without_what_the_forward_may_save(emulated, dtype, in_order):
    assert_matches_reference(emulated, dtype, in_order, saved=False)


@both_orders
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_any_number_of_positives_and_negatives(emulated, lanes, dtype, in_order):
    for positives, negatives in ((1, 0), (0, 3), (3, 1), (2, 25), (1, 15), (1, 16), (4, 40)):
        for dim in (8, 140):
            assert_matches_reference(emulated, dtype, in_order, positives=positives, negatives=negatives, dim=dim)


@both_orders
@pytest.mark.parametrize("dtype", DTYPES)
def test_rows_that_occur_often(emulated, dtype, in_order):
    # In order: runs over several groups of 64. By atomics: one rounding per occurrence.
    tolerance = None if in_order or dtype != torch.float32 else 2e-5
    for vocab, batch in ((4, 300), (1, 130), (1, 64), (70, 65), (2, 1)):
        assert_matches_reference(emulated, dtype, in_order, tolerance, vocab=vocab, batch=batch, dim=20)


def test_indices_of_32_bits(emulated):
    assert_matches_reference(emulated, torch.float32, False, index=torch.int32, vocab=500, batch=40)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("vocab", [1, 31, 200, 384, 385, 3000])
def test_rows_that_occur_once_or_never(emulated, lanes, dtype, vocab):
    # 96 occurrences: up to 384 rows are written by one warp each, beyond that by atomics.
    tolerance = 2e-5 if vocab == 1 and dtype == torch.float32 else None
    for dim in (12, 132):
        assert_matches_reference(emulated, dtype, False, tolerance, vocab=vocab, dim=dim)


def test_rows_that_share_a_bucket_are_counted_apart(emulated, lanes):
    # 600 occurrences of up to 2,000 rows, numbered by two warps with 1,024 buckets each.
    for dtype in (torch.float32, torch.bfloat16):
        assert_matches_reference(emulated, dtype, False, vocab=2000, batch=100, dim=8)


def test_rows_of_wider_tables(emulated):
    args = make_batch(torch.float32, vocab=60, dim=8)
    weights, indices = [a.detach() for a in args[:2]], args[2:]
    expected = [w.double() for w in weights]
    wide = [torch.full((60, 20), 9.0) for _ in weights]
    for table, weight in zip(wide, weights, strict=True):
        table[:, 4:12] = weight
    emulated.sgns_step_(*(table[:, 4:12] for table in wide), *indices, 0.3 / 16)
    reference.sgns_step_(*expected, *indices, 0.3)
    for table, want in zip(wide, expected, strict=True):
        assert_rows_close(table[:, 4:12], want, 1e-6)
        assert (table[:, :4] == 9).all()
        assert (table[:, 12:] == 9).all()


# ---- the optimisers ------------------------------------------------------------------------------------------------


@pytest.fixture
def steps_of(emulated, monkeypatch):
    """The functions of row_steps, with the CUDA kernels inside."""
    monkeypatch.setattr(row_steps, "_ops", emulated)
    return lambda name, *args, **settings: getattr(row_steps, name)(*args, **settings)


@pytest.mark.parametrize("rule", RULES)
def test_optimiser_steps(steps_of, lanes, rule):
    for dim in (1, 64, 130):
        assert_steps_match_the_reference(rule, torch.float32, COMMON["all"], steps_of, dim=dim, once=True, steps=1)


@pytest.mark.parametrize("rule", RULES)
def test_optimiser_settings_and_dtypes(steps_of, rule):
    for dtype, name in zip(DTYPES, ("clipped", "decoupled", "max norm", "L2"), strict=True):
        assert_steps_match_the_reference(rule, dtype, COMMON[name], steps_of, once=True, steps=2)


def test_optimiser_rounds_as_the_cpu_does(emulated, monkeypatch):
    start, values = (randn(40, 33, dtype=torch.bfloat16, seed=seed) for seed in (0, 1))
    other = start.clone()
    row_steps.sparse_sgd_(start, None, values, lr=1e-3, seed=5)
    monkeypatch.setattr(row_steps, "_ops", emulated)
    row_steps.sparse_sgd_(other, None, values, lr=1e-3, seed=5)
    assert torch.equal(start, other)


def test_square_norms(emulated):
    for dim in (1, 31, 100):
        values, rows = randn(25, dim), torch.randperm(60)[:25]
        want = torch.ops.w2v_ext.row_square_norms(rows.sort().values, values, 60, 2.0)
        torch.testing.assert_close(emulated.row_square_norms(rows, values, 60, 2.0), want, rtol=1e-12, atol=0)
        assert want.max() <= 4


# ---- the epoch -----------------------------------------------------------------------------------------------------


def train_emulated(
    ops, start, ids, alias, keep, *, window=5, negative=5, lr=0.05, flight=1, hot=0, dtype=torch.float32
):
    tables = [device_weight(*weight.shape, dtype, torch.device("cpu")) for weight in start]
    for table, weight in zip(tables, start, strict=True):
        table.copy_(weight)
    sums, bad = torch.zeros(3, dtype=torch.float64), torch.full((1,), 2**63 - 1)
    ops.train_sgns_cuda_(
        *tables, sums, bad, ids, alias, keep, 0, len(ids), 0, len(ids), window, negative, 7, 0, 2, lr, flight, hot
    )
    return [t.float() for t in tables], sums.tolist(), int(bad)


@pytest.mark.parametrize(
    ("dim", "window", "negative", "hot"),
    [(1, 1, 1, 0), (20, 5, 5, 0), (20, 5, 5, 20), (100, 5, 5, 20), (130, 3, 4, 0), (300, 2, 3, 0), (40, 2, 13, 0)]
    + [(400, 2, 2, 20)],
)
def test_epoch_matches_the_cpu(emulated, lanes, dim, window, negative, hot):
    repeats = negative <= 5  # with several groups of outputs, repeated words differ in second order
    case = make_case(vocab=30 if repeats else 20_000, dim=dim, sentences=6, repeats=repeats)
    got, sums, bad = train_emulated(emulated, *case, window=window, negative=negative, hot=hot)
    wanted = train(*case, window=window, negative=negative)
    assert bad == 2**63 - 1
    assert sums[1:] == list(wanted[1:])
    assert sums[0] == pytest.approx(wanted[0], rel=1e-5)
    for one, other in zip(got, case[0], strict=True):
        assert (one - other).abs().max() < 5e-6 * max(1, other.abs().max())


@pytest.mark.parametrize("flight", [2, 7, 13, 40])
def test_warps_and_blocks_share_the_sentences(emulated, flight):
    case = make_case(vocab=200, sentences=60)
    got, sums, _ = train_emulated(emulated, *case, flight=flight)
    alone, wanted, _ = train_emulated(emulated, *case)
    assert sums[1:] == wanted[1:]
    assert sums[0] == pytest.approx(wanted[0], rel=1e-12)
    for one, other in zip(got, alone, strict=True):
        assert torch.equal(one, other)  # emulated warps run one after the other


@pytest.mark.parametrize(("dim", "negative"), [(20, 5), (130, 3), (20, 9)])
def test_bfloat16_follows_float32(emulated, dim, negative):
    start, *rest = make_case(vocab=200, dim=dim, sentences=60)
    start = [w.bfloat16().float() for w in start]
    exact, *_ = train_emulated(emulated, start, *rest, negative=negative, lr=0.02)
    rounded, *_ = train_emulated(emulated, start, *rest, negative=negative, lr=0.02, dtype=torch.bfloat16)
    for got, want, before in zip(rounded, exact, start, strict=True):
        assert torch.cosine_similarity((got - before).flatten(), (want - before).flatten(), dim=0) > 0.9


def test_bad_words_and_settings_are_named(emulated):
    case = make_case()
    case[1][5] = 30
    assert train_emulated(emulated, *case)[2] == 5
    for options, message in (
        ({"window": 0}, "window: expected an integer from 1"),
        ({"negative": 1001}, "negative: expected an integer from 1"),
        ({"lr": 0.0}, "lr: expected a positive number"),
        ({"flight": 0}, "sentences_in_flight: expected an integer from 1"),
        ({"hot": 31}, "hot_words: expected an integer from 0 to 30, got 31"),
        ({"window": 10_000}, "dim, window: expected the 20002 rows of a block.s windows to fit 232448 bytes"),
    ):
        with pytest.raises((ValueError, RuntimeError), match=message):
            train_emulated(emulated, *case, **options)


def test_tables_that_do_not_fit_the_cache_are_fetched_ahead(emulated):
    case = make_case(vocab=600, sentences=10)  # more than the emulated device's 40,000 bytes
    got, _, _ = train_emulated(emulated, *case)
    train(*case)
    for one, other in zip(got, case[0], strict=True):
        assert (one - other).abs().max() < 5e-6


# ---- the trainer ---------------------------------------------------------------------------------------------------


@pytest.fixture
def cuda_trainer(pretended_cuda):
    """Makes a trainer that trains on the emulated device, as ``Trainer(corpus, TrainConfig(device="cuda"))`` would."""

    def make(corpus, **changes):
        trainer = Trainer(corpus, config(device="cpu", **changes))
        cpu = trainer.method
        trainer.method = CudaEpoch(
            cpu.device, cpu.config, cpu.in_weight, cpu.ids, cpu.alias, cpu.keep, np.array([0.01])
        )
        return trainer

    return make


@pytest.mark.parametrize("chunk", [None, 400, 1 << 20])
def test_the_trainer_resident_and_streamed(cuda_trainer, monkeypatch, chunk):
    rng = np.random.default_rng(0)
    small = corpus_from_sequences([rng.zipf(1.5, 30).clip(1, 300).tolist() for _ in range(100)])
    wanted = Trainer(small, config(device="cpu", epochs=2, sample=0)).fit()
    if chunk is not None:
        monkeypatch.setattr(cuda_epoch, "RESIDENT_SHARE", 0)
        monkeypatch.setattr(cuda_epoch, "CHUNK_IDS", chunk)
    monkeypatch.setattr("w2v_ext.trainer._SLICE_SECONDS", 1e-4)  # several slices per epoch
    trainer = cuda_trainer(small, epochs=2, sample=0, sentences_in_flight=1)
    assert trainer.method.streams == (chunk is not None)
    trainer.fit()
    assert trainer.state.words == wanted.state.words
    assert trainer.state.losses == pytest.approx(wanted.state.losses, rel=1e-5)
    for one, other in zip(weights(trainer), weights(wanted), strict=True):
        assert (one - other).abs().max() < 1e-4 * other.abs().max()
    assert trainer.where == "an emulated GPU, 1 sentences in flight"
    assert trainer.metrics()["device"] == "an emulated GPU"
    assert len(trainer.keyed_vectors()) == len(small.vocab)


def test_the_trainer_names_a_damaged_corpus_and_stops_when_it_diverges(cuda_trainer):
    small = corpus_from_sequences([[1, 2, 3, 4]] * 50)
    trainer = cuda_trainer(small, sample=0)
    trainer.method._ids = trainer.method._host_ids = torch.from_numpy(np.array(small.ids))
    trainer.method._ids[7] = 1_000_000
    with pytest.raises(TrainingError, match=r"damaged \(ids: word 1000000 at position 7 is out of range for in_weight"):
        trainer.fit()
    with pytest.raises(TrainingError, match="lr: the loss became (nan|inf)"):
        cuda_trainer(small, sample=0, lr=1e30).fit()


# ---- GloVe ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("backwards", [False, True])
@pytest.mark.parametrize("dim", [1, 37, 100])
def test_glove_is_that_of_the_cpu(emulated, dim, backwards, monkeypatch):
    if backwards:
        monkeypatch.setenv("CUDA_ON_CPU_BACKWARDS", "1")
    _, cells = make_cells(np.random.default_rng(dim), 20, 150, 10.0, 0.75)
    table, bias, *_ = make_tables(np.random.default_rng(dim), 20, dim)
    expected = [table.clone(), bias.clone()]
    aligned = make_tables(np.random.default_rng(dim), 20, dim)[0]
    loss, nonzeros = 0.0, 0
    for begin, end in ((0, 30), (30, 130)):
        part = ops.train_glove_(
            aligned, expected[1], cells, *one_block(cells), lr=0.05, begin=begin, end=end, threads=1
        )
        loss, nonzeros = loss + part[0], nonzeros + part[1]
    # the same order of cells, as two blocks
    firsts, starts = torch.tensor([0, 50]), torch.tensor([0, 50, 150])
    sums, bad = torch.zeros(2, dtype=torch.float64), torch.tensor([2**63 - 1])
    for begin, end in ((0, 30), (30, 130)):
        emulated.train_glove_cuda_(table, bias, sums, bad, cells, firsts, starts, 0.05, begin, end, 1)
    assert sums[1] == nonzeros and bad.item() == 2**63 - 1
    assert abs(sums[0].item() - loss) / loss < 1e-6
    torch.testing.assert_close(table, aligned, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(bias, expected[1], rtol=1e-5, atol=1e-6)
    emulated.train_glove_cuda_(
        table[:19].contiguous(), bias[:19].contiguous(), sums, bad, cells, firsts, starts, 0.05, 0, 150, 7
    )
    outside = (cells[:, :2] >= 19).any(1).nonzero()[0].item()
    assert bad.item() == outside


# ---- the sanitizer's case ------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("pretended_cuda")
def test_the_sanitizers_case(capsys):
    source = (Path(__file__).resolve().parents[1] / "bench" / "sanitize_case.py").read_text()
    changes = {'"cuda"': '"cpu"', ".cuda()": "", "torch.cuda.is_available()": "True", "torch.cuda.synchronize()": "()"}
    for old, new in changes.items():
        assert old in source
        source = source.replace(old, new)
    exec(compile(source, "sanitize_case.py", "exec"), {"__name__": "__main__"})
    assert capsys.readouterr().out == "sanitize_case: done\n"
