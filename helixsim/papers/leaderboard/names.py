"""Names of the leaderboard's clusters, and how much is simulated; the command line needs them without loading YAML."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from helixsim.datafiles import data_path

CLUSTERS = {
    "single24": "the paper's single cluster: 24 machines, LLaMA-2 70B",
    "dist24": "the paper's three regions: 24 machines, 100 Mbit/s and 50 ms between regions, LLaMA-2 70B",
    "het42": "the paper's 42 machines of seven types, LLaMA-2 70B",
    "ordinary": "3 DGX H100, 8 servers of 4 L40S, 4 A100 and 20 RTX 4090 in another office, Llama 3.3 70B",
    "two-zones": "H100, L40S and A10G servers in two zones, Llama 3.3 70B",
    "mi300x-l4": "8 MI300X and 16 L4, Llama 3.3 70B",
    "home": "9 machines with consumer cards and 1 Gbit/s, Qwen3 32B",
    "regions200": "200 mixed machines in four regions, LLaMA-2 70B",
}
"""Name of each experiment below ``experiments/leaderboard``, and what its cluster is."""

QUICK_CLUSTERS = tuple(name for name in CLUSTERS if name not in ("het42", "regions200"))
"""Clusters of ``--quick``, unless others are named: 42 nodes of seven types take as long as all of these together, and
two hundred nodes longer."""

LOADS = (0.25, 0.7, 1.0)
"""Loads, as shares of the best capacity."""


QUICK_WARMUP_SHARE = 0.2
"""Warm-up of ``--quick``, as a share of that of the experiment."""

QUICK_WINDOW_S = (30, 120)
"""Shortest and longest window of ``--quick`` [s]; between them it is as long as its warm-up."""


QUICK_RACE_CPU_S = {"het42": 80.0, "regions200": 100.0}
"""CPU time of a race of ``--quick`` (``placement.helix_options``) [s] where a single simulation takes seconds."""

USUAL_QUICK_RACE_CPU_S = 20.0
"""That on the other clusters [s]."""


@dataclass(frozen=True, slots=True)
class Effort:
    """How much is simulated.

    Parameters
    ----------
    is_quick
        Short windows and races, a coarse search, and one plan of ``helix`` for all rates of that search.
    """

    is_quick: bool = False

    @property
    def step(self) -> float:
        """Distance of neighbouring loads in the search, as a share of the best capacity."""
        return 0.1 if self.is_quick else 0.05

    def settings(self, warmup_s: float) -> dict[str, object]:
        """Return the changes of an experiment with this warm-up [s]."""
        if not self.is_quick:
            return {}
        short_s = QUICK_WARMUP_SHARE * warmup_s
        window_s = min(max(short_s, QUICK_WINDOW_S[0]), QUICK_WINDOW_S[1])
        return {"workload.warmup": f"{short_s:g} s", "workload.duration": f"{window_s:g} s"}


def experiment_file(cluster: str) -> Path:
    """Return the experiment of a cluster."""
    return data_path("experiments", "leaderboard", f"{cluster}.yaml")
