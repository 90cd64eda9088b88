"""Small random clusters of replicas, for the engine of replicas and its oracle."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import builders
import numpy as np
from hypothesis import strategies as st
from simulating import random_load

from helixsim.domain.cluster import LinkSpec
from helixsim.domain.engine import AttentionBalance, EngineSpec
from helixsim.domain.hardware import BatchLimits, Curve
from helixsim.domain.request import Prefix, Request
from helixsim.domain.speculation import Speculation

NUM_LAYERS = 12


def chains(stages, *, intra=None, nic_bps=None):
    """A case of one chain of nodes per entry of ``stages``, a list of profiles; layers are divided evenly."""
    fleet = builders.fleet(
        [kind for chain in stages for kind in chain], num_layers=NUM_LAYERS, intra=intra, nic_bps=nic_bps,
        coordinator_nic_bps=nic_bps,
    )  # fmt: skip
    names = iter(node.id for node in fleet.cluster.nodes)
    ranges, pipelines = {}, {}
    for number, chain in enumerate(stages):
        cuts = [round(NUM_LAYERS * position / len(chain)) for position in range(len(chain) + 1)]
        for start, end in pairwise(cuts):
            name = next(names)
            ranges[name], pipelines[name] = (start, end), number
    kinds = {
        kind.kind: tuple(100.0 * NUM_LAYERS / layers for layers in range(1, NUM_LAYERS + 1))
        for chain in stages
        for kind in chain
    }
    placement = replace(builders.placement_of(fleet, ranges), pipelines=pipelines)
    return fleet, builders.capacity_of(fleet, kinds), placement


def kind_of(
    name, *, blocks=100, budget=64, seqs=16, prefill_ns=1000.0, decode_ns=1_000_000.0, context_ns=0.0, pair_ns=0.0,
    head=None, graph_sizes=(), ranks=1,
):  # fmt: skip
    """A profile that keeps ``blocks`` KV blocks of 16 tokens whatever the number of its layers."""
    kind = builders.profile(
        name,
        NUM_LAYERS,
        prefill_ns_per_token=prefill_ns,
        decode_ns=decode_ns,
        kv_blocks=(blocks,) * NUM_LAYERS,
        max_decode_seqs=seqs,
    )
    compute = replace(
        kind.compute, decode_context_ns_per_token=context_ns, reference_context_tokens=64 if context_ns else 0,
        prefill_ns_per_pair=pair_ns, head=head, ranks=ranks,
    )  # fmt: skip
    return replace(kind, compute=compute, limits=(BatchLimits(64, budget, seqs, graph_sizes),) * NUM_LAYERS)


def of_one_instant(load: list[Request], count: int, stages: int, *, blocks: int = 14, budget: int = 400):
    """Equal replicas whose times are multiples of 1 ms, without time on links, and the load on the same instants."""
    kind = kind_of("n", blocks=blocks, budget=budget, decode_ns=1e6 / NUM_LAYERS, prefill_ns=1e6 / NUM_LAYERS)
    case = chains([[kind] * stages] * count, intra=LinkSpec(1e18, 0))
    return case, [replace(request, arrival_ns=request.arrival_ns // 10**6 * 10**6) for request in load]


@st.composite
def clusters(draw, ranks=(1, 1, 3)):
    """One to three replicas of one to three stages; memory, budgets and numbers of sequences are often tiny."""
    kinds = [
        kind_of(
            f"k{number}",
            blocks=draw(st.sampled_from([9, 14, 30, 400])),
            budget=draw(st.sampled_from([3, 16, 50, 4000])),
            seqs=draw(st.sampled_from([1, 3, 64])),
            prefill_ns=draw(st.sampled_from([300.0, 5000.0])),
            decode_ns=draw(st.sampled_from([1e5, 1.3e6])),
            context_ns=draw(st.sampled_from([0.0, 35.5])),
            pair_ns=draw(st.sampled_from([0.0, 1.75])),
            head=draw(st.sampled_from([None, Curve((1.0, 9.0), (4e5, 7e5))])),
            graph_sizes=draw(st.sampled_from([(), (1, 2, 4, 8)])),
            ranks=draw(st.sampled_from(ranks)),
        )
        for number in range(2)
    ]
    stages = draw(st.lists(st.lists(st.sampled_from(kinds), min_size=1, max_size=3), min_size=1, max_size=3))
    intra = LinkSpec(draw(st.sampled_from([1e8, 1e10])), draw(st.sampled_from([0, 70_000, 3_000_000])))
    case = chains(stages, intra=intra, nic_bps=draw(st.sampled_from([None, 8e8])))
    caps = draw(st.sampled_from([None, 4]))
    fleet = case[0]
    nodes = tuple(replace(node, max_requests=caps) for node in fleet.cluster.nodes)
    return replace(fleet, cluster=replace(fleet.cluster, nodes=nodes)), *case[1:]


@st.composite
def engines(draw):
    """Engines whose loop stays inside, with and without chunks, priorities and overheads."""
    plain = EngineSpec(
        "inside", loops_inside=True, copies_activations=False, chunks_prompts=draw(st.booleans()),
        long_prefill_token_threshold=draw(st.sampled_from([0, 7, 20])),
        scheduler_recv_interval=draw(st.sampled_from([1, 1, 2, 7])),
        attention_balance=draw(
            st.sampled_from([None, None, AttentionBalance(4, 0), AttentionBalance(5, 3), AttentionBalance(50, 10)])
        ),
        admission=draw(st.sampled_from(["prompt", "prompt", "output"])),
        schedule_conservativeness=draw(st.sampled_from([None, 1.0, 4.0])),
        min_free_share=draw(st.sampled_from([0.0, 0.0, 0.1])),
        speculation=draw(
            st.sampled_from([None, None, Speculation((0.9, 0.5, 0.1), 0.05), Speculation((0.8,), is_mtp=True)])
        ),
        scheduling_policy=draw(st.sampled_from(["fcfs", "priority"])),
    )  # fmt: skip
    if draw(st.booleans()):
        return plain
    return replace(
        plain, batch_overhead_ns=100_000, sequence_overhead_ns=7_000, layer_launch_ns=150_000,
        message_overhead_ns=3_000, shares_weight_reads=True, has_output_head=True,
        host_ns=draw(st.sampled_from([0, 2_000_000])), sequence_host_ns=draw(st.sampled_from([0, 90_000])),
        pads_prompts=draw(st.booleans()),
    )  # fmt: skip


def with_classes(load: list[Request], seed: int) -> list[Request]:
    """The same requests in three classes of priority, drawn at random."""
    rng = np.random.default_rng(seed)
    return [replace(request, priority=int(rng.integers(3))) for request in load]


def shared_load(seed: int, count: int, *, rate_rps: float, prompt: int = 60, output: int = 20) -> list[Request]:
    """Poisson arrivals of sessions with system prompts; some requests have no prefix, some share a part only."""
    rng = np.random.default_rng(seed)
    sessions: dict[int, int] = {}
    found = []
    for request in random_load(seed, count, rate_rps=rate_rps, prompt=prompt, output=output):
        kind = rng.integers(5)
        if kind == 0:
            found.append(request)
            continue
        system = 20 + 13 * int(rng.integers(2))
        session = int(rng.integers(4)) if kind > 1 else 100 + request.id
        identifier = 10 + 200 * (system == 20) + session
        total = max(sessions.get(identifier, system), system) + request.prompt_tokens
        if total > 3 * prompt:
            identifier, total = 1000 + request.id, system + request.prompt_tokens
        known = total + (request.output_tokens if kind > 2 else 0)
        sessions[identifier] = known
        prefix = Prefix((system, identifier), (system, known), known)
        found.append(replace(request, prompt_tokens=total, prefix=prefix))
    return found
