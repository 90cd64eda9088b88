"""Results of a sweep: a row per point, seed and system, means over the seeds, and failures."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import takewhile
from typing import TYPE_CHECKING, Any

from helixsim.config.sweep_file import Plot
from helixsim.domain.request import Slo
from helixsim.metrics.error_cells import METRICS
from helixsim.metrics.model_error import LABELS as LABELS_OF_ERRORS
from helixsim.metrics.stats import t_interval
from helixsim.results.runset import RunSet
from helixsim.results.tables import error_row, per_user_and_gpu

if TYPE_CHECKING:
    import pandas as pd

SCHEMA = 1
NO_SLO = Slo()
LABELS = {
    "output_throughput": "output tokens/s",
    "total_token_throughput": "prompt + output tokens/s",
    "request_throughput": "completed requests/s",
    "request_goodput": "goodput, requests/s within SLO",
    "slo_attainment": "share of requests within SLO",
    "p99_ttft_ms": "TTFT p99, ms",
    "p95_ttft_ms": "TTFT p95, ms",
    "p50_ttft_ms": "TTFT p50, ms",
    "mean_ttft_ms": "TTFT mean, ms",
    "p99_tpot_ms": "TPOT p99, ms",
    "p50_tpot_ms": "TPOT p50, ms",
    "mean_tpot_ms": "TPOT mean, ms",
    "p99_itl_ms": "ITL p99, ms",
    "p50_itl_ms": "ITL p50, ms",
    "mean_itl_ms": "ITL mean, ms",
    "max_itl_ms": "ITL max, ms",
    "cost_usd_per_mtok": "$ per million output tokens",
    "cost_usd_per_hour": "$ per hour",
    "energy_wh_per_mtok": "Wh per million output tokens",
    "output_tokens_per_s": "output tokens/s",
    "total_tokens_per_s": "prompt + output tokens/s",
    "requests_per_s": "completed requests/s",
    "goodput_per_s": "goodput, requests/s within SLO",
    "usd_per_mtok": "$ per million output tokens",
    **{
        f"{latency}_{statistic}_s": f"{latency.upper()} {statistic}, s"
        for latency in ("ttft", "tpot", "itl", "e2el")
        for statistic in ("mean", "p50", "p95", "p99")
    },
    "tokens_per_s_per_user": "tokens/s per user",
    "tokens_per_s_per_gpu": "output tokens/s per GPU",
    "max_flow_tokens_per_s": "max-flow estimate, prompt + output tokens/s",
}
"""Labels of results in figures and tables; others are labelled by their key."""

MEANS = (
    "output_throughput", "total_token_throughput", "request_throughput", "request_goodput", "slo_attainment",
    "mean_ttft_ms", "p50_ttft_ms", "p95_ttft_ms", "p99_ttft_ms", "mean_tpot_ms", "p50_tpot_ms", "p99_tpot_ms",
    "mean_itl_ms", "tokens_per_s_per_user", "tokens_per_s_per_gpu", "cost_usd_per_mtok", "cost_usd_per_hour",
    "energy_wh_per_mtok", "max_flow_tokens_per_s",
    "ratio_to_baseline.output_throughput",
)  # fmt: skip
"""Results with means and intervals over the seeds, besides the objective."""


@dataclass(frozen=True)
class SweepResults:
    """Results of a sweep.

    Parameters
    ----------
    axes
        Keys of the axes, in order.
    rows
        One per point, seed and system: ``point``, the axes, ``seed``, ``run`` (its directory below ``out``),
        ``system``, then the results.
    failures
        One per point, or system of a point, without results.
    slo
        Objectives of the swept experiment; none where they are themselves an axis.
    is_sampled
        Points are drawn at random, so that no two share the value of an axis.
    """

    name: str
    question: str | None
    axes: tuple[str, ...]
    seeds: tuple[int, ...]
    objective: str
    is_max: bool
    is_sampled: bool
    rows: tuple[dict[str, Any], ...]
    failures: tuple[dict[str, Any], ...]
    plots: tuple[Plot, ...] | None
    slo: Slo

    def label(self, key: str) -> str:
        """Return the label of a result or an axis."""
        if key in self.axes:
            return short_names(self.axes)[self.axes.index(key)]
        return LABELS.get(key, key)

    def shared_label(self, keys: Sequence[str]) -> tuple[str, list[str]]:
        """Return what the labels of results have in common, for an axis, and what is left of each, for its line."""
        labels = [self.label(key) for key in keys]
        if len(labels) == 1:
            return labels[0], [""]
        names, units = zip(*(label.rpartition(", ")[::2] for label in labels), strict=True)
        words = [name.split() for name in names]
        same = sum(1 for _ in takewhile(lambda one: len(set(one)) == 1, zip(*words, strict=False)))
        if len(set(units)) > 1 or not same:
            return " and ".join(labels), labels
        return f"{' '.join(words[0][:same])}, {units[0]}", [" ".join(one[same:]) for one in words]

    def table(self) -> pd.DataFrame:
        """Return a row per point, seed and system (``results.csv``)."""
        return frame(self.rows)

    def means(self) -> pd.DataFrame:
        """Return a row per point and system: means over the seeds with their 95 % intervals (``means.csv``)."""
        return frame(mean_rows(self))


def run_rows(runs: RunSet) -> Iterator[dict[str, Any]]:
    """Yield a flat row per system of an experiment: numbers and verdicts, with nested keys joined by a dot."""
    for name, run in runs.items():
        own = {**run.summary.own_keys(), **runs.comparisons[name].to_json()}
        own["steady"] = own["steady"].partition(":")[0]
        row = {"system": name, **run.summary.vllm_keys()}
        for key, value in own.items():
            if key in {"utilisation", "ratio_to_baseline"}:
                row |= {f"{key}.{inner}": figure for inner, figure in value.items()}
            elif not isinstance(value, (Mapping, list)) and key != "bottleneck":
                row[key] = value
        yield {**row, **per_user_and_gpu(run.summary), **error_row(run.summary)}


def mean_rows(results: SweepResults, metrics: Sequence[str] = MEANS) -> list[dict[str, Any]]:
    """Return one row per point and system: means over the seeds with their 95 % intervals (Student's t).

    A result that is missing under any seed has no mean. ``metrics``: the results, in addition to the objective.
    """
    groups: dict[tuple[int, str], list[dict[str, Any]]] = {}
    for row in results.rows:
        groups.setdefault((row["point"], row["system"]), []).append(row)
    wanted = dict.fromkeys([results.objective, *metrics])
    found = []
    for (point, system), rows in groups.items():
        mean: dict[str, Any] = {"point": point, **{axis: rows[0][axis] for axis in results.axes}}
        mean |= {"system": system, "seeds": len(rows)}
        for metric in wanted:
            if metric in rows[0]:
                centre, low, high = _interval([row[metric] for row in rows])
                mean |= {metric: centre, f"{metric}.low": low, f"{metric}.high": high}
        verdicts = [row["saturation"] for row in rows]
        mean["saturation"] = verdicts[0] if len(set(verdicts)) == 1 else "MIXED"
        found.append(mean | _widest_errors(rows))
    return found


def _widest_errors(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return the model error over the seeds: the least good label, the fewest points, and the widest bands."""
    found: dict[str, Any] = {}
    for key, choose in _WIDEST.items():
        values = [row[key] for row in rows if row.get(key) is not None]
        found[key] = choose(values) if values else None
    return found


_WIDEST: dict[str, Callable[[list[Any]], Any]] = {
    "accuracy": lambda labels: max(labels, key=LABELS_OF_ERRORS.index),
    "accuracy_points": min,
    **{f"{metric}_band_low_ratio": min for metric in METRICS},
    **{f"{metric}_band_high_ratio": max for metric in METRICS},
}


def error_of(key: str) -> tuple[str, bool] | None:
    """Return the metric whose model error a result has, and whether the result is its inverse; None: it has none."""
    if key.startswith("max_"):
        return None
    if key in _PRICES:
        return "throughput", True
    if key in _THROUGHPUTS:
        return "throughput", False
    return next(((metric, False) for name, metric in _LATENCIES.items() if f"_{name}_" in f"_{key}"), None)


_PRICES = ("cost_usd_per_mtok", "usd_per_mtok")
_THROUGHPUTS = (
    "output_throughput", "total_token_throughput", "request_throughput",
    "output_tokens_per_s", "total_tokens_per_s", "requests_per_s",
)  # fmt: skip
_LATENCIES = {"ttft": "ttft", "tpot": "tpot", "itl": "tpot"}
"""Latencies, and the metric of their error: gaps between tokens have that of TPOT."""


def ranked(results: SweepResults, rows: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Return the rows with a value of the objective, the best first."""
    sign = -1.0 if results.is_max else 1.0
    known = [row for row in rows if row.get(results.objective) is not None]
    return sorted(known, key=lambda row: sign * row[results.objective])


def document(results: SweepResults, means: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return the contents of ``sweep.json``: axes, means and failures."""
    return {
        "schema": SCHEMA,
        "sweep": results.name,
        "axes": list(results.axes),
        "seeds": list(results.seeds),
        "objective": {"metric": results.objective, "goal": "max" if results.is_max else "min"},
        "points": list(means),
        "failed": list(results.failures),
    }


def frame(rows: Sequence[Mapping[str, Any]]) -> pd.DataFrame:
    """Return rows as a table; mappings and lists are converted to JSON text."""
    import pandas as pd

    columns = list(dict.fromkeys(key for row in rows for key in row))
    plain = [{key: plain_value(row.get(key)) for key in columns} for row in rows]
    return pd.DataFrame(plain, columns=columns)


def plain_value(value: Any) -> Any:
    """Return a value as the content of a cell."""
    return json.dumps(value, ensure_ascii=False) if isinstance(value, (dict, list)) else value


def short_names(axes: Sequence[str]) -> list[str]:
    """Return short unique names of axes: ``rate``, ``nodes.1.count``."""
    names = []
    for axis in axes:
        parts = axis.split(".")
        kept = 1
        while kept < len(parts) and (parts[-kept].isdecimal() or (kept < 3 and parts[-kept - 1].isdecimal())):
            kept += 1
        names.append(".".join(parts[-kept:]))
    return [name if names.count(name) == 1 else axis for name, axis in zip(names, axes, strict=True)]


def _interval(values: Sequence[float | None]) -> tuple[float | None, float | None, float | None]:
    """Return mean, lower and upper limit; None if undefined."""
    known = [value for value in values if value is not None]
    if not known or len(known) < len(values):
        return None, None, None
    # Figures of runs are not negative; a user-defined metric with negative values may have a negative mean.
    interval = t_interval(known, floor=0.0 if min(known) >= 0 else None)
    if interval is None:
        return known[0], None, None
    return interval.mean, interval.low, interval.high
