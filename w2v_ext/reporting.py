"""What a command says while its work is not done yet: lines whose loss must not cost the work."""

from __future__ import annotations

import contextlib
import os
import sys
from typing import TextIO

from .packages import import_package


class Report:
    """Lines for the user, above a progress bar; once they cannot be written (a closed pipe), there are no more.

    ``print`` would raise, and end the command before its result is on the disk.
    """

    def __init__(self, out: TextIO | None) -> None:
        """Write to ``out``; None says nothing."""
        self._out = out

    def line(self, text: str) -> None:
        """Write one line, at once; characters that the terminal's encoding lacks become escapes."""
        if self._out is None:
            return
        try:
            encoding = getattr(self._out, "encoding", None) or "utf-8"
            text = text.encode(encoding, "backslashreplace").decode(encoding)
            import_package("tqdm", "tqdm", "for the progress bars").tqdm.write(text, file=self._out)
            self._out.flush()
        except (OSError, ValueError):  # ValueError: it is closed
            if self._out in (sys.stdout, sys.stderr):  # or the interpreter would complain once more when it ends
                discard(self._out)
            self._out = None


def discard(out: TextIO) -> None:
    """Let what is written to standard output or standard error from now on go nowhere."""
    descriptor = os.open(os.devnull, os.O_WRONLY)
    with contextlib.suppress(OSError, ValueError):  # it is closed, or no file
        os.dup2(descriptor, out.fileno())
    os.close(descriptor)
