"""Systems whose model is placed anew during a run: one system after the other, on the nodes that are left.

All nodes stop when a new placement is to be loaded, and their requests wait. When the last node has its layers, another
system begins, and serves the requests of the one before. Messages still under way reach nodes that have stopped.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from helixsim.domain.autoscaling import AutoscalingStats
from helixsim.domain.clients import ClientSpec
from helixsim.domain.faults import CopyStats, Outage
from helixsim.domain.flowplan import Route
from helixsim.domain.request import FeedMode
from helixsim.domain.result import OffloadStats, RequestStatus, TransferStats
from helixsim.engine.clients import Clients
from helixsim.engine.copying_replicas import CopyingSystem
from helixsim.engine.copying_scaled import CopyingScaledSystem, CopyingSpotSystem
from helixsim.engine.fabric import fabric_of
from helixsim.engine.faults import Retries
from helixsim.engine.faulty_legs import FaultyLegSystem
from helixsim.engine.faulty_nodes import FaultyNodeSystem
from helixsim.engine.faulty_replicas import FaultyReplicaSystem
from helixsim.engine.faulty_scaled import FaultyScaledSystem
from helixsim.engine.inputs import Legs, SimulationInputs
from helixsim.engine.kernel import Kernel
from helixsim.engine.link_faults import Links
from helixsim.engine.network import NetworkFabric
from helixsim.engine.recorded import recorded
from helixsim.engine.recorder import Recorder
from helixsim.engine.replica_system import has_replicas
from helixsim.engine.sequences import Sequence as Running
from helixsim.engine.spot_system import SpotSystem
from helixsim.engine.state import ActiveRequest
from helixsim.engine.system import Link, Memory, NodeLoad, Recorded
from helixsim.errors import ConfigError, Problem
from helixsim.routing.base import RoutingPolicy

Part = FaultyNodeSystem | FaultyReplicaSystem


class LinkSum:
    """What the links between two ends have carried, one after the other (a ``Link``)."""

    def __init__(self, parts: Sequence[Link]) -> None:
        self._parts = parts
        self.src, self.dst = parts[0].src, parts[0].dst
        self.messages = sum(part.messages for part in parts)
        self.bytes_sent = sum(part.bytes_sent for part in parts)
        self.bytes_received = sum(part.bytes_received for part in parts)
        self.queue_ns = sum(part.queue_ns for part in parts)

    def busy_until(self, now_ns: int) -> int:
        """See ``Link.busy_until``."""
        return sum(part.busy_until(now_ns) for part in self._parts)

    def bytes_until(self, now_ns: int) -> int:
        """See ``Link.bytes_until``."""
        return sum(part.bytes_until(now_ns) for part in self._parts)


class ReplacingSystem:
    """Systems of the same nodes, one after the other (a ``System``, and a ``faults.FaultySystem``)."""

    def __init__(self, inputs: SimulationInputs, kernel: Kernel, fabric: NetworkFabric, recorder: Recorder) -> None:
        assert inputs.faults is not None
        self.fabric = fabric
        self._inputs = inputs
        self._kernel = kernel
        self._recorder = recorder
        self.retries = Retries(inputs.faults, kernel, recorder)
        self.link_faults = Links()
        clients = inputs.faults.clients
        self.clients = None if clients is None else self._clients_of(clients, inputs)
        self._parts: list[Part] = []
        self._is_paused = False
        self._begin(inputs, fabric)

    def _begin(self, inputs: SimulationInputs, fabric: NetworkFabric) -> Part:
        if inputs.faults is not None and inputs.faults.links:
            timeline = self._inputs.timeline
            maker = (lambda own: own) if timeline is None else partial(recorded, timeline=timeline)
            fabric.kind = partial(self.link_faults.kind, maker=maker)
        part: Part = _kind(inputs)(inputs, self._kernel, fabric, self._recorder, self.retries, len(self.routes()))
        if self.clients is not None:
            part.gate.clients = self.clients
            self.clients.enter, self.clients.enter_next = part.gate.enter, part.gate.enter_next
        self._parts.append(part)
        return part

    def _clients_of(self, spec: ClientSpec, inputs: SimulationInputs) -> Clients:
        is_loop = inputs.feed.mode is FeedMode.CLOSED_LOOP
        clients = Clients(spec, self._kernel, self._recorder, inputs.seed, is_loop)
        # what has ended in a system before may be on its way to its client
        clients.abort = lambda request: any(part.gate.abort(request) for part in reversed(self._parts))
        return clients

    @property
    def _now(self) -> Part:
        return self._parts[-1]

    def pause(self) -> None:
        """Stop all nodes; their requests wait."""
        nodes = list(self._now.inputs.placement.ranges)
        self._now.stop(nodes)
        stopped = Outage(frozenset(nodes))
        self._now.lose(stopped, stopped, by_plan=True)
        self.link_faults.close_all()
        self._is_paused = True

    def resume(self, inputs: SimulationInputs) -> None:
        """Let the requests that wait, and those to come, be served by another placement."""
        before = self._now
        inputs = replace(inputs, feed=self._inputs.feed, faults=self._inputs.faults, timeline=self._inputs.timeline)
        after = self._begin(inputs, fabric_of(inputs, self._kernel))
        self.fabric = after.fabric
        self._is_paused = False
        waiting = before.gate.hand_over(after.gate)
        kind = Running if isinstance(after, FaultyReplicaSystem) else ActiveRequest
        adopted: list[Any] = [one if isinstance(one, kind) else _converted(one) for one in waiting]
        if self.clients is not None:
            for one in adopted:
                self.clients.now_is(one)
        after.gate.adopt(adopted)

    # As a system whose nodes can fail ---------------------------------------------------------------------------------

    def stop(self, nodes: Iterable[str]) -> None:
        """See ``FaultySystem.stop``."""
        if not self._is_paused:
            self._now.stop(nodes)

    def lose(self, lost: Outage, known: Outage) -> None:
        """See ``FaultySystem.lose``."""
        if not self._is_paused:
            self._now.lose(lost, known)

    def join(self, nodes: Iterable[str], known: Outage) -> None:
        """See ``FaultySystem.join``."""
        if not self._is_paused:
            self._now.join(nodes, known)

    def slow(self, nodes: Iterable[str], factor: float) -> None:
        """See ``FaultySystem.slow``."""
        self._now.slow(nodes, factor)

    def copied(self) -> CopyStats | None:
        """See ``FaultySystem.copied``."""
        return self._now.copied() if isinstance(self._now, FaultyReplicaSystem) else None

    def reroute(self, policy: RoutingPolicy | Legs) -> None:
        """See ``FaultySystem.reroute``."""
        if isinstance(policy, Legs):
            assert isinstance(self._now, FaultyLegSystem)
            self._now.reroute_legs(policy)
        else:
            self._now.reroute(policy)

    # As a system ------------------------------------------------------------------------------------------------------

    @property
    def running(self) -> int:
        """See ``System.running``."""
        return sum(part.running for part in self._parts)

    @property
    def num_waiting(self) -> int:
        """See ``System.num_waiting``."""
        return sum(part.num_waiting for part in self._parts)

    @property
    def is_drained(self) -> bool:
        """See ``System.is_drained``."""
        return not (self.clients is not None and self.clients.pausing) and all(part.is_drained for part in self._parts)

    @property
    def recomputed_tokens(self) -> int:
        """See ``System.recomputed_tokens``: nodes that schedule by themselves share the counter of the recorder."""
        replicas = (part.recomputed_tokens for part in self._parts if isinstance(part, FaultyReplicaSystem))
        return self._recorder.recomputed_tokens + sum(replicas)

    @property
    def truncated_outputs(self) -> int:
        """See ``System.truncated_outputs``."""
        return sum(part.truncated_outputs for part in self._parts)

    def start(self) -> None:
        """See ``System.start``."""
        self._now.start()

    def nodes(self, now_ns: int) -> list[NodeLoad]:
        """See ``System.nodes``: in the order and blocks of the first placement that a node is in."""
        parts = [{one.node_id: one for one in part.nodes(now_ns)} for part in self._parts]
        found = []
        for node_id in dict.fromkeys(node for part in parts for node in part):
            one, *later = [part[node_id] for part in parts if node_id in part]
            now = parts[-1].get(node_id)
            shares = [load.kv_peak_blocks / load.kv_blocks for load in (one, *later) if load.kv_blocks]
            found.append(
                replace(
                    one,
                    kv_used=0.0 if now is None else now.kv_used,
                    queue_length=0 if now is None else now.queue_length,
                    kv_peak_blocks=round(one.kv_blocks * max(shares, default=0.0)),
                    **{
                        name: sum(getattr(load, name) for load in (one, *later))
                        for name in ("busy_ns", "batches", "prompt_tokens", "decode_tokens", "preemptions")
                    },
                )
            )
        return found

    def unfinished(self, now_ns: int) -> Iterator[tuple[Recorded, RequestStatus]]:
        """See ``System.unfinished``."""
        for part in self._parts:
            yield from part.unfinished(now_ns)

    def routes(self) -> tuple[Route, ...]:
        """See ``System.routes``."""
        return tuple(route for part in self._parts for route in part.routes())

    def links(self) -> Sequence[Link]:
        """See ``System.links``."""
        ends: dict[tuple[str, str], list[Link]] = {}
        for part in self._parts:
            for link in part.links():
                ends.setdefault((link.src, link.dst), []).append(link)
        return [LinkSum(ends[pair]) for pair in sorted(ends)]

    def transfers(self) -> TransferStats | None:
        """See ``System.transfers``: replicas with roles are not placed anew."""
        return self._now.transfers()

    def offloading(self) -> OffloadStats | None:
        """See ``System.offloading``."""
        return None

    def autoscaling(self) -> AutoscalingStats | None:
        """See ``System.autoscaling``: pools are not placed anew."""
        return self._now.autoscaling()

    def memories(self) -> list[Memory]:
        """See ``System.memories``."""
        return [memory for part in self._parts for memory in part.memories()]

    def idle_with_work(self, now_ns: int) -> list[str]:
        """See ``System.idle_with_work``."""
        return [node for part in self._parts for node in part.idle_with_work(now_ns)]

    def first_in_line(self) -> str:
        """See ``System.first_in_line``."""
        return self._now.first_in_line()


def _kind(inputs: SimulationInputs) -> type[Part]:
    if inputs.legs is not None:
        return FaultyLegSystem
    copies = inputs.faults is not None and inputs.faults.replication is not None
    if not has_replicas(inputs):
        if copies:
            message = "needs routes that are chains without common nodes, of an engine with return: engine"
            raise ConfigError([Problem("", "faults.replicate", message)])
        return FaultyNodeSystem
    if inputs.autoscaling is None:
        return CopyingSystem if copies else FaultyReplicaSystem
    if inputs.autoscaling.spec.spot is None:
        return CopyingScaledSystem if copies else FaultyScaledSystem
    return CopyingSpotSystem if copies else SpotSystem


def _converted(request: Any) -> Running | ActiveRequest:
    """Return a waiting request as one of the other kind of system, with its accounts."""
    own = (request.request, request.arrival_ns, request.row, request.output_tokens)
    made: Running | ActiveRequest
    if isinstance(request, ActiveRequest):
        made = Running(*own)
        made.network_ns = request.network_ns
        made.since_ns = request.at_coordinator_since_ns
        made.queue_ns = request.queue_ns
        made.target = request.context_tokens
    else:
        made = ActiveRequest(*own)
        since_ns = request.last_token_ns if request.generated else request.arrival_ns
        made.queue_ns = request.queue_ns - (request.since_ns - since_ns)
    made.generated, made.compute_ns = request.generated, request.compute_ns
    made.admitted_ns, made.first_token_ns = request.admitted_ns, request.first_token_ns
    made.last_token_ns, made.preemptions = request.last_token_ns, request.preemptions
    made.cached_tokens = request.cached_tokens
    return made
