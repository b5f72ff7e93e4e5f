"""What the commands share: reading vectors with a progress bar, errors in one line, the exit status."""

from __future__ import annotations

import contextlib
import os
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from tqdm import tqdm

from . import formats
from .formats.streams import Progress
from .formats.table import VectorTable
from .keyedvectors import KeyedVectors
from .reporting import Report, discard


@contextlib.contextmanager
def progress_bar(what: str, unit: str) -> Iterator[Progress]:
    """Show a bar on a terminal, and give the function that moves it: (done, of how many)."""
    with tqdm(desc=what, unit=unit, unit_scale=True, disable=None, leave=False) as bar:

        def show(done: int, total: int | None) -> None:
            bar.total = total
            bar.update(done - bar.n)

        yield show


def read_table(path: str, argument: str, name: str | None = None, **options: Any) -> tuple[str, VectorTable]:
    """Read vectors in any format: the format's name, and the table.

    Args:
        path: file or directory.
        argument: what the command calls it, for the error.
        name: of the format; None tells it by what is in the file.
        options: of `formats.load_vectors`.

    Raises:
        FileNotFoundError: there is no such path.
        FormatError, OSError: as `formats.load_vectors`.
    """
    if not Path(path).exists():
        raise FileNotFoundError(f"{argument}: no such file or directory: {path}")
    with progress_bar("reading", "B") as progress:
        chosen = (formats.sniff(path) if name is None else formats.find_format(name)).name
        return chosen, formats.load_vectors(path, chosen, progress=progress, **options)


def read_vectors(path: str, argument: str) -> KeyedVectors:
    """Read vectors in any format as `KeyedVectors`; see `read_table`.

    Raises:
        ValueError: there is no word in them.
    """
    _, table = read_table(path, argument)
    if not table.words:
        raise ValueError(f"{argument}: expected at least one word, {path} has none")
    return KeyedVectors(*table)


def run_command(action: Callable[[], object]) -> int:
    """Run a command; warnings become notes and errors one line, on standard error.

    Returns:
        The exit status: 0, 2 for bad input, 130 when interrupted. Whoever reads the output may stop early.
    """
    try:
        with warnings.catch_warnings():
            notes = Report(sys.stderr)
            warnings.showwarning = lambda message, *_: notes.line(f"note: {message}")
            action()
        if sys.stdout is not None:  # it is where standard output is closed
            sys.stdout.flush()
    except BrokenPipeError:  # whoever read the lines has seen enough; what was to be written is: see `Report`
        discard(sys.stdout)
    except KeyboardInterrupt:
        print("\ninterrupted", file=sys.stderr)
        return 130
    except (ValueError, OSError, ImportError, MemoryError) as error:
        print(f"error: {_plain(error)}", file=sys.stderr)
        return 2
    return 0


def run_subcommand(
    commands: dict[str, Callable[[list[str]], object]], description: str, arguments: Sequence[str] | None
) -> int:
    """Run the command that the first argument names with the others, as :func:`run_command` does; gives its status."""
    arguments = sys.argv[1:] if arguments is None else list(arguments)
    if not arguments or arguments[0] in ("-h", "--help"):
        print(description, file=sys.stdout if arguments else sys.stderr)
        return 0 if arguments else 2
    if arguments[0] not in commands:
        print(f"error: command: expected one of {', '.join(commands)}, got {arguments[0]!r}", file=sys.stderr)
        return 2
    return run_command(lambda: commands[arguments[0]](arguments[1:]))


def _plain(error: BaseException) -> str:
    """The message of an error; of the system's, without its number."""
    if isinstance(error, OSError) and error.strerror:
        return f"{os.fspath(error.filename)}: {error.strerror}" if error.filename is not None else error.strerror
    return str(error)
