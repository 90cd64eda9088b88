"""``helixsim report RUN``: rebuild figures and HTML of a finished run from its files."""

from __future__ import annotations

import argparse
from pathlib import Path

from helixsim.errors import DataError


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Register the command."""
    parser = subparsers.add_parser(
        "report",
        help="rebuild the HTML report of a run directory",
        description="Draw the figures of a finished run again and write its report.html, from the files in its "
        "directory alone. Nothing is simulated.",
    )
    parser.add_argument("run", type=Path, metavar="RUN", help="run directory, for example runs/quickstart/0123456789ab")
    parser.set_defaults(func=run)


def run(args: argparse.Namespace) -> int:
    """Execute the command; return the exit code."""
    from helixsim.report.html import build_report

    directory: Path = args.run
    if not (directory / "manifest.json").exists():
        raise DataError(f"{directory}: not a finished run (it has no manifest.json)")
    print(build_report(directory))
    return 0
