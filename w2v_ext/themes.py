"""Groups and pairs of words that a user names: as flags, in files, or those planted in the built-in corpus."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import yaml

from .synthetic import BUILTIN_CLASSES

Themes = Mapping[str, Sequence[str]]


def check_themes(themes: Themes | None, source: str = "themes") -> dict[str, tuple[str, ...]]:
    """Return the themes as name -> distinct words, in the order given.

    Raises:
        ValueError: a theme is no list of words; the message names `source` and the theme.
    """
    if themes is None:
        return {}
    if not isinstance(themes, Mapping):
        raise ValueError(f"{source}: expected theme: [word, ...], got {type(themes).__name__}")
    checked = {}
    for name, words in themes.items():
        if isinstance(words, str) or not isinstance(words, Sequence) or not all(isinstance(w, str) for w in words):
            raise ValueError(f"{source}: theme {name!r}: expected a list of words, got {words!r}")
        if not words:
            raise ValueError(f"{source}: theme {name!r}: expected at least one word, got none")
        checked[str(name)] = tuple(dict.fromkeys(words))
    return checked


def read_themes(path: str | os.PathLike[str]) -> dict[str, tuple[str, ...]]:
    """Read themes from a YAML or JSON file, `animals: [dog, cat]`; the name `builtin` stands for the planted ones.

    A word that YAML takes for something else (no, 42, 2024-01-01) is a word here.

    Raises:
        ValueError: the file does not hold themes.
        OSError: it cannot be read.
    """
    if os.fspath(path) == "builtin":
        return dict(BUILTIN_CLASSES)
    text = Path(path).read_text(encoding="utf-8-sig")
    try:
        loaded = json.loads(text) if str(path).endswith(".json") else yaml.load(text, Loader=yaml.BaseLoader)
    except (yaml.YAMLError, json.JSONDecodeError) as error:
        raise ValueError(f"themes: {path} is not valid YAML or JSON: {error}") from error
    return check_themes(loaded, f"themes: {path}")


def parse_themes(flags: Sequence[str], path: str | os.PathLike[str] | None = None) -> dict[str, tuple[str, ...]]:
    """Return the themes of `name=word,word` flags, after those of a file.

    Raises:
        ValueError: a flag of another form.
    """
    themes = read_themes(path) if path else {}
    for flag in flags:
        name, equals, words = flag.partition("=")
        listed = split_words(words)
        if not equals or not name.strip() or not listed:
            raise ValueError(f"theme: expected NAME=WORD,WORD,..., got {flag!r}")
        themes[name.strip()] = tuple(dict.fromkeys(listed))
    return themes


def parse_pairs(flags: Sequence[str], path: str | os.PathLike[str] | None = None) -> list[tuple[str, str]]:
    """Return the pairs of a file (two words a line, more columns are passed over), then those of `a,b` or `a:b` flags.

    Lines that are empty or begin with # are passed over.

    Raises:
        ValueError: a flag or line with fewer than two words.
        OSError: the file cannot be read.
    """
    pairs = []
    if path:
        for number, line in enumerate(Path(path).read_text(encoding="utf-8-sig").splitlines(), 1):
            if not line.strip() or line.startswith("#"):
                continue
            words = line.split("\t") if "\t" in line else line.split()
            if len(words) < 2:
                raise ValueError(f"pairs: {path}, line {number}: expected two words, got {line!r}")
            pairs.append((words[0].strip(), words[1].strip()))
    for flag in flags:
        words = split_words(flag) if "," in flag else [word.strip() for word in flag.split(":")]
        if len(words) != 2 or not all(words):
            raise ValueError(f"pair: expected WORD,WORD, got {flag!r}")
        pairs.append((words[0], words[1]))
    return pairs


def split_words(text: str) -> list[str]:
    """Return the words of a list separated by commas (the Chinese comma too)."""
    return [word.strip() for word in re.split("[,，]", text) if word.strip()]
