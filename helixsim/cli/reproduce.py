"""``helixsim reproduce``: what was measured elsewhere, beside what helixsim says."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from helixsim.cli import console, options
from helixsim.errors import ConfigError, ExitCode, ThresholdError, unknown_name

if TYPE_CHECKING:
    from helixsim.reproduce.cells import Cell

STUDIES = {"fidelity": "measured cells of the paper's 24-GPU prototype, helixsim and the paper's simulator"}


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Register the command."""
    parser = subparsers.add_parser(
        "reproduce", help="published measurements beside what helixsim says", description=__doc__
    )
    actions = parser.add_subparsers(metavar="STUDY", required=True)
    listing = actions.add_parser("list", parents=[options.common()], help="the studies there are")
    listing.set_defaults(func=run_list)
    fidelity = actions.add_parser(
        "fidelity",
        parents=[options.common(), options.output()],
        help=STUDIES["fidelity"],
        description="Simulate every measured cell and print measured, simulated and the paper's simulated figures with "
        "their errors, and a summary. Results are kept under DIR/fidelity and found again.",
    )
    fidelity.add_argument("cells", nargs="*", metavar="CELL", help="only these cells (default: all)")
    fidelity.add_argument(
        "--set",
        dest="overrides",
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
        "--fit", action="store_true", help="fit the engine's overheads to the cells and hold cells out"
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
    """Print the studies and the cells of each."""
    from helixsim.reproduce.cells import load_cells

    cells = load_cells()
    if args.json:
        print(json.dumps({"fidelity": [cell.name for cell in cells]}, indent=2))
        return ExitCode.OK
    print(f"fidelity  {STUDIES['fidelity']}")
    for cell in cells:
        print(f"  {cell.name:24}{cell.model}, {cell.mode}, {', '.join(cell.gpus)}")
    return ExitCode.OK


def run_fidelity(args: argparse.Namespace) -> int:
    """Simulate the cells and print the comparison."""
    from helixsim.reproduce import fidelity, tables
    from helixsim.reproduce.cells import load_cells

    cells = _chosen(load_cells(), args.cells)
    cache: Path = args.out / "fidelity"
    if args.fit:
        return _run_fit(args, cells, cache)
    with console.progress("fidelity", quiet=args.quiet) as advance:
        results = fidelity.evaluate(
            cells,
            seeds=args.seeds,
            overrides=args.overrides,
            cache=cache,
            force=args.force,
            jobs=args.jobs,
            progress=advance,
        )
    document = fidelity.document(results)
    if args.json:
        print(json.dumps(document, indent=2))
    else:
        print(tables.fidelity_text(results, markdown=args.markdown))
    _check_tolerance(document["summary"], args.tolerance)
    return ExitCode.OK


def _run_fit(args: argparse.Namespace, cells: tuple[Cell, ...], cache: Path) -> int:
    from helixsim.reproduce import engine_fit, tables

    with console.progress("fit", quiet=args.quiet) as advance:
        fit = engine_fit.fit(
            cells, seeds=args.seeds, overrides=args.overrides, cache=cache, jobs=args.jobs, progress=advance
        )
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
