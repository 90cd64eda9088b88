"""The page of ``helixsim accuracy --html``: one HTML file that fetches nothing, in light and dark."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from helixsim.accuracy.cells import METRICS, Error, family_of, weights_of
from helixsim.accuracy.constants import constants
from helixsim.accuracy.coverage import LEFT_OUT, coverage, pooled
from helixsim.accuracy.errors import TITLES, error, errors, summarised
from helixsim.accuracy.point_charts import (
    GUIDE,
    PREDICTOR_KINDS,
    SIZES,
    HeatMap,
    Property,
    breakdown,
    common_errors,
    engines_of,
    error_sizes,
    heat_map,
    hover_data,
    scatter,
    signed_errors,
)
from helixsim.accuracy.points import DISAGGREGATED, Inexpressible
from helixsim.accuracy.run import PREDICTORS, PointResult
from helixsim.metrics.error_cells import BATCHES, CONTEXTS, class_of
from helixsim.report.templating import template
from helixsim.units import number
from helixsim.writing import write_text

WORST = 20
"""Points in the table of the worst."""

LEAST_FOR_BANDS = 50
"""Points from which the bands of model errors are tested."""

FEW = 5
"""Cells of fewer points are not coloured by their error alone."""

_BANDS_OF = ("GPU", "family of the model")
_LONG_REASON = 100
_STRIP_END = 0.5
_DEEPEST, _DEEPEST_SHARE = 0.4, 75.0
"""Error from which cells have the deepest colour, and its share [%] of that cell."""


@dataclass(frozen=True)
class AccuracyPage:
    """What the page shows.

    Parameters
    ----------
    results, inexpressible
        Points that were simulated, or failed, and those that cannot be expressed.
    cause_of
        Returns the named cause of the error of a point; None: not known.
    replays
        Measured runs replayed request by request, as ``replay_charts.shown`` returns them.
    prototype
        The paper's prototype, as ``prototype.shown`` returns it; None: not simulated.
    expressible
        Points of the source that have an experiment; ``results`` may be a sample of them. None: they are all.
    source
        Sentence on where the points come from.
    apart, apart_rows, apart_left_out
        The same of runs with prefill and decode on different GPUs: results, rows that state them and all rows, and
        rows or points left out by reason.
    """

    results: Sequence[PointResult] = ()
    inexpressible: Sequence[Inexpressible] = ()
    cause_of: Callable[[PointResult], str | None] = field(default=lambda _: None)
    replays: Sequence[Mapping[str, Any]] = ()
    prototype: Mapping[str, Any] | None = None
    expressible: int | None = None
    source: str = ""
    apart: Sequence[PointResult] = ()
    apart_rows: tuple[int, int] = (0, 0)
    apart_left_out: Mapping[str, int] = field(default_factory=dict)


def write_page(path: Path, page: AccuracyPage) -> None:
    """Write the page as one file."""
    write_text(path, render(page), devices=True)


def render(page: AccuracyPage) -> str:
    """Return the page as text."""
    chosen = template("accuracy.html.j2", "helixsim.accuracy", share_text=share_text, count_text=count_text)
    return chosen.render(page=shown(page))


def shown(page: AccuracyPage) -> dict[str, Any]:
    """Return the values of the template."""
    results = [result for result in page.results if error(result, "tpot") is not None]
    kinds = engines_of(results)
    reasons = Counter(one.reason for one in page.inexpressible)
    reasons.update(_short(result.reason or "no prediction") for result in page.results if error(result, "tpot") is None)
    known = len(page.results) if page.expressible is None else page.expressible
    view: dict[str, Any] = {
        "lead": _lead(results, page),
        "method": _method(results, page.source),
        "tiles": _tiles(results, _Coverage(len(results), len(page.results), known, len(page.inexpressible))),
        "metric_titles": list(TITLES.values()),
        "predictors": _predictors(results),
        "predictor_legend": [(kind, name) for key, kind, name in PREDICTOR_KINDS if errors(results, "tpot", key)],
        "distributions": _charts(
            error_sizes(results, "tpot"), signed_errors(results, "tpot"), error_sizes(results, "throughput")
        ),
        "scatters": _charts(*(scatter(results, metric, kinds) for metric in METRICS)),
        "engine_legend": [(kind, name) for name, kind in kinds.items()],
        "hover": hover_data(results, kinds) if results else None,
        "guide": GUIDE,
        "few": FEW,
        "heat_maps": [_heat(heat_map(results, metric)) for metric in METRICS] if results else [],
        "breakdowns": _breakdowns(results) if results else [],
        "strip_end": _STRIP_END,
        "apart": _apart(page),
        "worst": [_worst_row(result, page.cause_of) for result in _worst(results)],
        "reasons": reasons.most_common(),
        "coverage": _coverage_sentence(page, len(results), known),
        "constants": constants(results),
        "bands": _bands(results),
        "replays": page.replays,
        "prototype": page.prototype,
        "footer": "Made by helixsim accuracy. This page fetches nothing from elsewhere.",
    }
    titles = {
        "predictors": ("predictors", "Predictors"),
        "scatters": ("scatter", "Scatter"),
        "heat_maps": ("heat", "Heat map"),
        "breakdowns": ("breakdown", "By property"),
        "worst": ("worst", "Worst points"),
        "apart": ("apart", "Prefill and decode apart"),
        "reasons": ("coverage", "Not expressed"),
        "constants": ("constants", "What is fitted"),
        "bands": ("bands", "Bands"),
        "replays": ("replays", "Request by request"),
        "prototype": ("prototype", "Prototype"),
    }
    view["sections"] = [*(entry for key, entry in titles.items() if view[key]), ("own", "Your own measurements")]
    return view


def _apart(page: AccuracyPage) -> dict[str, Any] | None:
    """Return what is shown of runs with prefill and decode on different GPUs; None without any."""
    results = [result for result in page.apart if error(result, "tpot") is not None]
    if not results:
        return None
    stated, rows = map(count_text, page.apart_rows)
    reasons: Counter[str] = Counter()
    for reason, count in page.apart_left_out.items():
        reasons[_short(reason)] += count
    about = f"{stated} of {rows} rows on such runs can be expressed. TTFT includes the transfer of keys and values."
    return {
        "about": f"{_lead_of(results)} {about}",
        "all": (len(results), [summarised(errors(results, metric)) for metric in METRICS]),
        "breakdowns": _breakdowns(results),
        "worst": [_worst_row(result, page.cause_of) for result in _worst(results)],
        "reasons": reasons.most_common(),
    }


def _short(reason: str) -> str:
    """Return a reason without the details after its first colon, where it is long; ``--json`` has all of it."""
    return reason.partition(": ")[0] if len(reason) > _LONG_REASON else reason


def share_text(value: float | None, sign: bool = False) -> str:
    """Return a share in percent with one decimal below ten; a dash for None."""
    if value is None:
        return "–"
    percent = 100 * value
    digits = 1 if abs(percent) < 9.95 else 0
    rounded = round(percent, digits) or 0.0
    return f"{rounded:{'+' if sign and rounded else ''}.{digits}f}\u00a0%".replace("-", "−")


def count_text(count: int) -> str:
    """Return a count with narrow spaces between thousands."""
    return f"{count:,}".replace(",", "\u202f")


def _lead(results: Sequence[PointResult], page: AccuracyPage) -> str:
    if results:
        return _lead_of(results)
    replayed = [_counted(len(page.replays), "measured run")] if page.replays else []
    cells = ["the cells of the paper's prototype"] if page.prototype else []
    apart = ["runs with prefill and decode on different GPUs"] if page.apart else []
    return f"{' and '.join([*apart, *replayed, *cells]) or 'No measured point'} simulated as measured."


def _lead_of(results: Sequence[PointResult]) -> str:
    tpot = summarised(errors(results, "tpot"))
    assert tpot is not None
    runs, gpus, engines, models = (
        _counted(count, name)
        for count, name in (
            (tpot.count, "measured serving run"),
            (len({result.point.gpu for result in results}), "GPU"),
            (len({result.point.engine for result in results}), "engine profile"),
            (len({result.point.model for result in results}), "model"),
        )
    )
    return (
        f"{runs} on {gpus}, {engines} and {models}: the time per output token is predicted within "
        f"{share_text(tpot.median)} in the median and {share_text(tpot.p90)} for 90\u00a0% of them."
    )


def _counted(count: int, name: str) -> str:
    return f"{count_text(count)} {name}{'' if count == 1 else 's'}"


def _method(results: Sequence[PointResult], source: str) -> list[str]:
    if not results:
        return [source] if source else []
    return [
        *([source] if source else []),
        "Each point is simulated as it was measured: a closed loop with its requests in flight, lengths, engine, "
        "formats and parallelism. Measured throughput is derived: requests in flight × output tokens / (TTFT + "
        "(output tokens − 1) × TPOT). TTFT in a closed loop depends on how requests happen to line up, and is reported "
        "beside them.",
    ]


@dataclass(frozen=True, slots=True)
class _Coverage:
    """Points with a result, points that were simulated, points that can be expressed, and those that cannot."""

    done: int
    tried: int
    known: int
    others: int

    @property
    def share(self) -> float:
        """Share of the source that is covered, by that of a sample where not all of it was simulated."""
        return self.done / self.tried * self.known / (self.known + self.others)


def _coverage_sentence(page: AccuracyPage, done: int, known: int) -> str:
    tried, others = len(page.results), len(page.inexpressible)
    sentence = f"{count_text(others)} of {count_text(known + others)} points of the source have no experiment"
    if done < tried:
        sentence += f"; of {count_text(tried)} that were simulated, {count_text(tried - done)} gave no result"
    return f"{sentence}. By reason:"


def _tiles(results: Sequence[PointResult], coverage: _Coverage) -> list[dict[str, str]]:
    tiles = []
    if coverage.tried:
        total = count_text(coverage.known + coverage.others)
        text = f"{count_text(coverage.done)} of {total} points of the source are simulated"
        if coverage.tried < coverage.known:
            text = f"of {total} points of the source can be simulated; here a sample of {count_text(coverage.done)}"
        tiles.append({"title": "Coverage", "figure": share_text(coverage.share), "text": text})
    notes = {"ttft": "; in a closed loop"}
    for metric, title in TITLES.items():
        summary = summarised(errors(results, metric))
        if summary is not None:
            text = f"median error; 90\u00a0% within {share_text(summary.p90)}, bias {share_text(summary.bias, True)}"
            note = notes.get(metric, "")
            tiles.append({"title": title, "figure": share_text(summary.median), "text": text + note})
    return tiles


def _predictors(results: Sequence[PointResult]) -> list[tuple[str, int, list[Error | None]]]:
    """Return name, number of points and summaries of each predictor: of helixsim over all, then all over the same."""
    if not results:
        return []
    rows = [("helixsim, all points", len(results), [summarised(errors(results, metric)) for metric in METRICS])]
    common = {metric: common_errors(results, metric) for metric in METRICS}
    others = [name for name in PREDICTORS if name != "analytic" and name in common["tpot"]]
    if others:
        for key, _, name in PREDICTOR_KINDS:
            if key in common["tpot"]:
                found = [summarised(common[metric].get(key, [])) for metric in METRICS]
                rows.append((f"{name}, same points", len(common["tpot"][key]), found))
    return rows


def _charts(*charts: Any) -> list[Any]:
    return [one for one in charts if one is not None]


def _heat(found: HeatMap) -> dict[str, Any]:
    families: dict[str, list[tuple[str, list[dict[str, Any] | None]]]] = {}
    for (family, regime), cells in found.rows:
        families.setdefault(family, []).append((regime, [_heat_cell(cell) for cell in cells]))
    return {
        "title": TITLES[found.metric],
        "columns": found.columns,
        "families": list(families.items()),
    }


def _heat_cell(cell: Error | None) -> dict[str, Any] | None:
    if cell is None:
        return None
    is_few = cell.count < FEW
    depth = min(cell.median / _DEEPEST, 1.0) * _DEEPEST_SHARE * (0.5 if is_few else 1.0)
    return {
        "median": _bare(cell.median),
        "bias": _bare(cell.bias, True),
        "count": count_text(cell.count),
        "depth": round(depth, 1),
        "is_few": is_few,
    }


def _bare(value: float, sign: bool = False) -> str:
    return share_text(value, sign).removesuffix("\u00a0%")


def _breakdowns(results: Sequence[PointResult]) -> list[tuple[str, list[dict[str, Any]]]]:
    properties: list[tuple[str, Property, Sequence[str]]] = [
        ("engine", lambda r: r.point.engine, ()),
        ("GPU", lambda r: r.point.gpu, ()),
        ("model family", lambda r: family_of(r.point), ()),
        ("model", lambda r: r.point.model, ()),
        ("weights", lambda r: weights_of(r.point), ()),
        ("GPUs of an instance", lambda r: class_of(r.point.gpus, SIZES), list(SIZES)),
        (
            "requests in flight per instance",
            lambda r: class_of(r.point.in_flight, BATCHES),
            list(BATCHES),
        ),
        (
            "mean context, tokens",
            lambda r: class_of(r.point.mean_context_tokens, CONTEXTS),
            list(CONTEXTS),
        ),
    ]
    return [(title, [_strip(row) for row in breakdown(results, of, order)]) for title, of, order in properties]


def _strip(row: Any) -> dict[str, Any]:
    def place(value: float) -> float:
        return round(80 + 78 * max(-1.0, min(1.0, value / _STRIP_END)), 1)

    low, high = row.range
    return {
        "label": row.label,
        "summaries": row.summaries,
        "low": place(low),
        "high": place(high),
        "bias": place(row.summaries[0].bias),
    }


def _bands(results: Sequence[PointResult]) -> list[tuple[str, list[tuple[str, int, list[float]]]]]:
    """Return, for each kind of what is left out, rows of what it was: points, and the share within its bands."""
    if len(results) < LEAST_FOR_BANDS:
        return []
    groups = []
    for title in _BANDS_OF:
        found = coverage(results, LEFT_OUT[title])
        if found:
            rows = [*found.items(), ("all", pooled(found))]
            groups.append((title, [(name, one.points, [one.shares[m] for m in METRICS]) for name, one in rows]))
    return groups


def _worst(results: Sequence[PointResult]) -> list[PointResult]:
    def size(result: PointResult) -> float:
        found = error(result, "tpot")
        return 0.0 if found is None else -abs(math.log1p(found))

    return sorted(results, key=lambda result: (size(result), result.point.id))[:WORST]


def _worst_row(result: PointResult, cause_of: Callable[[PointResult], str | None]) -> dict[str, Any]:
    point = result.point
    found = error(result, "tpot") or 0.0
    engine = f"{point.engine} {point.engine_version}".strip()
    gpus = f"{point.gpus} × {point.gpu}"
    if point.kind == DISAGGREGATED:
        prefill = f"{point.prefill_workers} of {point.prefill_gpus}"
        gpus = f"{prefill} prefill, {point.decode_workers} of {point.gpus} × {point.gpu} decode"
    return {
        "setting": f"{point.model} {weights_of(point)}, {gpus}, {engine}",
        "load": f"{point.prompt_tokens} + {point.output_tokens} tokens, {point.concurrency} in flight",
        "measured": number(point.tpot_ms),
        "predicted": number(point.tpot_ms * (1 + found)),
        "error": found,
        "static": error(result, "tpot", "static"),
        "cause": cause_of(result) or "not known",
    }
