"""How the trainer's speed goes with threads, vocabulary and dimension, and its memory with the length of the corpus.

    python bench/scaling.py --out bench/results/scaling-cpu.json
    python bench/scaling.py --corpus imdb.txt --tokens 1_000_000_000 --out bench/results/scaling-cpu.json

Generated text: words by Zipf's law, sentences of 20 words, sample 1e-3, window 5, 5 negatives. Every figure is the
median of `--rounds` passes after one to warm up; threads take turns within a round. (With more than a million words: of
the second epoch of 2 rounds, as in the first the system finds memory for the tables, which takes longer.) `--corpus`
adds the threads' figures on a text of one's own and the memory of a whole run on it, `--tokens` a run over that many
generated tokens. `--parts` measures some of it and keeps what `--out` holds of the rest, if the machine and the
versions are the same.
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

import numpy as np
from measuring import machine, spread

import w2v_ext
from w2v_ext.corpus import Corpus
from w2v_ext.vocab import Vocabulary

VOCABS = (10_000, 30_000, 100_000, 300_000, 1_000_000, 5_000_000)
PARTS = ("corpus", "vocabulary", "dim", "long")
DIMS = (50, 100, 200, 300, 512, 1024)


def zipf_ids(vocab: int, tokens: int, seed: int = 0) -> np.ndarray:
    """Sentences of 20 words whose frequencies go as 1 / rank."""
    rng = np.random.default_rng(seed)
    ids = np.empty((tokens // 20, 21), dtype=np.int32)
    for rows in np.array_split(ids, max(1, tokens // 2_000_000)):
        # The inverse of the harmonic numbers, H(r) = ln r + 0.5772, by its continuous form.
        u = rng.random((len(rows), 20))
        rows[:, :20] = np.minimum((vocab + 1.0) ** u - 1, vocab - 1).astype(np.int32)
        rows[:, 20] = -1
    return ids.reshape(-1)


def zipf_corpus(vocab: int, ids: np.ndarray) -> Corpus:
    """The ids as a corpus with the counts that their law gives."""
    tokens = int(len(ids) // 21 * 20)
    ranks = np.arange(vocab, dtype=np.float64)
    share = (np.log(ranks + 2) - np.log(ranks + 1)) / np.log(vocab + 1)
    words = Vocabulary([f"w{i}" for i in range(vocab)], np.maximum(1, np.rint(share * tokens)).astype(np.int64))
    meta = {"num_tokens": tokens, "num_sentences": len(ids) // 21, "raw_words": tokens}
    return Corpus(Path("."), ids, words, meta)


def speed(corpus: Corpus, dim: int, threads: int, epochs: int = 1) -> float:
    """Raw words per second of the last epoch."""
    trainer = w2v_ext.Trainer(corpus, w2v_ext.TrainConfig(dim=dim, epochs=epochs, threads=threads))
    ends = [time.perf_counter()]
    trainer.fit(on_epoch=lambda _: ends.append(time.perf_counter()))
    return corpus.num_tokens / (ends[-1] - ends[-2])


def measure(corpus: Corpus, dim: int, threads: tuple[int, ...], rounds: int, epochs: int = 1) -> dict:
    """Speeds for each number of threads, in turns, and each round's ratio of the last to the first."""
    runs: dict[int, list[float]] = {t: [] for t in threads}
    for round_ in range(rounds + 1):
        for t in threads:
            rate = speed(corpus, dim, t, epochs)
            if round_ > 0:
                runs[t].append(rate)
    result: dict = {f"threads_{t}": spread(rates) for t, rates in runs.items()}
    if len(threads) > 1:
        result["ratio"] = spread([b / a for a, b in zip(runs[threads[0]], runs[threads[-1]], strict=True)])
    return result


def anonymous_mebibytes() -> float:
    """Memory of this process that no file backs."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("RssAnon")) / 1024


def long_run(tokens: int, threads: int) -> dict:
    """An epoch over ids in a mapped file of the given length: speed and memory in tenths of the way."""
    vocab = 100_000
    with tempfile.TemporaryDirectory(dir=os.environ.get("TMPDIR")) as folder:
        path = Path(folder) / "ids.bin"
        with path.open("wb") as file:
            for part in range(max(1, tokens // 50_000_000)):
                zipf_ids(vocab, min(tokens, 50_000_000), seed=part).tofile(file)
        corpus = zipf_corpus(vocab, np.memmap(path, dtype=np.int32, mode="r"))
        trainer = w2v_ext.Trainer(corpus, w2v_ext.TrainConfig(dim=100, epochs=1, threads=threads))
        points, start = [], time.perf_counter()

        def look(trainer: w2v_ext.Trainer) -> None:
            state = trainer.state
            if state.position >= len(corpus.ids) * (len(points) + 1) / 10:
                points.append((state.position or len(corpus.ids), time.perf_counter() - start, anonymous_mebibytes()))

        trainer.fit(on_progress=look)
        seconds = time.perf_counter() - start
        rates = [
            (b[0] - a[0]) / (b[1] - a[1]) * 20 / 21 for a, b in zip([(0, 0.0, 0.0), *points], points, strict=False)
        ]
        return {
            "tokens": corpus.num_tokens,
            "words_per_second": corpus.num_tokens / seconds,
            "words_per_second_by_tenth": rates,
            "anonymous_mib_by_tenth": [p[2] for p in points],
            "weights_mib": 2 * vocab * 112 * 4 / 2**20,
        }


# Runs a module as python -m does, or nothing, and says how much memory that took. (ru_maxrss would not do: a process
# begins with its parent's.)
PEAK = """
import runpy, sys, w2v_ext
if len(sys.argv) > 1:
    sys.argv = sys.argv[1:]
    try:
        runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
    except SystemExit as stop:
        assert not stop.code, stop.code
print([line for line in open("/proc/self/status") if line.startswith("VmHWM")][0].split()[1])
"""


def peak_mebibytes(arguments: list[str], environment: dict[str, str]) -> float:
    """The most memory that a process had in its pages, files' included."""
    done = subprocess.run(
        [sys.executable, "-c", PEAK, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env={**os.environ, **environment},
        text=True,
        check=True,
    )
    return int(done.stdout.split()[-1]) / 1024


def whole_run(corpus: str, threads: int) -> dict:
    """Peak memory of the command line from text to vectors, and of importing the library alone."""
    with tempfile.TemporaryDirectory() as folder:
        environment = {"W2V_EXT_CACHE": str(Path(folder) / "cache")}
        command = ["w2v_ext.train", "--corpus", corpus, "--out", str(Path(folder) / "model")]
        command += ["--epochs", "1", "--threads", str(threads)]
        base = peak_mebibytes([], environment)
        first, second = (peak_mebibytes(command, environment) for _ in range(2))
        ids = next(Path(folder).glob("cache/**/ids.bin")).stat().st_size / 2**20
        words = len(next(Path(folder).glob("cache/**/vocab.tsv")).read_text().splitlines())
    weights = 2 * words * 112 * 4 / 2**20
    return {
        "import_mib": base,
        "peak_mib": first,
        "peak_mib_cache_hit": second,
        "weights_mib": weights,
        "ids_mib": ids,
        "above_import_weights_and_ids_mib": first - base - weights - ids,
    }


def main() -> None:
    """Run all and write the JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--corpus")
    parser.add_argument("--tokens", type=int)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    both = (1, args.threads) if args.threads > 1 else (1,)
    report: dict = {"machine": machine(), "settings": {"rounds": args.rounds, "threads": args.threads}}
    if len(args.parts) < len(PARTS) and args.out and args.out.exists():
        earlier = json.loads(args.out.read_text())
        if earlier["settings"] != report["settings"] or any(
            earlier["machine"].get(key) != value for key, value in report["machine"].items() if key != "date"
        ):
            raise SystemExit(f"parts: {args.out} was made with other settings, machine or versions")
        report = earlier

    def note(name: str, value: object) -> None:
        print(name, json.dumps(value), file=sys.stderr, flush=True)

    if args.corpus and "corpus" in args.parts:
        corpus = w2v_ext.prepare_corpus(args.corpus)
        report["corpus"] = {"words": corpus.num_tokens, "vocabulary": len(corpus.vocab)}
        report["corpus"] |= measure(corpus, 100, both, args.rounds) | {"memory": whole_run(args.corpus, args.threads)}
        note("corpus", report["corpus"])
    if "vocabulary" in args.parts:
        report["vocabulary"] = {}
        for vocab in VOCABS:
            zipf = zipf_corpus(vocab, zipf_ids(vocab, 4_000_000))
            large = vocab > 1_000_000
            report["vocabulary"][vocab] = measure(
                zipf, 100, both, min(args.rounds, 2) if large else args.rounds, 2 if large else 1
            )
            note(f"vocabulary {vocab}", report["vocabulary"][vocab])
    if "dim" in args.parts:
        report["dim"] = {}
        zipf = zipf_corpus(50_000, zipf_ids(50_000, 4_000_000))
        for dim in DIMS:
            report["dim"][dim] = measure(zipf, dim, both, args.rounds)
            note(f"dim {dim}", report["dim"][dim])
    if args.tokens and "long" in args.parts:
        report["long_run"] = long_run(args.tokens, args.threads)
        note("long run", report["long_run"])
    if args.out:
        args.out.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
