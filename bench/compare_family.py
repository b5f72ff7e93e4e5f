"""Speed and quality of the models beside skip-gram with negative sampling, and of the programs they replace.

    python bench/compare_family.py --corpus imdb.txt --rows cbow --kind speed --epochs 1 --out family-cpu.json
    python bench/compare_family.py --corpus imdb.txt --eval-dir eval --rows cbow --kind quality --out family-cpu.json

A row of ``ROWS`` is a model: its settings, and the sides that train it. Each side of a row trains in a process of its
own, in turns (A B A B ...), so that a drift of the machine meets both. The result is added to what `--out` holds, so
that the rows, the seeds and the two kinds can be measured one by one:

- `speed`: raw words (in the vocabulary, before subsampling) per second of training wall time, without reading and
  vocabulary; on an idle machine.
- `quality`: gensim's own evaluators for all sides: Spearman on WS353 and SimLex-999, accuracy on the analogies
  (restrict_vocab 30,000). May run beside other work; its speed is not kept. (Compare at several epochs: within one,
  gensim's corpus_file mode lets the learning rate fall by 1 / workers only.)

Needs the `bench` extra; `--eval-dir` holds EN-WS-353-ALL.txt, EN-SIMLEX-999.txt and questions-words.txt.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from compare_trainers import SETTINGS, quality
from measuring import machine, spread


@dataclass(frozen=True)
class Row:
    """A model and the programs that train it; the first side is the one that the others are compared with."""

    sides: dict[str, tuple[str, dict[str, Any]]]  # side: the name of its trainer in TRAINERS, and its settings
    settings: dict[str, Any] = field(default_factory=dict)  # what differs from SETTINGS


def gensim_and_ours(gensim: dict[str, Any], ours: dict[str, Any], **more: dict[str, Any]) -> dict:
    """A row's sides: gensim, this library, and this library with other settings."""
    others = {name: ("w2v_ext", ours | settings) for name, settings in more.items()}
    return {"gensim": ("gensim", gensim), "w2v_ext": ("w2v_ext", ours), **others}


def fasttext_and_ours(theirs: str, ours: str) -> dict:
    """A row's sides: fastText, whose noise is the square root of the counts, and this library."""
    return {"fasttext": ("fasttext", {"model": theirs}), "w2v_ext": ("w2v_ext", {"model": ours, "noise_power": 0.5})}


FASTTEXT = {"lr": 0.05, "sample": 1e-4}  # fastText's defaults
HS = {"hs": 1, "negative": 0}
MEAN = {"cbow_mean": True}
DIVIDED = {"cbow_mean": True, "cbow_divide_gradient": True}
ROWS = {
    "cbow": Row(gensim_and_ours({"sg": 0}, {"model": "cbow"})),
    "cbow-mean": Row(gensim_and_ours({"sg": 0}, {"model": "cbow", **MEAN})),
    "cbow-textbook": Row(  # the second with the learning rate of gensim's corpus_file and two workers
        {"textbook": ("textbook", {}), "textbook, half fall": ("textbook", {"fall": 0.5})}
    ),
    "cbow-divided": Row({"w2v_ext": ("w2v_ext", {"model": "cbow", **DIVIDED})}),
    "cbow-divided-lr": Row({"w2v_ext": ("w2v_ext", {"model": "cbow", **DIVIDED})}, settings={"lr": 0.075}),
    "skipgram-hs": Row(gensim_and_ours({"sg": 1, **HS}, {"model": "skipgram", "loss": "hs"})),
    "fasttext": Row(fasttext_and_ours("skipgram", "fasttext"), FASTTEXT),
    "fasttext-cbow": Row(fasttext_and_ours("cbow", "fasttext-cbow"), FASTTEXT),
    "softmax": Row(  # both over the words that occur 1,000 times
        {
            "negatives": ("w2v_ext", {"model": "skipgram"}),
            "w2v_ext": ("w2v_ext", {"model": "skipgram", "loss": "softmax"}),
        },
        {"min_count": 1000},
    ),
    "cbow-hs": Row(gensim_and_ours({"sg": 0, **HS}, {"model": "cbow", "loss": "hs", **MEAN})),
}


def train_gensim(job: dict[str, Any], vectors: str) -> dict:
    """Train gensim's model; its own rate excludes building the vocabulary."""
    from gensim.models import Word2Vec

    settings = job["settings"]
    options = {
        "vector_size": settings["dim"],
        "window": settings["window"],
        "negative": settings["negative"],
        "sample": settings["sample"],
        "min_count": settings["min_count"],
        "alpha": settings["lr"],
        **job["options"],
    }
    model = Word2Vec(workers=job["threads"], seed=job["seed"], **options)
    model.build_vocab(corpus_file=job["corpus"])
    words = int(sum(model.wv.get_vecattr(word, "count") for word in model.wv.index_to_key))
    start = time.perf_counter()
    model.train(
        corpus_file=job["corpus"],
        total_words=model.corpus_total_words,
        total_examples=model.corpus_count,
        epochs=job["epochs"],
    )
    seconds = time.perf_counter() - start
    model.wv.save_word2vec_format(vectors, binary=True)
    return {"words_per_second": words * job["epochs"] / seconds, "seconds": seconds}


def train_w2v_ext(job: dict[str, Any], vectors: str) -> dict:
    """Train this library's model."""
    import w2v_ext

    settings = {**job["settings"], **job["options"]}
    config = w2v_ext.TrainConfig(**settings, epochs=job["epochs"], threads=job["threads"], seed=job["seed"])
    encoded = w2v_ext.prepare_corpus(job["corpus"], w2v_ext.CorpusOptions(min_count=settings["min_count"]))
    trainer = w2v_ext.Trainer(encoded, config)
    start = time.perf_counter()
    trainer.fit()
    seconds = time.perf_counter() - start
    trainer.keyed_vectors().save_word2vec_format(vectors, binary=True)
    return {
        "words_per_second": encoded.num_tokens * job["epochs"] / seconds,
        "seconds": seconds,
        "loss": trainer.state.losses,
    }


def train_fasttext(job: dict[str, Any], vectors: str) -> dict:
    """Train fastText with n-grams; the time that it takes for no epoch, to count words and fill tables, is left out.

    The package takes no seed, and release 0.9.3 stops with "Encountered NaN" now and then: it is tried again.
    """
    import fasttext

    settings = job["settings"]
    options = {"dim": settings["dim"], "ws": settings["window"], "neg": settings["negative"], "t": settings["sample"]}
    options |= {"minCount": settings["min_count"], "lr": settings["lr"], "thread": job["threads"], "verbose": 0}
    options |= {"minn": 3, "maxn": 6, "bucket": 2_000_000, **job["options"]}
    seconds = {}
    for epochs in (0, job["epochs"]):
        for attempt in range(10):
            start = time.perf_counter()
            try:
                model = fasttext.train_unsupervised(job["corpus"], epoch=epochs, **options)
                break
            except RuntimeError as error:
                if attempt == 9:
                    raise
                print(f"fasttext: {error} Once more.", file=sys.stderr)
        seconds[epochs] = time.perf_counter() - start
    words, counts = model.get_words(include_freq=True)
    with open(vectors, "wb") as file:
        file.write(f"{len(words)} {settings['dim']}\n".encode())
        for word in words:
            file.write(word.encode() + b" " + model.get_word_vector(word).tobytes() + b"\n")
    training = seconds[job["epochs"]] - seconds[0]
    rate = int(sum(counts)) * job["epochs"] / training
    return {"words_per_second": rate, "seconds": training, "setup_seconds": seconds[0]}


def train_textbook(job: dict[str, Any], vectors: str) -> dict:
    """Train CBOW with `textbook_cbow.cpp`; `fall`: the share of its fall that the learning rate does in an epoch."""
    import numpy as np

    import w2v_ext

    settings = job["settings"]
    corpus = w2v_ext.prepare_corpus(job["corpus"], w2v_ext.CorpusOptions(min_count=settings["min_count"]))
    shares = np.cumsum(np.asarray(corpus.vocab.counts, np.float64) ** 0.75)
    with tempfile.TemporaryDirectory() as folder:
        program = Path(folder) / "textbook_cbow"
        source = Path(__file__).with_name("textbook_cbow.cpp")
        flags = ["-std=c++20", "-O3", "-march=native", "-ffast-math"]
        subprocess.run(["g++", *flags, str(source), "-o", str(program)], check=True)
        files = [str(Path(folder) / name) for name in ("ids", "keep", "noise", "rows")]
        corpus.ids.astype(np.int32).tofile(files[0])
        corpus.vocab.keep_probabilities(settings["sample"]).astype(np.float32).tofile(files[1])
        points = (np.arange(10**7) + 0.5) / 10**7 * shares[-1]  # word2vec.c's table
        np.searchsorted(shares, points).astype(np.int32).tofile(files[2])
        numbers = [settings["dim"], settings["window"], settings["negative"], job["epochs"], settings["lr"], 1e-4]
        numbers += [job["options"].get("fall", 1.0), job["seed"]]
        start = time.perf_counter()
        subprocess.run([str(program), *files[:3], *map(str, numbers), files[3]], check=True)
        seconds = time.perf_counter() - start
        rows = np.fromfile(files[3], np.float32).reshape(len(corpus.vocab), settings["dim"])
    w2v_ext.KeyedVectors(corpus.vocab.words, rows).save_word2vec_format(vectors, binary=True)
    return {"words_per_second": corpus.num_tokens * job["epochs"] / seconds, "seconds": seconds}


TRAINERS = {"fasttext": train_fasttext, "gensim": train_gensim, "textbook": train_textbook, "w2v_ext": train_w2v_ext}


def summarise(row: Row, runs: dict[str, dict[str, list[dict]]]) -> dict:
    """Medians and extremes of a row's runs, and the ratio of speeds seed by seed."""
    summary: dict = {}
    first = next(iter(row.sides))
    speeds = runs.get("speed", {})
    for side in list(row.sides)[1:]:
        pairs = [
            (ours["words_per_second"], theirs["words_per_second"])
            for ours in speeds.get(side, [])
            for theirs in speeds.get(first, [])
            if ours["seed"] == theirs["seed"]
        ]
        if pairs:
            summary[f"{side} / {first}"] = spread([ours / theirs for ours, theirs in pairs])
    for side in row.sides:
        figures = {}
        for kind, keys in (("speed", ["words_per_second"]), ("quality", ["ws353", "simlex", "analogies"])):
            results = runs.get(kind, {}).get(side, [])
            figures |= {key: spread([run[key] for run in results]) for key in keys if results}
        if figures:
            summary[side] = figures
    return summary


def main() -> None:
    """Run the comparison and add its results to the JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--corpus", required=True)
    parser.add_argument("--eval-dir", type=Path)
    parser.add_argument("--rows", nargs="+", choices=list(ROWS), default=list(ROWS))
    parser.add_argument("--sides", nargs="+", help="only these sides of the rows")
    parser.add_argument("--kind", choices=("speed", "quality"), default="speed")
    parser.add_argument("--seeds", nargs="+", type=int, default=[1, 2, 3])
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.worker:
        job = json.loads(args.worker)
        print(json.dumps(TRAINERS[job["trainer"]](job, job["vectors"])))
        return
    if args.kind == "quality" and args.eval_dir is None:
        parser.error("--kind quality needs --eval-dir")

    report = json.loads(args.out.read_text()) if args.out.exists() else {"rows": {}}
    report["machine"] = machine("gensim", "fasttext")
    report["settings"] = SETTINGS
    with tempfile.TemporaryDirectory() as folder:
        for name in args.rows:
            row = ROWS[name]
            entry = report["rows"].setdefault(name, {"runs": {}})
            for seed in args.seeds:
                for side, (trainer, options) in row.sides.items():
                    if args.sides and side not in args.sides:
                        continue
                    vectors = str(Path(folder) / "vectors.bin")
                    job = {
                        "trainer": trainer,
                        "corpus": args.corpus,
                        "settings": {**SETTINGS, **row.settings},
                        "options": options,
                        "epochs": args.epochs,
                        "threads": args.threads,
                        "seed": seed,
                        "vectors": vectors,
                    }
                    worker = [sys.executable, *sys.argv, "--worker", json.dumps(job)]
                    done = subprocess.run(worker, stdout=subprocess.PIPE, text=True, check=True, env={**os.environ})
                    run = {"seed": seed, "epochs": args.epochs, "threads": args.threads}
                    run |= json.loads(done.stdout.splitlines()[-1])
                    if args.kind == "quality":
                        run |= quality(vectors, args.eval_dir)
                        del run["words_per_second"], run["seconds"]
                    kept = entry["runs"].setdefault(args.kind, {}).setdefault(side, [])
                    kept[:] = sorted([*(r for r in kept if r["seed"] != seed), run], key=lambda r: r["seed"])
                    print(name, side, json.dumps(run), file=sys.stderr, flush=True)
            entry["summary"] = summarise(row, entry["runs"])
            args.out.parent.mkdir(parents=True, exist_ok=True)
            args.out.write_text(json.dumps(report, indent=1) + "\n")
    print(json.dumps({name: report["rows"][name]["summary"] for name in args.rows}, indent=1))


if __name__ == "__main__":
    main()
