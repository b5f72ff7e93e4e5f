"""GloVe on CUDA, emulated on the CPU and on a GPU where there is one."""

import numpy as np
import pytest
import torch

from w2v_ext import TrainConfig, Trainer, corpus_from_sequences
from w2v_ext.methods import Glove, _on_cuda
from w2v_ext.methods.cuda_glove import CELLS_PER_MULTIPROCESSOR


def trainers(device, flight=1, **changes):
    """Trainers of the CPU and of CUDA, not yet trained."""
    rng = np.random.default_rng(0)
    corpus = corpus_from_sequences([rng.zipf(1.5, 30).clip(1, 200).tolist() for _ in range(60)])
    settings = {"dim": 20, "min_count": 1, "epochs": 3, **changes}
    here = Trainer(corpus, TrainConfig.for_model("glove", device="cpu", **settings))
    name = "cuda" if device.type == "cuda" else "cpu"
    config = TrainConfig.for_model("glove", device=name, sentences_in_flight=flight, **settings)
    there = Trainer(corpus, config)
    if device.type == "cpu":
        there.method = _on_cuda(corpus, config, device)
    return here, there


@pytest.mark.parametrize("vectors", ["sum", "in"])
def test_one_cell_in_flight_gives_the_cpus_vectors(any_cuda, vectors):
    here, there = trainers(any_cuda, vectors=vectors)
    assert isinstance(there.method, Glove)
    here.fit()
    there.fit()
    assert there.state.words == here.state.words
    assert there.state.losses == pytest.approx(here.state.losses, rel=1e-5)
    for name, weight in here.method.weights.items():
        assert (there.method.weights[name].cpu() - weight).abs().max() < 1e-4 * weight.abs().max()
    np.testing.assert_allclose(there.keyed_vectors().vectors, here.keyed_vectors().vectors, atol=1e-4)
    saved = there.method.saved_tensors()
    assert {t.device.type for t in saved.values()} == {"cpu"}
    assert all(t.is_contiguous() for t in saved.values())
    assert "1 cells in flight" in there.where
    assert there.metrics()["nonzeros_per_second"] > 0
    assert "threads" not in there.metrics()


def test_many_cells_in_flight_learn_the_same(any_cuda):
    here, there = trainers(any_cuda, flight=0, epochs=10)
    assert 1 <= there.method.cells_in_flight
    if any_cuda.type == "cpu":
        assert there.method.cells_in_flight <= 3 * CELLS_PER_MULTIPROCESSOR
    here.fit()
    there.fit()
    assert there.state.losses[-1] == pytest.approx(here.state.losses[-1], rel=0.2)  # another order of cells


def test_a_checkpoint_of_the_cpu_goes_on_on_cuda(any_cuda, tmp_path):
    pytest.importorskip("safetensors")
    here, there = trainers(any_cuda)
    here.fit()
    here.save_checkpoint(tmp_path)
    there.load_checkpoint(tmp_path)
    for name, weight in here.method.weights.items():
        assert torch.equal(there.method.weights[name].cpu(), weight)


def test_damaged_cells_are_named(any_cuda):
    _, there = trainers(any_cuda)
    there.method._cells = there.method._cells.clone()
    there.method._cells[5, 0] = 10_000
    with pytest.raises(IndexError, match=r"cells: the one at place \d+ has a word that is out of range"):
        there.method.train(0, 0, there.method.length)
