"""Faults of nodes in the middle of a run: when they happen, and how the system and its clients react."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum

import numpy as np

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


USUAL_SPEED = "usual speed"
"""Event: nodes are no longer slow."""


class Reaction(StrEnum):
    """What happens to the routing when nodes are known to be down."""

    STATIC = "static"
    """Routes through them are left out; the others keep their shares of the traffic."""
    REROUTE = "reroute"
    """The max-flow of the nodes that are left replaces that of the whole placement."""
    REPLACE = "replace"
    """The model is placed anew on the nodes that are left, which load their layers and start again."""


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
class RandomFaults:
    """Failures and repairs after exponentially distributed times, independent for each group of nodes.

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
        rng, faults = stream(seed, "faults"), []
        for group in self.groups:
            at_s, since_ns = rng.exponential(self.mtbf_s), 0
            while at_s * NS_PER_S < end_ns:
                back_s = at_s + rng.exponential(self.mttr_s)
                down_ns = round(at_s * NS_PER_S)
                up_ns = max(round(back_s * NS_PER_S), down_ns + 1)
                if self.notice_ns:
                    faults.append(Fault(max(down_ns - self.notice_ns, since_ns), FaultKind.NOTICE, group))
                faults += [Fault(down_ns, FaultKind.DOWN, group), Fault(up_ns, FaultKind.UP, group)]
                since_ns = up_ns
                at_s = up_ns / NS_PER_S + rng.exponential(self.mtbf_s)
        return faults


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


class FailureCause(StrEnum):
    """Why a request failed."""

    RETRIES = "retries"
    """It had lost its KV memory more often than the limit on retries."""
    TIMEOUT = "timeout"
    """It had waited too long at the coordinator."""


@dataclass(frozen=True)
class FaultStats:
    """Faults of one run, and the requests that they have hurt.

    Parameters
    ----------
    events
        (time [ns], what happened, to which nodes): the kinds of ``FaultKind``, ``USUAL_SPEED``, ``detected``,
        ``rerouted``, ``stopped to load`` and ``replaced``.
    rows, losses
        Rows of the requests that have lost their KV memory or failed, and how often they have lost it.
    causes
        Row -> cause, of the requests that have failed.
    retried
        Requests sent again after a loss, each time.
    recomputed_tokens
        Tokens of their prompts and outputs so far, which are computed again as far as no prefix cache has them.
    """

    events: tuple[tuple[int, str, tuple[str, ...]], ...] = ()
    rows: np.ndarray[tuple[int], np.dtype[np.int64]] = field(default_factory=lambda: np.zeros(0, np.int64))
    losses: np.ndarray[tuple[int], np.dtype[np.int64]] = field(default_factory=lambda: np.zeros(0, np.int64))
    causes: Mapping[int, FailureCause] = field(default_factory=dict)
    retried: int = 0
    recomputed_tokens: int = 0
