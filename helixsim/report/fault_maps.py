"""Network maps before the first fault and in each span between faults: nodes that are down, links that are cut."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from helixsim.domain.fault_figures import FaultEvent
from helixsim.domain.faults import ABSENT, CUT, LINKS_TO, MENDED, SLOW_LINKS, USUAL_SPEED, FaultKind
from helixsim.report.network_map import NetworkMap
from helixsim.results.run import Run
from helixsim.units import NS_PER_S, number

MOST_SPANS = 8
"""Maps drawn of a system, those of the first spans."""

_COORDINATOR = "coordinator"


@dataclass(frozen=True, slots=True)
class SpanMap:
    """A map of a span of time; ``states``: CSS class of each place that is not as usual, ``about``: what is so."""

    title: str
    about: str
    map: NetworkMap
    states: dict[str, str]


@dataclass
class _State:
    """What is wrong at a time: nodes by state, and the two sides of links."""

    down: frozenset[str] = frozenset()
    slow: frozenset[str] = frozenset()
    announced: frozenset[str] = frozenset()
    cut: tuple[tuple[frozenset[str], frozenset[str]], ...] = ()
    slow_links: tuple[tuple[frozenset[str], frozenset[str]], ...] = ()

    def take(self, event: FaultEvent) -> bool:
        """Change with an event; return whether it is one that a map shows."""
        words = event.nodes.split(" ")
        nodes = frozenset(words)
        sides = (nodes, nodes)
        if LINKS_TO in words:
            at = words.index(LINKS_TO)
            sides = frozenset(words[:at]), frozenset(words[at + 1 :])
        if event.what in (FaultKind.DOWN.value, ABSENT):
            self.down |= nodes
        elif event.what == FaultKind.UP.value:
            self.down, self.announced = self.down - nodes, self.announced - nodes
        elif event.what == FaultKind.NOTICE.value:
            self.announced |= nodes
        elif event.what == FaultKind.SLOW.value:
            self.slow |= nodes
        elif event.what == USUAL_SPEED:
            self.slow -= nodes
        elif event.what == CUT:
            self.cut = (*self.cut, sides)
        elif event.what == SLOW_LINKS:
            self.slow_links = (*self.slow_links, sides)
        elif event.what == MENDED:
            held = "cut" if sides in self.cut else "slow_links"
            left = list(getattr(self, held))
            if sides in left:
                left.remove(sides)
            setattr(self, held, tuple(left))
        else:
            return False
        return True


def span_maps(run: Run, whole: NetworkMap) -> list[SpanMap]:
    """Return the maps of a system whose nodes or links failed; none of one of which none did.

    ``whole``: the map of the whole run, whose boxes and lines they have. Lines are drawn between nodes that computed in
    the span, and where links are cut; boxes of others are pale.
    """
    found = []
    for start_s, end_s, state in _spans(run):
        computing = _computing(run, start_s, end_s) | {_COORDINATOR}
        states = {place.name: _class(place.name, state, computing) for place in whole.places}
        links = []
        for link in whole.links:
            if _joins(state.cut, link.source, link.target):
                links.append(replace(link, level="cut"))
            elif {link.source, link.target} <= computing - state.down:
                is_slow = _joins(state.slow_links, link.source, link.target)
                links.append(replace(link, level="slow" if is_slow else "low"))
        title = f"{number(start_s)} to {number(end_s)} s"
        own = replace(whole, links=tuple(links))
        found.append(SpanMap(title, _about(state), own, {name: one for name, one in states.items() if one}))
    return found if len(found) > 1 else []


def _spans(run: Run) -> Iterator[tuple[float, float, _State]]:
    """Yield (start, end, state) of the spans between events [s], the first ``MOST_SPANS``."""
    figures, times_ns = run.summary.faults, run.columns("series")["time_ns"]
    if figures is None or not figures.events or not len(times_ns):
        return
    end_s, state, since_s, count = float(times_ns[-1]) / NS_PER_S, _State(), 0.0, 0
    for event in figures.events:
        before = replace(state)
        at_s = float(event.time_s or 0.0)
        if state.take(event) and at_s > since_s:
            if at_s >= end_s or count == MOST_SPANS - 1:
                state = before
                break
            yield since_s, at_s, before
            since_s, count = at_s, count + 1
    yield since_s, end_s, state


def _computing(run: Run, start_s: float, end_s: float) -> set[str]:
    """Return the nodes that formed a batch in a span."""
    rows = run.columns("node_series")
    if "batches" not in rows:
        return set(map(str, rows["node"]))
    times_s, names, batches = rows["time_ns"] / NS_PER_S, rows["node"], rows["batches"]
    found = set()
    for name in dict.fromkeys(map(str, names)):
        own = names == name
        inside = np.interp([start_s, end_s], times_s[own], batches[own].astype(np.float64))
        if inside[1] > inside[0]:
            found.add(name)
    return found


def _class(name: str, state: _State, computing: set[str]) -> str:
    if name in state.down:
        return "gone"
    if name in state.announced:
        return "leaving"
    if name in state.slow:
        return "slow"
    return "" if name in computing else "idle"


def _joins(sides: Sequence[tuple[frozenset[str], frozenset[str]]], src: str, dst: str) -> bool:
    return any((src in near and dst in far) or (src in far and dst in near) for near, far in sides)


def _about(state: _State) -> str:
    parts = [
        f"{what}: {', '.join(sorted(nodes))}"
        for what, nodes in (("down", state.down), ("will fail", state.announced - state.down), ("slow", state.slow))
        if nodes
    ]
    for what, every in (("cut", state.cut), ("slow links", state.slow_links)):
        parts += [f"{what}: {_side(near)} to {_side(far)}" for near, far in every]
    return "; ".join(parts) or "all as usual"


def _side(ends: frozenset[str]) -> str:
    names = sorted(ends)
    return ", ".join(names[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "")
