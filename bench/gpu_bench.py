"""What the GPU does: the fused loss, the epoch kernel, and the quality of its vectors beside the CPU's.

    python bench/gpu_bench.py loss|epoch|quality|sweep --data DIR --out part.json [--dry-run]

bench/gpu_suite.sh runs all parts. DIR holds the corpus (imdb.txt or imdb.txt.xz) and, in eval/, EN-WS-353-ALL.txt,
EN-SIMLEX-999.txt and questions-words.txt. Every side is checked against float64 before it is timed; figures are medians
with their extremes, and stand beside the bound they are held against. --dry-run does everything in small, on the CPU
where there is no GPU: it tries the code, not the speed. Needs PyTorch, NumPy and this library only.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from quality import judge

import w2v_ext
from w2v_ext import reference
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


def timed(steps: list[Callable[[], object]], rounds: int) -> dict:
    """Milliseconds of a call; the calls take turns, so that a cache does not hold what the next one needs."""
    for step in steps:
        step()
    times = []
    for i in range(rounds):
        step = steps[i % len(steps)]
        if ON_GPU:
            start, stop = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            start.record()
            step()
            stop.record()
            stop.synchronize()
            times.append(start.elapsed_time(stop))
        else:
            begin = time.perf_counter()
            step()
            times.append(1e3 * (time.perf_counter() - begin))
    return spread(times)


def copy_bandwidth(dry: bool) -> float:
    """Bytes per second, read and written, of a copy much larger than any cache."""
    size = 1 << (22 if dry else 30)
    pairs = [[torch.empty(size, dtype=torch.uint8, device=DEVICE).random_() for _ in range(2)] for _ in range(2)]
    return 2 * size / (1e-3 * timed([lambda p=p: p[0].copy_(p[1]) for p in pairs], 10)["median"])


# ---- the loss ------------------------------------------------------------------------------------------------------


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
        if kind == "step":
            least = bounds["step_of_different_rows"]
            found[kind]["share_by_different_rows"] = {s: least / (1e-3 * t) / bandwidth for s, t in ms.items()}
    return found


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


def bounds(trainer: w2v_ext.Trainer, bandwidth: float) -> dict:
    """Raw words per second that the device's memory and schedulers allow, counted as csrc/cuda/epoch.cu says."""
    config, metrics = trainer.config, trainer.metrics()
    windows_per_word = metrics["trained_words_per_second"] / metrics["raw_words_per_second"]
    reach = np.arange(1, config.window + 1)
    contexts = (np.maximum.outer(reach, reach - 1) + np.maximum.outer(reach, reach + 1) + 1).mean()  # of two windows
    bytes_per_window = 4 * (config.negative + 4) * config.dim  # half of a block's
    found = {"bytes_per_window": bytes_per_window, "windows_per_raw_word": windows_per_word}
    found["if_every_row_came_from_memory"] = bandwidth / bytes_per_window / windows_per_word
    if ON_GPU:
        chunks = -(-config.dim // 128)
        instructions = (12 * contexts * (2 + config.negative) * chunks + 850) / 2
        multiprocessors = torch.cuda.get_device_properties(DEVICE).multi_processor_count
        found["instructions_per_window_estimated"] = instructions
        found["by_instruction_issue"] = multiprocessors * 4 * 1.7e9 / instructions / windows_per_word
    return found


def bench_epoch(dry: bool, data: Path) -> dict:
    """Raw words per second in the epoch kernel and end to end, dim 100 and 300, float32 and bfloat16."""
    corpus = open_corpus(dry, data)
    bandwidth = copy_bandwidth(dry)
    train(corpus, DEVICE.type, dim=100, epochs=1)  # loads the kernels
    report: dict = {"raw_words": corpus.num_tokens, "vocab": len(corpus.vocab), "copy_bytes_per_second": bandwidth}
    for dim in (100, 300):
        for dtype in ("float32", "bfloat16") if ON_GPU else ("float32",):
            runs = [train(corpus, DEVICE.type, dim=dim, weight_dtype=dtype) for _ in range(1 if dry else 3)]
            results = [speed(*run) for run in runs]
            keys = ("raw_words_per_second", "trained_words_per_second", "end_to_end_words_per_second")
            report[f"dim{dim}_{dtype}"] = {
                **{key: spread([r[key] for r in results]) for key in keys},
                "where": results[0]["where"],
                "bounds_words_per_second": bounds(runs[0][0], bandwidth),
                "runs": results,
            }
    return report


def judged(trainer: w2v_ext.Trainer, data: Path) -> dict:
    """The quality of a trained model; analogies on the device."""
    return judge(trainer.keyed_vectors(), data / "eval", DEVICE.type)


def bench_quality(dry: bool, data: Path) -> dict:
    """WS353, SimLex-999 and analogies: the GPU's defaults, its bfloat16, and the CPU's, for 3 seeds."""
    corpus = open_corpus(dry, data)
    sides = {"cpu": {"device": "cpu"}, "gpu": {"device": DEVICE.type}}
    if ON_GPU:
        sides["gpu_bfloat16"] = {"device": "cuda", "weight_dtype": "bfloat16"}
    runs: dict[str, list[dict]] = {side: [] for side in sides}
    for seed in range(1, 2 if dry else 4):
        for side, changes in sides.items():
            trainer, seconds = train(corpus, dim=100, seed=seed, **changes)
            runs[side].append({"seed": seed, **speed(trainer, seconds), **judged(trainer, data)})
    means = {}
    for side, found in runs.items():
        keys = [key for key in ("ws353", "simlex", "analogies") if key in found[0]]
        means[side] = {key: statistics.fmean(r[key] for r in found) for key in keys}
    return {
        "mean": means,
        "gpu_minus_cpu": {key: means["gpu"][key] - value for key, value in means["cpu"].items()},
        "last_loss": {side: [r["loss"][-1] for r in found] for side, found in runs.items()},
        "runs": runs,
    }


def bench_sweep(dry: bool, data: Path) -> dict:
    """Speed and quality by the number of sentences in flight."""
    if not ON_GPU:
        return {"left_out": "sentences in flight are a GPU's"}
    corpus = open_corpus(dry, data)
    report = {}
    multiprocessors = torch.cuda.get_device_properties(DEVICE).multi_processor_count
    for per_multiprocessor in (0.5, 1, 2, 4, 8, 16, 32):
        flight = int(per_multiprocessor * multiprocessors)
        runs = []
        for seed in (1,) if dry else (1, 2):
            trainer, seconds = train(corpus, "cuda", dim=100, seed=seed, sentences_in_flight=flight)
            runs.append({"seed": seed, **speed(trainer, seconds), **judged(trainer, data)})
        report[str(flight)] = runs
        brief = {k: [round(r[k], 4) for r in runs] for k in ("ws353", "simlex", "analogies") if k in runs[0]}
        rate = [round(r["raw_words_per_second"] / 1e6, 1) for r in runs]
        print(f"{flight} in flight: {rate} M raw words/s, loss {[r['loss'][-1] for r in runs]}, {brief}", flush=True)
    return report


PARTS = {"loss": bench_loss, "epoch": bench_epoch, "quality": bench_quality, "sweep": bench_sweep}


def main() -> None:
    """Run one part and write its JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=PARTS)
    parser.add_argument("--data", type=Path, default=Path("data"))
    parser.add_argument("--out", type=Path)
    parser.add_argument("--dry-run", action="store_true")
    args = parser.parse_args()
    if not ON_GPU and not args.dry_run:
        sys.exit("gpu_bench: no CUDA device, or the CUDA kernels were not built; --dry-run tries the code on the CPU")
    if not shutil.which("git"):
        print("gpu_bench: no git; the commit is not known", file=sys.stderr)
    report = {
        "part": args.part,
        "dry_run": args.dry_run,
        "machine": machine(),
        **PARTS[args.part](args.dry_run, args.data),
    }
    text = json.dumps(report, indent=1)
    if args.out:
        args.out.parent.mkdir(parents=True, exist_ok=True)
        args.out.write_text(text + "\n")
    brief = {k: v for k, v in report.items() if k not in ("runs", "machine")}
    print(json.dumps(brief, indent=None if args.dry_run else 1)[:6000])


if __name__ == "__main__":
    main()
