"""Parts made of plain simulations: load curves, many placements, placements drawn, and where requests get stuck."""

from __future__ import annotations

import math
import statistics
from collections.abc import Collection, Iterable
from dataclasses import replace
from functools import partial
from typing import Literal

import numpy as np
from pydantic import Field, ValidationInfo, field_validator

import helixsim as hx
from helixsim.papers.helix.comparison import pooled_throughput, system_names
from helixsim.papers.helix.paper_studies import layers_of_nodes, load_curves, proxy_cloud, proxy_pairs, stays_at_nodes
from helixsim.papers.helix.parts import Edits, Effort, ExperimentFile, Part, PartResult, Row, check_titles, over_seeds
from helixsim.papers.helix.tasks import Results, Simulation, Task
from helixsim.validation import Numbers, Section, Words


def _at_rate(rate_rps: float) -> tuple[hx.Edit, ...]:
    return (hx.Edit.of("workload.arrivals.rate", f"{rate_rps:g} /s"),)


def _shown(titles: Iterable[str], full_only: Collection[str], effort: Effort) -> list[str]:
    """Return the titles without those that the quick version leaves out."""
    return [title for title in titles if not (effort.is_quick and title in full_only)]


class LoadSetup(Section):
    """A cluster of load curves, and the rates [requests/s] offered to it."""

    experiment: ExperimentFile
    rates: Numbers


class LoadCurves(Part):
    """Throughput and goodput against the offered rate, for every method, on several clusters.

    Parameters
    ----------
    labels
        Method -> its name in the figure.
    setups
        By title. Placements are made for the highest rate. The quick version takes every other one, and placements made
        for ``quick_placed_for``.
    full_only
        Titles that the quick version leaves out.
    settings, quick
        Edits of the experiments in the full and in the quick version.
    """

    kind: Literal["load"]
    labels: dict[str, Words] = Field(alias="methods")
    setups: dict[str, LoadSetup]
    full_only: list[Words] = Field([])
    settings: Edits
    quick: Edits = ()
    quick_placed_for: Edits

    @field_validator("full_only")
    @classmethod
    def _are_titles(cls, value: list[str], info: ValidationInfo) -> list[str]:
        return check_titles(value, info.data.get("setups", value))

    def tasks(self, effort: Effort) -> list[Task]:
        """See ``Part.tasks``."""
        return [run for title in self._titles(effort) for run in self._runs(title, effort).values()]

    def result(self, effort: Effort, results: Results) -> PartResult:
        """See ``Part.result``."""
        rows: list[Row] = []
        notes: list[str] = []
        for title in self._titles(effort):
            for method, run in results.succeeded(self._runs(title, effort), notes, f"{title}, "):
                for number, rate_rps in enumerate(self._rates(title, effort)):
                    found = results.samples(run, number)
                    served = pooled_throughput([found])
                    good = [sample.good_rps or 0.0 for sample in found]
                    # Where some seeds keep up and others do not, Student's interval reaches beyond what is offered.
                    least, most = (min(good), max(good)) if len(good) > 1 else (None, None)
                    rows.append(
                        {
                            "cluster": title, "method": method, "offered_rps": rate_rps,
                            "output_tokens_per_s": served.mean, "low": served.low, "high": served.high,
                            "goodput_rps": statistics.fmean(good), "goodput_least": least, "goodput_most": most,
                            "verdict": ", ".join(dict.fromkeys(sample.saturation.lower() for sample in found)),
                        }
                    )  # fmt: skip
        return PartResult(rows, partial(load_curves, rows, self.labels), notes)

    def _titles(self, effort: Effort) -> list[str]:
        return _shown(self.setups, self.full_only, effort)

    def _rates(self, title: str, effort: Effort) -> tuple[float, ...]:
        return tuple(self.setups[title].rates)[:: 2 if effort.is_quick else 1]

    def _runs(self, title: str, effort: Effort) -> dict[str, Simulation]:
        file, rates = self.setups[title].experiment, self._rates(title, effort)
        settings, placed_for = self.settings, _at_rate(max(rates))
        if effort.is_quick:
            settings, placed_for = self.quick, self.quick_placed_for
        loads = tuple(_at_rate(rate) for rate in rates)
        return {
            method: Simulation(file, method, settings, placed_for, loads, effort.seeds)
            for method in self.labels
            if method in system_names(file)
        }


class ProxyCluster(Section):
    """A cluster of a study of placements; ``pair``: the system of the paper and ours that stand side by side."""

    experiment: ExperimentFile
    pair: list[Words] = Field([])

    @field_validator("pair")
    @classmethod
    def _are_systems(cls, value: list[str], info: ValidationInfo) -> list[str]:
        known = system_names(info.data["experiment"]) if "experiment" in info.data else value
        if len(value) != 2 or not set(value) <= set(known):
            raise ValueError(f"expected two of {', '.join(known)}")
        return value


class Proxy(Part):
    """What placements deliver against their max-flow, for all systems of some experiments.

    Parameters
    ----------
    clusters
        By title. Systems that are paired, about as deep, are set side by side; without pairs all are drawn as a cloud.
    full_only
        Titles, and systems, that the quick version leaves out.
    """

    kind: Literal["proxy"]
    clusters: dict[str, ProxyCluster]
    full_only: list[Words] = Field([])
    quick: Edits = ()

    @field_validator("full_only")
    @classmethod
    def _are_titles(cls, value: list[str], info: ValidationInfo) -> list[str]:
        clusters: dict[str, ProxyCluster] | None = info.data.get("clusters")
        if clusters is None:
            return value
        systems = [name for cluster in clusters.values() for name in system_names(cluster.experiment)]
        return check_titles(value, [*clusters, *systems])

    @property
    def pairs(self) -> dict[str, tuple[str, str]]:
        """Title -> system of the paper and ours."""
        return {title: (one.pair[0], one.pair[1]) for title, one in self.clusters.items() if one.pair}

    def tasks(self, effort: Effort) -> list[Task]:
        """See ``Part.tasks``."""
        return [run for title in self._titles(effort) for run in self._runs(title, effort).values()]

    def result(self, effort: Effort, results: Results) -> PartResult:
        """See ``Part.result``."""
        rows: list[Row] = []
        notes: list[str] = []
        for title in self._titles(effort):
            for system, run in results.succeeded(self._runs(title, effort), notes, f"{title}, "):
                found = results.samples(run)
                served = pooled_throughput([found])
                delivered = over_seeds([sample.total_tokens_per_s for sample in found]).mean
                scale = delivered / served.mean if served.mean else math.nan
                rows.append(
                    {
                        "cluster": title, "system": system, "max_flow_tokens_per_s": found[0].max_flow_tokens_per_s,
                        "mean_hops": found[0].mean_hops, "max_hops": found[0].max_hops,
                        "tokens_per_s": delivered,
                        "low": None if served.low is None else served.low * scale,
                        "high": None if served.high is None else served.high * scale,
                        "output_tokens_per_s": served.mean,
                    }
                )  # fmt: skip
            notes += self._said(title, [row for row in rows if row["cluster"] == title])
        return PartResult(
            rows,
            partial(proxy_pairs, rows, {title: self.pairs[title] for title in self._titles(effort)})
            if self.pairs
            else partial(proxy_cloud, rows),
            notes,
        )

    def _titles(self, effort: Effort) -> list[str]:
        return _shown(self.clusters, self.full_only, effort)

    def _runs(self, title: str, effort: Effort) -> dict[str, Simulation]:
        file = self.clusters[title].experiment
        settings = self.quick if effort.is_quick else ()
        wanted = self.pairs.get(title) or _shown(system_names(file), self.full_only, effort)
        # One long window instead of seeds: the waves in which a filled cluster serves are alike under all of them.
        return {system: Simulation(file, system, settings) for system in wanted}

    def _said(self, title: str, rows: list[Row]) -> list[str]:
        """Return how well the flow ranks what is delivered."""
        if len(rows) < 2:
            return []
        if self.pairs:
            paper, ours = (next(row for row in rows if row["system"] == name) for name in self.pairs[title])
            flow, served = (ours[key] / paper[key] for key in ("max_flow_tokens_per_s", "tokens_per_s"))
            return [
                f"{title}: with {ours['mean_hops']:.1f} nodes per request (the paper's: {paper['mean_hops']:.1f}), "
                f"helixsim's placement has {flow:.2f} times the max-flow and serves {served:.2f} times the tokens."
            ]
        flows = np.array([row["max_flow_tokens_per_s"] for row in rows])
        served_all = np.array([row["tokens_per_s"] for row in rows])
        deepest = served_all[int(flows.argmax())] / served_all.max()
        return [
            f"{title}: rank correlation of max-flow and served tokens {rank_correlation(flows, served_all):.2f} over "
            f"{len(rows)} placements; the one with the largest flow serves {deepest:.0%} of the best."
        ]


def rank_correlation(first: np.ndarray, second: np.ndarray) -> float:
    """Return Spearman's rank correlation; equal values share their mean rank."""

    def ranks(values: np.ndarray) -> np.ndarray:
        order, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
        last = np.cumsum(counts)
        return ((last - (counts - 1) / 2)[inverse]).reshape(values.shape) if len(order) else values

    a, b = ranks(first), ranks(second)
    if a.std() == 0 or b.std() == 0:
        return math.nan
    return float(np.corrcoef(a, b)[0, 1])


class NodeSystem(Section):
    """A system whose nodes are shown; ``quick``: edits of the quick version."""

    experiment: ExperimentFile
    system: Words
    pruned: bool = False
    quick: Edits = ()


class NodeLoads(Part):
    """The nodes of simulated placements: which layers they hold and how much they compute, or how long requests stay.

    Parameters
    ----------
    show
        ``layers``: a diagram of the placement, shaded by the share of time a node computes. ``stay``: bars of the mean
        time of a visit, with published values of single nodes beside them.
    cell
        Where published stays are found; empty: nowhere.
    """

    kind: Literal["nodes"]
    show: Literal["layers", "stay"]
    systems: dict[str, NodeSystem]
    cell: str = ""

    def tasks(self, effort: Effort) -> list[Task]:
        """See ``Part.tasks``."""
        return [self._run(title, effort) for title in self.systems]

    def result(self, effort: Effort, results: Results) -> PartResult:
        """See ``Part.result``."""
        rows: list[Row] = []
        notes: list[str] = []
        runs = {title: self._run(title, effort) for title in self.systems}
        for title, run in results.succeeded(runs, notes):
            found = results.samples(run)
            for position, node in enumerate(found[0].nodes):
                said = self._published.get(self.cell, node.node, "stay")
                rows.append(
                    {
                        "placement": title, "node": node.node, "kind": node.kind,
                        "first_layer": node.start, "end_layer": node.end,
                        "busy": over_seeds([sample.nodes[position].busy for sample in found]).mean,
                        "stay_s": over_seeds([sample.nodes[position].stay_s for sample in found]).mean,
                        "published_stay_s": None if said is None else said.value,
                    }
                )  # fmt: skip
        return PartResult(rows, partial(layers_of_nodes if self.show == "layers" else stays_at_nodes, rows), notes)

    def _run(self, title: str, effort: Effort) -> Simulation:
        shown = self.systems[title]
        run = Simulation(shown.experiment, shown.system, seeds=effort.seeds, is_pruned=shown.pruned)
        return replace(run, settings=shown.quick) if effort.is_quick else run
