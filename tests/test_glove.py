"""GloVe: the kernel against NumPy in float64, and what training promises."""

import json
import math

import numpy as np
import pytest
import torch
from instruction_sets import KERNELS, in_process
from test_cooccurrence import exact_counts

from w2v_ext import KeyedVectors, TrainConfig, Trainer, corpus_from_sequences, ops, prepare_corpus, reference, train
from w2v_ext.methods import glove
from w2v_ext.methods.glove import Glove, tile_borders, tournament
from w2v_ext.synthetic import BUILTIN_CLASSES, write_builtin_corpus
from w2v_ext.tables import padded_weight
from w2v_ext.trainer import TrainingError

# ---- the kernel ------------------------------------------------------------------------------------------------------


def make_tables(rng, vocab_size, dim):
    """The same start for the kernel, and in float64 for the reference."""
    padded = -(-dim // 16) * 16
    table = padded_weight(vocab_size, 4 * padded).view(vocab_size, 4, padded)
    bias = torch.zeros(vocab_size, 4)
    table[:, 0::2, :dim] = torch.from_numpy(rng.uniform(-0.5, 0.5, (vocab_size, 2, dim)) / dim)
    return table, bias, table[:, :, :dim].double().numpy().transpose(1, 0, 2).copy(), bias.double().numpy().T.copy()


def make_cells(rng, vocab_size, count, x_max, alpha):
    """(row, column, count) without repetitions, and as the kernel takes them."""
    chosen = rng.permutation(vocab_size * (vocab_size + 1) // 2)[:count]
    row = np.floor((np.sqrt(8 * chosen + 1) - 1) / 2).astype(np.int64)
    column = chosen - row * (row + 1) // 2
    x = rng.lognormal(1, 2, len(chosen)).astype(np.float32)
    cells = np.empty((len(chosen), 4), np.int32)
    cells[:, 0], cells[:, 1] = row, column
    cells[:, 2] = np.log(x.astype(np.float64)).astype(np.float32).view(np.int32)
    cells[:, 3] = np.minimum(1, (x / x_max) ** alpha).astype(np.float32).view(np.int32)
    return [(int(i), int(j), float(v)) for i, j, v in zip(row, column, x, strict=True)], torch.from_numpy(cells)


def one_block(cells):
    return torch.tensor([[0, len(cells)]]), torch.tensor([0, 1])


@pytest.mark.parametrize("dim", [1, 7, 16, 100, 129])
def test_loss_and_weights_are_those_of_the_reference(dim):
    rng = np.random.default_rng(dim)
    cells, packed = make_cells(rng, 20, 150, 10.0, 0.75)
    assert any(i == j for i, j, _ in cells)
    table, bias, table64, bias64 = make_tables(rng, 20, dim)
    for _ in range(10):
        arguments = {"lr": 0.05, "begin": 0, "end": len(cells), "threads": 1}
        loss, nonzeros = ops.train_glove_(table, bias, packed, *one_block(packed), **arguments)
        expected, count = reference.train_glove_(table64, bias64, cells, x_max=10.0, alpha=0.75, lr=0.05)
        assert nonzeros == count
        assert abs(loss - expected) / expected < 1e-6
    np.testing.assert_allclose(table[:, :, :dim].numpy().transpose(1, 0, 2), table64, rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(bias.numpy().T, bias64, rtol=1e-6, atol=1e-6)
    assert (table[:, :, dim:] == 0).all()


def five_epochs():
    """The loss of the last, and the sum of the table."""
    rng = np.random.default_rng(1)
    _, packed = make_cells(rng, 20, 150, 10.0, 0.75)
    table, bias, *_ = make_tables(rng, 20, 37)
    for _ in range(5):
        loss, _ = ops.train_glove_(table, bias, packed, *one_block(packed), lr=0.05, begin=0, end=150, threads=1)
    return loss, table.double().sum().item()


@pytest.mark.parametrize("kernels", KERNELS)
def test_every_instruction_set_computes_the_same(kernels):
    code = "import json, test_glove as t; print(json.dumps(t.five_epochs()))"
    assert in_process(kernels, code) == pytest.approx(five_epochs(), rel=1e-5)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"table": torch.ones(3, 4, 15)}, ValueError, r"table: expected contiguous, 64-byte aligned .* \(3, 4, 15\)"),
        ({"bias": torch.ones(2, 4)}, ValueError, r"bias: expected .* with V = 3, got shape \(2, 4\)"),
        (
            {"cells": torch.zeros(2, 3, dtype=torch.int32)},
            ValueError,
            r"cells: expected .* \(N, 4\), got shape \(2, 3\)",
        ),
        ({"blocks": torch.tensor([[0, 3]])}, ValueError, "blocks: expected cells from 0 to 2, got 3 from 0"),
        ({"rounds": torch.tensor([0, 2])}, ValueError, "rounds: expected to go from 0 to B = 1, got 0 to 2"),
        ({"end": 3}, ValueError, "begin, end: expected 0 <= begin <= end <= 2, got 0 and 3"),
        ({"lr": 0.0}, ValueError, "lr: expected a positive number, got 0"),
        ({"threads": 0}, ValueError, "threads: expected an integer from 1 to 4096, got 0"),
        (
            {"cells": torch.tensor([[2, 3, 0, 0], [0, 0, 0, 0]], dtype=torch.int32)},
            IndexError,
            "cells: word 3 is out of range for a table of 3 rows",
        ),
    ],
)
def test_bad_arguments_of_the_kernel(change, error, message):
    arguments = {
        "table": padded_weight(3, 64).view(3, 4, 16),
        "bias": torch.ones(3, 4),
        "cells": torch.zeros(2, 4, dtype=torch.int32),
        "blocks": torch.tensor([[0, 2]]),
        "rounds": torch.tensor([0, 1]),
        **{"lr": 0.05, "begin": 0, "end": 2, "threads": 2},
        **change,
    }
    with pytest.raises(error, match=message):
        ops.train_glove_(**arguments)


# ---- blocks and rounds -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("num_tiles", [1, 2, 3, 7, 8])
def test_a_tournament_plays_every_block_once_and_no_tile_twice_a_round(num_tiles):
    sizes = np.random.default_rng(num_tiles).integers(0, 5, num_tiles * (num_tiles + 1) // 2)
    sizes[0] = 3
    tiles_of = [(row, column) for row in range(num_tiles) for column in range(row + 1)]
    first = (np.cumsum(sizes) - sizes).tolist()
    block_at = {first[b]: b for b in range(len(sizes)) if sizes[b]}
    orders = []
    for epoch in range(3):
        blocks, rounds = tournament(num_tiles, sizes, seed=1, epoch=epoch)
        played = [block_at[cell] for cell in blocks[:, 0].tolist()]
        orders.append(played)
        assert sorted(played) == sorted(block_at.values())
        assert blocks[:, 1].tolist() == sizes[played].tolist()
        assert rounds[0] == 0 and rounds[-1] == len(played)
        for begin, end in zip(rounds[:-1].tolist(), rounds[1:].tolist(), strict=True):
            tiles = [tile for b in played[begin:end] for tile in set(tiles_of[b])]
            assert len(tiles) == len(set(tiles))
    assert num_tiles < 7 or orders[0] != orders[1] != orders[2]
    again = tournament(num_tiles, sizes, seed=1, epoch=2)[0]
    assert [block_at[cell] for cell in again[:, 0].tolist()] == orders[2]


def test_tiles_have_every_word_and_few_cells(monkeypatch):
    monkeypatch.setattr(glove, "_TILE_CELLS", 100)
    starts = np.concatenate([[0], np.cumsum(np.random.default_rng(0).integers(0, 60, 5000))])
    borders = tile_borders(starts, 100)
    assert borders[0] == 0 and borders[-1] == 5000 and borders == sorted(set(borders))
    for first, end in zip(borders, borders[1:], strict=False):
        assert end - first == 1 or starts[end] - starts[first] <= 100


# ---- training --------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    folder = tmp_path_factory.mktemp("corpus")
    write_builtin_corpus(folder / "text.txt", sentences=15_000)
    with prepare_corpus(folder / "text.txt", cache_dir=folder / "cache") as opened:
        yield opened


def config(tmp_path, **changes):
    return TrainConfig.for_model(
        "glove", **{"dim": 24, "epochs": 3, "threads": 1, "seed": 5, "cache_dir": str(tmp_path), **changes}
    )


def weights(trainer):
    return {name: weight.clone() for name, weight in trainer.method.weights.items()}


def assert_same(a, b):
    assert a.keys() == b.keys()
    for name in a:
        assert torch.equal(a[name], b[name]), name


def test_an_epoch_is_that_of_the_reference(corpus, tmp_path):
    method = Glove(corpus, config(tmp_path, dim=10, x_max=20.0, alpha=0.5))
    v = len(corpus.vocab)
    table64 = method._table[:, :, :10].double().numpy().transpose(1, 0, 2).copy()
    bias64 = method._biases.double().numpy().T.copy()
    counts = exact_counts(corpus.ids, v, 10)
    packed = method._cells.numpy()
    blocks, _ = tournament(method._num_tiles, method._sizes, 5, 0)
    order = np.concatenate([np.arange(first, first + count) for first, count in blocks.tolist()])
    cells = [(i, j, float(counts[i, j])) for i, j in packed[order, :2].tolist()]
    assert len(cells) == len(set(cells)) == np.count_nonzero(np.tril(counts)) == method.length
    loss, nonzeros, words = method.train(0, 0, method.length)
    expected, count = reference.train_glove_(table64, bias64, cells, x_max=20.0, alpha=0.5, lr=0.05)
    assert nonzeros == count == method.nonzeros == np.count_nonzero(counts) and words == corpus.num_tokens
    assert abs(loss - expected) / expected < 1e-6
    np.testing.assert_allclose(method.weights["in_weight"].numpy(), table64[0], rtol=1e-5, atol=2e-6)
    np.testing.assert_allclose(method.weights["biases"].numpy().T, bias64, rtol=1e-5, atol=2e-6)


def test_threads_and_cuts_change_no_bit(corpus, tmp_path):
    whole = Glove(corpus, config(tmp_path))
    expected = [whole.train(epoch, 0, whole.length) for epoch in range(2)]
    parts = Glove(corpus, config(tmp_path, threads=3))
    for epoch in range(2):
        found, begin = np.zeros(3), 0
        for end in (1, 1000, 1000, 7777, parts.length):
            found += parts.train(epoch, begin, end)
            begin = end
        assert found[1:].tolist() == list(expected[epoch][1:])
        assert math.isclose(found[0], expected[epoch][0], rel_tol=1e-12)
    assert_same(whole.weights, parts.weights)


class StopHere(Exception):
    pass


def test_a_resumed_run_ends_with_the_same_bits(corpus, tmp_path):
    whole = Trainer(corpus, config(tmp_path)).fit()

    def stop(trainer):
        if trainer.state.epoch == 1:
            trainer.save_checkpoint(tmp_path)
            raise StopHere

    with pytest.raises(StopHere):
        Trainer(corpus, config(tmp_path)).fit(on_progress=stop)
    resumed = Trainer(corpus, config(tmp_path))
    resumed.load_checkpoint(tmp_path)
    resumed.fit()
    assert_same(weights(whole), weights(resumed))
    assert whole.state.losses == resumed.state.losses
    assert whole.lr == 0.05 and whole.state.losses == sorted(whole.state.losses, reverse=True)
    with pytest.raises(ValueError, match="resume: setting 'x_max' has changed"):
        Trainer(corpus, config(tmp_path, x_max=50.0)).load_checkpoint(tmp_path)


def test_learns_the_planted_meaning(tmp_path):
    write_builtin_corpus(tmp_path / "text.txt")
    corpus = prepare_corpus(tmp_path / "text.txt", cache_dir=tmp_path)
    vectors = Trainer(corpus, TrainConfig.for_model("glove", threads=2, cache_dir=str(tmp_path))).fit().keyed_vectors()
    right = total = 0
    for words in BUILTIN_CLASSES.values():
        for word in words:
            neighbours = [w for w, _ in vectors.most_similar(word, topn=5)]
            right += sum(w in words for w in neighbours)
            total += len(neighbours)
    assert right / total > 0.6  # measured: 0.74
    assert vectors.similarity("king", "queen") > vectors.similarity("king", "apple")


def test_sentences_of_one_word_are_an_error(tmp_path):
    lonely = corpus_from_sequences([[1], [2], [1], [2]])
    with pytest.raises(TrainingError, match="corpus: expected words that stand near each other"):
        Trainer(lonely, config(tmp_path))


def test_the_command_trains_and_saves_sums(tmp_path, capsys):
    text = tmp_path / "text.txt"
    write_builtin_corpus(text, sentences=3000)
    arguments = [
        "--model",
        "glove",
        "--corpus",
        str(text),
        "--dim",
        "16",
        "--epochs",
        "2",
        "--cache-dir",
        str(tmp_path),
    ]
    assert train.main([*arguments, "--out", str(tmp_path / "sum")]) == 0
    assert "nonzeros, window 10, ready in" in capsys.readouterr().out
    assert train.main([*arguments, "--vectors", "in", "--out", str(tmp_path / "in")]) == 0
    both, first = KeyedVectors.load(tmp_path / "sum"), KeyedVectors.load(tmp_path / "in")
    config_written = json.loads((tmp_path / "sum" / "config.json").read_text())
    assert config_written["lr"] == 0.05 and config_written["window"] == 10 and config_written["epochs"] == 2
    metrics = json.loads((tmp_path / "sum" / "metrics.json").read_text())
    assert metrics["nonzeros"] > 1000 and metrics["nonzeros_per_second"] > 0
    from safetensors.numpy import load_file

    context = load_file(tmp_path / "in" / "model.safetensors")["out_weight"]
    np.testing.assert_allclose(both.vectors, first.vectors + context, rtol=1e-6, atol=1e-7)
    assert not list((tmp_path / "counts").iterdir())  # counts and cells are gone
    with pytest.raises(ValueError, match="x_max: expected a number > 0, got 0"):
        TrainConfig(model="glove", x_max=0)


def test_a_config_file_gets_the_defaults_of_its_model(tmp_path):
    path = tmp_path / "glove.yaml"
    path.write_text("model: glove\nwindow: 7\n")
    read = TrainConfig.from_file(path)
    assert (read.window, read.lr, read.epochs) == (7, 0.05, 20)
    assert TrainConfig.from_dict({}).lr == 0.025
