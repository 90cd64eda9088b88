"""Errors of simulated runs against measured ones."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from helixsim.benchmarks.benchmark import METRICS
from helixsim.benchmarks.collect import is_number


def relative_errors(simulated: Mapping[str, Any], measured: Mapping[str, Any]) -> dict[str, float]:
    """Return simulated / measured - 1 of every metric in both, unless the measured value is 0."""
    return {
        key: simulated[key] / measured[key] - 1.0
        for key in METRICS
        if is_number(measured.get(key)) and measured[key] and is_number(simulated.get(key))
    }
