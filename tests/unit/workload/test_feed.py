from __future__ import annotations

from dataclasses import replace
from itertools import islice
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from helixsim.datafiles import data_path
from helixsim.domain.request import FeedMode, Request, Window
from helixsim.errors import ConfigError, DataError
from helixsim.units import NS_PER_S
from helixsim.workload.feed import longest_prompt, make_feed, workload_stats
from helixsim.workload.readers.registry import read_trace
from helixsim.workload.spec import ArrivalsSpec, LengthLimits, LengthsSpec, ReadOptions, TraceSpec, WorkloadSpec

ENDLESS = Window(warmup_ns=0, duration_ns=None, drain=True)
CONVERSATION = LengthsSpec("azure-conversation")
SAMPLE = TraceSpec("csv", data_path("traces", "sample.csv"))


def generated(process: str = "poisson", window: Window = ENDLESS, **arrivals: float | int | None) -> WorkloadSpec:
    return WorkloadSpec(None, CONVERSATION, ArrivalsSpec(process, **arrivals), LengthLimits(), window)  # type: ignore[arg-type]


def recorded(
    trace: TraceSpec = SAMPLE,
    arrivals: ArrivalsSpec | None = None,
    limits: LengthLimits | None = None,
    lengths: LengthsSpec | None = None,
    window: Window = ENDLESS,
) -> WorkloadSpec:
    return WorkloadSpec(trace, lengths, arrivals or ArrivalsSpec("trace"), limits or LengthLimits(), window)


def requests(spec: WorkloadSpec, seed: int = 0) -> list[Request]:
    feed = make_feed(spec, seed, num_nodes=4)
    assert feed.mode is FeedMode.OPEN
    return list(feed.requests)


@settings(deadline=None, max_examples=20)
@given(
    process=st.sampled_from(["poisson", "gamma", "constant", "bursty"]),
    rate=st.floats(0.5, 50),
    warmup_s=st.integers(0, 5),
    duration_s=st.integers(1, 20),
    number=st.none() | st.integers(1, 300),
)
def test_open_feeds_end_with_the_window_or_the_number(
    process: str, rate: float, warmup_s: int, duration_s: int, number: int | None
) -> None:
    window = Window(warmup_s * NS_PER_S, duration_s * NS_PER_S, drain=False)
    spec = generated(process, window, rate_rps=rate, num_requests=number)
    found = requests(spec)
    assert [request.id for request in found] == list(range(len(found)))
    assert all(request.arrival_ns < (warmup_s + duration_s) * NS_PER_S for request in found)
    assert number is None or len(found) <= number
    without_number = requests(replace(spec, arrivals=replace(spec.arrivals, num_requests=None)))
    assert found == without_number[:number]


def test_lengths_do_not_depend_on_the_arrival_process_or_rate() -> None:
    specs = [
        generated("poisson", rate_rps=1.0, num_requests=6000),
        generated("bursty", rate_rps=30.0, num_requests=6000),
    ]
    first, second = ([(r.prompt_tokens, r.output_tokens) for r in requests(spec)] for spec in specs)
    assert first == second
    closed = make_feed(generated("closed_loop", concurrency=3), 0, num_nodes=4)
    assert [(r.prompt_tokens, r.output_tokens) for r in islice(closed.requests, 6000)] == first


def test_a_seed_gives_the_same_requests_and_another_seed_others() -> None:
    spec = generated(rate_rps=2.0, num_requests=50)
    assert requests(spec, 1) == requests(spec, 1)
    assert requests(spec, 1) != requests(spec, 2)


def test_closed_feeds_are_endless_and_carry_their_limit() -> None:
    closed = make_feed(generated("closed_loop", concurrency=7), 0, num_nodes=4)
    assert (closed.mode, closed.concurrency, closed.prompts_in_flight) == (FeedMode.CLOSED_LOOP, 7, None)
    assert len(list(islice(closed.requests, 10_000))) == 10_000
    for nodes, given_in_flight, expected in ((4, None, 20), (42, None, 42), (42, 5, 5)):
        feed = make_feed(generated("saturate", prompts_in_flight=given_in_flight), 0, num_nodes=nodes)
        assert (feed.mode, feed.prompts_in_flight, feed.concurrency) == (FeedMode.SATURATE, expected, None)
    assert workload_stats(generated("saturate"), 0).offered_rps is None


def test_other_arrivals_replace_those_of_the_specification() -> None:
    spec = generated(rate_rps=2.0, num_requests=50)
    other = ArrivalsSpec("constant", rate_rps=2.0, num_requests=3)
    replaced = list(make_feed(spec, 0, 4, other).requests)
    assert replaced == requests(replace(spec, arrivals=other))
    assert [request.arrival_ns for request in replaced] == [0, NS_PER_S // 2, NS_PER_S]


def test_a_recorded_load_is_the_trace() -> None:
    assert requests(recorded()) == list(read_trace(SAMPLE.path))
    stats = workload_stats(recorded(), 0)
    assert stats.num_requests == 300
    assert stats.dropped == ()


@pytest.mark.parametrize("rate", [0.5, 40.0])
def test_stretching_changes_the_rate_and_nothing_else(rate: float) -> None:
    spec = recorded(arrivals=ArrivalsSpec("trace", rate_rps=rate))
    stretched, plain = requests(spec), requests(recorded())
    assert workload_stats(spec, 0).offered_rps == pytest.approx(rate, rel=1e-6)
    assert [replace(r, arrival_ns=0) for r in stretched] == [replace(r, arrival_ns=0) for r in plain]
    factor = stretched[-1].arrival_ns / plain[-1].arrival_ns
    assert all(abs(s.arrival_ns - factor * p.arrival_ns) <= 1 for s, p in zip(stretched, plain, strict=True))


def test_limits_drop_recorded_requests_and_count_them() -> None:
    limits = LengthLimits(200, 2048, 50, 400)
    stats = workload_stats(recorded(limits=limits), 0)
    kept = requests(recorded(limits=limits))
    assert stats.num_requests == len(kept) < 300
    assert len(kept) + sum(count for _, count in stats.dropped) == 300
    assert len(stats.dropped) == 4
    assert kept[0].arrival_ns == 0
    assert [request.id for request in kept] == list(range(len(kept)))
    assert stats.mean_prompt_tokens == pytest.approx(sum(r.prompt_tokens for r in kept) / len(kept))


def test_a_window_of_the_trace_begins_at_its_first_request() -> None:
    cut = requests(recorded(replace(SAMPLE, start_s=30.0, duration_s=40.0)))
    inside = [r for r in read_trace(SAMPLE.path) if 30 * NS_PER_S <= r.arrival_ns < 70 * NS_PER_S]
    assert [(r.prompt_tokens, r.arrival_ns) for r in cut] == [
        (r.prompt_tokens, r.arrival_ns - inside[0].arrival_ns) for r in inside
    ]
    with pytest.raises(DataError, match="no request within"):
        requests(recorded(replace(SAMPLE, start_s=1e6)))


def test_recorded_times_may_carry_other_lengths() -> None:
    fixed = LengthsSpec("fixed", (("prompt_tokens", 9), ("output_tokens", 3)))
    spec = recorded(lengths=fixed, limits=LengthLimits(max_prompt_tokens=10))
    found = requests(spec)
    assert [r.arrival_ns for r in found] == [r.arrival_ns for r in read_trace(SAMPLE.path)]
    assert {(r.prompt_tokens, r.output_tokens) for r in found} == {(9, 3)}


def test_recorded_lengths_at_other_times_are_drawn_from_the_trace() -> None:
    spec = recorded(arrivals=ArrivalsSpec("poisson", rate_rps=1.0, num_requests=500))
    pairs = {(r.prompt_tokens, r.output_tokens) for r in read_trace(SAMPLE.path)}
    assert {(r.prompt_tokens, r.output_tokens) for r in requests(spec)} <= pairs
    assert "drawn with replacement" in workload_stats(spec, 0).assumptions[0]


def test_the_longest_prompt_is_exact_for_recorded_loads_and_sampled_for_drawn_ones() -> None:
    longest = max(r.prompt_tokens for r in read_trace(SAMPLE.path))
    assert longest_prompt(recorded(), 0) == longest
    assert longest_prompt(recorded(arrivals=ArrivalsSpec("saturate")), 0) == longest
    assert longest_prompt(recorded(limits=LengthLimits(max_prompt_tokens=longest - 1)), 0) < longest
    assert 4142 < longest_prompt(generated(rate_rps=1.0, num_requests=9), 0) <= 14050  # p99 and maximum of the trace


def test_stats_of_generated_loads_match_what_is_generated() -> None:
    spec = replace(generated(rate_rps=2.0, num_requests=20_000), limits=LengthLimits(4, 2048, 4, 1024))
    stats, found = workload_stats(spec, 0), requests(spec)
    assert sum(r.prompt_tokens for r in found) / len(found) == pytest.approx(stats.mean_prompt_tokens, rel=0.02)
    assert sum(r.output_tokens for r in found) / len(found) == pytest.approx(stats.mean_output_tokens, rel=0.02)
    assert (stats.offered_rps, stats.num_requests) == (2.0, 20_000)
    assert 0.1 < stats.redrawn_share < 0.2


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        (generated(rate_rps=1.0), "the load is endless"),
        (generated("trace"), "requires workload.trace"),
        (recorded(TraceSpec("sharegpt", data_path("traces", "sharegpt.json"))), "has no arrival times"),
        (replace(recorded(), trace=None, arrivals=ArrivalsSpec("saturate")), "no lengths"),
    ],
)
def test_contradictions_are_refused_before_any_request(spec: WorkloadSpec, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make_feed(spec, 0, num_nodes=4)
    with pytest.raises(ConfigError, match=message):
        workload_stats(spec, 0)


def test_one_arrival_time_cannot_be_rescaled(tmp_path: Path) -> None:
    path = tmp_path / "one.csv"
    path.write_text("arrival_s,prompt_tokens,output_tokens\n1,1,1\n1,2,2\n")
    spec = recorded(TraceSpec("csv", path), ArrivalsSpec("trace", rate_rps=1.0))
    with pytest.raises(DataError, match="cannot be rescaled"):
        make_feed(spec, 0, num_nodes=1)
    assert workload_stats(recorded(TraceSpec("csv", path)), 0).offered_rps is None


def test_a_feed_is_lazy() -> None:
    """A hundred years of requests cost nothing until they are asked for."""
    century = Window(0, 100 * 365 * 86_400 * NS_PER_S, drain=False)
    feed = make_feed(generated(window=century, rate_rps=100.0), 0, num_nodes=1)
    assert next(feed.requests).id == 0


def test_a_closed_loop_ends_after_its_number_of_requests() -> None:
    finite, endless = (generated("closed_loop", concurrency=4, num_requests=number) for number in (9, None))
    feed = make_feed(finite, 0, num_nodes=1)
    found = list(feed.requests)
    assert (feed.mode, feed.concurrency) == (FeedMode.CLOSED_LOOP, 4)
    assert found == list(islice(make_feed(endless, 0, num_nodes=1).requests, 9))
    assert workload_stats(finite, 0).num_requests == 9


def test_length_pairs_without_times_can_be_drawn_but_not_replayed(tmp_path: Path) -> None:
    path = tmp_path / "pairs.csv"
    path.write_text("num_prefill_tokens,num_decode_tokens\n900,54\n20,15\n")
    spec = recorded(TraceSpec("csv", path), ArrivalsSpec("poisson", rate_rps=2.0, num_requests=50))
    assert {(r.prompt_tokens, r.output_tokens) for r in requests(spec)} == {(900, 54), (20, 15)}
    with pytest.raises(DataError, match="no column for the arrival"):
        requests(recorded(TraceSpec("csv", path)))


def test_how_a_trace_was_understood_is_an_assumption_of_the_load(tmp_path: Path) -> None:
    path = tmp_path / "seconds.jsonl"
    path.write_text("".join(f'{{"timestamp": {at}, "input_length": 5, "output_length": 6}}\n' for at in (0, 0.5, 2)))
    said = workload_stats(recorded(TraceSpec("mooncake", path)), 0).assumptions
    assert any("seconds.jsonl: fractions of milliseconds" in sentence for sentence in said)
    stated = TraceSpec("mooncake", path, reading=ReadOptions(unit="s"))
    assert workload_stats(recorded(stated), 0).assumptions == ()
    assert requests(recorded(stated))[-1].arrival_ns == 2 * NS_PER_S


@pytest.mark.parametrize("rate", [1e-300, 1e-7, 1e7, 1e300])
def test_rates_beyond_what_the_clock_can_count_are_refused(rate: float) -> None:
    with pytest.raises(ConfigError, match=r"arrivals.rate: got .*, expected 1e-06 .. 1e\+06"):
        make_feed(generated(rate_rps=rate, num_requests=5), 0, num_nodes=1)
