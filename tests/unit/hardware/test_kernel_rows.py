"""Measured rows beside the laws: rows that the laws made themselves are met, and what is left out is said."""

from collections import Counter
from dataclasses import replace

import pytest
from made_up_tables import made_up

from helixsim.errors import DataError
from helixsim.hardware import catalog
from helixsim.hardware.kernel_rows import COLUMNS, PARTS, KernelRow, Pair, compare, errors, read_rows
from helixsim.hardware.kernels import Node
from helixsim.hardware.operator_rows import DECODES, PROMPTS, operator_rows
from helixsim.hardware.roofline import roofline

HEADER = ",".join((*COLUMNS, *PARTS))
H100, LLAMA, MIXTRAL = catalog.load_gpu("h100"), catalog.load_model("llama-3-8b"), catalog.load_model("mixtral-8x7b")
NODE = Node(H100, 2)


def row(phase, batch, prompt, context, seconds, model="llama-3-8b", parts=(), gpu="h100"):
    return KernelRow(gpu, model, 2, "bf16", phase, batch, prompt, context, seconds * 1e3, tuple(parts))


def only(one):
    pairs, left_out = compare([one])
    assert not left_out
    return {pair.term: pair for pair in pairs}


def decode_attention_s(seqs, context):
    law = H100.kernels.attention
    return law.kv_launch_s + NODE.kv_read_s(LLAMA.layers[0].attention, 16, seqs * (context + law.kv_padding_tokens))


def prompt_attention_s(prompts, tokens, past):
    law = H100.kernels.attention
    pairs = prompts * tokens * (past + tokens / 2 + law.padding_tokens)
    return law.launch_s + NODE.prefill_attention_s(LLAMA.layers[0].attention, pairs)


@pytest.mark.parametrize("model", [LLAMA, MIXTRAL])
def test_a_layer_is_compared_without_norms_and_routers_and_part_by_part(model):
    layer, seqs = model.layers[0], 16
    products = sum(NODE.gemm_s(matrix, seqs) for matrix in layer.matrices if matrix.name != "router")
    parts = {
        "products": products,
        "attention": decode_attention_s(seqs, 1000),
        "all-reduces": 2 * NODE.all_reduce_s(4096, seqs),
        "experts": NODE.experts_s(layer.experts, seqs) if layer.experts else 0.0,
    }
    known = [(name, seconds * 1e3) for name, seconds in parts.items()]
    found = only(row("decode", seqs, 0, 1000, sum(parts.values()), model.name, known))
    assert found.keys() == {"layer", *(name for name, ms in known if ms)}
    for pair in found.values():
        assert pair.error == pytest.approx(0.0, abs=2e-3)  # curves between knots
        assert pair.regime == "to 64 tokens"
        assert pair.weights == ("bf16 experts" if layer.experts else "bf16")
    assert only(row("decode", seqs, 0, 1000, 2 * sum(parts.values()), model.name))["layer"].error == pytest.approx(
        -0.5, abs=1e-3
    )


def test_prompts_behind_a_context_and_attention_alone():
    for past in (0, 3000):
        pair = only(row("attention_prefill", 3, 500, past, prompt_attention_s(3, 500, past)))["attention"]
        assert (pair.error, pair.regime) == (pytest.approx(0.0, abs=1e-3), "above 512")
    assert only(row("attention_decode", 8, 0, 5000, decode_attention_s(8, 5000)))["attention"].error == pytest.approx(
        0.0, abs=1e-3
    )
    whole = only(row("prefill", 1, 300, 0, 1.0))["layer"]
    times, reduces = roofline(LLAMA, H100, 2), 2 * NODE.all_reduce_s(4096, 300)
    norms = NODE.elementwise_s(4096, 300)
    assert whole.predicted_ms / 1e3 == pytest.approx(times.prefill_ns(1, 300) / 1e9 - norms, rel=5e-3)
    assert whole.predicted_ms / 1e3 > reduces


def test_what_is_timed_over_and_over_is_read_from_the_cache_and_no_engine_reads_it_there():
    """96 MiB on L40S: keys and values of 64 MiB take a fraction of twice as many; the law itself is a straight line."""
    gpu, attention = catalog.load_gpu("l40s"), LLAMA.layers[0].attention
    node, law = Node(gpu, 2), gpu.kernels.attention
    token_bytes = attention.kv_numbers * 2 / 2
    fitting = int(64 * 2**20 / token_bytes / 16)

    def compared_s(context, name="l40s"):
        parts = [("attention", 1e3)]
        return only(row("decode", 16, 0, context, 1.0, parts=parts, gpu=name))["attention"].predicted_ms / 1e3

    def law_s(context):
        return law.kv_launch_s + node.kv_read_s(attention, 16, 16 * (context + law.kv_padding_tokens))

    assert compared_s(2 * fitting) == pytest.approx(law_s(2 * fitting), rel=1e-3)
    assert compared_s(fitting) < 0.45 * compared_s(2 * fitting)
    assert law_s(fitting) > 0.5 * law_s(2 * fitting)
    alone = only(row("attention_decode", 16, 0, fitting, 1.0, gpu="l40s"))["attention"].predicted_ms / 1e3
    assert alone == pytest.approx(law_s(fitting), rel=1e-3)
    times = roofline(LLAMA, gpu, 2)
    read_s = times.decode_context_ns_per_token * 16 * fitting / 1e9
    assert read_s == pytest.approx(node.kv_read_s(attention, 16, 16 * fitting))
    small, large = compared_s(fitting, "h100"), compared_s(2 * fitting, "h100")
    assert large - small == pytest.approx(NODE.kv_read_s(attention, 16, 16 * fitting), rel=1e-2)


def test_rows_of_tables_leave_out_the_norms_of_heads():
    model = catalog.load_model("qwen3-32b")
    assert model.layers[-1].attention.head_norms
    plain = replace(model.layers[-1], attention=replace(model.layers[-1].attention, head_norms=False))
    without = replace(model, layers=(*model.layers[:-1], plain))
    assert list(operator_rows(model, "h100", 2, made_up())) == list(operator_rows(without, "h100", 2, made_up()))


def test_latent_attention_is_compared_with_the_kernels_between_its_matrices():
    model, seqs, context = catalog.load_model("deepseek-v3"), 8, 2000
    layer, law, node = model.layers[-1], H100.kernels.attention, Node(H100, 2)
    products = sum(
        node.gemm_s(matrix, seqs)
        for matrix in layer.matrices
        if matrix.name in ("qkv_a", "q_b", "kv_b", "attention_output")
    )
    read = node.kv_read_s(layer.attention, 16, seqs * (context + law.kv_padding_tokens))
    expected_s = products + law.kv_launch_s + read + law.latent_s
    pair = only(replace(row("attention_decode", seqs, 0, context, expected_s, "deepseek-v3"), precision="fp8"))
    assert pair["attention"].error == pytest.approx(0.0, abs=2e-3)


def test_products_one_by_one_add_up_to_those_at_once():
    at_once = {
        "op_gate_up_proj": ("op_gate_proj", "op_up_proj"),
        "op_qkv_proj": ("op_q_proj", "op_k_proj", "op_v_proj"),
    }
    launch = H100.kernels.fp16.launch_s
    for name, parts in at_once.items():
        # Far to the right of the knee, where only the multiplications count.
        whole, *each = (next(iter(only(row(phase, 10**6, 0, 0, 1.0)).values())) for phase in (name, *parts))
        apart = sum(pair.predicted_ms for pair in each) - 1e3 * launch * (len(each) - 1)
        assert whole.predicted_ms == pytest.approx(apart, rel=1e-3)
    all_s = sum(NODE.gemm_s(matrix, 7) for matrix in LLAMA.layers[0].matrices)
    assert only(row("layer_gemms", 7, 0, 0, all_s))["layer_gemms"].error == pytest.approx(0.0)
    head = NODE.head_s(4096, LLAMA.vocab_size, 7)
    ends = only(row("op_lm_head", 7, 0, 0, 1.0)) | only(row("op_sampler", 7, 0, 0, 1.0))
    assert sum(pair.predicted_ms for pair in ends.values()) == pytest.approx(1e3 * head)


def test_all_reduces_are_of_sixteen_bit_numbers():
    for numbers, regime in ((1024, "to 512 KiB"), (2**21, "to 8 MiB"), (2**23, "above 8 MiB")):
        one = row("all_reduce_graph", numbers, 0, 0, NODE.all_reduce_s(1024, numbers / 1024), "any")
        assert only(one)["2 GPUs"].error == pytest.approx(0.0)
        assert only(one)["2 GPUs"].regime == regime
        eager_s = NODE.all_reduce_s(1024, numbers / 1024, is_captured=False)
        eager = replace(one, phase="all_reduce_eager", measured_ms=eager_s * 1e3, is_captured=False)
        assert only(eager)["2 GPUs"].error == pytest.approx(0.0)


def test_what_is_not_compared_is_counted_with_its_reason():
    rows = [
        row("op_rope", 1, 0, 0, 1.0),
        row("op_rope", 2, 0, 0, 1.0),
        row("decode", 1, 0, 1, 1.0, gpu="h900"),
        row("decode", 1, 0, 1, 1.0, "llama-9"),
        row("decode", 1, 0, 1, 1.0),
    ]
    pairs, left_out = compare(rows)
    assert len(pairs) == 1
    assert sum(left_out.values()) == 4
    assert left_out["no profile of GPU h900"] == left_out["no profile of model llama-9"] == 1


def test_errors_are_absolute_with_a_signed_middle():
    pairs = [Pair("g", "w", "p", "t", "r", 1.0, 1.0 + error) for error in (-0.1, -0.2, -0.3, 0.4, *[-0.05] * 6)]
    found = errors(pairs)
    assert found.count == 10
    assert (found.median, found.p90, found.bias) == pytest.approx((0.05, 0.3, -0.05))


def test_a_file_of_rows(tmp_path):
    path = tmp_path / "rows.csv"
    lines = ("decode,16,0,1000,0.5,0.3,0.1,0.1,", "prefill,1,7,0,0.5,,,,", "all_reduce_eager,9,0,0,0.5,,,,")
    text = "\n".join((HEADER, *(f"h100,llama-3-8b,2,bf16,{line}" for line in lines)))
    path.write_text(text, encoding="utf-8")
    found, *others = read_rows(path)
    assert not any(other.is_captured for other in others)
    parts = (("products", 0.3), ("attention", 0.1), ("all-reduces", 0.1))
    assert found == replace(row("decode", 16, 0, 1000, 0.0005), parts_ms=parts, measured_ms=0.5)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("h100,llama-3-8b,2,bf16,decod,16,0,1000,0.5", "did you mean 'decode'"),
        ("h100,llama-3-8b,2,bf16,decode,16,0,1000,0", "measured_ms must be above zero"),
        ("h100,llama-3-8b,0,bf16,decode,16,0,1000,1", "tp: expected a whole number of at least 1, got '0'"),
        ("h100,llama-3-8b,2,bf16,decode,16,0,x,1", "context: expected a number of at least 0, got 'x'"),
        ("h100,llama-3-8b,2,bf16,prefill,16,0,0,1", "a prompt of no tokens"),
        ("h100,llama-3-8b,2,bf16,decode,16,0,2.5,1", "context"),
    ],
)
def test_senseless_rows_are_faults_with_their_line(tmp_path, line, message):
    path = tmp_path / "rows.csv"
    path.write_text(f"{','.join(COLUMNS)}\n{line}\n", encoding="utf-8")
    with pytest.raises(DataError, match="row 1 ") as caught:
        read_rows(path)
    assert message in str(caught.value)


def test_rows_of_operator_tables_are_of_the_last_layer():
    rows = list(operator_rows(MIXTRAL, "h100", 8, made_up()))
    assert Counter(one.phase for one in rows) == {"decode": len(DECODES), "prefill": len(PROMPTS)}
    pairs, left_out = compare(rows)
    assert not left_out
    assert {pair.term for pair in pairs} == {"layer", *PARTS.values()}
    for one in rows:
        assert one.measured_ms == pytest.approx(sum(ms for _, ms in one.parts_ms))
    deepseek = catalog.load_model("deepseek-r1")
    (first, *_) = operator_rows(deepseek, "h100", 1, made_up())
    assert dict(first.parts_ms)["products"] == pytest.approx(1e-9 * 3 * 7168 * 2048 * 21)  # shared experts alone
