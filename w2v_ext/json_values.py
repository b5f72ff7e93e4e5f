"""Figures as JSON, which has no word for what is not a number."""

from __future__ import annotations

import json
import math
from typing import Any


def json_values(value: Any) -> Any:
    """Return a value of dicts and lists with None for each number that is not finite."""
    if isinstance(value, dict):
        return {key: json_values(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [json_values(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def json_text(value: Any, indent: int | None = None) -> str:
    """Return a value as JSON, through `json_values`."""
    return json.dumps(json_values(value), ensure_ascii=False, indent=indent, allow_nan=False)
