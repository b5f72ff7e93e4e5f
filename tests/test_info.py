"""What ``python -m w2v_ext.info`` says is so."""

import json
import platform
import subprocess
import sys

import torch

import w2v_ext
from w2v_ext import info


def test_the_command_prints_versions_and_kernels(capsys):
    assert info.main([]) == 0
    printed = capsys.readouterr().out
    for fact in (w2v_ext.__version__, torch.__version__, platform.python_version(), w2v_ext.cpu_kernels()):
        assert fact in printed
    assert f"safetensors {info.installed('safetensors')}" in printed
    assert "trains on" in printed


def test_kernels_are_those_that_would_run(monkeypatch):
    monkeypatch.setenv("W2V_EXT_CPU", "portable")
    done = subprocess.run([sys.executable, "-m", "w2v_ext.info", "--json"], capture_output=True, text=True, check=True)
    facts = json.loads(done.stdout)
    assert facts["cpu_kernels"] == "portable"
    assert facts["torch"] == torch.__version__
    assert facts["cuda_kernels"] == w2v_ext.ops.has_cuda_kernels()


def test_a_missing_package_and_a_device_without_kernels_are_named(monkeypatch):
    assert info.installed("no-such-package") is None
    facts = info.collect()
    facts["packages"] = {"gensim": None, "tqdm": "4.0"}
    facts["devices"] = [{"name": "Old GPU", "capability": "5.2", "memory": 2 << 30, "kernels_fail": "no image"}]
    lines = "\n".join(info.report(facts))
    assert "not there    gensim" in lines
    assert "packages     tqdm 4.0" in lines
    assert "Old GPU (sm 5.2, 2 GiB): kernels do not run: no image" in lines
