"""Tables are refused as a whole, with their copies, before the first of them is made."""

import pytest
import torch
import torch.distributed as dist

import w2v_ext
from w2v_ext import footprint, memory, tables
from w2v_ext.distributed import Ranks
from w2v_ext.methods import TrainingError, cbow, skipgram, subword
from w2v_ext.methods.batched import Batched

MIB = 1 << 20


@pytest.fixture
def corpus():
    return w2v_ext.corpus_from_sequences([list(range(50))] * 10)


@pytest.fixture
def made(monkeypatch):
    """100 MiB of memory that is never used up, as where tables are only mapped; and the tables that were made."""
    found = []

    def note(*shape):
        found.append(shape)
        return tables.padded_weight(*shape)

    monkeypatch.setattr(memory, "available_memory", lambda: 100 * MIB)
    for module in (cbow, skipgram, subword):
        monkeypatch.setattr(module, "padded_weight", note)
    return found


def settings(corpus, mebibytes, **changes):
    dim = mebibytes * MIB // (4 * len(corpus.vocab)) // 16 * 16
    return w2v_ext.TrainConfig(dim=dim, min_count=1, device="cpu", threads=1, **changes)


@pytest.mark.parametrize(
    ("mebibytes", "changes"),
    [
        (76, {}),
        (76, {"model": "cbow"}),
        (76, {"loss": "hs"}),
        (76, {"loss": "softmax"}),
        (76, {"model": "fasttext"}),
        (30, {"optimizer": "adagrad"}),  # a number of state for each weight
        (20, {"optimizer": "adam"}),  # two
        (20, {"reproducible": 2}),
    ],
)
def test_the_sum_of_the_tables_counts(corpus, made, mebibytes, changes):
    with pytest.raises(MemoryError, match=r"dim: the tables of \d+ words x \d+.* take 0\.\d GiB, more than there is"):
        w2v_ext.Trainer(corpus, settings(corpus, mebibytes, **changes))
    assert made == []
    w2v_ext.Trainer(corpus, settings(corpus, 8 if len(changes) else 30, **changes))
    assert made


class Asked(Exception):
    """With the number of rows that were asked for."""


@pytest.mark.parametrize(("device", "tables"), [("cpu", 6), ("cuda", 2)])
def test_what_the_optimiser_keeps_is_where_it_trains(corpus, monkeypatch, device, tables):
    def ask(_, rows, __):
        raise Asked(rows)

    monkeypatch.setattr(skipgram, "check_tables", ask)
    with pytest.raises(Asked) as found:
        Batched(corpus, settings(corpus, 1, optimizer="adam"), torch.device(device))
    assert found.value.args == (tables * len(corpus.vocab),)


@pytest.mark.parametrize(
    ("ranks", "here", "reproducible", "copies"),
    [
        (1, 1, 0, 1),
        (2, 2, 0, 2 * 2 + 2),  # rows and base of each; everybody's moves in bfloat16, twice
        (4, 4, 0, 4 * 2 + 4),
        (2, 1, 0, 2 + 1),  # one of two machines: no memory in common
        (5, 5, 0, 5 * 4),  # a ring: what is given and its sum, in float32
        (1, 1, 4, 4 + 2),
        (2, 2, 4, 2 * (2 + 2)),
    ],
)
def test_what_processes_and_workers_make_of_them(corpus, made, monkeypatch, ranks, here, reproducible, copies):
    monkeypatch.setenv("WORLD_SIZE", str(ranks))
    monkeypatch.setenv("LOCAL_WORLD_SIZE", str(here))
    sizes = []
    monkeypatch.setattr(footprint, "check_memory", lambda size, *_: sizes.append(size))
    config = settings(corpus, 1, reproducible=reproducible)
    w2v_ext.methods.make_method(corpus, config)
    assert sizes == [copies * 2 * 4 * len(corpus.vocab) * config.dim]


def test_a_refusal_names_the_processes(corpus, made, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(MemoryError, match=r"and what 2 processes exchange take .*, or start fewer processes$"):
        w2v_ext.Trainer(corpus, settings(corpus, 20))
    assert made == []


def no_memory(*_):
    return torch.empty(1 << 55, dtype=torch.uint8)


def no_memory_on_cuda(*_):
    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has ...")


@pytest.mark.parametrize(
    ("fail", "reason"),
    [(no_memory, "can't allocate memory: you tried to allocate"), (no_memory_on_cuda, r"\(CUDA out of memory\)")],
)
def test_no_memory_for_what_is_exchanged(corpus, monkeypatch, fail, reason):
    method = w2v_ext.methods.make_method(corpus, settings(corpus, 1))
    monkeypatch.setattr(Ranks, "_buffers", fail)
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    try:
        with pytest.raises(TrainingError, match=rf"out of memory on cpu for what 1 .*{reason}.*lower dim.* processes"):
            Ranks(method)
        monkeypatch.setattr(Ranks, "_buffers", lambda *_: [torch.zeros(1)[5:6].view(7)])
        with pytest.raises(RuntimeError, match="invalid for input of size"):  # nothing about memory
            Ranks(method)
    finally:
        dist.destroy_process_group()
