"""Timelines for trace viewers and series for Prometheus of a small run, read by strict parsers."""

from __future__ import annotations

import gzip
import json
import math
import re
from collections import defaultdict
from datetime import UTC, datetime
from itertools import groupby, pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tiny import tiny

from helixsim.cli.main import main
from helixsim.report import trace_events
from helixsim.results.runset import RunSet

SYSTEMS = ("{name: swarm, placement: swarm}", "{name: separate, placement: separate}")


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The folder of an experiment, and its run directory; a timeline was written beside it."""
    folder = tmp_path_factory.mktemp("timeline")
    experiment = folder / "tiny.yaml"
    experiment.write_text(tiny(*SYSTEMS) + "engine: vllm-1\n", encoding="utf-8")
    command = ["run", str(experiment), "--out", str(folder / "runs"), "-q", "--jobs", "1"]
    assert main([*command, "--timeline", str(folder / "t.json"), "--timeline-part", "2s:6s"]) == 0
    assert main([*command, "--timeline", str(folder / "t.json.gz"), "--timeline-part", "2s:6s"]) == 0
    (directory,) = (folder / "runs" / "tiny").glob("[0-9a-f]*")
    return folder, directory


@pytest.fixture(scope="module")
def events(ran) -> list[dict]:
    def refuse(token: str) -> None:
        raise AssertionError(token)

    folder, _ = ran
    text = (folder / "t.json").read_text(encoding="utf-8")
    assert gzip.decompress((folder / "t.json.gz").read_bytes()).decode() == text
    return json.loads(text, parse_constant=refuse)["traceEvents"]


REQUIRED = {
    "X": {"name", "ts", "dur", "pid", "tid", "args"}, "C": {"name", "ts", "pid", "tid", "args"},
    "M": {"name", "pid", "tid", "args"}, "b": {"name", "cat", "id", "ts", "pid", "tid", "args"},
    "e": {"name", "cat", "id", "ts", "pid", "tid"}, "s": {"name", "cat", "id", "ts", "pid", "tid"},
    "t": {"name", "cat", "id", "ts", "pid", "tid"}, "f": {"name", "cat", "id", "ts", "pid", "tid", "bp"},
}  # fmt: skip
"""Keys of the events of each phase that are written, as the Trace Event Format has them."""

METADATA = {"process_name": "name", "process_sort_index": "sort_index", "thread_name": "name",
            "thread_sort_index": "sort_index"}  # fmt: skip


def test_every_event_is_one_of_the_trace_event_format(events) -> None:
    former = defaultdict(float)
    for one in events:
        assert set(one) - {"ph"} == REQUIRED[one["ph"]], one
        assert type(one["pid"]) is type(one["tid"]) is int
        assert isinstance(one["name"], str)
        assert one["name"]
        if one["ph"] == "M":
            (key,) = one["args"]
            assert key == METADATA[one["name"]]
            assert type(one["args"][key]) is (str if key == "name" else int)
            continue
        assert 0 <= one["ts"] <= 10e6  # microseconds of a run of 10 s
        system = one["pid"] // 1_000_000
        assert one["ts"] >= former[system]
        former[system] = one["ts"]
        if one["ph"] == "X":
            assert one["dur"] >= 0
        if one["ph"] == "C":
            assert all(type(value) in {int, float} and math.isfinite(value) for value in one["args"].values())


def test_asynchronous_slices_begin_and_end_once(events) -> None:
    """Viewers pair them by category and identifier, whatever their process."""
    open_ = {}
    for one in events:
        if one["ph"] == "b":
            assert (one["cat"], one["id"]) not in open_
            open_[one["cat"], one["id"]] = one
        elif one["ph"] == "e":
            begun = open_[one["cat"], one["id"]]
            assert (begun["pid"], begun["tid"], begun["name"]) == (one["pid"], one["tid"], one["name"])
            assert begun["ts"] <= one["ts"]
            open_[one["cat"], one["id"]] = {**one, "pid": None}  # a second end would find another process
    assert all(one["pid"] is None for one in open_.values())


def test_tracks_have_names_and_slices_on_them_do_not_overlap(events) -> None:
    named = {(one["pid"], one["tid"]) for one in events if one["name"] == "thread_name"}
    processes = {one["pid"] for one in events if one["name"] == "process_name"}
    own = defaultdict(list)
    for one in events:
        assert one["pid"] in processes
        if one["ph"] == "X":
            assert (one["pid"], one["tid"]) in named
            own[one["pid"], one["tid"]].append(one)
    assert len(own) > 8
    for slices in own.values():
        assert all(a["ts"] + a["dur"] <= b["ts"] for a, b in pairwise(slices))
        assert all(nanoseconds(a["ts"]) + nanoseconds(a["dur"]) <= nanoseconds(b["ts"]) for a, b in pairwise(slices))


def nanoseconds(microseconds: float) -> int:
    """What a viewer reads that cuts a time to whole nanoseconds."""
    return int(microseconds * 1000.0)


@given(st.integers(0, 10**15))
def test_times_are_read_as_the_nanoseconds_that_they_are(time_ns) -> None:
    assert nanoseconds(trace_events._us(time_ns)) == time_ns


def test_every_arrow_is_bound_to_a_slice_that_encloses_it_and_comes_before_it(events) -> None:
    """Viewers drop the ends of arrows where no slice is open."""
    last = {}
    ends = 0
    for one in events:
        if one["ph"] == "X":
            last[one["pid"], one["tid"]] = one
        elif one["ph"] in "stf":
            around = last[one["pid"], one["tid"]]
            assert nanoseconds(around["ts"]) <= nanoseconds(one["ts"]) < nanoseconds(around["ts"] + around["dur"])
            ends += one["ph"] == "f"
    assert ends > 3


def test_requests_of_one_token_that_wait_long_are_shown_from_the_recorded_part_on(ran, tmp_path) -> None:
    """Their arrows end in their prefills; hours of waiting would be most of what a viewer opens."""
    folder, _ = ran
    limits = ["--set", "workload.lengths={distribution: fixed, prompt_tokens: 300, output_tokens: 1}"]
    limits += ["--set", "workload.arrivals.rate=60 /s", "--timeline-part", "8s:9s"]
    out = ["--out", str(tmp_path), "-q", "--jobs", "1"]
    path = tmp_path / "t.json"
    assert main(["run", str(folder / "tiny.yaml"), *limits, *out, "--timeline", str(path)]) == 0
    found = json.loads(path.read_text(encoding="utf-8"))["traceEvents"]
    test_every_arrow_is_bound_to_a_slice_that_encloses_it_and_comes_before_it(found)
    lives = [one for one in found if "arrival, s" in one.get("args", {})]
    first = min(one["ts"] for one in found if "phase" in one.get("args", {}))
    assert {one["name"] for one in lives} == {"waiting", "prefill"}
    assert min(one["ts"] for one in lives) >= first > max(1e6, min(1e6 * one["args"]["arrival, s"] for one in lives))


def test_iterations_name_phase_tokens_and_chunks(events) -> None:
    phases = defaultdict(int)
    for one in events:
        if one["ph"] != "X" or "phase" not in one["args"]:
            continue
        found = one["args"]
        phases[found["phase"]] += 1
        assert found["tokens"] == found["prompt tokens"] + found["decoding sequences"]
        assert (found["phase"] != "decode") == (found["prompt tokens"] > 0) == ("chunks" in found)
        assert one["ts"] + one["dur"] >= 2e6 - 1
        assert one["ts"] <= 6e6
    assert phases["decode"] > 20
    assert phases["prefill"] + phases["mixed"] > 5


def test_arrows_lead_from_requests_through_iterations_to_first_tokens(events) -> None:
    arrows = defaultdict(list)
    slices = [one for one in events if one["ph"] == "X"]
    for one in events:
        if one["ph"] in "stf":
            arrows[one["id"]].append(one)
    assert arrows
    for steps in arrows.values():
        kinds = "".join(one["ph"] for one in steps)
        assert re.fullmatch("st+f?", kinds)
        assert all(a["ts"] <= b["ts"] for a, b in pairwise(steps))
        for one in steps[1:-1]:  # each is bound to the iteration that starts there
            assert any(
                (s["pid"], s["tid"], s["ts"]) == (one["pid"], one["tid"], one["ts"])
                for s in slices
                if "phase" in s["args"]
            )


def test_counters_are_shares_and_queues(events) -> None:
    counters = [one for one in events if one["ph"] == "C"]
    assert {one["name"].partition(" ")[2] for one in counters} == {"KV memory, %", "queue"}
    assert all(0 <= one["args"]["value"] <= 100 for one in counters if one["name"].endswith("%"))


def test_what_cannot_be_recorded_is_refused_before_the_run(ran, tmp_path, capsys) -> None:
    folder, _ = ran
    experiment = str(folder / "tiny.yaml")
    for more, message in (
        (["--timeline-part", "1s:2s"], "need --timeline"),
        (["--timeline", str(tmp_path / "no" / "t.json")], "is no folder"),
        (["--timeline", str(tmp_path / "t.json"), "--timeline-system", "swrm"], "swarm"),
        (["--timeline", str(tmp_path / "t.json"), "--timeline-part", "2s:1s"], "START before END"),
        (["--timeline", str(tmp_path / "t.json"), "--timeline-part", "2"], "START:END"),
        (["--timeline", str(tmp_path / "t.json"), "--timeline-part", "1h:2h"], "starts at 3600 s, the run ends at "),
    ):
        try:
            code = main(["run", experiment, "--out", str(tmp_path / "runs"), *more])
        except SystemExit as stop:
            code = stop.code
        assert code == 2
        assert message in capsys.readouterr().err
    assert not (tmp_path / "runs").exists()


SAMPLE = re.compile(r"(?P<name>[a-zA-Z_:][a-zA-Z0-9_:]*)\{(?P<labels>[^{}]*)\} (?P<value>[0-9.eE+-]+) (?P<at>[0-9.]+)")
LABEL = re.compile(r'([a-z_]+)="((?:[^"\\]|\\[\\"n])*)"(?:,|$)')
SUFFIXES = {"gauge": ("",), "counter": ("_total",), "histogram": ("_bucket", "_count", "_sum")}


def parsed(text: str):
    """Return (kind, samples) of each family: (suffix, labels, value, time) in their order."""
    lines = text.split("\n")
    assert lines[-2:] == ["# EOF", ""]
    found, name = {}, None
    for line in lines[:-2]:
        if line.startswith("# "):
            _, what, name, rest = line.split(" ", 3)
            if what == "HELP":
                assert name not in found
                found[name] = [None, []]
            elif what == "TYPE":
                found[name][0] = rest
            else:
                assert what == "UNIT"
                assert name.endswith(f"_{rest}")
            continue
        sample = SAMPLE.fullmatch(line)
        assert sample, line
        kind, rows = found[name]
        suffix = sample["name"].removeprefix(name)
        assert suffix in SUFFIXES[kind], line
        labels = LABEL.findall(sample["labels"])
        assert "".join(f'{key}="{value}",' for key, value in labels).rstrip(",") == sample["labels"]
        rows.append((suffix, dict(labels), float(sample["value"]), float(sample["at"])))
    return found


@pytest.fixture(scope="module")
def metrics(ran, tmp_path_factory: pytest.TempPathFactory):
    _, directory = ran
    path = tmp_path_factory.mktemp("metrics") / "run.txt"
    assert main(["report", str(directory), "--openmetrics", str(path), "--start", "2026-02-03T04:05:06"]) == 0
    assert main(["report", str(directory), "--openmetrics", str(path)]) == 2  # it exists
    return parsed(path.read_text(encoding="utf-8"))


def test_series_have_the_names_of_vllm_and_the_figures_of_the_run(ran, metrics) -> None:
    runs = RunSet.load(ran[1])
    start_s = datetime(2026, 2, 3, 4, 5, 6, tzinfo=UTC).timestamp()
    for name, column in (
        ("vllm:num_requests_running", "running"), ("vllm:num_requests_waiting", "waiting"),
        ("vllm:prompt_tokens", "prompt_tokens"), ("vllm:generation_tokens", "output_tokens"),
    ):  # fmt: skip
        _, rows = metrics[name]
        for system, run in runs.items():
            own = [row for row in rows if row[1]["system"] == system]
            times_ms = (run.series["time_ns"] / 1e6).round()
            last = {at_ms // 1000: (at_ms, value) for at_ms, value in zip(times_ms, run.series[column], strict=True)}
            assert [value for _, _, value, _ in own] == [value for _, value in last.values()]  # one of each second
            assert [1e3 * (at - start_s) for *_, at in own] == pytest.approx([at_ms for at_ms, _ in last.values()])
            assert {(row[1]["model_name"], row[1]["engine"]) for row in own} == {("llama-2-7b", "0")}
    assert all(0 <= value <= 1 for _, _, value, _ in metrics["vllm:kv_cache_usage_perc"][1])


def test_histograms_are_cumulative_and_end_with_all_requests(ran, metrics) -> None:
    runs = RunSet.load(ran[1])
    histograms = {name: rows for name, (kind, rows) in metrics.items() if kind == "histogram"}
    assert "vllm:time_to_first_token_seconds" in histograms
    assert "vllm:request_time_per_output_token_seconds" in histograms
    for rows in histograms.values():
        former = {}
        for (system, at), group in groupby(rows, key=lambda row: (row[1]["system"], row[3])):
            point = list(group)
            buckets = [(float(labels["le"]), value) for suffix, labels, value, _ in point if suffix == "_bucket"]
            (count,) = [value for suffix, _, value, _ in point if suffix == "_count"]
            assert buckets == sorted(buckets)
            assert [value for _, value in buckets] == sorted(value for _, value in buckets)
            assert buckets[-1] == (float("inf"), count)
            last_at, last_buckets = former.get(system, (-1.0, buckets))
            assert at > last_at
            assert all(new >= old for (_, new), (_, old) in zip(buckets, last_buckets, strict=True)) or last_at < 0
            former[system] = (at, buckets)
    swarm = runs["swarm"].requests
    last = [row for row in histograms["vllm:time_to_first_token_seconds"] if row[1]["system"] == "swarm"]
    assert last[-2][2] == swarm["first_token_ns"].notna().sum()
    expected = (swarm["first_token_ns"] - swarm["arrival_ns"]).sum() / 1e9
    assert last[-1][2] == pytest.approx(float(expected))
