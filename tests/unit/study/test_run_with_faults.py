"""An experiment with faults: what its file may say, what a run shows of them, and where they are refused."""

from __future__ import annotations

import json

import numpy as np
import pytest
from tiny import tiny

import helixsim
from helixsim.cli.main import main
from helixsim.domain.cluster import COORDINATOR
from helixsim.domain.faults import CUT, MENDED
from helixsim.domain.placement import LayerRange, Placement
from helixsim.domain.request import Slo
from helixsim.domain.summary import Summary
from helixsim.errors import ConfigError
from helixsim.flow.maxflow import max_flow
from helixsim.metrics.verdict import DoubtKind
from helixsim.report.fault_charts import EVENTS_NOTE, edges_s, faults_over_time, good_rate, output_rate
from helixsim.report.fault_maps import span_maps
from helixsim.report.network_map import network_map
from helixsim.report.style import styled
from helixsim.results.runset import RunSet
from helixsim.routing.graph import routing_graph
from helixsim.study.faults import simulate_run, with_flow
from helixsim.study.finished import Simulated, SimulatedStore
from helixsim.study.placing import place_system
from helixsim.study.systems import capacity_table, simulate_system

FAULTS = "faults: {events: [{at: 20 s, nodes: [l4-0], for: 15 s}], detection: 1 s}\n"


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "exp.yaml"
    path.write_text(tiny("{name: swarm, placement: swarm}", duration_s=60) + FAULTS, encoding="utf-8")
    return path


def resolved(path, *overrides):
    return helixsim.load_experiment(path, overrides)


def problems(path, *overrides):
    with pytest.raises(ConfigError) as caught:
        resolved(path, *overrides)
    return [(problem.path, problem.message) for problem in caught.value.problems]


@pytest.mark.parametrize(
    ("edit", "key", "message"),
    [
        ("faults.events=[{at: 20 s, nodes: [l4-9]}]", "faults.events.0.nodes.0", "'l4-9' matches no node"),
        ("faults.events=[{at: 20 s, nodes: ['region:eu']}]", "faults.events.0.nodes.0", "region 'eu'"),
        ("faults.events=[{at: 61 s, nodes: [l4-0]}]", "faults.events.0.at", "ends at 61 s"),
        ("faults.events=[{at: 20 s, kind: up, nodes: [l4-0]}]", "faults.events.0.nodes", "l4-0 is up already at 20 s"),
        (
            "faults.events=[{at: 20 s, nodes: [l4-0]}, {at: 30 s, nodes: ['l4-*']}]",
            "faults.events.1.nodes",
            "l4-0 is down already at 30 s",
        ),
        ("faults.events=[{at: 20 s, kind: slow, nodes: [l4-0]}]", "faults.events.0.kind", "slow needs factor"),
        ("faults.events=[{at: 20 s, factor: 2.0, nodes: [l4-0]}]", "faults.events.0.factor", "down has no factor"),
        ("faults.events=[{at: 20 s, kind: up, for: 1 s, nodes: [l4-0]}]", "faults.events.0.for", "up has no end"),
        ("faults.events=[{at: 20 s, kind: join, for: 1 s, nodes: [l4-0]}]", "faults.events.0.for", "join has no end"),
        (
            "faults.events=[{at: 3 s, notice: 9 s, nodes: [l4-0]}]",
            "faults.events.0.notice",
            "9 s before 3 s is before the start of the run",
        ),
        (
            "faults.events=[{at: 20 s, kind: join, nodes: ['*']}]",
            "faults.events.0.nodes",
            "no node is there at the start",
        ),
        (
            "faults.events=[{at: 20 s, kind: join, nodes: [l4-0]}, {at: 10 s, nodes: [l4-0]}]",
            "faults.events.1.nodes",
            "l4-0 is down already at 10 s",
        ),
        ("faults.events=[{at: 20 s, kind: gone, nodes: [l4-0]}]", "faults.events.0.kind", "got 'gone'"),
        ("faults.random={mtbf: 5 min, mttr: 1 min, nodes: [l4-0]}", "faults.random.nodes", "l4-0: named in"),
        (
            "faults.events=[{at: 20 s, kind: slow, factor: 2.0, notice: 5 s, nodes: [l4-0]}]",
            "faults.events.0.notice",
            "kind: slow has no notice",
        ),
        ("faults.events=[{at: 20 s, kind: cut, nodes: [l4-0]}]", "faults.events.0.nodes", "kind: cut has links"),
        ("faults.events=[{at: 20 s, links: {from: [l4-0]}}]", "faults.events.0.links", "kind: down has nodes"),
        ("faults.events=[{at: 20 s, kind: cut}]", "faults.events.0", "either nodes or links"),
        ("faults.events=[{at: 20 s, kind: slow, links: {from: [l4-0]}}]", "faults.events.0.kind", "slow links need"),
        (
            "faults.events=[{at: 20 s, kind: cut, factor: 2.0, links: {from: [l4-0]}}]",
            "faults.events.0.factor",
            "cut links have no factor",
        ),
        ("faults.events=[{at: 20 s, kind: cut, links: {from: [l4-9]}}]", "faults.events.0.links.from.0", "no node"),
        (
            "faults.events=[{at: 20 s, kind: cut, links: {from: [l4-0], to: [l4-0]}}]",
            "faults.events.0.links",
            "two ends",
        ),
        ("faults.random_links={mtbf: 5 min, mttr: 1 min}", "faults.random_links", "two sites"),
        ("faults.random={mtbf: 1 us, mttr: 1 us}", "faults.random.mtbf", "a millionth of the run, got 1 us and 1 us"),
        ("faults.clients={backoff: 10 s}", "faults.clients.backoff", "longer than most_backoff (8 s), got 10 s"),
        ("workload.arrivals={process: saturate}", "faults", "saturate"),
        ("faults={replicate: {copies: 0}}", "faults.replicate.copies", "got 0"),
        ("faults={replicate: {copies: 1, interval: 1 us}}", "faults.replicate.interval", "1 ms or more, got 1 us"),
        ("faults.replicate={copies: 1, when: notice}", "faults.replicate.when", "nothing is announced"),
        ("faults={replicate: {copies: 1}, reaction: replace}", "faults.replicate", "reaction: replace"),
        (
            "faults={replicate: {copies: 1}, random_links: {mtbf: 1 h, mttr: 1 s}}",
            "faults.replicate",
            "links that fail",
        ),
    ],
)
def test_what_is_wrong_is_said_with_its_place(path, edit, key, message):
    found = problems(path, edit)
    assert [text for at, text in found if at == key and message in text], found


@pytest.mark.parametrize(
    "roles",
    [
        "cluster.nodes.0.role=prefill",
        "systems.0.nodes=[{match: 'l4-*', role: prefill}]",
        "systems.0.placement={strategy: helix, disaggregate: always}",
    ],
)
@pytest.mark.parametrize(
    ("edit", "key", "name"),
    [
        ("faults.reaction=replace", "faults.reaction", "reaction: replace"),
        ("faults.replicate={copies: 1}", "faults.replicate", "copies of KV memory"),
        ("faults.events=[{at: 20 s, kind: cut, links: {from: [l4-0]}}]", "faults.events", "links that fail"),
        ("faults.events=[{at: 20 s, kind: join, nodes: [l4-0]}]", "faults.events", "machines that join"),
        ("faults.random_links={mtbf: 5 min, mttr: 1 min}", "faults.random_links", "links that fail"),
    ],
)
def test_what_is_not_simulated_with_roles_is_said(path, roles, edit, key, name):
    found = problems(path, "engine=vllm-1", roles, edit)
    message = f"nodes with a role are not simulated with {name}"
    assert [text for at, text in found if at == key and message in text], found


def test_events_that_end_are_two_faults_and_random_ones_leave_their_nodes_out(path):
    spec = resolved(path, "faults.random={mtbf: 5 min, mttr: 1 min, notice: 30 s}").faults
    assert spec.random.notice_ns == 30_000_000_000
    assert [(fault.at_ns, fault.kind, fault.nodes) for fault in spec.schedule] == [
        (20_000_000_000, "down", ("l4-0",)), (35_000_000_000, "up", ("l4-0",)),
    ]  # fmt: skip
    assert spec.random.groups == (("l4-1",), ("t4-0",), ("t4-1",), ("t4-2",))
    site = resolved(path, "faults.random={mtbf: 5 min, mttr: 1 min, correlated_by: site}").faults
    assert site.random.groups == (("l4-1", "t4-0", "t4-1", "t4-2"),)


def test_links_have_two_sides_of_which_one_may_be_all_others(path):
    region = resolved(path).fleet.cluster.coordinator_region
    others = {"l4-1", "t4-0", "t4-1", "t4-2"}
    for links, near, far in (
        ("{from: [l4-0]}", {"l4-0"}, {*others, COORDINATOR}),
        ("{from: ['l4-*'], to: [coordinator]}", {"l4-0", "l4-1"}, {COORDINATOR}),
        (f"{{from: [l4-0], to: ['region:{region}']}}", {"l4-0"}, {*others, "l4-0", COORDINATOR}),
    ):
        events = f"faults.events=[{{at: 20 s, for: 5 s, kind: cut, links: {links}}}]"
        (cut,) = resolved(path, events).faults.links
        assert (cut.near, cut.far) == (near, far)
        assert (cut.at_ns, cut.end_ns, cut.is_cut) == (20_000_000_000, 25_000_000_000, True)
    slow = "faults.events=[{at: 20 s, kind: slow, factor: 2.0, extra_latency: 5 ms, links: {from: [l4-0]}}]"
    (one,) = resolved(path, slow).faults.links
    assert (one.is_cut, one.factor, one.extra_latency_ns, one.end_ns) == (False, 2.0, 5_000_000, None)


@pytest.mark.parametrize("reaction", ["static", "reroute", "replace"])
def test_a_cut_link_is_routed_around(path, reaction):
    events = "faults.events=[{at: 20 s, for: 20 s, kind: cut, links: {from: [l4-0]}}]"
    experiment = resolved(path, events, f"faults.reaction={reaction}", "faults.startup=2 s")
    run = simulate_run(experiment, place_system(experiment, experiment.systems[0]), check=True)
    assert [what for _, what, _ in run.faults.events if what in {CUT, "detected", MENDED}] == [CUT, "detected", MENDED]
    done = run.series.batches[:, run.nodes.node_id.index("l4-0")]
    cut = (run.series.time_ns > 23e9) & (run.series.time_ns < 40e9)
    assert np.ptp(done[cut]) == 0
    assert done[-1] > done[cut][0]  # it works again


def test_a_notice_is_an_event_of_its_own(path):
    events = "faults.events=[{at: 20 s, nodes: [l4-0], notice: 5 s}, {at: 3 s, nodes: [l4-1], notice: 3 s}]"
    spec = resolved(path, events).faults
    assert [(fault.at_ns // 10**9, fault.kind, *fault.nodes) for fault in spec.schedule] == [
        (0, "notice", "l4-1"), (3, "down", "l4-1"), (15, "notice", "l4-0"), (20, "down", "l4-0"),
    ]  # fmt: skip


def test_copies_of_kv_memory_are_in_the_results_and_kept(path, tmp_path, capsys):
    overrides = ["engine=vllm-1", "systems=[{name: own, placement: replicas}]", "faults.replicate={copies: 1}"]
    experiment = resolved(path, *overrides)
    placed = place_system(experiment, experiment.systems[0])
    run = simulate_run(experiment, placed, check=True)
    assert run.faults.copies.sent_bytes > 0
    store = SimulatedStore(tmp_path / "store")
    store.keep("key", Simulated(placed.placement, run))
    assert store.get("key").run.faults.copies == run.faults.copies
    sets = [word for one in overrides for word in ("--set", one)]
    made = tmp_path / "trace.json"
    sets += ["--timeline", str(made), "--timeline-part", "19s:40s"]
    assert main(["run", str(path), "--out", str(tmp_path / "runs"), "-q", "-v", *sets]) == 0
    assert "KV memory copied, GB" in capsys.readouterr().out
    trace = json.loads(made.read_text(encoding="utf-8"))["traceEvents"]
    assert "down" in {event["name"] for event in trace if event["ph"] == "i"}
    (directory,) = (one.parent for one in (tmp_path / "runs" / "tiny").glob("*/summary.json"))
    summary = RunSet.load(directory)["own"].summary
    assert summary.faults.copies == run.faults.copies
    assert Summary.from_json(summary.to_json()).faults == summary.faults


@pytest.mark.parametrize("reaction", ["static", "reroute"])
def test_nodes_with_roles_fail_from_the_file_to_the_report(path, tmp_path, capsys, reaction):
    system = "{name: split, placement: replicas, routing: flow_weighted, nodes: [{match: 'l4-*', role: prefill}]}"
    overrides = ["engine=vllm-1", f"systems=[{system}]", f"faults.reaction={reaction}"]
    experiment = resolved(path, *overrides)
    run = simulate_run(experiment, place_system(experiment, experiment.systems[0]), check=True)
    assert len(run.transfers.bytes) > 0
    assert [what for _, what, _ in run.faults.events].count("rerouted") == (2 if reaction == "reroute" else 0)
    done = run.series.batches[:, run.nodes.node_id.index("l4-0")]
    out = (run.series.time_ns > 21e9) & (run.series.time_ns < 35e9)
    assert np.ptp(done[out]) == 0
    assert done[-1] > done[out][0]
    if reaction == "reroute":
        return
    sets = [word for one in overrides for word in ("--set", one)]
    assert (
        main(["run", str(path), "--out", str(tmp_path / "runs"), "-q", "-v", "--timeline", str(tmp_path / "t"), *sets])
        == 0
    )
    assert "Faults split: 1 failure; " in " ".join(capsys.readouterr().out.split())
    (directory,) = (one.parent for one in (tmp_path / "runs" / "tiny").glob("*/summary.json"))
    figures = RunSet.load(directory)["split"].summary.faults
    assert [(one.time_s, one.what) for one in figures.events] == [(20.0, "down"), (21.0, "detected"), (35.0, "up")]
    assert figures.lost == run.faults.losses.sum()


def test_a_run_shows_its_faults_and_keeps_them(path, tmp_path, capsys):
    assert main(["run", str(path), "--out", str(tmp_path / "runs"), "-q", "-v"]) == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert "Faults swarm: 1 failure; " in shown
    (directory,) = (one.parent for one in (tmp_path / "runs" / "tiny").glob("*/summary.json"))
    summary = RunSet.load(directory)["swarm"].summary
    figures = summary.faults
    assert [(one.time_s, one.what) for one in figures.events] == [(20.0, "down"), (21.0, "detected"), (35.0, "up")]
    assert figures.hurt > 0
    assert figures.lost == figures.retried
    assert figures.failed_retries == figures.failed_timeout == 0
    assert Summary.from_json(summary.to_json()) == summary
    assert "failed" not in summary.integrity.conservation
    runs = RunSet.load(directory)
    assert DoubtKind.UNSETTLED not in {doubt.kind for doubt in runs.verdict.systems["swarm"].doubts}
    run = runs["swarm"]
    widths = np.diff(edges_s(run))
    finished = run.request_columns("finish_ns")["finish_ns"] >= 0
    assert (good_rate(run, Slo()) * widths).sum() == pytest.approx(finished.sum())
    assert (good_rate(run, Slo(ttft_s=1e-3)) == 0).all()
    assert (output_rate(run) * widths).sum() == pytest.approx(run.columns("series")["output_tokens"][-1])
    with styled():
        figure, table = faults_over_time(RunSet.load(directory))
    assert table["output_tokens_per_s"].tolist() == output_rate(run).tolist()
    assert all(len(axis.lines) == 2 for axis in figure.axes)  # it fails and is back
    page = (directory / "report.html").read_text(encoding="utf-8")
    assert EVENTS_NOTE in page
    assert "TTFT by arrival" in page


def test_maps_of_the_spans_between_faults_mark_nodes_and_links(path, tmp_path):
    cut = "{at: 40 s, kind: cut, for: 5 s, links: {from: [t4-0]}}"
    events = f"faults.events=[{{at: 20 s, nodes: [l4-0], for: 15 s, notice: 5 s}}, {cut}]"
    assert main(["run", str(path), "--out", str(tmp_path / "runs"), "-q", "--set", events]) == 0
    (directory,) = (one.parent for one in (tmp_path / "runs" / "tiny").glob("*/summary.json"))
    run = RunSet.load(directory)["swarm"]
    whole = network_map(run, dict.fromkeys(("l4", "t4"), ""))
    spans = span_maps(run, whole)
    assert [one.title.split(" to ")[0] for one in spans] == ["0.00", "15.0", "20.0", "35.0", "40.0", "45.0"]
    assert [one.states.get("l4-0") for one in spans] == [None, "leaving", "gone", None, None, None]
    for number, one in enumerate(spans):
        ends = [{link.source, link.target} for link in one.map.links if link.level != "cut"]
        assert ends
        assert (number == 2) == all("l4-0" not in pair for pair in ends)
        cut_links = [link for link in one.map.links if link.level == "cut"]
        assert (number == 4) == bool(cut_links)
        assert all("t4-0" in (link.source, link.target) for link in cut_links)
    page = (directory / "report.html").read_text(encoding="utf-8")
    assert page.count('class="map"') == 1 + len(spans)


def test_clients_give_up_without_any_fault_and_the_report_shows_it(path, tmp_path, capsys):
    edits = ["--set", "faults={clients: {timeout: 2 s, retries: 1, jitter: 0}}"]
    assert main(["run", str(path), "--out", str(tmp_path / "runs"), "-q", "-v", *edits]) == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert "Faults swarm: clients gave up" in shown
    (directory,) = (one.parent for one in (tmp_path / "runs" / "tiny").glob("*/summary.json"))
    runs = RunSet.load(directory)
    summary = runs["swarm"].summary
    clients = summary.faults.clients
    assert clients.gave_up > clients.sent_again > 0
    assert Summary.from_json(summary.to_json()) == summary
    with styled():
        _, table = faults_over_time(runs)
    widths = np.diff(edges_s(runs["swarm"]))
    assert (table["sent_per_s"] * widths).sum() == len(runs["swarm"].request_columns("arrival_ns")["arrival_ns"])
    assert "requests given up by clients" in (directory / "report.html").read_text(encoding="utf-8")
    experiment = resolved(path, "faults={clients: {timeout: 2 s, retries: 1, jitter: 0}}")
    placed = place_system(experiment, experiment.systems[0])
    run = simulate_run(experiment, placed)
    store = SimulatedStore(tmp_path / "kept")
    store.keep("key", Simulated(placed.placement, run))
    assert store.get("key").run.faults.clients == run.faults.clients


def test_searches_know_of_no_faults_and_stored_runs_keep_them(path, tmp_path):
    experiment = resolved(path)
    placed = place_system(experiment, experiment.systems[0])
    assert simulate_system(experiment, placed).faults is None
    run = simulate_run(experiment, placed, check=True)
    assert run.faults.losses.sum() > 0
    store = SimulatedStore(tmp_path / "kept")
    store.keep("key", Simulated(placed.placement, run))
    kept = store.get("key").run.faults
    assert kept.events == run.faults.events
    assert kept.causes == run.faults.causes
    assert np.array_equal(kept.losses, run.faults.losses)


def test_other_commands_refuse_them(path, tmp_path, capsys):
    assert main(["capacity", str(path), "--out", str(tmp_path), "--set", "slo={ttft: 5 s}"]) == 2
    assert "faults: " in capsys.readouterr().err


@pytest.mark.parametrize("engine", ["vllm-0.4", "vllm-1"])
def test_a_timeline_has_marks_of_faults_and_nothing_on_the_tracks_of_nodes_that_are_down(path, tmp_path, engine):
    events = (
        "faults.events=[{at: 20 s, nodes: [l4-0], for: 8 s}, {at: 22 s, kind: cut, for: 9 s, links: {from: [t4-0]}}]"
    )
    edits = ["--set", events, "--set", f"engine={engine}"]
    made = tmp_path / "trace.json"
    shown = ["--timeline", str(made), "--timeline-part", "19s:40s"]
    assert main(["run", str(path), "--out", str(tmp_path / "runs"), "-q", *edits, *shown]) == 0
    trace = json.loads(made.read_text(encoding="utf-8"))["traceEvents"]
    marks = [event for event in trace if event["ph"] == "i"]
    assert [(event["ts"] / 1e6, event["name"]) for event in marks if event["s"] == "g"] == [
        (20.0, "down"), (21.0, "detected"), (22.0, "cut"), (23.0, "detected"), (28.0, "up"), (31.0, "mended"),
    ]  # fmt: skip
    names = {event["args"]["name"]: (event["pid"], event["tid"]) for event in trace if event["name"] == "thread_name"}
    (own,) = [place for name, place in names.items() if name.startswith("l4-0,")]
    assert [event["name"] for event in marks if (event["pid"], event["tid"]) == own] == ["down", "detected", "up"]
    slices = [event for event in trace if event["ph"] == "X" and (event["pid"], event["tid"]) == own]
    assert slices
    assert not any(event["ts"] + event["dur"] > 20e6 and event["ts"] < 28e6 for event in slices)
    links = {place for name, place in names.items() if "t4-0" in name and " to " in name}
    sent = [event for event in trace if event["ph"] == "X" and (event["pid"], event["tid"]) in links]
    assert sent
    assert not any(22e6 < event["ts"] < 31e6 for event in sent)


def test_the_flow_of_what_is_left_replaces_that_of_the_whole(path):
    """Two stages of two nodes each: without one node its edges carry nothing, and the others the new max-flow."""
    experiment = resolved(path)
    fleet = experiment.systems[0].fleet
    ranges = {"l4-0": (0, 16), "l4-1": (16, 32), "t4-0": (0, 16), "t4-1": (16, 32)}
    placement = Placement("fixed", 32, {node: LayerRange(*held) for node, held in ranges.items()})
    capacity = capacity_table(experiment, experiment.systems[0])
    whole = max_flow(fleet, placement, capacity)
    left = max_flow(fleet, placement.part({"l4-1", "t4-0", "t4-1"}), capacity)
    graph = routing_graph(placement, whole)
    assert with_flow(graph, whole).flow_tokens_per_s == graph.flow_tokens_per_s
    after = with_flow(graph, left)
    names = after.node_ids
    rows = [(COORDINATOR, after.first), *zip(names, after.successors, strict=True)]
    flow = {(src, names[hop.node]): after.flow_tokens_per_s[hop.edge] for src, hops in rows for hop in hops}
    assert all(amount == 0 for ends, amount in flow.items() if "l4-0" in ends)
    first = sum(amount for (src, _), amount in flow.items() if src == COORDINATOR)
    assert first == pytest.approx(left.max_flow_tokens_per_s)
    assert 0 < first < whole.max_flow_tokens_per_s


def test_a_run_in_which_nothing_serves_for_long_is_limited_by_faults(path, tmp_path) -> None:
    events = "faults.events=[{at: 20 s, nodes: ['*'], for: 39 s}]"
    assert main(["run", str(path), "--out", str(tmp_path / "runs"), "-q", "--set", events]) == 0
    (directory,) = (one.parent for one in (tmp_path / "runs" / "tiny").glob("*/summary.json"))
    cluster = RunSet.load(directory)["swarm"].summary.cluster
    assert cluster.limited_by == "faults"
    assert "failed" in cluster.bottleneck


@pytest.mark.parametrize(("at_s", "share"), [(0.5, 1.0), (21, 2 / 3), (60.5, 1 / 120)])
def test_a_machine_that_joins_is_paid_for_from_then_on(path, tmp_path, at_s, share) -> None:
    """In a window from 1 to 61 s, also if it fails and is back; one that fails is paid for all the time."""
    again = "{at: 60.6 s, nodes: [l4-0]}, {at: 60.7 s, kind: up, nodes: [l4-0]}"
    events = f"faults.events=[{{at: {at_s} s, kind: join, nodes: [l4-0]}}, {again}, {{at: 5 s, nodes: [t4-0]}}]"
    assert main(["run", str(path), "--out", str(tmp_path / "runs"), "-q", "--set", events]) == 0
    (directory,) = (one.parent for one in (tmp_path / "runs" / "tiny").glob("*/summary.json"))
    cluster = resolved(path).fleet.cluster
    spared = (1 - share) * cluster.node("l4-0").cost_usd_per_hour
    cost = RunSet.load(directory)["swarm"].summary.cost
    assert cost.usd_per_hour == pytest.approx(cluster.cost_usd_per_hour - spared, rel=1e-4)
