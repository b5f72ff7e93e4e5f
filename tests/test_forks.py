"""The processes that tests fork: what goes wrong in one of them fails the test."""

import time

import pytest
from forks import run_forks, run_ranks


def test_what_each_of_them_printed():
    code = "import os, sys; print(os.environ['NUMBER'], sys.argv[1], w2v_ext.cpu_kernels())"
    environments = [{"NUMBER": n, "W2V_EXT_CPU": "portable"} for n in range(3)]
    printed = run_forks(f"import w2v_ext; {code}", environments, "given")
    assert printed == [f"{n} given portable\n" for n in range(3)]


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ("assert 1 == 2", "AssertionError"),
        ("raise SystemExit(3)", "SystemExit: 3"),
        ("os._exit(3)", "exit code 3"),
        ("os.kill(os.getpid(), 9)", "exit code -9"),
    ],
)
def test_one_that_fails_takes_the_others_along(wrong, message):
    began = time.monotonic()
    code = f"import os, time\nif os.environ['RANK'] == '1':\n    {wrong}\ntime.sleep(100)"
    with pytest.raises(AssertionError, match=message):
        run_ranks(3, code)
    assert time.monotonic() - began < 50


def test_one_that_does_not_end():
    with pytest.raises(AssertionError, match=r"1 of 2 processes have not ended in 1 s"):
        run_forks("import os, time; time.sleep(100 * int(os.environ['N']))", [{"N": 0}, {"N": 1}], timeout=1)
