"""The leaderboard: its search, verdicts, page and table, and a small one from end to end."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tiny import tiny

import helixsim as hx
from helixsim.domain.figures import RankingFigures
from helixsim.errors import ConfigError, InfeasibleError
from helixsim.metrics.score import PARTS
from helixsim.papers.leaderboard import files, page, run, tasks, text, verdicts
from helixsim.papers.leaderboard.names import CLUSTERS, LOADS, Effort, experiment_file
from helixsim.papers.leaderboard.run import Ladder, chosen_clusters, simulate_all
from helixsim.runtime.pool import Serial
from helixsim.study.race_budget import USUAL_CPU_S

QUICK = Effort(is_quick=True)


@pytest.mark.parametrize("cluster", CLUSTERS)
def test_every_cluster_has_an_experiment_with_all_strategies_and_objectives(cluster: str) -> None:
    experiment = hx.load(experiment_file(cluster)).resolve()
    assert experiment.name == f"leaderboard-{cluster}"
    placements = {system.placement for system in experiment.systems}
    assert placements == {
        "helix", "parallax", "exo", "hexgen2", "thunderserve", "cost_milp", "swarm", "petals", "separate", "replicas",
        "homogeneous",
    }  # fmt: skip
    assert None not in (experiment.slo.ttft_s, experiment.slo.tpot_s)
    nodes = len(experiment.fleet.cluster.nodes)
    assert nodes == {"single24": 24, "dist24": 24, "het42": 42, "ordinary": 35, "mi300x-l4": 24, "regions200": 200}.get(
        cluster, nodes
    )


@given(limit=st.floats(0, 1.4), step=st.sampled_from([0.05, 0.1]))
def test_the_search_finds_the_highest_step_within_the_objectives(limit: float, step: float) -> None:
    ladder = Ladder(step)
    for load in LOADS:
        ladder.note(load, load <= limit)
    tried = 0
    while (number := ladder.following()) is not None:
        assert number not in ladder.known
        ladder.note(number * step, number * step <= limit)
        tried += 1
    highest = max((n for n in range(round(run.MOST_LOAD / step) + 1) if n * step <= limit), default=0)
    assert ladder.best == highest
    assert tried <= 5


def test_a_load_above_one_that_fails_does_not_count() -> None:
    ladder = Ladder(0.1)
    for load, is_met in ((0.3, True), (0.5, False), (0.8, True)):
        ladder.note(load, is_met)
    assert ladder.best == 3
    assert ladder.following() == 4


def test_clusters_by_name() -> None:
    assert chosen_clusters([], Effort()) == list(CLUSTERS)
    assert set(CLUSTERS) - set(chosen_clusters([], QUICK)) == {"het42", "regions200"}
    assert chosen_clusters(["home", "home", "regions200"], QUICK) == ["home", "regions200"]
    with pytest.raises(ConfigError, match=r"hom.*did you mean"):
        chosen_clusters(["hom"], QUICK)


@given(warmup_s=st.floats(1, 3600))
def test_quick_windows_are_short_and_no_longer_than_two_minutes(warmup_s: float) -> None:
    settings = {key: float(str(value).removesuffix(" s")) for key, value in QUICK.settings(warmup_s).items()}
    assert settings["workload.warmup"] < warmup_s
    assert 30 <= settings["workload.duration"] <= 120
    assert not Effort().settings(warmup_s)


def outcome(share: float, latency_s: float | None = 1.0, wave: float = 0.0):
    """Return an outcome; ``wave``: by which share and logarithm of the latency differ from part to part."""
    waves = [wave * (-1) ** part for part in range(PARTS)]
    logs = [None if latency_s is None else math.log(latency_s) + one for one in waves]
    good = [100 * (share + one) for one in waves]
    ranking = RankingFigures(tuple(good), (100.0,) * PARTS, tuple(logs), (1.0,) * PARTS, 1.0, 1)
    return {"within_slo": share, "ranking": asdict(ranking)}


def firsts(**outcomes) -> tuple[str, set[str]]:
    (one,) = verdicts.standings({("home", name, 0.7): found for name, found in outcomes.items()})
    return one.leader, set(one.first)


def test_the_largest_share_is_first_then_the_least_latency() -> None:
    assert firsts(a=outcome(0.9), b=outcome(0.8, 0.1)) == ("a", {"a"})
    assert firsts(a=outcome(1.0, 2.0), b=outcome(1.0, 1.0)) == ("b", {"b"})
    assert firsts(a=outcome(1.0, 1.03, wave=0.2), b=outcome(1.0, 1.0)) == ("a", {"a", "b"})  # equal, none is cheaper
    assert firsts(a=outcome(0.9, 2.0, wave=0.1), b=outcome(0.89, 1.0)) == ("b", {"b"})  # not told apart by the share
    assert firsts(a=outcome(1.0, None), b=outcome(0.2, 1.0)) == ("a", {"a"})


def test_a_strategy_that_is_not_first_but_takes_less_time_in_the_median_is_told() -> None:
    def slower(time_s: float, share: float = 1.0):
        loads = {("home", "helix", 0.7): outcome(1.0, 1.0), ("home", "other", 0.7): outcome(share, 2.0)}
        rows = {
            ("home", name, 0.7): {"e2el_p50_s": median, "ttft_p95_s": 0.3}
            for name, median in (("helix", 1.0), ("other", time_s))
        }
        return verdicts._slower(verdicts.standings(loads), rows)

    (one,) = slower(0.9)
    assert one["faster"] == "other"
    (sentence,) = text.slower_sentences({"helix_slower": [one]})
    assert "other takes 0.900 s per request in the median, helix 1.00" in sentence
    assert slower(0.96) == slower(0.9, share=0.9) == []


def test_cells_without_a_figure_have_no_standing() -> None:
    loads = {("home", "a", 0.7): {"within_slo": None, "ranking": None}, ("home", "b", 0.7): {"failed": "no"}}
    assert verdicts.standings(loads) == []


@pytest.fixture
def small(tmp_path, monkeypatch):
    """Two strategies, and one whose budget buys no replica, on a cluster of five nodes."""
    path = tmp_path / "small.yaml"
    systems = (
        "{name: replicas, placement: replicas}",
        "{name: exo, placement: exo}",
        "{name: cost_milp, placement: {strategy: cost_milp, budget_usd_per_hour: 0.01}}",
    )
    path.write_text(tiny(*systems) + "slo: {ttft: 5 s, tpot: 1 s}\n", encoding="utf-8")
    monkeypatch.setitem(CLUSTERS, "small", "five nodes")
    monkeypatch.setattr(tasks, "experiment_file", lambda cluster: path)
    monkeypatch.setattr(Effort, "settings", lambda *_: {"workload.warmup": "1 s", "workload.duration": "4 s"})
    return tmp_path


def test_a_small_leaderboard_from_end_to_end(small, monkeypatch) -> None:
    said = []
    board = simulate_all(["small"], QUICK, small / "cache", Serial(), progress=lambda share, what: said.append(share))
    assert said == sorted(said)
    document = verdicts.document(board)
    json.dumps(document, allow_nan=False)
    by_key = {(one["strategy"], one["load"]): one for one in document["rows"]}
    assert len(document["rows"]) == 3 * (1 + len(LOADS))
    for load in ("saturated", *LOADS):
        assert "budget_usd_per_hour is 0.01" in by_key["cost_milp", load]["failed"]
        assert by_key["cost_milp", load]["output_tokens_per_s"] is None
        for name in ("replicas", "exo"):
            assert by_key[name, load]["failed"] is None
            assert by_key[name, load]["output_tokens_per_s"] > 0
    capacity = document["clusters"]["small"]["capacity_rps"]
    best = max(by_key[name, "saturated"]["served_rps"] for name in ("replicas", "exo"))
    assert capacity == pytest.approx(best, rel=0.01)
    for load in LOADS:
        assert by_key["exo", load]["rate_rps"] == pytest.approx(capacity * load, rel=0.01)
        served = by_key["exo", load]["output_tokens_per_s"]
        assert served <= document["clusters"]["small"]["bound_output_tokens_per_s"]
    assert {one["strategy"] for one in document["slo_rates"]} == {"replicas", "exo"}
    assert all(0 <= one["load"] <= 1.31 for one in document["slo_rates"])

    shown = text.text(document)
    assert "small, cost_milp: cost_milp: budget_usd_per_hour is 0.01" in shown
    assert "upper bound" in shown
    assert "| small | exo |" in text.text(document, markdown=True)
    written = files.write(document, small / "out")
    html = written.read_text(encoding="utf-8")
    assert html.count("budget_usd_per_hour is 0.01") >= 2
    assert "http" not in html.replace("http-equiv", "")
    assert len((small / "out" / "leaderboard.csv").read_text(encoding="utf-8").splitlines()) == 1 + 12
    assert json.loads((small / "out" / "leaderboard.json").read_text(encoding="utf-8")) == document

    monkeypatch.setattr(hx, "simulate", lambda *_args, **_how: pytest.fail("simulated again"))
    again = simulate_all(["small"], QUICK, small / "cache", Serial())
    assert verdicts.document(again) == document


def test_strategies_with_a_higher_rate_than_helix_are_told() -> None:
    names = ["helix", "a", "b", "c"]
    rates = {("home", "helix"): 1.0, ("home", "a"): 1.2, ("home", "b"): 1.5, ("home", "c"): 1.0}
    board = run.Leaderboard(QUICK, {"home": 2.0}, {"home": 9.0}, {}, {}, rates, {"home": names})
    found = verdicts._higher_rates(board)
    assert [(one["strategy"], one["rate_rps"]) for one in found] == [("b", 1.5), ("a", 1.2)]
    (first, _) = text.rate_sentences({"helix_behind_rates": found})
    assert first == "home: b meets the SLO up to 1.50 requests/s, helix up to 1.00"


def test_an_interrupted_search_is_no_outcome(small, monkeypatch) -> None:
    """A strategy that is stopped may return its best so far, as ``place`` shows it; a cell does not."""
    found = hx.place(tasks.loaded(tasks.Cell("small", "exo", 1.0, QUICK)), "exo")
    stopped = replace(found, placement=replace(found.placement, notes={"interrupted": True}))
    monkeypatch.setattr(hx, "place", lambda *_args, **_how: stopped)
    with pytest.raises(KeyboardInterrupt):
        tasks.Cell("small", "exo", 1.0, QUICK).perform(None)


@pytest.mark.slow
def test_the_bound_line_stays_on_the_scale(small) -> None:
    document = verdicts.document(simulate_all(["small"], QUICK, small / "cache", Serial()))
    (card,) = page.shown(document)["clusters"]
    assert 0 < card["bound_at"] <= 100
    for bar in card["bars"]:
        assert 0 <= bar["within"] <= 100
        assert 0 <= bar["saturated"] <= 100
    rows = {(row["load"], row["strategy"]): row for row in document["rows"]}
    for load, strip in zip(LOADS, card["strips"], strict=True):
        assert {dot["name"] for dot in strip["dots"]} == {
            name for at, name in rows if at == load and rows[at, name]["within_slo"] is not None
        }
        best = max(strip["dots"], key=lambda dot: dot["at"])["name"]
        assert rows[load, best]["within_slo"] == max(rows[load, dot["name"]]["within_slo"] for dot in strip["dots"])
        assert all(0 <= dot["at"] <= 100 for dot in strip["dots"])


def test_helix_is_placed_without_the_other_systems() -> None:
    experiment = tasks.loaded(tasks.Cell("home", "helix", 0.5, QUICK))
    assert [system.name for system in experiment.systems] == ["helix"]
    assert experiment.workload.arrivals.rate_rps == 0.5
    assert experiment.workload.window.warmup_ns == 60 * 10**9
    assert tasks.loaded(tasks.Cell("single24", "exo", 0.5, QUICK)).workload.window.warmup_ns == 180 * 10**9
    options = [
        tasks.loaded(tasks.Cell("home", "helix", 0.5, one)).systems[0].placement_options for one in (QUICK, Effort())
    ]
    assert options[0].race_cpu_s < USUAL_CPU_S
    assert options[1].race_cpu_s is None


def test_a_cell_of_the_search_is_placed_for_the_planned_rate_and_simulated_at_its_own(monkeypatch) -> None:
    rates: list[float] = []
    monkeypatch.setattr(tasks, "place", lambda experiment, *_: rates.append(experiment.workload.arrivals.rate_rps))

    def simulated(experiment, *_args, **_how):
        rates.append(experiment.workload.arrivals.rate_rps)
        raise InfeasibleError("enough is known")

    monkeypatch.setattr(hx, "simulate", simulated)
    cell = tasks.Cell("home", "helix", 0.5, QUICK, 2.0)
    assert cell.perform(None) == {"failed": "enough is known"}
    assert rates == [2.0, 0.5]
    keys = {one.key() for one in (cell, replace(cell, rate_rps=0.6), replace(cell, planned_rps=None), cell)}
    assert len(keys) == 3
