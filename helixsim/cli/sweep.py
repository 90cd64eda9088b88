"""``helixsim sweep SWEEP``: many variants of an experiment, in parallel, resumable."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from helixsim.cli import console, options
from helixsim.errors import ConfigError, ExitCode

if TYPE_CHECKING:
    from helixsim.planning.sweep import Sweep, SweepProgress
    from helixsim.results.sweep import SweepResults


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Register the command."""
    parser = subparsers.add_parser(
        "sweep",
        help="run many variants of an experiment, in parallel, resumable",
        description="Run an experiment at all combinations of axis values and seeds. Every point is an ordinary run "
        "directory and is reused if it exists; tables and figures over all points go to OUT/sweeps/NAME/HASH. An "
        "interrupted sweep continues when the command is repeated.",
        parents=[options.common(), options.settings(), options.output(), options.strict()],
    )
    parser.add_argument("sweep", type=Path, metavar="SWEEP", help="sweep file (YAML); its keys: inspect schema --sweep")
    parser.add_argument(
        "--seeds", type=options.positive, metavar="N", help="number of replications (default: the file's)"
    )
    parser.add_argument(
        "--resume", action="store_true", help="continue a sweep that was started before; an error if there is none"
    )
    parser.add_argument("--reports", action="store_true", help="also write figures and an HTML report for every point")
    parser.add_argument(
        "--parquet", action="store_true", help="also write the tables as Parquet, in full precision (extra: parquet)"
    )
    parser.set_defaults(func=run)


def run(args: argparse.Namespace) -> int:
    """Execute the command; return the exit code."""
    from helixsim.config.sweep_file import load_sweep
    from helixsim.planning.sweep import prepare, run_sweep
    from helixsim.report.sweep_files import require_parquet

    if args.parquet:
        require_parquet()
    sweep = prepare(load_sweep(args.sweep, options.edits(args), seeds=args.seeds))
    begun = sweep.is_begun(args.out)
    if args.resume and not begun:
        raise ConfigError(f"--resume: no sweep of the current {args.sweep} was started in {args.out}")
    if not args.quiet:
        console.note(_heading(sweep), "resuming: finished points are reused" if begun and not args.force else "")
    show = console.progress("sweep", counted=True, quiet=args.quiet)
    with show as advance, options.executor(args) as executor:
        directory, results = run_sweep(
            sweep, args.out, executor, force=args.force, check=args.check,
            with_reports=args.reports, with_parquet=args.parquet,
            on_progress=lambda state: advance(*_shown(sweep, state)),
        )  # fmt: skip
    _print(results, directory, args)
    console.note(*_failures(results, directory, args))
    if not args.quiet:
        console.note(f"{directory / 'report.html'} written")
    codes = [failure["exit_code"] for failure in results.failures]
    return options.failures_code(codes, args) if results.rows else max(codes, default=ExitCode.OK)


def _failures(results: SweepResults, directory: Path, args: argparse.Namespace) -> list[str]:
    """Return a line per reason of failed points."""
    by_reason: dict[str, list[dict[str, Any]]] = {}
    for failure in results.failures:
        by_reason.setdefault(failure["message"].strip(), []).append(failure)
    lines = []
    for reason, failures in by_reason.items():
        first = failures[0]
        severity = options.severity(first["exit_code"], args)
        where = f"point {first['point']}, seed {first['seed']}" + (first["system"] and f", {first['system']}")
        more = (
            f"; {len(failures) - 1} more fail for this reason, see {directory / 'failed.csv'}" if failures[1:] else ""
        )
        lines.append(f"helixsim: {severity}: {where}: {reason} ({first['settings']}{more})")
    return lines


def _heading(sweep: Sweep) -> str:
    combinations = len(sweep.points) // len(sweep.seeds)
    seeds = ", ".join(map(str, sweep.seeds))
    return f"{sweep.plan.name}: {combinations} combinations x seeds {seeds} = {len(sweep.points)} points"


def _shown(sweep: Sweep, state: SweepProgress) -> tuple[float, str, list[tuple[str, ...]]]:
    """Return the share done, the state, and a table of the best results."""
    from helixsim.results.sweep import LABELS, plain_value, short_names
    from helixsim.units import number

    metric = sweep.objective.metric
    axes = [edit.key for block in sweep.plan.blocks for edit in block.points[0]]
    sign = -1.0 if sweep.objective.is_max else 1.0
    known = sorted((row for row in state.rows if row.get(metric) is not None), key=lambda row: sign * row[metric])
    head = (*short_names(axes), "seed", "system", LABELS.get(metric, metric))
    table = [
        (*(str(plain_value(row[axis])) for axis in axes), str(row["seed"]), row["system"], number(row[metric]))
        for row in known[:5]
    ]
    failed = f", {state.failed} failed" if state.failed else ""
    found = f", {state.found} cached" if state.found else ""
    return state.share, f"{state.done} of {state.total}{found}{failed}", [head, *table]


def _print(results: SweepResults, directory: Path, args: argparse.Namespace) -> None:
    document: dict[str, Any] = json.loads((directory / "sweep.json").read_text(encoding="utf-8"))
    if args.json:
        console.print_json(document)
        return
    from helixsim.report.sweep_files import best_table

    console.show_table(best_table(results, document["points"]))
