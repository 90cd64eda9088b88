"""Rows of the comparison of systems as text, shared by the terminal table and the HTML report."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from helixsim.domain.figures import ClassFigures, Limits
from helixsim.domain.request import FeedMode
from helixsim.domain.summary import Summary, milliseconds
from helixsim.metrics.error_table import LEVEL
from helixsim.metrics.model_error import ModelError
from helixsim.metrics.ranking import follows_load
from helixsim.metrics.saturation import Saturation
from helixsim.metrics.stationarity import NOT_STEADY, STEADY
from helixsim.metrics.verdict_text import share_text
from helixsim.report.autoscaling_rows import autoscaling_rows
from helixsim.report.fault_rows import fault_rows
from helixsim.report.leg_rows import leg_rows
from helixsim.report.tier_rows import tier_rows
from helixsim.results.runset import RunSet
from helixsim.units import MISSING, number, percent

AS_LOAD = "as the load"
"""Throughput of a stable open loop, which a model error does not change."""

_LOADS = {FeedMode.OPEN: "open loop", FeedMode.CLOSED_LOOP: "closed loop", FeedMode.SATURATE: "saturated"}


@dataclass(frozen=True, slots=True)
class Row:
    """One quantity of all systems; the label includes the unit."""

    label: str
    cells: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Section:
    """A titled group of rows."""

    title: str
    rows: tuple[Row, ...]


def comparison_sections(runs: RunSet) -> list[Section]:
    """Return the rows of the comparison, with cells in the order of the systems."""
    node_types = list(
        dict.fromkeys(node_type for run in runs.values() for node_type in run.summary.cluster.utilisation)
    )
    classes = sorted({name for run in runs.values() for name in run.summary.classes})
    with_hits = any(run.summary.throughput.prefix_hit_tokens for run in runs.values())
    has_legs = any(run.summary.disaggregation is not None for run in runs.values())
    layout: list[tuple[str, list[tuple[str, Callable[[Summary], str]]]]] = [
        (
            "Throughput",
            [
                ("output tokens/s", output_text),
                ("prompt + output tokens/s", lambda summary: number(summary.throughput.total_tokens_per_s)),
                ("completed requests/s", lambda summary: number(summary.throughput.requests_per_s)),
                *(_SLO_ROWS if runs.slo.is_stated else ()),
            ],
        ),
        *((f"Class {name}", _class_rows(name, runs)) for name in classes),
        (
            "Latency",
            [
                ("TTFT p50, s", lambda summary: number(summary.ttft.p50_s)),
                ("TTFT p95, s", lambda summary: number(summary.ttft.p95_s)),
                ("TTFT p99, s", lambda summary: number(summary.ttft.p99_s)),
                ("TPOT p50, ms", lambda summary: number(milliseconds(summary.tpot.p50_s))),
                ("TPOT p95, ms", lambda summary: number(milliseconds(summary.tpot.p95_s))),
                ("ITL p50, ms", lambda summary: number(milliseconds(summary.itl.p50_s))),
                ("ITL p99, ms", lambda summary: number(milliseconds(summary.itl.p99_s))),
                ("ITL max, ms", lambda summary: number(milliseconds(summary.itl_max_s))),
            ],
        ),
        (
            "Load",
            [
                ("load", lambda summary: _LOADS[summary.load.feed]),
                ("arrived requests/s", lambda summary: number(summary.load.arrived_per_s)),
                ("stable?", lambda summary: summary.load.saturation),
                ("stationary in the window?", lambda summary: _stationary(summary.load.stationarity)),
                ("rejected requests", lambda summary: str(summary.integrity.rejected)),
                ("preemptions", lambda summary: str(summary.integrity.preemptions)),
                *(_HIT_ROWS if with_hits else ()),
            ],
        ),
        (
            "Cluster",
            [
                ("max-flow estimate, tokens/s", lambda summary: number(summary.flow.max_flow_tokens_per_s)),
                ("  measured / max-flow, %", lambda summary: percent(summary.flow.attainment)),
                ("KV-limited estimate, tokens/s", lambda summary: number(summary.flow.kv_limited_tokens_per_s)),
                ("  measured / KV-limited, %", lambda summary: percent(summary.flow.kv_limited_attainment)),
                ("nodes per request, mean", lambda summary: number(summary.flow.measured_mean_hops)),
                *((f"{node_type} utilisation, %", _node_type_utilisation(node_type)) for node_type in node_types),
                ("KV memory use, mean %", lambda summary: percent(summary.cluster.kv_mean)),
                ("KV memory use, peak node %", lambda summary: percent(summary.cluster.kv_peak)),
            ],
        ),
        *((("Prefill and decode", leg_rows(runs)),) if has_legs else ()),
        *((("KV offloading", tier_rows(runs)),) if tier_rows(runs) else ()),
        *((("Faults", fault_rows(runs)),) if fault_rows(runs) else ()),
        *((("Autoscaling", autoscaling_rows(runs)),) if autoscaling_rows(runs) else ()),
        (
            "Cost",
            [
                ("$ per million output tokens", lambda summary: number(summary.cost.usd_per_mtok)),
                ("Wh per million output tokens", lambda summary: number(summary.cost.energy_wh_per_mtok)),
            ],
        ),
    ]
    summaries = [run.summary for run in runs.values()]
    sections = [
        Section(title, tuple(Row(label, tuple(map(cell, summaries))) for label, cell in rows)) for title, rows in layout
    ]
    sections += _model_error(runs)
    first, *others = sections[0].rows
    return [replace(sections[0], rows=(first, *_ratio_rows(runs), *others)), *sections[1:]]


def _ratio_rows(runs: RunSet) -> tuple[Row, Row]:
    """Return the ratio of output tokens/s to the baseline, and its interval."""
    against = [runs.comparisons[name] for name in runs]
    return (
        Row(f"relative to {runs.baseline}", tuple(_ratio(one.output_tokens_ratio) for one in against)),
        Row("  95 % interval", tuple(_ratio_range(one.output_tokens_ratio_interval) for one in against)),
    )


def _model_error(runs: RunSet) -> list[Section]:
    """Return the section on model errors; none if no setting is known."""
    errors = [run.model_error for run in runs.values()]
    if not any(errors):
        return []

    def row(label: str, cell: Callable[[str, ModelError], str]) -> Row:
        texts = (MISSING if error is None else cell(name, error) for name, error in zip(runs, errors, strict=True))
        return Row(label, tuple(texts))

    def served(name: str, error: ModelError, text: Callable[[ModelError], str]) -> str:
        return AS_LOAD if follows_load(runs[name].summary) else text(error)

    def price(name: str, error: ModelError) -> str:
        return served(name, error, lambda error: price_band(runs[name].summary.cost.usd_per_mtok, error))

    def ahead(name: str, key: str) -> str:
        return MISSING if name == runs.baseline else percent(runs.shares_ahead(name)[key])

    others = len(runs) > 1
    return [
        Section(
            f"Model error, {LEVEL:.0%} band".replace("%", " %"),
            (
                row("by measured points", lambda _, error: error.label),
                row("  number of points", lambda _, error: str(error.points)),
                row(
                    "output tokens/s, %", lambda name, error: served(name, error, lambda e: error_band(e, "throughput"))
                ),
                row("TTFT, %", lambda _, error: error_band(error, "ttft")),
                row("TPOT, %", lambda _, error: error_band(error, "tpot")),
                row("$ per million output tokens", price),
                *(
                    (
                        row(f"ahead of {runs.baseline}, % of draws", lambda name, _: ahead(name, "output_throughput")),
                        row("  in TPOT, % of draws", lambda name, _: ahead(name, "mean_tpot_ms")),
                    )
                    if others
                    else ()
                ),
            ),
        )
    ]


def error_band(error: ModelError | None, metric: str) -> str:
    """Return the band of a metric in percent of the figure: ``-9 to +12``."""
    if error is None:
        return MISSING
    low, high = error.band(metric)
    return f"{100 * (low - 1):+.0f} to {100 * (high - 1):+.0f}"


def price_band(price: float | None, error: ModelError | None) -> str:
    """Return the band of a price per token, which is the inverse of that of throughput."""
    if price is None or error is None:
        return MISSING
    low, high = error.band("throughput")
    return f"{number(price / high)}–{number(price / low)}"


def error_notes(errors: Mapping[str, ModelError | None]) -> list[tuple[str, str]]:
    """Return (systems, sentence) on the measured points behind the bands, equal sentences once."""
    owners: dict[str, list[str]] = {}
    for name, error in errors.items():
        if error is not None:
            owners.setdefault(f"Model error {error.sentence}.", []).append(name)
    return [(", ".join(names), sentence) for sentence, names in owners.items()]


def window_sentence(runs: RunSet) -> str:
    """Return a sentence on the measurement windows."""
    windows: dict[tuple[float, float, float], list[str]] = {}
    for name, run in runs.items():
        window = run.summary.window
        windows.setdefault((window.start_s, window.end_s, window.warmup_s), []).append(name)
    parts = []
    for (start_s, end_s, warmup_s), names in windows.items():
        warmup = f"the first {warmup_s:g} s are warm-up" if warmup_s else "no warm-up"
        owners = f"{', '.join(names)}: " if len(windows) > 1 else ""
        parts.append(f"{owners}{start_s:g} s to {end_s:g} s of simulated time ({warmup})")
    return f"Measured from {'; '.join(parts)}." if len(windows) == 1 else f"Measured windows: {'; '.join(parts)}."


def notes(runs: RunSet) -> list[tuple[str, str]]:
    """Return (system, sentence) on the bottleneck of each system, and on what makes its numbers unreliable."""
    found = []
    for name, run in runs.items():
        load, sound = run.summary.load, run.summary.integrity
        found.append((name, run.summary.cluster.bottleneck))
        if load.stationarity != STEADY:
            advice = "" if load.saturation == Saturation.OVERLOADED else " A longer warm-up or window may help."
            found.append((name, f"{load.stationarity[0].upper()}{load.stationarity[1:]}.{advice}"))
        if load.saturation == Saturation.OVERLOADED:
            found.append(
                (name, "Overloaded: requests arrive faster than they complete, so latencies grow with the window.")
            )
        if load.saturation == Saturation.BACKLOGGED and load.feed is not FeedMode.SATURATE:
            found.append((name, "Backlogged: more than 10 % of the requests in the system wait for admission."))
        if undecided := run.summary.throughput.undecided:
            text = f"{number(undecided)} requests, unfinished when the window ended, had missed no objective"
            found.append((name, f"{text}; the share within the SLO leaves them out."))
        if rejected := sound.rejected:
            found.append(
                (
                    name,
                    f"{rejected} requests were rejected: longer than the context of the model, or than the KV memory "
                    "of any route.",
                )
            )
        found.extend((name, f"Invariant broken: {broken}") for broken in sound.invariants_broken)
    return found + error_notes({name: run.model_error for name, run in runs.items()})


LEGEND = (
    "TTFT: time to first token. TPOT: mean time per output token after the first, per request. ITL: time between two "
    "tokens. Max-flow estimate: prompt + output tokens/s at the KV occupancy of capacity.kv_occupancy; not a bound, as "
    "larger batches can exceed it. KV-limited estimate: saturated throughput if KV memory limits the requests in "
    "flight and each decode step takes one round trip. ± and intervals: 95 % confidence, of the "
    "sampling alone. Model error: 80 % of measurements are expected within this band around the figure, by comparison "
    "with measured points; draws are of this error alone."
)


def _node_type_utilisation(node_type: str) -> Callable[[Summary], str]:
    return lambda summary: percent(summary.cluster.utilisation.get(node_type))


def output_text(summary: Summary) -> str:
    """Return output tokens/s with half the width of its interval."""
    limits = summary.throughput.output_interval
    value = number(summary.throughput.output_tokens_per_s)
    if limits is None:
        return value
    decimals = len(value.partition(".")[2])
    return value + spread(limits.low, limits.high, lambda figure: f"{figure:.{decimals}f}")


def rate_text(rate: float | None) -> str:
    """Return requests/s, below 10 with two decimals."""
    return f"{rate:.2f}" if rate is not None and rate < 10 else number(rate)


def spread(low: float | None, high: float | None, text: Callable[[float], str]) -> str:
    """Return `` ± half the interval``, or its limits where the lower one has been cut at zero."""
    if low is None or high is None:
        return ""
    return f" ± {text((high - low) / 2)}" if low > 0 or high <= 0 else f" ({text(low)}–{text(high)})"


def _ratio(ratio: float | None) -> str:
    return MISSING if ratio is None else f"{ratio:.2f}×"


def _ratio_range(limits: Limits | None) -> str:
    return MISSING if limits is None or limits.low == limits.high else f"{limits.low:.2f}–{limits.high:.2f}"


def _stationary(verdict: str) -> str:
    return {STEADY: "yes", NOT_STEADY: "NO"}.get(verdict.split(":", maxsplit=1)[0], "unknown")


_HIT_ROWS: tuple[tuple[str, Callable[[Summary], str]], ...] = (
    ("prompt tokens from prefix caches, %", lambda summary: percent(summary.throughput.prefix_hit_rate)),
)


def _class_rows(name: str, runs: RunSet) -> list[tuple[str, Callable[[Summary], str]]]:
    """Return the rows of a class of requests."""

    def cell(figure: Callable[[ClassFigures], str]) -> Callable[[Summary], str]:
        return lambda summary: figure(summary.classes[name]) if name in summary.classes else MISSING

    within = [
        ("goodput, requests/s within SLO", cell(lambda one: number(one.goodput_per_s))),
        ("requests within SLO, %", cell(lambda one: share_text(one.slo_attainment))),
    ]
    return [
        ("completed requests/s", cell(lambda one: number(one.requests_per_s))),
        *(within if runs.slo.of(name).is_stated else ()),
        ("TTFT p95, s", cell(lambda one: number(one.ttft.p95_s))),
        ("TPOT p95, ms", cell(lambda one: number(milliseconds(one.tpot.p95_s)))),
    ]


_SLO_ROWS: tuple[tuple[str, Callable[[Summary], str]], ...] = (
    ("goodput, requests/s within SLO", lambda summary: number(summary.throughput.goodput_per_s)),
    ("requests within SLO, %", lambda summary: share_text(summary.throughput.slo_attainment)),
)
