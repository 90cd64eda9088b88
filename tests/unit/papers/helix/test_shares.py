"""The shares of flow in the experiments are the max-flow that networkx, the solver of the paper's prototype, finds."""

from __future__ import annotations

from pathlib import Path

import pytest

from helixsim import Experiment
from tests.prototype_flow import prototype_shares

EXPERIMENTS = Path(__file__).parents[4] / "experiments"


@pytest.mark.parametrize(
    ("cell", "pruned"),
    [
        ("fidelity/70b-placement", ()),
        ("fidelity/70b-helix-offline", ()),
        ("fidelity/70b-helix-online", ()),
        ("fidelity/70b-scheduling", ()),
        ("paper/published/dist24-70b-placement", ("helix",)),
    ],
)
def test_shares_are_those_of_preflow_push(cell: str, pruned: tuple[str, ...]) -> None:
    experiment = Experiment.load(EXPERIMENTS / f"{cell}.yaml").resolve()
    checked = 0
    for system in experiment.systems:
        if system.routing != "flow_weighted":
            continue
        value, ours, shares = prototype_shares(experiment, system, is_pruned=system.name in pruned)
        assert value == pytest.approx(ours)
        for node, kept in shares.items():
            assert system.routing_options.shares[node] == pytest.approx(kept, rel=1e-3), node
            checked += 1
    assert checked
