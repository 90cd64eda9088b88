"""Links and network cards: first in, first out, per direction, unless the network shares links fairly.

A message occupies its link for bytes / bandwidth (serialisation) and arrives one latency later; the link is free for
the next message when serialisation ends. Network cards work the same way and overlap with the link (cut-through), so
a card costs time only when it is the slower of the two or shared by several links. With fair sharing (``sharing``) a
message does not wait behind others, but all of them are slower.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from helixsim.domain.cluster import COORDINATOR, Cluster
from helixsim.engine.kernel import Call, Kernel, Priority
from helixsim.engine.sharing import FairLink
from helixsim.units import BITS_PER_BYTE, NS_PER_S

Deliver = Callable[[Any, int], None]
"""Called with (load, nanoseconds since the message was handed over)."""


class Channel:
    """One direction of a link."""

    __slots__ = (
        "busy_ns",
        "bytes_received",
        "bytes_sent",
        "dst",
        "fair",
        "free_at_ns",
        "latency_ns",
        "messages",
        "ns_per_byte",
        "queue_ns",
        "src",
    )

    def __init__(self, src: str, dst: str, bandwidth_bps: float, latency_ns: int) -> None:
        self.src = src
        self.dst = dst
        self.ns_per_byte = BITS_PER_BYTE * NS_PER_S / bandwidth_bps
        self.latency_ns = latency_ns
        self.free_at_ns = 0
        self.fair: FairLink | None = None
        self.messages = 0
        self.bytes_sent = 0
        self.bytes_received = 0
        self.busy_ns = 0
        self.queue_ns = 0


class Card:
    """One direction of a network card."""

    __slots__ = ("free_at_ns", "ns_per_byte")

    def __init__(self, bandwidth_bps: float) -> None:
        self.ns_per_byte = BITS_PER_BYTE * NS_PER_S / bandwidth_bps
        self.free_at_ns = 0

    def pass_through(self, now_ns: int, size_bytes: int) -> int:
        """Return when the last byte of a message that comes now has passed [ns]."""
        self.free_at_ns = max(now_ns, self.free_at_ns) + round(size_bytes * self.ns_per_byte)
        return self.free_at_ns


class NetworkFabric:
    """All channels of a run, made when first used."""

    def __init__(self, kernel: Kernel, cluster: Cluster, message_overhead_ns: int = 0) -> None:
        self.message_overhead_ns = message_overhead_ns
        self.kernel = kernel
        self.cluster = cluster
        self.channels: dict[tuple[str, str], Channel] = {}
        limits = {node.id: node.nic_bps for node in cluster.nodes}
        limits[COORDINATOR] = cluster.network.coordinator_nic_bps
        self.cards_out = {end: Card(bps) for end, bps in limits.items() if bps is not None}
        self.cards_in = {end: Card(bps) for end, bps in limits.items() if bps is not None}

    def channel(self, src: str, dst: str) -> Channel:
        """Return the channel between two ends (node ids or the coordinator)."""
        channel = self.channels.get((src, dst))
        if channel is None:
            link = self.cluster.link(src, dst)
            latency_ns = link.latency_ns + self.message_overhead_ns
            channel = self.channels[src, dst] = Channel(src, dst, link.bandwidth_bps, latency_ns)
            if self.cluster.network.is_shared:
                channel.fair = FairLink(self.kernel, channel.ns_per_byte, self._sent)
        return channel

    def send(
        self, channel: Channel, size_bytes: int, deliver: Deliver, load: Any, first_bytes: int | None = None
    ) -> None:
        """Send ``load`` and call ``deliver`` when its first ``first_bytes`` have arrived (None: all of it)."""
        now = self.kernel.now_ns
        if channel.fair is not None:
            channel.fair.send(size_bytes, (channel, size_bytes, deliver, load, now))
            return
        start = max(now, channel.free_at_ns)
        serialisation = round(size_bytes * channel.ns_per_byte)
        end = start + serialisation
        if self.cards_out:
            card = self.cards_out.get(channel.src)
            if card is not None:
                end = max(end, card.pass_through(now, size_bytes))
        channel.free_at_ns = end
        channel.messages += 1
        channel.bytes_sent += size_bytes
        channel.busy_ns += serialisation
        channel.queue_ns += start - now
        arrival = end + channel.latency_ns
        if first_bytes is not None:
            arrival -= round((size_bytes - first_bytes) * channel.ns_per_byte)
        self.kernel.call_in(arrival - now, Priority.DELIVER, self._arrive, (channel, size_bytes, deliver, load, now))

    def _sent(self, message: tuple[Channel, int, Deliver, Any, int]) -> None:
        """Book a message that has left a shared link; its cards take it when it has passed."""
        channel, size_bytes, _, _, sent_ns = message
        now = self.kernel.now_ns
        serialisation = round(size_bytes * channel.ns_per_byte)
        card = self.cards_out.get(channel.src)
        end = now if card is None else max(now, card.pass_through(now - serialisation, size_bytes))
        channel.free_at_ns = end
        channel.messages += 1
        channel.bytes_sent += size_bytes
        channel.busy_ns += serialisation
        channel.queue_ns += max(now - sent_ns - serialisation, 0)
        self.kernel.call_in(end - now + channel.latency_ns, Priority.DELIVER, self._arrive, message)

    def _arrive(self, event: Call) -> None:
        channel, size_bytes, deliver, load, sent_ns = event.argument
        now = self.kernel.now_ns
        if self.cards_in:
            card = self.cards_in.get(channel.dst)
            if card is not None:
                # The card received while the link was sending; only what it could not keep up with is left.
                started = now - round(size_bytes * channel.ns_per_byte)
                end = card.pass_through(started, size_bytes)
                if end > now:
                    self.kernel.call_in(end - now, Priority.DELIVER, self._hand_over, event.argument)
                    return
        channel.bytes_received += size_bytes
        deliver(load, now - sent_ns)

    def _hand_over(self, event: Call) -> None:
        channel, size_bytes, deliver, load, sent_ns = event.argument
        channel.bytes_received += size_bytes
        deliver(load, self.kernel.now_ns - sent_ns)
