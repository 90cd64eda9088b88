"""Verdicts on runs made by hand: what is late, what is overdue, what drifts."""

from __future__ import annotations

from dataclasses import fields, replace

import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from helixsim.domain.request import Slo
from helixsim.domain.result import RequestColumns, RequestStatus
from helixsim.metrics.latency import latencies, latency_samples
from helixsim.metrics.objectives import Target, evaluate_target, objective_figures
from helixsim.metrics.saturation import Saturation, saturation
from helixsim.metrics.stationarity import _drift, stationarity
from helixsim.metrics.throughput import throughput
from helixsim.metrics.window import window_samples

SECOND = 1_000_000_000


def with_rows(fakes, arrival_s, first_s, finish_s, *, outputs=2, status=None):
    """A run of 100 s, measured from 10 s on, with these requests; None: not reached."""
    base = fakes.queue_run(warmup_s=10.0, until_s=100.0, count=1).run
    count = len(arrival_s)

    def ns(values):
        return np.array([-1 if value is None else round(value * SECOND) for value in values], dtype=np.int64)

    zeros = np.zeros(count, dtype=np.int64)
    finish = ns(finish_s)
    if status is None:
        status = np.where(finish >= 0, int(RequestStatus.FINISHED), int(RequestStatus.RUNNING))
    columns = {field.name: zeros for field in fields(RequestColumns)}
    columns |= {
        "request_id": np.arange(count), "status": np.asarray(status), "arrival_ns": ns(arrival_s),
        "admitted_ns": ns(first_s), "first_token_ns": ns(first_s), "finish_ns": finish,
        "prompt_tokens": zeros + 10, "output_tokens": zeros + outputs,
    }  # fmt: skip
    return replace(base, requests=RequestColumns(**columns))


def test_percentiles_of_a_run_with_known_latencies(fakes) -> None:
    """TTFT of 0, 1, ... 1000 ms, TPOT of twice and E2EL of three times that."""
    k = np.random.default_rng(2).permutation(1001) / 1000
    arrival = np.full(1001, 20.0)
    run = with_rows(fakes, arrival, arrival + k, arrival + 3 * k)
    found = latencies(run, latency_samples(run))
    for metric, factor in (("ttft", 1), ("tpot", 2), ("e2el", 3)):
        for q in (50, 75, 90, 95, 99):
            assert getattr(found[metric], f"p{q}_s") == pytest.approx(0.01 * q * factor), (metric, q)


@pytest.mark.parametrize("slo", [Slo(ttft_s=2.0), Slo(e2el_s=2.0)])
def test_requests_that_are_overdue_count_against_the_objective(fakes, slo: Slo) -> None:
    """Of 99 in time and one without a token, 99 % are in time only as long as that one may still be."""
    arrival = [20.0] * 99
    done = with_rows(fakes, arrival, [21.0] * 99, [21.5] * 99)
    assert evaluate_target(done, Target("x", slo, 99.0)).is_met
    for waits_since_s, is_met in ((98.5, True), (97.5, False)):
        run = with_rows(fakes, [*arrival, waits_since_s], [21.0] * 99 + [None], [21.5] * 99 + [None])
        verdict = evaluate_target(run, Target("x", slo, 99.5))
        assert verdict.is_met is is_met, waits_since_s
        assert verdict.is_met or (verdict.slack == 0 and "exceeds the window" in verdict.misses[0])


def test_a_rejected_request_is_not_overdue(fakes) -> None:
    status = [RequestStatus.FINISHED] * 9 + [RequestStatus.REJECTED]
    run = with_rows(fakes, [20.0] * 10, [21.0] * 9 + [None], [21.5] * 9 + [None], status=status)
    assert evaluate_target(run, Target("x", Slo(ttft_s=2.0), 99.0)).is_met
    counts = throughput(run, Slo(ttft_s=2.0))
    assert (counts.overdue, counts.failed, counts.slo_attainment) == (0, 1, pytest.approx(0.9))


def test_attainment_counts_overdue_requests(fakes) -> None:
    run = with_rows(fakes, [20.0] * 9 + [50.0], [21.0] * 9 + [None], [21.5] * 9 + [None])
    assert throughput(run, Slo(ttft_s=2.0)).overdue == 1
    assert throughput(run, Slo(ttft_s=2.0)).slo_attainment == pytest.approx(0.9)
    assert throughput(run, Slo(ttft_s=60.0)).slo_attainment == 1


@pytest.mark.parametrize("first_s", [None, 51.0])
def test_a_request_that_has_run_past_its_latency_objective_is_not_within_the_slo(fakes, first_s) -> None:
    """Attainment and the objective agree on what is known at the end of the window, first token or not."""
    run = with_rows(fakes, [20.0] * 9 + [50.0], [21.0] * 9 + [first_s], [21.5] * 9 + [None])
    for e2el_s, overdue in ((49.0, 1), (51.0, 0)):
        slo = Slo(e2el_s=e2el_s)
        counts, within = throughput(run, slo), objective_figures(run, slo)["E2EL"].within
        assert (counts.overdue, counts.slo_attainment) == (overdue, pytest.approx(within))


@given(
    st.lists(st.tuples(st.floats(0, 99), *[st.one_of(st.none(), st.floats(0, 60))] * 2), min_size=1, max_size=12),
    st.tuples(*[st.one_of(st.none(), st.floats(0.5, 50))] * 3),
)
@example([(50.0, 5.0, None)], (2.0, None, None))  # a late first token, and not finished
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_what_misses_an_objective_is_not_within_the_slo_and_what_is_open_is_undecided(fakes, drawn, limits) -> None:
    """Each request that is in the system at the end of the window is a miss or undecided."""
    slo = Slo(*limits)
    if not slo.is_stated:
        return
    arrival = sorted(one[0] for one in drawn)
    first = [None if one is None else at + one for at, (_, one, _) in zip(arrival, drawn, strict=True)]
    finish = [None if at is None or one is None else at + one for at, (_, _, one) in zip(first, drawn, strict=True)]
    run = with_rows(fakes, arrival, first, finish)
    counts = throughput(run, slo)
    end_s = run.window_end_ns / SECOND
    open_ = sum(one is None or round(one * SECOND) > run.window_end_ns for one in finish)
    assert counts.overdue + counts.undecided == open_
    for name, one in objective_figures(run, slo).items():
        alone = Slo(**{f"{name.lower()}_s": one.limit_s})
        assert throughput(run, alone).overdue <= counts.overdue
        if one.within is not None and one.within < 1:
            assert throughput(run, alone).slo_attainment < 1, name
    if slo.ttft_s is not None:
        waits = [(end_s if one is None else min(one, end_s)) - at for at, one in zip(arrival, first, strict=True)]
        is_open = [one is None or one > end_s for one in finish]
        missed = sum(wait > slo.ttft_s + 1e-6 for wait, still in zip(waits, is_open, strict=True) if still)
        assert counts.overdue >= missed


def test_a_share_that_is_asked_for_is_of_all_objectives_at_once(fakes) -> None:
    """Half miss one objective, the others the other: each is met by half, both together by none."""
    arrival = [20.0] * 100
    run = with_rows(fakes, arrival, [21.0, 23.0] * 50, [24.0, 23.5] * 50)
    for slo in (Slo(ttft_s=2.0), Slo(tpot_s=1.0)):
        assert evaluate_target(run, Target("x", slo, 50.0, 0.5)).is_met
    both = evaluate_target(run, Target("x", Slo(ttft_s=2.0, tpot_s=1.0), 50.0, 0.01))
    assert [miss.split()[0] for miss in both.misses] == ["0.0%"]


def test_nothing_measured_meets_nothing(fakes) -> None:
    run = with_rows(fakes, [99.9], [None], [None])
    verdict = evaluate_target(run, Target("x", Slo(ttft_s=2.0, tpot_s=1.0)))
    assert verdict.misses == ("no request has a TTFT in the window", "no request has a TPOT in the window")
    assert np.isnan(verdict.slack)
    assert not verdict.is_measured
    only_first = with_rows(fakes, [20.0], [21.0], [None])
    assert not evaluate_target(only_first, Target("x", Slo(ttft_s=0.1, tpot_s=1.0))).is_measured
    assert evaluate_target(only_first, Target("x", Slo(ttft_s=0.1))).is_measured


def test_an_overloaded_run_misses_however_fast_it_was(fakes) -> None:
    run = with_rows(fakes, [20.0] * 100, [21.0] * 100, [21.5] * 100)
    growing = replace(run.series, waiting=np.arange(len(run.series.time_ns)) * 3)
    overloaded = replace(run, series=growing)
    assert saturation(overloaded) is Saturation.OVERLOADED
    assert "the queue keeps growing" in evaluate_target(overloaded, Target("x", Slo(ttft_s=2.0))).misses[0]


def test_a_queue_that_grows_by_less_than_it_fluctuates_is_no_overload(fakes) -> None:
    """The mean number waiting is w, its fluctuation the root of w: growth below three roots is chance."""
    run = with_rows(fakes, [20.0] * 100, [21.0] * 100, [21.5] * 100)
    times = len(run.series.time_ns)

    def at(growth: float, level: float):
        line = level + growth * (np.arange(times) - times / 2) / 90
        return replace(run, series=replace(run.series, waiting=line, running=np.full(times, 10_000)))

    assert saturation(at(25.0, 100.0)) is Saturation.STABLE  # a quarter of the arrivals, but less than 3 x 10
    assert saturation(at(40.0, 100.0)) is Saturation.OVERLOADED
    few = replace(at(40.0, 100.0), requests=with_rows(fakes, [20.0] * 1000, [21.0] * 1000, [21.5] * 1000).requests)
    assert saturation(few) is Saturation.STABLE  # and more than chance, but less than 5 % of the arrivals


def test_a_difference_between_the_halves_is_a_drift_only_beyond_chance() -> None:
    """Ten values per half, one twice as large on average: certain where they scatter little, chance where much."""
    rng = np.random.default_rng(1)
    calm, wild = (np.concatenate([1 + s * rng.uniform(-1, 1, 9), [1.0]]) for s in (0.01, 0.01))
    assert "rose" in _drift("x", calm, 2 * wild, 0.25, "")
    assert "fell" in _drift("x", 2 * wild, calm, 0.25, "")
    scattered = np.array([0.0] * 9 + [20.0])
    assert scattered.mean() == 2
    assert _drift("x", calm, scattered, 0.25, "") == ""
    assert _drift("x", calm, 1.2 * wild, 0.25, "") == ""  # certain, but less than what is allowed
    assert "rose" in _drift("x", calm, 1.2 * wild, 0.10, "")


def test_significance_is_that_of_99_per_cent() -> None:
    """For equal halves a drift is found in about one of a hundred windows by chance (allowed: no change at all)."""
    rng = np.random.default_rng(3)
    found = sum(bool(_drift("x", *rng.normal(100.0, 10.0, (2, 10)), 0.0, "")) for _ in range(4000))
    assert found / 4000 == pytest.approx(0.01, abs=0.006)


def test_steady_names_what_drifts(fakes) -> None:
    run = fakes.queue_run(rate_rps=4.0).run
    assert stationarity(run) == "steady"
    slower = run.series.output_tokens.copy()
    middle = len(slower) // 2
    slower[middle:] = slower[middle] + (slower[middle:] - slower[middle]) // 2
    verdict = stationarity(replace(run, series=replace(run.series, output_tokens=slower)))
    assert verdict.startswith("not steady: output tokens/s fell")
    assert "TTFT" not in verdict


def test_an_event_at_the_end_of_the_window_is_in_it_and_one_at_its_start_is_not(fakes) -> None:
    run = with_rows(fakes, [5.0] * 4, [10.0, 10.0, 11.0, 100.0], [10.0, 11.0, 100.0, 100.0])
    assert latency_samples(run).ttft_ns.tolist() == [6 * SECOND, 95 * SECOND]
    assert throughput(run, Slo()).completed == 3
    assert throughput(replace(run, window_start_ns=0), Slo()).completed == 4


def test_the_window_is_measured_between_the_samples_at_its_edges(fakes) -> None:
    run = fakes.queue_run(warmup_s=10.0, until_s=90.0).run
    sampled = run.series.time_ns[window_samples(run)]
    assert (sampled[0], sampled[-1]) == (10 * SECOND, 90 * SECOND)
    cut = replace(run, window_end_ns=run.window_end_ns - SECOND // 2)
    assert run.series.time_ns[window_samples(cut)][-1] == 90 * SECOND
