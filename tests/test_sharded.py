"""Tables dealt out to processes train as one table does, and each process keeps its part only."""

import sys

import pytest
import torch
from forks import run_ranks

from w2v_ext.sharded import ShardedSkipGram, shard_bounds

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")

EQUAL = """
import sys, torch, torch.distributed as dist
import torch.distributed.checkpoint as checkpoint
import w2v_ext
from w2v_ext import distributed
from w2v_ext.sharded import ShardedSkipGram

def batch(rank, step, vocab):
    '''What a rank learns from in a step; the last rank has nothing in the first.'''
    generator = torch.Generator().manual_seed(97 * step + rank)
    size = 0 if step == 0 and rank == ranks - 1 else 5 + 3 * rank
    draw = lambda *shape: (torch.rand(*shape, generator=generator) ** 3 * vocab).long()
    return draw(size), draw(size, 2), draw(size, 4)

with distributed.process_group():
    rank, ranks = dist.get_rank(), dist.get_world_size()
    cases = (1001, 7, torch.float64, True), (3, 5, torch.float64, False), (64, 100, torch.float32, True)
    for vocab, dim, dtype, sparse in cases:
        model = ShardedSkipGram(vocab, dim, sparse_grad=sparse, seed=5, dtype=dtype)
        whole = w2v_ext.SkipGramNegSampling(vocab, dim, sparse_grad=sparse, dtype=dtype)
        full = {name: weight.full_tensor() for name, weight in model.distributed_weights().items()}
        assert full["in_weight"].abs().max() <= 0.5 / dim and full["in_weight"].std() > 0.2 / dim
        whole.load_state_dict(full)
        steps = torch.optim.Adam if not sparse else w2v_ext.optim.SparseAdagrad
        if dtype == torch.float32:  # AdaGrad would make as much of a gradient of rounding errors as of any other
            steps = w2v_ext.optim.SparseSGD
        own, one = (steps(m.parameters(), lr=0.5) for m in (model, whole))
        for step in range(4):
            parts = [batch(r, step, vocab) for r in range(ranks)]
            expected = whole(*(torch.cat([part[i] for part in parts]) for i in range(3)))
            loss = model(*parts[rank])
            torch.testing.assert_close(loss, expected)
            for m, optimizer, value in ((model, own, loss), (whole, one, expected)):
                optimizer.zero_grad()
                value.backward()
            for name, weight in model.named_parameters():
                assert weight.grad.is_sparse == sparse
                expected_grad = getattr(whole, name).grad.to_dense()[model.first : model.last]
                torch.testing.assert_close(weight.grad.to_dense(), expected_grad)
            own.step(), one.step()
        for name, weight in model.distributed_weights().items():
            torch.testing.assert_close(weight.full_tensor(), getattr(whole, name).detach())
    checkpoint.save(model.distributed_weights(), checkpoint_id=f"{sys.argv[1]}/saved")
    if rank == 0:
        torch.save(whole.in_weight.detach(), f"{sys.argv[1]}/whole.pt")
    try:
        model(torch.tensor([64]), torch.tensor([0]), torch.tensor([[1]]))
    except IndexError as error:
        assert str(error) == "center: expected indices from 0 to 63, got 64 to 64"
    else:
        raise AssertionError
    open(f"{sys.argv[1]}/done-{rank}", "w").close()
"""

LOAD = """
import sys, torch, torch.distributed.checkpoint as checkpoint
from w2v_ext import distributed
from w2v_ext.sharded import ShardedSkipGram

with distributed.process_group():
    model = ShardedSkipGram(64, 100)
    checkpoint.load(model.distributed_weights(), checkpoint_id=f"{sys.argv[1]}/saved")
    whole = torch.load(f"{sys.argv[1]}/whole.pt")
    torch.testing.assert_close(model.in_weight.detach(), whole[model.first : model.last])
"""

MEMORY = """
import sys, torch
import w2v_ext
from w2v_ext import distributed
from w2v_ext.sharded import ShardedSkipGram

def anonymous():
    lines = open("/proc/self/status").read().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("RssAnon")) * 1024

with distributed.process_group():
    vocab, dim = 1_000_000, 64
    def train(vocab):
        model = ShardedSkipGram(vocab, dim)
        optimizer = w2v_ext.optim.SparseAdagrad(model.parameters(), lr=0.5)
        for _ in range(3):
            optimizer.zero_grad()
            model(torch.randint(vocab, (512,)), torch.randint(vocab, (512,)), torch.randint(vocab, (512, 5))).backward()
            optimizer.step()
        return model, optimizer
    train(1000)  # what libraries and buffers take
    before = anonymous()
    model, optimizer = train(vocab)
    share = 2 * 2 * vocab * dim * 4 / int(sys.argv[1])  # both tables, and a number of state for each of theirs
    assert 0.9 * share < anonymous() - before < 1.1 * share + 24e6, (anonymous() - before, share)
"""


def test_2_ranks_train_as_one_and_4_read_what_they_saved(tmp_path):
    run_ranks(2, EQUAL, tmp_path)
    assert len(list(tmp_path.glob("done-*"))) == 2
    run_ranks(4, LOAD, tmp_path)


@pytest.mark.slow
def test_4_ranks_train_as_one(tmp_path):
    run_ranks(4, EQUAL, tmp_path)
    assert len(list(tmp_path.glob("done-*"))) == 4


@pytest.mark.parametrize("count", [4, pytest.param(2, marks=pytest.mark.slow)])
def test_a_rank_keeps_its_part_only(count):
    run_ranks(count, MEMORY, count)


@pytest.mark.parametrize(("rows", "ranks"), [(1, 4), (3, 4), (5, 4), (8, 4), (1001, 3), (7, 1)])
def test_every_row_has_one_owner_and_dtensor_agrees(rows, ranks):
    bounds = [shard_bounds(rows, ranks, rank) for rank in range(ranks)]
    assert [row for first, last in bounds for row in range(first, last)] == list(range(rows))
    sizes = [len(chunk) for chunk in torch.arange(rows).chunk(ranks)]  # as Shard(0) does it
    assert [last - first for first, last in bounds] == sizes + [0] * (ranks - len(sizes))


def test_bad_arguments():
    with pytest.raises(ValueError, match="vocab_size: expected an integer >= 1, got 0"):
        ShardedSkipGram(0, 5)
    with pytest.raises(ValueError, match="embed_dim: expected an integer >= 1, got -1"):
        ShardedSkipGram(5, -1)
    with pytest.raises(ValueError, match="group: expected torch.distributed.init_process_group"):
        ShardedSkipGram(5, 5)
