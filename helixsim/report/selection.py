"""What a placement document says about its selection: entries of the race, why this one, and which nodes are idle."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from helixsim.domain.summary import milliseconds
from helixsim.results.runset import RunSet
from helixsim.units import number, percent

MOST_SHOWN = 12
"""Entries of the race in the table."""

HEAD = (
    "candidate", "routing", "nodes", "within objectives, %", "requests in the system", "TTFT p95, s", "TPOT p95, ms",
    "output tokens/s", "round",
)  # fmt: skip


def race_rows(notes: Mapping[str, Any]) -> list[tuple[str, ...]]:
    """Return the best entries of the race as rows of ``HEAD``, those of the last round first."""
    entries = sorted(notes.get("race", []), key=lambda e: (-e["round"], -round(e["share"], 3), e["in_system"]))
    return [
        (
            entry["name"],
            entry["routing"],
            str(entry["nodes"]),
            percent(entry["share"]),
            number(entry["in_system"]),
            number(entry["ttft_p95_s"]),
            number(milliseconds(entry["tpot_p95_s"])),
            number(entry["output_tokens_per_s"]),
            str(entry["round"]),
        )
        for entry in entries[:MOST_SHOWN]
    ]


def selection_notes(runs: RunSet) -> list[tuple[str, str]]:
    """Return (system, sentence) on how placements were selected."""
    return [
        (name, sentence)
        for name, run in runs.items()
        for sentence in selection_sentences(run.placement_document["notes"])
    ]


def selection_sentences(notes: Mapping[str, Any]) -> list[str]:
    """Return why this placement and routing, and which nodes are idle for which reason."""
    found = []
    race: Sequence[Mapping[str, Any]] = notes.get("race", [])
    last = [entry for entry in race if entry["round"] == max(one["round"] for one in race)]
    own = [entry for entry in last if entry["name"] == notes.get("chosen")]
    if own:
        names = {entry["name"] for entry in race if not entry["is_baseline"]}
        policy = notes.get("routing", {}).get("policy", own[0]["routing"])
        (chosen,) = [entry for entry in own if entry["routing"] == policy][:1] or own[:1]
        found.append(
            f"Selected: {chosen['name']} with routing {chosen['routing']}, of {len(names)} placements, "
            f"{len(race)} with their routings. Of the requests of the report {percent(chosen['share'])} % are within "
            f"the objectives, {number(chosen['in_system'])} in the system at a time."
        )
        others = [entry for entry in last if entry is not chosen]
        if others:
            best = max(others, key=lambda entry: (round(entry["share"], 3), -entry["in_system"]))
            found[-1] += (
                f" Next: {best['name']} with {best['routing']}, {percent(best['share'])} % and "
                f"{number(best['in_system'])}."
            )
    if fallback := notes.get("fallback"):
        found.append(f"A baseline is taken: {fallback}")
    by_reason: dict[str, list[str]] = {}
    for node, reason in notes.get("idle", {}).items():
        by_reason.setdefault(reason, []).append(node)
    found += [f"Idle, {reason}: {', '.join(nodes)}." for reason, nodes in by_reason.items()]
    if reserve := notes.get("reserve"):
        found.append(f"Not needed at this load, no request was sent there: {', '.join(reserve)}.")
    return found
