"""Readers of benchmark files: every tool's file of one and the same run gives the same benchmark."""

from __future__ import annotations

import json
import math
import random
from pathlib import Path
from typing import Any

import pytest

from helixsim import yamlio
from helixsim.benchmarks.read import KNOWN, described, read_benchmark, read_benchmarks
from helixsim.errors import DataError
from tests.unit.benchmarks import samples

ALL = samples.SINGLE | samples.WITHOUT_LOAD


def expected(true: samples.Truth) -> dict[str, float]:
    requests, output, total = true.rates()
    return {
        "request_throughput": requests,
        "output_throughput": output,
        "total_token_throughput": total,
        "mean_ttft_ms": float(true.ttft.mean()) * 1e3,
        "mean_tpot_ms": float(true.step.mean()) * 1e3,
        "mean_itl_ms": float(true.pooled.mean()) * 1e3,
        "mean_e2el_ms": float(true.latency.mean()) * 1e3,
    }


def check(found: Any, true: samples.Truth, *, may_lack: tuple[str, ...] = ()) -> None:
    for key, value in expected(true).items():
        if key not in may_lack:
            assert found.figures[key] == pytest.approx(value, rel=1e-6), key
    assert found.load.prompt_tokens.mean == pytest.approx(true.prompt.mean())
    assert found.load.output_tokens.mean == pytest.approx(true.output.mean())
    assert found.load.requests == len(true.start)
    if len(found.requests.ttft_s):
        assert found.requests.ttft_s == pytest.approx(true.ttft, rel=1e-4)
        assert found.requests.step_s == pytest.approx(true.step, rel=1e-4)
    if len(found.requests.start_s):
        assert found.requests.start_s == pytest.approx(true.start - true.start[0], abs=1e-5)


@pytest.mark.parametrize("kind", ALL)
def test_the_same_run_gives_the_same_figures_in_every_format(kind: str, tmp_path: Path) -> None:
    true = samples.truth()
    found = read_benchmark(samples.write(tmp_path / "a.json", ALL[kind](true)))
    check(found, true, may_lack=("mean_tpot_ms",) if kind == "guidellm without requests" else ())


@pytest.mark.parametrize("kind", samples.SINGLE)
def test_the_load_that_was_asked_for(kind: str, tmp_path: Path) -> None:
    closed = samples.write(tmp_path / "a.json", samples.SINGLE[kind](samples.truth(concurrency=12)))
    assert read_benchmark(closed).load.concurrency == 12
    assert not read_benchmark(closed).load.is_open
    opened = samples.write(tmp_path / "b.json", samples.SINGLE[kind](samples.truth(concurrency=None, rate=2.5)))
    assert (read_benchmark(opened).load.rate_rps, read_benchmark(opened).load.concurrency) == (2.5, None)
    assert "2.5 requests/s" in described(read_benchmark(opened))


def test_percentiles_and_units(tmp_path: Path) -> None:
    true = samples.truth()
    for kind in ("aiperf", "inference-perf", "llm-d 0.2", "llm-d 0.1"):
        found = read_benchmark(samples.write(tmp_path / "a.json", ALL[kind](true))).figures
        for at in (75, 90, 95, 99):
            assert found[f"p{at}_e2el_ms"] == pytest.approx(float(samples.np.percentile(true.latency, at)) * 1e3)
        assert found["median_ttft_ms"] == found["p50_ttft_ms"] == pytest.approx(1e3 * samples.np.median(true.ttft))


def test_requests_of_aiperf_as_lines_without_the_warm_up(tmp_path: Path) -> None:
    true = samples.truth()
    path = tmp_path / "profile_export.jsonl"
    rows = samples.aiperf_records(true)
    path.write_text("\n".join(map(json.dumps, rows)) + "\n")
    check(read_benchmark(path), true)
    rows[3]["error"] = {"code": 500, "message": "no"}
    path.write_text("\n".join(map(json.dumps, rows)))
    found = read_benchmark(path)
    assert found.load.requests == len(true.start) - 1
    assert "1 of 40 measured requests failed" in found.notes[0]


def test_sweeps_in_one_file(tmp_path: Path) -> None:
    trues = [samples.truth(seed, concurrency=2**seed) for seed in (1, 2, 3)]
    report = samples.write(tmp_path / "guide.json", samples.guidellm(*trues))
    lines = tmp_path / "sglang.jsonl"
    lines.write_text("\n".join(json.dumps(samples.sglang(true)) for true in trues))
    for path in (report, lines):
        found = read_benchmarks(path)
        assert [one.load.concurrency for one in found] == [2, 4, 8]
        for one, true in zip(found, trues, strict=True):
            check(one, true)
        with pytest.raises(DataError, match="has 3 results; select one with --result N: 1: concurrency 2"):
            read_benchmark(path)
        assert read_benchmark(path, 3).load.concurrency == 8
        with pytest.raises(DataError, match="no result 4, the file has 3"):
            read_benchmark(path, 4)


def test_yaml_of_llm_d_and_guidellm(tmp_path: Path) -> None:
    true = samples.truth()
    path = tmp_path / "report.yaml"
    for document in (samples.llmd(true), samples.llmd(true, version="0.1"), samples.guidellm(true)):
        path.write_text(yamlio.dump(document))
        check(read_benchmark(path), true)
    path.write_text("a: [")
    with pytest.raises(DataError, match="unreadable YAML"):
        read_benchmark(path)


def test_old_reports_of_guidellm_have_their_strategy_in_args(tmp_path: Path) -> None:
    document = samples.guidellm(samples.truth(concurrency=3))
    for one in document["benchmarks"]:
        one["args"] = {"strategy": one.pop("config")["strategy"]}
    assert read_benchmark(samples.write(tmp_path / "a.json", document)).load.concurrency == 3
    strategy = document["benchmarks"][0]["args"]["strategy"]
    for kind, found in (("synchronous", (None, 1)), ("throughput", (math.inf, None))):
        strategy.clear()
        strategy["type_"] = kind
        load = read_benchmark(samples.write(tmp_path / "a.json", document)).load
        assert (load.rate_rps, load.concurrency) == found


def test_phases_of_newer_aiperf(tmp_path: Path) -> None:
    document = samples.aiperf(samples.truth())
    warm = {"name": "warmup", "type": "concurrency", "concurrency": 2}
    document["input_config"] = {"phases": [warm, {"name": "profiling", "type": "constant", "rate": 4.0}]}
    load = read_benchmark(samples.write(tmp_path / "a.json", document)).load
    assert (load.rate_rps, load.burstiness, load.concurrency) == (4.0, math.inf, None)


def test_failed_requests_are_told_and_all_failed_is_an_error(tmp_path: Path) -> None:
    true = samples.truth()
    guide, perf, report, exported = (
        samples.guidellm(true), samples.inference_perf(true), samples.llmd(true), samples.aiperf(true)
    )  # fmt: skip
    for failed, asked in ((2, 42), (42, 42)):
        guide["benchmarks"][0]["metrics"]["request_totals"] |= {"errored": failed, "total": asked}
        perf["failures"]["count"], perf["load_summary"]["count"] = failed, asked
        report["results"]["request_performance"]["aggregate"]["requests"] |= {"failures": failed, "total": asked}
        exported["error_summary"] = [{"count": failed}]
        exported["request_count"]["avg"] = asked - failed
        for document in (guide, perf, report, exported):
            path = samples.write(tmp_path / "a.json", document)
            if failed == asked:
                with pytest.raises(DataError, match="all requests of the benchmark failed"):
                    read_benchmark(path)
            else:
                assert "2 of 42 measured requests failed" in " ".join(read_benchmark(path).notes)


def test_sglang_states_how_random_lengths_spread(tmp_path: Path) -> None:
    document = samples.sglang(samples.truth(), detailed=False)
    asked = {"dataset_name": "random", "random_input_len": 1000, "random_output_len": 120, "random_range_ratio": 0.4}
    load = read_benchmark(samples.write(tmp_path / "a.json", document | asked)).load
    assert (load.prompt_tokens.sd, load.output_tokens.sd) == pytest.approx((600 / math.sqrt(12), 72 / math.sqrt(12)))
    load = read_benchmark(samples.write(tmp_path / "a.json", document | asked | {"dataset_name": "sharegpt"})).load
    assert load.prompt_tokens.sd is None


def test_nan_is_left_out_and_told(tmp_path: Path) -> None:
    document = samples.vllm(samples.truth(), detailed=False) | {"mean_tpot_ms": math.nan}
    found = read_benchmark(samples.write(tmp_path / "a.json", document))
    assert "mean_tpot_ms" not in found.figures
    assert found.notes == ("mean_tpot_ms is nan in the file and left out",)


@pytest.mark.parametrize(
    ("document", "said"),
    [
        ([], "no benchmark result of a known tool"),
        ({"benchmarks": []}, "a report of GuideLLM without benchmarks"),
        ({"mean_ttft_ms": "12"}, "mean_ttft_ms: got '12', expected a number, 0 or more"),
        ({"mean_ttft_ms": -1}, "got -1, expected a number"),
        ({"mean_ttft_ms": 1.0, "max_concurrency": 2.5}, "max_concurrency: got 2.5, expected a whole number"),
        ({"version": "0.9", "scenario": {}, "results": {}}, "version '0.9' of the llm-d benchmark report is not known"),
        ({"request_latency": {"unit": "h", "avg": 1.0}}, "request_latency.unit: got 'h', expected one of ns, us, ms"),
    ],
)
def test_faults_are_named(document: Any, said: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=said.replace("(", "\\(")) as caught:
        read_benchmarks(samples.write(tmp_path / "a.json", document))
    assert str(tmp_path / "a.json") in str(caught.value)


def test_a_file_of_no_known_tool_lists_those_that_are(tmp_path: Path) -> None:
    with pytest.raises(DataError) as caught:
        read_benchmarks(samples.write(tmp_path / "a.json", {"latency": 1, "tool": "mine"}))
    assert "it has latency, tool" in str(caught.value)
    assert all(name in str(caught.value) for name in KNOWN)


def test_empty_files(tmp_path: Path) -> None:
    for name in ("a.json", "a.yaml", "a.jsonl"):
        (tmp_path / name).write_text(" \n")
        with pytest.raises(DataError, match="the file is empty"):
            read_benchmarks(tmp_path / name)
    with pytest.raises(DataError, match="no such file"):
        read_benchmarks(tmp_path / "absent.yaml")


STRANGE = (None, True, -1, 0, 10**400, 1e300, math.nan, math.inf, "", "x", [], {}, [[]], [None], {"a": 1}, [1.5] * 3)


def damaged(value: Any, rng: random.Random) -> Any:
    """The document with one value somewhere replaced or taken out."""
    if isinstance(value, (dict, list)) and value and rng.random() < 0.9:
        copied = value.copy()
        key = rng.choice(list(copied) if isinstance(copied, dict) else range(len(copied)))
        if rng.random() < 0.1:
            del copied[key]
        else:
            copied[key] = damaged(copied[key], rng)
        return copied
    return rng.choice(STRANGE)


@pytest.mark.parametrize("kind", [*ALL, "records"])
def test_damaged_documents_are_read_or_refused_with_the_name_of_the_file(kind: str, tmp_path: Path) -> None:
    true, rng, path = samples.truth(count=4), random.Random(kind), tmp_path / "a.json"
    document = samples.aiperf_records(true) if kind == "records" else ALL[kind](true)
    for _ in range(300):
        changed = damaged(document, rng)
        try:
            text = "\n".join(map(json.dumps, changed)) if kind == "records" and changed else json.dumps(changed)
        except TypeError:  # no longer a list of rows
            text = json.dumps(changed)
        if rng.random() < 0.1:
            text = text[: rng.randrange(len(text) + 1)]
        path.write_text(text)
        found, refused = [], ""
        try:
            found = read_benchmarks(path)
        except DataError as error:
            refused = str(error)
        assert found or str(path) in refused
        assert all(math.isfinite(value) and value >= 0 for one in found for value in one.figures.values())
