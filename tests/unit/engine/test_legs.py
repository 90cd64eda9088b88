"""Prefill and decode on different nodes: what must hold whatever the rules of the engine are."""

from __future__ import annotations

from dataclasses import fields, replace

import numpy as np
import pytest
from comparing_replicas import INSIDE
from replica_cases import chains, kind_of
from simulating import MS, SECOND, inputs_of, inputs_of_legs, random_load, requests, with_roles

from helixsim.domain.cluster import LinkSpec
from helixsim.domain.disaggregation import KvTransfer
from helixsim.domain.request import FeedMode, Prefix, Request, Window
from helixsim.engine.leg_scheduler import LegScheduler
from helixsim.engine.simulate import simulate
from helixsim.errors import SimulationError

STEP_NS = 12_000_000
"""A decode step of the 12 layers of ``kind_of``."""

ENDLESS = LinkSpec(1e30, 0)
FREE = KvTransfer(efficiency=1.0, latency_ns=0)
SPLIT = {"p-0": "prefill", "d-0": "decode"}


def pair(*, intra=ENDLESS, stages=(1, 1), blocks=5000, seqs=500, **more):
    """A replica that prefills and one that decodes."""
    kinds = [kind_of(name, blocks=blocks, budget=4000, seqs=seqs) for name in "pd"]
    case = chains([[kinds[0]] * stages[0], [kinds[1]] * stages[1]], intra=intra, **more)
    roles = {f"{name}-{n}": role for name, role in (("p", "prefill"), ("d", "decode")) for n in range(3)}
    return with_roles(case, roles)


def run_legs(case, load, transfer=FREE, **how):
    return simulate(inputs_of_legs(case, load, transfer, **{"engine": INSIDE, **how}))


@pytest.mark.parametrize("rate_rps", [3.0, 60.0])
def test_free_transfers_leave_two_independent_pools(rate_rps):
    """The one computes prompts as if nothing followed; the other decodes what comes, as if nothing had been before."""
    load = random_load(4, 60, rate_rps=rate_rps, prompt=60, output=20)
    whole = run_legs(pair(), load, FREE)
    alone = chains([[kind_of("p", blocks=5000, budget=4000, seqs=500)]], intra=ENDLESS)
    prompts = simulate(inputs_of(alone, [replace(one, output_tokens=1) for one in load], engine=INSIDE))
    first, finish = decoded(prompts.requests.finish_ns.tolist(), load)
    np.testing.assert_array_equal(whole.requests.first_token_ns, first)
    np.testing.assert_array_equal(whole.requests.finish_ns, finish)
    assert not whole.requests.transfer_ns.any()


def decoded(come_ns, load):
    """First tokens and ends on a pool whose steps take a constant time.

    Its scheduler takes note of a request when a step ends, or at once if there is none, and lets it decode from the
    step that it forms next.
    """
    first, finish = list(come_ns), list(come_ns)
    left = [one.output_tokens - 1 for one in load]
    coming = sorted((at, number) for number, at in enumerate(come_ns) if left[number])
    running, noted, now = [], [], 0
    while coming or running or noted:
        if not running and not noted:
            now = max(now, coming[0][0])
        new = [number for at, number in coming if at <= now]
        coming = coming[len(new) :]
        for number in new:
            first[number] = now
        running += noted
        running, noted = (running, new) if running else (new, [])
        now += STEP_NS
        for number in running:
            left[number] -= 1
            finish[number] = now
        running = [number for number in running if left[number]]
    return first, finish


@pytest.mark.parametrize("is_layerwise", [False, True])
@pytest.mark.parametrize("stages", [(1, 1), (2, 3)])
def test_each_phase_computes_all_of_its_tokens_once(stages, is_layerwise):
    load = random_load(2, 50, rate_rps=20.0, prompt=80, output=15)
    result = run_legs(pair(stages=stages, intra=LinkSpec(1e9, 50_000)), load, KvTransfer(is_layerwise))
    nodes = result.nodes
    for name, prompts, decodes in zip(nodes.node_id, nodes.prompt_tokens, nodes.decode_tokens, strict=True):
        assert prompts == (sum(one.prompt_tokens for one in load) if name.startswith("p") else 0), name
        assert decodes == (sum(one.output_tokens - 1 for one in load) if name.startswith("d") else 0), name
    assert len(result.transfers.bytes) == sum(one.output_tokens > 1 for one in load)
    assert (result.requests.transfer_ns[[one.output_tokens > 1 for one in load]] > 0).all()
    assert nodes.preemptions.sum() == 0


@pytest.mark.parametrize("is_layerwise", [False, True])
def test_uneven_ranges_send_each_layer_once_to_the_node_that_holds_it(is_layerwise):
    """Layers 0-6 and 6-12 to nodes with 0-4, 4-8 and 8-12."""
    result = run_legs(pair(stages=(2, 3)), requests((0, 100, 5)), KvTransfer(is_layerwise))
    links = result.links
    sent = {
        (s, d): b for s, d, b in zip(links.src, links.dst, links.bytes.tolist(), strict=True) if s[0] + d[0] == "pd"
    }
    of_layer = 100 * 2000  # each token leaves 2 000 bytes in each layer
    assert sent == {
        ("p-0", "d-0"): 4 * of_layer, ("p-0", "d-1"): 2 * of_layer,
        ("p-1", "d-1"): 2 * of_layer, ("p-1", "d-2"): 4 * of_layer,
    }  # fmt: skip
    assert result.transfers.bytes.tolist() == [12 * of_layer]


def test_layers_that_are_sent_as_they_are_computed_come_earlier():
    """Of a transfer that takes half as long as the prompt, only the last layer is waited for."""
    case = pair(intra=LinkSpec(32e9, 0))
    load = requests((0, 1000, 5))
    after, layerwise = (run_legs(case, load, replace(FREE, is_layerwise=one)).requests for one in (False, True))
    prompt_ns, sent_ns = 12 * 1_000_000, 12 * 500_000
    assert after.transfer_ns.tolist() == [pytest.approx(sent_ns, abs=2)]
    assert layerwise.transfer_ns.tolist() == [pytest.approx(sent_ns / 12, abs=2)]
    submitted_ns = layerwise.first_token_ns[0] - layerwise.transfer_ns[0]
    assert submitted_ns == pytest.approx(prompt_ns, rel=1e-3)


def test_a_large_transfer_does_not_stop_decode_steps():
    """The steps of a pipeline pass its network cards as if nothing else were on them; the transfer takes the rest."""
    link = LinkSpec(8e9, 20_000)
    case = pair(intra=link, stages=(1, 2), nic_bps=8e9)
    first, large = requests((0, 10, 200), (500, 3000, 2))
    both, alone = (run_legs(case, load) for load in ([first, large], [first]))
    assert both.requests.finish_ns[0] == alone.requests.finish_ns[0]
    free_ns = 3000 * 12 * 2000 + link.latency_ns  # 72 MB at 1 GB/s through the card of the sender
    assert free_ns <= both.transfers.duration_ns[-1] < free_ns + 10 * 1002  # and a few tokens of activations


def test_memory_is_reserved_before_anything_is_sent():
    """A request whose prompt does not fit beside the running ones waits on the prefill side, and in no transfer."""
    kinds = [kind_of("p", blocks=400, budget=4000), kind_of("d", blocks=20, budget=4000)]
    case = with_roles(chains([[kinds[0]], [kinds[1]]], intra=LinkSpec(1e9, 0)), SPLIT)
    result = run_legs(case, requests((0, 200, 60), (1, 200, 10)), FREE)
    first, second = 0, 1
    assert result.nodes.preemptions.tolist() == [0, 0]
    started_ns = result.requests.first_token_ns[second] - result.requests.transfer_ns[second]
    assert started_ns >= result.requests.finish_ns[first]
    assert result.nodes.kv_peak_blocks.tolist()[1] <= 20


def test_requests_of_one_token_and_those_of_nodes_that_do_both_stay():
    kinds = [kind_of(name, blocks=400, budget=4000) for name in "pd"]
    case = with_roles(chains([[kinds[0]], [kinds[1]]], intra=LinkSpec(1e9, 0)), {"p-0": "prefill"})
    load = random_load(5, 40, rate_rps=30.0, prompt=60, output=3)
    result = run_legs(case, load, FREE)
    routed = np.array([result.routes[route].hops[0][0] for route in result.requests.route])
    singles = np.array([one.output_tokens == 1 for one in load])
    assert set(routed[singles]) == {"p-0", "d-0"}
    assert set(routed[~singles]) == {"d-0"}
    local = (routed == "d-0") & (result.requests.transfer_ns == 0)
    assert local.any()
    assert len(result.transfers.bytes) == (~local & ~singles).sum() > 0


@pytest.mark.parametrize("feed", [{"mode": FeedMode.CLOSED_LOOP, "concurrency": 7}, {"mode": FeedMode.OPEN}])
def test_a_run_repeats_to_the_byte(feed):
    def once():
        load = random_load(7, 60, rate_rps=40.0, prompt=60, output=20)
        case = pair(stages=(2, 2), intra=LinkSpec(1e9, 30_000), blocks=30, nic_bps=2e9)
        return run_legs(case, load, KvTransfer(True), routing="earliest_finish", **feed)

    one, other = once(), once()
    for field in fields(one.requests):
        np.testing.assert_array_equal(getattr(one.requests, field.name), getattr(other.requests, field.name))
    np.testing.assert_array_equal(one.transfers.duration_ns, other.transfers.duration_ns)
    np.testing.assert_array_equal(one.links.bytes, other.links.bytes)


def test_blocks_that_are_not_given_back_break_the_run(monkeypatch):
    monkeypatch.setattr(LegScheduler, "_give", lambda *_: None)
    with pytest.raises(SimulationError, match="INV-4"):
        run_legs(pair(), random_load(1, 20, rate_rps=20.0), FREE)


def test_saturation_fills_both_sides():
    load = random_load(3, 5000, rate_rps=1.0, prompt=60, output=40)
    window = Window(SECOND, 2 * SECOND, drain=False)
    how = {"mode": FeedMode.SATURATE, "prompts_in_flight": 20, "window": window}
    result = run_legs(pair(intra=LinkSpec(1e10, 0), blocks=200), load, **how)
    busy = np.diff(result.series.busy_ns[[len(result.series.time_ns) // 2, -1]], axis=0)[0]
    span = result.series.time_ns[-1] - result.series.time_ns[len(result.series.time_ns) // 2]
    assert busy[1] > 0.95 * span


CACHING = replace(INSIDE, caches_prefixes=True)


def turns(count, *, message=100, answer=20, gap_ms=5000):
    """A conversation: each prompt is all before it and one more message."""
    known = [(message + answer) * (turn + 1) for turn in range(count)]
    return [
        Request(turn, turn * gap_ms * 1_000_000, total - answer, answer, prefix=Prefix((7,), (total,), total))
        for turn, total in enumerate(known)
    ]


def test_no_prompt_is_as_short_as_nothing():
    """No prompt lacks fewer tokens than one: a threshold of none is as no threshold, but for the order of routing."""
    load = random_load(4, 60, rate_rps=30.0, prompt=60, output=20)
    for is_layerwise in (False, True):
        never, none = (run_legs(pair(), load, KvTransfer(is_layerwise), most_local_tokens=most) for most in (None, 0))
        np.testing.assert_array_equal(never.requests.finish_ns, none.requests.finish_ns)
        np.testing.assert_array_equal(never.requests.transfer_ns, none.requests.transfer_ns)


def test_a_threshold_beyond_all_prompts_leaves_the_prefill_side_idle():
    """The nodes that decode serve the load as if they were alone."""
    load = random_load(4, 60, rate_rps=30.0, prompt=60, output=20)
    result = run_legs(pair(), load, most_local_tokens=10**6)
    alone = chains([[kind_of("d", blocks=5000, budget=4000, seqs=500)]], intra=ENDLESS)
    np.testing.assert_array_equal(
        result.requests.finish_ns, simulate(inputs_of(alone, load, engine=INSIDE)).requests.finish_ns
    )
    assert result.nodes.prompt_tokens.tolist() == [0, sum(one.prompt_tokens for one in load)]
    assert (len(result.transfers.bytes), result.transfers.local_prompts) == (0, len(load))


@pytest.mark.parametrize("is_layerwise", [False, True])
def test_short_prompts_stay_and_long_ones_go(is_layerwise):
    load = random_load(4, 60, rate_rps=30.0, prompt=60, output=20)
    result = run_legs(pair(), load, KvTransfer(is_layerwise), most_local_tokens=40)
    short = np.array([one.prompt_tokens <= 40 for one in load])
    single = np.array([one.output_tokens == 1 for one in load])
    assert 0 < short.sum() < len(load)
    np.testing.assert_array_equal(result.requests.transfer_ns == 0, short | single)
    assert result.nodes.prompt_tokens[1] == sum(one.prompt_tokens for one in load if one.prompt_tokens <= 40)
    assert len(result.transfers.bytes) + result.transfers.local_prompts == len(load)


@pytest.mark.parametrize("is_layerwise", [False, True])
def test_turns_of_which_only_the_message_is_new_stay_where_the_conversation_is(is_layerwise):
    """The first turn is sent, the others find it and its answer there, but for their last, incomplete block."""
    load = turns(5)
    result = run_legs(pair(), load, KvTransfer(is_layerwise), engine=CACHING, most_local_tokens=150)
    assert (result.requests.transfer_ns > 0).tolist() == [False] * 5  # 120 tokens, of which 100 are a message
    first = run_legs(pair(), load, KvTransfer(is_layerwise), engine=CACHING, most_local_tokens=110)
    whole = [one.prompt_tokens - cached for one, cached in zip(load, first.requests.cached_tokens, strict=True)]
    assert first.transfers.local_prompts == sum(lacking <= 110 for lacking in whole) > 0
    without = run_legs(
        pair(), load, KvTransfer(is_layerwise), engine=CACHING, most_local_tokens=110, decode_caches=False
    )
    assert without.transfers.local_prompts == 1  # the first prompt alone is as short as that


@pytest.mark.parametrize("is_layerwise", [False, True])
@pytest.mark.parametrize("stages", [(1, 1), (2, 3)])
def test_blocks_that_the_target_has_are_not_sent(is_layerwise, stages):
    """All turns are sent; each but the first only from the last whole block on that the one before has left."""
    load = turns(4)
    caching, plain = (
        run_legs(pair(stages=stages), load, KvTransfer(is_layerwise), engine=CACHING, decode_caches=one)
        for one in (True, False)
    )
    tokens = [one.prompt_tokens for one in load]
    kept = [0] + [(before.prompt_tokens + before.output_tokens - 1) // 16 * 16 for before in load[:-1]]
    of_token = 12 * 2000
    assert plain.transfers.bytes.tolist() == [of_token * each for each in tokens]
    assert caching.transfers.bytes.tolist() == [
        of_token * (each - held) for each, held in zip(tokens, kept, strict=True)
    ]
    np.testing.assert_array_equal(caching.requests.cached_tokens, plain.requests.cached_tokens)  # of the prefill side


def test_prompts_are_routed_to_the_prefill_node_that_has_them():
    """Of several conversations, by what the caches have, every turn finds all but its message."""
    case = with_roles(
        chains([[kind_of(name, blocks=5000, budget=4000)] for name in "ppd"], intra=ENDLESS),
        {"p-0": "prefill", "p-1": "prefill", "d-0": "decode"},
    )
    load = [
        replace(one, id=3 * one.id + k, arrival_ns=one.arrival_ns + k * MS, prefix=replace(one.prefix, ids=(k,)))
        for one in turns(6)
        for k in range(3)
    ]
    aware, even = (
        run_legs(case, load, engine=CACHING, routing=one, decode_routing="least_loaded").requests.cached_tokens
        for one in ("prefix_aware", "flow_weighted")
    )
    assert aware.tolist() == [max(0, one.prompt_tokens - 120) // 16 * 16 for one in load]
    assert even.sum() < aware.sum()
