"""What --reproducible costs: raw words per second of one pass, beside the same threads without it, in turns.

    python bench/reproducible.py --corpus imdb.txt --rounds 5 --out bench/results/reproducible-cpu.json

A round trains one pass on every side, one after the other, in one process; an idle machine, please. The quality of the
vectors is measured apart (``bench/README.md``).
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from compare_trainers import SETTINGS, machine, spread

from w2v_ext import CorpusOptions, TrainConfig, Trainer, prepare_corpus

SIDES = {
    "2 threads": {"threads": 2},
    "2 threads, 4 workers": {"threads": 2, "reproducible": 4},
    "2 threads, 8 workers": {"threads": 2, "reproducible": 8},
    "1 thread": {"threads": 1},
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--corpus", required=True)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--sides", nargs="+", choices=SIDES, default=list(SIDES))
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()

    corpus = prepare_corpus(args.corpus, CorpusOptions(min_count=SETTINGS["min_count"]))
    rates: dict[str, list[float]] = {side: [] for side in args.sides}
    for _ in range(args.rounds):
        for side in args.sides:
            trainer = Trainer(corpus, TrainConfig(**SETTINGS, epochs=1, device="cpu", **SIDES[side])).fit()
            rates[side].append(trainer.metrics()["raw_words_per_second"])
            print(f"{side:22} {rates[side][-1] / 1e6:6.2f}", flush=True)
    for side, of_side in rates.items():
        ratios = spread([mine / base for mine, base in zip(of_side, rates[args.sides[0]], strict=True)])
        print(f"{side:22} {spread(of_side)['median'] / 1e6:6.2f} M words/s  {ratios['median']:.2f}", flush=True)
    if args.out:
        words = {"corpus_words": corpus.num_tokens, "vocab_size": len(corpus.vocab)}
        result = {"machine": machine(), "settings": SETTINGS | words, "raw_words_per_second": rates}
        args.out.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
