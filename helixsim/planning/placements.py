"""Placements kept by the hash of what they were made from, so that equal inputs are placed once.

A strategy that never asked the judge has seen the fleet, the capacities, its options and the seed, nothing else: such
a placement is kept under the hash of these alone and serves any load. One that asked is kept under the hash of the
load and of all that decides how it is simulated, too. The code of helixsim enters every hash. Prices and powers do
not: no strategy may look at them. Classes of the user's own are not kept, for nothing tells when their code changes.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import helixsim
from helixsim.config.experiment import ResolvedExperiment, SystemSpec
from helixsim.domain.cluster import Fleet
from helixsim.domain.placement import LayerRange, Placement
from helixsim.flow.capacity import CapacityTable

Search = Callable[[], tuple[Placement, bool]]
"""Makes a placement; the second value tells whether the judge was asked."""


class Store:
    """A folder of results, each in a file named by the hash of its inputs.

    Parameters
    ----------
    directory
        Made when the first result is kept.
    renew
        Compute anew and replace what is there.
    """

    def __init__(self, directory: Path, *, renew: bool = False) -> None:
        self.directory = directory
        self.renew = renew


class PlacementStore(Store):
    """A folder of placements."""

    def get(
        self,
        experiment: ResolvedExperiment,
        system: SystemSpec,
        capacities: tuple[CapacityTable, ...],
        judged: bool,
        search: Search,
    ) -> Placement:
        """Return the placement of these inputs; while one process searches, others with the same inputs wait for it."""
        if not is_kept(system):
            return search()[0]
        self.directory.mkdir(parents=True, exist_ok=True)
        blind = _blind_inputs(experiment, system, capacities)
        if judged:
            keys = [hash_of(blind, _judged_inputs(experiment, system)), hash_of(blind, "any load")]
        else:
            keys = [hash_of(blind, "no judge")]
        with _exclusive(self.directory / f"{keys[0]}.lock"):
            if not self.renew:
                for key in keys:
                    if (found := _read(self.directory / f"{key}.json")) is not None:
                        return found
            placement, asked = search()
            if not placement.notes.get("interrupted"):
                _write(self.directory / f"{keys[0] if asked else keys[-1]}.json", placement)
            return placement


@lru_cache(maxsize=1)
def code_hash() -> str:
    """Return the SHA-256 of helixsim's own code."""
    package = Path(helixsim.__file__).parent
    digest = hashlib.sha256()
    for path in sorted(package.rglob("*.py")):
        digest.update(str(path.relative_to(package)).encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()


def _blind_inputs(experiment: ResolvedExperiment, system: SystemSpec, capacities: tuple[CapacityTable, ...]) -> str:
    """Return all that a strategy sees without asking the judge."""
    parts = (
        system.placement, system.placement_options, _without_prices(system.fleet), capacities, experiment.seed,
        experiment.file_hashes, code_hash(),
    )  # fmt: skip
    return repr(parts)


def _judged_inputs(experiment: ResolvedExperiment, system: SystemSpec) -> str:
    """Return what the judge's simulations depend on besides."""
    by_goodput = getattr(system.placement_options, "criterion", None) == "goodput"
    parts = (
        experiment.workload, experiment.workload_stats, experiment.engine, experiment.is_one_by_one,
        experiment.sample_s, experiment.slo if by_goodput else None, system.routing, system.routing_options,
        system.batching, system.batching_options, system.kv, system.arrivals,
    )  # fmt: skip
    return repr(parts)


def _without_prices(fleet: Fleet) -> Fleet:
    nodes = tuple(replace(node, cost_usd_per_hour=0.0, tdp_w=0.0) for node in fleet.cluster.nodes)
    return replace(fleet, cluster=replace(fleet.cluster, nodes=nodes))


def is_kept(system: SystemSpec) -> bool:
    """Return whether results of a system may be kept: not those of classes of the user's own."""
    return not any(":" in name for name in (system.placement, system.routing, system.batching))


def hash_of(*texts: str) -> str:
    """Return the SHA-256 of texts."""
    return hashlib.sha256("\0".join(texts).encode()).hexdigest()


@contextmanager
def _exclusive(path: Path) -> Iterator[None]:
    """Hold a lock that the system releases when its holder dies; where there are no such locks, go on without."""
    try:
        import fcntl
    except ImportError:
        yield
        return
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _write(path: Path, placement: Placement) -> None:
    document = {
        **{name: getattr(placement, name) for name in _PLAIN},
        "ranges": {node: [held.start, held.end] for node, held in placement.ranges.items()},
        "pipelines": dict(placement.pipelines),
        "notes": dict(placement.notes),
    }
    write_whole(path, document)


def write_whole(path: Path, document: Mapping[str, Any]) -> None:
    """Write a JSON file so that nobody ever sees a part of it."""
    scratch = path.with_suffix(f".{os.getpid()}")
    scratch.write_text(json.dumps(document), encoding="utf-8")
    scratch.replace(path)


def _read(path: Path) -> Placement | None:
    """Return the placement in a file, None if there is none or it is damaged."""
    try:
        document: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        return Placement(
            **{name: document[name] for name in _PLAIN if name != "history"},
            ranges={node: LayerRange(*held) for node, held in document["ranges"].items()},
            pipelines=document["pipelines"],
            notes=document["notes"],
            history=tuple((entry[0], entry[1], entry[2]) for entry in document["history"]),
        )
    except (OSError, ValueError, KeyError, TypeError):
        return None


_PLAIN = (
    "strategy", "num_layers", "partial_inference", "objective_tokens_per_s", "upper_bound_tokens_per_s", "status",
    "solve_s", "history",
)  # fmt: skip
