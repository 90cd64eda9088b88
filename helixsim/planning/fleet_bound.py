"""Upper bound on the rate of a fleet with any placement, by which fleets are excluded without simulation.

Every token passes all layers of the model, each on some node. Two limits apply.

*Compute.* A layer of a request takes at least the time of its prompt in the best batch and of its decode steps in the
largest. Batch sizes are limited by the fleet: requests in flight hold KV memory in every layer, so that their total
context is at most the KV memory of the fleet, minus the weights of one copy of each layer, over the number of layers.

*Memory.* By Little's law, the context in flight is rate x context x time, and a decode step takes at least the time of
one sequence on the fastest node, for each layer.

Both hold for long runs, with independent prompt and output lengths and without network times. In the programs, the
context in flight is divided into levels, with the speeds of the nodes at the upper end of each level.

*Objectives.* A request within its TPOT objective spends at least the time of a decode step of one sequence in each
layer, on the node that holds it; one within its TTFT objective that of a step with its prompt (with a token of it where
engines cut prompts) and the latency of the way to the node and back. For the share of requests that must be within,
the mean over the layers is therefore at most the objective (``LatencyLimit``): slow nodes pass few of them, and nodes
too far away none. On the nodes of one offer a request passes at most the layers that these hold.

Layers of several kinds count by weights ``w`` that add up to the number of layers. A node that passes layers of kind
``k`` for ``x`` requests per second spends ``sum(x t) <= 1``, hence passes at most ``max(w / t)`` weighted layers per
second, and any weights give a valid bound. Those in proportion to the times of the kinds give a tight one.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from helixsim.domain.curves import Curve
from helixsim.domain.engine import IDEAL, EngineSpec
from helixsim.domain.hardware import LayerTimes, NodeProfile
from helixsim.domain.placement import LayerRange
from helixsim.domain.step_time import prefill_pairs
from helixsim.units import NS_PER_S

Counts = tuple[int, ...]
"""Number of nodes of each offer."""

LEVEL_STEP = 1.2
"""Upper over lower end of a level of context."""


@dataclass(frozen=True, slots=True)
class Level:
    """A level of context in flight [tokens], with the highest speed of a node of each offer.

    ``layers_per_s`` is in layers x requests/s.
    """

    context_tokens: float
    layers_per_s: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Memory:
    """A bound on the context in flight: ``sum(count * held) - weight x layers`` over the number of layers [tokens]."""

    weight: float
    held: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class LatencyLimit:
    """What the requests within one objective need.

    Parameters
    ----------
    share
        Share of all requests that must be within, 0..1.
    most_s
        Most time for all layers of a request [s].
    layer_s
        Least time of a layer on a node of each offer [s]; infinite: no request within the objective can pass it.
    """

    share: float
    most_s: float
    layer_s: tuple[float, ...]


class BestCase:
    """The highest rate of fleets made of some offers.

    Parameters
    ----------
    profiles
        Profile of a node of each offer.
    prompt_tokens, output_tokens
        Mean lengths of the workload.
    num_layers
        Number of layers of the model.
    engine
        Whether prompts and decode steps of a batch share the reading of weights.
    """

    def __init__(
        self,
        profiles: Sequence[NodeProfile],
        prompt_tokens: float,
        output_tokens: float,
        num_layers: int,
        engine: EngineSpec = IDEAL,
    ) -> None:
        self._profiles = tuple(profiles)
        self._num_layers = num_layers
        self._prompt_tokens = prompt_tokens
        self._steps = max(0.0, output_tokens - 1)
        self._context = prompt_tokens + output_tokens / 2
        """Mean context of a decode step [tokens]."""
        # Layer-tokens of KV memory of a node with 0, 1, 2, ... layers.
        self._memory = [
            (0.0, *(float(profile.most_kv_tokens(k) * k) for k in range(1, len(profile.kv_blocks) + 1)))
            for profile in profiles
        ]
        slopes = {max(0.0, (memory[1] - memory[-1]) / (len(memory) - 2)) for memory in self._memory if len(memory) > 2}
        self.memory = tuple(self._bound(weight) for weight in (0.0, *sorted(slopes)))
        """Lagrangian bounds: any weight per layer, gained for the layers of a node and lost for those of the model, is
        a valid bound."""
        self._is_shared = engine.shares_weight_reads
        each = [profile.compute.layer_times(LayerRange(0, num_layers)) for profile in profiles]
        alike: dict[tuple[int, ...], list[int]] = {}
        for layer in range(num_layers):
            alike.setdefault(tuple(id(times[layer]) for times in each), []).append(layer)
        self._kinds = [tuple(times[layers[0]] for times in each) for layers in alike.values()]
        """Times of each kind of layer on a node of each offer."""
        self._counts = [len(layers) for layers in alike.values()]
        self._weights = [1.0]
        if len(self._kinds) > 1:
            useful = [number for number, profile in enumerate(profiles) if profile.kv_blocks]
            mean_ns = [sum(self._request_ns(number, kind, math.inf) for number in useful) for kind in self._kinds]
            total_ns = sum(count * ns for count, ns in zip(self._counts, mean_ns, strict=True))
            self._weights = [num_layers * ns / total_ns if total_ns else 1.0 for ns in mean_ns]

    def levels(self, rate_rps: float, available: Counts) -> tuple[Level, ...]:
        """Return the levels of context at which some fleet could serve a rate; empty if none can."""
        useful = [number for number, profile in enumerate(self._profiles) if profile.kv_blocks]
        most = self.context_tokens(available)
        if not useful or most <= 0:
            return ()
        step_ns = self._step_ns(useful)
        low = max(1.0, rate_rps * self._steps * self._context * step_ns / NS_PER_S)
        boundless = tuple(self.layers_per_s(number) for number in range(len(self._profiles)))
        found: list[Level] = []
        while low <= most:
            high = low * LEVEL_STEP if low * LEVEL_STEP < most else math.inf
            found.append(Level(low, tuple(self.layers_per_s(n, high) for n in range(len(self._profiles)))))
            if found[-1].layers_per_s == boundless:
                break
            low = high
        return tuple(found)

    def rps(self, counts: Counts) -> float:
        """Return an upper bound on the requests/s of any placement on a fleet."""
        tokens = self.context_tokens(counts)
        used = [number for number, count in enumerate(counts) if count and self._profiles[number].kv_blocks]
        if tokens <= 0 or not used:
            return 0.0
        by_compute = math.fsum(counts[number] * self.layers_per_s(number, tokens) for number in used)
        step_ns = self._step_ns(used)
        held_ns = self._steps * step_ns * self._context
        by_memory = tokens * NS_PER_S / held_ns if held_ns else math.inf
        return min(by_compute / self._num_layers, by_memory)

    def context_tokens(self, counts: Counts) -> float:
        """Return an upper bound on the total context of requests in flight [tokens]."""
        return min(
            math.fsum(count * held for count, held in zip(counts, bound.held, strict=True)) / self._num_layers
            - bound.weight
            for bound in self.memory
        )

    def decode_layer_s(self, number: int) -> float:
        """Return the least time per layer of a decode step on a node [s]; infinite if it holds no layer."""
        return self._layer_s(number, _least_without_context)

    def prompt_layer_s(self, number: int, least_tokens: float | None) -> float:
        """Return the least time per layer of a step with a prompt [s]; None: with a token of it, which may be cut."""

        def least_ns(times: LayerTimes, _most: float) -> float:
            if least_tokens is None:
                return _least(times.prefill)
            longest = max(least_tokens, *(limits.max_prefill_tokens for limits in self._profiles[number].limits))
            return max(_least(times.prefill), least_tokens * _least_per_unit(times.prefill, longest))

        return self._layer_s(number, least_ns)

    def _layer_s(self, number: int, least_ns: Callable[[LayerTimes, float], float]) -> float:
        profile = self._profiles[number]
        if not profile.kv_blocks:
            return math.inf
        most = float(max(1, *(limits.max_decode_seqs for limits in profile.limits)))
        return (
            min(
                least_ns(kind[number], most) / weight
                for weight, kind in zip(self._weights, self._kinds, strict=True)
                if weight > 0
            )
            / NS_PER_S
        )

    def _bound(self, weight: float) -> Memory:
        held = [max(tokens + weight * layers for layers, tokens in enumerate(memory)) for memory in self._memory]
        return Memory(weight, tuple(held))

    def _step_ns(self, numbers: Sequence[int]) -> float:
        """Return the least time of a step of one sequence through all layers, each on the fastest node."""
        return math.fsum(
            count * min(_least(kind[number].decode) for number in numbers)
            for count, kind in zip(self._counts, self._kinds, strict=True)
        )

    def layers_per_s(self, number: int, context_tokens: float = math.inf) -> float:
        """Return the highest speed of a node [layers x requests/s], without idling, at the best batch sizes."""
        if not self._profiles[number].kv_blocks:
            return 0.0
        return max(
            weight * NS_PER_S / busy_ns if busy_ns > 0 else math.inf
            for weight, kind in zip(self._weights, self._kinds, strict=True)
            for busy_ns in (self._request_ns(number, kind, context_tokens),)
        )

    def _request_ns(self, number: int, kind: Sequence[LayerTimes], context_tokens: float) -> float:
        """Return the least time of a request in a layer of this kind on a node [ns]."""
        profile, times = self._profiles[number], kind[number]
        most = float(max(1, *(limits.max_decode_seqs for limits in profile.limits)))
        in_flight = max(1.0, min(context_tokens, max(self._memory[number])) / self._context)
        longest = max(self._prompt_tokens, *(limits.max_prefill_tokens for limits in profile.limits))
        pairs_ns = times.index_ns_per_pair * prefill_pairs(self._prompt_tokens)
        extra_ns = times.index_ns_per_token * self._context
        if times.window_tokens is None:  # the mean of what windows cut off is not what they cut off the mean
            pairs_ns += times.prefill_ns_per_pair * prefill_pairs(self._prompt_tokens)
            extra_ns += times.decode_context_ns_per_token * (self._context - times.reference_context_tokens)

        def per_step_ns(curve: Curve) -> float:
            return _least_per_sequence(curve, in_flight, most)

        prompts_ns = self._prompt_tokens * _least_per_unit(times.prefill, longest) + pairs_ns
        steps_ns = self._steps * max(0.0, per_step_ns(times.decode) + extra_ns)
        if not self._is_shared:
            return prompts_ns + steps_ns
        if times.token_work is None:  # a step takes at least what either of its parts does
            beside_ns = self._steps * max(0.0, per_step_ns(_less(times.decode, times.prefill(1))) + extra_ns)
            return max(prompts_ns + beside_ns, steps_ns)
        # All tokens are multiplied, and weights are read at least once for the sequences that decode together.
        work = times.token_work
        work_ns = (self._prompt_tokens + self._steps) * _least_per_unit(work, longest + most)
        work_ns = max(work_ns, self._steps * per_step_ns(work))
        prompts_ns = self._prompt_tokens * _least_per_unit(_without(times.prefill, work), longest) + pairs_ns
        steps_ns = self._steps * max(0.0, _least_per_unit(_without(times.decode, work), most) + extra_ns)
        return prompts_ns + steps_ns + work_ns


def _without(curve: Curve, part: Curve) -> Curve:
    """Return what a curve has beside a part of it, at the knots of both."""
    knots = tuple(sorted({*curve.x, *part.x}))
    return Curve(knots, tuple(curve(x) - part(x) for x in knots))


def _less(curve: Curve, constant_ns: float) -> Curve:
    return Curve(curve.x, tuple(y - constant_ns for y in curve.y_ns))


def _least(curve: Curve) -> float:
    """Return the least time [ns] of a batch of one or more."""
    return min(curve(size) for size in (1.0, *(x for x in curve.x if x > 1)))


def _least_without_context(times: LayerTimes, most: float) -> float:
    """Return the least time [ns] of a decode step of up to ``most`` sequences, whatever their contexts."""
    per_token_ns = times.decode_context_ns_per_token * times.reference_context_tokens
    sizes = (1.0, *(x for x in times.decode.x if 1 < x < most), most)
    return max(0.0, min(times.decode(size) - size * per_token_ns for size in sizes))


def _least_per_unit(curve: Curve, most: float) -> float:
    """Return the least time per unit [ns] of batches up to ``most``; the minimum is at a knot."""
    return min(curve(size) / size for size in (*(x for x in curve.x if 0 < x < most), most))


def _least_per_sequence(curve: Curve, mean: float, most: float) -> float:
    """Return the least time per sequence [ns] of steps of at most ``mean`` sequences on average and ``most`` in each.

    Steps of different sizes can be cheaper than equal ones, hence the lower convex hull of the curve, and smaller ones
    cheaper than larger ones where a curve rises more than in proportion.
    """
    if mean >= most:
        return _least_per_unit(curve, most)
    knots = sorted({*(x for x in curve.x if 0 < x < most), mean, most})
    below, above = [x for x in knots if x <= mean], [x for x in knots if x >= mean]
    hull_ns = min(
        curve(mean) if low == high else curve(low) + (curve(high) - curve(low)) * (mean - low) / (high - low)
        for low in below
        for high in above
    )
    return min(hull_ns / mean, *(curve(x) / x for x in below))
