"""The verdict in sentences, the same in the terminal, in HTML, in documents of results and in Python."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

from helixsim.domain.figures import Figure
from helixsim.domain.request import FeedMode, Slo
from helixsim.metrics.criteria import Criterion
from helixsim.metrics.verdict import Doubt, DoubtKind, Lead, Objective, SystemVerdict, Verdict
from helixsim.units import MISSING, number, percent

_LIMITS = {
    "load": "the offered load",
    "compute": "compute",
    "memory": "KV memory",
    "concurrency": "the fixed number of requests",
    "faults": "nodes or links that failed",
    "network": "network delay and admission",
    "": "unknown",
}

_LESS_LOAD = {
    FeedMode.OPEN: "lower the rate (helixsim capacity EXP finds the highest within the SLO)",
    FeedMode.CLOSED_LOOP: "lower the number of requests at once (workload.arrivals.concurrency)",
    FeedMode.SATURATE: "offer a rate (workload.arrivals: {process: poisson, rate: ...}) instead of all that fits",
}
"""What less load means, by how requests arrive."""

_DRAWN = {"output_throughput": "throughput", "mean_ttft_ms": "mean TTFT", "mean_tpot_ms": "mean TPOT"}


def answer(verdict: Verdict) -> list[tuple[str, str]]:
    """Return the verdict as (title, sentence): result, margin, faults, limit, doubts and what to do next."""
    found = [("Verdict", _result(verdict)), ("Margin", _margin(verdict))]
    found += [("Faults", f"{name}: {one.faults}") for name, one in verdict.systems.items() if one.faults]
    found.append(("Limit", _limits(verdict)))
    found += [("Doubt", text) for text in doubt_sentences(verdict)]
    found.append(("Next", suggestion(verdict)))
    return [(title, text) for title, text in found if text]


def document(verdict: Verdict) -> dict[str, Any]:
    """Return ``verdict`` of a document of results."""
    return {**verdict.to_json(), "answer": [{"title": title, "text": text} for title, text in answer(verdict)]}


def objective_text(one: Objective) -> str:
    """Return for example ``p99 TTFT 1.59 s, allowed 1 s: missed``."""
    return f"p{one.figures.percentile:g} {one.name} {reached_text(one)}, allowed {limit_of(one)}: {result_of(one)}"


def reached_text(one: Objective) -> str:
    """Return what was reached: ``1.59 s``."""
    if one.figures.reached_s is None:
        return MISSING if one.figures.within is None else "beyond the window"
    return seconds_text(one.figures.reached_s)


def limit_of(one: Objective) -> str:
    """Return the objective: ``1 s``."""
    return _limit_text(one.figures.limit_s)


def _limit_text(limit_s: float) -> str:
    return f"{limit_s:g} s" if limit_s >= 1 else f"{1e3 * limit_s:g} ms"


def slo_text(slo: Slo) -> str:
    """Return objectives: ``TTFT at most 1 s, TPOT at most 50 ms; batch: TTFT at most 30 s``; empty without any."""
    limits = (("TTFT", slo.ttft_s), ("TPOT", slo.tpot_s), ("E2EL", slo.e2el_s))
    own = ", ".join(f"{name} at most {_limit_text(limit_s)}" for name, limit_s in limits if limit_s is not None)
    classes = (f"{name}: {slo_text(one) or 'none'}" for name, one in slo.classes)
    return "; ".join(filter(None, [own, *classes]))


def result_of(one: Objective) -> str:
    """Return ``met``, ``missed`` or ``no request has one``."""
    return {True: "met", False: "missed", None: "no request has one"}[one.figures.is_met]


def share_text(share: Figure) -> str:
    """Return the share of requests within the SLO in percent; from 90 % on with a decimal, and 100 only for all."""
    if share is None or not 0.9 <= share < 1:
        return percent(share)
    return f"{math.floor(round(1000 * share, 6)) / 10:.1f}"


def seconds_text(value_s: float) -> str:
    """Return a latency with its unit."""
    return f"{number(value_s)} s" if value_s >= 1 else f"{number(1e3 * value_s)} ms"


def limit_text(one: SystemVerdict) -> str:
    """Return what limits a system."""
    text = _LIMITS.get(one.limited_by, one.limited_by)
    return f"{text} ({one.limiting_node})" if one.limiting_node else text


def doubt_sentences(verdict: Verdict) -> list[str]:
    """Return the doubts, equal ones once with all their systems, the gravest first."""
    order = list(DoubtKind)
    return [
        _doubt_sentence(doubt, verdict) for doubt in sorted(_doubts(verdict), key=lambda one: order.index(one.kind))
    ]


def main_doubt(verdict: Verdict) -> str:
    """Return the gravest doubt of the best system, one of ``doubt_sentences``; empty if there is none."""
    own = verdict.systems[verdict.best].doubts
    return _doubt_sentence(own[0], verdict) if own else ""


def _doubts(verdict: Verdict) -> list[Doubt]:
    return list(dict.fromkeys(doubt for one in verdict.systems.values() for doubt in one.doubts))


def _doubt_sentence(doubt: Doubt, verdict: Verdict) -> str:
    names = [name for name, one in verdict.systems.items() if doubt in one.doubts]
    return f"{_names(names, verdict.systems)}: {doubt.text}."


def suggestion(verdict: Verdict) -> str:
    """Return one thing to do next, which follows from the best system: its doubts first, then what limits it."""
    best = verdict.systems[verdict.best]
    lead = None if verdict.lead is None or _is_tie(verdict.lead) else verdict.lead
    kinds = {doubt.kind for doubt in best.doubts}
    if DoubtKind.INVALID in kinds:
        return "Report the broken invariant: the figures are not valid."
    if DoubtKind.UNSETTLED in kinds:
        return "Measure longer (workload.warmup, workload.duration), as the window is not settled."
    if verdict.has_slo and best.is_met is False:
        return _remedy(best)
    if lead is not None and not lead.is_significant:
        return "Measure longer or with more seeds (helixsim sweep): the difference is within the sampling error."
    if DoubtKind.CLOSE in kinds or (lead is not None and lead.ahead_in_draws is not None and lead.ahead_in_draws < 0.9):
        return "Narrow the model error with measurements of your own servers: helixsim compare EXP RESULTS --calibrate."
    if verdict.has_slo and best.is_met and best.limited_by == "load":
        return "Find the highest rate within the SLO: helixsim capacity EXP."
    if verdict.has_slo and best.is_met and best.limited_by == "concurrency":
        return "Find the most requests at once within the SLO: raise workload.arrivals.concurrency."
    if verdict.has_slo and best.is_met:
        return "Find cheaper GPUs that meet the SLO: helixsim fleet PLAN."
    if not verdict.has_slo:
        return "State objectives (slo:) to have systems ranked by goodput."
    return ""


def _remedy(best: SystemVerdict) -> str:
    """Return what to do where even the best system misses its objectives."""
    missed = [one for one in best.objectives if one.figures.is_met is False]
    or_lower = f"or {_LESS_LOAD[best.feed]}"
    if best.limited_by == "compute":
        return f"Add nodes like {best.limiting_node}, which limits, {or_lower}."
    if best.limited_by == "memory":
        return f"Add KV memory, which is full on {best.limiting_node} (kv_precision, more nodes), {or_lower}."
    if best.faults:
        cause = "Run it without faults: if that meets the SLO, they are the cause"
        return f"{cause}: add spare nodes, change faults.reaction, {or_lower}."
    if best.is_overloaded:
        less = _LESS_LOAD[best.feed]
        return f"{less[0].upper()}{less[1:]}."
    if missed and all(one.median_s is not None and one.median_s < one.figures.limit_s / 2 for one in missed):
        return f"Try the cluster without its slowest nodes (cluster.down), as most requests are far within, {or_lower}."
    if missed and all(one.name.endswith("TPOT") for one in missed):
        return f"Shorten decode steps (fewer nodes per request, smaller precision, faster GPUs) {or_lower}."
    return f"Shorten the wait for first tokens (more or faster nodes) {or_lower}."


def _limits(verdict: Verdict) -> str:
    """Return what limits the best system, and which systems are overloaded."""
    if not verdict.is_measured:
        return ""
    text = f"{verdict.best}: {limit_text(verdict.systems[verdict.best])}"
    overloaded = [name for name, one in verdict.systems.items() if one.is_overloaded]
    return f"{text}. Overloaded: {_names(overloaded, verdict.systems)}." if overloaded else f"{text}."


def _result(verdict: Verdict) -> str:
    """Return which systems meet the objectives, and which is the best."""
    best, systems = verdict.systems[verdict.best], verdict.systems
    ranked = verdict.ranking
    alone = len(ranked) == 1
    if not verdict.is_measured:
        judged = f"{verdict.best} is not judged" if alone else "no system is judged"
        return f"Nothing was measured in the window, so {judged}."
    if not verdict.has_slo:
        what = {
            Criterion.LATENCY: "the lowest latency",
            Criterion.THROUGHPUT: "the highest output throughput",
            Criterion.PRICE: "the lowest price",
        }
        text = f"{verdict.best} has {what[verdict.rule]}"
        if alone:
            text = f"{verdict.best} is {best.saturation.lower()}"
        elif verdict.rule is Criterion.PRICE and any(systems[name].is_overloaded for name in ranked):
            text += " of the systems that are not overloaded"
        return f"{text}; no objectives are stated."
    figures = "; ".join(map(objective_text, best.objectives))
    within = f"{share_text(best.attainment)} % of requests within the SLO"
    if best.is_met is None:
        return f"{verdict.best} has {within}, but not every objective can be judged ({figures})."
    meeting = [name for name in ranked if systems[name].is_met]
    if not best.is_met:
        nearer = {Criterion.ATTAINMENT, Criterion.CLASSES, Criterion.GOODPUT}
        is_nearest = verdict.lead is None or verdict.lead.criterion in nearer
        near = "is nearest" if is_nearest else "is among the nearest within the sampling error"
        first = f"{verdict.best} misses the SLO" if alone else f"No system meets the SLO; {verdict.best} {near}"
        if meeting:
            first = (
                f"{verdict.best} is the best within the sampling error, but misses the SLO, which {', '.join(meeting)}"
            )
            first += " meet" if len(meeting) > 1 else " meets"
        return f"{first}, {within} ({figures})."
    overload = ", but is overloaded" if best.is_overloaded else ""
    if alone:
        return f"{verdict.best} meets the SLO{overload} ({figures})."
    if len(meeting) == 1:
        return f"{verdict.best} meets the SLO{overload}, no other system does ({figures})."
    return f"{verdict.best} is the best of {len(meeting)} systems that meet the SLO{overload} ({figures})."


def _margin(verdict: Verdict) -> str:
    """Return by how much the best system is ahead of the next, and how sure that is."""
    lead = verdict.lead
    if lead is None or not verdict.is_measured:
        return ""
    if _is_tie(lead):
        return f"None: {verdict.ranking[1]} is equal."
    sure = _sampling(lead)
    if lead.ahead_in_draws is not None:
        sure.append(f"ahead in {_DRAWN[lead.drawn]} in {percent(lead.ahead_in_draws)} % of draws of the model error")
    text = _difference(lead, verdict.ranking[1], verdict.rule)
    return f"{text} ({'; '.join(sure)})." if sure else f"{text}."


def _is_tie(lead: Lead) -> bool:
    """Return whether two systems are equal in all criteria; the figures of the first two are not what they compare."""
    return lead.best == lead.next and lead.criterion is not Criterion.STABILITY


def _difference(lead: Lead, other: str, rule: Criterion) -> str:
    best, next_ = lead.best, lead.next
    if lead.criterion is Criterion.LATENCY:
        both = [MISSING if value is None else seconds_text(value) for value in (best, next_)]
        return f"latency (geometric mean of TTFT and TPOT) {both[0]}, {other} {both[1]}"
    if lead.criterion in {Criterion.PRICE, Criterion.NODES}:
        same = {Criterion.LATENCY: "latency", Criterion.THROUGHPUT: "output throughput"}.get(rule, "goodput")
        price, alike = "$/h paid on average", f"at the same {same} within the sampling error"
        if rule is Criterion.PRICE:
            alike = "both not overloaded"
        elif lead.enough is not None:
            alike = f"both with {percent(lead.enough)} % or more of the requests within the SLO"
        else:
            price = "$/h of nodes with layers"
        unit = price if lead.criterion is Criterion.PRICE else "nodes with layers"
        return f"{number(best)} {unit}, {other} {number(next_)}, {alike}"
    if lead.criterion is Criterion.THROUGHPUT:
        return f"{number(best)} output tokens/s, {other} {number(next_)}"
    if lead.criterion is Criterion.STABILITY:
        return f"not overloaded, as {other} is"
    if lead.criterion is Criterion.GOODPUT:
        return f"goodput {number(best)} requests/s, {other} {number(next_)}"
    requests = "requests of the class served least" if lead.criterion is Criterion.CLASSES else "requests"
    return f"{share_text(best)} % of {requests} within the SLO, {other} {share_text(next_)} %"


def _sampling(lead: Lead) -> list[str]:
    if lead.criterion not in {Criterion.ATTAINMENT, Criterion.GOODPUT, Criterion.LATENCY, Criterion.THROUGHPUT}:
        return []
    if not lead.is_significant:
        return ["the difference is within the sampling error"]
    return ["beyond the sampling error"]


def _names(names: Iterable[str], of: Iterable[str]) -> str:
    """Return names as text; ``all systems`` where they are."""
    chosen, known = list(names), list(of)
    return "all systems" if chosen == known and len(known) > 1 else ", ".join(chosen)
