"""Packages that only some functions need: imported when they are called, so that training works without them."""

from __future__ import annotations

import importlib
from types import ModuleType


def import_package(module: str, distribution: str, purpose: str) -> ModuleType:
    """Import a module, or say which package to install.

    Raises:
        ImportError: it is missing; the message names the package and what it is needed for.
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] != module.partition(".")[0]:
            raise  # the package is there, and misses one of its own
        raise ImportError(f"{distribution} is needed {purpose}: pip install {distribution}", name=error.name) from None
