"""The model to be served, reduced to what memory, compute and network need to know."""

from __future__ import annotations

import math
from dataclasses import dataclass

from helixsim.domain.layers import Layer

ACTIVATION_BYTES = 2
"""Activations travel and are added in 16 bits whatever the weights are."""


@dataclass(frozen=True, slots=True)
class ModelSpec:
    """A decoder-only transformer: a sequence of layers between an embedding and an output head (LM head).

    Parameters
    ----------
    name
        Profile name or the path it was read from.
    layers
        First to last; equal layers are one object.
    hidden_size, intermediate_size, vocab_size
        As in a Hugging Face ``config.json``; ``intermediate_size`` is the widest of the feed-forward parts, shared
        among the experts of a token.
    is_tied
        Embedding and output head are one matrix (``tie_word_embeddings``).
    precision, kv_precision
        Number format of weights, and of the KV cache (``fp16``, ``bf16``, ``fp8``, ``int4`` ...).
    kv_bits
        Memory of one number in the KV cache [bit].
    max_context_tokens
        Longest prompt plus output the model accepts [tokens].
    source
        Where the figures come from.
    notes
        What was derived from the checkpoint or contradicts it, in sentences.
    """

    name: str
    layers: tuple[Layer, ...]
    hidden_size: int
    intermediate_size: int
    vocab_size: int
    is_tied: bool
    precision: str
    kv_precision: str
    kv_bits: float
    max_context_tokens: int
    source: str
    notes: tuple[str, ...] = ()

    @property
    def num_layers(self) -> int:
        """Number of layers."""
        return len(self.layers)

    @property
    def num_attention_heads(self) -> int:
        """Query heads that tensor parallelism must divide: what the heads of all layers have in common."""
        return math.gcd(*{layer.attention.num_heads for layer in self.layers if layer.attention}) or 1

    @property
    def activation_bytes_per_token(self) -> int:
        """Bytes one token carries from node to node [B]."""
        return self.hidden_size * ACTIVATION_BYTES

    @property
    def vocabulary_bytes(self) -> int:
        """Memory of the embedding, and of the output head [B]."""
        return self.vocab_size * self.hidden_size * ACTIVATION_BYTES

    @property
    def embedding_bytes(self) -> int:
        """Memory of embedding and output head together [B], one matrix if they are tied."""
        return (1 if self.is_tied else 2) * self.vocabulary_bytes

    @property
    def weight_bytes_per_layer(self) -> int:
        """Memory of a layer's weights [B], the mean over the layers."""
        return round(sum(layer.weight_bytes for layer in self.layers) / len(self.layers))

    @property
    def flops_per_token_per_layer(self) -> float:
        """Matrix work of one token in one layer [FLOP], the mean: 2 x the parameters active for a token."""
        return 2.0 * sum(layer.active_parameters for layer in self.layers) / len(self.layers)

    @property
    def kv_bytes_per_token_per_layer(self) -> int:
        """Keys and values of one token in one layer [B], the mean."""
        return round(sum(layer.kv_bytes(self.kv_bits) for layer in self.layers) / len(self.layers))

    @property
    def parameters(self) -> int:
        """Number of weights, those of the ends included."""
        ends = (1 if self.is_tied else 2) * self.vocab_size * self.hidden_size
        return sum(layer.parameters for layer in self.layers) + ends

    @property
    def active_parameters(self) -> int:
        """Number of weights that one token is multiplied with: those of the output head, not of the embedding."""
        return sum(layer.active_parameters for layer in self.layers) + self.vocab_size * self.hidden_size

    @property
    def is_uniform(self) -> bool:
        """Whether all layers are equal."""
        return all(layer == self.layers[0] for layer in self.layers)

    @property
    def keeps_parts(self) -> bool:
        """Whether the cache of some layers does not grow with the context: windows and states of fixed size."""
        attending = [layer.attention for layer in set(self.layers) if layer.attention is not None]
        return any(attention.window_tokens is not None or attention.state_bytes for attention in attending)
