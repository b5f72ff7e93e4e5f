"""Files that are whole or not there: what every writer of the library shares."""

from __future__ import annotations

import contextlib
import glob
import json
import os
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any


class FormatError(ValueError):
    """A file does not hold what its format says. The message names the file and the line, record or byte."""


def parse_json(data: bytes | str) -> Any:
    """Return the value of a JSON text. ValueError where it is none, or nested too deep to be read."""
    try:
        return json.loads(data)
    except RecursionError:
        raise ValueError("nested too deep") from None


def own_metadata(file: Any) -> dict[str, Any]:
    """Return the JSON object in the metadata of an open safetensors file of this library; empty where there is none.

    Raises:
        ValueError: there is something else.
    """
    about = parse_json((file.metadata() or {}).get("w2v_ext", "{}"))
    if not isinstance(about, dict):
        raise ValueError(f"its metadata are no JSON object, but {type(about).__name__}")
    return about


def _fsync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


_ABANDONED_SECONDS = 600  # without a write; a process of another machine may have the same number as a dead one here


def abandoned(path: Path) -> bool:
    """Tell whether a temporary file or directory was left by a process that was killed.

    It is where the process whose number stands in its name (`.x.PID.tmp`, `.building-PID-x`) is gone, and nothing has
    been written for ten minutes.
    """
    found = re.search(r"\.(\d+)\.tmp$|^\.\w+-(\d+)-", path.name)
    if found is None or os.name != "posix":
        return False
    try:
        os.kill(int(found[1] or found[2]), 0)
        return False
    except ProcessLookupError:
        pass
    except (OSError, OverflowError):  # it runs, for somebody else
        return False
    try:
        written = [p.lstat().st_mtime for p in ([path, *path.iterdir()] if path.is_dir() else [path])]
    except OSError:
        return False  # somebody else has removed it
    return time.time() - max(written) > _ABANDONED_SECONDS


def make_new(path: Path) -> None:
    """Make an empty file where there is none; one that is there goes first, a link too, which nobody then writes
    through: a directory that came from elsewhere may hold one."""
    path.unlink(missing_ok=True)
    os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))


def remove_abandoned(path: Path) -> None:
    """Remove temporary files of ``path`` that killed processes have left."""
    for left in path.parent.glob(f".{glob.escape(path.name)}.*.tmp"):
        if abandoned(left):
            left.unlink(missing_ok=True)


def write_files(
    writers: dict[Path, Callable[[Path], object]], before_renaming: Callable[[], object] | None = None
) -> None:
    """Let each writer fill a temporary file, and rename all of them to their real names once all are on disk.

    What a process that was killed in here has left of the same files is removed.

    Args:
        writers: by path; each is given the temporary path to write to.
        before_renaming: called when all is on disk, under temporary names.

    Raises:
        OSError: naming the real path whose writing failed; no temporary file is left, no real one touched.
    """
    for path in writers:
        remove_abandoned(path)
    temporary = {path: path.with_name(f".{path.name}.{os.getpid()}.tmp") for path in writers}
    try:
        for path, write in writers.items():
            try:
                make_new(temporary[path])
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
        if before_renaming is not None:
            before_renaming()
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
