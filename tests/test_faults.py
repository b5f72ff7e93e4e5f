"""What happens to machines: kill -9 at random moments, full disks, files that change, SIGTERM.

On real processes; nothing is half-written, and what was whole before stays whole.
"""

import contextlib
import gzip
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file

import w2v_ext
from w2v_ext import checkpoints, files
from w2v_ext.checkpoints import CHECKPOINT, checkpoint_files, read_checkpoint, save_checkpoint
from w2v_ext.corpus import Corpus, CorpusError, CorpusOptions, prepare_corpus
from w2v_ext.model_files import load_model, save_model
from w2v_ext.trainer import TrainingError

pytestmark = pytest.mark.skipif(os.name != "posix", reason="needs signals, links and limits as Unix has them")


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    rng = np.random.default_rng(0)
    words = np.array([f"w{i}" for i in range(1000)])
    path = tmp_path_factory.mktemp("text") / "text.txt"
    path.write_text("\n".join(" ".join(rng.choice(words, 50)) for _ in range(3000)))
    return path


def start(*flags, limit=None, **environment):
    command = [sys.executable, "-u", "-m", "w2v_ext.train", *map(str, flags)]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    bound = (lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))) if limit else None
    return subprocess.Popen(command, **pipes, env={**os.environ, **environment}, preexec_fn=bound)


def settings(text, out, **changes):
    flags = {"corpus": text, "out": out, "threads": 1, "dim": 100, "epochs": 8, "min-count": 1, "device": "cpu"}
    flags |= {"checkpoint-minutes": 0, **changes}
    return [part for name, value in flags.items() for part in (f"--{name}", value)]


def run(*flags, **how):
    process = start(*flags, **how)
    printed, error = process.communicate(timeout=120)
    return process.returncode, printed, error


def snapshot(folder):
    return {p.relative_to(folder): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def wait_until(there, process):
    for _ in range(6000):
        if there():
            return
        assert process.poll() is None, process.communicate()[1][-3000:]
        time.sleep(0.01)
    raise AssertionError("it did not come")


# ---- kill -9 -----------------------------------------------------------------------------------------------------


def whole_checkpoints(folder):
    """The numbers of the checkpoints there; each is read to its end."""
    numbers = []
    for path in checkpoint_files(folder):
        tensors, metadata = read_checkpoint(path, ["x"])
        assert (tensors["x"] == metadata["number"]).all()
        numbers.append(metadata["number"])
    return numbers


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
@pytest.mark.parametrize("keep", [1, 3])
def test_kill_at_any_moment_of_a_write_leaves_whole_checkpoints(tmp_path, keep):
    number = 0
    for _ in range(25):
        acknowledged, tell = os.pipe()
        child = os.fork()
        if child == 0:  # writes one checkpoint after another, until it is killed
            try:
                while True:
                    number += 1
                    x = torch.from_numpy(np.full((300, 700), number, np.float32))  # no threads: they do not fork
                    save_checkpoint(tmp_path, {"x": x}, {"number": number}, keep)
                    os.write(tell, number.to_bytes(8, "little"))
            finally:
                os._exit(1)
        os.close(tell)
        os.read(acknowledged, 8)
        time.sleep(random.random() * 0.02)
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        said = b""
        with open(acknowledged, "rb") as pipe:
            said = pipe.read()
        found = whole_checkpoints(tmp_path)
        assert 1 <= len(found) <= keep
        assert found == sorted(found, reverse=True)
        assert found[0] >= (int.from_bytes(said[-8:], "little") if said else number + 1)  # what was said to be saved is
        number = found[0]
    names = {path.name for path in checkpoint_files(tmp_path)}
    for left in tmp_path.glob(".*.tmp"):
        os.utime(left, (0, 0))  # as if it had been there for long
    save_checkpoint(tmp_path, {"x": torch.zeros(1)}, {"number": 0}, keep)
    assert {path.name for path in tmp_path.iterdir()} - names <= {CHECKPOINT, *checkpoint_names(keep)}


def checkpoint_names(keep):
    return [f"checkpoint-{age}.safetensors" for age in range(1, keep)]


def test_a_run_that_is_killed_again_and_again_ends_as_one_that_was_not(text, tmp_path):
    flags = {"checkpoint-words": 20_000, "checkpoint-keep": 2}
    code, _, error = run(*settings(text, tmp_path / "whole", **flags))
    assert code == 0, error
    for _ in range(3):
        process = start(*settings(text, tmp_path / "killed", **flags), "--resume", "auto")
        path = tmp_path / "killed" / CHECKPOINT
        before = path.stat().st_mtime_ns if path.exists() else 0
        wait_until(lambda: path.exists() and path.stat().st_mtime_ns != before, process)  # noqa: B023
        time.sleep(random.random() * 0.05)
        process.kill()
        process.communicate()
    code, printed, error = run(*settings(text, tmp_path / "killed", **flags), "--resume", "auto")
    assert code == 0, error
    assert "resumed at epoch" in printed
    one, other = (load_file(tmp_path / name / "model.safetensors") for name in ("whole", "killed"))
    assert all(np.array_equal(one[name], other[name]) for name in ("in_weight", "out_weight"))
    assert not checkpoint_files(tmp_path / "killed")


def test_a_gap_among_checkpoints_hides_none(tmp_path):
    for value in range(1, 5):
        save_checkpoint(tmp_path, {"x": torch.full((3,), float(value))}, {"number": value}, 4)
    (tmp_path / "checkpoint-1.safetensors").unlink()  # killed between two renames
    assert whole_checkpoints(tmp_path) == [4, 2, 1]
    (tmp_path / CHECKPOINT).unlink()
    assert whole_checkpoints(tmp_path) == [2, 1]
    checkpoints.remove_checkpoints(tmp_path)
    assert not list(tmp_path.iterdir())


BUILD = (
    "import sys; from w2v_ext.corpus import prepare_corpus\n"
    "print(prepare_corpus(sys.argv[1], cache_dir=sys.argv[2], threads=1).num_tokens)"
)


def build(source, cache):
    command = [sys.executable, "-u", "-c", BUILD, str(source), str(cache)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_killed_while_the_cache_is_built_beside_another_that_builds_it(tmp_path):
    source, cache = tmp_path / "t", tmp_path / "cache"
    source.write_text("some words and others\n" * 2_000_000)
    folder = cache / "corpora"

    def begun(process):
        return process.poll() is not None or list(folder.glob(f".building-{process.pid}-*"))

    for _ in range(3):
        process = build(source, cache)
        wait_until(lambda: begun(process), process)  # noqa: B023
        time.sleep(random.random() * 0.1)
        process.kill()
        process.communicate()
        for entry in folder.glob("[0-9a-f]*"):  # killed after its end
            Corpus.open(entry).verify()
            shutil.rmtree(entry)
    both = [build(source, cache) for _ in range(2)]
    for process in both:
        wait_until(lambda: begun(process), process)  # noqa: B023
    both[0].kill()
    printed, error = both[1].communicate(timeout=60)
    both[0].communicate()
    assert printed.split() == ["8000000"], error
    left = list(folder.glob(".building-*"))
    for path in [*left, *(file for each in left for file in each.iterdir())]:
        os.utime(path, (0, 0))  # as if they had been there for long
    alive = folder / f".building-{os.getpid()}-0"
    alive.mkdir()
    os.utime(alive, (0, 0))
    source.write_text("other words now\n" * 100)
    corpus = prepare_corpus(source, cache_dir=cache)
    corpus.verify()
    assert list(folder.glob(".building-*")) == [alive]  # the others' processes are gone
    assert len([p for p in folder.iterdir() if not p.name.startswith(".")]) == 2


@pytest.mark.parametrize("name", [".building-{pid}-aa", ".m.safetensors.{pid}.tmp"])
def test_what_is_still_written_to_is_not_abandoned(tmp_path, name):
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    path = tmp_path / name.format(pid=dead.pid)
    path.mkdir()
    assert not files.abandoned(path)  # new
    os.utime(path, (0, 0))
    assert files.abandoned(path)
    (path / "codes.tmp").touch()
    os.utime(path, (0, 0))
    assert not files.abandoned(path)
    assert not files.abandoned(tmp_path / name.format(pid=os.getpid()))
    assert not files.abandoned(tmp_path / "vectors.txt")


# ---- full disks --------------------------------------------------------------------------------------------------


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 2 MB, where this user may mount one."""
    folder = tmp_path / "disk"
    folder.mkdir()
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", folder], capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"needs to mount a small disk: {done.stderr.strip()}")
    yield folder
    subprocess.run(["umount", "-l", folder], check=True)


def test_full_disk_and_checkpoints(small_disk):
    for value in (1, 2):
        save_checkpoint(small_disk, {"x": torch.full((10,), float(value))}, {"number": value}, 2)
    before = snapshot(small_disk)
    for _ in range(2):
        with pytest.raises(OSError, match=r"cannot write .*checkpoint\.safetensors: No space left on device"):
            save_checkpoint(small_disk, {"x": torch.full((1 << 20,), 3.0)}, {"number": 3}, 2)
        assert snapshot(small_disk) == before
    assert whole_checkpoints(small_disk) == [2, 1]


def test_full_disk_and_models(small_disk):
    rng = np.random.default_rng(0)
    save_model(small_disk / "m", rng.normal(size=(2, 4)), None, ["a", "b"], [2, 1], {})
    w2v_ext.save_vectors(small_disk / "v.txt", ["a"], np.ones((1, 3)))
    before = snapshot(small_disk)
    large = rng.normal(size=(2, 400_000))
    with pytest.raises(OSError, match=r"cannot write .*model\.safetensors: No space left on device"):
        save_model(small_disk / "m", large, None, ["c", "d"], [2, 1], {})
    for name in ("v.txt", "v.bin", "v.safetensors"):
        with pytest.raises(OSError, match=rf"cannot write .*{name}: .*No space left on device"):
            w2v_ext.save_vectors(small_disk / name, ["c", "d"], large)
    assert snapshot(small_disk) == before
    assert load_model(small_disk / "m").words == ["a", "b"]


def test_full_disk_and_the_cache(small_disk, tmp_path):
    (tmp_path / "small").write_text("a b c\n" * 100)
    (tmp_path / "large").write_text(" ".join(f"w{i % 99}" for i in range(1_000_000)))
    kept = prepare_corpus(tmp_path / "small", cache_dir=small_disk)
    before = snapshot(small_disk)
    with pytest.raises(OSError, match=rf"No space left on device: '{small_disk}/corpora/.building-.*ids.bin'"):
        prepare_corpus(tmp_path / "large", cache_dir=small_disk)
    assert snapshot(small_disk) == before
    assert prepare_corpus(tmp_path / "small", cache_dir=small_disk).path == kept.path


@pytest.mark.parametrize("what", ["checkpoint", "model"])
def test_a_run_on_a_disk_that_fills_up(text, tmp_path, what):
    """RLIMIT_FSIZE stands for the full disk, so that anybody can run this."""
    out = tmp_path / "m"
    small = settings(text, out, dim=4, epochs=1)
    code, _, error = run(*small)
    assert code == 0, error
    before = snapshot(out)
    words = {"checkpoint-words": 10_000} if what == "checkpoint" else {}
    code, _, error = run(*settings(text, out, epochs=2, **words), limit=300_000)
    assert code == 2
    assert f"error: cannot write {out}/{what}.safetensors: File too large" in error
    assert "Traceback" not in error
    assert snapshot(out) == before


# ---- files that change -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("pack", [bytes, gzip.compress])
def test_text_that_is_cut_while_it_is_read(tmp_path, pack):
    path = tmp_path / "t"
    size = path.write_bytes(pack(np.random.default_rng(0).integers(97, 123, 6_000_000, np.uint8).tobytes()))
    options = CorpusOptions(errors="replace", min_count=1)
    for keep in (0, size // 2):
        with open(path, "r+b") as file:

            def cut(done, total, keep=keep, file=file):
                file.truncate(keep)

            with pytest.raises(CorpusError, match=rf"{path}: (the file changed while|the compressed data are damaged)"):
                prepare_corpus(path, options, cache_dir=tmp_path / "c", progress=cut)
        assert not list((tmp_path / "c" / "corpora").iterdir())
        path.write_bytes(pack(np.random.default_rng(0).integers(97, 123, 6_000_000, np.uint8).tobytes()))


def test_text_that_changed_between_the_runs(text, tmp_path):
    mine = tmp_path / "text.txt"
    shutil.copy(text, mine)
    flags = settings(mine, tmp_path / "m", epochs=500)
    process = start(*flags)
    wait_until(lambda: any(line.startswith("epoch 1/500") for line in process.stdout), process)
    process.send_signal(signal.SIGTERM)
    _, error = process.communicate(timeout=60)
    assert process.returncode == 143, error
    before = snapshot(tmp_path / "m")
    with open(mine, "a") as file:
        file.write(" w1 w2 w3\n")
    for resume in ("auto", "yes"):
        code, _, error = run(*flags, "--resume", resume)
        assert code == 2
        assert f"error: resume: the corpus has changed since the checkpoint {tmp_path}/m/{CHECKPOINT} was made" in error
        assert snapshot(tmp_path / "m") == before


@pytest.mark.parametrize("how", ["written to", "cut"])
def test_ids_that_change_under_the_run(text, tmp_path, how):
    """Between two slices; in the middle of one, a cut ends the process with SIGBUS, which no code survives."""
    corpus = prepare_corpus(text, cache_dir=tmp_path)
    config = w2v_ext.TrainConfig(dim=8, threads=1, epochs=50, device="cpu", checkpoint_words=1, checkpoint_minutes=0)
    trainer = w2v_ext.Trainer(corpus, config)
    path, seen = corpus.path / "ids.bin", []

    def change(t):
        seen.append(t.words_done)
        if len(seen) == 3:
            with open(path, "r+b") as file:
                file.write(b"\1\0\0\0") if how == "written to" else file.truncate(4000)

    with pytest.raises(TrainingError, match=rf"corpus: {path}: was changed while it was in use: it had .* run again"):
        trainer.fit(on_progress=change, checkpoint_dir=tmp_path / "m")
    again = prepare_corpus(text, cache_dir=tmp_path) if how == "cut" else corpus_again(path, text, tmp_path)
    resumed = w2v_ext.Trainer(again, config)
    assert resumed.resume_if_possible(tmp_path / "m")
    assert resumed.words_done == seen[-1]


def corpus_again(path, text, cache):
    shutil.rmtree(path.parent)
    return prepare_corpus(text, cache_dir=cache)


def test_ids_overwritten_under_a_real_run(text, tmp_path):
    flags = settings(text, tmp_path / "m", epochs=2000, **{"checkpoint-words": 10_000})
    process = start(*flags, W2V_EXT_CACHE=str(tmp_path / "cache"))
    wait_until((tmp_path / "m" / CHECKPOINT).exists, process)
    (path,) = (tmp_path / "cache" / "corpora").glob("[0-9a-f]*/ids.bin")
    with open(path, "r+b") as file:
        file.write(b"\1\0\0\0")
    _, error = process.communicate(timeout=60)
    assert process.returncode == 2
    assert f"error: corpus: {path}: was changed while it was in use" in error
    assert [p.name for p in (tmp_path / "m").iterdir()][:1] == [CHECKPOINT]
    read_checkpoint(tmp_path / "m" / CHECKPOINT, ["in_weight", "out_weight"])


def test_ids_cut_under_a_real_run(text, tmp_path):
    flags = settings(text, tmp_path / "m", epochs=2000, **{"checkpoint-words": 1_000_000})
    for _ in range(3):  # one may be between two slices, where the cut is noticed
        process = start(*flags, W2V_EXT_CACHE=str(tmp_path / "cache"))
        wait_until((tmp_path / "m" / CHECKPOINT).exists, process)
        time.sleep(0.1)
        (path,) = (tmp_path / "cache" / "corpora").glob("[0-9a-f]*/ids.bin")
        os.truncate(path, 4000)
        _, error = process.communicate(timeout=60)
        assert process.returncode in (-signal.SIGBUS, 2), error
        read_checkpoint(tmp_path / "m" / CHECKPOINT, ["in_weight", "out_weight"])
        if process.returncode != 2:
            break
        shutil.rmtree(tmp_path / "m")
    assert process.returncode == -signal.SIGBUS
    process = start(*flags, "--resume", "auto", W2V_EXT_CACHE=str(tmp_path / "cache"))
    wait_until(lambda: "resumed at epoch" in process.stdout.readline(), process)
    process.send_signal(signal.SIGTERM)
    _, error = process.communicate(timeout=60)
    assert process.returncode in (143, -signal.SIGTERM), error  # after, or just before, it began to train


# ---- signals -----------------------------------------------------------------------------------------------------


def test_sigterm_at_random_moments_and_on(text, tmp_path):
    flags = settings(text, tmp_path / "m", epochs=200)
    process = start(*flags)
    wait_until(lambda: any(line.startswith("epoch 1/200") for line in process.stdout), process)
    time.sleep(random.random() * 0.3)
    process.send_signal(signal.SIGTERM)
    _, error = process.communicate(timeout=60)
    assert process.returncode == 143, error
    assert f"interrupted; checkpoint in {tmp_path}/m/{CHECKPOINT}; go on with the same command and --resume" in error
    assert [p.name for p in (tmp_path / "m").iterdir()] == [CHECKPOINT]


# ---- the bytes of a file that many write ---------------------------------------------------------------------------


def test_many_writers_of_one_model_leave_one_whole(tmp_path):
    code = (
        "import sys, numpy as np; from w2v_ext.model_files import save_model; n = int(sys.argv[2])\n"
        "words, vectors = [f'w{n}_{i}' for i in range(50)], np.full((50, 20), n, 'f4')\n"
        "for _ in range(40): save_model(sys.argv[1], vectors, None, words, range(50, 0, -1), {'n': n})"
    )
    writers = [subprocess.Popen([sys.executable, "-c", code, tmp_path / "m", str(n)]) for n in range(2)]
    seen = 0
    while any(writer.poll() is None for writer in writers):
        with contextlib.suppress(files.FormatError):  # another's vocabulary beside it: noticed, never mixed up
            model = load_model(tmp_path / "m")
            assert len({float(x) for x in model.in_weight.flatten()}) == 1
            assert model.words[0] == f"w{int(model.in_weight[0, 0])}_0"
            seen += 1
    assert [writer.returncode for writer in writers] == [0, 0]
    assert seen
    assert sorted(p.name for p in (tmp_path / "m").iterdir()) == ["config.json", "model.safetensors", "vocab.tsv"]
