"""``helixsim place EXP``: place the model for every system, without simulating the load."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from helixsim.cli import console, options
from helixsim.errors import ConfigError, ExitCode, did_you_mean

if TYPE_CHECKING:
    from helixsim.study.systems import PlacedSystem

TARGETS = ("vllm", "ray", "kubernetes", "llm-d", "dynamo")
"""The names of ``deploy.registry``, which is imported when one is asked for."""


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Register the command."""
    parser = subparsers.add_parser(
        "place",
        help="place the model on the cluster, print max-flow, bound and layers per node",
        description="Place the model for every system of the experiment. Systems that share a placement strategy and "
        "its options are placed once.",
        parents=[options.common(), options.experiment()],
    )
    parser.add_argument("--system", metavar="NAME", help="only this system")
    parser.add_argument(
        "--export",
        metavar="FILE|TARGET",
        help="write the placement as JSON for 'placement: {strategy: fixed, file: FILE}'; or what starts it with one "
        f"of {', '.join(TARGETS)} (a script or manifests, to stdout or --out); needs --system if there are several",
    )
    parser.add_argument("--out", type=Path, metavar="FILE", help="where --export TARGET writes (default: stdout)")
    parser.add_argument(
        "--model-id",
        metavar="ID",
        help="Hugging Face id or folder that exported servers load (default: that of the catalogue)",
    )
    parser.add_argument(
        "--by-flow", action="store_true", help="select candidates by max-flow alone, without short simulations"
    )
    options.add_reliability(parser, "the max-flow over time, with the placement kept")
    parser.add_argument(
        "--fails",
        choices=("host", "site"),
        default="host",
        help="with --mtbf: machines fail (default), or whole regions",
    )
    parser.add_argument(
        "--jobs",
        type=options.positive,
        metavar="N",
        help="processes that share the simulations of candidates; 1: this one (default: one per core)",
    )
    parser.add_argument("--force", action="store_true", help="allow --export and --out to replace a file")
    parser.set_defaults(func=run)


def run(args: argparse.Namespace) -> int:
    """Execute the command; return the exit code."""
    from helixsim.config.reliability import reliability_of
    from helixsim.errors import unknown_name
    from helixsim.report.screen import placements_text
    from helixsim.report.tables import placement_text
    from helixsim.results.files import write_json
    from helixsim.results.placement_json import placement_document
    from helixsim.runtime.executors import executor
    from helixsim.study.availability import availability_notes
    from helixsim.study.placing import place_system
    from helixsim.writing import write_text

    experiment = options.loaded(args).resolve()
    names = [system.name for system in experiment.systems]
    if args.system is not None and args.system not in names:
        raise ConfigError(f"--system: {unknown_name('system', args.system, names)}")
    chosen = [system for system in experiment.systems if args.system in {None, system.name}]
    reliability = reliability_of(args.mtbf, args.mttr, experiment.fleet.cluster)
    target = args.export if args.export in TARGETS else None
    path = _export_path(args, target)
    if args.export is not None and len(chosen) > 1:
        raise ConfigError(f"--export writes one placement, the experiment has {len(chosen)}: add --system NAME")
    if target is not None:
        from helixsim.deploy import registry

        registry.require_roles(target, chosen[0])
    placed: dict[str, PlacedSystem] = {}
    with executor(args.jobs, None, Path()) as shared, console.progress("place", quiet=args.quiet) as advance:
        for number, system in enumerate(chosen):

            def progress(what: str, _s: float, value: float, bound: float, name: str = system.name) -> None:
                advance(number / len(chosen), f"{name}: {what}, {value:.1f} tokens/s, bound {bound:.1f}")  # noqa: B023

            placed[system.name] = place_system(
                experiment, system, progress=progress, by_flow=args.by_flow, executor=shared
            )
            advance((number + 1) / len(chosen), system.name)
    if target is not None:
        one = placed[chosen[0].name]
        made = registry.text(target, experiment, one.system, one.placement, one.plan, model_id=args.model_id)
        if path is None:
            print(made, end="")
            return ExitCode.OK
        write_text(path, made)
    documents = {name: placement_document(one.placement, one.plan, one.system.fleet) for name, one in placed.items()}
    if reliability is not None:
        for name, one in placed.items():
            documents[name]["notes"]["availability"] = availability_notes(experiment, one, reliability, args.fails)
    if args.json:
        systems = {name: _answer(one, documents[name]) for name, one in placed.items()}
        console.print_json({"systems": systems})
    else:
        color, width = console.wants_colour(sys.stdout), console.stdout().width
        console.show(placements_text(documents, width=width, color=color, verbose=bool(args.verbose)))
        if args.verbose or len(documents) == 1:
            for name, document in documents.items():
                console.show(placement_text(name, document, width=width, color=color))
    if path is not None and target is None:
        write_json(path, next(iter(documents.values())))
    return ExitCode.OK


def _export_path(args: argparse.Namespace, target: str | None) -> Path | None:
    """Return the file that is written, None for stdout; ``ConfigError`` for options that do not fit together."""
    if args.export == "":
        raise ConfigError(f"--export: got an empty text, expected a file or one of {', '.join(TARGETS)}")
    if target is None and args.export is not None and args.export.isidentifier():
        hint = did_you_mean(args.export, TARGETS)
        if hint:
            raise ConfigError(f"--export: {args.export!r} is no target{hint} (a file: ./{args.export})")
    if target is None and (args.out is not None or args.model_id is not None):
        option = "--out" if args.out is not None else "--model-id"
        raise ConfigError(f"{option} goes with --export TARGET, one of {', '.join(TARGETS)}")
    if target is not None and args.out is None and args.json:
        raise ConfigError("--json and --export TARGET both write to stdout: add --out FILE")
    path = args.out if target is not None or args.export is None else Path(args.export)
    if path is not None and path.exists() and not args.force:
        raise ConfigError(f"{'--export' if target is None else '--out'}: {path} exists (--force replaces it)")
    return path


def _answer(placed: PlacedSystem, document: dict[str, Any]) -> dict[str, Any]:
    """Return a system's entry of ``place --json``."""
    from helixsim.jsonio import json_values

    placement, plan = placed.placement, placed.plan
    answer: dict[str, Any] = json_values(
        {
            "strategy": placement.strategy,
            "objective_tokens_per_s": plan.max_flow_tokens_per_s,
            "upper_bound_tokens_per_s": placement.upper_bound_tokens_per_s,
            "gap": placement.gap,
            "seconds": placement.solve_s,
            "mean_hops": plan.mean_hops,
            "max_hops": plan.max_hops,
            "replicas": [list(nodes) for nodes in plan.replicas],
            "kv_limited_tokens_per_s": None if placed.operating is None else placed.operating.tokens_per_s,
            "layers": document["layers"],
            **({"roles": document["roles"]} if "roles" in document else {}),
            "history": [list(entry) for entry in placement.history],
            "frontier": placement.notes.get("frontier", []),
            **({"availability": document["notes"]["availability"]} if "availability" in document["notes"] else {}),
            **({"survival": placement.notes["survival"]} if "survival" in placement.notes else {}),
            "min_cut": document["min_cut"],
            "notes": document["notes"],
        }
    )
    return answer
