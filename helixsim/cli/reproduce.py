"""``helixsim reproduce``: the paper's figures and the measurements of its prototype beside helixsim's results."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from helixsim.cli import console, options
from helixsim.errors import ConfigError, ExitCode, ThresholdError, unknown_name
from helixsim.papers.helix.names import figure_titles
from helixsim.papers.leaderboard.names import CLUSTERS, QUICK_CLUSTERS

if TYPE_CHECKING:
    from helixsim.papers.helix.cells import Cell

ALL = "all"
LEADERBOARD = "all placement strategies on eight clusters, under three loads and a service-level objective"
FIDELITY = "measured cells of the paper's 24-GPU prototype, helixsim and the paper's simulator"
_FIGURES = """\
Run the simulations of the figures and write DIR/index.html, with every figure as SVG and PNG and its data as CSV under
DIR/figures, and DIR/summary.json. Three columns are compared: published, as published (the paper's placements, rates
and memory settings) and fair (the same requests, memory rules and admission for all systems). Results are cached in
DIR/cache, so that an interrupted run continues.
"""


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Register the command."""
    parser = subparsers.add_parser(
        "reproduce",
        help="the paper's figures and tables beside the published values",
        description="Compute the figures and tables of the Helix paper beside the published values, the "
        "measurements of its prototype, or the leaderboard of placement strategies.",
    )
    actions = parser.add_subparsers(metavar="FIGURE", required=True)
    listing = actions.add_parser("list", parents=[options.common()], help="list the figures")
    listing.set_defaults(func=run_list)
    output = options.output(Path("runs", "reproduce"), checks=False)
    for name, title in {ALL: "all figures and tables", **figure_titles()}.items():
        figure = actions.add_parser(name, parents=[options.common(), output], description=_FIGURES, help=title)
        figure.add_argument("more", nargs="*", metavar="FIGURE", help="further figures")
        figure.add_argument("--quick", action="store_true", help="coarse: one seed, short windows, small searches")
        figure.set_defaults(func=run_figures, first=name)
    _add_fidelity(actions)
    leaderboard = actions.add_parser(
        "leaderboard",
        parents=[options.common(), output],
        help=LEADERBOARD,
        description="Simulate every placement strategy on each cluster, saturated and at 25, 70 and 100 % of the best "
        "capacity, and search the highest rate within the service-level objective. Writes DIR/leaderboard.html, .csv "
        "and .json. Results are cached in DIR/cache, so that an interrupted run continues.",
    )
    leaderboard.add_argument(
        "clusters", nargs="*", metavar="CLUSTER", help=f"only these of {', '.join(CLUSTERS)} (default: all)"
    )
    leaderboard.add_argument(
        "--quick",
        action="store_true",
        help="coarse: short windows and searches, one plan of helix for all rates of a search; unless clusters are "
        f"named without {', '.join(name for name in CLUSTERS if name not in QUICK_CLUSTERS)}",
    )
    leaderboard.add_argument("--markdown", action="store_true", help="print the table as Markdown")
    leaderboard.set_defaults(func=run_leaderboard)


def _add_fidelity(actions: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    fidelity = actions.add_parser(
        "fidelity",
        parents=[options.common(), options.output(checks=False)],
        help=FIDELITY,
        description="Simulate every measured cell and print measured, simulated and the paper's simulated figures with "
        "their errors, and a summary. Results are cached in DIR/fidelity.",
    )
    fidelity.add_argument("cells", nargs="*", metavar="CELL", help="only these cells (default: all)")
    fidelity.add_argument(
        "--set",
        dest="edits",
        action="append",
        default=[],
        metavar="KEY.PATH=VALUE",
        help="change one value of every experiment, e.g. engine.name=ideal (repeatable)",
    )
    fidelity.add_argument(
        "--seeds",
        type=options.positive,
        default=6,
        metavar="N",
        help="simulate offline cells under seeds 0 to N-1 and online ones under twice as many (default: 6)",
    )
    fidelity.add_argument(
        "--fit", action="store_true", help="fit the engine overheads to the cells, with cross-validation"
    )
    fidelity.add_argument("--markdown", action="store_true", help="print the table as Markdown")
    fidelity.add_argument(
        "--tolerance",
        type=float,
        metavar="F",
        help="exit code 6 if the median error of the throughput exceeds this share",
    )
    fidelity.set_defaults(func=run_fidelity)


def run_list(args: argparse.Namespace) -> int:
    """Print the figures, and the measured cells."""
    from helixsim.papers.helix.cells import load_cells
    from helixsim.papers.helix.entries import load_figures

    figures, cells = load_figures(), load_cells()
    if args.json:
        listed = {figure.name: {"paper": figure.paper, "title": figure.title} for figure in figures}
        document = {"figures": listed, "leaderboard": CLUSTERS, "fidelity": [cell.name for cell in cells]}
        print(json.dumps(document, indent=2))
        return ExitCode.OK
    for figure in figures:
        print(f"{figure.name:10}{figure.paper or 'beyond the paper':18}{figure.title}")
        for name, part in figure.parts.items():
            print(f"  {figure.name}-{name:12}{part.title}")
    print(f"{'leaderboard':12}{LEADERBOARD}")
    for cluster, title in CLUSTERS.items():
        print(f"  {cluster:24}{title}")
    print(f"{'fidelity':10}{FIDELITY}")
    for cell in cells:
        print(f"  {cell.name:24}{cell.model}, {cell.mode}, {', '.join(cell.gpus)}")
    return ExitCode.OK


def run_figures(args: argparse.Namespace) -> int:
    """Run the figures, write them, and print the verdicts."""
    from helixsim.papers.helix import build, entries, report_text
    from helixsim.papers.helix.parts import Effort

    _warn_of_versions()
    names = [args.first, *args.more]
    figures = entries.load_figures(() if ALL in names else names)
    with console.progress("reproduce", quiet=args.quiet) as advance, options.executor(args) as executor:
        done = build.reproduce(figures, Effort(args.quick), args.out, executor, force=args.force, progress=advance)
    document = build.summary(done)
    if args.json:
        console.print_json(document)
    else:
        print(report_text.text(document))
        console.note(f"{args.out / 'index.html'}")
    return ExitCode.OK


def run_leaderboard(args: argparse.Namespace) -> int:
    """Run the leaderboard, write it, and print its table."""
    from helixsim.papers.leaderboard import files, run, text, verdicts
    from helixsim.papers.leaderboard.names import Effort

    effort = Effort(args.quick)
    clusters = run.chosen_clusters(args.clusters, effort)
    with console.progress("leaderboard", quiet=args.quiet) as advance, options.executor(args) as executor:
        board = run.simulate_all(clusters, effort, args.out / "cache", executor, force=args.force, progress=advance)
    document = verdicts.document(board)
    written = files.write(document, args.out)
    if args.json:
        console.print_json(document)
    else:
        print(text.text(document, markdown=args.markdown))
        console.note(str(written))
    return ExitCode.OK


def run_fidelity(args: argparse.Namespace) -> int:
    """Simulate the cells and print the comparison."""
    from helixsim.papers.helix import fidelity, tables
    from helixsim.papers.helix.cells import load_cells

    _warn_of_versions()
    cells = _chosen(load_cells(), args.cells)
    cache: Path = args.out / "fidelity"
    if args.fit:
        return _run_fit(args, cells, cache)
    with console.progress("fidelity", quiet=args.quiet) as advance, options.executor(args) as executor:
        results = fidelity.evaluate(
            cells,
            executor,
            cache,
            seeds=args.seeds,
            edits=options.edits(args),
            force=args.force,
            progress=advance,
        )
    document = fidelity.document(results)
    if args.json:
        print(json.dumps(document, indent=2))
    else:
        print(tables.fidelity_text(results, markdown=args.markdown))
    _check_tolerance(document["summary"], args.tolerance)
    return ExitCode.OK


def _warn_of_versions() -> None:
    """Warn of libraries whose versions differ from those of the published figures."""
    from helixsim.papers.helix.locked import differences

    for difference in differences():
        print(
            f"helixsim: warning: {difference}: results may differ from the published ones "
            "(pip install -c requirements/locked.txt)",
            file=sys.stderr,
        )


def _run_fit(args: argparse.Namespace, cells: tuple[Cell, ...], cache: Path) -> int:
    from helixsim.papers.helix import engine_fit, tables

    with console.progress("fit", quiet=args.quiet) as advance, options.executor(args) as executor:
        fit = engine_fit.fit(cells, executor, cache, seeds=args.seeds, edits=options.edits(args), progress=advance)
    if args.json:
        print(json.dumps(engine_fit.document(fit), indent=2))
    else:
        print(tables.fit_text(fit))
    return ExitCode.OK


def _chosen(cells: tuple[Cell, ...], names: list[str]) -> tuple[Cell, ...]:
    known = [cell.name for cell in cells]
    for name in names:
        if name not in known:
            raise ConfigError(unknown_name("cell", name, known))
    return tuple(cell for cell in cells if not names or cell.name in names)


def _check_tolerance(summary: dict[str, dict[str, Any]], tolerance: float | None) -> None:
    median = summary["throughput"]["median"]
    if tolerance is not None and median is not None and median > tolerance:
        raise ThresholdError(f"median error of the throughput {median:.1%}, above --tolerance {tolerance:.1%}")
