"""Prints how fast helixsim is: ``python -m tests.bench [CASE ...] [--all] [--repeat N] [--against COMMIT]``.

With ``--against`` every case and command is run in turn by this code and by that of another commit, on the same machine
in the same minutes, and the ratio of their CPU seconds is printed: those of different days or machines do not compare.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

from tests.bench.cases import CASES, COMMANDS, LONG_COMMANDS, ROOT, Spent, measure, measure_apart, measure_command

CASE_COLUMNS = (
    "case", "what", "CPU s", "output tokens/CPU s", "token-hops/CPU s", "events", "peak MB", "simulated s/CPU s",
    "CPU ms/request",
)  # fmt: skip
COMMAND_COLUMNS = ("command", "CPU s", "peak MB")
Measured = TypeVar("Measured")
Choose = Callable[[Sequence[float]], float]
"""The fastest or the median of some repetitions."""


def main() -> None:
    """Run the cases one after the other and print a Markdown table row by row."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description=__doc__)
    known = ", ".join(CASES)
    parser.add_argument(
        "cases", nargs="*", metavar="CASE", help=f"one of {known}, or run (the commands); without: the short ones"
    )
    parser.add_argument("--all", action="store_true", help="the long ones too")
    parser.add_argument("--repeat", type=int, default=1, help="run each so often")
    parser.add_argument("--median", action="store_true", help="print the median of the repetitions, not the fastest")
    parser.add_argument("--against", metavar="COMMIT", help="run this commit too, in turn, and print the ratio")
    parser.add_argument("--inside", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    unknown = [name for name in args.cases if name not in (*CASES, "run")]
    if unknown:
        parser.error(f"unknown case {', '.join(unknown)}; known: {known}, run")
    if args.inside:
        print(json.dumps(measure(args.cases[0])))
        return
    names = args.cases or [*(name for name, case in CASES.items() if args.all or not case.is_long), "run"]
    choose = statistics.median_low if args.median else min
    with checkout(args.against) as other:
        against = () if other is None else (f"{args.against}: CPU s", "peak MB", "ratio")
        if names != ["run"]:
            heading(*CASE_COLUMNS, *against)
        for name in names:
            if name != "run":
                print_case(name, args.repeat, choose, other)
        if "run" in names:
            heading(*COMMAND_COLUMNS, *against)
            for title, arguments in {**COMMANDS, **(LONG_COMMANDS if args.all else {})}.items():
                print_command(title, arguments, args.repeat, choose, other)


@contextmanager
def checkout(commit: str | None) -> Iterator[Path | None]:
    """Yield a folder with the code of a commit, None without one."""
    if commit is None:
        yield None
        return
    git = ["git", "-C", str(ROOT), "worktree"]
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder) / "helixsim"
        added = subprocess.run(
            [*git, "add", "--detach", str(root), commit], capture_output=True, text=True, check=False
        )
        if added.returncode:
            sys.exit(f"--against {commit}: {added.stderr.strip()}")
        try:
            yield root
        finally:
            subprocess.run([*git, "remove", "--force", str(root)], check=True, capture_output=True)


def in_turn(
    ours: Callable[[], Measured | None], theirs: Callable[[], Measured | None] | None, repeat: int
) -> tuple[list[Measured], list[Measured]]:
    """Return what both measure, one after the other; theirs is empty if they cannot."""
    here, there = [], []
    for number in range(repeat):
        here.append(ours())
        if theirs is not None and (number == 0 or there):
            there += [one for one in [theirs()] if one is not None]
    return [one for one in here if one is not None], there


def print_case(name: str, repeat: int, choose: Choose, other: Path | None) -> None:
    """Measure a case and print its row."""
    former = CASES[name].formerly

    as_former = ""

    def theirs() -> dict[str, float] | None:
        nonlocal as_former
        found = None if as_former else measure_apart(name, other)
        if found is None and former is not None:
            as_former = f" ({former})"
            found = measure_apart(former, other)
        return found

    here, there = in_turn(lambda: measure_apart(name), None if other is None else theirs, repeat)
    figures = {key: choose([one[key] for one in here]) for key in here[0]}
    spent = [Spent(one["cpu_s"], int(one["peak_rss_bytes"])) for one in there]
    print_row(*cells(name, figures), *compared(figures["cpu_s"], choose, other, spent, as_former))


def print_command(title: str, arguments: Sequence[str], repeat: int, choose: Choose, other: Path | None) -> None:
    """Measure a command and print its row."""

    def theirs() -> Spent | None:
        return measure_command(arguments, other)

    here, there = in_turn(lambda: measure_command(arguments), None if other is None else theirs, repeat)
    cpu_s = choose([one.cpu_s for one in here])
    peak = choose([one.peak_rss_bytes for one in here])
    print_row(title, f"{cpu_s:.2f}", f"{peak / 1e6:.0f}", *compared(cpu_s, choose, other, there))


def compared(
    cpu_s: float, choose: Choose, other: Path | None, there: Sequence[Spent], as_former: str = ""
) -> list[str]:
    """Return the cells of the other commit: its CPU seconds, its peak memory, and ours over its CPU seconds."""
    if other is None:
        return []
    if not there:
        return ["not there", "", ""]
    their_cpu_s = choose([one.cpu_s for one in there])
    peak = choose([one.peak_rss_bytes for one in there])
    return [f"{their_cpu_s:.2f}{as_former}", f"{peak / 1e6:.0f}", f"{cpu_s / their_cpu_s:.2f}"]


def heading(*names: str) -> None:
    """Print the head of a table."""
    print("\n| " + " | ".join(names) + " |\n|" + "---|" * len(names), flush=True)


def print_row(*row: str) -> None:
    """Print a row of a table."""
    print("| " + " | ".join(row) + " |", flush=True)


def cells(name: str, figures: dict[str, float]) -> list[str]:
    """Return the cells of one case."""
    cpu_s = figures["cpu_s"]
    return [
        name,
        CASES[name].title,
        f"{cpu_s:.2f}",
        f"{figures['output_tokens'] / cpu_s:,.0f}".replace(",", " "),
        f"{figures['token_hops'] / cpu_s:,.0f}".replace(",", " "),
        f"{figures['events']:,.0f}".replace(",", " "),
        f"{figures['peak_rss_bytes'] / 1e6:.0f}",
        f"{figures['simulated_s'] / cpu_s:.0f}",
        f"{1000 * cpu_s / figures['requests']:.2f}",
    ]


main()
