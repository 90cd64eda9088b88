"""The leaderboard as rows, and which strategy is first in each cell."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import helixsim
from helixsim.jsonio import json_values
from helixsim.papers.leaderboard.names import CLUSTERS, LOADS
from helixsim.papers.leaderboard.run import REQUIRED_SHARE, Leaderboard
from helixsim.papers.leaderboard.tasks import SATURATED, cluster_facts
from helixsim.runtime.identity import library_versions

SCHEMA = 1

HELIX = "helix"

LEAST_TIE = 0.005
"""Shares within the SLO that differ by less are equal, whatever their interval."""

TIME_TIE = 0.05
"""Median times that differ by less are equal."""

FIGURES = (
    "rate_rps", "output_tokens_per_s", "served_rps", "goodput_rps", "within_slo", "within_slo_low", "within_slo_high",
    "ttft_p50_s", "ttft_p95_s", "ttft_p99_s", "tpot_p50_s", "tpot_p95_s", "tpot_p99_s", "e2el_mean_s", "e2el_p50_s",
    "usd_per_mtok", "usd_per_hour", "planning_s", "max_flow_tokens_per_s", "mean_hops", "nodes_used", "nodes",
    "placement", "routing", "saturation",
)  # fmt: skip
"""Figures of a row, None where there are none."""

Row = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Standing:
    """Who is first in one cell.

    Parameters
    ----------
    leader
        The strategy with the largest share within the SLO; of several that equal it, the one with the least median time
        from arrival to last token.
    first
        All strategies that equal the leader in both.
    """

    cluster: str
    load: float
    leader: str
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


def standings(rows: Sequence[Row]) -> list[Standing]:
    """Return who is first in each cell with a rate."""
    cells: dict[tuple[str, float], list[Row]] = {}
    for row in rows:
        if row["load"] != SATURATED and row["failed"] is None and row["within_slo"] is not None:
            cells.setdefault((row["cluster"], row["load"]), []).append(row)
    return [_standing(cluster, load, some) for (cluster, load), some in cells.items()]


def _standing(cluster: str, load: float, rows: Sequence[Row]) -> Standing:
    top = max(rows, key=lambda row: row["within_slo"])
    low = top["within_slo"] - LEAST_TIE
    if top["within_slo_low"] is not None:
        low = min(low, top["within_slo_low"])
    tied = [row for row in rows if row["within_slo"] >= low]
    leader = min(tied, key=_time_s)
    first = tuple(row["strategy"] for row in tied if _time_s(row) <= _time_s(leader) * (1 + TIME_TIE))
    return Standing(cluster, load, leader["strategy"], first)


def _time_s(row: Row) -> float:
    time_s = row["e2el_p50_s"]
    return float("inf") if time_s is None else float(time_s)


def document(board: Leaderboard) -> dict[str, Any]:
    """Return everything as JSON values."""
    rows = rows_of(board)
    found = standings(rows)
    by_key = {(row["cluster"], row["strategy"], row["load"]): row for row in rows}
    behind = [
        {
            "cluster": one.cluster, "load": one.load, "leader": one.leader,
            **{
                f"{who}_{key}": by_key[one.cluster, name, one.load][key]
                for who, name in (("leader", one.leader), ("helix", HELIX))
                for key in ("within_slo", "e2el_p50_s", "ttft_p50_s", "tpot_p50_s")
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
        "helix_behind_rates": _higher_rates(board),
    })  # fmt: skip
    return values


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
