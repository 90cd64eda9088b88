"""``helixsim run EXP`` of a file with several tenants."""

from __future__ import annotations

import argparse
import json
from typing import TYPE_CHECKING, Any

from helixsim.cli import console, options
from helixsim.errors import ConfigError, ExitCode, ThresholdError

if TYPE_CHECKING:
    from collections.abc import Callable

    from helixsim.experiment import Experiment
    from helixsim.results.runset import RunSet


def run(
    args: argparse.Namespace,
    experiment: Experiment,
    slo_share: float,
    show: Callable[[RunSet, argparse.Namespace], None],
) -> int:
    """Run all tenants and print what each gets, with ``-v`` also its run (``show``); return the exit code."""
    from helixsim.planning.tenants import run_tenants
    from helixsim.report.tenant_files import headline, sentences, tenant_table
    from helixsim.results.runset import RunSet

    if args.timeline is not None:
        raise ConfigError("--timeline: not with tenants; it shows one experiment")
    tenants = experiment.tenants()
    with console.progress("run", quiet=args.quiet) as advance, options.executor(args) as executor:
        directory = run_tenants(tenants, args.out, executor, force=args.force, check=args.check, on_progress=advance)
    found = json.loads((directory / "summary.json").read_text(encoding="utf-8"))
    if args.json:
        console.print_json(found)
    else:
        print("\n".join(headline(found)), end="\n\n")
        console.show_table(tenant_table(found), texts=2)
        print("\n".join(sentences(found)))
        if args.verbose:
            for name in dict.fromkeys(one["run"] for one in found["tenants"].values() if one["run"]):
                print(f"\n{name}")
                show(RunSet.load(args.out / name), args)
    if not args.quiet:
        console.note(f"{directory / 'report.html'} written")
    _check_thresholds(found["tenants"], args, slo_share)
    failed = [ExitCode.INFEASIBLE for one in found["tenants"].values() if one["failure"]]
    return options.failures_code(failed, args)


def _check_thresholds(tenants: dict[str, Any], args: argparse.Namespace, slo_share: float) -> None:
    """Raise ``ThresholdError`` with every threshold that was missed."""
    missed = []
    for name, one in tenants.items():
        share, served = one["slo_attainment"], one.get("output_throughput") or 0.0
        if args.fail_on_slo and (share is None or share < slo_share):
            got = "no objectives" if share is None else f"{share:.1%} of requests met it"
            missed.append(f"{name}: SLO missed, {got} (required: {slo_share:.0%})")
        if args.fail_under is not None and served < args.fail_under:
            missed.append(f"{name}: {served:.4g} output tokens/s, below --fail-under {args.fail_under:g}")
    if missed:
        raise ThresholdError("\n".join(missed))
