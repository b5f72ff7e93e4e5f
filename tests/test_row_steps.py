"""Steps of the touched rows against the reference, for every rule; also what the CUDA kernels' tests use."""

import pytest
import torch

from w2v_ext import reference, row_steps

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
