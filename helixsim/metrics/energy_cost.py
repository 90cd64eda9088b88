"""Cost and energy per million tokens.

All nodes count, including those without layers. Nodes out of service cost their price and draw no power. "Per Mtok"
means output tokens, "per total Mtok" prompt and output.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

from helixsim.domain.cluster import Deployment

IDLE_POWER_SHARE = 0.3
"""Assumed power of an idle node over its TDP; a computing node draws its TDP."""

_SECONDS_PER_HOUR = 3600
_TOKENS_PER_MTOK = 1_000_000


def cost_usd_per_mtok(usd_per_hour: float, tokens_per_s: float) -> float:
    """Return $ per million tokens at a price [$/h] and a rate [tokens/s]; NaN at rate 0 or without prices."""
    if not (tokens_per_s > 0 and usd_per_hour > 0):
        return math.nan
    return usd_per_hour / (tokens_per_s * _SECONDS_PER_HOUR) * _TOKENS_PER_MTOK


def mean_power_w(fleet: Deployment, busy_share: Mapping[str, float], on_share: Mapping[str, float] = {}) -> float:
    """Return the mean power of all nodes [W].

    ``busy_share`` by node id, missing nodes are idle; ``on_share`` of nodes that are off at times, which then draw
    nothing.
    """
    power_w = 0.0
    for node in fleet.cluster.nodes:
        busy = busy_share.get(node.id, 0.0)
        power_w += node.tdp_w * (busy + (on_share.get(node.id, 1.0) - busy) * IDLE_POWER_SHARE)
    return power_w


def energy_wh_per_mtok(power_w: float, tokens_per_s: float) -> float:
    """Return Wh per million tokens at a rate [tokens/s]; NaN at rate 0 or with unknown power."""
    if not (tokens_per_s > 0 and power_w > 0):
        return math.nan
    return power_w / _SECONDS_PER_HOUR / tokens_per_s * _TOKENS_PER_MTOK
