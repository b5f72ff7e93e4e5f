"""Fixtures and settings shared by the tests."""

from pathlib import Path

import pytest

SHARED_DATA = Path(__file__).resolve().parents[2] / "shared" / "data"


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


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory, monkeypatch):
    """Keep every test's encoded corpora and downloads out of the user's cache."""
    monkeypatch.setenv("W2V_EXT_CACHE", str(tmp_path_factory.mktemp("cache")))
