"""Laws of the blocks that pricing offers."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from helixsim.placement.pricing import Pricer, Request
from helixsim.placement.stages import Group

GROUPS = (
    Group("big", "east", ("a0", "a1", "a2"), (400.0, 200.0, 150.0, 100.0), (64, 32, 21, 16)),
    Group("small", "east", ("b0", "b1", "b2"), (120.0, 60.0), (32, 16)),
    Group("small", "west", ("c0", "c1", "c2"), (120.0, 60.0), (32, 16)),
)
SIDES = (((0, 1), 1e9), ((2,), 90.0))


@given(
    flow=st.floats(50.0, 500.0),
    prices=st.lists(st.floats(0.1, 2.0), min_size=3, max_size=3),
    hops_count=st.booleans(),
)
def test_offers_carry_the_flow_at_their_cost(flow: float, prices: list[float], hops_count: bool) -> None:
    pricer = Pricer(GROUPS, flow, longest=4, grid=200)
    (offers,) = pricer.offers(np.array(prices), [Request(SIDES)], hops_count=hops_count, mixed=True)
    assert offers
    for offer in offers:
        carried = 0.0
        for strand, count in offer.block.strands:
            side = 1 if strand[0][0] == 2 else 0
            assert {group in SIDES[side][0] for group, _ in strand} == {True}
            assert sum(layers for _, layers in strand) == offer.block.layers
            carried += count * min(
                SIDES[side][1], *(GROUPS[group].tokens_per_s[layers - 1] for group, layers in strand)
            )
        assert carried >= flow * (1 - 1e-9)
        cost = sum(prices[group] * count for group, count in offer.block.members.items())
        assert offer.cost == pytest.approx(cost)


@given(prices=st.lists(st.floats(0.1, 2.0), min_size=3, max_size=3))
def test_mixed_offers_have_both_sides_and_cost_no_less(prices: list[float]) -> None:
    pricer = Pricer(GROUPS, 150.0, longest=4, grid=200)
    (plain,) = pricer.offers(np.array(prices), [Request(SIDES)])
    (offers,) = pricer.offers(np.array(prices), [Request(SIDES)], mixed=True)
    assert offers[: len(plain)] == plain
    mixed = offers[len(plain) :]
    assert [offer.block.layers for offer in mixed] == [1, 2, 3, 4]
    cheapest = {offer.block.layers: offer.cost for offer in plain}
    for offer in mixed:
        assert 2 in offer.block.members
        assert {0, 1} & set(offer.block.members)
        assert offer.cost >= cheapest[offer.block.layers] - 1e-9
