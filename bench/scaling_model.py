"""A model of training with several processes: what a turn costs, which interval is best, and what breaks first.

    python bench/scaling_model.py                 # the tables of docs/scaling.md
    python bench/scaling_model.py measure --ranks-json bench/results/ranks-cpu.json --out OUT.json

A turn (see `w2v_ext.distributed`): each of R ranks trains on S words, then tiers of rows are exchanged:

    turn = max(compute, network) + (1 - overlap) * min(compute, network) + memory

compute = S / rate; network = bytes sent / link + steps * latency; memory = bytes read and written
for each number exchanged / bandwidth. On a machine whose cores all train, nothing runs beside the training (overlap 0) and network and memory are one measured
time: `measure` takes it from exchanges between ranks that do not train, and adds it to the rate of one rank alone.

The model knows nothing of quality. Staleness, the words that all ranks train on between two exchanges of a row, was
tried with 49,192 words only (docs/distributed.md); `MOST_STALE` is as far as that went, per word of the vocabulary.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from dataclasses import dataclass, replace
from pathlib import Path

from w2v_ext.distributed import FIRST_TIER, GATHERED, LONGEST_PERIOD, PERIOD_GROWTH, TIER_GROWTH

TRIED_VOCAB = 49_192
MOST_STALE = 2 * 43_516 * 64 / TRIED_VOCAB  # words between two exchanges of the rarest rows, per row of a table


@dataclass(frozen=True)
class Machine:
    """One rank's share of a machine; where the numbers are made stands where each is from."""

    name: str
    words_per_second: float  # raw words, of one rank alone at dim 100
    memory_bandwidth: float  # bytes per second
    memory: float  # bytes
    link: float  # bytes per second that a rank sends
    latency: float  # seconds per step of an exchange
    overlap: float  # share of an exchange that runs beside the training
    fused: bool = False  # rows are given and taken by the CPU's kernels, one pass each, from memory in common


@dataclass(frozen=True)
class Run:
    """What is trained."""

    words: float
    vocab: int
    dim: int = 100
    epochs: int = 1


@dataclass(frozen=True)
class Prediction:
    """Seconds of a turn by where they go, and what follows."""

    compute: float
    network: float
    memory: float
    turn: float
    words_per_second: float  # of all ranks
    efficiency: float  # against as many times one rank alone
    bytes_per_word: float  # that a rank sends, per word that it trains on
    hours: float
    table_bytes: float  # that a rank holds


def tail_period(vocab: int) -> int:
    """Turns between two exchanges of the rarest rows: it may grow with the vocabulary, as they are met more rarely."""
    period = LONGEST_PERIOD
    while 2 * period * TRIED_VOCAB <= LONGEST_PERIOD * vocab:
        period *= 2
    return period


def floats_per_turn(run: Run) -> float:
    """Floats of both tables that a rank gives away in a turn, on average."""
    total, first, last, period = 0.0, 0, FIRST_TIER, 1
    longest = tail_period(run.vocab)
    while first < run.vocab:
        last = run.vocab if period >= longest else min(last, run.vocab)
        total += 2 * run.dim * (last - first) / period
        first, last, period = last, last * TIER_GROWTH, min(period * PERIOD_GROWTH, longest)
    return total


def sent_bytes(floats: float, ranks: int) -> float:
    """Bytes that a rank sends: bfloat16 to each other rank, or float32 around a ring."""
    if ranks <= GATHERED:
        return 2 * floats * (ranks - 1)
    return 4 * floats * 2 * (ranks - 1) / ranks


def touched_bytes(ranks: int, fused: bool) -> int:
    """Bytes read and written for each number of an exchange, by `w2v_ext.exchange`, one operation after the other."""
    if fused and ranks <= GATHERED:
        return 10 + 16 + 2 * ranks  # give_rows_: rows, base, move; take_rows_: rows and base twice, everybody's moves
    give, add = 12, 12 + 10 + 12  # rows - base; base +=, move - given, rows +=
    if ranks > GATHERED:
        return give + 8 + 8 + 4 + 12 + add + 2  # two copies, lengths; shortening; given is float32 here
    shorten = 2 * ranks + 12 if ranks > 2 else 0
    return give + 6 + 6 * ranks + 4 * ranks + 4 + shorten + add  # to bfloat16; everybody's to float32, their sum


def copies(ranks: int, fused: bool) -> float:
    """Memory of a rank at its fullest, in float32 copies of both tables: they, their base, what an exchange needs.

    On one machine with memory in common (`fused`) the ranks share two bfloat16 buffers for each of them. Elsewhere
    GatheredRows and SummedRows make float32 temporaries of a piece, and on GPUs a piece is up to a whole table.
    """
    if ranks == 1:
        return 1
    if ranks > GATHERED:
        return 2 + 2 + 0.5  # given and the sum; move - given
    if fused:
        return 2 + 1
    return 2 + 0.5 * ranks + 0.5 * (ranks + 1)  # bfloat16 from each; moves.float() and its sum


def predict(machine: Machine, run: Run, ranks: int, sync_every: float) -> Prediction:
    """What a run takes on so many ranks, each with `sync_every` words between two exchanges."""
    floats = floats_per_turn(run) if ranks > 1 else 0.0
    rate = machine.words_per_second * 100 / run.dim  # arithmetic and memory traffic both go with dim
    compute, sent = sync_every / rate, sent_bytes(floats, ranks)
    network = sent / machine.link + (2 * (ranks - 1) * machine.latency if ranks > 1 else 0)
    memory = touched_bytes(ranks, machine.fused) * floats / machine.memory_bandwidth
    turn = max(compute, network) + (1 - machine.overlap) * min(compute, network) + memory
    words_per_second = ranks * sync_every / turn
    return Prediction(
        compute=compute,
        network=network,
        memory=memory,
        turn=turn,
        words_per_second=words_per_second,
        efficiency=words_per_second / (ranks * rate),
        bytes_per_word=sent / sync_every,
        hours=run.words * run.epochs / words_per_second / 3600,
        table_bytes=copies(ranks, machine.fused) * 2 * 4 * run.dim * run.vocab,
    )


def longest_interval(run: Run, ranks: int) -> int:
    """Words of a rank in a turn beyond which the rarest rows are staler than was tried."""
    return max(1024, int(MOST_STALE * run.vocab / (ranks * tail_period(run.vocab))))


def best_interval(machine: Machine, run: Run, ranks: int, wanted: float = 0.95) -> int:
    """The shortest interval (fresh rows are better) with that efficiency, or else the longest that was tried."""
    interval, longest = 1024, longest_interval(run, ranks)
    while interval < longest and predict(machine, run, ranks, interval).efficiency < wanted:
        interval *= 2
    return min(interval, longest)


def breaks_first(machine: Machine, run: Run, ranks: int) -> str:
    """What bounds the run: tables that do not fit, network, exchanges in memory, or nothing but compute."""
    prediction = predict(machine, run, ranks, best_interval(machine, run, ranks))
    if prediction.table_bytes > machine.memory:
        return "tables"
    if prediction.efficiency >= 0.9 or ranks == 1:
        return "compute"
    return "network" if prediction.network > prediction.memory else "exchange"


# DATA SHEETS AND ASSUMPTIONS, nothing measured: an H100 with 80 GB at 3.35 TB/s, NVLink 450 GB/s each way, InfiniBand
# NDR 50 GB/s; 50 M words/s is a round number for the rate of a kernel, not a figure of this library.
GPU = Machine("GPUs of 80 GB in one machine, NVLink", 50e6, 3.35e12, 80e9, 450e9, 5e-6, 1.0)
CLUSTER = replace(GPU, name="GPUs of 80 GB, one to a machine, 50 GB/s", link=50e9, latency=10e-6)
ETHERNET = replace(
    GPU, name="GPUs of 80 GB, one to a machine, 1.25 GB/s (10 Gbit Ethernet)", link=1.25e9, latency=50e-6
)
VOCAB = {1e8: 100_000, 1e9: 300_000, 1e10: 1_000_000, 1e11: 5_000_000, 1e12: 20_000_000}  # about 5 x words ** 0.55
RANKS = {GPU: (1, 2, 8), CLUSTER: (8, 64), ETHERNET: (8, 64)}


def tables() -> list[str]:
    """The tables of docs/scaling.md."""
    lines = []
    for machine, counts in RANKS.items():
        lines += [
            f"**{machine.name}**, dim 300, 5 epochs:",
            "",
            "| words (vocabulary) | ranks | interval | M words/s | efficiency | bytes/word | hours | GB | bound |",
            "|---|---|---|---|---|---|---|---|---|",
        ]
        for words, vocab in VOCAB.items():
            run = Run(words, vocab, dim=300, epochs=5)
            for ranks in counts:
                interval = best_interval(machine, run, ranks)
                p = predict(machine, run, ranks, interval)
                lines.append(
                    f"| {words:.0e} ({vocab:,}) | {ranks} | {f'{interval:,}' if ranks > 1 else '-'} | "
                    f"{p.words_per_second / 1e6:,.0f} | {p.efficiency:.0%} | {p.bytes_per_word:.3g} | {p.hours:.3g} | "
                    f"{p.table_bytes / 1e9:.3g} | {breaks_first(machine, run, ranks)} |"
                )
        lines.append("")
    return lines


# ---- beside measurement ------------------------------------------------------------------------------------------

EXCHANGES = """
import json, sys, time, torch
from w2v_ext import distributed
from w2v_ext.methods import Method

class Idle(Method):
    def __init__(self, vocab, dim):
        self.weights = {name: torch.zeros(vocab, dim) for name in ("in_weight", "out_weight")}
        self.length = 1 << 40

    def train(self, epoch, begin, end):
        return 0.0, 0, 0

torch.set_num_threads(1)
vocab, dim = int(sys.argv[1]), int(sys.argv[2])
with distributed.process_group():
    ranks = distributed.Ranks(Idle(vocab, dim), sync_every=1)
    seconds = []
    for _ in range(4):
        start = time.perf_counter()
        for begin in range(0, 64 * ranks.ranks, ranks.part):
            ranks.train(0, begin, begin + ranks.part)
            ranks.agree(False, False)
        seconds.append((time.perf_counter() - start) / 64)
    start = time.perf_counter()
    ranks.settle()
    settle = time.perf_counter() - start
    if ranks.rank == 0:
        print(json.dumps({"turn": sorted(seconds[1:])[1], "settle": settle}))
"""


def exchange_seconds(ranks: int, vocab: int, dim: int) -> dict:
    """Seconds of an average turn, and of settling, of local ranks that exchange and do not train."""
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(ranks), "--no-python"]
    command = [sys.executable, *launcher, sys.executable, "-c", EXCHANGES, str(vocab), str(dim)]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    return json.loads(done.stdout.splitlines()[-1])


def local_rate(alone: float, ranks: int, words: int, sync_every: int, exchange: dict, cores: int) -> float:
    """Raw words per second of so many local ranks in an epoch, from the rate of one alone and exchanges alone."""
    if ranks == 1:
        return alone
    compute = words / (alone * min(ranks, cores))
    return words / (compute + words / (ranks * sync_every) * exchange["turn"] + exchange["settle"])


def measure(ranks_json: Path, dim: int) -> dict:
    """The model's rates of local ranks beside those that bench/ranks.py has measured."""
    measured, cores = json.loads(ranks_json.read_text()), len(os.sched_getaffinity(0))
    alone = measured["summary"]["1x1"]["words_per_second"]["median"]
    report: dict = {"machine": measured["machine"], "alone": alone, "ranks": {}}
    for side in ("1x1", "2x1", "4x1"):
        ranks, run = int(side[0]), measured["runs"][side][0]
        exchange = exchange_seconds(ranks, run["vocab_size"], dim) if ranks > 1 else {}
        guess = local_rate(alone, ranks, run["raw_words"], run["sync_every"], exchange, cores)
        found = measured["summary"][side]["words_per_second"]["median"]
        report["ranks"][ranks] = {"measured": found, "predicted": guess, "ratio": guess / found, "exchange": exchange}
    return report


def main() -> None:
    """Print the tables, or measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("action", nargs="?", choices=["tables", "measure"], default="tables")
    parser.add_argument("--ranks-json", type=Path, help="what bench/ranks.py --sides 1x2 2x1 1x1 4x1 wrote")
    parser.add_argument("--dim", type=int, default=100)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    if args.action == "tables":
        print("\n".join(tables()))
        return
    if not args.ranks_json:
        parser.error("measure: --ranks-json is missing")
    report = measure(args.ranks_json, args.dim)
    print(json.dumps(report, indent=1))
    if args.out:
        args.out.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
