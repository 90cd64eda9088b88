"""Pools of replicas whose number follows the load, as rows of tables."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from helixsim.domain.autoscaling_figures import AutoscalingFigures, ScaledPoolFigures, SpotFigures
from helixsim.domain.figures import Figure
from helixsim.domain.summary import Summary
from helixsim.results.runset import RunSet
from helixsim.units import MISSING, number, percent


def autoscaling_rows(runs: RunSet) -> list[tuple[str, Callable[[Summary], str]]]:
    """Return the rows of systems whose replicas come and go; empty where there are none."""
    found = [run.summary.autoscaling for run in runs.values() if run.summary.autoscaling is not None]
    if not found:
        return []
    rows: list[tuple[str, Callable[[Summary], str]]] = [
        ("GPU-hours paid for", _cell(lambda one: number(one.gpu_hours))),
        ("  of the perfect autoscaler", _cell(lambda one: number(one.bound_gpu_hours))),
        ("  times as many", _cell(lambda one: _ratio(one.gpu_hours, one.bound_gpu_hours))),
        ("price, $", _cell(lambda one: number(one.cost_usd))),
        ("  of the perfect autoscaler", _cell(lambda one: number(one.bound_cost_usd))),
        ("GPUs of the perfect autoscaler, mean / peak", _cell(_bound_gpus)),
        ("time paid for that GPUs compute, %", _cell(lambda one: percent(one.busy_share))),
    ]
    for name in dict.fromkeys(name for one in found for name in _used(one)):
        rows += [
            (f"replicas on {name}, mean / peak", _pool_cell(name, _replicas)),
            ("  floor / ceiling", _pool_cell(name, lambda pool: f"{pool.floor} / {pool.ceiling}")),
            ("  started", _pool_cell(name, lambda pool: str(pool.starts))),
            ("  start-up, s", _pool_cell(name, lambda pool: number(pool.startup_s))),
            ("  capacity of each within SLO, requests/s", _pool_cell(name, lambda pool: number(pool.capacity_per_s))),
        ]
        if any(one.pools[name].lost is not None for one in found if name in one.pools):
            lost = _pool_cell(name, lambda pool: MISSING if pool.lost is None else str(pool.lost))
            rows.append(("  lost to failures", lost))
        if any(one.pools[name].spot is not None for one in found if name in one.pools):
            rows += [
                ("  on spot machines, mean", _spot_cell(name, lambda spot: number(spot.spot_mean))),
                ("  as many as wanted serve, % of the time", _spot_cell(name, lambda spot: percent(spot.availability))),
                ("  preempted", _spot_cell(name, lambda spot: str(spot.preempted))),
                ("  price, $", _spot_cell(name, lambda spot: number(spot.cost_usd))),
                ("  of the wanted ones on demand, $", _spot_cell(name, lambda spot: number(spot.on_demand_usd))),
            ]
    return rows


def autoscaling_columns(runs: RunSet) -> list[tuple[str, Callable[[Summary], str]]]:
    """Return the columns of systems whose replicas come and go; empty where there are none."""
    if all(run.summary.autoscaling is None for run in runs.values()):
        return []
    return [
        ("GPU-hours", _cell(lambda one: number(one.gpu_hours))),
        ("perfect", _cell(lambda one: number(one.bound_gpu_hours))),
        ("price, $", _cell(lambda one: number(one.cost_usd))),
        ("perfect, $", _cell(lambda one: number(one.bound_cost_usd))),
        ("replicas, mean / peak", _cell(_all_replicas)),
        ("started", _cell(lambda one: str(sum(pool.starts for pool in one.pools.values())))),
    ]


def _all_replicas(one: AutoscalingFigures) -> str:
    return ", ".join(f"{name} {_replicas(pool)}" for name, pool in _used(one).items())


def _used(one: AutoscalingFigures) -> dict[str, ScaledPoolFigures]:
    """Return the pools that may have replicas."""
    return {name: pool for name, pool in one.pools.items() if pool.ceiling > 0}


def _cell(text: Callable[[AutoscalingFigures], str]) -> Callable[[Summary], str]:
    return lambda summary: MISSING if summary.autoscaling is None else text(summary.autoscaling)


def _pool_cell(name: str, text: Callable[[ScaledPoolFigures], str]) -> Callable[[Summary], str]:
    return _cell(partial(_of_pool, name=name, text=text))


def _spot_cell(name: str, text: Callable[[SpotFigures], str]) -> Callable[[Summary], str]:
    return _pool_cell(name, lambda pool: MISSING if pool.spot is None else text(pool.spot))


def _of_pool(one: AutoscalingFigures, name: str, text: Callable[[ScaledPoolFigures], str]) -> str:
    return text(one.pools[name]) if name in one.pools else MISSING


def _replicas(pool: ScaledPoolFigures) -> str:
    return _pair(pool.replicas_mean, pool.replicas_peak)


def _bound_gpus(one: AutoscalingFigures) -> str:
    return _pair(one.bound_gpus_mean, one.bound_gpus_peak)


def _pair(first: Figure, second: Figure) -> str:
    return MISSING if first is None else f"{number(first)} / {number(second)}"


def _ratio(figure: float, bound: Figure) -> str:
    return f"{figure / bound:.2f}" if bound else MISSING
