"""KV blocks in host memory and on disks, as rows of tables."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from helixsim.domain.offload_figures import TierFigures
from helixsim.domain.summary import Summary, milliseconds
from helixsim.results.runset import RunSet
from helixsim.units import MISSING, number, percent

_TITLES = {"gpu": "on GPUs", "host": "in host memory", "disk": "on disks"}


def tier_rows(runs: RunSet) -> list[tuple[str, Callable[[Summary], str]]]:
    """Return the rows of systems that keep KV blocks behind the GPUs; empty where there are none."""
    found = [run.summary.kv_offloading for run in runs.values() if run.summary.kv_offloading is not None]
    names = [name for name in _TITLES if any(name in one.tiers for one in found)]
    rows: list[tuple[str, Callable[[Summary], str]]] = []
    for name in names:
        rows.append((f"prompt tokens found {_TITLES[name]}, %", partial(_hits, name=name)))
        if name != "gpu":
            rows += [
                ("  tokens it keeps, peak %", partial(_size, name=name)),
                ("  tokens stored / loaded", partial(_moved, name=name)),
            ]
    return [*rows, ("loads", _loads), ("  waiting p50 / p99, ms", _waits)] if rows else []


def _tier(summary: Summary, name: str) -> TierFigures | None:
    return None if summary.kv_offloading is None else summary.kv_offloading.tiers.get(name)


def _hits(summary: Summary, name: str) -> str:
    tier = _tier(summary, name)
    return MISSING if tier is None else percent(tier.hit_rate)


def _size(summary: Summary, name: str) -> str:
    tier = _tier(summary, name)
    return MISSING if tier is None else f"{number(tier.capacity_tokens)}, {percent(tier.peak_share)}"


def _moved(summary: Summary, name: str) -> str:
    tier = _tier(summary, name)
    return MISSING if tier is None else f"{number(tier.stored_tokens)} / {number(tier.loaded_tokens)}"


def _loads(summary: Summary) -> str:
    return MISSING if summary.kv_offloading is None else number(summary.kv_offloading.loads)


def _waits(summary: Summary) -> str:
    one = summary.kv_offloading
    if one is None:
        return MISSING
    return " / ".join(number(milliseconds(time_s)) for time_s in (one.load_p50_s, one.load_p99_s))
