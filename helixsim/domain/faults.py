"""Faults of nodes and links in the middle of a run: when they happen, and how the system and its clients react."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from itertools import combinations, pairwise

import numpy as np

from helixsim.domain.clients import ClientSpec, ClientStats
from helixsim.domain.cluster import COORDINATOR
from helixsim.rng import stream
from helixsim.units import NS_PER_S


class FaultKind(StrEnum):
    """Kind of a fault."""

    DOWN = "down"
    """The nodes stop; what is in their memory is gone."""
    UP = "up"
    """The nodes are back, with their weights and an empty KV memory."""
    NOTICE = "notice"
    """It is announced that the nodes will stop: they get no new requests."""
    SLOW = "slow"
    """Steps of the nodes take so many times as long as they should from now on."""


ABSENT = "not there yet"
"""Event at the start: nodes will join."""

USUAL_SPEED = "usual speed"
"""Event: nodes are no longer slow."""

CUT, SLOW_LINKS, MENDED = "cut", "slow links", "mended"
"""Events of links, with the ends on one side, ``LINKS_TO`` and those on the other: cut, slow, no longer so."""

LINKS_TO = "–"


class Reaction(StrEnum):
    """What happens to the routing when nodes are known to be down."""

    STATIC = "static"
    """Routes through them are left out; the others keep their shares of the traffic."""
    REROUTE = "reroute"
    """The max-flow of the nodes that are left replaces that of the whole placement."""
    REPLACE = "replace"
    """The best of these and of placements on the nodes that are left, which load their layers and start again."""


@dataclass(frozen=True, slots=True)
class Fault:
    """Something that happens to nodes at one instant.

    Parameters
    ----------
    at_ns
        Time since the start of the run [ns].
    nodes
        Ids of the nodes, or of machines that are divided into nodes.
    factor
        With ``SLOW``: factor on step times; 1: as before.
    """

    at_ns: int
    kind: FaultKind
    nodes: tuple[str, ...]
    factor: float = 1.0


@dataclass(frozen=True, slots=True)
class LinkFault:
    """Links between two groups of ends, in both directions, that are cut or slow for a time.

    Parameters
    ----------
    at_ns, end_ns
        From when until when [ns] since the start of the run; None: to its end.
    near, far
        Ids of nodes, of machines that are divided into nodes, or the coordinator.
    is_cut
        Nothing passes.
    factor, extra_latency_ns
        If not: the bandwidth is divided by the factor, and the latency longer by so much [ns].
    """

    at_ns: int
    end_ns: int | None
    near: frozenset[str]
    far: frozenset[str]
    is_cut: bool = True
    factor: float = 1.0
    extra_latency_ns: int = 0

    def hits(self, src: str, dst: str) -> bool:
        """Return whether it concerns the link between two ends."""
        return (src in self.near and dst in self.far) or (src in self.far and dst in self.near)

    def of_parts(self, parts: Mapping[str, tuple[str, ...]]) -> LinkFault:
        """Return the same fault with the nodes into which machines are divided in place of the machines."""
        near, far = (
            frozenset(part for end in ends for part in parts.get(end, (end,))) for ends in (self.near, self.far)
        )
        return replace(self, near=near, far=far)


@dataclass(frozen=True, slots=True)
class Outage:
    """Nodes that get no requests, and links that are cut."""

    nodes: frozenset[str] = frozenset()
    cuts: frozenset[LinkFault] = frozenset()

    def cuts_link(self, src: str, dst: str) -> bool:
        """Return whether the link between two ends is cut."""
        return any(cut.hits(src, dst) for cut in self.cuts)

    def cuts_route(self, nodes: Sequence[str]) -> bool:
        """Return whether a link of a route is cut, from the coordinator over nodes and back."""
        return bool(self.cuts) and any(self.cuts_link(*ends) for ends in pairwise((COORDINATOR, *nodes, COORDINATOR)))


@dataclass(frozen=True, slots=True)
class RandomLinkFaults:
    """Cuts of the links between two groups of ends after exponentially distributed times, for each two of them.

    Parameters
    ----------
    mtbf_s, mttr_s
        Mean time from the end of a cut to the next one, and of a cut [s].
    groups
        The ends of each site.
    """

    mtbf_s: float
    mttr_s: float
    groups: tuple[frozenset[str], ...]

    def drawn(self, seed: int, end_ns: int) -> list[LinkFault]:
        """Return the cuts of a run that begin before ``end_ns``, in no order."""
        faults = []
        for near, far in combinations(self.groups, 2):
            rng = stream(seed, f"faults of links {min(near)} {min(far)}")
            for at_ns, back_ns in _spans(rng, self.mtbf_s, self.mttr_s, end_ns):
                faults.append(LinkFault(at_ns, back_ns, near, far))
        return faults


def _spans(rng: np.random.Generator, mtbf_s: float, mttr_s: float, end_ns: int) -> Iterator[tuple[int, int]]:
    """Yield starts before ``end_ns`` and ends of alternating exponentially distributed times [ns]."""
    at_s = rng.exponential(mtbf_s)
    while at_s * NS_PER_S < end_ns:
        back_s = at_s + rng.exponential(mttr_s)
        down_ns = round(at_s * NS_PER_S)
        up_ns = max(round(back_s * NS_PER_S), down_ns + 1)
        yield down_ns, up_ns
        at_s = up_ns / NS_PER_S + rng.exponential(mtbf_s)


@dataclass(frozen=True, slots=True)
class RandomFaults:
    """Failures and repairs after exponentially distributed times, independent for each group of nodes.

    Those of a group follow from the seed and its first node, whatever other groups there are and however long the run.

    Parameters
    ----------
    mtbf_s, mttr_s
        Mean time from a repair to the next failure of a group, and from a failure to the repair [s].
    groups
        Nodes that fail together.
    notice_ns
        A failure is announced so long before, or at the repair before it if that is later [ns]; 0: not at all.
    """

    mtbf_s: float
    mttr_s: float
    groups: tuple[tuple[str, ...], ...]
    notice_ns: int = 0

    def drawn(self, seed: int, end_ns: int) -> list[Fault]:
        """Return the faults of a run, with failures before ``end_ns`` only, in no order."""
        faults = []
        for group in self.groups:
            rng, since_ns = stream(seed, f"faults {group[0]}"), 0
            for down_ns, up_ns in _spans(rng, self.mtbf_s, self.mttr_s, end_ns):
                if self.notice_ns:
                    faults.append(Fault(max(down_ns - self.notice_ns, since_ns), FaultKind.NOTICE, group))
                faults += [Fault(down_ns, FaultKind.DOWN, group), Fault(up_ns, FaultKind.UP, group)]
                since_ns = up_ns
        return faults


@dataclass(frozen=True, slots=True)
class Replication:
    """Copies of the KV memory of running requests in the host memory of other replicas.

    Parameters
    ----------
    copies
        Other replicas that have one.
    interval_ns
        Time between two messages of a replica with what is new [ns].
    memory_bytes
        Host memory of each replica for copies of others [B]; None: no limit.
    load_bps
        Rate at which each node reads a copy from its own host memory [bit/s].
    at_notice
        Only what has got notice is copied, from then on.
    """

    copies: int
    interval_ns: int = NS_PER_S // 10
    memory_bytes: int | None = None
    load_bps: float = 200e9
    at_notice: bool = False


@dataclass(frozen=True, slots=True)
class CopyStats:
    """What was copied of the KV memory of requests, and what went on from copies.

    Parameters
    ----------
    tokens, sent_bytes
        Tokens sent to other replicas, for each copy, and their size [B].
    left_out
        How often there was no host memory for what was new of a request.
    peak_bytes
        The most host memory that copies have taken at one replica [B].
    restored, restored_tokens
        How often a lost request went on from a copy, and the tokens that it had not to compute again.
    """

    tokens: int
    sent_bytes: int
    left_out: int
    peak_bytes: int
    restored: int
    restored_tokens: int


@dataclass(frozen=True, slots=True)
class FaultSpec:
    """The faults of an experiment, and the reactions to them.

    Parameters
    ----------
    schedule
        Faults at stated times.
    random
        Further faults, drawn for each run; None: none.
    detection_ns
        Time from the failure of a node until the coordinator knows of it, unless it is back sooner [ns].
    retry_limit
        A request that has lost its KV memory more often than this fails.
    timeout_ns
        A request that has waited this long at the coordinator since its arrival, or its last loss, fails [ns].
    delay_ns
        Time from the detection until ``REROUTE`` or ``REPLACE`` begins [ns].
    load_bps, startup_ns
        With ``REPLACE``: weights that each node loads [bit/s], and the start-up of its engine behind that [ns].
    horizon_ns
        With ``REPLACE``: time after a loss for which reactions are compared [ns].
    links, random_links
        Faults of links at stated times, and cuts drawn for each run; None: none.
    clients
        Clients that give up; None: they wait as long as it takes.
    replication
        Copies of KV memory; None: there are none.
    absent
        Ids of nodes that are not there at the start, but join by the schedule.
    """

    schedule: tuple[Fault, ...] = ()
    random: RandomFaults | None = None
    detection_ns: int = 5 * NS_PER_S
    retry_limit: int = 2
    timeout_ns: int = 600 * NS_PER_S
    reaction: Reaction = Reaction.STATIC
    delay_ns: int = 0
    load_bps: float = 16e9
    startup_ns: int = 60 * NS_PER_S
    horizon_ns: int = 600 * NS_PER_S
    links: tuple[LinkFault, ...] = ()
    random_links: RandomLinkFaults | None = None
    clients: ClientSpec | None = None
    replication: Replication | None = None
    absent: tuple[str, ...] = ()

    @property
    def not_with_roles(self) -> dict[str, str]:
        """Key -> name, of what is not simulated with nodes of different roles."""
        stated = {
            "reaction": ("reaction: replace (static and reroute are)", self.reaction is Reaction.REPLACE),
            "replicate": ("copies of KV memory", self.replication is not None),
            "events": ("machines that join" if self.absent else "links that fail", bool(self.links or self.absent)),
            "random_links": ("links that fail", self.random_links is not None),
        }
        return {key: name for key, (name, is_stated) in stated.items() if is_stated}

    def of_run(self, seed: int, end_ns: int, parts: Mapping[str, tuple[str, ...]]) -> tuple[Fault, ...]:
        """Return all faults of a run in the order of time.

        Parameters
        ----------
        end_ns
            No random failure happens later [ns].
        parts
            Machine -> the nodes into which it is divided.
        """
        drawn = [] if self.random is None else self.random.drawn(seed, end_ns)
        ordered = sorted([*self.schedule, *drawn], key=lambda fault: fault.at_ns)
        return tuple(
            replace(fault, nodes=tuple(part for node in fault.nodes for part in parts.get(node, (node,))))
            for fault in ordered
        )

    def links_of_run(self, seed: int, end_ns: int, parts: Mapping[str, tuple[str, ...]]) -> tuple[LinkFault, ...]:
        """Return all faults of links of a run in the order of time; as ``of_run``."""
        drawn = [] if self.random_links is None else self.random_links.drawn(seed, end_ns)
        return tuple(one.of_parts(parts) for one in sorted([*self.links, *drawn], key=lambda one: one.at_ns))


class FailureCause(StrEnum):
    """Why a request failed."""

    RETRIES = "retries"
    """It had lost its KV memory more often than the limit on retries."""
    TIMEOUT = "timeout"
    """It had waited too long at the coordinator."""
    GIVEN_UP = "given up"
    """Its client had waited too long."""


@dataclass(frozen=True)
class FaultStats:
    """Faults of one run, and the requests that they have hurt.

    Parameters
    ----------
    events
        (time [ns], what happened, to which nodes): the kinds of ``FaultKind``, ``ABSENT``, ``USUAL_SPEED``, ``CUT``,
        ``SLOW_LINKS``, ``MENDED``, ``detected``, ``rerouted``, ``stopped to load`` and ``replaced``.
    rows, losses
        Rows of the requests that have lost their KV memory or failed, and how often they have lost it.
    causes
        Row -> cause, of the requests that have failed.
    retried
        Requests sent again after a loss, each time.
    recomputed_tokens
        Tokens of their prompts and outputs so far but those of copies, which are computed again as far as no prefix
        cache has them.
    clients
        What clients did; None: they wait as long as it takes.
    copies
        Copies of KV memory; None: there are none.
    """

    events: tuple[tuple[int, str, tuple[str, ...]], ...] = ()
    rows: np.ndarray[tuple[int], np.dtype[np.int64]] = field(default_factory=lambda: np.zeros(0, np.int64))
    losses: np.ndarray[tuple[int], np.dtype[np.int64]] = field(default_factory=lambda: np.zeros(0, np.int64))
    causes: Mapping[int, FailureCause] = field(default_factory=dict)
    retried: int = 0
    recomputed_tokens: int = 0
    clients: ClientStats | None = None
    copies: CopyStats | None = None
