"""The measured cells of the paper's prototype (``papers.helix.fidelity``) as a section of the page."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from helixsim.papers.helix.cells import METRICS
from helixsim.papers.helix.fidelity import CellResult, summary
from helixsim.report.charts import Axis, Chart, Curve, Dots, log_axis
from helixsim.units import number

TITLES = {"throughput": "decode tokens/s", "ttft": "mean TTFT, s", "step": "mean decode step, s"}

_SENTENCES = (
    "24 machines with 4 A100-40G, 8 L4 and 12 T4, vLLM 0.4 on each, LLaMA-1 30B and LLaMA-2 70B, runs of 300 s "
    "(Helix, ASPLOS 2025), with the engine helix-vllm-0.4. Cells marked * take no part in the fit of its overheads.",
)


def shown(results: Sequence[CellResult]) -> dict[str, Any] | None:
    """Return sentences, summary, charts and table of the cells; None without any."""
    if not results:
        return None
    found = summary(results)
    return {
        "sentences": _SENTENCES,
        "titles": list(TITLES.values()),
        "summary": [{"title": title, **found[metric]} for metric, title in TITLES.items() if found[metric]["cells"]],
        "legend": (("c1", "helixsim"), ("c2", "the paper's simulator")),
        "charts": [chart for metric in METRICS if (chart := _chart(results, metric)) is not None],
        "rows": [_row(result) for result in results],
    }


def _chart(results: Sequence[CellResult], metric: str) -> Chart | None:
    ours: list[tuple[str, float, float]] = []
    theirs: list[tuple[str, float, float]] = []
    for result in results:
        measured = result.cell.measured.get(metric)
        for points, value in ((ours, result.simulated.get(metric)), (theirs, result.cell.paper.get(metric))):
            if measured and value:
                text = f"{result.cell.name}: measured {number(measured)}, simulated {number(value)}"
                points.append((text, measured, value))
    values = [value for _, *pair in (*ours, *theirs) for value in pair]
    if not values:
        return None
    axis = log_axis(f"measured {TITLES[metric]}", values)
    ends = (axis.low, axis.high)
    return Chart(
        f"prototype-{metric}",
        TITLES[metric][0].upper() + TITLES[metric][1:],
        f"Simulated against measured {TITLES[metric]} of {len(ours)} cells of the prototype, on logarithmic axes.",
        axis,
        Axis("simulated", axis.low, axis.high, axis.ticks, is_log=True),
        dots=(_dots("c2 large", theirs), _dots("c1 large", ours)),
        guides=(Curve("main", ends, ends),),
        height=324.0,
    )


def _dots(kind: str, points: Sequence[tuple[str, float, float]]) -> Dots:
    return Dots(kind, [(x, y) for _, x, y in points], [text for text, _, _ in points])


def _row(result: CellResult) -> tuple[str, list[tuple[str, str, float | None]]]:
    name = result.cell.name + ("" if result.cell.is_fitted else " *")
    return name, [
        (number(result.cell.measured.get(metric)), number(result.simulated.get(metric)), result.error(metric))
        if result.cell.measured.get(metric) is not None
        else ("–", "–", None)
        for metric in METRICS
    ]
