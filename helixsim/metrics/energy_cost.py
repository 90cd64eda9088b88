"""Cost and energy per million tokens.

All nodes count, including those without layers. Nodes out of service cost their price and draw no power. "Per Mtok"
means output tokens, "per total Mtok" prompt and output.
"""

from __future__ import annotations

import math

from helixsim.domain.cluster import Deployment

IDLE_POWER_SHARE = 0.3
"""Assumed power of an idle node over its TDP; a computing node draws its TDP."""

_SECONDS_PER_HOUR = 3600
_TOKENS_PER_MTOK = 1_000_000


def fleet_cost_usd_per_hour(fleet: Deployment) -> float:
    """Return the price of all nodes, including those out of service [$/h]."""
    return fleet.cluster.cost_usd_per_hour


def cost_usd_per_mtok(fleet: Deployment, tokens_per_s: float) -> float:
    """Return $ per million tokens at a rate [tokens/s]; NaN at rate 0 or without prices."""
    price = fleet_cost_usd_per_hour(fleet)
    if not (tokens_per_s > 0 and price > 0):
        return math.nan
    return price / (tokens_per_s * _SECONDS_PER_HOUR) * _TOKENS_PER_MTOK


def mean_power_w(fleet: Deployment, busy_share: dict[str, float]) -> float:
    """Return the mean power of all nodes [W]; ``busy_share`` by node id, missing nodes are idle."""
    power_w = 0.0
    for node in fleet.cluster.nodes:
        busy = busy_share.get(node.id, 0.0)
        power_w += node.tdp_w * (busy + (1.0 - busy) * IDLE_POWER_SHARE)
    return power_w


def energy_wh_per_mtok(power_w: float, tokens_per_s: float) -> float:
    """Return Wh per million tokens at a rate [tokens/s]; NaN at rate 0 or with unknown power."""
    if not (tokens_per_s > 0 and power_w > 0):
        return math.nan
    return power_w / _SECONDS_PER_HOUR / tokens_per_s * _TOKENS_PER_MTOK
