"""Reactions to losses: rehearsed under the load, and the best taken."""

from __future__ import annotations

from dataclasses import astuple, replace

import builders
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny import tiny

import helixsim
from helixsim.domain.faults import Outage
from helixsim.domain.placement import LayerRange, Placement
from helixsim.engine.inputs import Replacement
from helixsim.errors import ConfigError
from helixsim.metrics.throughput import throughput
from helixsim.placement.constraints import moved_bytes, moved_to
from helixsim.study.faults import simulate_run
from helixsim.study.placing import assembled, place_system

ONE_FRONT = {"l4-0": (0, 16), **dict.fromkeys(("l4-1", "t4-0", "t4-1", "t4-2"), (16, 32))}
"""All routes pass l4-0."""

TWO_FRONTS = {**ONE_FRONT, "l4-1": (0, 16)}

LOSS = ("faults={events: [{at: 20 s, nodes: [l4-0], for: 20 s}], detection: 1 s, startup: 2 s, horizon: 12 s}",)
SLO = "slo={ttft: 5 s, tpot: 2 s}"


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "exp.yaml"
    path.write_text(tiny("{name: swarm, placement: swarm, routing: flow_weighted}", duration_s=40), encoding="utf-8")
    return path


def system(path, ranges, *overrides):
    """Return the experiment, and its system with a placement."""
    experiment = helixsim.load_experiment(path, [*LOSS, *overrides])
    held = {node: LayerRange(*pair) for node, pair in ranges.items()}
    return experiment, assembled(experiment, experiment.systems[0], Placement("fixed", 32, held))


def events(run):
    return [what for _, what, _ in run.faults.events]


def test_a_model_placed_anew_is_loaded_as_fast_as_nodes_load_and_serves_again(path):
    """Without l4-0 there is no route: the others load all layers, the slowest those that it did not hold, and start."""
    slow, fast = (
        simulate_run(*system(path, ONE_FRONT, "faults.reaction=replace", f"faults.load_rate={rate}"), check=True)
        for rate in ("8 Gbit/s", "16 Gbit/s")
    )
    spans_s = []
    for run in (slow, fast):
        times = {}
        for at_ns, what, _ in run.faults.events:
            times.setdefault(what, at_ns / 1e9)
        assert times["stopped to load"] == times["detected"] == 21.0
        spans_s.append(times["replaced"] - times["stopped to load"])
    assert spans_s[0] - 2 == pytest.approx(2 * (spans_s[1] - 2))
    layer_s = system(path, ONE_FRONT)[0].fleet.model.weight_bytes_per_layer / 1e9
    assert 0 < round((spans_s[0] - 2) / layer_s, 6) == int((spans_s[0] - 2) / layer_s + 0.5)
    tokens = np.interp([29e9, 34e9], fast.series.time_ns, fast.series.output_tokens)
    assert tokens[1] > tokens[0]  # while l4-0 is still down


@pytest.mark.parametrize("ranges", [ONE_FRONT, TWO_FRONTS])
def test_what_is_rehearsed_best_is_no_worse_than_the_other_reactions(path, ranges):
    shares = {}
    for reaction in ("static", "reroute", "replace"):
        experiment, placed = system(path, ranges, f"faults.reaction={reaction}", SLO)
        run = simulate_run(experiment, placed, check=reaction == "replace")
        shares[reaction] = throughput(run, experiment.slo).slo_attainment
        if reaction == "replace":
            assert events(run) == events(simulate_run(experiment, placed))
            assert ("stopped to load" in events(run)) == (ranges is ONE_FRONT)
    assert shares["replace"] >= max(shares.values()) - 0.02
    assert (shares["replace"] > shares["static"] + 0.05) == (ranges is ONE_FRONT)


@pytest.mark.slow
def test_a_loss_during_the_load_of_a_placement_begins_another_load(path):
    """There is nothing that could be kept: engines that stand are not rehearsed."""
    lost = "faults.events=[{at: 20 s, nodes: [l4-0]}, {at: 24 s, nodes: [t4-0], for: 20 s}]"
    experiment, placed = system(path, ONE_FRONT, lost, "faults.reaction=replace", "faults.startup=6 s")
    run = simulate_run(experiment, placed, check=True)
    found = events(run)
    assert found[:5] == ["down", "detected", "stopped to load", "down", "detected"]
    assert found.count("stopped to load") >= 2
    tokens = np.interp([25e9, 45e9], run.series.time_ns, run.series.output_tokens)
    assert tokens[1] > tokens[0]


def test_equal_reactions_are_decided_by_the_weights_that_move(path, monkeypatch):
    """What shows a little less is taken if it loads less."""
    from helixsim.study.faults import _plan
    from helixsim.study.reacting import Reactions
    from helixsim.study.systems import simulation_inputs

    experiment, placed = system(path, TWO_FRONTS, "faults.reaction=replace", SLO)
    inputs = simulation_inputs(experiment, placed)
    out = Outage(frozenset({"l4-0"}))
    again = _plan(experiment, placed, inputs).replace._option(placed)
    assert (again.moved_bytes, again.load_ns) == (0, experiment.faults.startup_ns)  # its nodes hold all of it
    for loaded, kept, loads in ((0.5, 0.5, False), (0.5, 0.495, False), (0.5, 0.45, True)):
        shown = {True: (loaded, 1.0), False: (kept, 1.0)}
        monkeypatch.setattr(Reactions, "_rehearsed", lambda _self, option, _out, s=shown: s[option.is_loaded])
        assert isinstance(_plan(experiment, placed, inputs).replace(out, serves=True), Replacement) == loads


RANGES = st.sampled_from([LayerRange(0, 2), LayerRange(2, 4), LayerRange(0, 4)])


@given(held=st.lists(st.tuples(RANGES, st.integers(0, 1)), min_size=2, max_size=5), order=st.permutations(range(3)))
@settings(max_examples=60, deadline=None)
def test_nodes_that_exchange_roles_keep_ranges_and_pipelines_together(held, order):
    """Where equal nodes hold the ranges of one another, no weights move."""
    fleet = builders.fleet([builders.profile("a")] * 3 + [builders.profile("b")] * 2, num_layers=4)
    ids = [node.id for node in fleet.cluster.nodes]
    ranges = {node: one for node, (one, _) in zip(ids, held, strict=False)}
    pipelines = {node: number for node, (_, number) in zip(ids, held, strict=False)}
    placement = replace(Placement("fixed", 4, ranges), pipelines=pipelines)
    mixed = {ids[at]: ranges[node] for at, node in zip(order, ids, strict=False) if node in ranges}
    previous = {**mixed, **{node: one for node, one in ranges.items() if node.startswith("b")}}
    found = moved_to(fleet, placement, previous)
    assert sorted((one, found.pipelines[node]) for node, one in found.ranges.items()) == sorted(held)
    assert moved_bytes(fleet, found.ranges, previous) == 0


# Nodes that join ------------------------------------------------------------------------------------------------------

JOIN = "faults.events=[{at: 5 s, kind: join, nodes: [l4-1]}]"
WITHOUT = {node: held for node, held in ONE_FRONT.items() if node != "l4-1"}


def test_a_node_that_joins_without_layers_changes_nothing(path):
    experiment, placed = system(path, WITHOUT, JOIN)
    run = simulate_run(experiment, placed, check=True)
    plain = simulate_run(replace(experiment, faults=None), placed)
    assert [column.tolist() for column in astuple(run.requests)] == [
        column.tolist() for column in astuple(plain.requests)
    ]
    assert events(run) == ["not there yet", "up"]


def test_a_node_that_joins_gets_layers_if_that_is_better(path):
    """All routes pass l4-0, which is too little. Rehearsals are longer than the run, and have requests to their end."""
    load = "workload.arrivals.rate=15 /s", "faults.load_rate=100 Gbit/s", "faults.horizon=45 s", "slo={ttft: 3 s}"
    shares, runs = {}, {}
    for reaction in ("static", "replace"):
        experiment, placed = system(path, WITHOUT, JOIN, *load, f"faults.reaction={reaction}")
        runs[reaction] = run = simulate_run(experiment, placed, check=reaction == "replace")
        shares[reaction] = throughput(run, experiment.slo).slo_attainment
    assert shares["replace"] > shares["static"] + 0.2
    assert events(runs["replace"]) == ["not there yet", "up", "stopped to load", "replaced"]
    at_ns, _, nodes = runs["replace"].faults.events[-1]
    assert at_ns > 5e9
    assert "l4-1" in nodes


def test_a_node_that_joins_holds_no_layers_at_the_start(path):
    """The model is placed as if it were down."""
    first, down = (helixsim.load_experiment(path, [*LOSS, edit]) for edit in (JOIN, "cluster.down=[l4-1]"))
    placed, without = (place_system(one, one.systems[0]) for one in (first, replace(down, faults=None)))
    assert placed.placement.ranges == without.placement.ranges
    assert "l4-1" not in placed.placement.ranges
    assert "l4-1" in placed.system.fleet.cluster.index
    with pytest.raises(ConfigError, match="l4-1: join, and the placement of swarm has layers on them"):
        simulate_run(*system(path, ONE_FRONT, JOIN))
