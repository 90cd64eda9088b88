"""The leaderboard for a terminal."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from helixsim.papers.helix.tables import text_table
from helixsim.papers.leaderboard.names import LOADS
from helixsim.units import number

_NONE = "–"


def text(document: Mapping[str, Any], *, markdown: bool = False) -> str:
    """Return one table of all cells, the sentences on helix, and the reasons of strategies without a figure."""
    blocks, line = [], "\n- " if markdown else "\n"
    if document["quick"]:
        blocks.append("coarse (--quick): windows of 30 to 120 s after a fifth of the warm-up, steps of 10 %")
    rows = {(row["cluster"], row["strategy"], row["load"]): row for row in document["rows"]}
    rates = {(one["cluster"], one["strategy"]): one["rate_rps"] for one in document["slo_rates"]}
    head = (
        "cluster", "strategy", *(f"in SLO, {load:.0%}" for load in LOADS), "requests/s in SLO", "saturated tokens/s",
        "TTFT p95, s", "TPOT p95, ms", "$/Mtok", "planned in, s",
    )  # fmt: skip
    lines = []
    for cluster, facts in document["clusters"].items():
        names = [row["strategy"] for row in document["rows"] if row["cluster"] == cluster and row["load"] == LOADS[0]]
        for name in names:
            middle = rows[cluster, name, LOADS[1]]
            shares = (_share(rows[cluster, name, load]["within_slo"]) for load in LOADS)
            saturated = rows[cluster, name, "saturated"]
            lines.append((
                cluster, name, *shares, _number(rates.get((cluster, name))), _number(saturated["output_tokens_per_s"]),
                _number(middle["ttft_p95_s"]), _number(middle["tpot_p95_s"], 1e3), _number(middle["usd_per_mtok"]),
                _number(middle["planning_s"]),
            ))  # fmt: skip
        bound = _number(facts["bound_output_tokens_per_s"])
        lines.append((cluster, "upper bound", *[""] * len(LOADS), "", bound, "", "", "", ""))
    blocks.append(text_table(head, lines, markdown))
    blocks.append(f"TTFT, TPOT, $/Mtok and planning time are those at {LOADS[1]:.0%} of the best capacity.")
    blocks.append(line.join(sentences(document)))
    reasons = failures(document)
    if reasons:
        listed = (f"{cluster}, {name}: {reason}" for cluster, name, reason in reasons)
        blocks.append("".join(line + one for one in listed).removeprefix("\n"))
    return "\n\n".join(blocks)


def sentences(document: Mapping[str, Any]) -> list[str]:
    """Return in how many cells helix is first, and the cells in which it is not."""
    cells = len(document["standings"])
    behind = document["helix_behind"]
    found = [f"helix is first, alone or with others, in {cells - len(behind)} of {cells} cells."]
    found += [
        f"{one['cluster']}, {one['load']:.0%}: {one['leader']} is ahead: {_share(one['leader_within_slo'])} within the "
        f"SLO and a latency of {_number(one['leader_latency_s'])} s, helix {_share(one['helix_within_slo'])} and "
        f"{_number(one['helix_latency_s'])} s"
        for one in behind
    ]
    return [*found, *slower_sentences(document), *rate_sentences(document)]


def slower_sentences(document: Mapping[str, Any]) -> list[str]:
    """Return a sentence for each cell in which a strategy that is not first takes much less time in the median."""
    return [
        f"{one['cluster']}, {one['load']:.0%}: {one['faster']} takes {_number(one['faster_e2el_p50_s'])} s per request "
        f"in the median, helix {_number(one['helix_e2el_p50_s'])}, with a TTFT of {_number(one['faster_ttft_p95_s'])} "
        f"and {_number(one['helix_ttft_p95_s'])} s (p95)"
        for one in document["helix_slower"]
    ]


def rate_sentences(document: Mapping[str, Any]) -> list[str]:
    """Return a sentence for each strategy that meets the SLO up to a higher rate than helix."""
    return [
        f"{one['cluster']}: {one['strategy']} meets the SLO up to {_number(one['rate_rps'])} requests/s, helix up to "
        f"{_number(one['helix_rate_rps'])}"
        for one in document["helix_behind_rates"]
    ]


def failures(document: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """Return cluster, strategy and reason of each that has no figure somewhere; equal reasons once."""
    found = {(row["cluster"], row["strategy"], row["failed"]): None for row in document["rows"] if row["failed"]}
    return list(found)


def _share(value: float | None) -> str:
    return _NONE if value is None else f"{100 * value:.0f} %" if value < 0.995 or value == 1 else f"{100 * value:.1f} %"


def _number(value: float | None, factor: float = 1.0) -> str:
    return _NONE if value is None else number(value * factor)
