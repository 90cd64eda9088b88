"""Each term of the operating point against its closed form, on chains whose flow is known."""

from __future__ import annotations

import math
from dataclasses import replace

import builders
import pytest

from helixsim.domain.cluster import TOKEN_ID_BYTES, Deployment, LinkSpec
from helixsim.domain.curves import Curve
from helixsim.domain.engine import EngineSpec
from helixsim.domain.placement import Placement
from helixsim.flow.busy import busy_capacity
from helixsim.flow.operating import operating_capacity, operating_point
from helixsim.flow.station import OperatingLoad

PROMPT, OUTPUT = 400.0, 80.0
LOAD = OperatingLoad(PROMPT, OUTPUT, kv_share=0.9, expected_output_tokens=OUTPUT)
ACTIVATION = 1000 + TOKEN_ID_BYTES
DECODE_NS, PREFILL_NS = 1e6, 20_000.0
LAYERS = 2
AMPLE = LinkSpec(1e15, 0)


def chain(
    nodes: int, *, link: LinkSpec = AMPLE, is_shared: bool = False, blocks: int = 100_000, seqs: int = 64, **compute
) -> tuple[Deployment, Placement]:
    """``nodes`` equal nodes of two layers in a row; ``compute`` replaces fields of their profile."""
    kind = builders.profile(
        "n", LAYERS, kv_blocks=(blocks, blocks), decode_ns=DECODE_NS, prefill_ns_per_token=PREFILL_NS,
        max_decode_seqs=seqs, typical_layers=LAYERS,
    )  # fmt: skip
    kind = replace(kind, compute=replace(kind.compute, **compute))
    fleet = builders.fleet([kind] * nodes, num_layers=LAYERS * nodes, intra=link)
    network = replace(fleet.cluster.network, is_shared=is_shared)
    fleet = replace(fleet, cluster=replace(fleet.cluster, network=network))
    return fleet, builders.placement_of(fleet, {f"n-{i}": (LAYERS * i, LAYERS * i + LAYERS) for i in range(nodes)})


def offered_trip_s(case: tuple[Deployment, Placement], steps_per_s: float, load: OperatingLoad = LOAD) -> float:
    """The round trip under so many decode steps/s."""
    point = operating_point(*case, load, offered_output_per_s=steps_per_s)
    assert point.output_tokens_per_s > steps_per_s
    return point.offered_round_trip_s


PROMPT_S = LAYERS * PROMPT * PREFILL_NS * 1e-9
STEP_S = LAYERS * DECODE_NS * 1e-9


def behind_s(steps_per_s: float, nodes: int, spread: float = 1.0, prompt_s: float = PROMPT_S) -> float:
    """Waiting behind prompts: half of one that is found, all of one that goes ahead on every further node."""
    busy = steps_per_s / OUTPUT * prompt_s
    caught, waited_s = 0.0, 0.0
    for _ in range(nodes):
        waited_s += spread * prompt_s * (caught + (1 - caught) * busy / 2)
        caught += (1 - caught) * busy
    return waited_s


@pytest.mark.parametrize("nodes", [1, 2, 5])
@pytest.mark.parametrize("steps_per_s", [1e-6, 50.0, 300.0])
@pytest.mark.parametrize("spread", [1.0, 2.5])
def test_prompts_in_the_way(nodes: int, steps_per_s: float, spread: float) -> None:
    load = replace(LOAD, prompt_spread=spread)
    own_s = PROMPT_S / OUTPUT  # the first of a request's round trips is its prompt
    expected = nodes * (STEP_S + own_s) + behind_s(steps_per_s, nodes, spread)
    assert offered_trip_s(chain(nodes), steps_per_s, load) == pytest.approx(expected, rel=1e-6)


def test_prompts_go_the_same_way_as_often_as_anything_does() -> None:
    """The first node feeds two equal ones: what a step is stuck behind goes on with it in one case of two."""
    kind = builders.profile("n", LAYERS, kv_blocks=(10**5,) * 2, decode_ns=DECODE_NS, prefill_ns_per_token=PREFILL_NS)
    fleet = builders.fleet([kind] * 3, num_layers=2 * LAYERS, intra=AMPLE)
    placement = builders.placement_of(fleet, {"n-0": (0, 2), "n-1": (2, 4), "n-2": (2, 4)})
    rate = 200.0
    busy, half = rate / OUTPUT * PROMPT_S, rate / 2 / OUTPUT * PROMPT_S
    first_s = PROMPT_S * busy / 2
    second_s = PROMPT_S * (busy / 2 + (1 - busy / 2) * half / 2)
    expected = 2 * (STEP_S + PROMPT_S / OUTPUT) + first_s + second_s
    assert offered_trip_s((fleet, placement), rate) == pytest.approx(expected, rel=1e-5)


def test_latency_and_messages_are_paid_on_every_link() -> None:
    load = replace(LOAD, engine=EngineSpec(message_overhead_ns=2_000_000))
    gained = offered_trip_s(chain(3, link=LinkSpec(1e15, 7_000_000)), 1e-6, load) - offered_trip_s(chain(3), 1e-6)
    assert gained == pytest.approx(4 * 9e-3)


@pytest.mark.parametrize("spread", [1.0, 3.0])
def test_transmission_and_the_prompt_that_is_on_the_link(spread: float) -> None:
    """Two links carry activations, two only token ids. A step pays its share of the prompt and half of one it finds."""
    bps, rate, load = 2e7, 40.0, replace(LOAD, prompt_spread=spread)
    expected = 0.0
    for size in (TOKEN_ID_BYTES, ACTIVATION, ACTIVATION, TOKEN_ID_BYTES):
        token_s = 8 * size / bps
        expected += token_s * (PROMPT + OUTPUT) / OUTPUT + rate / OUTPUT * (PROMPT * token_s) ** 2 * spread / 2
    gained = offered_trip_s(chain(3, link=LinkSpec(bps, 0)), rate, load) - offered_trip_s(chain(3), rate, load)
    assert gained == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("rate", [1e-6, 40.0])
def test_a_link_that_is_shared_evenly_is_slower_by_its_idle_share(rate: float) -> None:
    bps, expected = 5e6, 0.0
    for size in (TOKEN_ID_BYTES, ACTIVATION, ACTIVATION, TOKEN_ID_BYTES):
        token_s = 8 * size / bps
        busy = rate * (PROMPT + OUTPUT) / OUTPUT * token_s
        assert busy < 0.95
        expected += token_s * (PROMPT + OUTPUT) / OUTPUT / (1 - busy)
    case = chain(3, link=LinkSpec(bps, 0), is_shared=True)
    gained = offered_trip_s(case, rate) - offered_trip_s(chain(3), rate)
    assert gained == pytest.approx(expected, rel=1e-5)


def test_overheads_of_the_engine_and_copies() -> None:
    engine = EngineSpec(gather_ns=100_000, batch_overhead_ns=300_000, sequence_overhead_ns=50_000)
    copy_ns = 7_000.0
    case = chain(2, activation_copy_ns_per_token=copy_ns)
    gained = offered_trip_s(case, 1e-6, replace(LOAD, engine=engine)) - offered_trip_s(chain(2), 1e-6)
    copied_prompt_s = copy_ns * PROMPT * 1e-9
    prompt_s = copied_prompt_s + 50_000 * 1e-9
    assert gained == pytest.approx(2 * (450_000 + copy_ns) * 1e-9 + 2 * prompt_s / OUTPUT, rel=1e-6)


def test_no_layer_is_faster_than_its_launch() -> None:
    launch_ns = 20 * DECODE_NS  # slower than the step and than the prompt of 8 ms
    load = replace(LOAD, engine=EngineSpec(layer_launch_ns=int(launch_ns)))
    launch_s = LAYERS * launch_ns * 1e-9
    assert offered_trip_s(chain(1), 1e-6, load) == pytest.approx(launch_s * (1 + 1 / OUTPUT), rel=1e-5)


def test_context_is_read_in_every_step() -> None:
    """A step at half of the output reads prompt + output / 2 tokens; what the table contains already comes off."""
    longer = offered_trip_s(chain(1, decode_context_ns_per_token=1000.0), 1e-6) - offered_trip_s(chain(1), 1e-6)
    assert longer == pytest.approx(LAYERS * 1000e-9 * (PROMPT + OUTPUT / 2), rel=1e-6)
    part = chain(1, decode_context_ns_per_token=1000.0, reference_context_tokens=140)
    assert offered_trip_s(part, 1e-6) - offered_trip_s(chain(1), 1e-6) == pytest.approx(LAYERS * 300e-6, rel=1e-6)
    # A short context takes nothing off a step of one sequence, which reads the weights whatever comes.
    short = chain(1, decode_context_ns_per_token=1000.0, reference_context_tokens=4000)
    assert offered_trip_s(short, 1e-6) == pytest.approx(offered_trip_s(chain(1), 1e-6), rel=1e-9)


def test_a_prompt_in_a_shared_step_reads_no_weights_of_its_own() -> None:
    """A layer takes 1 ms for the weights and 10 us for each token: beside a decode step, a prompt adds its tokens."""
    work = Curve((0.0, 1000.0), (1e6, 11e6))
    case = chain(1, seqs=8, prefill=work, decode=work, token_work=work)
    load = replace(LOAD, engine=EngineSpec(shares_weight_reads=True))
    prompts_s = 8 / OUTPUT * LAYERS * PROMPT * 10e-6
    expected = 8 / (LAYERS * (1e-3 + 8 * 10e-6) + prompts_s)
    assert operating_point(*case, load).output_tokens_per_s == pytest.approx(expected, rel=1e-3)
    apart = operating_point(*case, LOAD).output_tokens_per_s
    assert apart == pytest.approx(8 / (8 / expected + 8 / OUTPUT * LAYERS * 1e-3), rel=1e-3)


def test_batches_are_what_arrives_while_the_one_before_is_computed() -> None:
    """A layer takes 1 ms + 0.1 ms per sequence: b = rate x (2 (1 + 0.1 b) ms + b x prompt / output)."""
    decode = Curve((1.0, 1000.0), (1.1e6, 1e6 + 1000 * 1e5))
    rate = 600.0
    batch = rate * 2e-3 / (1 - rate * (2e-4 + PROMPT_S / OUTPUT))
    assert batch > 1.5
    step_s = 2e-3 + 2e-4 * batch
    expected = step_s + PROMPT_S / OUTPUT + behind_s(rate, 1)
    assert offered_trip_s(chain(1, decode=decode), rate) == pytest.approx(expected, rel=1e-4)


def test_compute_caps_what_memory_would_allow() -> None:
    """With boundless memory and batches of 8: 8 sequences per step and their share of prompts."""
    point = operating_point(*chain(2, seqs=8), LOAD)
    expected = 8 / (STEP_S + 8 / OUTPUT * PROMPT_S)
    assert point.output_tokens_per_s == pytest.approx(expected, rel=0.01)


def test_memory_over_round_trip_caps_what_compute_would_allow() -> None:
    blocks = 200
    case = chain(2, blocks=blocks)
    point = operating_point(*case, LOAD)
    requests = 0.9 * blocks * 16 / (PROMPT + OUTPUT + OUTPUT * math.exp(-1) + 8)
    assert point.requests == pytest.approx(requests, rel=0.02)
    assert point.output_tokens_per_s * point.round_trip_s == pytest.approx(point.requests)
    assert point.tokens_per_s == pytest.approx(point.output_tokens_per_s * (PROMPT + OUTPUT) / OUTPUT)


@pytest.mark.parametrize("nodes", [2, 5])
@pytest.mark.parametrize("blocks", [150, 600])
def test_the_table_of_a_fleet_that_is_one_chain_is_its_operating_point(nodes: int, blocks: int) -> None:
    link = LinkSpec(1e15, 3_000_000)
    fleet, placement = chain(nodes, blocks=blocks, link=link)
    point = operating_point(fleet, placement, LOAD)
    table = operating_capacity(fleet, LOAD)
    assert table.tokens_per_s("n-0", LAYERS) == pytest.approx(point.tokens_per_s, rel=0.01)


@pytest.mark.parametrize("nodes", [2, 8])
@pytest.mark.parametrize("blocks", [150, 600])
def test_nodes_that_are_always_busy_pass_at_least_what_they_do_at_their_operating_point(
    nodes: int, blocks: int
) -> None:
    """With so long a link, requests wait for their round trip: busy nodes pass much more."""
    fleet, placement = chain(nodes, blocks=blocks, link=LinkSpec(1e15, 3_000_000))
    busy = busy_capacity(fleet, LOAD)
    table = operating_capacity(fleet, LOAD)
    assert all(most >= found for most, found in zip(busy.of("n-0"), table.of("n-0"), strict=True))
    assert busy.tokens_per_s("n-0", LAYERS) >= operating_point(fleet, placement, LOAD).tokens_per_s
    far, _ = chain(nodes, blocks=blocks, link=LinkSpec(1e15, 3_000_000_000))
    assert busy_capacity(far, LOAD).tables == busy.tables
    assert busy.tokens_per_s("n-0", LAYERS) > 10 * operating_capacity(far, LOAD).tokens_per_s("n-0", LAYERS)


def test_of_two_chains_prompts_in_the_way_count_by_their_share() -> None:
    """Twice the nodes: what a step is behind takes the same one of two ways in one case of two."""
    one = operating_capacity(chain(4, blocks=300)[0], LOAD)
    fleet, _ = chain(8, blocks=300)
    wide = replace(fleet, model=replace(fleet.model, layers=fleet.model.layers[:1] * 4 * LAYERS))
    assert operating_capacity(wide, LOAD).tokens_per_s("n-0", LAYERS) > one.tokens_per_s("n-0", LAYERS) * 1.01


def test_the_slower_of_two_routes_counts_by_its_flow() -> None:
    """A request comes back after the mean over the ways it can go, before and behind each node."""
    fast = builders.profile("f", LAYERS, kv_blocks=(10**5,) * 2, decode_ns=DECODE_NS, prefill_ns_per_token=0.01)
    slow = builders.profile("s", LAYERS, kv_blocks=(10**5,) * 2, decode_ns=5 * DECODE_NS, prefill_ns_per_token=0.01)
    fleet = builders.fleet([fast, fast, slow], num_layers=2 * LAYERS, intra=AMPLE)
    placement = builders.placement_of(fleet, {"f-0": (0, 2), "f-1": (2, 4), "s-0": (2, 4)})
    point = operating_point(fleet, placement, LOAD, offered_output_per_s=1e-6)
    most = {node: point.capacity.tokens_per_s(node, LAYERS) for node in placement.ranges}
    share = most["s-0"] / (most["s-0"] + most["f-1"])  # flows are in proportion to capacity
    expected = STEP_S + (1 - share) * STEP_S + share * 5 * STEP_S
    assert point.offered_round_trip_s == pytest.approx(expected, rel=0.02)
