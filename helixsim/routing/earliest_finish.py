"""Routing by expected finish: each request takes the route on which it should have its last token first.

Known as earliest finish time in scheduling (HEFT: Topcuoglu, Hariri and Wu, IEEE TPDS 13(3), 2002) and as shortest
expected delay in queueing. No constant is tuned: times are those of the step time law for what is on the nodes now.

On a replica, the finish is the sum of

- the link to it,
- the wait for KV memory or for one of ``max_num_seqs``: in the time of a mean output as many sequences end as run, and
  each leaves room for a mean prompt, as the others grow,
- the prompts before it and its own, without what the prefix cache has, in as many steps as the token budget makes of
  them, each with the decodes that run,
- one round per expected output token. A round is a step of all that will run, on a pipeline at least as long as its
  slowest stage takes for all of its steps in flight, and the prompts that come in it: in a steady state, each running
  sequence is followed by another one when it ends.

With a service-level objective, the fewest expected misses come first, to a whole per cent: of the request itself, whose
wait is random as ends are (Poisson), and, where it would lift the time per token above the objective, of all that run
there.

Where routes branch, the same terms are summed up along the route by the load of each node, over the hops with free KV
memory; a request is taken to be on each node of its route for an equal share of the time.

Of equal replicas, and of equal nodes, one is left out where another has less load in every respect (``_Load``): the
finish is later with each, but for the mean context of a batch, which is a share of the requests.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterable, Mapping, Sequence
from functools import cached_property
from itertools import pairwise
from typing import Any, ClassVar, NamedTuple, TypeVar

import numpy as np

from helixsim.domain.step_time import BatchShape, prefill_pairs
from helixsim.errors import ConfigError
from helixsim.plugins import NoOptions
from helixsim.routing.base import Hop, RoutingGraph, RoutingView
from helixsim.routing.graph import chains
from helixsim.routing.times import NodeTimes, RoutingTimes
from helixsim.routing.walk import least_time
from helixsim.units import NS_PER_S

_Cost = tuple[float, float]
"""Objectives that a request would make miss on a replica, and its expected finish [ns]."""


class _Load(NamedTuple):
    """What is on a node, or on a replica by its first node.

    ``others``: requests; ``held``: the tokens that they have; ``backlog``: those of prompts that are not computed yet;
    ``new``: tokens of the prompt in question that no cache has; ``transfer_ns``: time until its KV cache is here.
    """

    others: int = 0
    held: int = 0
    backlog: int = 0
    new: int = 0
    transfer_ns: float = 0.0


_Place = TypeVar("_Place", int, tuple[int, int])

_LATE = 0.5
"""Probability to miss an objective above which a request is taken to be late."""


class EarliestFinish:
    """The route on which a request is expected to finish first."""

    summary: ClassVar[str] = "the route on which the request is expected to finish first, within the SLO if one is"
    Options: ClassVar[type[Any]] = NoOptions
    is_by_site: ClassVar[bool] = True  # it finds the best next node for all nodes of a site at once

    def __init__(self, graph: RoutingGraph, options: NoOptions, rng: np.random.Generator) -> None:
        if graph.times is None:
            raise ConfigError("earliest_finish: needs the step times of a placement")
        self._prompts = 0
        self._prompt_tokens = 0
        times = graph.times
        found = chains(graph) if times.engine.loops_inside else None
        first = {hop.node: hop for hop in graph.first}
        self._replicas = None if found is None else [_Replica(graph, times, nodes, first[nodes[0]]) for nodes in found]
        self._branches = _Branches(graph, times)

    def route(self, prompt_tokens: int, expected_tokens: int, view: RoutingView) -> tuple[Hop, ...] | None:
        """See ``RoutingPolicy.route``."""
        mean_prompt = (self._prompt_tokens + prompt_tokens) / (self._prompts + 1)
        hops = self._hops(prompt_tokens, mean_prompt, view)
        if hops is not None:  # one that has to wait is asked about again
            self._prompts += 1
            self._prompt_tokens += prompt_tokens
        return hops

    def _hops(self, prompt_tokens: int, mean_prompt: float, view: RoutingView) -> tuple[Hop, ...] | None:
        if self._replicas is None:
            return self._branches.route(prompt_tokens, mean_prompt, view)
        loads = {
            number: replica.load(prompt_tokens, view)
            for number, replica in enumerate(self._replicas)
            if all(view.fits(hop) for hop in replica.hops)
        }
        if not loads:
            return None
        return self._replicas[self._choose(loads, prompt_tokens, mean_prompt)].hops

    def _choose(self, loads: Mapping[int, _Load], prompt: int, mean_prompt: float) -> int:
        """Return the number of the replica with the least cost."""
        return self._least(loads, prompt, mean_prompt)[1]

    def _least(self, loads: Mapping[int, _Load], prompt: int, mean_prompt: float) -> tuple[_Cost, int]:
        """Return the least cost and the number of the first replica that has it."""
        replicas = self._replicas or []
        of_kind: dict[Hashable, list[tuple[_Load, int]]] = {}
        for number, load in loads.items():
            of_kind.setdefault(replicas[number].kind, []).append((load, number))
        return min(
            (replicas[number].cost(prompt, mean_prompt, load), number)
            for equal in of_kind.values()
            for load, number in _least_loaded(equal)
        )


class InTime(EarliestFinish):
    """Like ``EarliestFinish``; a request that is late wherever it goes delays no other that could be in time.

    Where it is expected to miss its objectives on each replica, but would not on an idle one, it goes to the replica
    that is the furthest behind, of those where no other request misses them through it. Under more load than the
    replicas can serve in time, some fall behind and the others keep to the objectives; the earliest finish has all of
    them fall behind alike. Routes that branch are those of the earliest finish.
    """

    summary: ClassVar[str] = "as earliest_finish; a request that is late everywhere goes where it delays no other"

    def _choose(self, loads: Mapping[int, _Load], prompt: int, mean_prompt: float) -> int:
        """See ``EarliestFinish``."""
        (misses, _), chosen = self._least(loads, prompt, mean_prompt)
        if misses <= _LATE:
            return chosen
        replicas = self._replicas or []
        idle = _Load(new=prompt)
        costs = {number: replicas[number].cost(prompt, mean_prompt, load) for number, load in loads.items()}
        alone = [number for number, (misses, _) in costs.items() if misses <= 1.0]
        if not alone or all(replicas[number].cost(prompt, mean_prompt, idle)[0] > _LATE for number in loads):
            return chosen
        return max(alone, key=lambda number: costs[number][1])


class _Replica:
    """A chain of nodes that one scheduler fills."""

    def __init__(self, graph: RoutingGraph, times: RoutingTimes, nodes: Sequence[int], first: Hop) -> None:
        self.hops = (first, *(graph.successors[node][0] for node in nodes[:-1]))
        self._times = times
        self._nodes = [times.nodes[node] for node in nodes]
        self._links = list(pairwise(nodes))
        self._links_ns = times.latency_ns(nodes[-1], nodes[0])
        self._back_ns = times.latency_ns(nodes[0], None)
        self._budget = min(node.budget for node in self._nodes)
        self._most = min(self._budget, *(node.max_sequences for node in self._nodes))
        self._kv_tokens = min(node.kv_tokens for node in self._nodes)
        self._steps = max(1.0, times.expected_output_tokens / _tokens_per_step(times))
        self.kind: Hashable = tuple((id(times.nodes[node]), times.sites[node]) for node in nodes)

    def load(self, prompt: int, view: RoutingView) -> _Load:
        """Return what is on the replica."""
        first = self.hops[0].node
        new = prompt - view.cached_tokens(first)
        return _Load(
            view.in_flight(first),
            view.in_flight_tokens(first),
            view.prompt_backlog(first),
            new,
            view.transfer_ns(first),
        )

    def cost(self, prompt: int, mean_prompt: float, load: _Load) -> _Cost:
        """Return the objectives that this request would make miss here, and its expected finish [ns]."""
        others, held, backlog, new, transfer_ns = load
        context = (held + prompt) / (others + 1)
        room = max(1, min(self._most, int(self._kv_tokens // max(1.0, context))))
        running = min(others + 1, room)
        round_ns = self._round_ns(running, context, mean_prompt)
        # Rounds until it is admitted. In m rounds as many sequences end as run, and leave room for as many prompts.
        missing = max(0.0, held + prompt - self._kv_tokens) / mean_prompt
        missing = max(missing, others + 1 - self._most)
        wait_ns = missing / running * self._steps * round_ns
        own_ns = first_ns = self._prompt_ns(backlog, new, prompt - new, mean_prompt, running, context)
        if backlog and (missing or len(self._nodes) > 1):  # several stages compute more chunks in less time
            own_ns = self._prompt_ns(0, new, prompt - new, mean_prompt, running, context)
        if missing or len(self._nodes) > 1:  # while it waits for memory, the prompts before it are computed
            first_ns = max(first_ns, wait_ns + own_ns)
        sent_ns = self._times.transfer_ns(None, self.hops[0].node, prompt) + self._back_ns + transfer_ns
        misses, slo = 0.0, self._times.slo
        if slo.ttft_s is not None:
            left_ns = slo.ttft_s * NS_PER_S - sent_ns
            misses = float(first_ns - wait_ns > left_ns)
            if missing and not misses:
                ends = running * (left_ns - own_ns) / (self._steps * round_ns)
                misses = _fewer(math.ceil(missing), max(0.0, ends))
        if slo.tpot_s is not None:
            most_ns = slo.tpot_s * NS_PER_S * _tokens_per_step(self._times)
            if round_ns > most_ns:
                misses = 1.0
                if others and self._round_ns(max(1, running - 1), context, mean_prompt) <= most_ns:
                    misses += others
        finish_ns = sent_ns + first_ns + (self._steps - 1) * round_ns
        if slo.e2el_s is not None and finish_ns > slo.e2el_s * NS_PER_S:
            misses = max(1.0, misses)
        return round(misses, 2), finish_ns

    def _round_ns(self, running: float, context: float, mean_prompt: float) -> float:
        """Return the time from a step of a sequence to its next with so many running."""
        stages = len(self._nodes)
        batch = max(1.0, running / stages)
        decodes = BatchShape(decode_seqs=batch, decode_context=batch * context, sampled=batch)
        steps_ns = [node.step.decode_ns(batch, batch * context) for node in self._nodes]
        round_ns = steps_ns[0]
        if stages > 1:
            links_ns = self._links_ns + sum(self._times.transfer_ns(*link, batch) for link in self._links)
            round_ns = max(sum(steps_ns) + links_ns, min(stages, running) * max(steps_ns))
        if not self._times.computes_prompts:
            return round_ns
        chunks = max(1.0, mean_prompt / max(1.0, self._budget - batch))
        pairs = prefill_pairs(mean_prompt)
        prompts_ns = [
            _marginal_ns(node, mean_prompt, pairs, decodes, step_ns)
            for node, step_ns in zip(self._nodes, steps_ns, strict=True)
        ]
        passing_ns = (sum(prompts_ns) + (chunks - 1) * max(prompts_ns)) / chunks
        return round_ns + (running - 1) / self._steps * passing_ns

    def _prompt_ns(
        self, backlog: float, new: float, cached: float, mean_prompt: float, running: float, context: float
    ) -> float:
        """Return the time until the first token: of the prompts ahead and its own, with the decodes beside them."""
        batch = max(0.0, (running - 1) / len(self._nodes))
        decodes = BatchShape(decode_seqs=batch, decode_context=batch * context, sampled=batch)
        pairs = prefill_pairs(new, cached) + backlog * mean_prompt / 2
        chunks = math.ceil((backlog + new) / max(1.0, self._budget - batch))
        steps_ns = [node.step.decode_ns(batch, batch * context) if batch else 0.0 for node in self._nodes]
        passing_ns = [
            _marginal_ns(node, backlog + new, pairs, decodes, step_ns) / chunks + step_ns
            for node, step_ns in zip(self._nodes, steps_ns, strict=True)
        ]
        latencies_ns = [self._times.latency_ns(*link) for link in self._links]
        for link, latency_ns in zip(self._links, latencies_ns, strict=True):
            passing_ns.append(self._times.transfer_ns(*link, (backlog + new) / chunks) - latency_ns)
        return sum(passing_ns) + (chunks - 1) * max(passing_ns) + sum(latencies_ns)


class _Branches:
    """Nodes of routes that branch and merge: the shortest path by the expected time on each hop.

    Equal nodes are those on one site with the same next nodes.
    """

    def __init__(self, graph: RoutingGraph, times: RoutingTimes) -> None:
        self._graph = graph
        self._times = times
        self._steps = max(1.0, times.expected_output_tokens / _tokens_per_step(times))
        self._depth = max(1.0, graph.plan.mean_hops)

    @cached_property
    def _equal(self) -> list[list[Hop]]:
        """All hops, by the layers that they compute and by nodes of equal times, links and next nodes."""
        hops = {(hop.node, hop.start): hop for row in (self._graph.first, *self._graph.successors) for hop in row}
        found: dict[tuple[int, ...], list[Hop]] = {}
        for (node, start), hop in sorted(hops.items()):
            key = id(self._times.nodes[node]), id(self._graph.targets[node]), self._times.sites[node], start
            found.setdefault(key, []).append(hop)
        return list(found.values())

    def _loads(self, view: RoutingView) -> dict[tuple[int, int], _Load]:
        """Return the loads of the hops that fit and than which no equal one has less in every respect."""
        return {
            place: load
            for hops in self._equal
            for load, place in _least_loaded(
                (_load(hop.node, view), (hop.node, hop.start)) for hop in hops if view.fits(hop)
            )
        }

    def route(self, prompt: int, mean_prompt: float, view: RoutingView) -> tuple[Hop, ...] | None:
        """Return the hops that fit on which the request is expected to finish first."""
        times = self._times
        loads = self._loads(view)

        def node_ns(hop: Hop) -> float:
            load = loads.get((hop.node, hop.start))
            return math.inf if load is None else self._node_ns(hop, prompt, mean_prompt, load)

        def link_ns(source: int | None, node: int) -> float:
            return self._link_ns(source, node, prompt)

        return least_time(self._graph, times.sites, node_ns, link_ns, self._back_ns)

    def _link_ns(self, source: int | None, node: int, prompt: int) -> float:
        times = self._times
        rounds = 0.0 if source is None and times.engine.loops_inside else self._steps - 1
        return times.transfer_ns(source, node, prompt) + rounds * times.latency_ns(source, node)

    def _back_ns(self, last: int) -> float:
        """Return the time that tokens take from the last node, to the coordinator or, about as long, to the first."""
        return self._steps * self._times.latency_ns(last, None)

    def _node_ns(self, hop: Hop, prompt: int, mean_prompt: float, load: _Load) -> float:
        node = self._times.nodes[hop.node]
        others, held, backlog, *_ = load
        context = (held + prompt) / (others + 1)
        batch = 1 + others / self._depth
        decodes = BatchShape(decode_seqs=batch, decode_context=batch * context, sampled=batch)
        pairs = prefill_pairs(prompt) + backlog * mean_prompt / 2
        step_ns = node.step.decode_ns(batch, batch * context, hop.start)
        own_ns = _marginal_ns(node, backlog + prompt, pairs, decodes, step_ns, hop.start)
        met_ns = others / self._steps
        met_ns *= _marginal_ns(node, mean_prompt, prefill_pairs(mean_prompt), decodes, step_ns, hop.start)
        return own_ns + step_ns + (self._steps - 1) * (step_ns + met_ns)


def _load(node: int, view: RoutingView) -> _Load:
    return _Load(view.in_flight(node), view.in_flight_tokens(node), view.prompt_backlog(node))


def _least_loaded(loads: Iterable[tuple[_Load, _Place]]) -> list[tuple[_Load, _Place]]:
    """Return those than which no other one has less load in every respect; of equal loads, the first place."""
    least: list[tuple[_Load, _Place]] = []
    for load, place in sorted(loads):  # none has more requests than those after it
        if not any(
            one[1] <= load[1] and one[2] <= load[2] and one[3] <= load[3] and one[4] <= load[4] for one, _ in least
        ):
            least.append((load, place))
    return least


def _marginal_ns(
    node: NodeTimes, tokens: float, pairs: float, beside: BatchShape, beside_ns: float, start: int | None = None
) -> float:
    """Return what prompt tokens add to a step of these decodes, which takes ``beside_ns`` without them [ns]."""
    if not tokens:
        return 0.0
    return node.step.ns(BatchShape(tokens, pairs, 1, sampled=1).joined(beside), start) - beside_ns


def _fewer(count: int, mean: float) -> float:
    """Return the probability that fewer events happen than ``count`` where ``mean`` are expected (Poisson, normal)."""
    return 0.5 * math.erfc((mean - count + 0.5) / math.sqrt(2 * mean)) if mean else 1.0


def _tokens_per_step(times: RoutingTimes) -> float:
    speculation = times.engine.speculation
    return 1.0 if speculation is None else speculation.mean_tokens
