"""Placements for scripts and notebooks: with their candidates, tables and figures."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from helixsim.config.experiment import ResolvedExperiment
from helixsim.domain.placement import Placement as _Placement
from helixsim.experiment import Experiment
from helixsim.report.notebook import table_html
from helixsim.report.pages import PageTable
from helixsim.report.plots import frontier_figure, placement_figure
from helixsim.results.files import write_json
from helixsim.results.placement_json import placement_document
from helixsim.study.systems import PlacedSystem
from helixsim.units import MISSING, number

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure


class _Shown:
    """What can be looked at of a placement, from its document (``results.placement_json``)."""

    @abstractmethod
    def _shown(self) -> tuple[str, Mapping[str, Any]]:
        """Return the system and the document."""

    def table(self) -> pd.DataFrame:
        """Return a row per node: layers (from the first to before the end), KV tokens, planned tokens/s."""
        import pandas as pd

        document = self._shown()[1]
        rows = []
        for node in document["nodes"]:
            start, end = document["layers"][node["node"]] or (None, None)
            rows.append({"node": node["node"], "node_type": node["node_type"], "region": node["region"],
                         "layer_start": start, "layer_end": end, **{key: node[key] for key in _FIGURES}})  # fmt: skip
        return pd.DataFrame(rows).astype({"layer_start": "Int64", "layer_end": "Int64"})

    @cached_property
    def frontier(self) -> pd.DataFrame:
        """The placements that the search compared, the largest max-flow first.

        Columns: ``candidate``, ``max_hops`` (most nodes on a route), ``max_flow_tokens_per_s``, ``score`` (that of the
        short simulations, which rank candidates; NaN: not simulated), ``on_frontier`` (no other has more flow in as few
        nodes) and ``is_chosen``. Strategies that do not search have one row.
        """
        import pandas as pd

        document = self._shown()[1]
        notes = document["notes"]
        only = {"name": document["strategy"], "hops": document["max_hops"], "score": None,
                "max_flow_tokens_per_s": document["max_flow_tokens_per_s"]}  # fmt: skip
        rows = []
        fewest = float("inf")
        listed = notes.get("candidates") or [only]
        for one in sorted(listed, key=lambda one: (-one["max_flow_tokens_per_s"], one["hops"])):
            rows.append({"candidate": one["name"], "max_hops": one["hops"],
                         "max_flow_tokens_per_s": one["max_flow_tokens_per_s"], "score": one["score"],
                         "on_frontier": one["hops"] < fewest,
                         "is_chosen": one["name"] == notes.get("chosen", only["name"])})  # fmt: skip
            fewest = min(fewest, one["hops"])
        return pd.DataFrame(rows).astype({"score": float})

    def plot(self) -> Figure:
        """Draw the layers that each node holds; the fuller the colour, the larger its planned share of capacity."""
        return placement_figure(self._shown()[1])

    def plot_frontier(self) -> Figure:
        """Draw the max-flow of the candidates against the most nodes on a route."""
        system, document = self._shown()
        frontier = self.frontier
        notes = {
            **document["notes"],
            "frontier": [
                {"hops": one.max_hops, "max_flow_tokens_per_s": one.max_flow_tokens_per_s}
                for one in frontier[frontier["on_frontier"]].itertuples()
            ],
        }
        return frontier_figure(system, {**document, "notes": notes})

    def save(self, path: str | Path) -> None:
        """Write the placement as JSON, which the strategy ``fixed`` reads: ``{"strategy": "fixed", "file": path}``."""
        write_json(Path(path), self._shown()[1])

    def __repr__(self) -> str:
        system, document = self._shown()
        used = sum(held is not None for held in document["layers"].values())
        return (
            f"<Placement of {system}: {document['strategy']}, {used} of {len(document['nodes'])} nodes, max-flow "
            f"{number(document['max_flow_tokens_per_s'])} tokens/s, {number(document['mean_hops'])} nodes per request>"
        )

    def _repr_html_(self) -> str:
        document = self._shown()[1]
        head = ("node", "layers", "KV tokens", "flow, tokens/s", "capacity, tokens/s")
        rows = []
        for node in document["nodes"]:
            held = document["layers"][node["node"]]
            layers = MISSING if held is None else f"{held[0]}–{held[1] - 1}"
            rows.append((node["node"], layers, *(MISSING if held is None else number(node[key]) for key in _FIGURES)))
        return table_html(PageTable(head, tuple(rows)), [("", repr(self)[1:-1])])


@dataclass(frozen=True, repr=False, eq=False)
class Placement(_Shown, _Placement):
    """The placement of a simulated system.

    Parameters
    ----------
    system
        Its name.
    document
        The placement with its flow as JSON values.
    """

    system: str = ""
    document: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, placement: _Placement, system: str, document: Mapping[str, Any]) -> Self:
        """Return a placement with what is needed to show it."""
        values = {one.name: getattr(placement, one.name) for one in fields(_Placement)}
        return cls(**values, system=system, document=document)

    def _shown(self) -> tuple[str, Mapping[str, Any]]:
        return self.system, self.document


@dataclass(frozen=True, repr=False, eq=False)
class Placed(_Shown, PlacedSystem):
    """A system whose model is placed, ready to be simulated."""

    @classmethod
    def of(cls, placed: PlacedSystem) -> Self:
        """Return a placed system with what is needed to show it."""
        return cls(placed.system, placed.placement, placed.plan, placed.operating)

    @cached_property
    def document(self) -> dict[str, Any]:
        """The placement with its flow as JSON values."""
        return placement_document(self.placement, self.plan, self.system.fleet)

    def deployment(self, experiment: Experiment | ResolvedExperiment, target: str, model_id: str | None = None) -> str:
        """Return what starts the placement: a script or manifests, as ``place --export TARGET`` writes.

        Parameters
        ----------
        experiment
            The experiment that was placed, for the options of its engine.
        target
            ``vllm``, ``ray``, ``kubernetes``, ``llm-d`` or ``dynamo``.
        model_id
            Hugging Face id or folder that servers load; None: the id that the catalogue has for the model.

        Raises
        ------
        ConfigError
            If the target is unknown or cannot serve the placement, with the reason.
        """
        from helixsim.deploy import registry

        resolved = experiment.resolve() if isinstance(experiment, Experiment) else experiment
        return registry.text(target, resolved, self.system, self.placement, self.plan, model_id=model_id)

    def _shown(self) -> tuple[str, Mapping[str, Any]]:
        return self.system.name, self.document


_FIGURES = ("kv_tokens", "flow_tokens_per_s", "capacity_tokens_per_s")
