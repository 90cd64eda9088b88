"""What ``helix`` selects on random fleets, against every simpler plan of the same load.

    python -m tests.bench.random_fleets --fleets 60 --seed 0

Each fleet has 2 to 40 nodes of 1 to 5 GPU types at 1 to 3 sites, one of four models, an objective, and is loaded with
25, 60 and 100 % of the most that any of the systems can serve by the KV-limited estimate. Systems are compared by the
experiment's own criterion: the share of requests within the objectives, then latency (``helixsim.metrics.score``), on
the requests of the report and on others that no plan was selected on. A row is printed for each load as soon as it is
known, a summary at the end or when ``--seconds`` are over. ``--rank`` simulates all entries of the first trial of a
race as reported, too, and prints how well that trial, and the whole race, rank them.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

import helixsim
from helixsim.config.experiment import ResolvedExperiment
from helixsim.domain.result import RunResult
from helixsim.errors import HelixsimError, InfeasibleError
from helixsim.metrics.criteria import ALIKE, race_steps
from helixsim.metrics.criteria import ranked as ranked_by
from helixsim.metrics.score import Score, score_of
from helixsim.study import placing
from helixsim.study.finished import SimulatedStore, simulated
from helixsim.study.placements import placement_store
from helixsim.study.race import Entry, Race, Trial
from helixsim.study.systems import PlacedSystem, simulate_system

MODELS = ("llama-3.1-8b", "qwen3-30b-a3b", "qwen3-32b", "llama-3.3-70b")
"""The second one has experts."""

GPUS = ("h100", "a100-80g", "a100-40g", "l40s", "a10g", "l4", "rtx-4090", "rtx-3090", "t4")
WIDTHS = (1, 1, 1, 2, 4)
OBJECTIVES = (("2 s", "60 ms"), ("5 s", "150 ms"), ("10 s", "500 ms"))
LOADS = (0.25, 0.6, 1.0)

MOST_NODES = 40

HELD_OUT = 7919
"""Offset of the seed of requests that no plan was selected on."""

SYSTEMS = (
    {"name": "helix", "placement": "helix"},
    {"name": "replicas", "placement": "replicas", "routing": "least_loaded"},
    {"name": "separate", "placement": "separate", "routing": "least_loaded"},
    {"name": "homogeneous", "placement": "homogeneous", "routing": "flow_weighted"},
    {"name": "swarm", "placement": "swarm", "routing": "swarm"},
    {"name": "petals", "placement": "petals", "routing": "flow_weighted"},
)


@dataclass(frozen=True)
class Comparison:
    """Scores of one fleet and load on the report's requests and on others, and the CPU time of planning [s]."""

    fleet: str
    load: float
    reported: dict[str, Score]
    held_out: dict[str, Score]
    planning_s: float


def document(rng: np.random.Generator, most_nodes: int = MOST_NODES) -> dict[str, Any]:
    """Return a random experiment at a rate of one request/s."""
    sites = int(rng.integers(1, 4))
    types = rng.choice(len(GPUS), size=int(rng.integers(1, 6)), replace=False)
    total = int(np.exp(rng.uniform(np.log(2), np.log(most_nodes + 0.99))))
    counts = [1] * min(total, len(types))
    for _ in range(total - len(counts)):
        counts[int(rng.integers(len(counts)))] += 1
    nodes = [
        {
            "gpu": GPUS[kind],
            "gpus": int(rng.choice(WIDTHS)),
            "count": count,
            "region": f"site-{int(rng.integers(sites))}",
        }
        for kind, count in zip(types, counts, strict=False)
    ]
    ttft, tpot = OBJECTIVES[int(rng.integers(len(OBJECTIVES)))]
    return {
        "schema": 1,
        "name": "random-fleet",
        "model": MODELS[int(rng.integers(len(MODELS)))],
        "cluster": {
            "coordinator": {"region": nodes[0]["region"]},
            "nodes": nodes,
            "network": {
                "intra_region": {"bandwidth": f"{int(rng.choice([1, 10, 100]))} Gbit/s", "latency": "0.2 ms"},
                "inter_region": {"bandwidth": "1 Gbit/s", "latency": f"{int(rng.choice([2, 15, 60]))} ms"},
            },
        },
        "workload": {
            "lengths": "azure-conversation",
            "limits": {"max_prompt_tokens": 4096, "max_output_tokens": 512},
            "arrivals": {"process": "poisson", "rate": 1.0},
            "warmup": "60 s",
            "duration": "120 s",
        },
        "engine": "vllm-1",
        "systems": list(SYSTEMS),
        "slo": {"ttft": ttft, "tpot": tpot},
    }


def fleets(seed: int, count: int, most_nodes: int, folder: Path) -> Iterator[tuple[str, Path]]:
    """Yield name and file of experiments that can be placed."""
    made = number = 0
    while made < count:
        text = document(np.random.default_rng((seed, number)), most_nodes)
        number += 1
        path = folder / f"fleet-{made}.yaml"
        path.write_text(json.dumps(text))
        try:
            experiment = helixsim.load_experiment(path)
            placing.place_system(experiment, experiment.systems[0], by_flow=True)
        except HelixsimError:
            continue  # the fleet does not hold the model
        made += 1
        nodes = "+".join(f"{one['count']}x{one['gpus']} {one['gpu']}" for one in text["cluster"]["nodes"])
        sites = len({one["region"] for one in text["cluster"]["nodes"]})
        yield f"{text['model']}, {nodes}, {sites} sites, {text['slo']['ttft']}/{text['slo']['tpot']}", path


def placed_systems(experiment: ResolvedExperiment, **options: Any) -> list[PlacedSystem]:
    """Return the systems that can be placed, ``helix`` last."""
    found = []
    for system in (*experiment.systems[1:], experiment.systems[0]):
        try:
            found.append(placing.place_system(experiment, system, **options))
        except InfeasibleError:
            continue
    return found


def most_rps(experiment: ResolvedExperiment) -> float:
    """Return the most requests/s that any system serves by the KV-limited estimate; ``helix`` by its largest flow."""
    found = placed_systems(experiment, by_flow=True)
    best = max(placed.operating.output_tokens_per_s for placed in found if placed.operating is not None)
    return best / experiment.workload_stats.mean_output_tokens


def scored(experiment: ResolvedExperiment, placed: PlacedSystem, run: RunResult) -> Score:
    """Return the score of a run of a placed system."""
    return score_of(run, experiment.slo, placed.system.fleet, placed.placement)


def ranked(names: Sequence[str], scores: Mapping[str, Score]) -> list[str]:
    """Return names, the best first."""
    return ranked_by(names, scores, race_steps({name: scores[name] for name in names}, has_slo=True))


class Recorded(Race):
    """A race that keeps its trials."""

    trials: Sequence[Trial] = ()

    def _final(self, order: Sequence[Entry], trials: Sequence[Trial], *rest: Any) -> Any:
        Recorded.trials = trials
        return super()._final(order, trials, *rest)


def rank_correlations(experiment: ResolvedExperiment) -> tuple[float, float] | None:
    """Return Spearman's coefficients of the entries of a race, by prediction and as reported; None: under three.

    The first prediction is the first trial. The second is the order of the race: those that went on come before the
    others, and the last trial of each ranks it.
    """
    if not Recorded.trials or len(Recorded.trials[0].entries) < 3:
        return None
    first, predicted, found = [], [], []
    for label, entry in Recorded.trials[0].entries.items():
        placed = PlacedSystem(entry.system, entry.placement, entry.plan)
        scores = [trial.scores[label] for trial in Recorded.trials if label in trial.scores]
        first.append((0.0, *_merit(scores[0])))
        predicted.append((float(len(scores)), *_merit(scores[-1])))
        found.append((0.0, *_merit(scored(experiment, placed, simulate_system(experiment, placed)))))
    columns = [_ranks(column) for column in (first, predicted, found)]
    if any(column.std() == 0 for column in columns):
        return None
    matrix = np.corrcoef(columns)
    return float(matrix[0, 2]), float(matrix[1, 2])


def _merit(score: Score) -> tuple[float, float]:
    """Return what is ranked: the share to a per cent, then the latency to what the selection takes to be equal."""
    return round(score.share, 2), -round(float(np.log(max(1e-9, score.latency_s))) / ALIKE)


def _ranks(values: Sequence[tuple[float, ...]]) -> np.ndarray:
    """Return the ranks of values, of equal ones the mean."""
    ordered = sorted(values)
    return np.array([ordered.index(value) + (ordered.count(value) - 1) / 2 for value in values])


def compare(
    name: str, path: Path, folder: Path, load: float, rate_rps: float, *, requests: int, rank: bool
) -> Comparison:
    """Place, simulate and compare all systems at a rate."""
    duration_s = min(120.0, max(20.0, requests / rate_rps))
    window = [f"workload.warmup={duration_s / 2!r} s", f"workload.duration={duration_s!r} s"]
    experiment = helixsim.load_experiment(path, [f"workload.arrivals.rate={rate_rps!r}", *window])
    other = replace(experiment, seed=experiment.seed + HELD_OUT)
    runs, store = SimulatedStore(folder / "runs"), placement_store(folder / "placements")
    reported: dict[str, Score] = {}
    held_out: dict[str, Score] = {}
    planning_s = 0.0
    for system in (*experiment.systems[1:], experiment.systems[0]):
        started_s = time.process_time()
        try:
            placed = placing.place_system(experiment, system, store=store, runs=runs)
        except InfeasibleError:
            continue
        planning_s = time.process_time() - started_s
        reported[system.name] = scored(experiment, placed, simulated(experiment, placed, runs))
        held_out[system.name] = scored(experiment, placed, simulate_system(other, placed))
        if system.name == "helix":
            notes = placed.placement.notes
            chosen = f"{notes.get('chosen')}, {placed.system.routing}"
    if rank and (found := rank_correlations(experiment)) is not None:
        print(f"  rank correlation of the first trial: {found[0]:.3f}, of the race: {found[1]:.3f}", flush=True)
    row(name, load, rate_rps, reported, held_out, planning_s, chosen)
    return Comparison(name, load, reported, held_out, planning_s)


def row(
    name: str,
    load: float,
    rate_rps: float,
    reported: dict[str, Score],
    held_out: dict[str, Score],
    planning_s: float,
    chosen: str,
) -> None:
    """Print what one load showed."""
    print(f"{name}; {load:.0%}: {rate_rps:.3g}/s, planned in {planning_s:.1f} CPU s: {chosen}")
    for scores in (reported, held_out):
        rivals = ranked([system for system in scores if system != "helix"], scores)
        shown = ["helix", *rivals[:1]]
        print(
            "  "
            + "; ".join(
                f"{system} {scores[system].share:.1%} {scores[system].latency_s:.3g} s "
                f"TTFT {'/'.join(f'{value:.3g}' for value in scores[system].ttft_s)} "
                f"TPOT {'/'.join(f'{1e3 * value:.3g}' for value in scores[system].tpot_s)}"
                for system in shown
            )
            + f"; {verdict(scores)}",
            flush=True,
        )


def verdict(scores: dict[str, Score]) -> str:
    """Return whether ``helix`` wins, ties or loses against the best other system, and in what."""
    mine = scores["helix"]
    others = {system: score for system, score in scores.items() if system != "helix"}
    if not others:
        return "alone"
    for system, score in others.items():
        if score.share_exceeds(mine):
            return f"LOSES share to {system}"
    for system, score in others.items():
        if score.beats(mine):
            return f"LOSES latency to {system}"
    best = others[ranked(list(others), others)[0]]
    return "wins share" if mine.share_exceeds(best) else "wins latency" if mine.beats(best) else "ties"


def summary(found: Sequence[Comparison]) -> None:
    """Print how often and by how much ``helix`` wins or loses, and the time of planning."""
    for what in ("reported", "held_out"):
        verdicts = [verdict(getattr(one, what)) for one in found]
        counts = {name: sum(one.startswith(name) for one in verdicts) for name in ("wins", "ties", "alone", "LOSES")}
        gains, ratios = [], []
        for one in found:
            scores: dict[str, Score] = getattr(one, what)
            others = {system: score for system, score in scores.items() if system != "helix"}
            if others:
                best = others[ranked(list(others), others)[0]]
                gains.append(scores["helix"].share - best.share)
                if abs(gains[-1]) < 0.02:
                    ratios.append(best.latency_s / scores["helix"].latency_s)
        print(
            f"{what.replace('_', ' ')} requests: {counts}; share beyond the best other, mean {np.mean(gains):.1%}, "
            f"largest {max(gains):.1%}, least {min(gains):.1%}; where shares are equal its latency over helix's, "
            f"median {median(ratios or [float('nan')]):.2f}, least {min(ratios, default=float('nan')):.2f}"
        )
    times = [one.planning_s for one in found]
    print(f"planning: median {median(times):.1f} CPU s, worst {max(times):.1f} CPU s, {len(found)} plans")


def main() -> None:
    """Compare on as many fleets as asked for, or as time allows."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--fleets", type=int, default=60)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--most-nodes", type=int, default=MOST_NODES)
    parser.add_argument("--requests", type=int, default=400, help="in the window, which has 20 to 120 s")
    parser.add_argument("--skip", type=int, default=0, help="leave out so many of the first fleets")
    parser.add_argument("--seconds", type=float, default=float("inf"), help="begin no load after so many seconds")
    parser.add_argument("--rank", action="store_true", help="also simulate all entries of the first trial as reported")
    args = parser.parse_args()
    if args.rank:
        placing.Race = Recorded  # type: ignore[misc]
    started_s = time.monotonic()
    found: list[Comparison] = []
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        for number, (name, path) in enumerate(fleets(args.seed, args.fleets, args.most_nodes, folder)):
            if number < args.skip or time.monotonic() - started_s > args.seconds:
                continue
            most = most_rps(helixsim.load_experiment(path))
            found += [
                compare(f"{number}: {name}", path, folder, load, load * most, requests=args.requests, rank=args.rank)
                for load in LOADS
                if time.monotonic() - started_s <= args.seconds
            ]
    if found:
        summary(found)


if __name__ == "__main__":
    main()
