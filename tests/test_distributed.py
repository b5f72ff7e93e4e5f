"""Several processes under torchrun: nothing is lost or counted twice, and runs survive what happens to them."""

import json
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.distributed as dist
from forks import run_ranks
from safetensors import safe_open
from safetensors.numpy import load_file

import w2v_ext
from w2v_ext import distributed
from w2v_ext.checkpoints import CHECKPOINT, read_checkpoint
from w2v_ext.distributed import Ranks
from w2v_ext.shared_memory import shared_by_all_ranks

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="looks for processes in /proc")

TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone"]

RESTART_SECONDS = 20  # at most, from a kill to new processes: torchrun itself would wait 30 for one that does not end

COUNTING = """
import math, os, sys, numpy as np, torch
from w2v_ext import distributed
from w2v_ext.methods import Method

class Counter(Method):
    '''Every position moves one row of each table by one, at random places.'''
    def __init__(self, ids):
        self.ids, self.length = ids, len(ids)
        names = ("in_weight", "out_weight", "buckets")
        self.weights = {name: torch.zeros(3000, 20)[:, :3] for name in names}

    def train(self, epoch, begin, end):
        for weight in self.weights.values():
            weight.index_add_(0, self.ids[begin:end], torch.ones(end - begin, 3))
        return 0.5 * (end - begin), end - begin, 2 * (end - begin)

if sys.argv[3] == "sockets":
    distributed.shared_by_all_ranks = lambda size: None
ids = torch.from_numpy(np.random.default_rng(0).zipf(1.2, 5000).clip(1, 3000) - 1)
with distributed.process_group():
    ranks = distributed.Ranks(Counter(ids), sync_every=int(sys.argv[1]), overshoot=math.inf)
    assert (ranks._signals is not None) == (sys.argv[3] == "memory")
    sums = np.zeros(3)
    for begin in range(0, len(ids), 1234):
        sums += ranks.train(0, begin, min(begin + 1234, len(ids)))
        if begin == 2468:
            ranks.settle()
    ranks.settle()
    assert ranks.agree(ranks.rank == 1, False) == (True, False)
    assert sums.tolist() == [2500, 5000, 10000], sums
    counts = torch.bincount(ids, minlength=3000).float()
    for name, weight in ranks.weights.items():
        assert torch.equal(weight, counts[:, None].expand(-1, 3)), name
    if ranks.rank == 0:
        ranks.weights["in_weight"][0] = 7
    state = ranks.follow("state of rank 0" if ranks.rank == 0 else None)
    assert state == "state of rank 0" and ranks.weights["in_weight"][0, 0] == 7
    assert ranks.follow(None) is None
    open(f"{sys.argv[2]}/done-{ranks.rank}", "w").close()
"""


def torchrun(count, *arguments, **options):
    return start([*TORCHRUN, "--nproc-per-node", str(count), *map(str, arguments)], **options)


def start(command, **options):
    environment = {**os.environ, "PYTHONPATH": str(Path(w2v_ext.__file__).parents[1])}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, "env": environment}
    return subprocess.Popen(command, **pipes, **options)


def finish(process, status=0):
    printed, error = process.communicate(timeout=180)
    assert process.returncode == status, error[-3000:]
    return printed, error


@pytest.mark.parametrize(
    ("count", "sync_every", "through"),
    [(2, 5, "memory"), (2, 5, "sockets"), (5, 64, "ring"), pytest.param(3, 64, "memory", marks=pytest.mark.slow)],
)
def test_every_move_of_every_rank_counts_once(tmp_path, count, sync_every, through):
    run_ranks(count, COUNTING, sync_every, tmp_path, through)
    assert len(list(tmp_path.glob("done-*"))) == count


SHARING = """
import os, sys, torch, torch.distributed as dist
from w2v_ext import distributed, shared_memory
from w2v_ext.exchange import Signals
from w2v_ext.trainer import TrainingError

with distributed.process_group():
    own = dist.get_rank()
    if own == 1 and sys.argv[1] != "whole":  # as if it were on another machine, or in another container
        shared_memory._opened = lambda *_: None
    memory = shared_memory.shared_by_all_ranks(24)
    assert (memory is not None) == (sys.argv[1] == "whole"), memory
    if memory is not None:
        assert memory.bytes.tolist() == [0] * 24
        dist.barrier()  # before anybody writes
        signals = Signals(memory.bytes[8:].view(torch.int64), own, memory.gone)
        if own == 1:
            memory.bytes[3] = 7
        signals.post(own + 1)
        signals.wait(1)
        assert memory.bytes[3] == 7
        assert not torch.ops.w2v_ext.counts_reach(signals.counts, 2, 0.01)
        assert memory.gone() == []
        dist.barrier()
        if own == 1:
            os._exit(0)
        signals.post(3)
        signals.wait(2)  # it went in peace
        try:
            signals.wait(3)
        except TrainingError as error:
            assert "rank 1 is gone: its process ended after 2 exchanges, 3 have begun" in str(error), error
        else:
            raise AssertionError
        assert memory.gone() == [1]
"""


@pytest.mark.parametrize("case", ["whole", "elsewhere"])
def test_ranks_of_one_machine_share_memory_or_none_does(case):
    run_ranks(2, SHARING, case)


@pytest.fixture
def group_of_one():
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield
    dist.destroy_process_group()


@pytest.mark.parametrize("call", ["memfd_create", "posix_fallocate"])
def test_without_memory_to_share_nobody_has_any(group_of_one, monkeypatch, call):
    def refuse(*_):
        raise OSError(24, "Too many open files")

    assert shared_by_all_ranks(24) is not None
    monkeypatch.setattr(os, call, refuse)
    assert shared_by_all_ranks(24) is None


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    rng = np.random.default_rng(0)
    words = np.array([f"w{i}" for i in range(1000)])
    path = tmp_path_factory.mktemp("text") / "text.txt"
    path.write_text("\n".join(" ".join(rng.choice(words, 50)) for _ in range(6000)))
    return path


def settings(text, out):
    flags = {"corpus": text, "out": out, "threads": 1, "epochs": 8, "dim": 100, "sample": 0, "device": "cpu"}
    flags |= {"checkpoint-words": 250_000, "checkpoint-minutes": 0}
    return ["-m", "w2v_ext.train", *(str(x) for name, value in flags.items() for x in (f"--{name}", value))]


def same_vectors(one, other):
    one, other = (load_file(folder / "model.safetensors") for folder in (one, other))
    return all(np.array_equal(one[name], other[name]) for name in ("in_weight", "out_weight"))


def children(process):
    """Processes that this one started, by number."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(") ")[2].split()
        except OSError:  # it has ended
            continue
        if int(fields[1]) == process.pid:
            found.append(int(stat.parent.name))
    return sorted(found)


def wait_for(path, process, previous=None):
    """Wait for a file, or for one that is newer than the previous; gives its time."""
    for _ in range(6000):
        try:
            now = path.stat().st_mtime_ns
            if now != previous:
                return now
        except FileNotFoundError:
            pass
        assert process.poll() is None, process.communicate()[1][-3000:]
        time.sleep(0.01)
    raise AssertionError(f"{path} did not come")


def words_in(checkpoint):
    """How many words a checkpoint knows, of 6,000 sentences of 50 and their ends; 0 if there is none yet."""
    try:
        with safe_open(checkpoint, "np") as file:
            state = json.loads(file.metadata()["state"])
    except FileNotFoundError:
        return 0
    return 300_000 * state["epoch"] + state["position"] * 50 // 51


@pytest.fixture(scope="module")
def whole(text, tmp_path_factory):
    """The model of a run that nothing happened to."""
    out = tmp_path_factory.mktemp("whole") / "m"
    printed, _ = finish(torchrun(2, *settings(text, out)))
    assert printed.count("epoch 8/8") == 1  # one rank reports
    assert "2 ranks of 1 threads" in printed
    return out


def test_one_rank_writes_for_all(whole):
    metrics = json.loads((whole / "metrics.json").read_text())
    assert metrics["ranks"] == 2
    assert metrics["raw_words"] == 300_000
    assert metrics["loss"][-1] < metrics["loss"][0]
    trained = metrics["trained_words_per_second"] * metrics["train_seconds"]
    expected = 2 * metrics["exchanged_bytes_per_rank"] / trained
    assert metrics["exchanged_bytes_per_trained_word"] == pytest.approx(expected) and expected > 1
    assert not (whole / CHECKPOINT).exists()


def kill_one(process, others=()):
    """Kill one of torchrun's processes, once all are there; gives the seconds until others have taken their
    place, and the numbers of those before."""
    while len(found := [pid for pid in children(process) if pid not in others]) < 2:
        assert process.poll() is None, process.communicate()[1][-3000:]
        time.sleep(0.01)
    killed = time.monotonic()
    os.kill(random.choice(found), signal.SIGKILL)
    while len([pid for pid in children(process) if pid not in found]) < 2:
        assert process.poll() is None, process.communicate()[1][-3000:]
        assert time.monotonic() < killed + 60, "torchrun has not started anew"
        time.sleep(0.01)
    return time.monotonic() - killed, found


@pytest.mark.slow
def test_a_rank_that_is_killed_costs_no_more_than_what_came_after_the_checkpoint(whole, text, tmp_path):
    checkpoint = tmp_path / "m" / CHECKPOINT
    process = torchrun(2, "--max-restarts", "3", *settings(text, tmp_path / "m"), "--resume", "auto")
    wait_for(checkpoint, process)
    time.sleep(random.random() * 0.2)
    least = [words_in(checkpoint)]
    seconds, first = kill_one(process)
    assert seconds < RESTART_SECONDS
    saved, until = checkpoint.stat().st_mtime_ns, time.monotonic() + random.random() * 8
    while time.monotonic() < until and checkpoint.stat().st_mtime_ns == saved:
        time.sleep(0.01)  # whatever the second attempt does then: start, meet, read, train
    least.append(words_in(checkpoint))
    seconds, _ = kill_one(process, first)
    assert seconds < RESTART_SECONDS
    printed, _ = finish(process)
    resumed = [
        int(line.split(", ")[1].split()[0].replace(",", "")) for line in printed.splitlines() if "resumed" in line
    ]
    assert resumed, printed
    assert resumed[0] >= least[0] > 0
    assert resumed[-1] >= least[-1]
    assert same_vectors(whole, tmp_path / "m")


@pytest.mark.slow
def test_all_ranks_killed_while_a_checkpoint_is_written(text, tmp_path):
    folder = tmp_path / "m"
    flags = [*settings(text, folder), "--dim", "2000", "--resume", "auto"]  # 16 MB
    for _ in range(5):  # a write may have ended by the time of the kill
        process = torchrun(2, *flags)
        wait_for(folder / CHECKPOINT, process)
        all_of_them = [process.pid, *children(process)]  # the agent first: it would start the others anew
        while not list(folder.glob(".*.tmp")):
            assert process.poll() is None, process.communicate()[1][-3000:]
            time.sleep(0.001)
        for pid in all_of_them:
            os.kill(pid, signal.SIGKILL)
        process.communicate()
        if list(folder.glob(".*.tmp")):
            break
        shutil.rmtree(folder)
    assert len(list(folder.glob(".*.tmp"))) == 1
    read_checkpoint(folder / CHECKPOINT, ["in_weight", "out_weight"])
    words = words_in(folder / CHECKPOINT)
    process = torchrun(2, *flags)
    while "resumed at epoch" not in (line := process.stdout.readline()):
        assert process.poll() is None, process.communicate()[1][-3000:]
    process.terminate()
    process.communicate(timeout=60)
    assert int(line.split(", ")[1].split()[0].replace(",", "")) == pytest.approx(words, abs=1)
    assert words > 0


@pytest.mark.slow
def test_machines_that_count_their_restarts_apart_find_each_other_again(whole, text, tmp_path):
    """Two agents, as on two machines; only the one whose process is killed counts the restart."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    flags = ["--nnodes", "2", "--rdzv-backend", "c10d", "--rdzv-endpoint", f"127.0.0.1:{port}", "--rdzv-id", "test"]
    flags += ["--max-restarts", "3", "--nproc-per-node", "1", "--local-addr", "127.0.0.1"]
    command = [sys.executable, "-m", "torch.distributed.run", *flags, *settings(text, tmp_path / "m")]
    agents = [start([*command, "--resume", "auto"]) for _ in range(2)]
    wait_for(tmp_path / "m" / CHECKPOINT, agents[0])
    os.kill(children(agents[1])[0], signal.SIGKILL)
    printed = "".join(finish(agent)[0] for agent in agents)
    assert "resumed at epoch" in printed
    assert same_vectors(whole, tmp_path / "m")


@pytest.mark.parametrize("count", [1, pytest.param(4, marks=pytest.mark.slow)])
def test_sigterm_saves_a_checkpoint_from_which_another_number_of_ranks_goes_on(whole, text, tmp_path, count):
    flags = settings(text, tmp_path / "m")
    process = torchrun(2, *flags)
    wait_for(tmp_path / "m" / CHECKPOINT, process)
    process.terminate()
    process.communicate(timeout=60)
    assert process.returncode == 1
    assert sorted(p.name for p in (tmp_path / "m").iterdir()) == [CHECKPOINT]
    resumed = torchrun(count, *flags, "--resume") if count > 1 else start([sys.executable, *flags, "--resume"])
    printed, _ = finish(resumed)
    assert "resumed at epoch" in printed
    losses, expected = (json.loads((path / "metrics.json").read_text())["loss"] for path in (tmp_path / "m", whole))
    assert losses == pytest.approx(expected, rel=0.03)


def test_sigterm_to_one_rank_saves_for_all_and_torchrun_goes_on_from_there(text, tmp_path):
    process = torchrun(2, "--max-restarts", "1", *settings(text, tmp_path / "m"), "--resume", "auto")
    wait_for(tmp_path / "m" / CHECKPOINT, process)
    os.kill(random.choice(children(process)), signal.SIGTERM)
    printed, error = finish(process)
    assert "interrupted; checkpoint in" in error
    assert "resumed at epoch" in printed
    assert (tmp_path / "m" / "model.safetensors").exists()


@pytest.mark.parametrize(
    ("visible", "ranks", "others", "fault"),
    [
        (1, 2, ["GPU-0 None"], "ranks 0 and 1"),
        (2, 3, ["GPU-0 None", "GPU-1 None"], "ranks 0 and 2"),
        (2, 2, ["GPU-0 None"], None),
        (1, 2, ["GPU-5 None"], None),  # on another machine, or shown to that process alone
    ],
)
def test_two_ranks_on_one_gpu_are_refused_before_nccl_starts(monkeypatch, visible, ranks, others, fault):
    store, chosen = dist.HashStore(), []
    for rank, name in enumerate(others):
        store.set(f"w2v_ext/gpu/{rank}", name)
    monkeypatch.setenv("LOCAL_RANK", str(ranks - 1))
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: visible)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda index: SimpleNamespace(uuid=f"GPU-{index}"))
    monkeypatch.setattr(torch.cuda, "set_device", chosen.append)
    if fault is None:
        distributed._take_gpu(store, ranks - 1, ranks)
        assert chosen == [(ranks - 1) % visible]
        return
    rule = rf"device: expected at most one process for each GPU \({visible} visible on this machine\), got {fault} on"
    with pytest.raises(ValueError, match=rule):
        distributed._take_gpu(store, ranks - 1, ranks)


def test_ranks_need_a_process_group():
    corpus = w2v_ext.corpus_from_sequences([[1, 2, 3]] * 10)
    method = w2v_ext.Trainer(corpus, w2v_ext.TrainConfig(device="cpu", min_count=1)).method
    with pytest.raises(ValueError, match="process group"):
        Ranks(method)
    assert method.agree(True, False) == (True, False)
    assert torch.equal(method.word_vectors(), method.in_weight)
