"""GloVe: words counted per second, nonzeros trained per second and what bounds them, the quality of the vectors.

There is no maintained GloVe on PyPI to compare with. Beside the blocks stands the same kernel over cells in one random
order, which is how GloVe is usually trained: what the blocks gain, and what they cost in quality.

    python bench/glove.py --corpus imdb.txt --eval-dir EVAL --out bench/results/glove-cpu.json
    python bench/glove.py ... --part counting|training|quality    # one part, added to the file
"""

import argparse
import json
import statistics
import time
from pathlib import Path

import numpy as np
import torch
from measuring import machine, spread

import w2v_ext
from w2v_ext import Trainer, evaluate
from w2v_ext.cooccurrence import count_cooccurrences
from w2v_ext.methods import glove

FILES = {"ws353": "EN-WS-353-ALL.txt", "simlex": "EN-SIMLEX-999.txt"}


def in_random_order():
    """One tile: all cells are one shuffled block."""
    glove._TILE_BYTES, glove._LEAST_TILES, glove._TILE_CELLS = 1 << 60, 1, 1 << 60


def read_and_write_gib(threads=2, size=1 << 27, rounds=5):
    """GiB/s of a float32 array much larger than L2, read and written."""
    torch.set_num_threads(threads)
    x = torch.zeros(size)
    seconds = []
    for _ in range(rounds):
        started = time.perf_counter()
        x.add_(1)
        seconds.append(time.perf_counter() - started)
    return 8 * size / 2**30 / min(seconds)


def bench_counting(corpus, line):
    rows = []
    for threads, window, memory in ((1, 10, 1 << 30), (2, 10, 1 << 30), (2, 15, 1 << 30), (2, 10, 1 << 26)):
        rates, found = [], None
        for _ in range(line.rounds):
            started = time.perf_counter()
            with count_cooccurrences(corpus, window=window, memory=memory, threads=threads) as counts:
                rates.append(corpus.num_tokens / (time.perf_counter() - started))
                found = {"nonzeros": counts.nnz, "spilled_bytes": counts.spilled_bytes, "runs": counts.runs}
        rows.append(
            {"threads": threads, "window": window, "memory": memory, **found, "words_per_second": spread(rates)}
        )
        print(rows[-1], flush=True)
    return rows


def bench_training(corpus, line):
    rows = []
    for threads, random in ((1, False), (2, False), (1, True)):
        saved = glove._TILE_BYTES, glove._LEAST_TILES, glove._TILE_CELLS
        if random:
            in_random_order()
        config = w2v_ext.TrainConfig.for_model("glove", dim=line.dim, threads=threads)
        method = glove.Glove(corpus, config)
        most = method.length if not random else method.length // 4
        rates = []
        for epoch in range(line.rounds):
            started = time.perf_counter()
            _, nonzeros, _ = method.train(epoch, 0, most)
            rates.append(nonzeros / (time.perf_counter() - started))
        padded = -(-line.dim // 16) * 16
        # A nonzero reads and writes w and c of its words with AdaGrad's sums, and reads half a cell. In blocks, a row
        # is read and written once per block instead.
        bytes_alone = 2 * 4 * 4 * padded + 8
        blocks = np.count_nonzero(method._sizes)
        words = len(corpus.vocab) / method._num_tiles
        bytes_in_blocks = 2 * blocks * 2 * words * 16 * padded / method.nonzeros + 8
        rows.append(
            {
                "threads": threads,
                "order": "random" if random else "blocks",
                "tiles": method._num_tiles,
                "nonzeros": method.nonzeros,
                "nonzeros_per_second": spread(rates),
                "bytes_per_nonzero": bytes_alone if random else bytes_in_blocks,
                "gib_per_second": statistics.median(rates) * (bytes_alone if random else bytes_in_blocks) / 2**30,
            }
        )
        glove._TILE_BYTES, glove._LEAST_TILES, glove._TILE_CELLS = saved
        print(rows[-1], flush=True)
    return rows


def score(vectors, folder):
    found = {
        name: evaluate.evaluate_word_pairs(vectors, folder / file).spearman.statistic for name, file in FILES.items()
    }
    return {**found, "analogies": evaluate.evaluate_word_analogies(vectors, folder / "questions-words.txt").accuracy}


def bench_quality(corpus, line):
    if line.random_order:
        in_random_order()
    config = w2v_ext.TrainConfig.for_model(
        "glove", dim=line.dim, epochs=line.epochs, x_max=line.x_max, seed=line.seed, window=line.window
    )
    trainer = Trainer(corpus, config).fit()
    found = score(trainer.keyed_vectors(), Path(line.eval_dir))
    settings = {name: getattr(config, name) for name in ("dim", "window", "epochs", "x_max", "alpha", "lr", "seed")}
    order = "random" if line.random_order else "blocks"
    return [{**settings, "order": order, "loss": trainer.state.losses[-1], **found}]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--corpus", required=True)
    parser.add_argument("--eval-dir")
    parser.add_argument("--out", required=True)
    parser.add_argument("--part", choices=("counting", "training", "quality"))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--dim", type=int, default=100)
    parser.add_argument("--window", type=int, default=10)
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--x-max", type=float, default=10.0)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--random-order", action="store_true", help="quality: train on cells in one random order")
    line = parser.parse_args()
    corpus = w2v_ext.prepare_corpus(line.corpus)
    out = Path(line.out)
    result = json.loads(out.read_text()) if out.exists() else {}
    result.update(machine=machine(), words=corpus.num_tokens, vocab_size=len(corpus.vocab))
    parts = {"counting": bench_counting, "training": bench_training, "quality": bench_quality}
    for name, part in parts.items():
        if line.part not in (None, name):
            continue
        if name == "training":
            result["read_and_write_gib_per_second"] = read_and_write_gib()
        found = part(corpus, line)
        result[name] = result.get(name, []) + found if name == "quality" else found
        out.write_text(json.dumps(result, indent=1) + "\n")
        print(found if name == "quality" else "", flush=True)


if __name__ == "__main__":
    main()
