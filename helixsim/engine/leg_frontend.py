"""The coordinator of replicas that share the phases of requests: it routes the prompt, and then what decodes it.

A request whose prompt goes to a replica that serves both phases stays there. All others have a leg on a replica that
prefills and one on a replica that decodes (``kv_transfer``). Without layer-wise transfers the coordinator routes the
second leg when it learns that the prompt is computed; with them it routes both at once, and the prompt is submitted
when the other side has memory for it.

Where short prompts are computed where they are decoded (``Legs.most_local_tokens``) the leg that decodes is routed
first, by what the prefix caches there have, and its replica decides.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from typing import Any

from helixsim.domain.cluster import Deployment
from helixsim.domain.disaggregation import KvSizes
from helixsim.domain.request import FeedMode
from helixsim.engine.frontend import Frontend, ReplicaView
from helixsim.engine.inputs import Leg, Legs
from helixsim.engine.kernel import Call
from helixsim.engine.kv_network import KvFabric
from helixsim.engine.kv_transfer import LegReplica, PrefillLeg, Transfer, TwoLegged
from helixsim.engine.sequences import Sequence
from helixsim.engine.stage import Submission
from helixsim.routing.prompt_balance import PromptBalance


class LegView(ReplicaView):
    """The replicas of one leg as routing policies see them; the counts are those of all legs.

    On the decode side (``decodes``) the prompt of the considered request need not be computed but for its last token,
    unless it is routed there first (``decides``).
    """

    _of: Mapping[int, LegReplica]
    _sequence: TwoLegged

    def __init__(
        self, of_node: Mapping[int, LegReplica], at_once: bool, count: int, *, decodes: bool, decides: bool = False
    ) -> None:
        super().__init__(of_node, at_once)
        self._is_computed = decodes and not decides
        self.submitted = [0] * count
        self.submitted_tokens = [0] * count
        self.coming = [[] for _ in range(count)]

    def share(self, other: LegView) -> None:
        """Count as another view does, and what it counts."""
        self.submitted, self.submitted_tokens, self.coming = other.submitted, other.submitted_tokens, other.coming

    def prompt_backlog(self, node: int) -> int:
        """See ``RoutingView.prompt_backlog``: without prompts that are computed elsewhere."""
        replica = self._of[node]
        tokens = replica.scheduler.pending_tokens
        for one in self.coming[replica.number]:
            tokens += one.target - (0 if one.transfer is None else one.transfer.tokens)
        return tokens

    def cached_tokens(self, node: int) -> int:
        """See ``RoutingView.cached_tokens``."""
        transfer = self._sequence.transfer
        if not self._is_computed or transfer is None:
            return super().cached_tokens(node)
        return min(transfer.tokens, self._sequence.target - 1)

    def transfer_ns(self, node: int) -> float:
        """See ``RoutingView.transfer_ns``."""
        transfer, target = self._sequence.transfer, self._of[node]
        return 0.0 if transfer is None else transfer.expected_ns(target, target.kernel.now_ns)


class LegFrontend(Frontend):
    """Feeds requests to replicas by leg, and writes them down when they end.

    ``view`` is of the replicas that prefill, ``decode_view`` of those that decode. ``transfers`` has the duration [ns]
    and the size [B] of each transfer that has ended, in the order of their ends. ``local_prompts`` counts requests
    without a transfer.
    """

    view: LegView
    decode_view: LegView
    kind = TwoLegged
    transfer_kind: type[Transfer] = Transfer

    def __init__(self, legs: Legs, kv: KvFabric, fleet: Deployment, *rest: Any) -> None:
        super().__init__(*rest)
        self.legs = legs
        self._kv = kv
        self._fleet = fleet
        self._sizes = KvSizes(fleet.model, legs.transfer.bits)
        self._balance = None
        if legs.prefill_share is None:
            self._balance = PromptBalance(legs.prefill.graph, legs.decode.graph)
        self._computed: deque[Transfer] = deque()
        self.transfers: list[tuple[int, int]] = []
        self.local_prompts = 0

    # Routing ----------------------------------------------------------------------------------------------------------

    def _send(self, sequence: Sequence) -> bool:
        assert isinstance(sequence, TwoLegged)
        most_local, target = self.legs.most_local_tokens, None
        if most_local is not None:
            target = sequence.chosen = sequence.chosen or self._choose(self.legs.decode, self.decode_view, sequence)
            if target is None:
                return False
            target.book()
            if sequence.target - target.scheduler.cached_tokens(sequence) <= most_local:
                coming, is_fed = self.view.coming[target.number], self.feed.mode is FeedMode.SATURATE
                return not (is_fed and not target.could_admit(sequence, coming)) and self._keep(target, sequence)
        source = self._choose(self.legs.prefill, self.view, sequence)
        if source is None:
            return False
        if source.role == "both" or sequence.output_tokens - sequence.generated == 1:
            return self._keep(source, sequence)
        tokens = self._first_tokens(sequence, source)
        transfer = self.transfer_kind(sequence, source, self._fleet, self._sizes, self._kv, self, tokens)
        sequence.transfer = transfer
        if target is not None:
            transfer.aim(target)
        elif self.legs.transfer.is_layerwise and not self._aim(transfer):
            sequence.transfer = None
            return False
        self._count(sequence)
        transfer.leg.row = sequence.row
        transfer.leg.arrival_ns = transfer.leg.since_ns = self.kernel.now_ns
        if self.legs.transfer.is_layerwise:
            self._book(source, transfer.leg)
            self._dispatch(transfer.target, sequence)
        else:
            self._dispatch(source, transfer.leg)
        return True

    def _first_tokens(self, sequence: TwoLegged, source: LegReplica) -> int:
        """Return how many tokens of a prompt the replica computes that prefills."""
        prompt, block_tokens = sequence.target, source.scheduler.block_tokens
        if self._balance is None:
            return self.legs.first_tokens(prompt, block_tokens)
        first = source.stages[0].node_id
        return self._balance.first_tokens(prompt, block_tokens, first, self.view, self.decode_view)

    def _choose(self, leg: Leg, view: LegView, sequence: TwoLegged) -> LegReplica | None:
        """Route a leg of a request; None if the policy finds no replica for it now."""
        view.consider(sequence)
        hops = leg.policy.route(sequence.target, sequence.target + self._expected_tokens, view)
        if hops is None:
            return None
        found = view.replica_of(hops, type(leg.policy).__name__)
        assert isinstance(found, LegReplica)
        return found

    def _keep(self, replica: LegReplica, sequence: TwoLegged) -> bool:
        """Let a replica serve both phases of a request."""
        self.local_prompts += 1
        self._count(sequence)
        self._dispatch(replica, sequence)
        return True

    def _aim(self, transfer: Transfer) -> bool:
        """Route the decode leg of a request whose prompt is routed; False if the policy finds no replica for it now."""
        target = self._choose(self.legs.decode, self.decode_view, transfer.request)
        if target is not None:
            transfer.aim(target)
        return target is not None

    def _is_aimed(self, transfer: Transfer) -> bool:
        """Whether the replica is chosen that will decode a request whose prompt is computed."""
        return transfer.is_aimed

    def _act(self, event: Call | None) -> None:
        now = self.kernel.now_ns
        if len(self._computed) > 1:  # of those learned of at once, the first request first, whoever computed it
            self._computed = deque(sorted(self._computed, key=lambda one: (one.request.since_ns, one.request.row)))
        while self._computed and (self._is_aimed(self._computed[0]) or self._aim(self._computed[0])):
            transfer = self._computed.popleft()
            request = transfer.request
            request.queue_ns += now - request.since_ns
            request.since_ns = now
            transfer.target.generated += request.generated
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
        request.loaded = leg.loaded
        if request.admitted_ns < 0:
            request.admitted_ns = leg.admitted_ns
        request.since_ns = now
        transfer.is_computed = True
        if transfer.is_whole:
            request.generated += 1
            self.prefilling -= 1
        if self.legs.transfer.is_layerwise:
            # Its wait is what it was neither computed nor sent since its admission, where that of the leg is counted.
            request.queue_ns += leg.compute_ns + leg.network_ns
            transfer.target.generated += transfer.is_whole
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
        """See ``LegListener.reserved``; what it evicts changes what others find there."""
        self.formed()
        if transfer.is_computed:
            transfer.send()
        else:
            transfer.leg.arrival_ns = transfer.leg.since_ns = self.kernel.now_ns
            self._deliver(transfer.target, self._submit_leg, transfer)

    def _submit_leg(self, event: Call) -> None:
        transfer: Transfer = event.argument
        leg, now = transfer.leg, self.kernel.now_ns
        leg.network_ns += now - leg.since_ns
        leg.since_ns = now
        self.submit(transfer.source, Submission(self.kernel.env, leg), leg.prompt_tokens)

    def completed(self, transfer: Transfer) -> None:
        """See ``LegListener.completed``."""
        request, now = transfer.request, self.kernel.now_ns
        self.recorder.columns["transfer_ns"][request.row] += now - request.since_ns
        request.since_ns = now
        request.transfer = None
        self.transfers.append((now - transfer.started_ns, transfer.size_bytes))
        transfer.target.take_in(request)  # the source may form a step at once, after which this instant is over
        transfer.source.let_go(transfer.leg)
        self.formed()
