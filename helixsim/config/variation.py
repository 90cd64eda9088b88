"""Sections that change an experiment as a whole: factors on links and traffic, what planners suppose."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from helixsim.config.fields import Rate, Seed
from helixsim.validation import Section

Factor = Annotated[float, Field(ge=1e-6, le=1e6)]


class LinkFactorSection(Section):
    """What the links of a class are multiplied with."""

    bandwidth: Factor = Field(1.0, description="Factor on every bandwidth.")
    latency: Annotated[float, Field(ge=0, le=1e6)] = Field(1.0, description="Factor on every latency.")


class LinkScaleSection(Section):
    """Slower or faster links, exceptions included."""

    intra_region: LinkFactorSection = Field(LinkFactorSection(), description="Links inside a region.")
    inter_region: LinkFactorSection = Field(LinkFactorSection(), description="Links between regions.")


class TrafficScaleSection(Section):
    """More or less of the same traffic."""

    rate: Factor = Field(1.0, description="Factor on requests per second (closed loops: on requests in the system).")
    prompt_tokens: Factor = Field(1.0, description="Factor on every prompt length.")
    output_tokens: Factor = Field(1.0, description="Factor on every output length.")


class PlanningSection(Section):
    """What planners suppose when they try placements, where it is not the load that is simulated afterwards."""

    seed: Seed | None = Field(
        None, description="Seed of the placement search and its trial runs; without: the experiment's."
    )
    rate: Rate | None = Field(
        None, description="Requests per second of the trial runs; without: that of the workload's arrivals."
    )
