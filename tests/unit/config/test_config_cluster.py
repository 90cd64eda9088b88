"""Nodes get their ids, links their figures; random links are those of the paper's artifact."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from helixsim.config.links_file import read_links
from helixsim.config.schema import SpreadSection
from helixsim.config.spread import draw_links
from helixsim.domain.cluster import COORDINATOR, Cluster, LinkSpec, Network, Node
from helixsim.errors import ConfigError


def fleet_of(regions, coordinator_region, intra, inter):
    nodes = tuple(Node(f"n{i}", "l4", 1, region, None, 1.0, 72.0) for i, region in enumerate(regions))
    return Cluster(nodes, Network(intra, inter), coordinator_region)


def test_ids_count_per_kind_and_drop_the_variant_unless_two_would_clash(load, sound):
    ids = [node.id for node in load(sound).fleet.cluster.nodes]
    assert ids == ["a100-0", "a100-1", "a100-2", "a100-3", "l4-0", "l4-1", "t4x4-0", "t4x4-1"]
    sound["cluster"]["nodes"][1:1] = [{"gpu": "a100-80g"}, {"gpu": "a100-40g", "ids": ["mine"]}, {"gpu": "a100-40g"}]
    ids = [node.id for node in load(sound).fleet.cluster.nodes]
    assert ids[3:8] == ["a100-40g-3", "a100-80g-0", "mine", "a100-40g-5", "l4-0"]


def test_links_are_found_by_class_region_and_pair(load, sound):
    network = sound["cluster"]["network"]
    network["regions"] = [
        {"from": "eu", "to": "us", "bandwidth": "1 Gbit/s", "latency": "9 ms", "both": False},
    ]
    network["links"] = [
        {"from": "l4-*", "to": "t4x4-0", "bandwidth": "2 Gbit/s", "latency": "2 ms"},
        {"from": ["l4-0", "coordinator"], "to": "t4x4-0", "bandwidth": "3 Gbit/s", "latency": "3 ms", "both": False},
    ]
    cluster = load(sound).fleet.cluster
    gbps = {
        ends: cluster.link(*ends).bandwidth_bps / 1e9
        for ends in (
            ("a100-0", "a100-1"),
            ("a100-0", "l4-0"),
            ("l4-0", "a100-0"),
            (COORDINATOR, "l4-1"),
            ("l4-1", "t4x4-0"),
            ("t4x4-0", "l4-0"),
            ("l4-0", "t4x4-0"),
            (COORDINATOR, "t4x4-0"),
        )
    }
    assert list(gbps.values()) == [8, 1, 0.1, 1, 2, 2, 3, 3]


def test_a_link_class_may_be_a_profile(load, sound):
    sound["cluster"]["network"]["intra_region"] = "ethernet-25g"
    assert load(sound).fleet.cluster.link("a100-0", "a100-1").bandwidth_bps == 25e9


def test_a_csv_of_links_says_the_same_as_a_list(load, sound, tmp_path):
    text = "from,to,bandwidth_mbps,latency_us,both\nl4-0,a100-1,500,20,true\ncoordinator,l4-0,250,0,false\n"
    (tmp_path / "links.csv").write_text(text, encoding="utf-8")
    network = sound["cluster"]["network"]
    network["links"] = "links.csv"
    from_file = load(sound)
    network["links"] = [
        {"from": "l4-0", "to": "a100-1", "bandwidth": "500 Mbit/s", "latency": "20 us"},
        {"from": "coordinator", "to": "l4-0", "bandwidth": "250 Mbit/s", "latency": "0 s", "both": False},
    ]
    assert from_file.fleet.cluster.network == load(sound).fleet.cluster.network
    assert from_file.file_hashes[0][0] == "links.csv"


@pytest.mark.parametrize(
    ("text", "line", "words"),
    [
        ("from,to,bandwidth,latency_ms\n", 1, "unknown column 'bandwidth'; did you mean 'bandwidth_"),
        ("from,to,latency_ms\n", 1, "exactly one bandwidth column"),
        ("from,to,bandwidth_gbps,latency_ms\na,b,1\n", 2, "3 cells under 4 columns"),
        ("from,to,bandwidth_gbps,latency_ms\na,b,nan,1\n", 2, "finite"),
        ("from,to,bandwidth_gbps,latency_ms\na,b,0,1\n", 2, "above zero"),
        ("from,to,bandwidth_gbps,latency_ms\na,b,1,1\na,b,1,-1\n", 3, "0 or more"),
        ("from,to,bandwidth_gbps,latency_ms\na,b,fast,1\n", 2, "not a number: 'fast'"),
        ("from,to,bandwidth_gbps,latency_ms\na,c,1,1\n", 2, "unknown node 'c'"),
        ("from,to,bandwidth_gbps,latency_ms,both\na,b,1,1,maybe\n", 2, "true or false"),
    ],
)
def test_faults_in_a_csv_of_links_have_a_line(tmp_path, text, line, words):
    path = tmp_path / "links.csv"
    path.write_text(text, encoding="utf-8")
    problems = []
    read_links(path, ["a", "b"], problems)
    assert any(problem.where == f"{path}:{line}" and words in problem.message for problem in problems)


def test_a_csv_of_links_that_is_no_text(tmp_path):
    (tmp_path / "links.csv").write_bytes(b"\xff\xfe")
    with pytest.raises(ConfigError, match="cannot be read"):
        read_links(tmp_path / "links.csv", [], [])


@settings(deadline=None, max_examples=25)
@given(st.integers(0, 2**31), st.lists(st.sampled_from("xy"), min_size=1, max_size=6))
def test_drawn_links_stay_within_their_width_and_pairs_share_a_draw(seed, regions):
    cluster = fleet_of(regions, "x", LinkSpec(8e9, 3_000_000), LinkSpec(80e6, 50_000_000))
    spread = SpreadSection.model_validate(
        {
            "seed": seed,
            "intra_region": {"bandwidth": "4 Gbit/s"},
            "inter_region": {"bandwidth": "20 Mbit/s", "latency": "9 ms"},
        }
    )
    links = draw_links(cluster, spread)
    ids = [COORDINATOR, *cluster.index]
    assert set(links) == {(a, b) for a in ids for b in ids if a != b}
    for (src, dst), link in links.items():
        if cluster.region_of(src) == cluster.region_of(dst):
            assert abs(link.bandwidth_bps - 8e9) <= 4e9 + 8e6
            assert link.latency_ns == 3_000_000
        else:
            assert abs(link.bandwidth_bps - 80e6) <= 20e6 + 0.4e6
            assert 40_000_000 <= link.latency_ns <= 59_000_000
        if COORDINATOR not in (src, dst):
            assert links[dst, src] == link


LINKS_OF_THE_ARTIFACT = {
    (COORDINATOR, "n0"): (14.2, 55), ("n21", COORDINATOR): (14.7, 51), ("n1", "n21"): (13.2, 52),
    ("n4", "n6"): (1304, 1), ("n6", "n16"): (10.2, 42), ("n9", "n16"): (10.6, 58),
    ("n13", "n15"): (11.5, 48), ("n19", "n21"): (1319, 1),
}  # fmt: skip
"""Some links of its three regions as published: MB/s, ms."""


def test_the_artifacts_distributed_cluster_comes_out_link_by_link():
    """Its 324 links (pairs of nodes once, the coordinator both ways) add up to 122741.8 MB/s and 11365 ms."""
    regions = ["0"] * 4 + ["1"] * 10 + ["2"] * 10
    cluster = fleet_of(regions, "elsewhere", LinkSpec(10e9, 1_000_000), LinkSpec(100e6, 50_000_000))
    spread = SpreadSection.model_validate(
        {
            "seed": 0,
            "intra_region": {"bandwidth": "1 Gbit/s", "latency": "0 ms"},
            "inter_region": {"bandwidth": "20 Mbit/s", "latency": "10 ms"},
        }
    )
    links = draw_links(cluster, spread)
    for ends, (megabytes_per_s, latency_ms) in LINKS_OF_THE_ARTIFACT.items():
        assert links[ends].bandwidth_bps == pytest.approx(megabytes_per_s * 8e6, rel=1e-12)
        assert links[ends].latency_ns == latency_ms * 1_000_000
    order = {node: number for number, node in enumerate(cluster.index)}
    once = [link for (a, b), link in links.items() if COORDINATOR in (a, b) or order[a] < order[b]]
    assert len(once) == 324
    assert sum(link.bandwidth_bps for link in once) / 8e6 == pytest.approx(122741.8, rel=1e-12)
    assert sum(link.latency_ns for link in once) == 11365 * 1_000_000


def test_instances_of_a_gpu_are_nodes(load, sound):
    sound["cluster"]["nodes"] = [{"gpu": "h100-3g.40gb", "count": 4}, {"gpu": "NVIDIA-H100-80GB-HBM3-MIG-1g.10gb"}]
    nodes = load(sound).fleet.cluster.nodes
    assert [node.id for node in nodes] == [*(f"h100-3g.40gb-{number}" for number in range(4)), "h100-1g.10gb-0"]
    assert nodes[0].cost_usd_per_hour == pytest.approx(4 * nodes[4].cost_usd_per_hour)
    sound["cluster"]["nodes"] = [{"gpu": "h100-3g.40gb", "count": 2}, {"gpu": "h100", "count": 2}]
    assert [node.id for node in load(sound).fleet.cluster.nodes] == [
        "h100-3g.40gb-0", "h100-3g.40gb-1", "h100-0", "h100-1",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("entry", "said"),
    [
        ({"gpu": "h100-3g.40gb", "gpus": 2}, r"gpus: 2: MIG instances have no access to each other's memory"),
        ({"gpu": "h100-9g.40gb"}, r"gpu: unknown GPU 'h100-9g.40gb': h100 has the MIG instances h100-1g.10gb, "),
        ({"gpu": "l4-1g.10gb"}, r"gpu: unknown GPU 'l4-1g.10gb': no MIG instances of l4 are known; your own: "),
    ],
)
def test_faulty_instances(load, sound, entry, said):
    sound["cluster"]["nodes"] = [entry]
    with pytest.raises(ConfigError, match=said):
        load(sound)
