"""The format of ``whatif:`` blocks."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field

from helixsim.config.fields import Name
from helixsim.config.variation import LinkScaleSection, TrafficScaleSection
from helixsim.validation import Section


class SwapSection(Section):
    """One GPU type in place of another."""

    from_: str = Field(alias="from", description="GPU that goes.")
    to: str = Field(description="GPU that comes, as many of them.")
    region: str | None = Field(None, description="Only in this region.")


class WhatifSection(Section):
    """A change of the experiment; its systems run beside the unchanged ones as `SYSTEM+NAME`."""

    name: Name = Field(description="What the change is called.")
    systems: Annotated[list[str], Field(min_length=1)] | None = Field(
        None, description="Systems it is tried on; without: all."
    )
    add: list[dict[str, Any]] = Field([], description="Nodes that come, as in `cluster.nodes`.")
    lose: list[str] = Field([], description="Nodes that go: ids, patterns such as `l4-*`, `gpu:t4`, or `region:eu`.")
    swap: list[SwapSection] = Field([], description="GPUs that are replaced by others.")
    links: LinkScaleSection | None = Field(None, description="Factors on links, on top of `cluster.network.scale`.")
    traffic: TrafficScaleSection | None = Field(None, description="Factors on traffic, on top of `workload.scale`.")
    model: str | None = Field(None, description="Another model.")
    precision: str | None = Field(None, description="Another number format of the weights.")
    set_: dict[str, Any] = Field({}, alias="set", description="Any other keys: key -> value.")
    replan: bool = Field(
        True,
        description="Whether the model is placed anew; false: the placement of before, on the nodes that are left.",
    )
