"""What a node, or the route through it, does of prefill and of decode, where each may have nodes of its own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from helixsim.flow.station import OperatingLoad, Station

_HALVINGS = 40


@dataclass(frozen=True, slots=True)
class DecodeRates:
    """Decode on one node of a route whose round trips take no longer than an objective.

    Parameters
    ----------
    time_s
        Time of the node for all decode steps of a request, in the largest batches [s].
    residence_s
        Time that a request decodes [s].
    most_requests
        Requests that decode at once: by KV memory, limits of the engine, and the objective.
    fixed_share, step_s
        With an objective for the time per token: the share of it that steps of an empty batch take, and what a request
        adds to all its steps [s]. A node that also spends a share ``x`` of its time on prompts decodes ``d`` requests/s
        if ``x + d * step_s <= 1 - fixed_share``. Zero without an objective.
    """

    time_s: float
    residence_s: float
    most_requests: float
    fixed_share: float = 0.0
    step_s: float = 0.0


def decode_rates(
    stations: Sequence[Station], number: int, links_s: float, load: OperatingLoad, tpot_s: float | None
) -> DecodeRates | None:
    """Return the rates of a station on a route of several; None: no batch, however small, meets the objective.

    As many batches are in flight as there are stations (``flow.replicas.Replica``); ``links_s`` is the time that a
    round trip spends on links [s].
    """
    depth = len(stations)
    most = min(min(station.most_requests, station.most_batch) for station in stations)

    def batch(requests: float) -> float:
        return max(1.0, requests / depth)

    def round_s(requests: float) -> float:
        steps_s = [station.step_s(batch(requests)) for station in stations]
        return max(sum(steps_s) + links_s, min(depth, requests) * max(steps_s))

    if tpot_s is not None:
        limit_s = tpot_s * load.tokens_of_step
        if round_s(1.0) > limit_s:
            return None
        if round_s(most) > limit_s:
            low, high = 1.0, most
            for _ in range(_HALVINGS):
                middle = (low + high) / 2
                low, high = (middle, high) if round_s(middle) <= limit_s else (low, middle)
            most = low
    time_s = load.mean_steps * stations[number].step_s(batch(most)) / batch(most)
    residence_s = load.mean_steps * round_s(most)
    if tpot_s is None:
        return DecodeRates(time_s, residence_s, most)
    if most <= 1.0:
        return DecodeRates(time_s, residence_s, most, round_s(1.0) / limit_s)
    slope_s = (round_s(most) - round_s(1.0)) / (most - 1)
    fixed_s = max(0.0, round_s(1.0) - slope_s)
    return DecodeRates(time_s, residence_s, most, fixed_s / limit_s, load.mean_steps * slope_s)
