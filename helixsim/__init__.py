"""helixsim: simulate and plan LLM serving on clusters of mixed GPUs.

>>> import helixsim
>>> experiment = helixsim.Experiment.load("experiments/quickstart.yaml").with_(seed=1).resolve()  # doctest: +SKIP
>>> placed = helixsim.place(experiment, "helix")  # doctest: +SKIP
>>> result = helixsim.simulate(experiment, placed)  # doctest: +SKIP

The same from the command line: ``python -m helixsim run experiments/quickstart.yaml``.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from helixsim.config.experiment import ResolvedExperiment
    from helixsim.domain.result import RunResult
    from helixsim.experiment import Experiment
    from helixsim.planning.systems import PlacedSystem

__version__ = "0.1.0"

__all__ = ["Experiment", "__version__", "load_experiment", "place", "run", "simulate"]


def __getattr__(name: str) -> Any:
    """Return what is imported when it is first used, so that ``import helixsim`` stays fast."""
    if name == "Experiment":
        from helixsim.experiment import Experiment

        return Experiment
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def load_experiment(path: str | Path, overrides: Sequence[str] = ()) -> ResolvedExperiment:
    """Read and check an experiment file: ``Experiment.load(path).with_(...).resolve()``.

    Parameters
    ----------
    overrides
        ``key.path=value`` texts, as with ``--set``.

    Raises
    ------
    ConfigError, DataError, InfeasibleError
        With every fault found (``helixsim.errors``).
    """
    from helixsim.config.edit import parse_option
    from helixsim.experiment import Experiment

    return Experiment.load(path).with_(map(parse_option, overrides)).resolve()


def place(experiment: ResolvedExperiment, system: str) -> PlacedSystem:
    """Place the model for one system of the experiment; the result holds the placement and its max-flow.

    Raises
    ------
    KeyError
        If the experiment has no such system.
    InfeasibleError
        If its strategy finds no placement.
    """
    from helixsim.planning.placing import place_system

    return place_system(experiment, {spec.name: spec for spec in experiment.systems}[system])


def simulate(experiment: ResolvedExperiment, placed: PlacedSystem) -> RunResult:
    """Simulate the experiment's load on a placed system.

    Raises
    ------
    SimulationError
        If an invariant breaks or the run stalls.
    """
    from helixsim.planning.systems import simulate_system

    return simulate_system(experiment, placed)


def run(experiment: ResolvedExperiment, out: str | Path = "runs") -> Path:
    """Run every system of the experiment, write a run directory with its report and return its path."""
    from helixsim.planning.run import run_experiment

    return run_experiment(experiment, Path(out))
