"""What the parts of ``helixsim compare`` share."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from helixsim.cli import options
from helixsim.errors import ThresholdError

if TYPE_CHECKING:
    from helixsim.experiment import Experiment
    from helixsim.runtime.pool import Executor

MAIN_METRICS = ("output_throughput", "mean_ttft_ms", "mean_itl_ms", "mean_tpot_ms")
"""Metrics that ``--tolerance`` checks."""


def check(errors: Mapping[str, float], reference: Mapping[str, Any], tolerance: float | None, system: str) -> None:
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


def experiment_of(args: argparse.Namespace) -> Experiment:
    """Return the experiment of the command line with its edits: A, or the one behind run directory A."""
    from helixsim.experiment import Experiment

    return Experiment.load(args.experiment or args.run).with_(options.edits(args))


def executor_of(args: argparse.Namespace, tasks: int) -> Executor:
    """Return the executor of so many tasks."""
    from helixsim.runtime.executors import executor

    return executor(1 if tasks == 1 else args.jobs, None, Path("runs"))
