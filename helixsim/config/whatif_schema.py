"""The format of ``whatif:`` blocks."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field

from helixsim.config.fields import Name
from helixsim.config.variation import LinkScaleSection, TrafficScaleSection
from helixsim.validation import Section


class SwapSection(Section):
    """Replacement of one GPU type by another."""

    from_: str = Field(alias="from", description="GPU to replace.")
    to: str = Field(description="New GPU, the same number.")
    region: str | None = Field(None, description="Only in this region.")


class WhatifSection(Section):
    """A variant of the experiment; its systems are compared with the unchanged ones as `SYSTEM+NAME`."""

    name: Name = Field(description="Name of the variant.")
    systems: Annotated[list[str], Field(min_length=1)] | None = Field(
        None, description="Systems of the variant (default: all)."
    )
    add: list[dict[str, Any]] = Field([], description="Nodes to add, as in `cluster.nodes`.")
    lose: list[str] = Field(
        [],
        description="Nodes that fail, still paid for: ids, patterns such as `l4-*`, `gpu:t4`, or `region:eu`.",
    )
    remove: list[str] = Field([], description="Nodes to give up, which cost nothing any more; written as in `lose`.")
    swap: list[SwapSection] = Field([], description="GPUs to replace.")
    links: LinkScaleSection | None = Field(None, description="Factors on links, times `cluster.network.scale`.")
    traffic: TrafficScaleSection | None = Field(None, description="Factors on traffic, times `workload.scale`.")
    model: str | None = Field(None, description="Model.")
    precision: str | None = Field(None, description="Number format of the weights.")
    set_: dict[str, Any] = Field({}, alias="set", description="Other changes: key -> value.")
    replan: bool = Field(
        True,
        description="Whether the model is placed again; false: the unchanged placement on the remaining nodes.",
    )
