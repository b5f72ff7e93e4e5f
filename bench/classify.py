"""Speed and accuracy of the text classifier beside fastText's, at the same settings, in the same run.

    python bench/classify.py --data imdb-sentiment-train.tsv.xz --corpus imdb.txt --out bench/results/classify-cpu.json

`--data` holds lines `label<TAB>text` (plain or .xz); the last 5,000 are held out. `pretrained` is this library's
classifier with vectors that it has trained on `--corpus` (a text, in seconds that are reported apart) to begin with.

Each side works in a process of its own, in turns (A B C A B C ...), so that a drift of the machine meets all. The time
is that from the file on disk to the model in memory: reading, counting, making the tables, training. Words per second
are all words of the text, `</s>` included, times the epochs, over that time. fastText takes no seed. Needs fasttext
(PyPI) beside this library.
"""

from __future__ import annotations

import argparse
import json
import lzma
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from measuring import machine, spread

SETTINGS = {"dim": 100, "epochs": 5, "word_ngrams": 2, "lr": 0.1}


def train_fasttext(folder: Path, seed: int, threads: int, settings: dict, pretrained: str) -> dict:
    """FastText's own classifier."""
    import fasttext

    start = time.perf_counter()
    model = fasttext.train_supervised(
        str(folder / "train.txt"),
        dim=settings["dim"],
        epoch=settings["epochs"],
        wordNgrams=settings["word_ngrams"],
        lr=settings["lr"],
        thread=threads,
        verbose=0,
    )
    seconds = time.perf_counter() - start
    start = time.perf_counter()
    accuracy = model.test(str(folder / "test.txt"))[1]
    return {"seconds": seconds, "accuracy": accuracy, "test_seconds": time.perf_counter() - start}


def train_w2v_ext(folder: Path, seed: int, threads: int, settings: dict, pretrained: str) -> dict:
    """This library's classifier."""
    from w2v_ext.classify import TextClassifier

    start = time.perf_counter()
    model = TextClassifier(**settings, threads=threads, seed=seed, pretrained=pretrained or None)
    model.fit(folder / "train.txt")
    seconds = time.perf_counter() - start
    start = time.perf_counter()
    accuracy = model.test(folder / "test.txt").precision
    metrics = model.metrics()
    return {
        "seconds": seconds,
        "accuracy": accuracy,
        "test_seconds": time.perf_counter() - start,
        **{key: metrics[key] for key in ("read_seconds", "prepare_seconds", "train_seconds", "loss", "cpu_kernels")},
    }


SIDES = {"fasttext": train_fasttext, "w2v_ext": train_w2v_ext, "pretrained": train_w2v_ext}


def write_lines(data: Path, folder: Path, held_out: int) -> int:
    """Write train.txt and test.txt in fastText's format; gives the words of train.txt, line ends included."""
    with lzma.open(data, "rt", encoding="utf-8") if data.suffix == ".xz" else data.open(encoding="utf-8") as file:
        lines = [line.rstrip("\n").split("\t", 1) for line in file]
    parts = {"train.txt": lines[:-held_out], "test.txt": lines[-held_out:]}
    for name, part in parts.items():
        text = "".join(f"__label__{label} {words}\n" for label, words in part)
        (folder / name).write_text(text, encoding="utf-8")
    return sum(len(words.split()) + 1 for _, words in parts["train.txt"])


def write_report(args: argparse.Namespace, settings: dict, words: int, pretraining: float | None, runs: dict) -> dict:
    """Write the JSON; gives the summary."""
    summary: dict = {}
    first, *others = runs
    for side in others:  # how many times as fast as the first side, run by run
        pairs = zip(runs[side], runs[first], strict=True)
        summary[f"{side} / {first}"] = spread([o["words_per_second"] / f["words_per_second"] for o, f in pairs])
    for side, results in runs.items():
        keys = ("words_per_second", "seconds", "accuracy", "test_seconds", "megabytes")
        summary[side] = {key: spread([run[key] for run in results]) for key in keys}
    report = {
        "machine": machine("fasttext"),
        "settings": {**settings, "threads": args.threads, "held_out": args.held_out},
        "words": words,
        "pretraining_seconds": pretraining,
        "summary": summary,
        "runs": runs,
    }
    if args.out:
        args.out.parent.mkdir(parents=True, exist_ok=True)
        args.out.write_text(json.dumps(report, indent=1) + "\n")
    return summary


def main() -> None:
    """Run the comparison and write the JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--corpus", help="text to train vectors on, for the side `pretrained`")
    parser.add_argument("--vectors", help="such vectors, trained already")
    parser.add_argument("--held-out", type=int, default=5000)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--sides", nargs="+", choices=list(SIDES), default=["fasttext", "w2v_ext"])
    for name, value in SETTINGS.items():
        parser.add_argument(f"--{name.replace('_', '-')}", type=type(value), default=value)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    args = parser.parse_args()
    settings = {name: getattr(args, name) for name in SETTINGS}
    if args.worker:
        side, folder, seed, vectors = json.loads(args.worker)
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        result = SIDES[side](Path(folder), seed, args.threads, settings, vectors)
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        print(json.dumps({**result, "megabytes": round((peak - before) / 1024)}))
        return

    sides, vectors, pretraining = list(args.sides), args.vectors or "", None
    runs: dict[str, list[dict]] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        words = write_lines(args.data, folder, args.held_out)
        if args.corpus and not vectors:
            vectors, start = str(folder / "vectors"), time.perf_counter()
            command = [sys.executable, "-m", "w2v_ext.train", "--corpus", args.corpus, "--out", vectors]
            subprocess.run([*command, "--dim", str(args.dim), "--threads", str(args.threads)], check=True)
            pretraining = time.perf_counter() - start
        if vectors and "pretrained" not in sides:
            sides.append("pretrained")
        for seed in range(1, args.seeds + 1):
            for side in sides:
                worker = json.dumps([side, name, seed, vectors if side == "pretrained" else ""])
                command = [sys.executable, *sys.argv, "--worker", worker]
                done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
                run = {"seed": seed, **json.loads(done.stdout.splitlines()[-1])}
                run["words_per_second"] = words * args.epochs / run["seconds"]
                runs.setdefault(side, []).append(run)
                print(side, json.dumps(run), file=sys.stderr, flush=True)
            write_report(args, settings, words, pretraining, runs)  # after each round: a run that is cut short counts
    print(json.dumps(write_report(args, settings, words, pretraining, runs), indent=1))


if __name__ == "__main__":
    main()
