"""One step of the optimisers of touched rows against those of torch.optim.

    python -m pytest bench/test_optim_bench.py --benchmark-only --benchmark-json=optim.json

V 71,000, D 128, float32; the gradient of 8,192 x 11 rows drawn by Zipf's law (20,610 different ones). ``ascending`` is
how the fused loss gives it: each row once, in order (autograd loses the mark "coalesced"); ``as looked up`` is what
``nn.Embedding(sparse=True)`` gives, a row per index; ``dense`` is (V, D). Every side takes a step that is compared with
the reference before it is timed. Sides alternate between rounds, so that all see the same machine.
"""

import time

import numpy as np
import pytest
import torch

from w2v_ext import optim, reference

VOCAB, DIM, LOOKUPS, LR = 71_000, 128, 8192 * 11, 0.05

OURS = {
    "SparseSGD": lambda p: optim.SparseSGD(p, LR),
    "SparseSGD, momentum": lambda p: optim.SparseSGD(p, LR, momentum=0.9),
    "RowwiseAdagrad": lambda p: optim.RowwiseAdagrad(p, LR),
    "SparseAdagrad": lambda p: optim.SparseAdagrad(p, LR),
    "LazyAdam": lambda p: optim.LazyAdam(p, LR),
    "LazyAdam, clip_norm": lambda p: optim.LazyAdam(p, LR, clip_norm=1.0),
}
THEIRS = {
    "torch SGD": lambda p: torch.optim.SGD(p, LR),
    "torch Adagrad": lambda p: torch.optim.Adagrad(p, LR),
    "torch SparseAdam": lambda p: torch.optim.SparseAdam(p, LR),
}
DENSE = {
    "torch Adam": lambda p: torch.optim.Adam(p, LR),
    "torch Adam, fused": lambda p: torch.optim.Adam(p, LR, fused=True),
    "LazyAdam": lambda p: optim.LazyAdam(p, LR),
}
CASES = [
    *((form, side) for form in ("ascending", "as looked up") for side in (*OURS, *THEIRS)),
    *(("dense", side) for side in DENSE),
]


def make_gradient(form):
    rng = np.random.default_rng(0)
    probability = 1 / np.arange(1, VOCAB + 1)
    rows = torch.from_numpy(rng.choice(VOCAB, LOOKUPS, p=probability / probability.sum()))
    values = torch.from_numpy(rng.standard_normal((LOOKUPS, DIM), dtype=np.float32)) * 1e-3
    looked_up = torch.sparse_coo_tensor(rows[None], values, (VOCAB, DIM), check_invariants=False)
    if form == "as looked up":
        return looked_up
    once = looked_up.coalesce()
    if form == "dense":
        return once.to_dense()
    return torch.sparse_coo_tensor(once.indices(), once.values(), (VOCAB, DIM), check_invariants=False)


def check(side, weight, gradient, optimizer):
    """The step of SGD and of the first step of the others, whose state begins at zero, against the reference."""
    if "momentum" in side or "Adam" in side:
        return  # equal to those of torch.optim: tests/test_optim.py
    expected = weight.detach().double().clone()
    gradient = gradient.coalesce()
    rows, values = gradient.indices()[0], gradient.values().double()
    if "SGD" in side:
        reference.sparse_sgd_(expected, rows, values, lr=LR)
    else:
        shape = (VOCAB,) if "Rowwise" in side else (VOCAB, DIM)
        reference.sparse_adagrad_(expected, rows, values, lr=LR, sum=torch.zeros(shape, dtype=torch.float64))
    optimizer.step()
    torch.testing.assert_close(weight.double(), expected, rtol=1e-5, atol=1e-5)


def make_step(form, side, gradient):
    weight = torch.nn.Parameter(torch.randn(VOCAB, DIM, generator=torch.Generator().manual_seed(0)))
    optimizer = (DENSE if form == "dense" else {**OURS, **THEIRS})[side]([weight])
    weight.grad = gradient
    check(side, weight, gradient, optimizer)
    return optimizer.step


@pytest.mark.parametrize(("form", "side"), CASES, ids=lambda x: x)
def test_step(benchmark, form, side):
    step = make_step(form, side, make_gradient(form))
    benchmark.extra_info.update(threads=torch.get_num_threads())
    benchmark.pedantic(step, rounds=15, warmup_rounds=3, iterations=1)


def compare(rounds=15):
    """All sides in one process, one after the other in every round: what bench/results/optim-cpu.json holds."""
    gradients = {form: make_gradient(form) for form in ("ascending", "as looked up", "dense")}
    steps = {(form, side): make_step(form, side, gradients[form]) for form, side in CASES}
    seconds = {case: [] for case in CASES}
    for i in range(rounds + 2):
        for case, step in steps.items():
            begin = time.perf_counter()
            step()
            if i >= 2:
                seconds[case].append(time.perf_counter() - begin)
    return [
        {
            "gradient": form,
            "side": side,
            "median_ms": round(1e3 * float(np.median(times)), 3),
            "min_ms": round(1e3 * min(times), 3),
            "max_ms": round(1e3 * max(times), 3),
            "rounds": rounds,
        }
        for (form, side), times in seconds.items()
    ]


if __name__ == "__main__":  # python bench/test_optim_bench.py FILE.json
    import json
    import sys

    from measuring import machine

    runs = compare()
    here = {**machine(), "threads": torch.get_num_threads()}
    settings = {"vocab": VOCAB, "dim": DIM, "lookups": LOOKUPS, "dtype": "float32"}
    with open(sys.argv[1], "w") as file:
        json.dump({"machine": here, "settings": settings, "runs": runs}, file, indent=1)
        file.write("\n")
    for run in runs:
        print(f"{run['gradient']:14} {run['side']:22} {run['median_ms']:8.2f} ({run['min_ms']}-{run['max_ms']})")
