"""Files that are whole or not there: what every writer of the library shares."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable
from pathlib import Path


class FormatError(ValueError):
    """A file does not hold what its format says. The message names the file and the line, record or byte."""


def _fsync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_files(writers: dict[Path, Callable[[Path], object]]) -> None:
    """Let each writer fill a temporary file, and rename all of them to their real names once all are on disk.

    Raises:
        OSError: naming the real path whose writing failed; no temporary file is left, no real one touched.
    """
    temporary = {path: path.with_name(f".{path.name}.{os.getpid()}.tmp") for path in writers}
    try:
        for path, write in writers.items():
            try:
                temporary[path].touch()
                mode = temporary[path].stat().st_mode
                write(temporary[path])
                temporary[path].chmod(mode)  # safetensors makes its file readable by its owner only
                _fsync(temporary[path])
            except OSError as error:
                raise OSError(error.errno, f"cannot write {path}: {error.strerror or error}") from error
            except Exception as error:
                if type(error).__name__ == "SafetensorError":  # by its name: not every file needs the package
                    raise OSError(f"cannot write {path}: {error}") from error
                raise
        for path in writers:
            os.replace(temporary[path], path)
        with contextlib.suppress(OSError):  # some file systems cannot fsync a directory; the files themselves are safe
            for directory in {path.parent for path in writers}:
                _fsync(directory)
    finally:
        for path in temporary.values():
            with contextlib.suppress(OSError):
                path.unlink(missing_ok=True)


def cache_directory(cache_dir: str | os.PathLike[str] | None, kind: str) -> Path:
    """Return the folder ``kind`` of the cache: ``cache_dir``, or ``$W2V_EXT_CACHE``, or ``~/.cache/w2v_ext``."""
    root = cache_dir or os.environ.get("W2V_EXT_CACHE") or Path.home() / ".cache" / "w2v_ext"
    return Path(root).expanduser() / kind
