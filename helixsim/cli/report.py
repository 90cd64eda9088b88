"""``helixsim report RUN``: rebuild the HTML of a finished run, or draw its figures, from its files."""

from __future__ import annotations

import argparse
from pathlib import Path

from helixsim.errors import ConfigError, unknown_name

BENCHMARKS = ("vllm", "llm-d")
"""The formats of ``results.benchmark_files``, which is imported when one is asked for."""


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
    parser.add_argument("--system", metavar="NAME", help="the system of --benchmark; needed if the run has several")
    parser.add_argument("--out", type=Path, metavar="FILE", help="where --benchmark writes (default: stdout)")
    parser.add_argument("--force", action="store_true", help="allow --out to replace a file")
    parser.set_defaults(func=run)


def run(args: argparse.Namespace) -> int:
    """Execute the command; return the exit code."""
    directory: Path = args.run
    if args.benchmark is not None:
        return _benchmark(args, directory)
    for option in ("system", "out"):
        if getattr(args, option) is not None:
            raise ConfigError(f"--{option} goes with --benchmark, one of {', '.join(BENCHMARKS)}")
    from helixsim.report.html import build_report
    from helixsim.runtime.manifest import checked_manifest

    print(build_report(directory, checked_manifest(directory)))
    if args.figures:
        from helixsim.report.figures import write_figures
        from helixsim.results.runset import RunSet

        for figure in write_figures(RunSet.load(directory), directory / "figures"):
            print(directory / "figures" / f"{figure.name}.svg")
    return 0


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
