"""Tasks of figures: done once, kept, the same whoever does them; and a small comparison from entry to page."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import pytest

from helixsim import Experiment
from helixsim.config.edit import edits_of
from helixsim.errors import ConfigError, InfeasibleError
from helixsim.papers.helix.build import evaluate, write
from helixsim.papers.helix.comparison import Comparison
from helixsim.papers.helix.entries import Figure
from helixsim.papers.helix.parts import Effort, EntryContext
from helixsim.papers.helix.published import load_published
from helixsim.papers.helix.samples import from_json, to_json
from helixsim.papers.helix.searches import Search
from helixsim.papers.helix.tasks import Simulation, perform_all
from helixsim.runtime.pool import Processes, Serial
from helixsim.study.placing import place_system
from helixsim.study.systems import PlacedSystem, simulate_system
from helixsim.validation import read

EXPERIMENT = """\
schema: 1
name: tiny
model: llama-2-7b
cluster:
  coordinator: {region: here}
  nodes: [{gpu: l4, count: 2, region: here}, {gpu: t4, count: 2, region: here}]
  network: {intra_region: {bandwidth: 8 Gbit/s, latency: 1 ms}}
workload:
  limits: {max_prompt_tokens: 2048, max_output_tokens: 200}
  arrivals: {process: poisson, rate: 1 /s}
  warmup: 10 s
  duration: 30 s
  drain: false
systems:
  - {name: swarm, placement: swarm, routing: swarm}
  - {name: helix.a, placement: petals}
  - {name: helix.b, placement: swarm}
  - {name: helix, placement: {strategy: helix, select: flow}}
  - {name: impossible, placement: {strategy: fixed, file: hole.yaml}}
slo: {ttft: 5 s, tpot: 200 ms}
"""


@pytest.fixture
def experiment(tmp_path):
    path = tmp_path / "tiny.yaml"
    path.write_text(EXPERIMENT, encoding="utf-8")
    (tmp_path / "hole.yaml").write_text("layers: {l4-0: [0, 5]}\n", encoding="utf-8")
    return path


@dataclass(frozen=True)
class Counted:
    """Leaves a mark each time it is done."""

    marks: Path
    number: int

    title = "counted/task"

    def key(self):
        return str(self.number)

    def perform(self, _cache):
        (self.marks / f"{self.number}-{len(list(self.marks.iterdir()))}").touch()
        if self.number < 0:
            raise InfeasibleError("cannot")
        return {"twice": 2 * self.number}


def test_a_task_is_done_once_and_found_again(tmp_path):
    marks = tmp_path / "marks"
    marks.mkdir()
    tasks = [Counted(marks, 1), Counted(marks, 2), Counted(marks, 1), Counted(marks, -1)]
    seen = []
    for done in range(2):
        results = perform_all(tasks, tmp_path / "cache", Serial(), progress=lambda share, _what: seen.append(share))
        assert results.outcome(tasks[2]) == {"twice": 2}
        assert results.failure(tasks[3]) == "cannot"
        assert results.failure(tasks[0]) is None
        assert len(list(marks.iterdir())) == 3, done
    assert seen == sorted(seen)
    assert seen[-1] == pytest.approx(1.0)
    assert len(seen) == 6  # begin and end of each of three: nothing is left to do the second time
    perform_all(tasks, tmp_path / "cache", Serial(), force=True)
    assert len(list(marks.iterdir())) == 6
    damaged = next((tmp_path / "cache").glob("*.json"))
    damaged.write_text(damaged.read_text()[:5])
    perform_all(tasks, tmp_path / "cache", Serial())
    assert len(list(marks.iterdir())) == 7  # it alone is done again


def test_results_do_not_depend_on_processes(tmp_path, experiment):
    tasks = [Simulation(experiment, name, seeds=2) for name in ("swarm", "helix.a")]
    one = perform_all(tasks, tmp_path / "one", Serial())
    two = perform_all(tasks, tmp_path / "two", Processes(2))
    assert one.outcomes == two.outcomes
    again = perform_all(tasks, tmp_path / "two", Serial())
    assert again.outcomes == two.outcomes


def test_equal_systems_share_their_work_whatever_they_are_called(tmp_path, experiment):
    other = tmp_path / "other.yaml"
    renamed = EXPERIMENT.replace("name: helix.b,", "name: chain,").replace("name: tiny", "name: other")
    other.write_text(renamed.replace("{name: helix.a, placement: petals}", "{name: sp, placement: separate}"))
    assert Simulation(experiment, "helix.b").key() == Simulation(other, "chain").key()
    assert Simulation(experiment, "helix.b").key() != Simulation(experiment, "helix.a").key()
    seed = edits_of({"seed": 1})
    for different in ({"seeds": 2}, {"is_pruned": True}, {"settings": seed}, {"placed_for": seed}):
        assert Simulation(experiment, "helix.b", **different).key() != Simulation(other, "chain").key()
    tasks = [Simulation(experiment, "helix.b"), Simulation(other, "chain")]
    results = perform_all(tasks, tmp_path / "cache", Serial())
    assert len(list((tmp_path / "cache").glob("*.json"))) == 1
    assert results.outcome(tasks[0]) == results.outcome(tasks[1])


def test_the_placement_may_be_made_for_another_load_than_it_is_simulated_under(tmp_path, experiment):
    saturated = edits_of({"workload.arrivals": {"process": "saturate"}})
    slow = edits_of({"workload.arrivals.rate": "0.2 /s"})
    task = Simulation(experiment, "helix", placed_for=saturated, loads=(slow,))
    results = perform_all([task], tmp_path / "cache", Serial())
    loaded = Experiment.load(experiment).with_(slow).resolve()
    made_for = Experiment.load(experiment).with_(saturated).resolve()
    placed = place_system(made_for, made_for.system("helix"))
    run = simulate_system(loaded, PlacedSystem(loaded.system("helix"), placed.placement, placed.plan), seed=0)
    (sample,) = results.samples(task)
    assert sample.decode.count == int(run.gaps.count.sum()) > 0


def test_a_sample_is_the_run_itself_and_survives_json(tmp_path, experiment):
    task = Simulation(experiment, "helix.a", loads=((), edits_of({"workload.arrivals.rate": "0.5 /s"})), seeds=2)
    results = perform_all([task], tmp_path / "cache", Serial())
    for load, rate in ((0, 1.0), (1, 0.5)):
        loaded = Experiment.load(experiment).with_({"workload.arrivals.rate": f"{rate} /s"}).resolve()
        run = simulate_system(loaded, place_system(loaded, loaded.system("helix.a")), seed=1)
        sample = results.samples(task, load)[1]
        assert sample.seed == 1
        assert sample.decode.count == int(run.gaps.count.sum())
        assert sample.decode.mean_s == pytest.approx(run.gaps.sum_ns / run.gaps.count.sum() / 1e9)
        assert sample.prompt.points_s == tuple(sorted(sample.prompt.points_s))
        assert 0 <= sample.good_rps <= rate * 2
        assert {node.node for node in sample.nodes} == set(run.nodes.node_id)
        assert from_json(json.loads(json.dumps(to_json(sample)))) == sample


def test_a_system_that_is_not_there_and_one_that_cannot_be_placed(tmp_path, experiment):
    with pytest.raises(ConfigError, match=r"tiny\.yaml: unknown system 'helx'; did you mean 'helix'"):
        perform_all([Simulation(experiment, "helx")], tmp_path / "cache", Serial())
    task = Simulation(experiment, "impossible")
    results = perform_all([task], tmp_path / "cache", Serial())
    assert "layer" in results.failure(task)
    assert results.samples(task) == []


def test_a_search_ends_at_its_objective_below_its_bound(tmp_path, experiment):
    ours = Search("ours", experiment, "blocks")
    program = Search("program", experiment, "program", start="swarm", seconds=2.0)
    results = perform_all([ours, program], tmp_path / "cache", Serial())
    for task in (ours, program):
        outcome = results.outcome(task)
        assert outcome["history"][-1][1] == pytest.approx(outcome["objective"])
        assert outcome["objective"] <= outcome["bound"] * (1 + 1e-6)
        objectives = [line[1] for line in outcome["history"]]
        assert objectives == sorted(objectives)
    assert 0 < results.outcome(program)["start_flow"] <= results.outcome(program)["objective"] * (1 + 1e-6)
    # Two methods, one optimum: the block search may miss it, the program may not be beaten once it is closed.
    if results.outcome(program)["objective"] == pytest.approx(results.outcome(program)["bound"], rel=1e-5):
        assert results.outcome(ours)["objective"] <= results.outcome(program)["objective"] * (1 + 1e-6)


ENTRY = """\
kind: comparison
title: Tiny
methods: {helix: Helix, swarm: Swarm}
panels:
  (a) offline:
    cell: single24-30b-offline
    metrics: [throughput, prompt, decode]
    as_published: [tiny.yaml]
    fair: [tiny.yaml]
"""


def test_a_comparison_from_entry_to_page(tmp_path, experiment):
    (tmp_path / "entry.yaml").write_text(ENTRY, encoding="utf-8")
    context = EntryContext("entry.yaml", experiment.parent, load_published())
    part = read(tmp_path / "entry.yaml", Comparison, context)
    effort = Effort(is_quick=True)
    tasks = part.tasks(effort)
    assert [task.system for task in tasks] == ["helix.a", "helix.b", "helix", "swarm", "helix", "swarm"]
    results = perform_all(tasks, tmp_path / "cache", Serial())
    done = evaluate([Figure("tiny", "", "Tiny", "", {"a": part})], effort, results)
    rows = {(row["metric"], row["method"], row["column"]): row for row in done.parts["tiny", "a"].rows}
    pipelines = [sample for task in tasks[:3] for sample in results.samples(task)]
    together = sum(sample.output_tokens / sample.window_s for sample in pipelines)
    assert rows["throughput", "helix", "as published"]["value"] == pytest.approx(together)
    assert rows["throughput", "helix", "published"]["value"] == 339.6
    box = rows["decode", "swarm", "fair"]
    assert box["p5"] <= box["p25"] <= box["p50"] <= box["p75"] <= box["p95"]
    assert {check.method for check in done.cells} == {"helix", "swarm"}

    out = tmp_path / "out"
    write(done, out)
    page = (out / "index.html").read_text(encoding="utf-8")
    assert "Coarse" in page
    assert page.count("<svg") == 1
    assert {path.name for path in (out / "figures").iterdir()} == {"tiny-a.csv", "tiny-a.png", "tiny-a.svg"}
    first = [(out / "figures" / name).read_bytes() for name in ("tiny-a.svg", "tiny-a.csv")]
    write(done, out)
    assert first == [(out / "figures" / name).read_bytes() for name in ("tiny-a.svg", "tiny-a.csv")]
    assert json.loads((out / "summary.json").read_text(encoding="utf-8"))["quick"] is True


def test_a_system_is_placed_and_simulated_on_the_links_that_pruning_keeps(tmp_path):
    file = Path(__file__).parents[4] / "experiments" / "paper" / "published" / "dist24-70b-placement.yaml"
    task = Simulation(file, "helix", edits_of({"workload.duration": "20 s", "workload.warmup": "0 s"}), is_pruned=True)
    outcome = task.perform(tmp_path)
    (sample,) = outcome["loads"][0]
    assert sample["max_flow_tokens_per_s"] == pytest.approx(1252.65, rel=1e-3)  # no flow needs a pruned link
