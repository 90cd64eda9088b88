"""Policies of spot machines of the user's own, and what is refused of a mixture."""

from __future__ import annotations

import pytest

import helixsim as hx
from helixsim.autoscaling.spot_registry import REGISTRY
from helixsim.domain.summary import Summary
from helixsim.errors import ConfigError, PluginError


@pytest.fixture(autouse=True)
def own_names():
    """Names that a test gives vanish with it."""
    before = dict(REGISTRY.own)
    yield
    REGISTRY.own.clear()
    REGISTRY.own.update(before)


def tiny(spot, policy="fixed", start=2):
    return hx.Experiment(
        "llama-2-7b", hx.Cluster({"l4": 6}, link="8 Gbit/s, 1 ms"), load=hx.poisson(2, (200, 20)), engine="vllm-1",
        window=("2 s", "60 s"), systems=[{
            "placement": "replicas", "routing": "least_loaded",
            "autoscaling": {
                "policy": policy, "startup": {"machine": "0 s", "engine": "1 s", "weights": "200 Gbit/s"},
                "interval": "2 s", "pools": {"l4": {"start": start}},
                "spot": {"zones": 2, "available": "15 s", "short": "10 s", "notice": "1 s", "price": 0.5, **spot},
            },
        }],
    )  # fmt: skip


def test_a_function_mixes_and_its_figures_are_in_the_summary(tmp_path):
    @hx.autoscaling.spot("half")
    def half(state, *, share: float = 0.5):
        on_demand = round(share * state.wanted)
        return state.wanted - on_demand, on_demand

    runs = tiny({"policy": "half"}).run(out=tmp_path, jobs=1)
    (run,) = runs.values()
    (pool,) = run.summary.autoscaling.pools.values()
    assert pool.spot.wanted_mean == 2
    assert 0 < pool.spot.spot_mean < 2
    assert pool.spot.preempted > 0
    assert pool.spot.on_demand_usd > pool.spot.cost_usd > 0
    assert set(run.columns("pools")) >= {"spot", "wanted"}
    assert run.summary.autoscaling.cost_usd == pytest.approx(pool.spot.cost_usd)
    shown = [text.get_text() for legend in runs.plot.autoscaling().legends for text in legend.get_texts()]
    assert "on spot machines" in shown
    assert Summary.from_json(run.summary.to_json()).autoscaling == run.summary.autoscaling


def test_what_is_no_mixture_is_an_error_of_the_policy(tmp_path):
    @hx.autoscaling.spot("vague")
    def vague(state):
        return 1

    with pytest.raises(PluginError, match=r"vague.*returned 1, expected Mix"):
        tiny({"policy": "vague"}).run(out=tmp_path, jobs=1)


@pytest.mark.parametrize(
    ("spot", "how", "message"),
    [
        ({"policy": "spot_hegde"}, {}, "did you mean 'spot_hedge'"),
        ({"options": {"spares": 1}}, {}, "spares"),
        ({"options": {"spare": -1}}, {}, "spare"),
        ({}, {"policy": "queue"}, "queue counts from the replicas that serve"),
        ({}, {"start": None}, "required by fixed with spot, in each pool"),
        ({"price": 1.5}, {}, "price"),
        ({"zones": 2, "shortages": [{"zone": 3, "at": "1 s", "for": "9 s"}]}, {}, "zone: there are 2 zones, got 3"),
        (
            {"shortages": [{"zone": 1, "at": "1 s", "for": "9 s"}, {"zone": 1, "at": "5 s", "for": "1 s"}]},
            {},
            "two shortages of zone 1 overlap at 5 s",
        ),
    ],
)
def test_mixtures_that_do_not_fit_are_refused(spot, how, message):
    with pytest.raises(ConfigError, match=message):
        tiny(spot, **how).resolve()
