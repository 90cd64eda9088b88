"""Fleets and what-ifs of nodes with roles: each offer has its own, and a fleet without a phase serves nothing."""

from __future__ import annotations

import pytest

from helixsim import load_experiment, yamlio
from helixsim.config.plan_file import load_plan
from helixsim.errors import ConfigError, InfeasibleError
from helixsim.planning.fleet import find_fleet
from helixsim.runtime.pool import Serial
from helixsim.study.whatif import cases, place_case

EXPERIMENT = """\
schema: 1
name: base
model: llama-2-7b
engine: vllm-1
cluster:
  nodes:
    - {gpu: l4, count: 2, role: decode}
    - {gpu: t4, count: 2, role: prefill}
  network:
    intra_region: {bandwidth: 10 Gbit/s, latency: 1 ms}
workload:
  lengths: {distribution: fixed, prompt_tokens: 300, output_tokens: 20}
  arrivals: {process: poisson, rate: 2 /s}
  warmup: 1 s
  duration: 8 s
systems:
  - {name: split, placement: replicas, routing: earliest_finish}
slo: {ttft: 3 s, tpot: 200 ms}
"""

PLAN = {
    "schema": 1,
    "name": "roles",
    "experiment": "base.yaml",
    "simulations": 20,
    "offers": [
        {"gpu": "l4", "role": "decode", "available": 2},
        {"gpu": "l4", "role": "prefill", "available": 2},
        {"gpu": "a10g", "role": "decode", "available": 1},
    ],
}


@pytest.fixture
def plan(tmp_path):
    def write(**changes):
        (tmp_path / "base.yaml").write_text(EXPERIMENT, encoding="utf-8")
        path = tmp_path / "plan.yaml"
        path.write_text(yamlio.dump({**PLAN, **changes}), encoding="utf-8")
        return load_plan(path)

    return write


def test_offers_of_one_gpu_differ_by_role(plan):
    labels = [offer.label for offer in plan().offers]
    assert labels == ["l4 for decode", "l4 for prefill", "a10g for decode"]
    with pytest.raises(ConfigError, match="l4 for decode is offered twice"):
        plan(offers=[PLAN["offers"][0]] * 2)
    with pytest.raises(ConfigError, match=r"offers\.0\.role"):
        plan(offers=[{**PLAN["offers"][0], "role": "both ways"}])


def test_the_fleet_found_serves_both_phases(plan, tmp_path):
    found = find_fleet(plan(), tmp_path / "out", Serial())
    best = found.ranked[0]
    counts = dict(zip((offer.label for offer in plan().offers), best.counts, strict=True))
    assert counts["l4 for prefill"] >= 1
    assert counts["l4 for decode"] + counts["a10g for decode"] >= 1
    alone = [one for one in found.tried if not one.counts[1] or not (one.counts[0] or one.counts[2])]
    assert not any(one.is_met for one in alone)


def whatif(folder, text, variants):
    path = folder / "exp.yaml"
    path.write_text(text + yamlio.dump({"whatif": variants}), encoding="utf-8")
    experiment = load_experiment(path)
    return {case.name: case for case in cases(experiment)}


def test_variants_add_and_lose_nodes_with_roles(tmp_path):
    variants = [
        {"name": "more", "add": [{"gpu": "a10g", "count": 2, "role": "prefill"}]},
        {"name": "kept", "lose": ["a10g-0"], "replan": False},
        {"name": "less", "lose": ["l4-0"]},
        {"name": "none", "lose": ["gpu:l4"]},
    ]
    found = whatif(tmp_path, EXPERIMENT.replace("gpu: t4", "gpu: a10g"), variants)
    served = {}
    for name, case in found.items():
        if name != "split+none":
            placed = place_case(case)
            cluster = placed.system.fleet.cluster
            served[name] = sorted((cluster.node(node).role, node) for node in placed.placement.ranges)
    decode, prefill = [("decode", f"l4-{n}") for n in range(2)], [("prefill", f"a10g-{n}") for n in range(2)]
    assert served["split"] == decode + prefill
    assert [role for role, _ in served["split+more"]].count("prefill") == 4
    assert served["split+kept"] == decode + prefill[1:]
    assert served["split+less"] == decode[1:] + prefill
    with pytest.raises(InfeasibleError, match="the nodes that serve decode hold no whole model"):
        place_case(found["split+none"])
