"""The dip of the output rate behind a failure, in closed form, and requests that failed."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from helixsim.domain.clients import ClientStats
from helixsim.domain.fault_figures import FaultEvent, FaultFigures
from helixsim.domain.request import Slo
from helixsim.domain.result import RequestStatus
from helixsim.metrics.faults import RECOVERED, SPAN_S, dip_after, fault_text
from helixsim.metrics.objectives import objective_figures
from helixsim.metrics.throughput import throughput


def _dip(stop_s, low_rate, *, end_s=600.0, failure_s=100.0, rate=10.0):
    """Rate 10 until the failure, ``low_rate`` for ``stop_s``, then 10 again; samples every second."""
    times_s = np.arange(0.0, end_s + 1)
    rates = np.where((times_s[1:] > failure_s) & (times_s[1:] <= failure_s + stop_s), low_rate, rate)
    return dip_after(failure_s, times_s, np.append(0.0, np.cumsum(rates)))


def test_the_lowest_rate_and_the_recovery_are_those_of_the_moving_mean():
    dip = _dip(60.0, 0.0)
    assert dip.before_tokens_per_s == pytest.approx(10.0)
    assert dip.lowest_tokens_per_s == pytest.approx(0.0)
    # back at 90 %: all but a tenth of the mean lies behind the stop
    assert dip.recovery_s == pytest.approx(60.0 + RECOVERED * SPAN_S)
    assert dip.missing_tokens == pytest.approx(600.0)
    assert _dip(1000.0, 4.0).missing_tokens == pytest.approx(500.0 * 6.0)  # to the end of the window
    assert _dip(60.0, 9.5).missing_tokens == 0.0
    short = _dip(6.0, 0.0)
    assert short.lowest_tokens_per_s == pytest.approx(10.0 * (1 - 6.0 / SPAN_S))
    assert _dip(60.0, 9.5).recovery_s == 0.0
    assert _dip(1000.0, 0.0).recovery_s is None


def test_a_longer_stop_neither_raises_the_lowest_rate_nor_shortens_the_recovery():
    dips = [_dip(stop_s, 0.0) for stop_s in (0.0, 2.0, 10.0, 40.0, 200.0)]
    lowest = [dip.lowest_tokens_per_s for dip in dips]
    assert lowest == sorted(lowest, reverse=True)
    recoveries = [dip.recovery_s for dip in dips]
    assert recoveries == sorted(recoveries)


def test_failed_requests_count_as_missed_and_are_never_open(fakes):
    run = fakes.queue_run().run
    slo = Slo(ttft_s=1e6)
    before = throughput(run, slo)
    late = int(np.flatnonzero((run.requests.status == RequestStatus.FINISHED) & (run.requests.arrival_ns > 2e10))[0])
    status, finish = run.requests.status.copy(), run.requests.finish_ns.copy()
    status[late], finish[late] = RequestStatus.FAILED, -1
    after = throughput(replace(run, requests=replace(run.requests, status=status, finish_ns=finish)), slo)
    assert after.failed == before.failed + 1
    assert after.completed == before.completed - 1
    assert after.slo_attainment < before.slo_attainment
    assert after.undecided == before.undecided


def test_failed_requests_miss_each_objective(fakes):
    """Whatever they got before they failed: no verdict says that objectives are met while one in ten fails."""
    run = fakes.queue_run().run
    slo = Slo(ttft_s=1e6, tpot_s=1e6, e2el_s=1e6)
    assert all(one.within == 1.0 for one in objective_figures(run, slo).values())
    in_time = run.requests.arrival_ns > run.window_start_ns
    done = np.flatnonzero((run.requests.status == RequestStatus.FINISHED) & in_time)
    for first_ns in (run.requests.first_token_ns, np.full_like(run.requests.first_token_ns, -1)):
        status, finish = run.requests.status.copy(), run.requests.finish_ns.copy()
        tokens = run.requests.first_token_ns.copy()
        status[done[::10]], finish[done[::10]], tokens[done[::10]] = RequestStatus.FAILED, -1, first_ns[done[::10]]
        requests = replace(run.requests, status=status, finish_ns=finish, first_token_ns=tokens)
        found = objective_figures(replace(run, requests=requests), slo)
        assert set(found) == {"TTFT", "TPOT", "E2EL"}
        assert all(one.reached_s is None and one.within == pytest.approx(0.9, abs=0.02) for one in found.values())


def test_the_sentence_says_what_happened():
    event = FaultEvent(100.0, "down", "a b")
    figures = FaultFigures((event,), 7, 8, 8, 5000, 1, 2, 300.0, 120.0, 44.0)
    text = fault_text(figures)
    for part in ("1 failure;", "7 requests lost", "; 3 requests failed", "from 300 to 120", "recovered in 44"):
        assert part in text
    assert "did not recover" in fault_text(replace(figures, recovery_s=None))
    assert "did not fall" in fault_text(replace(figures, recovery_s=0.0))
    cut = replace(figures, events=(event, FaultEvent(130.0, "cut", "a – b"), FaultEvent(140.0, "mended", "a – b")))
    assert fault_text(cut).startswith("2 failures;")
    others = (FaultEvent(0.0, "not there yet", "c d"), FaultEvent(9.0, "slow", "a"), FaultEvent(20.0, "up", "c d"))
    unhurt = FaultFigures(others, 0, 0, 0, 0, 0, 0)
    assert fault_text(unhurt) == "1 slowdown; 2 joining nodes; 0 requests failed."
    clients = ClientStats(5, 4, 2)
    assert "gave up 5 times, sent 4 requests again and abandoned 2" in fault_text(replace(figures, clients=clients))
    assert fault_text(replace(figures, events=(), clients=clients)).startswith("clients gave up 5")
    assert fault_text(None) == fault_text(replace(figures, events=())) == ""
