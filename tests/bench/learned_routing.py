"""Does a learned correction of the expected finish route better than ``earliest_finish``, on fleets not learned from?

    python -m tests.bench.learned_routing

Random fleets (``random_fleets``) serve with replicas of several kinds. On the first ones, a third of the requests goes
to a random replica, and the logarithm of the time that a request took, over what ``earliest_finish`` had expected, is
fitted by least squares to the state of its replica. On the others, the policy with the expectation so corrected is
compared with the one without, on the same requests, at 60 and 100 % of the KV-limited estimate.
"""

from __future__ import annotations

import argparse
import json
import math
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

import helixsim
from helixsim.config.experiment import ResolvedExperiment
from helixsim.domain.request import Window
from helixsim.errors import HelixsimError
from helixsim.metrics.score import Score, score_of
from helixsim.routing import registry
from helixsim.routing.base import Hop, RoutingView
from helixsim.routing.earliest_finish import EarliestFinish
from helixsim.study import placing
from helixsim.study.systems import PlacedSystem, operating_load, simulate_system
from helixsim.units import NS_PER_S
from tests.bench.random_fleets import document

FEATURES = ("one", "waiting over running", "KV share", "running over most", "stages", "logarithm of its context")
EXPLORED = 1 / 3
LOADS = (0.6, 1.0)
POLICY = "tests.bench.learned_routing:Learned"
REQUESTS = 1200


class Learned(EarliestFinish):
    """``earliest_finish`` whose expectation is multiplied by ``exp(weights x state)``."""

    weights: ClassVar[np.ndarray] = np.zeros(len(FEATURES))
    explores: ClassVar[bool] = False
    seen: ClassVar[list[tuple[list[float], float]]] = []

    def __init__(self, graph: Any, options: Any, rng: np.random.Generator) -> None:
        super().__init__(graph, options, rng)
        self._rng = rng

    def route(self, prompt_tokens: int, expected_tokens: int, view: RoutingView) -> tuple[Hop, ...] | None:
        """See ``RoutingPolicy.route``."""
        self._prompts += 1
        self._prompt_tokens += prompt_tokens
        fitting = [one for one in self._replicas or () if all(view.fits(hop) for hop in one.hops)]
        if not fitting:
            return None
        best = None
        for replica in fitting:
            misses, finish_ns = replica.cost(prompt_tokens, self._prompt_tokens / self._prompts, view)
            state = self._state(replica, prompt_tokens, view)
            key = misses, finish_ns * math.exp(float(self.weights @ state))
            if best is None or key < best[0]:
                best = key, replica, state, finish_ns
        assert best is not None
        if self.explores and self._rng.random() < EXPLORED:
            replica = fitting[int(self._rng.integers(len(fitting)))]
            finish_ns = replica.cost(prompt_tokens, self._prompt_tokens / self._prompts, view)[1]
            best = best[0], replica, self._state(replica, prompt_tokens, view), finish_ns
        self.seen.append((best[2], best[3]))
        return best[1].hops

    @staticmethod
    def _state(replica: Any, prompt: int, view: RoutingView) -> list[float]:
        node = replica.hops[0].node
        running, waiting = view.in_flight(node), view.queue_length(node)
        context = (view.in_flight_tokens(node) + prompt) / (running + 1)
        shares = waiting / (running + 1), view.kv_usage(node), running / replica._most
        return [1.0, *shares, float(len(replica.hops)), math.log(context)]


def fleets(seed: int, count: int, folder: Path) -> list[tuple[str, ResolvedExperiment, PlacedSystem, float]]:
    """Return experiments with replicas of two kinds or more, and the most requests/s by the KV-limited estimate."""
    found = []
    number = 0
    while len(found) < count:
        text = document(np.random.default_rng((seed, number)), 16)
        number += 1
        text["systems"] = [{"name": "one", "placement": "replicas", "routing": "earliest_finish"}]
        path = folder / f"fleet-{seed}-{number}.yaml"
        path.write_text(json.dumps(text))
        try:
            experiment = helixsim.load_experiment(path)
            placed = placing.place_system(experiment, experiment.systems[0])
        except HelixsimError:
            continue
        kinds = {placed.system.fleet.profile(node).kind for node in placed.placement.ranges}
        if len(kinds) < 2 or placed.operating is None:
            continue
        mean = operating_load(experiment, experiment.systems[0]).mean_output_tokens
        nodes = "+".join(f"{one['count']}x{one['gpus']} {one['gpu']}" for one in text["cluster"]["nodes"])
        found.append((f"{text['model']}, {nodes}", experiment, placed, placed.operating.output_tokens_per_s / mean))
    return found


def simulated(experiment: ResolvedExperiment, placed: PlacedSystem, routing: str, rate_rps: float, seed: int) -> Any:
    """Return a run at a rate."""
    duration_s = min(300.0, max(30.0, REQUESTS / rate_rps))
    arrivals = replace(experiment.workload.arrivals, rate_rps=rate_rps)
    system = replace(placed.system.with_routing(routing, registry.get(routing).Options()), arrivals=arrivals)
    window = Window(int(duration_s / 2 * NS_PER_S), int(duration_s * NS_PER_S), drain=False)
    return simulate_system(experiment, replace(placed, system=system), window=window, seed=seed)


def fitted(training: Sequence[tuple[str, ResolvedExperiment, PlacedSystem, float]]) -> np.ndarray:
    """Return the weights of the features."""
    states, ratios = [], []
    learned = registry.get(POLICY)
    learned.explores = True
    for _, experiment, placed, most_rps in training:
        for load in (0.3, *LOADS):
            learned.seen = []
            requests = simulated(experiment, placed, POLICY, load * most_rps, 1).requests
            output = experiment.workload_stats.mean_output_tokens
            for (state, expected_ns), arrival, first, end, tokens in zip(
                learned.seen, requests.arrival_ns, requests.first_token_ns, requests.finish_ns,
                requests.output_tokens, strict=False,
            ):  # fmt: skip
                if first > 0 and end > 0 and tokens > 8:
                    took_ns = first - arrival + (output - 1) * (end - first) / (tokens - 1)
                    states.append(state)
                    ratios.append(math.log(took_ns / expected_ns))
    learned.explores = False
    weights, *_ = np.linalg.lstsq(np.array(states), np.array(ratios), rcond=None)
    before, after = np.abs(ratios), np.abs(np.array(ratios) - np.array(states) @ weights)
    print(f"{len(ratios)} requests; error of the expectation, median: {np.median(before):.1%}, corrected: "
          f"{np.median(after):.1%}")  # fmt: skip
    for name, weight in zip(FEATURES, weights, strict=True):
        print(f"  {name}: {weight:+.3f}")
    return weights


def compare(held_out: Sequence[tuple[str, ResolvedExperiment, PlacedSystem, float]]) -> None:
    """Print the scores of both policies on fleets and loads."""
    counts = {"better": 0, "worse": 0, "level": 0}
    for name, experiment, placed, most_rps in held_out:
        for load in LOADS:
            scores: list[Score] = []
            for routing in ("earliest_finish", POLICY):
                run = simulated(experiment, placed, routing, load * most_rps, 2)
                scores.append(score_of(run, experiment.slo, placed.system.fleet, placed.placement))
            plain, corrected = scores
            verdict = "better" if corrected.beats(plain) else "worse" if plain.beats(corrected) else "level"
            counts[verdict] += 1
            print(
                f"{name}; {load:.0%}: in time {plain.share:.1%} -> {corrected.share:.1%}, "
                f"latency {plain.latency_s:.3g} -> {corrected.latency_s:.3g} s: {verdict}",
                flush=True,
            )
    print(counts)


def main() -> None:
    """Fit on some fleets, compare on others."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--training", type=int, default=5)
    parser.add_argument("--held-out", type=int, default=6)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        registry.get(POLICY).weights = fitted(fleets(11, args.training, folder))
        compare(fleets(12, args.held_out, folder))


if __name__ == "__main__":
    main()
