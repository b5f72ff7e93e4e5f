"""Lines that nobody reads any more must not cost the work that they tell about."""

import io
import os
import subprocess
import sys

import pytest
from test_classify import make_lines

from w2v_ext.reporting import Report


def test_lines_and_what_cannot_be_encoded(capsys):
    Report(None).line("nothing")
    Report(sys.stdout).line("said")
    assert capsys.readouterr().out == "said\n"
    raw = io.BytesIO()
    ascii_only = io.TextIOWrapper(raw, encoding="ascii")
    Report(ascii_only).line("naïve")
    assert raw.getvalue() == b"na\\xefve\n"


def test_a_file_that_is_closed_ends_the_lines():
    closed = io.StringIO()
    closed.close()
    report = Report(closed)
    report.line("one")
    report.line("two")


COMMANDS = {
    "classify": ["classify", "train", "--input", "labels", "--out", "RESULT", "--dim", "4", "--epochs", "3"],
    "phrases": ["phrases", "--corpus", "text", "--out", "RESULT", "--passes", "2", "--cache-dir", "cache"],
    "seq2seq": ["seq2seq", "train", "--out", "RESULT", "--epochs", "1"],
}


@pytest.mark.parametrize("closed", ["stdout", "both"])
@pytest.mark.parametrize("name", COMMANDS)
def test_a_closed_pipe_leaves_the_result(tmp_path, name, closed):
    (tmp_path / "labels").write_text("\n".join(make_lines(seed=0)) + "\n")
    (tmp_path / "text").write_text("we saw new york\nnew york is old\n" * 30)
    reader, writer = os.pipe()
    os.close(reader)
    module, *arguments = COMMANDS[name]
    command = [sys.executable, "-m", f"w2v_ext.{module}", *arguments, *(["--threads", "1"] * (name != "seq2seq"))]
    done = subprocess.run(
        command,
        stdout=writer,
        stderr=writer if closed == "both" else subprocess.PIPE,
        cwd=tmp_path,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
        timeout=120,
    )
    os.close(writer)
    assert done.returncode == 0 and not done.stderr
    result = tmp_path / "RESULT"
    assert (result if name == "phrases" else result / "model.safetensors").exists()


def test_a_closed_standard_output(tmp_path):
    (tmp_path / "text").write_text("we saw new york\nnew york is old\n" * 30)
    command = f"{sys.executable} -m w2v_ext.phrases --corpus text --out result --cache-dir cache >&-"
    done = subprocess.run(command, shell=True, cwd=tmp_path, stderr=subprocess.PIPE, timeout=60)
    assert done.returncode == 0 and done.stderr == b"" and (tmp_path / "result").exists()
