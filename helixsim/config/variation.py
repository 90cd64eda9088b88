"""Sections that change an experiment as a whole: factors on links and traffic, assumptions of planners."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from helixsim.config.fields import Rate, Seed
from helixsim.validation import Section

Factor = Annotated[float, Field(ge=1e-6, le=1e6)]


class LinkFactorSection(Section):
    """Factors on the links of a class."""

    bandwidth: Factor = Field(1.0, description="Factor on every bandwidth.")
    latency: Annotated[float, Field(ge=0, le=1e6)] = Field(1.0, description="Factor on every latency.")


class LinkScaleSection(Section):
    """Factors on all links, including exceptions."""

    intra_region: LinkFactorSection = Field(LinkFactorSection(), description="Links inside a region.")
    inter_region: LinkFactorSection = Field(LinkFactorSection(), description="Links between regions.")


class TrafficScaleSection(Section):
    """Factors on the traffic."""

    rate: Factor = Field(1.0, description="Factor on requests per second (closed loops: on requests in the system).")
    prompt_tokens: Factor = Field(1.0, description="Factor on every prompt length.")
    output_tokens: Factor = Field(1.0, description="Factor on every output length.")


class PlanningSection(Section):
    """Load assumed by planners, if it differs from the simulated load."""

    seed: Seed | None = Field(
        None, description="Seed of the placement search and its short simulations (default: that of the experiment)."
    )
    rate: Rate | None = Field(
        None, description="Requests per second of the short simulations (default: that of the workload)."
    )
