"""``helixsim report RUN``: rebuild figures and HTML of a finished run from its files."""

from __future__ import annotations

import argparse
from pathlib import Path


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Register the command."""
    parser = subparsers.add_parser(
        "report",
        help="rebuild the HTML report of a run directory",
        description="Redraw the figures of a finished run and rewrite its report.html, from the files in its "
        "directory. Nothing is simulated.",
    )
    parser.add_argument("run", type=Path, metavar="RUN", help="run directory, for example runs/quickstart/0123456789ab")
    parser.set_defaults(func=run)


def run(args: argparse.Namespace) -> int:
    """Execute the command; return the exit code."""
    from helixsim.report.html import build_report
    from helixsim.runtime.manifest import checked_manifest

    directory: Path = args.run
    print(build_report(directory, checked_manifest(directory)))
    return 0
