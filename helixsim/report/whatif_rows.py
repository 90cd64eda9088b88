"""What-if variants against the unchanged experiment: what was changed, and what comes of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from helixsim.report.pages import Page, PageTable, Part, markdown
from helixsim.report.rows import MISSING, notes, number, percent, seconds
from helixsim.writing import write_text

_SHOWN = (
    ("output tokens/s", ("output_throughput",), number),
    ("within SLO, %", ("helixsim", "slo_attainment"), percent),
    ("TTFT p99, s", ("p99_ttft_ms",), seconds),
    ("TPOT p99, ms", ("p99_tpot_ms",), number),
    ("$ per Mtok", ("helixsim", "cost_usd_per_mtok"), number),
    ("keeps up?", ("helixsim", "saturation"), str),
)

HEAD = ("what if", "system", *(title for title, _, _ in _SHOWN))


def changes(document: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return (variant, what was changed in words) of a ``summary.json``; empty if it has no variants."""
    return [
        (one["name"], "; ".join(one["changes"]) or "nothing that shows in fleet, links, model or load")
        for one in document.get("whatif", ())
    ]


def rows(document: Mapping[str, Any]) -> list[tuple[str, ...]]:
    """Return for each system its unchanged figures, then those of every variant with the relative change."""
    systems = document["systems"]
    bases = dict.fromkeys(base for one in document.get("whatif", ()) for base in one["systems"].values())
    found: list[tuple[str, ...]] = []
    for base in bases:
        found.append(("as it is", base, *_cells(systems.get(base))))
        for one in document["whatif"]:
            found += [
                (one["name"], base, *_cells(systems.get(name), systems.get(base)))
                for name, own_base in one["systems"].items()
                if own_base == base
            ]
    return found


def write_whatif(directory: Path, document: Mapping[str, Any]) -> None:
    """Write ``whatif.md``: what was changed, what comes of it, and what binds each system."""
    page = Page(
        title=f"{document['experiment']}: what if",
        question=None,
        answer=tuple(f"{name}: {text}." for name, text in changes(document)),
        parts=(
            Part("What comes of it", table=PageTable(HEAD, tuple(rows(document)))),
            Part("What binds", tuple(f"{name}: {sentence}" for name, sentence in notes(document))),
        ),
    )
    write_text(directory / "whatif.md", markdown(page))


def _cells(summary: Mapping[str, Any] | None, base: Mapping[str, Any] | None = None) -> Sequence[str]:
    if summary is None:
        return ["no result", *[MISSING] * (len(_SHOWN) - 1)]
    cells = []
    for _, path, text in _SHOWN:
        value, old = _at(summary, path), None if base is None else _at(base, path)
        cell = MISSING if value is None else text(value)
        if isinstance(value, float) and old and abs(value / old - 1) >= 0.005:
            cell += f" ({100 * (value / old - 1):+.0f} %)"
        cells.append(cell)
    return cells


def _at(summary: Mapping[str, Any], path: Sequence[str]) -> Any:
    value: Any = summary
    for key in path:
        value = value[key]
    return value
