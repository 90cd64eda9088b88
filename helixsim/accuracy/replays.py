"""Measured runs replayed request by request: latencies and time series, measured and simulated.

The measured run is the trace of the experiment, a file with the arrival, lengths and latencies of each request
(``measured_requests``), or the result of a benchmark tool. Its requests are simulated as they came; the time series of
the server may be given beside it (``measured_series``).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from helixsim.accuracy.measured_requests import RequestTimes, read_request_times
from helixsim.accuracy.measured_series import RunSeries, read_series
from helixsim.benchmarks.read import read_benchmark
from helixsim.config.edit import edits_of
from helixsim.domain.result import FloatArray, RequestStatus, RunResult
from helixsim.errors import ConfigError, DataError
from helixsim.experiment import Experiment
from helixsim.hardware.vllm_log import is_log
from helixsim.study.placing import place_system
from helixsim.study.systems import simulate_system
from helixsim.units import NS_PER_S
from helixsim.workload.readers.registry import read_trace
from helixsim.writing import write_text

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


def replay(path: Path, files: Sequence[Path] = ()) -> Replay:
    """Simulate the measured requests of a run on the system of an experiment, as they came.

    Parameters
    ----------
    path
        The experiment. Without another file of requests, its trace is that file.
    files
        The result of a benchmark tool with single requests and their starts (``helixsim.benchmarks``), and the log or
        the metrics (CSV) of the server over time; at most one of each.

    Raises
    ------
    ConfigError
        If the experiment has several systems, or there is no or more than one file of requests or series.
    DataError
        If a file has no latencies, or not of as many requests as are simulated.
    """
    series = [file for file in files if file.suffix == ".csv" or is_log(file)]
    results = [file for file in files if file not in series]
    for kind, found in (("results", results), ("time series", series)):
        if len(found) > 1:
            raise ConfigError(f"{path}: a replay takes one file of {kind}, got {', '.join(map(str, found))}")
    with TemporaryDirectory() as folder:
        written = Path(folder) / "requests.csv"
        experiment, measured = _of_result(path, results[0], written) if results else _of_trace(path)
        resolved = experiment.resolve()
        trace = resolved.workload.trace
        if trace is None:
            raise ConfigError(f"{path}: workload.trace: a replay has measured requests, got none")
        if len(resolved.systems) != 1:
            names = ", ".join(system.name for system in resolved.systems)
            raise ConfigError(f"{path}: systems: a replay is of one system, got {len(resolved.systems)}: {names}")
        measured_series = read_series(series[0]) if series else None
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
            f"{results[0] if results else trace.path}: {len(measured)} requests measured, {len(simulated)} simulated: "
            f"check the limits of lengths in {path} and the context of the model"
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


def _of_trace(path: Path) -> tuple[Experiment, RequestTimes]:
    """Return the experiment at a path, and the latencies in the file of its trace."""
    experiment = Experiment.load(path)
    trace = experiment.resolve().workload.trace
    if trace is None:
        raise ConfigError(
            f"{path}: workload.trace: a replay needs the measured requests: as the trace, or as the result of a "
            "benchmark tool after the experiment"
        )
    return experiment, read_request_times(trace)


def _of_result(path: Path, result: Path, written: Path) -> tuple[Experiment, RequestTimes]:
    """Return the experiment with the requests of a benchmark as its trace, in a file that is written, and latencies."""
    benchmark = read_benchmark(result)
    requests = benchmark.requests
    columns = requests.start_s, requests.prompt_tokens, requests.output_tokens, requests.ttft_s
    if not len(requests.start_s) or len({len(column) for column in columns}) > 1:
        raise DataError(
            f"{result}: a replay needs start, lengths and TTFT of each request (vllm bench serve --save-result "
            f"--save-detailed); it has {benchmark.tool} without them"
        )
    rows = zip(*(column.tolist() for column in columns[:3]), strict=True)
    lines = [f"{start:.9f},{prompt:.0f},{output:.0f}" for start, prompt, output in rows]
    write_text(written, "\n".join(["arrival_s,prompt_tokens,output_tokens", *lines, ""]))
    edits = edits_of({"workload.trace": {"path": str(written), "format": "csv"}})
    times = RequestTimes(requests.ttft_s, requests.step_s, benchmark.figures.get("output_throughput"))
    return Experiment.load(path).with_(edits), times


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
