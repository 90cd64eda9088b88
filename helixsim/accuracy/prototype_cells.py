"""The measured cells of the paper's prototype as cells of model errors (``profiles/accuracy/prototype.csv``)."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence

import helixsim as hx
from helixsim.domain.figures import SettingFigures
from helixsim.errors import InfeasibleError
from helixsim.metrics.error_cells import BATCHES, CONTEXTS, bucket
from helixsim.metrics.summary import summarise
from helixsim.papers.helix.cells import Part
from helixsim.papers.helix.fidelity import CellResult

_MEASURED = {"tpot": "step", "throughput": "throughput", "ttft": "ttft"}
"""Metric -> its figure in cells of the prototype, whose steps are those between two tokens."""


def rows(results: Sequence[CellResult]) -> list[dict[str, str | int | float]]:
    """Return the table of cells: a point for each measurement of one part; those of several parts are sums of these."""
    groups: dict[tuple[tuple[str, str | int], ...], list[CellResult]] = {}
    for result in results:
        if len(result.cell.parts) == 1:
            groups.setdefault(tuple(_columns(setting_of(result.cell.parts[0])).items()), []).append(result)
    found: list[dict[str, str | int | float]] = []
    for columns, members in sorted(groups.items()):
        row: dict[str, str | int | float] = {**dict(columns), "points": len(members)}
        for metric, name in _MEASURED.items():
            logs = [log for member in members if (log := _log_error(member, name)) is not None]
            row[f"{metric}_log_error_mean"] = round(statistics.fmean(logs), 4) if logs else ""
            row[f"{metric}_log_error_sd"] = round(statistics.pstdev(logs), 4) if logs else ""
        found.append(row)
    return found


def _columns(setting: SettingFigures) -> dict[str, str | int]:
    """Return the columns of a cell that tell its setting."""
    return {
        "gpu": "+".join(sorted({node.gpu for node in setting.nodes})),
        "engine": setting.engine,
        "family": setting.family,
        "weights": setting.weights,
        "gpus": max(node.gpus for node in setting.nodes),
        "batch": list(BATCHES)[bucket(setting.batch, BATCHES)],
        "context": list(CONTEXTS)[bucket(setting.context_tokens, CONTEXTS)],
        "stages": math.ceil(setting.stages),
        "timings": "+".join(setting.timings),
    }


def _log_error(result: CellResult, name: str) -> float | None:
    """Return ln(simulated / measured) of a figure; None where either is missing or 0."""
    simulated, measured = result.simulated.get(name), result.cell.measured.get(name)
    return math.log(simulated / measured) if simulated and measured else None


def setting_of(part: Part) -> SettingFigures:
    """Return the setting of a part, its load as simulated under the seed of its experiment.

    Raises
    ------
    InfeasibleError
        If nothing is computed.
    """
    experiment = hx.load(part.file).resolve()
    placed = hx.place(experiment, part.system, by_flow=True)
    stats = experiment.workload_stats
    summary = summarise(
        hx.simulate(experiment, placed),
        slo=experiment.slo,
        fleet=placed.system.fleet,
        placement=placed.placement,
        plan=placed.plan,
        mean_prompt_tokens=stats.mean_prompt_tokens,
        mean_output_tokens=stats.mean_output_tokens,
        offered_rps=stats.offered_rps,
        engine=experiment.engine,
    )
    if summary.setting is None:
        raise InfeasibleError(f"{part}: nothing is computed")
    return summary.setting
