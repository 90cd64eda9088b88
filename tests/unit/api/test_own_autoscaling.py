"""Autoscaling policies of the user's own: functions and classes, their options, and what is refused."""

from __future__ import annotations

import pytest

import helixsim as hx
from helixsim.autoscaling.registry import REGISTRY
from helixsim.errors import ConfigError, PluginError
from helixsim.runtime.identity import experiment_key


@pytest.fixture(autouse=True)
def own_names():
    """Names that a test gives vanish with it."""
    before = dict(REGISTRY.own)
    yield
    REGISTRY.own.clear()
    REGISTRY.own.update(before)


def tiny(**autoscaling):
    return hx.Experiment(
        "llama-2-7b", hx.Cluster({"l4": 4}, link="8 Gbit/s, 1 ms"), load=hx.poisson(2, (200, 20)), engine="vllm-1",
        window=("2 s", "40 s"), systems=[{
            "placement": "replicas", "routing": "least_loaded",
            "autoscaling": {"startup": {"machine": "0 s", "engine": "1 s"}, "interval": "2 s", **autoscaling},
        }],
    )  # fmt: skip


def test_a_function_decides_and_floor_and_ceiling_are_kept(tmp_path):
    @hx.autoscaling("steps")
    def steps(state, *, each: float = 10.0, most: int = 9):
        return min(most, int(state.now_s // each))

    found = tiny(policy="steps", options={"each": 8.0}, pools={"l4": {"floor": 1, "ceiling": 3}})
    (system,) = found.resolve().systems
    assert system.autoscaling.policy.options.each == 8.0
    (run,) = found.run(out=tmp_path, jobs=1).values()
    pools = run.columns("pools")
    assert set(pools["serving"]) == {1, 2, 3}
    other = tiny(policy="steps", options={"each": 4.0}, pools={"l4": {"floor": 1, "ceiling": 3}})
    assert experiment_key(other.resolve()) != experiment_key(found.resolve())


def test_what_is_no_number_of_replicas_is_an_error_of_the_policy(tmp_path):
    @hx.autoscaling("vague")
    def vague(state):
        return 1.5

    runs = tiny(policy="vague")
    with pytest.raises(PluginError, match=r"vague.*returned 1.5, expected a number of replicas"):
        runs.run(out=tmp_path, jobs=1)


@pytest.mark.parametrize(
    ("autoscaling", "message"),
    [
        ({"policy": "targets"}, "did you mean 'target'"),
        ({"policy": "nowhere:none"}, "no module 'nowhere'"),
        ({"policy": "kept", "options": {"weigth": 1.0}}, "weigth"),
        ({"policy": "kept", "target": 3}, "kept does not use it"),
        ({"policy": "queue", "options": {"weight": 1.0}}, "queue has no options"),
    ],
)
def test_names_and_options_that_do_not_fit_are_refused(autoscaling, message):
    @hx.autoscaling("kept")
    def kept(state, *, weight: float = 1.0):
        return state.replicas

    with pytest.raises(ConfigError, match=message):
        tiny(**autoscaling).resolve()


def test_names_of_helixsim_are_taken():
    with pytest.raises(ConfigError, match="'target' is one of helixsim's own"):
        hx.autoscaling("target")
