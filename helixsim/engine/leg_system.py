"""Replicas of which some prefill, some decode and some do both, behind one coordinator."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from helixsim.domain.result import RequestStatus, TransferStats
from helixsim.engine.inputs import Leg, SimulationInputs
from helixsim.engine.kernel import Kernel
from helixsim.engine.kv_network import KvFabric
from helixsim.engine.kv_transfer import LegReplica, LegStage, TwoLegged
from helixsim.engine.leg_frontend import LegFrontend, LegView
from helixsim.engine.network import NetworkFabric
from helixsim.engine.recorder import Recorder
from helixsim.engine.replica import Replica
from helixsim.engine.replica_system import ReplicaSystem
from helixsim.engine.rules import Rules
from helixsim.engine.sequences import Sequence as Running
from helixsim.engine.system import Link


class LegSystem(ReplicaSystem):
    """Coordinator, replicas, links and the KV caches on them (a ``System``)."""

    stage_kind = LegStage
    replica_kind = LegReplica
    frontend_kind: type[LegFrontend] = LegFrontend
    view_kind: type[LegView] = LegView
    frontend: LegFrontend
    replicas: list[LegReplica]  # type: ignore[assignment]

    def __init__(
        self, inputs: SimulationInputs, kernel: Kernel, fabric: NetworkFabric, recorder: Recorder, *rest: Any
    ) -> None:
        assert inputs.legs is not None
        self.legs = inputs.legs
        self.kv = KvFabric(fabric, inputs.legs.transfer, inputs.timeline)
        super().__init__(inputs, kernel, fabric, recorder, *rest)

    def _frontend(self, recorder: Recorder) -> LegFrontend:
        inputs = replace(self.inputs, policy=self.legs.prefill.policy)
        return self.frontend_kind(self.legs, self.kv, inputs.fleet, *self._feeding(recorder, inputs))

    def _show(self, of_node: Mapping[int, Replica], at_once: bool) -> None:
        frontend = self.frontend
        ids = {node: self.inputs.graph.node_ids[node] for node in of_node}  # in the order of their stages

        def view(leg: Leg, *, at_once: bool, decodes: bool) -> LegView:
            numbers = {node: number for number, node in enumerate(leg.graph.node_ids)}
            own = {numbers[one]: of_node[node] for node, one in ids.items() if one in numbers}
            decides = self.legs.most_local_tokens is not None
            return self.view_kind(own, at_once, len(self.replicas), decodes=decodes, decides=decides)  # type: ignore[arg-type]

        frontend.view = view(self.legs.prefill, at_once=at_once, decodes=False)
        frontend.decode_view = view(self.legs.decode, at_once=False, decodes=True)
        frontend.decode_view.share(frontend.view)
        largest = min(frontend.view.largest_context_tokens, frontend.decode_view.largest_context_tokens)
        frontend.view.largest_context_tokens = largest

    def _replica(self, number: int, ids: list[str], recorder: Recorder) -> Replica:
        made = super()._replica(number, ids, recorder)
        assert isinstance(made, LegReplica)
        made.role = self.inputs.fleet.cluster.node(ids[0]).role
        made.is_layerwise = self.legs.transfer.is_layerwise
        made.legs = self.frontend
        return made

    def _rules(self, ids: list[str]) -> Rules:
        """See ``ReplicaSystem._rules``: nodes of a phase may do without prefix caches; prefill keeps no output."""
        rules = super()._rules(ids)
        role = self.inputs.fleet.cluster.node(ids[0]).role
        if role == "both":
            return rules
        leg = self.legs.prefill if role == "prefill" else self.legs.decode
        rules = replace(rules, caches_prefixes=leg.caches_prefixes, tiers=rules.tiers if leg.caches_prefixes else ())
        if role == "decode":
            return rules
        return replace(rules, expected_output_tokens=None, most_reserved_share=1.0, speculation=None)

    @property
    def running(self) -> int:
        """See ``System.running``: requests of which a leg has been admitted."""
        return sum([self._is_running(sequence) for sequence in self.frontend.active.values()])

    @staticmethod
    def _is_running(sequence: Running) -> bool:
        assert isinstance(sequence, TwoLegged)
        return sequence.is_running

    def unfinished(self, now_ns: int) -> Iterator[tuple[Running, RequestStatus]]:
        """See ``System.unfinished``."""
        for sequence, status in super().unfinished(now_ns):
            assert isinstance(sequence, TwoLegged)
            transfer = sequence.transfer
            if transfer is not None and not transfer.is_computed:
                sequence.preemptions += transfer.leg.preemptions
                if sequence.admitted_ns < 0:
                    sequence.admitted_ns = transfer.leg.admitted_ns
            is_running = sequence.row in self.frontend.active and sequence.is_running
            yield sequence, RequestStatus.RUNNING if is_running else status

    def links(self) -> Sequence[Link]:
        """See ``System.links``; those that carry KV caches carry nothing else."""
        return self.kv.with_others()

    def transfers(self) -> TransferStats:
        """See ``System.transfers``."""
        rows = np.array(self.frontend.transfers, dtype=np.int64).reshape(-1, 2)
        return TransferStats(rows[:, 0].copy(), rows[:, 1].copy(), self.frontend.local_prompts)
