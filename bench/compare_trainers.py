"""Speed and quality of the trainer beside gensim's and fastText's, at the same settings, in the same run.

    python bench/compare_trainers.py --corpus imdb.txt --eval-dir eval --seeds 3 --out bench/results/trainer-cpu.json
    python bench/compare_trainers.py --corpus imdb.txt --eval-dir eval --epochs 1 --sides gensim fasttext avx2 w2v_ext

`avx2` is this library with its AVX-512 kernels switched off (W2V_EXT_CPU=avx2); fastText trains without subwords.
`gensim-decay` is gensim with a learning rate that falls to the end in each thread: with `corpus_file`, each of its W
threads counts its own sentences against all, so that within an epoch the rate falls by 1 / W of its way only. Over one
epoch that is half as much learning again with W = 2; over five it hardly matters. (One epoch only.)

Each side trains in a process of its own, in turns (A B A B ...), so that a drift of the machine meets both. Speed is
raw words (in the vocabulary, before subsampling) per second of training wall time, without reading and vocabulary.
Quality is judged by gensim's own evaluators for both: Spearman on WS353 and SimLex-999, accuracy on the analogies
(restrict_vocab 30,000). Needs the `bench` extra; `--eval-dir` holds EN-WS-353-ALL.txt, EN-SIMLEX-999.txt and
questions-words.txt.
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

from measuring import machine, spread

SETTINGS = {"dim": 100, "window": 5, "negative": 5, "sample": 1e-3, "min_count": 5, "lr": 0.025}


def train_gensim(
    corpus: str, epochs: int, threads: int, seed: int, settings: dict, vectors: str, min_alpha: float = 1e-4
) -> dict:
    """Train gensim's skip-gram; its own rate excludes building the vocabulary."""
    from gensim.models import Word2Vec

    model = Word2Vec(
        sg=1,
        vector_size=settings["dim"],
        window=settings["window"],
        negative=settings["negative"],
        sample=settings["sample"],
        min_count=settings["min_count"],
        alpha=settings["lr"],
        min_alpha=min_alpha,
        workers=threads,
        seed=seed,
    )
    model.build_vocab(corpus_file=corpus)
    words = int(sum(model.wv.get_vecattr(word, "count") for word in model.wv.index_to_key))
    start = time.perf_counter()
    model.train(
        corpus_file=corpus, total_words=model.corpus_total_words, total_examples=model.corpus_count, epochs=epochs
    )
    seconds = time.perf_counter() - start
    model.wv.save_word2vec_format(vectors, binary=True)
    return {"words_per_second": words * epochs / seconds, "seconds": seconds}


def train_gensim_decay(corpus: str, epochs: int, threads: int, seed: int, settings: dict, vectors: str) -> dict:
    """Train gensim so that the rate of every thread ends where word2vec's does."""
    if epochs != 1:
        raise SystemExit("gensim-decay: expected --epochs 1")
    end = settings["lr"] - threads * (settings["lr"] - 1e-4)  # a thread goes 1 / threads of the way to it
    return train_gensim(corpus, epochs, threads, seed, settings, vectors, min_alpha=end)


def train_w2v_ext(corpus: str, epochs: int, threads: int, seed: int, settings: dict, vectors: str) -> dict:
    """Train this library's skip-gram."""
    import w2v_ext

    config = w2v_ext.TrainConfig(
        **{k: v for k, v in settings.items() if k != "min_count"},
        min_count=settings["min_count"],
        epochs=epochs,
        threads=threads,
        seed=seed,
    )
    encoded = w2v_ext.prepare_corpus(corpus, w2v_ext.CorpusOptions(min_count=settings["min_count"]))
    trainer = w2v_ext.Trainer(encoded, config)
    start = time.perf_counter()
    trainer.fit()
    seconds = time.perf_counter() - start
    trainer.keyed_vectors().save_word2vec_format(vectors, binary=True)
    return {
        "words_per_second": encoded.num_tokens * epochs / seconds,
        "seconds": seconds,
        "loss": trainer.state.losses,
        "kernels": w2v_ext.cpu_kernels(),
    }


def train_fasttext(corpus: str, epochs: int, threads: int, seed: int, settings: dict, vectors: str) -> dict:
    """Train fastText's skip-gram without subwords. Its time includes counting the words; the package takes no seed."""
    import fasttext

    for attempt in range(10):
        start = time.perf_counter()
        try:
            model = fasttext.train_unsupervised(
                corpus,
                model="skipgram",
                dim=settings["dim"],
                ws=settings["window"],
                neg=settings["negative"],
                t=settings["sample"],
                minCount=settings["min_count"],
                lr=settings["lr"],
                epoch=epochs,
                thread=threads,
                minn=0,
                maxn=0,
                verbose=0,
            )
            break
        except RuntimeError as error:  # release 0.9.3 stops with "Encountered NaN" now and then, at any settings
            if attempt == 9:
                raise
            print(f"fasttext: {error} Once more.", file=sys.stderr)
    seconds = time.perf_counter() - start
    words, counts = model.get_words(include_freq=True)
    with open(vectors, "wb") as file:
        file.write(f"{len(words)} {settings['dim']}\n".encode())
        for word in words:
            file.write(word.encode() + b" " + model.get_word_vector(word).tobytes() + b"\n")
    return {"words_per_second": int(sum(counts)) * epochs / seconds, "seconds": seconds}


SIDES = {
    "gensim": train_gensim,
    "gensim-decay": train_gensim_decay,
    "fasttext": train_fasttext,
    "avx2": train_w2v_ext,
    "w2v_ext": train_w2v_ext,
}
ENVIRONMENT = {"avx2": {"W2V_EXT_CPU": "avx2"}}


def quality(vectors: str, eval_dir: Path) -> dict:
    """WS353, SimLex and analogies of a word2vec binary file, by gensim."""
    from gensim.models import KeyedVectors

    kv = KeyedVectors.load_word2vec_format(vectors, binary=True)
    return {
        "ws353": float(kv.evaluate_word_pairs(eval_dir / "EN-WS-353-ALL.txt")[1][0]),
        "simlex": float(kv.evaluate_word_pairs(eval_dir / "EN-SIMLEX-999.txt")[1][0]),
        "analogies": float(kv.evaluate_word_analogies(eval_dir / "questions-words.txt", restrict_vocab=30_000)[0]),
    }


def main() -> None:
    """Run the comparison and write the JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--corpus", required=True)
    parser.add_argument("--eval-dir", type=Path)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--dim", type=int, default=100)
    parser.add_argument("--sides", nargs="+", choices=list(SIDES), default=["gensim", "w2v_ext"])
    parser.add_argument("--out", type=Path)
    parser.add_argument("--more", action="store_true", help="go on with the next seeds after those in --out")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    args = parser.parse_args()
    settings = {**SETTINGS, "dim": args.dim}
    if args.worker:
        side, seed, vectors = json.loads(args.worker)
        print(json.dumps(SIDES[side](args.corpus, args.epochs, args.threads, seed, settings, vectors)))
        return

    runs: dict[str, list[dict]] = {side: [] for side in args.sides}
    shape = {**settings, "epochs": args.epochs, "threads": args.threads}
    if args.more and args.out and args.out.exists():
        earlier = json.loads(args.out.read_text())
        here = machine("gensim")
        changed = [key for key in here if key != "date" and earlier["machine"].get(key) != here[key]]
        if earlier["settings"] != shape or set(earlier["runs"]) != set(runs) or changed:
            raise SystemExit(f"more: {args.out} was made with other settings, sides or versions {changed}")
        runs = earlier["runs"]
    done = len(runs[args.sides[0]])
    with tempfile.TemporaryDirectory() as folder:
        for seed in range(done + 1, done + args.seeds + 1):
            for side in args.sides:
                vectors = str(Path(folder) / f"{side}-{seed}.bin")
                worker = [*sys.argv, "--worker", json.dumps([side, seed, vectors])]
                environment = {**os.environ, **ENVIRONMENT.get(side, {})}
                output = subprocess.run(
                    [sys.executable, *worker], stdout=subprocess.PIPE, text=True, check=True, env=environment
                )
                run = {"seed": seed, **json.loads(output.stdout.splitlines()[-1])}
                if args.eval_dir:
                    run |= quality(vectors, args.eval_dir)
                runs[side].append(run)
                print(side, json.dumps(run), file=sys.stderr, flush=True)

    summary: dict = {}
    first = args.sides[0]
    for side in args.sides[1:]:  # how many times as fast as the first side, seed by seed
        pairs = zip(runs[side], runs[first], strict=True)
        summary[f"{side} / {first}"] = spread([o["words_per_second"] / f["words_per_second"] for o, f in pairs])
    for side, results in runs.items():
        keys = [k for k in ("words_per_second", "ws353", "simlex", "analogies") if k in results[0]]
        summary[side] = {key: spread([r[key] for r in results]) for key in keys}
    report = {
        "machine": machine("gensim"),
        "settings": shape,
        "summary": summary,
        "runs": runs,
    }
    if args.out:
        args.out.parent.mkdir(parents=True, exist_ok=True)
        args.out.write_text(json.dumps(report, indent=1) + "\n")
    print(json.dumps(summary, indent=1))


if __name__ == "__main__":
    main()
