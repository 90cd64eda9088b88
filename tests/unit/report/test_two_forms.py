"""A figure that is drawn once as SVG and PNG looks as it does when it is drawn for each."""

from __future__ import annotations

import io

import matplotlib as mpl
import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image

from helixsim.report import style


def drawing(kind: str) -> Figure:
    """Return a figure with lines, markers, bars, clipped areas, collections and texts; or one with an image."""
    figure = style.new_figure(2.5)
    left, right = figure.subplots(1, 2)
    if kind == "image":
        left.imshow(np.arange(12).reshape(3, 4))
    left.plot([1, 2, 3], [4, 1, 5], "o--", label="first")
    left.axvspan(1.5, 9, alpha=0.3)  # clipped by the axes
    left.set_xlim(1, 3)
    left.set_yscale("log")
    left.fill_between([1, 2, 3], [1, 1, 1], [2, 3, 2], hatch="//")
    left.annotate("here", (2, 1.2), rotation=30)
    right.barh([0, 1], [3, 4], hatch="xx")
    right.errorbar([3, 4], [0, 1], xerr=[[1, 1], [2, 2]], fmt="none", capsize=3)
    right.vlines([1, 2], 0, 1, linestyle=":")
    right.scatter(*np.random.default_rng(0).random((2, 40)), s=20)
    right.stairs([1, 2, 1], [0, 1, 2, 3], baseline=None)
    figure.legend(loc="outside upper right")
    return figure


def pixels(png: bytes) -> np.ndarray:
    image = Image.open(io.BytesIO(png))
    assert image.info["dpi"] == pytest.approx((160, 160), abs=0.1)
    return np.asarray(image.convert("L"), dtype=np.float64)


def blurred(picture: np.ndarray) -> np.ndarray:
    """Return the means of squares of 8 x 8 pixels: a text may lie a part of a pixel beside its place."""
    height, width = (size // 8 * 8 for size in picture.shape)
    return picture[:height, :width].reshape(height // 8, 8, width // 8, 8).mean(axis=(1, 3))


@pytest.mark.parametrize("kind", ["lines", "image"])
def test_once_for_both_is_as_for_each(kind: str) -> None:
    with style.styled():
        svg, png = style.svg_and_png(drawing(kind))
        assert svg == style.svg_bytes(drawing(kind))
        found, expected = pixels(png), pixels(style.png_bytes(drawing(kind)))
    assert found.shape == expected.shape
    assert found.std() > 10  # something is drawn
    assert np.abs(blurred(found) - blurred(expected)).max() < 60
    assert np.abs(blurred(found) - blurred(expected)).mean() < 1.0


def test_it_does_not_depend_on_the_settings_outside() -> None:
    with style.styled():
        expected = style.svg_and_png(drawing("lines"))
    with mpl.rc_context({"lines.linewidth": 9, "figure.dpi": 33, "font.size": 30, "savefig.dpi": 11}):
        with style.styled():
            figure = drawing("lines")
        assert style.svg_and_png(figure) == expected
