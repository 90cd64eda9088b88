"""stdout and stderr: colour where a terminal wants it, plain text elsewhere. rich is imported when first needed."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Protocol, TextIO

if TYPE_CHECKING:
    from rich.console import Console

PLAIN_WIDTH = 120
"""Columns of tables that go to a file or a pipe."""


GOES_ON = "placements and simulations are kept, the same command goes on where it was"
"""What an interrupted search has to say."""


class Advance(Protocol):
    """Tells a progress display how much is done, 0..1, and what is being done now, a line for each thing."""

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


class AdvanceTable(Protocol):
    """Tells a progress display how much is done, 0..1, how it stands, and the best so far, head first."""

    def __call__(self, done: float, state: str, best: Sequence[Sequence[str]] = ()) -> None:
        """Show it."""
        ...


@contextmanager
def table_progress(what: str, *, quiet: bool = False) -> Iterator[AdvanceTable]:
    """Show how far many tasks are, the time left and the best so far, on stderr.

    A live table on a terminal; elsewhere a line per tenth; nothing if ``quiet``.
    """
    if quiet:
        yield lambda done, state, best=(): None
    elif sys.stderr.isatty() and not os.environ.get("NO_COLOR"):
        with _live_table(what) as advance:
            yield advance
    else:
        yield _table_lines(what)


@contextmanager
def _live_table(what: str) -> Iterator[AdvanceTable]:
    from rich import box
    from rich.console import Group
    from rich.live import Live
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn
    from rich.table import Table
    from rich.text import Text

    bar = Progress(
        TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TextColumn("{task.fields[left]}")
    )
    task = bar.add_task(what, total=1.0, left="")
    started_s = time.monotonic()
    with Live(bar, console=stderr(), transient=True, refresh_per_second=4) as live:

        def advance(done: float, state: str, best: Sequence[Sequence[str]] = ()) -> None:
            bar.update(task, completed=done, left=_left(time.monotonic() - started_s, done))
            shown: list[Progress | Text | Table] = [bar, Text(f"  {state}", no_wrap=True, overflow="ellipsis")]
            if len(best) > 1:
                table = Table(title="best so far", title_justify="left", box=box.SIMPLE_HEAD)
                for number, name in enumerate(best[0]):
                    is_text = number == 0 or not best[1][number][:1].isdecimal()
                    table.add_column(name, justify="left" if is_text else "right")
                for row in best[1:]:
                    table.add_row(*row)
                shown.append(table)
            live.update(Group(*shown))

        yield advance


def _table_lines(what: str) -> AdvanceTable:
    started_s = time.monotonic()
    said = 0

    def advance(done: float, state: str, best: Sequence[Sequence[str]] = ()) -> None:
        nonlocal said
        tenths = int(done * 10 + 1e-9)
        passed_s = time.monotonic() - started_s
        if tenths > said and passed_s > 1.0:
            said = tenths
            left = f", {_left(passed_s, done)}" if done < 1 else ""
            top = ""
            if len(best) > 1:
                pairs = zip(best[0], best[1], strict=True)
                top = f"; best so far: {', '.join(f'{name} {value}' for name, value in pairs)}"
            print(f"{what}: {tenths * 10} % ({state}{left}{top})", file=sys.stderr, flush=True)

    return advance


def _left(passed_s: float, done: float) -> str:
    """Return the time left in words, once enough is done to tell."""
    return f"about {_duration(passed_s / done - passed_s)} left" if 0.01 < done < 1 else ""


def _duration(seconds: float) -> str:
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"


@contextmanager
def _bar(what: str) -> Iterator[Advance]:
    from rich.console import Group
    from rich.live import Live
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn
    from rich.text import Text

    columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeRemainingColumn())
    bar = Progress(*columns)
    task = bar.add_task(what, total=1.0, visible=False)
    with Live(bar, console=stderr(), transient=True, refresh_per_second=4) as live:
        started_s = time.monotonic()

        def advance(done: float, now: str = "") -> None:
            is_visible = time.monotonic() - started_s > 1.0
            several = now.split("\n") if "\n" in now else []
            label = f"{what}: {now}" if now and not several else what
            bar.update(task, completed=done, description=label, visible=is_visible)
            rows = [Text(f"  {row}", no_wrap=True, overflow="ellipsis") for row in several if is_visible]
            live.update(Group(bar, *rows))

        yield advance


def _lines(what: str) -> Advance:
    started_s = time.monotonic()
    said = 0

    def advance(done: float, now: str = "") -> None:
        nonlocal said
        tenths = int(done * 10 + 1e-9)
        spent_s = time.monotonic() - started_s
        if tenths > said and spent_s > 1.0:
            said = tenths
            left = f", about {spent_s * (1 - done) / done:.0f} s left" if done < 1 else ""
            now = now.replace("\n", "; ")
            print(f"{what}: {tenths * 10} %{left}{f' ({now})' if now else ''}", file=sys.stderr, flush=True)

    return advance
