"""What the leaderboard has computed: one strategy under one load, and the bound of a cluster."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import helixsim as hx
from helixsim.domain.summary import Summary
from helixsim.errors import HelixsimError
from helixsim.flow.busy import busy_capacity
from helixsim.flow.capacity import upper_bound_share
from helixsim.flow.station import OperatingLoad
from helixsim.jsonio import json_values
from helixsim.metrics.score import of_summary
from helixsim.metrics.summary import summarise
from helixsim.papers.helix.tasks import Outcome, place, system_inputs
from helixsim.papers.leaderboard.names import QUICK_RACE_CPU_S, USUAL_QUICK_RACE_CPU_S, Effort, experiment_file
from helixsim.placement.bounds import configuration_bound
from helixsim.placement.divisions import divisions_of
from helixsim.units import NS_PER_S

REPLANNING = ("helix",)
"""Strategies whose placement depends on the rate."""

SATURATED = "saturated"
"""Load of a cell without a rate: as many requests in flight as fit."""


@dataclass(frozen=True, slots=True)
class Cell:
    """One strategy on one cluster under one load.

    Parameters
    ----------
    cluster, strategy
        Names of an experiment and of one of its systems. The strategy is placed without the others, so that ``helix``
        compares its candidates with none of them.
    rate_rps
        Requests/s; None: saturated.
    planned_rps
        Rate for which ``helix`` plans, where that is another one; its plan is that of the cell with that rate.
    """

    cluster: str
    strategy: str
    rate_rps: float | None
    effort: Effort
    planned_rps: float | None = None

    @property
    def title(self) -> str:
        """See ``helix.tasks.Task.title``."""
        load = SATURATED if self.rate_rps is None else f"{self.rate_rps:g} requests/s"
        return f"{self.cluster}, {self.strategy}, {load}"

    def key(self) -> str:
        """See ``helix.tasks.Task.key``; the experiment of a cluster is resolved once for the keys of all its cells."""
        inputs = system_inputs(as_written(self.cluster).resolve(), self.strategy)
        return json.dumps([inputs, self.changes(), self.planned_rps])

    def perform(self, cache: Path | None) -> Outcome:
        """Return the figures of the cell; ``{"failed": message}`` if the strategy has no placement for the cluster."""
        experiment = loaded(self)
        planned = experiment
        if self.planned_rps is not None:
            planned = loaded(replace(self, rate_rps=self.planned_rps, planned_rps=None))
        try:
            with TemporaryDirectory() as folder:
                placed = place(planned, planned.system(self.strategy), cache, Path(folder))
                run = hx.simulate(experiment, placed, runs=folder)  # the last one of a race, where there was one
        except HelixsimError as error:
            if not error.is_result:  # a failure of the machine says nothing about the strategy
                raise
            return {"failed": str(error)}
        stats = experiment.workload_stats
        summary = summarise(
            run, slo=experiment.slo, fleet=placed.system.fleet, placement=placed.placement, plan=placed.plan,
            mean_prompt_tokens=stats.mean_prompt_tokens, mean_output_tokens=stats.mean_output_tokens,
            offered_rps=stats.offered_rps, engine=experiment.engine, unsupported=experiment.unsupported,
        )  # fmt: skip
        found: Outcome = json_values(_figures(summary, placed, stats.mean_output_tokens))
        return found

    def changes(self) -> dict[str, Any]:
        """Return the changes of the cluster's experiment: its only system, its load, and how much is simulated."""
        written = as_written(self.cluster).resolve()
        found: dict[str, Any] = dict(self.effort.settings(written.workload.window.warmup_ns / NS_PER_S))
        if self.rate_rps is None:
            found |= {"workload.arrivals": {"process": "saturate"}, "slo": {}}  # what counts is throughput
        else:
            found["workload.arrivals.rate"] = self.rate_rps
        (system,) = (entry for entry in written.document["systems"] if entry["name"] == self.strategy)
        if self.effort.is_quick and self.strategy in REPLANNING:
            race_cpu_s = QUICK_RACE_CPU_S.get(self.cluster, USUAL_QUICK_RACE_CPU_S)
            system = {**system, "placement": {**system["placement"], "race_cpu_s": race_cpu_s}}
        return {**found, "systems": [system]}


def as_written(cluster: str) -> hx.Experiment:
    """Return the experiment of a cluster; it remembers its resolved form."""
    return _read(experiment_file(cluster))


_read = lru_cache(hx.load)


def loaded(cell: Cell) -> hx.ResolvedExperiment:
    """Return the experiment of a cell."""
    edits = [hx.Edit.of(key, value) for key, value in cell.changes().items()]
    return as_written(cell.cluster).with_(edits).resolve()


def strategies_of(cluster: str) -> list[str]:
    """Return the names of the systems of a cluster's experiment."""
    return [system.name for system in as_written(cluster).resolve().systems]


def _figures(summary: Summary, placed: hx.Placed, mean_output_tokens: float) -> dict[str, Any]:
    notes = placed.placement.notes
    done = summary.throughput
    interval = done.attainment_interval
    routing = notes.get("routing", {}).get("policy") or placed.system.routing
    chosen = notes.get("chosen")
    return {
        "output_tokens_per_s": done.output_tokens_per_s,
        "served_rps": None if done.output_tokens_per_s is None else done.output_tokens_per_s / mean_output_tokens,
        "goodput_rps": done.goodput_per_s,
        "latency_s": of_summary(summary).latency_s,
        "ranking": None if summary.ranking is None else asdict(summary.ranking),
        "within_slo": done.slo_attainment,
        "within_slo_low": None if interval is None else interval.low,
        "within_slo_high": None if interval is None else interval.high,
        **{
            f"{name}_{statistic}_s": getattr(getattr(summary, name), f"{statistic}_s")
            for name in ("ttft", "tpot", "e2el")
            for statistic in ("mean", "p50", "p95", "p99")
        },
        "usd_per_mtok": summary.cost.usd_per_mtok,
        "usd_per_hour": summary.cost.usd_per_hour,
        "saturation": summary.load.saturation,
        "planning_s": placed.placement.solve_s,
        "max_flow_tokens_per_s": placed.plan.max_flow_tokens_per_s,
        "mean_hops": placed.plan.mean_hops,
        "nodes_used": len(placed.placement.ranges),
        "nodes": len(placed.system.fleet.cluster.nodes),
        "placement": placed.placement.strategy if chosen is None else chosen,
        "routing": routing,
    }


@dataclass(frozen=True, slots=True)
class Bound:
    """The output tokens/s that no placement on a cluster exceeds."""

    cluster: str

    @property
    def title(self) -> str:
        """See ``helix.tasks.Task.title``."""
        return f"{self.cluster}, bound"

    def key(self) -> str:
        """See ``helix.tasks.Task.key``."""
        experiment = as_written(self.cluster).resolve()
        return json.dumps([system_inputs(experiment, experiment.systems[0].name)])

    def perform(self, cache: Path | None) -> Outcome:
        """Return ``{"output_tokens_per_s": bound}``: the largest of the machines as they are and of all divisions."""
        experiment = as_written(self.cluster).resolve()
        fleet, stats = experiment.systems[0].fleet, experiment.workload_stats
        prompt, output = stats.mean_prompt_tokens, stats.mean_output_tokens
        load = OperatingLoad(prompt, output, 1.0, output, experiment.engine, stats.prompt_spread)
        divided = [fleet, *(fleet.divided(widths) for widths in divisions_of(fleet).values())]
        tables = [(one, busy_capacity(one, load)) for one in divided]
        rough = {number: upper_bound_share(*one) for number, one in enumerate(tables)}
        bound = 0.0
        for number in sorted(rough, key=lambda number: -rough[number]):
            if rough[number] > bound:  # the others do not raise it
                bound = max(bound, configuration_bound(*tables[number]))
        return {"output_tokens_per_s": bound * output / (prompt + output)}


def served_rps(outcome: Mapping[str, Any]) -> float:
    """Return the requests/s that a cell served; 0 if it failed or had none."""
    found = outcome.get("served_rps")
    return 0.0 if found is None or not math.isfinite(found) else float(found)


def cluster_facts(cluster: str) -> dict[str, Any]:
    """Return what a page says of a cluster: model, nodes by region, objectives and mean lengths."""
    experiment = as_written(cluster).resolve()
    regions: dict[str, dict[str, int]] = {}
    for node in experiment.fleet.cluster.nodes:
        counts = regions.setdefault(node.region, {})
        counts[node.node_type] = counts.get(node.node_type, 0) + 1
    stats, slo = experiment.workload_stats, experiment.slo
    return {
        "model": experiment.fleet.model.name,
        "regions": regions,
        "slo_ttft_s": slo.ttft_s,
        "slo_tpot_s": slo.tpot_s,
        "mean_prompt_tokens": stats.mean_prompt_tokens,
        "mean_output_tokens": stats.mean_output_tokens,
    }
