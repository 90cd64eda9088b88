"""Traces from OpenTelemetry, AIPerf, ServeGen and Azure's multimodal service: the requests that were written."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from helixsim.errors import DataError
from helixsim.workload.readers.base import ReadLog
from helixsim.workload.readers.registry import detect_format, read_trace
from helixsim.workload.spec import ReadOptions

REQUESTS = st.lists(
    st.tuples(st.integers(0, 10**12), st.integers(1, 10**5), st.integers(1, 10**4)), min_size=1, max_size=20
)
START_NS = 1_790_000_000_000_000_000


def span(at_ns: int, prompt: int, output: int, *, old: bool = False, **more: Any) -> dict[str, Any]:
    names = ("prompt_tokens", "completion_tokens") if old else ("input_tokens", "output_tokens")
    attributes = {
        f"gen_ai.usage.{name}": {"intValue": str(tokens)} for name, tokens in zip(names, (prompt, output), strict=True)
    }
    attributes |= {name: {"stringValue": text} for name, text in more.pop("attributes", {}).items()}
    listed = [{"key": key, "value": value} for key, value in attributes.items()]
    return {"name": "chat", "startTimeUnixNano": str(START_NS + at_ns), "attributes": listed, **more}


def exports(path: Path, *batches: list[dict[str, Any]]) -> Path:
    lines = [json.dumps({"resourceSpans": [{"scopeSpans": [{"spans": spans}]}]}) for spans in batches]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def record(at_ns: int, prompt: int, output: int, **more: Any) -> str:
    metrics = {"input_sequence_length": {"value": prompt}, "output_sequence_length": {"value": output}}
    return json.dumps({"metadata": {"request_start_ns": START_NS + at_ns}, "metrics": metrics, **more})


@given(requests=REQUESTS, old=st.booleans())
def test_spans_are_read_in_order_of_start_whatever_the_order_of_the_file(tmp_path_factory, requests, old):
    path = tmp_path_factory.mktemp("spans") / "spans.jsonl"
    middle = len(requests) // 2
    spans = [span(*request, old=old) for request in requests]
    exports(path, spans[middle:], [{"name": "http", "attributes": []}, *spans[:middle]])
    log = ReadLog()
    found = list(read_trace(path, log=log))
    expected = sorted(at for at, *_ in requests)
    assert detect_format(path) == "otel"
    assert [one.arrival_ns for one in found] == [at - expected[0] for at in expected]
    assert sorted((one.prompt_tokens, one.output_tokens) for one in found) == sorted(
        map(tuple, (r[1:] for r in requests))
    )
    assert log.notes == ["1 spans without numbers of tokens (gen_ai.usage.*) are not requests"]


def test_failed_and_excluded_spans_are_counted_and_conversations_are_sessions(tmp_path):
    spans = [
        span(0, 10, 5, attributes={"gen_ai.request.model": "a", "gen_ai.conversation.id": "one"}),
        span(5, 10, 5, attributes={"gen_ai.request.model": "b"}),
        span(9, 40, 5, attributes={"gen_ai.request.model": "a"}, status={"code": 2}),
    ]
    log = ReadLog()
    path = exports(tmp_path / "spans.json", spans)
    found = list(read_trace(path, options=ReadOptions(where=(("gen_ai.request.model", "a"),)), log=log))
    assert [(one.prompt_tokens, one.session) for one in found] == [(10, "one")]
    assert log.dropped == {"not gen_ai.request.model=a": 1, "span has status ERROR": 1}


def test_a_damaged_span_names_its_row(tmp_path):
    path = exports(tmp_path / "spans.json", [span(0, 10, 5)], [span(0, 10, 5) | {"startTimeUnixNano": "soon"}])
    with pytest.raises(DataError, match="row 2, column 'startTimeUnixNano': got 'soon'"):
        list(read_trace(path))


@given(requests=REQUESTS)
def test_requests_of_aiperf_are_read_in_order_of_start(tmp_path_factory, requests):
    path = tmp_path_factory.mktemp("aiperf") / "profile_export.jsonl"
    lines = [record(*request) for request in requests]
    warm_up = json.dumps({"metadata": {"request_start_ns": 1, "benchmark_phase": "warmup"}, "metrics": {}})
    failed = json.dumps({"metadata": {"request_start_ns": START_NS + 10**12}, "metrics": {}, "error": {"code": 500}})
    path.write_text("\n".join([*lines, failed, warm_up]), encoding="utf-8")
    log = ReadLog()
    found = list(read_trace(path, log=log))
    expected = sorted(at for at, *_ in requests)
    assert detect_format(path) == "aiperf"
    assert [one.arrival_ns for one in found] == [at - expected[0] for at in expected]
    assert sum(one.prompt_tokens for one in found) == sum(prompt for _, prompt, _ in requests)
    assert log.dropped == {"warm-up": 1, "request failed": 1}


def test_batch_jobs_of_servegen_have_lengths_and_no_times(tmp_path):
    path = tmp_path / "trace_d.jsonl"
    entry = {"request_id": 0, "type": "text", "input_length": 61, "output_length": 2370, "duration": 14000}
    path.write_text(json.dumps(entry) + "\n" + json.dumps(entry | {"type": "multimodal"}), encoding="utf-8")
    log = ReadLog()
    found = list(read_trace(path, log=log))
    assert detect_format(path) == "servegen"
    assert [(one.arrival_ns, one.prompt_tokens, one.output_tokens) for one in found] == [(0, 61, 2370)] * 2
    assert any("vision encoder is not modelled" in note for note in log.notes)
    with pytest.raises(DataError, match="record no arrivals; use its lengths"):
        list(read_trace(path, times="required"))
    path.write_text(json.dumps({"request_id": 0, "type": "text", "input_length": 4, "hash_ids": [1]}), encoding="utf-8")
    with pytest.raises(DataError, match="the traces with hash_ids state no output lengths"):
        list(read_trace(path))


def test_images_of_azure_are_noted(tmp_path):
    path = tmp_path / "azure.csv"
    head = "TIMESTAMP,NumImages,ContextTokens,GeneratedTokens\n"
    path.write_text(head + "2024-10-15 00:00:01.5,0,100,10\n2024-10-15 00:00:02.5,3,900,20\n", encoding="utf-8")
    log = ReadLog()
    assert [one.prompt_tokens for one in read_trace(path, log=log)] == [100, 900]
    assert detect_format(path) == "azure"
    assert [note[:34] for note in log.notes] == ["requests with images (NumImages): "]
    log = ReadLog()
    path.write_text(head + "2024-10-15 00:00:01.5,0,100,10\n", encoding="utf-8")
    assert len(list(read_trace(path, log=log))) == 1
    assert not log.notes
