"""Goodput and latencies by class of requests, and objectives of classes."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from helixsim.domain.request import Slo
from helixsim.domain.summary import Summary
from helixsim.metrics.objectives import Target, evaluate_target
from helixsim.metrics.summary import summarise
from helixsim.metrics.throughput import of_class, throughput

FAST, SLOW = Slo(ttft_s=0.12, tpot_s=0.0305), Slo(e2el_s=5.0)


@pytest.fixture
def mixed(fakes):
    """A run whose requests have the classes a, b and none in turn."""
    run = fakes.queue_run().run
    classes = np.arange(len(run.requests.status)) % 3 - 1
    return replace(run, classes=("a", "b"), requests=replace(run.requests, slo_class=classes))


@pytest.fixture
def summary(fakes):
    fleet = fakes.fleet()
    return lambda run, slo: summarise(
        run, slo=slo, fleet=fleet, placement=fakes.placement(fleet), plan=fakes.plan(fleet),
        mean_prompt_tokens=250.0, mean_output_tokens=30.0, offered_rps=4.0,
    )  # fmt: skip


def test_classes_share_the_requests_of_the_run_among_them(mixed) -> None:
    parts = [of_class(mixed, "a"), of_class(mixed, "b"), of_class(mixed, None, ("a", "b"))]
    for slo in (FAST, SLOW):
        for field in ("arrived", "completed", "failed", "good_requests", "overdue", "undecided"):
            whole = getattr(throughput(mixed, slo), field)
            assert sum(getattr(throughput(part, slo), field) for part in parts) == whole


def test_each_request_counts_by_the_objective_of_its_class(mixed) -> None:
    slo = replace(FAST, classes=(("b", SLOW),))
    counts = throughput(mixed, slo)
    others, slow = throughput(of_class(mixed, None, ("b",)), FAST), throughput(of_class(mixed, "b"), SLOW)
    assert counts.good_requests == others.good_requests + slow.good_requests
    assert throughput(mixed, FAST).good_requests < counts.good_requests
    decided = counts.completed + counts.failed + others.overdue + slow.overdue
    assert counts.slo_attainment == pytest.approx(counts.good_requests / decided)


def test_objectives_of_equal_classes_are_those_of_the_whole(mixed) -> None:
    same = replace(FAST, classes=(("a", FAST), ("b", FAST)))
    assert throughput(mixed, same) == throughput(mixed, FAST)


def test_an_objective_of_a_class_alone_is_one(mixed) -> None:
    only = Slo(classes=(("a", FAST),))
    assert only.is_stated
    counts = throughput(mixed, only)
    unlimited = throughput(of_class(mixed, None, ("a",)), Slo()).completed
    assert counts.good_requests == unlimited + throughput(of_class(mixed, "a"), FAST).good_requests


def test_figures_of_classes_are_in_the_summary_and_survive_its_file(mixed, summary) -> None:
    slo = replace(FAST, classes=(("b", SLOW),))
    found = summary(mixed, slo)
    assert list(found.classes) == ["a", "b"]
    assert found.classes["b"].goodput_per_s == pytest.approx(
        throughput(of_class(mixed, "b"), SLOW).good_requests / found.window.duration_s
    )
    document = found.to_json()
    assert document["helixsim"]["classes"]["a"]["p99_ttft_ms"] == pytest.approx(1e3 * found.classes["a"].ttft.p99_s)
    read = Summary.from_json(document)
    assert read.to_json() == document
    assert read.classes["a"].slo_attainment == found.classes["a"].slo_attainment
    assert "classes" not in summary(replace(mixed, classes=()), FAST).to_json()["helixsim"]


def test_a_target_is_missed_by_the_class_that_misses_it(mixed) -> None:
    strict = Slo(ttft_s=60.0, classes=(("b", Slo(ttft_s=1e-4)),))
    verdict = evaluate_target(mixed, Target("x", strict))
    assert not verdict.is_met
    assert verdict.tightest == "b TTFT p99"
    assert [miss.split(" ")[0] for miss in verdict.misses] == ["b"]
    assert evaluate_target(mixed, Target("x", replace(strict, classes=()))).is_met


def test_requests_outside_the_classes_are_not_asked_for(mixed) -> None:
    all_classified = replace(mixed, requests=replace(mixed.requests, slo_class=np.zeros_like(mixed.requests.slo_class)))
    target = Target("x", Slo(ttft_s=60.0, classes=(("a", Slo(ttft_s=60.0)),)))
    assert evaluate_target(all_classified, target).is_met


def test_objectives_survive_their_document() -> None:
    slo = Slo(1.0, None, 2.0, (("a", FAST), ("b", Slo())))
    assert Slo.from_json(slo.to_json()) == slo
    assert Slo.from_json({"ttft_s": 1.0, "tpot_s": None, "e2el_s": None}) == Slo(1.0)
