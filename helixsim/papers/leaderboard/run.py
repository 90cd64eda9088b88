"""The leaderboard's simulations: the best capacity of each cluster, the loads, and the search for the SLO."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from helixsim.errors import ConfigError, unknown_name
from helixsim.papers.helix.tasks import Outcome, Results, Task, perform_all
from helixsim.papers.leaderboard.names import CLUSTERS, LOADS, QUICK_CLUSTERS, Effort
from helixsim.papers.leaderboard.tasks import REPLANNING, Bound, Cell, served_rps, strategies_of
from helixsim.runtime.pool import Executor, Report

REQUIRED_SHARE = 0.95
"""Share of requests within the objectives at a load that meets the SLO."""

MOST_LOAD = 1.3
"""Highest load of the search, as a share of the best capacity."""


@dataclass
class Ladder:
    """The search of one strategy on one cluster for the highest load within the SLO, on a grid of loads.

    ``known``: load in grid steps -> whether it meets the SLO. Loads above one that fails are taken to fail.
    """

    step: float
    known: dict[int, bool] = field(default_factory=dict)

    def note(self, load: float, is_met: bool) -> None:
        """Enter the result of a load, also of one between two grid steps."""
        number = load / self.step
        self.known[round(number) if abs(number - round(number)) < 1e-6 else int(number) + (not is_met)] = is_met

    @property
    def best(self) -> int:
        """Highest step that meets the SLO below all that do not; 0: none."""
        first = min((number for number, is_met in self.known.items() if not is_met), default=None)
        return max((n for n, is_met in self.known.items() if is_met and (first is None or n < first)), default=0)

    def following(self) -> int | None:
        """Return the step to simulate next; None: the search is over."""
        failing = min((number for number, is_met in self.known.items() if not is_met), default=None)
        if failing is None:
            most = round(MOST_LOAD / self.step)
            return most if self.best < most else None
        return (self.best + failing) // 2 if failing - self.best > 1 else None


@dataclass(frozen=True)
class Leaderboard:
    """All outcomes.

    Parameters
    ----------
    capacity_rps
        Best capacity of each cluster [requests/s].
    bound
        Output tokens/s that no placement on a cluster exceeds.
    saturated, loads
        Outcomes by cluster and strategy, of ``loads`` by load, too.
    slo_rps
        Highest rate that meets the SLO, by cluster and strategy; 0: none simulated does. Without failed ones.
    """

    effort: Effort
    capacity_rps: dict[str, float]
    bound: dict[str, float]
    saturated: dict[tuple[str, str], Outcome]
    loads: dict[tuple[str, str, float], Outcome]
    slo_rps: dict[tuple[str, str], float]
    strategies: dict[str, list[str]]


def chosen_clusters(names: Sequence[str], effort: Effort) -> list[str]:
    """Return the clusters to simulate.

    Raises
    ------
    ConfigError
        If there is no cluster of a name.
    """
    for name in names:
        if name not in CLUSTERS:
            raise ConfigError(unknown_name("cluster", name, list(CLUSTERS)))
    return list(dict.fromkeys(names)) or list(QUICK_CLUSTERS if effort.is_quick else CLUSTERS)


def simulate_all(
    clusters: Sequence[str],
    effort: Effort,
    cache: Path,
    executor: Executor,
    *,
    force: bool = False,
    progress: Report = lambda _share, _what: None,
) -> Leaderboard:
    """Run everything that is not in ``cache`` yet."""
    strategies = {cluster: strategies_of(cluster) for cluster in clusters}
    cells = [(cluster, name) for cluster in clusters for name in strategies[cluster]]

    def perform(tasks: Sequence[Task], first: float, last: float, what: str) -> Results:
        def report(share: float, title: str) -> None:
            progress(first + share * (last - first), f"{what}: {title}")

        return perform_all(tasks, cache, executor, force=force, progress=report)

    saturated = {cell: Cell(*cell, None, effort) for cell in cells}
    bounds = {cluster: Bound(cluster) for cluster in clusters}
    results = perform([*bounds.values(), *saturated.values()], 0.0, 0.25, "best capacity")
    bound = {cluster: results.outcome(task)["output_tokens_per_s"] for cluster, task in bounds.items()}
    served = {cell: results.outcome(task) for cell, task in saturated.items()}
    capacity = {
        cluster: _rounded(max(served_rps(served[cluster, name]) for name in strategies[cluster]))
        for cluster in clusters
    }
    able = [cell for cell in cells if "failed" not in served[cell] and capacity[cell[0]] > 0]
    tasks = {(*cell, load): Cell(*cell, _rate(capacity[cell[0]], load), effort) for cell in able for load in LOADS}
    results = perform(list(tasks.values()), 0.25, 0.65, "loads")
    loads = {key: results.outcome(task) for key, task in tasks.items()}
    ladders = {cell: Ladder(effort.step) for cell in able}
    for (cluster, name, load), outcome in loads.items():
        ladders[cluster, name].note(load, meets(outcome))
    share = 0.65
    while waiting := {cell: number for cell, ladder in ladders.items() if (number := ladder.following()) is not None}:
        searched = {
            cell: _searched(cell, capacity[cell[0]], number * effort.step, effort) for cell, number in waiting.items()
        }
        share, start = share + (1 - share) / 2, share
        results = perform(list(searched.values()), start, share, "search")
        for cell, task in searched.items():
            ladders[cell].note(waiting[cell] * effort.step, meets(results.outcome(task)))
    found = {cell: _rate(capacity[cell[0]], ladder.best * effort.step) for cell, ladder in ladders.items()}
    return Leaderboard(effort, capacity, bound, served, loads, found, strategies)


def meets(outcome: Mapping[str, Any]) -> bool:
    """Return whether a cell has the required share of its requests within the objectives."""
    share = outcome.get("within_slo")
    return share is not None and share >= REQUIRED_SHARE


def _searched(cell: tuple[str, str], capacity_rps: float, load: float, effort: Effort) -> Cell:
    """Return the cell of a load of the search; with little effort ``helix`` is planned once for all of them."""
    planned = _rate(capacity_rps, 1.0) if effort.is_quick and cell[1] in REPLANNING else None
    return Cell(*cell, _rate(capacity_rps, load), effort, planned)


def _rate(capacity_rps: float, load: float) -> float:
    return _rounded(capacity_rps * load)


def _rounded(value: float) -> float:
    """Return a rate with three significant digits, which people can type."""
    return float(f"{value:.3g}")
