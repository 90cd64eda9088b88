"""What a placement document says about its selection: entries of the race, why this one, and which nodes are idle."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from helixsim.domain.summary import milliseconds
from helixsim.results.runset import RunSet
from helixsim.units import number, percent

MOST_SHOWN = 12
"""Entries of the race in the table."""

HEAD = (
    "candidate, routing", "nodes", "serves, requests/s", "within SLO, %", "TTFT p50 / p95 / p99, s",
    "TPOT p50 / p95 / p99, ms", "output tokens/s", "trial",
)  # fmt: skip


def race_rows(notes: Mapping[str, Any]) -> list[tuple[str, ...]]:
    """Return the best entries of the race as rows of ``HEAD``, those simulated as reported first."""
    race = _race(notes)
    last = max((entry["round"] for entry in race), default=0)
    entries = sorted(race, key=lambda e: (-e["round"], *_order(e, notes)))
    return [
        (
            f"{entry['name']}, {entry['routing']}",
            str(entry["nodes"]),
            number(entry["capacity_per_s"]),
            percent(entry["share"]),
            " / ".join(number(value) for value in entry["ttft_s"]),
            " / ".join(number(milliseconds(value)) for value in entry["tpot_s"]),
            number(entry["output_tokens_per_s"]),
            "report" if entry["round"] == last else str(entry["round"]),
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
    race = _race(notes)
    last = [entry for entry in race if entry["round"] == max(one["round"] for one in race)]
    own = [entry for entry in last if entry["name"] == notes.get("chosen")]
    if own:
        names = {entry["name"] for entry in race if not entry["is_baseline"]}
        policy = notes.get("routing", {}).get("policy", own[0]["routing"])
        (chosen,) = [entry for entry in own if entry["routing"] == policy][:1] or own[:1]
        found.append(
            f"Selected: {chosen['name']} with routing {chosen['routing']}, of {len(names)} placements, "
            f"{len(race)} with their routings. As reported: {_figures(chosen)}."
        )
        others = [entry for entry in last if entry is not chosen]
        if others:
            best = min(others, key=lambda entry: _order(entry, notes))
            found[-1] += f" Next: {best['name']} with {best['routing']}, {_figures(best)}."
        if trial := notes.get("trial"):
            found.append(f"Its last trial, on other requests: {_figures(trial)}.")
    if survival := notes.get("survival"):
        found.append(
            f"Worst loss of one {survival['of']}: {survival['worst_loss']}, which leaves a max-flow of "
            f"{number(survival['kept_tokens_per_s'])} tokens/s (bound of any placement: "
            f"{number(survival['bound_tokens_per_s'])}). With all nodes it carries {percent(survival['price'])} % less "
            "than the largest max-flow found."
        )
    if over_time := notes.get("availability"):
        low, high = map(number, over_time["mean_tokens_per_s"])
        flows = over_time["tokens_per_s"].items()
        served = ", ".join(f"{number(flow)} for {100 * float(share):g} % of the time" for share, flow in flows)
        mean = low if low == high else f"{low}–{high}"
        found.append(f"Max-flow with failures of a {over_time['of']}, tokens/s: {mean} on average, at least {served}.")
    found += _role_sentences(notes.get("roles", {}))
    if bounds := notes.get("bounds_by_width"):
        told = [f"{name or 'undivided'} {number(bound)}" for name, bound in bounds.items()]
        found.append(
            f"Widths of tensor parallelism tried, with their bounds on max-flow in tokens/s: {'; '.join(told)}. "
            "The bound of the placement is the largest."
        )
    if too_large := notes.get("too_large"):
        told = [f"{name} ({number(arcs)})" for name, arcs in too_large.items()]
        found.append(f"Left out, as the estimate of capacity graphs of so many arcs takes minutes: {', '.join(told)}.")
    if budget := notes.get("budget"):
        found.append(budget)
    if fallback := notes.get("fallback"):
        found.append(f"A baseline is taken: {fallback}")
    by_reason: dict[str, list[str]] = {}
    for node, reason in notes.get("idle", {}).items():
        by_reason.setdefault(reason, []).append(node)
    found += [f"Idle, {reason}: {', '.join(nodes)}." for reason, nodes in by_reason.items()]
    if reserve := notes.get("reserve"):
        found.append(f"Not needed at this load, no request was sent there: {', '.join(reserve)}.")
    worth = {kind: share for kind, share in notes.get("worth", {}).items() if share is not None}
    if worth and not reserve and not any(reason.startswith("not needed") for reason in notes.get("idle", {}).values()):
        ordered = sorted(worth, key=lambda kind: -worth[kind])
        raises = ", ".join(f"{kind} {percent(worth[kind])} %" for kind in ordered)
        found.append(f"One more node raises the bound on max-flow by: {raises}.")
    return found


def _role_sentences(roles: Mapping[str, Any]) -> list[str]:
    """Return whether nodes may better prefill or decode alone, by the program of both phases."""
    if not roles:
        return []
    if fault := roles.get("fault"):
        return [f"All nodes prefill and decode: {fault}."]
    tpot = "" if roles["tpot_s"] is None else f" with a TPOT of {number(milliseconds(roles['tpot_s']))} ms"
    told = (
        f"Roles of nodes, at mean lengths{tpot}: replicas that do both phases serve {number(roles['without_per_s'])} "
        f"requests/s, the best roles ({roles['best']}) {number(roles['requests_per_s'])}, none more than "
        f"{number(roles['bound_per_s'])}"
    )
    if roles["tried"]:
        return [f"{told}."]
    if roles["pays"]:
        return [f"{told}; the best candidate without roles met all objectives, so none were tried."]
    return [f"{told}: too little to try them."]


def _race(notes: Mapping[str, Any]) -> Sequence[Mapping[str, Any]]:
    """Return the entries of the race; none for a run of an older version, whose entries have other figures."""
    race: Sequence[Mapping[str, Any]] = notes.get("race", [])
    return race if all(entry.keys() >= _FIGURES for entry in race) else []


_FIGURES = {"round", "share", "latency_s", "ttft_s", "tpot_s", "capacity_per_s", "output_tokens_per_s"}


def _order(entry: Mapping[str, Any], notes: Mapping[str, Any]) -> tuple[float, float]:
    """Return the key by which the best entry is the least; without any latency nothing was served."""
    first = entry["output_tokens_per_s"] if notes.get("saturated") else round(entry["share"], 3)
    return -first, math.inf if entry["latency_s"] is None else entry["latency_s"]


def _figures(entry: Mapping[str, Any]) -> str:
    """Return the figures by which entries are compared, as text."""
    ttft_s = "/".join(number(value) for value in entry["ttft_s"])
    tpot_ms = "/".join(number(milliseconds(value)) for value in entry["tpot_s"])
    return (
        f"{percent(entry['share'])} % within the objectives, TTFT {ttft_s} s and TPOT {tpot_ms} ms (p50/p95/p99), "
        f"{number(entry['output_tokens_per_s'])} output tokens/s"
    )
