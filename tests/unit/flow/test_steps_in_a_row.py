"""Rounds of the steps of a pipeline: closed forms without prompts, bounds with them, and what chunks conserve."""

from __future__ import annotations

from dataclasses import replace

import builders
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from helixsim.domain.curves import Curve
from helixsim.domain.engine import EngineSpec
from helixsim.domain.placement import LayerRange
from helixsim.domain.step_time import StepTime
from helixsim.flow.station import OperatingLoad, Station
from helixsim.flow.steps_in_a_row import Wire, _arriving, _chunks, _Row, rounds_s

ENGINE = EngineSpec(shares_weight_reads=True, loops_inside=True, chunks_prompts=True)
LOAD = OperatingLoad(400.0, 80.0, kv_share=1.0, expected_output_tokens=80.0, engine=ENGINE, prompt_spread=1.9)
ENDLESS = replace(LOAD, mean_output_tokens=1e12)
"""No sequence ends, so no prompt comes."""


def station(layers: int = 2, load: OperatingLoad = LOAD) -> Station:
    """A layer takes 1 ms, and 10 us for each token beyond the first hundred or so."""
    work = Curve((0.0, 100.0, 10_000.0), (1e6, 1e6, 100e6))
    kind = builders.profile("n", layers, kv_blocks=(10**5,) * layers)
    kind = replace(kind, compute=replace(kind.compute, prefill=work, decode=work, token_work=work))
    time = StepTime(kind.compute, load.engine, LayerRange(0, layers), layers)
    return Station(kind, layers, 16 * 10**5, load, time)


@pytest.mark.parametrize("layers", [(2,), (2, 2, 2), (1, 3, 2), (4, 1)])
@pytest.mark.parametrize("wire", [Wire(0.0, 0.0), Wire(0.0, 1e-3), Wire(2e-4, 1e-4)])
def test_without_prompts_the_slowest_station_or_the_whole_way_sets_the_round(
    layers: tuple[int, ...], wire: Wire
) -> None:
    stations = [station(count, ENDLESS) for count in layers]
    stages = len(layers)
    return_s = 5e-3 if stages > 1 else 0.0
    found = rounds_s(stations, [wire] * (stages - 1), return_s, ENDLESS, [1.0, 8.0 * stages])
    steps_s = [1e-3 * count for count in layers]
    for round_s, each, in_flight in zip(found, (1, 8), (1, stages), strict=True):
        wire_s = wire.token_s * each
        whole_s = sum(steps_s) + (stages - 1) * (wire_s + wire.fixed_s) + return_s
        assert round_s == pytest.approx(max(whole_s, in_flight * max(*steps_s, wire_s)))


def test_a_round_is_no_shorter_than_its_own_way_nor_than_the_work_of_any_stage() -> None:
    layers = (2, 3, 2, 1)
    stations = [station(count) for count in layers]
    wires = [Wire(1e-6, 2e-4)] * 3
    few, some, many = rounds_s(stations, wires, 2e-4, LOAD, [1.0, 40.0, 200.0])
    assert few < some < many
    for running, round_s in ((40.0, some), (200.0, many)):
        alone_s = [rounds_s([one], [], 0.0, LOAD, [running / 4])[0] for one in stations]
        assert round_s > 4 * max(alone_s)
        assert round_s > sum(alone_s)
        assert round_s < 4 * sum(alone_s)  # one step at a time


def test_the_mean_of_steps_of_one_stage_counts_each_prompt_once() -> None:
    """Beyond a hundred tokens the time of a step is a straight line: the mean step has the mean tokens."""
    running = 150.0
    tokens = running * (1 + LOAD.mean_prompt_tokens / LOAD.mean_output_tokens)
    (round_s,) = rounds_s([station()], [], 0.0, LOAD, [running])
    assert round_s == pytest.approx(2e-3 + 2 * (tokens - 100) * 1e-5, rel=0.03)


def test_chunks_stay_within_the_budget_and_lose_no_token() -> None:
    one = np.full((1, 1), 160.0)
    whole, none = _chunks(LOAD, one, one, 10**9, 60, 200)
    room = float(whole.mean()) * 1.5
    cut, left = _chunks(LOAD, one, one, 160.0 + room, 60, 200)
    assert whole.max() > room >= cut.max()
    assert cut.mean() == pytest.approx(whole.mean(), rel=0.01)
    assert left > none == 0.0
    assert whole.mean() == pytest.approx(160 / 80 * 400, rel=0.03)
    assert (whole**2).mean() == pytest.approx((2 * 1.9 + 4) * 400**2, rel=0.1)  # of a compound Poisson variable
    uncut = replace(LOAD, engine=replace(ENGINE, chunks_prompts=False))
    assert np.array_equal(_chunks(uncut, one, one, 200.0, 60, 200)[0], whole)


def test_what_a_group_leaves_is_computed_in_the_turn_of_the_next() -> None:
    """Of 1 500 tokens that come at the turn of the first group half have room; of the other group no sequence ends."""
    decodes, joining = np.array([[100.0], [100.0]]), np.array([[300.0], [0.0]])
    chunks, left = _chunks(LOAD, decodes, joining, 100.0 + 750.0, 60, 200)
    turns = chunks.mean(axis=2).reshape(60, 2).mean(axis=0)
    assert turns.sum() == pytest.approx(1500, rel=0.05)
    assert turns[0] <= 750
    assert left[0, 0] == pytest.approx(turns[1] + left[1, 0], rel=0.01)


@given(st.data())
def test_requests_join_the_group_whose_turn_is_next_when_they_arrive(data: st.DataObject) -> None:
    groups = data.draw(st.integers(2, 5))
    turns = sorted(data.draw(st.sets(st.integers(0, 99), min_size=groups, max_size=groups)))
    sizes = data.draw(st.lists(st.integers(1, 50), min_size=groups, max_size=groups))
    delay = data.draw(st.integers(0, 450)) + 0.5
    ended = np.array([100.0 * number + turn for number in range(12) for turn in turns])
    found = _arriving(ended[:, None, None], np.array(sizes, dtype=float)[:, None], delay)[:, 0]
    expected = [0] * groups
    for turn, size in zip(turns, sizes, strict=True):
        at = (turn + delay) % 100
        expected[next((group for group, other in enumerate(turns) if other >= at), 0)] += size
    assert found == pytest.approx(expected)


def test_requests_from_afar_gather_in_one_group_until_its_prompts_have_no_room() -> None:
    """A turn takes 50 ms. Requests that come before the next one, or to steps of equal length, change nothing."""
    stations, wires = [station() for _ in range(3)], [Wire(0.0, 0.0)] * 2

    def round_s(delay_s: float, load: OperatingLoad = LOAD, requests: float = 900.0) -> float:
        return rounds_s(stations, wires, 0.0, load, [requests], delay_s)[0]

    near_s = round_s(0.0)
    assert round_s(1e-3) == near_s
    assert round_s(5e-3) == pytest.approx(near_s, rel=0.02)
    far_s = round_s(0.08)
    assert far_s > 1.3 * near_s
    alone_s = sum(rounds_s([one], [], 0.0, LOAD, [900.0])[0] for one in stations)
    assert far_s < alone_s
    assert round_s(0.08, ENDLESS, 90.0) == pytest.approx(round_s(0.0, ENDLESS, 90.0))
    seldom = replace(LOAD, mean_prompt_tokens=3000.0, mean_output_tokens=200.0)
    assert round_s(0.02, seldom, 30.0) >= round_s(0.0, seldom, 30.0)


def test_no_group_grows_beyond_the_prompts_that_its_turn_can_compute() -> None:
    """A sequence takes one token of the budget of 4 096, and 400 / 80 more for the one that follows it."""
    stations = [station() for _ in range(3)]
    of_groups, of_turns = _Row(stations, [Wire(0.0, 0.0)] * 2, 0.0, LOAD, 3)._settled_groups(900.0, 0.08)
    most = stations[0].token_budget / (1 + LOAD.mean_prompt_tokens / LOAD.mean_output_tokens) / 300
    assert 0.9 * most < of_groups.max() < 1.02 * most
    assert of_turns.max() > 1.2 * most
    assert of_groups.sum() == pytest.approx(3)
    assert of_turns.sum() == pytest.approx(3)
