"""Percentiles and intervals against numpy, textbook values and simulation."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from helixsim.metrics.stats import (
    batch_means,
    batch_rates,
    describe,
    describe_histogram,
    histogram_percentile,
    interval_of_batches,
    student_t_cdf,
    student_t_quantile,
)


@pytest.mark.parametrize(
    ("probability", "degrees", "expected"),
    [
        (0.975, 1, 12.706),
        (0.975, 2, 4.303),
        (0.975, 9, 2.262),
        (0.975, 19, 2.093),
        (0.995, 18, 2.878),
        (0.95, 30, 1.697),
    ],
)
def test_student_t_quantiles_match_printed_tables(probability: float, degrees: int, expected: float) -> None:
    assert student_t_quantile(probability, degrees) == pytest.approx(expected, abs=6e-4)


@given(st.floats(-30, 30), st.integers(1, 60))
@settings(max_examples=60, deadline=None)
def test_student_t_cdf_is_a_symmetric_distribution_function(t: float, degrees: int) -> None:
    assert student_t_cdf(t, degrees) + student_t_cdf(-t, degrees) == pytest.approx(1)
    assert student_t_cdf(t, degrees) <= student_t_cdf(t + 0.5, degrees) + 1e-12 <= 1 + 2e-12


def test_student_t_with_one_degree_is_the_cauchy_distribution() -> None:
    assert student_t_cdf(1.7, 1) == pytest.approx(0.5 + math.atan(1.7) / math.pi)


def test_intervals_of_independent_data_cover_the_mean_as_often_as_they_claim() -> None:
    rng = np.random.default_rng(7)
    repetitions, covered = 600, 0
    for _ in range(repetitions):
        interval = interval_of_batches(batch_means(rng.exponential(3.0, 200)))
        covered += interval.low <= 3.0 <= interval.high
    # Binomial with p = 0.95: four standard deviations are 0.036; skewed data cost a little more.
    assert 0.90 <= covered / repetitions <= 0.99


def test_batches_widen_the_interval_of_correlated_data() -> None:
    rng = np.random.default_rng(3)
    noise = rng.normal(size=4000)
    correlated = np.convolve(noise, 0.95 ** np.arange(200), mode="same")
    interval = interval_of_batches(batch_means(correlated))
    naive_half_width = 1.96 * correlated.std() / math.sqrt(correlated.size)
    assert interval.half_width > 3 * naive_half_width


def test_too_few_batches_give_no_interval() -> None:
    assert interval_of_batches(batch_means(np.arange(9.0))) is None
    assert batch_means(np.empty(0)).size == 0


def test_batch_means_average_to_the_mean_and_keep_order() -> None:
    values = np.arange(200.0)
    means = batch_means(values)
    assert len(means) == 20
    assert means.mean() == pytest.approx(values.mean())
    assert (np.diff(means) > 0).all()


def test_batch_rates_of_a_constant_stream_are_that_rate() -> None:
    times = np.arange(0, 101) * 10**9
    assert batch_rates(times, np.arange(0, 101) * 7) == pytest.approx(np.full(20, 7.0))
    assert len(batch_rates(times[:4], np.arange(4))) == 3
    assert batch_rates(times[:1], np.array([5])).size == 0


@given(st.lists(st.integers(0, 5_000_000), min_size=1, max_size=300), st.floats(0, 100))
@settings(max_examples=80, deadline=None)
def test_histogram_percentiles_are_within_half_a_bin(fakes, gaps: list[int], q: float) -> None:
    resolution = 10_000
    histogram = fakes.histogram(np.array(gaps), resolution)
    assert abs(histogram_percentile(histogram, q) - np.percentile(gaps, q)) <= resolution / 2 + 1e-3


def test_histogram_mean_and_std_are_exact(fakes) -> None:
    gaps = np.random.default_rng(0).integers(1, 80_000_000, 1000)
    described = describe_histogram(fakes.histogram(gaps, 1_000_000))
    assert described["mean"] == pytest.approx(gaps.mean())
    assert described["std"] == pytest.approx(gaps.std())


def test_nothing_to_describe_gives_nan_everywhere(fakes) -> None:
    empty = describe(np.empty(0))
    assert all(math.isnan(value) for value in empty.values())
    described = describe_histogram(fakes.histogram(np.empty(0, dtype=np.int64), 10))
    assert described.keys() == empty.keys()
    assert all(math.isnan(value) for value in described.values())
