"""One launch of each epoch kernel between the profiler's start and stop, for gpu_suite.sh's stage `profile`.

ncu --profile-from-start off python bench/gpu_profile.py --data DIR
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from gpu_common import DEVICE, ON_GPU, SETTINGS, open_corpus

import w2v_ext

MANY = 16  # times the default number of sentences in flight
CASES: tuple[dict, ...] = (
    {"dim": 100},
    {"dim": 100, "many": True},
    {"dim": 300},
    {"dim": 100, "model": "cbow"},
    {"dim": 100, "loss": "hs"},
    {"dim": 100, "model": "fasttext"},
)


def profile(corpus: w2v_ext.Corpus, ids: int, many: bool = False, **changes: object) -> None:
    """Train twice on as many ids; the second time is profiled."""
    settings = {"device": DEVICE.type, **SETTINGS, **changes}
    trainer = w2v_ext.Trainer(corpus, w2v_ext.TrainConfig(**settings))
    if many and ON_GPU:
        flight = MANY * trainer.method.sentences_in_flight
        trainer = w2v_ext.Trainer(corpus, w2v_ext.TrainConfig(**settings, sentences_in_flight=flight))
    ids = min(ids, trainer.method.length // 2)
    trainer.method.train(0, 0, ids)
    if ON_GPU:
        torch.cuda.profiler.start()
    found = trainer.method.train(0, ids, 2 * ids)
    if ON_GPU:
        torch.cuda.profiler.stop()
    print(changes, "many" if many else "", trainer.where, found, flush=True)


def main() -> None:
    """Run all cases."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("data"))
    parser.add_argument("--first", type=int, default=len(CASES), help="only so many of the cases")
    parser.add_argument("--dry-run", action="store_true")
    args = parser.parse_args()
    corpus = open_corpus(args.dry_run, args.data)
    for case in CASES[: args.first]:
        profile(corpus, 10_000 if args.dry_run else 2_000_000, **case)


if __name__ == "__main__":
    main()
