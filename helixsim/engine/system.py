"""The two kinds of simulated systems as one run sees them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from helixsim.domain.autoscaling import AutoscalingStats
from helixsim.domain.flowplan import Route
from helixsim.domain.placement import LayerRange
from helixsim.domain.request import Request
from helixsim.domain.result import OffloadStats, RequestStatus, TransferStats
from helixsim.engine.network import NetworkFabric


class Numbered(Protocol):
    """A route, by its number among the routes of the run."""

    @property
    def number(self) -> int:
        """The number."""
        ...


class Recorded(Protocol):
    """What the recorder writes of a request."""

    request: Request
    row: int
    arrival_ns: int
    admitted_ns: int
    first_token_ns: int
    generated: int
    preemptions: int
    cached_tokens: int
    queue_ns: int
    compute_ns: int

    @property
    def loaded(self) -> Mapping[str, int] | None:
        """What came from the memory behind the GPUs, by column; None: nothing."""
        ...

    @property
    def prompt_tokens(self) -> int:
        """Length of the prompt [tokens]."""
        ...

    @property
    def network_ns(self) -> int:
        """Time on the network [ns]."""
        ...

    @property
    def path(self) -> Numbered | None:
        """Its route; None: it has none now."""
        ...


@dataclass(frozen=True, slots=True)
class Memory:
    """KV memory of a node, or of a replica, in whatever unit its owner counts.

    ``expected`` is the sum over its requests, which ``used`` must equal; ``reserved`` is what is promised, at least
    ``used``. ``stays``: also when no request is left.
    """

    owner: str
    used: int
    expected: int
    capacity: int
    reserved: int
    stays: bool = False


@dataclass(frozen=True, slots=True)
class NodeLoad:
    """What a node has done up to now, and does."""

    node_id: str
    range: LayerRange
    busy_ns: int
    kv_used: float
    queue_length: int
    kv_blocks: int
    kv_peak_blocks: int
    batches: int
    prompt_tokens: int
    decode_tokens: int
    preemptions: int


class Link(Protocol):
    """What one direction of a link, or a class of traffic on it, has carried; see ``network.Channel``."""

    src: str
    dst: str
    messages: int
    bytes_sent: int
    bytes_received: int
    queue_ns: int

    def busy_until(self, now_ns: int) -> int:
        """Return the time spent sending up to now [ns]."""
        ...

    def bytes_until(self, now_ns: int) -> int:
        """Return the bytes that have passed up to now."""
        ...


class System(Protocol):
    """Nodes that serve requests: each by itself (``node_system``), or in replicas (``replica_system``)."""

    fabric: NetworkFabric

    @property
    def running(self) -> int:
        """Requests that have been admitted and have not ended."""
        ...

    @property
    def num_waiting(self) -> int:
        """Requests that have arrived and wait for admission."""
        ...

    @property
    def is_drained(self) -> bool:
        """Whether all requests have ended."""
        ...

    @property
    def recomputed_tokens(self) -> int:
        """Tokens computed again after preemptions."""
        ...

    @property
    def truncated_outputs(self) -> int:
        """Requests whose output was cut at the context of the model."""
        ...

    def start(self) -> None:
        """Let the first requests in."""
        ...

    def nodes(self, now_ns: int) -> list[NodeLoad]:
        """Return the state of each node, in the order of the placement."""
        ...

    def unfinished(self, now_ns: int) -> Iterator[tuple[Recorded, RequestStatus]]:
        """Return the requests that have arrived and not ended, with their states."""
        ...

    def routes(self) -> tuple[Route, ...]:
        """Return the routes by number."""
        ...

    def links(self) -> Sequence[Link]:
        """Return the links with traffic."""
        ...

    def transfers(self) -> TransferStats | None:
        """Return the KV transfers that have ended; None: prefill and decode share their nodes."""
        ...

    def offloading(self) -> OffloadStats | None:
        """Return what the memory behind the GPUs has kept; None: there is none."""
        ...

    def autoscaling(self) -> AutoscalingStats | None:
        """Return the replicas of each pool over time; None: all serve all the time."""
        ...

    def memories(self) -> Iterable[Memory]:
        """Return the KV memory of each node or replica."""
        ...

    def idle_with_work(self, now_ns: int) -> list[str]:
        """Return the nodes that compute nothing though something they could compute waits at them."""
        ...

    def first_in_line(self) -> str:
        """Return a clause on the request that waits in front, empty if none does."""
        ...
