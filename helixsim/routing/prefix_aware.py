"""Routing by cached prefix and load, as inference gateways do.

The score of llm-d and the Gateway API Inference Extension, from 0 to the sum of the weights:

    prefix_weight * cached tokens / prompt tokens
    + queue_weight * (longest queue - queue) / (longest queue - shortest queue)    (1 where all are equal)
    + kv_weight * (1 - share of KV memory in use)

The weights are the defaults of its endpoint picker (``prefix-cache-scorer`` 3, ``queue-scorer`` 2,
``kv-cache-utilization-scorer`` 2; configuration ``default-plugins.yaml``, 2026). It estimates the cached tokens by the
prompts that it has sent; here they are exact, as with its ``precise-prefix-cache-scorer``. SGLang's router decides by
thresholds instead: the least loaded worker if loads differ too much, otherwise the one with the longest prefix.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np

from helixsim.plugins import NoOptions
from helixsim.routing.base import Hop, RoutingGraph, RoutingView
from helixsim.routing.baselines import LeastLoaded
from helixsim.routing.walk import walk


@dataclass(frozen=True, slots=True)
class PrefixAwareOptions:
    """Weights of the three parts of the score: cached share of the prompt, waiting requests, free KV memory."""

    prefix_weight: float = field(default=3.0, metadata={"ge": 0, "le": 1e6})
    queue_weight: float = field(default=2.0, metadata={"ge": 0, "le": 1e6})
    kv_weight: float = field(default=2.0, metadata={"ge": 0, "le": 1e6})


class PrefixAware:
    """The next node with the highest score; the least loaded one where none has a part of the prompt cached."""

    summary: ClassVar[str] = "the next node with the best score of cached prefix, queue and KV memory, as in llm-d"
    Options: ClassVar[type[Any]] = PrefixAwareOptions

    def __init__(self, graph: RoutingGraph, options: PrefixAwareOptions, rng: np.random.Generator) -> None:
        self.graph = graph
        self.options = options
        self.fallback = LeastLoaded(graph, NoOptions(), rng)

    def route(self, prompt_tokens: int, expected_tokens: int, view: RoutingView) -> tuple[Hop, ...] | None:
        """See ``RoutingPolicy.route``."""
        options = self.options

        def pick(hops: Sequence[Hop]) -> Hop:
            cached = [view.cached_tokens(hop.node) for hop in hops]
            if not any(cached):
                return self.fallback.pick(hops, view)
            queues = [view.queue_length(hop.node) for hop in hops]
            longest, spread = max(queues), max(queues) - min(queues)
            cost = {
                hop.edge: -options.prefix_weight * hit / prompt_tokens
                - options.queue_weight * ((longest - queue) / spread if spread else 1.0)
                + options.kv_weight * view.kv_usage(hop.node)
                for hop, hit, queue in zip(hops, cached, queues, strict=True)
            }
            return self.fallback.least(hops, [cost[hop.edge] for hop in hops])

        return walk(self.graph, view, pick)
