"""When the faults of a run happen, and when the coordinator learns of them (docs/faults.md)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np

from helixsim.domain.faults import (
    ABSENT,
    CUT,
    LINKS_TO,
    MENDED,
    SLOW_LINKS,
    USUAL_SPEED,
    Fault,
    FaultKind,
    FaultStats,
    LinkFault,
    Outage,
)
from helixsim.engine.clients import Clients
from helixsim.engine.faults import FaultySystem, Retries
from helixsim.engine.inputs import FaultPlan, Replacement, SimulationInputs
from helixsim.engine.kernel import Call, Kernel, Priority
from helixsim.engine.link_faults import Links


class FaultDriver:
    """Lets the faults of a run happen to its system, and lets the coordinator learn of them."""

    def __init__(
        self, plan: FaultPlan, kernel: Kernel, system: FaultySystem, retries: Retries, links: Links,
        clients: Clients | None,
    ) -> None:  # fmt: skip
        self._plan = plan
        self._kernel = kernel
        self._system = system
        self._retries = retries
        self._faults = iter(plan.faults)
        self._down = dict.fromkeys(plan.absent, 0)  # node -> number of its failure
        self._failures = 0
        self._scheduled = 0
        self._known = plan.absent
        self._links = links
        self._clients = clients
        self._link_faults = iter(plan.links)
        self._cuts: frozenset[LinkFault] = frozenset()  # those that are known
        self._announced: frozenset[str] = frozenset()
        self._routed: Outage | None = Outage(plan.absent)
        self._slow: dict[str, float] = {}
        self._loads = 0
        self._is_loading = False
        self._events: list[tuple[int, str, tuple[str, ...]]] = []

    def start(self) -> None:
        """Let the first fault happen at its time, and after it those behind it."""
        if self._known:
            self._note(ABSENT, sorted(self._known))
        self._plan_next()
        self._plan_next_link()

    def end(self) -> None:
        """Close the links that are cut when the run ends."""
        self._links.close_cut()

    @property
    def scheduled(self) -> int:
        """Number of events that are scheduled for faults, for what follows from them and for requests given up."""
        return self._scheduled + self._retries.is_armed + (self._clients.scheduled if self._clients else 0)

    def stats(self) -> FaultStats:
        """Return what happened."""
        retries = self._retries
        rows = sorted(retries.losses.keys() | retries.causes.keys())
        return FaultStats(
            tuple(self._events),
            np.array(rows, dtype=np.int64),
            np.array([retries.losses.get(row, 0) for row in rows], dtype=np.int64),
            dict(sorted(retries.causes.items())),
            retries.retried,
            retries.recomputed_tokens,
            None if self._clients is None else self._clients.stats(),
            self._system.copied(),
        )

    def _plan_next(self) -> None:
        fault = next(self._faults, None)
        if fault is not None:
            self._call_in(fault.at_ns - self._kernel.now_ns, self._happen, fault)

    def _plan_next_link(self) -> None:
        fault = next(self._link_faults, None)
        if fault is not None:
            self._call_in(fault.at_ns - self._kernel.now_ns, self._begin, fault)

    def _begin(self, fault: LinkFault) -> None:
        self._note_links(CUT if fault.is_cut else SLOW_LINKS, fault)
        self._links.begin(fault)
        if fault.is_cut and (fault.end_ns is None or fault.end_ns > fault.at_ns + self._plan.detection_ns):
            self._call_in(self._plan.detection_ns, self._find_cut, fault)
        if fault.end_ns is not None:
            self._call_in(fault.end_ns - fault.at_ns, self._mend, fault)
        self._plan_next_link()

    def _find_cut(self, fault: LinkFault) -> None:
        """Let the coordinator learn of a cut, and close the connections."""
        self._cuts |= {fault}
        self._note_links("detected", fault)
        self._links.close(self._out)
        self._system.lose(Outage(cuts=frozenset({fault})), self._out)
        self._plan_routing()

    def _mend(self, fault: LinkFault) -> None:
        self._note_links(MENDED, fault)
        self._links.end(fault)
        if fault in self._cuts:
            self._cuts -= {fault}
            self._system.join([], self._out)
            self._plan_routing()

    def _call_in(self, delay_ns: int, function: Callable[[Any], None], argument: object) -> None:
        """Call a function after a delay."""

        def called(_event: Call) -> None:
            self._scheduled -= 1
            function(argument)

        self._scheduled += 1
        self._kernel.call_in(delay_ns, Priority.FAULT, called, None)

    def _happen(self, fault: Fault) -> None:
        if fault.kind is FaultKind.DOWN:
            self._fail([node for node in fault.nodes if node not in self._down])
        elif fault.kind is FaultKind.UP:
            self._repair([node for node in fault.nodes if node in self._down])
        elif fault.kind is FaultKind.NOTICE:
            self._announce([node for node in fault.nodes if node not in self._down])
        else:
            self._note(USUAL_SPEED if fault.factor == 1.0 else fault.kind.value, fault.nodes)
            self._slow |= dict.fromkeys(fault.nodes, fault.factor)
            self._system.slow(fault.nodes, fault.factor)
        self._plan_next()

    def _fail(self, nodes: Sequence[str]) -> None:
        if not nodes:
            return
        self._failures += 1
        self._down |= dict.fromkeys(nodes, self._failures)
        self._note(FaultKind.DOWN.value, nodes)
        self._system.stop(nodes)
        self._learn([node for node in nodes if node in self._announced])
        self._call_in(self._plan.detection_ns, self._detect, (nodes, self._failures))

    def _detect(self, failure: tuple[Sequence[str], int]) -> None:
        """Let the coordinator learn of the failure of nodes that have not been back since."""
        nodes, number = failure
        self._learn([node for node in nodes if self._down.get(node) == number and node not in self._known])

    def _learn(self, nodes: Sequence[str]) -> None:
        if nodes:
            self._known |= set(nodes)
            self._note("detected", nodes)
            self._system.lose(Outage(frozenset(nodes)), self._out)
            self._plan_routing()

    def _repair(self, nodes: Sequence[str]) -> None:
        """Let nodes be back; where that is sooner than their failure is detected, it shows the failure."""
        if not nodes:
            return
        self._learn([node for node in nodes if node not in self._known])
        for node in nodes:
            del self._down[node]
        self._known -= set(nodes)
        self._announced -= set(nodes)
        self._note(FaultKind.UP.value, nodes)
        self._system.join(nodes, self._out)
        self._plan_routing()

    @property
    def _out(self) -> Outage:
        """Nodes that are known to be down, or to be so soon, and links that are known to be cut."""
        return Outage(self._known | self._announced, self._cuts)

    def _announce(self, nodes: Sequence[str]) -> None:
        """Let nodes finish what they have; they get no other requests."""
        if nodes:
            self._announced |= set(nodes)
            self._note(FaultKind.NOTICE.value, nodes)
            self._system.lose(Outage(), self._out)
            self._plan_routing()

    def _plan_routing(self) -> None:
        if self._plan.reroute is not None:
            self._call_in(self._plan.delay_ns, self._reroute, None)
        if self._plan.replace is not None:
            self._call_in(self._plan.delay_ns, self._replace, None)

    def _reroute(self, _argument: None) -> None:
        assert self._plan.reroute is not None
        out = self._out
        if out == self._routed:
            return
        policy = self._plan.reroute(out)
        if policy is not None:
            self._routed = out
            self._note("rerouted", sorted(out.nodes))
            self._system.reroute(policy)

    def _replace(self, _argument: None) -> None:
        """Stop all nodes and load another placement, or route otherwise, unless that has been done already."""
        assert self._plan.replace is not None
        out = self._out
        if out == self._routed:
            return
        self._routed = out
        found = self._plan.replace(out, serves=not self._is_loading)
        if found is None:
            return
        if not isinstance(found, Replacement):
            self._note("rerouted", sorted(out.nodes))
            self._system.reroute(found)
            return
        self._is_loading = True
        self._loads += 1
        self._note("stopped to load", sorted(found.inputs.placement.ranges))
        self._system.pause()
        self._call_in(found.load_ns, self._resume, (self._loads, found.inputs))

    def _resume(self, load: tuple[int, SimulationInputs]) -> None:
        """Let a placement serve that has been loaded, unless another one is to be, or a node has failed meanwhile."""
        number, inputs = load
        if number != self._loads:
            return
        nodes = list(inputs.placement.ranges)
        if any(node in self._down for node in nodes):
            self._routed = None  # once its failure is known, there will be another placement
            return
        self._is_loading = False
        self._note("replaced", nodes)
        self._system.resume(inputs)
        self._system.lose(Outage(), self._out)
        for node, factor in self._slow.items():
            if factor != 1.0:
                self._system.slow([node], factor)

    def _note_links(self, what: str, fault: LinkFault) -> None:
        self._note(what, (*sorted(fault.near), LINKS_TO, *sorted(fault.far)))

    def _note(self, what: str, nodes: Iterable[str]) -> None:
        self._events.append((self._kernel.now_ns, what, tuple(nodes)))
