"""Which tables of measured kernels time an operator, with made-up ones."""

import json
from dataclasses import replace

import pytest
from made_up_tables import made_up

from helixsim.domain.layers import FP16
from helixsim.domain.placement import LayerRange
from helixsim.domain.step_time import BatchShape
from helixsim.errors import DataError
from helixsim.hardware import catalog
from helixsim.hardware.formats import WEIGHTS
from helixsim.hardware.kernels import Node
from helixsim.hardware.operator_choice import Timed, all_reduce, experts, growing, latent_attention, products
from helixsim.hardware.operator_layers import layer_operators
from helixsim.hardware.operator_tables import operator_times

QWEN, DEEPSEEK = (catalog.load_model(name) for name in ("qwen3-30b-a3b", "deepseek-r1"))
H100, B200 = (catalog.load_gpu(name) for name in ("h100", "b200"))
FORM = {"shape": (4096, 4096, WEIGHTS["nvfp4"])}


def taking(tables, ms):
    """The same tables, each operator in so many ms (a function of tokens); None: they have nothing."""

    def evaluate(operators, is_prompt, seqs, tokens, past):
        if ms is None:
            raise RuntimeError("nothing here")
        return [("one", ms(seqs), 0.0, "silicon") for _ in json.loads(operators)]

    return replace(tables, evaluate=evaluate)


def tables_of(backend, own, *, siblings=(), older=None):
    plain = made_up("b200", backend)
    others = tuple(taking(plain, ms) for ms in siblings)
    near = None if older is None else taking(plain, older)
    return replace(taking(plain, own), siblings=lambda: others, older=lambda: near)


def of(ms):
    return lambda tokens: ms


@pytest.mark.parametrize(("backend", "found"), [("trtllm", 2.0), ("vllm", 5.0), ("sglang", 5.0)])
def test_kernels_that_an_engine_tunes_are_the_fastest_of_all_engines(backend, found):
    tables = tables_of(backend, of(5.0), siblings=(of(2.0), of(3.0), None))
    (product,) = products(tables, [FORM["shape"]])
    assert product.ns(7) == pytest.approx(found * 1e6)
    assert product.by_source(7) == pytest.approx({"silicon": found * 1e6})
    (plain,) = products(tables, [(4096, 4096, FP16)])
    assert plain.ns(7) == pytest.approx(5e6)


def routed(tables, by_expert=False):
    return experts(tables, QWEN.layers[0].experts, 4, by_expert=by_expert, has_shared=False)


@pytest.mark.parametrize(
    ("older", "newest", "found"),
    [
        (of(3.0), of(2.0), 3.0),  # the nearest version, though the newest is faster
        (of(2.0), of(9.0), 2.0),
        (of(5.0), of(2.0), 2.0),  # a kernel that is not run
        (None, of(2.0), 2.0),
        (of(3.0), None, 3.0),
    ],
)
def test_experts_are_those_of_the_nearest_version(older, newest, found):
    assert routed(tables_of("vllm", newest, older=older)).ns(9) == pytest.approx(found * 1e6)


def test_experts_that_no_version_has_are_those_of_other_engines():
    lacking = tables_of("vllm", None, siblings=(of(4.0), of(3.0), None))
    assert routed(lacking).ns(9) == pytest.approx(3e6)
    with pytest.raises(DataError, match="nothing here"):
        routed(tables_of("vllm", None, siblings=(None,))).ns(9)


@pytest.mark.parametrize(
    ("gpu", "backend", "found"),
    [(B200, "vllm", 2.0), (B200, "sglang", 5.0), (H100, "vllm", 5.0), (catalog.load_gpu("rtx-pro-6000"), "vllm", 5.0)],
)
def test_vllm_fuses_all_reduces_on_blackwell_with_nvlink_in_the_kernels_of_tensorrt_llm(gpu, backend, found):
    others = taking(made_up("b200", "sglang"), of(1.0)), taking(made_up("b200", "trtllm"), of(2.0))
    tables = replace(taking(made_up("b200", backend), of(5.0)), siblings=lambda: others)
    assert all_reduce(tables, gpu, 4096, 4).ns(7) == pytest.approx(found * 1e6)


def test_experts_of_a_backend_that_no_table_has_are_those_of_the_laws():
    model = catalog.load_model("gpt-oss-120b")
    layer, hopper = model.layers[0], H100.under("vllm")
    told = replace(hopper, kernels=hopper.kernels.with_backend("marlin"))
    of_tables, of_laws = (
        layer_operators(layer, model, Node(gpu, 1), made_up(), True).routed[-1] for gpu in (hopper, told)
    )
    assert of_tables.law_s is None
    assert of_laws.ns(9) == pytest.approx(1e9 * Node(told, 1).experts_s(layer.experts, 9))
    assert of_laws.by_source(9) == pytest.approx({"laws": of_laws.ns(9)})


def test_experts_go_in_whole_ones_where_asked_and_where_slices_are_not_known():
    own = made_up("h100")  # has no slices
    assert routed(own) == routed(own, by_expert=True)
    assert json.loads(routed(own).text)[0]["by_expert"]


def test_latent_attention_without_tables_of_its_own_is_that_of_other_engines():
    prompt, decode = latent_attention(
        tables_of("vllm", None, siblings=(of(4.0), of(3.0))), DEEPSEEK.layers[0].attention, 8, "fp8"
    )
    assert prompt.ns(1, 100, is_prompt=True) == pytest.approx(3e6)
    assert sum(one.ns(1, 100) for one in decode) == pytest.approx(2 * 3e6)  # what is before it, and itself


def test_a_curve_that_grows_takes_no_longer_for_few_rows_than_for_many():
    times = {1: 5.0, 2: 4.0, 4: 9.0, 8: 6.0, 16: 7.0}
    assert growing(list(times), lambda x: times[x]).y_ns == (4.0, 4.0, 6.0, 6.0, 7.0)


def test_in_service_what_is_multiplied_takes_longer_and_what_is_read_does_not():
    one = Timed("[{}]", (taking(made_up(), of(1.0)),), multiply_s=1e-6, read_s=1e-3, sustained=0.5)
    assert one.ns(1) == pytest.approx(1e6, rel=2e-3)
    assert one.ns(1000) == pytest.approx(1.5e6)
    assert one.ns(10**7) == pytest.approx(2e6, rel=1e-3)


def test_attention_ranks_share_the_experts_alone():
    """Made-up kernels are linear in tokens: the sum of all parts is known."""
    tables = replace(made_up("b200"), siblings=tuple)
    whole = operator_times(Node(B200, 4, 1, True), QWEN, tables)
    ranked = operator_times(Node(B200, 4, 4, True), QWEN, tables)
    layer = QWEN.layers[0]
    tokens, hidden = 8, QWEN.hidden_size
    expert_ns = 1e6 * 3e-9 * layer.experts.parameters_each * (4 * tokens + 20)
    reduce_ns = 1e6 * 1e-7 * hidden * 4 * (4 * tokens + 20)
    assert ranked.experts[0](4 * tokens) == pytest.approx(expert_ns + reduce_ns)
    assert ranked.ranks == 4
    assert len({id(curve) for curve in ranked.experts}) == 1
    matrices = sum(matrix.parameters for matrix in layer.matrices)
    norms_ns = 1e9 * Node(B200, 4, 4).norms_s(layer, hidden, tokens)
    assert ranked.layers[0].token_work(tokens) == pytest.approx(1e6 * 1e-9 * matrices * (tokens + 20) + norms_ns)
    assert whole.ranks == 1
    assert whole.experts == ()


def test_a_node_of_ranks_takes_as_long_as_its_fullest_rank_and_the_experts_of_all():
    from helixsim.domain.data_parallel import step_time
    from helixsim.domain.engine import EngineSpec

    engine = EngineSpec("kernels", copies_activations=False, shares_weight_reads=True)
    compute = operator_times(Node(B200, 4, 4), QWEN, replace(made_up("b200"), siblings=tuple))
    one = step_time(compute, engine, LayerRange(0, 1), QWEN.num_layers)
    step = BatchShape(decode_seqs=10, decode_context=10 * 500)
    times = compute.layers[0]
    expected = times.token_work(3) + times.attention.decode_curve(3)(500) + compute.experts[0](10)
    assert one.ns(step) == pytest.approx(expected)
