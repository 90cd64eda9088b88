"""A simulated system: its summary and tables."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from helixsim.domain.cluster import Deployment
from helixsim.domain.flowplan import FlowPlan
from helixsim.domain.placement import LayerRange, Placement
from helixsim.domain.result import IntArray, RequestColumns, RunResult
from helixsim.domain.summary import Summary
from helixsim.errors import DataError
from helixsim.escape import csv_read, csv_text
from helixsim.metrics.model_error import ModelError, model_error
from helixsim.results import tables
from helixsim.results.columns import Columns, chosen
from helixsim.results.files import file_stem, read_columns, read_csv, read_json
from helixsim.results.placement_json import placement_document
from helixsim.writing import new_file

if TYPE_CHECKING:
    import pandas as pd

TABLES = ("nodes", "links", "series", "node_series", "itl")
"""Tables of a run directory with all systems; requests have a file per system."""

_FORMER = {"kind": "node_type"}
"""Columns of tables of nodes in an older version -> current names."""


@dataclass(frozen=True)
class Simulation:
    """Results of a simulation in this process."""

    result: RunResult
    placement: Placement
    plan: FlowPlan
    fleet: Deployment


@dataclass
class StoredTables:
    """Tables in a run directory, read on first access."""

    directory: Path
    requests: Mapping[str, RequestColumns] = field(default_factory=dict, repr=False)
    """Systems whose requests are still in memory, as in their files."""

    _read: dict[str, Columns] = field(default_factory=dict, repr=False)

    def of(self, system: str, name: str) -> Columns:
        """Return the rows of one system in one of ``TABLES``.

        Raises
        ------
        DataError
            If the file is missing or unreadable.
        """
        if name not in self._read:
            found = read_columns(self.directory / f"{name}.csv")
            self._read[name] = {_FORMER.get(column, column): values for column, values in found.items()}
        table = self._read[name]
        if "system" not in table:
            raise DataError(f"{self.directory / name}.csv: has no column system")
        rows = chosen(table, table["system"] == csv_read(csv_text(system)))
        return {column: values for column, values in rows.items() if column != "system"}

    def requests_frame(self, system: str) -> pd.DataFrame:
        """Return the requests of one system; ``DataError`` if the file is missing or unreadable."""
        return read_csv(self._requests_file(system))

    def request_columns(self, system: str, names: Sequence[str]) -> dict[str, IntArray]:
        """Return columns of numbers of the requests of one system; -1: the cell is empty.

        Raises
        ------
        DataError
            If the file is missing or unreadable.
        """
        if system in self.requests:
            return {name: getattr(self.requests[system], name) for name in names}
        table = read_csv(self._requests_file(system), names)
        return {name: table[name].fillna(-1).to_numpy(dtype=np.int64) for name in names}

    def _requests_file(self, system: str) -> Path:
        return self.directory / "requests" / f"{file_stem(system)}.csv"


@dataclass(frozen=True)
class Run:
    """One simulated system of an experiment.

    Tables are pandas data frames with units in the names of their columns, built or read on first access.

    Parameters
    ----------
    summary
        All figures, in SI units: ``summary.ttft.p99_s``, ``summary.throughput.output_tokens_per_s``.
    timing
        Computation times (``metrics.summary.timing``); for a run that was read from files, those of its manifest.
    source
        The results of the simulation, or the files they were written to.
    """

    name: str
    summary: Summary
    timing: Mapping[str, Any] = field(repr=False)
    source: Simulation | StoredTables = field(repr=False)

    def __repr__(self) -> str:
        rate = self.summary.throughput.output_tokens_per_s
        served = "no output" if rate is None else f"{rate:.4g} output tokens/s"
        return f"<Run {self.name}: {served}, {self.summary.load.saturation}>"

    @property
    def simulation(self) -> Simulation:
        """The results of the simulation, its placement, max-flow and fleet.

        Raises
        ------
        DataError
            If the run was read from files.
        """
        if isinstance(self.source, StoredTables):
            raise DataError(f"{self.name}: read from {self.source.directory}, which has tables and figures only")
        return self.source

    @property
    def model_error(self) -> ModelError | None:
        """How far off the figures are expected to be, by measured points; None for results of older versions."""
        return model_error(self.summary.setting)

    @cached_property
    def placement(self) -> Placement:
        """Layer range of each node."""
        if isinstance(self.source, Simulation):
            return self.source.placement
        return _placement(self.placement_document)

    @cached_property
    def placement_document(self) -> dict[str, Any]:
        """The placement with its flow as JSON values (``placements/<system>.json``)."""
        if isinstance(self.source, StoredTables):
            document = read_json(self.source.directory / "placements" / f"{file_stem(self.name)}.json")
            nodes = [{_FORMER.get(key, key): value for key, value in node.items()} for node in document["nodes"]]
            return {**document, "nodes": nodes}
        return placement_document(self.source.placement, self.source.plan, self.source.fleet)

    @property
    def window_s(self) -> tuple[float, float]:
        """Start and end of the measurement window in simulated time [s]."""
        return self.summary.window.start_s, self.summary.window.end_s

    @cached_property
    def requests(self) -> pd.DataFrame:
        """Requests that arrived, in order of arrival; times [ns]."""
        if isinstance(self.source, StoredTables):
            return self.source.requests_frame(self.name)
        return tables.requests_frame(self.source.result)

    @cached_property
    def nodes(self) -> pd.DataFrame:
        """Nodes with layers: layer range, load, KV memory."""
        return self._frame("nodes")

    @cached_property
    def links(self) -> pd.DataFrame:
        """Directed links with traffic: bytes, load, waiting times."""
        return self._frame("links")

    @cached_property
    def series(self) -> pd.DataFrame:
        """Time series of the cluster: cumulative tokens and requests, waiting and running requests."""
        return self._frame("series")

    @cached_property
    def node_series(self) -> pd.DataFrame:
        """Time series of the nodes; ``busy_ns`` is cumulative."""
        return self._frame("node_series")

    @cached_property
    def itl(self) -> pd.DataFrame:
        """Histogram of inter-token latency in the window [ns]."""
        return self._frame("itl")

    def columns(self, name: str) -> Columns:
        """Return one of ``TABLES`` as arrays, built or read on first access."""
        if name not in self._tables:
            source = self.source
            self._tables[name] = (
                source.of(self.name, name) if isinstance(source, StoredTables)
                else tables.of_run(name, source.result, source.plan, source.fleet)
            )  # fmt: skip
        return self._tables[name]

    @cached_property
    def _tables(self) -> dict[str, Columns]:
        return {}

    def _frame(self, name: str) -> pd.DataFrame:
        import pandas as pd

        return pd.DataFrame(self.columns(name))

    def request_columns(self, *names: str) -> dict[str, IntArray]:
        """Return columns of numbers of the requests table; -1 [ns]: did not occur.

        For large runs: the table itself takes several times the memory.
        """
        if isinstance(self.source, StoredTables):
            return self.source.request_columns(self.name, names)
        columns = self.source.result.requests
        return {name: getattr(columns, name) for name in names}

    def write_requests(self, path: Path) -> None:
        """Write the requests table."""
        with new_file(path) as file:
            for text in tables.requests_text(self.simulation.result):
                file.write(text.encode("utf-8"))


def _placement(document: Mapping[str, Any]) -> Placement:
    """Return the placement of a ``placement_document``."""
    objective, bound = document["objective_tokens_per_s"], document["upper_bound_tokens_per_s"]
    return Placement(
        strategy=document["strategy"],
        num_layers=document["num_layers"],
        ranges={node: LayerRange(*held) for node, held in document["layers"].items() if held is not None},
        partial_inference=document["partial_inference"],
        objective_tokens_per_s=math.nan if objective is None else objective,
        upper_bound_tokens_per_s=math.inf if bound is None else bound,
        status=document["status"],
        notes=document["notes"],
        pipelines=document.get("pipelines", {}),
        widths=document.get("widths", {}),
        roles=document.get("roles", {}),
    )
