"""Charts of a replayed run: distributions of its latencies, and its time series, measured and simulated."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from helixsim.accuracy.measured_series import TITLES, RunSeries
from helixsim.accuracy.replays import Replay
from helixsim.domain.result import FloatArray
from helixsim.report.charts import Axis, Chart, Curve, linear_axis, shares_below
from helixsim.units import NS_PER_MS, NS_PER_S, number

MOST_POINTS = 400
"""Points of a time series in a chart; of longer ones, means of as many samples as necessary."""

KINDS = {"measured": "ink", "simulated": "c1"}

_MS = NS_PER_S / NS_PER_MS
_SHARES = tuple((share, f"{share:.0%}") for share in (0.0, 0.25, 0.5, 0.75, 1.0))
_KV_SHARES = tuple((share, f"{share:.0%}") for share in (0.0, 0.2, 0.4, 0.6, 0.8, 1.0))


def shown(replay: Replay) -> dict[str, Any]:
    """Return the title, figures (label, measured, simulated, error) and charts of a replay, for the page."""
    waited = "no preemptions" if not replay.preemptions else f"{replay.preemptions} preemptions"
    return {
        "title": replay.name,
        "about": f"{replay.setting}; {len(replay.measured)} requests; {waited} in the simulation.",
        "figures": [(label, number(a), number(b), error) for label, a, b, error in figures(replay)],
        "charts": [*distributions(replay), *series(replay)],
    }


def figures(replay: Replay) -> list[tuple[str, float | None, float | None, float | None]]:
    """Return label, measured and simulated figure, and error: throughput, mean and median latencies."""
    ours, theirs = replay.simulated, replay.measured
    pairs: list[tuple[str, float | None, float | None]] = [
        ("output tokens/s", theirs.output_tokens_per_s, ours.output_tokens_per_s)
    ]
    for label, key, factor in (("TTFT {}, s", "ttft_s", 1.0), ("TPOT {}, ms", "tpot_s", _MS)):
        for name, statistic in (("mean", np.nanmean), ("median", np.nanmedian), ("p90", _p90)):
            measured, simulated = (
                float(statistic(getattr(one, key))) * factor if len(one) else None for one in (theirs, ours)
            )
            pairs.append((label.format(name), measured, simulated))
    return [(label, measured, simulated, _error(measured, simulated)) for label, measured, simulated in pairs]


def distributions(replay: Replay) -> list[Chart]:
    """Return the cumulative distributions of TTFT and TPOT."""
    charts = []
    for title, key, unit, factor in (("TTFT", "ttft_s", "s", 1.0), ("TPOT", "tpot_s", "ms", _MS)):
        samples = {name: _finite(getattr(getattr(replay, name), key)) * factor for name in KINDS}
        largest = max((float(values.max()) for values in samples.values() if values.size), default=1.0)
        curves = []
        for name, kind in KINDS.items():
            if samples[name].size:
                values, shares = shares_below(samples[name].tolist())
                curves.append(Curve(kind, [values[0], *values], [0.0, *shares], is_step=True, name=name))
        charts.append(
            Chart(
                f"{key}-{_identifier(replay.name)}",
                f"{title} of the requests",
                f"Cumulative distribution of {title} over the requests of {replay.name}, measured and simulated.",
                linear_axis(f"{title}, {unit}", 0.0, largest or 1.0),
                Axis("share of requests", 0.0, 1.0, _SHARES, is_share=True),
                curves=tuple(curves),
            )
        )
    return charts


def series(replay: Replay) -> list[Chart]:
    """Return the time series of each quantity, the measured one beside the simulated one where there is one."""
    ends = [one.time_s[-1] for one in (replay.measured_series, replay.simulated_series) if one is not None]
    time_axis = linear_axis("time, s", 0.0, float(max(ends)))
    charts = []
    for key, title in TITLES.items():
        curves = []
        for name, kind in KINDS.items():
            one: RunSeries | None = getattr(replay, f"{name}_series")
            values = None if one is None else getattr(one, key)
            if one is not None and values is not None:
                curves.append(Curve(kind, *_thinned(one.time_s, values), name=name))
        highest = max(max(curve.ys, default=0.0) for curve in curves)
        is_share = key == "kv_share"
        missing = "" if len(curves) > 1 else " (not measured)"
        charts.append(
            Chart(
                f"{key}-{_identifier(replay.name)}",
                f"{title[0].upper()}{title[1:]}{missing}",
                f"{title} over time in {replay.name}, simulated{' and measured' if len(curves) > 1 else ''}.",
                time_axis,
                Axis(title, 0.0, 1.0, _KV_SHARES, is_share=True)
                if is_share
                else linear_axis(title, 0.0, highest or 1.0),
                curves=tuple(curves),
            )
        )
    return charts


def _thinned(time_s: FloatArray, values: FloatArray) -> tuple[list[float], list[float]]:
    """Return a series of at most ``MOST_POINTS`` points: means of consecutive samples at the times of their last."""
    size = -(-len(values) // MOST_POINTS)
    starts = range(0, len(values), size)
    means = [float(values[start : start + size].mean()) for start in starts]
    return [float(time_s[start : start + size][-1]) for start in starts], means


def _finite(values: FloatArray) -> FloatArray:
    return values[np.isfinite(values)]


def _p90(values: FloatArray) -> float:
    return float(np.nanquantile(values, 0.9))


def _error(measured: float | None, simulated: float | None) -> float | None:
    if measured is None or simulated is None or not measured > 0 or math.isnan(simulated):
        return None
    return simulated / measured - 1.0


def _identifier(name: str) -> str:
    return "".join(letter if letter.isalnum() else "-" for letter in name)
