"""What the parts of gpu_bench.py share: the machine, timing, the corpus, a training run and its quality."""

from __future__ import annotations

import os
import platform
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
from quality import judge

import w2v_ext
from w2v_ext.methods.cuda_epoch import choose_device

SETTINGS = {"window": 5, "negative": 5, "sample": 1e-3, "lr": 0.025, "epochs": 5}
MIN_COUNT = 5
DEVICE = choose_device("auto")
ON_GPU = DEVICE.type == "cuda"


# ---- measuring -----------------------------------------------------------------------------------------------------


def command_output(*command: str) -> str:
    """What a program prints, or why it did not."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=20)
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"not known: {error}"
    return done.stdout.strip()


def machine() -> dict:
    """What the figures were measured on."""
    facts = {
        "cpu": platform.processor(),
        "cores": os.cpu_count(),
        "cpu_kernels": w2v_ext.cpu_kernels(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "w2v_ext": w2v_ext.__version__,
        "commit": command_output("git", "rev-parse", "--short", "HEAD"),
        "date": time.strftime("%Y-%m-%d"),
    }
    if Path("/proc/cpuinfo").exists():
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        facts["cpu"] = next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), "")
    if ON_GPU:
        properties = torch.cuda.get_device_properties(DEVICE)
        query = ("nvidia-smi", "--query-gpu=driver_version,clocks.max.sm,memory.total", "--format=csv,noheader")
        facts |= {
            "gpu": properties.name,
            "multiprocessors": properties.multi_processor_count,
            "l2_bytes": getattr(properties, "L2_cache_size", None),
            "driver_clock_memory": command_output(*query),
            "cuda": torch.version.cuda,
            "nvcc": command_output("nvcc", "--version").splitlines()[-1:],
        }
    return facts


def spread(values: list[float]) -> dict:
    """Median, extremes and mean."""
    return {
        "median": statistics.median(values),
        "min": min(values),
        "max": max(values),
        "mean": statistics.fmean(values),
    }


QUEUE_CYCLES = 4_000_000  # about 2 ms, in which the host starts all that a call consists of


def timed(steps: list[Callable[[], object]], rounds: int) -> dict:
    """Milliseconds of a call; the calls take turns, so that a cache does not hold what the next one needs.

    On a GPU, with a full queue, as in a loop that trains: the device is kept busy while the host starts the call.
    ``with_launch`` is the call by itself, where the device waits for the host.
    """
    for step in steps:
        step()
    if not ON_GPU:
        times = []
        for i in range(rounds):
            begin = time.perf_counter()
            steps[i % len(steps)]()
            times.append(1e3 * (time.perf_counter() - begin))
        return spread(times)
    queued, alone = ([event_time(steps[i % len(steps)], queue) for i in range(rounds)] for queue in (True, False))
    return {**spread(queued), "with_launch": spread(alone)}


def event_time(step: Callable[[], object], queue: bool) -> float:
    """Milliseconds between events before and after a call, with other work queued before them or not."""
    start, stop = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    if queue:
        torch.cuda._sleep(QUEUE_CYCLES)
    start.record()
    step()
    stop.record()
    stop.synchronize()
    return start.elapsed_time(stop)


def copy_bandwidth(dry: bool) -> float:
    """Bytes per second, read and written, of a copy much larger than any cache."""
    size = 1 << (22 if dry else 30)
    pairs = [[torch.empty(size, dtype=torch.uint8, device=DEVICE).random_() for _ in range(2)] for _ in range(2)]
    return 2 * size / (1e-3 * timed([lambda p=p: p[0].copy_(p[1]) for p in pairs], 10)["median"])


# ---- the trainer ---------------------------------------------------------------------------------------------------


def open_corpus(dry: bool, data: Path) -> w2v_ext.Corpus:
    """The encoded corpus: a part of it, or the built-in text, for a dry run."""
    options = w2v_ext.CorpusOptions(min_count=MIN_COUNT)
    found = next((data / name for name in ("imdb.txt", "imdb.txt.xz") if (data / name).exists()), None)
    if found is None and not dry:
        raise SystemExit(f"gpu_bench: no imdb.txt or imdb.txt.xz in {data}; name its folder with --data")
    if found is not None and not dry:
        return w2v_ext.prepare_corpus(found, options)
    from w2v_ext.synthetic import write_builtin_corpus

    with tempfile.TemporaryDirectory() as folder:
        write_builtin_corpus(Path(folder) / "text.txt", sentences=3000)
        return w2v_ext.prepare_corpus(Path(folder) / "text.txt", options)


def train(corpus: w2v_ext.Corpus, device: str, **changes: object) -> tuple[w2v_ext.Trainer, float]:
    """Train; gives the trainer and the seconds from the encoded ids to the vectors on the host."""
    start = time.perf_counter()
    trainer = w2v_ext.Trainer(corpus, w2v_ext.TrainConfig(**{"device": device, **SETTINGS, **changes}))
    trainer.fit()
    trainer.keyed_vectors()
    return trainer, time.perf_counter() - start


def speed(trainer: w2v_ext.Trainer, seconds: float) -> dict:
    """Raw words per second in the kernel and end to end, trained words and the loss."""
    metrics = trainer.metrics()
    return {
        "raw_words_per_second": metrics["raw_words_per_second"],
        "trained_words_per_second": metrics["trained_words_per_second"],
        "end_to_end_words_per_second": trainer.total_words / seconds,
        "train_seconds": metrics["train_seconds"],
        "loss": metrics["loss"],
        "where": trainer.where,
    }


def judged(trainer: w2v_ext.Trainer, data: Path) -> dict:
    """The quality of a trained model; analogies on the device."""
    return judge(trainer.keyed_vectors(), data / "eval", DEVICE.type)
