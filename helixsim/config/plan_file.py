"""plan.yaml -> FleetPlan: the load, the node offers and the objective of a fleet search."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field, ValidationError

from helixsim import units
from helixsim.config.choices import is_file_name
from helixsim.config.edit import Edit
from helixsim.config.fields import Duration, FewCount, Name, Price, Share
from helixsim.config.source import Source
from helixsim.config.sweep_file import settings_of
from helixsim.config.tenants import refuse_tenants
from helixsim.domain.placement import Role
from helixsim.errors import ConfigError, Problem
from helixsim.hardware import catalog
from helixsim.hardware.mig import alone_fault
from helixsim.validation import Count, Section, problems_of
from helixsim.yamlio import KeyPath


class SpotOfferSection(Section):
    """Spot machines: each zone has them for a time, and then none."""

    zones: FewCount = Field(description="Zones into which the nodes are put in turn; they are short independently.")
    available: Duration = Field(description="Mean time for which a zone has spot machines.")
    short: Duration = Field(description="Mean time for which it has none.")


class OfferSection(Section):
    """A node type on offer."""

    gpu: str = Field(description="GPU profile: a name of `helixsim profile list gpus`, or the path of a YAML file.")
    gpus: Count = Field(1, description="GPUs per node, joined by tensor parallelism.")
    region: str = Field("default", description="Region of the nodes.")
    price: Price | None = Field(None, description="Price of one node (default: that of the GPU profile).")
    spot: SpotOfferSection | None = Field(
        None,
        description="The nodes are spot machines at this price, paid for while they are there (default: on demand).",
    )
    owned: bool = Field(False, description="The nodes are there already: all are in every fleet, at no price.")
    available: Annotated[int, Field(ge=1, le=10_000)] = Field(description="Number of available nodes.")
    role: Role | None = Field(
        None,
        description="Phases that the nodes serve: `prefill`, `decode` or `both` (default; docs/disaggregation.md).",
    )


class FleetSection(Section):
    """A search for the cheapest fleet that serves a workload within its SLO."""

    model_config = ConfigDict(title="helixsim fleet plan")

    schema_: Literal[1] = Field(alias="schema", description="Version of this format.")
    name: Name | None = Field(None, description="Name of the plan (default: that of the file).")
    question: str | None = Field(None, description="Question that the plan answers, the heading of its report.")
    experiment: str = Field(
        description="Experiment file, relative to this one: model, workload, network, SLO; its nodes are replaced."
    )
    set_: dict[str, Any] = Field({}, alias="set", description="Changes of the experiment: key -> value.")
    system: str | None = Field(None, description="System of the experiment that is used (default: the first).")
    offers: list[OfferSection] = Field(min_length=1, description="Node types on offer.")
    budget: Price | None = Field(
        None,
        description="Maximum price [$/h]; with a budget the search maximises capacity instead of minimising price.",
    )
    availability: Annotated[float, Field(gt=0, lt=1)] | None = Field(
        None,
        description="Share of the time in which the nodes that are simulated are there, with spot offers "
        "(default: 0.99).",
    )
    simulations: FewCount = Field(40, description="Maximum number of simulated fleets.")
    percentile: Annotated[float, Field(gt=0, le=100)] = Field(
        99.0, description="Percentile of TTFT, TPOT and E2EL that must meet the objective."
    )
    share: Share | None = Field(None, description="Share of requests that must meet all objectives at once.")


@dataclass(frozen=True, slots=True)
class Spot:
    """Spot machines of ``zones``, each of which has them for a share of the time, ``available``.

    ``lost_zones``: no more zones are short at the same time for the share of the time that is asked for.
    """

    zones: int
    available: float
    lost_zones: int

    @classmethod
    def of(cls, zones: int, available_s: float, short_s: float, level: float) -> Spot:
        """Return spot machines whose zones are short independently; ``level``: the share of the time asked for."""
        available = available_s / (available_s + short_s)
        reached, lost = 0.0, -1
        while reached < level and lost < zones:
            lost += 1
            reached += math.comb(zones, lost) * (1 - available) ** lost * available ** (zones - lost)
        return cls(zones, available, lost)

    def lasting(self, count: int) -> int:
        """Return how many of ``count`` nodes are there at least: the zones with most of them may be short."""
        each, more = divmod(count, self.zones)
        return count - self.lost_zones * each - min(self.lost_zones, more)


@dataclass(frozen=True, slots=True)
class Offer:
    """A node type on offer; ``gpu`` is a name or the path of a profile. All ``is_owned`` nodes are in every fleet.

    ``spot``: None: on demand. The price is that on average, as spot machines are paid for while they are there.
    """

    gpu: str
    gpus: int
    region: str
    price_usd_per_hour: float
    available: int
    is_owned: bool = False
    role: Role | None = None
    spot: Spot | None = None

    @property
    def label(self) -> str:
        """Return for example ``l4x2 in us``, ``owned l4x2 in us`` or ``l4 for prefill``."""
        kind = Path(self.gpu).stem if is_file_name(self.gpu) else self.gpu
        kind = kind if self.gpus == 1 else f"{kind}x{self.gpus}"
        kind = f"owned {kind}" if self.is_owned else f"spot {kind}" if self.spot is not None else kind
        kind = kind if self.role is None else f"{kind} for {self.role}"
        return kind if self.region == "default" else f"{kind} in {self.region}"

    def lasting(self, count: int) -> int:
        """Return how many of ``count`` nodes are there for the share of the time that is asked for."""
        return count if self.spot is None else self.spot.lasting(count)

    def words(self, count: int) -> str:
        """Return for example ``4 l4 in us``, or ``6 spot l4 (5 last)``."""
        lasting = self.lasting(count)
        return f"{count} {self.label}" + (f" ({lasting} last)" if self.spot is not None else "")

    def nodes(self, count: int, *, paid: int | None = None) -> dict[str, Any]:
        """Return an entry of ``cluster.nodes``; its price is that of ``paid`` nodes (default: of as many)."""
        price = f"{self.price_usd_per_hour * (paid or count) / count:.9g} $/h"
        role = {} if self.role is None else {"role": self.role}
        return {"gpu": self.gpu, "gpus": self.gpus, "region": self.region, "count": count, "cost": price, **role}


@dataclass(frozen=True)
class FleetPlan:
    """A fleet plan as written; ``budget_usd_per_hour`` None: search for the cheapest fleet."""

    name: str
    question: str | None
    experiment: Path
    settings: tuple[Edit, ...]
    system: str | None
    offers: tuple[Offer, ...]
    budget_usd_per_hour: float | None
    simulations: int
    percentile: float
    share: float | None
    availability: float | None = None


def load_plan(
    path: Path, edits: Sequence[Edit] = (), *, budget: str | None = None, simulations: int | None = None
) -> FleetPlan:
    """Read a plan.

    Parameters
    ----------
    edits
        Changes of the experiment, after those of the plan.
    budget, simulations
        Values that replace those of the plan.

    Raises
    ------
    ConfigError
        With every fault found, each with file, line and column.
    """
    source = Source.read(path)
    refuse_tenants(source, "a plan with offers for one experiment")
    for key, value in (("budget", budget), ("simulations", simulations)):
        if value is not None:
            source = source.edited(Edit.of(key, value, f"--{key}"))
    return _plan(source, edits)


def plan_of(data: Mapping[str, Any], experiment: Path) -> FleetPlan:
    """Return the plan that plain data describe, with the keys of a plan file.

    Parameters
    ----------
    experiment
        The name of the experiment, which need not be a file: it is given to the search.

    Raises
    ------
    ConfigError
        With every fault found.
    """
    return _plan(Source.of({"schema": 1, **data, "experiment": str(experiment)}, experiment), (), is_read=False)


def _plan(source: Source, edits: Sequence[Edit], *, is_read: bool = True) -> FleetPlan:
    """Return a plan; ``is_read``: its experiment is read from the file that it names."""
    try:
        section = FleetSection.model_validate(source.data)
    except ValidationError as error:
        raise ConfigError([*source.problems, *problems_of(error, source, FleetSection)]) from error
    problems = list(source.problems)
    experiment = source.file(("experiment",), section.experiment)
    if is_read and not experiment.is_file():
        problems.append(source.problem(("experiment",), f"no such file: {experiment}"))
    spots = sum(one.spot is not None for one in section.offers)
    asked = 0.99 if section.availability is None else section.availability
    level = asked ** (1 / max(1, spots))  # all offers together
    offers: list[Offer] = []
    for number, entry in enumerate(section.offers):
        at = ("offers", number)
        file = source.file((*at, "gpu"), entry.gpu) if is_file_name(entry.gpu) else None
        if file is None and not catalog.is_gpu(entry.gpu):
            problems.append(source.problem((*at, "gpu"), catalog.unknown_gpu(entry.gpu)))
            continue
        gpu = catalog.load_gpu(file or entry.gpu)
        if fault := alone_fault(gpu.name, entry.gpus):
            problems.append(source.problem((*at, "gpus"), fault))
        price = gpu.cost_usd_per_hour * entry.gpus if entry.price is None else units.parse(entry.price, "price")
        if entry.owned and entry.price is not None:
            problems.append(source.problem((*at, "price"), "owned nodes have no price: remove price, or owned"))
        price = 0.0 if entry.owned else price
        spot = _spot(entry, at, level, source, problems)
        if spot is not None:
            price *= spot.available
        if not price > 0 and not entry.owned:
            problems.append(source.problem((*at, "price"), f"{gpu.name} needs a price above zero, such as 1.10 $/h"))
        name = gpu.name if file is None else str(file.resolve())
        offer = Offer(name, entry.gpus, entry.region, price, entry.available, entry.owned, entry.role, spot)
        if any(one.label == offer.label and one.gpu == offer.gpu for one in offers):
            problems.append(source.problem(at, f"{offer.label} is offered twice"))
        offers.append(offer)
    if problems:
        raise ConfigError(problems)
    return FleetPlan(
        name=section.name or source.path.stem,
        question=section.question,
        experiment=experiment,
        settings=(*settings_of(section.set_, source), *edits),
        system=section.system,
        offers=tuple(offers),
        budget_usd_per_hour=None if section.budget is None else units.parse(section.budget, "price"),
        simulations=section.simulations,
        percentile=section.percentile,
        share=section.share,
        availability=None if section.availability is None and not spots else asked,
    )


def _spot(entry: OfferSection, at: KeyPath, level: float, source: Source, problems: list[Problem]) -> Spot | None:
    """Return the spot machines of an offer, None: on demand; ``level``: share of the time asked of this offer."""
    if entry.spot is None:
        return None
    if entry.owned or entry.price is None:
        message = "spot machines are not owned" if entry.owned else "spot machines need their price"
        problems.append(source.problem((*at, "spot"), message))
    available_s, short_s = (units.parse(text, "time") for text in (entry.spot.available, entry.spot.short))
    spot = Spot.of(entry.spot.zones, available_s, short_s, level)
    if spot.lost_zones >= spot.zones:
        message = f"all {spot.zones} zones may be short at once at this availability: more zones, or less availability"
        problems.append(source.problem((*at, "spot", "zones"), message))
    return spot
