"""Families of models: what their layers have in common for memory and step times."""

from __future__ import annotations

from helixsim.domain.model import ModelSpec


def family(model: ModelSpec) -> str:
    """Return the family of a model: its feed-forward kind and, other than full attention, its attention kind.

    ``dense``, ``sliding`` (some layers attend to a window), ``hybrid`` (some have a state of fixed size, or no
    attention) and ``mla`` (compressed keys and values); with routed experts ``moe``, ``moe-sliding``, ``moe-hybrid``
    and ``moe-mla``.
    """
    kinds = {None if layer.attention is None else layer.attention.kind for layer in model.layers}
    attention = (
        "hybrid"
        if kinds & {None, "linear"}
        else "mla"
        if "latent" in kinds
        else "sliding"
        if "sliding" in kinds
        else ""
    )
    has_experts = any(layer.experts for layer in model.layers)
    return "-".join(filter(None, ["moe" if has_experts else "", attention])) or "dense"
