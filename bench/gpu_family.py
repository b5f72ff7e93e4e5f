"""The parts of gpu_bench.py about the other models, the classifier and the sparse optimisers."""

from __future__ import annotations

import json
import lzma
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
from gpu_common import DEVICE, ON_GPU, copy_bandwidth, judged, open_corpus, speed, spread, timed, train

import w2v_ext
from w2v_ext import optim

SECONDS = float(os.environ.get("FAMILY_SECONDS", "200"))  # after which no further run is begun
HELD_OUT = 5000  # reviews
SEEDS = (1, 2, 3)
MEASURES = ("raw_words_per_second", "end_to_end_words_per_second", "lines_per_second", "accuracy")
JUDGED = ("ws353", "simlex", "analogies")
MODELS: dict[str, dict] = {
    "cbow": {"model": "cbow"},
    "cbow, mean, divided": {"model": "cbow", "cbow_mean": True, "cbow_divide_gradient": True, "lr": 0.075},
    "skipgram, hs": {"loss": "hs"},
    "cbow, hs": {"model": "cbow", "loss": "hs", "cbow_mean": True},
    "fasttext": {"model": "fasttext", "lr": 0.05, "sample": 1e-4, "noise_power": 0.5},
    "fasttext-cbow": {"model": "fasttext-cbow", "lr": 0.05},
    "glove": {"model": "glove", "window": 10, "lr": 0.05, "epochs": 10},
}


def runs_of_models(
    corpus: w2v_ext.Corpus, side: str, seed: int, data: Path, dry: bool
) -> Iterator[tuple[str, Callable[[], dict]]]:
    """Every model on a device."""
    for name, settings in MODELS.items():
        changes = {"dim": 100, "seed": seed, **settings, **({"epochs": 1} if dry else {})}
        if dry and name.startswith("fasttext"):
            changes["buckets"] = 20_000

        def run(changes: dict = changes) -> dict:
            trainer, seconds = train(corpus, side, **changes)
            return {**speed(trainer, seconds), **judged(trainer, data)}

        yield f"{name} on {side}", run


def review_lines(data: Path, dry: bool) -> tuple[list[str], list[str], list[str], list[str]] | None:
    """Texts and labels of reviews to train on and to test with: the last 5,000."""
    if dry:
        texts, labels = ["warm and funny", "dull and long", "a fine film", "two lost hours"] * 50, ["good", "bad"] * 100
        return texts[:150], labels[:150], texts[150:], labels[150:]
    path = data / "imdb-sentiment-train.tsv.xz"
    if not path.exists():
        return None
    with lzma.open(path, "rt", encoding="utf-8") as file:
        labels, texts = zip(*(line.rstrip("\n").split("\t", 1) for line in file), strict=True)
    order = np.random.default_rng(0).permutation(len(texts) - HELD_OUT)
    return (
        [texts[i] for i in order],
        [labels[i] for i in order],
        list(texts[-HELD_OUT:]),
        list(labels[-HELD_OUT:]),
    )


def runs_of_classifiers(data: Path, dry: bool) -> Iterator[tuple[str, Callable[[], dict]]]:
    """The classifier on the GPU, with more and more lines in flight, and on the CPU."""
    found = review_lines(data, dry)
    if found is None:
        print(f"gpu_bench: no imdb-sentiment-train.tsv.xz in {data}; the classifier is left out", flush=True)
        return
    texts, labels, held_out, wanted = found
    flights = (16, 64, 256) if ON_GPU else (0,)
    for side, flight in [(DEVICE.type, flight) for flight in flights] + ([("cpu", 0)] if ON_GPU else []):

        def run(side: str = side, flight: int = flight) -> dict:
            settings = {"device": side, "lines_in_flight": flight, "word_ngrams": 2, "lr": 0.1, "epochs": 5}
            model = w2v_ext.TextClassifier(**settings).fit(texts, labels)
            answers = model.predict(held_out)
            right = sum(a[0][0] == model.config.label + w for a, w in zip(answers, wanted, strict=True) if a)
            return {**model.metrics(), "accuracy": right / len(wanted)}

        yield f"classifier on {side}" + (f", {flight} lines in flight" if flight else ""), run


def bench_family(dry: bool, data: Path) -> dict:
    """Raw words per second, loss and quality of every model, on the GPU and on the CPU of the same machine."""
    started = time.perf_counter()
    corpus = open_corpus(dry, data)
    report: dict = {"raw_words": corpus.num_tokens, "vocab": len(corpus.vocab), "left_out": [], "runs": {}}
    kinds = [(side, seed) for seed in SEEDS[: 1 if dry else None] for side in dict.fromkeys((DEVICE.type, "cpu"))]
    models = [runs_of_models(corpus, side, seed, data, dry) for side, seed in kinds]
    failed = []
    for runs in (models[0], runs_of_classifiers(data, dry), *models[1:]):
        for name, run in runs:
            if time.perf_counter() - started > SECONDS:
                report["left_out"].append(name)
                continue
            try:
                found = run()
            except Exception as failure:  # one that does not run must not take the others along
                found = {"failed": f"{type(failure).__name__}: {failure}"}
                failed.append(name)
            report["runs"].setdefault(name, []).append(found)
            brief = ("failed", "loss", *MEASURES, *JUDGED)
            print(f"{name}: {json.dumps({key: found[key] for key in brief if key in found})}", flush=True)
    report["summary"] = {name: summary(runs) for name, runs in report["runs"].items()}
    if failed:
        report["failed"] = failed
    return report


def summary(runs: list[dict]) -> dict:
    """Of all seeds: the median speed, and the mean quality with its extremes."""
    good = [run for run in runs if "failed" not in run]
    found: dict = {"seeds": len(good)}
    for key in (*MEASURES, *JUDGED):
        values = [run[key] for run in good if key in run]
        if values:
            found[key] = spread(values)
    return found


# ---- the optimisers ------------------------------------------------------------------------------------------------

OPTIMIZERS: dict[str, Callable] = {
    "SparseSGD": lambda p: optim.SparseSGD(p, 0.05),
    "SparseSGD, momentum": lambda p: optim.SparseSGD(p, 0.05, momentum=0.9),
    "RowwiseAdagrad": lambda p: optim.RowwiseAdagrad(p, 0.05),
    "SparseAdagrad": lambda p: optim.SparseAdagrad(p, 0.05),
    "LazyAdam": lambda p: optim.LazyAdam(p, 0.05),
    "torch SGD": lambda p: torch.optim.SGD(p, 0.05),
    "torch Adagrad": lambda p: torch.optim.Adagrad(p, 0.05),
    "torch SparseAdam": lambda p: torch.optim.SparseAdam(p, 0.05),
}
STATES = {"SparseSGD, momentum": 1, "SparseAdagrad": 1, "LazyAdam": 2, "torch Adagrad": 1, "torch SparseAdam": 2}
SAME = {"SparseSGD": "torch SGD", "SparseAdagrad": "torch Adagrad"}  # of one step, the mathematics


def bench_optim(dry: bool, _: Path) -> dict:
    """A step of 500,000 rows of 4 M, D 128, each row once: milliseconds, and the share of the copy bandwidth."""
    vocab, rows, dim = (2000, 200, 128) if dry else (4_000_000, 500_000, 128)
    bandwidth = copy_bandwidth(dry)
    generator = torch.Generator(DEVICE).manual_seed(0)
    index = torch.randperm(vocab, generator=generator, device=DEVICE)[:rows].sort().values
    values = torch.randn(rows, dim, generator=generator, device=DEVICE)
    start = torch.randn(vocab, dim, generator=generator, device=DEVICE)
    report: dict = {"copy_bytes_per_second": bandwidth, "vocab": vocab, "rows": rows, "dim": dim, "sides": {}}
    stepped = {}
    for name, make in OPTIMIZERS.items():
        weight = torch.nn.Parameter(start.clone())
        weight.grad = torch.sparse_coo_tensor(index[None], values, weight.shape, is_coalesced=True)
        optimizer = make([weight])
        optimizer.step()
        if name in (*SAME, *SAME.values()):
            stepped[name] = weight.detach()[index].clone()
        times = timed([optimizer.step], 3 if dry else 20)
        least = 4 * rows * dim * (1 + 2 + 2 * STATES.get(name, 0))  # gradient read, weight and state read and written
        share = least / (1e-3 * times["median"]) / bandwidth
        report["sides"][name] = {"milliseconds": times, "bound_bytes": least, "share_of_copy_bandwidth": share}
        print(f"{name}: {times['median']:.3f} ms, {share:.2f} of the copy bandwidth", flush=True)
    report["largest_difference"] = {
        ours: (stepped[ours] - stepped[theirs]).abs().max().item() for ours, theirs in SAME.items()
    }
    return report
