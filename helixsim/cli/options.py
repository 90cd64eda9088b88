"""Options that several commands share, as parent parsers."""

from __future__ import annotations

import argparse
import math
import re
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from helixsim.errors import ExitCode, shortened

if TYPE_CHECKING:
    from helixsim.config.edit import Edit
    from helixsim.experiment import Experiment
    from helixsim.runtime.pool import Executor


MOST = 10_000
"""The largest number of processes, seeds or simulations that is taken for meant."""


def common() -> argparse.ArgumentParser:
    """Return the parent of every command: how much is said, and in which form."""
    parser = argparse.ArgumentParser(add_help=False)
    parser.add_argument("--json", action="store_true", help="print one JSON document on stdout and nothing else")
    parser.add_argument("-q", "--quiet", action="store_true", help="no progress on stderr")
    parser.add_argument("-v", "--verbose", action="count", default=0, help="say more; with an error: the traceback")
    return parser


def experiment() -> argparse.ArgumentParser:
    """Return the parent of commands that load an experiment."""
    parser = argparse.ArgumentParser(add_help=False)
    parser.add_argument("experiment", type=Path, metavar="EXP", help="experiment file (YAML)")
    parser.add_argument(
        "--set",
        dest="edits",
        action="append",
        default=[],
        metavar="KEY.PATH=VALUE",
        help="change one value of the experiment, list entries by number: systems.0.routing=random (repeatable)",
    )
    parser.add_argument("--seed", type=int, metavar="N", help="the same as --set seed=N")
    return parser


def output(*, checks: bool = True) -> argparse.ArgumentParser:
    """Return the parent of commands that compute and leave files; ``checks``: with ``--check``."""
    parser = argparse.ArgumentParser(add_help=False)
    parser.add_argument("--out", type=Path, default=Path("runs"), metavar="DIR", help="where runs go (default: runs)")
    parser.add_argument("--jobs", type=positive, metavar="N", help="processes to use (default: one per core)")
    parser.add_argument("--force", action="store_true", help="replace what an earlier run left")
    if checks:
        parser.add_argument("--check", action="store_true", help="check the expensive invariants too")
    return parser


def settings() -> argparse.ArgumentParser:
    """Return the parent of commands whose file names an experiment."""
    parser = argparse.ArgumentParser(add_help=False)
    parser.add_argument(
        "--set",
        dest="edits",
        action="append",
        default=[],
        metavar="KEY.PATH=VALUE",
        help="change one value of the experiment, on top of what the file sets (repeatable)",
    )
    return parser


def strict() -> argparse.ArgumentParser:
    """Return the parent of commands that have results even if some of their parts have none."""
    parser = argparse.ArgumentParser(add_help=False)
    parser.add_argument(
        "--strict",
        action="store_true",
        help="exit code 4 if any system, variant or point has no feasible placement (default: a warning while others "
        "have results)",
    )
    return parser


def failures_code(codes: Iterable[int], args: argparse.Namespace) -> int:
    """Return the exit code of a command of which some parts failed, with these exit codes, and others have results."""
    return max((code for code in codes if args.strict or code != ExitCode.INFEASIBLE), default=ExitCode.OK)


def severity(code: int, args: argparse.Namespace) -> str:
    """Return what a failed part with this exit code is called: ``warning`` where it does not decide the command's."""
    return "error" if failures_code([code], args) else "warning"


def executors() -> argparse.ArgumentParser:
    """Return the parent of commands with many independent tasks."""
    parser = argparse.ArgumentParser(add_help=False)
    where = parser.add_mutually_exclusive_group()
    where.add_argument(
        "--executor",
        choices=("processes", "serial"),
        default="processes",
        help="in a pool of processes (default), or one after the other in this process",
    )
    where.add_argument(
        "--dask",
        metavar="ADDRESS",
        help="on a dask cluster: the address of its scheduler, or 'local' for one on this machine; its workers must "
        "see the same files. Trust it as yourself: its machines run the tasks as code, and what they send is unpickled "
        "here; use TLS or a network of your own (extra: cluster)",
    )
    return parser


def executor(args: argparse.Namespace) -> Executor:
    """Return where the tasks are to be carried out."""
    from helixsim.runtime.pool import Dask, Processes, Serial, available_cores

    jobs: int = args.jobs or available_cores()
    if args.dask is not None:
        return Dask(args.dask, jobs, args.out)
    return Serial() if args.executor == "serial" else Processes(jobs)


def edits(args: argparse.Namespace) -> list[Edit]:
    """Return the changes that ``--set`` asks for, with ``--seed`` as the last of them."""
    from helixsim.config.edit import parse_option

    texts: list[str] = args.edits
    if getattr(args, "seed", None) is not None:
        texts = [*texts, f"seed={args.seed}"]
    return [parse_option(text) for text in texts]


def loaded(args: argparse.Namespace) -> Experiment:
    """Return the experiment of the command line, changed as ``--set`` says."""
    from helixsim.experiment import Experiment

    return Experiment.load(args.experiment).with_(edits(args))


def positive(text: str) -> int:
    """Return a number of things (processes, seeds, simulations) from 1 to ``MOST``."""
    value = int(text) if re.fullmatch(r"\+?0*[0-9]{1,9}", text) else 0
    if not 1 <= value <= MOST:
        raise argparse.ArgumentTypeError(f"expected a whole number from 1 to {MOST}, got {shortened(repr(text))}")
    return value


def decimal(text: str) -> float:
    """Return a finite number; digits of other scripts, which look like others of ours, are refused."""
    value = float(text) if text.isascii() else math.nan
    if not math.isfinite(value):
        raise ValueError(text)
    return value
