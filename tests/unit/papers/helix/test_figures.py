"""The paper's figures: their entries and published values, pooling, verdicts, sizes of the program."""

from __future__ import annotations

from dataclasses import asdict, replace
from itertools import product
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from helixsim import Experiment
from helixsim.config.edit import edits_of
from helixsim.domain.cluster import COORDINATOR
from helixsim.errors import ConfigError, DataError
from helixsim.papers.helix import report_text, verdicts
from helixsim.papers.helix.comparison import (
    ALL_DRIFT,
    AS_PUBLISHED,
    FAIR,
    PUBLISHED,
    Comparison,
    Quick,
    _steadiness,
)
from helixsim.papers.helix.entries import FigureFile, load_figures
from helixsim.papers.helix.gpus_needed import gpus_needed
from helixsim.papers.helix.names import figure_names
from helixsim.papers.helix.parts import Effort, EntryContext, over_seeds
from helixsim.papers.helix.program import KEPT_LINKS, all_edges, pruned_edges, without_links
from helixsim.papers.helix.published import load_causes, load_published
from helixsim.papers.helix.samples import Distribution, Sample, pooled_mean, pooled_quantile
from helixsim.papers.helix.searches import Search, Sizes
from helixsim.papers.helix.studies import rank_correlation
from helixsim.papers.helix.tasks import Results, Simulation
from helixsim.validation import read

FIGURES = load_figures()
PUBLISHED_VALUES = load_published()
COMPARISONS = [part for figure in FIGURES for part in figure.parts.values() if isinstance(part, Comparison)]
TASKS = [
    task
    for figure, quick in product(FIGURES, (False, True))
    for part in figure.parts.values()
    for task in part.tasks(Effort(quick))
]
QUICK, FULL = Effort(is_quick=True), Effort(is_quick=False)


@pytest.mark.parametrize(
    "file", sorted({task.file for task in TASKS}), ids=lambda file: f"{file.parent.name}-{file.stem}"
)
def test_every_run_of_a_figure_is_a_system_of_an_experiment_and_takes_its_settings(file):
    settings = {()} | {task.settings for task in TASKS if isinstance(task, Simulation) and task.file == file}
    for setting in settings:
        experiment = Experiment.load(file).with_(setting).resolve()
        named = {task.system for task in TASKS if isinstance(task, Simulation) and task.file == file}
        started = {task.start for task in TASKS if isinstance(task, Search) and task.file == file} - {""}
        assert named | started <= {system.name for system in experiment.systems}


def test_the_figures_of_the_paper_come_first_by_number():
    assert figure_names()[:7] == ("fig5", "fig7", "fig8", "fig9", "fig10", "fig11", "fig12")
    assert [figure.name for figure in load_figures(["fig8", "fig5"])] == ["fig5", "fig8"]
    with pytest.raises(ConfigError, match="did you mean 'table8'"):
        load_figures(["tabel8"])


def test_every_published_throughput_of_a_panel_is_run_as_published_and_fairly():
    for part in COMPARISONS:
        for panel in part.panels.values():
            for method in PUBLISHED_VALUES.methods(panel.cell, panel.published):
                for column in (AS_PUBLISHED, FAIR):
                    assert part._runs(panel, column, method, FULL), (panel.title, method, column)


def test_a_method_of_several_pipelines_takes_all_of_them():
    (part,) = (figure.parts["a"] for figure in FIGURES if figure.name == "fig8")
    systems = {
        method: [run.system for run in part._runs(next(iter(part.panels.values())), AS_PUBLISHED, method, QUICK)]
        for method in part.labels
    }
    pipelines = ["separate.a100", "separate.l4", "separate.l4x2", "separate.t4x4"]
    assert systems["separate"] == pipelines
    assert systems["sp_plus"] == [*pipelines, "sp_plus.mixed"]
    assert systems["petals"] == []


def test_a_panel_overrides_what_its_part_says_of_the_quick_version():
    def quick(**said):
        return Quick.model_validate(said, context=EntryContext("entry", Path(), PUBLISHED_VALUES))

    part = quick(fair={"seed": 1}, as_published={"seed": 2}).over(quick(placed_for={"seed": 3}))
    assert (part.fair, part.placed_for, part.as_published) == tuple(edits_of({"seed": seed}) for seed in (1, 3, 2))
    over = quick(fair={"seed": 4}).over(part)
    assert (over.fair, over.placed_for) == (edits_of({"seed": 4}), part.placed_for)
    assert quick().over(part) == part


ENTRY = """\
title: A figure
parts:
  a:
    kind: load
    title: Curves
    methods: {helix: Helix}
    settings: {workload.duration: 1 min}
    quick_placed_for: {seed: 1}
    setups:
      One: {experiment: one.yaml, rates: [1, 2]}
"""


@pytest.mark.parametrize(
    ("old", "new", "where", "said"),
    [
        ("kind: load", "kind: lode", "4:5", "unknown kind 'lode'; did you mean 'load'"),
        ("    kind: load\n", "", "4:5", "required key 'kind' is missing"),
        (
            "settings: {workload",
            "setings: {workload",
            "7:5",
            r"did you mean 'settings'\? \(allowed: title, kind,",
        ),
        ("{workload.duration: 1 min}", "[seed=1]", "7:15", "expected a mapping of keys to values"),
        ("{workload.duration: 1 min}", "{a..b: 1}", "7:15", "expected a key such as"),
        ("one.yaml", "two.yaml", "10:25", "no such file"),
        ("rates: [1, 2]", "rates: []", "10:42", "must not be empty"),
        ("    setups", "    full_only: [Two]\n    setups", "9:16", "'Two' is none of One"),
        ("title: A figure\n", "", "1:1", "title: required key is missing"),
    ],
)
def test_faults_of_an_entry_are_told_with_their_places(tmp_path, old, new, where, said):
    (tmp_path / "one.yaml").touch()
    folder = tmp_path / "figures"
    folder.mkdir()
    path = folder / "entry.yaml"
    context = EntryContext(str(path), tmp_path, PUBLISHED_VALUES)
    path.write_text(ENTRY, encoding="utf-8")
    (part,) = read(path, FigureFile, context).parts.values()
    assert part.settings[0].where == str(path)
    assert old in ENTRY
    path.write_text(ENTRY.replace(old, new), encoding="utf-8")
    with pytest.raises(DataError, match=f"^{path}:{where}: .*{said}"):
        read(path, FigureFile, context)


def simulated(effort, figure, part="a"):
    (found,) = (each.parts[part] for each in FIGURES if each.name == figure)
    return [task for task in found.tasks(effort) if isinstance(task, Simulation)]


def test_the_quick_version_runs_fewer_of_the_same_systems_for_less_time():
    for figure in FIGURES:
        for name, part in figure.parts.items():
            quick = {(task.file, task.system) for task in part.tasks(QUICK) if isinstance(task, Simulation)}
            full = {(task.file, task.system) for task in part.tasks(FULL) if isinstance(task, Simulation)}
            assert quick <= full, (figure.name, name)
    fewer = {task.system for task in simulated(FULL, "proxy")} - {task.system for task in simulated(QUICK, "proxy")}
    assert {"flow-10-hops", "flow-16-hops"} <= fewer
    assert sum(len(task.loads) for task in simulated(QUICK, "load")) < sum(
        len(task.loads) for task in simulated(FULL, "load")
    )


def test_the_quick_version_places_once_for_saturated_and_offered_load():
    runs = {task.file.stem: task for task in simulated(QUICK, "fig5") if task.system == "helix"}
    for cell in ("single24-30b", "single24-70b"):
        saturated, offered = (
            Experiment.load(task.file).with_([*task.settings, *task.placed_for]).resolve()
            for task in (runs[f"{cell}-offline"], runs[f"{cell}-online"])
        )
        assert saturated.workload == offered.workload
        assert saturated.systems[0] == offered.systems[0]


def test_faults_in_published_values_are_told_with_their_line(tmp_path):
    path = tmp_path / "published.csv"
    head = "cell,method,metric,kind,value,unit,source\n"
    for text, said in (
        ("cell,method\n", ":1: expected the columns"),
        (head + "a,b,c,simulated,1,s,x\na,b,c,simulated,2,s,x\n", ":3: a second value of a b c simulated"),
        (head + "a,b,c,guessed,1,s,x\n", ":2: kind is 'guessed'"),
        (head + "a,b,c,simulated,fast,s,x\n", ":2: value is 'fast'"),
        (head + "a,b,c,simulated,1,s,\n", ":2: expected a value in each"),
    ):
        path.write_text(text, encoding="utf-8")
        with pytest.raises(DataError, match=said):
            load_published(path)
    with pytest.raises(DataError, match="cannot be read"):
        load_published(tmp_path / "none.csv")


def test_causes_belong_to_published_cells():
    for cell, method in load_causes():
        assert PUBLISHED_VALUES.get(cell, method, "throughput"), (cell, method)


def test_claims_name_cells_and_methods_that_are_compared():
    compared = {
        (panel.cell, method) for part in COMPARISONS for panel in part.panels.values() for method in part.labels
    }
    for claim in verdicts.load_claims():
        assert {
            (cell, method) for cell in (claim.cell, claim.fair_cell) for method in (claim.method, claim.other)
        } <= compared


# --- the paper's program ---------------------------------------------------------------------------------------------


def test_sizes_of_the_program_are_the_published_ones():
    (part,) = (part for figure in FIGURES for part in figure.parts.values() if isinstance(part, Sizes))
    rows = part.result(FULL, Results({})).rows
    assert len(rows) == 5
    for row in rows:
        assert [row["rows"], row["columns"], row["nonzeros"]] == [
            row["rows, published"], row["columns, published"], row["nonzeros, published"],
        ]  # fmt: skip


@pytest.mark.parametrize(("file", "undirected"), [("dist24-70b-placement", 163), ("het42-70b-offline", 426)])
def test_pruning_keeps_what_the_artifact_keeps(file, undirected):
    task = next(task for task in TASKS if task.file.stem == file)
    cluster = Experiment.load(task.file).resolve().fleet.cluster
    kept = pruned_edges(cluster)
    between = {edge for edge in kept if COORDINATOR not in edge}
    assert len(between) == 2 * undirected
    assert len(kept) - len(between) == 2 * KEPT_LINKS
    assert all((dst, src) in between for src, dst in between)
    for node in cluster.nodes:
        own = [dst for src, dst in between if src == node.id]
        assert len(own) >= KEPT_LINKS
        fastest = sorted(cluster.link(node.id, other.id).bandwidth_bps for other in cluster.nodes if other is not node)
        assert {fastest[-1]} <= {cluster.link(node.id, dst).bandwidth_bps for dst in own}


def test_a_fleet_without_links_keeps_the_others():
    fleet = Experiment.load(TASKS[0].file).resolve().fleet
    edges = pruned_edges(fleet.cluster)
    cut = without_links(fleet, edges).cluster
    for edge in all_edges(fleet.cluster):
        assert cut.link(*edge).bandwidth_bps == (fleet.cluster.link(*edge).bandwidth_bps if edge in set(edges) else 0)


def test_gpus_needed_hold_the_model_and_one_less_does_not():
    from helixsim.hardware import catalog

    for model_name, gpu_name in product(("llama-2-70b", "llama-3.1-405b"), ("l4", "t4", "h100")):
        model, gpu = catalog.load_model(model_name), catalog.load_gpu(gpu_name)
        count = gpus_needed(model, gpu, 0.5)
        each = int(0.5 * gpu.memory_bytes // model.weight_bytes_per_layer)
        assert count * each >= model.num_layers > (count - 1) * each
    assert gpus_needed(catalog.load_model("llama-3.1-405b"), catalog.load_gpu("t4"), 0.2) is None


# --- pooling and verdicts --------------------------------------------------------------------------------------------


@given(st.lists(st.lists(st.floats(0.01, 100), min_size=1, max_size=30), min_size=1, max_size=4), st.integers(0, 100))
def test_pooled_quantiles_and_means_are_those_of_all_values_together(parts, percent):
    distributions = [Distribution(len(values), float(np.mean(values)), tuple(sorted(values))) for values in parts]
    everything = np.concatenate(parts)
    assert pooled_mean([*distributions, Distribution(0, 0.0, ())]) == pytest.approx(everything.mean())
    # The same points at mid-ranks, which is numpy's "hazen".
    hazen = np.percentile(everything, percent, method="hazen")
    assert pooled_quantile(distributions, percent) == pytest.approx(hazen, abs=1e-9)


def test_of_nothing_there_is_no_quantile():
    assert pooled_quantile([Distribution(0, 0.0, ())], 50) is None
    assert pooled_mean([]) is None


def test_an_interval_over_seeds_is_students():
    estimate = over_seeds([9.0, 10.0, 11.0])
    assert estimate.mean == 10.0
    assert estimate.high - 10.0 == pytest.approx(4.302653 / np.sqrt(3), rel=1e-5)  # t of two degrees, 97.5 %
    assert over_seeds([7.0]).low is None


@given(st.lists(st.integers(0, 1000), min_size=2, max_size=20, unique=True))
def test_rank_correlation_heeds_order_only(values):
    x = np.array(values, dtype=float)
    assert rank_correlation(x, np.sqrt(x)) == pytest.approx(1.0)
    assert rank_correlation(x, -(x**3)) == pytest.approx(-1.0)
    assert np.isnan(rank_correlation(x, np.zeros(len(x))))


def test_equal_ranks_are_shared():
    # Ranks 1, 2.5, 2.5, 4 against 1, 2, 3, 4.
    assert rank_correlation(np.array([1.0, 2, 2, 3]), np.array([1.0, 2, 3, 4])) == pytest.approx(0.9486833)


def row(cell, method, column, value, half=None, metric="throughput", steady=""):
    low, high = (None, None) if half is None else (value - half, value + half)
    where = {"panel": cell, "cell": cell, "metric": metric, "method": method, "column": column, "kind": "simulated"}
    return {**where, "value": value, "p50": None, "low": low, "high": high, "steady": steady}


def test_cells_and_orders_are_checked():
    rows = [row("c", m, PUBLISHED, v) for m, v in (("a", 100.0), ("b", 90.0), ("d", 89.5))]
    rows += [row("c", m, AS_PUBLISHED, v) for m, v in (("a", 80.0), ("b", 85.0), ("d", 86.0))]
    checks = verdicts.cell_checks(rows, {("c", "a"): "because"})
    assert [(check.method, check.is_met) for check in checks] == [("a", False), ("b", True), ("d", True)]
    assert checks[0].error == pytest.approx(-0.2)
    assert checks[0].cause == "because"
    (order,) = verdicts.order_checks(checks)
    assert order.published == ("a", "b", "d")
    assert order.ours == ("d", "b", "a")
    assert order.swapped == (("a", "b"), ("a", "d"))  # b and d are published as equal


def test_a_ratio_has_the_spread_of_both():
    rows = [row("c-offline", "helix", FAIR, 300.0, 15.0), row("c-offline", "separate", FAIR, 100.0, 10.0)]
    ratio = verdicts.ratio(rows, "c-offline", FAIR, "throughput", "helix", "separate")
    assert ratio.value == pytest.approx(3.0)
    assert ratio.high - ratio.value == pytest.approx(3.0 * np.hypot(0.05, 0.1))
    assert ratio.beats(2.9)
    assert not ratio.beats(3.3)
    assert verdicts.ratio(rows, "c-offline", FAIR, "throughput", "helix", "swarm") is None


def test_a_ratio_of_what_still_drifts_is_marked():
    rows = [
        row("c-offline", "helix", FAIR, 300.0, 15.0, steady="2 of 3 seeds"),
        row("c-offline", "separate", FAIR, 100.0, 10.0, steady="3 of 3 seeds"),
        row("c-offline", "petals", FAIR, 200.0, 10.0, steady=ALL_DRIFT),
    ]
    found = {each.other: each.fair.is_steady for each in verdicts.ratio_rows(rows)}
    assert found == {"separate": True, "petals": False}  # neither is published: fair ones are shown all the same
    document = {
        "quick": False, "cells": [], "claims": [], "figures": {},
        "ratios": [asdict(each) for each in verdicts.ratio_rows(rows)],
    }  # fmt: skip
    said = report_text.text(document)
    assert "1.50x†" in said
    assert "3.00x (" in said
    assert "drifts" in said


NOTHING = Distribution(0, 0.0, ())
SAMPLE = Sample(0, 600.0, 1, None, None, NOTHING, NOTHING, 1.0, 1.0, 1, 1.0, "STABLE", "steady", ())


def test_a_method_is_steady_unless_every_seed_drifts():
    calm, restless = (replace(SAMPLE, steady=said) for said in ("steady", "not steady: mean TTFT rose"))
    assert _steadiness([[calm, restless, calm]]) == "2 of 3 seeds"
    assert _steadiness([[calm, restless], [restless, calm]]) == ALL_DRIFT  # one pipeline of each seed


@pytest.mark.parametrize(
    ("metric", "claimed", "value", "holds", "said"),
    [
        ("throughput", 3.3, 3.4, True, "yes: 3.40 times the throughput"),
        ("throughput", 3.3, 1.2, False, "less: 1.20 times the throughput"),
        ("throughput", 3.3, 0.9, False, "no: 0.90 times the throughput"),
        ("prompt", 0.34, 0.3, True, "yes: 70% less prompt latency"),
        ("prompt", 0.34, 1.5, False, "no: 50% more prompt latency"),
    ],
)
def test_a_claim_holds_only_in_full(metric, claimed, value, holds, said):
    claim = verdicts.Claim("n", "text", metric, "helix", "swarm", claimed, "c", "c", False)
    rows = [row("c", "helix", FAIR, value, metric=metric), row("c", "swarm", FAIR, 1.0, metric=metric)]
    rows.append(row("c", "published", FAIR, 2.0, metric=metric))
    (check,) = verdicts.claim_checks(rows, [claim])
    assert (check.holds, check.sentence) == (holds, said)
    assert check.fair_published.value == 2.0  # Helix with the paper's placement
    assert verdicts.claim_checks([], [claim]) == []


def test_ratios_leave_out_throughput_that_is_offered():
    rows = [
        row(cell, method, column, 1.0, metric=metric)
        for cell, metric in (("c-online", "throughput"), ("c-online", "prompt"), ("c-offline", "throughput"))
        for method in ("helix", "swarm")
        for column in (PUBLISHED, AS_PUBLISHED)
    ]
    found = verdicts.ratio_rows(rows)
    assert [(each.cell, each.metric, each.other) for each in found] == [
        ("c-online", "prompt", "swarm"), ("c-offline", "throughput", "swarm"),
    ]  # fmt: skip
    assert found[0].fair is None
