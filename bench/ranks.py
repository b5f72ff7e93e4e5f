"""Speed of several processes beside threads of one, and the bytes that they exchange.

    python bench/ranks.py --corpus imdb.txt --out bench/results/ranks-cpu.json
    python bench/ranks.py --corpus imdb.txt --out bench/results/ranks-cpu.json --more   # further rounds

Sides are RANKSxTHREADS, trained by `python -m w2v_ext.train` and torchrun, in turns. `words_per_second` are raw words
(in the vocabulary, before subsampling) per second of training, as the trainer reports it: exchanges and the waiting for
them included, the start of processes and the reading of the text not. `wall_seconds` is the whole command. Bytes are
what all ranks put into exchanges; each of R ranks sends so much of it R - 1 times.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from compare_trainers import machine, spread

SIDES = ("1x2", "2x1")


def run_side(side: str, corpus: str, epochs: int, dim: int, folder: str) -> dict:
    """Train with so many ranks and threads; what the trainer measured, and the time of the whole."""
    ranks, threads = map(int, side.split("x"))
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(ranks)] if ranks > 1 else []
    command = ["-m", "w2v_ext.train", "--corpus", corpus, "--out", folder, "--device", "cpu", "--dim", str(dim)]
    command += ["--epochs", str(epochs), "--threads", str(threads)]
    start = time.perf_counter()
    subprocess.run([sys.executable, *launcher, *command], check=True, stdout=subprocess.DEVNULL)
    wall = time.perf_counter() - start
    metrics = json.loads((Path(folder) / "metrics.json").read_text())
    trained = metrics["trained_words_per_second"] * metrics["train_seconds"]
    return {
        "words_per_second": metrics["raw_words_per_second"],
        "train_seconds": metrics["train_seconds"],
        "wall_seconds": wall,
        "bytes_per_trained_word": ranks * metrics.get("exchanged_bytes_per_rank", 0) / trained,
        "bytes_per_raw_word": ranks * metrics.get("exchanged_bytes_per_rank", 0) / (metrics["raw_words"] * epochs),
        "sync_every": metrics.get("sync_every"),
        "vocab_size": metrics["vocab_size"],
        "raw_words": metrics["raw_words"],
        "loss": metrics["loss"],
    }


def summarise(runs: dict[str, list[dict]]) -> dict:
    """Medians and spread of each side, and round by round, its rate over that of the first."""
    first, *others = runs
    summary: dict = {}
    for side in others:
        pairs = zip(runs[side], runs[first], strict=True)
        summary[f"{side} / {first}"] = spread([a["words_per_second"] / b["words_per_second"] for a, b in pairs])
    for side, results in runs.items():
        keys = ("words_per_second", "wall_seconds", "bytes_per_trained_word")
        summary[side] = {key: spread([run[key] for run in results]) for key in keys}
    return summary


def main() -> None:
    """Run the comparison and write the JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--corpus", required=True)
    parser.add_argument("--sides", nargs="+", default=list(SIDES), help="RANKSxTHREADS")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=1)
    parser.add_argument("--dim", type=int, default=100)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--more", action="store_true", help="add rounds to those in --out")
    args = parser.parse_args()
    settings = {"epochs": args.epochs, "dim": args.dim, "corpus_bytes": os.path.getsize(args.corpus)}
    runs: dict[str, list[dict]] = {side: [] for side in args.sides}
    here = machine()
    if args.more and args.out and args.out.exists():
        earlier = json.loads(args.out.read_text())
        changed = [key for key in here if key != "date" and earlier["machine"].get(key) != here[key]]
        if earlier["settings"] != settings or list(earlier["runs"]) != args.sides or changed:
            raise SystemExit(f"more: {args.out} was made with other settings, sides or versions {changed}")
        runs = earlier["runs"]
    with tempfile.TemporaryDirectory() as folder:
        for _ in range(args.rounds):
            for side in args.sides:
                runs[side].append(run_side(side, args.corpus, args.epochs, args.dim, folder))
                print(side, json.dumps(runs[side][-1]), file=sys.stderr, flush=True)
    report = {"machine": here, "settings": settings, "summary": summarise(runs), "runs": runs}
    if args.out:
        args.out.parent.mkdir(parents=True, exist_ok=True)
        args.out.write_text(json.dumps(report, indent=1) + "\n")
    print(json.dumps(report["summary"], indent=1))


if __name__ == "__main__":
    main()
