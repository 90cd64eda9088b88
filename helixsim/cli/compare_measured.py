"""``helixsim compare`` with files of benchmark tools, and ``--calibrate``."""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from helixsim.cli import compare_calibrate, console
from helixsim.cli.compare_common import MAIN_METRICS, check, executor_of, experiment_of
from helixsim.cli.profile_actions import aligned
from helixsim.errors import ConfigError, DataError, ExitCode, HelixsimError, unknown_name

if TYPE_CHECKING:
    from helixsim.benchmarks.benchmark import Benchmark
    from helixsim.domain.figures import Limits
    from helixsim.domain.placement import Placement
    from helixsim.planning.replay import Point
    from helixsim.results.run import Run
    from helixsim.results.runset import RunSet

_JUDGED = (
    ("output_throughput", "throughput", "output throughput"),
    ("mean_ttft_ms", "ttft", "mean TTFT"),
    ("mean_tpot_ms", "tpot", "mean TPOT"),
)
"""Key of a metric, that of its model error, and its name."""

Measured = Sequence[tuple[str, "Benchmark"]]


def run(args: argparse.Namespace, systems: RunSet | None) -> int:
    """Compare a finished run, or an experiment (``systems`` is None), with benchmarks; return the exit code."""
    if args.calibrate is not None:
        compare_calibrate.check_flags(args, is_run=systems is not None)
    elif args.always_write:
        raise ConfigError("--always-write needs --calibrate")
    if args.add_to is not None and not args.replay:
        raise ConfigError("--add-to needs --replay: points are compared under the load that was measured")
    measured = _measured(args, several=systems is None)
    if args.figure is not None and len(measured) > 1:
        raise ConfigError(f"--figure draws one benchmark, got {len(measured)}; --result N selects one of a file")
    with tempfile.TemporaryDirectory(prefix="helixsim-") as folder:
        if systems is None:
            name, placement, runs, notes = _simulated(args, measured, Path(folder))
        else:
            placement = None
            name = _system(args, systems)
            runs = [systems[name]] * len(measured)
            notes = [tuple(_differences(args.run, systems[name], benchmark)) for _, benchmark in measured]
        found = [
            _Comparison(label, one, run, note) for (label, one), run, note in zip(measured, runs, notes, strict=True)
        ]
        if args.add_to is not None:
            _add(args, found)
        if args.figure is not None:
            _draw(args.figure, found[0])
        document: dict[str, Any] = {"system": name, "benchmarks": [one.document() for one in found]}
        if len(found) == 1:
            document |= {key: document["benchmarks"][0][key] for key in ("errors", "notes")}
        if not args.quiet:
            _print_notes(found)
        fitted = None
        if args.calibrate is not None:
            fitted = compare_calibrate.calibrated(args, name, placement, measured, Path(folder))
            document["calibration"] = fitted.document
    if args.json:
        print(json.dumps(document, indent=2))
    else:
        single = found if len(found) == 1 or args.verbose else ()
        print("\n\n".join([*(one.text(name) for one in single), *_overview(name, found)]))
        if fitted is not None:
            print(f"\n{fitted.text}")
    for one in found:
        check(one.errors, one.benchmark.figures, args.tolerance, one.label if len(found) > 1 else name)
    return ExitCode.OK


class _Comparison:
    """A benchmark beside what was simulated."""

    def __init__(self, label: str, benchmark: Benchmark, run: Run, notes: Sequence[str]) -> None:
        from helixsim.metrics.measured_run import relative_errors

        self.label, self.benchmark, self.run = label, benchmark, run
        self.notes = [*benchmark.notes, *notes]
        self.simulated = run.summary.vllm_keys()
        self.intervals: Mapping[str, Limits] = run.summary.confidence()
        self.errors = relative_errors(self.simulated, benchmark.figures)

    def document(self) -> dict[str, Any]:
        """Return the comparison as JSON values."""
        from helixsim.benchmarks.read import described

        return {
            "file": self.label,
            "tool": self.benchmark.tool,
            "load": described(self.benchmark),
            "measured": {key: self.benchmark.figures[key] for key in self.errors},
            "simulated": {key: self.simulated[key] for key in self.errors},
            "interval": {key: list(limits) for key, limits in self.intervals.items() if key in self.errors},
            "errors": self.errors,
            "notes": self.notes,
        }

    def text(self, system: str) -> str:
        """Return the comparison as a table."""
        from helixsim.benchmarks.read import described

        rows = [("metric", "measured", "simulated", "95 % interval", "error")]
        for key, error in self.errors.items():
            if key.startswith("median_") and key.replace("median_", "p50_") in self.errors:
                continue
            limits = self.intervals.get(key)
            interval = "" if limits is None else f"{limits.low:.6g} to {limits.high:.6g}"
            measured, simulated = (f"{figures[key]:.6g}" for figures in (self.benchmark.figures, self.simulated))
            rows.append((key, measured, simulated, interval, f"{error:+.1%}"))
        head = f"{system}, {self.label} ({self.benchmark.tool}: {described(self.benchmark)})"
        return "\n".join((self.verdict(), "", head, aligned(rows[0], rows[1:])))

    def verdict(self) -> str:
        """Return how far the simulation is off, and which metrics were expected to be closer."""
        from helixsim.metrics.ranking import follows_load

        error, parts = self.run.model_error, []
        for key, metric, title in _JUDGED:
            if key not in self.errors:
                continue
            text = f"{title} {self.errors[key]:+.1%}"
            is_given = metric == "throughput" and follows_load(self.run.summary)
            if error is not None and not is_given and self.simulated[key]:
                low, high = error.band(metric)
                is_inside = low <= self.benchmark.figures[key] / self.simulated[key] <= high
                text += ", in the 80 % band" if is_inside else ", outside the 80 % band"
            parts.append(text)
        return f"Verdict   simulated against measured: {'; '.join(parts) or 'no main metric in common'}."


def _print_notes(found: Sequence[_Comparison]) -> None:
    """Print the notes on stderr, those of several benchmarks once."""
    labels: dict[str, list[str]] = {}
    for one in found:
        for note in one.notes:
            labels.setdefault(note, []).append(one.label)
    for note, where in labels.items():
        others = f" and {len(where) - 1} others" if len(where) > 1 else ""
        print(f"note: {where[0]}{others}: {note}", file=sys.stderr)


def _overview(system: str, found: Sequence[_Comparison]) -> list[str]:
    """Return the main metrics of several benchmarks, one a line, and their errors over all as tables."""
    from helixsim.benchmarks.read import described

    if len(found) < 2:
        return []
    metrics = [key for key in MAIN_METRICS if any(key in one.errors for one in found)]
    if "mean_tpot_ms" in metrics and "mean_itl_ms" in metrics:
        metrics.remove("mean_itl_ms")  # much the same, and a line has to fit on a screen
    rows = []
    for one in found:
        cells = [one.label, described(one.benchmark)]
        for key in metrics:
            if key in one.errors:
                cells += [f"{one.benchmark.figures[key]:.4g}", f"{one.simulated[key]:.4g}", f"{one.errors[key]:+.1%}"]
            else:
                cells += ["", "", ""]
        rows.append(cells)
    head = [f"{system}: measured, simulated, error", ""]
    for key in metrics:
        head += [key, "", ""]
    overall = []
    for key in metrics:
        errors = [one.errors[key] for one in found if key in one.errors]
        size = np.abs(errors)
        overall.append((key, f"{np.median(size):.1%}", f"{size.max():.1%}", f"{np.mean(errors):+.1%}"))
    return [aligned(head, rows), aligned((f"{len(found)} benchmarks", "median |error|", "largest", "mean"), overall)]


def _add(args: argparse.Namespace, found: Sequence[_Comparison]) -> None:
    """Add the points to the user's own accuracy table."""
    from helixsim.accuracy import own

    engine = experiment_of(args).resolve().document["engine"]
    places = _places(args)
    points = [
        own.OwnPoint(*place, one.benchmark, one.run.summary, str(args.run), engine.get("calibration") or "")
        for place, one in zip(places, found, strict=True)
    ]
    new, rows = own.add(args.add_to, points)
    if not args.quiet:
        console.note(f"{args.add_to}: {new} points added, {len(points) - new} replaced, {rows} in all")


def _places(args: argparse.Namespace) -> list[tuple[Path, int]]:
    """Return the file of each benchmark and its number there."""
    from helixsim.benchmarks.read import read_benchmarks

    if args.result is not None:
        return [(path, args.result) for path in args.others]
    return [(path, number) for path in args.others for number, _ in enumerate(read_benchmarks(path), start=1)]


def _measured(args: argparse.Namespace, *, several: bool) -> list[tuple[str, Benchmark]]:
    """Return the benchmarks of the files with their names; a finished run is compared with one of each file."""
    from helixsim.benchmarks.read import read_benchmark, read_benchmarks

    found = []
    are_told_apart = len({path.name for path in args.others}) == len(args.others) > 1
    for path in args.others:
        label = path.name if are_told_apart else str(path)
        if several and args.result is None:
            found += [(f"{path.name}: {one.name}" if one.name else label, one) for one in read_benchmarks(path)]
        else:
            found.append((label, read_benchmark(path, args.result)))
    return found


def _simulated(
    args: argparse.Namespace, measured: Measured, folder: Path
) -> tuple[str, Placement | None, list[Run], list[tuple[str, ...]]]:
    """Simulate the experiment beside each benchmark: once under its own load, or each under the measured one."""
    from helixsim.planning.replay import ReplayTask, measured_points, placement_of, replay, stated_points

    experiment = experiment_of(args)
    name, placement = placement_of(experiment, args.system)
    points: list[Point]
    if args.replay or args.calibrate is not None:
        points = measured_points(experiment, measured, folder)
        tasks = [ReplayTask(point, name, placement) for point in points]
    else:
        points = stated_points(experiment, name, measured)
        tasks = [ReplayTask(points[0], name, placement)]
    runs: dict[int, Any] = {}
    with console.progress("simulate", quiet=args.quiet) as advance, executor_of(args, len(tasks)) as executor:
        for number, outcome in executor.carry_out(replay, tasks, advance):
            if isinstance(outcome, HelixsimError):
                raise outcome.within(points[number].label)
            runs[number] = outcome
    each = [runs[number if len(tasks) > 1 else 0] for number in range(len(points))]
    return name, placement, each, [point.notes for point in points]


def _system(args: argparse.Namespace, systems: RunSet) -> str:
    if args.system is None and len(systems) == 1:
        return next(iter(systems))
    if args.system is None:
        raise ConfigError(f"--system is required: {args.run} has the systems {', '.join(systems)}")
    if args.system not in systems:
        raise ConfigError(unknown_name("system", args.system, systems))
    return str(args.system)


def _differences(directory: Path, run: Run, benchmark: Benchmark) -> list[str]:
    """Return where the load of a finished run differs from that of a benchmark."""
    from helixsim import yamlio
    from helixsim.benchmarks.load import differences

    document = yamlio.load(directory / "config.resolved.yaml").data
    own: Mapping[str, Any] = next((one for one in document["systems"] if one.get("name") == run.name), {})
    done = run.summary.throughput
    lengths = [total / done.completed if done.completed else None for total in (done.prompt_tokens, done.output_tokens)]
    return differences(benchmark, own.get("arrivals") or document["workload"]["arrivals"], *lengths)


def _draw(path: Path, one: _Comparison) -> None:
    from helixsim.report.compare_figures import write_cdf_figure

    measured = one.benchmark.requests
    if not len(measured.ttft_s):
        needed = "single requests in the file (vllm bench serve --save-result --save-detailed)"
        raise DataError(f"{one.label}: nothing to draw: the figure needs {needed}")
    requests = one.run.requests[one.run.requests["finish_ns"].notna()]
    ttft = (requests["first_token_ns"] - requests["arrival_ns"]) / 1e9
    several = requests[requests["output_tokens"] > 1]
    step = (several["finish_ns"] - several["first_token_ns"]) / 1e9 / (several["output_tokens"] - 1)
    write_cdf_figure(
        path,
        {
            "TTFT, s": {"helixsim": ttft.to_numpy(), "measured": measured.ttft_s},
            "mean decode step of a request, s": {"helixsim": step.to_numpy(), "measured": measured.step_s},
        },
    )
