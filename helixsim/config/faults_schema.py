"""The ``faults`` section of exp.yaml: nodes and links that fail during a run."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from helixsim.config.fields import Bandwidth, Duration, Latency, Size
from helixsim.validation import Section

Patterns = Annotated[list[str], Field(min_length=1)]


class LinksSection(Section):
    """Links between two groups of ends, in both directions."""

    from_: Patterns = Field(
        alias="from",
        description="Ends: ids of nodes, patterns, `gpu:t4`, `region:eu` (with the coordinator, if it is there), or "
        "`coordinator`.",
    )
    to: Patterns | None = Field(None, description="The ends on the other side (default: all others).")


class FaultSection(Section):
    """A fault at a stated time: of nodes, or of links."""

    at: Latency = Field(description="Time since the start of the run, warm-up included.")
    kind: Literal["down", "up", "join", "slow", "cut"] = Field(
        "down",
        description="`down`: the nodes stop and lose their KV memory; `up`: they are back; `join`: they are there from "
        "now on, and were not at the start; `slow`: their steps take `factor` times as long, or links have a `factor` "
        "less bandwidth and `extra_latency`; `cut`: nothing passes the links.",
    )
    nodes: Patterns | None = Field(None, description="Ids, patterns such as `l4-*`, `gpu:t4`, or `region:eu`.")
    links: LinksSection | None = Field(None, description="The links of `cut`, or of `slow`.")
    for_: Duration | None = Field(None, alias="for", description="How long it lasts (default: to the end of the run).")
    factor: Annotated[float, Field(ge=0.01, le=1000)] | None = Field(
        None, description="Factor on the step times of `slow` nodes, or by which the bandwidth of links is divided."
    )
    extra_latency: Latency | None = Field(None, description="Added to the latency of `slow` links.")
    notice: Duration | None = Field(
        None,
        description="Time by which `down` is announced before: from then on the nodes get no new requests (spot "
        "instances: 2 min at AWS, 30 s at Google Cloud and Azure; default: it is not announced).",
    )


class RandomFaultsSection(Section):
    """Failures and repairs drawn at random, after exponentially distributed times."""

    mtbf: Duration = Field(description="Mean time from a repair to the next failure, of each machine or site.")
    mttr: Duration = Field(description="Mean time from a failure to the repair.")
    correlated_by: Literal["host", "site"] = Field(
        "host", description="What fails as a whole: a machine, or all nodes of a region."
    )
    notice: Duration | None = Field(None, description="Time by which failures are announced before, as in `events`.")
    nodes: Patterns | None = Field(
        None, description="Nodes that fail, written as in `events` (default: all that `events` does not name)."
    )


class RandomLinksSection(Section):
    """Cuts of the links between sites (regions), after exponentially distributed times."""

    mtbf: Duration = Field(description="Mean time from the end of a cut to the next one, of each two sites.")
    mttr: Duration = Field(description="Mean time of a cut.")


class RetrySection(Section):
    """Requests whose KV memory is lost are sent again."""

    limit: Annotated[int, Field(ge=0, le=10**6)] = Field(
        2, description="A request that has lost its KV memory more often fails (OpenAI's client: `max_retries`)."
    )
    timeout: Duration = Field(
        "600 s",
        description="A request that has waited so long at the coordinator since its arrival, or its last loss, fails "
        "(OpenAI's client: `timeout`).",
    )


class ClientsSection(Section):
    """Clients that give up, and send their requests again; the defaults are those of OpenAI's Python client."""

    timeout: Duration = Field("600 s", description="Time from sending a request until its client gives it up.")
    until: Literal["first_token", "end"] = Field(
        "end", description="What the client waits for: the first token (streaming) or the whole answer."
    )
    retries: Annotated[int, Field(ge=0, le=10**6)] = Field(
        2, description="Largest number of times that a request is sent again."
    )
    backoff: Latency = Field("500 ms", description="Wait before it is sent again; doubled each time.")
    most_backoff: Latency = Field("8 s", description="The longest wait.")
    jitter: Annotated[float, Field(ge=0, le=1)] = Field(
        0.25, description="Each wait is shorter by a random share of at most this."
    )


class ReplicateSection(Section):
    """Copies of the KV memory of running requests in the host memory of other replicas."""

    copies: Annotated[int, Field(ge=1, le=100)] = Field(description="Other replicas that have one.")
    when: Literal["always", "notice"] = Field(
        "always",
        description="`always`: all requests are copied; `notice`: those on machines that have got notice, from "
        "then on, so that they move before the machine stops.",
    )
    interval: Duration = Field("0.1 s", description="A replica sends what is new so often.")
    memory: Size | None = Field(
        None,
        description="Host memory of each replica for copies; what it cannot hold is not copied (default: no limit).",
    )
    load: Bandwidth = Field(
        "25 GB/s", description="Rate at which a node reads a copy from its own host memory (PCIe 4.0 x16 in practice)."
    )


class FaultsSection(Section):
    """Nodes and links that fail during a run (docs/faults.md); placements are searched without faults."""

    events: list[FaultSection] = Field([], description="Faults at stated times.")
    random: RandomFaultsSection | None = Field(None, description="Further faults, drawn at random.")
    random_links: RandomLinksSection | None = Field(None, description="Cuts between sites, drawn at random.")
    detection: Latency = Field(
        "5 s", description="Time until the coordinator knows of a failure or a cut, unless that is over sooner."
    )
    retry: RetrySection = Field(RetrySection(), description="What becomes of requests whose KV memory is lost.")
    clients: ClientsSection | None = Field(
        None, description="Clients that give up and send their requests again (default: they wait)."
    )
    replicate: ReplicateSection | None = Field(
        None, description="Requests that are lost go on from copies of their KV memory (default: there are none)."
    )
    reaction: Literal["static", "reroute", "replace"] = Field(
        "static",
        description="`static`: routes through nodes known to be down are left out; `reroute`: requests are also routed "
        "by the max-flow of the nodes that are left; `replace`: one of these, or the model is placed anew on them, as "
        "simulations of the loss show.",
    )
    reaction_delay: Latency = Field("0 s", description="Time from the detection until `reroute` or `replace` begins.")
    load_rate: Bandwidth = Field(
        "16 Gbit/s", description="Weights that each node loads with `replace`, those of layers that it did not hold."
    )
    startup: Latency = Field("60 s", description="Time that engines take to start after the weights are loaded.")
    horizon: Duration = Field(
        "10 min", description="Time after a loss for which `replace` compares reactions: that to a repair, for example."
    )
