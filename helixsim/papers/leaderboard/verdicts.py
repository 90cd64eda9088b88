"""The leaderboard as rows, and which strategy is first in each cell."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import helixsim
from helixsim.domain.figures import RankingFigures
from helixsim.jsonio import json_values
from helixsim.metrics.criteria import Criterion, ranked, steps
from helixsim.metrics.score import Score, of_figures
from helixsim.papers.helix.tasks import Outcome
from helixsim.papers.leaderboard.names import CLUSTERS, LOADS
from helixsim.papers.leaderboard.run import REQUIRED_SHARE, Leaderboard
from helixsim.papers.leaderboard.tasks import SATURATED, cluster_facts
from helixsim.runtime.identity import library_versions

SCHEMA = 1

HELIX = "helix"

DECIDING = steps(has_slo=True, is_open=True, same_load=True, all_overloaded=False, by_cost=False)[:2]
"""Criteria of a cell, those of the verdict of an experiment up to the latency: equal strategies are not told apart."""

MUCH_SLOWER = 0.05
"""Share of the median time of a strategy by which that of ``helix`` is longer where it is told."""

FIGURES = (
    "rate_rps", "output_tokens_per_s", "served_rps", "goodput_rps", "within_slo", "within_slo_low", "within_slo_high",
    "latency_s", "ttft_p50_s", "ttft_p95_s", "ttft_p99_s", "tpot_p50_s", "tpot_p95_s", "tpot_p99_s", "e2el_mean_s",
    "e2el_p50_s", "usd_per_mtok", "usd_per_hour", "planning_s", "max_flow_tokens_per_s", "mean_hops", "nodes_used",
    "nodes", "placement", "routing", "saturation",
)  # fmt: skip
"""Figures of a row, None where there are none."""

Row = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Standing:
    """Who is first in one cell.

    Parameters
    ----------
    leader
        The strategy that the verdict of an experiment would rank first: by the share within the SLO, then the latency.
    equal
        All strategies that equal it in the share.
    first
        All that equal it in both.
    """

    cluster: str
    load: float
    leader: str
    equal: tuple[str, ...]
    first: tuple[str, ...]


def rows_of(board: Leaderboard) -> list[Row]:
    """Return a row for each strategy on each cluster under each load, those that failed with the reason."""
    rows = []
    for cluster, names in board.strategies.items():
        for name in names:
            saturated = board.saturated[cluster, name]
            rows.append(_row(cluster, name, SATURATED, None, saturated))
            for load in LOADS:
                rate = _rate_of(board, cluster, load)
                outcome = board.loads.get(
                    (cluster, name, load), {"failed": saturated.get("failed", "nothing is served")}
                )
                rows.append(_row(cluster, name, load, rate, outcome))
    return rows


def _rate_of(board: Leaderboard, cluster: str, load: float) -> float:
    return float(f"{board.capacity_rps[cluster] * load:.3g}")


def _row(cluster: str, name: str, load: float | str, rate: float | None, outcome: Mapping[str, Any]) -> Row:
    figures = {key: outcome.get(key) for key in FIGURES} | {"rate_rps": rate}
    return {"cluster": cluster, "strategy": name, "load": load, "failed": outcome.get("failed"), **figures}


def standings(loads: Mapping[tuple[str, str, float], Outcome]) -> list[Standing]:
    """Return who is first in each cell: of the outcomes of a cluster's strategies under a load."""
    cells: dict[tuple[str, float], dict[str, Score]] = {}
    for (cluster, name, load), outcome in loads.items():
        if outcome.get("ranking") is not None and outcome.get("within_slo") is not None:
            figures = RankingFigures(**outcome["ranking"])
            cells.setdefault((cluster, load), {})[name] = of_figures(figures, 1.0)
    return [_standing(cluster, load, scores) for (cluster, load), scores in cells.items()]


def _standing(cluster: str, load: float, scores: Mapping[str, Score]) -> Standing:
    kept, left = list(scores), dict[Criterion, tuple[str, ...]]()
    for step in DECIDING:
        behind = step.left_behind(kept, scores)
        kept = [name for name in kept if name not in behind]
        left[step.criterion] = tuple(kept)
    leader = ranked(list(scores), scores, DECIDING)[0]
    return Standing(cluster, load, leader, left[Criterion.ATTAINMENT], left[Criterion.LATENCY])


def document(board: Leaderboard) -> dict[str, Any]:
    """Return everything as JSON values."""
    rows = rows_of(board)
    found = standings(board.loads)
    by_key = {(row["cluster"], row["strategy"], row["load"]): row for row in rows}
    behind = [
        {
            "cluster": one.cluster, "load": one.load, "leader": one.leader,
            **{
                f"{who}_{key}": by_key[one.cluster, name, one.load][key]
                for who, name in (("leader", one.leader), ("helix", HELIX))
                for key in ("within_slo", "latency_s", "ttft_p50_s", "tpot_p50_s")
            },
        }
        for one in found
        if HELIX in board.strategies[one.cluster] and HELIX not in one.first
    ]  # fmt: skip
    values: dict[str, Any] = json_values({
        "schema": SCHEMA,
        "helixsim": helixsim.__version__,
        "versions": library_versions(),
        "quick": board.effort.is_quick,
        "search_step": board.effort.step,
        "required_share": REQUIRED_SHARE,
        "clusters": {
            cluster: {
                "title": CLUSTERS[cluster],
                "capacity_rps": board.capacity_rps[cluster],
                "bound_output_tokens_per_s": board.bound[cluster],
                **cluster_facts(cluster),
            }
            for cluster in board.strategies
        },
        "rows": rows,
        "slo_rates": [
            {
                "cluster": cluster, "strategy": name, "rate_rps": rate,
                "load": rate / board.capacity_rps[cluster] if board.capacity_rps[cluster] else None,
            }
            for (cluster, name), rate in board.slo_rps.items()
        ],
        "standings": [asdict(one) for one in found],
        "helix_behind": behind,
        "helix_slower": _slower(found, by_key),
        "helix_behind_rates": _higher_rates(board),
    })  # fmt: skip
    return values


def _slower(found: Sequence[Standing], rows: Mapping[tuple[str, str, float], Row]) -> list[dict[str, Any]]:
    """Return where ``helix`` is first, and another with an equal share takes much less time in the median."""
    slower = []
    for one in found:
        times = {name: rows[one.cluster, name, one.load]["e2el_p50_s"] or math.inf for name in one.equal}
        fastest = min(times, key=lambda name: times[name])
        if HELIX in one.first and times[fastest] < (1 - MUCH_SLOWER) * times[HELIX]:
            slower.append({"cluster": one.cluster, "load": one.load, "faster": fastest} | {
                f"{who}_{key}": rows[one.cluster, name, one.load][key]
                for who, name in (("faster", fastest), ("helix", HELIX)) for key in ("e2el_p50_s", "ttft_p95_s")
            })  # fmt: skip
    return slower


def _higher_rates(board: Leaderboard) -> list[dict[str, Any]]:
    """Return the strategies that meet the SLO up to a higher rate than ``helix``, the highest of each cluster first."""
    found = []
    for cluster, names in board.strategies.items():
        mine = board.slo_rps.get((cluster, HELIX))
        rates = {name: board.slo_rps.get((cluster, name), 0.0) for name in names}
        if mine is not None:
            found += [
                {"cluster": cluster, "strategy": name, "rate_rps": rate, "helix_rate_rps": mine}
                for name, rate in sorted(rates.items(), key=lambda item: -item[1])
                if rate > mine
            ]
    return found
