"""Copies of the KV memory of running requests in the host memory of other replicas (docs/faults.md).

At intervals a replica sends what its decoding requests have more in KV memory than it has sent to the next replicas
that work: always, or from the notice that it will stop. When it is lost, its requests go on elsewhere from what had
arrived.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial
from typing import Protocol

from helixsim.domain.cluster import Deployment
from helixsim.domain.disaggregation import KvSizes
from helixsim.domain.faults import CopyStats, Replication
from helixsim.domain.placement import LayerRange
from helixsim.domain.request import Request
from helixsim.engine.faults import Retries
from helixsim.engine.kernel import Call, Kernel, Priority
from helixsim.engine.kv_network import KvFabric, KvMessage
from helixsim.engine.leg_scheduler import LegScheduler
from helixsim.engine.sequences import Incoming, Sequence
from helixsim.engine.stage import Stage, common_layers
from helixsim.units import BITS_PER_BYTE, NS_PER_S


class Restorable(Sequence):
    """A request that may go on from a copy, which ``transfer`` brings."""

    __slots__ = ("transfer",)
    transfer: Restore | None

    def __init__(self, request: Request, arrival_ns: int, row: int, output_tokens: int) -> None:
        super().__init__(request, arrival_ns, row, output_tokens)
        self.transfer = None


class Holder(Protocol):
    """A replica as ``Copies`` needs it; ``life``: how often it has stopped."""

    number: int
    life: int
    is_down: bool
    scheduler: LegScheduler
    stages: list[Stage]

    def book(self) -> None:
        """Book the steps that have ended by now."""

    def take_in(self, sequence: Sequence) -> None:
        """Let a request go on whose copy has come."""

    def forsake(self, sequence: Sequence) -> None:
        """Let a request compute all its tokens, as its copy does not come."""


class View(Protocol):
    """The replicas as the frontend knows them, by their numbers."""

    def takes_copies(self, number: int) -> bool:
        """Return whether a replica gets requests, and copies."""

    def is_leaving(self, number: int) -> bool:
        """Return whether a replica has got notice, or is known to have stopped."""


@dataclass(slots=True)
class _Copy:
    """What a replica has of the KV memory of a request of another one: tokens sent to it, and those that have come."""

    sent: int = 0
    arrived: int = 0
    size_bytes: int = 0


class _Parts:
    """Messages on their way that together bring one thing; ``lives``: of both ends when they were sent."""

    def __init__(self, source: Holder, target: Holder) -> None:
        self._ends = source, target
        self._lives = source.life, target.life
        self.left = 0

    @property
    def is_whole(self) -> bool:
        """Whether all have come, and neither end has stopped meanwhile."""
        return not self.left and tuple(end.life for end in self._ends) == self._lives


class Restore(Incoming):
    """The copy of the first ``tokens`` of a request on its way from ``source``, which may be the ``target`` itself."""

    def __init__(self, copies: Copies, sequence: Restorable, source: Holder, target: Holder, tokens: int) -> None:
        self._copies = copies
        self.sequence = sequence
        self.source = source
        self.target = target
        self.tokens = tokens
        self.is_reserved = False

    def reserve(self, due: int, now_ns: int) -> bool:
        """See ``Incoming.reserve``."""
        self.is_reserved = self.target.scheduler.expect(self.sequence, self.tokens, due, now_ns)
        if self.is_reserved:
            self._copies.send_back(self)
        return self.is_reserved


class Copies:
    """All copies of a run. ``view`` knows which replicas work; ``under_way``: messages that have not arrived."""

    replicas: list[Holder]
    view: View
    retries: Retries

    def __init__(self, spec: Replication, kernel: Kernel, fleet: Deployment, fabric: KvFabric) -> None:
        self.fabric = fabric
        self.under_way = 0
        self._spec = spec
        self._kernel = kernel
        self._cluster = fleet.cluster
        self._sizes = KvSizes(fleet.model)
        self._all_layers = LayerRange(0, fleet.model.num_layers)
        self._of: dict[int, dict[int, _Copy]] = {}  # by row and number of the holder
        self._restores: dict[int, Restore] = {}  # by row
        self._watched: set[int] = set()
        self._used: Counter[int] = Counter()  # by number of the holder [B]
        self._peak = 0
        self.tokens = self.bytes = self.left_out = self.restored = self.restored_tokens = 0

    def stats(self) -> CopyStats:
        """Return what was copied, and what went on from copies."""
        return CopyStats(self.tokens, self.bytes, self.left_out, self._peak, self.restored, self.restored_tokens)

    # Sending copies ---------------------------------------------------------------------------------------------------

    def watch(self, replica: Holder) -> None:
        """Send copies at intervals as long as a replica has requests, if at all."""
        self._watch(replica, self._spec.interval_ns)

    def watch_leaving(self) -> None:
        """Send copies of what replicas have that have got notice, at once and at intervals."""
        for replica in self.replicas if self._spec.at_notice else ():
            if not replica.is_down:
                self._watch(replica, 0)

    def _watch(self, replica: Holder, first_ns: int) -> None:
        is_due = not self._spec.at_notice or self.view.is_leaving(replica.number)
        if is_due and replica.number not in self._watched:
            self._watched.add(replica.number)
            self._kernel.call_in(first_ns, Priority.SAMPLE, self._look, replica)

    def _look(self, event: Call) -> None:
        replica: Holder = event.argument
        self._watched.discard(replica.number)
        if replica.is_down:
            return
        self._send_all(replica)
        if replica.scheduler.running or len(replica.scheduler.queue):
            self.watch(replica)

    def _send_all(self, replica: Holder) -> None:
        """Send what the decoding requests of a replica have more in KV memory than was sent.

        The first part of each is a message of its own: it is long, and the replica may stop soon.
        """
        replica.book()
        running = [one for one in replica.scheduler.running.values() if one.decodes is not None]
        for sequence in running:
            assert sequence.decodes is not None
            sequence.decodes.tell(sequence)
        for holder in self._holders(replica):
            news = []
            for sequence in running:
                copy = self._of.setdefault(sequence.row, {}).setdefault(holder.number, _Copy())
                tokens = sequence.context_tokens - 1  # the last one is computed with the next step
                if tokens > copy.sent and self._has_room(holder, copy, tokens):
                    part = (copy, copy.sent, tokens)
                    if copy.sent:
                        news.append(part)
                    else:
                        self._send(replica, holder, [part])
                    copy.sent = tokens
            if news:
                self._send(replica, holder, news)

    def _holders(self, replica: Holder) -> list[Holder]:
        """Return the replicas that copies go to: the next ones known to work, first those on other machines."""
        own, count = self._machines(replica), len(self.replicas)
        others = [one for one in self.replicas if one is not replica and self.view.takes_copies(one.number)]
        others.sort(key=lambda one: (bool(own & self._machines(one)), (one.number - replica.number) % count))
        return others[: self._spec.copies]

    def _machines(self, replica: Holder) -> set[str]:
        machine_of = self._cluster.machine_of
        return {machine_of.get(stage.node_id, stage.node_id) for stage in replica.stages}

    def _has_room(self, holder: Holder, copy: _Copy, tokens: int) -> bool:
        """Take host memory for a copy; False: there is none, and the tokens are not copied."""
        size_bytes = self._sizes.of(self._all_layers, 0, tokens, tokens, 1)
        used = self._used[holder.number] + size_bytes - copy.size_bytes
        if self._spec.memory_bytes is not None and used > self._spec.memory_bytes:
            self.left_out += 1
            return False
        self._used[holder.number] = used
        self._peak = max(self._peak, used)
        copy.size_bytes = size_bytes
        return True

    def _send(self, replica: Holder, holder: Holder, news: list[tuple[_Copy, int, int]]) -> None:
        parts = _Parts(replica, holder)
        arrive = partial(self._arrived, parts, news)
        self.tokens += sum([last - first for _, first, last in news])
        for stage, other, layers in common_layers(replica.stages, holder.stages):
            size_bytes = sum([self._sizes.of(layers, first, last, last, 1) for _, first, last in news])
            self.bytes += size_bytes
            self._message(parts, stage.node_id, other.node_id, size_bytes, arrive)

    def _message(self, parts: _Parts, src: str, dst: str, size_bytes: int, arrive: partial[None]) -> None:
        parts.left += 1
        self.under_way += 1
        self.fabric.channel(src, dst).send(KvMessage(size_bytes, 0, arrive))

    def _arrived(self, parts: _Parts, news: list[tuple[_Copy, int, int]], _message: KvMessage) -> None:
        self.under_way -= 1
        parts.left -= 1
        if parts.is_whole:
            for copy, _, last in news:
                copy.arrived = max(copy.arrived, last)

    def drop(self, row: int) -> None:
        """Forget the copies of a request that has ended."""
        for number, copy in self._of.pop(row, {}).items():
            self._used[number] -= copy.size_bytes

    # Going on from them -----------------------------------------------------------------------------------------------

    def restore(self, sequence: Restorable, target: Holder) -> Restore | None:
        """Return what brings a lost request to the replica where it goes on; None: there is no copy of it."""
        found = self._of.get(sequence.row)
        if not found:
            return None
        for copy in found.values():
            copy.sent = copy.arrived  # what was under way was lost with its sender
        best = max(found, key=lambda number: (found[number].arrived, number == target.number, -number))
        tokens = found[best].arrived
        if not tokens:
            return None
        made = self._restores[sequence.row] = Restore(self, sequence, self.replicas[best], target, tokens)
        self.restored += 1
        self.restored_tokens += tokens
        return made

    def send_back(self, restore: Restore) -> None:
        """Send a copy to the replica where its request goes on, which has memory for it."""
        source, target, tokens = restore.source, restore.target, restore.tokens
        parts = _Parts(source, target)
        came = partial(self._came, parts, restore)
        if source is target:
            parts.left = 1
            self.under_way += 1
            stages = [self._sizes.of(stage.range, 0, tokens, tokens, 1) for stage in target.stages]
            load_ns = round(max(stages) * BITS_PER_BYTE * NS_PER_S / self._spec.load_bps)
            self._kernel.call_in(load_ns, Priority.FINISH, lambda _event: came(None), None)
            return
        for stage, other, layers in common_layers(source.stages, target.stages):
            size_bytes = self._sizes.of(layers, 0, tokens, tokens, 1)
            self._message(parts, stage.node_id, other.node_id, size_bytes, came)

    def _came(self, parts: _Parts, restore: Restore, _message: KvMessage | None) -> None:
        self.under_way -= 1
        parts.left -= 1
        row = restore.sequence.row
        if parts.is_whole and self._restores.get(row) is restore:
            del self._restores[row]
            self._forget(row, restore.target.number)
            restore.sequence.transfer = None
            restore.target.take_in(restore.sequence)

    def lose(self, lost: Iterable[int]) -> None:
        """Forget the copies at replicas that are gone; what was on its way from there is computed again."""
        gone = set(lost)
        for row in self._of:
            for number in gone:
                self._forget(row, number)
        for row, restore in list(self._restores.items()):
            if restore.target.number in gone:
                del self._restores[row]
                restore.sequence.transfer = None
            elif restore.source.number in gone:
                del self._restores[row]
                self._forsake(restore)
                self.retries.recomputed_tokens += restore.tokens

    def _forget(self, row: int, number: int) -> None:
        """Forget the copy of a request at one replica."""
        copy = self._of.get(row, {}).pop(number, None)
        if copy is not None:
            self._used[number] -= copy.size_bytes

    def _forsake(self, restore: Restore) -> None:
        """Let a request compute all its tokens whose copy was lost on its way."""
        sequence, scheduler = restore.sequence, restore.target.scheduler
        self.restored -= 1
        self.restored_tokens -= restore.tokens
        sequence.transfer = None
        if restore.is_reserved:
            if scheduler.running.get(sequence.order) is sequence:  # else its replica has stopped, too
                restore.target.forsake(sequence)
        elif sequence in scheduler.waiting or sequence in scheduler.queue.unread:
            scheduler.pending_tokens += restore.tokens
