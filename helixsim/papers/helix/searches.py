"""Parts about finding placements: sizes of the paper's program, and searches over time beside helixsim's own."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

import helixsim as hx
from helixsim.domain.placement import LayerRange, Placement
from helixsim.flow.capacity import upper_bound_share
from helixsim.flow.maxflow import max_flow_value
from helixsim.papers.helix.paper_studies import draw_searches
from helixsim.papers.helix.parts import Effort, ExperimentFile, Part, PartResult, Row
from helixsim.papers.helix.program import KEPT_LINKS, all_edges, program_size, pruned_edges, without_links
from helixsim.papers.helix.tasks import Outcome, Results, Task
from helixsim.runtime.identity import experiment_key
from helixsim.validation import Section, Words

_PROVED = 1e-4
"""Gap to the bound, as a share, that counts as none."""

_LEAST_FLOW = 0.05
"""Smaller flows [tokens/s] are a solver's zero."""


@dataclass(frozen=True, slots=True)
class Search:
    """One search for the largest max-flow on the cluster of an experiment.

    Parameters
    ----------
    method
        ``blocks``: helixsim's search. ``program``: the paper's per-node program, by HiGHS with one thread.
    start
        System of the experiment whose placement the program starts from; empty: none.
    is_pruned
        Whether the program knows the links that the paper's pruning leaves only.
    seconds
        Time limit of the program [s]. What it has found by then depends on the machine.
    """

    name: str
    file: Path
    method: str
    start: str = ""
    is_pruned: bool = False
    seconds: float = 60.0

    @property
    def title(self) -> str:
        """See ``Task.title``."""
        return f"{self.file.stem}/search {self.name}"

    def key(self) -> str:
        """See ``Task.key``."""
        values = {key: value for key, value in asdict(self).items() if key not in ("file", "name")}
        return json.dumps([experiment_key(self._experiment()), values])

    def perform(self, cache: Path | None) -> Outcome:
        """Return ``{"history": [[s, objective, bound]], "objective", "bound", "start_flow"}`` in tokens/s.

        The last line of the history is the end of the search. ``start_flow`` is the flow of the start over the links
        the program knows, None without one.
        """
        experiment = self._experiment()
        if self.method == "blocks":
            helix = {"placement": {"strategy": "helix", "select": "flow"}}
            alone = self._experiment(systems=[helix], baseline=None)
            placement = hx.place(alone, "helix", by_flow=True).placement
            history = [list(line) for line in placement.history]
            objective, bound = placement.objective_tokens_per_s, placement.upper_bound_tokens_per_s
            history.append([placement.solve_s, objective, bound])
            return {"history": history, "objective": objective, "bound": bound, "start_flow": None}
        return self._solve_program(experiment, cache)

    def _solve_program(self, experiment: hx.ResolvedExperiment, cache: Path | None) -> Outcome:
        from helixsim.placement import milp

        problem = hx.problem(experiment, experiment.systems[0].name)
        fleet = problem.fleet
        start: Mapping[str, LayerRange] | None = None
        start_flow = None
        if self.is_pruned:
            fleet = without_links(fleet, pruned_edges(fleet.cluster))
            problem = replace(problem, fleet=fleet)
        if self.start:
            start = hx.place(experiment, self.start, by_flow=True, cache=cache).placement.ranges
            placement = Placement("start", fleet.model.num_layers, start)
            start_flow = _cleaned(max_flow_value(fleet, placement, problem.capacity))
        history: list[list[float]] = []

        def note(seconds: float, objective: float, bound: float) -> None:
            history.append([seconds, objective, bound])

        bound = upper_bound_share(fleet, problem.capacity)
        found = milp.solve_exact(problem, bound, start=start, time_limit_s=self.seconds, progress=note)
        spent_s = history[-1][0] if found.is_optimal and history else self.seconds
        history.append([spent_s, found.objective_tokens_per_s, found.bound_tokens_per_s])
        lines = [[s, _cleaned(o), min(b, bound)] for s, o, b in history]
        objective = lines[-1][1]
        return {"history": lines, "objective": objective, "bound": found.bound_tokens_per_s, "start_flow": start_flow}

    def _experiment(self, **changes: object) -> hx.ResolvedExperiment:
        return hx.load(self.file).with_(**changes).resolve()


class SearchEntry(Section):
    """See ``Search``."""

    method: Literal["blocks", "program"]
    start: str = ""
    pruned: bool = False


Seconds = Annotated[float, Field(ge=1, le=1e6)]


class Searches(Part):
    """Best max-flow over time of several searches, with published runs of the authors' solver.

    Parameters
    ----------
    seconds, quick_seconds
        Time limit of the program in the full and in the quick version [s].
    runs
        By title.
    published_runs
        Title -> cell of published incumbents.
    """

    kind: Literal["searches"]
    experiment: ExperimentFile
    seconds: Seconds
    quick_seconds: Seconds
    runs: dict[str, SearchEntry]
    published_runs: dict[str, Words] = Field({}, alias="published")

    def tasks(self, effort: Effort) -> list[Task]:
        """See ``Part.tasks``."""
        return [self._search(title, effort) for title in self.runs]

    def result(self, effort: Effort, results: Results) -> PartResult:
        """See ``Part.result``."""
        rows: list[Row] = []
        notes: list[str] = []
        tasks = {title: self._search(title, effort) for title in self.runs}
        for title, task in results.succeeded(tasks, notes):
            outcome = results.outcome(task)
            rows += [_line(title, "helixsim", s, objective, bound) for s, objective, bound in outcome["history"]]
            notes.append(f"{title}: {_found(outcome)}.")
        for title, cell in self.published_runs.items():
            for seconds, objective in self._published.series(cell, "gurobi", "incumbent_"):
                rows.append(_line(title, "published", seconds, objective, None))
        return PartResult(rows, partial(draw_searches, rows), notes)

    def _search(self, title: str, effort: Effort) -> Search:
        run = self.runs[title]
        seconds = self.quick_seconds if effort.is_quick and run.method == "program" else self.seconds
        return Search(title, self.experiment, run.method, run.start, run.pruned, seconds)


def _cleaned(flow_tokens_per_s: float) -> float:
    """Return a flow, zero where the solver has found none yet (it then says minus infinity) or means zero."""
    return flow_tokens_per_s if flow_tokens_per_s >= _LEAST_FLOW else 0.0


def _found(outcome: Outcome) -> str:
    """Return what a search ended with."""
    objective, bound, start_flow = outcome["objective"], outcome["bound"], outcome["start_flow"]
    seconds = f"{outcome['history'][-1][0]:.1f} s"
    if not objective:
        said = f"no placement within {seconds}"
    elif objective >= bound * (1.0 - _PROVED):
        said = f"{objective:.1f} tokens/s after {seconds}, proved optimal"
    else:
        gap = 1.0 - objective / bound
        said = f"{objective:.1f} tokens/s after {seconds}, at most {gap:.1%} below the best there can be"
    if start_flow is None:
        return said
    carried = f"{start_flow:.1f} tokens/s" if start_flow else "nothing"
    return f"{said}; the start carries {carried} over the links it may use"


def _line(title: str, source: str, seconds: float, objective: float, bound: float | None) -> Row:
    return {
        "search": title,
        "source": source,
        "seconds": seconds,
        "objective_tokens_per_s": objective,
        "bound_tokens_per_s": bound,
    }


class ProgramEntry(Section):
    """A program; ``pruned``: whether links are, ``cell``: where its published size is found."""

    experiment: ExperimentFile
    pruned: bool
    cell: Words


class Sizes(Part):
    """Table: rows, columns and entries of the paper's program with and without pruning; nothing is solved."""

    kind: Literal["sizes"]
    programs: dict[str, ProgramEntry]

    def tasks(self, effort: Effort) -> list[Task]:
        """See ``Part.tasks``."""
        return []

    def result(self, effort: Effort, results: Results) -> PartResult:
        """See ``Part.result``."""
        rows: list[Row] = []
        for title, program in self.programs.items():
            fleet = hx.load(program.experiment).resolve().fleet
            edges = pruned_edges(fleet.cluster) if program.pruned else all_edges(fleet.cluster)
            most = {node.id: fleet.profile(node.id).max_layers for node in fleet.cluster.nodes}
            size = asdict(program_size(most, edges))
            row: Row = {"program": title, "links kept per node": KEPT_LINKS if program.pruned else "all"}
            for key in ("rows", "columns", "nonzeros"):
                said = self._published.get(program.cell, "gurobi", key)
                row |= {f"{key}, published": None if said is None else int(said.value), key: size[key]}
            rows.append(row | {"directed links": size["edges"]})
        return PartResult(rows)
