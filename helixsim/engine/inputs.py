"""What one run of the simulation is given."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from helixsim.batching.base import BatchingPolicy
from helixsim.domain.autoscaling import AutoscalingSpec, Pool
from helixsim.domain.clients import ClientSpec
from helixsim.domain.cluster import Deployment
from helixsim.domain.disaggregation import KvTransfer
from helixsim.domain.engine import IDEAL, EngineSpec
from helixsim.domain.faults import Fault, LinkFault, Outage, Replication
from helixsim.domain.flowplan import FlowPlan
from helixsim.domain.placement import Placement
from helixsim.domain.request import Feed, Slo, Window
from helixsim.domain.timeline import Timeline
from helixsim.routing.base import RoutingGraph, RoutingPolicy


@dataclass(frozen=True, slots=True)
class Patience:
    """When a run may end before its window does: enough first tokens were late to settle how it would be judged.

    Parameters
    ----------
    ttft_ns
        A first token that takes longer than this is late [ns].
    most_late
        So many may be late in the window; the run ends at the first sample that finds more.
    least_ns
        Measure at least so long [ns]. The window then ends with the run.
    """

    ttft_ns: int
    most_late: int
    least_ns: int


@dataclass(frozen=True)
class Leg:
    """The replicas that serve one phase, and the policy that routes it.

    ``caches_prefixes``: those that serve this phase alone keep KV blocks and share them.
    """

    graph: RoutingGraph
    policy: RoutingPolicy
    caches_prefixes: bool = False


@dataclass(frozen=True)
class Legs:
    """Prefill and decode on different nodes, by the roles in the cluster; nodes that serve both are in both legs.

    ``most_local_tokens``: a prompt of which the replica that will decode it has all but so many tokens in its prefix
    cache is computed there; None: none is. ``prefill_share``: share of a prompt that is computed on the prefill side;
    the replica that decodes computes the rest. None: by the state of both sides (``routing.prompt_balance``).
    """

    prefill: Leg
    decode: Leg
    transfer: KvTransfer
    most_local_tokens: int | None = None
    prefill_share: float | None = 1.0

    def first_tokens(self, prompt_tokens: int, block_tokens: int) -> int:
        """Return how many tokens the prefill side computes by a stated share: whole blocks, at least one."""
        if self.prefill_share is None or self.prefill_share == 1.0:
            return prompt_tokens
        blocks = max(1, int(self.prefill_share * prompt_tokens) // block_tokens)
        return min(prompt_tokens, blocks * block_tokens)


@dataclass(frozen=True)
class Autoscaling:
    """Pools whose number of replicas follows the load, and the objectives by which it may."""

    spec: AutoscalingSpec
    pools: tuple[Pool, ...]
    slo: Slo


@dataclass(frozen=True)
class FaultPlan:
    """Faults of a run in the order of time, and the reactions to them; times as in ``domain.faults.FaultSpec``.

    ``reroute`` returns the policy that routes by the max-flow without some nodes and links, or the legs with theirs;
    None if they leave no route. ``replace`` returns another placement or policy without some; None: both stay. Its
    argument ``serves`` tells whether the placement of before is loaded. Without either, policy and placement stay.
    ``links``: faults of links; without any, links cost what they cost where nothing fails. ``clients``: None: they wait
    as long as it takes. ``replication``: None: KV memory is not copied. ``absent``: nodes without layers that join
    later.
    """

    faults: tuple[Fault, ...]
    detection_ns: int
    retry_limit: int
    timeout_ns: int
    delay_ns: int = 0
    reroute: Callable[[Outage], RoutingPolicy | Legs | None] | None = None
    replace: React | None = None
    links: tuple[LinkFault, ...] = ()
    clients: ClientSpec | None = None
    replication: Replication | None = None
    absent: frozenset[str] = frozenset()


class React(Protocol):
    """The reaction to nodes and links that are out."""

    def __call__(self, out: Outage, *, serves: bool) -> Replacement | RoutingPolicy | None:
        """Return another placement, or another policy for the same one; None: both stay."""
        ...


@dataclass(frozen=True)
class Replacement:
    """A placement on other nodes, and the time that these take to load their layers and to start [ns]."""

    inputs: SimulationInputs
    load_ns: int


@dataclass(frozen=True)
class SimulationInputs:
    """Everything one run needs.

    ``expected_output_tokens`` is what admission assumes of a request whose output length nobody knows.
    ``is_one_by_one``: the requests of a batch travel as a message each, as in Helix's prototype, instead of as one
    message for all that go the same way. ``engine``: its overheads. ``sample_ns`` is the interval of the time series,
    None: chosen from the window. ``check``: test the laws on memory and idle nodes at every sample instead of only at
    the end. ``patience``: end the run early; None: never. ``timeline``: where iterations and messages are recorded, and
    where the run ends with the part that is recorded; None: they are not, which costs no time. ``legs``: None: all
    nodes serve both phases; otherwise ``graph`` is of all nodes and ``policy`` not used. ``autoscaling``: None: all
    replicas serve all the time; ``faults``: None: no node fails; both cost no time then.
    """

    fleet: Deployment
    placement: Placement
    plan: FlowPlan
    graph: RoutingGraph
    policy: RoutingPolicy
    batching: BatchingPolicy
    feed: Feed
    window: Window
    high_water: float
    expected_output_tokens: float
    seed: int
    is_one_by_one: bool = False
    engine: EngineSpec = IDEAL
    sample_ns: int | None = None
    check: bool = False
    patience: Patience | None = None
    timeline: Timeline | None = None
    legs: Legs | None = None
    autoscaling: Autoscaling | None = None
    faults: FaultPlan | None = None
