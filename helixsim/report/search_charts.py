"""Charts of searches: load curves of capacities, prices of fleets, and users against GPUs."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import product
from typing import TYPE_CHECKING, Any

from helixsim.report.charts import Axis, Chart, Curve, Dots, Note, linear_axis, log_axis, share_axis
from helixsim.report.run_charts import kinds_of
from helixsim.units import number

if TYPE_CHECKING:
    from helixsim.results.capacity import CapacityResults

WIDTH, HEIGHT = 520.0, 300.0
_FARTHEST = 3.0
"""A latency axis ends at this multiple of the objective: what is beyond has no bearing on it."""

_NEAR_X, _NEAR_Y = 0.16, 0.07
"""Labels closer than these shares of the axes would cover each other; the second one is left out."""

_MOST_LABELS = 12

Row = Mapping[str, Any]
Goal = tuple[str, str, str]
"""A result: its key, its label, and which values are better (``min`` or ``max``)."""


def capacity_charts(results: CapacityResults, rows: Sequence[Row]) -> tuple[Chart, ...]:
    """Return latency, throughput and requests within the SLO over the rate, and users against GPUs.

    Parameters
    ----------
    rows
        Of ``trials.csv``.
    """
    kinds = kinds_of([one.system for one in results.systems])
    slo = results.targets[0].slo
    first = [row for row in rows if row["seed"] == results.seeds[0] and known(row["rate"])]
    found = {one.system: one.estimates[0].by_seed[0] for one in results.systems}
    shown = (
        ("p99_ttft_ms", "TTFT p99", "s", 1e-3, slo.ttft_s),
        ("p99_tpot_ms", "TPOT p99", "ms", 1.0, None if slo.tpot_s is None else 1e3 * slo.tpot_s),
        ("slo_attainment", "Requests within SLO", "", 1.0, results.targets[0].share),
        ("output_throughput", "Output throughput", "tokens/s", 1.0, None),
    )
    charts = [
        _load_curve(name, title, unit, factor, limit, first, kinds, found)
        for name, title, unit, factor, limit in shown
        if any(known(row.get(name)) for row in first)
    ]
    meets = f"meets_{results.targets[0].name}"
    labelled = [
        {**row, "label": f"{number(row['rate'])} req/s", "is_missed": str(row.get(meets)) == "False"} for row in first
    ]
    return (*charts, *users_against_gpus(labelled, kinds))


def _load_curve(
    column: str, title: str, unit: str, factor: float, limit: float | None, rows: Sequence[Row],
    kinds: Mapping[str, str], capacities: Mapping[str, float],
) -> Chart:  # fmt: skip
    is_share = not unit
    points = {
        system: sorted((row["rate"], factor * row[column]) for row in rows
                       if row["system"] == system and known(row.get(column)))
        for system in kinds
    }  # fmt: skip
    highest = max((y for own in points.values() for _, y in own), default=1.0)
    if limit is not None and not is_share:
        highest = min(max(highest, limit), _FARTHEST * limit)
    x = linear_axis("requests/s", 0.0, max((x for own in points.values() for x, _ in own), default=1.0) or 1.0)
    y = share_axis("requests within SLO") if is_share else linear_axis(f"{title}, {unit}", 0.0, highest or 1.0)
    curves, dots, guides = [], [], []
    notes: list[Note] = []
    for system, own in points.items():
        inside = [(a, b if b <= y.high else math.nan) for a, b in own]
        curves.append(Curve(kinds[system], [a for a, _ in own], [b for _, b in inside], name=system))
        shown = [(a, b) for a, b in inside if not math.isnan(b)]
        labels = [f"{system}: {number(a)} requests/s, {title} {_value(b, unit)}" for a, b in shown]
        dots.append(Dots(f"{kinds[system].split()[0]} full large", shown, labels, name=system))
        if capacities.get(system):
            guides.append(Curve(kinds[system], (capacities[system],) * 2, (y.low, y.high), name=system))
    if limit is not None:
        guides.append(Curve("slo", (x.low, x.high), (limit, limit)))
        notes.append(Note(x.high, limit, f"SLO {_value(limit, unit)}", "end"))
    capacity = "; ".join(f"{system} {number(rate)}" for system, rate in capacities.items() if rate)
    return Chart(
        f"load-{column}".replace("_", "-"),
        title,
        f"{title} over the rate, a line for each system. Capacities, as vertical lines, in requests/s: {capacity}.",
        x,
        y,
        curves=tuple(curves),
        dots=tuple(dots),
        guides=tuple(guides),
        notes=tuple(notes),
        width=WIDTH,
        height=HEIGHT,
    )


def users_against_gpus(rows: Sequence[Row], kinds: Mapping[str, str]) -> tuple[Chart, ...]:
    """Return tokens/s per GPU over tokens/s per user with the points that no other beats in both; none without them.

    ``label`` of a row is what sets it apart; one that ``is_missed`` misses the SLO, and its point is hollow.
    """
    known_rows = [
        row for row in rows if known(row.get("tokens_per_s_per_user")) and known(row.get("tokens_per_s_per_gpu"))
    ]
    chart = pareto_chart(
        "users-gpus",
        "Users against GPUs" + (" (hollow: SLO missed)" if any(row.get("is_missed") for row in known_rows) else ""),
        known_rows,
        kinds,
        ("tokens_per_s_per_user", "tokens/s per user (inverse of mean TPOT)", "max"),
        ("tokens_per_s_per_gpu", "output tokens/s per GPU", "max"),
    )
    return () if chart is None else (chart,)


def pareto_chart(
    name: str, title: str, rows: Sequence[Row], kinds: Mapping[str, str], x: Goal, y: Goal
) -> Chart | None:
    """Return two results against each other, their front joined and its points labelled; None without rows."""
    if not rows:
        return None
    (x_key, x_label, x_goal), (y_key, y_label, y_goal) = x, y
    better = {"min": " (less is better)", "max": " (more is better)"}
    x_axis = _axis(x_label + better[x_goal], [row[x_key] for row in rows])
    y_axis = _axis(y_label + better[y_goal], [row[y_key] for row in rows])
    front = front_of(rows, x_key, y_key, x_goal, y_goal)
    dots = []
    for (system, kind), is_missed in product(kinds.items(), (False, True)):
        own = [row for row in rows if row["system"] == system and bool(row.get("is_missed")) is is_missed]
        labels = [
            f"{system}, {row['label']}\n{x_label}: {number(row[x_key])}\n{y_label}: {number(row[y_key])}" for row in own
        ]
        points = [(row[x_key], row[y_key]) for row in own]
        shape = "hollow" if is_missed else "full"
        dots.append(Dots(f"{kind.split()[0]} {shape} large", points, labels, name=system))
    ends = "; ".join(f"{row['system']}, {row['label']}" for row in front[:6])
    return Chart(
        name,
        title,
        f"{y_label} against {x_label}. On the front, where no other point is better in both: {ends}.",
        x_axis,
        y_axis,
        curves=(Curve("soft", [row[x_key] for row in front], [row[y_key] for row in front]),),
        dots=tuple(dots),
        notes=tuple(labels_beside([(row[x_key], row[y_key], row["label"]) for row in front], x_axis, y_axis)),
        width=WIDTH,
        height=HEIGHT,
    )


def front_of(rows: Sequence[Row], x: str, y: str, x_goal: str, y_goal: str) -> list[Row]:
    """Return the rows that no other beats in both, in order of x."""
    across, up = (1.0 if x_goal == "min" else -1.0), (1.0 if y_goal == "min" else -1.0)
    front: list[Row] = []
    for row in sorted(rows, key=lambda row: (across * row[x], up * row[y])):
        if not front or up * row[y] < up * front[-1][y]:
            front.append(row)
    return sorted(front, key=lambda row: float(row[x]))


def labels_beside(points: Sequence[tuple[float, float, str]], x: Axis, y: Axis) -> list[Note]:
    """Return labels of points, without those that would cover another one."""
    placed: list[tuple[float, float]] = []
    notes: list[Note] = []
    for at_x, at_y, text in points:
        place = x.share(at_x), y.share(at_y)
        if len(notes) < _MOST_LABELS and all(
            abs(place[0] - a) > _NEAR_X or abs(place[1] - b) > _NEAR_Y for a, b in placed
        ):
            placed.append(place)
            notes.append(Note(at_x, at_y, text, "end" if place[0] > 0.6 else "start"))
    return notes


def fleet_charts(rows: Sequence[Row], best: str) -> tuple[Chart, ...]:
    """Return the price of each simulated fleet over how far its tightest objective is from the limit.

    Parameters
    ----------
    rows
        Of ``fleets.csv``.
    best
        The best fleet, whose price is drawn in.
    """
    shown = [row for row in rows if known(row.get("slack")) and known(row.get("usd_per_hour"))]
    if not shown:
        return ()
    slack = {id(row): min(max(float(row["slack"]), 0.02), 50.0) for row in shown}
    x = log_axis("tightest objective / measured (1: just met)", [*slack.values(), 1.0])
    y = linear_axis("$ per hour", 0.0, max(float(row["usd_per_hour"]) for row in shown))
    price = next((float(row["usd_per_hour"]) for row in shown if row["fleet"] == best), None)
    dots = []
    for is_met, (kind, word) in zip((True, False), MET_KEYS, strict=True):
        own = [row for row in shown if bool(row["is_met"]) == is_met]
        labels = [_fleet_text(row, price, word) for row in own]
        points = [(slack[id(row)], float(row["usd_per_hour"])) for row in own]
        dots.append(Dots(f"{kind} full large", points, labels, name=word))
    named = sorted((row for row in shown if bool(row["is_met"])), key=lambda row: float(row["usd_per_hour"]))
    missed = sorted((row for row in shown if not row["is_met"]), key=lambda row: -slack[id(row)])
    labelled = [(slack[id(row)], float(row["usd_per_hour"]), str(row["fleet"])) for row in [*named[:6], *missed[:4]]]
    guides = [Curve("slo", (1.0, 1.0), (y.low, y.high))]
    notes = [Note(1.0, y.high, "SLO", "start"), *labels_beside(labelled, x, y)]
    if price is not None:
        guides.append(Curve("", (x.low, x.high), (price, price)))
    return (
        Chart(
            "fleets",
            "Price of each fleet, and whether it meets the SLO",
            f"Price of {len(shown)} simulated fleets over the slack of their tightest objective. {best} is the best, "
            f"at {number(price)} $ per hour.",
            x,
            y,
            dots=tuple(dots),
            guides=tuple(guides),
            notes=tuple(notes),
            width=720.0,
            height=340.0,
        ),
    )


MET_KEYS = (("c3", "meets the SLO"), ("c2", "misses the SLO"))
"""Class and name of the points of ``fleet_charts``."""


def _fleet_text(row: Row, price: float | None, word: str) -> str:
    cost = float(row["usd_per_hour"])
    against = "" if price is None or cost == price else f" ({cost - price:+.2f} $/h against the best)"
    return f"{row['fleet']}: {cost:.2f} $/h{against}, {word}\n{row.get('misses') or ''}".strip()


def _axis(label: str, values: Sequence[float]) -> Axis:
    if min(values) > 0 and max(values) >= 20 * min(values):
        return log_axis(label, values)
    return linear_axis(label, 0.0, max(values) or 1.0)


def _value(value: float, unit: str) -> str:
    return f"{number(value)} {unit}" if unit else f"{100 * value:.3g} %"


def known(value: Any) -> bool:
    """Return whether a cell has a value."""
    return value is not None and not (isinstance(value, float) and math.isnan(value))
