"""Damaged files for every reader, in processes that may die: ``make fuzz``.

    PYTHONPATH=.:tests python -m fuzz --inputs 1000000 [--only NAME ...] [--seed N] [--findings DIR]

An input depends on the seed, the reader's name and the input's number alone. A reader may give what is in the files or
raise what it documents. A finding is: any other exception; a crash; more than 10 s of CPU time; memory beyond LIMIT on
top of what the process had before the first input (RLIMIT_AS; the default is 256 MiB).
"""

from __future__ import annotations

import argparse
import json
import mmap
import random
import resource
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections import Counter
from pathlib import Path

SECONDS = 10  # of CPU time for one input
LIMIT = 256 << 20  # bytes


def generator(seed: int, name: str, number: int) -> random.Random:
    """The random numbers of one input."""
    return random.Random(f"{seed} {name} {number}")


def save_finding(folder: Path, name: str, files: dict[str, bytes], what: str) -> None:
    """Keep the files of a finding, and what happened."""
    folder.mkdir(parents=True, exist_ok=True)
    place = folder / f"{name}-{len(list(folder.iterdir()))}"
    for file, data in files.items():
        path = place / "v" / file if file else place / "v"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    (place / "finding.txt").write_text(what)


def work(name: str, seed: int, first: int, stop: int, findings: Path, shared: Path, limit: int) -> None:
    """Read inputs ``first`` to ``stop``; the number of the one at hand stands in the shared file."""
    import torch
    from fuzz.targets import Workplace, damage

    torch.set_num_threads(1)
    fast = Path("/dev/shm")
    with (
        tempfile.TemporaryDirectory(dir=fast if fast.is_dir() else None) as folder,
        open(shared, "r+b") as file,
        mmap.mmap(file.fileno(), 8) as at_hand,
    ):
        place = Workplace(name, Path(folder))
        for number in range(20):  # imports and caches come first
            place.read(random.Random(number))
        pages = int(Path("/proc/self/statm").read_text().split()[0])
        bound = pages * mmap.PAGESIZE + limit
        resource.setrlimit(resource.RLIMIT_AS, (bound, bound))
        signal.signal(signal.SIGPROF, signal.SIG_DFL)  # ends the process
        accepted, refused, seen = 0, Counter(), set()
        for number in range(first, stop):
            at_hand[:8] = number.to_bytes(8, "little")
            rng = generator(seed, name, number)
            files = damage(place.target, place.originals, rng)
            place.put(files)
            signal.setitimer(signal.ITIMER_PROF, SECONDS)
            try:
                said = place.read(rng)
            except KeyboardInterrupt:
                raise
            except BaseException as error:  # a panic in Rust is no Exception
                frames = [f"{f.filename}:{f.lineno}" for f in traceback.extract_tb(error.__traceback__)]
                where = (type(error), next(f for f in reversed(frames) if "w2v_ext" in f or "targets" in f))
                if where not in seen:
                    seen.add(where)
                    save_finding(findings, name, files, f"input {number}\n{traceback.format_exc()}")
                    print(f"  {name}: input {number}: {type(error).__name__}: {error!s:.200} at {where[1]}", flush=True)
            else:
                accepted += said is None
                if said:
                    refused[said.partition(str(folder))[2].partition(": ")[2][:24]] += 1
        signal.setitimer(signal.ITIMER_PROF, 0)
        print(json.dumps({"accepted": accepted, "refused": sum(refused.values()), "findings": len(seen)}))


def supervise(name: str, seed: int, count: int, findings: Path, limit: int) -> Counter:
    """Run a worker, and another from the next input on where one dies; gives the numbers."""
    total, first = Counter(), 0
    with tempfile.TemporaryDirectory() as folder:
        shared = Path(folder) / "number"
        shared.write_bytes(bytes(8))
        while first < count:
            span = [str(x) for x in (name, seed, first, count, findings, shared, limit)]
            done = subprocess.run([sys.executable, "-m", "fuzz", "--worker", *span], stdout=subprocess.PIPE, text=True)
            *lines, last = done.stdout.splitlines() or [""]
            if done.returncode == 0:
                print(*lines, sep="\n", end="\n" if lines else "")
                return total + Counter(json.loads(last))
            number = int.from_bytes(shared.read_bytes(), "little")
            if done.returncode > 0 or number < first:
                raise SystemExit(f"{name}: the worker failed:\n{done.stdout}")
            what = "hang" if done.returncode == -signal.SIGPROF else signal.Signals(-done.returncode).name
            print(*lines, f"  {name}: input {number}: {what}", sep="\n", flush=True)
            _keep_fatal(name, seed, number, findings, what)
            total["findings"] += 1
            total["refused"] += number - first  # nobody counted those
            first = number + 1
    return total


def _keep_fatal(name: str, seed: int, number: int, findings: Path, what: str) -> None:
    from fuzz.targets import Workplace, damage

    with tempfile.TemporaryDirectory() as folder:
        place = Workplace(name, Path(folder))
        files = damage(place.target, place.originals, generator(seed, name, number))
    save_finding(findings, name, files, f"input {number}\n{what}\n")


def main() -> int:
    """The command."""
    if sys.argv[1:2] == ["--worker"]:
        name, seed, first, stop, findings, shared, limit = sys.argv[2:]
        work(name, int(seed), int(first), int(stop), Path(findings), Path(shared), int(limit))
        return 0
    from fuzz.targets import TARGETS

    parser = argparse.ArgumentParser(prog="python -m fuzz", description=__doc__.partition("\n")[0])
    parser.add_argument("--inputs", type=int, default=1_000_000, help="in all, shared among the readers")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", nargs="+", choices=list(TARGETS), default=list(TARGETS))
    parser.add_argument("--findings", type=Path, default=Path("fuzz-findings"))
    parser.add_argument("--limit-mib", type=int, default=LIMIT >> 20, help="memory for one input")
    options = parser.parse_args()
    weights = {name: TARGETS[name].weight for name in options.only}
    total, started = Counter(), time.monotonic()
    print(f"{'reader':<22} {'inputs':>9} {'read':>9} {'refused':>9} {'findings':>9} {'inputs/s':>9}")
    for name, weight in weights.items():
        count, begun = max(1, round(options.inputs * weight / sum(weights.values()))), time.monotonic()
        found = supervise(name, options.seed, count, options.findings, options.limit_mib << 20)
        rate = count / (time.monotonic() - begun)
        columns = (count, found["accepted"], found["refused"], found["findings"], rate)
        print(f"{name:<22} " + " ".join(f"{x:>9,.0f}" for x in columns), flush=True)
        total += found + Counter(inputs=count)
    print(f"{total['inputs']:,} inputs in {time.monotonic() - started:,.0f} s, {total['findings']} findings")
    return 1 if total["findings"] else 0


if __name__ == "__main__":
    sys.exit(main())
