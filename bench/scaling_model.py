"""A model of training with several processes: what a turn costs, which interval is best, and what breaks first.

    python bench/scaling_model.py     # the tables of docs/scaling.md; bench/scaling_measure.py: beside measurement

A turn (see `w2v_ext.distributed`): each of R ranks trains on S words, then tiers of rows are exchanged:

    turn = max(compute, network) + (1 - overlap) * min(compute, network) + memory

compute = S / rate; network = bytes sent / link + steps * latency; memory = numbers exchanged * (bytes read and written
for each / bandwidth + time to add up what the others gave) + operations * launch. Ranks that share fewer cores than
they are take as much longer over compute and memory. `predict` says this of GPUs and of ranks on one CPU alike: a
Machine is all that differs.

The model knows nothing of quality. Staleness, the words that all ranks train on between two exchanges of a row, was
tried with 49,192 words only (docs/distributed.md); `MOST_STALE` is as far as that went, per word of the vocabulary.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from w2v_ext.distributed import FIRST_TIER, GATHERED, LONGEST_PERIOD, PERIOD_GROWTH, TIER_GROWTH

TRIED_VOCAB = 49_192
MOST_STALE = 2 * 43_516 * 64 / TRIED_VOCAB  # words between two exchanges of the rarest rows, per row of a table


@dataclass(frozen=True)
class Machine:
    """One rank's share of a machine; where the numbers are made stands where each is from."""

    name: str
    rates: tuple[tuple[int, float], ...]  # (dim, raw words per second of one rank alone) for one or two dimensions
    memory_bandwidth: float  # bytes per second
    memory: float  # bytes
    link: float  # bytes per second that a rank sends
    latency: float  # seconds per step of an exchange
    overlap: float  # share of an exchange that runs beside the training
    launch: float = 0.0  # seconds per operation on a piece of rows
    fused: bool = False  # rows are given and taken by the CPU's kernels, one pass each
    sum_seconds: float = 0.0  # that adding up takes for a number of each other rank, beside what its bytes take
    cores: float = math.inf  # that all ranks share; infinity: each has its own

    def rate(self, dim: int) -> float:
        """Raw words per second of one rank alone: the seconds of a word are a line through what was measured."""
        (low, fast), (high, slow) = self.rates if len(self.rates) == 2 else ((0, math.inf), *self.rates)
        return 1 / (1 / fast + (1 / slow - 1 / fast) * (dim - low) / (high - low))


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
    latency: float  # of that
    memory: float
    turn: float
    words_per_second: float  # of all ranks
    efficiency: float  # against one rank alone, times ranks or cores
    bytes_per_word: float  # that a rank sends, per word that it trains on
    hours: float
    table_bytes: float  # that a rank holds


def tail_period(vocab: int) -> int:
    """Turns between two exchanges of the rarest rows: it may grow with the vocabulary, as they are met more rarely."""
    period = LONGEST_PERIOD
    while 2 * period * TRIED_VOCAB <= LONGEST_PERIOD * vocab:
        period *= 2
    return period


def tiers(run: Run) -> list[tuple[int, int]]:
    """Rows and period in turns of each tier of a table: `w2v_ext.distributed.tier_bounds` with that last period."""
    found, first, last, period, longest = [], 0, FIRST_TIER, 1, tail_period(run.vocab)
    while first < run.vocab:
        last = run.vocab if period >= longest else min(last, run.vocab)
        found.append((last - first, period))
        first, last, period = last, last * TIER_GROWTH, min(period * PERIOD_GROWTH, longest)
    return found


def floats_per_turn(run: Run) -> float:
    """Floats of both tables that a rank gives away in a turn, on average."""
    return sum(2 * run.dim * rows / period for rows, period in tiers(run))


def operations_per_turn(run: Run, ranks: int) -> float:
    """PyTorch's operations on pieces of rows in a turn, on average, where no kernel of ours does it all."""
    each = 14 if ranks > GATHERED else 13 if ranks > 2 else 7
    return sum(2 * each / period for _, period in tiers(run))


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


def copies(ranks: int, shared: bool = False) -> float:
    """Memory of a rank at its fullest, in float32 copies of both tables: they, their base, what an exchange needs.

    CPU ranks on one machine have memory in common (`shared`): two bfloat16 buffers for each of them. What a GPU needs
    for a moment beyond that, some 320 MiB whatever the tables, is left out.
    """
    if ranks == 1:
        return 1
    if shared:
        return 2 + 1
    return 2 + 2 if ranks > GATHERED else 2 + 0.5 * ranks  # the given and the sum; bfloat16 from each


def predict(machine: Machine, run: Run, ranks: int, sync_every: float) -> Prediction:
    """What a run takes on so many ranks, each with `sync_every` words between two exchanges."""
    rate, crowd = machine.rate(run.dim), max(1.0, ranks / machine.cores)
    floats = seconds = latency = 0.0
    if ranks > 1:
        settled = 2 * run.dim * run.vocab * ranks * sync_every / run.words  # at the end of an epoch: all that there is
        floats = floats_per_turn(run) + settled
        seconds = touched_bytes(ranks, machine.fused) / machine.memory_bandwidth + (ranks - 1) * machine.sum_seconds
        latency = 2 * (ranks - 1) * machine.latency
    compute, sent = crowd * sync_every / rate, sent_bytes(floats, ranks)
    network = sent / machine.link + latency
    memory = crowd * floats * seconds + machine.launch * (operations_per_turn(run, ranks) if ranks > 1 else 0)
    turn = max(compute, network) + (1 - machine.overlap) * min(compute, network) + memory
    words_per_second = ranks * sync_every / turn
    return Prediction(
        compute=compute,
        network=network,
        latency=latency,
        memory=memory,
        turn=turn,
        words_per_second=words_per_second,
        efficiency=words_per_second / (min(ranks, machine.cores) * rate),
        bytes_per_word=sent / sync_every,
        hours=run.words * run.epochs / words_per_second / 3600,
        table_bytes=copies(ranks, math.isinf(machine.link)) * 2 * 4 * run.dim * run.vocab,
    )


def longest_interval(run: Run, ranks: int) -> int:
    """Words of a rank in a turn beyond which the rarest rows are staler than was tried."""
    return max(1024, int(MOST_STALE * run.vocab / (ranks * tail_period(run.vocab))))


def asked_interval(machine: Machine, run: Run, ranks: int, wanted: float) -> int:
    """The shortest interval, of 1024 and its doubles, with that efficiency, whatever the staleness."""
    interval = 1024
    while interval * ranks < run.words and predict(machine, run, ranks, interval).efficiency < wanted:
        interval *= 2
    return interval


def best_interval(machine: Machine, run: Run, ranks: int, wanted: float = 0.95) -> int:
    """The shortest interval (fresh rows are better) with that efficiency, or else the longest that was tried."""
    return min(asked_interval(machine, run, ranks, wanted), longest_interval(run, ranks))


def breaks_first(machine: Machine, run: Run, ranks: int, wanted: float = 0.9) -> str:
    """What bounds the run, or "compute" where nothing else does and its efficiency is as wanted.

    "tables" do not fit; "staleness": the interval that the efficiency asks for was tried with 2 ranks, but so many
    together would be staler than was tried; "network", "latency" or "exchange" (in memory): the longest part of an
    exchange, which is too long even for an interval as 2 ranks may have.
    """
    prediction = predict(machine, run, ranks, best_interval(machine, run, ranks))
    if prediction.table_bytes > machine.memory:
        return "tables"
    if prediction.efficiency >= wanted or ranks == 1:
        return "compute"
    if ranks > 2 and asked_interval(machine, run, ranks, wanted) <= longest_interval(run, 2):
        return "staleness"
    parts = {
        "network": prediction.network - prediction.latency,
        "latency": prediction.latency,
        "exchange": prediction.memory,
    }
    return max(parts, key=parts.__getitem__)


# MEASURED on one H200 (bench/results/gpu-h200.json): words per second, bandwidth of a copy, memory. DATA SHEETS: NVLink
# 450 GB/s each way, InfiniBand NDR 50 GB/s. ASSUMED: latencies, 5 us an operation, and that sending hides whole.
H200 = Machine(
    "H200s in one machine, NVLink 450 GB/s",
    ((100, 250.5e6), (300, 158.0e6)),
    memory_bandwidth=4.2e12,
    memory=143_771 * 2**20,
    link=450e9,
    latency=5e-6,
    overlap=1.0,
    launch=5e-6,
)
CLUSTER = replace(H200, name="H200s, one to a machine, InfiniBand 50 GB/s", link=50e9, latency=10e-6)
ETHERNET = replace(H200, name="H200s, one to a machine, 10 Gbit Ethernet 1.25 GB/s", link=1.25e9, latency=50e-6)
VOCAB = {1e8: 100_000, 1e9: 300_000, 1e10: 1_000_000, 1e11: 5_000_000, 1e12: 20_000_000}  # about 5 x words ** 0.55
RANKS = {H200: (1, 2, 4, 8), CLUSTER: (2, 4, 8, 16, 32, 64), ETHERNET: (2, 4, 8, 16, 32, 64)}
DETAILS = [(H200, 1e9, 2), (H200, 1e9, 4), (H200, 1e9, 8), (H200, 1e12, 2)]
DETAILS += [(CLUSTER, 1e9, 8), (CLUSTER, 1e9, 64), (CLUSTER, 1e12, 64), (ETHERNET, 1e9, 8), (ETHERNET, 1e9, 64)]


def cell(machine: Machine, run: Run, ranks: int) -> str:
    """Millions of words per second, efficiency and interval, and what breaks, unless nothing does."""
    interval, bound = best_interval(machine, run, ranks), breaks_first(machine, run, ranks)
    p = predict(machine, run, ranks, interval)
    words = [f"{p.words_per_second / 1e6:,.0f}"]
    if ranks > 1:
        words += [f"{p.efficiency:.0%}", f"{interval / 1000:.3g}k"]
    return ", ".join(words) + (f", *{bound}*" if bound != "compute" else "")


def tables() -> list[str]:
    """The tables of docs/scaling.md: one a machine, and a closer look at a few."""
    runs = {words: Run(words, vocab, dim=300, epochs=5) for words, vocab in VOCAB.items()}
    lines = []
    for machine, counts in RANKS.items():
        lines += [f"**{machine.name}**:", ""]
        lines += ["| words (vocabulary) | " + " | ".join(f"{ranks} rank{'s' * (ranks > 1)}" for ranks in counts) + " |"]
        lines += ["|---" * (1 + len(counts)) + "|"]
        for words, run in runs.items():
            cells = [cell(machine, run, ranks) for ranks in counts]
            lines.append(" | ".join([f"| {words:.0e} ({run.vocab:,})", *cells]) + " |")
        lines.append("")
    columns = "| | words | ranks | compute | network | memory | bytes/word | for 90 % | GB a rank | hours |"
    lines += [columns, "|---" * 10 + "|"]
    for machine, words, ranks in DETAILS:
        run = runs[words]
        p = predict(machine, run, ranks, best_interval(machine, run, ranks))
        parts = " | ".join(f"{1e6 * seconds:,.0f} µs" for seconds in (p.compute, p.network, p.memory))
        lines.append(
            f"| {machine.name.split(', ')[-1]} | {words:.0e} | {ranks} | {parts} | {p.bytes_per_word:,.0f} | "
            f"{asked_interval(machine, run, ranks, 0.9) / 1000:,.0f}k | {p.table_bytes / 1e9:.3g} | {p.hours:.2g} |"
        )
    return lines


if __name__ == "__main__":
    print("\n".join(tables()))
