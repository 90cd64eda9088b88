"""``helixsim fleet PLAN``: the cheapest mix of GPUs that serves a workload within the SLO."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from helixsim.cli import console, options
from helixsim.errors import ExitCode


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Register the command."""
    parser = subparsers.add_parser(
        "fleet",
        help="cheapest mix of GPUs that serves a workload within the SLO",
        description="Given node offers and an experiment with model, workload and SLO: the cheapest fleet that serves "
        "it, or with a budget the one with the highest capacity. Integer programs over counts generate candidates, "
        "simulations select among them. An interrupted search continues when the command is repeated.",
        parents=[options.common(), options.settings(), options.output(checks=False)],
    )
    parser.add_argument("plan", type=Path, metavar="PLAN", help="plan file (YAML); its keys: inspect schema --fleet")
    parser.add_argument("--budget", metavar="PRICE", help="maximise capacity at most at this price, e.g. '40 $/h'")
    parser.add_argument(
        "--simulations",
        type=options.positive,
        metavar="N",
        help="maximum number of simulated fleets (default: the plan's)",
    )
    parser.set_defaults(func=run)


def run(args: argparse.Namespace) -> int:
    """Execute the command; return the exit code."""
    from helixsim.config.plan_file import load_plan
    from helixsim.planning.fleet_run import fleet_directory, fleet_key, run_fleet
    from helixsim.report.fleet_files import fleet_table, headline, purchase_table, sentences
    from helixsim.runtime.manifest import finished_under

    plan = load_plan(args.plan, options.edits(args), budget=args.budget, simulations=args.simulations)
    key = fleet_key(plan)
    directory = fleet_directory(plan, args.out, key)
    if args.force or finished_under(directory, key) is None:
        with console.progress("fleet", quiet=args.quiet) as advance, options.executor(args) as executor:
            run_fleet(plan, args.out, executor, force=args.force, on_progress=advance)
    found = json.loads((directory / "fleet.json").read_text(encoding="utf-8"))
    if args.json:
        console.print_json(found)
    else:
        print("\n".join(headline(found)), end="\n\n")
        console.show_table(fleet_table(found), texts=1)
        print("\n".join(sentences(found)))
        if found["purchases"]:
            print()
            console.show_table(purchase_table(found), texts=1)
    if not args.quiet:
        console.note(f"{directory / 'report.html'} written")
    return ExitCode.OK
