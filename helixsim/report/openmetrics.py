"""Series of a run as OpenMetrics text under the names of vLLM's metrics, so that its dashboards show a simulated run.

Gauges and counters are the samples of the run; histograms are counted from its requests at the times of the samples.
Each sample has a timestamp: simulated time after ``epoch_s``. `promtool tsdb create-blocks-from openmetrics` reads it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from helixsim.domain.result import FloatArray, IntArray
from helixsim.escape import printable
from helixsim.report.run_charts import node_series
from helixsim.results.run import Run
from helixsim.results.runset import RunSet
from helixsim.units import NS_PER_S

ENGINE = "0"
"""Label ``engine``: a system is shown as one engine, since its queue is one."""

SCRAPE_MS = 1000
"""Shortest interval between the samples that are written [ms], as the shortest at which servers are usually scraped."""

_TTFT_S = (
    0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0, 20.0, 40.0, 80.0, 160.0,
    640.0, 2560.0,
)  # fmt: skip
_TPOT_S = (
    0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0, 20.0, 40.0, 80.0,
)  # fmt: skip
_LATENCY_S = (
    0.3, 0.5, 0.8, 1.0, 1.5, 2.0, 2.5, 5.0, 10.0, 15.0, 20.0, 30.0, 40.0, 50.0, 60.0, 120.0, 240.0, 480.0, 960.0,
    1920.0, 7680.0,
)  # fmt: skip
"""Upper edges of the buckets of vLLM's histograms [s]."""

_TIMES = ("arrival_ns", "admitted_ns", "first_token_ns", "finish_ns", "output_tokens")


@dataclass(frozen=True, slots=True)
class _Family:
    """A metric of a run: values at its samples, or the events that a histogram counts (time [s], value [s])."""

    name: str
    kind: str
    about: str
    values: FloatArray | None = None
    buckets: Sequence[float] = ()
    times_s: FloatArray | None = None
    events_s: FloatArray | None = None
    labels: Mapping[str, str] | None = None


def openmetrics(runs: RunSet, model: str, *, epoch_s: float = 0.0) -> Iterator[str]:
    """Yield the lines of all systems; they differ in the label ``system``.

    Parameters
    ----------
    model
        Label ``model_name``.
    epoch_s
        Time of the start of the run, as seconds since 1970.
    """
    by_system = {name: _families(run) for name, run in runs.items()}
    samples = {name: run.columns("series")["time_ns"] / NS_PER_S for name, run in runs.items()}
    for number, family in enumerate(next(iter(by_system.values()), ())):
        yield f"# HELP {family.name} {_help_text(family.about)}\n"
        yield f"# TYPE {family.name} {family.kind}\n"
        if family.name.endswith("_seconds"):
            yield f"# UNIT {family.name} seconds\n"
        for system, families in by_system.items():
            own = families[number]
            labels = {"model_name": model, "engine": ENGINE, "system": system, **(own.labels or {})}
            yield from _lines(own, labels, samples[system], epoch_s)
    yield "# EOF\n"


def _families(run: Run) -> list[_Family]:
    series = run.columns("series")
    kv = node_series(run, "kv_used_share").values
    requests = run.request_columns(*_TIMES)
    arrival, admitted, first, finish, tokens = (requests[name] for name in _TIMES)
    done = finish >= 0
    several = done & (tokens > 1)
    tpot_s = (finish - first)[several] / (tokens[several] - 1) / NS_PER_S
    return [
        _Family("vllm:num_requests_running", "gauge", "Number of requests in model execution batches.",
                series["running"].astype(float)),
        _Family("vllm:num_requests_waiting", "gauge", "Number of requests waiting to be processed.",
                series["waiting"].astype(float)),
        _Family("vllm:kv_cache_usage_perc", "gauge", "KV-cache usage, mean of the nodes. 1 means 100 percent usage.",
                kv.mean(axis=1) if kv.size else np.zeros(len(series["time_ns"]))),
        _Family("vllm:prompt_tokens", "counter", "Number of prefill tokens processed.",
                series["prompt_tokens"].astype(float)),
        _Family("vllm:generation_tokens", "counter", "Number of generation tokens processed.",
                series["output_tokens"].astype(float)),
        _Family("vllm:request_success", "counter", "Count of successfully processed requests.",
                series["finished"].astype(float), labels={"finished_reason": "stop"}),
        _histogram("vllm:time_to_first_token_seconds", "Histogram of time to first token in seconds.", _TTFT_S,
                   first, first - arrival),
        _Family("vllm:request_time_per_output_token_seconds", "histogram",
                "Histogram of time per output token in seconds, per request.", buckets=_TPOT_S,
                times_s=finish[several] / NS_PER_S, events_s=tpot_s),
        _histogram("vllm:e2e_request_latency_seconds", "Histogram of end to end request latency in seconds.",
                   _LATENCY_S, finish, finish - arrival),
        _histogram("vllm:request_queue_time_seconds", "Histogram of time before admission in seconds.",
                   _LATENCY_S, admitted, admitted - arrival),
    ]  # fmt: skip


def _histogram(name: str, about: str, buckets: Sequence[float], at_ns: IntArray, spent_ns: IntArray) -> _Family:
    """Return the histogram of times that end at ``at_ns``; below zero: did not occur."""
    occurred = at_ns >= 0
    return _Family(
        name, "histogram", about, buckets=buckets, times_s=at_ns[occurred] / NS_PER_S,
        events_s=spent_ns[occurred] / NS_PER_S,
    )  # fmt: skip


def _lines(family: _Family, labels: Mapping[str, str], samples_s: FloatArray, epoch_s: float) -> Iterator[str]:
    own = _labels(labels)
    times_ms = np.rint(1e3 * (samples_s + epoch_s)).astype(np.int64)
    scrapes = times_ms // SCRAPE_MS
    kept = np.flatnonzero(np.diff(scrapes, append=scrapes[-1:] + 1))  # of each interval, the last sample
    samples_s, stamps = samples_s[kept], [f"{time_ms / 1e3:.3f}" for time_ms in times_ms[kept].tolist()]
    if family.values is not None:
        name = f"{family.name}_total" if family.kind == "counter" else family.name
        for stamp, value in zip(stamps, family.values[kept].tolist(), strict=True):
            yield f"{name}{{{own}}} {_number(value)} {stamp}\n"
        return
    assert family.times_s is not None
    assert family.events_s is not None
    order = np.argsort(family.times_s, kind="stable")
    seen = np.searchsorted(family.times_s[order], samples_s, side="right")
    spent = family.events_s[order]
    sums = np.concatenate([[0.0], np.cumsum(spent)])[seen]
    edges = [*family.buckets, np.inf]
    counts = [np.concatenate([[0], np.cumsum(spent <= edge)])[seen].tolist() for edge in edges]
    # All series of a histogram at one time stand together, as a scrape would have them.
    for row, stamp in enumerate(stamps):
        for edge, column in zip(edges, counts, strict=True):
            le = "+Inf" if np.isinf(edge) else _number(edge)
            yield f'{family.name}_bucket{{{own},le="{le}"}} {column[row]} {stamp}\n'
        yield f"{family.name}_count{{{own}}} {counts[-1][row]} {stamp}\n"
        yield f"{family.name}_sum{{{own}}} {_number(float(sums[row]))} {stamp}\n"


def _labels(labels: Mapping[str, str]) -> str:
    return ",".join(f'{name}="{_escaped(value)}"' for name, value in labels.items())


def _escaped(text: str) -> str:
    return re.sub(r'[\\"]', r"\\\g<0>", printable(text, one_line=True))


def _help_text(text: str) -> str:
    return text.replace("\\", "\\\\")


def _number(value: float) -> str:
    """Return a value as Prometheus' libraries write it: ``1.0``, ``0.25``."""
    return repr(float(f"{value:.12g}"))
