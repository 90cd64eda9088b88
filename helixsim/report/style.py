"""Style of all figures, and their files, whose bytes are the same for equal figures.

Colours are distinguishable for colour-blind readers and in grey print: Okabe and Ito's for systems, Paul Tol's "muted"
set for node types.
"""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from helixsim.escape import printable
from helixsim.results.columns import Columns
from helixsim.results.files import write_csv
from helixsim.writing import write_bytes

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

SYSTEM_COLORS = ("#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7", "#56B4E9", "#000000", "#B8A800")
NODE_TYPE_COLORS = ("#332288", "#44AA99", "#CC6677", "#DDCC77", "#88CCEE", "#882255", "#117733", "#999933", "#AA4499")
LINE_STYLES = ("-", "--", "-.", ":")
GREY = "#666666"
_WIDTH_IN = 9.0
_DPI = 160

_RC: dict[Any, Any] = {
    "font.family": "DejaVu Sans",
    "font.size": 9,
    "axes.titlesize": 10,
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#dddddd",
    "grid.linewidth": 0.6,
    "legend.frameon": False,
    "legend.fontsize": 8.5,
    "figure.constrained_layout.use": True,
    "svg.hashsalt": "helixsim",
    "svg.fonttype": "none",
    "text.parse_math": False,  # dollar signs in names are literal
}

_is_styled: ContextVar[bool] = ContextVar("is_styled", default=False)
"""Whether the settings of matplotlib are ``_RC`` at present."""


@dataclass(frozen=True, slots=True)
class FigureFile:
    """A written figure: file name without suffix, title, caption, and SVG text."""

    name: str
    title: str
    caption: str
    svg: str


@contextmanager
def styled() -> Iterator[None]:
    """Apply the common style to figures that are created and saved within the context."""
    import matplotlib as mpl

    if _is_styled.get():
        yield
        return
    token = _is_styled.set(True)
    try:
        with mpl.rc_context():
            mpl.rcdefaults()  # independent of the user's matplotlibrc
            mpl.rcParams.update(_RC)
            yield
    finally:
        _is_styled.reset(token)


def new_figure(height_in: float) -> Figure:
    """Return an empty figure of the common width; no display is needed."""
    from helixsim.report.canvas import Drawing

    return Drawing(figsize=(_WIDTH_IN, height_in), style=styled)


def drawn(draw: Callable[[], Figure]) -> Figure:
    """Return what a function draws, for scripts and notebooks."""
    with styled():
        figure = draw()
        _make_literal(figure)
    return figure


def small_multiples(names: list[str], height_in: float, *, same_y: bool = True) -> tuple[Figure, list[Axes]]:
    """Return a figure with one panel per name, at most two per row, with shared x (and y) axes."""
    columns = min(2, len(names))
    lines = -(-len(names) // columns)
    figure = new_figure(height_in * lines + 0.4)
    axes = figure.subplots(lines, columns, sharex=True, sharey=same_y, squeeze=False).ravel().tolist()
    for spare in axes[len(names) :]:
        spare.remove()
    panels = axes[: len(names)]
    for axis, name in zip(panels, names, strict=True):
        axis.set_title(name)
        axis.tick_params(labelbottom=True, labelleft=True)
    return figure, panels


def colors_of(names: Iterable[str], palette: tuple[str, ...] = SYSTEM_COLORS) -> dict[str, str]:
    """Return a colour for each name, in order; the palette is repeated if necessary."""
    return {name: palette[index % len(palette)] for index, name in enumerate(names)}


def shade_outside(axis: Axes, window_s: tuple[float, float]) -> None:
    """Shade the time outside the measurement window [s]."""
    left, right = axis.get_xlim()
    for start, end in ((left, window_s[0]), (window_s[1], right)):
        if end > start:
            axis.axvspan(start, end, color="#888888", alpha=0.15, linewidth=0)
    axis.set_xlim(left, right)


def write_figure(
    directory: Path, name: str, title: str, caption: str, figure: Figure, table: Columns | pd.DataFrame
) -> FigureFile:
    """Write a figure as SVG and PNG, and its data as CSV."""
    directory.mkdir(parents=True, exist_ok=True)
    svg, png = svg_and_png(figure)
    write_bytes(directory / f"{name}.svg", svg)
    write_bytes(directory / f"{name}.png", png)
    write_csv(directory / f"{name}.csv", table)
    return FigureFile(name, title, caption, svg.decode())


def svg_and_png(figure: Figure) -> tuple[bytes, bytes]:
    """Return the figure in both formats, with one layout; equal figures give equal bytes."""
    from helixsim.report.renderer import in_two_forms

    _make_literal(figure)
    with styled():
        both = in_two_forms(figure, _DPI)
    if both is not None:
        return _quoted(both[0].encode()), both[1]
    svg = svg_bytes(figure)
    figure.set_layout_engine("none")  # which keeps the positions: the layout takes as long as the drawing
    return svg, _png_bytes(figure)


def svg_bytes(figure: Figure) -> bytes:
    """Return the figure as SVG; equal figures give equal bytes."""
    stream = io.BytesIO()
    _make_literal(figure)
    figure.savefig(stream, format="svg", metadata={"Date": None, "Creator": None})
    return _quoted(stream.getvalue())


def _quoted(svg: bytes) -> bytes:
    """Return SVG without quotation marks in its comments."""
    return _COMMENT.sub(lambda found: found[0].replace(b'"', b"&quot;"), svg)


def png_bytes(figure: Figure) -> bytes:
    """Return the figure as PNG with 160 dots per inch."""
    _make_literal(figure)
    return _png_bytes(figure)


def _png_bytes(figure: Figure) -> bytes:
    stream = io.BytesIO()
    figure.savefig(stream, format="png", dpi=_DPI, metadata={"Software": None})
    return stream.getvalue()


def _make_literal(figure: Figure) -> None:
    """Show names literally, without control characters, and format powers of ten without mathtext."""
    from matplotlib.text import Text
    from matplotlib.ticker import FuncFormatter, LogFormatterSciNotation

    class Powers(LogFormatterSciNotation):
        """Powers of ten without mathtext, which is off."""

        def __call__(self, value: float, position: int | None = None) -> str:
            found = _POWER.fullmatch(super().__call__(value, position))
            if found is None:
                return f"{value:g}" if "$" in super().__call__(value, position) else ""
            return f"{found[1].replace(_TIMES, '×')}{found[2].translate(_SUPERSCRIPTS)}"

    for text in figure.findobj(Text):
        if isinstance(text, Text) and (shown := printable(text.get_text())) != text.get_text():
            text.set_text(shown)
    for axes in figure.get_axes():
        for axis in (axes.xaxis, axes.yaxis):
            major, minor = axis.get_major_formatter(), axis.get_minor_formatter()
            if isinstance(major, FuncFormatter):  # also of fixed labels, which may be names
                axis.set_major_formatter(_printable_labels(major.func))
            if isinstance(major, LogFormatterSciNotation):
                axis.set_major_formatter(Powers())
            if isinstance(minor, LogFormatterSciNotation):
                axis.set_minor_formatter(Powers())


def _printable_labels(label_of: Callable[..., str]) -> Callable[[float, float], str]:
    return lambda value, position: printable(label_of(value, position))


_COMMENT = re.compile(rb"<!--.*?-->", re.DOTALL)
_TIMES = r"\times"
_POWER = re.compile(r"\$\\mathdefault\{(.*)\^\{(-?\d+)\}\}\$")
_SUPERSCRIPTS = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")
