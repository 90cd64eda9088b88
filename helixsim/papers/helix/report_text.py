"""The summary of reproduced figures as text for a terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from helixsim.papers.helix.tables import text_table

_NONE, _DRIFT = "–", "†"

_RATIOS = {
    "published": "published", "as_published": "as published", "fair": "fair",
    "fair_published": "fair, paper's placement",
}  # fmt: skip
"""Columns of ratios: key and heading."""


def text(document: Mapping[str, Any]) -> str:
    """Return the verdicts of ``build.summary`` as tables and sentences."""
    blocks = []
    if document["quick"]:
        blocks.append("coarse (--quick): one seed, short windows, small searches")
    if document["cells"]:
        blocks.append(_cells(document))
    if document["ratios"]:
        blocks.append(_ratios(document["ratios"]))
    if document["claims"]:
        blocks.append(_claims(document["claims"]))
    blocks += [
        f"{figure['paper'] or name}: {note}"
        for name, figure in document["figures"].items()
        for part in figure["parts"].values()
        for note in part["notes"]
    ]
    return "\n\n".join(blocks)


def _cells(document: Mapping[str, Any]) -> str:
    header = ("output tokens/s", "method", "published", "as published", "error")
    rows = [
        (cell["cell"], cell["method"], f"{cell['published']:.1f}", f"{cell['ours']:.1f}", f"{cell['error']:+.1%}")
        for cell in document["cells"]
    ]
    total, panels = len(document["cells"]), len(document["orders"])
    lines = [
        text_table(header, rows),
        f"within 10 %: {document['cells_met']} of {total} cells ({document['cells_met'] / total:.0%}); "
        f"order of methods kept in {document['orders_kept']} of {panels} panels",
    ]
    lines += [
        f"{cell['cell']}, {cell['method']}: {cell['error']:+.1%}: {cell['cause'] or 'cause not known'}"
        for cell in document["cells"]
        if not cell["met"]
    ]
    for order in document["orders"]:
        if order["swapped"]:
            pairs = ", ".join(" and ".join(pair) for pair in order["swapped"])
            lines.append(f"{order['cell']}: order of {pairs} differs")
    return "\n".join(lines)


def _ratios(rows: Sequence[Mapping[str, Any]]) -> str:
    table = text_table(
        ("Helix over", "", "", *_RATIOS.values()),
        [
            (row["cell"], f"{row['metric']} {row['statistic']}", row["other"], *(_ratio(row[name]) for name in _RATIOS))
            for row in rows
        ],
    )
    drifting = any(row[name] and not row[name]["is_steady"] for row in rows for name in _RATIOS)
    return f"{table}\n{_DRIFT}: one of the two still drifts in its window, under every seed" if drifting else table


def _claims(claims: Sequence[Mapping[str, Any]]) -> str:
    return text_table(
        ("claim", *_RATIOS.values(), "does it hold, fairly?"),
        [(check["claim"]["text"], *(_ratio(check[name]) for name in _RATIOS), check["sentence"]) for check in claims],
    )


def _ratio(ratio: Mapping[str, Any] | None) -> str:
    if ratio is None:
        return _NONE
    limits = "" if ratio["low"] is None else f" ({ratio['low']:.2f}–{ratio['high']:.2f})"
    return f"{ratio['value']:.2f}x{'' if ratio['is_steady'] else _DRIFT}{limits}"
