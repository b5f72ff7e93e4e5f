"""Fixtures and settings shared by the tests."""

import importlib.util
from pathlib import Path

import pytest

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

SHARED_DATA = Path(__file__).resolve().parents[2] / "shared" / "data"


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
