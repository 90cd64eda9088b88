"""Replicas of a serving engine behind one coordinator."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from collections.abc import Sequence as Listed
from itertools import pairwise
from typing import Any

from helixsim.batching.base import BatchingPolicy
from helixsim.domain.autoscaling import AutoscalingStats
from helixsim.domain.cluster import COORDINATOR
from helixsim.domain.data_parallel import step_time
from helixsim.domain.engine import MOST_NEW_TOKENS
from helixsim.domain.flowplan import Route
from helixsim.domain.request import FeedMode
from helixsim.domain.result import OffloadStats, RequestStatus, TransferStats
from helixsim.engine.frontend import Frontend, ReplicaView
from helixsim.engine.inputs import SimulationInputs
from helixsim.engine.kernel import Call, Kernel, Priority
from helixsim.engine.network import NetworkFabric
from helixsim.engine.offloading import offload_stats, tier_rules
from helixsim.engine.recorded import recorded
from helixsim.engine.recorder import Recorder
from helixsim.engine.replica import Replica
from helixsim.engine.rules import Rules
from helixsim.engine.sequences import Sequence
from helixsim.engine.stage import Stage, Step, Submission
from helixsim.engine.system import Link, Memory, NodeLoad
from helixsim.routing.base import HopObserver
from helixsim.routing.graph import chains


def scheduler_of(batching: BatchingPolicy) -> str | None:
    """Return how a replica's scheduler mixes prompts and decodes under a batching policy; None: it plans each node."""
    return getattr(batching, "scheduler", None)


class ReplicaSystem:
    """Coordinator, replicas and links (a ``System``)."""

    stage_kind: type[Stage] = Stage
    replica_kind: type[Replica] = Replica
    frontend_kind: type[Frontend] = Frontend

    def __init__(self, inputs: SimulationInputs, kernel: Kernel, fabric: NetworkFabric, recorder: Recorder) -> None:
        self.inputs = inputs
        self.kernel = kernel
        self.fabric = fabric
        graph = inputs.graph
        found = chains(graph)
        assert found is not None
        timeline = inputs.timeline
        self._stage = self.stage_kind if timeline is None else recorded(self.stage_kind, timeline)
        self._replica_kind = self.replica_kind if timeline is None else recorded(self.replica_kind, timeline)
        self._stage_of: dict[str, Stage] = {}
        self.replicas: list[Replica] = []
        self.frontend = self._frontend(recorder)
        for number, nodes in enumerate(found):
            self.replicas.append(self._replica(number, [graph.node_ids[node] for node in nodes], recorder))
        of_node = {node: self.replicas[number] for number, nodes in enumerate(found) for node in nodes}
        self._replica_of = {graph.node_ids[node]: replica for node, replica in of_node.items()}
        self._show(of_node, inputs.feed.mode is FeedMode.SATURATE)
        fabric.receivers.update(self._stage_of)
        for replica in self.replicas:
            self._connect(replica)

    def _frontend(self, recorder: Recorder) -> Frontend:
        return self.frontend_kind(*self._feeding(recorder, self.inputs))

    def _feeding(self, recorder: Recorder, inputs: SimulationInputs) -> tuple[Any, ...]:
        """Return what a frontend is given."""
        return (
            self.kernel, inputs.policy, inputs.feed, recorder, inputs.fleet.model.max_context_tokens,
            inputs.expected_output_tokens, self._submit,
        )  # fmt: skip

    def _show(self, of_node: Mapping[int, Replica], at_once: bool) -> None:
        """Let the frontend see the replicas."""
        self.frontend.view = ReplicaView(of_node, at_once)

    def _replica(self, number: int, ids: list[str], recorder: Recorder) -> Replica:
        inputs = self.inputs
        fleet, placement, engine = inputs.fleet, inputs.placement, inputs.engine
        stages = []
        for position, node_id in enumerate(ids):
            held = placement.ranges[node_id]
            profile = fleet.profile(node_id)
            sizes = profile.limits[held.layers - 1].graph_sizes
            time = step_time(profile.compute, engine, held, placement.num_layers, sizes)
            stages.append(self._stage(self.kernel, position, node_id, held, time))
        self._stage_of.update(zip(ids, stages, strict=True))
        made: Replica = self._replica_kind(
            number,
            self.kernel,
            stages,
            min(fleet.kv_blocks(node_id, placement.ranges[node_id]) for node_id in ids),
            fleet.profiles[0].block_tokens,
            self._rules(ids),
            recorder,
            self.frontend,
            0 if len(ids) == 1 else self.fabric.latency_ns(ids[-1], ids[0]),
            self.fabric.latency_ns(ids[0], COORDINATOR),
            is_fed=inputs.feed.mode is FeedMode.SATURATE,
        )
        return made

    def _rules(self, ids: list[str]) -> Rules:
        """Return the limits of a replica: the least of its nodes, as one scheduler forms the steps of all."""
        inputs = self.inputs
        fleet, ranges = inputs.fleet, inputs.placement.ranges
        limits = [fleet.profile(node_id).limits[ranges[node_id].layers - 1] for node_id in ids]
        most = [fleet.cluster.node(node_id).max_requests for node_id in ids]
        engine, keeps = inputs.engine, inputs.engine.admission != "prompt"
        budget, longest = min(limit.max_prefill_tokens for limit in limits), engine.long_prefill_token_threshold or None
        ranks = max(fleet.profile(node_id).compute.ranks for node_id in ids)
        if ranks > 1:  # one of them computes a prompt, with the budget of one
            longest = min(longest or budget, budget // ranks)
        return Rules(
            budget=budget,
            max_sequences=min([limit.max_decode_seqs for limit in limits] + [n for n in most if n is not None]),
            longest_chunk=longest,
            is_chunked=engine.chunks_prompts,
            is_mixed=scheduler_of(inputs.batching) == "mixed",
            by_priority=engine.scheduling_policy == "priority",
            expected_output_tokens=_expected_output(inputs) if keeps else None,
            new_token_ratio=engine.new_token_ratio,
            most_reserved_share=inputs.high_water if keeps else 1.0,
            min_free_share=engine.min_free_share,
            caches_prefixes=engine.caches_prefixes,
            tiers=tier_rules(inputs, ids) if engine.caches_prefixes else (),
            receive_interval=engine.scheduler_recv_interval,
            ranks=ranks,
            balance=engine.attention_balance,
            speculation=engine.speculation,
            seed=inputs.seed,
        )

    def _connect(self, replica: Replica) -> None:
        """Let each stage send what it has computed to the next one, and the last one the tokens to the first."""
        stages = replica.stages
        for stage, following in pairwise(stages):
            stage.send = self.fabric.channel(stage.node_id, following.node_id).send

        def give_back(step: Step, _tokens: int) -> None:
            self.kernel.call_in(replica.return_ns, Priority.DELIVER, returned, step)

        def returned(event: Call) -> None:
            replica.returned(event.argument)

        stages[-1].send = give_back

    def _submit(self, replica: Replica, submission: Submission, tokens: int) -> None:
        self.fabric.channel(COORDINATOR, replica.stages[0].node_id).send(submission, tokens)

    @property
    def running(self) -> int:
        """See ``System.running``."""
        return sum([len(replica.scheduler.running) for replica in self.replicas]) + self.frontend.delivering

    @property
    def num_waiting(self) -> int:
        """See ``System.num_waiting``."""
        return len(self.frontend.active) + len(self.frontend.waiting) - self.running

    @property
    def is_drained(self) -> bool:
        """See ``System.is_drained``."""
        return not (self.frontend.active or self.frontend.waiting)

    @property
    def recomputed_tokens(self) -> int:
        """See ``System.recomputed_tokens``."""
        return sum([replica.scheduler.recomputed_tokens for replica in self.replicas])

    @property
    def truncated_outputs(self) -> int:
        """See ``System.truncated_outputs``."""
        return self.frontend.truncated_outputs

    def start(self) -> None:
        """See ``System.start``."""
        self.frontend.start()

    def nodes(self, now_ns: int) -> list[NodeLoad]:
        """See ``System.nodes``."""
        for replica in self.replicas:
            replica.book()
        return [
            self._load(self._stage_of[node_id], now_ns) if node_id in self._stage_of else self._unused(node_id)
            for node_id in self.inputs.graph.node_ids
        ]

    def _unused(self, node_id: str) -> NodeLoad:
        """Return the load of a node with layers that is on no route."""
        held = self.inputs.placement.ranges[node_id]
        blocks = self.inputs.fleet.kv_blocks(node_id, held)
        return NodeLoad(node_id, held, 0, 0.0, 0, blocks, 0, 0, 0, 0, 0)

    def _load(self, stage: Stage, now_ns: int) -> NodeLoad:
        replica = self._replica_of[stage.node_id]
        scheduler, is_first = replica.scheduler, stage.number == 0
        return NodeLoad(
            stage.node_id,
            stage.range,
            stage.busy_until(now_ns),
            replica.kv_usage if scheduler.kv.capacity else 0.0,
            len(scheduler.queue) if is_first else stage.queue_length,
            scheduler.kv.capacity,
            scheduler.peak,
            stage.batches,
            stage.prompt_tokens,
            stage.decode_tokens,
            scheduler.preemptions if is_first else 0,
        )

    def unfinished(self, now_ns: int) -> Iterator[tuple[Sequence, RequestStatus]]:
        """See ``System.unfinished``."""
        for sequence in self.frontend.active.values():
            if sequence.decodes is not None:
                sequence.decodes.tell(sequence)
            if sequence.first_token_ns > now_ns:
                sequence.first_token_ns = -1  # it is on its way to the client
            yield sequence, RequestStatus.WAITING if sequence.path is None else RequestStatus.RUNNING
        for sequence in self.frontend.waiting:
            yield sequence, RequestStatus.WAITING

    def routes(self) -> tuple[Route, ...]:
        """See ``System.routes``."""
        return tuple(
            Route(tuple((stage.node_id, stage.range) for stage in replica.stages)) for replica in self.replicas
        )

    def links(self) -> Listed[Link]:
        """See ``System.links``."""
        return self.fabric.links()

    def transfers(self) -> TransferStats | None:
        """See ``System.transfers``."""
        return None

    def offloading(self) -> OffloadStats | None:
        """See ``System.offloading``."""
        return offload_stats([replica.scheduler for replica in self.replicas])

    def autoscaling(self) -> AutoscalingStats | None:
        """See ``System.autoscaling``."""
        return None

    def memories(self) -> list[Memory]:
        """See ``System.memories``: of each replica [blocks]."""
        found = []
        for replica in self.replicas:
            kv = replica.scheduler.kv
            expected = kv.shared + replica.scheduler.own_blocks()
            owner = replica.stages[0].node_id
            found.append(Memory(owner, kv.used_blocks, expected, kv.capacity, kv.used_blocks))
            for rule, tier in replica.scheduler.kept():
                own = tier.came - tier.left - tier.evicted
                found.append(
                    Memory(f"{owner} ({rule.name})", tier.counted(), own, tier.capacity, tier.used, stays=True)
                )
        return found

    def idle_with_work(self, now_ns: int) -> list[str]:
        """See ``System.idle_with_work``: a first stage is idle only where nothing can run."""
        return [replica.stages[0].node_id for replica in self.replicas if replica.is_idle_with_work]

    def first_in_line(self) -> str:
        """See ``System.first_in_line``."""
        schedulers = [replica.scheduler for replica in self.replicas]
        queues = [[*one.waiting, *one.queue.unread] for one in schedulers if one.queue]
        return f"; first in line: {queues[0][0].context_tokens} tokens of context" if queues else ""


def has_replicas(inputs: SimulationInputs) -> bool:
    """Return whether the nodes of a run are replicas of an engine that schedules them as wholes."""
    return (
        inputs.engine.loops_inside
        and scheduler_of(inputs.batching) is not None
        and inputs.feed.feed_below is None
        and not inputs.is_one_by_one
        and not isinstance(inputs.policy, HopObserver)
        and chains(inputs.graph) is not None
    )


def _expected_output(inputs: SimulationInputs) -> int:
    """Return the output that admission expects of a request [tokens]."""
    expected = round(inputs.expected_output_tokens)
    return expected if inputs.engine.schedule_conservativeness is None else min(expected, MOST_NEW_TOKENS)
