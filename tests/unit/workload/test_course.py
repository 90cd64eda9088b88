"""Loads over time: the integral of a course and its inverse, and what arrives under it."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from helixsim.domain.request import Window
from helixsim.errors import ConfigError
from helixsim.units import NS_PER_S, seconds_to_ns
from helixsim.workload.arrivals import process_of
from helixsim.workload.course import Warp, diurnal, of_counts
from helixsim.workload.feed import make_feed, workload_stats
from helixsim.workload.spec import (
    ArrivalsSpec,
    Corner,
    Course,
    LengthLimits,
    LengthsSpec,
    TraceCourse,
    TraceSpec,
    WorkloadSpec,
)

DAY_S = 86_400.0
SAMPLE = Path(__file__).parents[3] / "traces" / "azure-2023.csv"

courses = st.builds(
    lambda gaps, factors, period: Course(
        tuple(Corner(at, factor) for at, factor in zip(np.cumsum([0.0, *gaps]), factors, strict=False)),
        float(sum(gaps)) + 5.0 if period else None,
    ),
    st.lists(st.floats(0, 50), min_size=3, max_size=3),
    st.lists(st.floats(0.1, 5), min_size=4, max_size=4),
    st.booleans(),
)


@given(course=courses, sums=st.lists(st.floats(0, 1e4), min_size=1, max_size=20))
@example(course=Course((Corner(0.0, 1.0), Corner(2.3e-309, 2.0)), None), sums=[0.0, 1.0])
def test_the_inverse_of_the_integral_is_its_inverse(course, sums):
    warp = Warp(course)
    times = warp.times_s(np.sort(np.array(sums)))
    assert (np.diff(times) >= -1e-9 * times[-1]).all()
    assert [warp.integral_s(float(at)) for at in times] == pytest.approx(sorted(sums), rel=1e-6, abs=1e-6)


def test_a_day_has_its_mean_its_peak_and_its_trough_where_they_are_stated():
    warp = Warp(diurnal(0.6, 14 * 3600, DAY_S))
    assert warp.period_sum_s == pytest.approx(DAY_S)
    assert warp.integral_s(2.5 * DAY_S) == pytest.approx(2 * DAY_S + warp.integral_s(0.5 * DAY_S))
    hours = [warp.integral_s(3600.0 * (hour + 0.5)) - warp.integral_s(3600.0 * (hour - 0.5)) for hour in range(1, 24)]
    assert hours[13] == max(hours) == pytest.approx(1.6 * 3600, rel=0.01)
    assert hours[1] == min(hours) == pytest.approx(0.4 * 3600, rel=0.02)


def load(arrivals, duration_s=None, trace=None):
    window = Window(0, None if duration_s is None else seconds_to_ns(duration_s), drain=True)
    lengths = LengthsSpec("fixed", (("prompt_tokens", 10), ("output_tokens", 5))) if trace is None else None
    return WorkloadSpec(trace, lengths, arrivals, LengthLimits(), window)


def arrivals_s(spec, seed=0):
    return np.array([request.arrival_ns for request in make_feed(spec, seed, 1).requests]) / NS_PER_S


RAMP = Course((Corner(0, 0), Corner(100, 1), Corner(100, 3), Corner(200, 3), Corner(200, 0)))


def test_a_ramp_is_followed_and_zero_ends_the_load():
    """Equal gaps become those of the rate: quadratic on the ramp, then three times as dense, then none."""
    times = arrivals_s(load(ArrivalsSpec("constant", rate_rps=2.0, over_time=RAMP, num_requests=10_000)))
    assert len(times) == pytest.approx(2.0 * (50 + 300), abs=2)
    on_ramp = times[times < 100]
    assert on_ramp == pytest.approx(np.sqrt(2 * 100 * np.arange(len(on_ramp)) / 2.0), abs=1e-6)
    assert np.diff(times[times > 101]) == pytest.approx(1 / 6)
    assert times[-1] <= 200


@pytest.mark.parametrize("process", ["poisson", "gamma", "bursty"])
def test_counts_follow_the_course_under_every_process(process):
    course = diurnal(0.8, 0.0, 1000.0)
    spec = load(ArrivalsSpec(process, rate_rps=20.0, burstiness=0.5 if process == "gamma" else 1.0, over_time=course),
                20_000.0)  # fmt: skip
    times = arrivals_s(spec)
    assert workload_stats(spec, 0).offered_rps == pytest.approx(20.0)
    share = ((times % 1000 < 250) | (times % 1000 >= 750)).mean()  # the half of the period around the peak
    assert share == pytest.approx(0.5 + 0.8 / np.pi, abs=0.02)


def test_the_mean_rate_of_a_finite_load_is_its_number_over_its_time():
    spec = load(ArrivalsSpec("constant", rate_rps=2.0, over_time=RAMP, num_requests=400))
    assert workload_stats(spec, 0).offered_rps == pytest.approx(400 / arrivals_s(spec)[-1], rel=0.01)


def test_the_course_of_a_trace_has_its_counts():
    times = np.array([0, 1, 2, 3, 10, 11, 15, 19]) * NS_PER_S
    warp = Warp(of_counts(times, 4, 100.0))
    parts = [high - low for low, high in pairwise(warp.integral_s(at) for at in (0, 25, 50, 75, 100))]
    assert parts == pytest.approx([50, 0, 25, 25])
    trace = TraceSpec("azure", SAMPLE)
    spec = load(ArrivalsSpec("poisson", rate_rps=3.0, over_time=TraceCourse(600.0, 10)), 600.0, trace)
    assert workload_stats(spec, 0).offered_rps == pytest.approx(3.0)
    recorded = arrivals_s(load(ArrivalsSpec("trace"), trace=trace))
    drawn, known = (np.histogram(one / one.max(), 10, (0, 1))[0] for one in (arrivals_s(spec), recorded))
    assert np.corrcoef(drawn, known)[0, 1] > 0.7


def test_a_stretched_trace_keeps_its_shape():
    trace = TraceSpec("azure", SAMPLE)
    recorded = arrivals_s(load(ArrivalsSpec("trace"), trace=trace))
    stretched = arrivals_s(load(ArrivalsSpec("trace"), trace=replace(trace, stretch_s=DAY_S)))
    assert stretched == pytest.approx(recorded * (DAY_S * (len(recorded) - 1) / len(recorded) / recorded[-1]))


def test_processes_without_generated_times_refuse_a_course():
    with pytest.raises(ConfigError, match="trace does not use it"):
        process_of(ArrivalsSpec("trace", over_time=RAMP))
