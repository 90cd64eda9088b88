"""The quickstart at several loads and seeds: what ``helix`` selects beside simpler plans, percentile by percentile.

    python -m tests.bench.quickstart_loads --rates 0.3 0.8 1.3 1.6 --seeds 0 1 2

``pipeline`` is the highest balanced score with ``flow_weighted``, placed once per rate; ``finish-first`` is one
pipeline per GPU type with ``earliest_finish``. The last column says whether ``helix`` is behind the best of the others
by share or latency by more than the interval of the difference, and what it selected.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import helixsim
from helixsim.metrics.criteria import race_steps, ranked
from helixsim.metrics.score import Score, score_of
from helixsim.study.placing import place_system
from helixsim.study.systems import simulate_system

QUICKSTART = Path(__file__).parents[2] / "experiments" / "quickstart.yaml"

SYSTEMS = """[{name: helix, placement: helix},
 {name: pipeline, placement: {strategy: helix, criterion: balanced}, routing: flow_weighted},
 {name: least-loaded, placement: separate, routing: least_loaded},
 {name: finish-first, placement: separate, routing: earliest_finish}]"""


def figures(score: Score) -> str:
    """Return share, and percentiles of TTFT [s] and TPOT [ms]."""
    ttft = " / ".join(f"{value:.2f}" for value in score.ttft_s)
    tpot = " / ".join(f"{1e3 * value:.0f}" for value in score.tpot_s)
    return f"{score.share:.1%}; {ttft}; {tpot}"


def main() -> None:
    """Print a row for each rate and seed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rates", type=float, nargs="+", default=[0.3, 0.8, 1.3, 1.6])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    args = parser.parse_args()
    pipelines = {}
    print(
        "| requests/s | seed | helix | pipeline | least-loaded | finish-first | helix |\n|---|---|---|---|---|---|---|"
    )
    for seed in args.seeds:
        for rate in args.rates:
            overrides = [
                f"systems={SYSTEMS}",
                "baseline=least-loaded",
                f"workload.arrivals.rate={rate}",
                f"seed={seed}",
            ]
            experiment = helixsim.load_experiment(QUICKSTART, overrides)
            scores = {}
            for system in experiment.systems:
                if system.name == "pipeline":
                    placed = pipelines[rate] = pipelines.get(rate) or place_system(experiment, system)
                else:
                    placed = place_system(experiment, system)
                    if system.name == "helix":
                        chosen = f"{placed.placement.notes['chosen']}, {placed.system.routing}"
                scores[system.name] = score_of(
                    simulate_system(experiment, placed), experiment.slo, system.fleet, placed.placement
                )
            others = [name for name in scores if name != "helix"]
            best = ranked(others, scores, race_steps(scores, has_slo=experiment.slo.is_stated))[0]
            verdict = "behind" if scores[best].beats(scores["helix"]) else "not behind"
            row = [
                f"{rate:g}",
                f"{seed}",
                *(figures(score) for score in scores.values()),
                f"{verdict} {best}: {chosen}",
            ]
            print(f"| {' | '.join(row)} |", flush=True)


if __name__ == "__main__":
    main()
