"""Fleets that are fast enough and hold too little KV memory, worked out by hand."""

from __future__ import annotations

import dataclasses

import pytest
from builders import profile

from helixsim.config.plan_file import Offer
from helixsim.planning.fleet_bound import BestCase
from helixsim.planning.fleet_program import Market, Supply

LAYERS, PROMPT, OUTPUT = 8, 90.0, 20.0
HELD_S = 19 * LAYERS * 1e-3 * 100
"""A request holds 100 tokens on average for 19 steps of 8 layers x 1 ms [token s]."""


def market(kv_blocks: tuple[int, ...], rate_rps: float, available: int = 30) -> tuple[Market, BestCase]:
    node = dataclasses.replace(profile("n", len(kv_blocks), decode_ns=1e6), block_tokens=10, kv_blocks=kv_blocks)
    best = BestCase([node], PROMPT, OUTPUT, LAYERS)
    boundless = (best.layers_per_s(0),)
    supply = Supply(boundless, boundless, (len(kv_blocks),), best.levels(rate_rps, (available,)), best.memory)
    return Market([Offer("n", 1, "a", 1.0, available)], supply, LAYERS, rate_rps), best


@pytest.mark.parametrize("rate_rps", [20.0, 60.0, 120.0])
def test_memory_that_is_the_same_with_any_number_of_layers(rate_rps: float) -> None:
    """1000 layer-tokens a node: context in flight is 125 tokens a node, and rate x 15.2 token s must fit."""
    found, best = market((100, 50, 33, 25), rate_rps)
    needed = max(2, -(-rate_rps * HELD_S * LAYERS // 1000))
    assert found.cheapest_possible() == (needed,)
    assert best.rps((int(needed),)) >= rate_rps
    assert needed == 2 or best.rps((int(needed) - 1,)) < rate_rps


def test_memory_that_weights_take_up() -> None:
    """1000 tokens with one layer, 600 layer-tokens with two: each layer beyond the first costs 400.

    Eight layers on n nodes leave (1400 n - 400 x 8) / 8 tokens of context: 5 nodes for 400, not the 4 that would do if
    each had its 1000.
    """
    rate_rps = 400 / HELD_S
    found, best = market((100, 30), rate_rps)
    assert [bound.weight for bound in best.memory] == [0.0, 400.0]
    assert best.context_tokens((4,)) == pytest.approx(300)
    assert best.context_tokens((5,)) == pytest.approx(475)
    assert found.cheapest_possible() == (5,)


def test_what_failed_and_all_below_it_is_ruled_out_what_was_excluded_only_itself() -> None:
    found, _ = market((100, 50, 33, 25), 60.0)
    assert found.cheapest_possible() == (8,)
    found.learn((9,), is_met=False)
    assert found.cheapest_possible() == (10,)
    found.excluded.append((10,))
    assert found.cheapest_possible() == (11,)
    assert found.belief == [pytest.approx(0.8)]


def test_a_rate_that_no_fleet_on_offer_holds_in_memory_has_none() -> None:
    found, best = market((100, 50, 33, 25), 60.0, available=7)
    assert best.rps((7,)) < 60.0
    assert found.cheapest_possible() is None
