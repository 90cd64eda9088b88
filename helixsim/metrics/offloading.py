"""What prompts found in host memory and on disks, and what they waited for it."""

from __future__ import annotations

import numpy as np

from helixsim.domain.figures import Figure
from helixsim.domain.offload_figures import OffloadFigures, TierFigures
from helixsim.domain.result import RunResult
from helixsim.metrics.latency import finished_in_window
from helixsim.metrics.throughput import Throughput
from helixsim.metrics.window import in_window
from helixsim.units import NS_PER_S


def offload_figures(run: RunResult, counts: Throughput) -> OffloadFigures | None:
    """Return the figures of the levels behind the GPUs; None: there are none."""
    stats, requests = run.offloading, run.requests
    if stats is None:
        return None
    counted = in_window(requests.first_token_ns, run)
    behind = {name: int(getattr(requests, f"{name}_tokens")[counted].sum()) for name in stats.capacity_tokens}
    hits = {"gpu": counts.prefix_hit_tokens - sum(behind.values()), **behind}
    tiers = {name: TierFigures(tokens, _share(tokens, counts.prompt_tokens)) for name, tokens in hits.items()}
    for name, capacity in stats.capacity_tokens.items():
        tiers[name] = TierFigures(
            tiers[name].hit_tokens,
            tiers[name].hit_rate,
            capacity,
            _share(stats.peak_tokens[name], capacity),
            stats.stored_tokens[name],
            stats.loaded_tokens[name],
        )
    waited = requests.load_ns[finished_in_window(run)]
    waited = waited[waited > 0]
    times = [float(np.percentile(waited, q)) / NS_PER_S if len(waited) else None for q in (50, 99)]
    return OffloadFigures(tiers, stats.loads, *times)


def _share(part: int, whole: int) -> Figure:
    return part / whole if whole else None
