"""Limits of a step by GPU: rules, sizes of CUDA graphs, and whose limit wins."""

from __future__ import annotations

import dataclasses

import pytest
from pydantic import ValidationError

from helixsim import yamlio
from helixsim.domain.hardware import BatchLimits
from helixsim.errors import DataError
from helixsim.hardware import catalog, engines
from helixsim.hardware.engine_defaults import CudaGraphs, StepDefaults
from helixsim.hardware.profile_options import ProfileOptions
from helixsim.hardware.profiles import node_profile

MEASURED = BatchLimits(1, 6004, 396)


def limits(engine: str, gpu: str, gpus: int = 1, model: str = "llama-3-8b", **options) -> BatchLimits:
    steps = engines.load_engine(engine).steps
    spec = catalog.load_model(model, "fp8")
    profile, _ = node_profile(
        spec, catalog.load_gpu(gpu), gpus, ProfileOptions(steps=steps, holds_ends=True, **options)
    )
    assert len(set(profile.limits)) == 1
    return profile.limits[0]


@pytest.mark.parametrize(
    ("gpu", "tokens", "seqs"),
    [
        ("h100", 8192, 1024),
        ("h200", 8192, 1024),
        ("b200", 8192, 1024),
        ("mi300x", 8192, 1024),
        ("a100-80g", 2048, 256),  # by name, although it has the memory
        ("a100-40g", 2048, 256),
        ("l40s", 2048, 256),
        ("rtx-4090", 2048, 256),
    ],
)
def test_vllm_chooses_budget_and_sequences_by_gpu(gpu, tokens, seqs):
    found = limits("vllm-1", gpu)
    assert (found.max_prefill_tokens, found.max_decode_seqs, found.max_prefill_requests) == (tokens, seqs, seqs)


@pytest.mark.parametrize(
    ("gpu", "gpus", "tokens", "graph"),
    [
        ("rtx-4090", 1, 2048, 24),
        ("rtx-4090", 4, 2048, 80),
        ("l40s", 1, 4096, 32),
        ("l40s", 4, 4096, 160),
        ("h100", 1, 8192, 256),
        ("h100", 4, 8192, 512),
        ("h200", 8, 8192, 512),
        ("b200", 1, 16384, 512),
    ],
)
def test_sglang_chooses_chunk_and_graphs_by_gpu_and_width(gpu, gpus, tokens, graph):
    found = limits("sglang", gpu, gpus, "llama-3-70b")
    assert (found.max_prefill_tokens, found.graph_sizes[-1]) == (tokens, graph)
    assert found.graph_sizes[:6] == (1, 2, 4, 8, 12, 16)


def test_vllm_0_4_raises_its_budget_to_the_length_of_the_model():
    assert limits("vllm-0.4", "l40s").max_prefill_tokens == catalog.load_model("llama-3-8b").max_context_tokens
    short = dataclasses.replace(catalog.load_model("llama-3-8b"), max_context_tokens=512)
    steps = engines.load_engine("vllm-0.4").steps
    profile, _ = node_profile(short, catalog.load_gpu("l40s"), 1, ProfileOptions(steps=steps))
    assert profile.limits[0].max_prefill_tokens == 2048


def test_vllm_captures_graphs_up_to_twice_its_sequences_and_512():
    assert limits("vllm-1", "h100").graph_sizes[-2:] == (496, 512)
    few = limits("vllm-1", "h100", max_decode_seqs=128).graph_sizes
    assert few[:5] == (1, 2, 4, 8, 16)
    assert few[-1] == 256
    assert limits("vllm-1", "h100", max_prefill_tokens=100).graph_sizes[-1] == 96


def test_sizes_beyond_the_budget_are_not_captured_and_no_sizes_are_no_padding():
    graphs = CudaGraphs(sizes=[8, 64, {"from": 100, "to": 120, "step": 10}], most=[{"value": 115}])
    assert graphs.captured(115, MEASURED) == (8, 64, 100, 110)
    assert graphs.captured(115, BatchLimits(1, 64, 64)) == (8, 64)
    assert limits("ideal", "h100").graph_sizes == ()
    assert limits("vllm-1", "h100", graph_sizes=()).graph_sizes == ()


def test_an_engine_that_states_no_limits_keeps_the_measured_ones():
    for name in ("ideal", "helix-vllm-0.4"):
        steps = engines.load_engine(name).steps
        assert steps.limits(MEASURED, catalog.load_gpu("h100"), 1, 4096) == MEASURED


def test_the_engine_wins_over_measured_limits_and_the_user_over_both():
    model = "llama-2-70b"
    steps = engines.load_engine("vllm-1").steps
    spec, gpu = catalog.load_model(model), catalog.load_gpu("l4")
    measured = node_profile(spec, gpu, 1, ProfileOptions())[0].limits[0]
    ours = node_profile(spec, gpu, 1, ProfileOptions(steps=steps))[0].limits[0]
    own = node_profile(spec, gpu, 1, ProfileOptions(steps=steps, max_decode_seqs=7, max_prefill_tokens=77))[0].limits[0]
    assert (measured.max_decode_seqs, ours.max_decode_seqs) == (380, 256)
    assert (own.max_decode_seqs, own.max_prefill_tokens) == (7, 77)


def test_a_budget_below_the_engines_sequences_lowers_them():
    assert limits("vllm-1", "h100", max_prefill_tokens=512).max_decode_seqs == 512
    assert limits("ideal", "h100", max_prefill_tokens=64).max_decode_seqs == 256  # its limit is on prompts


@pytest.mark.parametrize(
    ("rules", "said"),
    [
        ([{"min_gpu_memory": "70 GiB", "value": 1}], "the last rule must have no conditions"),
        ([], "the last rule must have no conditions"),
        ([{"min_gpu_memory": 70, "value": 1}, {"value": 2}], "needs a unit"),
        ([{"memory": "70 GiB", "value": 1}, {"value": 2}], "unknown key 'memory'"),
        (0, "greater than or equal to 1"),
        (True, "max_num_seqs"),
    ],
)
def test_faulty_rules_are_refused_with_their_place(tmp_path, rules, said):
    path = tmp_path / "bad.yaml"
    document = engines.document(engines.load_engine("vllm-1")) | {"max_num_seqs": rules}
    path.write_text(yamlio.dump(document), encoding="utf-8")
    with pytest.raises(DataError, match=said) as error:
        engines.load_engine(path)
    assert f"{path}:" in str(error.value)


def test_rules_are_checked_in_python_too():
    with pytest.raises(ValidationError):
        StepDefaults(max_num_seqs=[{"min_gpus": 2, "value": 1}])


@pytest.mark.parametrize("name", engines.engine_names())
def test_an_engine_reads_back_as_it_is_written(tmp_path, name):
    engine = engines.load_engine(name)
    path = tmp_path / "mine.yaml"
    path.write_text(yamlio.dump(engines.document(engine)), encoding="utf-8")
    assert engines.load_engine(path) == engine
