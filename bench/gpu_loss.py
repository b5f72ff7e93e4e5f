"""The part of gpu_bench.py about the fused loss."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from gpu_common import DEVICE, ON_GPU, copy_bandwidth, timed

import w2v_ext
from w2v_ext import reference


def plain_loss(in_weight, out_weight, center, pos, neg):
    """The usual code: embeddings, bmm, logsigmoid."""
    v = F.embedding(center, in_weight).unsqueeze(2)  # (B, D, 1)
    positive = torch.bmm(F.embedding(pos, out_weight).unsqueeze(1), v).squeeze(2)  # (B, 1)
    negative = torch.bmm(F.embedding(neg, out_weight), v).squeeze(2)  # (B, K)
    return -(F.logsigmoid(positive).squeeze(1) + F.logsigmoid(-negative).sum(1)).mean()


def index_batches(count: int, vocab: int, batch: int, negative: int, zipf: bool) -> list[tuple[torch.Tensor, ...]]:
    """Batches of (center, pos, neg), uniform or as words are distributed."""
    rng = np.random.default_rng(0)
    cumulative = np.cumsum(1 / np.arange(1, vocab + 1))

    def draw(*shape: int) -> torch.Tensor:
        uniform = rng.random(shape)
        rows = np.searchsorted(cumulative, uniform * cumulative[-1]) if zipf else (uniform * vocab).astype(np.int64)
        return torch.from_numpy(np.minimum(rows, vocab - 1)).to(DEVICE)

    return [(draw(batch), draw(batch), draw(batch, negative)) for _ in range(count)]


def check_step(step: Callable, weights: list[torch.Tensor], batch: tuple[torch.Tensor, ...]) -> float:
    """The largest error of a step's row against float64, relative to the largest move of a row met."""
    rows = [batch[0].unique(), torch.cat([batch[1], batch[2].flatten()]).unique()]
    before = [w.detach()[r].double() for w, r in zip(weights, rows, strict=True)]
    center = torch.searchsorted(rows[0], batch[0])
    pos, neg = (torch.searchsorted(rows[1], index) for index in batch[1:])
    wanted = [b.clone() for b in before]
    reference.sgns_step_(*wanted, center, pos, neg, 0.025, reduction="mean")
    step(*weights, *batch)
    worst = 0.0
    for weight, row, want, start in zip(weights, rows, wanted, before, strict=True):
        moved = (weight.detach()[row].double() - start) - (want - start)
        rounding = 2 * torch.finfo(torch.float32).eps * want.abs().max()
        worst = max(worst, ((moved.abs().max() - rounding) / (want - start).abs().max()).item())
    return worst


def kernel_times(calls: list[Callable], rounds: int) -> dict[str, float]:
    """Microseconds of each kernel in a call, the longest first; none without a GPU."""
    if not ON_GPU:
        return {}
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profiler:
        for i in range(rounds):
            calls[i % len(calls)]()
        torch.cuda.synchronize()
    times = {event.key: event.device_time_total / rounds for event in profiler.key_averages()}
    return {name: time for name, time in sorted(times.items(), key=lambda item: -item[1]) if time > 0}


def bench_loss(dry: bool, data: Path) -> dict:
    """Forward and backward, and the whole step, at B 65,536, K 10, D 128, V 1 M."""
    batch, negative, dim, vocab = (256, 10, 128, 5000) if dry else (65_536, 10, 128, 1_000_000)
    bandwidth = copy_bandwidth(dry)
    report = {"copy_bytes_per_second": bandwidth, "batch": batch, "negative": negative, "dim": dim, "vocab": vocab}
    for name, zipf in (("uniform", False), ("zipf", True)):
        batches = index_batches(4, vocab, batch, negative, zipf)
        torch.manual_seed(0)
        weights = [(0.1 * torch.randn(vocab, dim, device=DEVICE)).requires_grad_() for _ in range(2)]
        report[name] = bench_batches(weights, batches, bandwidth, 3 if dry else 20)
        print(f"{name}: {json.dumps(report[name])}", flush=True)
    return report


def bench_batches(weights: list[torch.Tensor], batches: list, bandwidth: float, rounds: int) -> dict:
    """All sides on the same batches of indices."""
    (vocab, dim), (batch, negative) = weights[0].shape, batches[0][2].shape
    fused, compiled = w2v_ext.negative_sampling_loss, torch.compile(plain_loss)
    plain = [w.detach() for w in weights]

    def gradients(loss: Callable) -> list[Callable]:
        return [lambda b=b: torch.autograd.grad(loss(*weights, *b), weights) for b in batches]

    def sgd(loss: Callable) -> list[Callable]:
        def step(b: tuple) -> None:
            torch._foreach_add_(plain, torch.autograd.grad(loss(*weights, *b), weights), alpha=-0.025)

        return [lambda b=b: step(b) for b in batches]

    def steps(step: Callable) -> list[Callable]:
        return [lambda b=b: step(*plain, b[0], b[1].unsqueeze(1), b[2], 0.025 / batch) for b in batches]

    got, want = (torch.autograd.grad(loss(*weights, *batches[0]), weights) for loss in (fused, plain_loss))
    error = max(((g - w).norm() / w.norm()).item() for g, w in zip(got, want, strict=True))
    del got, want
    copies = [w.clone() for w in plain]
    step_error = check_step(lambda *a: w2v_ext.sgns_step_(*a, 0.025), copies, batches[0])
    del copies
    sides = {
        "forward": {"fused": [lambda b=b: fused(*plain, *b) for b in batches]},
        "gradients": {
            "eager": gradients(plain_loss),
            "fused": gradients(fused),
            "fused_sparse": gradients(lambda *a: fused(*a, sparse_grad=True)),
        },
        "step": {"eager": sgd(plain_loss), "fused": steps(torch.ops.w2v_ext.sgns_step_)},
    }
    if ON_GPU:
        sides["gradients"]["compiled"] = gradients(compiled)
        sides["step"]["compiled"] = sgd(compiled)
        sides["step"]["fused_sorted"] = steps(torch.ops.w2v_ext.sgns_step_sorted_)
    row, rows = 4 * dim, batch * (2 + negative)
    used = (batches[0][0], torch.cat([b.flatten() for b in batches[0][1:]]))
    different = sum(len(index.unique()) for index in used)
    bounds = {  # bytes that must move: rows read once, what is written written once
        "forward": rows * row,
        "gradients": rows * row + 2 * vocab * row,
        "step": 2 * rows * row,
        "step_of_different_rows": 2 * different * row,
    }
    found: dict = {"gradient_error": error, "step_error": step_error, "rows": rows, "different_rows": different}
    for kind, calls in sides.items():
        times = {}
        for side, steps_of_side in calls.items():
            try:
                times[side] = timed(steps_of_side, rounds)
            except Exception as failure:  # one side that does not run must not take the others along
                times[side] = {"failed": f"{type(failure).__name__}: {failure}"}
        ms = {side: t["median"] for side, t in times.items() if "median" in t}
        found[kind] = {
            "milliseconds": times,
            "bound_bytes": bounds[kind],
            "share_of_copy_bandwidth": {side: bounds[kind] / (1e-3 * t) / bandwidth for side, t in ms.items()},
            "speedup": {o: {s: ms[o] / t for s, t in ms.items()} for o in ("eager", "compiled") if o in ms},
        }
        found[kind]["kernels_microseconds"] = kernel_times(calls["fused"], rounds)
        if kind == "step":
            least = bounds["step_of_different_rows"]
            found[kind]["share_by_different_rows"] = {s: least / (1e-3 * t) / bandwidth for s, t in ms.items()}
    return found
