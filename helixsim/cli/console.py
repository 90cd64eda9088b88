"""stdout and stderr: colour where a terminal wants it, plain text elsewhere. rich is imported when first needed."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Protocol, TextIO

if TYPE_CHECKING:
    from rich.console import Console

PLAIN_WIDTH = 120
"""Columns of tables that go to a file or a pipe."""


class Advance(Protocol):
    """Tells a progress display how much is done, 0..1, and what is being done now."""

    def __call__(self, done: float, now: str = "") -> None:
        """Show it."""
        ...


def wants_colour(stream: TextIO) -> bool:
    """Return whether colour belongs on a stream: NO_COLOR and FORCE_COLOR decide, else whether it is a terminal."""
    if os.environ.get("NO_COLOR"):
        return False
    return bool(os.environ.get("FORCE_COLOR")) or stream.isatty()


def stdout() -> Console:
    """Return the console of the answer."""
    return _console(sys.stdout)


def stderr() -> Console:
    """Return the console of progress, warnings and errors."""
    return _console(sys.stderr)


def _console(stream: TextIO) -> Console:
    from rich.console import Console

    colour = wants_colour(stream)
    width = None if stream.isatty() else PLAIN_WIDTH
    return Console(file=stream, force_terminal=colour, no_color=not colour, highlight=False, width=width)


@contextmanager
def progress(what: str, *, quiet: bool = False) -> Iterator[Advance]:
    """Show how far something is, on stderr: a bar on a terminal, elsewhere a line per tenth, nothing if ``quiet``.

    Nothing appears for work of less than a second.
    """
    if quiet:
        yield lambda done, now="": None
    elif sys.stderr.isatty() and not os.environ.get("NO_COLOR"):
        with _bar(what) as advance:
            yield advance
    else:
        yield _lines(what)


@contextmanager
def _bar(what: str) -> Iterator[Advance]:
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeRemainingColumn())
    with Progress(*columns, console=stderr(), transient=True) as bar:
        task = bar.add_task(what, total=1.0, visible=False)
        started_s = time.monotonic()

        def advance(done: float, now: str = "") -> None:
            label = f"{what}: {now}" if now else what
            bar.update(task, completed=done, description=label, visible=time.monotonic() - started_s > 1.0)

        yield advance


def _lines(what: str) -> Advance:
    started_s = time.monotonic()
    said = 0

    def advance(done: float, now: str = "") -> None:
        nonlocal said
        tenths = int(done * 10 + 1e-9)
        if tenths > said and time.monotonic() - started_s > 1.0:
            said = tenths
            print(f"{what}: {tenths * 10} %{f' ({now})' if now else ''}", file=sys.stderr, flush=True)

    return advance
