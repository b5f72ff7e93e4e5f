"""Running a piece of a test with other kernels than those of this process."""

import json

import pytest
from forks import run_forks

KERNELS = ("avx512", "avx2", "portable")


def in_process(kernels, code):
    """What code prints as JSON, in a process with these kernels; the test is skipped where the machine lacks them."""
    code = f"import w2v_ext\nassert w2v_ext.cpu_kernels() == {kernels!r}\n{code}"
    try:
        (printed,) = run_forks(code, [{"W2V_EXT_CPU": kernels}])
    except AssertionError as error:
        if "and a machine that has it" in str(error):
            pytest.skip(f"this machine lacks {kernels}")
        raise
    return json.loads(printed)
