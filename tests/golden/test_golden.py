"""A frozen summary of a run in which nothing is random, and the laws it has to obey.

To freeze it anew after a deliberate change: ``python tests/golden/test_golden.py``, and say in the commit why.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import helixsim
from helixsim.config.experiment import ResolvedExperiment
from helixsim.metrics.summary import summarise

HERE = Path(__file__).parent
FROZEN = HERE / "constant.summary.json"


def load() -> ResolvedExperiment:
    return helixsim.load_experiment(HERE / "constant.yaml")


def summary() -> dict:
    experiment = load()
    placed = helixsim.place(experiment, "pipeline")
    stats = experiment.workload_stats
    found = summarise(
        helixsim.simulate(experiment, placed), slo=experiment.slo, fleet=experiment.fleet,
        placement=placed.placement, plan=placed.plan, mean_prompt_tokens=stats.mean_prompt_tokens,
        mean_output_tokens=stats.mean_output_tokens, offered_rps=stats.offered_rps,
    )  # fmt: skip
    return found.to_json()


@pytest.fixture(scope="module")
def computed():
    return summary()


def leaves(tree, path=()):
    if isinstance(tree, dict):
        for key, value in tree.items():
            yield from leaves(value, (*path, key))
    elif isinstance(tree, list):
        for number, value in enumerate(tree):
            yield from leaves(value, (*path, number))
    else:
        yield path, tree


def test_the_summary_is_as_frozen(computed):
    frozen = dict(leaves(json.loads(FROZEN.read_text(encoding="utf-8"))))
    found = dict(leaves(computed))
    assert found.keys() == frozen.keys()
    for path, value in frozen.items():
        expected = pytest.approx(value, rel=1e-6) if isinstance(value, float) else value
        assert found[path] == expected, path


def test_served_is_offered_and_totals_are_rates_times_time(computed):
    """2 requests/s of 64 tokens are 128 tokens/s; the system is stable, so it serves them, within one request."""
    assert computed["output_throughput"] == pytest.approx(128, abs=64 / 40)
    assert computed["total_output_tokens"] == pytest.approx(computed["output_throughput"] * computed["duration"])
    assert computed["completed"] == pytest.approx(2 * 40, abs=1)
    assert computed["request_goodput"] == computed["request_throughput"]


def test_end_to_end_is_first_token_plus_the_other_63(computed):
    assert computed["mean_e2el_ms"] == pytest.approx(computed["mean_ttft_ms"] + 63 * computed["mean_tpot_ms"], rel=0.01)


def test_a_step_is_at_least_the_weights_read_once(computed):
    """80 layers of 1.71 GB at 2039 GB/s are 67 ms; the pipeline adds links, so no gap can be shorter."""
    assert computed["median_itl_ms"] > 80 * 1.711e9 / 2.039e12 * 1e3


if __name__ == "__main__":
    FROZEN.write_text(json.dumps(summary(), indent=1) + "\n", encoding="utf-8")
