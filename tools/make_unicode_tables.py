"""Write csrc/text/unicode_tables.h from Python's own Unicode database.

    python tools/make_unicode_tables.py [FILE]

The header holds sorted ranges only (a few kB); the C++ side spreads them into flat tables once, when the first
tokeniser is made. Characters of a newer Unicode than that of the Python which wrote the header count as unassigned:
not a letter, and never changed by lower-casing.
"""

import sys
import unicodedata
from collections.abc import Callable
from pathlib import Path

ALL = [chr(i) for i in range(0x110000)]
CJK_NAMES = (
    "CJK UNIFIED IDEOGRAPH",
    "CJK COMPATIBILITY IDEOGRAPH",
    "HALFWIDTH KATAKANA",
    "HANGUL SYLLABLE",
    "HENTAIGANA",
    "HIRAGANA",
    "IDEOGRAPHIC",
    "KATAKANA",
)


def is_word(char: str) -> bool:
    """Tell whether `char` belongs inside a word: a letter, a mark, a decimal digit or an underscore."""
    category = unicodedata.category(char)
    return category[0] in "LM" or category == "Nd" or char == "_" or is_cjk(char)


def is_mark(char: str) -> bool:
    """Tell whether `char` is a combining mark, which stays with the character before it."""
    return unicodedata.category(char)[0] == "M"


def is_cjk(char: str) -> bool:
    """Tell whether `char` is an ideograph, a kana or a hangul syllable: a token of its own for `char`."""
    name = unicodedata.name(char, "")
    return name.startswith(CJK_NAMES) and unicodedata.category(char) in ("Lo", "Lm", "Nl")


def ranges(belongs: Callable[[str], bool]) -> list[tuple[int, int]]:
    """Return the closed ranges of code points for which `belongs` is true."""
    found: list[tuple[int, int]] = []
    for code, char in enumerate(ALL):
        if belongs(char):
            if found and found[-1][1] == code - 1:
                found[-1] = (found[-1][0], code)
            else:
                found.append((code, code))
    return found


def lower_runs() -> list[tuple[int, int, int, int]]:
    """Return (first, last, step, delta) runs of code points whose lower-case form is delta further on."""
    runs: list[tuple[int, int, int, int]] = []
    for code, char in enumerate(ALL):
        lowered = char.lower()
        if len(lowered) != 1 or lowered == char:
            continue
        delta = ord(lowered) - code
        if runs and runs[-1][3] == delta:
            first, last, step, _ = runs[-1]
            gap = code - last
            if gap <= 2 and (first == last or gap == step):
                runs[-1] = (first, code, gap, delta)
                continue
        runs.append((code, code, 1, delta))
    return runs


def table(kind: str, name: str, rows: list[tuple[int, ...]]) -> str:
    """Return the C++ text of one array, several rows a line."""
    cells = ["{" + ", ".join(str(n) if n < 0 else f"0x{n:X}" for n in row) + "}," for row in rows]
    lines, line = [], "   "
    for cell in cells:
        if len(line) + 1 + len(cell) > 118:
            lines.append(line)
            line = "   "
        line += " " + cell
    return f"inline constexpr {kind} {name}[] = {{\n" + "\n".join([*lines, line]) + "\n};\n"


def main() -> None:
    """Write the header."""
    target = Path(sys.argv[1] if len(sys.argv) > 1 else Path(__file__).parents[1] / "csrc/text/unicode_tables.h")
    parts = [
        "// Written by tools/make_unicode_tables.py: do not edit. Closed ranges of code points, sorted; a\n"
        "// lower-casing run {first, last, step, delta} moves every step-th code point from first to last by delta.\n"
        "// clang-format off\n#pragma once\n\n#include <cstdint>\n\nnamespace w2v::text {\n\n"
        "struct CodeRange { uint32_t first, last; };\n"
        "struct LowerRun { uint32_t first, last, step; int32_t delta; };\n\n"
        f'inline constexpr char kUnicodeVersion[] = "{unicodedata.unidata_version}";\n',
        table("CodeRange", "kSpaceRanges", ranges(str.isspace)),
        table("CodeRange", "kWordRanges", ranges(is_word)),
        table("CodeRange", "kMarkRanges", ranges(is_mark)),
        table("CodeRange", "kCjkRanges", ranges(is_cjk)),
        table("LowerRun", "kLowerRuns", lower_runs()),
        "}  // namespace w2v::text\n",
    ]
    target.write_text("\n".join(parts), encoding="ascii")


if __name__ == "__main__":
    main()
