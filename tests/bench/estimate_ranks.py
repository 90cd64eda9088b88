"""How well the KV-limited estimate ranks the candidates of races and the baselines of random fleets.

    python -m tests.bench.estimate_ranks --fleets 10 --seed 0

The fleets are those of ``random_fleets`` at 60 % load. Their candidates and baselines, each placement once, are
simulated saturated, with as many requests in flight as memory holds, and ranked by output tokens/s and by the estimate
of it. Printed are Spearman's coefficient, that of throughputs rounded to ``metrics.criteria.SAME_THROUGHPUT``, of the
pairs that differ by more than that the share in the right order, and the coefficient of the first halves of the runs
with the second ones, of which no estimate can be expected to exceed the order by much.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import combinations
from pathlib import Path

import numpy as np

import helixsim
from helixsim.config.experiment import ResolvedExperiment
from helixsim.domain.placement import Placement
from helixsim.domain.request import Window
from helixsim.errors import InfeasibleError
from helixsim.flow.operating import operating_point
from helixsim.metrics.criteria import SAME_THROUGHPUT
from helixsim.metrics.score import score_of
from helixsim.placement.base import Contender
from helixsim.study import placing
from helixsim.study.race import Race
from helixsim.study.systems import PlacedSystem, operating_load, simulate_system
from helixsim.units import NS_PER_S
from helixsim.workload.spec import ArrivalsSpec
from tests.bench.random_fleets import MOST_NODES, fleets, most_rps

LOAD = 0.6
RESIDENCES = 3.0
"""Warm-up in times that a request takes; the window is half as long again."""

LEAST_S, MOST_S = 20.0, 200.0
"""Shortest and longest warm-up [s]."""

REQUESTS = 2000
"""Requests in a window at least: by so many different ones, throughputs differ by 1 to 2 %."""

PROMPTS_IN_FLIGHT = 1000
"""More prompts on their way than fit: with few, policies keep them all on the fastest nodes, and others stay empty."""


class Listed(Race):
    """A race that lists its entries and simulates none."""

    entries: Sequence[PlacedSystem] = ()

    def __call__(self, contenders: Sequence[Contender], report: Callable[[str], None]) -> Placement:
        """Return the first contender."""
        entries = [(one.name, self._entry(one)) for one in contenders]
        baselines = [(f"system {placed.system.name}", self._rival(placed)) for placed in self.baselines()]
        Listed.entries = [
            PlacedSystem(replace(entry.system, name=name), entry.placement, entry.plan)
            for name, entry in (*entries, *baselines)
        ]
        return contenders[0].placement


def saturated(experiment: ResolvedExperiment, placed: PlacedSystem) -> tuple[float, np.ndarray]:
    """Return the estimated output tokens/s of a placed system that is saturated, and the simulated ones by halves."""
    system = replace(placed.system, arrivals=ArrivalsSpec("saturate", prompts_in_flight=PROMPTS_IN_FLIGHT))
    load = operating_load(experiment, system)
    point = operating_point(system.fleet, placed.placement, load)
    residence_s = point.requests * load.mean_output_tokens / point.output_tokens_per_s
    warmup_s = min(MOST_S, max(LEAST_S, RESIDENCES * residence_s))
    duration_s = max(1.5 * warmup_s, REQUESTS * load.mean_output_tokens / point.output_tokens_per_s)
    window = Window(int(warmup_s * NS_PER_S), int(duration_s * NS_PER_S), drain=False)
    longer = replace(experiment, workload=replace(experiment.workload, window=window))
    run = simulate_system(longer, replace(placed, system=system))
    score = score_of(run, experiment.slo, system.fleet, placed.placement)
    return point.output_tokens_per_s, score.output_tokens.reshape(2, -1).sum(axis=1) / (score.duration_s / 2)


def different(entries: Sequence[PlacedSystem]) -> list[PlacedSystem]:
    """Return the first entry of each placement: the estimate knows no routing, by which others differ."""
    found: dict[object, PlacedSystem] = {}
    for one in entries:
        placement = one.placement
        found.setdefault((frozenset(placement.ranges.items()), placement.partial_inference), one)
    return list(found.values())


def agreement(pairs: Sequence[tuple[float, float]]) -> tuple[float, float, float]:
    """Return Spearman's coefficient of pairs, of rounded ones, and the share of pairs in order that are not alike."""
    estimated, simulated = np.log(np.array(pairs)).T
    rounded = [np.round(one / SAME_THROUGHPUT) for one in (estimated, simulated)]
    far = [
        (simulated[i] - simulated[j]) * (estimated[i] - estimated[j]) > 0
        for i, j in combinations(range(len(pairs)), 2)
        if abs(simulated[i] - simulated[j]) > SAME_THROUGHPUT
    ]
    return _spearman(estimated, simulated), _spearman(*rounded), float(np.mean(far))


def _spearman(one: np.ndarray, other: np.ndarray) -> float:
    ranks = [
        [(values < value).sum() + ((values == value).sum() - 1) / 2 for value in values] for values in (one, other)
    ]
    return float(np.corrcoef(ranks)[0, 1])


def main() -> None:
    """Print a line for each entry and the coefficient of each fleet."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--fleets", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", type=int, nargs="*", help="numbers of fleets")
    args = parser.parse_args()
    placing.Race = Listed  # type: ignore[misc]
    found = []
    with tempfile.TemporaryDirectory() as temporary:
        for number, (name, path) in enumerate(fleets(args.seed, args.fleets, MOST_NODES, Path(temporary))):
            if args.only and number not in args.only:
                continue
            rate_rps = LOAD * most_rps(helixsim.load_experiment(path))
            experiment = helixsim.load_experiment(path, [f"workload.arrivals.rate={rate_rps!r}"])
            try:
                placing.place_system(experiment, experiment.systems[0])
            except InfeasibleError:
                continue
            pairs, halves = [], []
            print(f"{number}: {name}, {rate_rps:.3g}/s", flush=True)
            for placed in different(Listed.entries):
                estimated, of_halves = saturated(experiment, placed)
                served = float(of_halves.mean())
                pairs.append((estimated, served))
                halves.append(of_halves)
                print(
                    f"  {placed.system.name:72s} {placed.system.routing:16s} {placed.plan.mean_hops:5.1f} hops "
                    f"{estimated:9.1f} {served:9.1f} {estimated / served:.3f}",
                    flush=True,
                )
            if len(pairs) > 2:
                found.append(agreement(pairs))
                print(
                    "  rank correlation {:.3f}, rounded {:.3f}, pairs in order {:.1%}".format(*found[-1])
                    + f", of the halves of runs {_spearman(*np.array(halves).T):.3f}",
                    flush=True,
                )
    print("mean: rank correlation {:.3f}, rounded {:.3f}, pairs in order {:.1%}".format(*np.mean(found, axis=0)))


if __name__ == "__main__":
    main()
