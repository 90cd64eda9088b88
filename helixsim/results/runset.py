"""The simulated systems of one experiment, including what-if variants, and the files of a run directory.

``summary.json``, ``nodes.csv``, ``links.csv``, ``series.csv`` (time series of the cluster), ``node_series.csv`` (of
nodes), ``itl.csv`` (histogram of inter-token latency), ``requests/<system>.csv`` and ``placements/<system>.json``.
They do not depend on the speed of the machine: equal runs write equal bytes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from helixsim.domain.request import Slo
from helixsim.domain.summary import Summary
from helixsim.errors import DataError
from helixsim.metrics.compare import Comparison, compared
from helixsim.metrics.energy_cost import IDLE_POWER_SHARE
from helixsim.metrics.stats import CONFIDENCE
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
    """

    experiment: str
    baseline: str
    slo: Slo
    runs: Mapping[str, Run]
    comparisons: Mapping[str, Comparison]
    whatif: tuple[WhatIf, ...] = ()

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

        Raises
        ------
        DataError
            If ``summary.json`` is missing, unreadable or of another schema.
        """
        path = directory / "summary.json"
        document = read_json(path)
        if document.get("schema") != SCHEMA or "systems" not in document:
            raise DataError(f"{path}: expected a summary of schema {SCHEMA}, got {document.get('schema')!r}")
        tables = StoredTables(directory)
        runs, comparisons = {}, {}
        for name, system in document["systems"].items():
            try:
                runs[name] = Run(name, Summary.from_json(system), {}, tables)
                comparisons[name] = Comparison.from_json(system["helixsim"])
            except DataError as error:
                raise error.within(f"{path}: {name}") from None
        try:
            whatif = (WhatIf(one["name"], tuple(one["changes"]), one["systems"]) for one in document.get("whatif", ()))
            return cls(
                document["experiment"], document["baseline"], Slo(**document["slo"]), runs, comparisons, tuple(whatif)
            )
        except (KeyError, TypeError) as error:
            raise DataError(f"{path}: no summary of a run: {type(error).__name__}: {error}") from None

    def __getitem__(self, name: str) -> Run:
        return self.runs[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.runs)

    def __len__(self) -> int:
        return len(self.runs)

    def __repr__(self) -> str:
        names = ", ".join(f"{name} (baseline)" if name == self.baseline else name for name in self)
        return f"<RunSet {self.experiment}: {names}>"

    def _repr_html_(self) -> str:
        html: str = self.table().T.to_html(float_format="{:.4g}".format, na_rep="–")
        return html

    def document(self) -> dict[str, Any]:
        """Return the contents of ``summary.json``."""
        document = {
            "schema": SCHEMA,
            "experiment": self.experiment,
            "baseline": self.baseline,
            "slo": {"ttft_s": self.slo.ttft_s, "tpot_s": self.slo.tpot_s, "e2el_s": self.slo.e2el_s},
            "confidence_level": CONFIDENCE,
            "idle_power_share": IDLE_POWER_SHARE,
            "systems": {name: self._system(name) for name in self},
        }
        if self.whatif:
            document["whatif"] = [
                {"name": one.name, "changes": list(one.changes), "systems": dict(one.systems)} for one in self.whatif
            ]
        return document

    def table(self) -> pd.DataFrame:
        """Return a row per system, units in the names of the columns."""
        import pandas as pd

        rows = {name: self._row(name) for name in self}
        return pd.DataFrame.from_dict(rows, orient="index").rename_axis("system")

    def frame(self, name: str) -> pd.DataFrame:
        """Return one of ``TABLES`` for all systems, with the system in its first column."""
        import pandas as pd

        frames = []
        for run in self.values():
            frame: pd.DataFrame = getattr(run, name).copy(deep=False)
            frame.insert(0, "system", run.name)
            frames.append(frame)
        return pd.concat(frames, ignore_index=True)

    def write(self, directory: Path) -> None:
        """Write all files into a directory."""
        for folder in ("requests", "placements"):
            (directory / folder).mkdir(parents=True, exist_ok=True)
        write_json(directory / "summary.json", self.document())
        for name, run in self.items():
            write_json(directory / "placements" / f"{file_stem(name)}.json", run.placement_document)
            run.write_requests(directory / "requests" / f"{file_stem(name)}.csv")
        for table in TABLES:
            write_csv(directory / f"{table}.csv", self.frame(table))

    def _system(self, name: str) -> dict[str, Any]:
        summary = self[name].summary
        return {**summary.vllm_keys(), "helixsim": {**summary.own_keys(), **self.comparisons[name].to_json()}}

    def _row(self, name: str) -> dict[str, Any]:
        summary = self[name].summary
        served, load, flow, cluster, cost = (
            summary.throughput, summary.load, summary.flow, summary.cluster, summary.cost,
        )  # fmt: skip
        latencies = {"ttft": summary.ttft, "tpot": summary.tpot, "itl": summary.itl, "e2el": summary.e2el}
        return {
            "output_tokens_per_s": served.output_tokens_per_s,
            "output_tokens_ratio": self.comparisons[name].output_tokens_ratio,
            "total_tokens_per_s": served.total_tokens_per_s,
            "requests_per_s": served.requests_per_s,
            "goodput_per_s": served.goodput_per_s,
            "slo_attainment": served.slo_attainment,
            **{
                f"{metric}_{statistic}_s": getattr(latency, f"{statistic}_s")
                for metric, latency in latencies.items()
                for statistic in ("mean", "p50", "p95", "p99")
            },
            "arrived_per_s": load.arrived_per_s,
            "saturation": load.saturation,
            "max_flow_tokens_per_s": flow.max_flow_tokens_per_s,
            "kv_limited_tokens_per_s": flow.kv_limited_tokens_per_s,
            "mean_hops": flow.measured_mean_hops,
            "kv_mean_share": cluster.kv_mean,
            "kv_peak_share": cluster.kv_peak,
            "preemptions": summary.integrity.preemptions,
            "usd_per_mtok": cost.usd_per_mtok,
            "energy_wh_per_mtok": cost.energy_wh_per_mtok,
        }
