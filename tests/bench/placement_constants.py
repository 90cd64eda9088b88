"""What each tuning constant of the placement search buys: flow, frontier and bound against CPU time, one row a change.

From the repository: ``PYTHONPATH=. python tests/bench/placement_constants.py [CONSTANT ...]``. Each change runs in a
process of its own, on the instances of ``placement_table`` that it concerns. Columns are relative to the constants as
they are: *flow* is the mean over instances of the max-flow, *frontier* that of the flows within each number of hops on
the unchanged frontier, *bound* that of the upper bound, *CPU* the sum of user CPU seconds.
"""

from __future__ import annotations

import resource
import sys
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parents[1])]

PLAIN = ("single24-70b", "dist24-70b", "het42-70b", "dist24-30b", "100-nodes")
MANY_REGIONS = ("100-nodes-4-regions",)

CHANGES: list[tuple[str, Any, tuple[str, ...]]] = [
    ("COLUMN_ROUNDS", 15, PLAIN),
    ("DIVE_ROUNDS", 2, PLAIN),
    ("PERTURBED_PRICINGS", 0, PLAIN),
    ("PERTURBATION", (0.95, 1.05), PLAIN),
    ("PERTURBED_LOSS_LAYERS", 0.1, PLAIN),
    ("MAX_SPREAD", 4, PLAIN),
    ("MAX_BRIDGES", 2, PLAIN),
    ("EXTRA_HOPS", (0,), PLAIN),
    ("EXTRA_HOPS_CROSSING", (1,), PLAIN),
    ("MIP_NODES", 1, PLAIN),
    ("MIP_NODES", 100, PLAIN),
    ("HOP_PRICE_LAYERS", 0.001, PLAIN),
    ("HOP_PRICE_LAYERS", 0.1, PLAIN),
    ("SHORTFALL_PENALTY_LAYERS", 10.0, PLAIN),
    ("MIN_SEGMENT_SHARE", 0.04, PLAIN),
    ("MIN_NODE_PRICE_LAYERS", 0.0, PLAIN),
    ("MAX_SEGMENT_NODES", 1, PLAIN),
    ("MAX_SEGMENT_NODES", 3, PLAIN),
    ("GRID_CHUNK", 1, PLAIN),
    ("MAX_PATTERNS", 5, PLAIN),
    ("MAX_PATTERN_STEPS", 100, PLAIN),
    ("ENUMERATED_REGIONS", 1, PLAIN),
    ("ROUGH_PRECISION", 1e-2, PLAIN),
    ("FINE_PRECISION", 1e-3, PLAIN),
    ("GRID", 200, PLAIN),
    ("CROSSING_GRID", 100, PLAIN),
    ("SEARCH_LAYERS", 6, PLAIN),
    ("FINE_LAYERS", 12, PLAIN),
    ("FINE_GRID", 600, PLAIN),
    ("MAX_REFINED_NODES", 0, PLAIN),
    ("FIRST_STEP", 0.05, PLAIN),
    ("FRONTIER_STEP", 0.9, PLAIN),
    ("FRONTIER_COARSE_NODES", (), PLAIN),
    ("FRONTIER_END", 0.7, PLAIN),
    ("MAX_SWAPS", 0, PLAIN),
    ("DOUBLE_SWAP_SHARE", 0.0, PLAIN),
    ("BOUND_GRIDS", (500,), PLAIN),
    ("BOUND_ROUNDS", 20, PLAIN),
    ("BOUND_PRECISION", 1e-3, PLAIN),
    ("PAIR_PENALTY_LAYERS", 10.0, PLAIN),
    ("MAX_JOINED_REGIONS", 2, MANY_REGIONS),
    ("MAX_JOINED_WORK", 100, MANY_REGIONS),
    ("MAX_JOINS", 1, MANY_REGIONS),
    ("JOIN_PRECISION", 1e-3, MANY_REGIONS),
]


@dataclass(frozen=True)
class Result:
    """Max-flow and bound [tokens/s], frontier as (hops, flow), and user CPU time [s] of one instance."""

    flow: float
    bound: float
    frontier: tuple[tuple[int, float], ...]
    cpu_s: float

    def within(self, hops: int) -> float:
        return max((flow for depth, flow in self.frontier if depth <= hops), default=0.0)


def solved(name: str, constant: str | None, value: Any) -> Result:
    """Solve an instance with one constant changed: before the modules that read it at import."""
    from helixsim.placement import tuning

    if constant is not None:
        getattr(tuning, constant)  # a constant that is not there is an error
        setattr(tuning, constant, value)
    from placement_table import INSTANCES

    from helixsim.placement.helix import Helix, HelixOptions

    problem = INSTANCES[name].problem()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_utime
    found = Helix().solve(problem, HelixOptions(time_limit_s=1200.0))
    spent = resource.getrusage(resource.RUSAGE_SELF).ru_utime - before
    line = tuple((point["hops"], point["max_flow_tokens_per_s"]) for point in found.notes["frontier"])
    return Result(found.objective_tokens_per_s, found.upper_bound_tokens_per_s, line, spent)


def measured(instances: tuple[str, ...], constant: str | None, value: Any) -> list[Result]:
    """Solve each instance in a fresh process."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn"), max_tasks_per_child=1) as pool:
        return [pool.submit(solved, name, constant, value).result() for name in instances]


def mean_change(pairs: list[tuple[float, float]]) -> str:
    """Return the mean of new / old - 1 in per cent."""
    return f"{100 * (sum(new / old for new, old in pairs) / len(pairs) - 1):+.2f}"


def main(names: list[str]) -> None:
    from helixsim.placement import tuning

    base: dict[tuple[str, ...], list[Result]] = {}
    print("| constant | value | changed to | flow % | frontier % | bound % | CPU s |\n|---|---|---|---|---|---|---|")
    for constant, value, instances in CHANGES:
        if names and constant not in names:
            continue
        if instances not in base:
            base[instances] = measured(instances, None, None)
        pairs = list(zip(measured(instances, constant, value), base[instances], strict=True))
        points = [(new.within(hops), flow) for new, old in pairs for hops, flow in old.frontier]
        flow, line = mean_change([(new.flow, old.flow) for new, old in pairs]), mean_change(points)
        bound = mean_change([(new.bound, old.bound) for new, old in pairs])
        cpu, cpu_before = (sum(pair[side].cpu_s for pair in pairs) for side in (0, 1))
        print(
            f"| {constant} | {getattr(tuning, constant)} | {value} | {flow} | {line} | {bound} "
            f"| {cpu_before:.1f} → {cpu:.1f} |",
            flush=True,
        )


if __name__ == "__main__":
    main(sys.argv[1:])
