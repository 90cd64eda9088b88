"""Rounds of the steps of a pipeline: closed forms without prompts, bounds with them, and what chunks conserve."""

from __future__ import annotations

from dataclasses import replace

import builders
import numpy as np
import pytest

from helixsim.domain.curves import Curve
from helixsim.domain.engine import EngineSpec
from helixsim.domain.placement import LayerRange
from helixsim.domain.step_time import StepTime
from helixsim.flow.station import OperatingLoad, Station
from helixsim.flow.steps_in_a_row import Wire, _chunks, rounds_s

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
    shape = (60, 200)
    whole = _chunks(LOAD, 160.0, 10**9, shape)
    room = float(whole.mean()) * 1.5
    cut = _chunks(LOAD, 160.0, 160.0 + room, shape)
    assert whole.max() > room >= cut.max()
    assert cut.mean() == pytest.approx(whole.mean(), rel=0.01)
    assert whole.mean() == pytest.approx(160 / 80 * 400, rel=0.03)
    assert (whole**2).mean() == pytest.approx((2 * 1.9 + 4) * 400**2, rel=0.1)  # of a compound Poisson variable
    uncut = replace(LOAD, engine=replace(ENGINE, chunks_prompts=False))
    assert np.array_equal(_chunks(uncut, 160.0, 200.0, shape), whole)
