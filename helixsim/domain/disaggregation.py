"""Prefill and decode on different nodes: the KV cache that travels between them."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from helixsim.domain.layers import Layer
from helixsim.domain.model import ModelSpec
from helixsim.domain.placement import LayerRange

EFFICIENCY, LATENCY_NS = 0.75, 400_000
"""Of transfers where nothing else is stated: measured with Mooncake's transfer engine, 128 tokens of Qwen3-8B in
0.54 ms and 32 768 tokens (4.83 GB) in 31.65 ms over 200 GB/s; all nine points are met within 7 %
(docs/disaggregation.md)."""


@dataclass(frozen=True, slots=True)
class KvTransfer:
    """How the KV cache of a prompt moves from the nodes that computed it to those that decode.

    Parameters
    ----------
    is_layerwise
        Each layer is sent as soon as it is computed, into memory reserved before the prompt is; otherwise all layers
        are sent when the prompt is computed.
    efficiency
        Share of the bandwidth of links and NICs that transfers reach, 0..1.
    latency_ns
        Time that each message of a transfer takes besides the link [ns].
    bits
        Bits of a number of the cache while it is sent; None, or more than it has: as it is kept.
    """

    is_layerwise: bool = False
    efficiency: float = EFFICIENCY
    latency_ns: int = LATENCY_NS
    bits: float | None = None


class KvSizes:
    """What the tokens of a prompt leave in the KV cache of a model; ``bits``: of a number, see ``KvTransfer``."""

    def __init__(self, model: ModelSpec, bits: float | None = None) -> None:
        self._model = model
        self._bits = model.kv_bits if bits is None else min(bits, model.kv_bits)
        self._counted: dict[tuple[int, int], list[tuple[Layer, int]]] = {}

    @property
    def token_bytes(self) -> float:
        """Mean of a token in a layer [B]."""
        return self._model.kv_bytes_per_token_per_layer * self._bits / self._model.kv_bits

    def of(self, layers: LayerRange, first: int, last: int, prompt_tokens: int, gpus: int) -> int:
        """Return what the tokens ``first`` .. ``last - 1`` of a prompt leave in the cache of some layers [B].

        Layers with a window keep its tokens at the end of the prompt, states of fixed size come with the last token.
        Each of the ``gpus`` GPUs that a sequence is spread over at the receiver gets its share of the heads, and copies
        of those that cannot be split (MLA: of all).
        """
        key = (layers.start, layers.end)
        counted = self._counted.get(key)
        if counted is None:
            counted = self._counted[key] = list(Counter(self._model.layers[layers.start : layers.end]).items())
        bits = self._bits
        return round(sum([n * _layer_bytes(one, bits, first, last, prompt_tokens, gpus) for one, n in counted]))


def _layer_bytes(layer: Layer, kv_bits: float, first: int, last: int, prompt_tokens: int, gpus: int) -> float:
    attention = layer.attention
    if attention is None:
        return 0.0
    window = attention.window_tokens
    kept_from = 0 if window is None else max(0, prompt_tokens - window)
    tokens = max(0, last - max(first, kept_from))
    token_bytes = attention.kv_numbers * kv_bits / 8 * gpus / min(gpus, attention.num_kv_heads)
    states = attention.state_bytes if last >= prompt_tokens else 0
    return tokens * (token_bytes + attention.index_bytes * gpus) + states
