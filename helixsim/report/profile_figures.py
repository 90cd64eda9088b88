"""Fitted timing curves and the measured points."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from helixsim.domain.curves import Curve
from helixsim.report.style import SYSTEM_COLORS, new_figure, png_bytes, styled, svg_bytes
from helixsim.units import NS_PER_MS
from helixsim.writing import write_bytes


@dataclass(frozen=True)
class FitPanel:
    """One table and its curve: (batch, ms) points; ``axis`` is the label of the x axis."""

    title: str
    axis: str
    points: Sequence[tuple[float, float]]
    curve: Curve


def write_fit_figure(path: Path, panels: Sequence[FitPanel]) -> None:
    """Write one panel per table, two per row; ``.png`` files are PNG, all others SVG."""
    with styled():
        lines = -(-len(panels) // 2)
        figure = new_figure(2.6 * lines)
        axes = figure.subplots(lines, 2, squeeze=False).ravel().tolist()
        for spare in axes[len(panels) :]:
            spare.remove()
        for axis, panel in zip(axes, panels, strict=False):
            points = [point for point in panel.points if point[0] > 0]
            grid = np.linspace(1, points[-1][0], 300)
            axis.plot([x for x, _ in points], [y for _, y in points], ".", color=SYSTEM_COLORS[0], label="table")
            axis.plot(grid, [panel.curve(x) / NS_PER_MS for x in grid], color=SYSTEM_COLORS[3], label="fit")
            axis.set_title(panel.title)
            axis.set_xlabel(panel.axis)
            axis.set_ylabel("ms per layer")
            axis.legend(loc="upper left")
        write_bytes(path, png_bytes(figure) if path.suffix == ".png" else svg_bytes(figure), devices=True)
