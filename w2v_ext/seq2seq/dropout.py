"""Dropout that costs little on the CPU too."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

_LEVELS = 1 << 16  # probabilities are rounded to 1/65,536


def check_probabilities(**values: float) -> None:
    """Refuse what is no probability below 1: all dropped, nothing would be learnt.

    Raises:
        ValueError: naming the argument.
    """
    for name, value in values.items():
        if not 0 <= value < 1:
            raise ValueError(f"{name}: expected a number in [0, 1), got {value!r}")


def dropout(x: Tensor, p: float, training: bool) -> Tensor:
    """As `torch.nn.functional.dropout`; on the CPU four numbers share one 64-bit draw.

    PyTorch draws its mask there one number after the other, on one core: measured 10.5 ms for (2535, 512), this
    2.0 ms, and a sixth of a training step went into it.
    """
    if not training or p == 0 or x.device.type != "cpu":
        return F.dropout(x, p, training)
    dropped = round(p * _LEVELS)
    if dropped == _LEVELS or x.numel() == 0:
        return x * 0
    bits = torch.empty((x.numel() + 3) // 4, dtype=torch.int64).random_(-(2**63), None)
    keep = bits.view(torch.int16)[: x.numel()].view(x.shape) >= dropped - _LEVELS // 2
    return x * keep.to(x.dtype).mul_(_LEVELS / (_LEVELS - dropped))
