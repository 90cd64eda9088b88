"""Simulated systems of a run, stored on disk until the run directory is complete.

After an interruption, or if the run directory cannot be written, a repeated run continues with the missing systems. And
what is simulated to select a placement is not simulated again to report it.
"""

from __future__ import annotations

import dataclasses
import json
import zipfile
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from helixsim.config.experiment import ResolvedExperiment
from helixsim.domain.autoscaling import AutoscalingStats, Pool, PoolStats
from helixsim.domain.clients import ClientStats
from helixsim.domain.faults import CopyStats, FailureCause, FaultStats
from helixsim.domain.flowplan import Route
from helixsim.domain.placement import LayerRange, Placement
from helixsim.domain.request import FeedMode
from helixsim.domain.result import (
    GapHistogram,
    InvariantCheck,
    LinkStats,
    NodeStats,
    OffloadStats,
    RequestColumns,
    RunResult,
    Series,
    TransferStats,
)
from helixsim.engine.simulate import Progress
from helixsim.runtime.identity import content_key, experiment_key
from helixsim.runtime.store import open_regular
from helixsim.study.placements import decoded_placement
from helixsim.study.rundir import work_folder
from helixsim.study.systems import PlacedSystem, simulate_system
from helixsim.writing import new_file

SCHEMA = 5

_ARRAY = "array"
_DOCUMENT = "document.json"


@dataclass(frozen=True)
class Simulated:
    """What the simulation of one placed system leaves; everything else of its report follows from it."""

    placement: Placement
    run: RunResult


class SimulatedStore:
    """The simulated systems kept in a folder, each in a zip file of its arrays and a document of everything else.

    Arrays are neither compressed nor turned into text: those of a million requests take a tenth of a second. A file
    with another header, or of whose members one does not have its checksum, does not count.

    Parameters
    ----------
    directory
        Made when the first system is kept.
    renew
        Simulate anew and replace what is there.
    """

    def __init__(self, directory: Path, *, renew: bool = False) -> None:
        self.directory = directory
        self.renew = renew

    def path(self, key: str) -> Path:
        """Return the file of a key."""
        return self.directory / f"{key}.zip"

    def get(self, key: str) -> Simulated | None:
        """Return the system of a key, None if there is none that checks out."""
        if self.renew:
            return None
        try:
            with open_regular(self.path(key)) as file, zipfile.ZipFile(file) as members:
                document = json.loads(members.read(_DOCUMENT))
                return _decoded(_with_arrays(document["payload"], members)) if document["head"] == _head(key) else None
        except Exception:  # whatever is the matter with the file, the system is simulated again
            return None

    def keep(self, key: str, value: Simulated) -> None:
        """Keep a system; ``OSError`` if it cannot be written."""
        self.directory.mkdir(parents=True, exist_ok=True)
        with new_file(self.path(key)) as file, zipfile.ZipFile(file, "w") as members:
            payload = _encoded(value, members)
            members.writestr(_DOCUMENT, json.dumps({"head": _head(key), "payload": payload}))


def simulated(
    experiment: ResolvedExperiment,
    placed: PlacedSystem,
    runs: SimulatedStore | None,
    progress: Progress | None = None,
) -> RunResult:
    """Simulate a placed system as it is reported, unless that was done before; ``runs``: where it is kept, if at all.

    The key has no name of a system and nothing on how the placement was found: equal simulations are equal.
    """
    if runs is None:
        return simulate_system(experiment, placed, progress=progress)
    system, placement = placed.system, placed.placement
    parts = (
        experiment_key(experiment), experiment.seed, experiment.workload, experiment.workload_stats, system.fleet,
        system.routing, system.routing_options, system.batching, system.batching_options, system.kv, system.arrivals,
        system.disaggregation, system.autoscaling, list(placement.ranges.items()),
        placement.partial_inference, placement.pipelines,
    )  # fmt: skip
    key = content_key("simulation", parts)
    if (known := runs.get(key)) is not None:
        return known.run
    run = simulate_system(experiment, placed, progress=progress)
    with suppress(OSError):  # no room
        runs.keep(key, Simulated(placement, run))
    return run


def _head(key: str) -> dict[str, Any]:
    return {"kind": "simulated system", "schema": SCHEMA, "key": key}


def simulated_in(run_directory: Path, *, check: bool) -> Path:
    """Return where the finished systems of an unfinished run are kept; ``check``: with the invariants checked."""
    return work_folder(run_directory) / ("systems-checked" if check else "systems")


def _encoded(value: Any, members: zipfile.ZipFile) -> Any:
    """Return JSON values; arrays become members of the zip file."""
    if isinstance(value, np.ndarray):
        name = f"{len(members.namelist())}.npy"
        with members.open(name, "w", force_zip64=True) as member:
            np.lib.format.write_array(member, np.ascontiguousarray(value), allow_pickle=False)
        return {_ARRAY: name}
    if dataclasses.is_dataclass(value):
        return {field.name: _encoded(getattr(value, field.name), members) for field in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {key: _encoded(one, members) for key, one in value.items()}
    if isinstance(value, (tuple, list)):
        return [_encoded(one, members) for one in value]
    return value


def _with_arrays(value: Any, members: zipfile.ZipFile) -> Any:
    """Return JSON values with arrays in place of the names of their members."""
    if isinstance(value, dict):
        if _ARRAY in value:
            with members.open(value[_ARRAY]) as member:
                return np.lib.format.read_array(member, allow_pickle=False)
        return {key: _with_arrays(one, members) for key, one in value.items()}
    return [_with_arrays(one, members) for one in value] if isinstance(value, list) else value


def _decoded(document: dict[str, Any]) -> Simulated:
    run = document["run"]
    for name in ("nodes", "links"):
        run[name] = {key: tuple(one) if isinstance(one, list) else one for key, one in run[name].items()}
    routes = (Route(tuple((node, LayerRange(**held)) for node, held in route["hops"])) for route in run["routes"])
    columns: dict[str, Any] = {
        "mode": FeedMode(run["mode"]),
        "requests": RequestColumns(**run["requests"]),
        "routes": tuple(routes),
        "series": Series(**run["series"]),
        "nodes": NodeStats(**run["nodes"]),
        "links": LinkStats(**run["links"]),
        "gaps": GapHistogram(**run["gaps"]),
        "classes": tuple(run["classes"]),
        "transfers": None if run["transfers"] is None else TransferStats(**run["transfers"]),
        "offloading": None if run["offloading"] is None else OffloadStats(**run["offloading"]),
        "faults": None if run["faults"] is None else _faults(run["faults"]),
        "autoscaling": None if run["autoscaling"] is None else _autoscaling(run["autoscaling"]),
        "invariants": tuple(InvariantCheck(**check) for check in run["invariants"]),
    }
    return Simulated(decoded_placement(document["placement"]), RunResult(**{**run, **columns}))


def _faults(document: dict[str, Any]) -> FaultStats:
    events = tuple((time_ns, what, tuple(nodes)) for time_ns, what, nodes in document["events"])
    causes = {int(row): FailureCause(cause) for row, cause in document["causes"].items()}
    clients = None if document["clients"] is None else ClientStats(**document["clients"])
    copies = None if document["copies"] is None else CopyStats(**document["copies"])
    return FaultStats(**{**document, "events": events, "causes": causes, "clients": clients, "copies": copies})


def _autoscaling(document: dict[str, Any]) -> AutoscalingStats:
    pools = (PoolStats(**{**one, "pool": Pool(**{**one["pool"], **_tuples(one["pool"])})}) for one in document["pools"])
    return AutoscalingStats(tuple(pools), document["window_s"], document["spot_price_share"])


def _tuples(pool: dict[str, Any]) -> dict[str, tuple[Any, ...]]:
    return {key: tuple(pool[key]) for key in ("nodes", "zones")}
