"""Short ways to simulate a placement in tests."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from helixsim.batching import registry as batching_registry
from helixsim.domain.cluster import Deployment
from helixsim.domain.disaggregation import KvTransfer
from helixsim.domain.engine import IDEAL
from helixsim.domain.placement import Placement, Role
from helixsim.domain.request import Feed, FeedMode, Request, Slo, Window
from helixsim.domain.result import RunResult
from helixsim.engine.inputs import Leg, Legs, SimulationInputs
from helixsim.engine.simulate import simulate
from helixsim.flow.capacity import CapacityTable
from helixsim.flow.maxflow import max_flow
from helixsim.rng import stream
from helixsim.routing import registry as routing_registry
from helixsim.routing.graph import routing_graph
from helixsim.routing.times import RoutingTimes

MS = 1_000_000
SECOND = 1_000_000_000

Case = tuple[Deployment, CapacityTable, Placement]


def requests(*rows: tuple[int, int, int]) -> list[Request]:
    """Requests from (arrival in ms, prompt tokens, output tokens)."""
    return [Request(number, arrival * MS, prompt, output) for number, (arrival, prompt, output) in enumerate(rows)]


def inputs_of(
    case: Case,
    load: Iterable[Request],
    *,
    mode: FeedMode = FeedMode.OPEN,
    routing: str = "flow_weighted",
    batching: str = "continuous",
    window: Window | None = None,
    concurrency: int | None = None,
    prompts_in_flight: int | None = None,
    feed_below: float | None = None,
    high_water: float = 0.9,
    expected_output_tokens: float = 10.0,
    seed: int = 0,
    check: bool = True,
    mean_output: float | None = None,
    slo: Slo | None = None,
    **more: Any,
) -> SimulationInputs:
    """What it takes to simulate ``load`` to its end, or to the end of ``window``.

    ``mean_output`` and ``slo`` are what the routing policy is told of the load.
    """
    fleet, capacity, placement = case
    plan = max_flow(fleet, placement, capacity)
    times = RoutingTimes(
        fleet, placement, more.get("engine", IDEAL), mean_output or expected_output_tokens, slo or Slo()
    )
    graph = routing_graph(placement, plan, times)
    policy_class, batching_class = routing_registry.get(routing), batching_registry.get(batching)
    return SimulationInputs(
        fleet=fleet,
        placement=placement,
        plan=plan,
        graph=graph,
        policy=policy_class(graph, policy_class.Options(), stream(seed, "routing")),
        batching=batching_class(batching_class.Options()),
        feed=Feed(mode, iter(load), concurrency, prompts_in_flight, feed_below),
        window=window or Window(0, None, True),
        high_water=high_water,
        expected_output_tokens=expected_output_tokens,
        seed=seed,
        check=check,
        **more,
    )


def with_roles(case: Case, roles: Mapping[str, Role]) -> Case:
    """Return a case whose nodes serve these phases; nodes without an entry serve both."""
    fleet, capacity, placement = case
    nodes = tuple(replace(node, role=roles.get(node.id, "both")) for node in fleet.cluster.nodes)
    return replace(fleet, cluster=replace(fleet.cluster, nodes=nodes)), capacity, placement


def inputs_of_legs(
    case: Case, load: Iterable[Request], transfer: KvTransfer, *, decode_routing: str | None = None,
    most_local_tokens: int | None = None, decode_caches: bool = True, prefill_share: float | None = 1.0, **how: Any,
) -> SimulationInputs:  # fmt: skip
    """What it takes to simulate ``load`` on nodes with roles; ``how`` as for ``inputs_of``.

    ``decode_caches``: nodes that decode cache prefixes if the engine does.
    """
    fleet, capacity, placement = case
    seed = how.get("seed", 0)

    def leg(phase: Role, routing: str, expected_output: float) -> Leg:
        part = placement.part(fleet.cluster.serving(phase))
        times = RoutingTimes(
            fleet, part, how.get("engine", IDEAL), expected_output, computes_prompts=phase == "prefill"
        )
        graph = routing_graph(part, max_flow(fleet, part, capacity), times)
        policy = routing_registry.get(routing)
        caches = how.get("engine", IDEAL).caches_prefixes and (decode_caches or phase == "prefill")
        return Leg(graph, policy(graph, policy.Options(), stream(seed, f"routing of {phase}")), caches)

    first = how.get("routing", "least_loaded")
    expected = how.get("mean_output") or how.get("expected_output_tokens", 10.0)
    legs = Legs(
        leg("prefill", first, 1.0), leg("decode", decode_routing or first, expected), transfer, most_local_tokens,
        prefill_share,
    )  # fmt: skip
    return replace(inputs_of(case, load, **{**how, "routing": "least_loaded"}), legs=legs)


def run(case: Case, load: Iterable[Request], **how: Any) -> RunResult:
    """Simulate ``load``; ``how`` as for ``inputs_of``."""
    return simulate(inputs_of(case, load, **how))


def random_load(seed: int, count: int, *, rate_rps: float, prompt: int = 200, output: int = 12) -> list[Request]:
    """Poisson arrivals with geometric-like lengths, at least one token each."""
    rng = np.random.default_rng(seed)
    arrivals = np.cumsum(rng.exponential(SECOND / rate_rps, count)).astype(int)
    prompts = rng.integers(1, 2 * prompt, count)
    outputs = rng.integers(1, 2 * output, count)
    return [
        Request(i, int(a), int(p), int(o)) for i, (a, p, o) in enumerate(zip(arrivals, prompts, outputs, strict=True))
    ]
