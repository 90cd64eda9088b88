"""Prefill and decode on different nodes, as rows of tables: the pools, and the transfers between them."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from helixsim.domain.figures import PoolFigures
from helixsim.domain.placement import ROLES
from helixsim.domain.summary import Summary, milliseconds
from helixsim.results.runset import RunSet
from helixsim.units import MISSING, format_bytes, number, percent


def transfers_text(summary: Summary) -> str:
    """Return the KV transfers of a system: their number and size."""
    one = summary.disaggregation
    return MISSING if one is None else f"{one.transfers} ({format_bytes(one.transfer_bytes)})"


def transfer_times(summary: Summary) -> str:
    """Return how long KV transfers take, median and 99th percentile [ms]."""
    one = summary.disaggregation
    if one is None:
        return MISSING
    return " / ".join(number(milliseconds(time_s)) for time_s in (one.transfer_p50_s, one.transfer_p99_s))


def pool_text(summary: Summary, role: str) -> str:
    """Return the nodes with a role, and the share of the time that they compute [%]."""
    pool = _pool(summary, role)
    return MISSING if pool is None else f"{pool.nodes}, {percent(pool.busy_share)} % busy"


def roles_of(runs: RunSet) -> list[str]:
    """Return the roles of nodes in systems that prefill and decode on different nodes."""
    return [role for role in ROLES if any(_pool(one.summary, role) for one in runs.values())]


def leg_rows(runs: RunSet) -> list[tuple[str, Callable[[Summary], str]]]:
    """Return the rows of systems that prefill and decode on different nodes."""
    roles = roles_of(runs)
    rows: list[tuple[str, Callable[[Summary], str]]] = []
    for role in roles:
        rows += [
            (f"nodes that serve {role}", partial(pool_text, role=role)),
            ("  KV memory use, mean / peak %", partial(_pool_kv, role=role)),
            ("  prompt / decode tokens", partial(_pool_tokens, role=role)),
        ]
    return [
        *rows,
        ("KV transfers", transfers_text),
        ("  duration p50 / p99, ms", transfer_times),
        ("  exposed p50 / p99, ms", _exposed_times),
        ("  busiest link, % of the time", _busiest_link),
        ("prompts computed where they decode", _local_prompts),
    ]


def _pool(summary: Summary, role: str) -> PoolFigures | None:
    return None if summary.disaggregation is None else summary.disaggregation.pools.get(role)


def _pool_kv(summary: Summary, role: str) -> str:
    pool = _pool(summary, role)
    return MISSING if pool is None else f"{percent(pool.kv_mean)} / {percent(pool.kv_peak)}"


def _pool_tokens(summary: Summary, role: str) -> str:
    pool = _pool(summary, role)
    return MISSING if pool is None else f"{number(pool.prompt_tokens)} / {number(pool.decode_tokens)}"


def _exposed_times(summary: Summary) -> str:
    one = summary.disaggregation
    if one is None:
        return MISSING
    return " / ".join(number(milliseconds(time_s)) for time_s in (one.exposed_p50_s, one.exposed_p99_s))


def _busiest_link(summary: Summary) -> str:
    return MISSING if summary.disaggregation is None else percent(summary.disaggregation.busiest_link_share)


def _local_prompts(summary: Summary) -> str:
    return MISSING if summary.disaggregation is None else number(summary.disaggregation.local_prompts)


def pool_columns(runs: RunSet) -> list[tuple[str, Callable[[Summary], str]]]:
    """Return the columns of pools and transfers; empty where all nodes of all systems serve both phases."""
    roles = roles_of(runs)
    if not roles:
        return []
    return [
        *((f"{role} nodes", partial(pool_text, role=role)) for role in roles),
        ("KV transfers", transfers_text),
        ("p50 / p99, ms", transfer_times),
        ("of it waited, ms", _exposed_times),
        ("busiest link, %", _busiest_link),
        ("local prompts", _local_prompts),
    ]
