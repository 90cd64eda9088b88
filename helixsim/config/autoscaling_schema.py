"""The ``autoscaling`` section of a system in exp.yaml (docs/autoscaling.md)."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field

from helixsim.config.fields import Bandwidth, Duration, FewCount, Latency, Name, Share
from helixsim.domain.autoscaling import Metric
from helixsim.validation import Count, Section, Words


class PoolSection(Section):
    """The replicas on nodes of one type."""

    floor: Annotated[int, Field(ge=0, le=10**6)] = Field(
        1,
        description="Fewest replicas. With 0 the first one is started when requests wait, or when others have too much "
        "load (`activation`).",
    )
    ceiling: Annotated[int, Field(ge=0, le=10**6)] | None = Field(
        None, description="Most replicas (default: as many as the placement has). With 0 the pool is not used."
    )
    start: Annotated[int, Field(ge=0, le=10**6)] | None = Field(
        None, description="Replicas at the beginning (default: `floor`; `fixed`: all, `schedule`: those of its time)."
    )
    target: Annotated[float, Field(gt=0, le=1e9)] | None = Field(
        None, description="Value of the metric of `policy: target` to keep here (default: that of all pools)."
    )
    activation: Annotated[float, Field(gt=0, le=1e6)] | None = Field(
        None,
        description="Of `floor: 0`: the first replica is started when the mean over all other replicas that serve is "
        "above so many times the target (`queue`, `kv_use`: `high`; `goodput`: the share beyond the objectives that it "
        "allows), and none of them starts (default: 1).",
    )


class ScheduleEntrySection(Section):
    """An entry of a schedule."""

    at: Latency = Field(description="Time within the period.")
    replicas: Count = Field(description="Replicas from then on.")


class StartupSection(Section):
    """What a replica needs from the decision to its first request; the times follow each other."""

    machine: Latency = Field("60 s", description="Until the machine runs and has the container.")
    engine: Latency = Field("64 s", description="Start of the engine without reading the weights.")
    weights: Bandwidth = Field("8 Gbit/s", description="Rate at which each node reads its weights.")


class ShortageSection(Section):
    """A time in which a zone has no spot machines."""

    zone: FewCount = Field(description="Number of the zone, from 1: by turn, or by region in the order of the nodes.")
    at: Latency = Field(description="Time since the start of the run, warm-up included.")
    for_: Duration = Field(alias="for", description="How long it lasts.")


class SpotSection(Section):
    """Replicas on spot machines, which a zone has for a time and then takes back."""

    policy: Words = Field(
        "spot_hedge",
        description="`spot_hedge`: as many spot replicas as are wanted and `spare` ones (1), and on demand as many as "
        "are missing (SkyServe); `spot_only`: with `spare` (0); `fixed_share`: a share `on_demand` (0.1); `on_demand`; "
        "or your own, `module:function`.",
    )
    options: dict[str, Any] | None = Field(None, description="Options of the policy.")
    price: Share = Field(0.35, description="Price of a spot machine as a share of that on demand.")
    zones: FewCount | None = Field(
        None, description="Zones into which the replicas of a pool are put in turn (default: regions of their nodes)."
    )
    available: Duration = Field("2 h", description="Mean time for which a zone has spot machines.")
    short: Duration = Field("30 min", description="Mean time for which it has none; its spot replicas are preempted.")
    notice: Latency = Field("2 min", description="From the notice of a preemption until the machine is taken.")
    shortages: list[ShortageSection] | None = Field(
        None, min_length=1, description="Recorded shortages, in place of random ones."
    )


class AutoscalingSection(Section):
    """Replicas whose number follows the load, in pools of one type of node each."""

    policy: Words = Field(
        description="`target`: Kubernetes' rule, `ceil(replicas * metric / target)`; `queue`, `kv_use`: one more above "
        "`high`, one less below `low`; `goodput`: one more while requests miss the objectives; `schedule`: by time; "
        "`fixed`: never changed; or your own, `module:function` (docs/own-policy.md)."
    )
    options: dict[str, Any] | None = Field(None, description="Options of a policy of your own.")
    metric: Metric | None = Field(
        None,
        description="Of `target`, the mean over replicas that serve: `in_flight` requests (default), of these "
        "`waiting`, `kv_use` (0..1), or `rate` (requests/s).",
    )
    target: Annotated[float, Field(gt=0, le=1e9)] | None = Field(None, description="Value of the metric to keep.")
    tolerance: Annotated[float, Field(ge=0, le=10)] | None = Field(
        None, description="Of `target`: no change while metric / target is within 1 ± this (default: 0.1)."
    )
    high: Annotated[float, Field(gt=0, le=1e9)] | None = Field(
        None,
        description="Waiting requests per replica (`queue`, default: 1), or share of KV memory in use (`kv_use`, 0.8), "
        "above which one replica is added.",
    )
    low: Annotated[float, Field(ge=0, le=1e9)] | None = Field(
        None, description="The same, below which one replica is given up (`queue`, default: 0.1; `kv_use`, 0.4)."
    )
    least: Share | None = Field(
        None, description="Of `goodput`: share of requests that meet the objectives (default: 0.99)."
    )
    schedule: list[ScheduleEntrySection] | None = Field(None, min_length=1, description="Entries in order of time.")
    period: Duration | None = Field(None, description="Time after which the schedule repeats (default: 24 h).")
    pools: dict[Name, PoolSection] | None = Field(
        None,
        description="Pools by the type of their nodes (`h100x8`); other replicas always serve (default: all types).",
    )
    interval: Duration = Field("15 s", description="Time between two evaluations of the policy; 1 ms at least.")
    stabilisation: Latency = Field(
        "5 min", description="A pool shrinks only to the largest number that was decided within this time."
    )
    startup: StartupSection = Field(StartupSection(), description="Time from the decision to the first request.")
    spot: SpotSection | None = Field(None, description="Replicas on spot machines (default: all on demand).")
    window: Duration = Field("15 min", description="Length of the windows of the perfect autoscaler.")


OF_POLICY: dict[str, tuple[str, ...]] = {
    "fixed": (),
    "schedule": ("schedule", "period"),
    "queue": ("high", "low"),
    "kv_use": ("high", "low"),
    "goodput": ("least",),
    "target": ("metric", "target", "tolerance"),
}
"""Keys that each policy uses."""

REQUIRED: dict[str, Literal["schedule", "target"]] = {"schedule": "schedule", "target": "target"}
"""Keys that it cannot do without."""
