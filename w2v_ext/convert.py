"""``python -m w2v_ext.convert SRC DST``: vectors from any format to any other."""

from __future__ import annotations

import contextlib
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro
from tqdm import tqdm

from . import formats
from .embeddings import limit_norms
from .formats.registry import FORMATS, format_for_writing
from .formats.streams import Progress
from .formats.table import VectorTable

DESCRIPTION = """Convert vectors from one format to another.

The format of SRC is told by what is in it, that of DST by its suffix (none: a model directory); --from and --to name
them otherwise. Text and binary rows may be compressed (.gz, .xz, .zst). Formats:

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


@contextlib.contextmanager
def _bar(what: str, unit: str) -> Iterator[Progress]:
    with tqdm(desc=what, unit=unit, unit_scale=True, disable=None, leave=False) as bar:

        def show(done: int, total: int | None) -> None:
            bar.total = total
            bar.update(done - bar.n)

        yield show


def read_source(src: str, name: str | None = None, **options: object) -> tuple[str, VectorTable]:
    """Read vectors with a progress bar on a terminal; warnings become notes. The format's name, and the table."""
    if not Path(src).exists():
        raise FileNotFoundError(f"src: no such file or directory: {src}")
    with warnings.catch_warnings(record=True) as caught, _bar("reading", "B") as progress:
        warnings.simplefilter("always")
        chosen = (formats.sniff(src) if name is None else formats.find_format(name)).name
        table = formats.load_vectors(src, chosen, progress=progress, **options)
    for warning in caught:
        print(f"note: {warning.message}", file=sys.stderr)
    return chosen, table


def run(line: CommandLine) -> None:
    """Convert, as the command line does."""
    dst = Path(line.dst)
    chosen = format_for_writing(dst) if line.to is None else formats.find_format(line.to)
    check_destination(Path(line.src), dst, is_directory=chosen.is_directory, force=line.force)
    started = time.perf_counter()
    name, table = read_source(
        line.src,
        line.from_,
        limit=line.limit,
        errors=line.errors,
        encoding=line.encoding,
        bad_rows=line.bad_rows,
        threads=line.threads,
    )
    read = time.perf_counter()
    words, vectors, counts = table
    if line.replace_space is not None:
        words = [line.replace_space.join(word.split()) for word in words]
    if line.max_norm is not None:
        vectors = limit_norms(vectors, line.max_norm)
    is_new = not dst.exists()
    try:
        with _bar("writing", " words") as progress:
            formats.save_vectors(dst, words, vectors, counts, chosen.name, threads=line.threads, progress=progress)
    except BaseException:
        if is_new and chosen.is_directory:
            with contextlib.suppress(OSError):
                dst.rmdir()  # nothing came of it
        raise
    written = time.perf_counter()
    print(
        f"{len(words):,} words x {vectors.shape[1]}: {name} {line.src} ({read - started:.2f} s) "
        f"-> {chosen.name} {dst} ({written - read:.2f} s)"
    )


def report_errors(action: Callable[[], object]) -> int:
    """Run a command; print what went wrong. The exit status: 0, 2 for bad input, 130 when interrupted."""
    try:
        action()
    except KeyboardInterrupt:
        print("\ninterrupted", file=sys.stderr)
        return 130
    except (ValueError, OSError, ImportError, MemoryError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; gives its exit status: 0, 2 for bad input, 130 when interrupted."""
    line = tyro.cli(
        tyro.conf.FlagCreatePairsOff[CommandLine],
        args=arguments,
        prog="python -m w2v_ext.convert",
        description=DESCRIPTION,
    )
    return report_errors(lambda: run(line))


if __name__ == "__main__":
    sys.exit(main())
