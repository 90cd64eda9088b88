"""Simulations of a placed system at some rate and under some seed, judged, and kept by the hash of their inputs.

Searches for capacities and fleets are made of them: one that was stopped goes on where it was, and one that asks for
more looks at what the last has found.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from helixsim.config.experiment import ResolvedExperiment, SystemSpec
from helixsim.metrics.objectives import Target, Verdict, judge_target
from helixsim.metrics.summary import summarise
from helixsim.planning.placements import Store, code_hash, hash_of, is_kept, write_whole
from helixsim.planning.systems import PlacedSystem, patience_for, simulate_system
from helixsim.report.capacity_files import Trial
from helixsim.workload.spec import ArrivalsSpec


class TrialStore(Store):
    """A folder of trials."""

    def get(
        self,
        experiment: ResolvedExperiment,
        placed: PlacedSystem,
        targets: Sequence[Target],
        seed: int,
        rate_rps: float | None,
        simulate: Callable[[], Trial],
    ) -> Trial:
        """Return the trial of these inputs."""
        if not is_kept(placed.system):
            return simulate()
        placement = placed.placement
        parts = (
            experiment.config_hash, placed.system.name, sorted(placement.ranges.items()), placement.partial_inference,
            sorted(placement.pipelines.items()), tuple(targets), seed, rate_rps,
        )  # fmt: skip
        path = self.directory / f"{hash_of(repr(parts), code_hash())}.json"
        found = None if self.renew else _read(path)
        if found is None:
            found = simulate()
            self.directory.mkdir(parents=True, exist_ok=True)
            write_whole(path, asdict(found))
        return found


def trials_in(out: Path) -> Path:
    """Return where the trials of all searches below ``out`` are kept."""
    return out / ".trials"


def run_trial(
    experiment: ResolvedExperiment,
    placed: PlacedSystem,
    targets: Sequence[Target],
    seed: int,
    rate_rps: float | None = None,
    store: TrialStore | None = None,
) -> Trial:
    """Simulate a placed system at a rate under a seed, unless that was kept, and judge it by every target.

    Without a rate the requests come as the experiment says. A run that cannot meet any target's TTFT any more ends
    early.
    """
    stats = experiment.workload_stats

    def simulate() -> Trial:
        system, offered_rps = placed.system, stats.offered_rps
        if rate_rps is not None:
            system, offered_rps = replace(system, arrivals=at_rate(experiment, system, rate_rps)), rate_rps
        patience = patience_for(experiment, system, seed, targets)
        run = simulate_system(experiment, replace(placed, system=system), seed=seed, patience=patience)
        summary = summarise(
            run,
            slo=targets[0].slo,
            fleet=system.fleet,
            placement=placed.placement,
            plan=placed.plan,
            mean_prompt_tokens=stats.mean_prompt_tokens,
            mean_output_tokens=stats.mean_output_tokens,
            offered_rps=offered_rps,
        )
        rate = math.nan if offered_rps is None else offered_rps
        return Trial(seed, rate, summary, {target.name: judge_target(run, target) for target in targets})

    return simulate() if store is None else store.get(experiment, placed, targets, seed, rate_rps, simulate)


def at_rate(experiment: ResolvedExperiment, system: SystemSpec, rate_rps: float) -> ArrivalsSpec:
    """Return the arrivals of a system at another rate."""
    return replace(system.arrivals or experiment.workload.arrivals, rate_rps=rate_rps)


def _read(path: Path) -> Trial | None:
    """Return the trial in a file, None if there is none or it is damaged."""
    try:
        document: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        verdicts = {
            name: Verdict(one["is_met"], tuple(one["misses"]), one["tightest"], one["slack"])
            for name, one in document["verdicts"].items()
        }
        return Trial(document["seed"], document["rate_rps"], document["summary"], verdicts)
    except (OSError, ValueError, KeyError, TypeError):
        return None
