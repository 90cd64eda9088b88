"""Requests with two legs: the prompt is computed on one replica, and decoded on another that its KV cache is sent to.

Each stage of the first replica sends each stage of the second one the layers that both hold: when the prompt is
computed, or layer by layer while it is.
"""

from __future__ import annotations

from typing import Protocol

from helixsim.domain.cluster import Deployment
from helixsim.domain.disaggregation import KvSizes
from helixsim.domain.placement import LayerRange, Role
from helixsim.domain.request import Request
from helixsim.engine.kernel import Call, Kernel, Priority
from helixsim.engine.kv_network import KvChannel, KvFabric, KvMessage
from helixsim.engine.leg_scheduler import LegScheduler
from helixsim.engine.replica import Replica
from helixsim.engine.rules import Plan
from helixsim.engine.sequences import Incoming, Sequence
from helixsim.engine.stage import Stage, Step, common_layers


class TwoLegged(Sequence):
    """A request as its client sees it, and as the replica that decodes it.

    ``chosen``: the replica that will decode it, where that is routed first; the policy is asked once, however often
    the request has to wait for room.
    """

    __slots__ = ("chosen", "transfer")
    transfer: Transfer | None

    def __init__(self, request: Request, arrival_ns: int, row: int, output_tokens: int) -> None:
        super().__init__(request, arrival_ns, row, output_tokens)
        self.transfer = None
        self.chosen: LegReplica | None = None

    @property
    def is_running(self) -> bool:
        """Whether a replica has admitted one of its legs."""
        return self.path is not None or (self.transfer is not None and self.transfer.leg.path is not None)


class PrefillLeg(Sequence):
    """A request on the replica that computes its prompt, and one token; or the beginning of its prompt."""

    __slots__ = ("outgoing",)
    outgoing: Transfer


class LegListener(Protocol):
    """What replicas and transfers report to."""

    def prefilled(self, replica: LegReplica, leg: PrefillLeg) -> None:
        """Take note that a prompt has been computed."""

    def reserved(self, transfer: Transfer) -> None:
        """Take note that the memory for a transfer is reserved."""

    def completed(self, transfer: Transfer) -> None:
        """Take note that a transfer has ended, and its prompt is computed."""


class Transfer(Incoming):
    """The KV cache of the first ``tokens`` of one prompt on its way from ``source`` to ``target``.

    ``is_whole``: they are all of it. ``started_ns`` is when its first message was sent, ``size_bytes`` the sum of all
    messages. ``is_aimed``: its target is chosen. ``books``: layers may be booked before they are computed.
    """

    __slots__ = ("_fabric", "_fleet", "_left", "_listener", "_sent", "_sizes", "is_aimed", "is_computed", "is_whole",
                 "leg", "request", "size_bytes", "source", "started_ns", "target", "tokens")  # fmt: skip
    books = True

    def __init__(
        self,
        request: TwoLegged,
        source: LegReplica,
        fleet: Deployment,
        sizes: KvSizes,
        fabric: KvFabric,
        listener: LegListener,
        tokens: int,
    ) -> None:
        self.request = request
        self.tokens = tokens
        self.source = source
        self.target: LegReplica
        self.leg = PrefillLeg(request.request, request.since_ns, request.row, 1)
        self.leg.outgoing = self
        self.leg.prompt_tokens = self.leg.target = tokens
        self.is_whole = tokens == request.target
        self.is_aimed = self.is_computed = False
        self.started_ns = -1
        self.size_bytes = 0
        self._fleet = fleet
        self._sizes = sizes
        self._fabric = fabric
        self._listener = listener
        self._left = tokens * fleet.model.num_layers
        self._sent = [0] * len(source.stages)

    def aim(self, target: LegReplica) -> None:
        """Let a replica decode the request."""
        self.target, self.is_aimed = target, True

    def reserve(self, due: int, now_ns: int) -> bool:
        """See ``Incoming.reserve``; blocks that the target has are not sent."""
        if not self.target.scheduler.expect(self.request, self.tokens, due, now_ns):
            return False
        known = self.request.held * self.target.scheduler.block_tokens
        self._left -= known * self._fleet.model.num_layers
        self._sent = [known] * len(self._sent)
        self._listener.reserved(self)
        return True

    def send(self) -> None:
        """Send all layers of what is computed of the prompt."""
        for number, first in enumerate(self._sent):
            for common, channel, gpus in self._ways(number):
                self._send(channel, common, first, self.tokens, gpus)

    def send_layers(self, number: int, computed: int, duration_ns: int) -> None:
        """Send the layers of a stage one by one as a step that starts now computes them.

        ``computed``: tokens of the prompt that are computed when the step ends.
        """
        first, held = self._sent[number], self.source.stages[number].range
        if computed <= first:
            return  # the target has it, or it is computed once more after a preemption
        self._sent[number] = computed
        kernel = self.source.kernel
        for common, channel, gpus in self._ways(number):
            ready = [
                round(duration_ns * (layer + 1 - held.start) / held.layers) for layer in range(common.start, common.end)
            ]
            if self.books and channel.takes_bookings:
                self._book(channel, common, (first, computed), gpus, ready)
                continue
            for layer, ready_ns in zip(range(common.start, common.end), ready, strict=True):
                how = (channel, LayerRange(layer, layer + 1), first, computed, gpus)
                kernel.call_in(ready_ns, Priority.FINISH, self._layer_computed, how)

    def _book(
        self, channel: KvChannel, layers: LayerRange, tokens: tuple[int, int], gpus: int, ready: list[int]
    ) -> None:
        """Book layers on a channel, each for the time in which it will be ready, and await the last of them."""
        kernel, (first, last), whole, order = self.source.kernel, tokens, 0, -1
        for layer, ready_ns in zip(range(layers.start, layers.end), ready, strict=True):
            size = self._sizes.of(LayerRange(layer, layer + 1), first, last, self.tokens, gpus)
            order = channel.book(kernel.now_ns + ready_ns, size)
            whole += size
        began_ns = kernel.now_ns + ready[0]
        self.started_ns = began_ns if self.started_ns < 0 else min(self.started_ns, began_ns)
        self.size_bytes += whole
        message = KvMessage(whole, (last - first) * layers.layers, self._arrived)
        kernel.call_in(ready[-1], Priority.FINISH, self._last_computed, (channel, order, message))

    def _layer_computed(self, event: Call) -> None:
        self._send(*event.argument)

    def _last_computed(self, event: Call) -> None:
        channel, order, message = event.argument
        channel.send_booked(order, message)

    def _ways(self, number: int) -> list[tuple[LayerRange, KvChannel, int]]:
        """Return the layers that a stage sends each stage of the target, over which link, and to how many GPUs."""
        found = []
        for stage, other, common in common_layers([self.source.stages[number]], self.target.stages):
            gpus = self._fleet.cluster.node(other.node_id).gpus // self._fleet.profile(other.node_id).compute.ranks
            found.append((common, self._fabric.channel(stage.node_id, other.node_id), gpus))
        return found

    def expected_ns(self, target: LegReplica, now_ns: int) -> float:
        """Return how long it would take to a target from now on [ns]."""
        longest = 0.0
        for stage, other, common in common_layers(self.source.stages, target.stages):
            size = self.tokens * common.layers * self._sizes.token_bytes
            channel = self._fabric.channel(stage.node_id, other.node_id)
            longest = max(longest, channel.idle_ns(size, now_ns))
        return longest

    def _send(self, channel: KvChannel, layers: LayerRange, first: int, last: int, gpus: int) -> None:
        size = self._sizes.of(layers, first, last, self.tokens, gpus)
        if self.started_ns < 0:
            self.started_ns = self.source.kernel.now_ns
        self.size_bytes += size
        channel.send(KvMessage(size, (last - first) * layers.layers, self._arrived))

    def _arrived(self, message: KvMessage) -> None:
        self._left -= message.covers
        self.complete()

    def complete(self) -> None:
        """Report the end if all that there is has come."""
        if not self._left and self.is_computed:
            self._listener.completed(self)


class LegReplica(Replica):
    """A replica that serves one leg of some requests, by its ``role``. ``is_layerwise``: see ``KvTransfer``."""

    scheduler_kind = LegScheduler
    scheduler: LegScheduler
    role: Role
    is_layerwise: bool
    legs: LegListener

    @property
    def kernel(self) -> Kernel:
        """The clock."""
        return self._kernel

    @property
    def is_idle_with_work(self) -> bool:
        """See ``Replica.is_idle_with_work``; what runs may wait for a transfer, or for the memory that it holds."""
        return super().is_idle_with_work and not (self.scheduler.receiving or self.scheduler.sending)

    def take_in(self, sequence: Sequence) -> None:
        """Let a sequence decode whose prompt has come, with its next token, or go on with what is left of it."""
        now = self._kernel.now_ns
        if sequence.computed == sequence.target:
            self._take_token(sequence, now)
        self.book()
        self.scheduler.join(sequence, now)
        self._change(now)

    def let_go(self, leg: PrefillLeg) -> None:
        """Give back the memory of a prompt that has been sent."""
        self.scheduler.let_go(leg)
        self.wake()

    def _start_alone(self, plan: Plan, now: int) -> None:
        super()._start_alone(plan, now)
        if plan.chunks and self.is_layerwise:
            self.send_layers(0, plan, [sequence.computed for sequence, _ in plan.chunks], self._ends_ns[0] - now)

    def send_layers(self, number: int, plan: Plan, computed: list[int], duration_ns: int) -> None:
        """Send what a step that starts now on a stage computes of prompts; ``computed``: tokens of each then."""
        for (sequence, _), tokens in zip(plan.chunks, computed, strict=True):
            if isinstance(sequence, PrefillLeg):
                sequence.outgoing.send_layers(number, tokens, duration_ns)

    def _complete(self, plan: Plan, network_ns: int, now: int) -> None:
        legs = [sequence for sequence in plan.ending if isinstance(sequence, PrefillLeg)]
        if legs:
            plan.ending = [sequence for sequence in plan.ending if not isinstance(sequence, PrefillLeg)]
        for leg in legs:
            leg.generated = 1
            leg.compute_ns += now - leg.since_ns - network_ns
            leg.network_ns += network_ns
            self.scheduler.keep(leg, now)
            self.legs.prefilled(self, leg)
        super()._complete(plan, network_ns, now)


class LegStage(Stage):
    """A stage of several whose replica may send the layers of prompts as they are computed."""

    owner: LegReplica

    def take(self, step: Step) -> None:
        """See ``Stage.take``; the scheduler has just formed the step."""
        step.computed = [sequence.computed for sequence, _ in step.plan.chunks]
        super().take(step)

    def _start(self, step: Step) -> int:
        duration_ns = super()._start(step)
        if step.plan.chunks and self.owner.is_layerwise:
            self.owner.send_layers(self.number, step.plan, step.computed, duration_ns)
        return duration_ns
