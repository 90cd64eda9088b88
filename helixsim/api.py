"""The public API: experiments built, run and searched from Python; the command line does the same from files.

>>> import helixsim as hx
>>> cluster = hx.Cluster({"a100-40g": 4, "l4": 8, "t4": 12}, link="8 Gbit/s, 1 ms")
>>> exp = hx.Experiment(
...     "llama-2-70b", cluster, load=hx.poisson(1.3, "azure-conversation"), window=("10 min", "10 min"),
...     slo=hx.slo(ttft="10 s", tpot="2 s"), systems=["helix", "swarm"],
... )
>>> runs = exp.run()  # doctest: +SKIP
>>> runs.table()[["output_tokens_per_s", "ttft_p99_s"]]  # doctest: +SKIP

Everything is checked when an experiment is resolved, placed or run, with the errors of the command line
(``helixsim.errors``).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from helixsim.config.edit import Edit, parse_option
from helixsim.config.experiment import ResolvedExperiment
from helixsim.config.source import Source
from helixsim.config.sweep_file import Block, SweepPlan
from helixsim.domain.result import RunResult
from helixsim.errors import ConfigError, unknown_name
from helixsim.experiment import Experiment as _Experiment
from helixsim.results.runset import RunSet
from helixsim.runtime.pool import Executor, Processes, Serial, available_cores
from helixsim.study.systems import PlacedSystem

if TYPE_CHECKING:
    import pandas as pd

Lengths = str | tuple[int, int] | Mapping[str, Any]
"""Prompt and output lengths: the name of a distribution, two numbers of tokens, or a mapping with its options."""

Data = dict[str, Any]


@dataclass(frozen=True)
class Cluster:
    """The machines and the network between them.

    Parameters
    ----------
    nodes
        GPU -> number of nodes, or a list of mappings with the keys of ``cluster.nodes`` (``gpu count gpus region``).
    link
        Links inside a region: ``"8 Gbit/s, 1 ms"`` (bandwidth, latency), or the name of a link profile.
    between
        Links between regions, in the same form; needed if there are several.
    more
        Further keys of the section ``cluster``, such as ``coordinator`` and ``down``.
    """

    nodes: Mapping[str, int] | Sequence[Mapping[str, Any]]
    link: str
    between: str | None = None
    more: Mapping[str, Any] | None = None

    def data(self) -> Data:
        """Return the section ``cluster`` as plain data."""
        if isinstance(self.nodes, Mapping):
            nodes: list[Data] = [{"gpu": gpu, "count": count} for gpu, count in self.nodes.items()]
        else:
            nodes = [dict(node) for node in self.nodes]
        network: Data = {"intra_region": _link(self.link)}
        if self.between is not None:
            network["inter_region"] = _link(self.between)
        return {"nodes": nodes, "network": network, **(self.more or {})}


def poisson(rate: float | str, lengths: Lengths = "azure-conversation", **more: Any) -> Data:
    """Return a load of independent arrivals, ``rate`` of them per second on average.

    Parameters
    ----------
    more
        Further keys of ``workload``, such as ``limits`` and ``scale``.
    """
    return _load({"process": "poisson", "rate": rate}, lengths, more)


def gamma(rate: float | str, burstiness: float, lengths: Lengths = "azure-conversation", **more: Any) -> Data:
    """Return a load whose gaps are gamma-distributed: ``burstiness`` 1 is Poisson, below 1 is burstier."""
    return _load({"process": "gamma", "rate": rate, "burstiness": burstiness}, lengths, more)


def constant(rate: float | str, lengths: Lengths = "azure-conversation", **more: Any) -> Data:
    """Return a load of equally spaced arrivals, ``rate`` of them per second."""
    return _load({"process": "constant", "rate": rate}, lengths, more)


def closed_loop(
    concurrency: int, lengths: Lengths = "azure-conversation", *, num_requests: int | None = None, **more: Any
) -> Data:
    """Return a closed loop of ``concurrency`` requests in the system; ``num_requests`` ends it, as benchmarks do."""
    arrivals = {"process": "closed_loop", "concurrency": concurrency}
    return _load(arrivals if num_requests is None else {**arrivals, "num_requests": num_requests}, lengths, more)


def saturate(lengths: Lengths = "azure-conversation", **more: Any) -> Data:
    """Return a load of which the next request arrives as soon as it can be admitted."""
    return _load({"process": "saturate"}, lengths, more)


def trace(path: str | Path, *, rate: float | str | None = None, **options: Any) -> Data:
    """Return the load recorded in a file; ``rate`` stretches it.

    Parameters
    ----------
    options
        Further keys of ``workload.trace``: ``format start duration unit columns where``.
    """
    arrivals: Data = {"process": "trace"} if rate is None else {"process": "trace", "rate": rate}
    return {"trace": {"path": str(path), **options}, "arrivals": arrivals}


def slo(ttft: str | None = None, tpot: str | None = None, e2el: str | None = None) -> Data:
    """Return a service-level objective: longest times such as ``"500 ms"``; a request is good if it meets all."""
    given = {"ttft": ttft, "tpot": tpot, "e2el": e2el}
    return {name: value for name, value in given.items() if value is not None}


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
        Service-level objective (``slo``).
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
        slo: Mapping[str, Any] | None = None,
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
            "cluster": cluster.data() if isinstance(cluster, Cluster) else cluster,
            "workload": workload,
            "systems": [_system(system) for system in systems],
            **({} if slo is None else {"slo": slo}),
            **more,
        }
        self._source, self._edits, self._resolved = Source.of(data, Path(directory) / name), (), {}

    def run(
        self, out: str | Path = "runs", *, jobs: int | None = None, force: bool = False, check: bool = False
    ) -> RunSet:
        """Run every system and return the results; they are kept in ``out``, where equal runs are found again.

        Parameters
        ----------
        jobs
            Processes; None: one per core, at most one per system. Results do not depend on it.
        force
            Run again what is there.
        check
            Check the expensive invariants too.

        Raises
        ------
        ConfigError, DataError, InfeasibleError, SimulationError
            As the command ``run``.
        """
        from helixsim.study.run import run_experiment

        directory = run_experiment(self.resolve(), Path(out), jobs=jobs, force=force, check=check, with_report=False)
        return RunSet.load(directory)


def load(path: str | Path) -> Experiment:
    """Return the experiment that a file describes (``Experiment.load``)."""
    return Experiment.load(path)


def load_experiment(path: str | Path, overrides: Sequence[str] = ()) -> ResolvedExperiment:
    """Read and check an experiment file: ``load(path).with_(...).resolve()``.

    Parameters
    ----------
    overrides
        ``key.path=value`` texts, as with ``--set``.

    Raises
    ------
    ConfigError, DataError, InfeasibleError
        With every fault found (``helixsim.errors``).
    """
    return load(path).with_(map(parse_option, overrides)).resolve()


def place(experiment: _Experiment | ResolvedExperiment, system: str) -> PlacedSystem:
    """Place the model for one system; the result holds the placement, its max-flow and its operating point.

    Raises
    ------
    ConfigError
        If the experiment has no such system, or is wrong.
    InfeasibleError
        If its strategy finds no placement.
    """
    from helixsim.study.placing import place_system

    resolved = _resolved(experiment)
    found = {spec.name: spec for spec in resolved.systems}
    if system not in found:
        raise ConfigError(unknown_name("system", system, found))
    return place_system(resolved, found[system])


def simulate(experiment: _Experiment | ResolvedExperiment, placed: PlacedSystem) -> RunResult:
    """Simulate the experiment's load on a placed system and return the columns of the simulation.

    Raises
    ------
    SimulationError
        If an invariant breaks or the run stalls.
    """
    from helixsim.study.systems import simulate_system

    return simulate_system(_resolved(experiment), placed)


def run(experiment: _Experiment | ResolvedExperiment, out: str | Path = "runs") -> Path:
    """Run every system, write a run directory with its report and return its path."""
    from helixsim.study.run import run_experiment

    return run_experiment(_resolved(experiment), Path(out))


def capacity(
    experiment: _Experiment,
    *,
    seeds: int = 3,
    tolerance: float = 0.02,
    percentile: float = 99.0,
    out: str | Path = "runs",
    jobs: int | None = None,
) -> pd.DataFrame:
    """Return the highest rate at which each system meets the SLO, a row per system and objective.

    Columns: ``system target requests_per_s low_per_s high_per_s`` (95 % interval over the seeds) ``binds``.

    Raises
    ------
    ConfigError
        If the experiment states no objective, or its requests do not come at a rate.
    """
    import pandas as pd

    from helixsim.planning.capacity import SearchOptions, capacity_targets
    from helixsim.planning.capacity_run import run_capacity
    from helixsim.results.files import read_json

    resolved = experiment.resolve()
    targets = capacity_targets(resolved, percentile, None)
    options = SearchOptions(tolerance, seeds, with_curve=False)
    with _executor(jobs) as executor:
        directory = run_capacity(resolved, targets, options, Path(out), executor)
    rows = []
    for name, found in read_json(directory / "capacity.json")["systems"].items():
        for target, one in found["targets"].items():
            low, high = one["interval"] or (None, None)
            rows.append(
                {
                    "system": name, "target": target, "requests_per_s": one["requests_per_s"],
                    "low_per_s": low, "high_per_s": high, "binds": one["binds"],
                }
            )  # fmt: skip
    return pd.DataFrame(rows)


def sweep(
    experiment: _Experiment,
    axes: Mapping[str, Sequence[Any]],
    *,
    name: str = "sweep",
    seeds: int | Sequence[int] | None = None,
    out: str | Path = "runs",
    jobs: int | None = None,
) -> pd.DataFrame:
    """Run all combinations of axis values and return a row per point, seed and system.

    Parameters
    ----------
    axes
        Dotted key of the experiment -> its values.
    seeds
        Replications: how many, or a list.

    Raises
    ------
    ConfigError
        If a key does not exist or a value is wrong.
    """
    import pandas as pd

    from helixsim.planning.sweep import prepare, run_sweep

    blocks = tuple(
        Block(tuple((Edit.of(key, value, f"sweep: {key}"),) for value in values)) for key, values in axes.items()
    )
    given = tuple(seeds) if isinstance(seeds, Sequence) else seeds
    plan = SweepPlan(name, None, experiment.path, (), given, blocks, None, None)
    with _executor(jobs) as executor:
        _, results = run_sweep(prepare(plan, experiment), Path(out), executor)
    return pd.DataFrame(results.rows)


def _resolved(experiment: _Experiment | ResolvedExperiment) -> ResolvedExperiment:
    return experiment if isinstance(experiment, ResolvedExperiment) else experiment.resolve()


def _executor(jobs: int | None) -> Executor:
    count = jobs or available_cores()
    return Serial() if count == 1 else Processes(count)


def _load(arrivals: Data, lengths: Lengths, more: Mapping[str, Any]) -> Data:
    if isinstance(lengths, tuple):
        prompt_tokens, output_tokens = lengths
        given: Any = {"distribution": "fixed", "prompt_tokens": prompt_tokens, "output_tokens": output_tokens}
    else:
        given = lengths if isinstance(lengths, str) else dict(lengths)
    return {"arrivals": arrivals, "lengths": given, **more}


def _link(text: str) -> Any:
    bandwidth, comma, latency = text.partition(",")
    return {"bandwidth": bandwidth.strip(), "latency": latency.strip()} if comma else text


def _system(system: str | Mapping[str, Any]) -> Data:
    return {"placement": system} if isinstance(system, str) else dict(system)
