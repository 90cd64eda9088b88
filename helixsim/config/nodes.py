"""``cluster.nodes`` -> nodes with ids and limits."""

from __future__ import annotations

import dataclasses
from collections import Counter, defaultdict
from collections.abc import Sequence
from fnmatch import fnmatchcase

from helixsim import units
from helixsim.config.choices import is_file_name
from helixsim.config.schema import NodeOverrideSection, NodesSection
from helixsim.config.source import Source
from helixsim.domain.cluster import COORDINATOR, LinkSpec, Node
from helixsim.domain.hardware import GpuSpec
from helixsim.errors import Problem, did_you_mean
from helixsim.hardware import catalog
from helixsim.hardware.mig import alone_fault, is_instance
from helixsim.yamlio import KeyPath

NODES: KeyPath = ("cluster", "nodes")

PEER_LATENCY_NS = 10_000
"""Assumed: time of a message between two GPUs of a machine beside its transmission [ns], as all-reduces of two take."""


def load_gpus(entries: Sequence[NodesSection], source: Source) -> list[GpuSpec]:
    """Return the GPU profile of each entry of ``cluster.nodes``.

    Raises
    ------
    DataError
        If a user profile cannot be read.
    """
    loaded: dict[str, GpuSpec] = {}
    gpus = []
    for number, entry in enumerate(entries):
        file = source.file((*NODES, number, "gpu"), entry.gpu) if is_file_name(entry.gpu) else None
        if entry.gpu not in loaded:
            loaded[entry.gpu] = catalog.load_gpu(file or entry.gpu)
        gpus.append(loaded[entry.gpu])
    return gpus


def build_nodes(
    entries: Sequence[NodesSection],
    gpus: Sequence[GpuSpec],
    block_tokens: int,
    source: Source,
    problems: list[Problem],
) -> tuple[Node, ...]:
    """Return the nodes in order, undivided; faults are added to ``problems`` and the faulty parts skipped."""
    stems = _id_stems(entries, gpus)
    running: Counter[str] = Counter()
    nodes: dict[str, Node] = {}
    for number, (entry, gpu, stem) in enumerate(zip(entries, gpus, stems, strict=True)):
        path = (*NODES, number)
        count = entry.count or (1 if entry.ids is None else len(entry.ids))
        ids = entry.ids or [f"{stem}-{running[stem] + offset}" for offset in range(count)]
        running[stem] += count
        if len(ids) != count:
            problems.append(source.problem((*path, "ids"), f"{len(ids)} ids for a count of {count}"))
        kv_blocks = pinned_blocks(entry, block_tokens, path, source, problems)
        if fault := alone_fault(gpu.name, entry.gpus):
            problems.append(source.problem((*path, "gpus"), fault))
        if entry.tp and entry.gpus % entry.tp:
            problems.append(source.problem((*path, "tp"), f"{entry.tp} does not divide the {entry.gpus} GPUs"))
        for node_id in ids:
            if node_id in nodes or node_id == COORDINATOR:
                problems.append(source.problem((*path, "ids"), f"the node id {node_id!r} is already used"))
            nodes[node_id] = Node(
                id=node_id,
                gpu=gpu.name,
                gpus=entry.gpus,
                region=entry.region,
                nic_bps=None if entry.nic is None else units.parse(entry.nic, "bandwidth"),
                cost_usd_per_hour=(
                    gpu.cost_usd_per_hour * entry.gpus if entry.cost is None else units.parse(entry.cost, "price")
                ),
                tdp_w=gpu.tdp_w * entry.gpus,
                kv_blocks=kv_blocks,
                max_requests=entry.max_requests,
                peer_link=_peer_link(gpu) if entry.gpus > 1 else None,
                tp=entry.tp,
                role=entry.role or "both",
            )
    nodes.pop(COORDINATOR, None)
    return tuple(nodes.values())


def _peer_link(gpu: GpuSpec) -> LinkSpec | None:
    """Return the link between two parts of a machine, the interconnect of its GPUs; None: not known."""
    rate = gpu.interconnect_bytes_per_s * units.BITS_PER_BYTE
    return LinkSpec(rate, PEER_LATENCY_NS) if rate > 0 else None


def override_nodes(
    nodes: tuple[Node, ...],
    overrides: Sequence[NodeOverrideSection],
    block_tokens: int,
    path: KeyPath,
    source: Source,
    problems: list[Problem],
) -> tuple[Node, ...]:
    """Return the nodes with the limits of one system; later entries override earlier ones."""
    for number, entry in enumerate(overrides):
        at = (*path, number)
        ids = matching(entry.match, [node.id for node in nodes], (*at, "match"), source, problems)
        kv_blocks = pinned_blocks(entry, block_tokens, at, source, problems)
        if kv_blocks is None and entry.max_requests is None and entry.role is None:
            problems.append(source.problem(at, "has no effect: give kv_blocks, kv_tokens, max_requests or role"))
        nodes = tuple(
            dataclasses.replace(
                node,
                kv_blocks=node.kv_blocks if kv_blocks is None else kv_blocks,
                max_requests=node.max_requests if entry.max_requests is None else entry.max_requests,
                role=entry.role or node.role,
            )
            if node.id in ids
            else node
            for node in nodes
        )
    return nodes


def pinned_blocks(
    entry: NodesSection | NodeOverrideSection,
    block_tokens: int,
    path: KeyPath,
    source: Source,
    problems: list[Problem],
) -> int | None:
    """Return the KV blocks of an entry, given in blocks or tokens; None if not given."""
    if entry.kv_tokens is None:
        return entry.kv_blocks
    if entry.kv_blocks is not None:
        problems.append(source.problem((*path, "kv_tokens"), "give kv_blocks or kv_tokens, not both"))
    if entry.kv_tokens < block_tokens:
        message = f"{entry.kv_tokens} tokens are less than one KV block of {block_tokens}"
        problems.append(source.problem((*path, "kv_tokens"), message))
    return entry.kv_tokens // block_tokens


def matching(pattern: str, ids: Sequence[str], path: KeyPath, source: Source, problems: list[Problem]) -> list[str]:
    """Return the ids that match a name or a pattern such as ``l4-*``; no match is a fault."""
    found = [node_id for node_id in ids if fnmatchcase(node_id, pattern)]
    if not found:
        known = ", ".join(ids[:12]) + (", …" if len(ids) > 12 else "")
        message = f"{pattern!r} matches no node{did_you_mean(pattern, ids)} (ids: {known})"
        problems.append(source.problem(path, message))
    return found


def _id_stems(entries: Sequence[NodesSection], gpus: Sequence[GpuSpec]) -> list[str]:
    """Return the stems of ids, such as ``l4`` or ``a100``: node types without variant unless that is ambiguous.

    Instances of a GPU keep their profile.
    """
    kinds, stems = [], []
    kinds_of = defaultdict(set)
    for entry, gpu in zip(entries, gpus, strict=True):
        suffix = "" if entry.gpus == 1 else f"x{entry.gpus}"
        kinds.append(gpu.name + suffix)
        stems.append(gpu.name if is_instance(gpu.name) else gpu.name.partition("-")[0] + suffix)
        kinds_of[stems[-1]].add(kinds[-1])
    return [stem if len(kinds_of[stem]) == 1 else kind for kind, stem in zip(kinds, stems, strict=True)]
