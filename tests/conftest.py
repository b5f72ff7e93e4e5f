"""Fixtures and settings shared by the tests."""

import contextlib
import importlib.util
import os
import shutil
import subprocess
import sys
import types
from pathlib import Path

import pytest

# A thread of OpenMP's that has nothing to do waits instead of spinning: pytest's other workers need the processor.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # before PyTorch is loaded

# A GPU machine without a network may have PyTorch, NumPy and pytest only: what cannot be imported there is left out.
NEEDED = {
    "test_cli.py": ("safetensors", "tqdm", "tyro", "yaml"),
    "test_corpus.py": ("hypothesis",),
    "test_formats.py": ("hypothesis",),
    "test_model_files.py": ("safetensors",),
}
OPTIONAL = {"hypothesis", "jieba", "safetensors", "tqdm", "tyro", "yaml", "zstandard"}
MISSING = {name for name in OPTIONAL if importlib.util.find_spec(name) is None}
collect_ignore = [file for file, needed in NEEDED.items() if MISSING.intersection(needed)]

ROOT = Path(__file__).resolve().parents[1]
SHARED_DATA = ROOT.parent / "shared" / "data"


def pytest_report_header():
    """Name the test files that are left out, and why."""
    return [f"left out: {file} (needs {', '.join(MISSING.intersection(NEEDED[file]))})" for file in collect_ignore]


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item):
    """Skip a test that asks for an optional package that is not installed."""
    try:
        return (yield)
    except ImportError as error:
        if (error.name or "").partition(".")[0] in MISSING:
            pytest.skip(f"needs the package {error.name}")
        raise


def pytest_collection_modifyitems(config, items):
    """Leave out slow tests unless -m names them."""
    if "slow" in (config.getoption("-m") or ""):
        return
    skip = pytest.mark.skip(reason="slow: run with -m slow")
    for item in items:
        if "slow" in item.keywords:
            item.add_marker(skip)


@pytest.fixture
def shared_data() -> Path:
    """The folder of real corpora and test sets; the test is skipped where it is absent."""
    if not SHARED_DATA.is_dir():
        pytest.skip("needs the folder of real corpora beside the project (../shared/data)")
    return SHARED_DATA


@pytest.fixture(scope="module")
def one_thread():
    """PyTorch with one thread: models of a few units gain nothing by more, and wait long for each other when others
    use the machine."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory, monkeypatch):
    """Keep every test's encoded corpora and downloads out of the user's cache."""
    monkeypatch.setenv("W2V_EXT_CACHE", str(tmp_path_factory.mktemp("cache")))


# ---- the CUDA operators on the CPU, see test_cuda_on_cpu.py --------------------------------------------------------


def build_emulated(compiler: str, target: Path) -> None:
    """Compile the CUDA operators for the CPU, each source in a process of its own."""
    import torch

    torch_folder = Path(torch.__file__).parent
    include = torch_folder / "include"
    flags = [
        *"-std=c++20 -O0 -fPIC -DUSE_CUDA -DTORCH_TARGET_VERSION=0x020a000000000000".split(),
        *(f"-I{ROOT / 'csrc'}", f"-I{ROOT / 'tests/cpp/cuda_on_cpu'}", "-include", "prelude.h"),
        *("-isystem", str(include), "-isystem", str(include / "torch/csrc/api/include"), "-x", "c++"),
    ]
    sources = [ROOT / "csrc/ops.cpp", *sorted((ROOT / "csrc/cuda").glob("*.cu"))]
    objects = [str(target.parent / f"{source.name}.o") for source in sources]
    running = [
        subprocess.Popen([compiler, *flags, "-c", str(source), "-o", object_], stderr=subprocess.PIPE, text=True)
        for source, object_ in zip(sources, objects, strict=True)
    ]
    for process in running:
        _, message = process.communicate()
        assert process.returncode == 0, message[-3000:]
    libraries = [f"-L{torch_folder / 'lib'}", "-ltorch", "-ltorch_cpu", "-lc10"]
    subprocess.run([compiler, "-shared", *objects, *libraries, "-o", str(target)], check=True)


@pytest.fixture(scope="session")
def emulated(tmp_path_factory):
    """The CUDA operators, host code and kernels, compiled for the CPU: ``torch.ops.w2v_emulated``."""
    import torch

    compiler = next((c for c in (os.environ.get("CXX"), "c++", "g++", "clang++") if c and shutil.which(c)), None)
    if compiler is None or sys.platform != "linux":
        pytest.skip("needs a C++20 compiler and Linux's ucontext")
    import fcntl

    # One of pytest-xdist's workers builds for all of them: their temporary folders have one parent.
    folder = tmp_path_factory.getbasetemp()
    folder = (folder.parent if "PYTEST_XDIST_WORKER" in os.environ else folder) / "emulated"
    folder.mkdir(exist_ok=True)
    target = folder / "emulated.so"
    with open(folder / "lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not target.exists():
            build_emulated(compiler, target)
    torch.ops.load_library(target)
    return torch.ops.w2v_emulated


@pytest.fixture(params=["first lane ahead", "last lane ahead"])
def lanes(request, monkeypatch):
    """Which lane runs ahead of the others: what a lane must wait for shows with one or the other."""
    if request.param == "last lane ahead":
        monkeypatch.setenv("CUDA_ON_CPU_BACKWARDS", "1")


class _Operators:
    """The library's operators, those of CUDA replaced by the emulated ones."""

    def __init__(self, real, emulated):
        self._real, self._emulated = real, emulated

    def __getattr__(self, name):
        return getattr(self._emulated if "_cuda_" in name else self._real, name)


class _Idle:
    """A stream or an event of a device that is never busy."""

    def __init__(self, *_):
        pass

    def wait(self):
        pass

    record = synchronize = wait


@pytest.fixture
def pretended_cuda(emulated, monkeypatch):
    """PyTorch's CUDA as far as the trainers use it, and the emulated operators; the device is the CPU."""
    import torch

    import w2v_ext.classify.ops
    from w2v_ext.methods import cuda_epoch

    for name in ("Event", "Stream"):
        monkeypatch.setattr(torch.cuda, name, _Idle)
    for name in ("stream", "device"):
        monkeypatch.setattr(torch.cuda, name, lambda _: contextlib.nullcontext())
    monkeypatch.setattr(torch.cuda, "current_stream", _Idle)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _: (1 << 30, 1 << 30))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: "an emulated GPU")
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: types.SimpleNamespace(multi_processor_count=3))
    monkeypatch.setattr(cuda_epoch, "_page_locked", lambda count: torch.empty(count, dtype=torch.int32))
    for module in (w2v_ext.ops, w2v_ext.classify.ops):
        monkeypatch.setattr(module, "_ops", _Operators(module._ops, emulated))
    return torch.device("cpu")


def _no_gpu():
    import torch

    return not torch.cuda.is_available()


@pytest.fixture(
    params=[
        "emulated",
        pytest.param(
            "cuda",
            marks=[
                pytest.mark.cuda,
                pytest.mark.skipif(_no_gpu(), reason="needs a CUDA device and a CUDA build of PyTorch"),
            ],
        ),
    ]
)
def any_cuda(request):
    """Where CUDA's operators run: on the CPU, emulated, and on a GPU where there is one."""
    import torch

    return torch.device("cuda") if request.param == "cuda" else request.getfixturevalue("pretended_cuda")
