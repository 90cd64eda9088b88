"""The figures of the reports one by one, for scripts and notebooks.

Each method returns a matplotlib figure of its own: a notebook shows it below its cell, ``savefig`` writes it to a file.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from helixsim.config.sweep_file import Plot
from helixsim.errors import ConfigError
from helixsim.report import capacity_files, fleet_files, sweep_figures
from helixsim.report.autoscaling_series import autoscaling_over_time, scaled
from helixsim.report.cluster_figures import busiest_links, frontier_curves, placement_diagram
from helixsim.report.figures import Draw, latency_cdfs, throughput_bars
from helixsim.report.style import NODE_TYPE_COLORS, colors_of, drawn
from helixsim.report.time_figures import (
    kv_memory_over_time,
    requests_over_time,
    throughput_over_time,
    utilisation_over_time,
)
from helixsim.results.capacity import CapacityResults
from helixsim.results.fleet import FleetResults
from helixsim.results.runset import RunSet
from helixsim.results.sweep import SweepResults

if TYPE_CHECKING:
    from matplotlib.figure import Figure


class RunPlots:
    """Figures of simulated systems: of one, or of several that are compared."""

    def __init__(self, runs: RunSet) -> None:
        self._runs = runs

    def __repr__(self) -> str:
        return f"<plots of {', '.join(self._runs)}: {_methods(self)}>"

    def throughput(self) -> Figure:
        """Draw output tokens/s of each system with its 95 % interval, beside the flow bound."""
        return self._drawn(throughput_bars)

    def latency(self) -> Figure:
        """Draw the cumulative distributions of TTFT, TPOT and ITL."""
        return self._drawn(latency_cdfs)

    def throughput_over_time(self) -> Figure:
        """Draw output and prompt tokens/s over simulated time."""
        return self._drawn(throughput_over_time)

    def utilisation(self) -> Figure:
        """Draw the share of time that nodes compute over simulated time, averaged by GPU type."""
        return self._drawn(utilisation_over_time)

    def kv_memory(self) -> Figure:
        """Draw the KV memory in use over simulated time, by GPU type and of the fullest node."""
        return self._drawn(kv_memory_over_time)

    def requests(self) -> Figure:
        """Draw running and waiting requests over simulated time."""
        return self._drawn(requests_over_time)

    def autoscaling(self) -> Figure:
        """Draw the GPUs that are paid for, load and goodput over time, of systems with ``autoscaling``."""
        if not scaled(self._runs):
            raise ConfigError("autoscaling: no system of this run has an autoscaling section")
        return self._drawn(autoscaling_over_time)

    def links(self) -> Figure:
        """Draw the links that were busy for the largest share of the run, with the waits for them."""
        return self._drawn(busiest_links)

    def _drawn(self, draw: Draw) -> Figure:
        return drawn(lambda: draw(self._runs)[0])


class CapacityPlots:
    """Figures of a search for capacities."""

    def __init__(self, results: CapacityResults) -> None:
        self._results = results

    def __repr__(self) -> str:
        return f"<plots of capacities: {_methods(self)}>"

    def load_curve(self) -> Figure:
        """Draw latency, throughput and requests within SLO over the rate, under the first seed."""
        return drawn(lambda: capacity_files.load_curve(self._results, self._results.trials_table()))


class SweepPlots:
    """Figures over the points of a sweep; results and axes are named as in its ``table``."""

    def __init__(self, results: SweepResults) -> None:
        self._results = results

    def __repr__(self) -> str:
        return f"<plots of a sweep over {', '.join(self._results.axes)}: {_methods(self)}>"

    def lines(self, y: str | None = None, x: str | None = None) -> Figure:
        """Draw a result (default: the objective) over an axis (default: the first), a line per system.

        A second axis that varies gets panels; bands are 95 % intervals over the seeds.
        """
        return self._drawn(Plot("lines", x or self._results.axes[0], y or self._results.objective))

    def heatmap(self, value: str | None = None, x: str | None = None, y: str | None = None) -> Figure:
        """Draw a result as colours over two axes, a map per system."""
        axes = self._results.axes
        if len(axes) < 2:
            raise ConfigError(f"heatmap: needs a sweep with two axes, this one has {axes[0]} only")
        return self._drawn(Plot("heatmap", x or axes[0], y or axes[1], value or self._results.objective))

    def pareto(
        self, x: str = "usd_per_mtok", y: str | None = None, *, x_goal: str = "min", y_goal: str = "max"
    ) -> Figure:
        """Draw two results against each other and join the points that no other beats in both.

        Parameters
        ----------
        x_goal, y_goal
            ``min`` or ``max``: which values are better.
        """
        return self._drawn(Plot("pareto", x, y or self._results.objective, x_goal=x_goal, y_goal=y_goal))

    def _drawn(self, plot: Plot) -> Figure:
        return drawn(lambda: sweep_figures.drawing(self._results, plot))


class FleetPlots:
    """Figures of a search for fleets."""

    def __init__(self, results: FleetResults) -> None:
        self._results = results

    def __repr__(self) -> str:
        return f"<plots of fleets: {_methods(self)}>"

    def prices(self) -> Figure:
        """Draw the price of each simulated fleet against how far its tightest objective is from the limit."""
        return drawn(lambda: fleet_files.price_figure(self._results.table()))


def placement_figure(placement: Mapping[str, Any]) -> Figure:
    """Draw the layers that each node holds, shaded by planned load (``results.placement_json``)."""
    colors = colors_of(dict.fromkeys(node["node_type"] for node in placement["nodes"]), NODE_TYPE_COLORS)
    return drawn(lambda: placement_diagram(placement, colors)[0])


def frontier_figure(system: str, placement: Mapping[str, Any]) -> Figure:
    """Draw the max-flow of the candidates of a search against the most nodes on a route."""
    return drawn(lambda: frontier_curves({system: placement})[0])


def _methods(plots: object) -> str:
    return ", ".join(f"{name}()" for name in vars(type(plots)) if not name.startswith("_"))
