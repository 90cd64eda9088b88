"""What one more node adds to the capacity of a fleet: the ranking of next purchases."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

from helixsim.jsonio import json_values


@dataclass(frozen=True)
class Purchase:
    """One more node of a kind.

    Parameters
    ----------
    label
        The node, such as ``l4x2 in us``.
    usd_per_hour
        Its price [$/h].
    adds_rps
        What it adds to the capacity [requests/s].
    is_simulated
        By simulation with the node; otherwise by the planner's estimate, scaled to the simulated capacity.
    """

    label: str
    usd_per_hour: float
    adds_rps: float
    is_simulated: bool = False

    @property
    def rps_per_usd(self) -> float:
        """Requests/s that are added for each $/h."""
        return self.adds_rps / self.usd_per_hour if self.usd_per_hour else float("inf")

    def to_json(self) -> dict[str, Any]:
        """Return the purchase as JSON values."""
        return {
            "offer": self.label,
            "usd_per_hour": json_values(self.usd_per_hour),
            "adds_requests_per_s": json_values(self.adds_rps),
            "adds_requests_per_s_per_usd_per_hour": json_values(self.rps_per_usd),
            "is_simulated": self.is_simulated,
        }

    @classmethod
    def from_json(cls, one: Mapping[str, Any]) -> Self:
        """Return the purchase in JSON values."""
        return cls(one["offer"], one["usd_per_hour"], one["adds_requests_per_s"], one["is_simulated"])


def by_value(purchases: list[Purchase]) -> tuple[Purchase, ...]:
    """Return purchases by what they add per dollar, the best first; those that are simulated before estimates."""
    return tuple(
        sorted(purchases, key=lambda one: (not one.is_simulated, -one.rps_per_usd, one.usd_per_hour, one.label))
    )


def purchase_sentence(purchases: Sequence[Purchase]) -> str:
    """Return a sentence on the best purchase; empty without any."""
    best = next((one for one in purchases if one.adds_rps > 0), None)
    if best is None:
        return "No single node of those that can be bought adds capacity." if purchases else ""
    by = "by simulation" if best.is_simulated else "by the planner's estimate, scaled to the simulated capacity"
    return (
        f"The best next purchase is one more {best.label} for {best.usd_per_hour:.2f} $/h: it adds about "
        f"{best.adds_rps:.3g} requests/s {by}."
    )
