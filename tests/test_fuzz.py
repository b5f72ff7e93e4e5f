"""Damaged files: those that once were findings, and some hundred new ones for each reader; ``make fuzz`` reads 10⁶."""

import random
import subprocess
import sys
from pathlib import Path

import pytest

for needed in ("zstandard", "usearch", "tokenizers"):
    pytest.importorskip(needed)

from fuzz.__main__ import generator  # noqa: E402
from fuzz.targets import TARGETS, Target, Workplace, damage, files_below  # noqa: E402

FOUND = Path(__file__).parent / "fuzz_corpus"
QUICK = 60  # inputs for each reader
pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.mark.parametrize("name", TARGETS)
def test_damaged_files_are_read_or_refused(tmp_path, name):
    place = Workplace(name, tmp_path)
    assert place.read(random.Random(0)) is None  # as they are
    refused = 0
    for number in range(QUICK):
        rng = generator(0, name, number)
        place.put(damage(place.target, place.originals, rng))
        said = place.read(rng)
        refused += said is not None
        assert said is None or len(said) < 2000
    assert refused


@pytest.mark.parametrize("finding", sorted(p.name for p in FOUND.iterdir() if p.is_dir()))
def test_what_was_found_stays_mended(tmp_path, finding):
    name = finding.rpartition("-")[0]
    place = Workplace(name, tmp_path)
    place.put(files_below(FOUND / finding / "v"))
    for seed in range(32):  # the options of a reader are drawn, rare ones too
        place.read(random.Random(seed))


def test_inputs_depend_on_their_number_alone(tmp_path):
    place = Workplace("model", tmp_path)
    made = [damage(place.target, place.originals, generator(1, "model", number)) for number in (5, 6, 5)]
    assert made[0] == made[2] != made[1]


LURKING = """
import os, signal, sys
sys.path[:0] = {path!r}
from fuzz import targets
def lurk(path, rng):
    kind = path.read_bytes()[-1] % 4
    if kind == 0: raise KeyError("unexpected")
    if kind == 1: bytearray(1 << 30)
    if kind == 2: os.kill(os.getpid(), signal.SIGSEGV)
targets.TARGETS["lurking"] = targets.Target(lambda folder: (folder / "v").write_bytes(b"abcc"), lurk, weight=1)
import fuzz.__main__ as driver
driver.SECONDS = 1
sys.exit(driver.main())
"""


def test_the_driver_finds_errors_crashes_and_allocations(tmp_path):
    """Prove that the search can find: a reader that fails in every way is seen to do so."""
    path = [str(Path(__file__).parent), str(Path(__file__).parents[1])]
    script = tmp_path / "lurking.py"
    script.write_text(LURKING.format(path=path))
    worker = "import subprocess as s, sys; real = s.run\n"
    worker += "s.run = lambda c, **k: real([c[0], __file__, *c[3:]], **k)\n"
    script.write_text(worker + script.read_text())
    arguments = ["--inputs", "60", "--only", "lurking", "--findings", str(tmp_path / "found")]
    done = subprocess.run([sys.executable, script, *arguments], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 1, done.stderr
    assert "KeyError: 'unexpected'" in done.stdout
    assert "MemoryError" in done.stdout
    assert "SIGSEGV" in done.stdout
    assert len(list((tmp_path / "found").iterdir())) >= 3


def test_every_reader_states_what_it_refuses():
    for target in TARGETS.values():
        assert isinstance(target, Target)
        assert all(issubclass(kind, (ValueError, FileNotFoundError)) for kind in target.refuses)
