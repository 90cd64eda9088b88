"""Files of a fleet search: ``fleet.json``, ``fleets.csv``, a figure and the report."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from helixsim.domain.summary import seconds
from helixsim.report.capacity_files import band_text
from helixsim.report.pages import Page, PageTable, Part, write_page
from helixsim.report.purchase_rows import PURCHASE_HEAD, purchase_rows
from helixsim.report.search_charts import MET_KEYS, fleet_charts
from helixsim.report.style import GREY, SYSTEM_COLORS, new_figure, styled, write_figure
from helixsim.results.files import write_csv, write_json
from helixsim.results.fleet import FleetResults
from helixsim.results.purchases import Purchase, purchase_sentence
from helixsim.units import number, percent

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure


def write_fleets(directory: Path, results: FleetResults) -> None:
    """Write all files; ``fleet.json`` comes last and marks the search as complete."""
    found, table = results.document(), results.table()
    write_csv(directory / "fleets.csv", table)
    with styled():
        figure = write_figure(
            directory / "figures",
            "fleets",
            "Simulated fleets",
            "Price over the slack of the tightest objective at the rate of the workload: at or right of the line the "
            "SLO is met. A run that can no longer meet it ends early, so its slack may be overestimated.",
            price_figure(table),
            table,
        )
    parts = (
        Part("Fleets", table=fleet_table(found)),
        Part("Bottleneck and headroom", tuple(sentences(found))),
        *((Part("Next purchase", (_added_to(found),), purchase_table(found)),) if found["purchases"] else ()),
        Part(
            "Simulated fleets",
            figures=(figure,),
            charts=fleet_charts(table.to_dict("records"), found["ranked"][0]["fleet"]),
            keys=MET_KEYS,
        ),
        Part("Reproduction", ("Each fleet is an ordinary experiment; the best one:", *_command(found["ranked"][0]))),
    )
    write_page(directory, Page(results.name, results.question, tuple(headline(found)), parts))
    write_json(directory / "fleet.json", found)


def fleet_table(found: Mapping[str, Any]) -> PageTable:
    """Return the ranked fleets as a table, from the document of ``fleet.json``."""
    least = found["ranked"][0]["usd_per_hour"]
    head = ("fleet", "$/h", "against the best, $/h", "$ per Mtok", "W", "Wh per Mtok", "goodput/s", "TTFT p99, s",
            "TPOT p99, ms", "capacity/s", "headroom, %", "serves the load, % of draws")  # fmt: skip
    rows = tuple(
        (
            one["fleet"], f"{one['usd_per_hour']:.2f}", f"{one['usd_per_hour'] - least:+.2f}",
            number(one["cost_usd_per_mtok"]), number(one["power_w"]),
            number(one["energy_wh_per_mtok"]), number(one["request_goodput"]), number(seconds(one["p99_ttft_ms"])),
            number(one["p99_tpot_ms"]), number(one["capacity_requests_per_s"]), percent(one["headroom"]),
            percent((one["accuracy"] or {}).get("serves_load_in_draws")),
        )
        for one in found["ranked"]
    )  # fmt: skip
    return PageTable(head, rows)


def purchase_table(found: Mapping[str, Any]) -> PageTable:
    """Return what one more node of each offer adds, as a table."""
    return PageTable(PURCHASE_HEAD, tuple(purchase_rows([Purchase.from_json(one) for one in found["purchases"]])))


def _added_to(found: Mapping[str, Any]) -> str:
    base = found["purchases_added_to"]
    rate = base["capacity_requests_per_s"]
    serves = f"serves up to {number(rate)} requests/s" if rate else "serves no load within the SLO"
    return (
        f"One more node beside {base['fleet']}, which {serves}: the node types with the best estimate per dollar by "
        "simulation at one site (elsewhere taken to add as much), the others by the planner's estimate, scaled."
    )


def headline(found: Mapping[str, Any]) -> list[str]:
    """Return the answer as sentences."""
    best = found["ranked"][0]
    if found["budget_usd_per_hour"] is not None:
        return [
            f"For at most {found['budget_usd_per_hour']:g} $/h, {best['fleet']} has the highest capacity: "
            f"{number(best['capacity_requests_per_s'])} requests/s within the SLO, for {best['usd_per_hour']:.2f} $/h.",
            f"{len(found['tried'])} fleets were simulated: those with the highest estimated throughput within the "
            "budget, for each node type the largest fleet of that type alone, and single purchases.",
        ]
    if found["owned"] and not best["usd_per_hour"]:
        return [
            f"The owned nodes, {found['owned']}, serve {number(found['requests_per_s'])} requests/s within the SLO: "
            "nothing needs to be bought."
        ]
    price = "" if found["owned"] else f", {number(best['cost_usd_per_mtok'])} $ per million output tokens"
    sentences = [
        f"The cheapest fleet found is {best['fleet']}: {best['usd_per_hour']:.2f} $/h for "
        f"{number(found['requests_per_s'])} requests/s within the SLO{price}."
    ]
    bound = found["lower_bound_usd_per_hour"]
    if found["is_proven"]:
        sentences.append(
            f"No cheaper fleet can serve the load: {len(found['tried'])} fleets were simulated; the others are below a "
            "lower bound on the required resources, or contained in a fleet that failed."
        )
    else:
        sentences.append(
            f"{len(found['tried'])} fleets were simulated. Cheaper ones are not excluded: the lower bound is "
            f"{bound:.2f} $/h, so at most {found['gap']:.0%} could be saved."
        )
    return sentences


def sentences(found: Mapping[str, Any]) -> list[str]:
    """Return sentences on the bottleneck, the headroom and the next purchase."""
    best = found["ranked"][0]
    lines = [f"Bottleneck: {best['bottleneck']}"]
    if best["headroom"] is not None:
        lines.append(
            f"Headroom: this fleet serves up to {number(best['capacity_requests_per_s'])} requests/s within the SLO, "
            f"{percent(best['headroom'])} % more than required."
            if best["headroom"] >= 0
            else f"Headroom: none, it serves {number(best['capacity_requests_per_s'])} requests/s within the SLO."
        )
    accuracy = best["accuracy"]
    if accuracy is not None:
        band = accuracy["capacity_requests_per_s"]
        lines.append(
            f"Model error of this fleet {accuracy['sentence']}."
            + ("" if band is None else f" 80 % band of its capacity: {band_text(band)} requests/s.")
        )
    failing = [one for one in found["tried"] if not one["is_met"] and one["usd_per_hour"] < best["usd_per_hour"]]
    if failing and found["budget_usd_per_hour"] is None:
        nearest = max(failing, key=lambda one: (one["slack"] or 0.0, one["usd_per_hour"]))
        lines.append(
            f"The cheaper fleet that came closest, {nearest['fleet']} for {nearest['usd_per_hour']:.2f} $/h, fails: "
            f"{'; '.join(nearest['misses'])}."
        )
    idle = [f"{one['nodes']} {one['offer']}" for one in best["idle"]]
    if idle:
        lines.append(f"Nodes that hold no layers in the best fleet: {', '.join(idle)}.")
    per_rps = found["shadow_price_usd_per_hour_per_request_per_s"]
    if per_rps and found["budget_usd_per_hour"] is None:
        lines.append(f"Shadow price of load: near this fleet, one more request/s costs about {number(per_rps)} $/h.")
    lines += [
        f"Scarce: every {one['offer']} on offer is worth buying; one more would save about "
        f"{one['saves_usd_per_hour']:.2f} $/h by replacing other nodes."
        for one in found["scarce"]
    ]
    if said := purchase_sentence([Purchase.from_json(one) for one in found["purchases"]]):
        lines.append(f"{said[:-1]}, beside {found['purchases_added_to']['fleet']}.")
    return lines


def price_figure(table: pd.DataFrame) -> Figure:
    """Draw the price of each fleet against how far its tightest objective is from the limit."""
    figure = new_figure(3.6)
    axis = figure.subplots()
    for is_met, color, text in ((True, SYSTEM_COLORS[2], "meets the SLO"), (False, SYSTEM_COLORS[3], "misses the SLO")):
        own = table[(table["is_met"] == is_met) & table["slack"].notna()]
        axis.plot(own["slack"].clip(0.02), own["usd_per_hour"], "o", color=color, markersize=5, alpha=0.8, label=text)
    axis.axvline(1.0, color=GREY, linestyle="--", linewidth=1)
    axis.set_xscale("log")
    axis.xaxis.set_major_formatter(lambda value, _position: f"{value:g}")
    axis.set_xlabel("tightest objective / measured (1: just met; shown from 0.02)")
    axis.set_ylabel("$ per hour")
    axis.set_ylim(bottom=0)
    figure.legend(loc="outside upper center", ncols=2)
    return figure


def _command(one: Mapping[str, Any]) -> list[str]:
    nodes = next(text for text in one["settings"] if text.startswith("cluster.nodes="))
    return [f"python -m helixsim run EXPERIMENT --set '{nodes}' and the other settings in fleet.json"]
