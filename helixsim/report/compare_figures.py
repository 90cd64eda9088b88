"""Latency distributions of a simulated and a measured run in one figure."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from helixsim.domain.result import FloatArray
from helixsim.report.style import SYSTEM_COLORS, new_figure, png_bytes, styled, svg_bytes
from helixsim.writing import write_bytes


def write_cdf_figure(path: Path, curves: Mapping[str, Mapping[str, FloatArray]]) -> None:
    """Write cumulative distributions: ``curves`` maps quantities (title with unit) to the samples of each run.

    The suffix of ``path`` decides the format: ``.png``, anything else is SVG.
    """
    with styled():
        figure = new_figure(3.2)
        axes = figure.subplots(1, len(curves), squeeze=False)[0]
        for axis, (title, runs) in zip(axes, curves.items(), strict=True):
            for color, (name, samples) in zip(SYSTEM_COLORS, runs.items(), strict=False):
                x = np.sort(samples[~np.isnan(samples)])
                axis.step(x, np.arange(1, len(x) + 1) / max(len(x), 1), where="post", color=color, label=name)
            axis.set_xlabel(title)
            axis.set_ylabel("share of requests")
            axis.set_ylim(0, 1)
            axis.legend(loc="lower right")
        write_bytes(path, png_bytes(figure) if path.suffix == ".png" else svg_bytes(figure), devices=True)
