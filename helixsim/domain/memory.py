"""Memory of a node whose layers differ: weights and KV cache of each range."""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import accumulate

from helixsim.domain.placement import LayerRange


@dataclass(frozen=True)
class LayerMemory:
    """Memory of one kind of node, layer by layer, on all its GPUs together.

    Parameters
    ----------
    budget_bytes
        What weights and KV cache may take together [B].
    weight_bytes
        Weights of each layer of the model [B].
    kv_bytes
        What the cache keeps in each layer for one token of a sequence of usual length [B]: layers with a window keep
        no more than it holds, states of fixed size count by their share.
    block_tokens
        Tokens of a KV block, which keeps them in all layers of the node.
    """

    budget_bytes: float
    weight_bytes: tuple[float, ...]
    kv_bytes: tuple[float, ...]
    block_tokens: int
    _weights: tuple[float, ...] = field(init=False, repr=False, compare=False)
    _kv: tuple[float, ...] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_weights", tuple(accumulate(self.weight_bytes, initial=0.0)))
        object.__setattr__(self, "_kv", tuple(accumulate(self.kv_bytes, initial=0.0)))

    def blocks(self, held: LayerRange, ends_bytes: float = 0.0) -> int:
        """Return the KV blocks beside these layers, and beside embedding and output head of so many bytes."""
        left = self.budget_bytes - (self._weights[held.end] - self._weights[held.start]) - ends_bytes
        each = self.block_tokens * (self._kv[held.end] - self._kv[held.start])
        return max(0, int(left // max(each, 1.0)))  # layers without a cache: a block costs a byte

    def range_blocks(self, layers: int) -> tuple[int, int]:
        """Return the fewest and the most KV blocks beside any ``layers`` consecutive layers."""
        counts = [
            self.blocks(LayerRange(start, start + layers)) for start in range(len(self.weight_bytes) - layers + 1)
        ]
        return min(counts), max(counts)
