"""What a routing policy can expect a request to take on the nodes of a placement: step times, links and limits."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property

from helixsim.domain.cluster import COORDINATOR, TOKEN_ID_BYTES, Deployment
from helixsim.domain.data_parallel import step_time
from helixsim.domain.engine import EngineSpec
from helixsim.domain.placement import Placement
from helixsim.domain.request import Slo
from helixsim.domain.step_time import StepTime
from helixsim.units import BITS_PER_BYTE, NS_PER_S


@dataclass(frozen=True, slots=True)
class NodeTimes:
    """Step time and limits of a placed node.

    Parameters
    ----------
    budget
        Prompt tokens and decodes of a step.
    max_sequences
        Sequences that run at once.
    kv_tokens
        Tokens that its KV memory holds.
    """

    step: StepTime
    budget: int
    max_sequences: int
    kv_tokens: int


@dataclass(frozen=True)
class RoutingTimes:
    """Step times and links of a placement; node numbers are positions among its nodes.

    Parameters
    ----------
    expected_output_tokens
        Mean output of the load: policies do not see the length of a request's own.
    slo
        Objective of the requests.
    computes_prompts
        Whether prompts are computed here, beside the decodes; otherwise they come from other nodes.
    """

    fleet: Deployment
    placement: Placement
    engine: EngineSpec
    expected_output_tokens: float
    slo: Slo = field(default_factory=Slo)
    computes_prompts: bool = True

    @cached_property
    def nodes(self) -> tuple[NodeTimes, ...]:
        """Step time and limits of each node; equal nodes with equal layers share them."""
        known: dict[tuple[object, ...], NodeTimes] = {}
        found = []
        for node, held in self.placement.ranges.items():
            profile, most = self.fleet.profile(node), self.fleet.cluster.node(node).max_requests
            kv_tokens = self.fleet.kv_blocks(node, held) * profile.block_tokens
            key = (profile.kind, held, kv_tokens, most)
            if key not in known:
                limits = profile.limits[held.layers - 1]
                step = step_time(profile.compute, self.engine, held, self.placement.num_layers, limits.graph_sizes)
                sequences = min(limits.max_decode_seqs, limits.max_decode_seqs if most is None else most)
                known[key] = NodeTimes(step, limits.max_prefill_tokens, sequences, kv_tokens)
            found.append(known[key])
        return tuple(found)

    def latency_ns(self, src: int | None, dst: int | None) -> float:
        """Return the latency of a link between two nodes [ns]; None: the coordinator; 0 from a node to itself."""
        if src == dst:
            return 0.0
        return self._link(src, dst)[0]

    def transfer_ns(self, src: int | None, dst: int | None, tokens: float) -> float:
        """Return how long so many tokens take over an idle link [ns]."""
        latency_ns, token_ns = self._link(src, dst)
        return latency_ns + tokens * token_ns

    def _link(self, src: int | None, dst: int | None) -> tuple[float, float]:
        sites = self.sites
        key = (-1 if src is None else sites[src], -1 if dst is None else sites[dst])
        known = self._links.get(key)
        if known is None:
            names = [COORDINATOR if end is None else self._ids[end] for end in (src, dst)]
            link = self.fleet.cluster.link(*names)
            size = TOKEN_ID_BYTES
            if src is not None and dst is not None:
                size += self.fleet.model.activation_bytes_per_token
            token_ns = size * BITS_PER_BYTE * NS_PER_S / link.bandwidth_bps
            known = self._links[key] = (link.latency_ns + self.engine.message_overhead_ns, token_ns)
        return known

    @cached_property
    def sites(self) -> tuple[int, ...]:
        """Site of each node: links depend on the sites at their ends only."""
        return tuple(self.fleet.cluster.sites[node] for node in self.placement.ranges)

    @cached_property
    def _ids(self) -> tuple[str, ...]:
        return tuple(self.placement.ranges)

    @cached_property
    def _links(self) -> dict[tuple[int, ...], tuple[float, float]]:
        return {}
