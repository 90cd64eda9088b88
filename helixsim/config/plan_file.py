"""plan.yaml -> FleetPlan: what to serve, what may be bought, and what is asked for."""

from __future__ import annotations

from collections.abc import Sequence
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
from helixsim.errors import ConfigError, unknown_name
from helixsim.hardware import catalog
from helixsim.validation import Count, Section, problems_of


class OfferSection(Section):
    """A kind of node that may be bought."""

    gpu: str = Field(description="GPU profile: a name of `helixsim profile list gpus`, or the path of a YAML file.")
    gpus: Count = Field(1, description="GPUs that work as one node by tensor parallelism.")
    region: str = Field("default", description="Region the nodes stand in.")
    price: Price | None = Field(None, description="Price of one node; without: that of the GPUs' profile.")
    available: Annotated[int, Field(ge=1, le=10_000)] = Field(description="Most nodes that can be had.")


class FleetSection(Section):
    """Which fleet serves a workload within its SLO at the least price."""

    model_config = ConfigDict(title="helixsim fleet plan")

    schema_: Literal[1] = Field(alias="schema", description="Version of this format.")
    name: Name | None = Field(None, description="Name of the plan; without: that of the file.")
    question: str | None = Field(None, description="What the plan is to answer; stands on top of its page.")
    experiment: str = Field(
        description="Experiment file, relative to this one: model, workload, network, SLO; its nodes are replaced."
    )
    set_: dict[str, Any] = Field({}, alias="set", description="Keys of the experiment changed: key -> value.")
    system: str | None = Field(None, description="The system of the experiment that serves; without: the first.")
    offers: list[OfferSection] = Field(min_length=1, description="What may be bought.")
    budget: Price | None = Field(None, description="Most $/h; given, the fleet with the highest capacity is sought.")
    simulations: FewCount = Field(40, description="Most fleets simulated.")
    percentile: Annotated[float, Field(gt=0, le=100)] = Field(
        99.0, description="Percentile of TTFT, TPOT and E2EL that must be within the objective."
    )
    share: Share | None = Field(None, description="Share of requests that must meet all objectives at once.")


@dataclass(frozen=True, slots=True)
class Offer:
    """A kind of node that may be bought; ``gpu`` is a name or the path of a profile."""

    gpu: str
    gpus: int
    region: str
    price_usd_per_hour: float
    available: int

    @property
    def label(self) -> str:
        """Return for example ``l4x2 in us``."""
        kind = Path(self.gpu).stem if is_file_name(self.gpu) else self.gpu
        kind = kind if self.gpus == 1 else f"{kind}x{self.gpus}"
        return kind if self.region == "default" else f"{kind} in {self.region}"

    def nodes(self, count: int) -> dict[str, Any]:
        """Return an entry of ``cluster.nodes``."""
        price = f"{self.price_usd_per_hour:.9g} $/h"
        return {"gpu": self.gpu, "gpus": self.gpus, "region": self.region, "count": count, "cost": price}


@dataclass(frozen=True)
class FleetPlan:
    """A plan as written; ``budget_usd_per_hour`` None: the cheapest fleet is sought."""

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
        Changes of the experiment, on top of what the plan sets.
    budget, simulations
        Instead of the plan's.

    Raises
    ------
    ConfigError
        With every fault found, each with file, line and column.
    """
    source = Source.read(path)
    for key, value in (("budget", budget), ("simulations", simulations)):
        if value is not None:
            source = source.edited(Edit.of(key, value, f"--{key}"))
    try:
        section = FleetSection.model_validate(source.data)
    except ValidationError as error:
        raise ConfigError([*source.problems, *problems_of(error, source, FleetSection)]) from error
    problems = list(source.problems)
    experiment = source.file(("experiment",), section.experiment)
    if not experiment.is_file():
        problems.append(source.problem(("experiment",), f"no such file: {experiment}"))
    offers: list[Offer] = []
    for number, entry in enumerate(section.offers):
        at = ("offers", number)
        file = source.file((*at, "gpu"), entry.gpu) if is_file_name(entry.gpu) else None
        if file is None and entry.gpu not in catalog.gpu_names():
            problems.append(source.problem((*at, "gpu"), unknown_name("GPU", entry.gpu, catalog.gpu_names())))
            continue
        gpu = catalog.load_gpu(file or entry.gpu)
        price = gpu.cost_usd_per_hour * entry.gpus if entry.price is None else units.parse(entry.price, "price")
        if not price > 0:
            problems.append(source.problem((*at, "price"), f"{gpu.name} needs a price above zero, such as 1.10 $/h"))
        name = entry.gpu if file is None else str(file.resolve())
        offer = Offer(name, entry.gpus, entry.region, price, entry.available)
        if any((one.gpu, one.gpus, one.region) == (offer.gpu, offer.gpus, offer.region) for one in offers):
            problems.append(source.problem(at, f"{offer.label} is offered twice"))
        offers.append(offer)
    if problems:
        raise ConfigError(problems)
    return FleetPlan(
        name=section.name or path.stem,
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
