"""The split of a load over pipelines at which tokens take the least time."""

from __future__ import annotations

from dataclasses import replace

import builders
import pytest

from helixsim.domain.cluster import Deployment
from helixsim.domain.placement import Placement
from helixsim.flow.latency_split import FULLEST, SEGMENTS, latency_split, shares_of
from helixsim.flow.operating import operating_point
from helixsim.flow.station import OperatingLoad

LOAD = OperatingLoad(mean_prompt_tokens=50.0, mean_output_tokens=50.0, kv_share=0.9, expected_output_tokens=50.0)


def unlike() -> tuple[Deployment, Placement]:
    """A fast node, two equal slower ones, and a slow one, each with all layers."""
    fast = builders.profile("fast", 2, kv_blocks=(800, 400), decode_ns=1e6, prefill_ns_per_token=1e5)
    middle = builders.profile("middle", 2, kv_blocks=(800, 400), decode_ns=1.6e6, prefill_ns_per_token=1.6e5)
    slow = builders.profile("slow", 2, kv_blocks=(800, 400), decode_ns=9e6, prefill_ns_per_token=9e5)
    fleet = builders.fleet([fast, middle, middle, slow], num_layers=2)
    placement = builders.placement_of(fleet, dict.fromkeys(fleet.cluster.index, (0, 2)))
    return fleet, replace(placement, pipelines={node: at for at, node in enumerate(placement.ranges)})


def parts(fleet: Deployment, placement: Placement) -> list[Placement]:
    return [replace(placement, ranges={node: held}, pipelines={}) for node, held in placement.ranges.items()]


def time_s(fleet: Deployment, placement: Placement, split: list[float]) -> float:
    """Return the time of all tokens of a second."""
    return sum(
        served * operating_point(fleet, part, LOAD, offered_output_per_s=served).offered_round_trip_s
        for served, part in zip(split, parts(fleet, placement), strict=True)
        if served
    )


@pytest.mark.parametrize("share", [0.05, 0.4, 0.9])
def test_no_part_of_the_load_would_take_less_time_elsewhere(share: float) -> None:
    fleet, placement = unlike()
    capacities = [operating_point(fleet, part, LOAD).output_tokens_per_s for part in parts(fleet, placement)]
    offered = share * FULLEST * sum(capacities)
    found = list(latency_split(fleet, placement, LOAD, offered).values())
    assert sum(found) == pytest.approx(offered)
    assert found[1] == pytest.approx(found[2])
    assert found[0] >= found[1] >= found[3] >= 0
    spent_s = time_s(fleet, placement, found)
    # Pieces are linear, so that a move of less than one may win a little.
    moved = sum(capacities) / SEGMENTS / 4
    for source in range(4):
        for target in range(4):
            other = list(found)
            other[source] -= moved
            other[target] += moved
            if source != target and other[source] >= 0 and other[target] <= FULLEST * capacities[target]:
                assert time_s(fleet, placement, other) > 0.97 * spent_s
    in_proportion = [offered * one / sum(capacities) for one in capacities]
    assert spent_s < time_s(fleet, placement, in_proportion)


def test_light_loads_take_the_fastest_and_too_large_ones_fill_all() -> None:
    fleet, placement = unlike()
    capacities = [operating_point(fleet, part, LOAD).output_tokens_per_s for part in parts(fleet, placement)]
    light = latency_split(fleet, placement, LOAD, 0.01 * capacities[0])
    assert light == {0: pytest.approx(0.01 * capacities[0]), 1: 0.0, 2: 0.0, 3: 0.0}
    full = latency_split(fleet, placement, LOAD, 10 * sum(capacities))
    assert list(full.values()) == pytest.approx([FULLEST * one for one in capacities])


def test_first_nodes_share_the_part_of_their_pipeline_by_flow() -> None:
    placement = Placement("p", 2, {}, pipelines={"a": 0, "b": 0, "c": 1, "d": 1})
    found = shares_of(placement, {"a": 3.0, "b": 1.0, "c": 5.0, "d": 0.0}, {0: 8.0, 1: 2.0})
    assert found == {"a": 6.0, "b": 2.0, "c": 2.0}
