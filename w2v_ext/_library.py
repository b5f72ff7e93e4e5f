"""Loads the compiled operators; their absence is an error, never a silent slow path."""

from __future__ import annotations

import warnings
from pathlib import Path

import torch

_HERE = Path(__file__).resolve().parent


def load_kernels() -> None:
    """Register the operators ``torch.ops.w2v_ext.*``: the CPU kernels, and the CUDA ones where PyTorch has CUDA."""
    found = sorted(_HERE.glob("_kernels.*"))
    if not found:
        raise ImportError(
            f"w2v_ext: the compiled kernels are missing from {_HERE}. Build them with `pip install -e .` in the "
            "project's folder (needs a C++20 compiler), or install a wheel."
        )
    try:
        torch.ops.load_library(found[0])
    except OSError as error:
        raise ImportError(
            f"w2v_ext: {found[0]} could not be loaded by PyTorch {torch.__version__} (2.10 or newer is needed): {error}"
        ) from error
    if torch.version.cuda is None:
        return
    cuda = sorted(_HERE.glob("_kernels_cuda.*"))
    if not cuda:
        return  # built without CUDA: CUDA tensors then raise PyTorch's "not implemented for CUDA" error
    try:
        torch.ops.load_library(cuda[0])
    except OSError as error:
        warnings.warn(f"w2v_ext: the CUDA kernels could not be loaded, CPU only: {error}", RuntimeWarning, stacklevel=2)
