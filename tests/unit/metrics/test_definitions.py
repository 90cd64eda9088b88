"""Every metric against a count over the list of all token times."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest

from helixsim.domain.request import FeedMode, Slo
from helixsim.domain.result import RequestStatus
from helixsim.metrics.energy_cost import cost_usd_per_mtok, energy_wh_per_mtok, mean_power_w
from helixsim.metrics.latency import latencies, latency_samples
from helixsim.metrics.saturation import Saturation, saturation
from helixsim.metrics.stationarity import stationarity
from helixsim.metrics.throughput import throughput
from helixsim.metrics.utilisation import utilisation
from helixsim.units import NS_PER_S

MS = 1e6


@pytest.fixture(scope="module", params=[0.0, 10.0], ids=["no warm-up", "warm-up"])
def fake(request, fakes):
    return fakes.queue_run(warmup_s=request.param)


def _inside(time_ns: int, run) -> bool:
    return (run.window_start_ns < time_ns or run.window_start_ns == 0) and time_ns <= run.window_end_ns


def test_ttft_counts_requests_by_their_first_token(fake) -> None:
    run = fake.run
    expected = sorted(
        times[0] - arrival
        for times, arrival in zip(fake.token_times_ns, run.requests.arrival_ns, strict=True)
        if len(times) and _inside(times[0], run)
    )
    assert sorted(latency_samples(run).ttft_ns) == expected


def test_tpot_and_e2el_count_requests_by_their_last_token(fake) -> None:
    run, requests = fake.run, fake.run.requests
    tpot, e2el, single = [], [], 0
    for times, arrival, status in zip(fake.token_times_ns, requests.arrival_ns, requests.status, strict=True):
        if status == RequestStatus.FINISHED and _inside(times[-1], run):
            e2el.append(times[-1] - arrival)
            if len(times) > 1:
                tpot.append((times[-1] - times[0]) / (len(times) - 1))
            else:
                single += 1
    samples = latency_samples(run)
    assert sorted(samples.tpot_ns) == pytest.approx(sorted(tpot))
    assert sorted(samples.e2el_ns) == pytest.approx(sorted(e2el))
    assert samples.tpot_excluded == single > 0


def test_itl_pools_the_gaps_of_all_requests(fake) -> None:
    run = fake.run
    gaps = [
        later - earlier for times in fake.token_times_ns for earlier, later in pairwise(times) if _inside(later, run)
    ]
    itl = latencies(run, latency_samples(run))["itl"]
    assert itl.mean_s == pytest.approx(np.mean(gaps) / NS_PER_S)
    half_bin_s = run.gaps.resolution_ns / 2 / NS_PER_S
    assert itl.p99_s == pytest.approx(np.percentile(gaps, 99) / NS_PER_S, abs=half_bin_s)


def test_output_tokens_are_the_tokens_delivered_inside_the_window(fake) -> None:
    run = fake.run
    delivered = sum(_inside(time, run) for times in fake.token_times_ns for time in times)
    counts = throughput(run, Slo())
    assert counts.output_tokens == delivered
    assert counts.rate(counts.output_tokens) * counts.duration_s == pytest.approx(delivered)


def test_goodput_counts_requests_that_meet_every_objective(fake) -> None:
    run, requests = fake.run, fake.run.requests
    slo = Slo(ttft_s=0.12, tpot_s=0.0305, e2el_s=1.5)
    good = 0
    for times, arrival, status in zip(fake.token_times_ns, requests.arrival_ns, requests.status, strict=True):
        if status != RequestStatus.FINISHED or not _inside(times[-1], run):
            continue
        tpot_ok = len(times) == 1 or (times[-1] - times[0]) / (len(times) - 1) <= 0.0305e9
        good += times[0] - arrival <= 0.12e9 and tpot_ok and times[-1] - arrival <= 1.5e9
    counts = throughput(run, slo)
    assert 0 < counts.good_requests == good < counts.completed
    overdue = undecided = 0
    for times, arrival, status in zip(fake.token_times_ns, requests.arrival_ns, requests.status, strict=True):
        if status != RequestStatus.REJECTED and (status != RequestStatus.FINISHED or times[-1] > run.window_end_ns):
            first = min([*times[:1], run.window_end_ns])
            has_missed = arrival + 0.12e9 < first or arrival + 1.5e9 < run.window_end_ns
            overdue, undecided = overdue + has_missed, undecided + (not has_missed)
    assert overdue > 0
    assert (counts.overdue, counts.undecided) == (overdue, undecided)
    assert counts.slo_attainment == pytest.approx(good / (counts.completed + counts.failed + overdue))


def test_stricter_objectives_never_raise_goodput(fake) -> None:
    limits = (10.0, 0.5, 0.1, 0.01)
    goods = [throughput(fake.run, Slo(ttft_s=limit)).good_requests for limit in limits]
    assert goods == sorted(goods, reverse=True)
    assert throughput(fake.run, Slo()).good_requests is None


def test_windows_that_meet_share_nothing_and_miss_nothing(fakes) -> None:
    whole = fakes.queue_run(warmup_s=0.0).run
    middle = 40 * 10**9
    parts = [replace(whole, window_end_ns=middle), replace(whole, window_start_ns=middle)]
    for field in ("arrived", "completed", "failed", "prompt_tokens", "output_tokens"):
        assert sum(getattr(throughput(part, Slo()), field) for part in parts) == getattr(
            throughput(whole, Slo()), field
        )


def test_an_open_end_counts_up_to_the_last_token(fakes) -> None:
    fake = fakes.queue_run(warmup_s=0.0, count=40, until_s=90.0)
    last = int(fake.run.requests.finish_ns.max())
    run = replace(fake.run, window_end_ns=last)
    assert throughput(run, Slo()).output_tokens == sum(map(len, fake.token_times_ns))


def test_an_empty_window_has_no_rates(fakes) -> None:
    run = fakes.queue_run().run
    counts = throughput(replace(run, window_end_ns=run.window_start_ns), Slo(ttft_s=1))
    assert counts.completed == counts.output_tokens == 0
    assert np.isnan(counts.rate(counts.completed))
    assert np.isnan(counts.slo_attainment)


def test_a_queue_below_capacity_is_stable_and_steady(fakes) -> None:
    run = fakes.queue_run(rate_rps=4.0, prefill_ms=100.0).run
    assert saturation(run) is Saturation.STABLE
    assert stationarity(run) == "steady"


def test_a_queue_above_capacity_is_overloaded_and_drifts(fakes) -> None:
    run = fakes.queue_run(rate_rps=12.0, prefill_ms=100.0, count=1500).run
    assert saturation(run) is Saturation.OVERLOADED
    verdict = stationarity(run)
    assert verdict.startswith("not steady: ")
    assert "mean TTFT rose" in verdict


def test_a_standing_queue_is_backlogged(fakes) -> None:
    run = fakes.queue_run().run
    standing = replace(run.series, waiting=np.full_like(run.series.waiting, 50))
    assert saturation(replace(run, series=standing)) is Saturation.BACKLOGGED
    assert saturation(replace(run, mode=FeedMode.SATURATE)) is Saturation.BACKLOGGED


def test_a_short_window_is_not_called_steady(fakes) -> None:
    run = fakes.queue_run().run
    assert stationarity(replace(run, window_end_ns=run.window_start_ns + 3 * 10**9)).startswith("unknown: ")


def test_busy_shares_are_those_of_the_window_and_idle_nodes_count(fakes) -> None:
    run, fleet = fakes.queue_run().run, fakes.fleet()
    used = utilisation(run, fleet)
    assert used.busy_share == pytest.approx(np.linspace(0.3, 0.9, 5), rel=1e-6)
    assert used.by_node_type["a100"] == pytest.approx(used.busy_share[:2].mean())
    assert used.by_node_type["t4x2"] == pytest.approx(used.busy_share[2:].sum() / 4)
    assert (used.kv_peak >= 0).all()
    assert (used.kv_peak <= 1).all()


def test_cost_and_energy_follow_from_the_fleet(fakes) -> None:
    fleet = fakes.fleet(fast=1, slow=0)
    # One node at 2 $/h delivering 1e6 / 3600 tokens/s makes a million tokens an hour.
    assert cost_usd_per_mtok(2.0, 1e6 / 3600) == pytest.approx(2.0)
    assert mean_power_w(fleet, {"a100-0": 1.0}) == pytest.approx(400.0)
    assert mean_power_w(fleet, {}) == pytest.approx(120.0)
    assert energy_wh_per_mtok(400.0, 1e6 / 3600) == pytest.approx(400.0)
    assert np.isnan(cost_usd_per_mtok(2.0, 0.0))
    assert np.isnan(energy_wh_per_mtok(400.0, 0.0))
