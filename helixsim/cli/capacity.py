"""``helixsim capacity EXP``: the highest request rate each system serves within the SLO."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from helixsim.cli import console, options
from helixsim.errors import ThresholdError, shortened

if TYPE_CHECKING:
    from helixsim.config.experiment import ResolvedExperiment
    from helixsim.experiment import Tenants
    from helixsim.results.capacity import CapacityResults

LEAST_TOLERANCE = 1e-4
"""Smaller steps are below the sampling error of runs of any length."""


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Register the command."""
    parser = subparsers.add_parser(
        "capacity",
        help="highest request rate each system serves within the SLO",
        description="Search the highest request rate at which each system of the experiment meets its SLO, and each of "
        "its slo_targets. The search starts below the KV-limited throughput estimate; the placement is that of the "
        "experiment as written. An interrupted search continues where it stopped when the command is repeated.",
        parents=[
            options.common(),
            options.experiment(),
            options.output(checks=False),
            options.strict(),
        ],
    )
    parser.add_argument(
        "--tolerance", type=_tolerance, default=0.02, metavar="SHARE", help="relative step of the rates (default: 2%%)"
    )
    parser.add_argument(
        "--seeds",
        type=options.positive,
        default=3,
        metavar="N",
        help="number of seeds; two or more give a 95%% interval (default: 3)",
    )
    parser.add_argument(
        "--percentile", type=_percentile, default=99.0, metavar="P",
        help="percentile of TTFT, TPOT and E2EL that must meet the objective (default: 99)",
    )  # fmt: skip
    parser.add_argument(
        "--share", type=_share, metavar="SHARE", help="also require that this share of requests meets all objectives"
    )
    parser.add_argument(
        "--lose",
        action="append",
        default=[],
        metavar="WHAT",
        help="also the capacity after a loss (repeatable): any-node (each node in turn, equal ones once: N-1), a node "
        "or pattern, site:NAME, gpu:NAME; lost nodes are still paid for",
    )
    parser.add_argument(
        "--replan",
        choices=["true", "false"],
        default="true",
        help="after a loss the model is placed anew (default), or the placement stays on the nodes that are left",
    )
    options.add_reliability(parser, "what is served over time, by the capacities after the loss of any node")
    parser.add_argument("--no-curve", action="store_true", help="skip the lower rates of the load curve")
    parser.set_defaults(func=run)


def run(args: argparse.Namespace) -> int:
    """Execute the command; return the exit code."""
    loaded = options.loaded(args)
    if loaded.has_tenants:
        return _run_tenants(args, loaded.tenants())
    results = _searched(args, loaded.resolve())
    if args.json:
        console.print_json(results.document())
    else:
        _print(results)
    for target in results.unmet_targets():
        raise ThresholdError(f"no system meets {target} at any rate: the cluster cannot meet these objectives")
    return options.failures_code((code for code, _ in results.failed.values()), args)


def _run_tenants(args: argparse.Namespace, tenants: Tenants) -> int:
    """Search the capacity of every tenant on its nodes; those that share nodes are searched together."""
    from helixsim.planning.tenants import stated_parts

    found = {}
    for name, experiment in stated_parts(tenants).items():
        found[name] = _searched(args, experiment)
        if not args.json:
            print(f"tenant {name}:")
            _print(found[name])
    if args.json:
        console.print_json({"tenants": {name: one.document() for name, one in found.items()}})
    unmet = [f"tenant {name}: {target}" for name, one in found.items() for target in one.unmet_targets()]
    if unmet:
        raise ThresholdError(f"not met at any rate: {'; '.join(unmet)}")
    return options.failures_code((code for one in found.values() for code, _ in one.failed.values()), args)


def _searched(args: argparse.Namespace, experiment: ResolvedExperiment) -> CapacityResults:
    """Return the capacities of an experiment."""
    from helixsim.config.reliability import reliability_of
    from helixsim.planning.capacity import SearchOptions, capacity_targets
    from helixsim.planning.capacity_run import run_capacity
    from helixsim.planning.losses import ANY_NODE, Losses
    from helixsim.results.capacity import CapacityResults

    targets = capacity_targets(experiment, args.percentile, args.share)
    search = SearchOptions(args.tolerance, args.seeds, with_curve=not args.no_curve)
    reliability = reliability_of(args.mtbf, args.mttr, experiment.fleet.cluster)
    wanted = dict.fromkeys([*args.lose, *([] if reliability is None else [ANY_NODE])])
    losses = Losses(tuple(wanted), args.replan == "true", reliability) if wanted else None
    with console.progress("capacity", quiet=args.quiet) as advance, options.executor(args) as executor:
        directory = run_capacity(
            experiment, targets, search, args.out, executor, losses=losses, force=args.force, on_progress=advance
        )
    results = CapacityResults.load(directory)
    if not args.quiet:
        console.note(f"{directory / 'report.html'} written")
    for name, (code, message) in results.failed.items():
        console.note(f"helixsim: {options.severity(code, args)}: {name}: {message}")
    return results


def _print(results: CapacityResults) -> None:
    from helixsim.report.capacity_files import availability_table, capacity_notes, capacity_table, loss_table

    table = capacity_table(results)
    console.show_table(table, texts=len(table.head) - 9)
    if results.replan is not None:
        table = loss_table(results)
        console.show_table(table, texts=len(table.head) - 4)
        if (over_time := availability_table(results)).rows:
            console.show_table(over_time, texts=len(over_time.head) - 3)
    for name, sentence in capacity_notes(results):
        print(f"{name}: {sentence}")


def _share(text: str) -> float:
    """Return a share above 0 and below 1, given as 0.02 or 2%."""
    try:
        value = options.decimal(text.removesuffix("%")) / (100 if text.endswith("%") else 1)
    except ValueError:
        value = -1.0
    if not 0 < value < 1:
        raise argparse.ArgumentTypeError(f"expected a share such as 0.02 or 2%, got {shortened(repr(text))}")
    return value


def _tolerance(text: str) -> float:
    value = _share(text)
    if value < LEAST_TOLERANCE:
        raise argparse.ArgumentTypeError(f"expected a share of at least {LEAST_TOLERANCE:.2%}, got {text}")
    return value


def _percentile(text: str) -> float:
    try:
        value = options.decimal(text)
    except ValueError:
        value = -1.0
    if not 0 < value <= 100:
        raise argparse.ArgumentTypeError(f"expected a percentile above 0 and up to 100, got {shortened(repr(text))}")
    return value
