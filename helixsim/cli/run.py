"""``helixsim run EXP``: place, route and simulate every system of an experiment and compare them."""

from __future__ import annotations

import argparse
import json
import sys
from typing import TYPE_CHECKING

from helixsim.cli import console, options, run_timeline
from helixsim.errors import ConfigError, ThresholdError

if TYPE_CHECKING:
    from helixsim.config.experiment import ResolvedExperiment
    from helixsim.results.runset import RunSet

SLO_SHARE = 0.99
"""Share of requests that must meet the SLO for ``--fail-on-slo``."""


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Register the command."""
    parser = subparsers.add_parser(
        "run",
        help="simulate every system of an experiment and compare them",
        description="Place the model, compute the max-flow and simulate the load for every system of the experiment, "
        "print the verdict with the main figures, and write a run directory with all numbers and an HTML report. All "
        "figures are printed with -v.",
        parents=[options.common(), options.experiment(), options.output(), options.strict()],
    )
    parser.add_argument(
        "--fail-on-slo",
        action="store_true",
        help="exit code 6 if less than 99 %% of the requests of a system meet the SLO",
    )
    parser.add_argument(
        "--fail-under",
        type=float,
        metavar="TOKENS_PER_S",
        help="exit code 6 if the output throughput of a system is below this",
    )
    run_timeline.add_arguments(parser)
    parser.set_defaults(func=run)


def run(args: argparse.Namespace) -> int:
    """Execute the command; return the exit code."""
    from helixsim.report.tables import kv_text
    from helixsim.results.runset import RunSet
    from helixsim.study import rundir
    from helixsim.study.run import run_experiment

    loaded = options.loaded(args)
    if loaded.has_tenants:
        from helixsim.cli import run_tenants

        return run_tenants.run(args, loaded, SLO_SHARE, _show)
    experiment = loaded.resolve()
    if args.fail_on_slo and not experiment.slo.is_stated:
        raise ConfigError(f"--fail-on-slo: {args.experiment} has no slo")
    run_timeline.check(args, experiment)
    if not args.quiet:
        console.note(*_heading(experiment, verbose=bool(args.verbose)))
    reused = not args.force and rundir.finished_run(args.out, experiment, check=args.check) is not None
    with console.progress("run", quiet=args.quiet) as advance, options.executor(args) as executor:
        directory = run_experiment(
            experiment, args.out, executor, force=args.force, check=args.check,
            progress=lambda what, done: advance(done, what),
        )  # fmt: skip
    runs = RunSet.load(directory)
    if args.verbose and not args.quiet:
        console.note(*(kv_text(name, one.placement_document) for name, one in runs.items()))
    _show(runs, args)
    if not args.quiet:
        found = "cached (use --force to rerun)" if reused else "written"
        console.note(f"{directory / 'report.html'} {found}")
    if args.timeline is not None:
        run_timeline.write(args, experiment, runs)
    failed = json.loads((directory / "manifest.json").read_text(encoding="utf-8"))["failed"]
    for name, error in failed.items():
        console.note(f"helixsim: {options.severity(error['exit_code'], args)}: {name}: {error['message']}")
    _check_thresholds(runs, args)
    return options.failures_code((error["exit_code"] for error in failed.values()), args)


def _heading(experiment: ResolvedExperiment, *, verbose: bool) -> list[str]:
    """Return the resolved experiment as text; ``verbose``: with the limits of the engine and the KV memory."""
    counts: dict[str, int] = {}
    for node in experiment.fleet.cluster.nodes:
        counts[node.node_type] = counts.get(node.node_type, 0) + 1
    model, stats = experiment.fleet.model, experiment.workload_stats
    nodes = ", ".join(f"{count} x {kind}" for kind, count in counts.items())
    load = (
        f"{stats.mean_prompt_tokens:.0f} prompt + {stats.mean_output_tokens:.0f} output tokens per request on average"
    )
    if stats.offered_rps is not None:
        load += f", {stats.offered_rps:.3g} requests/s"
    lines = [
        f"{experiment.name}: {model.name} ({model.num_layers} layers, {model.precision}) on {nodes}",
        f"load: {load}",
    ]
    lines += _engine_lines(experiment) if verbose else []
    lines += [f"dropped: {count} requests ({reason})" for reason, count in stats.dropped if count]
    lines += [f"assumed: {assumption}" for assumption in experiment.assumptions]
    return lines


def _engine_lines(experiment: ResolvedExperiment) -> list[str]:
    from helixsim.report.tables import engine_text

    profiles = {profile.kind: profile for profile in experiment.fleet.profiles}.values()
    num_layers = experiment.fleet.model.num_layers
    memory = ", ".join(f"{p.kind} {p.kv_tokens(p.max_layers, num_layers)} ({p.max_layers} layers)" for p in profiles)
    return [
        f"engine: {engine_text(experiment.engine, profiles)}",
        f"KV tokens at the maximum planned layers: {memory}",
    ]


def _show(runs: RunSet, args: argparse.Namespace) -> None:
    """Print the results of a run: the document, or the verdict with the main figures (all with ``-v``)."""
    if args.json:
        console.print_json(runs.document())
        return
    from helixsim.report import tables
    from helixsim.report.screen import screen_text

    color = console.wants_colour(sys.stdout)
    width = console.stdout().width
    console.show(screen_text(runs, width=width, color=color, verbose=bool(args.verbose)))
    if args.verbose:
        console.show(tables.comparison_text(runs, width=width, color=color))
        for name, one in runs.items():
            console.show(tables.placement_text(name, one.placement_document, width=width, color=color))


def _check_thresholds(runs: RunSet, args: argparse.Namespace) -> None:
    """Raise ``ThresholdError`` with every threshold that was missed."""
    missed = []
    for name, one in runs.items():
        attainment = one.summary.throughput.slo_attainment
        served = one.summary.throughput.output_tokens_per_s or 0.0
        if args.fail_on_slo and (attainment is None or attainment < SLO_SHARE):
            got = "no request completed" if attainment is None else f"{attainment:.1%} of requests met it"
            missed.append(f"{name}: SLO missed, {got} (required: {SLO_SHARE:.0%})")
        if args.fail_under is not None and served < args.fail_under:
            missed.append(f"{name}: {served:.4g} output tokens/s, below --fail-under {args.fail_under:g}")
    if missed:
        raise ThresholdError("\n".join(missed))
