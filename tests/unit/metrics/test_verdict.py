"""Laws of the verdict on systems, over systems with figures made by hand."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from helixsim.domain.autoscaling_figures import AutoscalingFigures
from helixsim.domain.fault_figures import FaultEvent, FaultFigures
from helixsim.domain.figures import ClassFigures, Latency, ObjectiveFigures
from helixsim.domain.request import FeedMode, Slo
from helixsim.domain.summary import Summary, rounded
from helixsim.metrics.criteria import ALIKE, Criterion, race_steps, ranked
from helixsim.metrics.objectives import Target, evaluate_target, objective_figures
from helixsim.metrics.score import PARTS, Score, of_summary
from helixsim.metrics.throughput import attainment_interval, throughput
from helixsim.metrics.verdict import DoubtKind, verdict_of
from helixsim.metrics.verdict_text import answer, share_text, suggestion
from helixsim.results.runset import RunSet, WhatIf

NAMES = ("a", "b", "c", "d")
SHARES = st.floats(0, 1)


@pytest.fixture
def base(fake_runs) -> Summary:
    return fake_runs["helix"].summary


WAVE = np.tile([1.0, -1.0], PARTS // 2)


def system(
    base: Summary, *, share: float = 1.0, noise: float = 0.0, ttft_s: float | None = 0.5, latency_s: float = 2.0,
    tokens_per_s: float = 100.0, price: float = 10.0, saturation: str = "STABLE", feed: FeedMode = FeedMode.OPEN,
    nodes: int = 4, cost_first: bool = False,
) -> Summary:  # fmt: skip
    """A system whose TTFT p99 is ``ttft_s``, of 1 s allowed; ``noise`` is that of its parts."""
    duration_s = base.window.duration_s
    score = Score(
        100 * share + 100 * noise * WAVE, np.full(PARTS, 100.0), np.log(latency_s) + noise * WAVE,
        tokens_per_s * duration_s / PARTS * (1 + noise * WAVE), duration_s, (price, nodes), cost_first,
    )  # fmt: skip
    return replace(
        base,
        load=replace(base.load, saturation=saturation, feed=feed, offered_per_s=4.0),
        throughput=replace(
            base.throughput, slo_attainment=share, goodput_per_s=4 * share, output_tokens_per_s=tokens_per_s,
        ),
        objectives={"TTFT": ObjectiveFigures(1.0, 99.0, ttft_s, share)},
        ranking=rounded(replace(base, ranking=score.figures())).ranking,
    )  # fmt: skip


SYSTEMS = st.lists(
    st.fixed_dictionaries(
        {
            "share": SHARES,
            "noise": st.sampled_from([0.0, 0.01, 0.1]),
            "ttft_s": st.sampled_from([0.2, 0.999, 1.001, 5.0, None]),
            "latency_s": st.floats(0.1, 100),
            "tokens_per_s": st.floats(1, 1000),
            "price": st.sampled_from([10.0, 20.0]),
            "cost_first": st.booleans(),
            "nodes": st.integers(1, 3),
            "saturation": st.sampled_from(["STABLE", "BACKLOGGED", "OVERLOADED"]),
        }
    ),
    min_size=1,
    max_size=4,
)
FEEDS = st.sampled_from(list(FeedMode))
LAW = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=150, deadline=None)


@LAW
@given(SYSTEMS, FEEDS, st.booleans(), st.randoms(use_true_random=False))
def test_order_of_the_systems_does_not_matter(base, drawn, feed, has_slo, random) -> None:
    cases = {name: system(base, feed=feed, **one) for name, one in zip(NAMES, drawn, strict=False)}
    names = list(cases)
    random.shuffle(names)
    shuffled = verdict_of({name: cases[name] for name in names}, has_slo=has_slo)
    found = verdict_of(cases, has_slo=has_slo)
    assert found.ranking == shuffled.ranking
    assert found.lead == shuffled.lead
    assert sorted(found.ranking) == sorted(cases)


@LAW
@given(SYSTEMS)
def test_the_verdict_is_the_order_of_a_race_on_the_same_requests(base, drawn) -> None:
    cases = {name: system(base, **one) for name, one in zip(NAMES, drawn, strict=False)}
    scores = {name: of_summary(one) for name, one in cases.items()}
    for has_slo in (False, True):
        raced = ranked(list(scores), scores, race_steps(scores, has_slo=has_slo))
        assert verdict_of(cases, has_slo=has_slo).ranking == tuple(raced)


@LAW
@given(SYSTEMS)
def test_no_system_has_a_larger_share_than_the_best_beyond_the_interval(base, drawn) -> None:
    cases = {name: system(base, **one) for name, one in zip(NAMES, drawn, strict=False)}
    scores = {name: of_summary(one) for name, one in cases.items()}
    best = scores[verdict_of(cases, has_slo=True).best]
    largest = max(scores.values(), key=lambda one: (one.share, -one.latency_s))
    assert not largest.share_exceeds(best)


@LAW
@given(SYSTEMS)
def test_without_objectives_the_best_at_a_rate_has_the_lowest_latency_of_those_that_keep_up(base, drawn) -> None:
    cases = {name: system(base, **{**one, "cost_first": False}) for name, one in zip(NAMES, drawn, strict=False)}
    found = verdict_of(cases, has_slo=False)
    stable = [of_summary(one) for one in cases.values() if one.load.saturation != "OVERLOADED"]
    best = of_summary(cases[found.best])
    if stable:
        assert found.rule is Criterion.LATENCY
        assert not best.is_overloaded
        assert best.latency_s <= (1 + ALIKE) * min(one.latency_s for one in stable) + 1e-6
    else:
        assert found.rule is Criterion.THROUGHPUT


@LAW
@given(SYSTEMS, st.sampled_from([FeedMode.SATURATE, FeedMode.CLOSED_LOOP]))
def test_without_objectives_and_rate_the_best_has_the_highest_throughput(base, drawn, feed) -> None:
    cases = {name: system(base, feed=feed, **{**one, "noise": 0.0}) for name, one in zip(NAMES, drawn, strict=False)}
    best = cases[verdict_of(cases, has_slo=False).best].throughput.output_tokens_per_s
    assert all(one.throughput.output_tokens_per_s - best <= 1e-5 * best for one in cases.values())


def test_equal_goodput_is_decided_by_latency_and_then_by_price(base) -> None:
    cases = {
        "fast": system(base, share=1.0, price=20.0, latency_s=1.0),
        "as fast": system(base, share=0.99, noise=0.03, price=15.0, latency_s=1.02),
        "slow": system(base, share=0.985, noise=0.05, price=10.0, latency_s=3.0),
        "bad": system(base, share=0.5, price=1.0, latency_s=0.1),
    }
    found = verdict_of(cases, has_slo=True)
    assert found.ranking == ("as fast", "fast", "slow", "bad")
    assert found.lead.criterion is Criterion.PRICE
    two = verdict_of({name: cases[name] for name in ("fast", "slow")}, has_slo=True)
    assert two.lead.criterion is Criterion.LATENCY
    assert dict(answer(two))["Margin"].startswith(
        "latency (geometric mean of TTFT and TPOT) 1.00 s, slow 3.00 s (beyond"
    )
    asked = {name: replace(one, ranking=replace(one.ranking, cost_first=True)) for name, one in cases.items()}
    by_cost = verdict_of(asked, has_slo=True)
    assert by_cost.ranking == ("slow", "as fast", "fast", "bad")
    assert by_cost.lead.criterion is Criterion.PRICE
    assert dict(answer(verdict_of(asked, has_slo=False)))["Verdict"].startswith("bad has the lowest price")


@pytest.mark.parametrize(("latency_s", "best"), [(1.04, "cheap"), (1.1, "fast")])
def test_the_price_decides_between_latencies_within_five_per_cent_alone(base, latency_s, best) -> None:
    """Neither difference is beyond the sampling error."""
    cheap = system(base, noise=0.3, latency_s=latency_s, price=1.0)
    assert verdict_of({"fast": system(base, latency_s=1.0), "cheap": cheap}, has_slo=True).best == best


def test_a_system_that_misses_may_be_the_best_within_the_sampling_error(base) -> None:
    cases = {
        "meets": system(base, share=0.99, latency_s=5.0),
        "fast": system(base, share=0.985, noise=0.02, ttft_s=1.1),
    }
    found = verdict_of(cases, has_slo=True)
    assert found.best == "fast"
    said = dict(answer(found))["Verdict"]
    assert said.startswith(
        "fast is the best within the sampling error, but misses the SLO, which meets meets, 98.5 % of"
    )


def test_an_ordinary_fleet_is_not_praised_for_throughput(base) -> None:
    """Shares within the SLO of 85, 62 and 92 % of some 5 000 requests, all of them stable."""
    shares = {"helix": 0.85, "separate": 0.62, "homogeneous": 0.92}
    cases = {
        name: system(base, share=share, noise=0.01, ttft_s=1.6, tokens_per_s=900 / share)
        for name, share in shares.items()
    }
    found = verdict_of(cases, has_slo=True)
    assert found.ranking == ("homogeneous", "helix", "separate")
    said = dict(answer(found))
    assert said["Verdict"].startswith("No system meets the SLO; homogeneous is nearest, 92.0 % of requests")
    assert "p99 TTFT 1.60 s, allowed 1 s: missed" in said["Verdict"]


def test_a_stable_system_may_miss_and_without_objectives_an_overloaded_one_comes_after_it(base) -> None:
    cases = {"grows": system(base, saturation="OVERLOADED", latency_s=1.0), "keeps up": system(base, share=0.995)}
    found = verdict_of(cases, has_slo=False)
    assert found.ranking == ("keeps up", "grows")
    assert dict(answer(found))["Limit"].endswith("Overloaded: grows.")
    alone = verdict_of({"x": system(base, ttft_s=None, share=0.4)}, has_slo=True)
    assert alone.systems["x"].is_met is False
    assert "beyond the window" in dict(answer(alone))["Verdict"]


@pytest.mark.parametrize("limited_by", ["compute", "memory", "faults", "network"])
@pytest.mark.parametrize("saturation", ["STABLE", "OVERLOADED"])
def test_advice_fits_the_load(base, limited_by, saturation) -> None:
    """A rate can be lowered, and its highest value searched, only where requests arrive at one."""
    words = {FeedMode.OPEN: "capacity EXP", FeedMode.CLOSED_LOOP: "concurrency", FeedMode.SATURATE: "offer a rate"}
    for feed, word in words.items():
        missing = system(base, ttft_s=3.0, share=0.5, saturation=saturation, feed=feed)
        missing = replace(missing, cluster=replace(missing.cluster, limited_by=limited_by, limiting_node="n"))
        said = suggestion(verdict_of({"x": replace(missing, setting=None)}, has_slo=True))
        assert [other for other in words.values() if other in f"{said[0].lower()}{said[1:]}"] == [word]


def test_objectives_are_met_as_the_capacity_search_judges_them(fakes) -> None:
    for options in ({}, {"rate_rps": 12.0, "count": 1500}, {"step_ms": 45.0}):
        run = fakes.queue_run(**options).run
        for slo in (Slo(ttft_s=0.5, tpot_s=0.04), Slo(ttft_s=60.0), Slo(tpot_s=0.02, e2el_s=1.0)):
            figures = objective_figures(run, slo)
            misses = evaluate_target(run, Target("x", slo)).misses
            for name, one in figures.items():
                assert one.is_met is not any(miss.startswith(f"{name} p99") for miss in misses)
                assert one.is_met is (one.within >= 0.99)


def test_the_interval_of_attainment_is_around_it(fakes) -> None:
    run = fakes.queue_run(rate_rps=8.0, count=900).run
    slo = Slo(ttft_s=0.5, tpot_s=0.031)
    found, share = attainment_interval(run, slo), throughput(run, slo).slo_attainment
    assert found.low < share < found.high
    assert found.mean == pytest.approx(share, abs=0.01)
    assert attainment_interval(run, Slo()) is None


def test_draws_in_which_an_objective_is_met_grow_with_it(fake_runs, base) -> None:
    setting = base.setting
    shares = [
        verdict_of({"x": replace(system(base, ttft_s=ttft_s), setting=setting)}, has_slo=True)
        .systems["x"]
        .objectives[0]
        .met_in_draws
        for ttft_s in (0.01, 0.5, 1.0, 2.0, 50.0, None)
    ]
    assert shares == sorted(shares, reverse=True)
    assert shares[0] > 0.9 > 0.1 > shares[-2] > shares[-1] == 0.0


def test_few_requests_and_close_objectives_are_doubts(base) -> None:
    found = verdict_of({"x": system(base, ttft_s=0.97)}, has_slo=True).systems["x"].doubts
    assert {DoubtKind.CLOSE, DoubtKind.FEW_REQUESTS} <= {doubt.kind for doubt in found}


@pytest.mark.parametrize("has_slo", [False, True])
@pytest.mark.parametrize("feed", list(FeedMode))
def test_equal_systems_have_no_margin(base, has_slo, feed) -> None:
    equal = verdict_of({name: system(base, feed=feed) for name in "ab"}, has_slo=has_slo)
    said = dict(answer(equal))
    assert said["Margin"] == f"None: {equal.ranking[1]} is equal."
    assert "difference" not in said.get("Next", "")
    cheaper = verdict_of({"a": system(base, feed=feed), "b": system(base, feed=feed, price=9.0)}, has_slo=has_slo)
    assert cheaper.best == "b"
    said = dict(answer(cheaper))["Margin"]
    assert said.startswith("9.00 $/h of nodes with layers, a 10.0, at the same ")
    assert ("goodput" in said) is has_slo


@pytest.mark.parametrize(
    ("cheap_share", "best"), [(0.991, "cheap"), (0.99, "cheap"), (0.985, "costly"), (0.9, "costly")]
)
def test_price_decides_between_systems_with_enough_requests_within_the_slo_if_replicas_come_and_go(
    base, cheap_share, best
) -> None:
    """A saving is not lost to a faster system, or one that serves more than enough within the objectives."""
    scaled = AutoscalingFigures({}, gpu_hours=10.0, cost_usd=20.0, busy_share=0.5, window_s=60.0, other_gpus=0)
    costly = replace(system(base, share=1.0, latency_s=1.0, price=20.0), autoscaling=scaled)
    cheap = replace(system(base, share=cheap_share, latency_s=2.0, price=10.0), autoscaling=scaled)
    verdict = verdict_of({"costly": costly, "cheap": cheap}, has_slo=True)
    assert verdict.best == best
    if best == "cheap":
        said = dict(answer(verdict))["Margin"]
        assert said == "10.0 $/h paid on average, costly 20.0, both with 99 % or more of the requests within the SLO."
        assert verdict.lead is not None
        assert verdict.lead.ahead_in_draws is None  # of the latency, which has not decided
        growing = replace(cheap, load=replace(cheap.load, saturation="OVERLOADED"))
        stable = verdict_of({"costly": costly, "cheap": growing}, has_slo=True)
        assert stable.best == "costly"
        assert dict(answer(stable))["Margin"].startswith("not overloaded, as cheap is")
        without_slo = dict(answer(verdict_of({"a": costly, "b": cheap, "c": growing}, has_slo=False)))
        assert without_slo["Verdict"].startswith("b has the lowest price of the systems that are not overloaded; ")
        assert without_slo["Margin"] == "10.0 $/h paid on average, a 20.0, both not overloaded."
    fixed = {"costly": replace(costly, autoscaling=None), "cheap": replace(cheap, autoscaling=None)}
    assert verdict_of(fixed, has_slo=True).best == "costly"


@pytest.mark.parametrize(("least", "best"), [(0.6, "costly"), (0.985, "costly"), (0.99, "cheap"), (None, "cheap")])
def test_a_saving_does_not_cost_a_small_class_its_objective(base, least, best) -> None:
    """The class is a hundredth of all requests, of which more than enough are within the objectives."""
    scaled = AutoscalingFigures({}, gpu_hours=10.0, cost_usd=20.0, busy_share=0.5, window_s=60.0, other_gpus=0)
    latency = Latency(*[None] * 8)

    def of(share: float, least: float | None, price: float) -> Summary:
        classes = {
            name: ClassFigures(100, 0, 1.0, 1.0, own, latency, latency, latency)
            for name, own in (("chat", share), ("batch", least))
        }
        return replace(system(base, share=share, price=price), autoscaling=scaled, classes=classes)

    verdict = verdict_of({"costly": of(1.0, 1.0, 20.0), "cheap": of(0.996, least, 10.0)}, has_slo=True)
    assert verdict.best == best
    if least is not None and best == "costly":
        said = dict(answer(verdict))["Margin"]
        shown = f"100 % of requests of the class served least within the SLO, cheap {share_text(least)} %"
        assert said.startswith(shown)


def test_faults_are_the_first_cause_to_look_at(base) -> None:
    faults = FaultFigures((FaultEvent(100.0, "down", "a"),), 7, 8, 8, 5000, 1, 2)
    hurt = replace(system(base, share=0.9, ttft_s=3.0), faults=faults)
    assert dict(answer(verdict_of({"a": hurt}, has_slo=True)))["Next"].startswith("Run it without faults: ")


@pytest.mark.parametrize("count", [1, 2])
def test_an_objective_that_no_request_has_is_named(base, count) -> None:
    unknown = {"TPOT": ObjectiveFigures(0.05, 99.0, None, None)}
    one = system(base)
    both = {name: replace(one, objectives={**one.objectives, **unknown}) for name in NAMES[:count]}
    verdict = verdict_of(both, has_slo=True)
    assert verdict.systems["a"].is_met is None
    assert dict(answer(verdict))["Verdict"].endswith("p99 TPOT –, allowed 50 ms: no request has one).")


@pytest.mark.parametrize(("share", "is_nearest"), [(0.94, False), (0.5, True)])
def test_only_a_system_that_is_nearer_beyond_the_sampling_error_is_called_nearest(base, share, is_nearest) -> None:
    """Equal within the error, the faster system is first although fewer of its requests were within the objectives."""
    first = system(base, share=0.92, noise=0.05, ttft_s=5.0, latency_s=1.0)
    verdict = verdict_of({"a": system(base, share=share, ttft_s=5.0), "b": first}, has_slo=True)
    said = dict(answer(verdict))["Verdict"]
    assert verdict.best == "b"
    assert ("b is nearest, 92" in said) is is_nearest
    assert ("b is among the nearest within the sampling error, 92" in said) is not is_nearest


@pytest.mark.parametrize("has_slo", [False, True])
@pytest.mark.parametrize("count", [1, 3])
def test_a_window_without_any_request_judges_no_system(base, has_slo, count) -> None:
    empty = system(base, tokens_per_s=0.0)
    nothing = replace(
        empty,
        throughput=replace(empty.throughput, slo_attainment=None, goodput_per_s=0.0, attainment_interval=None),
        ranking=replace(empty.ranking, good=(0.0,) * PARTS, decided=(0.0,) * PARTS, log_latency=(None,) * PARTS),
        objectives={"TTFT": ObjectiveFigures(1.0, 99.0, None, None)} if has_slo else {},
    )
    verdict = verdict_of(dict(zip(NAMES[:count], [nothing] * count, strict=True)), has_slo=has_slo)
    said = dict(answer(verdict))
    assert said["Verdict"].startswith("Nothing was measured")
    assert not {"Margin", "Limit"} & set(said)
    assert verdict.to_json()["best"] is verdict.to_json()["lead"] is None
    some = verdict_of({"a": nothing, "b": system(base)}, has_slo=has_slo)
    assert some.best == some.to_json()["best"] == "b"


def test_verdict_survives_files_and_leaves_variants_out(fake_runs: RunSet, run_dir) -> None:
    loaded = RunSet.load(run_dir)
    assert loaded.verdict == fake_runs.verdict
    assert loaded.document()["verdict"] == fake_runs.document()["verdict"]
    variants = replace(fake_runs, whatif=(WhatIf("loss", ("less",), {fake_runs.verdict.best: "swarm"}),))
    assert fake_runs.verdict.best not in variants.verdict.ranking
    assert set(variants.verdict.systems) == set(fake_runs)


@given(st.floats(0, 1))
def test_only_all_requests_are_shown_as_100_percent(share) -> None:
    assert (share_text(share) == "100") is (share == 1)
    assert share_text(0.98996) == "98.9"
    assert (float(share_text(share)) >= 99) is (share >= 0.99 or round(share, 9) >= 0.99)
