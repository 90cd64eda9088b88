"""Files of several tenants on one cluster: ``summary.json``, ``tenants.csv``, a figure and the report."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from helixsim.domain.request import Slo
from helixsim.domain.summary import seconds
from helixsim.report.pages import Page, PageTable, Part, write_page
from helixsim.report.style import colors_of, new_figure, styled, write_figure
from helixsim.report.verdict_rows import MET, MISSED, SYMBOLS
from helixsim.results.columns import of_rows
from helixsim.results.files import write_csv, write_json
from helixsim.results.tenants import TenantResults
from helixsim.units import format_seconds, number, percent

if TYPE_CHECKING:
    from matplotlib.figure import Figure


SHOWN = 6
"""Divisions in the figure."""


def write_tenants(directory: Path, results: TenantResults) -> None:
    """Write all files."""
    found = results.document()
    write_csv(directory / "tenants.csv", results.table())
    with styled():
        figure = write_figure(
            directory / "figures", "divisions", "Divisions of the nodes",
            "Requests of each tenant within its objectives, and the price of the nodes that tenants have.",
            division_figure(found), of_rows(_bars(found)),
        )  # fmt: skip
    runs = tuple(f"{name}: {one['run']}/report.html" for name, one in found["tenants"].items() if one["run"])
    divisions = Part("Divisions", ("The division of the nodes, and those by hand.",), divisions_table(found), (figure,))
    parts = (
        Part("Tenants", table=tenant_table(found)),
        Part("Totals", tuple(sentences(found))),
        *((divisions,) if results.has_slo else ()),
        Part("Runs", runs),
    )
    write_page(directory, Page(results.name, None, tuple(headline(found)), parts))
    write_json(directory / "summary.json", found)


def headline(found: Mapping[str, Any]) -> list[str]:
    """Return the verdict as sentences, from the document of ``summary.json``."""
    tenants = found["tenants"]
    met = [name for name, one in tenants.items() if one["is_met"]]
    missed = [name for name, one in tenants.items() if one["is_met"] is False]
    lines = []
    if missed:
        lines.append(f"{_named(missed)} {'miss' if missed[1:] else 'misses'} the objectives.")
    if met:
        lines.append(f"{_named(met)} {'meet' if met[1:] else 'meets'} {'their' if met[1:] else 'its'} objectives.")
    if not missed and not met:
        lines.append(f"{_named(list(tenants))}: no objectives.")
    lines += [
        f"{name}: no request has a known outcome; it counts in no mean."
        for name, one in tenants.items()
        if not one["failure"] and one["slo_attainment"] is None and Slo.from_json(one["slo"]).is_stated
    ]
    lines += [f"{name}: {one['failure']}." for name, one in tenants.items() if one["failure"]]
    return lines


def tenant_table(found: Mapping[str, Any]) -> PageTable:
    """Return a row per tenant."""
    has_e2el = any(one["slo"]["e2el_s"] is not None for one in found["tenants"].values())
    head = ("tenant", "nodes", "GPUs", "$/h", "within SLO, %", "goodput, req/s", "output tokens/s", "p99 TTFT, s",
            "p99 TPOT, ms", *(["p99 E2EL, s"] if has_e2el else []))  # fmt: skip
    rows = tuple(
        (
            f"{name} ({one['model']})", words(one["kinds"]) + (" (shared)" if "shares_nodes_with" in one else ""),
            str(one["gpus"]), f"{one['usd_per_hour']:.2f}", _share(one), number(one.get("request_goodput")),
            number(one.get("output_throughput")), _latency(one, "ttft", 1e-3), _latency(one, "tpot", 1.0),
            *([_latency(one, "e2el", 1e-3)] if has_e2el else []),
        )
        for name, one in found["tenants"].items()
    )  # fmt: skip
    return PageTable(head, rows)


def sentences(found: Mapping[str, Any]) -> list[str]:
    """Return sentences on the totals, the fairness and the division."""
    totals, spare = found["totals"], found["spare"]
    lines = [
        f"Together {number(totals['request_goodput'])} requests/s within the objectives and "
        f"{number(totals['output_throughput'])} output tokens/s, on {totals['gpus']} GPUs for "
        f"{totals['usd_per_hour']:.2f} $/h."
    ]
    if totals["value"] is not None:
        fair = "undefined" if totals["jain_index"] is None else f"{totals['jain_index']:.3f}"
        lines.append(
            f"The tenants are served to {percent(totals['value'])} % (weighted mean; 99 % of the requests within the "
            f"objectives count as all); Jain's fairness index {fair}."
        )
    lines.append(f"Division: {found['division']}.")
    if "by_hand" in found:
        best = found["by_hand"][0]
        lines.append(
            f"The best division {best['division']}: {percent(best['value'])} % for {best['usd_per_hour']:.2f} $/h; "
            f"this one: {percent(totals['value'])} % for {totals['usd_per_hour']:.2f} $/h."
        )
    if totals["value_bound"] is not None and totals["value_bound"] < 1.0:
        lines.append(f"No division serves more than {percent(totals['value_bound'])} %, with any placement.")
    if spare["nodes"]:
        lines.append(f"Not used: {words(spare['nodes'])}, {spare['usd_per_hour']:.2f} $/h.")
    return lines


def divisions_table(found: Mapping[str, Any]) -> PageTable:
    """Return a row per division: that of the results, and those by hand, the best first."""
    names = list(found["tenants"])
    head = ("division", *(f"{name} within SLO, %" for name in names), "value, %", "Jain", "$/h")
    rows = tuple(
        (
            one["division"], *(percent(one["slo_attainment"][name]) for name in names), percent(one["value"]),
            number(one["jain_index"]), f"{one['usd_per_hour']:.2f}",
        )
        for one in _divisions(found)
    )  # fmt: skip
    return PageTable(head, rows)


def division_figure(found: Mapping[str, Any]) -> Figure:
    """Draw the share of each tenant's requests within its objectives: in the division, and in the best by hand."""
    shown = _divisions(found)[:SHOWN]
    colors = colors_of(found["tenants"])
    figure = new_figure(0.9 + (0.2 + 0.17 * len(colors)) * len(shown))
    axis = figure.subplots()
    height = 0.8 / len(colors)
    for number_, (name, color) in enumerate(colors.items()):
        at = [row + (number_ - (len(colors) - 1) / 2) * height for row in range(len(shown))]
        shares = [100 * (one["slo_attainment"][name] or 0.0) for one in shown]
        axis.barh(at, shares, height=0.9 * height, color=color, label=name)
    for row, one in enumerate(shown):
        axis.text(102, row, f"{one['usd_per_hour']:.2f} $/h", va="center")
    axis.set_yticks(range(len(shown)), [one["division"].replace(": ", ":\n") for one in shown])
    axis.invert_yaxis()
    axis.grid(visible=False, axis="y")
    axis.set_xlim(0, 116)
    axis.set_xticks(range(0, 101, 20))
    axis.set_xlabel("requests within the objectives, %")
    figure.legend(loc="outside upper center", ncols=len(colors))
    return figure


def _divisions(found: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Return the division of the results, and those by hand."""
    chosen = {
        "division": found["division"], **found["totals"],
        "slo_attainment": {name: one["slo_attainment"] for name, one in found["tenants"].items()},
    }  # fmt: skip
    return [chosen, *found.get("by_hand", ())]


def _bars(found: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the data of the figure."""
    return [
        {"division": one["division"], "usd_per_hour": one["usd_per_hour"],
         **{f"{name}_within_slo": share for name, share in one["slo_attainment"].items()}}
        for one in _divisions(found)[:SHOWN]
    ]  # fmt: skip


def words(kinds: Mapping[str, int]) -> str:
    """Return for example ``1 h100x8, 3 l40sx4``."""
    return ", ".join(f"{n} {label}" for label, n in kinds.items()) or "none"


def _named(names: list[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def _share(one: Mapping[str, Any]) -> str:
    if one["is_met"] is None:
        return percent(one["slo_attainment"])
    return f"{percent(one['slo_attainment'])} {SYMBOLS[MET if one['is_met'] else MISSED]}"


def _latency(one: Mapping[str, Any], name: str, factor: float) -> str:
    """Return a 99th percentile with its limit, if there is one."""
    reached = one.get(f"p99_{name}_ms")
    limit_s = getattr(Slo.from_json(one["slo"]), f"{name}_s")
    text = "∞" if reached is None else number(seconds(reached) if factor != 1.0 else reached)
    return text if limit_s is None else f"{text} (≤ {format_seconds(limit_s)})"
