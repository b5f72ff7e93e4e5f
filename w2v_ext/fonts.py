"""Fonts that have the characters of the labels: Chinese, Japanese, Korean and whatever else a vocabulary holds."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path

BASE = "DejaVu Sans"  # comes with matplotlib: Latin, Greek, Cyrillic and more
_PREFERRED = (
    "Noto Sans CJK SC",
    "Noto Sans SC",
    "Source Han Sans SC",
    "Source Han Sans CN",
    "PingFang SC",
    "Microsoft YaHei",
    "Hiragino Sans GB",
    "WenQuanYi Micro Hei",
    "WenQuanYi Zen Hei",
    "SimHei",
    "Noto Sans CJK JP",
    "Noto Sans CJK TC",
    "Noto Sans CJK KR",
    "Arial Unicode MS",
)
_CJK = ((0x2E80, 0x9FFF), (0xAC00, 0xD7AF), (0xF900, 0xFAFF), (0xFF00, 0xFFEF), (0x20000, 0x3FFFF))
INSTALL_CJK = (
    "install one, for instance fonts-noto-cjk (Debian, Ubuntu), google-noto-sans-cjk-fonts (Fedora), noto-fonts-cjk "
    "(Arch), font-noto-cjk (Alpine) or font-noto-sans-cjk (Homebrew), or name a font file with --font"
)


class MissingFontError(ValueError):
    """No font at hand has the characters; the message says which package brings one."""


def is_cjk(character: str) -> bool:
    """Tell whether a character is Chinese, Japanese or Korean."""
    return any(low <= ord(character) <= high for low, high in _CJK)


def find_fonts(texts: Iterable[str], font: str | os.PathLike[str] | None = None) -> tuple[list[str], set[str]]:
    """Find font families that together can draw `texts`.

    Args:
        texts: the labels.
        font: a font file to try before all others.

    Returns:
        The families, for matplotlib's `font.family`, and the characters that none of the installed fonts has.

    Raises:
        OSError: `font` is not a font file that can be read.
    """
    from matplotlib import font_manager

    families = []
    if font is not None:
        try:
            font_manager.fontManager.addfont(os.fspath(font))
        except (OSError, RuntimeError) as error:
            raise OSError(f"font: cannot read {os.fspath(font)} as a font: {error}") from error
        families.append(font_manager.FontProperties(fname=os.fspath(font)).get_name())
    families.append(BASE)
    missing = {character for text in texts for character in text if not character.isspace()}
    for family in families:
        missing -= _characters(font_manager.findfont(family))
    if missing:
        missing = _add_families(families, missing)
    return families, missing


def _add_families(families: list[str], missing: set[str]) -> set[str]:
    """Append installed fonts that have some of the missing characters; gives those that none has."""
    from matplotlib import font_manager

    known = {entry.fname for entry in font_manager.fontManager.ttflist}
    for path in font_manager.findSystemFonts():  # matplotlib's own list may be older than the font
        if path not in known:
            try:
                font_manager.fontManager.addfont(path)
            except (OSError, RuntimeError):
                continue  # a font that matplotlib cannot read

    def order(entry: font_manager.FontEntry) -> tuple[int, bool, int, str]:
        rank = _PREFERRED.index(entry.name) if entry.name in _PREFERRED else len(_PREFERRED)
        weight = entry.weight if isinstance(entry.weight, int) else 400
        return rank, entry.style != "normal", abs(weight - 400), entry.fname

    for entry in sorted(font_manager.fontManager.ttflist, key=order):
        if not missing:
            break
        if entry.name in families or entry.name.startswith("Last Resort"):  # that one has only boxes
            continue
        has = missing & _characters(entry.fname)
        if has:
            families.append(entry.name)
            missing = missing - has
    return missing


@lru_cache(maxsize=256)
def _characters(path: str) -> frozenset[str]:
    from matplotlib.ft2font import FT2Font

    if not Path(path).exists():
        return frozenset()
    try:
        return frozenset(map(chr, FT2Font(path).get_charmap()))
    except (OSError, RuntimeError, ValueError):
        return frozenset()


def check_drawable(texts: Iterable[str], font: str | os.PathLike[str] | None = None) -> tuple[list[str], set[str]]:
    """Return the font families for `texts`, and the texts that cannot be drawn and are better left out.

    A few of those are a warning; more than half of the texts are an error.

    Raises:
        MissingFontError: most texts cannot be drawn; it names packages that bring a font.
    """
    texts = list(texts)
    families, missing = find_fonts(texts, font)
    undrawable = {text for text in texts if missing.intersection(text)}
    if undrawable:
        sample = "".join(sorted(missing)[:10])
        help_ = INSTALL_CJK if any(map(is_cjk, missing)) else "install one that has them, or name one with --font"
        message = f"font: no installed font has {len(missing)} of the characters ({sample}); {help_}"
        if 2 * len(undrawable) > len(set(texts)):
            raise MissingFontError(message)
        warnings.warn(f"{message}. {len(undrawable)} labels are left out", stacklevel=2)
    return families, undrawable
