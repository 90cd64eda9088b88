"""The measured cells of the paper's prototype as cells of model errors (``profiles/accuracy/prototype.csv``)."""

from __future__ import annotations

import math
from collections.abc import Sequence

import helixsim as hx
from helixsim.domain.figures import SettingFigures
from helixsim.errors import InfeasibleError
from helixsim.metrics.error_cells import error_columns, setting_columns, stages_of
from helixsim.papers.helix.cells import Part
from helixsim.papers.helix.fidelity import CellResult
from helixsim.study.systems import summary_of

_MEASURED = {"tpot": "step", "throughput": "throughput", "ttft": "ttft"}
"""Metric -> its figure in cells of the prototype, whose steps are those between two tokens."""


def rows(results: Sequence[CellResult]) -> list[dict[str, str | int | float]]:
    """Return the table of cells: a point for each measurement of one part; those of several parts are sums of these."""
    groups: dict[tuple[tuple[str, str | int], ...], list[CellResult]] = {}
    for result in results:
        if len(result.cell.parts) == 1:
            setting = setting_of(result.cell.parts[0])
            columns: dict[str, str | int] = {
                **setting_columns(setting),
                "stages": stages_of(setting),
                "timings": "+".join(setting.timings),
            }
            groups.setdefault(tuple(columns.items()), []).append(result)
    found: list[dict[str, str | int | float]] = []
    for cell, members in sorted(groups.items()):
        row: dict[str, str | int | float] = {**dict(cell), "points": len(members)}
        for metric, name in _MEASURED.items():
            logs = [log for member in members if (log := _log_error(member, name)) is not None]
            row |= error_columns(metric, logs)
        found.append(row)
    return found


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
    run = hx.simulate(experiment, placed)
    summary = summary_of(experiment, placed, run, offered_rps=experiment.workload_stats.offered_rps)
    if summary.setting is None:
        raise InfeasibleError(f"{part}: nothing is computed")
    return summary.setting
