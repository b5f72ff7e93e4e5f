"""Processes at the price of a fork: a server, one for each process of pytest, has imported what they need.

Nothing watches over ranks that are started here: a test about torchrun itself has to start that. What a process decides
when it begins (OMP_NUM_THREADS, say) was decided by the server; w2v_ext chooses its kernels at their first call.
"""

from __future__ import annotations

import contextlib
import io
import multiprocessing
import os
import socket
import sys
import time
import traceback
from multiprocessing.connection import wait
from pathlib import Path

FORKS = multiprocessing.get_context("forkserver")
FORKS.set_forkserver_preload(["torch.distributed.checkpoint", "torch._dynamo", "w2v_ext.sharded"])


def run_forks(source: str, environments: list[dict], *arguments: object, timeout: float = 300) -> list[str]:
    """Run Python source in one process for each environment, all at once; gives what each printed.

    AssertionError with the traceback of the first that fails; the others are killed then.
    """
    forks = []
    for environment in environments:
        ours, theirs = FORKS.Pipe(duplex=False)
        added = {name: str(value) for name, value in environment.items()}
        fork = FORKS.Process(target=_run, args=(theirs, source, added, list(map(str, arguments))))
        fork.start()
        theirs.close()
        forks.append((fork, ours))
    printed, running, until = {}, list(forks), time.monotonic() + timeout
    try:
        while running:
            ended = wait([fork.sentinel for fork, _ in running], max(0, until - time.monotonic()))
            assert ended, f"{len(running)} of {len(forks)} processes have not ended in {timeout} s"
            for fork, pipe in [item for item in running if item[0].sentinel in ended]:
                running.remove((fork, pipe))
                fork.join()
                try:
                    error, text = pipe.recv()
                except EOFError:  # it left by os._exit, or was killed
                    error, text = "", ""
                assert fork.exitcode == 0 and not error, f"exit code {fork.exitcode}\n{error[-3000:]}"
                printed[fork.pid] = text
    finally:
        for fork, _ in running:
            fork.kill()
    return [printed[fork.pid] for fork, _ in forks]


def run_ranks(count: int, source: str, *arguments: object) -> None:
    """Run Python source as ranks of a group, with the environment that torchrun gives them."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    group = {"WORLD_SIZE": count, "LOCAL_WORLD_SIZE": count, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    one_thread = "import torch\ntorch.set_num_threads(1)\n"
    run_forks(one_thread + source, [{**group, "RANK": rank, "LOCAL_RANK": rank} for rank in range(count)], *arguments)


def _run(pipe, source: str, environment: dict[str, str], arguments: list[str]) -> None:
    os.environ |= environment
    sys.argv = ["fork.py", *arguments]
    sys.path.insert(0, str(Path(__file__).parent))
    error, printed = "", io.StringIO()
    try:
        with contextlib.redirect_stdout(printed):
            exec(compile(source, "fork.py", "exec"), {"__name__": "__main__"})
    except BaseException:
        error = traceback.format_exc()
    pipe.send((error, printed.getvalue()))
    pipe.close()
