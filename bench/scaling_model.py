"""A model of training with several processes: what a turn costs, where the time goes, which interval is best.

    python bench/scaling_model.py                         # the tables of docs/scaling.md
    python bench/scaling_model.py measure --corpus TEXT   # 1, 2 and 4 local processes beside the model

A turn (see `w2v_ext.distributed`): each of R ranks trains on S words at `words_per_second`, then tiers of rows are
exchanged by a ring all-reduce, which sends 2 (R - 1) / R of the payload from each rank over its link, while the ranks
also read and write the rows in their own memory (`PASSES` times). An exchange overlaps the next turn as far as
`overlap` says: on GPUs the network works beside the kernels, on a machine whose cores all train nothing is beside.

    turn = max(compute, network) + (1 - overlap) * min(compute, network) + memory

The model knows nothing of quality. What staleness costs is measured (docs/distributed.md); `MOST_STALE_WORDS` is as far
as that was tried, and intervals beyond it are not offered.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path

from w2v_ext.distributed import tier_bounds

PASSES = 8  # times that a float of an exchanged row is read or written in memory: delta, copy, sum, base, rows
MOST_STALE_WORDS = 1 << 22  # of all ranks between two exchanges of the rarest rows, at which quality was measured


@dataclass(frozen=True)
class Machine:
    """One rank's share of a machine; the source of each number stands where it is made."""

    name: str
    words_per_second: float  # raw words, of one rank alone at dim 100
    memory_bandwidth: float  # bytes per second that one rank gets
    memory: float  # bytes
    link: float  # bytes per second from one rank to the next
    latency: float  # seconds per step of the ring
    overlap: float  # share of the exchange that runs beside the training


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
    efficiency: float  # against ranks times one rank alone
    bytes_per_word: float  # that a rank sends, per word that it trains on
    hours: float
    fits: bool  # the tables twice, and an exchange, in the memory of a rank


def payload_per_turn(vocab: int, dim: int) -> float:
    """Bytes of the rows of both tables that a rank puts into exchanges, on average over turns."""
    return sum(2 * 4 * dim * (last - first) / period for first, last, period in tier_bounds(vocab))


def steps_per_turn(vocab: int) -> float:
    """Exchanges that are started, on average over turns."""
    return sum(2 / period for *_, period in tier_bounds(vocab))


def predict(machine: Machine, run: Run, ranks: int, sync_every: int) -> Prediction:
    """What a run takes on so many ranks, each with `sync_every` words between two exchanges."""
    payload = payload_per_turn(run.vocab, run.dim) if ranks > 1 else 0.0
    rate = machine.words_per_second * 100 / run.dim  # arithmetic and memory traffic both go with dim
    compute = sync_every / rate
    sent = 2 * (ranks - 1) / ranks * payload
    network = sent / machine.link + (2 * (ranks - 1) * machine.latency * steps_per_turn(run.vocab) if ranks > 1 else 0)
    memory = PASSES * payload / machine.memory_bandwidth
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
        fits=4 * 2 * 4 * run.dim * run.vocab <= machine.memory,
    )


def best_interval(machine: Machine, run: Run, ranks: int, wanted: float = 0.95) -> int:
    """The shortest interval (fresh rows are better) with that efficiency; or the longest that quality was tried at."""
    longest = max(1024, MOST_STALE_WORDS // (64 * ranks))
    interval = 1024
    while interval < longest and predict(machine, run, ranks, interval).efficiency < wanted:
        interval *= 2
    return min(interval, longest)


def breaks_first(machine: Machine, run: Run, ranks: int) -> str:
    """What bounds the run: ``memory`` that does not suffice, ``network``, ``exchange`` in memory, or ``compute``."""
    prediction = predict(machine, run, ranks, best_interval(machine, run, ranks))
    if not prediction.fits:
        return "memory"
    if prediction.efficiency >= 0.9:
        return "compute"
    return "network" if prediction.network > prediction.memory else "exchange"


# NVLink: 450 GB/s each way in the data sheet of an H100 or H200; 3.35 TB/s and 80 GB are the H100's. InfiniBand NDR: 50
# GB/s. The kernel's rate is the goal it was written for: NO GPU HAS RUN IT YET.
GPU = Machine("GPU of 80 GB, NVLink", 200e6, 3.35e12, 80e9, 450e9, 5e-6, 1.0)
CLUSTER = replace(GPU, name="GPUs of 80 GB, one to a node, 50 GB/s", link=50e9, latency=10e-6)
VOCAB = {1e8: 100_000, 1e9: 300_000, 1e10: 1_000_000, 1e11: 5_000_000, 1e12: 20_000_000}  # about 10 x words ** 0.55


def tables() -> list[str]:
    """The tables of docs/scaling.md."""
    lines = []
    for machine in (GPU, CLUSTER):
        lines += [
            f"**{machine.name}**, dim 300, 5 epochs:",
            "",
            "| words (vocabulary) | ranks | best `--sync-every` | M words/s | efficiency | bytes/word | hours | bound |",
            "|---|---|---|---|---|---|---|---|",
        ]
        for words, vocab in VOCAB.items():
            run = Run(words, vocab, dim=300, epochs=5)
            for ranks in (1, 8, 64):
                interval = best_interval(machine, run, ranks)
                p = predict(machine, run, ranks, interval)
                lines.append(
                    f"| {words:.0e} ({vocab:,}) | {ranks} | {interval if ranks > 1 else '-'} | "
                    f"{p.words_per_second / 1e6:,.0f} | {p.efficiency:.0%} | {p.bytes_per_word:.3g} | {p.hours:.3g} | "
                    f"{breaks_first(machine, run, ranks)} |"
                )
        lines.append("")
    return lines


# ---- beside measurement ------------------------------------------------------------------------------------------


def run_ranks(corpus: str, ranks: int, epochs: int, out: str) -> dict:
    """Train with so many processes of one thread; the metrics."""
    command = ["-m", "w2v_ext.train", "--corpus", corpus, "--out", out, "--device", "cpu"]
    command += ["--epochs", str(epochs), "--threads", "1"]
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(ranks)] if ranks > 1 else []
    subprocess.run([sys.executable, *launcher, *command], check=True, stdout=subprocess.DEVNULL)
    return json.loads((Path(out) / "metrics.json").read_text())


def local_machine(one: dict, ranks: int, link: float, bandwidth: float) -> Machine:
    """This machine as each of so many ranks has it: cores are shared, and nothing runs beside the training."""
    cores = len(os.sched_getaffinity(0))
    share = min(1.0, cores / ranks)
    rate = one["raw_words_per_second"] * share
    return Machine("here", rate, bandwidth * share, 1e12, link * share, 30e-6, 0.0)


def measure(corpus: str, rounds: int, epochs: int, link: float, bandwidth: float) -> dict:
    """Rates of 1, 2 and 4 processes in turns, and what the model says from the rate of one."""
    rates: dict[int, list[float]] = {1: [], 2: [], 4: []}
    metrics: dict[int, dict] = {}
    with tempfile.TemporaryDirectory() as folder:
        for _ in range(rounds):
            for ranks, found in rates.items():
                metrics[ranks] = run_ranks(corpus, ranks, epochs, f"{folder}/m")
                found.append(metrics[ranks]["raw_words_per_second"])
    report: dict = {"rounds": rounds, "rates": rates}
    one = {"raw_words_per_second": sorted(rates[1])[len(rates[1]) // 2]}
    for ranks in (2, 4):
        run = Run(metrics[1]["raw_words"], metrics[1]["vocab_size"], epochs=epochs)
        guess = predict(local_machine(one, ranks, link, bandwidth), run, ranks, metrics[ranks]["sync_every"])
        median = sorted(rates[ranks])[rounds // 2]
        report[ranks] = {
            "measured": median,
            "predicted": guess.words_per_second,
            "ratio": guess.words_per_second / median,
            "bytes_per_word": metrics[ranks]["exchanged_bytes_per_rank"] * ranks / run.words / epochs,
        }
    return report


def main() -> None:
    """Print the tables, or measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("action", nargs="?", choices=["tables", "measure"], default="tables")
    parser.add_argument("--corpus")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--link", type=float, default=1.0e9, help="bytes/s that gloo moves between two local ranks")
    parser.add_argument("--bandwidth", type=float, default=8e9, help="bytes/s of one core's copies in memory")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    if args.action == "tables":
        print("\n".join(tables()))
        return
    if not args.corpus:
        parser.error("measure: --corpus is missing")
    report = measure(args.corpus, args.rounds, args.epochs, args.link, args.bandwidth)
    print(json.dumps(report, indent=1))
    if args.out:
        args.out.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
