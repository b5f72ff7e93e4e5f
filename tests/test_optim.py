"""The optimisers of touched rows against torch.optim, where the maths is the same."""

import copy

import pytest
import torch
from test_row_steps import VOCAB, as_sparse, make_gradients, randn

import w2v_ext
from w2v_ext import optim

# ---- the optimisers, against torch.optim ---------------------------------------------------------------------------

DENSE_PAIRS = {
    "SGD": (lambda p: optim.SparseSGD(p, 0.1), lambda p: torch.optim.SGD(p, 0.1)),
    "SGD L2": (
        lambda p: optim.SparseSGD(p, 0.1, weight_decay=0.2),
        lambda p: torch.optim.SGD(p, 0.1, weight_decay=0.2),
    ),
    "momentum": (
        lambda p: optim.SparseSGD(p, 0.1, momentum=0.9, weight_decay=0.1),
        lambda p: torch.optim.SGD(p, 0.1, momentum=0.9, weight_decay=0.1),
    ),
    "nesterov": (
        lambda p: optim.SparseSGD(p, 0.1, momentum=0.9, nesterov=True),
        lambda p: torch.optim.SGD(p, 0.1, momentum=0.9, nesterov=True),
    ),
    "Adagrad": (
        lambda p: optim.SparseAdagrad(p, 0.1, lr_decay=0.3, initial_accumulator_value=0.2, weight_decay=0.1),
        lambda p: torch.optim.Adagrad(p, 0.1, lr_decay=0.3, initial_accumulator_value=0.2, weight_decay=0.1),
    ),
    "Adam": (
        lambda p: optim.LazyAdam(p, 0.1, weight_decay=0.1),
        lambda p: torch.optim.Adam(p, 0.1, weight_decay=0.1),
    ),
    "Adam by rows": (lambda p: optim.LazyAdam(p, 0.1, per_row_steps=True), lambda p: torch.optim.Adam(p, 0.1)),
    "AdamW": (
        lambda p: optim.LazyAdam(p, 0.1, (0.8, 0.99), weight_decay=0.1, decoupled=True),
        lambda p: torch.optim.AdamW(p, 0.1, (0.8, 0.99), weight_decay=0.1),
    ),
}


@pytest.mark.parametrize("form", ["dense", "coalesced", "uncoalesced"])
@pytest.mark.parametrize("pair", DENSE_PAIRS.values(), ids=DENSE_PAIRS)
def test_equals_torch_where_every_row_is_touched(pair, form):
    ours, theirs = (torch.nn.Parameter(randn(VOCAB, 5)) for _ in range(2))
    optimizers = pair[0]([ours]), pair[1]([theirs])
    for i in range(8):
        grad = randn(VOCAB, 5, seed=i)
        order = torch.randperm(VOCAB, generator=torch.Generator().manual_seed(i))
        sparse = as_sparse(order.repeat(2), torch.cat([grad[order] * 0.25, grad[order] * 0.75]))
        ours.grad = {"dense": grad, "coalesced": sparse.coalesce(), "uncoalesced": sparse}[form]
        theirs.grad = grad
        for optimizer in optimizers:
            optimizer.step()
    torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)


SPARSE_PAIRS = {
    "SGD": (lambda p: optim.SparseSGD(p, 0.1), lambda p: torch.optim.SGD(p, 0.1)),
    "Adagrad": (
        lambda p: optim.SparseAdagrad(p, 0.1, lr_decay=0.3, eps=1e-3),
        lambda p: torch.optim.Adagrad(p, 0.1, lr_decay=0.3, eps=1e-3),
    ),
    "Adam": (lambda p: optim.LazyAdam(p, 0.1, eps=1e-30), lambda p: torch.optim.SparseAdam(p, 0.1, eps=1e-30)),
}


@pytest.mark.parametrize("pair", SPARSE_PAIRS.values(), ids=SPARSE_PAIRS)
def test_equals_torch_on_sparse_gradients(pair):
    ours, theirs = (torch.nn.Parameter(randn(VOCAB, 5)) for _ in range(2))
    optimizers = pair[0]([ours]), pair[1]([theirs])
    for rows, values in make_gradients(dim=5, steps=8):
        ours.grad, theirs.grad = as_sparse(rows, values), as_sparse(rows, values)
        for optimizer in optimizers:
            optimizer.step()
    torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)


def test_plain_sgd_equals_torch_on_the_dense_gradient_of_the_fused_loss():
    torch.manual_seed(0)
    sparse = w2v_ext.SkipGramNegSampling(VOCAB, 6, sparse_grad=True, dtype=torch.float64)
    torch.nn.init.normal_(sparse.out_weight)
    dense = copy.deepcopy(sparse)
    dense.sparse_grad = False
    ours = optim.SparseSGD(sparse.parameters(), 0.5, clip_norm=0.05)
    theirs = torch.optim.SGD(dense.parameters(), 0.5)
    for _ in range(5):
        batch = [torch.randint(VOCAB, shape) for shape in ((12,), (12,), (12, 4))]
        for model, optimizer in ((sparse, ours), (dense, theirs)):
            optimizer.zero_grad()
            model(*batch).backward()
            if model is dense:
                norm = torch.nn.utils.clip_grad_norm_(model.parameters(), 0.05)
                assert norm > 0.05
            optimizer.step()
    for a, b in zip(sparse.parameters(), dense.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)


def test_clip_norm_comes_after_clip_row_norm_and_spans_the_group():
    weights = [torch.nn.Parameter(randn(VOCAB, 5, seed=i)) for i in range(3)]
    before = [w.detach().clone() for w in weights]
    optimizer = optim.SparseSGD([{"params": weights[:2]}, {"params": weights[2:]}], 1.0, clip_norm=2.0, clip_row_norm=1)
    gradients = [make_gradients(dim=5, seed=i)[0] for i in range(3)]
    for weight, (rows, values) in zip(weights, gradients, strict=True):
        weight.grad = as_sparse(rows, values)
    optimizer.step()
    steps = [b - w.detach() for b, w in zip(before, weights, strict=True)]
    assert torch.cat(steps[:2]).norm() == pytest.approx(2, abs=1e-5)
    assert steps[2].norm() == pytest.approx(2, abs=1e-5)
    dense = [as_sparse(*gradient).to_dense() for gradient in gradients]
    clipped = torch.cat([g * (1 / g.norm(dim=1, keepdim=True)).clamp(max=1) for g in dense[:2]])
    torch.testing.assert_close(torch.cat(steps[:2]), clipped * (2 / (clipped.norm() + 1e-6)), rtol=1e-12, atol=1e-12)


def test_rows_that_are_not_touched_stand_still():
    for make in (
        lambda p: optim.SparseSGD(p, 0.1, momentum=0.9, weight_decay=0.1),
        lambda p: optim.LazyAdam(p, 0.1, weight_decay=0.1, decoupled=True, max_norm=0.01),
    ):
        weight = torch.nn.Parameter(randn(VOCAB, 5))
        optimizer = make([weight])
        weight.grad = randn(VOCAB, 5, seed=1)
        optimizer.step()
        before = [weight.detach().clone(), *(v.clone() for v in optimizer.state[weight].values() if torch.is_tensor(v))]
        weight.grad = as_sparse(torch.tensor([3, 7, 3]), randn(3, 5))
        optimizer.step()
        after = [weight.detach(), *(v for v in optimizer.state[weight].values() if torch.is_tensor(v))]
        still = torch.ones(VOCAB, dtype=torch.bool)
        still[[3, 7]] = False
        for a, b in zip(before, after, strict=True):
            assert torch.equal(a[still], b[still])
            assert not torch.equal(a[~still], b[~still])


# ---- the rest of an optimiser's life -------------------------------------------------------------------------------

ALL = {
    "sgd": lambda p: optim.SparseSGD(p, 0.1, momentum=0.9),
    "adagrad": lambda p: optim.SparseAdagrad(p, 0.1),
    "rowwise": lambda p: optim.RowwiseAdagrad(p, 0.1),
    "adam": lambda p: optim.LazyAdam(p, 0.1),
    "adam by rows": lambda p: optim.LazyAdam(p, 0.1, per_row_steps=True),
}


@pytest.mark.parametrize("make", ALL.values(), ids=ALL)
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_a_saved_optimizer_goes_on_as_if_nothing_had_happened(make, dtype, tmp_path):
    weight = torch.nn.Parameter(randn(VOCAB, 5, dtype=dtype))
    optimizer = make([weight])
    gradients = [as_sparse(*g) for g in make_gradients(dtype, dim=5, steps=6)]
    for gradient in gradients[:3]:
        weight.grad = gradient
        optimizer.step()
    torch.save(optimizer.state_dict(), tmp_path / "state.pt")
    other = torch.nn.Parameter(weight.detach().clone())
    resumed = make([other])
    resumed.load_state_dict(torch.load(tmp_path / "state.pt"))
    for one, two in zip(optimizer.state[weight].values(), resumed.state[other].values(), strict=True):
        if torch.is_tensor(one):
            assert one.dtype == two.dtype
            assert one.data_ptr() != two.data_ptr()
    for gradient in gradients[3:]:
        weight.grad = other.grad = gradient
        optimizer.step()
        resumed.step()
    assert torch.equal(weight, other)


def test_state_of_torch_optim_is_taken_over():
    theirs, ours = (torch.nn.Parameter(randn(VOCAB, 5)) for _ in range(2))
    for make, take in (
        (torch.optim.SparseAdam, lambda p: optim.LazyAdam(p)),
        (torch.optim.Adagrad, lambda p: optim.SparseAdagrad(p)),
    ):
        before = make([theirs], lr=0.3)
        theirs.grad = as_sparse(*make_gradients(dim=5)[0])
        before.step()
        after = take([ours])
        after.load_state_dict(before.state_dict())
        assert after.param_groups[0]["lr"] == 0.3
        assert after.param_groups[0]["clip_norm"] is None
        assert after.state[ours]["step"] == 1
        for name in ("sum",) if "sum" in before.state[theirs] else ("exp_avg", "exp_avg_sq"):
            assert torch.equal(after.state[ours][name], before.state[theirs][name])
        ours.grad = theirs.grad
        after.step()


def test_several_groups_closures_copies_and_schedules():
    first, second = (torch.nn.Parameter(randn(VOCAB, 5)) for _ in range(2))
    optimizer = optim.LazyAdam([{"params": [first], "lr": 0.1}, {"params": [second], "lr": 0.0}])
    optimizer = copy.deepcopy({"o": optimizer, "p": (first, second)})
    (first, second), optimizer = optimizer["p"], optimizer["o"]
    schedule = torch.optim.lr_scheduler.StepLR(optimizer, 1, gamma=0.5)
    start = second.detach().clone()

    def closure():
        optimizer.zero_grad()
        loss = (first[:3].square().sum() + second[:3].square().sum()) / 2
        loss.backward()
        return loss

    losses = [(optimizer.step(closure).item(), schedule.step()) for _ in range(3)]
    assert losses[2][0] < losses[1][0] < losses[0][0]
    assert torch.equal(second, start)
    assert optimizer.param_groups[0]["lr"] == 0.1 * 0.5**3
    assert optimizer.state[first]["step"] == 3
    first.grad = None
    optimizer.step()
    assert optimizer.state[first]["step"] == 3


def test_autograd_notices_the_change():
    weight = torch.nn.Parameter(randn(VOCAB, 5))
    loss = weight.square().sum()
    weight.grad = as_sparse(*make_gradients(dim=5)[0])
    optim.SparseSGD([weight]).step()
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


def test_an_empty_gradient_changes_nothing():
    weight = torch.nn.Parameter(randn(VOCAB, 5))
    before = weight.detach().clone()
    weight.grad = as_sparse(torch.empty(0, dtype=torch.int64), randn(0, 5))
    optim.LazyAdam([weight], clip_norm=1.0).step()
    assert torch.equal(weight, before)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda p: optim.SparseSGD([torch.nn.Parameter(torch.zeros(3))]),
            r"params: expected weights of shape \(V, D\)",
        ),
        (lambda p: optim.SparseSGD(p, -1), "lr: expected a finite number >= 0, got -1"),
        (lambda p: optim.SparseSGD(p, momentum=1.0), r"momentum: expected a number in \[0, 1\), got 1.0"),
        (lambda p: optim.SparseSGD(p, nesterov=True), "nesterov: expected momentum > 0, got 0"),
        (lambda p: optim.SparseSGD(p, max_norm=0), "max_norm: expected a finite number > 0 or None, got 0"),
        (lambda p: optim.SparseSGD(p, clip_norm=float("nan")), "clip_norm: expected a finite number > 0 or None"),
        (lambda p: optim.SparseSGD(p, weight_decay=-0.1), "weight_decay: expected a finite number >= 0, got -0.1"),
        (lambda p: optim.SparseSGD(p, stochastic_rounding=True), "stochastic_rounding: expected bfloat16 weights"),
        (lambda p: optim.SparseSGD(p, seed=1.5), r"seed: expected an integer in \[0, 2\^63\), got 1.5"),
        (lambda p: optim.SparseAdagrad(p, eps=-1), "eps: expected a finite number >= 0, got -1"),
        (lambda p: optim.LazyAdam(p, betas=(0.9, 1)), r"betas: expected two numbers in \[0, 1\), got \(0.9, 1\)"),
    ],
)
def test_settings_out_of_range(make, message):
    with pytest.raises(ValueError, match=message):
        make([torch.nn.Parameter(randn(VOCAB, 5))])


def test_an_unknown_setting_is_named():
    with pytest.raises(
        TypeError, match="SparseSGD: unknown setting 'dampening'; known: lr, momentum, nesterov, weight"
    ):
        optim.SparseSGD([torch.nn.Parameter(randn(VOCAB, 5))], dampening=0.1)


def test_gradients_of_another_kind_are_refused():
    weight = torch.nn.Parameter(randn(VOCAB, 5))
    optimizer = optim.SparseSGD([weight])
    weight.grad = randn(VOCAB, 5).to_sparse(2)
    with pytest.raises(ValueError, match=r"grad: expected a dense gradient, or .*sparse_coo with sparse_dim 2"):
        optimizer.step()


def test_state_of_another_kind_is_refused():
    weight = torch.nn.Parameter(randn(VOCAB, 5))
    weight.grad = randn(VOCAB, 5)
    adam, rowwise = optim.LazyAdam([weight]), optim.RowwiseAdagrad([weight])
    adam.step()
    rowwise.step()
    with pytest.raises(ValueError, match="state_dict: expected sum for each weight, got step, exp_avg, exp_avg_sq"):
        optim.SparseAdagrad([weight]).load_state_dict(adam.state_dict())
    with pytest.raises(ValueError, match=r"state_dict: expected sum of shape \(40, 5\), got \(40,\)"):
        optim.SparseAdagrad([weight]).load_state_dict(rowwise.state_dict())


@pytest.mark.parametrize(
    ("saved", "make", "message"),
    [
        (lambda p: torch.optim.SGD(p, 0.1, maximize=True), optim.SparseSGD, "maximize=False, got True"),
        (lambda p: torch.optim.SGD(p, 0.1, 0.9, dampening=0.5), optim.SparseSGD, r"dampening=0.0, got 0.5"),
        (lambda p: torch.optim.Adam(p, amsgrad=True), optim.LazyAdam, "amsgrad=False, got True"),
        (lambda p: torch.optim.Adagrad(p), optim.LazyAdam, "expected exp_avg for each weight"),
    ],
)
def test_state_that_is_refused_leaves_the_optimizer_as_it_was(saved, make, message):
    weight = torch.nn.Parameter(randn(VOCAB, 5))
    other, own = saved([weight]), make([weight], lr=0.3)
    for optimizer in (other, own):
        weight.grad = randn(VOCAB, 5)
        optimizer.step()
    before = own.state_dict()
    with pytest.raises(ValueError, match=f"state_dict: .*{message}"):
        own.load_state_dict(other.state_dict())
    after = own.state_dict()
    assert after["param_groups"] == before["param_groups"] and after["state"].keys() == before["state"].keys()
    own.step()


def test_adamw_goes_on_decoupled():
    weights = [torch.nn.Parameter(torch.ones(3, 4)) for _ in range(2)]
    theirs = torch.optim.AdamW([weights[0]], lr=0.1, weight_decay=0.5)
    ours = optim.LazyAdam([weights[1]])
    ours.load_state_dict(theirs.state_dict())
    for _ in range(4):
        for weight, optimizer in zip(weights, (theirs, ours), strict=True):
            weight.grad = torch.full((3, 4), 0.5)
            optimizer.step()
    torch.testing.assert_close(*weights)


def test_momentum_that_was_switched_on_before_saving():
    weight = torch.nn.Parameter(torch.ones(3, 4))
    before, after = (optim.SparseSGD([weight], lr=0.1) for _ in range(2))
    weight.grad = torch.ones(3, 4)
    before.step()
    before.param_groups[0]["momentum"] = 0.9
    after.load_state_dict(before.state_dict())
    after.step()
    assert torch.equal(after.state[weight]["momentum_buffer"], torch.ones(3, 4))


def test_steps_of_rows_are_counted_from_the_first_step():
    weight = torch.nn.Parameter(torch.ones(3, 4))
    adam = optim.LazyAdam([weight])
    weight.grad = torch.ones(3, 4)
    adam.step()
    adam.param_groups[0]["per_row_steps"] = True
    with pytest.raises(ValueError, match="per_row_steps: expected to stay as it was in the first step"):
        adam.step()
    assert adam.state[weight]["step"] == 1
