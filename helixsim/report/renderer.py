"""SVG and PNG of a figure from one drawing: placing ticks and text takes longer than writing both; imported lazily."""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from matplotlib.backend_bases import GraphicsContextBase
from matplotlib.backends.backend_agg import RendererAgg
from matplotlib.backends.backend_svg import FigureCanvasSVG, RendererSVG
from matplotlib.figure import Figure
from matplotlib.image import imsave
from matplotlib.transforms import Affine2D, Affine2DBase, TransformedBbox, TransformedPath

_POINTS_PER_INCH = 72


class _TwoForms(RendererSVG):
    """Draws as SVG, in points, and the same on a raster of finer pixels. Images are not supported."""

    def __init__(self, figure: Figure, stream: io.StringIO, dpi: int) -> None:
        width, height = figure.get_size_inches() * _POINTS_PER_INCH
        super().__init__(width, height, stream, image_dpi=dpi, metadata={"Date": None, "Creator": None})  # type: ignore[no-untyped-call]
        self._ratio = dpi / _POINTS_PER_INCH
        self._enlarged = Affine2D().scale(self._ratio)
        self._is_alone = False
        self.raster: Any = RendererAgg(int(width * self._ratio), int(height * self._ratio), dpi)  # type: ignore[no-untyped-call]

    def draw_path(self, gc: Any, path: Any, transform: Any, rgbFace: Any = None) -> None:  # noqa: N803  # matplotlib's
        """Draw a path."""
        super().draw_path(gc, path, transform, rgbFace)  # type: ignore[no-untyped-call]
        if not self._is_alone:
            self.raster.draw_path(self._fine(gc), path, self._on_raster(transform), rgbFace)

    def draw_markers(
        self,
        gc: Any,
        marker_path: Any,
        marker_trans: Any,
        path: Any,
        trans: Any,
        rgbFace: Any = None,  # noqa: N803
    ) -> None:
        """Draw a marker at each point of a path."""
        super().draw_markers(gc, marker_path, marker_trans, path, trans, rgbFace)  # type: ignore[no-untyped-call]
        self.raster.draw_markers(
            self._fine(gc), marker_path, self._on_raster(marker_trans), path, self._on_raster(trans), rgbFace
        )

    def draw_path_collection(
        self, gc: Any, master_transform: Any, paths: Any, all_transforms: Any, offsets: Any, offset_trans: Any,
        *styles: Any, **more: Any,
    ) -> None:  # fmt: skip
        """Draw many paths of few styles."""
        with self._alone():
            super().draw_path_collection(  # type: ignore[no-untyped-call]
                gc, master_transform, paths, all_transforms, offsets, offset_trans, *styles, **more
            )
        self.raster.draw_path_collection(
            self._fine(gc), self._on_raster(master_transform), paths, all_transforms, offsets,
            self._on_raster(offset_trans), *styles, **more,
        )  # fmt: skip

    def draw_text(
        self, gc: Any, x: float, y: float, s: str, prop: Any, angle: float, ismath: Any = False, mtext: Any = None
    ) -> None:
        """Draw a text whose baseline begins at a point."""
        super().draw_text(gc, x, y, s, prop, angle, ismath, mtext)  # type: ignore[no-untyped-call]
        self.raster.draw_text(self._fine(gc), x * self._ratio, y * self._ratio, s, prop, angle, ismath, mtext)

    def draw_image(self, *_arguments: Any, **_more: Any) -> None:
        """Refuse: an image is resampled for one resolution."""
        raise NotImplementedError("an image has no drawing in two forms")

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """Draw as SVG only."""
        self._is_alone = True
        yield
        self._is_alone = False

    def _on_raster(self, transform: Any) -> Affine2DBase:
        """Return a transform to pixels of the raster."""
        enlarged: Affine2DBase = (transform + self._enlarged).frozen()
        return enlarged

    def _fine(self, gc: Any) -> GraphicsContextBase:
        """Return a graphics context that clips on the raster; widths and dashes are in points in both."""
        fine = GraphicsContextBase()
        fine.copy_properties(gc)
        rectangle = gc.get_clip_rectangle()
        if rectangle is not None:
            fine.set_clip_rectangle(TransformedBbox(rectangle, self._enlarged))  # type: ignore[arg-type]
        path, transform = gc.get_clip_path()
        if path is not None:
            fine.set_clip_path(TransformedPath(path, transform + self._enlarged))
        return fine


def in_two_forms(figure: Figure, dpi: int) -> tuple[str, bytes] | None:
    """Return a figure as SVG and as PNG, laid out for the former; None: it has images, which each form resamples."""
    if any(axes.images for axes in figure.get_axes()):
        return None
    FigureCanvasSVG(figure)  # the layout asks the canvas of a figure for the sizes of texts
    figure.set_dpi(_POINTS_PER_INCH)
    engine = figure.get_layout_engine()
    if engine is not None:
        engine.execute(figure)
        figure.set_layout_engine("none")
    stream = io.StringIO()
    both = _TwoForms(figure, stream, dpi)
    figure.draw(both)
    both.finalize()  # type: ignore[no-untyped-call]
    png = io.BytesIO()
    imsave(
        png, both.raster.buffer_rgba(), format="png", dpi=dpi, metadata={"Software": None},  # type: ignore[dict-item]
        pil_kwargs={"compress_level": _COMPRESSION},
    )  # fmt: skip
    return stream.getvalue(), png.getvalue()


_COMPRESSION = 1
"""Of PNG files: a fifth larger than at the usual 6, in two thirds of the time."""
