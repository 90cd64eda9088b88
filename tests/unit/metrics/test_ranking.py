"""Orders of systems in view of the model error, and capacities with slower steps."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from helixsim.domain.figures import GpuShare, SettingFigures
from helixsim.domain.request import FeedMode
from helixsim.metrics.model_error import shipped_table
from helixsim.metrics.ranking import RANKED, follows_load, shares_ahead
from helixsim.metrics.slowdown import NO_SLACK, SlackCurve

SETTING = SettingFigures((GpuShare("h100", 4, 1.0),), "vllm-1", "dense", "fp8", ("roofline",), 1.0, 16.0, 3000.0)


@pytest.fixture
def summary(fake_runs):
    one = fake_runs["helix"].summary
    return replace(one, load=replace(one.load, feed=FeedMode.CLOSED_LOOP), setting=SETTING)


def faster(summary, factor: float):
    tpot, ttft = (replace(one, mean_s=one.mean_s / factor) for one in (summary.tpot, summary.ttft))
    served = replace(summary.throughput, output_tokens_per_s=summary.throughput.output_tokens_per_s * factor)
    return replace(summary, tpot=tpot, ttft=ttft, throughput=served)


def test_equal_systems_are_a_tie(summary) -> None:
    assert set(shares_ahead(summary, summary).values()) == {0.5}


def test_the_error_of_the_same_setting_cancels(summary) -> None:
    assert set(shares_ahead(faster(summary, 1.01), summary).values()) == {1.0}
    assert set(shares_ahead(summary, faster(summary, 1.01)).values()) == {0.0}


@given(factor=st.floats(0.5, 2), gpus=st.permutations(["h100", "l4", "mi300x"]), batch=st.floats(0, 300))
def test_who_is_ahead_is_not_behind_and_further_ahead_is_surer(fake_runs, factor, gpus, batch) -> None:
    base = fake_runs["helix"].summary
    base = replace(base, load=replace(base.load, feed=FeedMode.CLOSED_LOOP), setting=SETTING)
    other = replace(SETTING, nodes=(GpuShare(gpus[0], 4, 0.5), GpuShare(gpus[1], 1, 0.5)), batch=batch)
    one = replace(faster(base, factor), setting=other)
    ahead, behind, surer = shares_ahead(one, base), shares_ahead(base, one), shares_ahead(faster(one, 1.2), base)
    for ranked in RANKED:
        assert ahead[ranked.key] + behind[ranked.key] == pytest.approx(1.0)
        assert surer[ranked.key] > ahead[ranked.key] or surer[ranked.key] == 1.0


def test_two_unmeasured_gpus_share_less_of_their_error_than_one_with_itself() -> None:
    l4, t4 = (
        shipped_table().estimate(replace(SETTING, nodes=(GpuShare(gpu, 1, 1.0),))).basis["tpot"] for gpu in ("l4", "t4")
    )
    assert l4.covariance(t4) < l4.covariance(l4)


def test_throughput_that_follows_the_load_has_no_model_error(summary) -> None:
    stable = replace(summary, load=replace(summary.load, feed=FeedMode.OPEN, saturation="STABLE"))
    assert follows_load(stable)
    assert shares_ahead(stable, stable)["output_throughput"] is None
    slower = replace(faster(summary, 0.9), load=replace(summary.load, feed=FeedMode.OPEN, saturation="OVERLOADED"))
    assert not follows_load(slower)
    assert 0.0 < shares_ahead(stable, slower)["output_throughput"] < 1.0


def test_without_a_setting_nothing_is_ranked(summary) -> None:
    assert set(shares_ahead(replace(summary, setting=None), summary).values()) == {None}


CURVE = SlackCurve(((2.0, 3.0), (4.0, 1.5), (5.0, 1.1)))


@pytest.mark.parametrize(("factor", "rate"), [
    (1.0, 5.0), (0.5, 10.0), (1.1, 5.0 / 1.1), (1.3, 4.5 / 1.3), (1.5, 4.0 / 1.5), (2.25, 3.0 / 2.25), (3.0, 2.0 / 3.0),
])  # fmt: skip
def test_slower_steps_leave_the_rate_with_that_much_slack_over_the_factor(factor, rate) -> None:
    assert 5.0 * CURVE.share_left(factor) == pytest.approx(rate)


@given(st.floats(0.1, 1.9), st.floats(3.5, 50))
def test_a_load_met_with_much_slack_is_served_with_slow_steps(rate, slack) -> None:
    """Without the simulation of the load itself, steps much slower than simulated leave nothing that is known."""
    error, wide = shipped_table().estimate(SETTING), CURVE.and_at(rate, slack)
    assert CURVE.share_left(slack) is None
    assert wide.share_left(slack) * 5.0 == pytest.approx(rate / slack)
    for needed in (0.01, rate / slack):
        assert wide.share_serving(5.0, error, needed) >= CURVE.share_serving(5.0, error, needed)
    assert CURVE.and_at(2.5, slack) == CURVE.and_at(math.nan, slack) == CURVE.and_at(rate, math.nan) == CURVE
    assert NO_SLACK.and_at(rate, slack) == NO_SLACK


def test_a_slack_that_no_simulation_has_leaves_the_capacity_unknown() -> None:
    assert CURVE.share_left(3.1) is None
    assert NO_SLACK.share_left(1.0) is None
    error = shipped_table().estimate(SETTING)
    assert NO_SLACK.band(5.0, error) is None
    assert CURVE.band(5.0, None) is None


@given(st.floats(0.1, 3), st.floats(1, 2))
def test_capacity_falls_with_the_time_of_steps(factor, more) -> None:
    less = CURVE.share_left(factor * more)
    assert less is None or less <= CURVE.share_left(factor) + 1e-12


def test_a_band_of_capacity_serves_its_low_end_in_nine_of_ten_draws() -> None:
    error = shipped_table().estimate(SETTING)
    curve = SlackCurve(((0.5, 50.0), (5.0, 1.0)))
    low, high = curve.band(7.0, error)
    assert low < high
    assert curve.share_serving(7.0, error, low) == pytest.approx(0.9, abs=1e-6)
    assert curve.share_serving(7.0, error, high) == pytest.approx(0.1, abs=1e-6)
    assert curve.share_serving(7.0, error, 1e-9) == pytest.approx(1.0, abs=1e-6)
    assert math.isclose(curve.share_serving(7.0, error, 1e9), 0.0, abs_tol=1e-6)
