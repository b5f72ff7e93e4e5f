"""What a training has to remember, and the precision that it computes in."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch


@dataclass
class TrainState:
    """How far a run is, and what it has summed up."""

    epoch: int = 0  # finished epochs
    batch: int = 0  # batches done in this epoch
    step: int = 0  # optimizer steps
    epoch_loss: float = 0.0  # sums over this epoch so far
    epoch_tokens: int = 0
    tokens: int = 0  # target tokens trained on, in all
    seconds: float = 0.0  # of training and validation
    train_seconds: float = 0.0
    cpu_seconds: float = 0.0  # of training and validation, all threads
    lr_factor: float = 1.0  # of the plateaus so far
    bad_validations: int = 0  # since the last improvement
    since_decay: int = 0
    best_epoch: int = 0
    history: list[dict] = field(default_factory=list)  # of each validation


def choose_precision(name: str, device: torch.device) -> torch.dtype:
    """The dtype of matrix products; for "auto" bfloat16 where the processor multiplies it fast."""
    if name != "auto":
        return {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}[name]
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float16
    # PyTorch names no public way to ask; without these functions float32 is always right.
    fast = any(
        getattr(torch.cpu, name, lambda: False)() for name in ("_is_amx_tile_supported", "_is_avx512_bf16_supported")
    )
    return torch.bfloat16 if fast else torch.float32
