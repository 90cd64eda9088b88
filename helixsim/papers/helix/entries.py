"""The figures: one declarative entry each, ``experiments/paper/figures/NAME.yaml``.

An entry says what its parts run, which published values they are held against and how they are drawn; the kinds of
parts are the code.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from pydantic import Field

from helixsim.errors import ConfigError, unknown_name
from helixsim.papers.helix.comparison import Comparison
from helixsim.papers.helix.gpus_needed import GpusNeeded
from helixsim.papers.helix.names import figure_names, figures_folder
from helixsim.papers.helix.parts import EntryContext, Part
from helixsim.papers.helix.published import Published, load_published
from helixsim.papers.helix.searches import Searches, Sizes
from helixsim.papers.helix.studies import LoadCurves, NodeLoads, Proxy
from helixsim.validation import Section, Words, read

AnyPart = Annotated[
    Comparison | LoadCurves | Proxy | NodeLoads | Searches | Sizes | GpusNeeded, Field(discriminator="kind")
]


class FigureFile(Section):
    """See ``Figure``."""

    paper: str = ""
    title: Words
    text: str = ""
    parts: dict[str, AnyPart]


@dataclass(frozen=True)
class Figure:
    """One entry.

    Parameters
    ----------
    paper
        What it is called in the paper; empty for what goes beyond it.
    text
        What a reader should know before looking.
    parts
        By name, in the order of the file.
    """

    name: str
    paper: str
    title: str
    text: str
    parts: dict[str, Part]


def load_figures(names: Sequence[str] = ()) -> list[Figure]:
    """Return figures by name, in their own order; all of them where none is named.

    Raises
    ------
    ConfigError
        If there is no figure of a name.
    DataError
        If an entry is not understood.
    """
    known = figure_names()
    for name in names:
        if name not in known:
            raise ConfigError(unknown_name("figure", name, known))
    published = load_published()
    return [_figure(figures_folder() / f"{name}.yaml", published) for name in known if not names or name in names]


def _figure(path: Path, published: Published) -> Figure:
    entry = read(path, FigureFile, EntryContext(str(path), path.parent.parent, published))
    return Figure(path.stem, entry.paper, entry.title, entry.text, dict(entry.parts))
