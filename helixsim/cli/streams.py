"""The standard streams: stdout belongs to the answer, whatever C libraries print, and no text steers the terminal."""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any, TextIO, cast

from helixsim.escape import code_point, printable


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


class Guarded:
    r"""A text stream whose text cannot steer the terminal and always has a form in the stream's encoding.

    Characters that steer a terminal or turn the direction of writing come out as ``\uXXXX``. What the encoding lacks
    is replaced by an ASCII look-alike where there is one (box drawing, dashes, typographic signs), else by ``\uXXXX``
    as well; with ``exact``, for JSON, always by the latter, which JSON reads as the character itself.
    """

    def __init__(self, inner: TextIO) -> None:
        self.inner = inner
        self.exact = False

    def write(self, text: str) -> int:
        """Write text; return its length."""
        self.inner.write(encodable(printable(text), getattr(self.inner, "encoding", None), exact=self.exact))
        return len(text)

    def writelines(self, lines: Iterable[str]) -> None:
        """Write several texts."""
        for line in lines:
            self.write(line)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)


@contextmanager
def guarded() -> Iterator[None]:
    """Guard ``sys.stdout`` and ``sys.stderr``: the one place where everything that is said leaves."""
    stdout, stderr = sys.stdout, sys.stderr
    sys.stdout, sys.stderr = cast(TextIO, Guarded(stdout)), cast(TextIO, Guarded(stderr))
    try:
        yield
    finally:
        sys.stdout, sys.stderr = stdout, stderr


def write_exactly() -> None:
    """From now on no look-alikes on stdout: its text is read by programs."""
    if isinstance(sys.stdout, Guarded):
        sys.stdout.exact = True


def encodable(text: str, encoding: str | None, *, exact: bool = False) -> str:
    """Return text that an encoding has all characters for; None: a stream in memory, which takes everything."""
    if encoding is None or _fits(text, encoding):
        return text
    return "".join(
        character if _fits(character, encoding)
        else code_point(character) if exact
        else _LOOKS_LIKE.get(character) or code_point(character)
        for character in text
    )  # fmt: skip


def _fits(text: str, encoding: str) -> bool:
    try:
        text.encode(encoding)
    except UnicodeEncodeError:
        return False
    return True


_LOOKS_LIKE = {
    **dict.fromkeys("─━╌╍┄┅┈┉═╴╶╸╺╼╾–—‐‑−", "-"),
    **dict.fromkeys("│┃║╎╏┆┇", "|"),
    **dict.fromkeys("┌┐└┘├┤┬┴┼╭╮╰╯╔╗╚╝╠╣╦╩╬╪╡╞", "+"),
    **dict.fromkeys("\u00a0\u2007\u2009\u202f", " "),
    **dict.fromkeys("“”„«»", '"'),
    **dict.fromkeys("‘’‚", "'"),
    "×": "x", "·": ".", "•": "*", "…": "~", "±": "+-", "≤": "<=", "≥": ">=", "≈": "~", "→": "->", "µ": "u", "μ": "u",
    "α": "a", "²": "2", "³": "3",
}  # fmt: skip
