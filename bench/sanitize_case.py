"""Every CUDA kernel on small cases, for compute-sanitizer: all widths of rows, both ways to sum, groups of outputs.

    compute-sanitizer --tool memcheck python bench/sanitize_case.py

With PYTORCH_NO_CUDA_MEMORY_CACHING=1 each tensor is an allocation of its own, so that reading past its end is found.
"""

import numpy as np
import torch

import w2v_ext
from w2v_ext import ops
from w2v_ext.methods.cuda_epoch import device_weight

assert torch.cuda.is_available(), "sanitize_case: needs a CUDA device"
generator = torch.Generator().manual_seed(0)


def loss_case(dtype: torch.dtype, dim: int, negatives: int, sort: bool) -> None:
    """Loss, gradients and step of 70 examples on 9 rows; sorted, runs go on over several groups."""
    draw = lambda *shape: torch.randint(9, shape, generator=generator).cuda()  # noqa: E731
    weights = [torch.randn(9, dim, generator=generator).to("cuda", dtype).requires_grad_() for _ in range(2)]
    indices = draw(70), draw(70, 1), draw(70, negatives)
    torch.use_deterministic_algorithms(sort)
    w2v_ext.negative_sampling_loss(*weights, *indices).backward()
    assert all(w.grad.isfinite().all() for w in weights)
    w2v_ext.sgns_step_(*(w.detach() for w in weights), *indices, 0.1)
    torch.use_deterministic_algorithms(False)


def epoch_case(dtype: torch.dtype, dim: int, window: int, negative: int) -> None:
    """An epoch of 30 short sentences by 7 warps."""
    rng = np.random.default_rng(0)
    ids = np.concatenate([np.append(rng.integers(0, 40, n), -1) for n in rng.integers(1, 60, 30)]).astype(np.int32)
    alias = w2v_ext.alias_table(torch.ones(40, dtype=torch.float64)).cuda()
    keep = torch.full((40,), 2**30, dtype=torch.int32).cuda()
    weights = [device_weight(40, dim, dtype, torch.device("cuda")) for _ in range(2)]
    weights[0].copy_(torch.randn(40, dim, generator=generator))
    sums, bad = torch.zeros(3, dtype=torch.float64, device="cuda"), torch.full((1,), 2**63 - 1, device="cuda")
    ops.train_sgns_cuda_(
        *weights, sums, bad, torch.from_numpy(ids).cuda(), alias, keep, first=0, num_ids=len(ids), begin=0,
        end=len(ids), window=window, negative=negative, seed=1, epoch=0, epochs=1, lr=0.05, sentences_in_flight=7,
    )  # fmt: skip
    assert sums.isfinite().all()
    assert sums[1] > 0


for dtype in (torch.float32, torch.float64, torch.bfloat16):
    for dim, negatives in ((7, 5), (128, 10), (130, 18), (132, 2)):
        for sort in (False, True):
            loss_case(dtype, dim, negatives, sort)
for dtype in (torch.float32, torch.bfloat16):
    for dim, window, negative in ((20, 5, 5), (130, 2, 3), (300, 5, 5), (18, 20, 9), (400, 3, 5)):
        epoch_case(dtype, dim, window, negative)
torch.cuda.synchronize()
print("sanitize_case: done")
