"""Options of the strategy ``helix``."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from helixsim.domain.cluster import Deployment
from helixsim.flow.losses import Domain, domains_of
from helixsim.placement.constraints import constraint_faults
from helixsim.plugins import bound_faults

RACED = frozenset({"auto", "goodput", "cost"})
"""Criteria by which placement and routing are selected together in a race, unless the load is a closed loop."""


@dataclass(frozen=True, slots=True)
class HelixOptions:
    """Options of ``helix``.

    Parameters
    ----------
    max_hops
        Most nodes on a route; None: no limit.
    across_regions
        Let a pipeline pass several regions. False: only where no region can hold the model by itself; that search takes
        a fraction of the time.
    time_limit_s
        Time limit of the search [s]; the best placement found by then is used. Results are reproducible only if it is
        not reached.
    candidates
        Number of placements that are simulated; baselines of a similar estimate are always among them.
    disaggregate
        Whether nodes may prefill or decode alone (docs/disaggregation.md). ``auto``: ThunderServe's groups with their
        phases are in every race; others enter it where the program of both phases says that they serve more within the
        objective, and the best candidate without roles does not meet the objectives already. ``never``: all nodes serve
        both. ``always``: only such candidates.
    race_cpu_s
        CPU time that the simulations of a race may take [s], of 150 000 events each. Where they would take longer, the
        least promising entries are left out, its windows are shortened, or the estimate ranks the candidates, and the
        explanation says so. None: 600, on more than 300 nodes 120, where
        baselines may be left out, too.
    select
        ``simulate``: the highest score in simulation (the largest max-flow where nothing can be simulated); ``flow``:
        the largest max-flow.
    criterion
        ``auto``: if the load has a rate and an objective is stated, the largest share of requests within the objective,
        then the least latency; under saturation the most output tokens/s (with objectives, requests/s within them);
        otherwise ``balanced``. ``goodput``: as ``auto``, and an error without an objective. ``cost``: as ``auto``, but
        among equal shares the price of the nodes that hold layers decides before the latency. These consider placements
        on all and on parts of the nodes (docs/placement.md). The others score placements on all nodes by one
        simulation. ``balanced``: output tokens/s and time per token; one per cent of the former is worth two per cent
        of the latter. ``throughput``: output tokens/s. At a given rate, which all stable placements serve alike, these
        two rank by time per token. ``latency``: time per token.
    survive
        ``host`` or ``site``: only placements that keep a route after the loss of any one machine, or region. Max-flow
        and estimates decide by what the worst loss leaves. None: losses do not count.
    survive_share
        With ``survive``: a candidate keeps at least this share of the largest flow that any one keeps after its worst
        loss.
    method
        ``blocks``: column generation. ``exact``: also the per-node program (at most 10 nodes). ``auto``: ``blocks``.
    partial_inference
        Allow it for the Petals candidate: a request may then enter a node in the middle of its layers. None: only where
        candidates are simulated. Searched pipelines never need it.
    exclude
        Nodes to exclude: ids or patterns such as ``t4-*``.
    max_layers
        Node type -> most layers per node.
    pinned
        Node id -> [start, end) that it must hold. Pins are applied to the results of the search: equal nodes exchange
        roles, and a candidate that then carries nothing is dropped.
    previous
        File with the running placement (as written by ``place --export``): roles are assigned to nodes so that few
        weights move, and of the candidates within ``move_tolerance`` of the best the one that moves least is chosen.
    move_tolerance
        Share of the best score, or flow, that may be given up to move less.
    """

    max_hops: int | None = field(default=None, metadata={"ge": 1})
    across_regions: bool = True
    time_limit_s: float = field(default=120.0, metadata={"gt": 0, "le": 1e6})
    candidates: int = field(default=6, metadata={"ge": 1, "le": 1000})
    disaggregate: Literal["auto", "never", "always"] = "auto"
    race_cpu_s: float | None = field(default=None, metadata={"gt": 0, "le": 1e9})
    select: Literal["simulate", "flow"] = "simulate"
    criterion: Literal["auto", "balanced", "throughput", "goodput", "cost", "latency"] = "auto"
    survive: Domain | None = None
    survive_share: float = field(default=0.5, metadata={"ge": 0, "le": 1})
    method: Literal["auto", "blocks", "exact"] = "auto"
    partial_inference: bool | None = None
    exclude: tuple[str, ...] = ()
    max_layers: dict[str, int] = field(default_factory=dict, metadata={"ge": 1})
    pinned: dict[str, list[int]] = field(default_factory=dict)
    previous: Path | None = None
    move_tolerance: float = field(default=0.01, metadata={"ge": 0, "le": 1})

    def faults(self, fleet: Deployment) -> Iterator[tuple[str, str]]:
        """Yield (option, message) for each option that does not fit a fleet."""
        yield from bound_faults(self)
        if self.survive is not None:
            if len(domains_of(fleet.cluster, self.survive)) < 2:
                yield "survive", f"the cluster has one {self.survive}, needed: two or more"
            if self.disaggregate == "always":
                yield "survive", "placements with roles of nodes (disaggregate: always) are not searched for it"
        yield from constraint_faults(fleet, self.exclude, self.max_layers, self.pinned)
