"""Files of a capacity search: ``capacity.json``, ``trials.csv``, load curves and the report."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from helixsim.domain.reliability import SHARES
from helixsim.domain.summary import Summary, milliseconds
from helixsim.jsonio import significant
from helixsim.metrics.objectives import Target
from helixsim.metrics.ranking import share_of_larger_capacity
from helixsim.metrics.stats import CONFIDENCE
from helixsim.report.charts import Chart
from helixsim.report.pages import Page, PageTable, Part, write_page
from helixsim.report.purchase_rows import PURCHASE_HEAD, purchase_rows
from helixsim.report.rows import error_notes
from helixsim.report.run_charts import kinds_of
from helixsim.report.search_charts import capacity_charts
from helixsim.report.style import FigureFile, colors_of, new_figure, styled, write_figure
from helixsim.results.capacity import CapacityEstimate, CapacityResults, LossCapacity
from helixsim.results.files import write_csv, write_json
from helixsim.results.purchases import purchase_sentence
from helixsim.units import MISSING, number, percent

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure


def write_capacity(directory: Path, results: CapacityResults) -> None:
    """Write all files; ``capacity.json`` comes last and marks the search as complete."""
    table = results.trials_table()
    write_csv(directory / "trials.csv", table)
    with styled():
        figure = write_figure(
            directory / "figures",
            "load_curve",
            "Load curve",
            f"Seed {results.seeds[0]}. Dotted: objective. Vertical: capacity under this seed. All rates use the same "
            "requests, scaled in time. Runs that can no longer meet the objectives end early, so latencies right of "
            "the line are underestimated.",
            load_curve(results, table),
            table,
        )
    write_page(directory, _page(results, figure, capacity_charts(results, table.to_dict("records"))))
    write_json(directory / "capacity.json", results.document())


OVER_TIME = (
    "Nodes fail independently of each other. States with two nodes down or more are not searched: the mean is between "
    "no request in them and the best capacity after one loss. The price per hour goes on, so that a token costs "
    "more at the rate that is served for a share of time. Failures themselves, and the time until they are known, are "
    "not part of it (docs/faults.md)."
)


def capacity_table(results: CapacityResults) -> PageTable:
    """Return the capacities as a table."""
    several = len(results.targets) > 1
    head = (
        "system", *(["target"] if several else []), "requests/s", "95 % interval", "80 % model error",
        "of max-flow estimate, %", "output tokens/s", "TTFT p99, s", "TPOT p99, ms", "$ per Mtok", "runs",
    )  # fmt: skip
    rows = []
    for one in results.systems:
        for found in one.estimates:
            interval = MISSING
            if found.low_rps is not None and found.high_rps is not None and found.rate_rps:
                interval = f"{number(found.low_rps)}–{number(found.high_rps)}"
            rows.append(
                (
                    one.system,
                    *([found.target] if several else []),
                    number(found.rate_rps) if found.rate_rps else "none",
                    interval,
                    band_text(found.error_band),
                    percent(significant(found.rate_rps) / significant(one.max_flow_rps)),  # as read back
                    *_measured(found.at_capacity),
                    str(one.simulations),
                )
            )
    return PageTable(head, tuple(rows))


def loss_table(results: CapacityResults) -> PageTable:
    """Return the capacities after losses, each system with all nodes first."""
    several = len(results.targets) > 1
    head = ("system", *(["target"] if several else []), "lost", "requests/s", "95 % interval", "of all nodes, %",
            "$ per Mtok")  # fmt: skip
    rows: list[tuple[str, ...]] = []
    for one in results.systems:
        for place, whole in enumerate(one.estimates):
            target = (whole.target,) if several else ()
            rows.append((one.system, *target, "nothing", *_loss_cells(whole, whole)))
            worst = one.worst(place)
            rows += [
                (one.system, *target, f"{_lost(loss)}{' (worst)' if loss is worst else ''}",
                 *_loss_cells(loss.estimates[place], whole))
                for loss in one.losses
            ]  # fmt: skip
    return PageTable(head, tuple(rows))


def _loss_cells(found: CapacityEstimate, whole: CapacityEstimate) -> tuple[str, ...]:
    interval = MISSING
    if found.low_rps is not None and found.high_rps is not None and found.rate_rps:
        interval = f"{number(found.low_rps)}–{number(found.high_rps)}"
    left = percent(found.rate_rps / whole.rate_rps) if whole.rate_rps else MISSING
    return number(found.rate_rps) if found.rate_rps else "none", interval, left, _measured(found.at_capacity)[-1]


def _lost(loss: LossCapacity) -> str:
    alike = f" (or any of {loss.alike} alike)" if loss.alike > 1 else ""
    return f"{loss.lost}{alike}{', holds no layers' if loss.is_idle else ''}"


def availability_table(results: CapacityResults) -> PageTable:
    """Return what each system serves over time, with at most one node down, and the price at that rate."""
    several = len(results.targets) > 1
    head = ("system", *(["target"] if several else []), "share of time, %", "requests/s", "$ per Mtok")
    rows: list[tuple[str, ...]] = []
    for one in results.systems:
        for place, whole in enumerate(one.estimates):
            found = one.availability(place)
            if found is None:
                continue
            low, high = found.mean
            served = [(f"{100 * share:g}", found.served(share)) for share in SHARES]
            target = (whole.target,) if several else ()
            rows.append((one.system, *target, "mean", f"{number(low)}–{number(high)}", _price_at(whole, low)))
            rows += [
                (one.system, *target, text, number(rate) if rate else "none", _price_at(whole, rate))
                for text, rate in served
            ]
    return PageTable(head, tuple(rows))


def _price_at(whole: CapacityEstimate, rate_rps: float) -> str:
    """Return the price per million output tokens where less is served than at capacity, for the same price per hour."""
    price = None if whole.at_capacity is None else whole.at_capacity.cost.usd_per_mtok
    return number(price * whole.rate_rps / rate_rps) if price is not None and rate_rps else MISSING


def loss_notes(results: CapacityResults) -> list[tuple[str, str]]:
    """Return (system, sentence) on the worst loss."""
    several = len(results.targets) > 1
    after = "with the model placed anew" if results.replan else "with the placement kept on the nodes left"
    notes = []
    for one in results.systems:
        for place, whole in enumerate(one.estimates):
            worst = one.worst(place)
            if worst is None or not whole.rate_rps:
                continue
            target = f" for {whole.target}" if several else ""
            found = worst.estimates[place]
            left = (
                f"{number(found.rate_rps)} requests/s, {percent(found.rate_rps / whole.rate_rps)} % of the "
                f"{number(whole.rate_rps)} with all nodes"
                if found.rate_rps
                else f"no capacity ({found.binds}), {number(whole.rate_rps)} requests/s with all nodes"
            )
            notes.append((one.system, f"Worst loss{target}: {_lost(worst)} leaves {left}, {after}."))
    return notes


def band_text(band: Sequence[float | None] | None) -> str:
    """Return the ends of a band; one that is not known, because no simulation lies there, is left out."""
    if band is None or list(band) == [None, None]:
        return MISSING
    low, high = band
    return (
        f"below {number(high)}" if low is None else f"{number(low)}–{number(high)}" if high else f"above {number(low)}"
    )


def _measured(summary: Summary | None) -> tuple[str, ...]:
    """Return output tokens/s, TTFT [s], TPOT [ms] and $ per Mtok of the run at capacity."""
    if summary is None:
        return (MISSING,) * 4
    return (
        number(summary.throughput.output_tokens_per_s),
        number(summary.ttft.p99_s),
        number(milliseconds(summary.tpot.p99_s)),
        number(summary.cost.usd_per_mtok),
    )


def capacity_notes(results: CapacityResults) -> list[tuple[str, str]]:
    """Return (system, sentence) on the limit of each capacity, and on systems that failed."""
    several = len(results.targets) > 1
    seed = f" under seed {results.seeds[0]}" if len(results.seeds) > 1 else ""
    notes = []
    for one in results.systems:
        for found in one.estimates:
            target = f" for {found.target}" if several else ""
            if found.rate_rps:
                notes.append((one.system, f"Limit{target}{seed}: {found.binds}."))
            else:
                notes.append((one.system, f"No rate meets the objectives{target}: {found.binds}."))
    for one in results.systems:
        at = one.estimates[0].at_capacity
        if at is not None:
            notes.append((one.system, f"At capacity: {at.cluster.bottleneck}"))
        if sentence := purchase_sentence(one.purchases):
            notes.append((one.system, sentence))
    notes += loss_notes(results)
    notes += error_notes({one.system: one.estimates[0].model_error for one in results.systems})
    for one in results.systems:
        for found in one.estimates:
            if found.price_band is not None:
                target = f" for {found.target}" if several else ""
                price = band_text(found.price_band)
                notes.append(
                    (one.system, f"$ per million output tokens at capacity{target}, by the model error: {price}.")
                )
    notes += [(name, message) for name, (_, message) in results.failed.items()]
    return notes


def method(results: CapacityResults) -> str:
    """Return sentences on the measurement of the capacities."""
    warmup, duration = results.window_s
    window = "until the last request" if duration is None else f"for {duration:g} s"
    found = f"found to {results.tolerance:.1%} under seed {results.seeds[0]}"
    if len(results.seeds) > 1:
        found = (
            f"found to {results.tolerance:.1%} under each of {len(results.seeds)} seeds and averaged; the "
            f"{CONFIDENCE:.0%} interval is Student's t over the seeds, extended upwards by one step"
        )
    return (
        f"Highest rate at which {'; '.join(map(_objectives, results.targets))}, {found}. "
        f"Each simulation is measured {window} after {warmup:g} s of warm-up; a longer window gives a somewhat lower "
        "capacity. A simulation that can no longer meet the objectives ends early. The placement is that of the "
        "experiment as written. The band of the model error is the capacity with steps that take as much longer or "
        "shorter than simulated as TPOT did at measured points; it is no part of the interval."
    )


def purchase_table(results: CapacityResults) -> PageTable:
    """Return what one more node of each kind adds to each system."""
    return PageTable(
        ("system", *PURCHASE_HEAD),
        tuple((one.system, *row) for one in results.systems for row in purchase_rows(one.purchases)),
    )


def load_curve(results: CapacityResults, table: pd.DataFrame) -> Figure:
    """Draw latency and throughput over the rate, a line per system."""
    figure = new_figure(5.4)
    panels = figure.subplots(2, 2, sharex=True).ravel()
    names = [one.system for one in results.systems]
    colors = colors_of(names)
    slo = results.targets[0].slo
    shown = (
        ("p99_ttft_ms", "TTFT p99, s", 1e-3, slo.ttft_s),
        ("p99_tpot_ms", "TPOT p99, ms", 1.0, None if slo.tpot_s is None else slo.tpot_s * 1e3),
        ("output_throughput", "output tokens/s", 1.0, None),
        ("slo_attainment", "requests within SLO, %", 100.0, None),
    )
    first = table[table["seed"] == results.seeds[0]]
    for axis, (column, title, factor, limit) in zip(panels, shown, strict=True):
        for one in results.systems:
            own = first[first["system"] == one.system].sort_values("rate")
            y = own[column].astype(float) * factor
            axis.plot(own["rate"], y, "o-", color=colors[one.system], markersize=3, linewidth=1.4, label=one.system)
            if one.estimates[0].by_seed[0]:
                axis.axvline(one.estimates[0].by_seed[0], color=colors[one.system], linewidth=0.9, alpha=0.5)
        if limit is not None:
            axis.axhline(limit, color="black", linestyle=":", linewidth=1.2)
            highest = max(limit, float((first[column].astype(float) * factor).fillna(0.0).max()))
            axis.set_ylim(0, min(3 * limit, 1.2 * highest))
        else:
            axis.set_ylim(bottom=0)
        axis.set_ylabel(title)
    for axis in panels[2:]:
        axis.set_xlabel("requests/s")
        axis.set_xlim(left=0)
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=min(len(labels), 5) or 1)
    return figure


def _page(results: CapacityResults, figure: FigureFile, charts: tuple[Chart, ...]) -> Page:
    ranked = sorted(
        ((one.estimates[0].rate_rps, one.system) for one in results.systems), key=lambda pair: (-pair[0], pair[1])
    )
    best_rps, best = ranked[0]
    answer = [f"{best} has the highest capacity: {number(best_rps)} requests/s within the objectives."]
    if not best_rps:
        answer = ["No system meets the objectives at any rate."]
    elif len(ranked) > 1 and ranked[1][0]:
        answer.append(
            f"That is {best_rps / ranked[1][0]:.2f} times the second, {ranked[1][1]}{_over_seeds(results, ranked)}"
            f"{_in_draws(results, ranked)}."
        )
    answer.append(method(results))
    sentences = tuple(f"{name}: {sentence}" for name, sentence in capacity_notes(results))
    if len(results.seeds) > 1:
        sentences = (
            "The capacity is the mean over the seeds; throughput, latencies and costs are those of the run at capacity "
            f"under seed {results.seeds[0]}.",
            *sentences,
        )
    parts = [Part("Capacity", sentences, capacity_table(results))]
    if results.replan is not None:
        said = "The price of a lost node goes on. Equal nodes are tried once."
        parts.append(Part("Capacity after losses", (said,), loss_table(results)))
        if (over_time := availability_table(results)).rows:
            parts.append(Part("Capacity over time", (OVER_TIME,), over_time))
    if any(one.purchases for one in results.systems):
        said = "One more node of each kind, by the planner's estimate scaled to the simulated capacity."
        parts.append(Part("Next purchase", (said,), purchase_table(results)))
    keys = tuple((kind, name) for name, kind in kinds_of([one.system for one in results.systems]).items())
    parts.append(Part("Load curve", figures=(figure,), charts=charts, keys=keys))
    return Page(
        f"{results.experiment}: capacity", f"What is the capacity of {results.experiment}?", tuple(answer), tuple(parts)
    )


def _over_seeds(results: CapacityResults, ranked: Sequence[tuple[float, str]]) -> str:
    """Return the range over the seeds of the ratio of the first to the second; both see the same requests."""
    rates = {one.system: one.estimates[0].by_seed for one in results.systems}
    first, second = (rates[name] for _, name in ranked[:2])
    if len(first) < 2 or not all(second):
        return ""
    ratios = [one / other for one, other in zip(first, second, strict=True)]
    return f" ({min(ratios):.2f} to {max(ratios):.2f} under the same seed)"


def _in_draws(results: CapacityResults, ranked: Sequence[tuple[float, str]]) -> str:
    """Return in what share of draws of the model error the first is ahead of the second."""
    found = {one.system: one.estimates[0] for one in results.systems}
    first, second = (found[name] for _, name in ranked[:2])
    error, other = first.model_error, second.model_error
    if error is None or other is None:
        return ""
    share = share_of_larger_capacity(first.rate_rps, error, second.rate_rps, other)
    return f", and in {percent(share)} % of the draws of the model error it is ahead"


def _objectives(target: Target) -> str:
    slo = target.slo
    limits = [
        (f"{prefix}{name}", limit)
        for prefix, own in (("", slo), *((f"{name} ", own) for name, own in slo.classes))
        for name, limit in (("TTFT", own.ttft_s), ("TPOT", own.tpot_s), ("E2EL", own.e2el_s))
    ]
    text = " and ".join(f"p{target.percentile:g} {name} ≤ {limit:g} s" for name, limit in limits if limit is not None)
    if target.share is not None:
        text += f" and {target.share:.1%} of requests meet all objectives"
    return f"{text} ({target.name})" if target.name != "slo" else text
