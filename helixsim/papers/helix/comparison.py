"""Methods side by side in three columns: published, as published, fair.

``as published`` repeats the paper's runs with its placements, rates, numbers of requests in flight and KV memory.
``fair`` gives all methods the same requests, KV memory from physics, one rule of admission and a cluster that has had
time to fill, and plans with helixsim's own placement; the paper's own is shown beside it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import lru_cache, partial
from pathlib import Path
from typing import Literal

from pydantic import Field, PrivateAttr

import helixsim as hx
from helixsim.papers.helix.paper_figures import comparison
from helixsim.papers.helix.parts import (
    Edits,
    Effort,
    EntryContext,
    Estimate,
    ExperimentFile,
    Part,
    PartResult,
    Row,
    over_seeds,
)
from helixsim.papers.helix.published import KINDS
from helixsim.papers.helix.samples import PERCENTILES, Distribution, Sample, pooled_mean, pooled_quantile
from helixsim.papers.helix.tasks import Results, Simulation, Task
from helixsim.validation import Section, Words

PUBLISHED, MEASURED, AS_PUBLISHED, FAIR = "published", "measured", "as published", "fair"
ALL_DRIFT = "no"
"""Not one seed of a row is steady."""
METRICS = {"throughput": "tokens/s", "prompt": "s", "decode": "s"}
"""Output tokens/s; time to first token; time of one decode step."""


class Quick(Section):
    """Edits of the quick version: of the fair files, while their placements are made, and of as-published files."""

    fair: Edits = ()
    placed_for: Edits = ()
    as_published: Edits = ()

    def over(self, default: Quick) -> Quick:
        """Return these, and those of ``default`` where nothing is said."""
        return default.model_copy(update={name: getattr(self, name) for name in self.model_fields_set})


class Panel(Section):
    """One cell of the paper: a cluster, a model and a mode.

    ``published`` says which kind of published value stands in the first column. ``pruned`` are the methods whose
    requests travelled over the links only that the paper's pruning keeps.
    """

    cell: Words
    published: Literal["simulated", "measured"] = "simulated"
    metrics: list[Literal["throughput", "prompt", "decode"]] = Field(["throughput"])
    pruned: list[Words] = Field([])
    as_published: list[ExperimentFile] = Field([])
    fair: list[ExperimentFile] = Field([])
    quick: Quick = Quick()
    _title: str = PrivateAttr("")

    @property
    def title(self) -> str:
        """The key of the panel."""
        return self._title


class Comparison(Part):
    """See the module.

    Parameters
    ----------
    labels
        Method -> its name in the figure.
    made_of
        Method -> systems of the as-published files it consists of; itself where nothing is said. A system that is
        called ``METHOD.something`` is a pipeline of the method: throughputs add up, latencies are pooled.
    """

    kind: Literal["comparison"]
    panels: dict[str, Panel]
    labels: dict[str, Words] = Field(alias="methods")
    made_of: dict[str, list[Words]] = Field({})
    quick: Quick = Quick()

    def model_post_init(self, context: EntryContext, /) -> None:
        """Tell the panels their titles."""
        super().model_post_init(context)
        for title, panel in self.panels.items():
            panel._title = title

    def tasks(self, effort: Effort) -> list[Task]:
        """See ``Part.tasks``."""
        return [
            task
            for panel in self.panels.values()
            for column in (AS_PUBLISHED, FAIR)
            for method in self.labels
            for task in self._runs(panel, column, method, effort)
        ]

    def result(self, effort: Effort, results: Results) -> PartResult:
        """See ``Part.result``."""
        rows: list[Row] = []
        notes: dict[str, None] = {}
        for panel in self.panels.values():
            for metric in panel.metrics:
                for method, label in self.labels.items():
                    rows += self._published_rows(panel, metric, method)
                    for column in (AS_PUBLISHED, FAIR):
                        tasks = self._runs(panel, column, method, effort)
                        failed = [said for task in tasks if (said := results.failure(task))]
                        notes |= dict.fromkeys(f"{panel.title}, {label}, {column}: {said}" for said in failed)
                        if tasks and not failed:
                            runs = [results.samples(task) for task in tasks]
                            rows.append(_simulated_row(panel, metric, method, column, runs))
        return PartResult(rows, partial(comparison, rows, self.labels), list(notes))

    def _runs(self, panel: Panel, column: str, method: str, effort: Effort) -> list[Simulation]:
        """Return the runs of a method in one column; several where it consists of several pipelines."""
        quick = panel.quick.over(self.quick) if effort.is_quick else Quick()
        if column == FAIR:
            settings, placed_for = quick.fair, quick.placed_for
            found = [(file, name) for file in panel.fair for name in system_names(file) if name == method]
        else:
            settings, placed_for = quick.as_published, ()
            wanted = self.made_of.get(method, [method])
            found = [
                (file, name)
                for file in panel.as_published
                for name in system_names(file)
                if name.split(".")[0] in wanted
            ]
        is_pruned = column == AS_PUBLISHED and method in panel.pruned
        return [
            Simulation(file, name, settings, placed_for, seeds=effort.seeds, is_pruned=is_pruned)
            for file, name in found
        ]

    def _published_rows(self, panel: Panel, metric: str, method: str) -> list[Row]:
        rows = []
        for kind in KINDS:
            column = PUBLISHED if kind == panel.published else MEASURED
            if metric == "throughput":
                value = self._published.get(panel.cell, method, metric, kind)
                values = {"value": None if value is None else value.value}
            else:
                mean = self._published.get(panel.cell, method, f"{metric}_mean", kind)
                points = {q: self._published.get(panel.cell, method, f"{metric}_p{q}", kind) for q in PERCENTILES}
                value = points[50]
                values = {f"p{q}": point.value for q, point in points.items() if point is not None}
                values["value"] = None if mean is None else mean.value
            if value is not None:
                rows.append(_row(panel, metric, method, column, kind, values) | {"source": value.source})
        return rows


@lru_cache
def system_names(file: Path) -> tuple[str, ...]:
    """Return the names of the systems of an experiment file, without resolving it."""
    return tuple(system["name"] for system in hx.load(file).document["systems"])


def _row(panel: Panel, metric: str, method: str, column: str, kind: str, values: Mapping[str, float | None]) -> Row:
    blank = {"value": None, "low": None, "high": None, **{f"p{q}": None for q in PERCENTILES}}
    head = {"panel": panel.title, "cell": panel.cell, "metric": metric, "unit": METRICS[metric], "method": method}
    tail = {"seeds": None, "verdict": "", "steady": "", "source": "helixsim"}
    return {**head, "column": column, "kind": kind, **blank, **values, **tail}


def _simulated_row(panel: Panel, metric: str, method: str, column: str, runs: Sequence[Sequence[Sample]]) -> Row:
    """Return the row of a method whose pipelines have these samples, one per seed and pipeline."""
    if metric == "throughput":
        estimate = pooled_throughput(runs)
        values: dict[str, float | None] = {}
    else:
        by_seed = [[_latency(sample, metric) for sample in same_seed] for same_seed in zip(*runs, strict=True)]
        means = [mean for parts in by_seed if (mean := pooled_mean(parts)) is not None]
        estimate = over_seeds(means) if means else Estimate(math.nan)
        everything = [part for parts in by_seed for part in parts]
        values = {f"p{q}": pooled_quantile(everything, q) for q in PERCENTILES}
    values |= {"value": estimate.mean, "low": estimate.low, "high": estimate.high}
    row = _row(panel, metric, method, column, KINDS[0], values)
    verdicts = dict.fromkeys(sample.saturation.lower() for samples in runs for sample in samples)
    return row | {"seeds": len(runs[0]), "verdict": ", ".join(verdicts), "steady": _steadiness(runs)}


def _steadiness(runs: Sequence[Sequence[Sample]]) -> str:
    """Return ``ALL_DRIFT`` if something drifts in the window under every seed, else under how many nothing does."""
    by_seed = list(zip(*runs, strict=True))
    calm = sum(not any(sample.drifts for sample in same_seed) for same_seed in by_seed)
    return f"{calm} of {len(by_seed)} seeds" if calm else ALL_DRIFT


def _latency(sample: Sample, metric: str) -> Distribution:
    return sample.prompt if metric == "prompt" else sample.decode


def pooled_throughput(runs: Sequence[Sequence[Sample]]) -> Estimate:
    """Return output tokens/s of pipelines together.

    The interval is that over seeds; of a single seed that of batches within the run, added in squares over pipelines.
    """
    totals = [
        sum(sample.output_tokens / sample.window_s for sample in same_seed) for same_seed in zip(*runs, strict=True)
    ]
    estimate = over_seeds(totals)
    if len(totals) > 1 or any(samples[0].interval is None for samples in runs):
        return estimate
    # From the mean up: a lower limit may have been cut at zero.
    half = math.hypot(*(
        limits[1] - sample.output_tokens / sample.window_s
        for (sample, *_) in runs if (limits := sample.interval) is not None
    ))  # fmt: skip
    return Estimate(estimate.mean, max(0.0, estimate.mean - half), estimate.mean + half)
