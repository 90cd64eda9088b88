"""stdout and stderr: colour where a terminal wants it, plain text elsewhere. rich is imported when first needed."""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Protocol, Self, TextIO

from helixsim.cli.streams import Guarded, encodable
from helixsim.escape import printable

if TYPE_CHECKING:
    from rich.console import Console
    from rich.text import Text

PLAIN_WIDTH = 120
"""Columns of tables that go to a file or a pipe."""

HEARTBEAT_S = 30.0
"""Progress that is written line by line says that it is still at work after a silence of this to twice this [s]."""


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


def show(text: str) -> None:
    """Print text with colours in it, made of names that ``escape.printable_tree`` has been through."""
    if wants_colour(sys.stdout):
        stream = _unguarded(sys.stdout)
        print(encodable(text, getattr(stream, "encoding", None)), file=stream)
    else:
        print(text)


def _unguarded(stream: TextIO) -> TextIO:
    """Return the stream that takes the codes of colours; texts for it must be printable."""
    return stream.inner if isinstance(stream, Guarded) else stream


def _console(stream: TextIO) -> Console:
    from rich.console import Console

    colour = wants_colour(stream)
    stream = _unguarded(stream)
    width = None if stream.isatty() else PLAIN_WIDTH
    return Console(file=stream, force_terminal=colour, no_color=not colour, highlight=False, width=width)


@contextmanager
def progress(what: str, *, quiet: bool = False) -> Iterator[Advance]:
    """Show how far something is, on stderr: a bar on a terminal, elsewhere a line per tenth, nothing if ``quiet``.

    Nothing appears for work of less than a second. The parts of the work are unlike, so the time taken so far is shown
    and no time left: it is not known.
    """
    if quiet:
        yield lambda done, now="": None
    elif sys.stderr.isatty() and not os.environ.get("NO_COLOR"):
        with _bar(what) as advance:
            yield advance
    else:
        with _Lines(what) as lines:
            yield lambda done, now="": lines.advance(done, "; ".join(now.split("\n")))


class AdvanceTable(Protocol):
    """Tells a progress display how much is done, 0..1, how it stands, and the best so far, head first."""

    def __call__(self, done: float, state: str, best: Sequence[Sequence[str]] = ()) -> None:
        """Show it."""
        ...


@contextmanager
def table_progress(what: str, *, counted: bool = False, quiet: bool = False) -> Iterator[AdvanceTable]:
    """Show how far many tasks are and the best so far, on stderr.

    A live table on a terminal; elsewhere a line per tenth; nothing if ``quiet``. ``counted``: the number of tasks is
    known and they are alike, so the time left can be told from those that are done.
    """
    if quiet:
        yield lambda done, state, best=(): None
    elif sys.stderr.isatty() and not os.environ.get("NO_COLOR"):
        with _live_table(what, counted) as advance:
            yield advance
    else:
        with _Lines(what, counted) as lines:
            yield lambda done, state, best=(): lines.advance(done, state + _top(best))


def _top(best: Sequence[Sequence[str]]) -> str:
    """Return the best so far in words."""
    if len(best) < 2:
        return ""
    return f"; best so far: {', '.join(f'{name} {value}' for name, value in zip(best[0], best[1], strict=True))}"


@contextmanager
def _live_table(what: str, counted: bool) -> Iterator[AdvanceTable]:
    from rich import box
    from rich.console import Group
    from rich.live import Live
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn
    from rich.table import Table
    from rich.text import Text

    bar = Progress(
        TextColumn("{task.description}", markup=False), BarColumn(), TaskProgressColumn(), TimeElapsedColumn(),
        TextColumn("{task.fields[left]}"),
    )  # fmt: skip
    task = bar.add_task(what, total=1.0, left="")
    started_s = time.monotonic()
    with Live(bar, console=stderr(), transient=True, refresh_per_second=4) as live:

        def advance(done: float, state: str, best: Sequence[Sequence[str]] = ()) -> None:
            bar.update(task, completed=done, left=_left(time.monotonic() - started_s, done) if counted else "")
            state_text = Text(f"  {printable(state, one_line=True)}", no_wrap=True, overflow="ellipsis")
            shown: list[Progress | Text | Table] = [bar, state_text]
            if len(best) > 1:
                table = Table(title="best so far", title_justify="left", box=box.SIMPLE_HEAD)
                for number, name in enumerate(best[0]):
                    is_text = number == 0 or not best[1][number][:1].isdecimal()
                    table.add_column(_text(name), justify="left" if is_text else "right", overflow="fold")
                for row in best[1:]:
                    table.add_row(*map(_text, row))
                shown.append(table)
            live.update(Group(*shown))

        yield advance


def _text(cell: str) -> Text:
    """Return a cell as it is written, without markup."""
    from rich.text import Text

    return Text(printable(cell, one_line=True))


def _left(passed_s: float, done: float) -> str:
    """Return the time left in words, once a tenth is done."""
    return f"about {_duration(passed_s / done - passed_s)} left" if 0.1 <= done < 1 else ""


def _duration(seconds: float) -> str:
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"


@contextmanager
def _bar(what: str) -> Iterator[Advance]:
    from rich.console import Group
    from rich.live import Live
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn
    from rich.text import Text

    columns = (
        TextColumn("{task.description}", markup=False), BarColumn(), TaskProgressColumn(), TimeElapsedColumn(),
    )  # fmt: skip
    bar = Progress(*columns)
    task = bar.add_task(what, total=1.0, visible=False)
    with Live(bar, console=stderr(), transient=True, refresh_per_second=4) as live:
        started_s = time.monotonic()

        def advance(done: float, now: str = "") -> None:
            is_visible = time.monotonic() - started_s > 1.0
            several = now.split("\n") if "\n" in now else []
            label = printable(f"{what}: {now}" if now and not several else what, one_line=True)
            bar.update(task, completed=done, description=label, visible=is_visible)
            rows = [
                Text(f"  {printable(row, one_line=True)}", no_wrap=True, overflow="ellipsis")
                for row in several
                if is_visible
            ]
            live.update(Group(bar, *rows))

        yield advance


class _Lines:
    """Progress line by line: one per tenth, and one where there would be none for ``HEARTBEAT_S``."""

    def __init__(self, what: str, counted: bool = False) -> None:
        self._what = what
        self._counted = counted
        self._started_s = time.monotonic()
        self._spoke = False
        self._tenths = 0
        self._state = ""
        self._stream = sys.stderr
        self._ended = threading.Event()
        self._heart = threading.Thread(target=self._beat, daemon=True)

    def __enter__(self) -> Self:
        self._heart.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._heart.join()

    def advance(self, done: float, state: str) -> None:
        """Note how far it is, and say so at each new tenth."""
        self._state = state
        tenths = int(done * 10 + 1e-9)
        passed_s = time.monotonic() - self._started_s
        if tenths > self._tenths and passed_s > 1.0:
            self._tenths = tenths
            left = _left(passed_s, done) if self._counted else ""
            self._say(f"{tenths * 10} % after {_duration(passed_s)}{left and f', {left}'}")

    def _beat(self) -> None:
        while not self._ended.wait(HEARTBEAT_S):
            if not self._spoke:
                self._say(f"at work for {_duration(time.monotonic() - self._started_s)}")
            self._spoke = False

    def _say(self, how_far: str) -> None:
        self._spoke = True
        state = f" ({self._state})" if self._state else ""
        with suppress(OSError, ValueError):  # whoever read it has gone
            print(printable(f"{self._what}: {how_far}{state}", one_line=True), file=self._stream, flush=True)
