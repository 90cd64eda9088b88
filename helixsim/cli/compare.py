"""``helixsim compare``: a run against a benchmark of a real server, or against another run."""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from helixsim.cli import console, options
from helixsim.errors import ConfigError, DataError, ExitCode, ThresholdError, unknown_name

if TYPE_CHECKING:
    from helixsim.benchmarks.benchmark import Benchmark
    from helixsim.results.run import Run
    from helixsim.results.runset import RunSet

MAIN_METRICS = ("output_throughput", "mean_ttft_ms", "mean_itl_ms", "mean_tpot_ms")
"""Metrics that ``--tolerance`` checks."""


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Register the command."""
    parser = subparsers.add_parser(
        "compare",
        parents=[options.common()],
        help="compare a run with a measured result or another run",
        description="Print the metrics of run directory A beside those of B, another run directory or the file of a "
        "benchmark tool (vLLM, SGLang, GuideLLM, AIPerf, GenAI-Perf, inference-perf, llm-d), with the relative error "
        "of A.",
    )
    parser.add_argument("run", type=Path, metavar="A", help="run directory")
    parser.add_argument("other", type=Path, metavar="B", help="run directory, or file of a benchmark tool")
    parser.add_argument("--system", metavar="NAME", help="measured system of A (default: its only one)")
    parser.add_argument(
        "--tolerance",
        type=_tolerance,
        metavar="F",
        help="exit code 6 if a main metric differs by more, is missing from A, or none can be compared",
    )
    parser.add_argument(
        "--result",
        type=int,
        metavar="N",
        help="index of the result in B if it has several",
    )
    parser.add_argument("--figure", type=Path, metavar="FILE", help="draw the distributions of both (svg, png)")
    parser.add_argument(
        "--calibrate",
        type=Path,
        metavar="FILE",
        help="fit the engine overheads to B and write them as an engine file",
    )
    parser.add_argument("--experiment", type=Path, metavar="EXP", help="experiment file behind A (for --calibrate)")
    parser.add_argument("--force", action="store_true", help="replace FILE if it exists")
    parser.set_defaults(func=run)


def run(args: argparse.Namespace) -> int:
    """Execute the command; return the exit code."""
    systems = _systems(args.run)
    if args.other.is_dir():
        for flag in ("figure", "calibrate", "result"):
            if getattr(args, flag) is not None:
                raise ConfigError(f"--{flag} needs a measured result, {args.other} is a run directory")
        return _compare_runs(args, systems)
    return _compare_measured(args, systems)


def _compare_runs(args: argparse.Namespace, systems: RunSet) -> int:
    from helixsim.metrics.measured_run import relative_errors

    others = _systems(args.other)
    common = [name for name in systems if name in others and args.system in (None, name)]
    if not common:
        raise ConfigError(f"no system in common: {', '.join(systems)} and {', '.join(others)}")
    changes = _setting_changes(args.run, args.other)
    a, b = ({name: one[name].summary.vllm_keys() for name in common} for one in (systems, others))
    errors = {name: relative_errors(a[name], b[name]) for name in common}
    if args.json:
        print(json.dumps({"settings": changes, "systems": errors}, indent=2))
    else:
        print("\n".join(f"{key}: {a} | {b}" for key, (a, b) in changes.items()) or "equal settings")
        for name in common:
            print(f"\n{name}\n{_table(a[name], b[name], errors[name])}")
    for name in common:
        _check(errors[name], b[name], args.tolerance, name)
    return ExitCode.OK


def _compare_measured(args: argparse.Namespace, systems: RunSet) -> int:
    from helixsim.benchmarks.read import read_benchmark
    from helixsim.metrics.measured_run import relative_errors

    measured = read_benchmark(args.other, args.result)
    name = _system(args, systems)
    ours = systems[name].summary.vllm_keys()
    errors = relative_errors(ours, measured.figures)
    document: dict[str, Any] = {"system": name, "errors": errors, "notes": list(measured.notes)}
    for note in () if args.quiet else measured.notes:
        print(f"note: {args.other}: {note}", file=sys.stderr)
    if args.figure is not None:
        _draw(args, systems[name], measured)
    if args.calibrate is not None:
        document["calibration"] = _calibrate(args, name, measured)
    if args.json:
        print(json.dumps(document, indent=2))
    else:
        print(f"{name}\n{_table(ours, measured.figures, errors)}")
        if args.calibrate is not None:
            print(f"\n{_calibration_text(document['calibration'])}")
    _check(errors, measured.figures, args.tolerance, name)
    return ExitCode.OK


def _calibrate(args: argparse.Namespace, system: str, measured: Benchmark) -> dict[str, Any]:
    """Fit the overheads, write the engine file if they improve the fit, and return the fit as JSON values."""
    from dataclasses import asdict

    from helixsim import yamlio
    from helixsim.experiment import Experiment
    from helixsim.hardware.engines import document, load_engine, with_overheads_s
    from helixsim.planning.calibrate import calibrate
    from helixsim.writing import write_text

    if args.experiment is None:
        raise ConfigError("--calibrate needs --experiment, the file behind the run")
    if args.calibrate.exists() and not args.force:
        raise ConfigError(f"{args.calibrate} exists; --force replaces it")
    with console.progress("calibrate", quiet=args.quiet) as advance:
        experiment = Experiment.load(args.experiment)
        found = calibrate(experiment, system, args.other, measured, result=args.result, progress=advance)
    if not found.improved:
        return asdict(found) | {"path": None}
    resolved = yamlio.load(args.run / "config.resolved.yaml").data
    base = load_engine(resolved["engine"]["name"])
    source = f"fitted to the first half of {args.other.name}; see helixsim compare --calibrate"
    engine = with_overheads_s(base, args.calibrate.stem, found.overheads_s, source)
    write_text(args.calibrate, yamlio.dump(document(engine)), devices=True)
    return asdict(found) | {"path": str(args.calibrate)}


def _calibration_text(found: Mapping[str, Any]) -> str:
    lines = [f"{key}: {seconds * 1e3:g} ms" for key, seconds in found["overheads_s"].items()]
    if not found["improved"]:
        lines.insert(0, "no overheads fit the measured run better than those of the engine; no file is written")
    for part, label in (("fit", "fitted half"), ("held_out", "held-out half")):
        (ttft, step), (ttft_after, step_after) = found[f"{part}_before"], found[f"{part}_after"]
        changes = (
            f"mean TTFT {_percent(ttft)} -> {_percent(ttft_after)}, step {_percent(step)} -> {_percent(step_after)}"
        )
        lines.append(f"{label if found['improved'] else label.replace('fitted', 'first')}: {changes}")
    return "\n".join(lines)


def _percent(error: float | None) -> str:
    return "-" if error is None else f"{error:+.1%}"


def _draw(args: argparse.Namespace, run: Run, measured: Benchmark) -> None:
    from helixsim.report.compare_figures import write_cdf_figure

    if not len(measured.requests.ttft_s):
        needed = "the lists ttfts, itls and output_lens (vllm bench serve --save-result --save-detailed)"
        raise DataError(f"{args.other}: nothing to draw: the figure needs {needed}")
    requests = run.requests[run.requests["finish_ns"].notna()]
    ttft = (requests["first_token_ns"] - requests["arrival_ns"]) / 1e9
    several = requests[requests["output_tokens"] > 1]
    step = (several["finish_ns"] - several["first_token_ns"]) / 1e9 / (several["output_tokens"] - 1)
    write_cdf_figure(
        args.figure,
        {
            "TTFT, s": {"helixsim": ttft.to_numpy(), "measured": measured.requests.ttft_s},
            "mean decode step of a request, s": {"helixsim": step.to_numpy(), "measured": measured.requests.step_s},
        },
    )


def _systems(directory: Path) -> RunSet:
    from helixsim.results.runset import RunSet
    from helixsim.runtime.manifest import checked_manifest

    path = directory / "summary.json"
    if not path.is_file():
        raise ConfigError(f"{directory} is not a run directory: it has no summary.json")
    checked_manifest(directory)
    return RunSet.load(directory)


def _system(args: argparse.Namespace, systems: RunSet) -> str:
    if args.system is None and len(systems) == 1:
        return next(iter(systems))
    if args.system is None:
        raise ConfigError(f"--system is required: {args.run} has the systems {', '.join(systems)}")
    if args.system not in systems:
        raise ConfigError(unknown_name("system", args.system, systems))
    return str(args.system)


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


def _check(errors: Mapping[str, float], reference: Mapping[str, Any], tolerance: float | None, system: str) -> None:
    """Raise ``ThresholdError`` if a main metric differs by more or is missing, or none could be compared."""
    if tolerance is None:
        return
    far = [key for key in MAIN_METRICS if key in errors and not abs(errors[key]) <= tolerance]
    missed = [f"{key} {errors[key]:+.1%}" for key in far]
    missed += [f"{key} is missing from A" for key in MAIN_METRICS if reference.get(key) and key not in errors]
    if missed:
        raise ThresholdError(f"{system}: beyond --tolerance {tolerance:.1%}: {', '.join(missed)}")
    if not any(key in errors for key in MAIN_METRICS):
        raise ThresholdError(f"{system}: --tolerance: B holds none of {', '.join(MAIN_METRICS)}: nothing was compared")


def _tolerance(text: str) -> float:
    """Parse a tolerance, a finite share of 0 or more."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 <= value < math.inf:
        raise argparse.ArgumentTypeError(f"got {text!r}, expected a finite number, 0 or more (0.1 is 10 %)")
    return value
