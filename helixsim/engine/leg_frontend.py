"""The coordinator of replicas that share the phases of requests: it routes the prompt, and then what decodes it.

A request whose prompt goes to a replica that serves both phases stays there. All others have a leg on a replica that
prefills and one on a replica that decodes (``kv_transfer``). Without layer-wise transfers the coordinator routes the
second leg when it learns that the prompt is computed; with them it routes both at once, and the prompt is submitted
when the other side has memory for it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from typing import Any

from helixsim.domain.cluster import Deployment
from helixsim.domain.disaggregation import KvSizes
from helixsim.engine.frontend import Frontend, ReplicaView
from helixsim.engine.inputs import Legs
from helixsim.engine.kernel import Call
from helixsim.engine.kv_network import KvFabric
from helixsim.engine.kv_transfer import LegReplica, PrefillLeg, Transfer, TwoLegged
from helixsim.engine.sequences import Sequence
from helixsim.engine.stage import Submission


class LegView(ReplicaView):
    """The replicas of one leg as routing policies see them; the counts are those of all legs.

    On the decode side (``decodes``) the prompt of the considered request need not be computed but for its last token.
    """

    _of: Mapping[int, LegReplica]
    _sequence: TwoLegged

    def __init__(self, of_node: Mapping[int, LegReplica], at_once: bool, count: int, *, decodes: bool) -> None:
        super().__init__(of_node, at_once)
        self._decodes = decodes
        self.submitted = [0] * count
        self.submitted_tokens = [0] * count
        self.coming = [[] for _ in range(count)]

    def share(self, other: LegView) -> None:
        """Count as another view does, and what it counts."""
        self.submitted, self.submitted_tokens, self.coming = other.submitted, other.submitted_tokens, other.coming

    def prompt_backlog(self, node: int) -> int:
        """See ``RoutingView.prompt_backlog``: without prompts that are computed elsewhere."""
        replica = self._of[node]
        coming = [one.prompt_tokens for one in self.coming[replica.number] if one.transfer is None]
        return replica.scheduler.pending_tokens + sum(coming)

    def cached_tokens(self, node: int) -> int:
        """See ``RoutingView.cached_tokens``."""
        return self._sequence.prompt_tokens - 1 if self._decodes else super().cached_tokens(node)

    def transfer_ns(self, node: int) -> float:
        """See ``RoutingView.transfer_ns``."""
        transfer, target = self._sequence.transfer, self._of[node]
        return 0.0 if transfer is None else transfer.expected_ns(target, target.kernel.now_ns)


class LegFrontend(Frontend):
    """Feeds requests to replicas by leg, and writes them down when they end.

    ``view`` is of the replicas that prefill, ``decode_view`` of those that decode. ``transfers`` has the duration [ns]
    and the size [B] of each transfer that has ended, in the order of their ends.
    """

    view: LegView
    decode_view: LegView
    kind = TwoLegged

    def __init__(self, legs: Legs, kv: KvFabric, fleet: Deployment, *rest: Any) -> None:
        super().__init__(*rest)
        self._legs = legs
        self._kv = kv
        self._fleet = fleet
        self._sizes = KvSizes(fleet.model)
        self._computed: deque[Transfer] = deque()
        self.transfers: list[tuple[int, int]] = []

    # Routing ----------------------------------------------------------------------------------------------------------

    def _send(self, sequence: Sequence) -> bool:
        assert isinstance(sequence, TwoLegged)
        self.view.consider(sequence)
        prompt, policy = sequence.prompt_tokens, self.policy
        hops = policy.route(prompt, prompt + self._expected_tokens, self.view)
        if hops is None:
            return False
        source = self.view.replica_of(hops, type(policy).__name__)
        assert isinstance(source, LegReplica)
        if source.role == "both" or sequence.output_tokens == 1:
            self._count(sequence)
            self._dispatch(source, sequence)
            return True
        sequence.transfer = transfer = Transfer(sequence, source, self._fleet, self._sizes, self._kv, self)
        if self._legs.transfer.is_layerwise and not self._aim(transfer):
            sequence.transfer = None
            return False
        self._count(sequence)
        transfer.leg.row = sequence.row
        transfer.leg.arrival_ns = transfer.leg.since_ns = self.kernel.now_ns
        if self._legs.transfer.is_layerwise:
            self._book(source, transfer.leg)
            self._dispatch(transfer.target, sequence)
        else:
            self._dispatch(source, transfer.leg)
        return True

    def _aim(self, transfer: Transfer) -> bool:
        """Route the decode leg of a request; False if the policy finds no replica for it now."""
        request, view, policy = transfer.request, self.decode_view, self._legs.decode.policy
        view.consider(request)
        hops = policy.route(request.prompt_tokens, request.prompt_tokens + self._expected_tokens, view)
        if hops is None:
            return False
        target = view.replica_of(hops, type(policy).__name__)
        assert isinstance(target, LegReplica)
        transfer.target = target
        return True

    def _act(self, event: Call | None) -> None:
        now = self.kernel.now_ns
        while self._computed and self._aim(self._computed[0]):
            transfer = self._computed.popleft()
            request = transfer.request
            request.queue_ns += now - request.since_ns
            request.since_ns = now
            transfer.target.generated += 1
            self._dispatch(transfer.target, request)
        super()._act(event)

    def _go_on(self, ended: int) -> None:
        super()._go_on(ended)
        if self._computed:
            self._plan()

    # The two legs -----------------------------------------------------------------------------------------------------

    def prefilled(self, replica: LegReplica, leg: PrefillLeg) -> None:
        """See ``LegListener.prefilled``."""
        transfer, now = leg.outgoing, self.kernel.now_ns
        request = transfer.request
        request.queue_ns += leg.queue_ns
        request.compute_ns += leg.compute_ns
        request.network_ns += leg.network_ns
        request.preemptions += leg.preemptions
        request.cached_tokens = leg.cached_tokens
        if request.admitted_ns < 0:
            request.admitted_ns = leg.admitted_ns
        request.since_ns = now
        request.generated = 1
        transfer.is_computed = True
        self.prefilling -= 1
        if self._legs.transfer.is_layerwise:
            # Its wait is what it was neither computed nor sent since its admission, where that of the leg is counted.
            request.queue_ns += leg.compute_ns + leg.network_ns
            transfer.target.generated += 1
            transfer.complete()
        else:
            self._deliver(replica, self._learn, transfer)
        self._forget(replica, [leg])

    def _learn(self, event: Call) -> None:
        transfer: Transfer = event.argument
        request, now = transfer.request, self.kernel.now_ns
        request.network_ns += now - request.since_ns
        request.since_ns = now
        self._computed.append(transfer)
        self._plan()

    def reserved(self, transfer: Transfer) -> None:
        """See ``LegListener.reserved``."""
        if self._legs.transfer.is_layerwise:
            transfer.leg.arrival_ns = transfer.leg.since_ns = self.kernel.now_ns
            self._deliver(transfer.target, self._submit_leg, transfer)
        else:
            transfer.send()

    def _submit_leg(self, event: Call) -> None:
        transfer: Transfer = event.argument
        leg, now = transfer.leg, self.kernel.now_ns
        leg.network_ns += now - leg.since_ns
        leg.since_ns = now
        self.submit(transfer.source, Submission(self.kernel.env, leg), leg.prompt_tokens)

    def completed(self, transfer: Transfer) -> None:
        """See ``LegListener.completed``."""
        request, now = transfer.request, self.kernel.now_ns
        request.transfer_ns = now - request.since_ns
        request.since_ns = now
        request.transfer = None
        self.transfers.append((now - transfer.started_ns, transfer.size_bytes))
        transfer.source.let_go(transfer.leg)
        transfer.target.take_in(request)
        self.formed()

    # Ends -------------------------------------------------------------------------------------------------------------

    def _finish_all(self, event: Call) -> None:
        for sequence in event.argument:
            self.recorder.columns["transfer_ns"][sequence.row] = sequence.transfer_ns
        super()._finish_all(event)
