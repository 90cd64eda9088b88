"""Replicas with roles that can fail, behind a frontend that sends their requests again (docs/faults.md).

A transfer is whole as long as neither of its ends has stopped. When its source is lost, its request is sent again from
the beginning, and leaves the other end, where memory was reserved for it. When its target is lost, the prompt is still
at the source if it is computed, and is sent to another replica; if layers of it were sent while it was computed, the
request is sent again.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain
from typing import Any

from helixsim.domain.faults import FailureCause
from helixsim.engine.faulty_replica import FaultyReplica, FaultyStage
from helixsim.engine.faulty_replicas import FaultyFrontend, FaultyReplicaSystem, FaultyView
from helixsim.engine.inputs import Legs
from helixsim.engine.kernel import Call
from helixsim.engine.kv_network import KvMessage
from helixsim.engine.kv_transfer import LegReplica, LegStage, PrefillLeg, Transfer, TwoLegged
from helixsim.engine.leg_frontend import LegFrontend, LegView
from helixsim.engine.leg_system import LegSystem
from helixsim.engine.replica import Replica
from helixsim.engine.sequences import Sequence
from helixsim.engine.stage import Submission

_FULL_TOKENS = 2**62
"""Tokens in flight of a replica that is left out: no rule takes it for the emptiest one."""


class FaultyLegStage(LegStage, FaultyStage):
    """See ``LegStage`` and ``FaultyStage``; it drops requests whose KV cache will not come."""

    owner: FaultyLegReplica

    def receive(self, arrived: Any) -> None:
        """See ``Stage.receive``."""
        if not isinstance(arrived, Submission) or arrived.transfer is arrived.sequence.transfer:
            super().receive(arrived)


class FaultyLegReplica(LegReplica, FaultyReplica):
    """See ``LegReplica`` and ``FaultyReplica``."""

    def arrive(self, sequence: Sequence) -> None:
        """See ``Replica.arrive``."""
        if _is_counted(sequence):
            self.generated -= sequence.generated  # it was added when the request was sent
        super().arrive(sequence)

    def retract(self, sequence: Sequence) -> None:
        """Take off a request that is here or on its way here, and whose KV cache will not come."""
        self.book()
        now, scheduler = self._kernel.now_ns, self.scheduler
        if scheduler.running.get(sequence.order) is sequence:
            scheduler.retract(sequence, now)
        elif sequence in scheduler.waiting or sequence in scheduler.queue.unread:
            scheduler.withdraw(sequence)
        elif not _is_counted(sequence):
            return
        self.generated -= sequence.generated
        self._change(now)


def _is_counted(sequence: Sequence) -> bool:
    """Whether the tokens of a request count at its replica from when it was sent there (``LegFrontend._act``)."""
    return isinstance(sequence.transfer, Transfer) and sequence.transfer.is_computed


class LosableTransfer(Transfer):
    """A transfer between replicas that can fail; ``is_submitted``: its prompt was sent to its source."""

    __slots__ = ("_source_life", "_target_life", "is_submitted")
    source: FaultyLegReplica
    target: FaultyLegReplica
    books = False  # what is booked would be sent even if the source stops before

    def __init__(self, request: TwoLegged, source: FaultyLegReplica, *rest: Any) -> None:
        super().__init__(request, source, *rest)
        self._source_life, self._target_life = source.life, -1
        self.is_submitted = False

    @property
    def is_lost(self) -> bool:
        """Whether it has been given up, or one of its ends has stopped."""
        lives = self.source.life, self.target.life if self._target_life >= 0 else -1
        return self.request.transfer is not self or lives != (self._source_life, self._target_life)

    @property
    def is_kept(self) -> bool:
        """Whether the source has the computed prompt."""
        return self.is_computed and self.source.life == self._source_life

    def again(self) -> LosableTransfer:
        """Return a transfer of the same computed prompt, to a target that is yet to be chosen."""
        made = type(self)(
            self.request, self.source, self._fleet, self._sizes, self._fabric, self._listener, self.tokens
        )
        made._source_life = self._source_life
        made.leg, made.is_computed = self.leg, True
        made.leg.outgoing = made
        return made

    def reserve(self, due: int, now_ns: int) -> bool:
        """See ``Incoming.reserve``."""
        self._target_life = self.target.life
        return super().reserve(due, now_ns)

    def _send(self, *how: Any) -> None:
        if not self.is_lost:
            super()._send(*how)

    def _arrived(self, message: KvMessage) -> None:
        if not self.is_lost:
            super()._arrived(message)


class FaultyLegView(LegView, FaultyView):
    """See ``LegView`` and ``FaultyView``."""

    def in_flight_tokens(self, node: int) -> int:
        """See ``RoutingView.in_flight_tokens``."""
        return _FULL_TOKENS if self._of[node].number in self.down else super().in_flight_tokens(node)


class FaultyLegFrontend(LegFrontend, FaultyFrontend):
    """See ``LegFrontend`` and ``FaultyFrontend``."""

    view: FaultyLegView
    decode_view: FaultyLegView
    transfer_kind = LosableTransfer

    # Losses -----------------------------------------------------------------------------------------------------------

    def leave_out(self, down: frozenset[int]) -> None:
        """See ``FaultyFrontend.leave_out``."""
        super().leave_out(down)
        self.decode_view.without(down)
        for sequence in self.all_waiting():
            assert isinstance(sequence, TwoLegged)
            if sequence.chosen is not None and sequence.chosen.number in down:
                sequence.chosen = None

    def _lost_with(self, replicas: list[FaultyReplica]) -> list[Sequence]:
        at_them = dict.fromkeys(super()._lost_with(replicas))
        lost = [one for one in at_them if isinstance(one, TwoLegged) and one.transfer is None]
        for replica in replicas:
            replica.generated = 0
        for transfer in [found for one in self.active.values() if (found := _transfer_of(one)) is not None]:
            request = transfer.request
            if transfer.source in replicas or (request in at_them and not transfer.is_computed):
                self._give_up_transfer(transfer)
                lost.append(request)
            elif request in at_them:
                self._send_elsewhere(transfer)
        for request in lost:
            request.chosen = None
        return [*lost]

    def _send_elsewhere(self, transfer: LosableTransfer) -> None:
        """Let a computed prompt be sent to another replica."""
        request, now = transfer.request, self.kernel.now_ns
        request.queue_ns += now - request.since_ns
        request.since_ns = now
        request.target = request.context_tokens - transfer.is_whole  # the last token has not come
        request.transfer = again = transfer.again()
        self._computed.append(again)

    def _give_up_transfer(self, transfer: LosableTransfer) -> None:
        """Take a request and its leg off the replicas where they are."""
        request, leg, source = transfer.request, transfer.leg, transfer.source
        if transfer in self._computed:
            self._computed.remove(transfer)
        if leg in self._sent:
            if transfer.is_submitted:
                source.abort(leg)
            else:
                self.view.coming[source.number].remove(leg)
                self._forget(source, [leg])
        elif transfer.is_kept:
            source.let_go(leg)
        if request in self._sent:
            target, coming = transfer.target, self.view.coming[transfer.target.number]
            if request in coming:
                coming.remove(request)
            if not target.is_down:
                target.retract(request)
            self._forget(target, [request])
        if transfer.is_computed:
            request.generated -= transfer.is_whole  # its token has not come
        request.transfer = None
        request.target = request.context_tokens

    def _fail(self, sequence: Sequence, cause: FailureCause) -> None:
        transfer = _transfer_of(sequence)
        if transfer is not None:
            self._give_up_transfer(transfer)
            del self.active[sequence.row]
        super()._fail(sequence, cause)

    def abort(self, sequence: Sequence) -> bool:
        """See ``Gate.abort``."""
        if _transfer_of(sequence) is None:
            return super().abort(sequence)
        self._fail(sequence, FailureCause.GIVEN_UP)
        self.try_again()
        return True

    def aborted(self, replica: Replica, gone: list[Sequence]) -> None:
        """See ``FaultyFrontend.aborted``; legs have left whose requests are served elsewhere, or have failed."""
        self._forget(replica, [one for one in gone if isinstance(one, PrefillLeg)])
        super().aborted(replica, [one for one in gone if not isinstance(one, PrefillLeg)])

    # Requests that wait -----------------------------------------------------------------------------------------------

    def all_waiting(self) -> Iterator[Sequence]:
        """See ``Parking.all_waiting``; also those whose prompts are computed, and that no replica can decode."""
        return chain(super().all_waiting(), [transfer.request for transfer in self._computed])

    def try_again(self) -> None:
        """See ``Parking.try_again``."""
        super().try_again()
        if self._computed:
            self._plan()

    def _has_place(self, sequence: Sequence) -> bool:
        legs = self.view.live_context_tokens, self.decode_view.live_context_tokens
        most_local, live = self.legs.most_local_tokens, min(legs)
        if most_local is not None and sequence.target <= most_local:
            live = legs[1]
        elif most_local is None and sequence.output_tokens - sequence.generated == 1:
            live = legs[0]
        return sequence.target + 1 <= live

    def _act(self, event: Call | None) -> None:
        super()._act(event)
        if self._computed:
            for transfer in self._computed:
                self.retries.hold(transfer.request)
            self.retries.watch()

    def _count(self, sequence: Sequence) -> None:
        super()._count(sequence)
        self.retries.sent(sequence)

    def _is_aimed(self, transfer: Transfer) -> bool:
        return super()._is_aimed(transfer) and transfer.target.number not in self.decode_view.down

    # What comes too late ----------------------------------------------------------------------------------------------

    def prefilled(self, replica: LegReplica, leg: PrefillLeg) -> None:
        """See ``LegListener.prefilled``."""
        transfer = leg.outgoing
        assert isinstance(transfer, LosableTransfer)
        if transfer.is_lost:
            replica.let_go(leg)
            self._forget(replica, [leg])
        else:
            super().prefilled(replica, leg)

    def _learn(self, event: Call) -> None:
        if event.argument.request.transfer is event.argument:
            super()._learn(event)

    def _submit_leg(self, event: Call) -> None:
        if event.argument.request.transfer is event.argument:
            super()._submit_leg(event)


def _transfer_of(sequence: Sequence) -> LosableTransfer | None:
    assert isinstance(sequence, TwoLegged)
    transfer = sequence.transfer
    assert transfer is None or isinstance(transfer, LosableTransfer)
    return transfer


class FaultyLegSystem(LegSystem, FaultyReplicaSystem):  # type: ignore[misc]  # its replicas are of both kinds
    """See ``LegSystem`` and ``FaultyReplicaSystem``."""

    stage_kind = FaultyLegStage
    replica_kind = FaultyLegReplica
    frontend_kind = FaultyLegFrontend
    view_kind = FaultyLegView
    frontend: FaultyLegFrontend
    replicas: list[FaultyLegReplica]  # type: ignore[assignment]

    def _submit(self, replica: Replica, submission: Submission, tokens: int) -> None:
        sequence = submission.sequence
        submission.transfer = sequence.transfer
        if isinstance(sequence, PrefillLeg):
            assert isinstance(sequence.outgoing, LosableTransfer)
            sequence.outgoing.is_submitted = True
        super()._submit(replica, submission, tokens)

    def reroute_legs(self, legs: Legs) -> None:
        """Route both legs of requests by other policies from now on."""
        self.frontend.legs = legs
        self.frontend.try_again()

    @property
    def is_drained(self) -> bool:
        """See ``System.is_drained``: also messages of transfers that were lost have arrived."""
        channels = self.kv.channels.values()
        return super().is_drained and all(one.bytes_received == one.bytes_sent for one in channels)
