"""Nodes that fail where some prefill and some decode: what is lost, what goes on, and when."""

from __future__ import annotations

from dataclasses import replace

import pytest
from comparing_replicas import INSIDE
from fault_cases import plan_of
from replica_cases import chains, kind_of
from simulating import MS, inputs_of_legs, random_load, requests, with_roles

from helixsim.domain.cluster import LinkSpec
from helixsim.domain.disaggregation import KvTransfer
from helixsim.domain.faults import FailureCause
from helixsim.domain.request import Prefix, Request
from helixsim.domain.result import RequestStatus
from helixsim.engine.simulate import simulate

LINK = LinkSpec(32e9, 0)
"""The keys and values of 1000 tokens, 2 000 bytes in each of 12 layers, take 6 ms; the prompt takes 12 ms, and a step
of decodes 12 ms."""
FREE = KvTransfer(efficiency=1.0, latency_ns=0)
LAYERWISE = replace(FREE, is_layerwise=True)
ROLES = {"p": "prefill", "d": "decode", "b": "both"}


def case_of(names, *, stages=1, blocks=5000):
    """One replica for each letter; ``p`` prefills, ``d`` decodes, ``b`` does both."""
    nodes = [[kind_of(name, blocks=blocks, budget=4000, seqs=500)] * stages for name in names]
    case = chains(nodes, intra=LINK)
    return with_roles(case, {node.id: ROLES[node.id[0]] for node in case[0].cluster.nodes})


def run(case, load, *faults, transfer=FREE, detection_ms=5, timeout_ms=10**9, retry_limit=10**6, **how):
    plan = plan_of(
        *faults,
        detection_ns=detection_ms * MS,
        timeout_ns=timeout_ms * MS,
        retry_limit=retry_limit,
        **how.pop("plan", {}),
    )
    how = {"engine": INSIDE, "routing": "round_robin", **how}
    return simulate(inputs_of_legs(case, load, transfer, faults=plan, **how))


def near(ms):
    return pytest.approx(ms * MS, rel=2e-3)


ONE = requests((0, 1000, 5))


def lost(result):
    return dict(zip(result.faults.rows.tolist(), result.faults.losses.tolist(), strict=True))


@pytest.mark.parametrize("at_ms", [1, 11, 15])
def test_a_prompt_at_a_lost_node_is_computed_elsewhere_when_that_is_known(at_ms):
    """It was computed from 0 to 12 ms and sent from 12 to 18 ms; from the detection on it is as a new request."""
    case = case_of("ppd")
    result = run(case, ONE, (at_ms, "down", ["p-0"]))
    known_ms = at_ms + 5
    anew = run(case, requests((known_ms, 1000, 5)), (0, "down", ["p-0"]), detection_ms=0)
    assert result.requests.finish_ns.tolist() == anew.requests.finish_ns.tolist()
    assert result.requests.first_token_ns.tolist() == [near(known_ms + 12 + 6)]
    assert lost(result) == {0: 1}
    assert (result.faults.retried, result.faults.recomputed_tokens) == (1, 1000)
    links = dict(zip(zip(result.links.src, result.links.dst, strict=True), result.links.bytes.tolist(), strict=True))
    assert links["p-1", "d-0"] == 24_000_000
    assert links.get(("p-0", "d-0"), 0) == (24_000_000 if at_ms == 15 else 0)  # it comes, and is dropped


def test_the_room_for_what_was_lost_on_its_way_is_free_again():
    """The decode node has room for one of the prompts; the second one waits for it until the loss is known."""
    case = case_of("ppd", blocks=100)
    load = requests((0, 1000, 40), (1, 1000, 2))
    result = run(case, load, (15, "down", ["p-0"]), detection_ms=30)
    first_ns = result.requests.first_token_ns
    assert first_ns[1] == near(45 + 6)
    assert first_ns[0] > first_ns[1]


def test_what_decodes_elsewhere_goes_on():
    case, load = case_of("ppd"), requests((0, 1000, 20))
    result = run(case, load, (19, "down", ["p-0"]))
    assert result.requests.finish_ns.tolist() == run(case, load).requests.finish_ns.tolist()
    assert lost(result) == {}


def test_a_request_that_is_lost_while_it_decodes_is_sent_again_with_all_its_tokens():
    """Tokens at 18, 30 and 42 ms; known at 50 ms; 1003 tokens are computed and sent, then a step."""
    result = run(case_of("pdd"), ONE, (45, "down", ["d-0"]))
    assert (result.faults.retried, result.faults.recomputed_tokens) == (1, 1003)
    again_ms = 50 + 1.003 * (12 + 6)
    assert result.requests.finish_ns.tolist() == [near(again_ms + 12)]
    assert result.nodes.prompt_tokens.tolist() == [2003, 0, 0]
    assert result.series.output_tokens[-1] == 5
    assert result.gaps.count.sum() == 4
    assert result.gaps.sum_ns == result.requests.finish_ns[0] - result.requests.first_token_ns[0]
    assert len(result.transfers.bytes) == 2
    assert result.requests.transfer_ns.tolist() == [near(6 + 6.018)]


@pytest.mark.parametrize("transfer", [FREE, LAYERWISE])
def test_a_computed_prompt_is_sent_to_another_node_if_its_own_is_lost(transfer):
    """The last of it would have come at 18 ms, or at 12.5 ms; the node fails just before."""
    at_ms = 12.2 if transfer.is_layerwise else 15
    result = run(case_of("pdd"), ONE, (at_ms, "down", ["d-0"]), transfer=transfer)
    assert lost(result) == {}
    assert result.nodes.prompt_tokens.tolist() == [1000, 0, 0]
    assert result.requests.first_token_ns.tolist() == [near(at_ms + 5 + 6)]
    assert result.series.output_tokens[-1] == 5


def test_a_prompt_that_waits_for_room_chooses_another_node():
    """The second prompt waits at the first node for room; that one fails, and the other has room at once."""
    case = case_of("pdd", blocks=100)
    load = requests((0, 1000, 40), (1, 10, 2), (2, 1000, 2))
    result = run(case, load, (100, "down", ["d-0"]))
    assert lost(result) == {0: 1}
    assert result.requests.first_token_ns[2] == near(105 + 6)


def test_layers_that_were_sent_to_a_lost_node_are_computed_again():
    """It fails at 5 ms, which is known at 10 ms; the step ends at 12 ms, behind it all is computed once more."""
    result = run(case_of("pdd"), ONE, (5, "down", ["d-0"]), transfer=LAYERWISE)
    assert lost(result) == {0: 1}
    assert result.nodes.prompt_tokens.tolist() == [2000, 0, 0]
    assert result.requests.first_token_ns.tolist() == [near(24.5)]


def test_a_source_that_stops_sends_no_layers_that_it_has_not_computed():
    """Six of the twelve layers are computed when it fails."""
    result = run(case_of("ppd"), ONE, (6.5, "down", ["p-0"]), transfer=LAYERWISE)
    links = dict(zip(zip(result.links.src, result.links.dst, strict=True), result.links.bytes.tolist(), strict=True))
    assert links["p-0", "d-0"] == 6 * 2_000_000


@pytest.mark.parametrize("transfer", [FREE, LAYERWISE])
@pytest.mark.parametrize("names", ["pdb", "pd"])
def test_requests_wait_for_a_node_of_each_leg_or_one_that_serves_both(names, transfer):
    """All nodes of a leg fail before the request comes."""
    for down in ("p-0", "d-0"):
        load = requests((100, 1000, 5))
        result = run(case_of(names), load, (0, "down", [down]), (500, "up", [down]), transfer=transfer)
        assert (result.requests.first_token_ns[0] < 200 * MS) == ("b" in names)
        served = result.requests.route[0]
        assert result.routes[served].hops[0][0] == ("b-0" if "b" in names else "d-0")


def test_short_prompts_do_without_nodes_that_prefill():
    load = requests((100, 50, 5), (101, 1000, 5))
    result = run(case_of("pd"), load, (0, "down", ["p-0"]), (500, "up", ["p-0"]), most_local_tokens=50)
    assert result.requests.finish_ns[0] < 200 * MS
    assert result.requests.first_token_ns[1] > 500 * MS


def test_requests_of_one_token_do_without_nodes_that_decode():
    load = requests((100, 1000, 1), (101, 1000, 5))
    result = run(case_of("pd"), load, (0, "down", ["d-0"]), (500, "up", ["d-0"]))
    assert result.requests.finish_ns[0] < 200 * MS
    assert result.requests.first_token_ns[1] > 500 * MS


def test_computed_prompts_that_no_node_can_decode_fail_in_time_and_leave_their_memory():
    """Two are computed at 12 and 24 ms and wait 100 ms each; what comes later waits in line, without being computed."""
    load = requests((0, 1000, 5), (1, 1000, 5), (50, 1000, 5))
    for back_ms, served in ((None, [False, False, False]), (120, [False, True, True]), (140, [False, False, True])):
        back = [] if back_ms is None else [(back_ms, "up", ["d-0"])]
        result = run(case_of("pd", blocks=200), load, (1, "down", ["d-0"]), *back, timeout_ms=100)
        assert (result.requests.status == RequestStatus.FINISHED).tolist() == served
        assert set(result.faults.causes.values()) == {FailureCause.TIMEOUT}
        assert result.nodes.prompt_tokens.tolist() == [3000 if served[2] else 2000, 0]
        assert result.series.kv_used[-1].tolist() == [0.0, 0.0]


def test_requests_fail_that_are_lost_too_often():
    result = run(case_of("ppd"), ONE, (1, "down", ["p-0"]), (10, "down", ["p-1"]), (30, "up", ["p-0"]), retry_limit=1)
    assert result.requests.status.tolist() == [RequestStatus.FAILED]
    assert set(result.faults.causes.values()) == {FailureCause.RETRIES}


def test_nodes_with_a_notice_finish_what_they_have_and_get_nothing_new():
    load = requests((0, 1000, 5), (10, 1000, 5), (30, 1000, 5))
    for node, column in (("d-0", 2), ("p-0", 0)):
        result = run(case_of("ppdd"), load, (20, "notice", [node]), (900, "down", [node]))
        assert lost(result) == {}
        tokens = result.nodes.prompt_tokens + result.nodes.decode_tokens
        assert tokens[column] == (4 if node == "d-0" else 1000)


def test_a_node_that_was_chosen_before_its_notice_is_chosen_no_longer_when_the_prompt_is_computed():
    """Where short prompts stay, the node that decodes is chosen first."""
    result = run(case_of("pdd"), ONE, (5, "notice", ["d-0"]), (900, "down", ["d-0"]), most_local_tokens=5)
    assert result.nodes.decode_tokens.tolist() == [0, 0, 4]


def test_a_node_that_is_back_has_an_empty_memory():
    """The second turn finds the first one's blocks, unless its node has failed in between."""
    turns = [Request(n, 200 * n * MS, 320 * (n + 1), 16, prefix=Prefix((7,), (10**6,), 320 * (n + 1))) for n in (0, 1)]
    engine = replace(INSIDE, caches_prefixes=True)
    kept = run(case_of("pd"), turns, engine=engine)
    gone = run(case_of("pd"), turns, (100, "down", ["p-0"]), (110, "up", ["p-0"]), engine=engine)
    assert kept.requests.cached_tokens.tolist() == [0, 320]
    assert gone.requests.cached_tokens.tolist() == [0, 0]


def test_a_slow_node_takes_so_many_times_as_long():
    result = run(case_of("pd"), ONE, (0, "slow", ["p-0"], 3.0), (30, "slow", ["d-0"], 2.0))
    first_ms = 3 * 12 + 6
    assert result.requests.first_token_ns.tolist() == [near(first_ms)]
    assert result.requests.finish_ns.tolist() == [near(first_ms + 4 * 24)]


@pytest.mark.parametrize("node", ["p-0", "d-0"])
@pytest.mark.parametrize("at_ms", [5, 15, 40])
def test_what_is_known_later_ends_no_earlier(node, at_ms):
    ends = [
        run(case_of("ppdd"), ONE, (at_ms, "down", [node]), detection_ms=one).requests.finish_ns[0]
        for one in (0, 5, 50, 500)
    ]
    assert ends == sorted(ends)


def test_the_legs_may_be_routed_otherwise_when_nodes_are_down():
    asked = []

    def reroute(out):
        asked.append(sorted(out.nodes))
        return inputs_of_legs(case, [], FREE, routing="least_loaded", engine=INSIDE).legs

    case = case_of("ppdd")
    load = random_load(1, 30, rate_rps=50.0, prompt=60, output=20)
    faults = (100, "down", ["d-0"]), (400, "up", ["d-0"])
    result = run(case, load, *faults, plan={"reroute": reroute, "delay_ns": MS})
    assert asked == [["d-0"], []]
    assert [what for _, what, _ in result.faults.events].count("rerouted") == 2
    other = run(case, load, *faults)
    assert result.requests.finish_ns.tolist() != other.requests.finish_ns.tolist()
    assert set(result.requests.status) == {RequestStatus.FINISHED}
