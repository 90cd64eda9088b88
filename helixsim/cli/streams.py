"""The standard streams of the process: stdout belongs to the answer, whatever C libraries print."""

from __future__ import annotations

import io
import os
import sys
from typing import TextIO


def claim_stdout() -> None:
    """Give ``sys.stdout`` a descriptor of its own and make descriptor 1 another name of stderr.

    A C library that prints (HiGHS 1.16 does when it is first used) writes to descriptor 1, which child processes
    inherit as well; from here on all of that goes to stderr. Only for a process that is the command line and nothing
    else: it is not undone, because the C library keeps text in a buffer of its own until the process ends.

    A stream that is closed (``>&-``) is opened on the null device. Left closed, its number would go to the next file
    that is opened, and ``print(file=sys.stderr)`` would write to stdout.
    """
    for descriptor in (0, 1, 2):
        try:
            os.fstat(descriptor)
        except OSError:
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)  # takes the lowest number that is free: this one
    if sys.stderr is None:
        sys.stderr = _text(os.dup(2), like=None)
    if sys.stdout is None:
        sys.stdout = _text(os.dup(1), like=None)
    elif _descriptor(sys.stdout) == 1:
        sys.stdout.flush()
        sys.stdout = _text(os.dup(1), like=sys.stdout)
    os.dup2(2, 1)


def settle_stdout() -> None:
    """Drop what is left for a stdout that cannot be written, or Python would complain again when it flushes at exit."""
    try:
        sys.stdout.flush()
    except OSError:
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, sys.stdout.fileno())
        os.close(null)
        sys.stdout.flush()


def _descriptor(stream: TextIO) -> int | None:
    try:
        return stream.fileno()
    except (AttributeError, OSError, ValueError):  # a stream in memory
        return None


def _text(descriptor: int, like: TextIO | None) -> io.TextIOWrapper:
    """Return a text stream on a descriptor that treats text as another stream does."""
    is_unbuffered = getattr(like, "write_through", False)  # python -u
    return io.TextIOWrapper(
        open(descriptor, "wb", 0 if is_unbuffered else -1),
        encoding=getattr(like, "encoding", "utf-8"),
        errors=getattr(like, "errors", "backslashreplace"),
        line_buffering=getattr(like, "line_buffering", False),
        write_through=is_unbuffered,
    )
