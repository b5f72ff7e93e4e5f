"""The model of docs/scaling.md beside measurement, for ranks on one machine.

    python bench/scaling_measure.py --ranks-json bench/results/ranks-cpu.json --out bench/results/scaling-model.json

The model gets three measured numbers: the rate of one rank alone; the seconds of an exchange of two ranks that do not
train; and, of such an exchange, the share that goes into adding up what the other rank gave, by the kernels in one
process. An exchange of four ranks, and the rates of two and of four, are predicted.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

import torch
from measuring import machine
from scaling_model import Machine, Run, floats_per_turn, predict, touched_bytes

from w2v_ext import exchange
from w2v_ext.distributed import LONGEST_PERIOD, tier_bounds

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


def kernel_seconds(ranks: int, tables: list[tuple[torch.Tensor, torch.Tensor, torch.Tensor]]) -> float:
    """CPU seconds of one thread that gives and takes rows, in the mixture of tiers of 64 turns."""
    start = time.process_time()
    for turn in range(1, LONGEST_PERIOD + 1):
        places = [slice(first, last) for first, last, period in tier_bounds(len(tables[0][0])) if turn % period == 0]
        due = [(rows[place], base[place], moves[:ranks, place]) for place in places for rows, base, moves in tables]
        for rows, base, moves in due:
            exchange.give_rows_(moves, rows, base, 0)
        for rows, base, moves in due:
            exchange.take_rows_(rows, base, moves, 0, 0)
    return time.process_time() - start


def share_of_sums(vocab: int, dim: int, tries: int = 40) -> dict:
    """Which part of an exchange of two ranks is beside what its bytes take, from 1 and 2 ranks' moves, in turns."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    tables = [(torch.zeros(vocab, dim), torch.zeros(vocab, dim), torch.zeros(2, vocab, dim).bfloat16()) for _ in "io"]
    kernel_seconds(2, tables)
    ratios = [kernel_seconds(1, tables) / kernel_seconds(2, tables) for _ in range(tries)]
    torch.set_num_threads(threads)
    more_bytes = touched_bytes(2, fused=True) / touched_bytes(1, fused=True)
    shares = sorted(1 - more_bytes * ratio for ratio in ratios)
    quarter = tries // 4
    return {
        "machine": machine(),
        "load": os.getloadavg()[0],
        "share": statistics.median(shares),
        "quartiles": [shares[quarter], shares[-quarter - 1]],
    }


def constants(turn: float, share: float, run: Run) -> dict:
    """A core's bandwidth, and the seconds of a sum, from the seconds of a turn of two ranks that exchange only."""
    each = turn / floats_per_turn(run)
    return {"memory_bandwidth": touched_bytes(2, fused=True) / (1 - share) / each, "sum_seconds": share * each}


def local_machine(constants: dict, alone: float, dim: int, cores: int) -> Machine:
    """A CPU whose ranks have memory in common: nothing is sent, and nothing runs beside the training."""
    return Machine(
        "ranks on one machine",
        ((dim, alone),),
        memory_bandwidth=constants["memory_bandwidth"],
        memory=math.inf,
        link=math.inf,
        latency=0.0,
        overlap=0.0,
        fused=True,
        sum_seconds=constants["sum_seconds"],
        cores=cores,
    )


def compare(constants: dict, measured: dict, exchanges: dict) -> dict:
    """What the model says of local ranks beside what bench/ranks.py has measured, for each number of ranks."""
    summary, dim, cores = measured["summary"], measured["settings"]["dim"], measured["machine"]["cores"]
    here = local_machine(constants, summary["1x1"]["words_per_second"]["median"], dim, cores)
    report = {}
    for side in ("1x1", "2x1", "4x1"):
        first, found = measured["runs"][side][0], summary[side]["words_per_second"]["median"]
        ranks, sync_every = int(side[0]), first["sync_every"] or first["raw_words"]
        p = predict(here, Run(first["raw_words"], first["vocab_size"], dim), ranks, sync_every)
        report[str(ranks)] = {
            "sync_every": sync_every,
            "measured": found,
            "predicted": p.words_per_second,
            "ratio": p.words_per_second / found,
        }
        if ranks > 1:
            turns = first["raw_words"] / (ranks * sync_every)
            alone = exchanges[str(ranks)]
            report[str(ranks)]["exchange"] = {
                "measured": alone["turn"] + alone["settle"] / turns,
                "predicted": p.memory,
            }
    return report


def measure(ranks_json: Path, out: Path | None, again: bool) -> dict:
    """Constants and comparison. Exchanges alone are measured only `again`, or where OUT has none."""
    measured = json.loads(ranks_json.read_text())
    vocab, dim = measured["runs"]["2x1"][0]["vocab_size"], measured["settings"]["dim"]
    if out and out.exists() and not again:
        exchanges = json.loads(out.read_text())["exchanges"]
    else:
        exchanges = {"machine": machine(), **{str(ranks): exchange_seconds(ranks, vocab, dim) for ranks in (2, 4)}}
    sums = share_of_sums(vocab, dim)
    found = constants(exchanges["2"]["turn"], sums["share"], Run(math.inf, vocab, dim))
    ranks = compare(found, measured, exchanges)
    return {"sums": sums, "exchanges": exchanges, "constants": found, "machine": measured["machine"], "ranks": ranks}


def main() -> None:
    """Measure, and print and write what was found."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--ranks-json", type=Path, required=True, help="what bench/ranks.py --sides 1x2 2x1 1x1 4x1 wrote"
    )
    parser.add_argument("--out", type=Path)
    parser.add_argument("--exchanges", action="store_true", help="measure exchanges alone, too, if OUT has some")
    args = parser.parse_args()
    report = measure(args.ranks_json, args.out, args.exchanges)
    print(json.dumps(report, indent=1))
    if args.out:
        args.out.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
