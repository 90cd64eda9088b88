"""Laws of single kernels: bounds, limits, monotonicity and continuity."""

from __future__ import annotations

import dataclasses
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from helixsim.domain.engine import EngineSpec
from helixsim.domain.kernels import MOST_DIRECT_BYTES, GemmLaw
from helixsim.domain.layers import FP16, Attention, Matrix, NumberFormat
from helixsim.domain.placement import LayerRange
from helixsim.domain.step_time import BatchShape, StepTime
from helixsim.hardware import catalog
from helixsim.hardware.kernels import Node
from helixsim.hardware.roofline import roofline

GPUS = [catalog.load_gpu(name) for name in catalog.gpu_names()]
FP8, INT4 = NumberFormat("fp8", 8.0, "fp8"), NumberFormat("int4", 4.125)
MESHES = {"Infinity Fabric", "RoCE"}
tokens = st.floats(1, 1e5)


def matrix(form: NumberFormat = FP16) -> Matrix:
    return Matrix("any", 8192, 28_672, 8192 * 28_672 * 2, form)


@given(st.sampled_from(GPUS), tokens, st.floats(1, 3), st.sampled_from([FP16, FP8, INT4]))
def test_a_product_rises_and_beats_neither_roof(gpu, rows, factor, form):
    node, weights = Node(gpu), matrix(form)
    seconds = node.gemm_s(weights, rows)
    tile = gpu.kernels.fp8.tile_tokens if form is FP8 else 0
    more = math.ceil(rows * factor / tile) * tile + tile if tile else rows * factor  # one tile less may take as long
    assert seconds <= node.gemm_s(weights, more) * (1 + 1e-12)
    assert seconds > weights.parameters * form.bits / 8 / gpu.memory_bandwidth_bytes_per_s
    assert seconds > 2 * weights.parameters * rows / max(rate for _, rate in gpu.flops)


@pytest.mark.parametrize("gpu", GPUS, ids=lambda gpu: gpu.name)
def test_a_product_meets_either_roof_far_from_the_knee(gpu):
    node, law, weights = Node(gpu), gpu.kernels.fp16, matrix()
    read_s = weights.parameters * 2 / (law.bandwidth_efficiency * gpu.memory_bandwidth_bytes_per_s)
    assert node.gemm_s(weights, 1) == pytest.approx(read_s + law.launch_s, rel=0.01)
    multiply_s = 2 * weights.parameters * 1e6 / (law.compute_efficiency * gpu.fp16_flops)
    assert node.gemm_s(weights, 1e6) == pytest.approx(multiply_s, rel=0.01)


def test_formats_that_a_gpu_lacks_are_read_at_their_size_and_multiplied_in_16_bits():
    ampere, hopper = (Node(catalog.load_gpu(name)) for name in ("a100-80g", "h100"))
    assert ampere.gemm_s(matrix(FP8), 1) < 0.6 * ampere.gemm_s(matrix(), 1)
    assert ampere.gemm_s(matrix(FP8), 1e6) == pytest.approx(ampere.gemm_s(matrix(), 1e6), rel=0.01)
    assert hopper.gemm_s(matrix(FP8), 1e5) < 0.7 * hopper.gemm_s(matrix(), 1e5)
    assert hopper.gemm_s(matrix(INT4), 1e6) == pytest.approx(hopper.gemm_s(matrix(), 1e6), rel=0.01)


def _attention(width: int, heads: int) -> Attention:
    llama = catalog.load_model("llama-3.1-8b").layers[0].attention
    return dataclasses.replace(llama, num_heads=heads, num_kv_heads=heads, key_dim=width, value_dim=width)


@given(st.sampled_from(GPUS), st.sampled_from([32, 64, 256]), st.floats(1, 1e9))
def test_narrow_heads_reach_less_of_the_peak_by_the_exponential_of_each_pair(gpu, width, pairs):
    """As many numbers in heads of any width multiply alike; what differs is one exponential for each pair and head."""
    node, law = Node(gpu), gpu.kernels.attention
    apart_s = [node.prefill_attention_s(_attention(wide, 128 * 256 // wide), pairs) for wide in (128, width)]
    exponential_s = (
        node.prefill_attention_s(_attention(128, 1), pairs) * law.softmax_columns / (256 + law.softmax_columns)
    )
    more_heads = 256 * 128 / width - 256
    assert apart_s[1] - apart_s[0] == pytest.approx(more_heads * exponential_s, rel=1e-9, abs=1e-18)


@pytest.mark.parametrize(
    ("gpu", "narrow", "wide"),  # TFLOP/s of heads of 64 and 256 with vLLM 0.24 (aiconfigurator-core 0.12)
    [("h100", 456, 685), ("b200", 677, 1277), ("b300", 909, 1381), ("l40s", 162, 181), ("rtx-pro-6000", 256, 292)],
)
def test_wide_heads_multiply_faster_as_measured(gpu, narrow, wide):
    node = Node(catalog.load_gpu(gpu))
    times_s = [node.prefill_attention_s(_attention(width, 4096 // width), 1e9) for width in (64, 256)]
    assert times_s[0] / times_s[1] == pytest.approx(wide / narrow, rel=0.12)


@pytest.mark.parametrize(("gpu", "measured_us"), [("h100", (4511, 4014)), ("b200", (2622, 2598))])
def test_eight_gpus_behind_a_switch_that_adds_up_are_no_slower_than_four(gpu, measured_us):
    """All-reduces of 1 GiB (aiconfigurator 095f58a): a ring would take a sixth more on eight."""
    four_us, eight_us = (1e6 * Node(catalog.load_gpu(gpu), gpus).all_reduce_s(2**29, 1) for gpus in (4, 8))
    assert (four_us, eight_us) == pytest.approx(measured_us, rel=0.1)
    laws = {law.gpus: law for law in catalog.load_gpu(gpu).all_reduce}
    ring_us = 1e6 * dataclasses.replace(laws[8], switch_bytes_per_s=0.0).seconds(2**30)
    assert ring_us > 1.15 * eight_us
    assert laws[2].seconds(2**30) == dataclasses.replace(laws[2], switch_bytes_per_s=0.0).seconds(2**30)


@given(st.sampled_from(GPUS), st.sampled_from([2, 4, 8]), tokens)
def test_an_all_reduce_costs_more_on_more_gpus_and_has_a_floor(gpu, gpus, rows):
    seconds = Node(gpu, gpus).all_reduce_s(8192, rows)
    assert Node(gpu, 1).all_reduce_s(8192, rows) == 0
    assert seconds > 4e-6
    is_switched = gpu.all_reduce[0].switch_bytes_per_s and rows * 8192 * 2 >= MOST_DIRECT_BYTES
    if gpu.interconnect not in MESHES and not is_switched:
        assert seconds <= Node(gpu, 2 * gpus).all_reduce_s(8192, rows) * (1 + 1e-9)


@pytest.mark.parametrize("name", ["mi300x", "gaudi-3"])
def test_two_gpus_of_a_mesh_share_one_of_their_links(name):
    """The rate grows with the GPUs that take part; a whole node of eight has all links of each."""
    gpu = catalog.load_gpu(name)
    laws = {law.gpus: law.ring_bytes_per_s for law in gpu.all_reduce}
    assert laws[2] * 3 == pytest.approx(laws[4])
    assert laws[2] * 7 == pytest.approx(laws[8]) == pytest.approx(laws[16])
    assert laws[8] < gpu.interconnect_bytes_per_s
    assert Node(gpu, 2).all_reduce_s(8192, 1) <= Node(gpu, 8).all_reduce_s(8192, 1)


def test_a_bridge_helps_pairs_alone_and_peer_access_helps_all():
    pairs, peer, host = (catalog.load_gpu(name) for name in ("h100-nvl", "h100-pcie", "rtx-5090"))
    times = {gpu.name: [Node(gpu, gpus).all_reduce_s(8192, 4096) for gpus in (2, 4, 8)] for gpu in (pairs, peer, host)}
    assert times["h100-nvl"][0] * 4 < times["h100-pcie"][0]
    assert times["h100-nvl"][1:] == times["h100-pcie"][1:]
    assert times["h100-pcie"][2] * 4 < times["rtx-5090"][2]


def test_a_tree_of_pcie_collapses_with_the_number_of_gpus():
    seconds = [Node(catalog.load_gpu("l40s"), gpus).all_reduce_s(8192, 4096) for gpus in (2, 4, 8)]
    assert seconds[0] * 5 < seconds[1] < seconds[2] / 2  # 64 MiB: 3.5, 27 and 60 ms as measured


def test_the_head_of_8b_takes_what_was_measured_on_two_cards():
    llama = catalog.load_model("llama-3-8b")
    for name, one_ms, many_ms in (("rtx-4090", 1.15, 1.9), ("h100", 0.39, 0.70)):  # LLMServingSim: 1 and 256 rows
        node = Node(catalog.load_gpu(name))
        assert node.head_s(4096, llama.vocab_size, 1) * 1e3 == pytest.approx(one_ms, rel=0.12)
        assert node.head_s(4096, llama.vocab_size, 256) * 1e3 == pytest.approx(many_ms, rel=0.15)


@pytest.mark.parametrize(
    ("gpu", "gpus", "eager_us"), [("a100-80g", 4, 45), ("h100", 8, 23), ("b200", 2, 20), ("l40s", 2, 69)]
)
def test_outside_graphs_an_all_reduce_takes_what_the_host_needs_and_a_copy(gpu, gpus, eager_us):
    """Measured: small messages by the host's time, large ones by that of reading and writing the input once more."""
    node = Node(catalog.load_gpu(gpu), gpus)
    small = node.all_reduce_s(4096, 1, is_captured=False)
    assert small == pytest.approx(eager_us * 1e-6, rel=0.2)
    assert small > 2 * node.all_reduce_s(4096, 1)
    size = 2**30
    copy_s = node.all_reduce_s(size // 2, 1, is_captured=False) - node.all_reduce_s(size // 2, 1)
    assert copy_s == pytest.approx(2 * size / node.gpu.memory_bandwidth_bytes_per_s, rel=0.15)


@pytest.mark.parametrize("gpus", [2, 4, 8])
def test_larger_batches_never_take_less_where_graphs_end(gpus):
    model = catalog.load_model("llama-3-70b")
    node = Node(catalog.load_gpu("h100"), gpus)
    times = [node.token_work_s(model.layers[0], model.hidden_size, tokens) for tokens in range(500, 530)]
    assert times == sorted(times)


@pytest.mark.parametrize(
    ("tokens", "measured_us"),
    [(512, 57.5), (513, 112.7), (768, 87.9), (769, 141.6), (1024, 117.9), (1025, 194.3), (2048, 239.8), (2049, 309.6)],
)
def test_products_in_fp8_on_hopper_take_whole_tiles(tokens, measured_us):
    """8192 x 8192 by CUTLASS on H100 (vLLM 0.24, aiconfigurator-core 0.12)."""
    node, matrix = Node(catalog.load_gpu("h100")), Matrix("one", 8192, 8192, 8192 * 8192, FP8)
    assert node.gemm_s(matrix, tokens) == pytest.approx(measured_us * 1e-6, rel=0.22)


def with_fp8(node: Node, law: GemmLaw) -> Node:
    return Node(dataclasses.replace(node.gpu, kernels=dataclasses.replace(node.gpu.kernels, fp8=law)))


@pytest.mark.parametrize(
    ("gpu", "inputs", "outputs", "tokens", "measured_us"),
    [
        ("h100", 7168, 512, 512, 31), ("h100", 7168, 512, 4096, 111), ("h200", 8192, 1024, 512, 35),
        ("b200", 7168, 512, 4096, 80), ("b200", 8192, 1024, 8192, 194), ("gb200", 7168, 256, 8192, 154),
    ],
)  # fmt: skip
def test_narrow_products_in_8_bits_leave_cores_without_work_and_quantise_all_inputs(
    gpu, inputs, outputs, tokens, measured_us
):
    """vLLM 0.24 (aiconfigurator-core 0.12); by multiplying and reading alone they would take a half at most."""
    node, narrow = Node(catalog.load_gpu(gpu)), Matrix("one", inputs, outputs, inputs * outputs, FP8)
    assert node.gemm_s(narrow, tokens) == pytest.approx(measured_us * 1e-6, rel=0.25)
    law = dataclasses.replace(node.gpu.kernels.fp8, quantised_bytes_per_s=math.inf, least_outputs=0.0)
    assert with_fp8(node, law).gemm_s(narrow, tokens) < 0.6 * measured_us * 1e-6


@given(st.integers(1, 20_000), st.integers(1, 8))
def test_quantising_grows_with_tokens_and_inputs_and_not_with_outputs(rows, width):
    node = Node(catalog.load_gpu("b200"))
    free = with_fp8(node, dataclasses.replace(node.gpu.kernels.fp8, quantised_bytes_per_s=math.inf))
    added = []
    for inputs, outputs in ((1024, 1024), (1024 * width, 1024), (1024 * width, 4096)):
        one = Matrix("one", inputs, outputs, inputs * outputs, FP8)
        added.append(node.gemm_s(one, rows) - free.gemm_s(one, rows))
    law = node.gpu.kernels.fp8
    assert added[1] == pytest.approx(added[2], rel=1e-6)
    assert added[1] - added[0] == pytest.approx(2 * rows * 1024 * (width - 1) / law.quantised_bytes_per_s, abs=1e-12)


def test_a_product_takes_as_long_with_fewer_cores_only_where_these_have_enough_to_do():
    node = Node(catalog.load_gpu("h100"))
    half = Node(dataclasses.replace(node.gpu, kernels=node.gpu.kernels.with_cores(0.5)))
    narrow, wide = (Matrix("one", 4096, outputs, 4096 * outputs, FP8) for outputs in (1024, 65_536))
    assert half.gemm_s(narrow, 256) < node.gemm_s(narrow, 256)  # as many FLOP/s by half the cores: each is faster
    quantised_s = node.gpu.kernels.fp8.quantised_s(4096, 4096)
    assert half.gemm_s(wide, 4096) - node.gemm_s(wide, 4096) == pytest.approx(quantised_s)
    assert catalog.load_gpu("h20").kernels.fp8.least_outputs == node.gpu.kernels.fp8.least_outputs * 78 / 132


def test_what_is_empty_of_the_last_tile_takes_its_time_again():
    node, matrix = Node(catalog.load_gpu("h200")), Matrix("one", 4096, 8192, 4096 * 8192, FP8)
    tiled = dataclasses.replace(node.gpu.kernels.fp8, quantised_bytes_per_s=math.inf, least_outputs=0.0)
    node, smooth = (with_fp8(node, dataclasses.replace(tiled, tile_tokens=tile)) for tile in (tiled.tile_tokens, 0))
    for tokens, as_many in ((512, 512), (513, 513 + 2 * 255), (700, 700 + 2 * 68), (200, 200), (20_001, 20_001)):
        assert node.gemm_s(matrix, tokens) == smooth.gemm_s(matrix, as_many)
    blocked = dataclasses.replace(matrix, format=dataclasses.replace(FP8, is_blocked=True))
    assert node.gemm_s(blocked, 513) == smooth.gemm_s(blocked, 513)  # other kernels


def test_weights_that_are_converted_are_read_no_faster_from_faster_memory():
    """MXFP4 experts of gpt-oss-120b, vLLM 0.24: 508 and 532 us for 64 tokens on H200 and H100 (aiconfigurator-core)."""
    experts = catalog.load_model("gpt-oss-120b").layers[-1].experts
    times = [Node(catalog.load_gpu(gpu)).experts_s(experts, 64) for gpu in ("h100", "h200")]
    assert times == pytest.approx([532e-6, 508e-6], rel=0.1)
    sixteen = catalog.load_model("qwen3-30b-a3b").layers[-1].experts
    faster, slower = (Node(catalog.load_gpu(gpu)).experts_s(sixteen, 64) for gpu in ("h200", "h100"))
    assert faster < 0.8 * slower


@pytest.mark.parametrize(
    ("gpu", "tokens", "measured_us", "even_us"),
    [("h100", 1024, 1375, 856), ("h100", 4096, 2590, 1510), ("h100", 16_384, 7059, 5825), ("h200", 2048, 1758, 1039)],
)
def test_last_tiles_of_experts_are_half_empty_where_these_are_drawn_unequally(gpu, tokens, measured_us, even_us):
    """MXFP4 of gpt-oss-120b, vLLM 0.24, tokens by a power law (1.2) and spread evenly (aiconfigurator-core 0.12)."""
    node, experts = Node(catalog.load_gpu(gpu)), catalog.load_model("gpt-oss-120b").layers[-1].experts
    seconds = node.experts_s(experts, tokens)
    assert seconds == pytest.approx(measured_us * 1e-6, rel=0.2)
    law = node.gpu.kernels.experts_of("mxfp4")
    full = dataclasses.replace(law, tile_tokens=0)
    kernels = dataclasses.replace(node.gpu.kernels, experts_by_format=(("mxfp4", full),))
    filled = Node(dataclasses.replace(node.gpu, kernels=kernels))
    assert filled.experts_s(experts, tokens) < seconds < 1.5 * filled.experts_s(experts, tokens)
    assert filled.experts_s(experts, tokens) == pytest.approx(even_us * 1e-6, rel=0.3)


@given(st.floats(1, 1e6), st.floats(1, 512))
def test_rows_of_experts_are_half_a_tile_more_each_and_half_as_many_more_at_the_most(rows, touched):
    law = catalog.load_gpu("h100").kernels.experts
    padded = law.rows_of(rows, touched)
    assert padded == pytest.approx(min(1.5 * rows, rows + law.tile_tokens / 2 * touched))


def test_curves_jump_where_tiles_do():
    model = catalog.load_model("llama-3.1-70b", "fp8")
    node = Node(catalog.load_gpu("h100"), 2)
    work = roofline(model, node.gpu, 2).token_work
    for tokens in (512, 513, 640, 768, 769, 8192, 8193):
        expected_s = node.token_work_s(model.layers[0], model.hidden_size, tokens)
        assert work(tokens) / 1e9 == pytest.approx(expected_s, rel=1e-2)
    assert work(513) > 1.25 * work(512)


@pytest.mark.parametrize(
    ("gpu", "gpus", "seqs", "context", "measured_us"),
    [
        ("h100", 8, 1, 512, 118), ("h100", 4, 8, 2000, 148), ("h100", 2, 128, 2000, 221), ("h200", 8, 1, 2000, 104),
        ("h200", 4, 128, 512, 174), ("h200", 8, 8, 16_000, 149), ("h200", 2, 1, 16_000, 136),
    ],
)  # fmt: skip
def test_latent_attention_takes_what_its_module_took(gpu, gpus, seqs, context, measured_us):
    """DeepSeek-V3 with a KV cache in FP8 (aiconfigurator-core 0.12): matrices and attention of a layer."""
    node, layer = Node(catalog.load_gpu(gpu), gpus), catalog.load_model("deepseek-v3").layers[-1]
    law = node.gpu.kernels.attention
    names = ("qkv_a", "q_b", "kv_b", "attention_output")
    products = sum(node.gemm_s(matrix, seqs) for matrix in layer.matrices if matrix.name in names)
    read = node.kv_read_s(layer.attention, 8, seqs * (context + law.kv_padding_tokens))
    assert products + read + law.kv_launch_s + law.latent_s == pytest.approx(measured_us * 1e-6, rel=0.23)


def test_small_kernels_of_latent_attention_are_paid_once_a_step():
    model = catalog.load_model("deepseek-v3")
    gpu = catalog.load_gpu("h200")
    law = dataclasses.replace(gpu.kernels.attention, latent_s=0.0)
    without = dataclasses.replace(gpu, kernels=dataclasses.replace(gpu.kernels, attention=law))
    for tokens in (1, 4096):
        with_s, without_s = (Node(one, 8).token_work_s(model.layers[0], 7168, tokens) for one in (gpu, without))
        assert with_s - without_s == pytest.approx(75e-6)


def test_norms_of_heads_are_kernels_of_their_own():
    model = catalog.load_model("qwen3-32b")
    layer = model.layers[0]
    assert layer.attention.head_norms
    plain = dataclasses.replace(layer, attention=dataclasses.replace(layer.attention, head_norms=False))
    for node in (Node(GPUS[0]), Node(catalog.load_gpu("h100"), 8)):
        extra_s = node.token_work_s(layer, 5120, 64) - node.token_work_s(plain, 5120, 64)
        assert extra_s == pytest.approx(node.gpu.kernels.head_norms_s)


@pytest.mark.parametrize(
    ("gpu", "gpus", "seqs", "context", "measured_us"),
    [
        ("l40s", 8, 1, 16384, 306), ("l40s", 8, 4, 16384, 314), ("l40s", 8, 64, 4096, 811), ("l40s", 4, 4, 32768, 804),
        ("a100-80g", 8, 1, 32768, 765), ("a100-80g", 8, 4, 4096, 104), ("a100-80g", 4, 16, 16384, 799),
    ],
)  # fmt: skip
def test_without_grouped_heads_few_sequences_are_read_by_few_cores(gpu, gpus, seqs, context, measured_us):
    """Attention of a decode step of Llama 2 7B (aiconfigurator 095f58a): FlashAttention 2 splits no context."""
    model, spec = catalog.load_model("llama-2-7b"), catalog.load_gpu(gpu)
    compute = roofline(model, spec, gpus)
    added_ns = compute.context_ns(seqs, seqs * context)
    assert added_ns / 1e3 + spec.kernels.attention.kv_launch_s * 1e6 == pytest.approx(measured_us, rel=0.1)
    step = StepTime(compute, EngineSpec("kernels", copies_activations=False), LayerRange(0, 1), model.num_layers)
    shape = BatchShape(decode_seqs=seqs, decode_context=seqs * context)
    assert step.ns(shape) == pytest.approx(compute.decode(seqs) + added_ns)
    assert step.decode_ns_series(seqs, seqs * context, 1)[0] == step.decode_ns(seqs, seqs * context)


def test_sequences_beyond_the_cores_and_grouped_heads_are_read_at_the_whole_bandwidth():
    grouped = catalog.load_model("llama-3.1-8b").layers[0].attention
    single = catalog.load_model("llama-2-7b").layers[0].attention
    for gpu in ("a100-80g", "l40s"):
        assert [Node(catalog.load_gpu(gpu), gpus).wide_seqs(grouped) for gpus in (1, 8)] == [0.0, 0.0]
        assert 8 * Node(catalog.load_gpu(gpu)).wide_seqs(single) == pytest.approx(
            Node(catalog.load_gpu(gpu), 8).wide_seqs(single)
        )
    assert Node(catalog.load_gpu("h100"), 8).wide_seqs(single) == 0.0


def test_keys_and_values_of_8_bits_are_read_no_faster_than_they_are_converted():
    layer = catalog.load_model("llama-3.1-8b").layers[0]
    h100, h200 = (Node(catalog.load_gpu(name)) for name in ("h100", "h200"))
    most = h200.gpu.kernels.attention.most_kv8_bytes_per_s
    eight_s = h200.kv_read_s(layer.attention, 8, 1e6)
    assert eight_s == pytest.approx(layer.attention.kv_numbers * 1e6 / most)
    assert eight_s == h100.kv_read_s(layer.attention, 8, 1e6)
    assert h200.kv_read_s(layer.attention, 16, 1e6) < h100.kv_read_s(layer.attention, 16, 1e6)
    assert Node(h200.gpu.under("trtllm")).kv_read_s(layer.attention, 8, 1e6) < eight_s


@pytest.mark.parametrize("name", ["h100", "b200"])
def test_an_engine_has_kernels_of_its_own_and_others_those_of_vllm(name):
    gpu = catalog.load_gpu(name)
    assert gpu.under(None) == gpu
    own = gpu.under("trtllm")
    assert own.kernels.fp8.launch_s < gpu.kernels.fp8.launch_s
    assert own.all_reduce != gpu.all_reduce
    served = gpu.under("sglang").all_reduce
    assert served == tuple(dataclasses.replace(law, switch_bytes_per_s=0.0) for law in gpu.all_reduce)
    assert gpu.all_reduce[0].switch_bytes_per_s > 0


def test_products_in_service_reach_less_of_the_peak_than_alone():
    gpu = catalog.load_gpu("h100")
    for engine in ("vllm", "sglang", "trtllm"):
        law = gpu.under(engine).kernels.fp16
        assert law.compute_efficiency < gpu.kernels.fp16.compute_efficiency
        assert law == dataclasses.replace(gpu.kernels.fp16, compute_efficiency=law.compute_efficiency)


def test_one_step_ends_where_the_all_reduce_says():
    law = catalog.load_gpu("b200").under("trtllm").all_reduce[1]
    assert law.gpus == 4
    most = law.most_one_shot_bytes
    assert law.seconds(most * 0.99) == pytest.approx(law.one_shot_s + 3 * 0.99 * most / law.bytes_per_s)
    assert law.seconds(most) == pytest.approx(law.two_shot_s + 1.5 * most / law.bytes_per_s)


EXPERTS = catalog.load_model("qwen3-235b-a22b", "fp8").layers[0].experts


def still(gpu, **changes):
    """A GPU whose experts take no time but that of reading them."""
    law = dataclasses.replace(gpu.kernels.experts, launch_s=0.0, compute_efficiency=1.0, sharpness=100.0, passes=0.0)
    law = dataclasses.replace(law, **changes)
    return dataclasses.replace(gpu, kernels=dataclasses.replace(gpu.kernels, experts=law, experts_by_format=()))


@given(st.integers(1, 40), st.sampled_from([1, 2, 8]))
def test_experts_that_are_read_follow_those_that_are_drawn(rows, gpus):
    """One token reads its own, many read all; fewer than as many independent draws of equal experts would touch."""
    gpu = still(catalog.load_gpu("h200"))
    law = gpu.kernels.experts
    one_s = sum(matrix.parameters for matrix in EXPERTS.matrices) / gpus
    one_s /= law.bandwidth_efficiency * gpu.memory_bandwidth_bytes_per_s
    found = Node(gpu, gpus).experts_s(EXPERTS, rows) / one_s
    assert found == pytest.approx(128 * rows / (rows + 15), rel=0.01)
    assert EXPERTS.per_token * 0.99 <= found <= 1.01 * 128 * (1 - (1 - 8 / 128) ** rows)
    if rows == 1:
        assert found == pytest.approx(EXPERTS.per_token, rel=0.01)


@given(tokens, st.sampled_from([1, 2, 8]))
def test_every_gpu_moves_the_tokens_of_all_experts(rows, gpus):
    gpu = catalog.load_gpu("h200")
    moved = [Node(still(gpu, passes=passes), gpus).experts_s(EXPERTS, rows) for passes in (0.0, 5.0)]
    seconds = 5 * rows * EXPERTS.per_token * 4096 * 2 / gpu.memory_bandwidth_bytes_per_s
    assert moved[1] - moved[0] == pytest.approx(seconds, rel=1e-6)


def test_experts_have_laws_by_format_and_engine():
    b200 = catalog.load_gpu("b200")
    for form in ("bf16", "fp8", "nvfp4"):
        known = catalog.load_model("qwen3-235b-a22b", form).layers[0].experts
        times = {engine: Node(b200.under(engine), 4).experts_s(known, 1) for engine in ("vllm", "sglang", "trtllm")}
        laws = {engine: b200.under(engine).kernels.experts_of(form) for engine in times}
        assert laws["trtllm"] != laws["vllm"]
        assert all(times[engine] > laws[engine].launch_s for engine in times)
    assert b200.kernels.experts_of("int8") == b200.kernels.experts


def test_weights_in_mxfp4_meet_activations_of_the_format_that_the_law_names():
    """SGLang multiplies them in FP8 on Blackwell; a GPU without FP8 in 16 bits."""
    known = catalog.load_model("gpt-oss-120b").layers[0].experts
    law = dataclasses.replace(still(catalog.load_gpu("b200")).kernels.experts, multiply="fp8")
    for name, factor in (("b200", 2.0), ("a100-80g", 1.0)):
        gpu = still(catalog.load_gpu(name))
        plain_s = Node(gpu).experts_s(known, 1e6)
        kernels = dataclasses.replace(gpu.kernels, experts_by_format=(("mxfp4", law),))
        assert plain_s / Node(dataclasses.replace(gpu, kernels=kernels)).experts_s(known, 1e6) == pytest.approx(factor)


@pytest.mark.parametrize("gpus", [1, 8])
def test_shared_experts_are_computed_beside_the_routed_ones_in_small_batches(gpus):
    node, layer = Node(catalog.load_gpu("h200"), gpus), catalog.load_model("deepseek-v3").layers[-1]
    alone = dataclasses.replace(layer, matrices=tuple(one for one in layer.matrices if "shared" not in one.name))
    for rows, beside in ((1, True), (256, True), (257, False), (4096, False)):
        added_s = node.token_work_s(layer, 7168, rows) - node.token_work_s(alone, 7168, rows)
        shared = [one for one in layer.matrices if "shared" in one.name]
        shared_s = sum(node.gemm_s(one, rows) for one in shared)
        constant_s = len(shared) * node.gpu.kernels.fp8.launch_s  # both read at the same bandwidth
        assert added_s == pytest.approx(shared_s - (constant_s if beside else 0.0), abs=1e-9)


def test_an_index_adds_its_constant():
    glm, gpu = catalog.load_model("glm-5"), catalog.load_gpu("b200")
    without = dataclasses.replace(
        gpu, kernels=dataclasses.replace(gpu.kernels, attention=dataclasses.replace(gpu.kernels.attention, indexed_s=0))
    )
    for layer, adds in ((glm.layers[-1], True), (catalog.load_model("deepseek-v3").layers[-1], False)):
        more_s = Node(gpu, 8).token_work_s(layer, 6144, 1) - Node(without, 8).token_work_s(layer, 6144, 1)
        assert more_s == pytest.approx(gpu.kernels.attention.indexed_s if adds else 0.0, abs=1e-12)
