"""GPU-hours of replicas that come and go, and the perfect autoscaler, against closed forms and enumeration."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from helixsim.domain.autoscaling import Pool, PoolStats
from helixsim.domain.autoscaling_figures import ScaledPoolFigures
from helixsim.metrics.autoscaling import edges_ns, fewest, mean_paid, rates_per_s
from helixsim.units import NS_PER_S


def pool_of(floor=1, ceiling=8, capacity=2.0, gpus=4):
    return ScaledPoolFigures(floor, ceiling, gpus, 1.0, 1, 0, 0.0, capacity)


@given(loads=st.lists(st.floats(0, 30), min_size=1, max_size=5), floor=st.integers(1, 3), capacity=st.floats(0.5, 4))
def test_one_pool_needs_its_load_over_the_capacity_rounded_up(loads, floor, capacity):
    gpus, served = fewest([pool_of(floor, 8, capacity)], [4], np.array(loads))
    wanted = [min(max(floor, math.ceil(load / capacity * (1 - 1e-9))), 8) for load in loads]
    assert gpus.tolist() == [4 * number for number in wanted]
    assert served == pytest.approx([number * capacity for number in wanted])


@given(
    load=st.floats(0, 25), capacities=st.tuples(st.floats(0.5, 5), st.floats(0.5, 5)),
    prices=st.tuples(st.floats(0.1, 9), st.floats(0.1, 9)),
)  # fmt: skip
def test_several_pools_are_as_good_as_the_best_of_all_choices(load, capacities, prices):
    pools = [pool_of(1, 3, capacities[0]), pool_of(1, 4, capacities[1])]
    (found,), _ = fewest(pools, prices, np.array([load]))
    choices = [
        (one * prices[0] + other * prices[1], one * capacities[0] + other * capacities[1])
        for one, other in product(range(1, 4), range(1, 5))
    ]
    serving = [price for price, most in choices if most >= load * (1 - 1e-9)]
    assert found == pytest.approx(min(serving) if serving else max(choices, key=lambda one: one[1])[0])


def test_a_pool_that_misses_the_objectives_or_is_not_used_leaves_the_others():
    loads = np.array([0.5, 3.0, 9.0])
    alone, _ = fewest([pool_of(1, 4)], [4], loads)
    for other in (pool_of(0, 3, 0.0), pool_of(0, 0, 0.0)):
        assert fewest([pool_of(1, 4), other], [4, 1], loads)[0].tolist() == alone.tolist()


def test_without_a_capacity_there_is_no_bound():
    assert fewest([pool_of(capacity=None)], [1], np.array([1.0])) is None


def test_paid_time_is_the_area_under_the_replicas_in_the_window(fakes):
    run = replace(fakes.queue_run().run, window_start_ns=10 * NS_PER_S, window_end_ns=30 * NS_PER_S)
    pool = Pool("a100", ("a", "b", "c"), 1, 3, 1, 1, 2.0)
    times = np.array([0, 12, 15, 22, 40]) * NS_PER_S
    stats = PoolStats(pool, times, np.array([1, 1, 2, 1, 3]), np.array([0, 1, 0, 0, 0]), np.array([0, 0, 0, 1, 0]), 1)
    assert mean_paid(stats, run) == pytest.approx((2 * 1 + 3 * 2 + 7 * 2 + 8 * 2) / 20)


def test_windows_cover_the_run_and_rates_count_each_request_once():
    edges = edges_ns(0, 100 * NS_PER_S, 30.0)
    assert (edges / NS_PER_S).tolist() == [0, 30, 60, 90, 100]
    times = np.array([-1, 0, 29, 30, 31, 95, 100]) * NS_PER_S
    assert rates_per_s(times, edges) @ np.diff(edges / NS_PER_S) == pytest.approx(6)
