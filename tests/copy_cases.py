"""Small clusters of replicas that copy KV memory."""

from __future__ import annotations

from dataclasses import astuple, replace

from replica_cases import NUM_LAYERS, chains, kind_of
from simulating import MS, run

from helixsim.domain.cluster import LinkSpec
from helixsim.domain.engine import EngineSpec
from helixsim.domain.faults import Replication

INSIDE = EngineSpec("inside", loops_inside=True, copies_activations=False, chunks_prompts=True, admission="prompt")
CACHING = replace(INSIDE, caches_prefixes=True)
ONE = "n0-0"
EVERY = Replication(1, interval_ns=MS)
NODES = [f"n0-{number}" for number in range(3)]


def case_of(count=2, stages=1, *, bandwidth_bps=1e12, nic_bps=None, step_ms=2.0, token_ms=0.0, blocks=100):
    """Replicas of equal nodes; ``step_ms``: of a step with one sequence, ``token_ms``: of a token of a prompt."""
    layer_ns = {"decode_ns": step_ms * MS / NUM_LAYERS, "prefill_ns": token_ms * MS / NUM_LAYERS}
    kind = kind_of("n0", blocks=blocks, budget=64, **layer_ns)
    return chains([[kind] * stages] * count, intra=LinkSpec(bandwidth_bps, 0), nic_bps=nic_bps)


def columns(result):
    return [column.tolist() for column in astuple(result.requests)]


def simulate(case, load, faults, replication=EVERY, **how):
    how = {"engine": INSIDE, "routing": "least_loaded", **how}
    return run(case, load, faults=replace(faults, replication=replication), **how)


def token_bytes(case):
    model = case[0].model
    return model.kv_bytes_per_token_per_layer * model.num_layers


def copied_bytes(result):
    """Return the bytes on links between replicas, which carry nothing else."""
    ends = zip(result.links.src, result.links.dst, result.links.bytes, strict=True)
    route = {node: number for number, one in enumerate(result.routes) for node, _ in one.hops}
    return sum(int(size) for src, dst, size in ends if src in route and dst in route and route[src] != route[dst])
