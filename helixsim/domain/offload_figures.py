"""The figures of KV blocks in host memory and on disks (``domain.summary``)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from helixsim.domain.figures import Figure


@dataclass(frozen=True, slots=True)
class TierFigures:
    """KV blocks on GPUs (``gpu``), in host memory (``host``) or on disks (``disk``).

    Parameters
    ----------
    hit_tokens, hit_rate
        Prompt tokens of the window that were found there instead of computed, and their share of the prompt tokens.
    capacity_tokens
        What all replicas keep there; None: for GPUs, see ``kv_tokens_per_node``.
    peak_share
        The most that was kept there, as a share of it; None: nothing can be, or for GPUs.
    stored_tokens, loaded_tokens
        What came from the level before, and what was sent back to GPUs, over the whole run; None for GPUs.
    """

    hit_tokens: int
    hit_rate: Figure
    capacity_tokens: Figure = None
    peak_share: Figure = None
    stored_tokens: Figure = None
    loaded_tokens: Figure = None


@dataclass(frozen=True, slots=True)
class OffloadFigures:
    """KV blocks behind the GPUs.

    Parameters
    ----------
    tiers
        By name, those of GPUs included.
    loads
        Requests that waited for blocks from there over the whole run, again after preemptions.
    load_p50_s, load_p99_s
        Time that requests which finished in the window waited for such blocks, of those that did [s].
    """

    tiers: Mapping[str, TierFigures]
    loads: int
    load_p50_s: Figure
    load_p99_s: Figure
