"""The verdict on the systems of one experiment: objectives met or missed, the order of the systems, doubts, next step.

Systems are ranked by the criteria by which a race ranks plans (``metrics.criteria``): with objectives by the share of
requests within all of them, then by latency and price. Whether a system is stable, and whether it meets its objectives,
are other facts: a stable one can miss them.

The verdict depends on the summaries alone, so that a run that is read from files has the same one.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from helixsim.domain.figures import Figure, ObjectiveFigures
from helixsim.domain.request import FeedMode
from helixsim.domain.summary import LATENCIES, Summary
from helixsim.jsonio import json_values, significant
from helixsim.metrics.criteria import Criterion, Step, ranked, steps
from helixsim.metrics.error_table import KINDS
from helixsim.metrics.faults import fault_text
from helixsim.metrics.model_error import ModelError, model_error
from helixsim.metrics.ranking import follows_load, share_below, shares_ahead
from helixsim.metrics.saturation import Saturation
from helixsim.metrics.score import Score, of_summary
from helixsim.metrics.stationarity import STEADY
from helixsim.units import percent

SURE = 0.9
"""Share of draws of the model error from which a result is called sure; its 80 % band has 90 % on one side."""

FEWEST_REQUESTS = 1000
"""Requests from which a 99th percentile has ten values beyond it."""


class DoubtKind(StrEnum):
    """Why a figure is uncertain."""

    INVALID = "invalid"
    UNSUPPORTED = "unsupported"
    EXTRAPOLATED = "extrapolated"
    ROOFLINE = "roofline"
    UNSETTLED = "unsettled"
    FEW_REQUESTS = "few requests"
    CLOSE = "close"
    REJECTED = "rejected"


@dataclass(frozen=True, slots=True)
class Objective:
    """An objective of a system, and how sure its result is.

    Parameters
    ----------
    name
        ``TTFT``, or with its class ``chat TTFT``.
    met_in_draws
        Share of draws of the model error in which it is met; None: not known.
    median_s
        Median of the latency [s]; None for objectives of a class.
    """

    name: str
    figures: ObjectiveFigures
    met_in_draws: Figure
    median_s: Figure = None

    @property
    def is_sure(self) -> bool:
        """Whether the model error leaves no doubt; also if it is not known."""
        share = self.met_in_draws
        return share is None or (share if self.figures.is_met else 1 - share) >= SURE


@dataclass(frozen=True, slots=True)
class Doubt:
    """Why figures of a system are uncertain, as a kind and as a sentence."""

    kind: DoubtKind
    text: str


@dataclass(frozen=True, slots=True)
class SystemVerdict:
    """The verdict on one system.

    Parameters
    ----------
    objectives
        Empty without objectives, and for runs of an older version.
    saturation
        ``STABLE``, ``BACKLOGGED`` or ``OVERLOADED``.
    limited_by, limiting_node
        What limits it (``metrics.bottleneck``).
    is_measured
        Whether a token was generated, or a request overdue, in the window.
    feed
        How requests arrive, which decides what less load means.
    faults
        A sentence on faults during the run; empty without any.
    """

    objectives: tuple[Objective, ...]
    attainment: Figure
    goodput_per_s: Figure
    saturation: str
    limited_by: str
    limiting_node: str
    doubts: tuple[Doubt, ...]
    is_measured: bool
    feed: FeedMode
    faults: str = ""

    @property
    def is_met(self) -> bool | None:
        """Whether every objective is met; None without objectives, or if one of them is unknown and none is missed."""
        results = [one.figures.is_met for one in self.objectives]
        return False if False in results else None if None in results or not results else True

    @property
    def is_overloaded(self) -> bool:
        """Whether its queue keeps growing."""
        return self.saturation == Saturation.OVERLOADED


@dataclass(frozen=True, slots=True)
class Lead:
    """The best system against the next one.

    Parameters
    ----------
    criterion
        What decided.
    best, next
        The deciding figure of both; for ``STABILITY`` the throughput.
    is_significant
        Whether the difference exceeds the sampling error, where it has one.
    ahead_in_draws
        Share of draws of the model error in which the best is ahead in ``drawn``; None: not known.
    drawn
        A key of summaries: ``output_throughput``, ``mean_tpot_ms`` or ``mean_ttft_ms``.
    enough
        Share of requests within the objectives that both have, from which more count no more; None: all count.
    """

    criterion: Criterion
    best: Figure
    next: Figure
    is_significant: bool
    ahead_in_draws: Figure
    drawn: str
    enough: float | None = None


@dataclass(frozen=True, slots=True)
class Verdict:
    """The verdict on the systems of one experiment.

    Parameters
    ----------
    systems
        By name, in the order of the experiment.
    has_slo
        Whether objectives are stated.
    rule
        What systems are ranked by.
    ranking
        Names of the compared systems, the best first; what-if variants are not compared.
    lead
        The first against the second; None with one system.
    """

    systems: Mapping[str, SystemVerdict]
    has_slo: bool
    rule: Criterion
    ranking: tuple[str, ...]
    lead: Lead | None

    @property
    def best(self) -> str:
        """The best system; the first of the experiment if nothing was measured (``is_measured``)."""
        return self.ranking[0]

    @property
    def is_measured(self) -> bool:
        """Whether anything was measured of the compared systems; else their order has no meaning."""
        return any(self.systems[name].is_measured for name in self.ranking)

    def to_json(self) -> dict[str, Any]:
        """Return the part of ``verdict`` in documents of results that is not text."""
        lead = self.lead if self.is_measured else None
        values: dict[str, Any] = json_values(
            {
                "best": self.best if self.is_measured else None,
                "ranking": list(self.ranking),
                "ranked_by": self.rule.value,
                "lead": None
                if lead is None
                else {
                    "over": self.ranking[1],
                    "decided_by": lead.criterion.value,
                    "best": lead.best,
                    "next": lead.next,
                    "is_significant": lead.is_significant,
                    "ahead_in_draws": lead.ahead_in_draws,
                    "in_draws_of": lead.drawn,
                },
                "systems": {name: _system_keys(one) for name, one in self.systems.items()},
            }
        )
        return values


def verdict_of(summaries: Mapping[str, Summary], *, has_slo: bool, compared: Sequence[str] = ()) -> Verdict:
    """Return the verdict on systems.

    Parameters
    ----------
    has_slo
        Whether objectives are stated.
    compared
        The systems to rank; all if empty.
    """
    systems = {name: _system(summary) for name, summary in summaries.items()}
    names = [name for name in compared if name in systems] or list(systems)
    scores = {name: of_summary(summaries[name]) for name in names}
    chain = _chain([summaries[name] for name in names], scores, has_slo=has_slo)
    ranking = ranked(sorted(names), scores, chain)
    best, *others = ranking
    lead = None
    if others:
        pair = [best, others[0]]
        step = next((one for one in chain if others[0] in one.left_behind(pair, scores)), chain[-1])
        key = _drawn(step.criterion, (systems[others[0]], systems[best]), summaries[best])
        share = shares_ahead(summaries[best], summaries[others[0]])[key]
        first, second = (_shown(step, summaries[name], scores[name]) for name in pair)
        is_sure = step.is_sure(scores[best], scores[others[0]])
        enough = chain[0].enough
        is_enough = all(scores[name].share >= enough for name in pair)
        order = [one.criterion for one in chain]
        if step.criterion is Criterion.PRICE and order.index(Criterion.PRICE) < order.index(Criterion.LATENCY):
            share = None  # the draws are of latencies, which have not decided
        lead = Lead(step.criterion, first, second, is_sure, share, key, enough if is_enough else None)
    rule = next(one.criterion for one in chain if one.criterion is not Criterion.STABILITY)
    return Verdict(systems, has_slo, rule, tuple(ranking), lead)


def _chain(summaries: Sequence[Summary], scores: Mapping[str, Score], *, has_slo: bool) -> list[Step]:
    """Return the criteria for these systems under their loads."""
    return steps(
        has_slo=has_slo,
        is_open=all(one.load.feed is FeedMode.OPEN for one in summaries),
        same_load=len({(one.load.feed, one.load.offered_per_s) for one in summaries}) == 1,
        all_overloaded=all(one.is_overloaded for one in scores.values()),
        by_cost=any(one.cost_first for one in scores.values()),
        is_scaled=any(one.autoscaling is not None for one in summaries),
    )


def _shown(step: Step, summary: Summary, score: Score) -> Figure:
    """Return the figure of a criterion for texts."""
    done = summary.throughput
    if step.criterion is Criterion.ATTAINMENT:
        return done.slo_attainment
    if step.criterion is Criterion.GOODPUT:
        return done.goodput_per_s
    if step.criterion in {Criterion.THROUGHPUT, Criterion.STABILITY}:
        return done.output_tokens_per_s
    figure = score.least_share if step.criterion is Criterion.CLASSES else step.figure(score)
    return significant(figure) if math.isfinite(figure) else None


def _drawn(criterion: Criterion, systems: Sequence[SystemVerdict], summary: Summary) -> str:
    """Return the key of the figure in which draws of the model error compare two systems, the worse one first.

    With objectives it is that of the objective by which the worse system misses most, or the better one is nearest to.
    """
    if criterion is Criterion.THROUGHPUT or (criterion is Criterion.STABILITY and not follows_load(summary)):
        return "output_throughput"
    for system in systems:
        tight = {one.name: (one.figures.reached_s or math.inf) / one.figures.limit_s for one in system.objectives}
        if tight and (max(tight.values()) > 1 or system is systems[-1]):
            name = max(sorted(tight), key=lambda name: tight[name])
            return "mean_ttft_ms" if name.endswith("TTFT") else "mean_tpot_ms"
    ttft, whole = summary.ttft.mean_s or 0.0, summary.e2el.mean_s or 0.0
    return "mean_ttft_ms" if 2 * ttft > whole else "mean_tpot_ms"


def _system(summary: Summary) -> SystemVerdict:
    objectives = tuple(_objective(summary, name, one) for name, one in summary.objectives.items())
    return SystemVerdict(
        objectives,
        summary.throughput.slo_attainment,
        summary.throughput.goodput_per_s,
        summary.load.saturation,
        summary.cluster.limited_by,
        summary.cluster.limiting_node,
        tuple(_doubts(summary, objectives)),
        summary.throughput.slo_attainment is not None or bool(summary.throughput.output_tokens_per_s),
        summary.load.feed,
        fault_text(summary.faults),
    )


def _objective(summary: Summary, name: str, one: ObjectiveFigures) -> Objective:
    met_in_draws = share_below(summary, "ttft" if name.endswith("TTFT") else "tpot", one)
    return Objective(
        name, one, met_in_draws, getattr(summary, name.lower()).p50_s if name.lower() in LATENCIES else None
    )


def _doubts(summary: Summary, objectives: Sequence[Objective]) -> list[Doubt]:
    """Return why the figures of a system are uncertain, the gravest first."""
    found = [Doubt(DoubtKind.INVALID, f"invariant broken: {one}") for one in summary.integrity.invariants_broken]
    error = model_error(summary.setting)
    if error is not None and error.label != "validated":
        found.append(Doubt(DoubtKind(error.label), _error_text(error)))
    if summary.setting is not None and set(summary.setting.timings) == {"roofline"}:
        names = ", ".join(sorted({one.gpu for one in summary.setting.nodes}))
        found.append(Doubt(DoubtKind.ROOFLINE, f"step times of {names} are computed from data sheets, not measured"))
    is_disturbed = summary.faults is not None and bool(summary.faults.events)  # a longer window would not settle it
    if summary.load.stationarity != STEADY and summary.load.saturation != Saturation.OVERLOADED and not is_disturbed:
        found.append(Doubt(DoubtKind.UNSETTLED, summary.load.stationarity))
    if summary.integrity.rejected:
        found.append(Doubt(DoubtKind.REJECTED, f"{summary.integrity.rejected} requests were rejected as too long"))
    if objectives and summary.throughput.completed < FEWEST_REQUESTS:
        text = f"p99 rests on fewer than {FEWEST_REQUESTS // 100} requests, as fewer than {FEWEST_REQUESTS} completed"
        found.append(Doubt(DoubtKind.FEW_REQUESTS, text))
    for one in objectives:
        if not one.is_sure and one.met_in_draws is not None:
            text = f"{one.name} is met in {percent(one.met_in_draws)} % of draws of the model error"
            found.append(Doubt(DoubtKind.CLOSE, text))
    return found


def _error_text(error: ModelError) -> str:
    """Return what the measured points behind a model error differ in, or what is not represented."""
    if error.label == DoubtKind.UNSUPPORTED:
        return error.sentence
    kinds = ", ".join(KINDS[kind] for kind in error.differs)
    return f"extrapolated from {error.points} measured points, which differ in {kinds}"


def _system_keys(one: SystemVerdict) -> dict[str, Any]:
    return {
        "is_met": one.is_met,
        "objectives": {
            item.name: {
                "limit_s": item.figures.limit_s,
                "percentile": item.figures.percentile,
                "reached_s": item.figures.reached_s,
                "within": item.figures.within,
                "is_met": item.figures.is_met,
                "met_in_draws": item.met_in_draws,
            }
            for item in one.objectives
        },
        "slo_attainment": one.attainment,
        "request_goodput": one.goodput_per_s,
        "saturation": one.saturation,
        "limited_by": one.limited_by,
        "limiting_node": one.limiting_node,
        "doubts": [{"kind": doubt.kind.value, "text": doubt.text} for doubt in one.doubts],
    }
