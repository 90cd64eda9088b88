"""Where helixsim agrees with the paper, and what is left of its claims in a fair comparison."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Literal

from pydantic import RootModel

from helixsim.datafiles import data_path
from helixsim.papers.helix.comparison import ALL_DRIFT, AS_PUBLISHED, FAIR, MEASURED, PUBLISHED
from helixsim.papers.helix.parts import Row, matching
from helixsim.validation import NotNegative, Section, Words, read

TOLERANCE = 0.10
"""Error of a simulated throughput up to which it counts as reproduced."""

HELIX, PAPERS_PLACEMENT = "helix", "published"
"""What comparisons call Helix with helixsim's own placement (as published: with the paper's), and with the paper's."""

MEAN, MEDIAN = "value", "p50"
"""Keys of rows that ratios are taken of; throughput has no median."""

TIE = 0.01
"""Published throughputs closer than this share have no order."""


@dataclass(frozen=True, slots=True)
class CellCheck:
    """One published simulated throughput and ours; ``cause`` explains a miss, empty where nobody has found one."""

    panel: str
    cell: str
    method: str
    published: float
    ours: float
    cause: str

    @property
    def error(self) -> float:
        """Return ours over published, less one."""
        return self.ours / self.published - 1.0

    @property
    def is_met(self) -> bool:
        """Return whether the error is within ``TOLERANCE``."""
        return abs(self.error) <= TOLERANCE


@dataclass(frozen=True, slots=True)
class OrderCheck:
    """The methods of one panel by throughput, best first; ``swapped`` are the pairs whose order differs."""

    panel: str
    cell: str
    published: tuple[str, ...]
    ours: tuple[str, ...]
    swapped: tuple[tuple[str, str], ...]


def cell_checks(rows: Sequence[Row], causes: Mapping[tuple[str, str], str]) -> list[CellCheck]:
    """Return a check for every throughput that is published and simulated as published."""
    checks = []
    for theirs in matching(rows, metric="throughput", column=PUBLISHED, kind="simulated"):
        cell, method = theirs["cell"], theirs["method"]
        for ours in matching(rows, metric="throughput", column=AS_PUBLISHED, cell=cell, method=method):
            check = CellCheck(
                theirs["panel"], cell, method, theirs["value"], ours["value"], causes.get((cell, method), "")
            )
            checks.append(check)
    return checks


def order_checks(checks: Iterable[CellCheck]) -> list[OrderCheck]:
    """Return whether each panel keeps the published order of its methods."""
    panels: dict[str, list[CellCheck]] = {}
    for check in checks:
        panels.setdefault(check.cell, []).append(check)
    orders = []
    for cell, members in panels.items():
        swapped = [
            (a.method, b.method)
            for a, b in combinations(members, 2)
            if abs(a.published / b.published - 1.0) > TIE and (a.published > b.published) != (a.ours > b.ours)
        ]
        theirs = sorted(members, key=lambda check: -check.published)
        ours = sorted(members, key=lambda check: -check.ours)
        names = tuple(check.method for check in theirs), tuple(check.method for check in ours)
        orders.append(OrderCheck(members[0].panel, cell, *names, tuple(swapped)))
    return orders


@dataclass(frozen=True, slots=True)
class Ratio:
    """Method over method in one cell and column; limits at 95 % from those of both, None where they are not known.

    ``is_steady``: neither of the two drifts in its window under every seed.
    """

    value: float
    low: float | None
    high: float | None
    is_larger_better: bool
    is_steady: bool

    def beats(self, claimed: float) -> bool:
        """Return whether the ratio is at least as far from one as the claimed one."""
        return self.value >= claimed if self.is_larger_better else self.value <= claimed


@dataclass(frozen=True, slots=True)
class Claim:
    """A headline of the paper: ``method`` over ``other`` is ``claimed``.

    ``cell`` is where the paper's figures show it, ``fair_cell`` where it is to be looked for fairly: throughput under
    a given rate is what is offered, so its fair place is the saturated cluster. ``is_measured``: the figures are those
    of the prototype.
    """

    name: str
    text: str
    metric: str
    method: str
    other: str
    claimed: float
    cell: str
    fair_cell: str
    is_measured: bool


@dataclass(frozen=True, slots=True)
class ClaimCheck:
    """A claim with the ratio of each column; None where it was not run.

    ``fair`` with helixsim's own placement, ``fair_published`` with the paper's.
    """

    claim: Claim
    published: Ratio | None
    as_published: Ratio | None
    fair: Ratio | None
    fair_published: Ratio | None

    @property
    def holds(self) -> bool:
        """Return whether the fair ratio is as large as claimed."""
        return self.fair is not None and self.fair.beats(self.claim.claimed)

    @property
    def sentence(self) -> str:
        """Return what the fair comparison says of the claim."""
        if self.fair is None:
            return "not run"
        is_gain = self.fair.beats(1.0)
        what = {"throughput": "throughput", "prompt": "prompt latency", "decode": "decode latency"}[self.claim.metric]
        change = (
            f"{self.fair.value:.2f} times the {what}"
            if self.claim.metric == "throughput"
            else (f"{abs(1 - self.fair.value):.0%} {'less' if self.fair.value < 1 else 'more'} {what}")
        )
        verdict = "yes" if self.holds else "less" if is_gain else "no"
        return f"{verdict}: {change}"


def load_claims(path: Path | None = None) -> list[Claim]:
    """Return the claims of a file, None: those that ship with helixsim.

    Raises
    ------
    DataError
        If the file cannot be read or is not of that shape.
    """
    entries = read(path or data_path("experiments", "paper", "claims.yaml"), ClaimsFile).root
    return [
        Claim(name=name, is_measured=entry.measured, **entry.model_dump(exclude={"measured"}))
        for name, entry in entries.items()
    ]


class ClaimEntry(Section):
    """See ``Claim``."""

    text: Words
    metric: Literal["throughput", "prompt", "decode"]
    method: Words
    other: Words
    claimed: NotNegative
    cell: Words
    fair_cell: Words
    measured: bool


class ClaimsFile(RootModel[dict[str, ClaimEntry]]):
    """Claims by name."""


def claim_checks(rows: Sequence[Row], claims: Iterable[Claim]) -> list[ClaimCheck]:
    """Return what each column says of each claim; claims of which nothing was run are left out."""
    checks = []
    for claim in claims:
        pair = claim.metric, claim.method, claim.other
        check = ClaimCheck(
            claim,
            ratio(rows, claim.cell, MEASURED if claim.is_measured else PUBLISHED, *pair),
            ratio(rows, claim.cell, AS_PUBLISHED, *pair),
            ratio(rows, claim.fair_cell, FAIR, *pair),
            ratio(rows, claim.fair_cell, FAIR, claim.metric, PAPERS_PLACEMENT, claim.other),
        )
        if check.as_published or check.fair:
            checks.append(check)
    return checks


def ratio(
    rows: Sequence[Row], cell: str, column: str, metric: str, method: str, other: str, statistic: str = MEAN
) -> Ratio | None:
    """Return method over other, of means or medians; None where either is missing."""
    found = [matching(rows, cell=cell, column=column, metric=metric, method=name) for name in (method, other)]
    if not all(found):
        return None
    (ours, *_), (theirs, *_) = found
    if not ours[statistic] or not theirs[statistic]:
        return None
    value, is_larger_better = ours[statistic] / theirs[statistic], metric == "throughput"
    is_steady = ALL_DRIFT not in (ours["steady"], theirs["steady"])
    if statistic != MEAN or any(row["low"] is None for row in (ours, theirs)):
        return Ratio(value, None, None, is_larger_better, is_steady)
    # Relative half widths add in squares: the runs share their requests, so this is on the wide side. They count from
    # the mean up, as a lower limit may have been cut at zero.
    spread = sum(((row["high"] - row["value"]) / row["value"]) ** 2 for row in (ours, theirs)) ** 0.5
    return Ratio(value, value * max(0.0, 1.0 - spread), value * (1.0 + spread), is_larger_better, is_steady)


@dataclass(frozen=True, slots=True)
class RatioRow:
    """Helix over another method in one cell, column by column; ``fair_published``: with the paper's placement.

    Of means, or of medians where only these are published.
    """

    cell: str
    metric: str
    statistic: str
    other: str
    published: Ratio | None
    as_published: Ratio | None
    fair: Ratio | None
    fair_published: Ratio | None


def ratio_rows(rows: Sequence[Row]) -> list[RatioRow]:
    """Return Helix over every other method, published or fair, in every cell that was run, for each metric.

    Throughput at a given rate says nothing of a method that serves it, so it is left out where the mode is online.
    """
    found: list[RatioRow] = []
    for cell, metric in dict.fromkeys((row["cell"], row["metric"]) for row in rows):
        if metric == "throughput" and cell.endswith("-online"):
            continue
        shown = matching(rows, cell=cell, metric=metric)
        methods = dict.fromkeys(row["method"] for row in shown if row["column"] in (PUBLISHED, FAIR))
        if HELIX in methods:
            others = [method for method in methods if method not in (HELIX, PAPERS_PLACEMENT)]
            found += [_ratio_row(rows, cell, metric, other) for other in others]
    return found


def _ratio_row(rows: Sequence[Row], cell: str, metric: str, other: str) -> RatioRow:
    pair = metric, HELIX, other
    published = ratio(rows, cell, PUBLISHED, *pair)
    medians = None if published else ratio(rows, cell, PUBLISHED, *pair, MEDIAN)
    statistic = MEDIAN if medians else MEAN
    return RatioRow(
        cell=cell,
        metric=metric,
        statistic="" if metric == "throughput" else "mean" if statistic == MEAN else "median",
        other=other,
        published=published or medians,
        as_published=ratio(rows, cell, AS_PUBLISHED, *pair, statistic),
        fair=ratio(rows, cell, FAIR, *pair, statistic),
        fair_published=ratio(rows, cell, FAIR, metric, PAPERS_PLACEMENT, other, statistic),
    )
