"""``helixsim compare``: a run against a benchmark of a real server, or against another run."""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from helixsim.cli import options
from helixsim.cli.compare_common import check
from helixsim.errors import ConfigError, ExitCode

if TYPE_CHECKING:
    from helixsim.results.runset import RunSet


_SHOWN = {
    "request_throughput", "request_goodput", "output_throughput", "p50_ttft_ms", "p99_ttft_ms", "p50_tpot_ms",
    "p99_tpot_ms", "mean_e2el_ms",
}  # fmt: skip
"""Metrics of two runs that are printed without -v."""


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Register the command."""
    parser = subparsers.add_parser(
        "compare",
        parents=[options.common(), options.settings()],
        help="compare a run with benchmarks of the real server, or with another run",
        description="Print the metrics of A, a run directory or an experiment that is then simulated, beside those of "
        "B, another run directory or files of a benchmark tool (vLLM, SGLang, GuideLLM, AIPerf, GenAI-Perf, "
        "inference-perf, llm-d), with the relative error of A.",
    )
    parser.add_argument("run", type=Path, metavar="A", help="run directory, or experiment file (YAML)")
    parser.add_argument("others", type=Path, nargs="+", metavar="B", help="run directory, or files of a benchmark tool")
    parser.add_argument("--system", metavar="NAME", help="measured system of A (default: its only one)")
    parser.add_argument(
        "--replay",
        action="store_true",
        help="simulate the load that was measured, with its rate or concurrency, lengths and number of requests, "
        "instead of that of experiment A",
    )
    parser.add_argument(
        "--tolerance",
        type=_tolerance,
        metavar="F",
        help="exit code 6 if a main metric differs by more, is missing from A, or none can be compared",
    )
    parser.add_argument("--result", type=int, metavar="N", help="number of the result in B if it has several")
    parser.add_argument("--figure", type=Path, metavar="FILE", help="draw the distributions of both (svg, png)")
    parser.add_argument(
        "--calibrate",
        type=Path,
        metavar="FILE",
        help="fit host times and shares of the GPU's peaks to B, at least three points of different load or one with "
        "single requests; written for engine.calibration if points left out of the fit are met better",
    )
    parser.add_argument(
        "--add-to",
        type=Path,
        metavar="CSV",
        help="add the points to your own accuracy table (with --replay; shown by `accuracy --own`)",
    )
    parser.add_argument("--always-write", action="store_true", help="write FILE even if nothing was gained")
    parser.add_argument(
        "--experiment", type=Path, metavar="EXP", help="experiment behind run directory A (for --calibrate)"
    )
    parser.add_argument("--force", action="store_true", help="replace FILE if it exists")
    parser.add_argument(
        "--jobs", type=options.positive, metavar="N", help="number of processes (default: one per core)"
    )
    parser.set_defaults(func=run)


def run(args: argparse.Namespace) -> int:
    """Execute the command; return the exit code."""
    from helixsim.cli import compare_measured

    is_run = args.run.is_dir()
    if not is_run and not args.run.is_file():
        raise ConfigError(f"{args.run}: neither a run directory nor an experiment file")
    if is_run and args.replay:
        raise ConfigError(f"--replay simulates an experiment file; {args.run} is the directory of a finished run")
    if is_run and args.edits:
        raise ConfigError(f"--set changes an experiment file; {args.run} is the directory of a finished run")
    directories = [path for path in args.others if path.is_dir()]
    if not directories:
        return compare_measured.run(args, systems_of(args.run) if is_run else None)
    if len(args.others) > 1 or not is_run:
        raise ConfigError(f"{directories[0]} is a run directory: it can be compared with one other run directory alone")
    for flag in ("figure", "calibrate", "result"):
        if getattr(args, flag) is not None:
            raise ConfigError(f"--{flag} needs a measured result, {directories[0]} is a run directory")
    return _compare_runs(args, systems_of(args.run), directories[0])


def _compare_runs(args: argparse.Namespace, systems: RunSet, other: Path) -> int:
    from helixsim.metrics.measured_run import relative_errors
    from helixsim.metrics.ranking import shares_ahead
    from helixsim.metrics.verdict import verdict_of
    from helixsim.metrics.verdict_text import answer as answer_of
    from helixsim.metrics.verdict_text import document

    others = systems_of(other)
    common = [name for name in systems if name in others and args.system in (None, name)]
    if not common:
        raise ConfigError(f"no system in common: {', '.join(systems)} and {', '.join(others)}")
    changes = _setting_changes(args.run, other)
    a, b = ({name: one[name].summary.vllm_keys() for name in common} for one in (systems, others))
    errors = {name: relative_errors(a[name], b[name]) for name in common}
    ahead = {name: shares_ahead(systems[name].summary, others[name].summary) for name in common}
    has_slo = systems.slo.is_stated and systems.slo == others.slo
    verdicts = {
        name: verdict_of({"A": systems[name].summary, "B": others[name].summary}, has_slo=has_slo) for name in common
    }
    if args.json:
        texts = {name: document(verdict) for name, verdict in verdicts.items()}
        answer = {"settings": changes, "systems": errors, "ahead_in_draws": ahead, "verdicts": texts}
        print(json.dumps(answer, indent=2))
    else:
        if systems.slo.is_stated and not has_slo:
            print("the objectives (slo) differ, so that the runs are not ranked by goodput\n")
        for name in common:
            said = "".join(f"{title:9} {text}\n" for title, text in answer_of(verdicts[name])[:2])
            kept = errors[name] if args.verbose else {key: one for key, one in errors[name].items() if key in _SHOWN}
            print(f"{name}\n{said}\n{_table(a[name], b[name], kept)}")
            if args.verbose and any(share is not None for share in ahead[name].values()):
                print(_ahead_text(ahead[name]))
            print()
        print("\n".join(f"{key}: {a} | {b}" for key, (a, b) in changes.items()) or "equal settings")
    for name in common:
        check(errors[name], b[name], args.tolerance, name)
    return ExitCode.OK


def _ahead_text(shares: Mapping[str, float | None]) -> str:
    """Return in what share of draws of the model error A is ahead of B, by metric."""
    known = [f"{key} {100 * share:.0f} %" for key, share in shares.items() if share is not None]
    return f"A is ahead of B, in draws of the model error: {', '.join(known)}"


def systems_of(directory: Path) -> RunSet:
    """Return the systems of a run directory; ``ConfigError`` if it is none."""
    from helixsim.results.runset import RunSet
    from helixsim.runtime.manifest import checked_manifest

    path = directory / "summary.json"
    if not path.is_file():
        raise ConfigError(f"{directory} is not a run directory: it has no summary.json")
    checked_manifest(directory)
    return RunSet.load(directory)


def _setting_changes(first: Path, second: Path) -> dict[str, tuple[Any, Any]]:
    """Return the settings that differ between two runs, by dotted key."""
    from helixsim import yamlio

    def flat(value: Any, prefix: str = "") -> dict[str, Any]:
        if isinstance(value, (dict, list)) and value:
            entries = value.items() if isinstance(value, dict) else enumerate(value)
            return {k: v for key, inner in entries for k, v in flat(inner, f"{prefix}.{key}").items()}
        return {prefix.lstrip("."): value}

    a, b = (flat(yamlio.load(path / "config.resolved.yaml").data) for path in (first, second))
    keys = [*a, *(key for key in b if key not in a)]
    return {key: (a.get(key), b.get(key)) for key in keys if a.get(key) != b.get(key)}


def _table(ours: Mapping[str, Any], theirs: Mapping[str, Any], errors: Mapping[str, float]) -> str:
    rows: list[Sequence[str]] = [("metric", "A", "B", "A / B - 1")]
    rows += [(key, f"{ours[key]:.6g}", f"{theirs[key]:.6g}", f"{error:+.1%}") for key, error in errors.items()]
    widths = [max(len(row[column]) for row in rows) for column in range(4)]
    return "\n".join("  ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)).rstrip() for row in rows)


def _tolerance(text: str) -> float:
    """Parse a tolerance, a finite share of 0 or more."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 <= value < math.inf:
        raise argparse.ArgumentTypeError(f"got {text!r}, expected a finite number, 0 or more (0.1 is 10 %)")
    return value
