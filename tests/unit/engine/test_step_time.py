"""The law of a step's time: closed forms, and laws between shapes."""

from dataclasses import replace

import numpy as np
import pytest

from helixsim.domain.curves import Curve
from helixsim.domain.data_parallel import RankedStepTime
from helixsim.domain.engine import EngineSpec
from helixsim.domain.hardware import ComputeProfile, LayerTimes
from helixsim.domain.placement import LayerRange
from helixsim.domain.speculation import Speculation
from helixsim.domain.step_time import BatchShape, StepTime, prefill_pairs

PREFILL, DECODE = Curve((1.0, 100.0), (5.0, 104.0)), Curve((1.0, 10.0), (5.0, 14.0))
COMPUTE = ComputeProfile("k", "m", "measured", PREFILL, DECODE)
CONTEXT = replace(
    COMPUTE,
    decode_context_ns_per_token=0.25,
    reference_context_tokens=8,
    prefill_ns_per_pair=0.5,
    activation_copy_ns_per_token=3.0,
    head=Curve((1.0, 2.0), (7.0, 9.0)),
)
FIRST = LayerRange(0, 1)
PROMPT, STEPS = BatchShape(100, 5000, 1, 0, 0, 1), BatchShape(0, 0, 0, 10, 400, 10)
BOTH = PROMPT.joined(STEPS)


def step_time(compute=COMPUTE, held=FIRST, num_layers=1, **engine):
    return StepTime(compute, EngineSpec(**engine), held, num_layers)


def test_mixed_batches_read_weights_once_if_shared():
    assert step_time().ns(BOTH) == 104.0 + 14.0
    assert step_time(shares_weight_reads=True).ns(BOTH) == 104.0 + 14.0 - 5.0
    known = replace(COMPUTE, token_work=Curve((0.0, 200.0), (3.0, 7.0)))
    shared = step_time(known, shares_weight_reads=True)
    assert shared.ns(BOTH) == pytest.approx((104.0 - 5.0) + (14.0 - 3.2) + 5.2)
    for one in (step_time(), shared):
        assert one.ns(PROMPT) == 104.0
        assert one.ns(STEPS) == 14.0


def test_every_term_of_a_step():
    engine = {"batch_overhead_ns": 1000, "sequence_overhead_ns": 20, "has_output_head": True}
    one = step_time(CONTEXT, LayerRange(2, 5), 5, **engine)
    layer = 104.0 + 14.0 + 0.25 * (400 - 8 * 10)
    assert one.ns(BOTH) == 3 * layer + 3 * 0.5 * 5000 + (9.0 + 9 * 2.0) + 3.0 * 110 + 1000 + 20 * 11
    # A prompt whose last chunk comes later gets no token.
    assert one.ns(BOTH) - one.ns(BOTH._replace(sampled=10)) == 2.0
    inner = step_time(CONTEXT, LayerRange(1, 4), 5, **engine)
    assert one.ns(BOTH) - inner.ns(BOTH) == 9.0 + 9 * 2.0
    assert step_time(CONTEXT, copies_activations=False).ns(STEPS) == 14.0 + 0.25 * 320


def test_a_layer_never_takes_less_than_its_launch_and_short_contexts_take_little():
    launch = {"layer_launch_ns": 50}
    assert step_time(**launch).ns(BOTH) == 104.0 + 50.0
    assert step_time(shares_weight_reads=True, **launch).ns(STEPS) == 50.0
    short = replace(COMPUTE, decode_context_ns_per_token=1.0, reference_context_tokens=1000)
    assert step_time(short).ns(STEPS) == 5.0


def test_steps_in_cuda_graphs_need_no_launches():
    graphs = StepTime(COMPUTE, EngineSpec(layer_launch_ns=50), FIRST, 1, (4, 16))
    assert graphs.ns(STEPS) == COMPUTE.decode(16) < 50.0  # padded to the next graph
    assert graphs.ns(BOTH) == 104.0 + 50.0
    assert graphs.decode_ns(17, 400) == 50.0


def test_a_step_takes_at_least_what_the_host_does_meanwhile():
    own = {"batch_overhead_ns": 1000, "sequence_overhead_ns": 20}
    host = {"host_ns": 400, "sequence_host_ns": 9}
    for shape in (PROMPT, STEPS, BOTH):
        seqs = shape.prefill_seqs + shape.decode_seqs
        gpu_ns = step_time(CONTEXT).ns(shape)
        assert step_time(CONTEXT, **host, **own).ns(shape) == max(gpu_ns, 400 + 9 * seqs) + 1000 + 20 * seqs
    assert step_time(CONTEXT, **host).decode_ns(10, 400) == step_time(CONTEXT, **host).ns(STEPS) == 490


def test_requests_that_enter_inside_leave_out_the_layers_before():
    one = step_time(CONTEXT, LayerRange(2, 5), 6, copies_activations=False)
    whole = one.ns(BOTH)
    assert one.ns_of_entries([(2, BOTH)]) == whole
    assert one.ns_of_entries([(3, BOTH)]) == one.ns(BOTH, 3) == pytest.approx(whole * 2 / 3)
    assert one.ns_of_entries([(2, STEPS), (4, PROMPT)]) == 3 * one.ns(STEPS, 4) + one.ns(PROMPT, 4)
    assert one.ns_of_entries([(2, STEPS), (3, BatchShape())]) == one.ns(STEPS) == one.decode_ns(10, 400)


def test_chunks_have_the_pairs_of_the_whole_prompt():
    chunks = [300, 17, 700]
    past = [0, 300, 317]
    assert sum(map(prefill_pairs, chunks, past)) == prefill_pairs(1017) == 1017**2 / 2


def test_a_short_chunk_reads_the_whole_context_behind_it():
    """A few tokens behind a cached prefix: their pairs are soon multiplied, but all keys and values are read."""
    one = step_time(CONTEXT, copies_activations=False)

    def extra_ns(tokens, past, seqs=1):
        shape = BatchShape(seqs * tokens, seqs * prefill_pairs(tokens, past), seqs)
        return one.ns(shape) - one.ns(shape._replace(prefill_pairs=0))

    few = replace(CONTEXT, prefill_ns_per_pair=0.01)
    assert extra_ns(4, 10_000) == 0.5 * prefill_pairs(4, 10_000)
    one = step_time(few, copies_activations=False)
    assert extra_ns(4, 10_000) == pytest.approx(0.25 * 10_000)
    assert extra_ns(4, 10_000, seqs=3) == pytest.approx(3 * 0.25 * 10_000)
    assert extra_ns(100, 10_000) == pytest.approx(0.01 * prefill_pairs(100, 10_000))
    assert extra_ns(4, 0) == pytest.approx(0.01 * prefill_pairs(4))


@pytest.fixture
def hybrid():
    """Of every two layers, the second attends to 64 tokens."""
    full = LayerTimes(PREFILL, DECODE, 0.25, 8, 0.5)
    window = replace(full, window_tokens=64)
    return replace(CONTEXT, layers=(full, window) * 3)


def test_windows_cap_what_is_read_and_multiplied(hybrid):
    full, window = (step_time(hybrid, LayerRange(at, at + 1), 7, copies_activations=False) for at in (0, 1))
    shape = BatchShape(0, 0, 0, 10, 2000, 10)
    assert full.ns(shape) == 14.0 + 0.25 * (2000 - 80)
    assert window.ns(shape) == 14.0 + 0.25 * (640 - 80)
    short = shape._replace(decode_context=500)
    assert window.ns(short) == full.ns(short)
    # Token i of a prompt attends to min(i, window): here in continuous form.
    prompt = BatchShape(100, prefill_pairs(100), 1, 0, 0, 1)
    assert window.ns(prompt) == 104.0 + 0.5 * (64**2 / 2 + 36 * 64)
    behind = BatchShape(100, prefill_pairs(100, 1000), 1, 0, 0, 1)
    assert window.ns(behind) == 104.0 + 0.5 * 6400
    pair = BatchShape(200, 2 * prefill_pairs(100), 2, 0, 0, 2)
    assert window.ns(pair) == pytest.approx(PREFILL(200) + 2 * 0.5 * (64**2 / 2 + 36 * 64))


def test_an_index_looks_at_the_whole_context_whatever_the_window():
    sparse = LayerTimes(PREFILL, DECODE, 0.25, 0, 0.5, None, 64, index_ns_per_token=0.125, index_ns_per_pair=0.0625)
    one = step_time(replace(COMPUTE, layers=(sparse,)))
    shape = BatchShape(0, 0, 0, 10, 2000, 10)
    assert one.ns(shape) == one.decode_ns(10, 2000) == 14.0 + 0.25 * 640 + 0.125 * 2000
    prompt = BatchShape(100, prefill_pairs(100, 1000), 1, 0, 0, 1)
    assert one.ns(prompt) == 104.0 + 0.5 * 6400 + 0.0625 * prefill_pairs(100, 1000)
    assert one.decode_ns_series(10, 2000, 2).tolist() == [one.decode_ns(10, 2000), one.decode_ns(10, 2010)]


def test_a_node_takes_the_time_of_the_layers_it_holds(hybrid):
    shape = BatchShape(0, 0, 0, 10, 2000, 10)
    alone = [step_time(hybrid, LayerRange(at, at + 1), 7, copies_activations=False).ns(shape) for at in range(6)]
    for held in (LayerRange(0, 6), LayerRange(1, 4), LayerRange(3, 4)):
        assert step_time(hybrid, held, 7, copies_activations=False).ns(shape) == pytest.approx(
            sum(alone[held.start : held.end])
        )


@pytest.mark.parametrize("compute", [COMPUTE, CONTEXT])
def test_a_series_of_steps_equals_each_to_the_last_bit(compute, hybrid):
    headed = replace(COMPUTE, head=Curve((1.0, 9.0), (7.5, 9.25)))
    for profile in (compute, hybrid, headed):
        for launch_ns in (0, 10**6):  # the host's launches, a number of integers, may take longest
            one = step_time(
                profile, LayerRange(0, 5), 5, has_output_head=True, batch_overhead_ns=7, sequence_overhead_ns=3,
                host_ns=600, sequence_host_ns=1,
                layer_launch_ns=launch_ns, shares_weight_reads=True,
            )  # fmt: skip
            series = one.decode_ns_series(7, 300, 200)
            assert series.tolist() == [one.decode_ns(7, 300 + 7 * step) for step in range(200)]
            assert (np.diff(series) >= 0).all()


def test_products_are_padded_to_the_next_size_and_nothing_else():
    """Contexts, the head, copies and the host's time are those of the sequences that are there."""
    sizes, host = (4, 8, 16), {"sequence_overhead_ns": 5, "batch_overhead_ns": 3, "has_output_head": True}
    padded = StepTime(CONTEXT, EngineSpec(**host), FIRST, 1, sizes)
    plain = step_time(CONTEXT, **host)
    products = step_time(replace(CONTEXT, decode_context_ns_per_token=0.0, head=None))
    for seqs in range(1, 30):
        to = next((size for size in sizes if size >= seqs), seqs)
        more = products.decode_ns(to, 0) - products.decode_ns(seqs, 0) - 3.0 * (to - seqs)
        more -= 0.25 * 8 * (to - seqs)  # the context that a measured sequence has
        assert padded.decode_ns(seqs, 400) == pytest.approx(plain.decode_ns(seqs, 400) + more)
    assert list(padded.decode_ns_series(5, 300, 4)) == [padded.decode_ns(5, 300 + 5 * step) for step in range(4)]


def test_steps_with_prompts_are_padded_where_the_engine_does_so():
    sizes, mixed = (128,), {"shares_weight_reads": True}
    plain = step_time(**mixed)
    assert StepTime(COMPUTE, EngineSpec(**mixed), FIRST, 1, sizes).ns(BOTH) == plain.ns(BOTH)
    padded = StepTime(COMPUTE, EngineSpec(pads_prompts=True, **mixed), FIRST, 1, sizes)
    assert padded.ns(BOTH) == plain.ns(BatchShape(100, 5000, 1, 28, 400, 10))
    assert padded.ns(PROMPT) == plain.ns(BatchShape(128, 5000, 1, 0, 0, 1))
    beyond = BatchShape(129, 5000, 1, 0, 0, 1)
    assert padded.ns(beyond) == plain.ns(beyond)


@pytest.mark.parametrize("kind", [StepTime, RankedStepTime])
def test_a_module_that_drafts_is_one_more_layer_and_head_for_each_draft_token(kind):
    """On the node with the last layer; as often as there are draft tokens, and for one token of each sequence."""
    compute = replace(
        CONTEXT, ranks=2 if kind is RankedStepTime else 1, experts=(None, Curve((1.0, 100.0), (9.0, 90.0)))
    )
    engine = {"has_output_head": True, "copies_activations": False, "host_ns": 1, "batch_overhead_ns": 1000}
    drafts = Speculation((0.5, 0.25))

    def made(held, **own):
        return kind(compute, EngineSpec(**engine | own), held, 2)

    whole, last, first = LayerRange(0, 2), LayerRange(1, 2), LayerRange(0, 1)
    each = made(last, batch_overhead_ns=0).decode_ns(10, 400)
    without = made(whole, speculation=drafts).decode_ns(10, 400)
    drafting = made(whole, speculation=replace(drafts, is_mtp=True))
    assert drafting.decode_ns(10, 400) == without + 2 * each
    assert drafting.ns(STEPS) == pytest.approx(drafting.decode_ns(10, 400))
    assert list(drafting.decode_ns_series(10, 400, 3)) == [drafting.decode_ns(10, 400 + 10 * step) for step in range(3)]
    assert drafting.ns(PROMPT) == made(whole, speculation=drafts).ns(PROMPT)
    planned = made(whole, speculation=replace(drafts, is_mtp=True, overhead_ns=5000))
    assert planned.decode_ns(10, 400) == drafting.decode_ns(10, 400) + 5000
    assert planned.ns(PROMPT) == drafting.ns(PROMPT)
    inner = made(first, speculation=replace(drafts, is_mtp=True))
    assert inner.decode_ns(10, 400) == made(first, speculation=drafts).decode_ns(10, 400)


def test_tokens_that_a_sequence_verifies_read_its_context_once_and_multiply_it_each():
    """Compressed keys and values, of which the products of one token take half as long as the reading."""
    latent = replace(CONTEXT, context_multiply_ns_per_token=0.125)

    def extra_ns(compute, drafts):
        one = step_time(compute, copies_activations=False, speculation=Speculation((0.5,) * drafts))
        return one.decode_ns(10, 4000) - one.decode_ns(10, 400)

    assert [extra_ns(latent, drafts) / 3600 for drafts in (0, 1, 3)] == pytest.approx([0.25, 0.25, 0.5])
    assert extra_ns(CONTEXT, 3) == extra_ns(CONTEXT, 0)
