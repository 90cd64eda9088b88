"""Policies of replicas on spot machines."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any, ClassVar

from helixsim.autoscaling.spot_base import Mix, SpotState
from helixsim.plugins import NoOptions


class OnDemand:
    """No spot machines."""

    summary: ClassVar[str] = "all replicas on demand"
    Options: ClassVar[type[Any]] = NoOptions

    def __init__(self, _options: Any) -> None: ...

    def mix(self, state: SpotState) -> Mix:
        """See ``SpotPolicy.mix``."""
        return Mix(0, state.wanted)


@dataclass(frozen=True, slots=True)
class SpareOptions:
    """Options of policies with spare replicas on spot machines.

    Parameters
    ----------
    spare
        Replicas on spot machines beyond those that are asked for.
    """

    spare: int = field(default=0, metadata={"ge": 0, "le": 10**6})


class SpotOnly:
    """Spot machines spread evenly over zones, and nothing on demand."""

    summary: ClassVar[str] = "replicas on spot machines alone, evenly over zones"
    Options: ClassVar[type[Any]] = SpareOptions

    def __init__(self, options: SpareOptions) -> None:
        self._spare = options.spare

    def mix(self, state: SpotState) -> Mix:
        """See ``SpotPolicy.mix``."""
        return Mix(state.wanted + self._spare, 0)


@dataclass(frozen=True, slots=True)
class FixedShareOptions:
    """Options of ``fixed_share``.

    Parameters
    ----------
    on_demand
        Share of the replicas that are on demand, rounded up.
    """

    on_demand: float = field(default=0.1, metadata={"ge": 0, "le": 1})


class FixedShare:
    """A fixed share on demand, as a group with a mixed instances policy has."""

    summary: ClassVar[str] = "a fixed share of the replicas on demand, the others on spot machines"
    Options: ClassVar[type[Any]] = FixedShareOptions

    def __init__(self, options: FixedShareOptions) -> None:
        self._share = options.on_demand

    def mix(self, state: SpotState) -> Mix:
        """See ``SpotPolicy.mix``."""
        on_demand = math.ceil(self._share * state.wanted - 1e-9)
        return Mix(state.wanted - on_demand, on_demand)


@dataclass(frozen=True, slots=True)
class SpotHedgeOptions:
    """Options of ``spot_hedge``.

    Parameters
    ----------
    spare
        Replicas on spot machines beyond those that are asked for, so that a preemption leaves enough.
    """

    spare: int = field(default=1, metadata={"ge": 0, "le": 10**6})


class SpotHedge:
    """SkyServe's SpotHedge (Mao et al., "SkyServe", arXiv 2411.01438).

    Spot replicas are as many as are asked for and some spare ones; as long as fewer serve, replicas on demand make up
    for the missing ones, at most as many as are asked for: ``min(wanted, wanted + spare - spot replicas that serve)``.
    The controller spreads spot replicas over the zones that have not failed.
    """

    summary: ClassVar[str] = "spare spot replicas over zones, on demand as long as spot ones are missing (SkyServe)"
    Options: ClassVar[type[Any]] = SpotHedgeOptions

    def __init__(self, options: SpotHedgeOptions) -> None:
        self._spare = options.spare

    def mix(self, state: SpotState) -> Mix:
        """See ``SpotPolicy.mix``."""
        spot = state.wanted + self._spare
        return Mix(spot, min(state.wanted, max(0, spot - state.spot_serving)))
