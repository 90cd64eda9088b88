"""``helixsim report RUN``: rebuild the HTML of a finished run, or draw its figures, from its files."""

from __future__ import annotations

import argparse
from datetime import UTC, datetime
from pathlib import Path

from helixsim.errors import ConfigError, unknown_name

BENCHMARKS = ("vllm", "llm-d")
"""The formats of ``results.benchmark_files``, which is imported when one is asked for."""


USUAL_START = "2026-01-01T00:00:00+00:00"


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Register the command."""
    parser = subparsers.add_parser(
        "report",
        help="rebuild the HTML report of a run directory",
        description="Rewrite the report.html of a finished run, from the files in its directory, or write a system as "
        "a benchmark of a server would have reported it. Nothing is simulated.",
    )
    parser.add_argument("run", type=Path, metavar="RUN", help="run directory, for example runs/quickstart/0123456789ab")
    parser.add_argument(
        "--figures",
        action="store_true",
        help="also draw the figures for papers and slides with matplotlib, as SVG, PNG and CSV in its folder figures/",
    )
    parser.add_argument(
        "--benchmark",
        choices=BENCHMARKS,
        help="write the result of 'vllm bench serve' or llm-d's benchmark report instead, as JSON to stdout or --out",
    )
    parser.add_argument(
        "--openmetrics",
        type=Path,
        metavar="FILE",
        help="write the series of the run under the names of vLLM's metrics instead, as OpenMetrics text for "
        "'promtool tsdb create-blocks-from openmetrics'",
    )
    parser.add_argument(
        "--start",
        type=_start,
        default=_start(USUAL_START),
        metavar="TIME",
        help=f"when the run begins by the timestamps of --openmetrics (default: {USUAL_START})",
    )
    parser.add_argument("--system", metavar="NAME", help="the system of --benchmark; needed if the run has several")
    parser.add_argument("--out", type=Path, metavar="FILE", help="where --benchmark writes (default: stdout)")
    parser.add_argument("--force", action="store_true", help="allow --out and --openmetrics to replace a file")
    parser.set_defaults(func=run)


def run(args: argparse.Namespace) -> int:
    """Execute the command; return the exit code."""
    directory: Path = args.run
    if args.benchmark is not None:
        return _benchmark(args, directory)
    if args.openmetrics is not None:
        return _openmetrics(args, directory)
    for option in ("system", "out"):
        if getattr(args, option) is not None:
            raise ConfigError(f"--{option} goes with --benchmark, one of {', '.join(BENCHMARKS)}")
    from helixsim.report.html import build_report
    from helixsim.runtime.manifest import checked_manifest
    from helixsim.study.run import derive_anew

    derive_anew(directory)
    print(build_report(directory, checked_manifest(directory)))
    if args.figures:
        from helixsim.report.figures import write_figures
        from helixsim.results.runset import RunSet

        for figure in write_figures(RunSet.load(directory), directory / "figures"):
            print(directory / "figures" / f"{figure.name}.svg")
    return 0


def _openmetrics(args: argparse.Namespace, directory: Path) -> int:
    """Write the series of a run as OpenMetrics."""
    from helixsim import yamlio
    from helixsim.report.openmetrics import openmetrics
    from helixsim.results.runset import RunSet
    from helixsim.runtime.manifest import checked_manifest
    from helixsim.writing import new_file

    checked_manifest(directory)
    if args.openmetrics.exists() and not args.force and not args.openmetrics.is_char_device():
        raise ConfigError(f"--openmetrics: {args.openmetrics} exists (--force replaces it)")
    model = str(yamlio.load(directory / "config.resolved.yaml").data["model"])
    with new_file(args.openmetrics, devices=True) as file:
        for line in openmetrics(RunSet.load(directory), model, epoch_s=args.start):
            file.write(line.encode("utf-8"))
    print(args.openmetrics)
    return 0


def _start(text: str) -> float:
    """Return a time as seconds since 1970; one without an offset is in UTC."""
    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"expected a time such as {USUAL_START}, got {text!r}") from None
    return (found if found.tzinfo else found.replace(tzinfo=UTC)).timestamp()


def _benchmark(args: argparse.Namespace, directory: Path) -> int:
    """Write a system of a run in the format of a benchmark."""
    from helixsim import yamlio
    from helixsim.cli import console
    from helixsim.results.benchmark_files import FORMATS
    from helixsim.results.files import write_json
    from helixsim.results.runset import RunSet
    from helixsim.runtime.manifest import checked_manifest

    checked_manifest(directory)
    runs = RunSet.load(directory)
    if args.system is None and len(runs) > 1:
        raise ConfigError(f"--benchmark writes one system, the run has {', '.join(runs)}: add --system NAME")
    if args.system is not None and args.system not in runs:
        raise ConfigError(f"--system: {unknown_name('system', args.system, runs)}")
    if args.out is not None and args.out.exists() and not args.force:
        raise ConfigError(f"--out: {args.out} exists (--force replaces it)")
    run = runs[args.system or next(iter(runs))]
    document = FORMATS[args.benchmark](run, yamlio.load(directory / "config.resolved.yaml").data)
    if args.out is None:
        console.print_json(document)
    else:
        write_json(args.out, document)
    return 0
