"""Every kind of fault is found, says where it is and what was probably meant, and all come at once."""

from __future__ import annotations

import pytest

from helixsim.errors import InfeasibleError

MANY_FAULTS = """\
schema: 1
seed: 0
seed: 1
model: llama-2-70
precision: fp17
cluster:
  nodes:
    - {gpu: a100-40, count: 4}
    - {gpu: l4, cuont: 8}
    - {gpu: t4, count: -2, kv_blocks: 3.5}
  network:
    intra_region: {bandwidth: .nan, latency: 1 ms}
    inter_region: {bandwidht: 100 Mbit/s, latency: 50 msec}
workload:
  arrivals: {process: poison, rate: -2}
  warmup: 60
systems:
  - {placement: {strategy: helix, deph: 3}, routing: radnom}
  - {placement: {strategy: swarm, depth: deep, file: nowhere.yaml}, kv: {max_reserved_share: 2}}
  - {placement: {strategy: petals, share: 1.5}}
  - 7
slo: {ttft: 0 s}
"""

EXPECTED = [
    (3, "seed", "duplicate key"),
    (4, "model", "did you mean 'llama-2-70b'"),
    (5, "precision", "known: bf16, fp16"),
    (8, "cluster.nodes.0.gpu", "did you mean 'a100-40g'"),
    (9, "cluster.nodes.1.cuont", "did you mean 'count'"),
    (10, "cluster.nodes.2.count", "got -2"),
    (10, "cluster.nodes.2.kv_blocks", "whole number, got 3.5"),
    (12, "cluster.network.intra_region.bandwidth", "nan"),
    (13, "cluster.network.inter_region.bandwidht", "did you mean 'bandwidth'"),
    (13, "cluster.network.inter_region.latency", "'msec'"),
    (15, "workload.arrivals.process", "did you mean 'poisson'"),
    (15, "workload.arrivals.rate", "negative"),
    (16, "workload.warmup", "needs a unit"),
    (18, "systems.0.placement.deph", "did you mean 'depth'"),
    (18, "systems.0.routing", "did you mean 'random'"),
    (19, "systems.1.placement.depth", "got 'deep'"),
    (19, "systems.1.placement.file", "no such file"),
    (19, "systems.1.kv.max_reserved_share", "got 2"),
    (20, "systems.2.placement", "share above 1"),
    (21, "systems.3", "mapping"),
    (22, "slo.ttft", "above zero"),
]


def test_all_faults_come_at_once_each_with_line_and_key(faults):
    found = [(int(p.where.split(":")[1]), p.path, p.message) for p in faults(MANY_FAULTS)]
    assert [entry[:2] for entry in found] == [entry[:2] for entry in EXPECTED]
    for (_, path, message), (_, _, words) in zip(found, EXPECTED, strict=True):
        assert words in message, path


def test_a_misspelt_required_key_is_one_fault_not_two(faults, sound):
    sound["cluster"]["network"]["intra_regoin"] = sound["cluster"]["network"].pop("intra_region")
    assert [p.path for p in faults(sound)] == ["cluster.network.intra_regoin"]


def test_a_missing_key_is_reported_at_its_parent(faults, sound):
    del sound["cluster"]["network"]["intra_region"]
    (problem,) = faults(sound)
    assert (problem.path, problem.message) == ("cluster.network.intra_region", "required key is missing")


@pytest.mark.parametrize(
    ("override", "path", "words"),
    [
        ("baseline=hlix", "baseline", "did you mean 'helix'"),
        ("systems.1.name=helix", "systems.1.name", "already used by systems.0"),
        ("workload.duration=null", "workload", "never end"),
        ("workload.arrivals={process: saturate, rate: 3}", "workload.arrivals.rate", "saturate does not use it"),
        ("workload.arrivals={process: closed_loop}", "workload.arrivals.concurrency", "required by closed_loop"),
        ("workload.arrivals={process: trace}", "workload.arrivals.process", "need a trace"),
        ("workload.arrivals={rate: 3}", "workload.arrivals.process", "missing"),
        ("systems.0.arrivals={process: poisson}", "systems.0.arrivals.rate", "required by poisson"),
        (
            "workload.arrivals={process: poisson, rate: 1, over_time: {diurnal: {}, trace: {}}}",
            "workload.arrivals.over_time",
            "expected one of diurnal, corners and trace, got diurnal and trace",
        ),
        (
            "workload.arrivals={process: poisson, rate: 1, over_time: {corners: [{at: 1 s, factor: 1}]}}",
            "workload.arrivals.over_time.corners.0.at",
            "the first corner is at 0 s, got 1 s",
        ),
        (
            "workload.arrivals={process: poisson, rate: 1, over_time: {corners: [{at: 0 s, factor: 0}]}}",
            "workload.arrivals.over_time.corners",
            "no request would arrive",
        ),
        (
            "workload.arrivals={process: poisson, rate: 1, over_time: {trace: {}}}",
            "workload.arrivals.over_time.trace",
            "needs a trace",
        ),
        (
            "workload.arrivals={process: saturate, over_time: {diurnal: {}}}",
            "workload.arrivals.over_time",
            "saturate does not use it",
        ),
        ("workload.limits={min_prompt_tokens: 9, max_prompt_tokens: 5}", "workload.limits.max_prompt_tokens", "below"),
        ("workload.trace={path: nowhere.csv}", "workload.trace.path", "no such file"),
        ("workload.trace={path: x, format: azur}", "workload.trace.format", "did you mean 'azure'"),
        ("engine.timings=nowhere.csv", "engine.timings", "no such file"),
        ("model=nowhere/config.json", "model", "no such file"),
        ("cluster=nowhere.yaml", "cluster", "no such file"),
        ("cluster.network.inter_region=null", "cluster.network", "inter_region is missing"),
        ("cluster.network.inter_region=ethernet-8", "cluster.network.inter_region", "did you mean 'ethernet-8g'"),
        (
            "cluster.network.regions=[{from: eu, to: uss, bandwidth: 1 Gbit/s, latency: 1 ms}]",
            "cluster.network.regions.0.to",
            "did you mean 'us'",
        ),
        (
            "cluster.network.links=[{from: coordinator, to: [l4-0, h100-*], bandwidth: 1 Gbit/s, latency: 1 ms}]",
            "cluster.network.links.0.to.1",
            "'h100-*' matches no node",
        ),
        ("cluster.network.spread={inter_region: {latency: 1 s}}", "cluster.network.spread", "exceeds the mean"),
        ("cluster.nodes.0.ids=[a, b]", "cluster.nodes.0.ids", "2 ids for a count of 4"),
        ("cluster.nodes.2.ids=[a, a]", "cluster.nodes.2.ids", "already used"),
        ("cluster.nodes.2.ids=[coordinator, a]", "cluster.nodes.2.ids", "already used"),
        ("cluster.nodes.2.kv_tokens=15", "cluster.nodes.2.kv_tokens", "less than one KV block of 16"),
        ("systems.0.nodes=[{match: l4-*}]", "systems.0.nodes.0", "has no effect"),
        ("systems.0.nodes=[{match: l5-*, max_requests: 1}]", "systems.0.nodes.0.match", "matches no node"),
    ],
)
def test_what_cannot_be_told_from_one_key(faults, sound, override, path, words):
    problems = faults(sound, override)
    assert [problem.path for problem in problems] == [path]
    assert words in problems[0].message


def test_a_model_no_fleet_can_hold_is_infeasible_with_figures(load, sound):
    sound["cluster"]["nodes"] = [{"gpu": "l4", "count": 2, "region": "eu"}]
    with pytest.raises(InfeasibleError, match=r"80 layers .* all 2 nodes together hold \d+ "):
        load(sound)


def test_a_recorded_prompt_beyond_the_context_names_the_remedy(load, faults, sound, tmp_path):
    (tmp_path / "long.csv").write_text("arrival_s,prompt_tokens,output_tokens\n0,10,5\n1,5000,5\n", encoding="utf-8")
    sound["workload"] = {"trace": {"path": "long.csv"}}
    (problem,) = faults(sound)
    assert problem.path == "workload.trace.path"
    assert "5000 tokens" in problem.message
    assert "max_prompt_tokens: 4096" in problem.message
    assert dict(load(sound, "workload.limits.max_prompt_tokens=4096").workload_stats.dropped)


def test_what_the_load_finds_out_while_reading_has_a_position_too(faults, sound, tmp_path):
    talk = '[{"id": "a", "conversations": [{"from": "human", "value": "hello"}, {"from": "gpt", "value": "hello"}]}]'
    (tmp_path / "talk.json").write_text(talk, encoding="utf-8")
    sound["workload"] = {"trace": {"path": "talk.json", "chars_per_token": 4}}
    (problem,) = faults(sound)
    assert problem.path == "workload.arrivals.process"
    assert "exp.yaml:" in problem.where
    assert "has no arrival times" in problem.message


def test_sessions_and_system_prompts_become_part_of_the_load(load, sound):
    sound["workload"] = {
        "arrivals": {"process": "poisson", "rate": 2},
        "duration": "60 s",
        "sessions": {"turns": 3, "think_time": "20 s"},
        "system_prompts": {"count": 4, "tokens": 300, "skew": 1},
        "limits": {"max_prompt_tokens": 2048},
    }
    spec = load(sound).workload
    assert (spec.sessions.turns, spec.sessions.think_time_s, spec.sessions.turns_distribution) == (3, 20, "geometric")
    assert (spec.system_prompts.count, spec.system_prompts.tokens, spec.system_prompts.skew) == (4, 300, 1)


@pytest.mark.parametrize(
    ("changes", "path", "message"),
    [
        ({"sessions": {"turns": 3}}, "workload.sessions.think_time", "required key is missing"),
        ({"sessions": {"turns": 0.5, "think_time": "1 s"}}, "workload.sessions.turns", "got 0.5"),
        (
            {"sessions": {"turns": 2.5, "think_time": "1 s", "turns_distribution": "constant"}},
            "workload.sessions",
            "expected a whole number",
        ),
        ({"system_prompts": {"tokens": 4096}}, "workload.system_prompts.tokens", "leave none for a message"),
        ({"arrivals": {"process": "closed_loop", "concurrency": 4}}, "workload.arrivals.process", "no arrival times"),
        ({"trace": {"path": "t.csv"}, "arrivals": {}}, "workload.sessions", "those that it records"),
    ],
)
def test_faults_of_sessions_are_found(faults, sound, tmp_path, changes, path, message):
    (tmp_path / "t.csv").write_text("arrival_s,prompt_tokens,output_tokens\n0,10,5\n1,50,5\n", encoding="utf-8")
    sound["workload"] = {
        "arrivals": {"process": "poisson", "rate": 2},
        "duration": "60 s",
        "sessions": {"turns": 3, "think_time": "20 s"},
        "limits": {"max_prompt_tokens": 2048},
    } | changes
    (problem,) = faults(sound)
    assert (problem.path, "exp.yaml:" in problem.where) == (path, True)
    assert message in problem.message


def test_a_closed_loop_ends_by_number_or_by_duration_and_not_by_both(load, faults, sound):
    limits = {"max_prompt_tokens": 4096}
    loop = {"process": "closed_loop", "concurrency": 4}
    sound["workload"] = {"arrivals": loop | {"num_requests": 20}, "limits": limits}
    spec = load(sound).workload
    assert (spec.arrivals.num_requests, spec.window.duration_ns, spec.window.drain) == (20, None, True)
    sound["workload"]["duration"] = "60 s"
    (problem,) = faults(sound)
    assert problem.path == "workload.arrivals.num_requests"
    assert "either num_requests or workload.duration" in problem.message
    sound["workload"] = {"arrivals": loop, "limits": limits}
    (problem,) = faults(sound)
    assert "never end" in problem.message


def test_a_gateway_log_is_described_in_the_experiment(load, faults, sound, tmp_path):
    rows = "at,status,ok,p,o\n5000,200,true,10,20\n5200,500,true,1,2\n5300,200,false,1,2\n5500,200,true,11,21\n"
    (tmp_path / "log.csv").write_text(rows, encoding="utf-8")
    columns = {"arrival": "at", "prompt": "p", "output": "o"}
    trace = {"path": "log.csv", "unit": "ms", "columns": columns, "where": {"status": 200, "ok": True}}
    sound["workload"] = {"trace": trace}
    stats = load(sound).workload_stats
    assert (stats.num_requests, stats.offered_rps, stats.mean_prompt_tokens) == (2, 2.0, 10.5)
    assert dict(stats.dropped) == {"not status=200 and ok=true": 2}
    trace["format"] = "azure"
    (problem,) = faults(sound)
    assert problem.path == "workload.trace"
    assert "not supported by the trace format azure" in problem.message
    trace |= {"format": "csv", "unit": "hours"}
    assert [problem.path for problem in faults(sound)] == ["workload.trace.unit"]


def test_columns_of_length_pairs_are_described_in_the_experiment(load, sound, tmp_path):
    (tmp_path / "pairs.csv").write_text("p,o,ok\n10,20,1\n30,40,1\n900,900,0\n", encoding="utf-8")
    lengths = {
        "distribution": "trace",
        "path": "pairs.csv",
        "prompt_column": "p",
        "output_column": "o",
        "where": "ok=1",
    }
    sound["workload"] = {"lengths": lengths, "arrivals": {"process": "poisson", "rate": 1, "num_requests": 5}}
    assert load(sound).workload_stats.mean_prompt_tokens == 20.0
