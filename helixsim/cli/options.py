"""Options shared by several commands, as parent parsers."""

from __future__ import annotations

import argparse
import math
import re
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from helixsim.cli.console import COLOURS
from helixsim.errors import ConfigError, ExitCode, did_you_mean, shortened

if TYPE_CHECKING:
    from helixsim.config.edit import Edit
    from helixsim.experiment import Experiment
    from helixsim.runtime.pool import Executor


MOST = 10_000
"""Largest accepted number of processes, seeds or simulations; larger ones are taken for typing errors."""


def common() -> argparse.ArgumentParser:
    """Return the parent of every command: verbosity and form of the output."""
    parser = argparse.ArgumentParser(add_help=False)
    parser.add_argument("--json", action="store_true", help="print one JSON document on stdout and nothing else")
    parser.add_argument("-q", "--quiet", action="store_true", help="no progress on stderr")
    parser.add_argument(
        "-v", "--verbose", action="count", default=0, help="print all figures; after an error, the traceback"
    )
    parser.add_argument(
        "--color",
        choices=COLOURS,
        default="auto",
        help="colour of results (default: auto, on a terminal unless NO_COLOR is set)",
    )
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
    _add_allow_unsupported(parser)
    return parser


def output(out: Path = Path("runs"), *, checks: bool = True) -> argparse.ArgumentParser:
    """Return the parent of every study: where its results go and which executor runs its tasks.

    ``checks``: with ``--check``.
    """
    parser = argparse.ArgumentParser(add_help=False)
    parser.add_argument("--out", type=Path, default=out, metavar="DIR", help=f"output directory (default: {out})")
    parser.add_argument(
        "--jobs", type=positive, metavar="N", help="number of processes; 1: this one (default: one per core)"
    )
    where = parser.add_mutually_exclusive_group()
    where.add_argument("--executor", choices=("processes", "serial"), default="processes", help=argparse.SUPPRESS)
    where.add_argument(
        "--dask",
        metavar="ADDRESS",
        help="run tasks on a dask cluster: address of its scheduler, or 'local' for one on this machine; workers need "
        "access to the same files. Scheduler and workers must be trusted: they execute code, and their results are "
        "unpickled here; use TLS or a private network (extra: cluster)",
    )
    parser.add_argument("--force", action="store_true", help="ignore cached results and compute again")
    if checks:
        parser.add_argument("--check", action="store_true", help="also check the expensive invariants")
    return parser


def settings() -> argparse.ArgumentParser:
    """Return the parent of commands whose input file names an experiment."""
    parser = argparse.ArgumentParser(add_help=False)
    parser.add_argument(
        "--set",
        dest="edits",
        action="append",
        default=[],
        metavar="KEY.PATH=VALUE",
        help="change one value of the experiment, after the changes in the file (repeatable)",
    )
    _add_allow_unsupported(parser)
    return parser


def _add_allow_unsupported(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--allow-unsupported",
        action="store_true",
        help="simulate what the models do not represent, labelled unsupported; the same as "
        "--set engine.allow_unsupported=true",
    )


def strict() -> argparse.ArgumentParser:
    """Return the parent of commands that may succeed in part."""
    parser = argparse.ArgumentParser(add_help=False)
    parser.add_argument(
        "--strict",
        action="store_true",
        help="exit code 4 if any system, variant or point has no feasible placement (default: a warning while others "
        "have results)",
    )
    return parser


def add_reliability(parser: argparse.ArgumentParser, what: str) -> None:
    """Add ``--mtbf`` and ``--mttr``."""
    parser.add_argument(
        "--mtbf",
        action="append",
        default=[],
        metavar="[TYPE=]TIME",
        help="mean time of a node from a repair to the next failure ('30 d', or 't4=10 d' for a type; repeatable): "
        f"{what}",
    )
    parser.add_argument("--mttr", metavar="TIME", help="mean time from a failure to the repair, with --mtbf")


def failures_code(codes: Iterable[int], args: argparse.Namespace) -> int:
    """Return the exit code of a command that succeeded in part; ``codes`` are those of the failed parts."""
    return max((code for code in codes if args.strict or code != ExitCode.INFEASIBLE), default=ExitCode.OK)


def severity(code: int, args: argparse.Namespace) -> str:
    """Return ``error`` if a failed part with this exit code makes the command fail, else ``warning``."""
    return "error" if failures_code([code], args) else "warning"


def executor(args: argparse.Namespace) -> Executor:
    """Return the executor of the tasks; ``--executor serial``, of older versions, is ``--jobs 1``."""
    from helixsim.runtime.executors import executor as make_executor

    return make_executor(1 if args.executor == "serial" else args.jobs, args.dask, args.out)


def edits(args: argparse.Namespace) -> list[Edit]:
    """Return the edits of ``--set``, followed by that of ``--seed``."""
    from helixsim.config.edit import parse_option

    texts: list[str] = args.edits
    if getattr(args, "seed", None) is not None:
        texts = [*texts, f"seed={args.seed}"]
    if getattr(args, "allow_unsupported", False):
        texts = [*texts, "engine.allow_unsupported=true"]
    return [parse_option(text) for text in texts]


def loaded(args: argparse.Namespace) -> Experiment:
    """Return the experiment of the command line with its edits."""
    from helixsim.experiment import Experiment

    path: Path = args.experiment
    if not path.exists() and path.parent.is_dir():
        hint = did_you_mean(path.name, sorted(one.name for one in path.parent.glob("*.y*ml")))
        if hint:
            raise ConfigError(f"{path}: no such file{hint}")
    return Experiment.load(path).with_(edits(args))


def positive(text: str) -> int:
    """Return a whole number (of processes, seeds, simulations) from 1 to ``MOST``."""
    value = int(text) if re.fullmatch(r"\+?0*[0-9]{1,9}", text) else 0
    if not 1 <= value <= MOST:
        raise argparse.ArgumentTypeError(f"expected a whole number from 1 to {MOST}, got {shortened(repr(text))}")
    return value


def decimal(text: str) -> float:
    """Return a finite number; digits that are not ASCII are refused."""
    value = float(text) if text.isascii() else math.nan
    if not math.isfinite(value):
        raise ValueError(text)
    return value
