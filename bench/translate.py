"""Translation quality run by run: what each ingredient brings.

    python bench/translate.py multi30k --data DIR --work DIR --out bench/results/translate-multi30k.json
    python bench/translate.py tatoeba --data cmn-eng.tsv.xz --work DIR --out bench/results/translate-tatoeba.json
    python bench/translate.py multi30k ... --runs attention --slice 80        # a part of a run at a time

`multi30k`: German to English, task 1; `--data` holds {train,val,test_2016_flickr}.{de,en}.gz. Every run is trained for
at most `--cpu-minutes` of processor time, all threads and validation included, which unlike wall time does not depend
on what else the machine does; the best model by BLEU on val is tested on test_2016_flickr. `tatoeba`: English to
Chinese and back, from the TSV file of manythings.org, split by the library's fixed hash of the source side, with and
without vectors trained by this library (those of each language from its side of the training text, or from
`--en-vectors`, a model directory). Each run is the command line `python -m w2v_ext.seq2seq train --config FILE`; the
files stay in `--work`. Runs that are in `--out` already are not repeated. With `--slice` the run at hand is stopped
after so many seconds of it, and goes on exactly, bit by bit, with the same command (exit status 3 means: not finished).
"""

from __future__ import annotations

import argparse
import json
import signal
import subprocess
import sys
from pathlib import Path

from measuring import machine

MODULE = [sys.executable, "-m", "w2v_ext.seq2seq"]

# The two models of Multi30k, trained to the end.
COMMON = {
    "tokenizer": "bpe", "subword_vocab": 6000, "joint": True, "lowercase": True, "tied": True, "share_embeddings": True,
    "bidirectional": True, "embed_size": 256, "hidden_size": 512, "dropout": 0.4, "embed_dropout": 0.3,
    "word_dropout": 0.05, "label_smoothing": 0.1,
    "batch_tokens": 1600, "lr": 2e-3, "warmup": 300, "schedule": "cosine", "epochs": 14, "average": 5,
}  # fmt: skip
ATTENTION = {**COMMON, "attention": "luong", "epochs": 12}
NO_ATTENTION = {**COMMON, "attention": "none", "context": "mean"}

# What each ingredient brings: run upon run, all with the same few epochs.
SHORT = {"epochs": 3, "average": 1}
WORDS = {
    **COMMON, **SHORT, "tokenizer": "word", "min_count": 2, "joint": False, "share_embeddings": False, "tied": False,
    "attention": "none", "bidirectional": False,
}  # fmt: skip
SUBWORDS = {**WORDS, "tokenizer": "bpe", "joint": True, "min_count": 1}
TIED = {**SUBWORDS, "tied": True, "share_embeddings": True}
BOTH_WAYS = {**TIED, "bidirectional": True}
MULTI30K = {
    "no-attention": NO_ATTENTION,
    "attention": ATTENTION,
    "words": WORDS,
    "subwords": SUBWORDS,
    "tied": TIED,
    "both-ways": BOTH_WAYS,
    "context": {**NO_ATTENTION, **SHORT},
    "luong": {**ATTENTION, **SHORT},
    "bahdanau": {**ATTENTION, **SHORT, "attention": "bahdanau"},
    "deep-attention": {**ATTENTION, **SHORT, "num_layers": 2, "deep_attention": True},
    "feeding": {**ATTENTION, **SHORT, "input_feeding": True},
    "float32": {**ATTENTION, **SHORT, "precision": "float32"},
}

TATOEBA = {
    "tokenizer": "word", "lowercase": True, "attention": "luong", "bidirectional": True, "tied": True,
    "embed_size": 256, "hidden_size": 512, "dropout": 0.5, "embed_dropout": 0.4, "word_dropout": 0.1,
    "label_smoothing": 0.1, "min_count": 2,
    "batch_tokens": 1200, "epochs": 8, "warmup": 300, "lr": 2e-3, "schedule": "cosine", "average": 5,
}  # fmt: skip
TATOEBA_RUNS = {"en-zh": False, "zh-en": False, "en-zh-vectors": True, "zh-en-vectors": True}


def multi30k_runs(data: Path, chosen: list[str] | None) -> dict[str, dict]:
    """Settings and test files of each run."""
    files = {
        f"{prefix}{side}": str(data / f"{part}.{language}.gz")
        for prefix, part in (("", "train"), ("valid_", "val"))
        for side, language in (("src", "de"), ("tgt", "en"))
    }
    test = [str(data / f"test_2016_flickr.{language}.gz") for language in ("de", "en")]
    return {name: {"settings": {**MULTI30K[name], **files}, "test": test} for name in chosen or MULTI30K}


def tatoeba_runs(tsv: Path, work: Path, chosen: list[str] | None, english: str | None) -> dict[str, dict]:
    """Split the text, train vectors, and give the settings of each run."""
    runs = {}
    for name in chosen or TATOEBA_RUNS:
        direction, with_vectors = name.removesuffix("-vectors"), TATOEBA_RUNS[name]
        folder = work / f"text-{direction}"
        if not (folder / "train.src").exists():
            columns = ("1", "2") if direction == "en-zh" else ("2", "1")
            run([*MODULE, "split", "--tsv", str(tsv), "--out", str(folder), "--columns", *columns])
        source, target = ("word", "char") if direction == "en-zh" else ("char", "word")
        settings = {**TATOEBA, "tokenizer": source, "tgt_tokenizer": target}
        for prefix, part in (("", "train"), ("valid_", "valid")):
            for side in ("src", "tgt"):
                settings[f"{prefix}{side}"] = str(folder / f"{part}.{side}")
        if with_vectors:
            for side, kind in (("src", source), ("tgt", target)):
                given = english if kind == "word" else None
                settings[f"{side}_vectors"] = given or vectors(folder / f"train.{side}", kind, work)
        runs[name] = {"settings": settings, "test": [str(folder / f"test.{side}") for side in ("src", "tgt")]}
    return runs


def vectors(text: Path, tokenizer: str, work: Path) -> str:
    """Word vectors of one side of the training text."""
    out = work / f"vectors-{text.parent.name}-{text.suffix[1:]}"
    if not (out / "model.safetensors").exists():
        options = {"dim": 256, "epochs": 30, "min_count": 2, "tokenizer": tokenizer, "sample": 1e-3}
        flags = [flag for key, value in options.items() for flag in (f"--{key.replace('_', '-')}", str(value))]
        command = [
            sys.executable,
            "-m",
            "w2v_ext.train",
            "--corpus",
            str(text),
            "--out",
            str(out),
            "--lowercase",
            *flags,
        ]
        run(command)
    return str(out)


def run(command: list[str]) -> str:
    """Run a command; its output."""
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout


def train(settings: dict, folder: Path, seconds: float | None) -> bool:
    """Train, or go on; tell whether it is finished."""
    folder.mkdir(parents=True, exist_ok=True)
    config = folder / "run.json"
    config.write_text(json.dumps({**settings, "out": str(folder / "model")}))
    if (folder / "model" / "metrics.json").exists():
        return True
    command = [*MODULE, "train", "--config", str(config)]
    if (folder / "model" / "last.safetensors").exists():
        command.append("--resume")
    process = subprocess.Popen(command)
    try:
        status = process.wait(seconds)
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGINT)
        status = process.wait() and 130
    if status not in (0, 130):
        raise SystemExit(status)
    return status == 0


def main() -> None:
    """Run what is missing and write the JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("task", choices=["multi30k", "tatoeba"])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--runs", nargs="+")
    parser.add_argument("--cpu-minutes", type=float, default=120)
    parser.add_argument("--beam", type=int, default=5)
    parser.add_argument("--alpha", type=float, default=1.0)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--slice", type=float, help="stop the training at hand after so many seconds")
    parser.add_argument("--en-vectors", help="model directory of English vectors of 256 numbers, for tatoeba")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    known = MULTI30K if args.task == "multi30k" else TATOEBA_RUNS
    for name in args.runs or []:
        if name not in known:
            parser.error(f"runs: expected some of {', '.join(known)}, got {name}")
    if args.task == "multi30k":
        runs = multi30k_runs(args.data, args.runs)
    else:
        runs = tatoeba_runs(args.data, args.work, args.runs, args.en_vectors)
    report = json.loads(args.out.read_text()) if args.out and args.out.exists() else {"runs": {}}
    for name, parts in runs.items():
        key = name if args.seed == 1 else f"{name}-seed{args.seed}"
        if key in report["runs"]:
            continue
        folder = args.work / key
        settings = {**parts["settings"], "max_cpu_minutes": args.cpu_minutes, "seed": args.seed}
        if not train(settings, folder, args.slice):
            print(f"{key}: not finished; the same command goes on", file=sys.stderr)
            raise SystemExit(3)
        src, ref = parts["test"]
        options = ["--beam", str(args.beam), "--alpha", str(args.alpha), "--json", "--out", str(folder / "test.txt")]
        model = str(folder / "model")
        tested = json.loads(run([*MODULE, "evaluate", "--model", model, "--src", src, "--ref", ref, *options]))
        metrics = json.loads((folder / "model" / "metrics.json").read_text())
        own = {key: value for key, value in parts["settings"].items() if not str(value).startswith("/")}
        report["runs"][key] = {
            "scores": tested["scores"],
            "beam": args.beam,
            "alpha": args.alpha,
            "valid_bleu": max(entry["bleu"] for entry in metrics["history"]),
            "cpu_minutes": metrics["cpu_seconds_with_validation"] / 60,
            "wall_minutes": metrics["seconds_with_validation"] / 60,
            **{key: metrics[key] for key in ("epochs", "best_epoch", "precision", "threads")},
            "settings": {**own, "seed": args.seed},
            "machine": machine(),
        }
        if args.out:
            args.out.parent.mkdir(parents=True, exist_ok=True)
            args.out.write_text(json.dumps(report, indent=1) + "\n")
        lower = next(score for score in tested["scores"] if score["name"] == "BLEU -lc")
        print(f"{key}: {lower['score']:.2f} BLEU -lc, {lower['signature']}", flush=True)


if __name__ == "__main__":
    main()
