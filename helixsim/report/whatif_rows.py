"""What-if variants against the unchanged experiment: changes and results."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from helixsim.domain.summary import Summary, milliseconds
from helixsim.metrics.verdict import SystemVerdict
from helixsim.metrics.verdict_text import share_text
from helixsim.report.pages import Page, PageTable, Part, markdown
from helixsim.report.rows import notes
from helixsim.report.verdict_rows import high_latency, latency_number
from helixsim.results.runset import RunSet
from helixsim.units import MISSING, number
from helixsim.writing import write_text

_Figure = Callable[[Summary, SystemVerdict | None], float | str | None]

_SHOWN: tuple[tuple[str, _Figure, Callable[[Any], str]], ...] = (
    ("output tokens/s", lambda summary, _: summary.throughput.output_tokens_per_s, number),
    ("within SLO, %", lambda summary, _: summary.throughput.slo_attainment, share_text),
    ("TTFT p99, s", lambda summary, one: high_latency(summary, one, "TTFT")[0], latency_number),
    ("TPOT p99, ms", lambda summary, one: milliseconds(high_latency(summary, one, "TPOT")[0]), latency_number),
    ("$ per Mtok", lambda summary, _: summary.cost.usd_per_mtok, number),
    ("stable?", lambda summary, _: summary.load.saturation, str),
)

_Result = tuple[Summary, SystemVerdict | None]

HEAD = ("what if", "system", *(title for title, _, _ in _SHOWN))


def changes(runs: RunSet) -> list[tuple[str, str]]:
    """Return (variant, description of its changes); empty if there are no variants."""
    return [(one.name, "; ".join(one.changes) or "no change in cluster, links, model or load") for one in runs.whatif]


def rows(runs: RunSet) -> list[tuple[str, ...]]:
    """Return the figures of each unchanged system, followed by those of its variants with the relative change."""
    verdicts = runs.verdict.systems
    results = {name: (run.summary, verdicts.get(name)) for name, run in runs.items()}
    bases = dict.fromkeys(base for one in runs.whatif for base in one.systems.values())
    found: list[tuple[str, ...]] = []
    for base in bases:
        found.append(("unchanged", base, *_cells(results.get(base))))
        for one in runs.whatif:
            found += [
                (one.name, base, *_cells(results.get(name), results.get(base)))
                for name, own_base in one.systems.items()
                if own_base == base
            ]
    return found


def write_whatif(directory: Path, runs: RunSet) -> None:
    """Write ``whatif.md``: the changes, their results, and the bottleneck of each system."""
    page = Page(
        title=f"{runs.experiment}: what if",
        question=None,
        answer=tuple(f"{name}: {text}." for name, text in changes(runs)),
        parts=(
            Part("Results", table=PageTable(HEAD, tuple(rows(runs)))),
            Part("Bottlenecks", tuple(f"{name}: {sentence}" for name, sentence in notes(runs))),
        ),
    )
    write_text(directory / "whatif.md", markdown(page))


def _cells(result: _Result | None, base: _Result | None = None) -> Sequence[str]:
    if result is None:
        return ["no result", *[MISSING] * (len(_SHOWN) - 1)]
    cells = []
    for _, figure, text in _SHOWN:
        value, old = figure(*result), None if base is None else figure(*base)
        cell = MISSING if value is None else text(value)
        if isinstance(value, float) and isinstance(old, float) and old:
            change = value / old - 1
            if math.isfinite(change) and math.isfinite(old) and abs(change) >= 0.005:
                cell += f" ({100 * change:+.0f} %)"
        cells.append(cell)
    return cells
