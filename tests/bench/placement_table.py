"""Placements of known instances: flow, bound, gap and CPU seconds of each, printed as a table.

From the repository: ``PYTHONPATH=. python tests/bench/placement_table.py [NAME ...]``. Capacities of LLaMA-2 70B are
the paper's (see ``published``), others those of the profiles; nothing is simulated. The large fleets are drawn from the
kinds of the paper's 42-node cluster (see ``synthetic``).
"""

from __future__ import annotations

import sys
import time
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import published
import synthetic

from helixsim.placement.base import PlacementProblem
from helixsim.placement.helix import Helix, HelixOptions


@dataclass(frozen=True)
class Instance:
    """What must be reached: the flow [tokens/s] or the gap, and in how many CPU seconds [s]."""

    cluster: str | tuple[int, int]
    model: str
    least_tokens_per_s: float
    most_gap: float
    most_cpu_s: float

    def problem(self) -> PlacementProblem:
        if not isinstance(self.cluster, str):
            nodes, regions = self.cluster
            return synthetic.problem(nodes, regions, seed=0 if regions == 1 else 1)
        return published.problem(self.cluster, self.model)


INSTANCES = {
    "single24-70b": Instance("single24", "llama-2-70b", 2045.6, 0.0003, 5),
    "dist24-70b": Instance("dist24", "llama-2-70b", 1754.3, 0.0003, 10),
    "het42-70b": Instance("het42", "llama-2-70b", 5990.0, 0.0106, 20),
    "single24-30b": Instance("single24", "llama-1-30b", 1517.7, 0.0005, 10),
    "dist24-30b": Instance("dist24", "llama-1-30b", 1419.9, 0.02, 10),
    "small10-30b": Instance("small10", "llama-1-30b", 286.58, 0.0005, 3),
    "100-nodes": Instance((100, 1), "llama-2-70b", 0.0, 0.005, 10),
    "300-nodes": Instance((300, 1), "llama-2-70b", 0.0, 0.005, 15),
    "1000-nodes": Instance((1000, 1), "llama-2-70b", 0.0, 0.005, 40),
    "100-nodes-4-regions": Instance((100, 4), "llama-2-70b", 0.0, 0.15, 30),
    "300-nodes-6-regions": Instance((300, 6), "llama-2-70b", 0.0, 0.07, 60),
    "1000-nodes-10-regions": Instance((1000, 10), "llama-2-70b", 0.0, 0.03, 120),
}


def main(names: list[str]) -> None:
    print(f"{'instance':24}{'flow':>12}{'bound':>12}{'gap %':>8}{'hops':>6}{'CPU s':>8}  wanted")
    for name in names or INSTANCES:
        wanted = INSTANCES[name]
        problem = wanted.problem()
        started_s = time.process_time()
        found = Helix().solve(problem, HelixOptions(time_limit_s=1200.0))
        cpu_s = time.process_time() - started_s
        is_met = (
            found.objective_tokens_per_s >= wanted.least_tokens_per_s
            and found.gap <= wanted.most_gap
            and cpu_s <= wanted.most_cpu_s
        )
        hops = next(c["hops"] for c in found.notes["candidates"] if c["name"] == found.notes["chosen"])
        least = f"{wanted.least_tokens_per_s:.1f}, " if wanted.least_tokens_per_s else ""
        print(
            f"{name:24}{found.objective_tokens_per_s:12.2f}{found.upper_bound_tokens_per_s:12.2f}"
            f"{100 * found.gap:8.3f}{hops:6}{cpu_s:8.1f}  {least}{100 * wanted.most_gap:g} %, "
            f"{wanted.most_cpu_s:g} s: {'met' if is_met else 'missed'}",
            flush=True,
        )


if __name__ == "__main__":
    main(sys.argv[1:])
