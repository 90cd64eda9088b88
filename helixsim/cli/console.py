"""Consoles and progress displays on stdout and stderr; rich is imported on first use."""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any, Protocol, Self, TextIO

from helixsim.cli.streams import Guarded, encodable
from helixsim.escape import printable

if TYPE_CHECKING:
    from rich.console import Console
    from rich.text import Text

    from helixsim.report.pages import PageTable

PLAIN_WIDTH = 120
"""Width of tables in a file or a pipe [columns]."""

HEARTBEAT_S = 30.0
"""Line-by-line progress repeats its state after one to two of these intervals without output [s]."""


class Advance(Protocol):
    """Callback of a progress display: share done, 0..1, current work (a line per task), best results, head first."""

    def __call__(self, done: float, now: str = "", best: Sequence[Sequence[str]] = ()) -> None:
        """Update the display."""
        ...


COLOURS = ("auto", "always", "never")
"""Choices of ``--color``."""

_choice = "auto"


def set_colour(choice: str) -> None:
    """Set the colour of all streams: one of ``COLOURS``; ``auto``: as ``wants_colour`` finds."""
    global _choice  # noqa: PLW0603  # one command line, one choice
    _choice = choice


def wants_colour(stream: TextIO) -> bool:
    """Return whether output is coloured: by --color, NO_COLOR, FORCE_COLOR, else on a terminal that is not dumb."""
    if _choice != "auto":
        return _choice == "always"
    if os.environ.get("NO_COLOR"):
        return False
    return bool(os.environ.get("FORCE_COLOR")) or (stream.isatty() and os.environ.get("TERM") != "dumb")


def stdout() -> Console:
    """Return the console for results."""
    return _console(sys.stdout)


def stderr() -> Console:
    """Return the console for progress, warnings and errors."""
    return _console(sys.stderr)


def show(text: str) -> None:
    """Print text that may contain colour codes; names in it must be escaped (``escape.printable_tree``)."""
    if wants_colour(sys.stdout):
        stream = _unguarded(sys.stdout)
        print(encodable(text, getattr(stream, "encoding", None)), file=stream)
    else:
        print(text)


def show_table(table: PageTable, *, texts: int = 0) -> None:
    """Print a table as wide as stdout; the first ``texts`` columns are aligned to the left."""
    from helixsim.report.tables import plain_table

    colour, width = wants_colour(sys.stdout), stdout().width
    show(plain_table(table.head, table.rows, width=width, color=colour, texts=texts))


def print_json(document: Any) -> None:
    """Print the answer of ``--json``."""
    print(json.dumps(document, indent=2, ensure_ascii=False))


def note(*lines: str) -> None:
    """Print lines that are not empty on stderr."""
    for line in filter(None, lines):
        print(line, file=sys.stderr)


def _unguarded(stream: TextIO) -> TextIO:
    """Return the stream below the guard, which accepts colour codes; text written to it must be printable."""
    return stream.inner if isinstance(stream, Guarded) else stream


def _console(stream: TextIO) -> Console:
    from rich.console import Console

    colour = wants_colour(stream)
    stream = _unguarded(stream)
    width = None if stream.isatty() else PLAIN_WIDTH
    return Console(file=stream, force_terminal=colour, no_color=not colour, highlight=False, width=width)


@contextmanager
def progress(what: str, *, counted: bool = False, quiet: bool = False) -> Iterator[Advance]:
    """Show progress on stderr: a bar with the best results on a terminal, otherwise a line per 10 %, nothing if quiet.

    ``counted``: the number of tasks is known and they are similar, so the
    remaining time is estimated; otherwise the elapsed time is shown.
    """
    if quiet:
        yield lambda done, now="", best=(): None
    elif sys.stderr.isatty() and not os.environ.get("NO_COLOR"):
        with _bar(what, counted) as advance:
            yield advance
    else:
        with _Lines(what, counted) as lines:
            yield lambda done, now="", best=(): lines.advance(done, "; ".join(now.split("\n")) + _top(best))


def _top(best: Sequence[Sequence[str]]) -> str:
    """Return the best result as text."""
    if len(best) < 2:
        return ""
    return f"; best so far: {', '.join(f'{name} {value}' for name, value in zip(best[0], best[1], strict=True))}"


def _text(cell: str) -> Text:
    """Return a cell as text without markup."""
    from rich.text import Text

    return Text(printable(cell, one_line=True))


def _left(passed_s: float, done: float) -> str:
    """Return the estimated remaining time as text, from 10 % on."""
    return f"about {_duration(passed_s / done - passed_s)} left" if 0.1 <= done < 1 else ""


def _duration(seconds: float) -> str:
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"


@contextmanager
def _bar(what: str, counted: bool) -> Iterator[Advance]:
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
    with Live(bar, console=stderr(), transient=True, refresh_per_second=4) as live:
        started_s = time.monotonic()

        def advance(done: float, now: str = "", best: Sequence[Sequence[str]] = ()) -> None:
            bar.update(task, completed=done, left=_left(time.monotonic() - started_s, done) if counted else "")
            rows = now.split("\n") if now else []
            shown: list[Progress | Text | Table] = [bar]
            shown += [Text(f"  {printable(row, one_line=True)}", no_wrap=True, overflow="ellipsis") for row in rows]
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


class _Lines:
    """Progress in lines: one per 10 %, and one after ``HEARTBEAT_S`` without output."""

    def __init__(self, what: str, counted: bool = False) -> None:
        self._what = what
        self._counted = counted
        self._started_s = time.monotonic()
        self._has_reported = False
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
        """Record the progress, and print it at each new 10 %."""
        self._state = state
        tenths = int(done * 10 + 1e-9)
        passed_s = time.monotonic() - self._started_s
        if tenths > self._tenths and passed_s > 1.0:
            self._tenths = tenths
            left = _left(passed_s, done) if self._counted else ""
            self._report(f"{tenths * 10} % after {_duration(passed_s)}{left and f', {left}'}")

    def _beat(self) -> None:
        while not self._ended.wait(HEARTBEAT_S):
            if not self._has_reported:
                self._report(f"running for {_duration(time.monotonic() - self._started_s)}")
            self._has_reported = False

    def _report(self, how_far: str) -> None:
        self._has_reported = True
        state = f" ({self._state})" if self._state else ""
        with suppress(OSError, ValueError):  # the reading end is closed
            print(printable(f"{self._what}: {how_far}{state}", one_line=True), file=self._stream, flush=True)
