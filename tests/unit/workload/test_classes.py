"""Classes and priorities of requests: from traces, and given by shares."""

from __future__ import annotations

from collections import Counter
from itertools import islice

import pytest

from helixsim.domain.request import Request, Window
from helixsim.errors import DataError
from helixsim.workload.classes import classified
from helixsim.workload.feed import make_feed, workload_stats
from helixsim.workload.readers.registry import read_trace
from helixsim.workload.spec import (
    ArrivalsSpec,
    LengthLimits,
    LengthsSpec,
    ReadOptions,
    RequestClass,
    TraceSpec,
    WorkloadSpec,
)
from helixsim.workload.writers import write_trace

MIX = (RequestClass("chat", 0.7), RequestClass("batch", 0.3, priority=5))
FIXED = LengthsSpec("fixed", (("prompt_tokens", 10), ("output_tokens", 3)))


def load(arrivals: ArrivalsSpec, trace: TraceSpec | None = None, classes=MIX) -> WorkloadSpec:
    lengths = FIXED if trace is None else None
    return WorkloadSpec(trace, lengths, arrivals, LengthLimits(), Window(0, None, True), classes=classes)


def numbered(count: int, **keys) -> list[Request]:
    return [Request(number, number, 1, 1, **keys) for number in range(count)]


def test_requests_have_classes_by_share_and_the_priority_of_their_class() -> None:
    mix = (RequestClass("chat", 0.5), RequestClass("batch", 0.3, priority=5), RequestClass("vip", 0.2, priority=-1))
    found = list(classified(iter(numbered(20_000)), mix, 1))
    counts = Counter(request.slo_class for request in found)
    for one in mix:
        assert counts[one.name] / 20_000 == pytest.approx(one.share, abs=0.015)
    assert {(request.slo_class, request.priority) for request in found} == {("chat", 0), ("batch", 5), ("vip", -1)}


@pytest.mark.parametrize(
    "arrivals",
    [
        ArrivalsSpec("poisson", 5.0, num_requests=300),
        ArrivalsSpec("constant", 50.0, num_requests=300),
        ArrivalsSpec("closed_loop", concurrency=3, num_requests=300),
        ArrivalsSpec("saturate"),
    ],
)
def test_a_request_has_the_same_class_under_every_arrival_process(arrivals) -> None:
    expected = [request.slo_class for request in classified(iter(numbered(300)), MIX, 4)]
    found = list(islice(make_feed(load(arrivals), 4, 1).requests, 300))
    assert [request.slo_class for request in found] == expected
    assert [r.slo_class for r in islice(make_feed(load(arrivals), 5, 1).requests, 300)] != expected


def test_classes_leave_arrivals_and_lengths_as_they_are() -> None:
    arrivals = ArrivalsSpec("poisson", 5.0, num_requests=100)
    plain = make_feed(load(arrivals, classes=()), 4, 1).requests
    mixed = make_feed(load(arrivals), 4, 1).requests
    assert [(r.arrival_ns, r.prompt_tokens) for r in plain] == [(r.arrival_ns, r.prompt_tokens) for r in mixed]


def test_requests_of_a_session_have_one_class_and_sessions_the_shares() -> None:
    requests = [Request(number, number, 1, 1, session=f"s{number % 5000}") for number in range(10_000)]
    found = {(request.session, request.slo_class) for request in classified(iter(requests), MIX, 2)}
    assert len(found) == 5000
    assert sum(name == "chat" for _, name in found) / 5000 == pytest.approx(0.7, abs=0.03)


def test_what_the_trace_states_comes_first() -> None:
    requests = [
        Request(0, 0, 1, 1, "vip"),
        Request(1, 0, 1, 1, "batch"),
        Request(2, 0, 1, 1, "batch", priority=-3),
        Request(3, 0, 1, 1, None, priority=9),
    ]
    found = list(classified(iter(requests), (RequestClass("batch", None, 5),), 0))
    assert [(r.slo_class, r.priority) for r in found] == [("vip", 0), ("batch", 5), ("batch", -3), (None, 9)]
    shared = list(classified(iter(numbered(100, slo_class="vip")), MIX, 0))
    assert {request.slo_class for request in shared} == {"vip"}


@pytest.mark.parametrize("name", ["trace.csv", "trace.jsonl"])
def test_priorities_survive_writing_and_reading(tmp_path, name) -> None:
    requests = [
        Request(0, 0, 10, 2, "chat", priority=-1),
        Request(1, 10, 11, 3, None),
        Request(2, 20, 12, 4, "batch", priority=7),
    ]
    write_trace(tmp_path / name, requests, name.partition(".")[2])
    assert list(read_trace(tmp_path / name)) == requests


def test_a_column_of_another_name_holds_the_priority(tmp_path) -> None:
    path = tmp_path / "log.csv"
    path.write_text("arrival_s,prompt_tokens,output_tokens,importance\n0,1,1,3\n1,1,1,\n")
    found = read_trace(path, "csv", ReadOptions(columns=(("priority", "importance"),)))
    assert [request.priority for request in found] == [3, 0]


@pytest.mark.parametrize("got", ["high", "1.5", "99999999999"])
def test_a_priority_that_is_no_whole_number_is_refused_with_its_place(tmp_path, got) -> None:
    path = tmp_path / "log.csv"
    path.write_text(f"arrival_s,prompt_tokens,output_tokens,priority\n0,1,1,1\n1,1,1,{got}\n")
    with pytest.raises(DataError, match=r"log\.csv.*row 3.*priority.*expected a whole number"):
        list(read_trace(path))


def test_statistics_name_the_classes_of_the_load(tmp_path) -> None:
    assert workload_stats(load(ArrivalsSpec("poisson", 5.0, num_requests=10)), 0).classes == ("chat", "batch")
    path = tmp_path / "trace.csv"
    path.write_text("arrival_s,prompt_tokens,output_tokens,slo_class\n0,1,1,b\n1,1,1,\n2,1,1,a\n")
    spec = load(ArrivalsSpec("trace"), TraceSpec("csv", path), classes=())
    assert workload_stats(spec, 0).classes == ("a", "b")
