"""Logs of gateways and other rows of requests: names, times, units, conditions, packing."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest

from helixsim.datafiles import data_path
from helixsim.domain.request import Request
from helixsim.errors import ConfigError, DataError
from helixsim.workload.info import trace_info
from helixsim.workload.lengths.recorded import Trace, TraceOptions
from helixsim.workload.readers import files
from helixsim.workload.readers.base import ReadLog
from helixsim.workload.readers.log import NAMES, NEEDED
from helixsim.workload.readers.registry import detect_format, read_trace
from helixsim.workload.readers.values import MAX_TOKENS
from helixsim.workload.spec import LengthLimits, ReadOptions
from helixsim.workload.writers import write_trace

HALF_SECOND = [Request(0, 0, 10, 20), Request(1, 500_000_000, 11, 21)]
"""What most files here hold: two requests half a second apart."""


def written(folder: Path, text: str, name: str = "log.csv") -> Path:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("2025-03-01T12:00:00+01:00", "2025-03-01T12:00:00.500+01:00"),
        ("2025-03-01T11:00:00Z", "2025-03-01T11:00:00.5Z"),
        ("2025-03-01T11:00:00Z", "2025-03-01T16:30:00.5+05:30"),
        ("2025-02-28T23:59:59.75-0800", "2025-03-01T08:00:00.25+00"),
        ("2025-03-01 11:00:00", "2025-03-01 11:00:00,500000000"),
        ("1740826800", "1740826800.5"),
        ("1740826800000", "1740826800500"),
        ("1740826800000000", "1740826800500000"),
        ("1740826800000000000", "1740826800500000000"),
        ("17.25", "17.75"),
        ("2e1", "2.05e1"),
    ],
)
def test_times_of_any_kind_are_half_a_second_apart(tmp_path: Path, first: str, second: str) -> None:
    path = written(tmp_path, f"ts,model,prompt_tokens,completion_tokens\n{first},m,10,20\n{second},m,11,21\n")
    if "," in second:
        path = written(tmp_path, path.read_text().replace(second, f'"{second}"'))
    log = ReadLog()
    assert list(read_trace(path, log=log)) == HALF_SECOND
    assert "unused columns: model" in log.notes
    assert ("are read as" in str(log.notes)) == ("Z" not in first and "+" not in first and "-0800" not in first)


@pytest.mark.parametrize("unit", ["s", "ms", "us", "ns"])
def test_a_stated_unit_decides(tmp_path: Path, unit: str) -> None:
    step = {"s": 0.5, "ms": 500, "us": 500_000, "ns": 500_000_000}[unit]
    for name, options in (
        ("ts", ReadOptions(unit=unit)),
        (f"arrival_{unit}", ReadOptions(columns=(("arrival", f"arrival_{unit}"),))),
    ):
        log = ReadLog()
        path = written(tmp_path, f"{name},input_tokens,output_tokens\n0,10,20\n{step},11,21\n")
        assert list(read_trace(path, None, options, log=log)) == HALF_SECOND
        assert log.sentences() == ()


@pytest.mark.parametrize(
    "keys",
    [
        {"prompt_tokens": 0, "completion_tokens": 1},
        {"input_tokens": 0, "output_tokens": 1},
        {"input": 0, "output": 1},
        {"usage": {"prompt_tokens": 0, "completion_tokens": 1}},
        {"usage": {"input_tokens": 0, "output_tokens": 1}},
    ],
)
def test_json_logs_are_read_under_every_usual_name(tmp_path: Path, keys: dict[str, object]) -> None:
    def entry(lengths: tuple[int, int]) -> dict[str, object]:
        return json.loads(json.dumps(keys), parse_int=lambda which: lengths[int(which)])

    rows = [
        {"timestamp": at, **entry(lengths)}
        for at, lengths in (("2025-03-01T11:00:00Z", (10, 20)), ("2025-03-01T11:00:00.5Z", (11, 21)))
    ]
    path = written(tmp_path, "".join(json.dumps(row) + "\n" for row in rows), "log.jsonl")
    assert detect_format(path) == "jsonl"
    assert list(read_trace(path)) == HALF_SECOND


def test_columns_and_conditions_are_stated(tmp_path: Path) -> None:
    rows = [
        {"at": 5, "meta": {"status": 200, "stream": True}, "n": {"in": 10, "out": 20}},
        {"at": 5.2, "meta": {"status": 500, "stream": True}},
        {"at": 5.5, "meta": {"status": 200, "stream": True}, "n": {"in": 11, "out": 21}},
        {"at": 5.6, "meta": {"status": 200, "stream": False}, "n": {"in": 12, "out": 22}},
    ]
    path = written(tmp_path, "".join(json.dumps(row) + "\n" for row in rows), "log.jsonl")
    with pytest.raises(DataError, match=r"unknown trace format.*it has at, meta.status.*--column"):
        list(read_trace(path))
    columns = (("arrival", "at"), ("prompt", "n.in"), ("output", "n.out"))
    with pytest.raises(DataError, match=r"row 2, column 'n.in': missing.*--where"):
        list(read_trace(path, None, ReadOptions(columns=columns)))
    log = ReadLog()
    where = (("meta.status", "200"), ("meta.stream", "true"))
    assert list(read_trace(path, None, ReadOptions(columns=columns, where=where), log=log)) == HALF_SECOND
    assert log.dropped == {"not meta.status=200 and meta.stream=true": 2}


def test_conditions_hold_for_published_formats_too(tmp_path: Path) -> None:
    burst = "Timestamp,Model,Request tokens,Response tokens,Total tokens,Log Type\n"
    path = written(
        tmp_path, burst + "5,GPT-4,10,20,30,API log\n5.2,ChatGPT,1,2,3,API log\n5.5,GPT-4,11,21,32,API log\n"
    )
    assert list(read_trace(path, None, ReadOptions(where=(("Model", "GPT-4"),)))) == HALF_SECOND
    with pytest.raises(DataError, match=r"no column 'model'.*did you mean 'Model'"):
        list(read_trace(path, None, ReadOptions(where=(("model", "GPT-4"),))))


@pytest.mark.parametrize(
    ("text", "options", "message"),
    [
        (
            "ts,time,prompt_tokens,output_tokens\n1,2,3,4\n",
            {},
            r"'time' and 'ts' could both be the arrival.*--column arrival=time",
        ),
        ("arrival_s,prompt_tokens,output_tokens,output_tokens\n1,2,3,4\n", {}, "2 columns are named 'output_tokens'"),
        (
            "arrival_s,prompt_tokens,output_tokens\n1,2,3\n",
            {"columns": (("prompt", "promt"),)},
            "no column 'promt'.*it has arrival_s",
        ),
        ("arrival_s;prompt_tokens;output_tokens\n1;2;3\n", {}, "only commas separate columns"),
        (
            "ts,prompt_tokens,output_tokens\n2025-03-01 11:00:00,1,1\n2025-03-01T11:00:00Z,1,1\n",
            {},
            "row 3.*cannot be compared",
        ),
        ("ts,prompt_tokens,output_tokens\n2025-03-01 11:00:00+25:00,1,1\n", {}, "row 2.*expected a time"),
        ("ts,prompt_tokens,output_tokens\n2025-13-01 11:00:00,1,1\n", {}, "row 2.*expected a time"),
        (
            "ts,prompt_tokens,output_tokens\n0001-01-01 00:00:00,1,1\n2025-01-01 00:00:00,1,1\n",
            {},
            "row 3: 2.02e.03 years after",
        ),
        ("arrival_s,prompt_tokens,output_tokens\n1,1,1\n1740826800000,1,1\n", {}, "row 3.*in this unit"),
        (
            "arrival_s,prompt_tokens,output_tokens\n1,1,1\n1740826800,1,1\n",
            {},
            "row 3: 55.2 years after.*check the unit",
        ),
        ("arrival_s,prompt_tokens,output_tokens\n9e99999999,1,1\n", {}, "expected a finite time"),
        ("arrival_s,prompt_tokens,output_tokens\n1e300,1,1\n", {}, "expected a finite time"),
        (f"arrival_s,prompt_tokens,output_tokens\n{'9' * 5000},1,1\n", {}, "expected a finite time"),
        (f"arrival_s,prompt_tokens,output_tokens\n1,{'9' * 5000},1\n", {}, "expected a whole number"),
        (f"arrival_s,prompt_tokens,output_tokens\n1,{MAX_TOKENS + 1},1\n", {}, "expected a whole number"),
        ("arrival_s,prompt_tokens,output_tokens\n1,٣,1\n", {}, "expected a whole number"),
        ("arrival_s,prompt_tokens,output_tokens\n1,５,1\n", {}, "expected a whole number"),
        ("arrival_s,prompt_tokens,output_tokens\n1_0,5,1\n", {}, "expected a finite time"),
        ("arrival_s,prompt_tokens,output_tokens\n５,5,1\n", {}, "expected a finite time"),
        ("x" * 300_000 + "\n", {}, "damaged CSV .field larger"),
        ('"' + "x" * 300_000 + '"\n', {}, "damaged CSV .field larger"),
        ("arrival_s,prompt_tokens,output_tokens\n" + "x" * 300_000 + ",1,1\n", {}, "row 2: damaged CSV"),
        ('{"timestamp": 1, "timestamp": 2, "input_length": 1, "output_length": 1}\n', {}, "'timestamp' occurs twice"),
        ('{"timestamp": ' + "9" * 5000 + ', "input_length": 1, "output_length": 1}\n', {}, "thousands of digits"),
        ('{"timestamp": 1e400, "input_length": 1, "output_length": 1}\n', {}, "expected a finite time"),
        ("[" * 100_000, {}, "nested too deeply"),
        ('{"a":' * 100_000, {}, "nested too deeply|not JSON"),
        (
            '{"start_times": [1], "input_lens": [1], "output_lens": [1], "errors": 5}',
            {},
            "'errors': got 5, expected a list",
        ),
    ],
)
def test_what_is_ambiguous_or_out_of_bounds_is_a_short_fault(
    tmp_path: Path, text: str, options: dict[str, object], message: str
) -> None:
    path = written(tmp_path, text)
    with pytest.raises(DataError, match=message) as caught:
        list(read_trace(path, None, ReadOptions(**options)))
    assert str(caught.value).startswith(str(path))
    assert len(str(caught.value)) < 1500


def test_options_that_a_format_does_not_heed_are_refused(tmp_path: Path) -> None:
    path = written(tmp_path, "TIMESTAMP,ContextTokens,GeneratedTokens\n2023-11-16 18:17:03,1,2\n")
    for options, message in (
        (ReadOptions(unit="ms"), "unit: not supported by the trace format azure, only by burstgpt"),
        (ReadOptions(chars_per_token=4.0), "chars_per_token: not supported"),
        (ReadOptions(result=1), "result: not supported"),
    ):
        with pytest.raises(ConfigError, match=message):
            read_trace(path, None, options)
    with pytest.raises(ConfigError, match="unknown unit of time 'h'"):
        read_trace(path, "csv", ReadOptions(unit="h"))


def test_mooncake_keys_with_seconds_are_warned_of_and_can_be_stated(tmp_path: Path) -> None:
    def rows(times: list[float]) -> str:
        return "".join(json.dumps({"timestamp": at, "input_length": 5, "output_length": 6}) + "\n" for at in times)

    path = written(tmp_path, rows([0.0, 0.3, 1.25]), "m.jsonl")
    said = trace_info(path).warnings
    assert len(said) == 2
    assert all("--unit s" in sentence for sentence in said)
    info = trace_info(path, None, ReadOptions(unit="s"))
    assert (info.span_s, info.warnings) == (1.25, ())
    assert trace_info(written(tmp_path, rows([0, 2, 4, 6]), "whole.jsonl")).warnings  # 500 requests/s
    assert not trace_info(written(tmp_path, rows([0, 2000, 4000]), "ms.jsonl")).warnings


def test_length_pairs_without_times_are_drawn_from_but_not_replayed(tmp_path: Path) -> None:
    path = written(tmp_path, "num_prefill_tokens,num_decode_tokens,pd_ratio\n900,54,1.0\n20,15,2.0\n")
    lengths = Trace(TraceOptions(str(path)))
    assert lengths.mean() == (460.0, 34.5)
    assert lengths.longest_prompt_tokens(LengthLimits()) == 900
    info = trace_info(path)
    assert (info.requests, info.mean_rate_rps) == (2, None)
    assert any("no column for the arrival" in note for note in info.notes)
    with pytest.raises(DataError, match=r"no column for the arrival.*required: arrival \(arrival_s"):
        list(read_trace(path, times="required"))
    mapped = written(tmp_path, "p,o,ok\n7,8,1\n9,9,0\n", "other.csv")
    assert Trace(TraceOptions(str(mapped), prompt_column="p", output_column="o", where="ok=1")).mean() == (7.0, 8.0)


def test_results_appended_to_one_file_are_chosen_by_number(tmp_path: Path) -> None:
    results = [
        {
            "date": f"2025010{n}",
            "completed": 1,
            "request_throughput": 1.0,
            "start_times": [3.0],
            "input_lens": [10 * n],
            "output_lens": [n],
        }
        for n in (1, 2)
    ]
    path = written(tmp_path, "\n".join(json.dumps(result) for result in results), "bench.json")
    with pytest.raises(DataError, match=r"has 2 results.*--result N.*1: date '20250101'"):
        list(read_trace(path))
    assert list(read_trace(path, None, ReadOptions(result=2))) == [Request(0, 0, 20, 2)]
    with pytest.raises(DataError, match="no result 3"):
        list(read_trace(path, None, ReadOptions(result=3)))


def test_packed_logs_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = "﻿ts,prompt_tokens,completion_tokens\r\n2025-03-01T11:00:00Z,10,20\r\n2025-03-01T11:00:00.5Z,11,21\r\n"
    packed = tmp_path / "log.csv.gz"
    packed.write_bytes(gzip.compress(text.encode()))
    assert list(read_trace(packed)) == HALF_SECOND
    monkeypatch.setattr(files, "_ZST_MODULES", ("no_such_module",))
    (tmp_path / "log.csv.zst").write_bytes(b"\x28\xb5\x2f\xfd")
    with pytest.raises(DataError, match=r"extra zst: pip install 'helixsim\[zst\]'"):
        list(read_trace(tmp_path / "log.csv.zst"))


@pytest.mark.parametrize("suffix", [".gz", ".zst"])
def test_what_is_written_packed_is_read_packed_and_damage_is_said(tmp_path: Path, suffix: str) -> None:
    if suffix == ".zst":
        try:
            files.zst(tmp_path)
        except DataError:
            pytest.skip("neither Python 3.14 nor the extra zst")
    path = tmp_path / f"trace.jsonl{suffix}"
    requests = [Request(i, 1_000_000 * i, 10 + i, 5) for i in range(500)]
    assert write_trace(path, requests, "jsonl") == 500
    assert list(read_trace(path)) == requests
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(DataError, match="damaged"):
        list(read_trace(path))
    path.write_bytes(b"arrival_s,prompt_tokens,output_tokens\n")
    with pytest.raises(DataError, match="damaged"):
        list(read_trace(path))


def test_every_name_of_a_column_is_documented() -> None:
    rows = [line.split("|") for line in data_path("traces", "README.md").read_text(encoding="utf-8").splitlines()]
    said = {row[1].strip(" `"): row[2] for row in rows if len(row) == 4}
    for part in NEEDED:
        tiers = [tuple(name.strip(" `") for name in tier.split(",")) for tier in said[part].split(";")]
        assert tuple(tiers) == NAMES[part]
