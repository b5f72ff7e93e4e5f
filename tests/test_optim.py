"""The optimisers of touched rows against torch.optim where the maths is the same, and against the reference."""

import copy

import pytest
import torch

import w2v_ext
from w2v_ext import optim, reference, row_steps

TOLERANCE = {torch.float64: 1e-12, torch.float32: 1e-5, torch.bfloat16: 1.6e-2, torch.float16: 2e-3}
DTYPES = list(TOLERANCE)
VOCAB, STEPS = 40, 5
COMMON = {
    "plain": {},
    "L2": {"weight_decay": 0.1},
    "decoupled": {"weight_decay": 0.1, "decoupled": True},
    "clipped": {"clip_row_norm": 1.5},
    "max norm": {"max_norm": 1.8},
    "all": {"weight_decay": 0.1, "clip_row_norm": 1.5, "max_norm": 1.8},
}
common_settings = pytest.mark.parametrize("common", COMMON.values(), ids=COMMON)


def randn(*shape, dtype=torch.float64, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def make_gradients(dtype=torch.float64, dim=7, vocab=VOCAB, count=25, steps=STEPS, seed=1):
    """(rows, values) of some steps: rows in any order, some several times."""
    g = torch.Generator().manual_seed(seed)
    return [
        (torch.randint(vocab, (count,), generator=g), randn(count, dim, dtype=dtype, seed=seed + i))
        for i in range(steps)
    ]


def as_sparse(rows, values, vocab=VOCAB, coalesced=False):
    sparse = torch.sparse_coo_tensor(rows[None], values, (vocab, values.shape[1]), check_invariants=True)
    return sparse.coalesce() if coalesced else sparse


# ---- the steps, against the reference: used for the CUDA kernels too ------------------------------------------------

RULES = {
    "sgd": ("sparse_sgd_", {}),
    "momentum": ("sparse_sgd_", {"momentum": 0.9}),
    "nesterov": ("sparse_sgd_", {"momentum": 0.9, "nesterov": True}),
    "adagrad": ("sparse_adagrad_", {"eps": 1e-3}),
    "rowwise": ("sparse_adagrad_", {"eps": 1e-3}),
    "adam": ("sparse_adam_", {"eps": 1e-3}),
    "adam by rows": ("sparse_adam_", {"eps": 1e-3}),
}


def new_state(rule, vocab, dim, dtype, device="cpu"):
    table = lambda *shape: torch.zeros(*shape, dtype=dtype, device=device)  # noqa: E731
    return {
        "sgd": lambda: {},
        "momentum": lambda: {"momentum_buffer": table(vocab, dim)},
        "nesterov": lambda: {"momentum_buffer": table(vocab, dim)},
        "adagrad": lambda: {"sum": table(vocab, dim)},
        "rowwise": lambda: {"sum": table(vocab)},
        "adam": lambda: {"exp_avg": table(vocab, dim), "exp_avg_sq": table(vocab, dim)},
        "adam by rows": lambda: {
            "exp_avg": table(vocab, dim),
            "exp_avg_sq": table(vocab, dim),
            "row_steps": torch.zeros(vocab, dtype=torch.int32, device=device),
        },
    }[rule]()


def assert_steps_match_the_reference(rule, dtype, common, step=None, dim=7, device="cpu", once=False, steps=STEPS):
    """Several steps on some rows; ``step(name, weight, rows, values, **settings)`` takes the place of row_steps."""
    name, own = RULES[rule]
    accumulator = torch.float64 if dtype == torch.float64 else torch.float32
    weight = randn(VOCAB, dim, dtype=dtype).to(device)
    state = new_state(rule, VOCAB, dim, accumulator, device)
    expected, wanted_state = weight.double().cpu().clone(), new_state(rule, VOCAB, dim, torch.float64)
    untouched = torch.ones(VOCAB, dtype=torch.bool)
    before = weight.clone()
    for i, (rows, values) in enumerate(make_gradients(dtype, dim, steps=steps)):
        if once:
            sparse = as_sparse(rows, values, coalesced=True)
            rows, values = sparse.indices()[0], sparse.values()
        untouched[rows] = False
        settings = {"lr": 0.05, **own, **common, **({"step": i + 1} if name == "sparse_adam_" else {})}
        scale = torch.tensor(0.7, dtype=torch.float64)
        getattr(reference, name)(expected, rows, values.double(), **wanted_state, **settings, grad_scale=scale)
        expected = expected.to(dtype).double()  # rounded after every step, as the weight is
        call = step or (lambda name, *args, **settings: getattr(row_steps, name)(*args, **settings))
        call(name, weight, rows.to(device), values.to(device), **state, **settings, grad_scale=scale.to(device))
    tolerance = TOLERANCE[dtype]
    torch.testing.assert_close(weight.double().cpu(), expected, rtol=tolerance, atol=tolerance)
    for key, value in wanted_state.items():
        loose = 1e-12 if dtype == torch.float64 else max(tolerance, 1e-4) if common.get("weight_decay") else 1e-4
        torch.testing.assert_close(state[key].double().cpu(), value.double(), rtol=loose, atol=loose)
    assert untouched.any()
    assert torch.equal(weight[untouched.to(device)], before[untouched.to(device)])


@common_settings
@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("dtype", DTYPES)
def test_steps_match_the_reference(rule, dtype, common):
    assert_steps_match_the_reference(rule, dtype, common)


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("dim", [1, 3, 8, 16, 31, 64, 100, 129, 300])
def test_every_dimension(rule, dim):
    for dtype in (torch.float32, torch.float64):
        assert_steps_match_the_reference(rule, dtype, COMMON["all"], dim=dim, steps=2)


@pytest.mark.parametrize("rule", RULES)
def test_rows_that_come_once_are_taken_as_they_are(rule):
    assert_steps_match_the_reference(rule, torch.float64, COMMON["all"], once=True)


def test_many_threads_and_hot_rows_sum_exactly_once():
    rows, values = make_gradients(torch.float64, dim=3, vocab=3, count=5000, steps=1)[0]
    weight, expected = randn(3, 3), randn(3, 3)
    row_steps.sparse_sgd_(weight, rows, values, lr=0.1)
    reference.sparse_sgd_(expected, rows, values, lr=0.1)
    torch.testing.assert_close(weight, expected, rtol=1e-12, atol=1e-11)
    ascending = torch.arange(20_000)
    weight, values = randn(20_000, 5), randn(20_000, 5, seed=2)
    expected = weight - 0.1 * values
    row_steps.sparse_sgd_(weight, ascending, values, lr=0.1)
    torch.testing.assert_close(weight, expected, rtol=1e-12, atol=1e-12)


def test_table_computed_by_hand():
    # Row 1 of two: g = (3, 4), of length 5. Mean square 12.5; rate 0.1 / (sqrt(12.5) + 0) = 0.0282843.
    weight, sums = torch.ones(2, 2, dtype=torch.float64), torch.zeros(2, dtype=torch.float64)
    row, g = torch.tensor([1]), torch.tensor([[3.0, 4.0]], dtype=torch.float64)
    row_steps.sparse_adagrad_(weight, row, g, lr=0.1, sum=sums, eps=0)
    assert sums.tolist() == [0, 12.5]
    expected = torch.tensor([[1, 1], [1 - 3 * 0.0282842712474619, 1 - 4 * 0.0282842712474619]], dtype=torch.float64)
    torch.testing.assert_close(weight, expected, rtol=0, atol=1e-15)
    # Clipped to length 1: (0.6, 0.8); the row after the step, (0.4, 0.2) of length 0.447, shortened to 0.1.
    weight = torch.ones(2, 2, dtype=torch.float64)
    row_steps.sparse_sgd_(weight, row, g, lr=1, clip_row_norm=1, max_norm=0.1)
    expected = torch.tensor([0.4, 0.2], dtype=torch.float64) * 0.1 / 0.2**0.5
    torch.testing.assert_close(weight[1], expected, rtol=0, atol=1e-15)


def test_rows_of_a_wider_table():
    wide = randn(VOCAB, 10)
    rows, values = make_gradients(dim=6)[0]
    expected = wide.clone()
    reference.sparse_sgd_(expected[:, 2:8], rows, values, lr=0.1)
    row_steps.sparse_sgd_(wide[:, 2:8], rows, values.T.contiguous().T, lr=0.1)
    torch.testing.assert_close(wide, expected, rtol=0, atol=1e-14)


def test_stochastic_rounding_is_right_on_average():
    start = torch.full((64, 256), 1.0, dtype=torch.bfloat16)
    values = torch.full((64, 256), 1.0, dtype=torch.bfloat16)
    rows = torch.arange(64)
    nearest, stochastic, again = start.clone(), start.clone(), start.clone()
    for i in range(100):  # 100 steps of 2^-13, a 32nd of the distance between numbers just below 1
        row_steps.sparse_sgd_(nearest, rows, values, lr=2**-13)
        row_steps.sparse_sgd_(stochastic, rows, values, lr=2**-13, seed=i)
        row_steps.sparse_sgd_(again, rows, values, lr=2**-13, seed=i)
    assert torch.equal(nearest, start)
    assert torch.equal(stochastic, again)
    # A number's variance is about 100 * 2^-8 * 2^-13 (a coin per step): 16,384 numbers give the mean to 6e-5.
    assert 1 - stochastic.float().mean().item() == pytest.approx(100 * 2**-13, abs=4 * 6e-5)
    assert stochastic.float().var() > 0


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
    ("change", "error", "message"),
    [
        ({"weight": randn(3)}, ValueError, r"weight: expected shape \(V, D\), got \(3,\)"),
        ({"weight": torch.zeros(VOCAB, 5).int()}, ValueError, "weight: expected dtype float32, float64, bfloat16"),
        ({"weight": randn(5, VOCAB).T}, ValueError, r"weight: expected contiguous rows .* stride\(1\) = 40"),
        ({"weight": randn(1, 5).expand(VOCAB, 5)}, ValueError, "weight: expected rows that do not overlap"),
        ({"values": randn(25, 6)}, ValueError, r"values: expected shape \(N, D\) with D = 5 to match .*got \(25, 6\)"),
        ({"values": randn(25, 5).float()}, ValueError, "values: expected the dtype of weight, Double, got Float"),
        ({"rows": None}, ValueError, r"values: expected shape \(V, D\) with V = 40 where no rows are given"),
        ({"rows": torch.zeros(24).long()}, ValueError, r"rows: expected shape \(N,\) = \(25,\) and dtype int64"),
        ({"rows": torch.zeros(25).int()}, ValueError, "rows: expected .* dtype int64 .*Int"),
        ({"rows": torch.full((25,), 40)}, IndexError, "rows: index 40 at position 0 is out of range .* with 40 rows"),
        ({"rows": torch.arange(25) - 1}, IndexError, "rows: index -1 at position 0 is out of range"),
        ({"lr": -1.0}, ValueError, "lr: expected a finite number >= 0, got -1"),
        ({"seed": 3}, ValueError, "seed: expected -1, as stochastic rounding is for bfloat16, got 3 with Double"),
        ({"grad_scale": torch.ones(1)}, ValueError, "grad_scale: expected one float64 number"),
        ({"momentum": 0.5}, ValueError, "momentum_buffer: expected one if, and only if, momentum > 0, got none"),
        (
            {"momentum": 0.5, "momentum_buffer": randn(VOCAB, 5).float()},
            ValueError,
            "momentum_buffer: expected dtype Double, got Float",
        ),
        (
            {"momentum": 0.5, "momentum_buffer": randn(VOCAB, 4)},
            ValueError,
            r"momentum_buffer: expected shape \(V, D\) with the V and D of weight, \(40, 5\), got \(40, 4\)",
        ),
    ],
)
def test_arguments_of_a_step(change, error, message):
    rows, values = make_gradients(dim=5)[0]
    arguments = {"weight": randn(VOCAB, 5), "rows": rows, "values": values, "lr": 0.1, **change}
    with pytest.raises(error, match=message):
        row_steps.sparse_sgd_(**arguments)


@pytest.mark.parametrize("rows", ["none", "given"])
def test_operators_keep_what_they_promise(rows):
    given, values = (None, randn(VOCAB, 5)) if rows == "none" else make_gradients(dim=5)[0]
    common = (0.1, 0.0, False, 0.0, None, 0.0, -1)
    table, ops = randn(VOCAB, 5).square(), torch.ops.w2v_ext
    tests = ("test_schema", "test_faketensor")
    for op, arguments in (
        (ops.sparse_sgd_, (randn(VOCAB, 5), None, given, values, 0.0, False, *common)),
        (ops.sparse_sgd_, (randn(VOCAB, 5), table, given, values, 0.5, False, *common)),
        (ops.sparse_adagrad_, (randn(VOCAB, 5), table, given, values, 1e-9, *common)),
        (ops.sparse_adam_, (randn(VOCAB, 5), table, table + 1, None, given, values, 0.9, 0.99, 1e-8, 1, *common)),
    ):
        torch.library.opcheck(op.default, arguments, test_utils=tests)
