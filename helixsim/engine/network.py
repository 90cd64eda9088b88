"""Links and network cards: first in, first out, per direction, unless the network shares links fairly.

A message occupies its link for bytes / bandwidth (serialisation) and arrives one latency later; the link is free for
the next message when serialisation ends. Network cards work the same way and overlap with the link and with each other
(cut-through), so a card costs time only when it is slower than these or shared by several links. The parts of a machine
share its cards and its links. With fair sharing (``sharing``) a message does not wait behind others, but all of them
are slower.

What reaches a node while it computes lies there until the batch ends. So where the time of arrival is settled when a
message is sent, and the receiver is known to be busy until then, the message is put there at once, without an event.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from typing import Any, Protocol

from helixsim.domain.cluster import COORDINATOR, TOKEN_ID_BYTES, Cluster, LinkSpec
from helixsim.engine.kernel import Call, Kernel, Priority
from helixsim.engine.sharing import FairLink
from helixsim.engine.state import Message
from helixsim.units import BITS_PER_BYTE, NS_PER_S


class Receiver(Protocol):
    """What is at the end of a link. ``ends_ns``: the end of the batch it computes [ns], -1: it is not computing."""

    ends_ns: int

    def receive(self, parcel: Any) -> None:
        """Take in a parcel whose first request arrives at its ``arrived_ns``: now, or before the batch ends."""


def unsent_ns(pending: Iterable[tuple[int, int]], now_ns: int) -> int:
    """Return the time for which messages will still send; ``pending``: when each has left, and for how long it sends.

    Each is taken to be sent in the last part of the time that it holds the link.
    """
    return sum(min(max(end - now_ns, 0), sent) for end, sent in pending)


_DELIVER = Priority.DELIVER  # a member of an enumeration is slow to look up


class Card:
    """One direction of a network card."""

    __slots__ = ("free_at_ns", "ns_per_byte")

    def __init__(self, bandwidth_bps: float) -> None:
        self.ns_per_byte = BITS_PER_BYTE * NS_PER_S / bandwidth_bps
        self.free_at_ns = 0

    @property
    def received_ns_per_byte(self) -> float:
        """How fast a message passes that is alone [ns per byte]."""
        return self.ns_per_byte

    def pass_through(self, now_ns: int, size_bytes: int) -> int:
        """Return when the last byte of a message that comes now has passed [ns]."""
        self.free_at_ns = max(now_ns, self.free_at_ns) + round(size_bytes * self.ns_per_byte)
        return self.free_at_ns


class SharedLink(Card):
    """One direction of a link between two machines, with the card behind it, for the parts of the machines."""

    __slots__ = ("card",)

    def __init__(self, bandwidth_bps: float, card: Card | None) -> None:
        super().__init__(bandwidth_bps)
        self.card = card

    @property
    def received_ns_per_byte(self) -> float:
        """See ``Card.received_ns_per_byte``."""
        return self.ns_per_byte if self.card is None else max(self.ns_per_byte, self.card.ns_per_byte)

    def pass_through(self, now_ns: int, size_bytes: int) -> int:
        """See ``Card.pass_through``."""
        end = super().pass_through(now_ns, size_bytes)
        return end if self.card is None else max(end, self.card.pass_through(now_ns, size_bytes))


class Channel:
    """One direction of a link, first in, first out.

    ``busy_ns`` sums the serialisation of all messages sent, also of those still waiting for the link. ``token_bytes``
    is what one token takes on it. ``spacing_ns``: decode steps travel one by one, each so long after
    the one before it; 0: all of a message arrive together. ``receiver`` takes what arrives. ``card_out``
    and ``card_in`` are the network cards at its ends, None: never a limit. ``received_ns_per_byte``: how fast the
    receiver gets a message, by link and card of the sender.
    """

    __slots__ = (
        "_arrivals",
        "_env",
        "_kernel",
        "_pending",
        "busy_ns",
        "bytes_received",
        "bytes_sent",
        "card_in",
        "card_out",
        "dst",
        "free_at_ns",
        "latency_ns",
        "messages",
        "ns_per_byte",
        "queue_ns",
        "received_ns_per_byte",
        "receiver",
        "spacing_ns",
        "src",
        "token_bytes",
    )

    def __init__(
        self, kernel: Kernel, src: str, dst: str, link: LinkSpec, token_bytes: int, receiver: Receiver
    ) -> None:
        self.src = src
        self.dst = dst
        self.ns_per_byte = BITS_PER_BYTE * NS_PER_S / link.bandwidth_bps
        self.latency_ns = link.latency_ns
        self.token_bytes = token_bytes
        self.spacing_ns = 0
        self.receiver = receiver
        self.card_out: Card | None = None
        self.card_in: Card | None = None
        self.received_ns_per_byte = self.ns_per_byte
        self.free_at_ns = 0
        self.messages = 0
        self.bytes_sent = 0
        self.bytes_received = 0
        self.busy_ns = 0
        self.queue_ns = 0
        self._kernel = kernel
        self._pending: deque[tuple[int, int]] = deque()
        self._env: Any = kernel.env  # its clock counts integers, and a property in between costs time on the hot path
        self._arrivals: list[Callable[[Any], None]] = [self._arrive]

    def send(self, parcel: Message, tokens: int) -> None:
        """Send a parcel of ``tokens`` tokens; it is delivered when its first request has arrived."""
        now = self._env._now
        parcel.sent_ns = now
        parcel.size_bytes = size_bytes = self.token_bytes * tokens
        serialisation = round(size_bytes * self.ns_per_byte)
        start = self.free_at_ns
        if start > now:
            self.queue_ns += start - now
        else:
            start = now
        end = start + serialisation
        if self.card_out is not None:
            end = max(end, self.card_out.pass_through(now, size_bytes))
            pending = self._pending
            while pending and pending[0][0] <= now:
                pending.popleft()
            pending.append((end, serialisation))
        self.free_at_ns = end
        self.messages += 1
        self.bytes_sent += size_bytes
        self.busy_ns += serialisation
        arrival = end + self.latency_ns
        if self.spacing_ns and not parcel.is_prefill:
            parcel.spacing_ns = self.spacing_ns
            arrival -= round((size_bytes - self.token_bytes) * self.ns_per_byte)
        parcel.arrived_ns = arrival
        receiver = self.receiver
        if arrival <= receiver.ends_ns and self.card_in is None:
            self.bytes_received += size_bytes
            receiver.receive(parcel)
        else:
            parcel.callbacks = self._arrivals
            self._kernel.schedule(parcel, _DELIVER, arrival - now)

    def busy_until(self, now_ns: int) -> int:
        """Return the time spent sending up to now [ns], without what messages sent by now will still take.

        Without a card the link sends without a pause until it is free. A slower card holds it for longer than it sends;
        a message is then taken to be sent in the last part of the time it holds the link.
        """
        if self.card_out is None:
            return self.busy_ns - max(0, self.free_at_ns - now_ns)
        return self.busy_ns - unsent_ns(self._pending, now_ns)

    def bytes_until(self, now_ns: int) -> int:
        """Return the bytes that have passed up to now, without those of messages that wait for the link."""
        left_ns = self.busy_ns - self.busy_until(now_ns)
        return self.bytes_sent - round(left_ns / self.ns_per_byte) if left_ns else self.bytes_sent

    def _arrive(self, parcel: Message) -> None:
        """Deliver what has come through the link, and through the card, which received while that was under way."""
        if self.card_in is not None:
            now = self._kernel.now_ns
            started = now - round(parcel.size_bytes * self.received_ns_per_byte)
            end = self.card_in.pass_through(started, parcel.size_bytes)
            if end > now:
                parcel.arrived_ns = end
                self._kernel.call_in(end - now, Priority.DELIVER, self._hand_over, parcel)
                return
        self.bytes_received += parcel.size_bytes
        self.receiver.receive(parcel)

    def _hand_over(self, event: Call) -> None:
        self.bytes_received += event.argument.size_bytes
        self.receiver.receive(event.argument)


class SharedChannel(Channel):
    """A link whose bandwidth its messages share evenly; decode steps of a message end together, so arrive together."""

    __slots__ = ("_link",)

    def __init__(
        self, kernel: Kernel, src: str, dst: str, link: LinkSpec, token_bytes: int, receiver: Receiver
    ) -> None:
        super().__init__(kernel, src, dst, link, token_bytes, receiver)
        self._link = FairLink(kernel, self.ns_per_byte, self._sent)

    def send(self, parcel: Message, tokens: int) -> None:
        """See ``Channel.send``."""
        parcel.sent_ns = self._kernel.now_ns
        parcel.size_bytes = self.token_bytes * tokens
        self._link.send(parcel.size_bytes, parcel)

    def _sent(self, parcel: Message) -> None:
        """Book a message that has left; the card takes it when it has passed."""
        now, size_bytes = self._kernel.now_ns, parcel.size_bytes
        serialisation = round(size_bytes * self.ns_per_byte)
        end = now if self.card_out is None else max(now, self.card_out.pass_through(now - serialisation, size_bytes))
        self.messages += 1
        self.bytes_sent += size_bytes
        self.queue_ns += max(now - parcel.sent_ns - serialisation, 0)
        self.free_at_ns = end
        parcel.arrived_ns = end + self.latency_ns
        parcel.callbacks = self._arrivals
        self._kernel.schedule(parcel, Priority.DELIVER, end - now + self.latency_ns)

    def busy_until(self, now_ns: int) -> int:
        """Return the time in which at least one message was under way, up to now [ns]."""
        return self._link.busy_until(now_ns)

    def bytes_until(self, _now_ns: int) -> int:
        """Return the bytes of the messages that have been sent as a whole."""
        return self.bytes_sent


class Delay:
    """A way that takes a constant time: for token ids inside an engine, which are too few to load a link."""

    __slots__ = ("_arrivals", "_delay_ns", "_kernel")

    def __init__(self, kernel: Kernel, delay_ns: int, receiver: Receiver) -> None:
        self._kernel = kernel
        self._delay_ns = delay_ns
        self._arrivals: list[Callable[[Any], None]] = [receiver.receive]

    def send(self, parcel: Message, tokens: int) -> None:
        """Deliver a parcel after the delay; never at once, so that others can leave at the same instant."""
        parcel.sent_ns = now = self._kernel.now_ns
        parcel.size_bytes = 0
        parcel.arrived_ns = now + self._delay_ns
        parcel.callbacks = self._arrivals
        self._kernel.schedule(parcel, _DELIVER, self._delay_ns)


class NetworkFabric:
    """All channels of a run, made when first used.

    ``activation_bytes_per_token`` travel between nodes; to and from the coordinator only token ids do.
    ``is_one_by_one``: the decode steps of a message travel one by one, so that the first to arrive starts a batch
    without the others. ``loops_inside``: tokens of decode steps stay in the engine. ``receivers`` takes what arrives at
    a node or at the coordinator; filled when all exist. ``kind`` gives what makes the channels of a class.
    """

    def __init__(
        self,
        kernel: Kernel,
        cluster: Cluster,
        activation_bytes_per_token: int,
        is_one_by_one: bool,
        message_overhead_ns: int = 0,
        loops_inside: bool = False,
    ) -> None:
        self.kernel = kernel
        self.cluster = cluster
        self.activation_bytes_per_token = activation_bytes_per_token
        self.is_one_by_one = is_one_by_one
        self.message_overhead_ns = message_overhead_ns
        self.loops_inside = loops_inside
        self.kind: Callable[[type[Channel]], Callable[..., Channel]] = lambda kind: kind
        self.receivers: dict[str, Receiver] = {}
        self.loops: dict[tuple[str, str], Delay] = {}
        self.channels: dict[tuple[str, str], Channel] = {}
        limits = {node.machine or node.id: node.nic_bps for node in cluster.nodes}
        limits[COORDINATOR] = cluster.network.coordinator_nic_bps
        self.cards_out = {end: Card(bps) for end, bps in limits.items() if bps is not None}
        self.cards_in = {end: Card(bps) for end, bps in limits.items() if bps is not None}
        self.shared_links: dict[tuple[str, str], SharedLink] = {}

    def channel(self, src: str, dst: str) -> Channel:
        """Return the channel between two ends (node ids or the coordinator)."""
        channel = self.channels.get((src, dst))
        return self._open(src, dst) if channel is None else channel

    def latency_ns(self, src: str, dst: str) -> int:
        """Return how long a message between two ends takes at least; token ids are too few to load a link [ns]."""
        return self.cluster.link(src, dst).latency_ns + self.message_overhead_ns

    def links(self) -> list[Channel]:
        """Return the channels in the order of their ends."""
        return [self.channels[ends] for ends in sorted(self.channels)]

    def returns(self, last: str, first: str) -> tuple[Channel | Delay, Channel | Delay | None]:
        """Return the way of tokens to the coordinator, and of decode steps to the first node; None: that of prompts.

        Where tokens stay in the engine, the next step is scheduled when the last stage ends, and reaches the first
        stage one latency of the link between the two later: at once if they are one node.
        """
        if not self.loops_inside:
            return self.channel(last, COORDINATOR), None
        latency_ns = 0 if last == first else self.latency_ns(last, first)
        return self._delay((last, COORDINATOR), 0, COORDINATOR), self._delay((last, first), latency_ns, first)

    def _delay(self, ends: tuple[str, str], delay_ns: int, receiver: str) -> Delay:
        found = self.loops.get(ends)
        if found is None:
            found = self.loops[ends] = Delay(self.kernel, delay_ns, self.receivers[receiver])
        return found

    def _open(self, src: str, dst: str) -> Channel:
        link = self.cluster.link(src, dst)
        link = LinkSpec(link.bandwidth_bps, self.latency_ns(src, dst))
        token_bytes = TOKEN_ID_BYTES + (0 if COORDINATOR in (src, dst) else self.activation_bytes_per_token)
        is_shared = self.cluster.network.is_shared
        kind = SharedChannel if is_shared else Channel
        channel = self.kind(kind)(self.kernel, src, dst, link, token_bytes, self.receivers[dst])
        if self.is_one_by_one and dst != COORDINATOR and not is_shared:
            channel.spacing_ns = max(1, round(token_bytes * channel.ns_per_byte))
        channel.card_out, channel.card_in = self._cards(src, dst, link)
        if channel.card_out is not None:
            channel.received_ns_per_byte = max(channel.ns_per_byte, channel.card_out.received_ns_per_byte)
        self.channels[src, dst] = channel
        return channel

    def _cards(self, src: str, dst: str, link: LinkSpec) -> tuple[Card | None, Card | None]:
        """Return the cards at the ends of a link; none between parts of one machine."""
        machines = self.cluster.machine_of
        ends = machines.get(src, src), machines.get(dst, dst)
        if ends[0] == ends[1]:
            return None, None
        card_out, card_in = self.cards_out.get(ends[0]), self.cards_in.get(ends[1])
        if ends == (src, dst):
            return card_out, card_in
        if ends not in self.shared_links:
            self.shared_links[ends] = SharedLink(link.bandwidth_bps, card_out)
        return self.shared_links[ends], card_in
