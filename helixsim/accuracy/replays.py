"""Measured runs replayed request by request: latencies and time series, measured and simulated.

The trace of the experiment is the measured run: a file with the arrival, lengths and latencies of each request
(``measured_requests``). Its requests are simulated as they came; the time series of the server may be given beside it
(``measured_series``).
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from helixsim.accuracy.measured_requests import RequestTimes, read_request_times
from helixsim.accuracy.measured_series import RunSeries, read_series
from helixsim.config.edit import edits_of
from helixsim.domain.result import FloatArray, RequestStatus, RunResult
from helixsim.errors import ConfigError, DataError
from helixsim.experiment import Experiment
from helixsim.study.placing import place_system
from helixsim.study.systems import simulate_system
from helixsim.units import NS_PER_S
from helixsim.workload.readers.registry import read_trace

SAMPLE_S = 1
"""Interval of the simulated series [s]."""


@dataclass(frozen=True)
class Replay:
    """A measured run and its simulation.

    Parameters
    ----------
    name
        Name of the experiment.
    measured, simulated
        Latencies of the requests.
    measured_series
        None: not given.
    setting
        Model, GPUs and engine.
    preemptions
        Preemptions in the simulation.
    """

    name: str
    setting: str
    measured: RequestTimes
    simulated: RequestTimes
    measured_series: RunSeries | None
    simulated_series: RunSeries
    preemptions: int


def replay(path: Path, series: Path | None = None) -> Replay:
    """Simulate the run that is the trace of an experiment.

    Parameters
    ----------
    path
        The experiment; its system serves the requests of its trace at their times.
    series
        File of the measured time series.

    Raises
    ------
    ConfigError
        If the experiment has no trace or several systems.
    DataError
        If a file has no latencies, or not of as many requests as are simulated.
    """
    experiment = Experiment.load(path)
    resolved = experiment.resolve()
    trace = resolved.workload.trace
    if trace is None:
        raise ConfigError(f"{path}: workload.trace: a replay needs the file of the measured requests, got none")
    if len(resolved.systems) != 1:
        names = ", ".join(system.name for system in resolved.systems)
        raise ConfigError(f"{path}: systems: a replay is of one system, got {len(resolved.systems)}: {names}")
    measured = read_request_times(trace)
    measured_series = None if series is None else read_series(series)
    *_, last = read_trace(trace.path, trace.format, trace.reading)
    replayed = experiment.with_(
        edits_of(
            {
                "workload.arrivals": {"process": "trace"},
                "workload.warmup": "0 s",
                "workload.duration": f"{last.arrival_ns / NS_PER_S + 1:.9f} s",
                "workload.drain": True,
                "report.sample": f"{SAMPLE_S} s",
            }
        )
    ).resolve()
    (system,) = replayed.systems
    run = simulate_system(replayed, place_system(replayed, system, by_flow=True))
    simulated = request_times(run)
    if len(simulated) != len(measured):
        raise DataError(
            f"{trace.path}: {len(measured)} requests measured, {len(simulated)} simulated: check the limits of lengths "
            f"in {path} and the context of the model"
        )
    fleet = replayed.fleet
    types = Counter(node.node_type for node in fleet.cluster.nodes)
    gpus = ", ".join(name if count == 1 else f"{count} nodes of {name}" for name, count in types.items())
    return Replay(
        name=replayed.name,
        setting=f"{fleet.model.name}, {gpus}, {replayed.engine.name}",
        measured=measured,
        simulated=simulated,
        measured_series=measured_series,
        simulated_series=run_series(run),
        preemptions=int(run.counters["preemptions"]),
    )


def request_times(run: RunResult) -> RequestTimes:
    """Return the latencies of the finished requests of a run, in order of arrival."""
    requests = run.requests
    done = requests.status == RequestStatus.FINISHED
    arrival, first, last = (getattr(requests, name)[done] for name in ("arrival_ns", "first_token_ns", "finish_ns"))
    tokens = requests.output_tokens[done]
    steps = (tokens - 1).astype(np.float64)
    steps[steps < 1] = np.nan
    span_ns = int(last.max() - requests.arrival_ns.min()) if len(last) else 0
    return RequestTimes(
        (first - arrival) / NS_PER_S,
        (last - first) / steps / NS_PER_S,
        float(tokens.sum()) / span_ns * NS_PER_S if span_ns else None,
    )


def run_series(run: RunResult) -> RunSeries:
    """Return the series of a run, from its second sample on; KV use is that of all nodes by their blocks."""
    series = run.series
    time_s: FloatArray = series.time_ns / NS_PER_S
    blocks = run.nodes.kv_blocks.astype(np.float64)
    return RunSeries(
        time_s[1:],
        np.diff(series.output_tokens) / np.diff(time_s),
        series.running[1:].astype(np.float64),
        series.waiting[1:].astype(np.float64),
        (series.kv_used @ (blocks / blocks.sum()))[1:],
    )
