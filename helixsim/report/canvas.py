"""The figures that are handed to scripts and notebooks; imported only when something is drawn."""

from __future__ import annotations

import inspect
import io
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

from matplotlib.figure import Figure

_NOTEBOOK_DPI = 110


class Drawing(Figure):
    """A figure that looks the same whatever the user's matplotlib settings are, and shows itself in a notebook.

    It is not registered with pyplot, so it needs no display and is freed with its last reference.

    Parameters
    ----------
    style
        Context in which the figure is rendered: ticks and layout are made at that time, by the settings of the moment.
    """

    def __init__(self, *, figsize: tuple[float, float], style: Callable[[], AbstractContextManager[None]]) -> None:
        super().__init__(figsize=figsize)
        self._style = style

    def draw(self, renderer: Any) -> None:
        """Render the figure."""
        with self._style():
            engine = self.get_layout_engine()
            if engine is not None and _is_disabled(renderer):
                engine.execute(self)  # matplotlib draws once without effect before it writes a file, for the layout
            else:
                super().draw(renderer)

    def savefig(self, fname: Any, *, transparent: bool | None = None, **options: Any) -> None:
        """Write the figure to a file; the suffix of the name decides the format."""
        with self._style():
            super().savefig(fname, transparent=transparent, **options)

    def _repr_png_(self) -> bytes:
        stream = io.BytesIO()
        self.savefig(stream, format="png", dpi=_NOTEBOOK_DPI)
        return stream.getvalue()


def _is_disabled(renderer: Any) -> bool:
    """Return whether the drawing methods of a renderer have been replaced by ones without effect."""
    return not inspect.ismethod(renderer.draw_path)
