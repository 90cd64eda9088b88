"""The simulated systems of one experiment, including what-if variants, and the files of a run directory.

``summary.json``, ``nodes.csv``, ``links.csv``, ``series.csv`` (time series of the cluster), ``node_series.csv`` (of
nodes), ``itl.csv`` (histogram of inter-token latency), ``pools.csv`` (replicas over time, where their number changes),
``requests/<system>.csv`` and ``placements/<system>.json``.
They do not depend on the speed of the machine: equal runs write equal bytes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from helixsim.domain.request import Slo
from helixsim.domain.result import RequestColumns
from helixsim.domain.summary import Summary
from helixsim.errors import DataError
from helixsim.jsonio import json_values
from helixsim.metrics.compare import Comparison, compared
from helixsim.metrics.energy_cost import IDLE_POWER_SHARE
from helixsim.metrics.ranking import shares_ahead
from helixsim.metrics.stats import CONFIDENCE
from helixsim.metrics.verdict import Verdict, verdict_of
from helixsim.metrics.verdict_text import document as verdict_document
from helixsim.results import tables
from helixsim.results.columns import Columns, joined, of_system
from helixsim.results.files import file_stem, read_json, write_csv, write_json
from helixsim.results.run import TABLES, Run, StoredTables

if TYPE_CHECKING:
    import pandas as pd

SCHEMA = 1


@dataclass(frozen=True, slots=True)
class WhatIf:
    """A what-if variant: descriptions of its changes, and the unchanged system of each of its systems."""

    name: str
    changes: tuple[str, ...]
    systems: Mapping[str, str]


@dataclass(frozen=True, repr=False, eq=False)
class RunSet(Mapping[str, Run]):
    """The systems of one experiment by name, in its order.

    Parameters
    ----------
    comparisons
        Each system, including the baseline, against the baseline.
    failed
        (Exit code, message) of systems that could not be placed or simulated; known for runs that were read from files.
    directory
        The run directory; None for runs that were simulated in this process.
    """

    experiment: str
    baseline: str
    slo: Slo
    runs: Mapping[str, Run]
    comparisons: Mapping[str, Comparison]
    whatif: tuple[WhatIf, ...] = ()
    failed: Mapping[str, tuple[int, str]] = field(default_factory=dict)
    directory: Path | None = None

    @classmethod
    def of(cls, experiment: str, baseline: str, slo: Slo, runs: Sequence[Run], whatif: Sequence[WhatIf] = ()) -> RunSet:
        """Return the runs of an experiment, compared with the baseline.

        Raises
        ------
        KeyError
            If the baseline is not among the systems.
        """
        by_name = {run.name: run for run in runs}
        base = by_name[baseline]
        comparisons = {
            run.name: compared(run.summary, base.summary, run.simulation.result, base.simulation.result) for run in runs
        }
        return cls(experiment, baseline, slo, by_name, comparisons, tuple(whatif))

    @classmethod
    def load(cls, directory: Path) -> RunSet:
        """Return the runs in a directory; tables are read on first access.

        All but ``Run.simulation`` is available. Computation times and failed systems are those of the manifest.

        Raises
        ------
        DataError
            If ``summary.json`` is missing, unreadable or of another schema.
        """
        path = directory / "summary.json"
        document = read_json(path)
        if "tenants" in document:
            runs_of = ", ".join(one["run"] for one in document["tenants"].values() if one["run"])
            raise DataError(f"{path}: has the results of several tenants; each has a run of its own: {runs_of}")
        if document.get("schema") != SCHEMA or "systems" not in document:
            raise DataError(f"{path}: expected a summary of schema {SCHEMA}, got {document.get('schema')!r}")
        stored = StoredTables(directory)
        manifest = read_json(directory / "manifest.json") if (directory / "manifest.json").exists() else {}
        runs, comparisons = {}, {}
        for name, system in document["systems"].items():
            try:
                timing = manifest.get("timing", {}).get("systems", {}).get(name, {})
                runs[name] = Run(name, Summary.from_json(system), timing, stored)
                comparisons[name] = Comparison.from_json(system["helixsim"])
            except DataError as error:
                raise error.within(f"{path}: {name}") from None
        try:
            whatif = (WhatIf(one["name"], tuple(one["changes"]), one["systems"]) for one in document.get("whatif", ()))
            failed = {name: (one["exit_code"], one["message"]) for name, one in manifest.get("failed", {}).items()}
            return cls(
                document["experiment"], document["baseline"], Slo.from_json(document["slo"]), runs, comparisons,
                tuple(whatif), failed, directory,
            )  # fmt: skip
        except (KeyError, TypeError) as error:
            raise DataError(f"{path}: no summary of a run: {type(error).__name__}: {error}") from None

    def with_requests(self, requests: Mapping[str, RequestColumns]) -> RunSet:
        """Return the runs with requests of systems that are still in memory; their files need not be read."""
        runs = {
            name: replace(run, source=replace(run.source, requests=requests))
            if isinstance(run.source, StoredTables) else run
            for name, run in self.items()
        }  # fmt: skip
        return replace(self, runs=runs)

    def __getitem__(self, name: str) -> Run:
        return self.runs[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.runs)

    def __len__(self) -> int:
        return len(self.runs)

    def __repr__(self) -> str:
        names = ", ".join(f"{name} (baseline)" if name == self.baseline else name for name in self)
        failed = f"; failed: {', '.join(self.failed)}" if self.failed else ""
        return f"<RunSet {self.experiment}: {names}{failed}>"

    @cached_property
    def verdict(self) -> Verdict:
        """Objectives met or missed, the order of the systems, doubts; what-if variants are judged, but not ranked."""
        variants = {name for one in self.whatif for name in one.systems}
        summaries = {name: run.summary for name, run in self.items()}
        compared = [name for name in self if name not in variants]
        return verdict_of(summaries, has_slo=self.slo.is_stated, compared=compared)

    def document(self) -> dict[str, Any]:
        """Return the contents of ``summary.json``."""
        document = {
            "schema": SCHEMA,
            "experiment": self.experiment,
            "baseline": self.baseline,
            "slo": self.slo.to_json(),
            "verdict": verdict_document(self.verdict),
            "confidence_level": CONFIDENCE,
            "idle_power_share": IDLE_POWER_SHARE,
            "systems": {name: self._system(name) for name in self},
        }
        if self.whatif:
            document["whatif"] = [
                {"name": one.name, "changes": list(one.changes), "systems": dict(one.systems)} for one in self.whatif
            ]
        return document

    def shares_ahead(self, name: str) -> dict[str, float | None]:
        """Return in what share of draws of the model error a system is ahead of the baseline, by summary key."""
        return shares_ahead(self[name].summary, self[self.baseline].summary)

    def table(self) -> pd.DataFrame:
        """Return a row per system, units in the names of the columns."""
        import pandas as pd

        rows = {}
        for name, run in self.items():
            row = tables.summary_row(run.summary)
            first = {"output_tokens_per_s": row["output_tokens_per_s"]}
            ratio = self.comparisons[name].output_tokens_ratio
            rows[name] = {**first, "output_tokens_ratio": ratio, **row, **tables.error_row(run.summary)}
        return pd.DataFrame.from_dict(rows, orient="index").rename_axis("system")

    def frame(self, name: str) -> pd.DataFrame:
        """Return one of ``TABLES`` for all systems, with the system in its first column."""
        import pandas as pd

        return pd.DataFrame(self.columns(name))

    def columns(self, name: str) -> Columns:
        """Return what ``frame`` does as arrays."""
        return joined([of_system(run.name, run.columns(name)) for run in self.values()])

    def write(self, directory: Path) -> None:
        """Write all files into a directory."""
        for folder in ("requests", "placements"):
            (directory / folder).mkdir(parents=True, exist_ok=True)
        write_json(directory / "summary.json", self.document())
        for name, run in self.items():
            write_json(directory / "placements" / f"{file_stem(name)}.json", run.placement_document)
            run.write_requests(directory / "requests" / f"{file_stem(name)}.csv")
        for table in TABLES:
            write_csv(directory / f"{table}.csv", self.columns(table))
        if scaled := [run for run in self.values() if run.summary.autoscaling is not None]:
            write_csv(directory / "pools.csv", joined([of_system(run.name, run.columns("pools")) for run in scaled]))

    def _system(self, name: str) -> dict[str, Any]:
        summary = self[name].summary
        own = {**summary.own_keys(), **self.comparisons[name].to_json()}
        if (error := self[name].model_error) is not None:
            own["accuracy"] = {**error.to_json(), "ahead_of_baseline": json_values(self.shares_ahead(name))}
        return {**summary.vllm_keys(), "helixsim": own}
