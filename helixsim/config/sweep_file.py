"""sweep.yaml -> SweepPlan: a base experiment, axes over its keys, seeds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from helixsim.config.edit import Edit, edits_of
from helixsim.config.former import RENAMES
from helixsim.config.source import Source
from helixsim.config.sweep_schema import AxisSection, PlotSection, SampleSection, SweepSection
from helixsim.config.tenants import refuse_tenants
from helixsim.errors import ConfigError, Problem
from helixsim.rng import stream
from helixsim.validation import problems_of
from helixsim.yamlio import KeyPath


@dataclass(frozen=True, slots=True)
class Block:
    """One factor of the design: its points, each with edits of the same keys."""

    points: tuple[tuple[Edit, ...], ...]
    is_sampled: bool = False


@dataclass(frozen=True, slots=True)
class Objective:
    """The objective of a sweep."""

    metric: str
    is_max: bool


@dataclass(frozen=True, slots=True)
class Plot:
    """A configured figure; see ``sweep_schema.PlotSection``."""

    kind: str
    x: str
    y: str
    value: str | None = None
    x_goal: str = "min"
    y_goal: str = "max"
    beside: tuple[str, ...] = ()

    @property
    def results(self) -> tuple[str, ...]:
        """What its lines show, or the one result on its second axis."""
        return (self.y, *self.beside)


@dataclass(frozen=True)
class SweepPlan:
    """A sweep as written: ``settings`` apply to every point, the design is the product of ``blocks``."""

    name: str
    question: str | None
    base: Path
    settings: tuple[Edit, ...]
    seeds: int | tuple[int, ...] | None
    blocks: tuple[Block, ...]
    objective: Objective | None
    plots: tuple[Plot, ...] | None


def load_sweep(path: Path, edits: Sequence[Edit] = (), *, seeds: int | None = None) -> SweepPlan:
    """Read a sweep file.

    Parameters
    ----------
    edits
        Changes of the experiment in every point, after those of the file.
    seeds
        Number of replications that replaces that of the file.

    Raises
    ------
    ConfigError
        With every fault found, each with file, line and column.
    """
    source = Source.read(path)
    refuse_tenants(source, f"a sweep with base: {path.name} and axes")
    if seeds is not None:
        source = source.edited(Edit.of("seeds", seeds, "--seeds"))
    try:
        section = SweepSection.model_validate(source.data)
    except ValidationError as error:
        raise ConfigError([*source.problems, *problems_of(error, source, SweepSection)]) from error
    problems = list(source.problems)
    base = source.file(("base",), section.base)
    if not base.is_file():
        problems.append(source.problem(("base",), f"no such file: {base}"))
    if isinstance(section.seeds, list) and (len(set(section.seeds)) != len(section.seeds) or not section.seeds):
        problems.append(source.problem(("seeds",), "give at least one seed, without repetition"))
    blocks = tuple(_block(axis, ("axes", number), source) for number, axis in enumerate(section.axes))
    settings = (*settings_of(section.set_, source), *edits)
    problems += _keys_given_twice(blocks, settings, source)
    if problems:
        raise ConfigError(problems)
    objective = section.objective
    return SweepPlan(
        name=section.name or path.stem,
        question=section.question,
        base=base,
        settings=settings,
        seeds=tuple(section.seeds) if isinstance(section.seeds, list) else section.seeds,
        blocks=blocks,
        objective=None if objective is None else Objective(objective.metric, objective.goal == "max"),
        plots=None if section.plots is None else tuple(map(_plot, section.plots)),
    )


def settings_of(written: Mapping[str, Any], source: Source) -> tuple[Edit, ...]:
    """Return the edits under the ``set`` of a file."""
    return tuple(Edit.of(key, value, source.where(("set", key))) for key, value in written.items())


def _plot(plot: PlotSection) -> Plot:
    axes = {name: ".".join(RENAMES.path(tuple(getattr(plot, name).split(".")), "plots")) for name in ("x", "y")}
    return Plot(**{**plot.model_dump(), **axes, "beside": tuple(plot.beside)})


def _block(axis: AxisSection, at: KeyPath, source: Source) -> Block:
    listed = "list" if axis.list_ is not None else "values" if axis.values is not None else None
    points = []
    for number, point in enumerate(_points(axis)):
        where = source.where(at if listed is None else (*at, listed, number))
        points.append(edits_of(point, where))
    return Block(tuple(points), is_sampled=axis.sample is not None)


def _points(axis: AxisSection) -> list[dict[str, Any]]:
    """Return the points of an axis, each values for the same keys."""
    if axis.list_ is not None:
        return list(axis.list_)
    if axis.zip_ is not None:
        return [{path: values[number] for path, values in axis.zip_.items()} for number in range(axis.length())]
    if axis.sample is not None:
        return _sampled(axis.sample)
    path = str(axis.path)
    if axis.values is not None:
        return [{path: value} for value in axis.values]
    last = (axis.steps or 2) - 1
    return [{path: axis.at(number / last)} for number in range(last + 1)]


def _sampled(sample: SampleSection) -> list[dict[str, Any]]:
    """Return the points of a random or Latin hypercube design, with one random stream per key.

    A Latin hypercube divides every range into as many equal parts as there are points, with one value in each part.
    """
    shares: dict[str, list[float]] = {}
    for entry in sample.over:
        rng = stream(sample.seed, f"sweep {entry.path}")
        if sample.method == "random":
            shares[entry.path] = rng.random(sample.points).tolist()
        else:
            shares[entry.path] = ((rng.permutation(sample.points) + rng.random(sample.points)) / sample.points).tolist()
    return [
        {entry.path: entry.at(shares[entry.path][number]) for entry in sample.over} for number in range(sample.points)
    ]


def _keys_given_twice(blocks: Sequence[Block], settings: Sequence[Edit], source: Source) -> list[Problem]:
    problems = []
    taken: dict[str, int] = {}
    for number, block in enumerate(blocks):
        for key in (edit.key for edit in block.points[0]):
            if key in taken:
                problems.append(source.problem(("axes", number), f"{key} is already an axis (axes.{taken[key]})"))
            taken[key] = number
    problems += [
        Problem(edit.where, edit.key, f"{edit.key} is also an axis (axes.{taken[edit.key]})")
        for edit in settings
        if edit.key in taken
    ]
    return problems
