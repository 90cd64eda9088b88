"""A run of the engine's own, written down as if it were measured, is replayed without any error."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest

from helixsim.accuracy.measured_requests import read_request_times
from helixsim.accuracy.measured_series import read_series
from helixsim.accuracy.replay_charts import MOST_POINTS, distributions, figures, series, shown
from helixsim.accuracy.replays import SAMPLE_S, Replay, replay, request_times, run_series
from helixsim.domain.result import RunResult
from helixsim.errors import ConfigError, DataError
from helixsim.experiment import Experiment
from helixsim.results.tables import requests_text
from helixsim.study.placing import place_system
from helixsim.study.systems import simulate_system
from helixsim.workload.readers.registry import detect_format
from helixsim.workload.spec import ReadOptions, TraceSpec

EXPERIMENT = """\
schema: 1
name: own
model: llama-2-7b
cluster:
  nodes: [{gpu: a100-40g}]
  network: {intra_region: {bandwidth: 10 Gbit/s, latency: 1 ms}}
engine: vllm-1
systems: [{name: one, placement: separate}]
"""
POISSON = """\
workload:
  limits: {max_prompt_tokens: 512, max_output_tokens: 64}
  arrivals: {process: poisson, rate: 20 /s}
  warmup: 0 s
  duration: 5 s
  drain: true
report: {sample: 1 s}
"""
TRACE = "workload: {trace: {path: requests.csv, columns: {arrival: arrival_ns}}}\n"


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> RunResult:
    path = tmp_path_factory.mktemp("own") / "exp.yaml"
    path.write_text(EXPERIMENT + POISSON)
    experiment = Experiment.load(path).resolve()
    (system,) = experiment.systems
    return simulate_system(experiment, place_system(experiment, system))


@pytest.fixture
def measured(run: RunResult, tmp_path: Path) -> Path:
    """Folder of an experiment whose trace is the table of requests of the run, with its series as a CSV."""
    (tmp_path / "requests.csv").write_text("".join(requests_text(run)))
    (tmp_path / "exp.yaml").write_text(EXPERIMENT + TRACE)
    own = run_series(run)
    columns = {"t": own.time_s, "gen_throughput": own.tokens_per_s, "running": own.running, "waiting": own.waiting}
    rows = [",".join([*columns, "kv_cache_usage"])]
    rows += [",".join(map(repr, map(float, row))) for row in zip(*columns.values(), own.kv_share, strict=True)]
    (tmp_path / "series.csv").write_text("\n".join(rows) + "\n")
    return tmp_path


def test_a_run_of_its_own_is_replayed_exactly(measured: Path, run: RunResult) -> None:
    found = replay(measured / "exp.yaml", [measured / "series.csv"])
    assert len(found.measured) == len(run.requests.request_id) > 50
    # the first arrival of a trace is at time 0: the clock is shifted, durations may differ by its rounding alone
    np.testing.assert_allclose(found.simulated.ttft_s, found.measured.ttft_s, rtol=0, atol=1e-3)
    np.testing.assert_allclose(found.simulated.tpot_s, found.measured.tpot_s, rtol=0, atol=1e-4)
    assert found.simulated.output_tokens_per_s == pytest.approx(found.measured.output_tokens_per_s, rel=1e-3)
    assert all(error is not None and abs(error) < 0.01 for *_, error in figures(found))


def test_the_result_of_a_benchmark_tool_is_replayed_as_its_table(measured: Path, run: RunResult) -> None:
    requests = run.requests
    gaps = (requests.finish_ns - requests.first_token_ns) / np.maximum(requests.output_tokens - 1, 1) / 1e9
    result = {
        "completed": len(gaps),
        "output_throughput": request_times(run).output_tokens_per_s,
        "start_times": (requests.arrival_ns / 1e9).tolist(),
        "ttfts": ((requests.first_token_ns - requests.arrival_ns) / 1e9).tolist(),
        "itls": [
            [gap] * (tokens - 1) for gap, tokens in zip(gaps.tolist(), requests.output_tokens.tolist(), strict=True)
        ],
        "input_lens": requests.prompt_tokens.tolist(),
        "output_lens": requests.output_tokens.tolist(),
    }
    (measured / "result.json").write_text(json.dumps(result))
    (measured / "exp.yaml").write_text(EXPERIMENT + POISSON)
    found = replay(measured / "exp.yaml", [measured / "series.csv", measured / "result.json"])
    assert found.measured_series is not None
    assert all(error is not None and abs(error) < 0.01 for *_, error in figures(found))
    with pytest.raises(ConfigError, match="one file of results"):
        replay(measured / "exp.yaml", [measured / "result.json"] * 2)
    del result["start_times"]
    (measured / "result.json").write_text(json.dumps(result))
    with pytest.raises(DataError, match="needs start, lengths and TTFT"):
        replay(measured / "exp.yaml", [measured / "result.json"])


def test_series_are_rates_and_counts_of_the_run(run: RunResult) -> None:
    own = run_series(run)
    assert own.tokens_per_s is not None
    assert own.kv_share is not None
    tokens = float(np.sum(own.tokens_per_s * np.diff(run.series.time_ns) / 1e9))
    assert tokens == pytest.approx(run.requests.output_tokens.sum())
    assert 0 < own.kv_share.max() <= 1
    assert SAMPLE_S == 1


def test_latencies_of_a_table_are_those_of_its_run(measured: Path, run: RunResult) -> None:
    path = measured / "requests.csv"
    read = read_request_times(TraceSpec("csv", path, reading=ReadOptions(columns=(("arrival", "arrival_ns"),))))
    np.testing.assert_array_equal(read.ttft_s, request_times(run).ttft_s)
    np.testing.assert_array_equal(read.tpot_s, request_times(run).tpot_s)


@pytest.mark.parametrize(
    "text",
    [
        "arrival_s,prompt_tokens,output_tokens,first_token_s,last_token_s\n1,10,11,1.5,2.5\n2,10,1,2.25,2.25\n",
        "arrival_s,prompt_tokens,output_tokens,ttft_ms,tpot_ms\n1,10,11,500,100\n2,10,1,250,\n",
        "arrival_s,prompt_tokens,output_tokens,ttft_s,e2el_s\n1,10,11,0.5,1.5\n2,10,1,0.25,0.25\n",
    ],
    ids=["times of tokens", "ttft and tpot", "ttft and e2el"],
)
def test_forms_of_latencies_say_the_same(tmp_path: Path, text: str) -> None:
    path = tmp_path / "r.csv"
    if "tpot" in text:
        text = text.replace("250,\n", "250,0\n")
    path.write_text(text)
    read = read_request_times(TraceSpec(detect_format(path), path))
    np.testing.assert_allclose(read.ttft_s, [0.5, 0.25])
    assert read.tpot_s[0] == pytest.approx(0.1)
    assert math.isnan(read.tpot_s[1])
    assert read.output_tokens_per_s == pytest.approx(12 / 1.5)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("arrival_s,prompt_tokens,output_tokens\n0,1,2\n", "no latencies"),
        ("arrival_s,prompt_tokens,output_tokens,ttft_s\n0,1,2,3\n", "no latencies"),
        ("arrival_s,prompt_tokens,output_tokens,first_token_s,last_token_s\n5,1,2,3,6\n", "row 2: a token before"),
        ("arrival_s,prompt_tokens,output_tokens,first_token_s,last_token_s\n0,1,2,,\n", "no request with"),
        (
            "arrival_s,prompt_tokens,output_tokens,first_token_s,last_token_s\n0,1,2,x,1\n",
            "row 2, column 'first_token_s'",
        ),
    ],
)
def test_what_is_not_a_measured_run_is_refused(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "r.csv"
    path.write_text(text)
    with pytest.raises(DataError, match=message):
        read_request_times(TraceSpec("csv", path))


def test_experiments_that_cannot_be_replayed(measured: Path) -> None:
    path = measured / "exp.yaml"
    path.write_text(EXPERIMENT + POISSON)
    with pytest.raises(ConfigError, match=r"workload\.trace"):
        replay(path)
    path.write_text(EXPERIMENT + TRACE.replace("}}}", "}}, limits: {max_prompt_tokens: 200}}"))
    with pytest.raises(DataError, match=r"requests measured, \d+ simulated: check the limits"):
        replay(path)
    two = "systems: [{name: one, placement: separate}, {name: two, placement: separate}]\n"
    path.write_text(EXPERIMENT.replace("systems: [{name: one, placement: separate}]\n", two) + TRACE)
    with pytest.raises(ConfigError, match="one, two"):
        replay(path)


LINE = (
    "INFO 05-19 10:13:{second:02d} [loggers.py:271] Engine 000: Avg prompt throughput: 0.0 tokens/s, Avg generation "
    "throughput: {rate} tokens/s, Running: {running} reqs, Waiting: {waiting} reqs, GPU KV cache usage: {usage}%, "
    "Prefix cache hit rate: 0.0%\n"
)


def test_series_of_a_server_log_begin_before_the_first_request(tmp_path: Path) -> None:
    path = tmp_path / "server.log"
    rows = [(1, 0.0, 0, 0, 0.0), (11, 0.0, 0, 0, 0.0), (21, 50.0, 4, 2, 12.5), (31, 80.0, 3, 0, 25.0)]
    path.write_text(
        "".join(
            LINE.format(second=second, rate=rate, running=running, waiting=waiting, usage=usage)
            for second, rate, running, waiting, usage in rows
        )
    )
    found = read_series(path)
    assert found.time_s.tolist() == [0, 10, 20]
    assert found.waiting is not None
    assert found.waiting.tolist() == [0, 2, 0]
    assert found.kv_share is not None
    assert found.kv_share.tolist() == [0, 0.125, 0.25]


def test_a_kv_use_of_zero_all_along_was_not_recorded(tmp_path: Path) -> None:
    path = tmp_path / "s.csv"
    path.write_text("t,running,kv_cache_pct\n1,5,0\n2,6,0\n")
    assert read_series(path).kv_share is None
    path.write_text("t,running,kv_cache_pct\n1,5,0\n2,6,50\n")
    found = read_series(path).kv_share
    assert found is not None
    assert found.tolist() == [0, 0.5]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("t,other\n1,2\n", "not a time series"),
        ("t,running\n", "no row"),
        ("t,running\n2,1\n1,1\n", "times do not increase"),
        ("t,running\n1,many\n", "row 2, column 'running'"),
        ("t,running\n1,nan\n", "row 2, column 'running'"),
    ],
)
def test_what_is_not_a_series_is_refused(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "s.csv"
    path.write_text(text)
    with pytest.raises(DataError, match=message):
        read_series(path)


def test_charts_hold_both_runs_and_long_series_are_thinned(measured: Path) -> None:
    found = replay(measured / "exp.yaml", [measured / "series.csv"])
    charts = [*distributions(found), *series(found)]
    assert all(len(chart.curves) == 2 for chart in charts)
    assert len({chart.name for chart in charts}) == len(charts)
    for chart in distributions(found):
        for curve in chart.curves:
            assert list(curve.ys) == sorted(curve.ys)
            assert curve.ys[-1] == 1
    assert [row[0::3] for row in shown(found)["figures"]] == [row[0::3] for row in figures(found)]
    without = replay(measured / "exp.yaml")
    assert [len(chart.curves) for chart in series(without)] == [1] * 4
    long = _longer(without, 3 * MOST_POINTS)
    for chart in series(long):
        assert len(chart.curves[0].xs) <= MOST_POINTS
    rates = long.simulated_series.tokens_per_s
    assert rates is not None
    assert np.mean(series(long)[0].curves[0].ys) == pytest.approx(rates.mean())


def _longer(found: Replay, count: int) -> Replay:
    from dataclasses import replace

    from helixsim.accuracy.measured_series import RunSeries

    rng = np.random.default_rng(1)
    columns = [rng.random(count) for _ in range(4)]
    return replace(found, simulated_series=RunSeries(np.arange(1.0, count + 1), *columns))
