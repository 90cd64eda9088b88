"""A placement from a file."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

from helixsim import yamlio
from helixsim.domain.cluster import Deployment
from helixsim.domain.placement import ROLES, LayerRange, Placement, Role
from helixsim.errors import ConfigError, DataError, did_you_mean
from helixsim.placement.base import PlacementProblem
from helixsim.placement.outcome import finished

_KEYS = ("layers", "partial_inference", "pipelines", "widths", "roles")

_IGNORED_KEYS = (
    "strategy", "status", "num_layers", "objective_tokens_per_s", "upper_bound_tokens_per_s", "gap",
    "max_flow_tokens_per_s", "max_flow_without_network_tokens_per_s", "mean_hops", "max_hops", "replicas", "nodes",
    "min_cut", "equal_nodes", "routes", "notes", "vllm",
)  # fmt: skip
"""Results that ``place`` and ``run`` write into the same file."""


@dataclass(frozen=True, slots=True)
class FixedOptions:
    """Options of ``fixed``.

    Parameters
    ----------
    file
        JSON or YAML file with ``{"layers": {node id: [start, end]}}``; null instead of a pair leaves a node empty.
        ``"partial_inference": true``, ``"pipelines": {node id: number}``, ``"widths": {node id: GPUs}`` and
        ``"roles": {node id: prefill}`` may be added; widths divide nodes of several GPUs into nodes ``ID.0``, ``ID.1``
        and so on, roles (``prefill``, ``decode``, ``both``) are those of docs/disaggregation.md.
    """

    file: Path

    def faults(self, fleet: Deployment) -> Iterator[tuple[str, str]]:
        """Yield (option, message) if the file cannot be read or does not fit a fleet."""
        try:
            document = _document(self.file)
            known = fleet.divided(_widths(self.file, document, fleet)).cluster.index
            _ranges(self.file, _mapping(self.file, document, "layers", known))
            if "pipelines" in document:
                _mapping(self.file, document, "pipelines", known)
            _roles(self.file, document, known)
        except (ConfigError, DataError) as error:
            yield "file", str(error)


class Fixed:
    """A placement by the user, or one exported by ``place --export``."""

    summary: ClassVar[str] = "layer ranges read from a file"
    Options: ClassVar[type[FixedOptions]] = FixedOptions

    def solve(self, problem: PlacementProblem, options: FixedOptions) -> Placement:
        """Return the placement.

        Raises
        ------
        DataError
            If the file cannot be read or does not fit the cluster.
        InfeasibleError
            If nodes cannot hold their layers, or no route passes all layers.
        """
        started = time.perf_counter()
        path = Path(options.file)
        data = _document(path)
        widths = _widths(path, data, problem.fleet)
        fleet = problem.fleet.divided(widths)
        known = fleet.cluster.index
        ranges = _ranges(path, _mapping(path, data, "layers", known))
        pipelines = _mapping(path, data, "pipelines", known) if "pipelines" in data else {}
        for node, number in pipelines.items():
            if type(number) is not int:
                raise DataError(f"{path}: pipelines.{node} is {number!r}, expected a whole number")
        partial = data.get("partial_inference", False)
        if not isinstance(partial, bool):
            raise DataError(f"{path}: partial_inference is {partial!r}, expected true or false")
        on = problem if problem.divide is None or fleet is problem.fleet else problem.divide(widths)
        made = finished(
            on, "fixed", ranges, started_s=started, partial_inference=partial, pipelines=pipelines,
            notes={"file": str(path)},
        )  # fmt: skip
        return replace(made, widths=widths, roles=_roles(path, data, known))


def _roles(path: Path, data: Mapping[str, Any], known: Mapping[str, int]) -> dict[str, Role]:
    """Return the roles that the file gives nodes."""
    found = _mapping(path, data, "roles", known) if "roles" in data else {}
    for node, role in found.items():
        if role not in ROLES:
            raise DataError(f"{path}: roles.{node} is {role!r}; allowed: {', '.join(ROLES)}")
    return found


def _widths(path: Path, data: Mapping[str, Any], fleet: Deployment) -> dict[str, int]:
    """Return the GPUs of each part of the nodes that the file divides and the fleet does not."""
    widths = data.get("widths", {})
    if not isinstance(widths, Mapping):
        raise DataError(f"{path}: 'widths' must map node ids to numbers of GPUs, got {widths!r}")
    found = {}
    for node, gpus in widths.items():
        if fleet.cluster.widths.get(node) == gpus:
            continue
        allowed = fleet.widths_of(fleet.cluster.node(node)) if node in fleet.cluster.index else []
        if gpus not in allowed:
            told = f"allowed: {', '.join(map(str, allowed))}" if allowed else "it cannot be divided so"
            raise DataError(f"{path}: widths.{node} is {gpus!r}; {told}")
        found[node] = gpus
    return found


def previous_ranges(fleet: Deployment, file: Path) -> dict[str, LayerRange]:
    """Return the ranges of a placement file, without nodes that are no longer in the fleet.

    Raises
    ------
    DataError
        If the file cannot be read.
    """
    path = Path(file)
    layers = _document(path).get("layers")
    if not isinstance(layers, Mapping):
        raise DataError(f"{path}: 'layers' must map node ids to values, got {layers!r}")
    known, own = fleet.cluster.index, fleet.cluster.widths
    for node, gpus in (_document(path).get("widths") or {}).items():
        if node in known and own.get(node) != gpus:
            raise DataError(f"{path}: the running placement divides {node} into parts of {gpus} GPUs: set tp: {gpus}")
    return {node: held for node, held in _ranges(path, layers).items() if node in known}


def _document(path: Path) -> Mapping[str, Any]:
    data = yamlio.load(path).data
    if not isinstance(data, Mapping):
        raise DataError(f"{path}: a placement file holds the keys {', '.join(_KEYS)}, got {type(data).__name__}")
    for key in data:
        if key not in _KEYS + _IGNORED_KEYS:
            raise DataError(f"{path}: unknown key {key!r}{did_you_mean(str(key), _KEYS)} (known: {', '.join(_KEYS)})")
    return data


def _ranges(path: Path, layers: Mapping[str, Any]) -> dict[str, LayerRange]:
    ranges: dict[str, LayerRange] = {}
    for node, pair in layers.items():
        if pair is None:
            continue
        if not (isinstance(pair, list) and len(pair) == 2 and all(type(layer) is int for layer in pair)):
            raise DataError(f"{path}: layers.{node} is {pair!r}, expected [start, end] or null")
        ranges[node] = LayerRange(*pair)
    return ranges


def _mapping(path: Path, data: Mapping[str, Any], key: str, known: Mapping[str, int]) -> dict[str, Any]:
    found = data.get(key)
    if not isinstance(found, Mapping) or not found:
        raise DataError(f"{path}: {key!r} must map node ids to values, got {found!r}")
    unknown = [
        f"no node {node!r} in the cluster{did_you_mean(str(node), known)}" for node in found if node not in known
    ]
    if unknown:
        raise DataError(f"{path}: {key}: {'; '.join(unknown)}")
    return dict(found)
