"""Laws of the stage groups that pricing offers."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from helixsim.placement.pricing import Pricer, Side
from helixsim.placement.stages import NodeGroup, segment_tokens_per_s

GROUPS = (
    NodeGroup("big", "east", ("a0", "a1", "a2"), (400.0, 200.0, 150.0, 100.0), (64, 32, 21, 16)),
    NodeGroup("small", "east", ("b0", "b1", "b2"), (120.0, 60.0), (32, 16)),
    NodeGroup("small", "west", ("c0", "c1", "c2"), (120.0, 60.0), (32, 16)),
)
SIDES = (Side((0, 1), 1e9), Side((2,), 90.0))


@given(
    flow=st.floats(50.0, 500.0),
    prices=st.lists(st.floats(0.1, 2.0), min_size=3, max_size=3),
    hops_count=st.booleans(),
)
def test_offers_carry_the_flow_at_their_cost(flow: float, prices: list[float], hops_count: bool) -> None:
    pricer = Pricer(GROUPS, flow, longest=4, grid=200)
    (offers,) = pricer.offers(np.array(prices), [SIDES], hops_count=hops_count, mixed=True)
    assert offers
    for offer in offers:
        carried = 0.0
        for segment, copies in offer.stage_group.segments:
            side = SIDES[1 if segment[0].group == 2 else 0]
            assert {node.group in side.groups for node in segment} == {True}
            assert sum(node.layers for node in segment) == offer.stage_group.layers
            carried += copies * min(side.limit_tokens_per_s, segment_tokens_per_s(GROUPS, segment))
        assert carried >= flow * (1 - 1e-9)
        cost = sum(prices[group] * count for group, count in offer.stage_group.members.items())
        assert offer.cost == pytest.approx(cost)


@given(prices=st.lists(st.floats(0.1, 2.0), min_size=3, max_size=3))
def test_mixed_offers_have_both_sides_and_cost_no_less(prices: list[float]) -> None:
    pricer = Pricer(GROUPS, 150.0, longest=4, grid=200)
    (plain,) = pricer.offers(np.array(prices), [SIDES])
    (offers,) = pricer.offers(np.array(prices), [SIDES], mixed=True)
    assert offers[: len(plain)] == plain
    mixed = offers[len(plain) :]
    assert [offer.stage_group.layers for offer in mixed] == [1, 2, 3, 4]
    cheapest = {offer.stage_group.layers: offer.cost for offer in plain}
    for offer in mixed:
        assert 2 in offer.stage_group.members
        assert {0, 1} & set(offer.stage_group.members)
        assert offer.cost >= cheapest[offer.stage_group.layers] - 1e-9
