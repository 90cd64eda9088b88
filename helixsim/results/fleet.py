"""Results of a fleet search: the fleets that serve a load, and all simulated fleets."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from helixsim.config.edit import Edit
from helixsim.domain.summary import Summary, milliseconds
from helixsim.jsonio import json_values, significant
from helixsim.metrics.model_error import ModelError, model_error
from helixsim.metrics.objectives import Target
from helixsim.metrics.slowdown import NO_SLACK, Band, SlackCurve
from helixsim.results.purchases import Purchase
from helixsim.results.tables import error_row

if TYPE_CHECKING:
    import pandas as pd

SCHEMA = 1


@dataclass(frozen=True)
class TriedFleet:
    """A simulated fleet.

    Parameters
    ----------
    fleet, counts
        Name, and number of nodes of each offer.
    is_met, misses, slack, tightest
        Verdict at the rate of the workload; ``slack`` is the tightest objective over its measured value.
    capacity_rps
        Highest rate within the SLO [1/s]; None if not searched.
    summary
        Summary at the rate of the workload; None if the fleet could not be placed or simulated.
    edits
        Changes from the experiment of the plan to that of this fleet.
    slack_curve
        Of the simulations that meet the target in the search for its capacity.
    idle
        (Offer, number of its nodes that hold no layers), for offers with such nodes.
    """

    fleet: str
    counts: tuple[int, ...]
    price_usd_per_hour: float
    is_met: bool
    misses: tuple[str, ...]
    slack: float
    tightest: str
    capacity_rps: float | None
    summary: Summary | None
    edits: tuple[Edit, ...]
    slack_curve: SlackCurve = NO_SLACK
    idle: tuple[tuple[str, int], ...] = ()

    @property
    def model_error(self) -> ModelError | None:
        """How far off the figures are expected to be, by measured points; None if not known."""
        return None if self.summary is None else model_error(self.summary.setting)

    @property
    def capacity_band_rps(self) -> Band | None:
        """80 % band of the capacity by the model error [1/s]; None if it was not searched."""
        return None if self.capacity_rps is None else self.slack_curve.band(self.capacity_rps, self.model_error)

    def share_serving(self, rate_rps: float) -> float | None:
        """Return in what share of draws of the model error the fleet serves a rate; None without a capacity."""
        if self.capacity_rps is None:
            return None
        return self.slack_curve.share_serving(self.capacity_rps, self.model_error, rate_rps)


@dataclass(frozen=True)
class FleetResults:
    """Results of a fleet search.

    Parameters
    ----------
    budget_usd_per_hour
        Budget of a search for the highest capacity; None: search for the cheapest fleet for ``rate_rps``.
    lower_bound_usd_per_hour
        Bound on the price of any fleet that meets the target; None with a budget.
    ranked, tried
        Fleets that meet the target, the best first; all simulated fleets, in order.
    usd_per_rps
        Shadow price of one more request/s [$/h]; NaN if undefined.
    scarce
        (offer, savings by one more node of it [$/h]) for offers whose availability is a limit.
    purchases
        One more node of each offer beside those of ``purchases_base``, the best value first.
    purchases_base
        The fleet to which a purchase is added: the owned nodes, or without any the best fleet.
    owned
        The owned nodes; empty without any.
    """

    name: str
    question: str | None
    budget_usd_per_hour: float | None
    rate_rps: float
    target: Target
    lower_bound_usd_per_hour: float | None
    ranked: tuple[TriedFleet, ...]
    tried: tuple[TriedFleet, ...]
    usd_per_rps: float
    scarce: tuple[tuple[str, float], ...]
    purchases: tuple[Purchase, ...]
    purchases_base: str
    purchases_base_rps: float | None
    owned: str

    @property
    def is_proven(self) -> bool:
        """Whether the best fleet is proven to be the cheapest."""
        bound = self.lower_bound_usd_per_hour
        return bound is not None and bound >= self.ranked[0].price_usd_per_hour - 1e-6

    @property
    def gap(self) -> float | None:
        """Share of the price of the best fleet that may be saved, by the lower bound; None with a budget."""
        bound, price = self.lower_bound_usd_per_hour, self.ranked[0].price_usd_per_hour
        return None if bound is None else max(0.0, 1.0 - bound / price) if price else 0.0

    def document(self) -> dict[str, Any]:
        """Return ``fleet.json``."""
        return {
            "schema": SCHEMA,
            "plan": self.name,
            "requests_per_s": _rounded(self.rate_rps),
            "budget_usd_per_hour": self.budget_usd_per_hour,
            "slo": {
                **self.target.slo.to_json(), "percentile": self.target.percentile, "goodput_share": self.target.share,
            },
            "lower_bound_usd_per_hour": _rounded(self.lower_bound_usd_per_hour),
            "is_proven": self.is_proven,
            "shadow_price_usd_per_hour_per_request_per_s": _rounded(self.usd_per_rps),
            "scarce": [{"offer": label, "saves_usd_per_hour": _rounded(saved)} for label, saved in self.scarce],
            "gap": _rounded(self.gap),
            "owned": self.owned or None,
            "purchases_added_to": {
                "fleet": self.purchases_base, "capacity_requests_per_s": _rounded(self.purchases_base_rps)
            },
            "purchases": [purchase.to_json() for purchase in self.purchases],
            "ranked": [_fleet(one, self.rate_rps) for one in self.ranked],
            "tried": [_fleet(one, self.rate_rps) for one in self.tried],
        }  # fmt: skip

    def table(self) -> pd.DataFrame:
        """Return a row per simulated fleet (``fleets.csv``), with units in the names of the columns."""
        import pandas as pd

        rows = [_fleet(one, self.rate_rps) for one in self.tried]
        omitted = ("counts", "settings", "idle", "bottleneck", "accuracy")
        flat = [{key: value for key, value in row.items() if key not in omitted} for row in rows]
        return pd.DataFrame(
            [
                {**row, "misses": "; ".join(row["misses"]), **error_row(one.summary)}
                for row, one in zip(flat, self.tried, strict=True)
            ]
        )


def _fleet(one: TriedFleet, rate_rps: float) -> dict[str, Any]:
    return {
        "fleet": one.fleet,
        "counts": list(one.counts),
        "usd_per_hour": _rounded(one.price_usd_per_hour),
        "is_met": one.is_met,
        "misses": list(one.misses),
        "slack": _rounded(one.slack),
        "tightest": one.tightest,
        "idle": [{"offer": label, "nodes": count} for label, count in one.idle],
        "capacity_requests_per_s": _rounded(one.capacity_rps),
        "headroom": None if one.capacity_rps is None else _rounded(one.capacity_rps / rate_rps - 1),
        **_figures(one.summary),
        "accuracy": None if one.model_error is None else {
            **one.model_error.to_json(),
            "capacity_requests_per_s": json_values(one.capacity_band_rps),
            "serves_load_in_draws": _rounded(one.share_serving(rate_rps)),
        },
        "settings": [edit.text for edit in one.edits],
    }  # fmt: skip


def _figures(summary: Summary | None) -> dict[str, Any]:
    """Return the figures of a simulated fleet; Nones if it could not be simulated."""
    if summary is None:
        return dict.fromkeys(_FIGURES)
    values = (
        summary.throughput.output_tokens_per_s,
        summary.throughput.goodput_per_s,
        milliseconds(summary.ttft.p99_s),
        milliseconds(summary.tpot.p99_s),
        summary.throughput.slo_attainment,
        summary.cost.usd_per_mtok,
        summary.cost.power_w,
        summary.cost.energy_wh_per_mtok,
        summary.cluster.bottleneck,
        summary.flow.max_flow_tokens_per_s,
        summary.flow.mean_hops,
    )
    return dict(zip(_FIGURES, values, strict=True))


_FIGURES = (
    "output_throughput", "request_goodput", "p99_ttft_ms", "p99_tpot_ms", "slo_attainment", "cost_usd_per_mtok",
    "power_w", "energy_wh_per_mtok", "bottleneck", "max_flow_tokens_per_s", "mean_hops",
)  # fmt: skip


def _rounded(value: float | None) -> float | None:
    return None if value is None or not math.isfinite(value) else significant(value)
