"""The page of ``helixsim reproduce leaderboard``: one HTML file that fetches nothing, in light and dark."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from helixsim.papers.leaderboard.names import LOADS
from helixsim.papers.leaderboard.tasks import SATURATED
from helixsim.papers.leaderboard.text import failures, rate_sentences, slower_sentences
from helixsim.papers.leaderboard.verdicts import HELIX
from helixsim.report.templating import template
from helixsim.units import number
from helixsim.writing import write_text

_BEYOND = 2.5
"""A bound of more than this many times the largest bar is drawn at the edge, with its value."""

_DEEPEST = 70.0
"""Share of the colour in a cell with all requests within the SLO [%]."""

SHOWN = (
    ("within SLO, %", "within_slo", 100.0), ("goodput, requests/s", "goodput_rps", 1.0),
    ("output tokens/s", "output_tokens_per_s", 1.0), ("TTFT p50, s", "ttft_p50_s", 1.0),
    ("TTFT p95", "ttft_p95_s", 1.0), ("TPOT p50, ms", "tpot_p50_s", 1e3), ("TPOT p95", "tpot_p95_s", 1e3),
    ("$/Mtok", "usd_per_mtok", 1.0), ("planned in, s", "planning_s", 1.0),
)  # fmt: skip
"""Columns of the tables: head, key and factor."""

LOWER_IS_BETTER = ("ttft_p50_s", "ttft_p95_s", "tpot_p50_s", "tpot_p95_s", "usd_per_mtok")


def write_page(path: Path, document: Mapping[str, Any]) -> None:
    """Write the page of ``verdicts.document``."""
    page = template("leaderboard.html.j2", "helixsim.papers.leaderboard").render(page=shown(document))
    write_text(path, page)


def shown(document: Mapping[str, Any]) -> dict[str, Any]:
    """Return the values of the template."""
    rows = {(row["cluster"], row["strategy"], row["load"]): row for row in document["rows"]}
    strategies = list(dict.fromkeys(row["strategy"] for row in document["rows"]))
    first = {(one["cluster"], one["load"]): one["first"] for one in document["standings"]}
    rates = {(one["cluster"], one["strategy"]): one["rate_rps"] for one in document["slo_rates"]}
    cells, behind = len(document["standings"]), len(document["helix_behind"])
    return {
        "quick": document["quick"],
        "step": _percent(document["search_step"]),
        "required": _percent(document["required_share"]),
        "loads": [_percent(load) for load in LOADS],
        "lead": _lead(document, cells, behind),
        "tiles": _tiles(document, strategies, first, rates),
        "strategies": strategies,
        "heat": [
            {
                "cluster": cluster,
                "title": facts["title"],
                "rows": [
                    {
                        "load": _percent(load),
                        "rate": number(rows[cluster, strategies[0], load]["rate_rps"]),
                        "cells": [
                            _cell(rows.get((cluster, name, load)), first.get((cluster, load), ()))
                            for name in strategies
                        ],
                    }
                    for load in LOADS
                ],
            }
            for cluster, facts in document["clusters"].items()
        ],
        "clusters": [
            _cluster(cluster, facts, strategies, rows, rates) for cluster, facts in document["clusters"].items()
        ],
        "behind": [_behind(one) for one in document["helix_behind"]],
        "higher_rates": rate_sentences(document),
        "slower": slower_sentences(document),
        "failures": failures(document),
        "columns": [head for head, _, _ in SHOWN],
        "versions": ", ".join(f"{name} {version}" for name, version in document["versions"].items()),
        "version": document["helixsim"],
    }  # fmt: skip


def _lead(document: Mapping[str, Any], cells: int, behind: int) -> str:
    clusters = len(document["clusters"])
    higher = {one["cluster"] for one in document["helix_behind_rates"]}
    lead = (
        f"Ten placement strategies on {clusters} cluster{'' if clusters == 1 else 's'}: helix is first, alone or with "
        f"others, in {cells - behind} of {cells} cells of cluster and load"
    )
    return (
        f"{lead}; on {len(higher)} of {clusters} another one meets the SLO up to a higher rate."
        if higher
        else f"{lead}."
    )


def _tiles(
    document: Mapping[str, Any],
    strategies: Sequence[str],
    first: Mapping[tuple[str, float], Sequence[str]],
    rates: Mapping[tuple[str, str], float],
) -> list[dict[str, Any]]:
    """Return a tile for each strategy: cells in which it is first, and the mean of its rates over the best rate."""
    tiles = []
    clusters = list(document["clusters"])
    for name in strategies:
        won = sum(name in some for some in first.values())
        shares = []
        for cluster in clusters:
            best = max((rates.get((cluster, other), 0.0) for other in strategies), default=0.0)
            if best > 0:
                shares.append(rates.get((cluster, name), 0.0) / best)
        mean = sum(shares) / len(shares) if shares else None
        tiles.append({
            "name": name, "won": won, "cells": len(first),
            "mean": "–" if mean is None else _percent(mean), "width": round(100 * (mean or 0.0), 1),
            "is_helix": name == HELIX,
        })  # fmt: skip
    return sorted(tiles, key=lambda tile: (-tile["won"], -tile["width"]))


def _cell(row: Mapping[str, Any] | None, first: Sequence[str]) -> dict[str, Any]:
    if row is None:
        return {"text": "", "title": "not in the experiment", "depth": 0, "is_first": False, "is_failed": True}
    if row["failed"] is not None:
        return {"text": "none", "title": row["failed"], "depth": 0, "is_first": False, "is_failed": True}
    share = row["within_slo"]
    text = "–" if share is None else f"{100 * share:.0f}"
    times = f"TTFT {number(row['ttft_p50_s'])} s, TPOT {number(_ms(row['tpot_p50_s']))} ms (median)"
    return {
        "text": text,
        "title": f"{times}; {row['placement']}, {row['routing']}, {row['nodes_used']} of {row['nodes']} nodes",
        "depth": round(_DEEPEST * (share or 0.0), 1),
        "is_first": row["strategy"] in first,
        "is_failed": False,
    }


def _cluster(
    cluster: str,
    facts: Mapping[str, Any],
    strategies: Sequence[str],
    rows: Mapping[tuple[str, str, Any], Mapping[str, Any]],
    rates: Mapping[tuple[str, str], float],
) -> dict[str, Any]:
    mean_output = facts["mean_output_tokens"]
    bound_rps = facts["bound_output_tokens_per_s"] / mean_output
    saturated = {name: rows[cluster, name, SATURATED]["served_rps"] or 0.0 for name in strategies}
    largest = max([*saturated.values(), *(rates.get((cluster, name), 0.0) for name in strategies), 1e-9])
    is_beyond = bound_rps > _BEYOND * largest
    scale = largest * 1.12 if is_beyond else max(bound_rps, largest) * 1.04
    bars = []
    for name in strategies:
        failed = rows[cluster, name, SATURATED]["failed"]
        rate = rates.get((cluster, name))
        bars.append({
            "name": name, "failed": failed, "rate": None if rate is None else number(rate) if rate else "none",
            "within": round(100 * (rate or 0.0) / scale, 2), "saturated": round(100 * saturated[name] / scale, 2),
            "is_helix": name == HELIX,
            "title": f"{number(rate or 0.0)} requests/s within the SLO, {number(saturated[name])} saturated",
        })  # fmt: skip
    tables = []
    for load in LOADS:
        some = [rows[cluster, name, load] for name in strategies]
        best = {key: _best(some, key) for _, key, _ in SHOWN}
        tables.append({
            "load": _percent(load),
            "rate": number(some[0]["rate_rps"]),
            "rows": [
                {
                    "name": row["strategy"],
                    "failed": row["failed"],
                    "cells": [
                        {"text": _figure(row[key], factor), "is_best": row[key] is not None and row[key] == best[key]}
                        for _, key, factor in SHOWN
                    ],
                }
                for row in some
            ],
        })  # fmt: skip
    return {
        "name": cluster,
        "title": facts["title"],
        "model": facts["model"],
        "regions": [
            f"{region}: {', '.join(f'{count} × {kind}' for kind, count in kinds.items())}"
            for region, kinds in facts["regions"].items()
        ],
        "slo": f"TTFT {number(facts['slo_ttft_s'])} s, TPOT {number(_ms(facts['slo_tpot_s']))} ms",
        "lengths": f"{facts['mean_prompt_tokens']:.0f} prompt and {mean_output:.0f} output tokens on average",
        "capacity": number(facts["capacity_rps"]),
        "bound": number(bound_rps),
        "bound_at": 100.0 if is_beyond else round(100 * bound_rps / scale, 2),
        "is_beyond": is_beyond,
        "bars": bars,
        "strips": [_strip([rows[cluster, name, load] for name in strategies], scale) for load in LOADS],
        "tables": tables,
    }


def _strip(rows: Sequence[Mapping[str, Any]], scale: float) -> dict[str, Any]:
    """Return the goodput of each strategy under one load, as positions on a scale [% of it], that of helix last.

    It is the share within the SLO of the offered rate. The good requests that finish in a window of two minutes are
    fewer where requests live for one.
    """
    goodput = {row["strategy"]: row["within_slo"] * row["rate_rps"] for row in rows if row["within_slo"] is not None}
    dots = [
        {"name": name, "at": round(100 * rps / scale, 2), "text": number(rps), "is_helix": name == HELIX}
        for name, rps in goodput.items()
    ]
    others = [dot for dot in dots if not dot["is_helix"]]
    best = max(others, key=lambda dot: dot["at"], default=None)
    return {
        "load": _percent(rows[0]["load"]),
        "offered_at": round(100 * rows[0]["rate_rps"] / scale, 2),
        "offered": number(rows[0]["rate_rps"]),
        "dots": sorted(dots, key=lambda dot: (dot["is_helix"], dot["at"])),
        "helix": next((dot["text"] for dot in dots if dot["is_helix"]), "–"),
        "best": None if best is None else f"{best['name']} {best['text']}",
    }


def _best(rows: Sequence[Mapping[str, Any]], key: str) -> float | None:
    """Return the best value of a column; None where nothing is better: of planning times, and of one row."""
    values = [row[key] for row in rows if row[key] is not None]
    if len(values) < 2 or key == "planning_s":
        return None
    found: float = min(values) if key in LOWER_IS_BETTER else max(values)
    return found


def _behind(one: Mapping[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = {"cluster": one["cluster"], "load": _percent(one["load"]), "leader": one["leader"]}
    for name in ("leader", "helix"):
        found[name + "_cells"] = [
            _figure(one[f"{name}_within_slo"], 100.0), _figure(one[f"{name}_latency_s"], 1.0),
            _figure(one[f"{name}_ttft_p50_s"], 1.0), _figure(one[f"{name}_tpot_p50_s"], 1e3),
        ]  # fmt: skip
    return found


def _figure(value: float | None, factor: float) -> str:
    return number(None if value is None else value * factor)


def _ms(value_s: float | None) -> float | None:
    return None if value_s is None else 1e3 * value_s


def _percent(share: float) -> str:
    return f"{100 * share:.0f}\u00a0%"
