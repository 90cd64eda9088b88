"""What the models do not represent is refused, or labelled."""

from __future__ import annotations

import pytest

import helixsim as hx
from helixsim.cli.main import main
from helixsim.errors import ConfigError


def experiment(gpu: str, **engine) -> hx.Experiment:
    load = {
        "lengths": {"distribution": "fixed", "prompt_tokens": 100, "output_tokens": 20},
        "limits": {"max_output_tokens": 20},
        "arrivals": {"process": "closed_loop", "concurrency": 2, "num_requests": 4},
    }
    cluster = hx.Cluster({gpu: 1}, link="8 Gbit/s, 1 ms")
    return hx.Experiment("llama-3.1-8b", cluster, load=load, systems=["separate"], engine={"name": "trtllm", **engine})


@pytest.mark.parametrize(("gpu", "runs"), [("h100", True), ("l40s", True), ("mi300x", False), ("v100-32g", False)])
def test_an_engine_on_a_gpu_that_it_does_not_run_on_is_refused(gpu, runs) -> None:
    if runs:
        assert experiment(gpu).resolve().unsupported == ()
        return
    with pytest.raises(ConfigError, match=rf"engine.*TensorRT-LLM does not run on {gpu}.*--allow-unsupported"):
        experiment(gpu).resolve()


def test_it_is_simulated_if_allowed_and_labelled(tmp_path) -> None:
    (run,) = experiment("mi300x", allow_unsupported=True).run(tmp_path, jobs=1).values()
    assert run.model_error.label == "unsupported"
    assert "does not run on mi300x" in run.model_error.sentence


def test_the_command_allows_it_by_an_option(tmp_path, capsys) -> None:
    path = tmp_path / "exp.yaml"
    path.write_text(
        "schema: 1\nmodel: llama-3.1-8b\ncluster:\n  nodes: [{gpu: mi300x}]\n"
        "  network: {intra_region: {bandwidth: 8 Gbit/s, latency: 1 ms}}\n"
        "workload:\n  lengths: {distribution: fixed, prompt_tokens: 10, output_tokens: 5}\n"
        "  limits: {max_output_tokens: 5}\n"
        "  arrivals: {process: closed_loop, concurrency: 2, num_requests: 4}\n"
        "systems: [{placement: separate}]\nengine: trtllm\n"
    )
    assert main(["validate", str(path)]) == 2
    assert "exp.yaml:11:" in capsys.readouterr().err
    assert main(["validate", str(path), "--allow-unsupported"]) == 0
