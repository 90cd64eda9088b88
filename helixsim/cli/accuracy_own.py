"""``helixsim accuracy --own``: the user's own points beside the shipped cells."""

from __future__ import annotations

import argparse
import math
from typing import TYPE_CHECKING

from helixsim.cli import console
from helixsim.cli.profile_actions import aligned
from helixsim.errors import ConfigError, ExitCode

if TYPE_CHECKING:
    from helixsim.metrics.error_cells import Cell

_OTHERS = ("all", "html", "csv", "update", "figure", "markdown", "prototype", "operators", "sample", "replay", "where")


def run(args: argparse.Namespace) -> int:
    """Print the table of ``compare --add-to``; return the exit code."""
    from helixsim.accuracy import own
    from helixsim.metrics.error_cells import METRICS

    given = [flag for flag in _OTHERS if getattr(args, flag)]
    if given:
        raise ConfigError(f"--own prints your own points alone: leave out --{given[0]}")
    cells, overall = own.beside_shipped(args.own), own.over_all(args.own)
    if args.json:
        console.print_json({
            "file": str(args.own),
            "points": own.read_rows(args.own),
            "over_all": {
                metric: {"points": count, "median": median, "bias": bias}
                for metric, (count, median, bias) in overall.items()
            },
        })  # fmt: skip
        return ExitCode.OK
    rows = [
        [*_setting(one.own), str(one.own.points), *(_error(one.own, metric) for metric in METRICS),
         *(("-",) * 4 if one.shipped is None else
           (str(one.shipped.points), *(_error(one.shipped, metric) for metric in METRICS)))]
        for one in cells
    ]  # fmt: skip
    head = (
        "GPU", "engine", "family", "weights", "batch", "context", "points", *METRICS, "public", *METRICS,
    )  # fmt: skip
    print(aligned(head, rows))
    print()
    lines = [(metric, str(count), f"{median:.1%}", f"{bias:+.1%}") for metric, (count, median, bias) in overall.items()]
    print(aligned((f"{args.own}", "points", "median |error|", "bias"), lines))
    print(f"\nlabels and bands of results use it with HELIXSIM_ACCURACY={args.own}")
    return ExitCode.OK


def _setting(cell: Cell) -> tuple[str, ...]:
    from helixsim.metrics.error_cells import BATCHES, CONTEXTS

    gpu = "+".join(cell.gpu) + (f" x {cell.gpus}" if cell.gpus > 1 else "")
    return gpu, cell.engine, cell.family, cell.weights, list(BATCHES)[cell.batch], list(CONTEXTS)[cell.context]


def _error(cell: Cell, metric: str) -> str:
    return f"{math.expm1(cell.errors[metric][0]):+.1%}" if metric in cell.errors else "-"
