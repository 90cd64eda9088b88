"""The format of sweep.yaml."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field, model_validator

from helixsim.config.fields import Name, Seed
from helixsim.validation import Section

_QUANTITY = re.compile(r"\s*([+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?)\s*(\S.*)?")


class ValuesSection(Section):
    """Values of one key: a list or a range."""

    values: Annotated[list[Any], Field(min_length=1)] | None = Field(None, description="The values.")
    from_: int | float | str | None = Field(None, alias="from", description="First value; may have a unit.")
    to: int | float | str | None = Field(None, description="Last value, in the same unit.")
    scale: Literal["linear", "log"] = Field("linear", description="Equal steps (`linear`) or equal ratios (`log`).")
    whole: bool = Field(False, description="Round to whole numbers.")

    @model_validator(mode="after")
    def _ends_agree(self) -> ValuesSection:
        if self.from_ is not None or self.to is not None:
            self.ends()
        return self

    def ends(self) -> tuple[float, float, str | None]:
        """Return both ends of a range and their unit.

        Raises
        ------
        ValueError
            If an end is missing or not a number, the units differ, or a logarithmic range includes zero.
        """
        found = []
        for end in (self.from_, self.to):
            match = _QUANTITY.fullmatch(str(end))
            if match is None:
                raise ValueError(f"from and to must be numbers or quantities, got {end!r}")
            found.append((float(match.group(1)), match.group(2)))
        (low, unit), (high, other) = found
        if unit != other:
            raise ValueError(f"from and to must have the same unit, got {self.from_!r} and {self.to!r}")
        if self.scale == "log" and min(low, high) <= 0:
            raise ValueError("a logarithmic range needs ends above zero")
        return low, high, unit

    def at(self, share: float) -> Any:
        """Return the value at a share 0..1 of the range, with its unit, or of the list."""
        if self.values is not None:
            return self.values[min(int(share * len(self.values)), len(self.values) - 1)]
        low, high, unit = self.ends()
        value = low * (high / low) ** share if self.scale == "log" else low + (high - low) * share
        number = round(value) if self.whole else float(f"{value:.6g}")
        return number if unit is None else f"{number:g} {unit}"


class RangeSection(ValuesSection):
    """One key of a sample with its values."""

    path: str = Field(description="Key of the experiment, as with --set: `workload.arrivals.rate`.")

    @model_validator(mode="after")
    def _has_values(self) -> RangeSection:
        if (self.values is None) == (self.from_ is None):
            raise ValueError("give either values, or from and to")
        return self


class SampleSection(Section):
    """Random points."""

    points: Annotated[int, Field(ge=1, le=100_000)] = Field(description="Number of points.")
    method: Literal["latin_hypercube", "random"] = Field(
        "latin_hypercube", description="Stratified by key (`latin_hypercube`) or independent draws (`random`)."
    )
    seed: Seed = Field(0, description="Seed of the draw.")
    over: Annotated[list[RangeSection], Field(min_length=1)] = Field(description="The keys and their ranges.")


class AxisSection(ValuesSection):
    """One factor of the design: a `path` with its values, `zip`, `list` or `sample`."""

    path: str | None = Field(None, description="Key of the experiment, with `values`, or `from`, `to` and `steps`.")
    steps: Annotated[int, Field(ge=2, le=10_000)] | None = Field(
        None, description="Number of values from first to last."
    )
    zip_: Annotated[dict[str, list[Any]], Field(min_length=1)] | None = Field(
        None, alias="zip", description="Keys that vary together: key -> values, all lists of the same length."
    )
    list_: Annotated[list[dict[str, Any]], Field(min_length=1)] | None = Field(
        None, alias="list", description="Explicit points, each a mapping of the same keys to values."
    )
    sample: SampleSection | None = Field(None, description="Random points.")

    @model_validator(mode="after")
    def _is_of_one_kind(self) -> AxisSection:
        kinds = {"path": self.path, "zip": self.zip_, "list": self.list_, "sample": self.sample}
        given = [name for name, value in kinds.items() if value is not None]
        if len(given) != 1:
            raise ValueError(f"give one of path, zip, list, sample (got {', '.join(given) or 'none'})")
        if self.path is None and (self.values is not None or self.from_ is not None or self.steps is not None):
            raise ValueError(f"values, from, to and steps are allowed with path, not with {given[0]}")
        if self.path is not None and (self.values is None) == (self.from_ is None or self.steps is None):
            raise ValueError("a path needs either values, or from, to and steps")
        if self.zip_ is not None and (len({len(values) for values in self.zip_.values()}) > 1 or not self.length()):
            lengths = ", ".join(f"{path}: {len(values)}" for path, values in self.zip_.items())
            raise ValueError(f"zip needs lists of one length, at least one ({lengths})")
        if self.list_ is not None and (len({tuple(sorted(point)) for point in self.list_}) > 1 or not self.list_[0]):
            raise ValueError("every point of a list needs the same keys, at least one")
        return self

    def length(self) -> int:
        """Return the number of points of a ``zip``."""
        return min((len(values) for values in (self.zip_ or {}).values()), default=0)


class ObjectiveSection(Section):
    """The objective."""

    metric: str = Field(description="Column of the results, such as `output_throughput` or `cost_usd_per_mtok`.")
    goal: Literal["max", "min"] = Field("max", description="Direction of the objective.")


class PlotSection(Section):
    """One figure."""

    kind: Literal["lines", "heatmap", "pareto"] = Field(
        description="`lines`: y over x, a line per system; `heatmap`: a result over two axes; `pareto`: two results "
        "against each other, with the Pareto front."
    )
    x: str = Field(description="Axis, or a result for `pareto`.")
    y: str = Field(description="Result; the second axis for `heatmap`.")
    beside: Annotated[list[str], Field(max_length=3)] = Field(
        [], description="Other results of the same unit in the same figure (`lines`)."
    )
    value: str | None = Field(None, description="Result shown by a `heatmap`.")
    x_goal: Literal["max", "min"] = Field("min", description="Direction of x in a `pareto` front.")
    y_goal: Literal["max", "min"] = Field("max", description="Direction of y in a `pareto` front.")

    @model_validator(mode="after")
    def _value_if_heatmap(self) -> PlotSection:
        if (self.kind == "heatmap") != (self.value is not None):
            raise ValueError("value is required with kind: heatmap, and allowed only there")
        if self.beside and self.kind != "lines":
            raise ValueError("beside is allowed only with kind: lines")
        return self


class SweepSection(Section):
    """Many variants of one experiment."""

    model_config = ConfigDict(title="helixsim sweep")

    schema_: Literal[1] = Field(alias="schema", description="Version of this format.")
    name: Name | None = Field(None, description="Name of the sweep (default: that of the file).")
    question: str | None = Field(None, description="Question that the sweep answers, the heading of its report.")
    base: str = Field(description="Experiment file, relative to this one.")
    set_: dict[str, Any] = Field({}, alias="set", description="Changes in every point: key -> value.")
    seeds: Annotated[int, Field(ge=1, le=10_000)] | list[Seed] | None = Field(
        None,
        description="Replications: a list of seeds, or their number, counted from the seed of the base (default: that "
        "seed). All points of a seed receive the same requests; placements are searched with the first seed only.",
    )
    axes: list[AxisSection] = Field(min_length=1, description="Factors; the points are all combinations.")
    objective: ObjectiveSection | None = Field(
        None, description="Objective (default: goodput with an SLO, else output tokens/s)."
    )
    plots: list[PlotSection] | None = Field(None, description="Figures (default: chosen by the axes).")
