"""What a policy of spot machines sees of a pool, and what it decides."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Protocol


@dataclass(frozen=True, slots=True)
class ZoneState:
    """The replicas on spot machines of a zone.

    ``has_failed``: a start has failed, or replicas were preempted, within the last quarter of an hour.
    """

    serving: int
    starting: int
    has_failed: bool


@dataclass(frozen=True, slots=True)
class SpotState:
    """A pool when its mixture is decided: at each look, when a replica has started, and when one is preempted.

    ``wanted``: replicas that the autoscaling policy asks for. Replicas that drain, or have notice, count nowhere.
    """

    now_s: float
    wanted: int
    zones: tuple[ZoneState, ...]
    on_demand_serving: int
    on_demand_starting: int

    @property
    def spot_serving(self) -> int:
        """Replicas on spot machines that serve."""
        return sum(zone.serving for zone in self.zones)

    @property
    def spot_starting(self) -> int:
        """Replicas on spot machines that start."""
        return sum(zone.starting for zone in self.zones)


@dataclass(frozen=True, slots=True)
class Mix:
    """Replicas that there should be on spot machines, spread over zones, and on demand."""

    spot: int
    on_demand: int


class SpotPolicy(Protocol):
    """A policy. A class of the user needs these; each pool has an instance of its own."""

    summary: ClassVar[str]
    Options: ClassVar[type[Any]]

    def __init__(self, options: Any) -> None: ...

    def mix(self, state: SpotState) -> Mix:
        """Return the replicas on spot machines and on demand."""
        ...
