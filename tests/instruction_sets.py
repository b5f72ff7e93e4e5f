"""Running a piece of a test with other kernels than those of this process."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

KERNELS = ("avx512", "avx2", "portable")


def in_process(kernels, code):
    """What code prints as JSON, in a process with these kernels; the test is skipped where the machine lacks them."""
    result = subprocess.run(
        [sys.executable, "-c", f"import w2v_ext\nassert w2v_ext.cpu_kernels() == {kernels!r}\n{code}"],
        env={**os.environ, "W2V_EXT_CPU": kernels, "PYTHONPATH": os.pathsep.join(sys.path)},
        cwd=Path(__file__).parent,
        capture_output=True,
        text=True,
    )
    if "and a machine that has it" in result.stderr:
        pytest.skip(f"this machine lacks {kernels}")
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout)
