"""Results of several tenants on one cluster: the division of the nodes, and what each tenant gets from its part."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from helixsim.domain.request import Slo
from helixsim.domain.summary import Summary
from helixsim.jsonio import json_values
from helixsim.metrics.tenants import jain, value
from helixsim.results.columns import Columns, of_rows

SCHEMA = 1

Counts = tuple[int, ...]
"""Number of nodes of each kind."""


@dataclass(frozen=True, slots=True)
class NodeKind:
    """Nodes that are equal but for their names; ``ids`` in the order of the cluster, ``usd_per_hour`` of one."""

    label: str
    ids: tuple[str, ...]
    gpus: int
    usd_per_hour: float


@dataclass(frozen=True)
class Part:
    """What a tenant gets from a part of the cluster.

    Parameters
    ----------
    run
        The run directory, relative to that of all results; empty without one.
    summary
        None: the part cannot hold the model, see ``failure``.
    is_met
        Whether it meets all objectives; None without any.
    """

    run: str
    summary: Summary | None
    is_met: bool | None
    failure: str = ""

    def share(self, class_: str | None = None) -> float | None:
        """Return the share of the requests, or of those of a class, within the objectives.

        None without objectives, and where no request has a known outcome.
        """
        if self.summary is None:
            return 0.0
        if class_ is None:
            return self.summary.throughput.slo_attainment
        found = self.summary.classes.get(class_)
        return None if found is None else found.slo_attainment

    def keys(self, class_: str | None) -> dict[str, Any]:
        """Return the figures, or those of a class, under the keys of ``summary.json``; empty without any."""
        document = {} if self.summary is None else self.summary.to_json()
        found: dict[str, Any] = document
        if class_ is not None and document:
            found = document["helixsim"].get("classes", {}).get(class_, {})
        return found


@dataclass(frozen=True)
class Division:
    """A division of the nodes: how it came about, the nodes of each kind in each part, and what the parts give."""

    origin: str
    counts: tuple[Counts, ...]
    parts: tuple[Part, ...]


@dataclass(frozen=True, slots=True)
class TenantTerms:
    """A tenant as stated.

    Parameters
    ----------
    part
        Number of its part of the cluster, which it may share with others.
    class_
        Class of its requests there; None: all are its own.
    load_share
        Its share of the tokens/s that arrive there.
    """

    name: str
    model: str
    slo: Slo
    weight: float
    priority: int
    part: int
    class_: str | None = None
    load_share: float = 1.0


@dataclass(frozen=True)
class TenantResults:
    """Results of several tenants on one cluster.

    Parameters
    ----------
    kinds
        Kinds of nodes that are divided.
    nodes
        Ids of the nodes of each tenant.
    chosen
        The division that was stated or planned.
    by_hand
        Divisions by hand that a planned one is compared with, the best first; none if it was stated.
    bound
        Upper bound on the value of any division; None: not known.
    """

    name: str
    tenants: tuple[TenantTerms, ...]
    kinds: tuple[NodeKind, ...]
    nodes: tuple[tuple[str, ...], ...]
    chosen: Division
    by_hand: tuple[Division, ...] = ()
    bound: float | None = None

    def price_of(self, division: Division) -> float:
        """Return the price of all nodes that a division gives to tenants [$/h]."""
        return math.fsum(map(self.paid, division.parts, division.counts))

    def paid(self, part: Part, counts: Counts) -> float:
        """Return the price of a part [$/h]: of its nodes, or of the replicas of pools as long as they are paid for."""
        if part.summary is not None and part.summary.autoscaling is not None:
            return part.summary.cost.usd_per_hour
        return self.price(counts)

    def price(self, counts: Iterable[int]) -> float:
        """Return the price of so many nodes of each kind [$/h]."""
        return math.fsum(n * kind.usd_per_hour for n, kind in zip(counts, self.kinds, strict=True))

    def gpus(self, counts: Iterable[int]) -> int:
        """Return the GPUs of so many nodes of each kind."""
        return sum(n * kind.gpus for n, kind in zip(counts, self.kinds, strict=True))

    def words(self, counts: Iterable[int]) -> str:
        """Return for example ``1 h100x8, 3 l40sx4``."""
        named = [f"{n} {kind.label}" for n, kind in zip(counts, self.kinds, strict=True) if n]
        return ", ".join(named) or "no node"

    @property
    def spare(self) -> Counts:
        """Nodes of each kind that no tenant has."""
        used = [sum(own) for own in zip(*self.chosen.counts, strict=True)]
        return tuple(len(kind.ids) - n for kind, n in zip(self.kinds, used, strict=True))

    def value(self, division: Division) -> tuple[float, ...]:
        """Return by what divisions are compared (``metrics.tenants.value``)."""
        planned = {one.part: one.priority for one in sorted(self.tenants, key=lambda one: -one.priority)}
        known = self._known(division)
        # nodes are shared by those of other priorities
        return value([x for x, _ in known], [one.weight for _, one in known], [planned[one.part] for _, one in known])

    def shares(self, division: Division) -> list[float | None]:
        """Return the share of the requests of each tenant within its objectives; None: none has a known outcome."""
        return [division.parts[one.part].share(one.class_) for one in self.tenants]

    def fairness(self, division: Division) -> float | None:
        """Return Jain's index of the shares within the objectives; None without any."""
        known = self._known(division)
        return jain([x for x, _ in known], [one.weight for _, one in known]) if self.has_slo else None

    def _known(self, division: Division) -> list[tuple[float, TenantTerms]]:
        """Return the tenants with their shares, without those of whose requests none has a known outcome."""
        pairs = zip(self.shares(division), self.tenants, strict=True)
        return [(share, one) for share, one in pairs if share is not None]

    @property
    def has_slo(self) -> bool:
        """Whether every tenant has objectives."""
        return all(one.slo.is_stated for one in self.tenants)

    def document(self) -> dict[str, Any]:
        """Return ``summary.json``."""
        chosen = self.chosen
        document: dict[str, Any] = {
            "schema": SCHEMA,
            "experiment": self.name,
            "division": chosen.origin,
            "tenants": {
                one.name: self._tenant(one) for one in self.tenants
            },
            "totals": {
                **_totals([part.summary for part in chosen.parts]),
                "value": math.fsum(self.value(chosen)) if self.has_slo and self._known(chosen) else None,
                "value_bound": self.bound,
                "jain_index": self.fairness(chosen),
                "gpus": sum(map(self.gpus, chosen.counts)),
                "usd_per_hour": self.price_of(chosen),
            },
            "spare": {
                "nodes": self._kinds(self.spare), "gpus": self.gpus(self.spare),
                "usd_per_hour": self.price(self.spare),
            },
        }  # fmt: skip
        if self.by_hand:
            document["by_hand"] = [self._candidate(one) for one in self.by_hand]
        found: dict[str, Any] = json_values(document)
        return found

    def table(self) -> Columns:
        """Return a row per tenant with its main figures, units in the names of the columns."""
        rows = self.document()["tenants"].values()
        return of_rows([{key: row.get(key) for key in TABLE_KEYS} for row in rows])

    def _tenant(self, one: TenantTerms) -> dict[str, Any]:
        counts, part = self.chosen.counts[one.part], self.chosen.parts[one.part]
        others = [other.name for other in self.tenants if other.part == one.part and other is not one]
        figures = part.keys(one.class_)
        is_met = part.is_met
        if one.class_ is not None and part.summary is not None:
            own = [found.is_met for name, found in part.summary.objectives.items() if name.startswith(f"{one.class_} ")]
            is_met = None if not own else False if False in own else None if None in own else True
        return {
            "tenant": one.name,
            "model": one.model,
            "weight": one.weight,
            "priority": one.priority,
            "slo": one.slo.to_json(),
            **({"shares_nodes_with": others} if others else {}),
            "nodes": list(self.nodes[one.part]),
            "kinds": self._kinds(counts),
            "gpus": self.gpus(counts),
            "usd_per_hour": self.paid(part, counts) * one.load_share,
            "is_met": is_met,
            "slo_attainment": part.share(one.class_),
            "run": part.run or None,
            "failure": part.failure or None,
            **figures,
        }

    def _candidate(self, division: Division) -> dict[str, Any]:
        return {
            "division": division.origin,
            "kinds": {one.name: self._kinds(division.counts[one.part]) for one in self.tenants},
            "slo_attainment": {one.name: x for one, x in zip(self.tenants, self.shares(division), strict=True)},
            "value": math.fsum(self.value(division)),
            "jain_index": self.fairness(division),
            "usd_per_hour": self.price_of(division),
        }

    def _kinds(self, counts: Counts) -> dict[str, int]:
        return {kind.label: n for n, kind in zip(counts, self.kinds, strict=True) if n}


TABLE_KEYS = (
    "tenant", "model", "weight", "priority", "gpus", "usd_per_hour", "is_met", "slo_attainment", "request_goodput",
    "output_throughput", "mean_ttft_ms", "p99_ttft_ms", "mean_tpot_ms", "p99_tpot_ms",
)  # fmt: skip
"""Keys of a tenant in ``tenants.csv``."""


def _totals(summaries: Sequence[Summary | None]) -> Mapping[str, float]:
    """Return the sums of the rates [1/s]."""
    rates = [summary.throughput for summary in summaries if summary is not None]
    return {
        "request_goodput": math.fsum(one.goodput_per_s or 0.0 for one in rates),
        "output_throughput": math.fsum(one.output_tokens_per_s or 0.0 for one in rates),
        "total_token_throughput": math.fsum(one.total_tokens_per_s or 0.0 for one in rates),
    }
