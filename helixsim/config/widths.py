"""Machines of several GPUs as several nodes: those that ``tp`` divides, and the parts that a planner may make."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress

from helixsim.config.nodes import NODES
from helixsim.config.schema import SystemSection
from helixsim.config.source import Source
from helixsim.domain.cluster import Cluster, Node, node_type
from helixsim.domain.hardware import GpuSpec, NodeProfile
from helixsim.domain.model import ModelSpec
from helixsim.errors import InfeasibleError, Problem
from helixsim.hardware.profile_options import ProfileOptions
from helixsim.hardware.profiles import node_profile

DIVIDING = frozenset({"helix", "fixed"})
"""Strategies whose placements may divide nodes."""


def stated_widths(nodes: Sequence[Node], source: Source, problems: list[Problem]) -> dict[str, int]:
    """Return the GPUs of each part of the nodes that ``tp`` divides; ids that are taken are added to ``problems``."""
    ids = {node.id for node in nodes}
    divided = [node for node in nodes if node.tp is not None and node.gpus % node.tp == 0 and node.tp < node.gpus]
    for node in divided:
        taken = [part.id for part in node.divided(node.tp or node.gpus) if part.id in ids]
        problems += [source.problem(NODES, f"{one!r} is a node, and the id of a part of {node.id!r}") for one in taken]
    return {node.id: node.tp for node in divided if node.tp is not None}


def part_profiles(
    systems: Sequence[SystemSection],
    model: ModelSpec,
    cluster: Cluster,
    profiles: Mapping[str, NodeProfile],
    gpus: Mapping[str, GpuSpec],
    options: ProfileOptions,
) -> dict[str, NodeProfile]:
    """Return the profiles of the nodes of fewer GPUs into which strategies may divide nodes, by node type.

    ``profiles`` are those of whole nodes. Nodes of several attention ranks, or with their experts spread, are not
    divided: their GPUs are joined otherwise.
    """
    if options.is_spread or all(one.placement.strategy not in DIVIDING for one in systems):
        return {}
    found: dict[str, NodeProfile] = {}
    for gpu, count in dict.fromkeys((node.gpu, node.gpus) for node in cluster.nodes if node.tp is None):
        for width in (width for width in range(1, count) if count % width == 0):
            kind = node_type(gpu, width)
            with suppress(InfeasibleError):  # such a part does not hold a layer
                found[kind] = profiles.get(kind) or node_profile(model, gpus[gpu], width, options)[0]
    return found
