"""Experiments that are built, changed and run in Python."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

from helixsim.api.building import Cluster, Slo, plain
from helixsim.api.results import RunSet
from helixsim.config.source import Source
from helixsim.experiment import Changes
from helixsim.experiment import Experiment as _Experiment
from helixsim.runtime.executors import executor as make_executor


class Experiment(_Experiment):
    """A model on a cluster under a load, served by several systems that are compared.

    ``Experiment.load`` reads a file, ``Experiment.from_data`` takes plain data with the keys of exp.yaml, and
    ``with_`` returns a changed one.

    Parameters
    ----------
    model
        Name of a model profile, or path of a ``config.json`` or of its folder.
    cluster
        The machines; a mapping with the keys of the section ``cluster`` will do, too.
    load
        What is asked of them: ``poisson``, ``closed_loop``, ``trace`` ..., or a mapping of the section ``workload``.
    window
        Warm-up and duration of the measurement, such as ``("60 s", "10 min")``; None: until the last request ends.
    systems
        Names of placement strategies, or mappings with the keys of ``systems``.
    slo
        Service-level objective; a mapping of the section ``slo`` will do, too.
    more
        Further keys of exp.yaml: ``seed precision engine kv baseline capacity planning whatif ...``.
    directory
        Folder that relative file names count from.
    """

    __slots__ = ()

    def __init__(
        self,
        model: str,
        cluster: Cluster | Mapping[str, Any],
        *,
        load: Mapping[str, Any],
        systems: Sequence[str | Mapping[str, Any]],
        window: tuple[str, str] | None = None,
        slo: Slo | Mapping[str, Any] | None = None,
        name: str = "experiment",
        directory: str | Path = ".",
        **more: Any,
    ) -> None:
        workload = dict(load)
        if window is not None:
            workload["warmup"], workload["duration"] = window
        data = {
            "schema": 1,
            "name": name,
            "model": model,
            "cluster": cluster,
            "workload": workload,
            "systems": _systems(systems),
            **({} if slo is None else {"slo": slo}),
            **more,
        }
        self._source, self._edits = Source.of(plain(data), Path(directory) / name), ()
        self._own, self._resolved = None, {}

    def with_(self, changes: Changes = (), /, **keys: Any) -> Self:
        """Return the experiment with some values given anew (``helixsim.experiment.Experiment.with_``).

        Values may be ``Cluster`` and ``Slo``, and systems names of placement strategies:
        ``with_({"workload.arrivals.rate": 2}, slo=Slo(ttft="5 s"), systems=["helix"])``.
        """
        given = _plain(changes) if isinstance(changes, Mapping) else changes
        return super().with_(given, **_plain(keys))

    def run(
        self,
        out: str | Path = "runs",
        *,
        jobs: int | None = None,
        dask: str | None = None,
        force: bool = False,
        check: bool = False,
    ) -> RunSet:
        """Run every system and return the results; they are kept in ``out``, where equal runs are found again.

        Parameters
        ----------
        jobs
            Processes; None: one per core, at most one per system. Results do not depend on it.
        dask
            Address of a dask scheduler, or ``local``; workers run in the same folder and see the same files.
        force
            Run again what is there.
        check
            Check the expensive invariants too.

        Raises
        ------
        ConfigError, DataError, InfeasibleError, SimulationError
            As the command ``run``. ``run_tenants`` runs files with tenants.
        """
        from helixsim.study.run import run_experiment

        with make_executor(jobs, dask, Path(out)) as executor:
            directory = run_experiment(self.resolve(), Path(out), executor, force=force, check=check, with_report=False)
        return RunSet.load(directory)


def _plain(changes: Mapping[Any, Any]) -> dict[Any, Any]:
    return {key: plain(_systems(value) if key == "systems" else value) for key, value in changes.items()}


def _systems(systems: Any) -> Any:
    """Return systems as entries of ``systems``: a name stands for a placement strategy."""
    if not isinstance(systems, (list, tuple)):
        return systems
    return [{"placement": system} if isinstance(system, str) else system for system in systems]
