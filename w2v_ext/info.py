"""``python -m w2v_ext.info``: versions, devices, and which kernels would run here. What a bug report needs."""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from . import __version__, ops
from .methods.cuda_epoch import choose_device, kernel_failure

OPTIONAL = (
    *("safetensors", "zstandard", "tqdm", "tyro", "PyYAML"),
    *("gensim", "fasttext", "matplotlib", "scikit-learn", "umap-learn", "tensorboard", "sacrebleu", "tokenizers"),
    *("jieba", "usearch", "POT", "sentence-transformers"),
)


def installed(package: str) -> str | None:
    """The version of a package, or None where it is not installed."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def cpu_name() -> str:
    """The processor's name, as far as the system tells it."""
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    names = (line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.processor() or platform.machine())


def collect() -> dict[str, Any]:
    """Everything the command prints, as JSON values.

    Returns:
        ``w2v_ext``, ``python``, ``platform``, ``torch``, ``torch_cuda`` (the CUDA release PyTorch was built with, or
        None), ``cpu``, ``cores`` (that this process may run on), ``cpu_kernels``, ``cuda_kernels`` (whether they were
        built), ``devices`` (name, compute capability, memory in bytes, and why the kernels do not run there, or None),
        ``train_on`` (what ``--device auto`` chooses) and ``packages`` (versions, None for what is missing).
    """
    devices = []
    for index in range(torch.cuda.device_count() if torch.cuda.is_available() else 0):
        properties = torch.cuda.get_device_properties(index)
        failure = kernel_failure(torch.device("cuda", index)) if ops.has_cuda_kernels() else "not built"
        devices.append(
            {
                "name": properties.name,
                "capability": f"{properties.major}.{properties.minor}",
                "memory": properties.total_memory,
                "kernels_fail": failure,
            }
        )
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return {
        "w2v_ext": __version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "torch": torch.__version__,
        "torch_cuda": torch.version.cuda,
        "cpu": cpu_name(),
        "cores": cores,
        "cpu_kernels": ops.cpu_kernels(),
        "cuda_kernels": ops.has_cuda_kernels(),
        "devices": devices,
        "train_on": str(choose_device("auto")),
        "packages": {name: installed(name) for name in OPTIONAL},
    }


def report(facts: dict[str, Any]) -> list[str]:
    """The lines that the command prints."""
    cuda = f"CUDA {facts['torch_cuda']}" if facts["torch_cuda"] else "a build without CUDA"
    lines = [
        f"w2v_ext      {facts['w2v_ext']}",
        f"Python       {facts['python']} on {facts['platform']}",
        f"PyTorch      {facts['torch']} ({cuda})",
        f"processor    {facts['cpu']}, {facts['cores']} cores",
        f"CPU kernels  {facts['cpu_kernels']} (W2V_EXT_CPU chooses: avx512, avx2, portable)",
        f"CUDA kernels {'built' if facts['cuda_kernels'] else 'not built'}",
    ]
    for device in facts["devices"]:
        works = f"kernels do not run: {device['kernels_fail']}" if device["kernels_fail"] else "kernels run"
        memory = device["memory"] / 2**30
        lines.append(f"GPU          {device['name']} (sm {device['capability']}, {memory:.0f} GiB): {works}")
    lines.append(f"trains on    {facts['train_on']} by default")
    packages = facts["packages"]
    lines.append("packages     " + ", ".join(f"{name} {version}" for name, version in packages.items() if version))
    lines.append("not there    " + (", ".join(name for name, version in packages.items() if not version) or "(none)"))
    return lines


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; gives its exit status, 0."""
    parser = argparse.ArgumentParser(prog="python -m w2v_ext.info", description=__doc__)
    parser.add_argument("--json", action="store_true", help="as JSON")
    args = parser.parse_args(arguments)
    facts = collect()
    print(json.dumps(facts, indent=1) if args.json else "\n".join(report(facts)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
