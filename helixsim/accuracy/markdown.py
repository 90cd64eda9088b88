"""The tables of the page of accuracy as Markdown, for documents."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from helixsim.accuracy.cells import Error
from helixsim.accuracy.page import AccuracyPage, count_text, share_text, shown
from helixsim.report.pages import Page, PageTable, Part
from helixsim.report.pages import markdown as page_markdown

WORST = 10
"""Worst points in the document; the page shows more."""


def markdown(page: AccuracyPage) -> str:
    """Return the summary, the errors by property, the worst points and the reasons, with headings of level three."""
    view = shown(page)
    parts = [
        *_predictors(view),
        *_breakdowns(view),
        *_worst(view),
        *_apart(view),
        *_bands(view),
        *_reasons(view),
        *(_replay(replay) for replay in view["replays"]),
    ]
    whole = page_markdown(Page("Accuracy", None, (view["lead"], *view["method"]), tuple(parts)))
    return whole.partition("\n")[2].strip().replace("\n## ", "\n### ") + "\n"


def _predictors(view: dict[str, Any]) -> list[Part]:
    if not view["predictors"]:
        return []
    rows = tuple((name, count_text(count), *_figures(found)) for name, count, found in view["predictors"])
    return [Part("Predictors on the same points", table=PageTable(("", "points", *_heads(view)), rows))]


def _breakdowns(view: dict[str, Any]) -> list[Part]:
    return [
        Part(f"By {title}", table=PageTable((title, "points", *_heads(view)), tuple(map(_row, rows))))
        for title, rows in view["breakdowns"]
    ]


def _row(row: dict[str, Any]) -> tuple[str, ...]:
    return (row["label"], count_text(row["summaries"][0].count), *_figures(row["summaries"]))


def _apart(view: dict[str, Any]) -> list[Part]:
    """Return the tables of runs with prefill and decode on different GPUs."""
    shown_apart = view["apart"]
    if shown_apart is None:
        return []
    count, found = shown_apart["all"]
    rows = [("all", count_text(count), *_figures(found))]
    rows += [(f"{title}: {row['label']}", *_row(row)[1:]) for title, own in shown_apart["breakdowns"] for row in own]
    table = PageTable(("", "points", *_heads(view)), tuple(rows))
    return [
        Part("Prefill and decode on different GPUs", (shown_apart["about"],), table),
        *_worst(shown_apart, "Worst points of TPOT with prefill and decode apart"),
        Part(
            "Runs with prefill and decode apart that are not expressed",
            table=PageTable(("rows", "reason"), tuple((count_text(n), why) for why, n in shown_apart["reasons"])),
        ),
    ]


def _worst(view: dict[str, Any], title: str = "Worst points of TPOT") -> list[Part]:
    head = ("point", "measured, ms", "helixsim, ms", "error", "tables' static estimate", "cause")
    rows = tuple(
        (
            f"{row['setting']}; {row['load']}",
            row["measured"],
            row["predicted"],
            share_text(row["error"], True),
            share_text(row["static"], True),
            row["cause"],
        )
        for row in view["worst"][:WORST]
    )
    return [Part(title, table=PageTable(head, rows))] if rows else []


def _bands(view: dict[str, Any]) -> list[Part]:
    rows = tuple(
        (f"{title}: {name}", count_text(count), *(share_text(share) for share in shares))
        for title, found in view["bands"]
        for name, count, shares in found
    )
    about = "Share of points within the 80 % band of the model error, with each kind left out of the table behind it."
    return [Part("Bands", (about,), PageTable(("left out", "points", *view["metric_titles"]), rows))] if rows else []


def _reasons(view: dict[str, Any]) -> list[Part]:
    rows = tuple((reason, count_text(count)) for reason, count in view["reasons"])
    head = ("reason", "points")
    return [Part("Points that are not expressed", (view["coverage"],), PageTable(head, rows))] if rows else []


def _replay(replay: dict[str, Any]) -> Part:
    rows = tuple(
        (label, measured, simulated, share_text(error, True)) for label, measured, simulated, error in replay["figures"]
    )
    return Part(replay["title"], (replay["about"],), PageTable(("", "measured", "helixsim", "error"), rows))


def _heads(view: dict[str, Any]) -> list[str]:
    return [f"{title}: median / p90 / bias, %" for title in view["metric_titles"]]


def _figures(summaries: Sequence[Error | None]) -> list[str]:
    cells = []
    for one in summaries:
        values = (None, None, None) if one is None else (one.median, one.p90, one.bias)
        shares = (share_text(value, sign) for value, sign in zip(values, (False, False, True), strict=True))
        cells.append(" / ".join(share.removesuffix("\u00a0%") for share in shares))
    return cells
