"""Simulations of a placed system at some rate and seed, with verdicts, cached by their inputs.

The searches for capacities and fleets consist of such trials; interrupted or extended searches reuse them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from helixsim.config.experiment import ResolvedExperiment, SystemSpec
from helixsim.domain.summary import Summary
from helixsim.metrics.objectives import Target, TargetVerdict, evaluate_target
from helixsim.results.capacity import Trial
from helixsim.runtime.identity import content_key, experiment_key
from helixsim.runtime.store import Codec, Store
from helixsim.study.systems import PlacedSystem, patience_for, simulate_system, summary_of
from helixsim.workload.spec import ArrivalsSpec

SCHEMA = 1

TrialStore = Store[Trial]


def trial_store(directory: Path, *, renew: bool = False) -> TrialStore:
    """Return the cache of trials in a folder; ``renew``: simulate again and replace entries."""
    return Store(directory, "trial", SCHEMA, Codec(_encoded, _decoded), renew=renew)


def trials_in(out: Path) -> Path:
    """Return the folder of the trials of all searches below ``out``."""
    return out / ".trials"


def run_trial(
    experiment: ResolvedExperiment,
    placed: PlacedSystem,
    targets: Sequence[Target],
    seed: int,
    rate_rps: float | None = None,
    store: TrialStore | None = None,
) -> Trial:
    """Simulate a placed system at a rate under a seed, unless cached, and evaluate all targets.

    Without a rate, the arrivals are those of the experiment. All replicas serve all the time. A run that can no longer
    meet the TTFT of any target ends early.
    """
    stats = experiment.workload_stats

    def simulate() -> Trial:
        system, offered_rps = replace(placed.system, autoscaling=None), stats.offered_rps
        if rate_rps is not None:
            system, offered_rps = replace(system, arrivals=at_rate(experiment, system, rate_rps)), rate_rps
        patience = patience_for(experiment, system, seed, targets)
        run = simulate_system(experiment, replace(placed, system=system), seed=seed, patience=patience)
        summary = summary_of(experiment, placed, run, slo=targets[0].slo, offered_rps=offered_rps)
        rate = math.nan if offered_rps is None else offered_rps
        return Trial(seed, rate, summary, {target.name: evaluate_target(run, target) for target in targets})

    if store is None:
        return simulate()
    return store.obtain(_key(experiment, placed, targets, seed, rate_rps), simulate)


def at_rate(experiment: ResolvedExperiment, system: SystemSpec, rate_rps: float) -> ArrivalsSpec:
    """Return the arrivals of a system at another rate."""
    return replace(system.arrivals or experiment.workload.arrivals, rate_rps=rate_rps)


def _key(
    experiment: ResolvedExperiment, placed: PlacedSystem, targets: Sequence[Target], seed: int, rate_rps: float | None
) -> str:
    placement = placed.placement
    parts = (
        experiment_key(experiment), placed.system.name, list(placement.ranges.items()), placement.partial_inference,
        placement.pipelines, targets, seed, rate_rps,
    )  # fmt: skip
    return content_key("trial", parts)


def _encoded(trial: Trial) -> dict[str, Any]:
    """Return a trial as JSON values."""
    verdicts = {name: asdict(verdict) for name, verdict in trial.verdicts.items()}
    return {
        "seed": trial.seed, "rate_rps": trial.rate_rps, "summary": trial.summary.to_json(), "verdicts": verdicts,
    }  # fmt: skip


def _decoded(document: dict[str, Any]) -> Trial:
    """Return the trial in JSON values."""
    verdicts = {
        name: TargetVerdict(**{**one, "misses": tuple(one["misses"])}) for name, one in document["verdicts"].items()
    }
    summary = Summary.from_json(document["summary"])
    return Trial(**{**document, "summary": summary, "verdicts": verdicts})
