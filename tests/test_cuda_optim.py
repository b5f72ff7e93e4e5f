"""The optimisers of touched rows on a CUDA device, as test_row_steps.py tries them on the CPU."""

import pytest
import torch
from test_optim import ALL
from test_row_steps import COMMON, DTYPES, RULES, assert_steps_match_the_reference, make_gradients, randn

import w2v_ext
from w2v_ext import optim, row_steps

pytestmark = [
    pytest.mark.cuda,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device and a CUDA build of PyTorch"),
]


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("dtype", DTYPES)
def test_steps_match_the_reference(rule, dtype):
    for common in COMMON.values():
        assert_steps_match_the_reference(rule, dtype, common, device="cuda", once=True)
    for dim in (1, 31, 64, 100, 129, 300):
        assert_steps_match_the_reference(rule, dtype, COMMON["all"], dim=dim, device="cuda", once=True, steps=2)


@pytest.mark.parametrize("make", ALL.values(), ids=ALL)
@pytest.mark.parametrize("coalesced", [False, True])
def test_optimisers_are_those_of_the_cpu(make, coalesced):
    here, there = (torch.nn.Parameter(randn(40, 33).to(device)) for device in ("cpu", "cuda"))
    optimizers = make([here]), make([there])
    for optimizer in optimizers:
        optimizer.param_groups[0].update(clip_norm=3.0, clip_row_norm=2.0, max_norm=2.0, weight_decay=0.1)
    for rows, values in make_gradients(dim=33):
        here.grad = torch.sparse_coo_tensor(rows[None], values, here.shape, check_invariants=True)
        here.grad = here.grad.coalesce() if coalesced else here.grad
        there.grad = here.grad.cuda()
        for optimizer in optimizers:
            optimizer.step()
    torch.testing.assert_close(there.cpu(), here, rtol=1e-12, atol=1e-12)


def test_a_model_learns():
    torch.manual_seed(0)
    model = w2v_ext.SkipGramNegSampling(50, 16, sparse_grad=True, device="cuda")
    optimizer = optim.LazyAdam(model.parameters(), 0.05, clip_norm=1.0)
    batch = [torch.randint(50, shape, device="cuda") for shape in ((64,), (64,), (64, 5))]
    losses = []
    for _ in range(20):
        optimizer.zero_grad()
        loss = model(*batch)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.7 * losses[0]


def test_rounding_is_the_cpus():
    here, values = (randn(40, 33, dtype=torch.bfloat16, seed=seed) for seed in (0, 1))
    there = here.cuda()
    row_steps.sparse_sgd_(here, None, values, lr=1e-3, seed=5)
    row_steps.sparse_sgd_(there, None, values.cuda(), lr=1e-3, seed=5)
    assert torch.equal(here, there.cpu())
