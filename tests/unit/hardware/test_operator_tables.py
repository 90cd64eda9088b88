"""Operator tables: layers from made-up kernels in closed form, and what is said when there are none."""

import importlib.metadata
import itertools
import json
import math
from dataclasses import replace

import numpy as np
import pytest
from made_up_tables import made_up, ms

from helixsim.domain.engine import EngineSpec
from helixsim.domain.placement import LayerRange
from helixsim.domain.step_time import BatchShape, StepTime, prefill_pairs
from helixsim.errors import ConfigError, DataError, ExitCode
from helixsim.hardware import catalog, operator_library, operator_tables, profiles
from helixsim.hardware.kernels import Node
from helixsim.hardware.operator_layers import layer_operators
from helixsim.hardware.operator_library import DISTRIBUTION, SYSTEMS, backend_of, check_version, open_tables
from helixsim.hardware.operator_tables import operator_profile, operator_times
from helixsim.hardware.profile_options import ProfileOptions
from helixsim.hardware.profiles import node_profile

ENGINE = EngineSpec("kernels", copies_activations=False, shares_weight_reads=True)
LLAMA, QWEN, DEEPSEEK = (catalog.load_model(name) for name in ("llama-3.1-8b", "qwen3-30b-a3b", "deepseek-r1"))
H100 = catalog.load_gpu("h100")


def as_timed(model, gpu, gpus, tables):
    return operator_times(Node(gpu, gpus), model, tables, in_service=False)


def served(model, gpu, gpus, tables, **spread):
    return operator_times(Node(gpu, gpus, **spread), model, tables)


def step_time(model, gpus=1, held=None):
    compute = as_timed(model, H100, gpus, made_up())
    return StepTime(compute, ENGINE, held or LayerRange(0, model.num_layers), model.num_layers)


def of_tokens_ms(tokens, gpus=1):
    """All of one layer of Llama but attention."""
    hidden, inner = 4096, 14336
    matrices = hidden * (hidden + 2 * 1024) + hidden * hidden + 3 * hidden * inner
    elements = 3 * inner / gpus + 2 * 4 * hidden
    reduces = 2 * 1e-7 * hidden * gpus if gpus > 1 else 0.0
    return (1e-9 * matrices / gpus + 1e-8 * elements + reduces) * (tokens + 20)


@pytest.mark.parametrize("gpus", [1, 4])
def test_a_step_is_the_sum_of_its_operators(gpus):
    one, heads = step_time(LLAMA, gpus), 32 // gpus
    steps = BatchShape(decode_seqs=7, decode_context=7 * 555)
    decode = 0.005 + 7 * 555 * 1e-7 * heads
    assert one.ns(steps) == pytest.approx(32e6 * (of_tokens_ms(7, gpus) + decode))
    chunk = BatchShape(300, prefill_pairs(300, 1000), 1)
    prompt = 0.01 + 300 * 1e-5 * heads + 1000 * 1e-6
    assert one.ns(chunk) == pytest.approx(32e6 * (of_tokens_ms(300, gpus) + prompt))
    prompts = BatchShape(3 * 300, 3 * prefill_pairs(300), 3)
    assert one.ns(prompts) == pytest.approx(32e6 * (of_tokens_ms(900, gpus) + 0.01 + 900 * 1e-5 * heads))
    both = chunk.joined(steps)
    assert one.ns(both) == pytest.approx(32e6 * (of_tokens_ms(307, gpus) + prompt + decode))
    assert one.ns_of_entries([(0, chunk), (16, steps)]) == pytest.approx(
        16e6 * (of_tokens_ms(300, gpus) + prompt) + 16e6 * (of_tokens_ms(307, gpus) + prompt + decode)
    )


@pytest.mark.parametrize("seqs", [1, 3, 16, 3000])
def test_a_series_of_steps_equals_them_one_by_one(seqs):
    one = step_time(LLAMA)
    series = one.decode_ns_series(seqs, 1000 * seqs, 300)
    assert series.tolist() == [one.decode_ns(seqs, seqs * (1000 + step)) for step in range(300)]
    assert np.all(np.diff(series) > 0)
    assert one.decode_ns_series(seqs, seqs, 3).tolist() == [one.decode_ns(seqs, seqs * n) for n in (1, 2, 3)]


def test_decode_steps_compute_shared_experts_beside_the_routed_ones():
    first, second = LayerRange(0, 3), LayerRange(3, 4)
    layer, hidden, inner = DEEPSEEK.layers[3], 7168, 2048
    shared = (1e-9 * 3 * hidden * inner + 1e-8 * 3 * inner) * 28
    routed = ms({"kind": "experts", "size": layer.experts.parameters_each, "by_expert": False, "gpus": 1}, 8, 1, 0)
    routed += 1e-9 * hidden * 256 * 28
    rest = 1e-8 * 8 * hidden * 28
    one = step_time(DEEPSEEK, held=second)
    steps, prompt = BatchShape(decode_seqs=8, decode_context=800), BatchShape(8, prefill_pairs(8), 1)
    attention = (0.005 + 800 * 1e-7 * 128, 0.01 + 8 * 1e-5 * 128)
    assert one.ns(steps) == pytest.approx(1e6 * (max(shared, routed) + rest + attention[0]))
    assert one.ns(prompt) == pytest.approx(1e6 * (shared + routed + rest + attention[1]))
    dense = step_time(DEEPSEEK, held=first)  # the first layers have no experts
    feed = 1e-9 * 3 * hidden * 18432 + 1e-8 * 3 * 18432 + 1e-8 * 8 * hidden
    assert dense.ns(steps) == pytest.approx(3e6 * (feed * 28 + attention[0]))


def test_latent_attention_alone_leaves_its_matrices_to_the_products():
    module, alone = (as_timed(DEEPSEEK, H100, 8, made_up(backend=one)).layers[0] for one in ("vllm", "sglang"))
    layer = DEEPSEEK.layers[0]
    kv_b = 512 * 32768 / 8
    names = ("qkv_a", "q_b", "attention_output")
    inside = sum(math.prod(matrix.shard(8)) for matrix in layer.matrices if matrix.name in names)
    added = alone.token_work(9) - module.token_work(9)
    assert added == pytest.approx(1e6 * 1e-9 * inside * 29)
    prompts = alone.attention.prompts_ns(100, 0, 1) - module.attention.prompts_ns(100, 0, 1)
    assert prompts == pytest.approx(1e6 * 1e-9 * kv_b * 21)  # made-up products count prompts, not their tokens
    decodes = alone.attention.decode_curve(9)(50) - module.attention.decode_curve(9)(50)
    assert decodes == pytest.approx(1e6 * 1e-8 * 1000 * 29)
    other = replace(layer, attention=replace(layer.attention, kv_numbers=320))
    with pytest.raises(DataError, match="other widths"):
        as_timed(replace(DEEPSEEK, layers=(other,)), H100, 8, made_up())


def test_experts_that_were_measured_in_groups_alone_are_taken_so():
    one = as_timed(QWEN, H100, 8, made_up())  # made-up experts are not cut
    assert one.layers[0].token_work(1) > as_timed(QWEN, H100, 1, made_up()).layers[0].token_work(1) / 8


def test_in_service_norms_are_those_of_the_laws():
    timed, in_service = as_timed(QWEN, H100, 1, made_up()), served(QWEN, H100, 1, made_up())
    layer, node = QWEN.layers[0], Node(H100)
    for tokens in (1, 64, 4096):
        elements_ms = 1e-8 * 2 * 4 * QWEN.hidden_size * (tokens + 20)
        law_ms = 1e3 * node.norms_s(layer, QWEN.hidden_size, tokens)
        found = in_service.layers[0].prefill(tokens) - timed.layers[0].prefill(tokens)
        assert found == pytest.approx(1e6 * (law_ms - elements_ms))
    assert "laws" in in_service.provenance
    assert "laws" not in timed.provenance


@pytest.mark.parametrize("model", [QWEN, catalog.load_model("llama-3.1-8b")], ids=lambda model: model.name)
def test_in_service_attention_of_prompts_is_what_was_measured_without_what_the_library_adds(model):
    """Rotary embedding and norms of heads are among the norms of the laws, so that the library's own count twice."""
    layer, node, tables = model.layers[0], Node(H100), made_up()
    for is_in_service, assumed_ns in ((False, 0.0), (True, 13_200.0)):
        operators = layer_operators(layer, model, node, tables, is_in_service)
        has_norms = layer.attention.head_norms and not is_in_service
        measured_ns = 1e6 * (0.01 + 0.02 * has_norms + 4 * 512 * 1e-5 * layer.attention.num_heads)
        found_ns = sum(one.ns(4, 512, is_prompt=True) for one in operators.prompt)
        assert found_ns == pytest.approx(measured_ns - assumed_ns)


def test_what_an_engine_fuses_with_the_kernels_before_is_left_out():
    """Small products in FP8 take 7 us longer than in 16 bits here: TensorRT-LLM quantises in norms and activations."""
    tables = made_up(gpu="h200", backend="trtllm")

    def slower_in_fp8(operators, is_prompt, seqs, tokens, past):
        times = tables.evaluate(operators, is_prompt, seqs, tokens, past)
        fp8 = [one.get("format") == "fp8" for one in json.loads(operators)]
        return [(name, ms + 0.007 * is_fp8, 0.0, how) for (name, ms, _, how), is_fp8 in zip(times, fp8, strict=True)]

    slower, model = replace(tables, evaluate=slower_in_fp8), catalog.load_model("llama-3.1-8b", "fp8")
    h200 = catalog.load_gpu("h200")
    for engine, left in (("trtllm", 0), ("vllm", 4)):  # vLLM does not, on Hopper
        plain, quantised = (served(model, h200.under(engine), 1, one) for one in (tables, slower))
        for tokens in (1, 100):
            added = quantised.layers[0].prefill(tokens) - plain.layers[0].prefill(tokens)
            assert added == pytest.approx(1e6 * 0.007 * left, abs=1500)  # at lower clocks


@pytest.mark.parametrize(("engine", "format"), [("vllm", "fp16"), ("trtllm", "fp8")])
def test_experts_multiply_as_the_kernels_of_the_engine_do(engine, format):
    gptoss = catalog.load_model("gpt-oss-120b")
    asked = []
    tables = made_up(gpu="b200", backend=engine)
    builder = tables.build
    builder.experts = lambda experts, *a, **k: asked.append(experts) or type(builder).experts(builder, experts, *a, **k)
    served(gptoss, catalog.load_gpu("b200").under(engine), 1, tables)
    assert {matrix.format.multiply for experts in asked for matrix in experts.matrices} == {format}


def test_the_head_has_the_sampler_of_the_laws():
    head = as_timed(LLAMA, H100, 2, made_up()).head
    kernels = H100.kernels
    sampler_ms = (kernels.sampler_s + 5 * kernels.sampler_s_per_sequence) * 1e3
    assert head(5) == pytest.approx(1e6 * (1e-9 * 4096 * 64128 * 25 + sampler_ms))


def test_planners_get_the_means_of_all_layers():
    compute = as_timed(LLAMA, H100, 1, made_up())
    assert compute.decode(32) == pytest.approx(1e6 * (of_tokens_ms(32) + 0.005 + 32 * 1000 * 1e-7 * 32))
    assert compute.decode_context_ns_per_token == pytest.approx(1e6 * 1e-7 * 32)
    assert compute.prefill_ns(1, 4096) == pytest.approx(1e6 * (of_tokens_ms(4096) + 0.01 + 4096 * 1e-5 * 32), rel=1e-3)


def test_the_provenance_states_the_tables_and_how_they_know():
    text = as_timed(LLAMA, H100, 1, made_up()).provenance
    assert f"vllm 9.9 on {SYSTEMS['h100']} ({DISTRIBUTION} 0.12.0)" in text
    step = {"silicon": 0.0, "empirical": 1e-8 * (3 * 14336 + 8 * 4096) * 52}
    step["silicon"] = of_tokens_ms(32) - step["empirical"] + 0.005 + 32 * 1000 * 1e-7 * 32
    assert f"decode steps {step['silicon'] / sum(step.values()):.0%} silicon" in text
    assert "% mixed" in text.partition("; prompts")[2]


def test_what_tables_lack_is_a_fault_of_the_data():
    with pytest.raises(DataError, match="linear attention"):
        as_timed(catalog.load_model("qwen3-next-80b-a3b"), H100, 1, made_up())
    with pytest.raises(DataError, match="no int4 here"):
        as_timed(catalog.load_model("llama-3.1-8b", "int4"), H100, 1, made_up())
    with pytest.raises(DataError, match="do not divide among 3 GPUs"):
        as_timed(LLAMA, H100, 3, made_up())
    with pytest.raises(DataError, match="no such experts for key 7") as caught:
        made_up().ns('[{"kind": "experts", "size": 1, "by_expert": false, "gpus": 2}]', 1)
    assert str(caught.value).endswith("no such experts for key 7 (first: table.parquet)")


def test_engines_of_the_tables():
    assert [backend_of(name) for name in ("vllm-1", "sglang", "trtllm")] == ["vllm", "sglang", "trtllm"]
    assert {backend_of(name) for name in ("vllm-0.4", "helix-vllm-0.4", "ideal", "mine")} == {None}


@pytest.mark.parametrize(
    ("version", "message"), [(None, "not installed"), ("0.9.1", "0.9.1"), ("0.13.0", "below 0.13")]
)
def test_a_library_that_is_absent_or_of_another_version_is_a_fault_of_the_installation(monkeypatch, version, message):
    def installed(name):
        if version is None:
            raise importlib.metadata.PackageNotFoundError(name)
        return version

    monkeypatch.setattr(importlib.metadata, "version", installed)
    for call in (check_version, lambda: open_tables.__wrapped__("h100", "vllm")):
        with pytest.raises(ConfigError, match="helixsim\\[operators\\]") as caught:
            call()
        assert message in str(caught.value)
    assert caught.value.exit_code == ExitCode.CONFIG


def test_a_gpu_without_tables_is_a_fault_of_the_data(monkeypatch):
    monkeypatch.setattr(operator_library, "installed_version", lambda: "0.12.0")
    with pytest.raises(DataError, match="have no t4, but a100-80g, b200"):
        open_tables.__wrapped__("t4", "vllm")
    with pytest.raises(ConfigError, match="not of this engine"):
        operator_profile(LLAMA, H100, 1, None)


@pytest.fixture
def with_tables(monkeypatch):
    """An installation with made-up tables; yields the GPUs that were looked up."""
    asked = []

    def opened(gpu, backend):
        asked.append((gpu, backend))
        return made_up(gpu)

    monkeypatch.setattr(operator_tables, "open_tables", opened)
    monkeypatch.setattr(profiles, "installed_version", lambda: "0.12.0")
    operator_profile.cache_clear()
    yield asked
    operator_profile.cache_clear()


def made(model, gpu, gpus=1, **options):
    return node_profile(catalog.load_model(model), catalog.load_gpu(gpu), gpus, ProfileOptions(**options))


def test_auto_takes_tables_where_they_are(with_tables):
    profile, notes = made("llama-3.1-8b", "h100", backend="vllm")
    assert profile.compute.source == "operators"
    assert any(note.startswith("timings of llama-3.1-8b on h100: operator tables of vllm 9.9") for note in notes)
    assert made("llama-3.1-8b", "h100", timings="operators", backend="vllm")[0].compute is profile.compute
    assert with_tables == [("h100", "vllm")]  # sampled once
    for options in ({"timings": "analytic", "backend": "vllm"}, {"backend": None}):
        assert made("llama-3.1-8b", "h100", **options)[0].compute.source == "roofline"
    assert made("llama-3.1-8b", "l4", backend="vllm")[0].compute.source == "roofline"
    assert made("llama-2-70b", "a100-40g", backend="vllm")[0].compute.source == "fitted"
    assert made("llama-2-70b", "a100-40g", timings="analytic")[0].compute.source == "roofline"
    assert with_tables == [("h100", "vllm")]


def test_auto_says_why_tables_are_not_used_and_operators_insists(with_tables):
    profile, notes = made("qwen3-next-80b-a3b", "h100", 4, backend="vllm")
    assert profile.compute.source == "roofline"
    assert any("operator tables not used" in note and "linear attention" in note for note in notes)
    with pytest.raises(DataError, match="linear attention"):
        made("qwen3-next-80b-a3b", "h100", 4, timings="operators", backend="vllm")


def test_auto_without_the_library_says_nothing_of_it(monkeypatch):
    monkeypatch.setattr(profiles, "installed_version", lambda: None)
    profile, notes = made("llama-3.1-8b", "h100", backend="vllm")
    assert profile.compute.source == "roofline"
    assert not any("operator tables" in note for note in notes)


EXPERIMENT = """\
schema: 1
model: llama-3.1-8b
cluster:
  nodes: [{gpu: h100}]
  network: {intra_region: {bandwidth: 10 Gbit/s, latency: 1 ms}}
engine: {name: vllm-1, timings: TIMINGS}
workload:
  lengths: {distribution: fixed, prompt_tokens: 100, output_tokens: 20}
  arrivals: {process: poisson, rate: 2.5}
  duration: 60 s
systems: [{placement: separate}]
"""


def test_an_experiment_states_its_tables_and_its_key_depends_on_them(with_tables, monkeypatch, tmp_path, capsys):
    from helixsim.cli.main import main

    path = tmp_path / "exp.yaml"

    def validated(timings):
        path.write_text(EXPERIMENT.replace("TIMINGS", timings), encoding="utf-8")
        code = main(["validate", str(path), "--json"])
        captured = capsys.readouterr()
        return code, json.loads(captured.out) if code == 0 else captured.err

    code, document = validated("operators")
    assert code == 0
    assert any("operator tables of vllm 9.9" in text for text in document["assumptions"])
    slower = operator_tables.operator_times
    operator_profile.cache_clear()
    monkeypatch.setattr(operator_tables, "operator_times", lambda node, *a: slower(replace(node, gpus=2), *a))
    assert validated("operators")[1]["config_hash"] != document["config_hash"]
    monkeypatch.setattr(operator_tables, "open_tables", open_tables)
    monkeypatch.setattr(operator_library, "installed_version", lambda: None)
    operator_profile.cache_clear()
    open_tables.cache_clear()
    code, text = validated("operators")
    assert code == ExitCode.CONFIG
    assert operator_library.INSTALL in text
    code, text = validated("operator")
    assert code == ExitCode.CONFIG
    assert "did you mean 'operators'" in text


def test_knots_are_whole_and_reach_the_end():
    knots = operator_tables._knots(1000, 3)
    assert knots[0] == 1
    assert knots[-1] >= 1000
    assert all(a < b <= math.ceil(a * 1.26) + 1 for a, b in itertools.pairwise(knots))
