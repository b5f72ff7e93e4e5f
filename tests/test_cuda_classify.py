"""The classifier on CUDA, emulated on the CPU and on a GPU where there is one, against the CPU's kernels."""

import numpy as np
import pytest
import torch
from test_classify_kernel import LOSSES, make_case, train

from w2v_ext.classify import TextClassifier, devices, ops
from w2v_ext.classify.lines import Encoded
from w2v_ext.methods.cuda_epoch import device_weight
from w2v_ext.trainer import TrainingError

NO_PLACE = 2**63 - 1


def on_cuda(device, case, loss, *, flight=1, cuts=(), lr=0.2, epoch=1, epochs=3, seed=7, longest=None):
    """Train copies of the weights: gives them on the CPU, the sums, and the first bad place."""
    weights, encoded, _, _, labels, tree, order = case
    tables = [device_weight(*w.shape, torch.float32, device) for w in weights]
    for table, weight in zip(tables, weights, strict=True):
        table.copy_(weight)
    sums, bad = torch.zeros(2, dtype=torch.float64, device=device), torch.full((1,), NO_PLACE, device=device)
    lines = Encoded(*(part.to(device) for part in encoded.arguments))
    labels = [part.to(device) for part in labels]
    paths = [torch.from_numpy(part).to(device) for part in (tree.path, tree.path_ends.astype(np.int64))]
    if longest is None:
        longest = int(np.diff(tree.path_ends, prepend=0).max(initial=0))
    edges = [0, *cuts, len(order)]
    for begin, end in zip(edges, edges[1:], strict=False):
        ops.train_classifier_cuda_(
            *tables, sums, bad, lines, *labels, *paths, torch.from_numpy(order).to(device), longest=longest, loss=loss,
            lr=lr, seed=seed, epoch=epoch, epochs=epochs, begin=begin, end=end, lines_in_flight=flight,
        )  # fmt: skip
    return [t.cpu() for t in tables], sums.tolist(), int(bad.item())


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize(("dim", "num_labels"), [(1, 2), (7, 3), (100, 2), (130, 9), (400, 40), (20, 100)])
def test_an_epoch_is_that_of_the_cpu(any_cuda, lanes, loss, dim, num_labels):
    case = make_case(loss, dim, num_labels)
    start = [w.clone() for w in case[0]]
    moved, sums, bad = on_cuda(any_cuda, case, loss, cuts=(1, 17))
    wanted = train(case, loss)
    assert bad == NO_PLACE
    assert sums[1] == wanted[1] > 30
    assert sums[0] == pytest.approx(wanted[0], rel=2e-6)
    for got, want, before in zip(moved, case[0], start, strict=True):
        assert (got - want).abs().max() < 5e-6 * max(1, want.abs().max())
        assert (want - before).abs().max() > 1e-3


@pytest.mark.parametrize("loss", LOSSES)
def test_more_labels_than_shared_memory_has_room_for(any_cuda, loss):
    case = make_case(loss, 4, 2100, lines=12)
    moved, sums, _ = on_cuda(any_cuda, case, loss, flight=1)
    wanted = train(case, loss)
    assert sums[0] == pytest.approx(wanted[0], rel=1e-5)
    for got, want in zip(moved, case[0], strict=True):
        assert (got - want).abs().max() < 5e-6 * max(1, want.abs().max())


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("flight", [3, 64])
def test_warps_share_the_lines(any_cuda, loss, flight):
    case = make_case(loss, 12, 9, lines=200)
    alone, one, _ = on_cuda(any_cuda, case, loss, lr=1e-4)
    together, many, _ = on_cuda(any_cuda, case, loss, flight=flight, lr=1e-4)
    assert many[1] == one[1]
    assert many[0] == pytest.approx(one[0], rel=1e-3)
    for got, want, start in zip(together, alone, case[0], strict=True):
        assert (got - want).norm() < 0.02 * (want - start).norm()


@pytest.mark.parametrize("loss", LOSSES)
def test_numbers_out_of_range_are_reported(any_cuda, loss):
    def place_of(change):
        case = make_case(loss, 8, 5)
        change(case)
        return on_cuda(any_cuda, case, loss)[2]

    def break_order(case):
        case[6][3] = 40

    def break_token(case):
        case[1].tokens[case[1].ends[case[6][5] - 1]] = 50

    def break_row(case):
        case[1].rows[:] = 300

    def break_labels(case):
        case[4][0][:] = 6

    assert place_of(break_order) == 3
    assert place_of(break_token) <= 6
    assert place_of(break_row) < 5
    assert place_of(break_labels) < 5


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"lr": 0.0}, "lr: expected a positive number"),
        ({"epoch": 3}, "epoch: expected 0 <= epoch < epochs, got 3 of 3"),
        ({"flight": 0}, "lines_in_flight: expected an integer from 1"),
        ({"longest": 0}, "longest: expected the nodes of the longest path, got 0"),
        ({"cuts": (41,)}, "begin, end: expected 0 <= begin <= end <= 40"),
    ],
)
def test_bad_settings(any_cuda, changes, message):
    with pytest.raises((ValueError, RuntimeError), match=message):
        on_cuda(any_cuda, make_case("hs", 8, 5), "hs", **changes)
    with pytest.raises((ValueError, RuntimeError), match="loss: expected softmax, hs or ova, got ns"):
        on_cuda(any_cuda, make_case("softmax", 8, 5), "ns")


# ---- the classifier ------------------------------------------------------------------------------------------------

TEXTS = ["a film to remember , warm and funny", "two hours of my life that i will not get back"] * 20
LABELS = ["good", "bad"] * 20


@pytest.mark.parametrize("loss", LOSSES)
def test_the_classifier_is_the_cpus(any_cuda, loss, monkeypatch):
    monkeypatch.setattr(devices, "choose_device", lambda wanted: any_cuda if wanted == "cuda" else torch.device("cpu"))
    if any_cuda.type == "cpu":
        monkeypatch.setattr(
            devices, "lines_on", lambda device, *arguments: devices.CudaLines(any_cuda, *arguments), raising=True
        )
        monkeypatch.setattr("w2v_ext.classify.classifier.lines_on", devices.lines_on)
    settings = {"dim": 10, "epochs": 5, "lr": 0.3, "loss": loss, "seed": 3}
    there = TextClassifier(device="cuda", lines_in_flight=1, **settings).fit(TEXTS, LABELS)
    monkeypatch.undo()
    here = TextClassifier(threads=1, **settings).fit(TEXTS, LABELS)
    assert there.metrics()["lines_in_flight"] == 1
    assert there.state.losses == pytest.approx(here.state.losses, rel=1e-4)
    for one, other in ((there.in_weight, here.in_weight), (there.out_weight, here.out_weight)):
        assert (one - other).abs().max() < 1e-4
    assert there.predict("warm and funny")[0][0] == "__label__good"


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a CUDA device")
def test_cuda_is_refused_where_it_is_not_there():
    with pytest.raises(TrainingError, match="device: training on cuda is not available: PyTorch .*; use --device cpu"):
        TextClassifier(device="cuda").fit(TEXTS, LABELS)
    with pytest.raises(ValueError, match="device: expected one of cpu, cuda, got 'gpu'"):
        TextClassifier(device="gpu")


def test_lines_that_do_not_fit_are_named(monkeypatch):
    def fail(*_):
        raise torch.OutOfMemoryError("CUDA out of memory.\nMore")

    monkeypatch.setattr(devices, "choose_device", lambda _: torch.device("cuda", 0))
    monkeypatch.setattr(devices, "CudaLines", fail)
    with pytest.raises(TrainingError, match=r"device: \d+ rows x 100 do not fit cuda:0 \(CUDA out of memory.\); use"):
        TextClassifier(device="cuda").fit(TEXTS, LABELS)
