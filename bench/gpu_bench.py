"""What the GPU does: the fused loss, the epoch kernels of all models, and the quality of what they learn beside the
CPU's.

    python bench/gpu_bench.py loss|epoch|quality|family|optim|sweep --data DIR --out part.json [--dry-run]

bench/gpu_suite.sh runs all parts. DIR holds the corpus (imdb.txt or imdb.txt.xz) and, in eval/, EN-WS-353-ALL.txt,
EN-SIMLEX-999.txt and questions-words.txt. Every side is checked against float64 before it is timed; figures are medians
with their extremes, and stand beside the bound they are held against. --dry-run does everything in small, on the CPU
where there is no GPU: it tries the code, not the speed. Needs PyTorch, NumPy and this library only.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import sys
from pathlib import Path

import numpy as np
import torch
from gpu_common import DEVICE, ON_GPU, copy_bandwidth, judged, machine, open_corpus, speed, spread, train
from gpu_family import bench_family, bench_optim
from gpu_loss import bench_loss

import w2v_ext


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


PARTS = {
    "loss": bench_loss,
    "epoch": bench_epoch,
    "quality": bench_quality,
    "family": bench_family,
    "optim": bench_optim,
    "sweep": bench_sweep,
}


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
    if report.get("failed"):
        sys.exit(f"gpu_bench: did not run: {', '.join(report['failed'])}")


if __name__ == "__main__":
    main()
