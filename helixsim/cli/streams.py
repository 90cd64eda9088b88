"""The standard streams: stdout carries only results, and no text controls the terminal."""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any, TextIO, cast

from helixsim.escape import code_point, printable


def claim_stdout() -> None:
    """Move ``sys.stdout`` to a new descriptor and make descriptor 1 a duplicate of stderr.

    C libraries that print (HiGHS 1.16 does on first use) write to descriptor 1, as do child processes; from here on
    that output goes to stderr. Not undone, because the C library buffers text until the process ends: call it only in
    a process that runs the command line and nothing else.

    A closed stream (``>&-``) is opened on the null device. Otherwise the next file that is opened would get its number,
    and ``print(file=sys.stderr)`` would write into it.
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
    """Discard pending text of a stdout that cannot be written, so that the flush at exit does not fail again."""
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
    """Return a text stream on a descriptor with the encoding and buffering of another stream."""
    is_unbuffered = getattr(like, "write_through", False)  # python -u
    return io.TextIOWrapper(
        open(descriptor, "wb", 0 if is_unbuffered else -1),
        encoding=getattr(like, "encoding", "utf-8"),
        errors=getattr(like, "errors", "backslashreplace"),
        line_buffering=getattr(like, "line_buffering", False),
        write_through=is_unbuffered,
    )


class Guarded:
    r"""A text stream that escapes control characters and characters its encoding lacks.

    Characters that control a terminal or change the writing direction become ``\uXXXX``. Characters that the encoding
    lacks become a similar ASCII character if there is one (box drawing, dashes, typographic signs), else ``\uXXXX``;
    with ``exact``, for JSON, always the latter, which JSON decodes to the character itself.
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
    """Guard ``sys.stdout`` and ``sys.stderr`` within the context."""
    stdout, stderr = sys.stdout, sys.stderr
    sys.stdout, sys.stderr = cast(TextIO, Guarded(stdout)), cast(TextIO, Guarded(stderr))
    try:
        yield
    finally:
        sys.stdout, sys.stderr = stdout, stderr


def write_exactly() -> None:
    """Use exact escapes on stdout from now on: its text is read by programs."""
    if isinstance(sys.stdout, Guarded):
        sys.stdout.exact = True


def encodable(text: str, encoding: str | None, *, exact: bool = False) -> str:
    """Return text with the characters that an encoding lacks replaced; None: a stream in memory, all are allowed."""
    if encoding is None or _fits(text, encoding):
        return text
    return "".join(
        character if _fits(character, encoding)
        else code_point(character) if exact
        else _SIMILAR.get(character) or code_point(character)
        for character in text
    )  # fmt: skip


def _fits(text: str, encoding: str) -> bool:
    try:
        text.encode(encoding)
    except UnicodeEncodeError:
        return False
    return True


_SIMILAR = {
    **dict.fromkeys("─━╌╍┄┅┈┉═╴╶╸╺╼╾–—‐‑−", "-"),
    **dict.fromkeys("│┃║╎╏┆┇", "|"),
    **dict.fromkeys("┌┐└┘├┤┬┴┼╭╮╰╯╔╗╚╝╠╣╦╩╬╪╡╞", "+"),
    **dict.fromkeys("\u00a0\u2007\u2009\u202f", " "),
    **dict.fromkeys("“”„«»", '"'),
    **dict.fromkeys("‘’‚", "'"),
    "×": "x", "·": ".", "•": "*", "…": "~", "±": "+-", "≤": "<=", "≥": ">=", "≈": "~", "→": "->", "µ": "u", "μ": "u",
    "✓": "+", "✗": "x", "∞": "inf", "α": "a", "²": "2", "³": "3",
}  # fmt: skip
