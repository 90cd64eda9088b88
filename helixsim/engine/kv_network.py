"""KV caches on links and network cards: a class of traffic behind activations and tokens.

A message of the KV class waits for those of its class before it on its link and on the cards at both ends, as other
messages do for theirs (``network``). Other traffic goes first: it does not see the class, and while it passes a card,
the message there pauses. Links between two replicas carry no other traffic. The parts of a machine share its cards, and
its links to other machines.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable
from heapq import heappop, heappush

from helixsim.domain.cluster import LinkSpec
from helixsim.domain.disaggregation import KvTransfer
from helixsim.domain.timeline import Timeline
from helixsim.engine.kernel import Call, Kernel, Priority
from helixsim.engine.network import Card, NetworkFabric, unsent_ns
from helixsim.engine.system import Link
from helixsim.units import BITS_PER_BYTE, NS_PER_S


class YieldingLane:
    """What a card has left for the KV class.

    ``displaced_ns`` sums the time of other traffic that has passed while messages of the class were on the card.
    """

    __slots__ = ("displaced_ns", "free_at_ns", "ns_per_byte")

    def __init__(self, ns_per_byte: float) -> None:
        self.ns_per_byte = ns_per_byte
        self.displaced_ns = 0
        self.free_at_ns = 0


class SharedCard(Card):
    """One direction of a network card whose traffic displaces that of the KV class; ``busy_ns``: what it has taken."""

    __slots__ = ("busy_ns", "lane")

    def __init__(self, bandwidth_bps: float, efficiency: float) -> None:
        super().__init__(bandwidth_bps)
        self.lane = YieldingLane(self.ns_per_byte / efficiency)
        self.busy_ns = 0

    def pass_through(self, now_ns: int, size_bytes: int) -> int:
        """See ``Card.pass_through``."""
        began_ns = max(now_ns, self.free_at_ns)
        end_ns = super().pass_through(now_ns, size_bytes)
        self.busy_ns += end_ns - began_ns
        if self.lane.free_at_ns > began_ns:
            self.lane.free_at_ns += end_ns - began_ns
            self.lane.displaced_ns += end_ns - began_ns
        return end_ns

    def yield_to(self, from_ns: int, size_bytes: int) -> int:
        """Let a message of the KV class pass; return when it has, as far as that is known now [ns]."""
        lane = self.lane
        lane.free_at_ns = max(from_ns, lane.free_at_ns) + round(size_bytes * lane.ns_per_byte)
        return lane.free_at_ns


class KvLane:
    """When one direction of a link is free for the KV class [ns]; one for all pairs of parts of two machines."""

    __slots__ = ("free_at_ns",)

    def __init__(self) -> None:
        self.free_at_ns = 0


class KvMessage:
    """Keys and values on their way to one node.

    ``covers`` are its tokens times layers. ``link_ns``, ``card_ns``: when it has left the link and the card of its
    sender, the latter as of ``displaced_ns`` of other traffic. ``taken_ns``: what other traffic had taken of the card
    of its receiver when it began to leave.
    """

    __slots__ = ("arrive", "card_ns", "covers", "displaced_ns", "link_ns", "size_bytes", "start_ns",
                 "taken_ns")  # fmt: skip

    def __init__(self, size_bytes: int, covers: int, arrive: Callable[[KvMessage], None]) -> None:
        self.size_bytes = size_bytes
        self.covers = covers
        self.arrive = arrive
        self.card_ns = self.displaced_ns = self.link_ns = self.start_ns = self.taken_ns = 0


class KvChannel:
    """The KV class on one direction of a link, first in, first out; attributes as those of ``network.Channel``.

    Layers that a step computes may be booked when it starts: they are sent as they become ready, in the order of these
    times and then of booking, but only the last of them is an event. This tells the same as an event for each: one
    stage alone sends over a channel, so that nothing else comes in between, and those before the last arrive no later.
    What a channel has done is known once it has been asked to ``advance``. ``lane`` is shared with other channels where
    the link is.
    """

    __slots__ = ("_booked", "_card_in", "_card_out", "_kernel", "_lane", "_latency_ns", "_order", "_pending",
                 "_received_ns_per_byte", "_timeline", "busy_ns", "bytes_received", "bytes_sent", "dst", "free_at_ns",
                 "messages", "ns_per_byte", "queue_ns", "src")  # fmt: skip

    def __init__(
        self,
        kernel: Kernel,
        ends: tuple[str, str],
        link: LinkSpec,
        transfer: KvTransfer,
        cards: tuple[SharedCard | None, SharedCard | None],
        timeline: Timeline | None = None,
        lane: KvLane | None = None,
    ) -> None:
        self.src, self.dst = ends
        self._lane = KvLane() if lane is None else lane
        self._pending: deque[tuple[int, int]] | None = None if lane is None else deque()
        self.ns_per_byte = BITS_PER_BYTE * NS_PER_S / (link.bandwidth_bps * transfer.efficiency)
        self._latency_ns = link.latency_ns + transfer.latency_ns
        self._card_out, self._card_in = cards
        sent = self._card_out
        self._received_ns_per_byte = self.ns_per_byte if sent is None else max(self.ns_per_byte, sent.lane.ns_per_byte)
        self._kernel = kernel
        self._timeline = timeline
        self._booked: list[tuple[int, int, int]] = []
        self._order = 0
        self.free_at_ns = self.messages = self.bytes_sent = self.bytes_received = self.busy_ns = self.queue_ns = 0

    @property
    def takes_bookings(self) -> bool:
        """Whether layers may be booked: neither cards, nor a timeline, nor other channels need an event for each."""
        return self._card_out is None and self._card_in is None and self._timeline is None and self._pending is None

    def book(self, ready_ns: int, size_bytes: int) -> int:
        """Book a message that will be ready at a time; return its place in the order of bookings."""
        heappush(self._booked, (ready_ns, self._order, size_bytes))
        self._order += 1
        return self._order - 1

    def send_booked(self, order: int, message: KvMessage) -> None:
        """Send what is booked up to a place, whose message is ready now; ``message`` stands for it and those before."""
        now = self._kernel.now_ns
        self.advance(now, order)
        message.start_ns, message.link_ns = now, self.free_at_ns
        self._after(message.link_ns - now, self._left, message)

    def advance(self, now_ns: int, order: float = math.inf) -> None:
        """Send what was booked for a time up to now, of those for this instant up to a place in their order."""
        booked = self._booked
        while booked and booked[0][:2] <= (now_ns, order):
            ready_ns, _, size_bytes = heappop(booked)
            self._take(ready_ns, size_bytes)

    def _take(self, now_ns: int, size_bytes: int) -> int:
        """Let a message that is there now take the link after those before it; return when it begins [ns]."""
        serialisation = round(size_bytes * self.ns_per_byte)
        start = max(now_ns, self._lane.free_at_ns)
        self.queue_ns += start - now_ns
        self.free_at_ns = self._lane.free_at_ns = start + serialisation
        if self._pending is not None:
            while self._pending and self._pending[0][0] <= now_ns:
                self._pending.popleft()
            self._pending.append((self.free_at_ns, serialisation))
        self.messages += 1
        self.bytes_sent += size_bytes
        self.busy_ns += serialisation
        return start

    def send(self, message: KvMessage) -> None:
        """Send a message; ``message.arrive`` is called when it has come."""
        now, size = self._kernel.now_ns, message.size_bytes
        start = message.start_ns = self._take(now, size)
        message.link_ns = self.free_at_ns
        card = self._card_out
        if card is None:
            self._after(message.link_ns - now, self._left, message)
        else:
            message.card_ns = card.yield_to(max(now, card.free_at_ns), size)
            message.displaced_ns = card.lane.displaced_ns
            self._after(message.card_ns - now, self._passed_out, message)
            start = max(start, message.card_ns - round(size * card.lane.ns_per_byte))
        if self._card_in is not None:
            self._after(start - now, self._begins, message)

    def idle_ns(self, size_bytes: float, now_ns: int) -> float:
        """Return how long a message of this size would take from now on, with those before it [ns]."""
        self.advance(now_ns)
        return max(self._lane.free_at_ns - now_ns, 0) + size_bytes * self.ns_per_byte + self._latency_ns

    def busy_until(self, now_ns: int) -> int:
        """See ``Channel.busy_until``."""
        self.advance(now_ns)
        if self._pending is None:
            return self.busy_ns - max(0, self.free_at_ns - now_ns)
        return self.busy_ns - unsent_ns(self._pending, now_ns)

    def bytes_until(self, now_ns: int) -> int:
        """See ``Channel.bytes_until``."""
        left_ns = self.busy_ns - self.busy_until(now_ns)
        return self.bytes_sent - round(left_ns / self.ns_per_byte) if left_ns else self.bytes_sent

    def _after(self, delay_ns: int, function: Callable[[Call], None], message: KvMessage) -> None:
        self._kernel.call_in(delay_ns, Priority.DELIVER, function, message)

    def _waits(self, card: SharedCard, message: KvMessage, again: Callable[[Call], None]) -> bool:
        """Whether other traffic has displaced a message that should have passed a card by now; then come back."""
        more_ns = card.lane.displaced_ns - message.displaced_ns
        if more_ns:
            message.displaced_ns = card.lane.displaced_ns
            self._after(more_ns, again, message)
        return bool(more_ns)

    def _begins(self, event: Call) -> None:
        assert self._card_in is not None
        event.argument.taken_ns = self._card_in.busy_ns

    def _passed_out(self, event: Call) -> None:
        message, card = event.argument, self._card_out
        assert card is not None
        if not self._waits(card, message, self._passed_out):
            self._after(max(message.link_ns - self._kernel.now_ns, 0), self._left, message)

    def _left(self, event: Call) -> None:
        self._after(self._latency_ns, self._arrived, event.argument)

    def _arrived(self, event: Call) -> None:
        """Deliver what has come through the link, and through the card, which received while that was under way.

        What other traffic has taken of the card meanwhile, the message has waited.
        """
        message, card, now = event.argument, self._card_in, self._kernel.now_ns
        if card is not None:
            began_ns = now - round(message.size_bytes * self._received_ns_per_byte)
            end = card.yield_to(began_ns + card.busy_ns - message.taken_ns, message.size_bytes)
            message.displaced_ns = card.lane.displaced_ns
            if end > now:
                self._after(end - now, self._passed_in, message)
                return
        self._deliver(message)

    def _passed_in(self, event: Call) -> None:
        assert self._card_in is not None
        if not self._waits(self._card_in, event.argument, self._passed_in):
            self._deliver(event.argument)

    def _deliver(self, message: KvMessage) -> None:
        self.bytes_received += message.size_bytes
        if self._timeline is not None:
            times = (message.start_ns, message.link_ns, self._kernel.now_ns)
            self._timeline.transfer(self.src, self.dst, *times, message.size_bytes)
        message.arrive(message)


class KvFabric:
    """The channels of the KV class, made when first used; ``fabric`` is that of the other traffic."""

    def __init__(self, fabric: NetworkFabric, transfer: KvTransfer, timeline: Timeline | None) -> None:
        self.transfer = transfer
        self._timeline = timeline
        self.channels: dict[tuple[str, str], KvChannel] = {}
        self._fabric = fabric
        self._lanes: dict[tuple[str, str], KvLane] = {}
        bps = {node.machine or node.id: node.nic_bps for node in fabric.cluster.nodes}
        out = {end: SharedCard(limit, transfer.efficiency) for end, limit in bps.items() if limit is not None}
        into = {end: SharedCard(limit, transfer.efficiency) for end, limit in bps.items() if limit is not None}
        fabric.cards_out.update(out)
        fabric.cards_in.update(into)
        self._out, self._in = out, into

    def channel(self, src: str, dst: str) -> KvChannel:
        """Return the channel between two nodes."""
        found = self.channels.get((src, dst))
        if found is None:
            fabric = self._fabric
            link = LinkSpec(fabric.cluster.link(src, dst).bandwidth_bps, fabric.latency_ns(src, dst))
            cards, lane = self._shared(src, dst)
            found = KvChannel(fabric.kernel, (src, dst), link, self.transfer, cards, self._timeline, lane)
            self.channels[src, dst] = found
        return found

    def with_others(self) -> list[Link]:
        """Return the channels with traffic, and those of the other traffic; none carries both."""
        for channel in self.channels.values():
            channel.advance(self._fabric.kernel.now_ns)
        channels: dict[tuple[str, str], Link] = {**self._fabric.channels, **self.channels}
        assert len(channels) == len(self._fabric.channels) + len(self.channels)
        return [channels[key] for key in sorted(channels)]

    def _shared(self, src: str, dst: str) -> tuple[tuple[SharedCard | None, SharedCard | None], KvLane | None]:
        """Return the cards at the ends of a link, and its lane where parts of machines share the link.

        Two parts of one machine have a way of their own inside it.
        """
        machines = self._fabric.cluster.machine_of
        ends = machines.get(src, src), machines.get(dst, dst)
        if ends[0] == ends[1]:
            return (None, None), None
        lane = None if ends == (src, dst) else self._lanes.setdefault(ends, KvLane())
        return (self._out.get(ends[0]), self._in.get(ends[1])), lane
