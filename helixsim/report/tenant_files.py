"""Files of several tenants on one cluster: ``summary.json``, ``tenants.csv``, a figure and the report."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from helixsim.domain.request import Slo
from helixsim.domain.summary import seconds
from helixsim.report.pages import Page, PageTable, Part, write_page
from helixsim.report.verdict_rows import MET, MISSED, SYMBOLS
from helixsim.results.files import write_csv, write_json
from helixsim.results.tenants import TenantResults
from helixsim.units import format_seconds, number, percent


def write_tenants(directory: Path, results: TenantResults) -> None:
    """Write all files."""
    found = results.document()
    write_csv(directory / "tenants.csv", results.table())
    parts = (
        Part("Tenants", table=tenant_table(found)),
        Part("Totals", tuple(sentences(found))),
        *(
            (Part("Divisions", ("The division that was planned, and those by hand.",), by_hand_table(found)),)
            if "by_hand" in found
            else ()
        ),
        Part(
            "Runs", tuple(f"{name}: {one['run']}/report.html" for name, one in found["tenants"].items() if one["run"])
        ),
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
    lines += [f"{name}: {one['failure']}." for name, one in tenants.items() if one["failure"]]
    return lines


def tenant_table(found: Mapping[str, Any]) -> PageTable:
    """Return a row per tenant."""
    head = ("tenant", "nodes", "GPUs", "$/h", "within SLO, %", "goodput, req/s", "output tokens/s", "p99 TTFT, s",
            "p99 TPOT, ms")  # fmt: skip
    rows = tuple(
        (
            f"{name} ({one['model']})", words(one["kinds"]), str(one["gpus"]), f"{one['usd_per_hour']:.2f}",
            _share(one), number(one.get("request_goodput")), number(one.get("output_throughput")),
            _latency(one, "ttft", 1e-3), _latency(one, "tpot", 1.0),
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
    if totals["value_bound"] is not None:
        lines.append(f"No division serves more than {percent(totals['value_bound'])} %, with any placement.")
    if spare["nodes"]:
        lines.append(f"Not used: {words(spare['nodes'])}, {spare['usd_per_hour']:.2f} $/h.")
    return lines


def by_hand_table(found: Mapping[str, Any]) -> PageTable:
    """Return a row per division: the planned one, and those by hand, the best first."""
    names = list(found["tenants"])
    planned = {
        "division": found["division"], **found["totals"],
        "slo_attainment": {name: one["slo_attainment"] for name, one in found["tenants"].items()},
    }  # fmt: skip
    head = ("division", *(f"{name} within SLO, %" for name in names), "value, %", "Jain", "$/h")
    rows = tuple(
        (
            one["division"], *(percent(one["slo_attainment"][name]) for name in names), percent(one["value"]),
            number(one["jain_index"]), f"{one['usd_per_hour']:.2f}",
        )
        for one in (planned, *found["by_hand"])
    )  # fmt: skip
    return PageTable(head, rows)


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
