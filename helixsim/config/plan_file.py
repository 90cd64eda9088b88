"""plan.yaml -> FleetPlan: the load, the node offers and the objective of a fleet search."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field, ValidationError

from helixsim import units
from helixsim.config.choices import is_file_name
from helixsim.config.edit import Edit
from helixsim.config.fields import FewCount, Name, Price, Share
from helixsim.config.source import Source
from helixsim.config.sweep_file import settings_of
from helixsim.config.tenants import refuse_tenants
from helixsim.domain.placement import Role
from helixsim.errors import ConfigError, unknown_name
from helixsim.hardware import catalog
from helixsim.validation import Count, Section, problems_of


class OfferSection(Section):
    """A node type on offer."""

    gpu: str = Field(description="GPU profile: a name of `helixsim profile list gpus`, or the path of a YAML file.")
    gpus: Count = Field(1, description="GPUs per node, joined by tensor parallelism.")
    region: str = Field("default", description="Region of the nodes.")
    price: Price | None = Field(None, description="Price of one node (default: that of the GPU profile).")
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
    simulations: FewCount = Field(40, description="Maximum number of simulated fleets.")
    percentile: Annotated[float, Field(gt=0, le=100)] = Field(
        99.0, description="Percentile of TTFT, TPOT and E2EL that must meet the objective."
    )
    share: Share | None = Field(None, description="Share of requests that must meet all objectives at once.")


@dataclass(frozen=True, slots=True)
class Offer:
    """A node type on offer; ``gpu`` is a name or the path of a profile. All ``is_owned`` nodes are in every fleet."""

    gpu: str
    gpus: int
    region: str
    price_usd_per_hour: float
    available: int
    is_owned: bool = False
    role: Role | None = None

    @property
    def label(self) -> str:
        """Return for example ``l4x2 in us``, ``owned l4x2 in us`` or ``l4 for prefill``."""
        kind = Path(self.gpu).stem if is_file_name(self.gpu) else self.gpu
        kind = kind if self.gpus == 1 else f"{kind}x{self.gpus}"
        kind = f"owned {kind}" if self.is_owned else kind
        kind = kind if self.role is None else f"{kind} for {self.role}"
        return kind if self.region == "default" else f"{kind} in {self.region}"

    def nodes(self, count: int) -> dict[str, Any]:
        """Return an entry of ``cluster.nodes``."""
        price = f"{self.price_usd_per_hour:.9g} $/h"
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
    offers: list[Offer] = []
    for number, entry in enumerate(section.offers):
        at = ("offers", number)
        file = source.file((*at, "gpu"), entry.gpu) if is_file_name(entry.gpu) else None
        if file is None and catalog.gpu_name(entry.gpu) not in catalog.gpu_names():
            problems.append(source.problem((*at, "gpu"), unknown_name("GPU", entry.gpu, catalog.gpu_names())))
            continue
        gpu = catalog.load_gpu(file or entry.gpu)
        price = gpu.cost_usd_per_hour * entry.gpus if entry.price is None else units.parse(entry.price, "price")
        if entry.owned and entry.price is not None:
            problems.append(source.problem((*at, "price"), "owned nodes have no price: remove price, or owned"))
        price = 0.0 if entry.owned else price
        if not price > 0 and not entry.owned:
            problems.append(source.problem((*at, "price"), f"{gpu.name} needs a price above zero, such as 1.10 $/h"))
        name = gpu.name if file is None else str(file.resolve())
        offer = Offer(name, entry.gpus, entry.region, price, entry.available, entry.owned, entry.role)
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
    )
