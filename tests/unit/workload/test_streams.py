"""Classes of requests with arrivals and lengths of their own: one load of several streams."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from helixsim import Experiment
from helixsim.domain.request import Window
from helixsim.errors import ConfigError
from helixsim.study.placing import place_system
from helixsim.study.systems import simulate_system, summary_of
from helixsim.workload.feed import make_feed, offered_rps, workload_stats
from helixsim.workload.spec import ArrivalsSpec, LengthLimits, LengthsSpec, RequestClass, WorkloadSpec
from helixsim.workload.streams import streams_of

WINDOW = Window(0, 60 * 10**9, drain=False)


def fixed(prompt, output):
    return LengthsSpec("fixed", (("prompt_tokens", prompt), ("output_tokens", output)))


def load(chat_rps, rag_rps, **changes):
    classes = (
        RequestClass("chat", None, 1, ArrivalsSpec("poisson", chat_rps), fixed(100, 30)),
        RequestClass("rag", None, 2, ArrivalsSpec("gamma", rag_rps, burstiness=0.5), fixed(800, 10)),
    )
    whole = ArrivalsSpec("poisson", chat_rps + rag_rps)
    return replace(WorkloadSpec(None, None, whole, LengthLimits(), WINDOW, classes=classes), **changes)


def content(request):
    return request.arrival_ns, request.prompt_tokens, request.output_tokens


@settings(max_examples=12, deadline=None)
@given(st.floats(0.5, 5), st.floats(0.5, 5), st.integers(0, 2**64))
def test_the_requests_are_those_of_the_streams_in_order_of_arrival(chat_rps, rag_rps, seed):
    spec = load(chat_rps, rag_rps)
    found = list(make_feed(spec, seed, 1).requests)
    assert [request.id for request in found] == list(range(len(found)))
    assert [request.arrival_ns for request in found] == sorted(request.arrival_ns for request in found)
    for one, alone, own_seed in streams_of(spec, seed):
        own = [request for request in found if request.slo_class == one.name]
        assert list(map(content, own)) == list(map(content, make_feed(alone, own_seed, 1).requests))
        assert {request.priority for request in own} <= {one.priority}


def test_streams_are_independent_of_each_other():
    """Two of equal rates and processes have no arrival in common."""
    spec = load(3, 3)
    alike = tuple(replace(one, arrivals=ArrivalsSpec("poisson", 3.0)) for one in spec.classes)
    times = [request.arrival_ns for request in make_feed(replace(spec, classes=alike), 0, 1).requests]
    assert len(times) == len(set(times)) > 200


@settings(max_examples=12, deadline=None)
@given(st.floats(0.5, 5), st.floats(0.5, 5), st.floats(0.2, 3))
def test_statistics_are_means_by_rate_and_another_rate_scales_all(chat_rps, rag_rps, factor):
    spec = load(chat_rps, rag_rps)
    total = chat_rps + rag_rps
    stats = workload_stats(spec, 0)
    assert stats.offered_rps == pytest.approx(total)
    assert stats.mean_prompt_tokens == pytest.approx((100 * chat_rps + 800 * rag_rps) / total)
    assert stats.mean_output_tokens == pytest.approx((30 * chat_rps + 10 * rag_rps) / total)
    squares = (100**2 * chat_rps + 800**2 * rag_rps) / total
    assert stats.prompt_spread == pytest.approx(squares / stats.mean_prompt_tokens**2)
    assert stats.classes == ("chat", "rag")
    faster = replace(spec, arrivals=ArrivalsSpec("poisson", total * factor))
    assert [one.arrivals.rate_rps for _, one, _ in streams_of(faster, 0)] == pytest.approx(
        [chat_rps * factor, rag_rps * factor]
    )
    assert offered_rps(faster) == pytest.approx(total * factor)
    assert workload_stats(faster, 0).mean_prompt_tokens == pytest.approx(stats.mean_prompt_tokens)


DATA = {
    "schema": 1,
    "name": "streams",
    "model": "llama-3.2-1b",
    "engine": "vllm-1",
    "cluster": {
        "nodes": [{"gpu": "t4", "max_requests": 4}],
        "network": {"intra_region": {"bandwidth": "10 Gbit/s", "latency": "1 ms"}},
    },
    "systems": [{"placement": "replicas"}],
    "workload": {
        "duration": "20 s",
        "classes": {
            "chat": {
                "lengths": {"distribution": "fixed", "prompt_tokens": 100, "output_tokens": 30},
                "arrivals": {"process": "poisson", "rate": 6}, "priority": 0,
            },
            "rag": {
                "lengths": {"distribution": "fixed", "prompt_tokens": 900, "output_tokens": 30},
                "arrivals": {"process": "poisson", "rate": 9}, "priority": 1,
            },
        },
    },
    "slo": {"classes": {"chat": {"ttft": "1 s"}, "rag": {"ttft": "5 s"}}},
}  # fmt: skip


def test_the_document_of_an_experiment_loads_again():
    once = Experiment.from_data(DATA).resolve()
    again = Experiment.from_data(once.document).resolve()
    assert once.config_hash == again.config_hash
    assert once.workload_stats == again.workload_stats


def test_a_scheduler_by_priority_serves_the_urgent_stream_first():
    """Under overload its requests wait less than in order of arrival, and the others no less."""

    def ttft_s(policy):
        experiment = Experiment.from_data({**DATA, "engine": {"name": "vllm-1", "scheduling_policy": policy}}).resolve()
        placed = place_system(experiment, experiment.systems[0])
        run = simulate_system(experiment, placed)
        summary = summary_of(experiment, placed, run, offered_rps=15.0)
        return [summary.classes[name].ttft.mean_s for name in ("chat", "rag")]

    urgent, in_order = ttft_s("priority"), ttft_s("fcfs")
    assert urgent[0] < in_order[0] / 2
    assert urgent[1] >= in_order[1]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"workload.arrivals": {"process": "poisson", "rate": 1}},
            "workload.arrivals: not allowed where classes have arrivals",
        ),
        ({"workload.lengths": "azure-code"}, "workload.lengths: not allowed where classes have arrivals"),
        ({"workload.classes.rag.share": 0.5}, "workload.classes.rag.share: not allowed with arrivals of its own"),
        ({"workload.classes.rag.lengths": None}, "required key lengths is missing"),
        ({"workload.classes.rag.arrivals": None}, "required key arrivals is missing"),
        ({"workload.classes.rag.arrivals": {"process": "poisson"}}, "required key rate is missing"),
        ({"workload.classes.rag.arrivals.process": "poison"}, "unknown arrival process 'poison'"),
        ({"workload.classes.rag.arrivals": {"process": "saturate"}}, "saturate arrivals have no rate"),
        ({"workload.classes.rag.lengths.distribution": "fixt"}, "fixt"),
        ({"workload.classes.rag.limits": {"min_prompt_tokens": 9, "max_prompt_tokens": 5}}, "5 is below"),
        ({"slo.classes.more": {"ttft": "1 s"}}, "no request has the class 'more'"),
        ({"systems.0.arrivals": {"process": "poisson", "rate": 1}}, "systems.0.arrivals: not allowed where classes"),
        ({"workload.duration": None}, "never end: give workload.duration"),
    ],
)
def test_faults_are_refused(changes, message):
    with pytest.raises(ConfigError) as caught:
        Experiment.from_data(DATA).with_(changes).resolve()
    assert message in str(caught.value)
