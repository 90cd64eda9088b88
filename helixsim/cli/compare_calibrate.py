"""``helixsim compare --calibrate``: the fit, its file and its text."""

from __future__ import annotations

import argparse
import hashlib
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from helixsim.cli import console
from helixsim.cli.compare_common import executor_of, experiment_of
from helixsim.cli.profile_actions import aligned
from helixsim.errors import ConfigError

if TYPE_CHECKING:
    from helixsim.benchmarks.benchmark import Benchmark
    from helixsim.domain.placement import Placement
    from helixsim.planning.calibrate import CalibrationFit, FittedConstant

AT_BOUND = "its bound: something else differs"
NOTHING_GAINED = "nothing was gained: no file is written"


@dataclass(frozen=True)
class Calibrated:
    """The fit as JSON values and as text."""

    document: dict[str, Any]
    text: str


def check_flags(args: argparse.Namespace, *, is_run: bool) -> None:
    """Raise ``ConfigError`` if the experiment is missing, or the file is there already."""
    if is_run and args.experiment is None:
        raise ConfigError("--calibrate needs --experiment, the file behind the run")
    if args.calibrate.exists() and not args.force:
        raise ConfigError(f"{args.calibrate} exists; --force replaces it")


def calibrated(
    args: argparse.Namespace,
    name: str,
    placement: Placement | None,
    measured: Sequence[tuple[str, Benchmark]],
    folder: Path,
) -> Calibrated:
    """Fit the constants, and write the file if left-out points are met better.

    ``placement`` of the system; None: not known yet.
    """
    from helixsim import yamlio
    from helixsim.planning.calibrate import calibrate
    from helixsim.planning.replay import measured_points, placement_of
    from helixsim.writing import write_text

    experiment = experiment_of(args)
    placement = placement or placement_of(experiment, name)[1]
    points = measured_points(experiment, measured, folder)
    with console.progress("calibrate", quiet=args.quiet) as advance, executor_of(args, 2) as executor:
        found = calibrate(experiment, name, placement, points, folder, executor, advance)
    path = args.calibrate if found.improved or args.always_write else None
    if path is not None:
        write_text(path, yamlio.dump(found.calibration.document(_source(args, found))), devices=True)
    document = {
        "improved": found.improved,
        "path": None if path is None else str(path),
        "error_before": found.error_before,
        "error_after": found.error_after,
        "gain": found.gain,
        "gain_interval": list(found.gain_interval),
        "constants": [asdict(one) for one in found.constants],
        "points": [asdict(one) for one in found.points],
        "simulations": found.simulations,
    }
    return Calibrated(document, _text(args, found, path))


def _source(args: argparse.Namespace, found: CalibrationFit) -> dict[str, Any]:
    """Return where the constants come from: experiment, files with their digests, and the errors of left-out points."""
    import helixsim

    errors = {
        metric: {when: f"{np.median(np.abs(_errors(found, when)[metric])):.1%}" for when in ("before", "held_out")}
        for metric in _errors(found, "before")
    }
    files = {str(path): hashlib.sha256(path.read_bytes()).hexdigest()[:16] for path in args.others}
    return {
        "written_by": f"helixsim {helixsim.__version__} compare --calibrate",
        "experiment": str(args.experiment or args.run),
        "changes": list(args.edits),
        "files": files,
        "points": len(found.points),
        "fitted": [one.name for one in found.constants if not one.kept],
        "median_error": errors,
        "gained": found.improved,
    }


def _errors(found: CalibrationFit, when: str) -> dict[str, list[float]]:
    from helixsim.planning.calibrate import errors_of

    return dict(errors_of(found.points, when))


def _text(args: argparse.Namespace, found: CalibrationFit, path: Path | None) -> str:
    constants = [
        (
            one.name,
            _value(one, one.before),
            "kept" if one.kept else _value(one, one.after),
            f"{one.told:.0%}",
            one.kept or (AT_BOUND if one.at_bound else ""),
        )
        for one in found.constants
    ]
    before, fitted, held_out = (_errors(found, when) for when in ("before", "fitted", "held_out"))
    head = (
        f"{len(found.points)} points, median",
        "before",
        "fitted",
        "left out of the fit",
        "largest before",
        "left out",
    )
    errors: list[tuple[str, ...]] = []
    for metric in before:
        sizes = [np.abs(of[metric]) for of in (before, fitted, held_out)]
        medians = [f"{np.median(size):.1%}" for size in sizes]
        errors.append((metric, *medians, f"{sizes[0].max():.1%}", f"{sizes[2].max():.1%}"))
    low, high = found.gain_interval
    gain = (
        f"mean error, TPOT weighed most: {found.error_before:.1%} before, {found.error_after:.1%} of points left out;\n"
        f"that of a point (plus 1 %) falls by a factor of {found.gain:.2f} (95 % interval {low:.2f} to {high:.2f})"
    )
    if path is None:
        said = NOTHING_GAINED
    else:
        named = os.path.relpath(path, (args.experiment or args.run).parent)
        named = str(path.resolve()) if named.startswith("..") else named
        said = f"{path} written{'' if found.improved else ' as asked, though nothing was gained'}"
        said += f"; in the experiment: `engine: {{calibration: {named}}}`"
    table = aligned(("constant", "profile", "fitted", "uncertainty removed", ""), constants)
    return f"{table}\n\n{aligned(head, errors)}\n\n{gain}\n{said}"


def _value(one: FittedConstant, value: float) -> str:
    return f"{value * 1e3:.3f} ms" if one.is_host else f"x {value:.3f}"
