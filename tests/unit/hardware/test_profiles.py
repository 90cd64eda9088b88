"""Node profiles: which source wins, what is said about it, and the laws between their parts."""

import dataclasses
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from helixsim.domain.hardware import BatchLimits, NodeProfile
from helixsim.errors import DataError, InfeasibleError
from helixsim.hardware import catalog
from helixsim.hardware.profile_options import ProfileOptions
from helixsim.hardware.profiles import DEFAULT_LIMITS, PUBLISHED_WEIGHT_FRACTION, node_profile

HEADER = "model,gpu,phase,batch_tokens,ms_per_layer\n"
TIMINGS = HEADER + "llama70b,L4,prompt,0,0\nllama70b,L4,prompt,250,10\nllama70b,L4,decode,0,0\nllama70b,L4,decode,2,5\n"
LIMITS = (
    "gpu,layers,kv_tokens_per_layer,prompt_max_requests,prompt_max_tokens,decode_max_tokens\n"
    "L4,1,3200,1,2048,380\nL4,2,1600,1,2048,280\n"
)

PUBLISHED_MAX_LAYERS = {
    "llama-2-70b": {"a100-40g": 12, "v100": 4, "l4": 7, "l4x2": 14, "t4": 4, "t4x2": 9, "t4x4": 18},
    "llama-1-30b": {"a100-40g": 18, "v100": 7, "l4": 11, "l4x2": 22, "t4": 7, "t4x2": 15, "t4x4": 30},
}


def _profile(model: str, kind: str, **options: object) -> tuple[NodeProfile, tuple[str, ...]]:
    gpu, gpus = catalog.split_kind(kind)
    return node_profile(catalog.load_model(model), catalog.load_gpu(gpu), gpus, ProfileOptions(**options))


@pytest.mark.parametrize(("model", "kind"), [(m, k) for m, kinds in PUBLISHED_MAX_LAYERS.items() for k in kinds])
def test_measured_kinds_carry_the_papers_figures_and_no_assumption(model: str, kind: str) -> None:
    profile, assumed = _profile(model, kind)
    assert profile.max_layers == PUBLISHED_MAX_LAYERS[model][kind]
    assert profile.typical_layers <= profile.typical_layers_full == profile.max_layers
    assert profile.initial_layer_tokens_per_s > 0
    assert profile.compute.source == "fitted"
    assert assumed == ()


def test_half_of_memory_gives_the_papers_layers_of_70b_by_itself() -> None:
    for kind, layers in PUBLISHED_MAX_LAYERS["llama-2-70b"].items():
        profile, _ = _profile("llama-2-70b", kind, max_weight_fraction=0.5000001)  # not the published figure
        assert profile.max_layers == layers


def test_an_a100_holds_more_than_planners_give_it() -> None:
    profile, _ = _profile("llama-2-70b", "a100-40g")
    assert len(profile.kv_blocks) >= 20
    at_80, _ = _profile("llama-2-70b", "a100-40g", memory_fraction=0.8)
    assert len(at_80.kv_blocks) == 20
    assert at_80.kv_tokens(20) == pytest.approx(1760, abs=32)  # what the artifact's separate pipelines got
    assert profile.limits[19] == profile.limits[11]


@settings(deadline=None, max_examples=60)
@given(
    st.sampled_from(["llama-2-70b", "llama-1-30b", "llama-3-8b", "mixtral-8x7b", "qwen2.5-32b"]),
    st.sampled_from(catalog.gpu_names()),
    st.sampled_from([1, 2, 4]),
    st.floats(0.7, 0.95),
    st.floats(0.2, 0.9),
    st.sampled_from(["fp16", "int4"]),
)
def test_parts_of_a_profile_fit_together(model_name, gpu_name, gpus, fraction, weights, precision):
    model, gpu = catalog.load_model(model_name, precision), catalog.load_gpu(gpu_name)
    options = ProfileOptions(memory_fraction=fraction, max_weight_fraction=weights)
    profile, assumed = node_profile(model, gpu, gpus, options)
    assert len(profile.kv_blocks) == len(profile.limits) <= model.num_layers
    assert 1 <= profile.typical_layers <= profile.typical_layers_full <= profile.max_layers <= len(profile.kv_blocks)
    assert profile.compute.kind == profile.kind
    is_computed = profile.compute.source in {"roofline", "scaled"}
    assert is_computed == any("no timings for" in sentence for sentence in assumed)
    is_published = weights == PUBLISHED_WEIGHT_FRACTION  # then the paper's own numbers of layers hold
    if not is_published and not any("planners may place one" in sentence for sentence in assumed):
        assert profile.max_layers * model.weight_bytes_per_layer <= weights * gpu.usable_memory_bytes * gpus
        assert profile.kv_tokens(profile.max_layers) >= 2048
    more, _ = node_profile(model, gpu, gpus, dataclasses.replace(options, memory_fraction=fraction + 0.04))
    assert all(few < many for few, many in zip(profile.kv_blocks, more.kv_blocks, strict=False))


def test_unmeasured_kinds_say_what_they_rest_on() -> None:
    profile, assumed = _profile("llama-3-70b", "l40s")
    assert profile.limits[0] == DEFAULT_LIMITS
    assert profile.typical_layers == round(2 * profile.typical_layers_full / 3)
    half_bytes = catalog.load_gpu("l40s").usable_memory_bytes / 2
    layer_bytes = catalog.load_model("llama-3-70b").weight_bytes_per_layer
    assert profile.typical_layers_full == half_bytes // layer_bytes < profile.max_layers
    assert profile.initial_layer_tokens_per_s == 0
    assert [sentence.split(":")[0] for sentence in assumed] == [
        "no timings for llama-3-70b on l40s",
        "no KV table for llama-3-70b on l40s",
    ]


def test_the_users_batch_limits_win() -> None:
    profile, _ = _profile("llama-2-70b", "l4", max_prefill_tokens=512, max_prefill_requests=7, max_decode_seqs=9)
    assert set(profile.limits) == {BatchLimits(7, 512, 9)}
    measured, _ = _profile("llama-2-70b", "l4", max_decode_seqs=9)
    assert measured.limits[0] == BatchLimits(1, 2048, 9)


def test_timings_of_other_precisions_are_not_used() -> None:
    model, gpu = catalog.load_model("llama-2-70b", "int4"), catalog.load_gpu("l4")
    profile, assumed = node_profile(model, gpu, 1, ProfileOptions())
    assert profile.compute.source == "roofline"
    assert "are for fp16 weights, not int4" in assumed[0]
    bf16, assumed = node_profile(catalog.load_model("llama-2-70b", "bf16"), gpu, 1, ProfileOptions())
    assert (bf16.compute.source, assumed) == ("fitted", ())
    small_cache = catalog.load_model("llama-2-70b", kv_precision="fp8")
    profile, assumed = node_profile(small_cache, gpu, 1, ProfileOptions())
    assert profile.compute.source == "fitted"
    assert any("16-bit KV cache" in sentence for sentence in assumed)
    assert profile.kv_blocks[0] // 2 == pytest.approx(_profile("llama-2-70b", "l4")[0].kv_blocks[0], abs=1)


def test_the_users_timings_come_first(tmp_path: Path) -> None:
    path = tmp_path / "timings.csv"
    path.write_text(TIMINGS)
    profile, assumed = _profile("llama-2-70b", "l4", timings=path)
    assert profile.compute.source == "measured"
    assert profile.compute.prefill(250) == 10e6
    assert profile.max_layers == 7  # memory still from the published table
    assert assumed == ()
    other, assumed = _profile("llama-2-70b", "t4", timings=path)
    assert other.compute.source == "fitted"
    assert assumed == ("timings.csv: no timings for llama-2-70b on t4",)


def test_a_fitted_file_of_the_users_comes_before_the_committed_one(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(
        "model: llama-2-70b\nprecision: fp16\nsource: here\nkinds:\n  l4:\n"
        "    prefill: {tokens: [1, 250], ms: [3, 4], median_error: 0, worst_error: 0}\n"
        "    decode: {seqs: [2, 100], ms: [3, 5], median_error: 0, worst_error: 0}\n"
    )
    profile, assumed = _profile("llama-2-70b", "l4", timings=path)
    assert profile.compute.decode(1) == 3e6
    assert profile.compute.provenance.startswith("here")
    assert any("no KV table" in sentence for sentence in assumed)
    other, _ = _profile("llama-2-70b", "t4", timings=path)
    assert other.compute.provenance.startswith("per-layer timings")


def test_the_users_limits_are_taken_as_tabulated(tmp_path: Path) -> None:
    path = tmp_path / "limits.csv"
    path.write_text(LIMITS)
    profile, assumed = _profile("llama-2-70b", "l4", limits=path, memory_fraction=0.1)
    assert profile.kv_blocks == (200, 100)
    assert profile.max_layers == profile.typical_layers == 2
    assert profile.limits[1] == BatchLimits(1, 2048, 280)
    assert "gpu_memory_utilization has no effect" in assumed[0]
    other, assumed = _profile("llama-2-70b", "t4", limits=path)
    assert other.max_layers == 4
    assert "no limits for llama-2-70b on t4" in assumed[0]
    with pytest.raises(DataError, match="no multiple of block_tokens 7"):
        _profile("llama-2-70b", "l4", limits=path, block_tokens=7)


def test_a_node_too_small_for_one_layer_is_refused_with_figures() -> None:
    with pytest.raises(
        InfeasibleError, match=r"t4 cannot hold one layer of llama-3.1-405b.*5.94 GiB.*gpu_memory_utilization 0.2"
    ):
        _profile("llama-3.1-405b", "t4", memory_fraction=0.2)


def test_a_node_that_planners_would_leave_out_says_so() -> None:
    profile, assumed = _profile("llama-3.1-405b", "t4", max_weight_fraction=0.1)
    assert profile.max_layers == 1
    assert any("max_weight_fraction 0.1 leaves no room for one layer" in sentence for sentence in assumed)


def test_a_planner_fills_a_node_up_to_the_kv_memory_of_one_context() -> None:
    model, kind = "llama-3.1-8b", "rtx-4090"
    profile, _ = _profile(model, kind)
    assert (profile.max_layers, profile.limited_by) == (32, "")  # weights fill two thirds of the card
    longer, _ = _profile(model, kind, least_kv_tokens=100_000)
    assert longer.kv_tokens(longer.max_layers) >= 100_000 > longer.kv_tokens(longer.max_layers + 1)
    assert longer.limited_by == "KV memory for one context of 100000 tokens"


@pytest.mark.parametrize(
    ("model", "kind", "options", "limit"),
    [
        ("llama-3.1-8b", "rtx-4090", {"max_weight_fraction": 0.3}, "engine.max_weight_fraction 0.3"),
        ("llama-2-70b", "l4", {}, "the number published with its timings"),
        ("llama-3-70b", "l40s", {"least_kv_tokens": 1}, "memory for weights"),
    ],
)
def test_the_limit_that_binds_is_named(model: str, kind: str, options: dict[str, float], limit: str) -> None:
    profile, _ = _profile(model, kind, **options)
    assert profile.limited_by == limit
