"""Parts made of plain simulations: load curves, many placements, placements drawn, and where requests get stuck."""

from __future__ import annotations

import math
import statistics
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np

from helixsim.config.edit import Edit
from helixsim.hardware.profile_file import Section
from helixsim.report.paper_studies import layers_of_nodes, load_curves, proxy_cloud, proxy_pairs, stays_at_nodes
from helixsim.reproduce.comparison import pooled_throughput, system_names
from helixsim.reproduce.parts import FULL_SEEDS, Effort, PartResult, Row, edits_in, over_seeds
from helixsim.reproduce.published import Published
from helixsim.reproduce.tasks import Results, Simulation, Task


def _settings(entry: Section) -> tuple[Edit, ...]:
    return edits_in(entry, "quick") if "quick" in entry else ()


def _at_rate(rate_rps: float) -> tuple[Edit, ...]:
    return (Edit.of("workload.arrivals.rate", f"{rate_rps:g} /s"),)


def _full_only(entry: Section, titles: Collection[str]) -> tuple[str, ...]:
    if "full_only" not in entry:
        return ()
    named = entry.texts("full_only")
    for title in named:
        if title not in titles:
            raise entry.fault("full_only", f"{title!r} is none of {', '.join(dict.fromkeys(titles))}")
    return named


def _shown(titles: Iterable[str], full_only: Collection[str], effort: Effort) -> list[str]:
    """Return the titles without those that the quick version leaves out."""
    return [title for title in titles if not (effort.is_quick and title in full_only)]


def _file(entry: Section, folder: Path) -> Path:
    name = entry.text("experiment")
    if not (folder / name).is_file():
        raise entry.fault("experiment", f"no such file: {folder / name}")
    return folder / name


@dataclass(frozen=True)
class LoadCurves:
    """Throughput and goodput against the offered rate, for every method, on several clusters.

    Parameters
    ----------
    setups
        Title -> (experiment, rates [requests/s]). Placements are made for the highest rate. The quick version takes
        every other one, and placements made for ``quick_placed_for``.
    full_only
        Titles that the quick version leaves out.
    settings, quick
        Settings of the experiments in the full and in the quick version.
    """

    title: str
    labels: Mapping[str, str]
    setups: Mapping[str, tuple[Path, tuple[float, ...]]]
    full_only: tuple[str, ...]
    settings: tuple[Edit, ...]
    quick: tuple[Edit, ...]
    quick_placed_for: tuple[Edit, ...]

    @classmethod
    def read(cls, entry: Section, folder: Path, _published: Published) -> LoadCurves:
        """Return the part that an entry describes."""
        methods, setups = entry.section("methods"), entry.section("setups")
        read: dict[str, tuple[Path, tuple[float, ...]]] = {}
        for title in setups.names():
            setup = setups.section(title)
            read[title] = (_file(setup, folder), setup.numbers("rates"))
            setup.close()
        labels = {method: methods.text(method) for method in methods.names()}
        return cls(
            entry.text("title"), labels, read, _full_only(entry, read), edits_in(entry, "settings"), _settings(entry),
            edits_in(entry, "quick_placed_for"),
        )  # fmt: skip

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
        return self.setups[title][1][:: 2 if effort.is_quick else 1]

    def _runs(self, title: str, effort: Effort) -> dict[str, Simulation]:
        file, rates = self.setups[title][0], self._rates(title, effort)
        settings, placed_for = self.settings, _at_rate(max(rates))
        if effort.is_quick:
            settings, placed_for = self.quick, self.quick_placed_for
        loads = tuple(_at_rate(rate) for rate in rates)
        return {
            method: Simulation(file, method, settings, placed_for, loads, effort.seeds)
            for method in self.labels
            if method in system_names(file)
        }


@dataclass(frozen=True)
class Proxy:
    """What placements deliver against their max-flow, for all systems of some experiments.

    Parameters
    ----------
    clusters
        Title -> experiment.
    pairs
        Title -> (system, other system) that are set side by side, about as deep; empty: all are drawn as a cloud.
    full_only
        Titles, and systems, that the quick version leaves out.
    """

    title: str
    clusters: Mapping[str, Path]
    pairs: Mapping[str, tuple[str, str]]
    full_only: tuple[str, ...]
    quick: tuple[Edit, ...]

    @classmethod
    def read(cls, entry: Section, folder: Path, _published: Published) -> Proxy:
        """Return the part that an entry describes."""
        clusters = entry.section("clusters")
        read, pairs = {}, {}
        for title in clusters.names():
            cluster = clusters.section(title)
            read[title] = _file(cluster, folder)
            if "pair" in cluster:
                paper, ours, *rest = (*cluster.texts("pair"), "")
                if rest != [""] or not {paper, ours} <= set(system_names(read[title])):
                    raise cluster.fault("pair", f"expected two of {', '.join(system_names(read[title]))}")
                pairs[title] = (paper, ours)
            cluster.close()
        systems = [name for file in read.values() for name in system_names(file)]
        return cls(entry.text("title"), read, pairs, _full_only(entry, [*read, *systems]), _settings(entry))

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
        file = self.clusters[title]
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


@dataclass(frozen=True)
class NodeLoads:
    """The nodes of simulated placements: which layers they hold and how much they compute, or how long requests stay.

    Parameters
    ----------
    show
        ``layers``: a diagram of the placement, shaded by the share of time a node computes. ``stay``: bars of the mean
        time of a visit, with published values of single nodes beside them.
    systems
        Title -> what is simulated, in full and in the quick version.
    cell
        Where published stays are found; empty: nowhere.
    """

    title: str
    show: str
    systems: Mapping[str, tuple[Simulation, Simulation]]
    cell: str
    published: Published

    @classmethod
    def read(cls, entry: Section, folder: Path, published: Published) -> NodeLoads:
        """Return the part that an entry describes."""
        systems = entry.section("systems")
        read = {}
        for title in systems.names():
            system = systems.section(title)
            is_pruned = system.flag("pruned") if "pruned" in system else False
            full = Simulation(_file(system, folder), system.text("system"), seeds=FULL_SEEDS, is_pruned=is_pruned)
            read[title] = (full, replace(full, settings=_settings(system), seeds=1))
            system.close()
        return cls(
            title=entry.text("title"),
            show=entry.choice("show", ("layers", "stay")),
            systems=read,
            cell=entry.text("cell") if "cell" in entry else "",
            published=published,
        )

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
                said = self.published.get(self.cell, node.node, "stay")
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
        full, quick = self.systems[title]
        return quick if effort.is_quick else full
