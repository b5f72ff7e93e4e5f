"""What the benches say of every measurement: on what machine, and how far the runs were apart."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import statistics
import subprocess
import time
from pathlib import Path


def machine(*peers: str) -> dict:
    """What the figures were measured on, with the versions of the peers (names on PyPI)."""
    import torch

    import w2v_ext

    cpu = platform.processor()
    if Path("/proc/cpuinfo").exists():
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        cpu = next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), cpu)
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True).stdout.strip()
    return {
        "cpu": cpu,
        "cores": os.cpu_count(),
        "kernels": w2v_ext.cpu_kernels(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        **{peer: importlib.metadata.version(peer) for peer in peers},
        "w2v_ext": w2v_ext.__version__,
        "commit": commit,
        "date": time.strftime("%Y-%m-%d"),
    }


def spread(values: list[float]) -> dict:
    """Median, extremes and mean."""
    return {
        "median": statistics.median(values),
        "min": min(values),
        "max": max(values),
        "mean": statistics.fmean(values),
    }
