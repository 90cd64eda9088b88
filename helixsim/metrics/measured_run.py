"""Errors of simulated runs against measured ones."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from helixsim.benchmarks.benchmark import METRICS
from helixsim.benchmarks.collect import is_number
from helixsim.domain.result import FloatArray


def relative_errors(simulated: Mapping[str, Any], measured: Mapping[str, Any]) -> dict[str, float]:
    """Return simulated / measured - 1 of every metric in both, unless the measured value is 0."""
    return {
        key: simulated[key] / measured[key] - 1.0
        for key in METRICS
        if is_number(measured.get(key)) and measured[key] and is_number(simulated.get(key))
    }


def mean_loss(simulated: Sequence[FloatArray], measured: Sequence[FloatArray]) -> float:
    """Return the mean absolute logarithm of simulated over measured means; inf if none can be compared."""
    terms = [
        abs(math.log1p(error))
        for ours, theirs in zip(simulated, measured, strict=True)
        if (error := mean_error(ours, theirs)) is not None and error > -1
    ]
    return sum(terms) / len(terms) if terms else math.inf


def mean_error(simulated: FloatArray, measured: FloatArray) -> float | None:
    """Return simulated over measured mean - 1, without NaN entries; None if either has no mean above 0."""
    ours, theirs = (values[np.isfinite(values)] for values in (simulated, measured))
    if not len(ours) or not len(theirs) or not theirs.mean() > 0:
        return None
    return float(ours.mean() / theirs.mean() - 1.0)
