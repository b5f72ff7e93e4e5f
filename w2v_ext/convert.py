"""``python -m w2v_ext.convert SRC DST``: vectors from any format to any other."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Literal

import tyro

from . import formats
from .command_line import progress_bar, read_table, run_command
from .embeddings import limit_norms
from .fasttext_vectors import FastTextVectors, has_subwords
from .formats.fasttext_write import write_fasttext_model
from .formats.registry import FORMATS, format_for_writing
from .json_values import json_text
from .reporting import Report

WITH_NGRAMS = ("model", "fasttext-bin")

DESCRIPTION = """Convert vectors from one format to another.

The format of SRC is told by what is in it, that of DST by its suffix (none: a model directory); --from and --to name
them otherwise. Text, binary rows and fastText's .bin may be compressed (.gz, .xz, .zst). A model directory and a
fasttext-bin have the n-grams of a SRC that has any, unless --limit, --max-norm or --replace-space change the words; a
note says where they are left out. Formats:

""" + "\n".join(f"  {f.name}: {f.about}" for f in FORMATS.values())


@dataclass(frozen=True)
class CommandLine:
    """What the command takes."""

    src: tyro.conf.Positional[Annotated[str, tyro.conf.arg(metavar="SRC")]]
    """File or directory to read."""
    dst: tyro.conf.Positional[Annotated[str, tyro.conf.arg(metavar="DST")]]
    """File or directory to write; it is whole or not there."""
    to: Annotated[str | None, tyro.conf.arg(metavar="FORMAT")] = None
    """Format to write."""
    from_: Annotated[str | None, tyro.conf.arg(name="from", metavar="FORMAT")] = None
    """Format to read."""
    limit: int | None = None
    """Only the first so many words."""
    errors: Literal["strict", "replace", "ignore"] = "strict"
    """On words that cannot be decoded: stop, or replace or leave out what is wrong and go on."""
    encoding: str = "utf-8"
    """Of the words that are read; UTF-8 is written."""
    bad_rows: Literal["error", "skip"] = "error"
    """On damaged rows, and a count in the header that is wrong: stop, or leave them out and go on."""
    replace_space: str | None = None
    """Put this in place of white space within words, for formats that cannot hold it."""
    max_norm: float | None = None
    """Shorten vectors that are longer than this."""
    threads: int = 0
    """Threads for text; 0 takes all cores."""
    as_json: Annotated[bool, tyro.conf.arg(name="json")] = False
    """Report as JSON."""
    force: bool = False
    """Overwrite DST."""


def check_destination(src: Path, dst: Path, *, is_directory: bool, force: bool) -> None:
    """Refuse to overwrite.

    Raises:
        ValueError: `dst` is there and `force` is not given, is `src` itself, or is a directory where a file is wanted.
    """
    if not dst.exists():
        return
    if src.exists() and dst.samefile(src):
        raise ValueError(f"dst: {dst} is what is read")
    if dst.is_dir() != is_directory:
        is_there, wanted = ("a directory", "a file") if dst.is_dir() else ("a file", "a directory")
        raise ValueError(f"dst: {dst} is {is_there}, and the format is {wanted}")
    if not force and (dst.is_file() or any(dst.iterdir())):
        raise ValueError(f"dst: {dst} is there already; --force overwrites it")


def _whole_model(src: str, source: str, target: str, words: list[str]) -> Callable[[Path], object] | None:
    """What writes a model with all that it has besides words and vectors; None where the formats have no more.

    Args:
        src: path of the model.
        source, target: names of the formats.
        words: as they were read; if the model has others, they are what is wanted.
    """
    if source == target == "fasttext-bin":
        model = formats.load_fasttext_bin(src)
        return partial(write_fasttext_model, model=model) if model.words == words else None
    if source in WITH_NGRAMS and target in WITH_NGRAMS and has_subwords(src):
        vectors = FastTextVectors.load(src)
        write = vectors.save_fasttext_bin if target == "fasttext-bin" else vectors.save
        return write if vectors.index_to_key == words else None
    return None


def run(line: CommandLine) -> None:
    """Convert, as the command line does."""
    dst = Path(line.dst)
    chosen = format_for_writing(dst) if line.to is None else formats.find_format(line.to)
    check_destination(Path(line.src), dst, is_directory=chosen.is_directory, force=line.force)
    started = time.perf_counter()
    name, table = read_table(
        line.src,
        "src",
        line.from_,
        limit=line.limit,
        errors=line.errors,
        encoding=line.encoding,
        bad_rows=line.bad_rows,
        threads=line.threads,
    )
    read = time.perf_counter()
    words, vectors, counts = table
    changed = line.limit is not None or line.replace_space is not None or line.max_norm is not None
    whole = None if changed else _whole_model(line.src, name, chosen.name, words)
    if whole is None and name in WITH_NGRAMS and has_subwords(line.src):
        reason = "what is asked for changes the words" if chosen.name in WITH_NGRAMS else f"{chosen.name} has none"
        Report(sys.stderr).line(f"note: the n-grams of {line.src} are left out: {reason}")
    if line.replace_space is not None:
        words = [line.replace_space.join(word.split()) for word in words]
    if line.max_norm is not None:
        vectors = limit_norms(vectors, line.max_norm)
    is_new = not dst.exists()
    try:
        with progress_bar("writing", " words") as progress:
            if whole is not None:
                whole(dst)
            else:
                formats.save_vectors(dst, words, vectors, counts, chosen.name, threads=line.threads, progress=progress)
    except BaseException:
        if is_new and chosen.is_directory:
            with contextlib.suppress(OSError):
                dst.rmdir()  # nothing came of it
        raise
    written = time.perf_counter()
    if line.as_json:
        shape = {"words": len(words), "dim": vectors.shape[1], "read_seconds": read - started}
        files = {"src": line.src, "from": name, "dst": str(dst), "to": chosen.name}
        print(json_text({**files, **shape, "write_seconds": written - read}))
        return
    print(
        f"{len(words):,} words x {vectors.shape[1]}: {name} {line.src} ({read - started:.2f} s) "
        f"-> {chosen.name} {dst} ({written - read:.2f} s)"
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; gives its exit status: 0, 2 for bad input, 130 when interrupted."""
    line = tyro.cli(
        tyro.conf.FlagCreatePairsOff[CommandLine],
        args=arguments,
        prog="python -m w2v_ext.convert",
        description=DESCRIPTION,
    )
    return run_command(lambda: run(line))


if __name__ == "__main__":
    sys.exit(main())
