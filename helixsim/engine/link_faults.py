"""Links that can be cut or slow (docs/faults.md).

While a link is cut its own time stands still: what is under way arrives later by the length of the cut, as TCP sends
again what gets no answer. When the coordinator learns of a cut, the connection is closed, and what waits is dropped.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any

from helixsim.domain.cluster import LinkSpec
from helixsim.domain.faults import LinkFault, Outage
from helixsim.engine.kernel import Kernel, Priority
from helixsim.engine.network import Channel, Receiver, SharedChannel
from helixsim.engine.state import Message


class _LinkClock:
    """The time of one link [ns], which stands still while it is cut; ``cut_ns``: since when, -1: it is not."""

    def __init__(self, kernel: Kernel) -> None:
        self._kernel = kernel
        self.cut_ns = -1

    @property
    def _now(self) -> int:  # the name of a SimPy environment's clock, in whose place it stands
        return self._kernel.now_ns if self.cut_ns < 0 else self.cut_ns


class _AnyTime:
    """A receiver that takes nothing before it has arrived: until then the link may be cut."""

    ends_ns = -1

    def __init__(self, receiver: Receiver) -> None:
        self.receive = receiver.receive


class FaultyChannel(Channel):
    """A link that can be cut or slow, first in, first out.

    ``is_closed``: what is sent is dropped. ``_flights``: the messages under way, in the order of their arrival.
    """

    def __init__(
        self, kernel: Kernel, src: str, dst: str, link: LinkSpec, token_bytes: int, receiver: Receiver
    ) -> None:
        super().__init__(kernel, src, dst, link, token_bytes, _AnyTime(receiver))
        self._clock = self._env = _LinkClock(kernel)
        self._usual = self.ns_per_byte, self.latency_ns
        self._flights: dict[int, Message] = {}
        self._last_ns = 0
        self.is_closed = False

    @property
    def is_cut(self) -> bool:
        """Whether nothing passes."""
        return self._clock.cut_ns >= 0

    def send(self, parcel: Message, tokens: int) -> None:
        """See ``Channel.send``."""
        if self.is_closed:
            return
        super().send(parcel, tokens)
        parcel.sent_ns = self._kernel.now_ns
        self._take(parcel)

    def _take(self, parcel: Message) -> None:
        """Take note of a message whose arrival is scheduled; it never overtakes one that was sent before it."""
        if parcel.arrived_ns < self._last_ns:
            parcel.arrived_ns = self._last_ns
            self._schedule(parcel)
        self._last_ns = parcel.arrived_ns
        self._flights[id(parcel)] = parcel

    def _schedule(self, parcel: Message) -> None:
        self._kernel.schedule(parcel, Priority.DELIVER, parcel.arrived_ns - self._kernel.now_ns)

    def _arrive(self, parcel: Message) -> None:
        """Deliver a message, unless it comes later, as the link is cut or has been."""
        is_due = not self.is_cut and parcel.arrived_ns <= self._kernel.now_ns
        if is_due and self._flights.pop(id(parcel), None) is not None:
            super()._arrive(parcel)

    def change(self, is_cut: bool, factor: float, extra_latency_ns: int) -> None:
        """Let the link be cut, or mended and so slow from now on."""
        ns_per_byte, latency_ns = self._usual
        self.ns_per_byte, self.latency_ns = ns_per_byte * factor, latency_ns + extra_latency_ns
        if self.spacing_ns:
            self.spacing_ns = max(1, round(self.token_bytes * self.ns_per_byte))
        if is_cut and not self.is_cut:
            self._clock.cut_ns = self._kernel.now_ns
        elif not is_cut and self.is_cut:
            self._mend()

    def _mend(self) -> None:
        """Let what is under way arrive later by the length of the cut."""
        now, cut_ns = self._kernel.now_ns, self._clock.cut_ns
        self._clock.cut_ns, self.is_closed = -1, False
        if self.free_at_ns > cut_ns:
            self.free_at_ns += now - cut_ns
        self._pending = deque([(end_ns + now - cut_ns, sent_ns) for end_ns, sent_ns in self._pending])
        for parcel in self._flights.values():
            self.queue_ns += now - max(parcel.sent_ns, cut_ns)
            parcel.arrived_ns += now - cut_ns
            self._last_ns = parcel.arrived_ns
            self._schedule(parcel)

    def close(self) -> None:
        """Drop what is under way, and what is sent from now on until the link is mended."""
        self.is_closed = True
        self.busy_ns = self.busy_until(self._kernel.now_ns)
        self.bytes_sent -= sum([parcel.size_bytes for parcel in self._flights.values()])
        self.free_at_ns = min(self.free_at_ns, self._clock._now)
        self._pending.clear()
        self._flights.clear()

    def busy_until(self, now_ns: int) -> int:
        """See ``Channel.busy_until``."""
        return super().busy_until(min(now_ns, self._clock.cut_ns) if self.is_cut else now_ns)


class FaultySharedChannel(FaultyChannel, SharedChannel):
    """A link that can be cut or slow, whose bandwidth its messages share evenly."""

    def _sent(self, parcel: Message) -> None:
        super()._sent(parcel)
        self._take(parcel)

    def send(self, parcel: Message, tokens: int) -> None:
        """See ``Channel.send``."""
        if not self.is_closed:
            SharedChannel.send(self, parcel, tokens)

    def change(self, is_cut: bool, factor: float, extra_latency_ns: int) -> None:
        """See ``FaultyChannel.change``."""
        super().change(is_cut, factor, extra_latency_ns)
        self._link.change(float("inf") if is_cut else self.ns_per_byte)

    def close(self) -> None:
        """See ``FaultyChannel.close``."""
        self._link.clear()
        super().close()

    def busy_until(self, now_ns: int) -> int:
        """See ``Channel.busy_until``: while the link is cut, messages are under way, too."""
        return SharedChannel.busy_until(self, now_ns)


_FAULTY: dict[type[Channel], type[FaultyChannel]] = {Channel: FaultyChannel, SharedChannel: FaultySharedChannel}


Maker = Callable[[type[FaultyChannel]], Callable[..., FaultyChannel]]


class Links:
    """The faults of links that last now, and the channels of a run, on which they act."""

    def __init__(self) -> None:
        self._active: list[LinkFault] = []
        self._channels: list[FaultyChannel] = []

    def kind(self, kind: type[Channel], maker: Maker = lambda own: own) -> Callable[..., Channel]:
        """Return what makes a channel that can fail in place of one of a class; ``maker``: what makes that."""

        def made(*arguments: Any) -> Channel:
            channel = maker(_FAULTY[kind])(*arguments)
            self._channels.append(channel)
            self._update(channel)
            return channel

        return made

    def begin(self, fault: LinkFault) -> None:
        """Let a fault begin."""
        self._active.append(fault)
        self._update_all(fault)

    def end(self, fault: LinkFault) -> None:
        """Let a fault end."""
        self._active.remove(fault)
        self._update_all(fault)

    def close(self, known: Outage) -> None:
        """Drop what waits on links that are cut and known to be."""
        for channel in self._channels:
            if channel.is_cut and known.cuts_link(channel.src, channel.dst):
                channel.close()

    def close_cut(self) -> None:
        """Drop what waits on links that are cut at the end of a run."""
        for channel in self._channels:
            if channel.is_cut:
                channel.close()

    def close_all(self) -> None:
        """Drop what is under way between engines that have stopped; others will have channels of their own."""
        for channel in self._channels:
            channel.close()
        self._channels = []

    def _update_all(self, fault: LinkFault) -> None:
        for channel in self._channels:
            if fault.hits(channel.src, channel.dst):
                self._update(channel)

    def _update(self, channel: FaultyChannel) -> None:
        factor, extra_ns, is_cut = 1.0, 0, False
        for fault in self._active:
            if fault.hits(channel.src, channel.dst):
                is_cut = is_cut or fault.is_cut
                factor, extra_ns = factor * fault.factor, extra_ns + fault.extra_latency_ns
        channel.change(is_cut, factor, extra_ns)
