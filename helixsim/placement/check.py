"""The conditions that every placement meets, also one by a user strategy or from a file."""

from __future__ import annotations

from helixsim.domain.cluster import Deployment
from helixsim.domain.placement import Placement
from helixsim.errors import DataError, InfeasibleError, did_you_mean
from helixsim.flow.network import entry_points


def check(fleet: Deployment, placement: Placement) -> None:
    """Check a placement against its fleet.

    Raises
    ------
    DataError
        If it is not a placement of this model on this fleet: unknown nodes, another number of layers, or ranges that
        are empty or outside the model.
    InfeasibleError
        If a node cannot hold its layers, no node holds a layer, or no route passes all layers.
        Both messages list all violations of their type.
    """
    faults = _misfits(fleet, placement)
    if faults:
        raise DataError(_message(placement, faults))
    faults = _shortages(fleet, placement)
    if faults:
        raise InfeasibleError(_message(placement, faults))


def _message(placement: Placement, faults: list[str]) -> str:
    return f"placement by {placement.strategy!r}: " + "; ".join(faults)


def _misfits(fleet: Deployment, placement: Placement) -> list[str]:
    faults: list[str] = []
    num_layers = fleet.model.num_layers
    if placement.num_layers != num_layers:
        faults.append(f"made for {placement.num_layers} layers, {fleet.model.name} has {num_layers}")
    known = fleet.cluster.index
    for node, layers in placement.ranges.items():
        if node not in known:
            faults.append(f"no node {node!r} in the cluster{did_you_mean(node, known)}")
        if not 0 <= layers.start < layers.end <= num_layers:
            faults.append(
                f"node {node!r} has layers [{layers.start}, {layers.end}), allowed: 0 <= start < end <= {num_layers}"
            )
    faults.extend(
        f"pipeline given for {node!r}, which holds no layers"
        for node in placement.pipelines
        if node not in placement.ranges
    )
    return faults


def _shortages(fleet: Deployment, placement: Placement) -> list[str]:
    faults: list[str] = []
    for node, layers in placement.ranges.items():
        most = len(fleet.profile(node).kv_blocks)
        if layers.layers > most:
            faults.append(
                f"node {node!r} ({fleet.cluster.node(node).node_type}) has {layers.layers} layers, it can hold {most}"
            )
        elif fleet.kv_blocks(node, layers) < 1:
            faults.append(
                f"node {node!r} ({fleet.cluster.node(node).node_type}) has layers [{layers.start}, {layers.end}): "
                "beside their weights, the embedding or the output head no KV memory is left"
            )
    missing = _missing_layers(placement)
    if missing:
        faults.append(f"layers on no node: {_as_ranges(missing)}")
    elif not has_complete_route(placement):
        faults.append(
            "no route passes all layers: no series of nodes in which each starts where the previous one ends"
            + (" or holds the next layer" if placement.partial_inference else " (partial inference is off)")
        )
    return faults


def _missing_layers(placement: Placement) -> list[int]:
    held = [False] * placement.num_layers
    for layers in placement.ranges.values():
        held[layers.start : layers.end] = [True] * layers.layers
    return [layer for layer, is_held in enumerate(held) if not is_held]


def _as_ranges(layers: list[int]) -> str:
    """Return for example ``3-5, 9``."""
    runs: list[list[int]] = []
    for layer in layers:
        if runs and layer == runs[-1][1] + 1:
            runs[-1][1] = layer
        else:
            runs.append([layer, layer])
    return ", ".join(str(first) if first == last else f"{first}-{last}" for first, last in runs)


def has_complete_route(placement: Placement) -> bool:
    """Return whether some series of nodes runs every layer once and in order."""
    reached = {(pipeline, 0) for pipeline in (None, *placement.pipelines.values())}
    for node, layers in sorted(placement.ranges.items(), key=lambda item: item[1].end):
        pipeline = placement.pipelines.get(node)
        entries = entry_points(layers, partial_inference=placement.partial_inference)
        if any((pipeline, layer) in reached for layer in entries):
            if layers.end == placement.num_layers:
                return True
            reached.add((pipeline, layers.end))
    return False
