"""Samples at the edges of the window, and runs that end early."""

from __future__ import annotations

import builders
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from simulating import MS, SECOND, random_load, requests, run

from helixsim.domain.request import Window
from helixsim.engine.inputs import Patience


@given(
    warmup_ms=st.integers(0, 3000), duration_ms=st.integers(1, 3000), sample_ms=st.integers(1, 5000),
    drain=st.booleans(),
)  # fmt: skip
@settings(max_examples=40, deadline=None)
def test_both_edges_are_sampled_whatever_the_interval(warmup_ms, duration_ms, sample_ms, drain) -> None:
    """Requests before, in and behind the window, so that the run outlives it."""
    load = requests(*((at, 10, 30) for at in range(0, 8000, 100)))
    window = Window(warmup_ms * MS, duration_ms * MS, drain=drain)
    result = run(builders.two_node_pipeline(), load, window=window, sample_ns=sample_ms * MS)
    times = result.series.time_ns.tolist()
    assert {0, window.warmup_ns, window.warmup_ns + window.duration_ns} <= set(times)
    assert times == sorted(set(times))
    inside = [at for at in times if window.warmup_ns <= at <= result.window_end_ns]
    grid = [at - window.warmup_ns for at in inside[:-1]]
    assert all(at % (sample_ms * MS) == 0 for at in grid)


def test_without_an_interval_the_window_has_120_samples() -> None:
    result = run(builders.two_node_pipeline(), requests((0, 10, 3000)), window=Window(SECOND, 3 * SECOND, drain=False))
    inside = (result.series.time_ns >= SECOND) & (result.series.time_ns <= 4 * SECOND)
    assert inside.sum() == 121


def late(result, ttft_ns):
    """First tokens in the window that took longer."""
    rows = result.requests
    inside = (rows.first_token_ns > result.window_start_ns) & (rows.first_token_ns <= result.window_end_ns)
    return int((inside & (rows.first_token_ns - rows.arrival_ns > ttft_ns)).sum())


@given(seed=st.integers(0, 200), most_late=st.integers(0, 8), warmup_ms=st.sampled_from([500, 2000, 4000]))
@settings(max_examples=12, deadline=None)
def test_a_run_ends_early_only_for_what_is_late_in_its_window(seed, most_late, warmup_ms) -> None:
    """The cluster is overrun from the start: what is late before the window begins does not count."""
    patience = Patience(ttft_ns=30 * MS, most_late=most_late, least_ns=100 * MS)
    window = Window(warmup_ms * MS, 4 * SECOND, drain=False)
    load = random_load(seed, 600, rate_rps=120.0, prompt=100, output=20)
    case = builders.tiny_fleet()
    whole = run(case, load, window=window)
    part = run(case, load, window=window, patience=patience)
    ends = part.series.time_ns[part.series.time_ns >= window.warmup_ns + patience.least_ns]
    expected = next((at for at in ends if _late_by(whole, patience.ttft_ns, at) > most_late), None)
    assert part.window_start_ns == window.warmup_ns
    if expected is None:
        assert part.end_ns == whole.end_ns
    else:
        assert part.window_end_ns == part.end_ns == expected
        assert late(part, patience.ttft_ns) > most_late


def _late_by(result, ttft_ns, end_ns):
    rows = result.requests
    inside = (rows.first_token_ns > result.window_start_ns) & (rows.first_token_ns <= end_ns)
    return int((inside & (rows.first_token_ns - rows.arrival_ns > ttft_ns)).sum())


def test_gaps_between_tokens_count_from_the_window_on() -> None:
    """A token every 6 ms or so: as many gaps as fall into the window, none before."""
    load = requests((0, 10, 3000))
    window = Window(2 * SECOND, SECOND, drain=False)
    part = run(builders.two_node_pipeline(), load, window=window)
    gap_ns = part.gaps.sum_ns / part.gaps.count.sum()
    assert part.gaps.count.sum() == pytest.approx(SECOND / gap_ns, abs=1)
    before = run(builders.two_node_pipeline(), load, window=Window(0, 3 * SECOND, drain=False))
    assert before.gaps.count.sum() == pytest.approx(3 * SECOND / gap_ns, abs=2)
    assert np.diff(part.series.time_ns).max() <= 3 * SECOND


@pytest.mark.parametrize("case", [builders.two_node_pipeline(), builders.tiny_fleet()])
def test_counters_of_nodes_grow_to_those_of_the_run(case) -> None:
    result = run(case, random_load(1, 80, rate_rps=20.0), sample_ns=500 * MS)
    for name in ("batches", "decode_tokens"):
        samples = getattr(result.series, name)
        assert samples.shape == result.series.busy_ns.shape
        assert (np.diff(samples, axis=0) >= 0).all()
        assert samples[-1].tolist() == getattr(result.nodes, name).tolist()
        assert samples[-1].sum() > 0
