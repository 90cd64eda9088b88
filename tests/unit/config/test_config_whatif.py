"""Nodes out of service, factors on links and traffic, and what-if variants: what they mean, and their faults."""

from __future__ import annotations

from itertools import islice

import pytest

from helixsim.workload.feed import make_feed


def feed_of(experiment, count):
    """The first requests of an experiment's load."""
    return list(islice(make_feed(experiment.workload, experiment.seed, 1).requests, count))


def test_nodes_can_be_down_by_id_pattern_gpu_and_region(load, sound):
    sound["cluster"]["network"]["links"] = [
        {"from": "l4-0", "to": "l4-1", "bandwidth": "1 Gbit/s", "latency": "1 ms"},
        {"from": "a100-0", "to": "a100-1", "bandwidth": "2 Gbit/s", "latency": "1 ms"},
    ]
    sound["model"] = "llama-2-7b"
    full = load(sound)
    for down, left in (
        (["l4-1"], {"a100-0", "a100-1", "a100-2", "a100-3", "l4-0", "t4x4-0", "t4x4-1"}),
        (["gpu:t4", "a100-[12]"], {"a100-0", "a100-3", "l4-0", "l4-1"}),
        (["region:us"], {"a100-0", "a100-1", "a100-2", "a100-3"}),
        (["site:us"], {"a100-0", "a100-1", "a100-2", "a100-3"}),
    ):
        sound["cluster"]["down"] = down
        experiment = load(sound)
        cluster = experiment.fleet.cluster
        assert set(cluster.index) == left
        assert set(experiment.systems[0].fleet.cluster.index) == left
        assert all(set(pair) <= left for pair in cluster.network.pairs)
        for node in left:  # who is left keeps id, region and links
            assert cluster.node(node) == full.fleet.cluster.node(node)
            for other in left - {node}:
                assert cluster.link(node, other) == full.fleet.cluster.link(node, other)


def test_nodes_out_of_service_are_paid_for_and_those_given_up_are_not(load, sound):
    sound["model"] = "llama-2-7b"
    whole = load(sound).fleet
    for key, patterns in (("down", ["l4-*", "a100-1"]), ("removed", ["l4-*", "a100-1"])):
        cluster = load({**sound, "cluster": {**sound["cluster"], key: patterns}}).fleet.cluster
        gone = [node for node in whole.cluster.nodes if node.id not in cluster.index]
        assert {node.id for node in gone} == {"l4-0", "l4-1", "a100-1"}
        saved = whole.cluster.cost_usd_per_hour - cluster.cost_usd_per_hour
        assert saved == pytest.approx(0 if key == "down" else sum(node.cost_usd_per_hour for node in gone))
    both = {**sound["cluster"], "down": ["gpu:l4"], "removed": ["l4-0"]}
    experiment = load({**sound, "cluster": both})
    dead = whole.cluster.node("l4-1").cost_usd_per_hour
    assert experiment.fleet.cluster.down_usd_per_hour == dead
    assert experiment.systems[0].fleet.cluster.down_usd_per_hour == dead


def test_a_variant_that_loses_nodes_saves_nothing_and_one_that_removes_them_does(load, sound):
    sound["whatif"] = [{"name": "lost", "lose": ["region:us"]}, {"name": "sold", "remove": ["region:us"]}]
    found = variants(load(sound))
    lost, sold = (found[name].experiment.fleet.cluster for name in ("lost", "sold"))
    assert lost.nodes == sold.nodes
    assert lost.cost_usd_per_hour == pytest.approx(load(sound).fleet.cluster.cost_usd_per_hour)
    assert sold.cost_usd_per_hour == pytest.approx(sum(node.cost_usd_per_hour for node in sold.nodes))
    assert [any("price" in text for text in found[name].changes) for name in ("lost", "sold")] == [False, True]


@pytest.mark.parametrize(
    ("down", "message"),
    [
        (["l5-*"], "matches no node"),
        (["gpu:l5"], "unknown gpu 'l5'"),
        (["region:mars"], "unknown region 'mars'"),
        (["rack:7"], "expected region:NAME"),
        (["*"], "no node is in service"),
    ],
)
@pytest.mark.parametrize("key", ["down", "removed"])
def test_faults_of_down(faults, sound, key, down, message):
    sound["cluster"][key] = down
    (problem,) = faults(sound)
    assert message in problem.message
    assert problem.path.startswith(f"cluster.{key}")


def test_factors_on_links_reach_every_link_of_their_class(load, sound):
    sound["cluster"]["network"]["links"] = [
        {"from": "l4-0", "to": "l4-1", "bandwidth": "1 Gbit/s", "latency": "4 ms"},
        {"from": "l4-0", "to": "a100-1", "bandwidth": "3 Gbit/s", "latency": "6 ms"},
    ]
    plain = load(sound).fleet.cluster
    sound["cluster"]["network"]["scale"] = {
        "intra_region": {"bandwidth": 0.5},
        "inter_region": {"bandwidth": 3, "latency": 0.25},
    }
    scaled = load(sound).fleet.cluster
    for src in plain.index:
        for dst in plain.index:
            old, new = plain.link(src, dst), scaled.link(src, dst)
            inside = plain.region_of(src) == plain.region_of(dst)
            assert new.bandwidth_bps == pytest.approx(old.bandwidth_bps * (0.5 if inside else 3))
            assert new.latency_ns == pytest.approx(old.latency_ns * (1 if inside else 0.25))


def test_factors_on_traffic_leave_the_draws_as_they_are(load, sound):
    sound["workload"] |= {"lengths": "azure-conversation", "limits": {"max_prompt_tokens": 2048}}
    plain = load(sound)
    sound["workload"]["scale"] = {"rate": 2, "prompt_tokens": 0.5, "output_tokens": 3}
    scaled = load(sound)
    assert scaled.workload_stats.offered_rps == 2 * plain.workload_stats.offered_rps
    assert scaled.workload_stats.mean_prompt_tokens == pytest.approx(plain.workload_stats.mean_prompt_tokens / 2)
    for old, new in zip(feed_of(plain, 50), feed_of(scaled, 50), strict=True):
        assert new.arrival_ns == pytest.approx(old.arrival_ns / 2, rel=1e-6)
        assert new.prompt_tokens == max(1, round(old.prompt_tokens * 0.5))
        assert new.output_tokens == old.output_tokens * 3


def test_recorded_traffic_is_scaled_in_time_and_length(load, sound, tmp_path):
    trace = tmp_path / "trace.csv"
    rows = "".join(f"{second},{100 + second},{20}\n" for second in range(10))
    trace.write_text("arrival_s,prompt_tokens,output_tokens\n" + rows, encoding="utf-8")
    sound["workload"] = {"trace": {"path": "trace.csv"}}
    plain = load(sound)
    sound["workload"]["scale"] = {"rate": 4, "prompt_tokens": 2}
    scaled = load(sound)
    assert scaled.workload_stats.offered_rps == pytest.approx(4 * plain.workload_stats.offered_rps)
    for old, new in zip(feed_of(plain, 10), feed_of(scaled, 10), strict=True):
        assert (new.arrival_ns, new.prompt_tokens) == (old.arrival_ns // 4, 2 * old.prompt_tokens)
    sound["workload"]["arrivals"] = {"rate": 3}
    assert load(sound).workload_stats.offered_rps == pytest.approx(12, rel=1e-6)


def test_closed_loops_scale_their_number_and_saturation_has_none(load, faults, sound):
    sound["workload"]["arrivals"] = {"process": "closed_loop", "concurrency": 10}
    sound["workload"]["scale"] = {"rate": 1.5}
    assert load(sound).workload.arrivals.concurrency == 15
    sound["workload"]["arrivals"] = {"process": "saturate"}
    assert any("no rate to scale" in problem.message for problem in faults(sound))


def test_scaled_prompts_must_fit_the_context(faults, sound):
    sound["workload"]["scale"] = {"prompt_tokens": 100}
    (problem,) = faults(sound)
    assert "the longest prompt has 10000 tokens" in problem.message


def variants(experiment):
    return {variant.name: variant for variant in experiment.variants}


def test_variants_are_the_experiments_one_would_write(load, sound):
    plain = {**sound, "systems": sound["systems"]}
    sound["whatif"] = [
        {"name": "add", "add": [{"gpu": "l4", "count": 3, "region": "eu"}]},
        {"name": "lose", "lose": ["region:us"], "systems": ["swarm"]},
        {"name": "swap", "swap": [{"from": "t4", "to": "l4"}]},
        {"name": "slow", "links": {"inter_region": {"bandwidth": 0.5}}},
        {"name": "double", "traffic": {"rate": 2}},
        {"name": "small", "precision": "int8", "set": {"workload.arrivals.rate": 1.25}},
    ]
    experiment = load(sound)
    plain.pop("whatif", None)
    found = variants(experiment)
    nodes = plain["cluster"]["nodes"]
    as_written = {
        "add": {"cluster": {**plain["cluster"], "nodes": [*nodes, {"gpu": "l4", "count": 3, "region": "eu"}]}},
        "lose": {"cluster": {**plain["cluster"], "down": ["region:us"]}, "systems": plain["systems"][1:]},
        "swap": {"cluster": {**plain["cluster"], "nodes": [*nodes[:2], {**nodes[2], "gpu": "l4"}]}},
        "double": {"workload": {**plain["workload"], "scale": {"rate": 2.0}}},
        "small": {
            "precision": "int8",
            "workload": {**plain["workload"], "arrivals": {"process": "poisson", "rate": 1.25}},
        },
    }  # fmt: skip
    for name, changes in as_written.items():
        written = load({**plain, **changes})
        ours = found[name].experiment
        assert ours.fleet == written.fleet, name
        assert (ours.workload, ours.workload_stats) == (written.workload, written.workload_stats), name
    assert [system.name for system in found["lose"].experiment.systems] == ["swarm+lose"]
    assert dict(found["add"].bases) == {"helix+add": "helix", "swarm+add": "swarm"}
    assert found["lose"].changes == ("l4 in us: 2 → 0", "t4x4 in us: 2 → 0")
    assert found["small"].changes == ("precision: fp16 → int8", "requests/s: 2.5 → 1.25",
                                      "workload.arrivals.rate: 2.5 → 1.25")  # fmt: skip
    assert experiment.fleet == load(plain).fleet
    assert experiment.config_hash != load(plain).config_hash


@pytest.mark.parametrize(
    ("what", "message"),
    [
        ({"lose": ["l5-*"]}, "matches no node"),
        ({"swap": [{"from": "l5", "to": "l4"}]}, "unknown GPU 'l5'"),
        ({"systems": ["helixx"]}, "did you mean 'helix'"),
        ({"set": {"workload.arivals.rate": 1}}, "did you mean 'arrivals'"),
        ({"add": [{"gpu": "l4", "cuont": 1}]}, "did you mean 'count'"),
        ({"traffic": {"rate": 0}}, "greater than or equal to"),
        ({"lsoe": ["l4-0"]}, "did you mean 'lose'"),
    ],
)
def test_faults_of_a_variant_point_at_it(faults, sound, what, message):
    sound["whatif"] = [{"name": "x", **what}]
    problems = faults(sound)
    assert any(message in problem.message for problem in problems)
    assert all("exp.yaml:" in problem.where for problem in problems)


def test_what_a_variant_breaks_elsewhere_is_said_with_its_name(faults, sound):
    sound["faults"] = {"events": [{"at": "1 s", "nodes": ["l4-0"]}]}
    sound["whatif"] = [{"name": "smaller", "lose": ["l4-0"]}]
    assert any("variant smaller: 'l4-0' matches no node" in problem.message for problem in faults(sound))


def test_two_variants_need_two_names(faults, sound):
    sound["whatif"] = [{"name": "x"}, {"name": "x"}]
    (problem,) = faults(sound)
    assert "already used" in problem.message
