"""The format of exp.yaml with ``tenants``: several experiments that divide the nodes of one cluster."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Discriminator, Field, Tag

from helixsim.config.fields import Name, Seed
from helixsim.validation import Count, Section

OF_AN_EXPERIMENT = "As in exp.yaml without tenants"
"""How the reference describes the keys that the experiments of the tenants check."""


class _ExperimentKeys(Section):
    """Keys of an experiment, which its own schema checks."""

    model: Any = Field(None, description=f"{OF_AN_EXPERIMENT}: the model.")
    precision: Any = Field(None, description=f"{OF_AN_EXPERIMENT}.")
    kv_precision: Any = Field(None, description=f"{OF_AN_EXPERIMENT}.")
    max_context_tokens: Any = Field(None, description=f"{OF_AN_EXPERIMENT}.")
    workload: Any = Field(None, description=f"{OF_AN_EXPERIMENT}: the load and its window.")
    systems: Any = Field(None, description=f"{OF_AN_EXPERIMENT}: one system.")
    slo: Any = Field(None, description=f"{OF_AN_EXPERIMENT}: the objectives.")
    engine: Any = Field(None, description=f"{OF_AN_EXPERIMENT}.")
    kv: Any = Field(None, description=f"{OF_AN_EXPERIMENT}.")
    capacity: Any = Field(None, description=f"{OF_AN_EXPERIMENT}.")
    planning: Any = Field(None, description=f"{OF_AN_EXPERIMENT}.")
    report: Any = Field(None, description=f"{OF_AN_EXPERIMENT}.")
    faults: Any = Field(None, description=f"{OF_AN_EXPERIMENT}: those of nodes, each for the tenant that has the node.")


EXPERIMENT_KEYS = tuple(_ExperimentKeys.keys())
"""Keys that a tenant has of its own, or shares with the others where the file states them beside ``tenants``."""


def _list_or_counts(value: object) -> str:
    """Return the tag of stated nodes, so that errors concern one form only."""
    return "counts" if isinstance(value, dict) else "list"


StatedNodes = Annotated[
    Annotated[list[str], Tag("list")] | Annotated[dict[str, Count], Tag("counts")], Discriminator(_list_or_counts)
]


class TenantSection(_ExperimentKeys):
    """A tenant: an experiment on its part of the nodes; its keys replace those of the file."""

    name: Name = Field(description="Name of the tenant and of its experiment.")
    weight: Annotated[float, Field(ge=1e-6, le=1e6)] = Field(
        1.0, description="Weight of its share of requests within the objectives."
    )
    priority: Annotated[int, Field(ge=-(10**9), le=10**9)] = Field(
        0, description="Tenants with a lower value are planned for first, as long as others cannot be."
    )
    nodes: StatedNodes | None = Field(
        None,
        description="Its nodes: ids, patterns such as `l4-*`, `gpu:t4`, `region:eu`, or a number of each node type, "
        "`{l40sx4: 3}` (default: planned, for all tenants together).",
    )
    with_: Name | None = Field(
        None,
        alias="with",
        description="Tenant that serves its requests as well: on its nodes, with its model, system and engine. Their "
        "`priority` is then that of their requests in the engine's queue (default: it has nodes of its own).",
    )


class TenantsSection(_ExperimentKeys):
    """Several experiments, each with a model, a load and objectives of its own, on one cluster."""

    model_config = ConfigDict(title="helixsim tenants", protected_namespaces=())

    schema_: Literal[1] = Field(alias="schema", description="Version of this format.")
    name: Name | None = Field(None, description="Name of the whole (default: that of the file).")
    seed: Seed = Field(0, description="Seed of all random streams, of each tenant.")
    cluster: Any = Field(description="The cluster, as in exp.yaml without tenants.")
    tenants: list[TenantSection] = Field(min_length=1, max_length=20, description="The tenants.")
    division: Literal["joint", "proportional", "equal"] = Field(
        "joint",
        description="How nodes are divided that no tenant states: `joint` plans for all tenants together, by "
        "simulation; `proportional` gives each a part of every kind of nodes by its tokens/s times the weights of its "
        "model, and `equal` the same part.",
    )
