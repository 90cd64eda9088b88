"""What a search for capacities leaves: ``capacity.json``, ``trials.csv``, load curves and the page about them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from helixsim.domain.summary import Summary, seconds
from helixsim.metrics.objectives import Target, Verdict
from helixsim.metrics.stats import CONFIDENCE
from helixsim.report.figures import FigureFile, write_figure
from helixsim.report.pages import Page, PageTable, Part, write_page
from helixsim.report.rows import MISSING, number, percent
from helixsim.report.style import colors_of, new_figure, styled
from helixsim.results.files import write_csv, write_json

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

SCHEMA = 1


@dataclass(frozen=True)
class Trial:
    """One simulation: its rate (NaN: the load has none), what it gave, and the verdict of every target by name."""

    seed: int
    rate_rps: float
    summary: Summary
    verdicts: dict[str, Verdict]


@dataclass(frozen=True)
class Found:
    """The capacity of one system for one target.

    Parameters
    ----------
    by_seed
        Highest rate that passes under each seed [1/s]; 0 where none does.
    rate_rps
        Their mean, ``low_rps`` and ``high_rps`` its 95 % interval (None under fewer than two seeds): Student's, and one
        step of the tolerance more upwards, for each seed's capacity lies between what passed and the next step.
    binds
        What fails at the next rate, in words, from the first seed.
    at_capacity
        The summary at the highest rate that passes under the first seed; None if none does.
    """

    target: str
    by_seed: tuple[float, ...]
    rate_rps: float
    low_rps: float | None
    high_rps: float | None
    binds: str
    at_capacity: Summary | None


@dataclass(frozen=True)
class SystemCapacity:
    """All that was found about one system; ``flow_bound_rps`` is where the search began [1/s]."""

    system: str
    flow_bound_rps: float
    found: tuple[Found, ...]
    trials: tuple[Trial, ...]


@dataclass(frozen=True)
class CapacityResults:
    """The capacities of all systems of an experiment, and how they were measured.

    ``window_s`` is (warm-up, duration or None: until the last request has finished); ``failed`` holds (exit code,
    message) of systems without a capacity.
    """

    experiment: str
    targets: tuple[Target, ...]
    tolerance: float
    seeds: tuple[int, ...]
    window_s: tuple[float, float | None]
    systems: tuple[SystemCapacity, ...]
    failed: Mapping[str, tuple[int, str]]


def write_capacity(directory: Path, results: CapacityResults) -> None:
    """Write all files; ``capacity.json`` comes last and marks the search as complete."""
    import pandas as pd

    table = pd.DataFrame(_trial_rows(results))
    write_csv(directory / "trials.csv", table)
    with styled():
        figure = write_figure(
            directory / "figures",
            "load_curve",
            "Load curve",
            f"Under seed {results.seeds[0]}. Dotted: the objective. Vertical: the capacity found under that seed. All "
            "rates see the same requests, only closer together. Runs that cannot pass any more end early: right of the "
            "line latencies would rise further than shown.",
            load_curve(results, table),
            table,
        )
    write_page(directory, _page(results, figure))
    write_json(directory / "capacity.json", document(results))


def document(results: CapacityResults) -> dict[str, Any]:
    """Return the capacities as JSON values."""
    return {
        "schema": SCHEMA,
        "experiment": results.experiment,
        "tolerance": results.tolerance,
        "confidence_level": CONFIDENCE,
        "seeds": list(results.seeds),
        "targets": {target.name: _target(target) for target in results.targets},
        "systems": {
            one.system: {
                "flow_bound_requests_per_s": _rounded(one.flow_bound_rps),
                "simulations": len(one.trials),
                "targets": {found.target: _found(found) for found in one.found},
            }
            for one in results.systems
        },
        "failed": {name: {"exit_code": code, "message": said} for name, (code, said) in results.failed.items()},
    }


def capacity_table(results: Mapping[str, Any]) -> PageTable:
    """Return the answer as a table, from the document of ``capacity.json``."""
    several = len(results["targets"]) > 1
    head = ("system", *(["class"] if several else []), "requests/s", "95 % interval", "of flow bound, %",
            "output tokens/s", "TTFT p99, s", "TPOT p99, ms", "$ per Mtok", "runs")  # fmt: skip
    rows = []
    for name, system in results["systems"].items():
        for target, found in system["targets"].items():
            there = found["at_capacity"] or {}
            own = there.get("helixsim", {})
            interval = found["interval"]
            rows.append(
                (
                    name,
                    *([target] if several else []),
                    number(found["requests_per_s"]) if found["requests_per_s"] else "none",
                    MISSING if interval is None or not found["requests_per_s"] else "–".join(map(number, interval)),
                    percent(found["requests_per_s"] / system["flow_bound_requests_per_s"]),
                    number(there.get("output_throughput")),
                    number(seconds(there.get("p99_ttft_ms"))),
                    number(there.get("p99_tpot_ms")),
                    number(own.get("cost_usd_per_mtok")),
                    str(system["simulations"]),
                )
            )
    return PageTable(head, tuple(rows))


def capacity_notes(results: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return (system, sentence) on what stops each system, then how it was measured."""
    several = len(results["targets"]) > 1
    seed = f" under seed {results['seeds'][0]}" if len(results["seeds"]) > 1 else ""
    found = []
    for name, system in results["systems"].items():
        for target, one in system["targets"].items():
            which = f" for {target}" if several else ""
            if one["requests_per_s"]:
                found.append((name, f"What stops it{which}{seed}: {one['binds']}."))
            else:
                found.append((name, f"No rate meets the objectives{which}: {one['binds']}."))
    found += [(name, error["message"]) for name, error in results["failed"].items()]
    return found


def method(results: CapacityResults) -> str:
    """Return how the capacities were measured, in words."""
    warmup, duration = results.window_s
    window = "until the last request" if duration is None else f"for {duration:g} s"
    found = f"found to {results.tolerance:.1%} under seed {results.seeds[0]}"
    if len(results.seeds) > 1:
        found = (
            f"found to {results.tolerance:.1%} under each of {len(results.seeds)} seeds, in their mean; the "
            f"{CONFIDENCE:.0%} interval is Student's over the seeds, and one step wider upwards"
        )
    return (
        f"Highest rate at which {'; '.join(map(_asked, results.targets))}, {found}. "
        f"Each simulation is measured {window} after {warmup:g} s of warm-up; near capacity a longer window finds "
        "somewhat less; one that cannot pass any more ends early. The placement is that of the experiment as written."
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
            if one.found[0].by_seed[0]:
                axis.axvline(one.found[0].by_seed[0], color=colors[one.system], linewidth=0.9, alpha=0.5)
        if limit is not None:
            axis.axhline(limit, color="black", linestyle=":", linewidth=1.2)
            axis.set_ylim(0, 3 * limit)
        else:
            axis.set_ylim(bottom=0)
        axis.set_ylabel(title)
    for axis in panels[2:]:
        axis.set_xlabel("requests/s")
        axis.set_xlim(left=0)
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=min(len(labels), 5) or 1)
    return figure


def _trial_rows(results: CapacityResults) -> list[dict[str, Any]]:
    rows = []
    for one in results.systems:
        for trial in one.trials:
            own = trial.summary.own_keys()
            rows.append(
                {
                    "system": one.system,
                    "seed": trial.seed,
                    "rate": trial.rate_rps,
                    **{f"meets_{name}": verdict.is_met for name, verdict in trial.verdicts.items()},
                    **trial.summary.vllm_keys(),
                    **{key: own[key] for key in _OWN},
                }
            )
    return rows


_OWN = ("slo_attainment", "saturation", "flow_attainment", "kv_peak", "cost_usd_per_mtok", "energy_wh_per_mtok")


def _page(results: CapacityResults, figure: FigureFile) -> Page:
    found = document(results)
    ranked = sorted(
        ((one.found[0].rate_rps, one.system) for one in results.systems), key=lambda pair: (-pair[0], pair[1])
    )
    best_rps, best = ranked[0]
    answer = [f"{best} takes the most load within the objectives: {number(best_rps)} requests/s."]
    if not best_rps:
        answer = ["No system meets the objectives at any rate."]
    elif len(ranked) > 1 and ranked[1][0]:
        answer.append(
            f"That is {best_rps / ranked[1][0]:.2f} times the next, {ranked[1][1]}{_over_seeds(results, ranked)}."
        )
    answer.append(method(results))
    sentences = tuple(f"{name}: {sentence}" for name, sentence in capacity_notes(found))
    if len(results.seeds) > 1:
        sentences = (
            "The capacity is the mean over the seeds; throughput, latencies and costs beside it are those of the run "
            f"at the capacity under seed {results.seeds[0]}.",
            *sentences,
        )
    parts = (Part("Capacity", sentences, capacity_table(found)), Part("From idle to overload", figures=(figure,)))
    return Page(
        f"{results.experiment}: capacity", f"How much load can {results.experiment} take?", tuple(answer), parts
    )


def _over_seeds(results: CapacityResults, ranked: Sequence[tuple[float, str]]) -> str:
    """Return the range, over the seeds, of the ratio of the first to the second: both see the same requests."""
    rates = {one.system: one.found[0].by_seed for one in results.systems}
    first, second = (rates[name] for _, name in ranked[:2])
    if len(first) < 2 or not all(second):
        return ""
    ratios = [one / other for one, other in zip(first, second, strict=True)]
    return f" ({min(ratios):.2f} to {max(ratios):.2f} under the same seed)"


def _target(target: Target) -> dict[str, Any]:
    slo = target.slo
    return {
        "ttft_s": slo.ttft_s, "tpot_s": slo.tpot_s, "e2el_s": slo.e2el_s, "percentile": target.percentile,
        "goodput_share": target.share,
    }  # fmt: skip


def _asked(target: Target) -> str:
    slo = target.slo
    limits = [("TTFT", slo.ttft_s), ("TPOT", slo.tpot_s), ("E2EL", slo.e2el_s)]
    said = " and ".join(f"p{target.percentile:g} {name} ≤ {limit:g} s" for name, limit in limits if limit is not None)
    if target.share is not None:
        said += f" and {target.share:.1%} of requests within all"
    return f"{said} ({target.name})" if target.name != "slo" else said


def _found(found: Found) -> dict[str, Any]:
    low, high = found.low_rps, found.high_rps
    return {
        "requests_per_s": _rounded(found.rate_rps),
        "interval": None if low is None or high is None else [_rounded(low), _rounded(high)],
        "by_seed": [_rounded(rate) for rate in found.by_seed],
        "binds": found.binds,
        "at_capacity": None if found.at_capacity is None else found.at_capacity.to_json(),
    }


def _rounded(value: float) -> float:
    return float(f"{value:.9g}")


def hopeless_targets(results: Mapping[str, Any]) -> Sequence[str]:
    """Return the targets that no system meets at any rate."""
    return [
        name
        for name in results["targets"]
        if not any(system["targets"][name]["requests_per_s"] for system in results["systems"].values())
    ]
