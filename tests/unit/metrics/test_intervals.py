"""The one interval of independent values, and that everything with an interval uses it."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from helixsim.domain.request import Slo
from helixsim.metrics.compare import paired
from helixsim.metrics.objectives import Target
from helixsim.metrics.stats import batch_means, describe, interval_of_batches, t_interval
from helixsim.papers.helix.parts import over_seeds
from helixsim.planning.capacity import _found
from helixsim.report.rows import spread
from helixsim.results.sweep import SweepResults, mean_rows

# t(0.975, 3) = 3.1824 (printed tables); the sample deviation of 1, 2, 3, 4 is sqrt(5 / 3).
HALF = 3.182446 * math.sqrt(5 / 3) / math.sqrt(4)

samples = st.lists(st.floats(0.01, 1e6), min_size=2, max_size=12)


def test_it_is_students_interval() -> None:
    interval = t_interval([1.0, 2.0, 3.0, 4.0])
    assert interval is not None
    assert (interval.mean, interval.count) == (2.5, 4)
    assert interval.low == pytest.approx(2.5 - HALF)
    assert interval.high == pytest.approx(2.5 + HALF)
    assert t_interval([1.0]) is None
    assert t_interval([]) is None


def test_it_covers_the_mean_of_few_normal_values_as_often_as_it_claims() -> None:
    """Three values each: without Student's t, or without the root of their number, coverage is far off."""
    rng = np.random.default_rng(11)
    hits = 0
    for _ in range(4000):
        interval = t_interval(rng.normal(50.0, 1.0, 3))
        hits += interval.low <= 50.0 <= interval.high
    assert hits / 4000 == pytest.approx(0.95, abs=0.015)  # four standard deviations of a share of 4000


@given(samples, st.floats(0.1, 10), st.floats(0, 1e5))
@settings(max_examples=50, deadline=None)
def test_it_moves_and_stretches_with_its_values(values: list[float], factor: float, shift: float) -> None:
    interval = t_interval(values, floor=None)
    other = t_interval([factor * value + shift for value in values], floor=None)
    scale = 1e-9 * (max(values) * factor + shift + 1)
    assert other.mean == pytest.approx(factor * interval.mean + shift, abs=scale)
    assert other.half_width == pytest.approx(factor * interval.half_width, abs=1e3 * scale)


@given(samples)
@settings(max_examples=50, deadline=None)
def test_everything_with_an_interval_over_seeds_has_this_one(values: list[float]) -> None:
    interval = t_interval(values)
    assert interval.low >= 0
    estimate = over_seeds(values)
    assert (estimate.mean, estimate.low, estimate.high) == (interval.mean, interval.low, interval.high)
    rows = [
        {"point": 0, "system": "s", "saturation": "STABLE", "output_throughput": value, "seed": seed}
        for seed, value in enumerate(values)
    ]
    sweep = SweepResults(
        "x", None, (), tuple(range(len(rows))), "output_throughput", True, False, tuple(rows), (), None, Slo()
    )
    (row,) = mean_rows(sweep)
    assert [row[f"output_throughput{key}"] for key in ("", ".low", ".high")] == [
        interval.mean, interval.low, interval.high
    ]  # fmt: skip
    found = _found(Target("slo", Slo()), values, (), 0.02)
    assert (found.rate_rps, found.low_rps) == (pytest.approx(interval.mean), interval.low)
    assert found.high_rps == pytest.approx(interval.high * 1.02)  # and one step of the grid upwards
    if len(values) >= 5:
        assert interval_of_batches(np.array(values)) == interval


def test_an_interval_is_cut_where_the_quantity_ends_and_nowhere_else() -> None:
    wide = [0.0, 1.0, 5.0]
    cut, whole = t_interval(wide), t_interval(wide, floor=None)
    assert whole.low < 0 == cut.low
    assert cut.high == whole.high
    assert cut.half_width == whole.half_width  # what is computed further with is Student's
    assert t_interval([-1.0, 1.0], floor=None).low < 0


def test_differences_may_be_below_zero(fakes) -> None:
    """Half of the requests a millisecond earlier, half later: the interval of the difference lies around zero."""
    base = fakes.queue_run().run
    shift = np.where(np.random.default_rng(4).random(len(base.requests.finish_ns)) < 0.5, 1_000_000, -1_000_000)
    first = np.where(base.requests.first_token_ns >= 0, base.requests.first_token_ns + shift, -1)
    result = paired(replace(base, requests=replace(base.requests, first_token_ns=first)), base)
    low, high = result["ttft_difference_interval_ms"]
    assert -1 < low < 0 < high < 1


def test_cutting_loses_no_coverage() -> None:
    rng = np.random.default_rng(5)
    for _ in range(300):
        values = rng.exponential(1.0, 3)
        cut, whole = t_interval(values), t_interval(values, floor=None)
        assert (cut.low <= 1.0 <= cut.high) == (whole.low <= 1.0 <= whole.high)


def test_a_spread_is_shown_as_plus_minus_only_where_it_is_symmetric() -> None:
    assert spread(8.0, 12.0, str) == " ± 2.0"
    assert spread(0.0, 12.0, str) == " (0.0–12.0)"
    assert spread(None, None, str) == ""


def test_percentiles_of_a_run_of_known_ones() -> None:
    """0, 1, ... 1000: the q-th percentile is 10 q."""
    found = describe(np.random.default_rng(0).permutation(1001).astype(float))
    assert {q: found[f"p{q}"] for q in (50, 75, 90, 95, 99)} == {q: 10.0 * q for q in (50, 75, 90, 95, 99)}
    assert found["median"] == found["mean"] == 500.0


def test_batches_are_of_equal_size() -> None:
    means = batch_means(np.arange(60.0))
    assert np.diff(means) == pytest.approx(np.full(19, 3.0))
