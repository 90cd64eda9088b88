"""The model to be served, reduced to what memory, compute and network need to know."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class ModelSpec:
    """A decoder-only transformer with identical layers.

    Parameters
    ----------
    name
        Profile name or the path it was read from.
    num_layers, hidden_size, num_attention_heads, num_kv_heads, head_dim, intermediate_size
        As in a Hugging Face ``config.json``.
    precision, kv_precision
        Number format of weights and activations, and of the KV cache (``fp16``, ``bf16``, ``fp8``, ``int4`` ...).
    weight_bytes_per_layer
        Memory of one layer's weights [B].
    flops_per_token_per_layer
        Dense matrix work of one token in one layer [FLOP]: 2 x the parameters that are active for a token.
    kv_bytes_per_token_per_layer
        Keys and values of one token in one layer [B].
    activation_bytes_per_token
        What one token carries from node to node [B].
    embedding_bytes
        Input embedding and output head together [B]; held by the coordinator's side, not by layer nodes.
    max_context_tokens
        Longest prompt plus output the model accepts [tokens].
    source
        Where the figures come from.
    num_experts, experts_per_token, weight_bytes_per_expert
        Mixture of experts: experts of a layer, how many of them serve one token, and memory of one of them [B]
        (part of ``weight_bytes_per_layer``). All zero for a dense model.
    notes
        What was derived from the checkpoint or contradicts it, in sentences.
    """

    name: str
    num_layers: int
    hidden_size: int
    num_attention_heads: int
    num_kv_heads: int
    head_dim: int
    intermediate_size: int
    precision: str
    kv_precision: str
    weight_bytes_per_layer: int
    flops_per_token_per_layer: float
    kv_bytes_per_token_per_layer: int
    activation_bytes_per_token: int
    embedding_bytes: int
    max_context_tokens: int
    source: str
    num_experts: int = 0
    experts_per_token: int = 0
    weight_bytes_per_expert: int = 0
    notes: tuple[str, ...] = ()
