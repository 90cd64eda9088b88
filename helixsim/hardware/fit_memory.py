"""Memory that an engine takes outside weights, activations and KV cache, from the KV tokens that it logged."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from helixsim.domain.hardware import GpuSpec
from helixsim.domain.model import ModelSpec
from helixsim.errors import DataError
from helixsim.hardware.profile_options import ProfileOptions
from helixsim.hardware.profiles import node_profile


@dataclass(frozen=True, slots=True)
class MemoryFit:
    """What the KV tokens of a log say.

    Parameters
    ----------
    reserved_bytes
        Of each GPU [B]; see ``GpuSpec``.
    tokens_before, tokens_after
        KV tokens by the profile, and with ``reserved_bytes``.
    at_zero
        The log has room for more tokens than without any reserved memory.
    """

    logged_tokens: int
    tokens_before: int
    tokens_after: int
    reserved_bytes: int
    at_zero: bool


def fit_reserved(model: ModelSpec, gpu: GpuSpec, gpus: int, options: ProfileOptions, logged_tokens: int) -> MemoryFit:
    """Return the reserved memory with which a node has ``logged_tokens`` tokens of KV cache.

    Raises
    ------
    DataError
        If a node of these GPUs cannot hold the model, or not even all of its memory explains the log.
    """

    def tokens(reserved: int | None) -> tuple[int, float]:
        node, _ = node_profile(model, replace(gpu, reserved_bytes=reserved), gpus, options)
        if len(node.kv_blocks) < model.num_layers:
            return 0, 1.0
        return node.kv_tokens(model.num_layers, model.num_layers), node.block_bytes / node.block_tokens

    most, token_bytes = tokens(0)
    if not most or logged_tokens > 2 * most or logged_tokens < most / 100:
        raise DataError(
            f"{logged_tokens} KV tokens of {model.name} on {gpus} x {gpu.name} at gpu_memory_utilization "
            f"{options.memory_fraction:g}, where {most} fit: another model, precision, GPU or setting?"
        )
    reserved = max(0, math.floor((most - logged_tokens) * token_bytes * model.num_layers / gpus))
    return MemoryFit(
        logged_tokens=logged_tokens,
        tokens_before=tokens(gpu.reserved_bytes)[0],
        tokens_after=tokens(reserved)[0],
        reserved_bytes=reserved,
        at_zero=logged_tokens > most + options.block_tokens,
    )
