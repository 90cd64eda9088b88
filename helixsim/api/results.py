"""Results for scripts and notebooks: those of ``helixsim.results`` with figures, tables and short forms."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from helixsim.api.placements import Placement
from helixsim.report.capacity_files import capacity_notes, capacity_table
from helixsim.report.fleet_files import fleet_table, headline, sentences
from helixsim.report.html import build_report
from helixsim.report.notebook import comparison_html, table_html
from helixsim.report.plots import CapacityPlots, FleetPlots, RunPlots, SweepPlots
from helixsim.report.sweep_files import best_table
from helixsim.results.capacity import CapacityResults
from helixsim.results.fleet import FleetResults
from helixsim.results.run import Run as _Run
from helixsim.results.runset import RunSet as _RunSet
from helixsim.results.sweep import SweepResults, frame, mean_rows
from helixsim.results.tables import summary_row
from helixsim.units import number

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True, repr=False, eq=False)
class Run(_Run):
    """One simulated system.

    ``summary`` holds all figures in SI units (``summary.ttft.p99_s``); ``requests``, ``nodes``, ``links``, ``series``,
    ``node_series`` and ``itl`` are data frames.

    Parameters
    ----------
    alone
        The set of runs that has this one only, for its figures.
    """

    alone: _RunSet = field(repr=False)

    @property
    def plot(self) -> RunPlots:
        """Figures: ``plot.latency()``, ``plot.utilisation()`` ..."""
        return RunPlots(self.alone)

    @cached_property
    def placement(self) -> Placement:
        """Layers of each node, with ``table()``, ``frontier`` and ``plot()``."""
        return Placement.of(super().placement, self.name, self.placement_document)

    def _repr_html_(self) -> str:
        return comparison_html(self.alone)


@dataclass(frozen=True, repr=False, eq=False)
class RunSet(_RunSet):
    """The systems of one experiment by name: ``runs["helix"]``.

    Systems that could not be placed or simulated are in ``failed``: name -> (exit code, message).
    """

    runs: Mapping[str, Run]

    @classmethod
    def load(cls, directory: str | Path) -> Self:
        """Return what a run directory holds; its tables are read when they are asked for.

        Raises
        ------
        DataError
            If ``summary.json`` is missing, unreadable or of another schema.
        """
        whole = _RunSet.load(Path(directory))
        runs = {}
        for name, run in whole.items():
            alone = replace(whole, runs={name: run}, comparisons={name: whole.comparisons[name]}, whatif=(), failed={})
            runs[name] = Run(**_values(run), alone=alone)
        return cls(**{**_values(whole), "runs": runs})

    def __getitem__(self, name: str) -> Run:
        return self.runs[name]

    @property
    def plot(self) -> RunPlots:
        """Figures that compare the systems: ``plot.throughput()``, ``plot.latency()`` ..."""
        return RunPlots(self)

    def report(self) -> Path:
        """Write figures and ``report.html`` into the run directory, and return the path of the latter."""
        assert self.directory is not None
        return build_report(self.directory)

    def _repr_html_(self) -> str:
        return comparison_html(self)


@dataclass(frozen=True, repr=False, eq=False)
class Capacity(CapacityResults):
    """The highest rate of each system within its objectives."""

    @classmethod
    def load(cls, directory: str | Path) -> Self:
        """Return what a directory of capacities holds; of the single simulations only their table.

        Raises
        ------
        DataError
            If ``capacity.json`` is missing, unreadable or of another schema.
        """
        return cls(**_values(CapacityResults.load(Path(directory))))

    @property
    def plot(self) -> CapacityPlots:
        """Figures: ``plot.load_curve()``."""
        return CapacityPlots(self)

    def __repr__(self) -> str:
        rates = [
            f"{one.system} {number(found.rate_rps)}{f' ({found.target})' if len(self.targets) > 1 else ''}"
            for one in self.systems
            for found in one.estimates
        ]
        failed = f"; failed: {', '.join(self.failed)}" if self.failed else ""
        return f"<Capacity {self.experiment}, requests/s: {', '.join(rates)}{failed}>"

    def _repr_html_(self) -> str:
        return table_html(capacity_table(self), capacity_notes(self))


@dataclass(frozen=True, repr=False, eq=False)
class Sweep(SweepResults):
    """All points of a sweep."""

    directory: Path

    @classmethod
    def of(cls, found: SweepResults, directory: Path, out: Path) -> Self:
        """Return a sweep with the results named as in ``RunSet.table``; ``out``: where its runs are."""
        tables = {path: RunSet.load(out / path).table() for path in dict.fromkeys(row["run"] for row in found.rows)}
        rows = []
        for row in found.rows:
            head = {key: row[key] for key in ("point", *found.axes, "seed", "system")}
            table = tables[row["run"]]  # the run of a tenant has one system, which has another name
            figures = (table.loc[row["system"]] if row["system"] in table.index else table.iloc[0]).to_dict()
            rows.append({**head, **figures, "run": str(out / row["run"])})
        objective = _OBJECTIVES.get(found.objective, found.objective)
        return cls(**{**_values(found), "rows": tuple(rows), "objective": objective}, directory=directory)

    def means(self) -> pd.DataFrame:
        """Return a row per point and system: means over the seeds, with the ends of their 95 % intervals."""
        numbers = [
            name
            for name, value in (self.rows[0] if self.rows else {}).items()
            if name not in {"point", "seed", *self.axes} and not isinstance(value, str)
        ]
        return frame(mean_rows(self, numbers))

    @property
    def plot(self) -> SweepPlots:
        """Figures: ``plot.lines()``, ``plot.heatmap()``, ``plot.pareto()``."""
        return SweepPlots(self)

    def __repr__(self) -> str:
        points = len({(row["point"], row["seed"]) for row in self.rows})
        failed = f", {len(self.failures)} failures" if self.failures else ""
        return f"<Sweep {self.name} over {', '.join(self.axes)}: {points} points{failed}>"

    def _repr_html_(self) -> str:
        failures = [(one["system"], f"{one['settings']}: {one['message']}") for one in self.failures]
        return table_html(best_table(self, mean_rows(self, _BESIDE), beside=_BESIDE), failures)


@dataclass(frozen=True, repr=False, eq=False)
class Fleets(FleetResults):
    """Fleets that serve a load, the best first (``ranked``), and all that were simulated (``tried``)."""

    directory: Path

    @classmethod
    def of(cls, found: FleetResults, directory: Path) -> Self:
        """Return the results with the directory that they were written into."""
        return cls(**_values(found), directory=directory)

    def table(self) -> pd.DataFrame:
        """Return a row per fleet that was simulated, units in the names of the columns."""
        import pandas as pd

        rows = [
            {
                "fleet": one.fleet,
                "usd_per_hour": one.price_usd_per_hour,
                "is_met": one.is_met,
                "misses": "; ".join(one.misses),
                "slack": one.slack,
                "tightest": one.tightest,
                "capacity_requests_per_s": one.capacity_rps,
                **({} if one.summary is None else summary_row(one.summary)),
            }
            for one in self.tried
        ]
        return pd.DataFrame(rows)

    @property
    def plot(self) -> FleetPlots:
        """Figures: ``plot.prices()``."""
        return FleetPlots(self)

    def __repr__(self) -> str:
        best = self.ranked[0]
        return f"<Fleets {self.name}: {best.fleet}, {best.price_usd_per_hour:.2f} $/h; {len(self.tried)} tried>"

    def _repr_html_(self) -> str:
        document = self.document()
        said = [("", sentence) for sentence in (*headline(document), *sentences(document))]
        return table_html(fleet_table(document), said)


_OBJECTIVES = {"request_goodput": "goodput_per_s", "output_throughput": "output_tokens_per_s"}
"""Results of ``sweep.json`` by which points are ranked, and their names in ``RunSet.table``."""

_BESIDE = ("ttft_p99_s", "tpot_p99_s", "usd_per_mtok")


def _values(value: Any) -> dict[str, Any]:
    """Return the fields of a dataclass as they are."""
    return {one.name: getattr(value, one.name) for one in fields(value)}
