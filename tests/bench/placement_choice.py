"""Placements chosen by ``helix`` against the published ones, and planners' models of capacity against simulation.

    python tests/bench/placement_choice.py saturated|online|models CASE...

prints rows of the tables in ``experiments/paper/PLACEMENT.md``. Cases are the names of ``experiments/paper``;
``models`` knows ``quickstart`` as well, ``online`` wants requests/s after an @: ``single24-70b@0.9``.
"""

from __future__ import annotations

import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np

import helixsim
from helixsim.config.experiment import ResolvedExperiment, SystemSpec
from helixsim.domain.placement import Placement
from helixsim.domain.request import Slo, Window
from helixsim.flow.maxflow import max_flow
from helixsim.flow.operating import operating_point
from helixsim.placement.base import PlacementProblem
from helixsim.placement.helix import HelixOptions, _Search
from helixsim.study.placing import place_system
from helixsim.study.systems import PlacedSystem, capacity_table, operating_load, simulate_system, summary_of
from helixsim.units import NS_PER_S
from helixsim.workload.spec import ArrivalsSpec

EXPERIMENTS = Path(__file__).parents[2] / "experiments"
SLO = Slo(ttft_s=10.0, tpot_s=2.0)


def experiment_of(case: str, *overrides: str) -> ResolvedExperiment:
    """Read a case."""
    file = EXPERIMENTS / "quickstart.yaml" if case == "quickstart" else EXPERIMENTS / "paper" / f"{case}.yaml"
    return helixsim.load_experiment(file, overrides)


def measured(experiment: ResolvedExperiment, placed: PlacedSystem) -> dict[str, float]:
    """Simulate a placed system as the experiment says and return what the tables show."""
    run = simulate_system(experiment, placed)
    summary = summary_of(experiment, placed, run, offered_rps=experiment.workload_stats.offered_rps)
    return {
        "output tokens/s": summary.throughput.output_tokens_per_s,
        "requests/s": summary.throughput.requests_per_s,
        "mean TTFT, s": summary.ttft.mean_s,
        "mean step, s": summary.itl.mean_s,
        "goodput, requests/s": summary.throughput.goodput_per_s or float("nan"),
    }


def compare(case: str, experiment: ResolvedExperiment) -> dict[str, dict[str, float]]:
    """Choose a placement, simulate it and the published one, and print a row for each."""
    systems = {system.name: system for system in experiment.systems}
    found: dict[str, dict[str, float]] = {}
    for name in ("helix", "helix-published"):
        started = time.process_time()
        placed = place_system(experiment, systems[name])
        spent = time.process_time() - started
        found[name] = measured(experiment, placed)
        cells = " | ".join(f"{value:.4g}" for value in found[name].values())
        chosen = placed.placement.notes.get("chosen", "stored")
        hops, flow = placed.plan.mean_hops, placed.plan.max_flow_tokens_per_s
        print(f"| {case} | {name} ({chosen}) | {hops:.1f} | {flow:.0f} | {cells} | {spent:.0f} |", flush=True)
    ours, theirs = found["helix"], found["helix-published"]
    print(f"    {case}: {ours['output tokens/s'] / theirs['output tokens/s']:.2f} times the output", flush=True)
    return found


def online(case: str, rate_rps: float) -> None:
    """Compare under Poisson arrivals."""
    overrides = (f"workload.arrivals={{process: poisson, rate: {rate_rps:g} /s}}",)
    compare(f"{case} at {rate_rps:g}/s", replace(experiment_of(case, *overrides), slo=SLO))


def models(case: str) -> None:
    """Print how both models of capacity foretell saturated throughput over the candidates of the search."""
    experiment = experiment_of(case)
    rows = []
    for name, placement in candidates(experiment):
        system = replace(experiment.systems[0], arrivals=ArrivalsSpec("saturate", prompts_in_flight=20))
        plan = max_flow(system.fleet, placement, capacity_table(experiment, system))
        point = operating_point(system.fleet, placement, operating_load(experiment, system))
        window = Window(180 * NS_PER_S, 360 * NS_PER_S, drain=False)
        run = simulate_system(experiment, PlacedSystem(system, placement, plan), window=window)
        inside = int((run.series.time_ns < run.window_start_ns).sum())
        tokens, times = run.series.output_tokens[inside:], run.series.time_ns[inside:]
        simulated = float(tokens[-1] - tokens[0]) * NS_PER_S / float(times[-1] - times[0])
        stats = experiment.workload_stats
        share = stats.mean_output_tokens / (stats.mean_prompt_tokens + stats.mean_output_tokens)
        rows.append((simulated, plan.max_flow_tokens_per_s * share, point.output_tokens_per_s))
        print(f"    {name:18s} {plan.mean_hops:5.1f} hops", *(f"{value:8.1f}" for value in rows[-1]), flush=True)
    simulated, *foretold = np.array(rows).T
    for model, values in zip(("paper", "operating"), foretold, strict=True):
        ratio = values / simulated
        rank = np.corrcoef(values.argsort().argsort(), simulated.argsort().argsort())[0, 1]
        first = simulated[values.argmax()] / simulated.max()
        print(
            f"| {case} | {model} | {len(rows)} | {rank:.2f} | {np.median(np.abs(ratio - 1)):.0%} | {ratio.min():.2f}–"
            f"{ratio.max():.2f} | {first:.0%} |",
            flush=True,
        )


def candidates(experiment: ResolvedExperiment) -> list[tuple[str, Placement]]:
    """Return what the search by the paper's capacities offers, heuristics included, and the published placement."""
    system: SystemSpec = experiment.systems[0]
    table = capacity_table(experiment, system)
    search = _Search(PlacementProblem(system.fleet, table, experiment.seed), HelixOptions(select="flow"))
    search.run()
    found = {tuple(c.placement.ranges.items()): (c.name, c.placement) for c in search.candidates}
    for other in experiment.systems:
        if other.name == "helix-published":
            placement = place_system(experiment, other, by_flow=True).placement
            found[tuple(placement.ranges.items())] = (other.name, placement)
    return list(found.values())


if __name__ == "__main__":
    what, *cases = sys.argv[1:]
    for case in cases:
        if what == "models":
            models(case)
        elif what == "saturated":
            compare(case, experiment_of(case))
        else:
            name, _, rate = case.partition("@")
            online(name, float(rate))
