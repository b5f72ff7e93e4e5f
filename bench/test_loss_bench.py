"""The fused loss, forward + backward + SGD step, against the plain PyTorch that people write.

    python -m pytest bench/test_loss_bench.py --benchmark-only --benchmark-group-by=param:batch

K 10, D 128, V 71,000, Zipf indices. All sides step by `torch.optim.SGD`, `fused_rows` by `w2v_ext.optim.SparseSGD` and
`step_` by itself. Every side is checked against the reference before it is timed.

Peak extra memory (``peak_bytes``) is that of one step in a process of its own: the most resident memory during a second
step, less the resident memory before it, with weights and indices in place and freed memory handed back (Linux only).
"""

import ctypes
import gc
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

import w2v_ext
from w2v_ext import reference

VOCAB, DIM, NEGATIVE, LR = 71_000, 128, 10, 0.025


class Plain(torch.nn.Module):
    """Two embeddings, bmm and logsigmoid: the usual code."""

    def __init__(self, sparse):
        super().__init__()
        self.in_embed = torch.nn.Embedding(VOCAB, DIM, sparse=sparse)
        self.out_embed = torch.nn.Embedding(VOCAB, DIM, sparse=sparse)

    def forward(self, center, pos, neg):
        v = self.in_embed(center).unsqueeze(2)  # (B, D, 1)
        positive = torch.bmm(self.out_embed(pos).unsqueeze(1), v).squeeze(2)  # (B, 1)
        negative = torch.bmm(self.out_embed(neg), v).squeeze(2)  # (B, K)
        return -(F.logsigmoid(positive).squeeze(1) + F.logsigmoid(-negative).sum(1)).mean()


def make_batch(size):
    rng = np.random.default_rng(0)
    probability = 1 / np.arange(1, VOCAB + 1)
    probability /= probability.sum()
    draw = lambda *shape: torch.from_numpy(rng.choice(VOCAB, shape, p=probability))  # noqa: E731
    return draw(size), draw(size), draw(size, NEGATIVE)


def autograd_step(model, batch, optimizer_class=torch.optim.SGD):
    optimizer = optimizer_class(model.parameters(), lr=LR)

    def step():
        optimizer.zero_grad()
        loss = model(*batch)
        loss.backward()
        optimizer.step()
        return loss.detach()

    return step


def make_side(side, batch):
    torch.manual_seed(0)
    if side in ("eager", "sparse", "compiled"):
        model = Plain(sparse=side == "sparse")
        weights = model.in_embed.weight, model.out_embed.weight
        step = autograd_step(torch.compile(model) if side == "compiled" else model, batch)
    else:
        model = w2v_ext.SkipGramNegSampling(VOCAB, DIM, sparse_grad=side in ("fused_sparse", "fused_rows"))
        torch.nn.init.normal_(model.out_weight)
        weights = model.in_weight, model.out_weight
        step = autograd_step(model, batch, w2v_ext.optim.SparseSGD if side == "fused_rows" else torch.optim.SGD)
        if side == "step_":
            step = lambda: w2v_ext.sgns_step_(*weights, *batch, LR)  # noqa: E731
    return weights, step


def resident(field):
    (line,) = (x for x in Path("/proc/self/status").read_text().splitlines() if x.startswith(field + ":"))
    return int(line.split()[1]) * 1024


def measure_peak(side, batch):
    weights, step = make_side(side, make_batch(batch))
    step()
    for weight in weights:
        weight.grad = None
    gc.collect()
    ctypes.CDLL("libc.so.6").malloc_trim(0)
    before = resident("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # sets the high-water mark back to what is resident now
    step()
    return resident("VmHWM") - before


def peak_bytes(side, batch):
    if not sys.platform.startswith("linux"):
        return None
    command = [sys.executable, __file__, side, str(batch)]
    path = os.pathsep.join([os.getcwd(), os.environ.get("PYTHONPATH", "")])  # the package that is timed
    env = {**os.environ, "PYTHONPATH": path}
    return int(subprocess.run(command, check=True, capture_output=True, text=True, env=env).stdout)


@pytest.mark.parametrize("batch", [512, 8192, 65536])
@pytest.mark.parametrize("side", ["eager", "sparse", "compiled", "fused", "fused_sparse", "fused_rows", "step_"])
def test_training_step(benchmark, side, batch):
    indices = make_batch(batch)
    weights, step = make_side(side, indices)
    before = [w.detach().clone() for w in weights]
    expected = [w.double() for w in before]
    loss = reference.sgns_step_(*expected, *indices, LR)
    torch.testing.assert_close(step().double(), loss, rtol=1e-5, atol=1e-5)
    # PyTorch's sparse SGD adds every occurrence of a row by itself, which rounds small steps away: it is off by 5 % and
    # more at B 65,536. The others sum first; hot rows sum thousands of float32 numbers, and a weight itself is rounded.
    for weight, want, start in zip(weights, expected, before, strict=True) if side != "sparse" else ():
        rounding = 2 * torch.finfo(torch.float32).eps * want.abs().max()
        assert (weight.detach() - want).abs().max() < 2e-3 * (want - start).abs().max() + rounding
    benchmark.pedantic(step, rounds=25 if batch < 10_000 else 9, warmup_rounds=5, iterations=1)
    benchmark.extra_info.update(examples=batch, threads=torch.get_num_threads(), peak_bytes=peak_bytes(side, batch))


if __name__ == "__main__":
    print(measure_peak(sys.argv[1], int(sys.argv[2])))
