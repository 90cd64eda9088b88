"""The clusters of the Helix paper as helixsim ships them, with the capacities of nodes that its artifact publishes."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import yaml

from helixsim import load_experiment
from helixsim.config.experiment import ResolvedExperiment
from helixsim.domain.cluster import Deployment
from helixsim.domain.placement import LayerRange
from helixsim.flow.capacity import CapacityTable
from helixsim.placement.base import PlacementProblem
from helixsim.study.systems import capacity_table

PAPER = Path(__file__).parents[1] / "experiments" / "paper"

CAPACITIES = {
    "single24": {
        "a100-40g": (23833.8699, 11384.2547, 7201.4124, 5264.6234, 4096.6545, 3124.1431, 2595.6793, 2045.6410,
                     1754.3819, 1392.6348, 1212.1768, 952.1074),
        "l4": (7557.8630, 3625.7147, 2171.8782, 1476.0846, 1017.5728, 747.7854, 531.7026),
        "t4": (5709.2079, 2434.3672, 1347.8665, 757.8532),
    },
    "het42": {
        "a100-40g": (31327.4882, 15363.2796, 9918.0681, 7039.2046, 5430.0238, 4251.2768, 3405.7907, 2847.0189,
                     2339.8532, 1931.1067, 1652.8563, 1363.7116),
        "v100": (14014.1339, 5890.1505, 3342.4784, 1982.1922),
        "l4": (9111.4757, 4239.0992, 2563.3087, 1812.2593, 1285.1663, 916.8084, 655.7303),
        "l4x2": (17269.0242, 8426.9168, 5441.1438, 3929.4163, 3061.0158, 2461.6301, 2030.4195, 1712.8579, 1450.1830,
                 1290.5287, 1107.2196, 964.2587, 838.5092, 727.6868),
        "t4": (6179.8543, 2911.5181, 1622.3653, 927.6237),
        "t4x2": (12194.2164, 5813.7352, 3663.6879, 2706.0996, 2121.3539, 1626.9573, 1271.7975, 1021.9130, 783.4519),
        "t4x4": (20503.5263, 10085.5102, 6640.7066, 4892.2424, 3841.2380, 3136.8131, 2651.2245, 2268.5053, 1981.1406,
                 1738.6341, 1548.7335, 1388.9746, 1281.5239, 1180.0250, 1071.1873, 973.6391, 872.8950, 781.2661),
    },
}  # fmt: skip
"""Tokens/s of a node with 1, 2, ... layers of LLaMA-2 70B, as the planner of the paper's artifact estimates them for
prompts of 750 and outputs of 240 tokens ("typical throughput"). Three regions have the single cluster's nodes."""

FILES = {
    ("single24", "llama-2-70b"): "single24-70b.yaml",
    ("single24", "llama-1-30b"): "single24-30b.yaml",
    ("dist24", "llama-2-70b"): "dist24-70b.yaml",
    ("dist24", "llama-1-30b"): "dist24-30b.yaml",
    ("het42", "llama-2-70b"): "het42-70b.yaml",
    ("small10", "llama-1-30b"): "published/small10-30b-search.yaml",
}


@cache
def experiment(cluster: str, model: str) -> ResolvedExperiment:
    """The shipped experiment on a cluster."""
    return load_experiment(PAPER / FILES[cluster, model])


def fleet(cluster: str, model: str) -> Deployment:
    """The cluster, with helixsim's profiles."""
    return experiment(cluster, model).systems[0].fleet


def problem(cluster: str, model: str = "llama-2-70b") -> PlacementProblem:
    """The cluster with the published capacities, where the model is LLaMA-2 70B, else with those of its profiles."""
    found = fleet(cluster, model)
    estimated = capacity_table(experiment(cluster, model), experiment(cluster, model).systems[0])
    if model != "llama-2-70b":
        return PlacementProblem(found, estimated)
    tables = CAPACITIES["het42" if cluster == "het42" else "single24"]
    return PlacementProblem(found, CapacityTable(tables, estimated.kinds))


def stored_ranges(name: str) -> dict[str, LayerRange]:
    """A published placement, as shipped."""
    document = yaml.safe_load((PAPER / "placements" / f"{name}.yaml").read_text(encoding="utf-8"))
    return {node: LayerRange(*layers) for node, layers in document["layers"].items()}
