"""Candidates whose nodes prefill or decode alone: when they enter the race, how they are told, and what they need."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

import helixsim
import helixsim as hx
from helixsim.cli.main import main
from helixsim.domain.placement import BOTH, LayerRange, Placement
from helixsim.errors import ConfigError, InfeasibleError
from helixsim.metrics.score import score_of
from helixsim.placement.base import Contender
from helixsim.report.selection import selection_sentences
from helixsim.study import finished
from helixsim.study.placements import placement_store
from helixsim.study.placing import _rivals, assembled, place_system, placement_problem
from helixsim.study.race import Race
from helixsim.study.role_entries import LEAST_GAIN, RoleEntries, _as_chains
from helixsim.study.systems import capacity_table, simulate_system

EXPERIMENT = """\
schema: 1
name: two-kinds
model: llama-3.1-8b
cluster:
  nodes:
    - {gpu: rtx-4090, count: 2}
    - {gpu: l20, count: 1}
  network: {intra_region: ethernet-100g}
workload:
  lengths: {distribution: fixed, prompt_tokens: 3000, output_tokens: 30}
  arrivals: {process: poisson, rate: 4 /s}
  warmup: 5 s
  duration: 20 s
engine: vllm-1
systems:
  - {name: helix, placement: {strategy: helix, candidates: 2, time_limit_s: 20}}
  - {name: colocated, placement: replicas, routing: earliest_finish}
slo: {ttft: 2 s, tpot: 25 ms}
"""
BY_HAND = (
    "{name: by-hand, placement: replicas, routing: earliest_finish, "
    'nodes: [{match: "*", role: prefill}, {match: "rtx-0", role: decode}]}'
)


WITH_RIVAL = EXPERIMENT.replace("slo:", f"  - {BY_HAND}\nslo:")


@pytest.fixture
def load(tmp_path):
    def of(*overrides, text=EXPERIMENT):
        path = tmp_path / "exp.yaml"
        path.write_text(text)
        return helixsim.load_experiment(path, list(overrides))

    return of


def entries_of(experiment) -> RoleEntries:
    system = experiment.systems[0]
    return RoleEntries(experiment, system, placement_problem(experiment, system))


def raced(experiment, baselines=()):
    """Return what the race selects of replicas and candidates with roles."""
    system = experiment.systems[0]
    replicas = place_system(experiment, experiment.systems[1]).placement
    rivals = [place_system(experiment, one) for one in baselines]
    race = Race(experiment, system, capacity_table(experiment, system), lambda: rivals, roles=entries_of(experiment))
    return race([Contender("replicas", replicas)], lambda _text: None)


def mode(value: str) -> str:
    return f"systems.0.placement.disaggregate={value}"


def test_the_program_says_when_roles_can_pay(load) -> None:
    """Steps beside prompts miss a strict TPOT; without one, the same nodes serve as much either way."""
    strict, loose = entries_of(load()), entries_of(load("slo={ttft: 2 s}"))
    assert strict.top.roles.requests_per_s > (1 + LEAST_GAIN) * strict.without_per_s
    assert strict.can_pay
    assert not loose.can_pay
    assert [one.name for one in strict.worth_trying()] == [one.name for one in strict.contenders()] + ["thunderserve"]
    assert [one.name for one in loose.worth_trying()] == ["thunderserve"]
    names = [one.name for one in strict.contenders()]
    assert names[0] == strict.top.named(strict.top.roles)
    assert len(names) == len(set(names)) <= 4
    for one in strict.contenders():
        assert set(one.placement.roles) == set(one.placement.ranges)
        assert {"prefill", "both"} & set(one.placement.roles.values())
        assert {"decode", "both"} & set(one.placement.roles.values())


def test_no_roles_are_planned_for_runs_that_simulate_none(load, tmp_path) -> None:
    """Nor are placements with roles reused that were kept for runs without faults."""
    store = placement_store(tmp_path)
    free = load()
    assert place_system(free, free.systems[0], store=store).placement.roles
    for change in ("faults={clients: {}}", "systems.0.autoscaling={policy: fixed}"):
        bound = load(change)
        assert not place_system(bound, bound.systems[0], store=store).placement.roles, change


def test_roles_win_a_race_where_they_pay_and_are_told(load) -> None:
    experiment = load()
    placement = raced(experiment, experiment.systems[1:])
    placed = assembled(experiment, experiment.systems[0], placement)
    notes = placement.notes
    assert placement.roles
    assert placed.system.is_disaggregated
    last = [entry for entry in notes["race"] if entry["round"] == max(one["round"] for one in notes["race"])]
    (own,) = [entry for entry in last if entry["name"] == notes["chosen"]]
    (colocated,) = [entry for entry in last if entry["name"] == "system colocated"]
    assert own["share"] > colocated["share"]
    told = " ".join(selection_sentences(notes))
    assert f"Selected: {notes['chosen']}" in told
    assert "Roles of nodes, at mean lengths with a TPOT of 25.0 ms" in told
    assert notes["roles"]["without_per_s"] < notes["roles"]["requests_per_s"] <= notes["roles"]["bound_per_s"]
    run = simulate_system(experiment, placed, check=True)
    assert (run.requests.transfer_ns > 0).any()


def test_where_all_objectives_are_met_only_one_candidate_with_roles_is_tried(load) -> None:
    """It is taken where it is faster: long prompts hold up the decodes of others."""
    busy = raced(load("slo={ttft: 9 s, tpot: 1 s}"))
    calm = raced(load("slo={ttft: 9 s, tpot: 1 s}", "workload.arrivals.rate=0.2", "workload.duration=60 s"))
    for found in (busy, calm):
        assert {one["name"] for one in found.notes["race"]} == {"replicas", "thunderserve"}
    assert busy.notes["chosen"] == "thunderserve"
    assert set(busy.roles.values()) == {"prefill", "decode"}
    assert not calm.roles


def test_saturated_groups_are_always_simulated_as_reported(load, monkeypatch) -> None:
    """However little they served in short trials."""
    saturated = load("workload.arrivals={process: saturate}", "slo={}", "workload.warmup=1 s", "workload.duration=2 s")
    given: list[str] = []

    def final(_self, _order, _trials, _report, _budget, _load, apart):
        given.extend(one.name for one in apart)
        raise StopIteration

    monkeypatch.setattr(Race, "_final", final)
    with pytest.raises(StopIteration):
        raced(saturated)
    assert given == ["thunderserve"]


def test_the_run_of_a_placement_that_a_race_simulated_as_reported_is_found_again(load, tmp_path, monkeypatch) -> None:
    experiment = load("workload.arrivals.rate=1", "workload.duration=5 s", "workload.warmup=1 s")
    placed = hx.place(experiment, "helix", runs=tmp_path / "runs")
    anew = hx.simulate(experiment, placed).requests.finish_ns
    monkeypatch.setattr(finished, "simulate_system", lambda *_args, **_how: pytest.fail("simulated again"))
    assert (hx.simulate(experiment, placed, runs=tmp_path / "runs").requests.finish_ns == anew).all()
    other = hx.simulate(experiment, placed, seed=1, runs=tmp_path / "runs").requests.finish_ns
    assert other.tolist() != anew.tolist()


def test_always_takes_roles_even_where_they_do_not_pay(load, tmp_path) -> None:
    experiment = load(mode("always"), "slo={ttft: 9 s, tpot: 1 s}")
    store = placement_store(tmp_path / "kept")
    first = place_system(experiment, experiment.systems[0], store=store)
    again = place_system(experiment, experiment.systems[0], store=store)
    names = {entry["name"] for entry in first.placement.notes["race"]}
    assert all("prefill " in name for name in names - {"thunderserve"})
    assert again.placement.roles == first.placement.roles
    assert again.system.fleet.cluster == first.system.fleet.cluster
    assert again.system.is_disaggregated
    by_flow = place_system(experiment, experiment.systems[0], by_flow=True)  # without simulations, the program selects
    assert by_flow.placement.roles == entries_of(experiment).contenders()[0].placement.roles


def test_a_system_with_roles_by_hand_is_a_rival_unless_roles_are_ruled_out(load) -> None:
    def names(*overrides: str) -> list[str]:
        experiment = load(*overrides, text=WITH_RIVAL)
        return [one.name for one in _rivals(experiment, experiment.systems[0]) or ()]

    assert names() == ["colocated", "by-hand"]
    assert names(mode("never")) == ["colocated"]
    assert names(mode("always")) == ["by-hand"]
    assert names("systems.2.disaggregation.transfer=layerwise") == ["colocated"]
    assert names("systems.2.disaggregation.prefill.routing=random") == ["colocated"]
    assert names("systems.0.disaggregation.transfer=layerwise") == ["colocated"]


@pytest.mark.slow
def test_a_rival_with_roles_that_does_better_is_taken_with_them(load, monkeypatch) -> None:
    monkeypatch.setattr(RoleEntries, "contenders", lambda _self: [])  # the rival alone has roles
    monkeypatch.setattr(RoleEntries, "groups", [])
    experiment = load(text=WITH_RIVAL)
    placed = place_system(experiment, experiment.systems[0])
    assert placed.placement.notes["chosen"] == "system by-hand"
    assert placed.placement.roles == {"rtx-0": "decode", "rtx-1": "prefill", "l20-0": "prefill"}
    first, second = (
        simulate_system(experiment, one).requests.finish_ns
        for one in (placed, place_system(experiment, experiment.systems[2]))
    )
    assert (first == second).all()


@pytest.mark.slow
@pytest.mark.parametrize(("prompt", "rate"), [(3000, 2), (3000, 5), (300, 10), (300, 20)])
def test_the_plan_never_loses_to_any_roles_by_hand(load, prompt, rate) -> None:
    """The planner sees none of these rivals; on the requests of the report none is better beyond the interval."""
    window = ("workload.warmup=20 s", "workload.duration=120 s")
    loads = (f"workload.lengths.prompt_tokens={prompt}", f"workload.arrivals.rate={rate}", *window)
    head, _, slo = EXPERIMENT.partition("  - {name: colocated, placement: replicas, routing: earliest_finish}\n")
    alone = load(*loads, text=head + slo)
    rivals = load(*loads, text=WITH_RIVAL)
    placed = [place_system(alone, alone.systems[0]), *(place_system(rivals, one) for one in rivals.systems[1:])]
    chosen, *others = (
        score_of(simulate_system(alone, one), alone.slo, one.system.fleet, one.placement) for one in placed
    )  # fmt: skip
    for other in others:
        assert not other.share_exceeds(chosen)
        assert not (other.beats(chosen) and other.latency_s < 0.9 * chosen.latency_s)


LIMITS = (
    "systems.0.disaggregation.prefill.max_num_batched_tokens=4000", "systems.0.disaggregation.decode.max_num_seqs=4",
    "systems.0.disaggregation.decode.max_num_batched_tokens=64",
)  # fmt: skip


def test_limits_of_a_leg_are_those_of_the_nodes_that_get_its_role(load) -> None:
    """As where the roles are stated by hand: the same limits, the same KV memory, the same run."""
    by_hand = load(*(one.replace("systems.0", "systems.2") for one in LIMITS), text=WITH_RIVAL)
    stated = place_system(by_hand, by_hand.systems[2])
    experiment = load(*LIMITS, "systems.0.routing=earliest_finish")
    roles = {node.id: node.role for node in stated.system.fleet.cluster.nodes}
    found = assembled(experiment, experiment.systems[0], replace(stated.placement, roles=roles))
    for one, other in zip(found.system.fleet.profiles, stated.system.fleet.profiles, strict=True):
        assert (one.kind, one.limits) == (other.kind, other.limits)
    for node, held in stated.placement.ranges.items():
        assert found.system.fleet.kv_blocks(node, held) == stated.system.fleet.kv_blocks(node, held)
    assert {profile.limits[-1].max_decode_seqs for profile in found.system.fleet.profiles} > {4}
    first, second = (simulate_system(by_hand, one).requests.finish_ns for one in (found, stated))
    assert (first == second).all()


def test_the_program_counts_with_the_limits_of_each_role(load) -> None:
    """Four sequences at once decode less than 256, so that fewer requests are served and more replicas decode."""
    plain, limited = entries_of(load()), entries_of(load(LIMITS[1]))

    def apart(entries: RoleEntries):
        return entries._roles(entries.top.fleet, entries.top.classes, ("prefill", "decode"))

    assert apart(limited).requests_per_s < apart(plain).requests_per_s
    assert limited.without_per_s == plain.without_per_s


# --- what roles need -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("overrides", "fault"),
    [
        (("systems.0.placement.max_hops=1",), "max_hops"),
        (("systems.0.routing=swarm",), "routing swarm learns from single hops"),
        (("engine=helix-vllm-0.4",), "roles need an engine with return: engine"),
        (("cluster.network.sharing=shared",), "roles need network.sharing fifo"),
        (('systems.0.placement.exclude=["rtx-*"]',), "a single replica serves both phases"),
        (("model=llama-3.1-70b", "precision=fp8"), "no group of equal nodes holds the model"),
    ],
)
def test_what_rules_roles_out_is_told(load, overrides, fault) -> None:
    entries = entries_of(load(*overrides))
    assert entries.contenders() == []
    assert not entries.can_pay
    assert fault in (entries.fault or "")
    assert fault in selection_sentences({"race": [], "roles": entries.notes(tried=False)})[0]


def test_always_without_any_roles_is_an_error(load) -> None:
    experiment = load(mode("always"), "slo={tpot: 1 ms}")
    with pytest.raises(
        InfeasibleError, match=r"disaggregate: always: no roles serve any request with a TPOT of 0.001 s"
    ):
        place_system(experiment, experiment.systems[0])
    experiment = load(mode("always"), 'systems.0.placement.exclude=["rtx-*"]')
    with pytest.raises(InfeasibleError, match="disaggregate: always: a single replica serves both phases"):
        place_system(experiment, experiment.systems[0])


@pytest.mark.parametrize(
    ("overrides", "where", "said"),
    [
        ((mode("always"), "engine=helix-vllm-0.4"), "engine.name", "roles need an engine with return: engine"),
        ((mode("always"), "cluster.network.sharing=shared"), "cluster.network.sharing", "roles need fifo"),
        ((mode("sometimes"),), "systems.0.placement.disaggregate", "always"),
        ((mode("never"), "systems.0.disaggregation.transfer=layerwise"), "systems.0.disaggregation", "has no effect"),
        (
            ("systems.0.disaggregation.decode.placement=replicas",),
            "systems.0.disaggregation.decode.placement",
            "needs nodes with the role decode in the experiment",
        ),
    ],
)
def test_what_does_not_fit_roles_is_refused_where_it_stands(load, overrides, where, said) -> None:
    with pytest.raises(ConfigError) as caught:
        load(*overrides)
    (problem,) = caught.value.problems
    assert problem.path == where
    assert said in problem.message


@pytest.mark.slow
def test_place_shows_roles_and_refuses_targets_without_them(load, tmp_path, capsys) -> None:
    load()
    exp, file = str(tmp_path / "exp.yaml"), tmp_path / "p.json"
    command = ["place", exp, "--system", "helix", "-q", "--set", mode("always")]
    assert main([*command, "--export", str(file)]) == 0
    shown = capsys.readouterr().out
    assert "role" in shown
    document = json.loads(file.read_text())
    assert set(document["roles"].values()) - {BOTH}
    system = "{name: fixed, placement: {strategy: fixed, file: p.json}, routing: earliest_finish}"
    fixed = load(text=EXPERIMENT.replace("slo:", f"  - {system}\nslo:"))
    assert place_system(fixed, fixed.systems[2]).system.is_disaggregated
    assert main([*command, "--export", "vllm"]) == 2
    assert "have roles, and vllm does not send the phases of a request to different" in capsys.readouterr().err


# --- rivals ----------------------------------------------------------------------------------------------------------


def test_hexgen2_divides_its_groups_between_the_phases(load) -> None:
    """The gain over the same groups for both phases, in sign: fewer decodes wait behind prompts."""
    system = "{name: hexgen2, placement: {strategy: hexgen2, disaggregate: true}, routing: earliest_finish}"
    together = system.replace("name: hexgen2", "name: together").replace("true", "false")
    experiment = load("slo.tpot=30 ms", text=EXPERIMENT.replace("slo:", f"  - {system}\n  - {together}\nslo:"))
    split, both = (place_system(experiment, one) for one in experiment.systems[2:])
    assert split.placement.ranges == both.placement.ranges
    assert set(split.placement.roles.values()) == {"prefill", "decode"}
    assert not both.system.is_disaggregated
    notes = split.placement.notes
    assert 0 < notes["requests_per_s"] <= notes["bound_per_s"] * (1 + 1e-9)
    scores = [
        score_of(simulate_system(experiment, one), experiment.slo, one.system.fleet, one.placement)
        for one in (split, both)
    ]
    assert scores[0].share_exceeds(scores[1])


def test_thunderserve_gives_its_groups_phases_and_sends_caches_in_four_bits(load) -> None:
    system = "{name: thunderserve, placement: thunderserve, routing: earliest_finish}"
    small = system.replace("name: thunderserve", "name: small").replace("}", ", disaggregation: {transfer_bits: 4}}")
    experiment = load("slo.tpot=30 ms", text=EXPERIMENT.replace("slo:", f"  - {system}\n  - {small}\nslo:"))
    whole, quarter = (place_system(experiment, one) for one in experiment.systems[2:])
    assert set(whole.placement.roles.values()) == {"prefill", "decode"}
    assert whole.placement.roles == quarter.placement.roles
    assert whole.placement.notes["requests_per_s"] > 0
    sent = [simulate_system(experiment, one, check=True).transfers for one in (whole, quarter)]
    assert sent[1].bytes.tolist() == (sent[0].bytes // 4).tolist()
    assert sent[1].duration_ns.mean() < 0.5 * sent[0].duration_ns.mean()


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (("slo.tpot=1 ms",), "2 groups cannot both prefill and decode within the objective"),
        (("cluster.network.sharing=shared",), "nodes of this engine and network cannot have roles"),
    ],
)
def test_groups_of_hexgen2_that_cannot_have_roles_are_an_error(load, overrides, said) -> None:
    system = "{name: hexgen2, placement: {strategy: hexgen2, disaggregate: true}, routing: earliest_finish}"
    experiment = load(*overrides, text=EXPERIMENT.replace("slo:", f"  - {system}\nslo:"))
    with pytest.raises(InfeasibleError, match=said):
        place_system(experiment, experiment.systems[2])


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (("engine.enable_chunked_prefill=false",), "needs engine.enable_chunked_prefill"),
        (("systems.2.disaggregation.prefill_share=1.5",), "must be a share from 1e-06 to 1, or auto, got 1.5"),
    ],
)
def test_a_share_of_prompts_needs_chunks(load, overrides, said) -> None:
    with pytest.raises(ConfigError) as caught:
        load("systems.2.disaggregation.prefill_share=0.5", *overrides, text=WITH_RIVAL)
    (problem,) = caught.value.problems
    assert problem.path == "systems.2.disaggregation.prefill_share"
    assert said in problem.message


def test_a_share_of_prompts_needs_roles_by_hand_and_is_not_exported(load, tmp_path, capsys) -> None:
    with pytest.raises(ConfigError) as caught:
        load("systems.0.disaggregation.prefill_share=0.5")
    assert caught.value.problems[0].path == "systems.0.disaggregation.prefill_share"
    load(text=WITH_RIVAL)
    for key, value in (("prefill_share", 0.5), ("transfer_bits", 4)):
        how = ["--quiet", "--set", f"systems.2.disaggregation.{key}={value}"]
        assert main(["place", str(tmp_path / "exp.yaml"), "--system", "by-hand", "--export", "dynamo", *how]) == 2
        assert f"disaggregation.{key}: vLLM's KV connectors send whole prompts" in capsys.readouterr().err


def test_the_nodes_of_a_single_chain_without_a_number_are_one_replica() -> None:
    """They hold parts of the model; nodes that hold all of it are a replica each."""
    ranges = {"a": LayerRange(0, 3), "b": LayerRange(3, 8), "c": LayerRange(0, 8), "d": LayerRange(0, 8)}
    numbers = _as_chains(Placement(strategy="x", num_layers=8, ranges=ranges, pipelines={"d": 9})).pipelines
    assert numbers["a"] == numbers["b"]
    assert len({numbers["a"], numbers["c"], numbers["d"]}) == 3
    assert numbers["d"] == 9
