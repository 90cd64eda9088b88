"""Recorded runs: the same results, and a timeline that adds up to them."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import fields, replace
from itertools import pairwise

import builders
import numpy as np
import pytest
from replica_cases import chains, kind_of
from simulating import MS, SECOND, inputs_of, random_load, run

from helixsim.domain.cluster import LinkSpec
from helixsim.domain.engine import EngineSpec
from helixsim.domain.timeline import Timeline
from helixsim.engine.simulate import simulate

INSIDE = EngineSpec("inside", loops_inside=True, copies_activations=False, chunks_prompts=True, admission="prompt")
LATE_NS = 10_000 * SECOND


def slow(name, **how):
    return kind_of(name, decode_ns=3_000_000.0, **how)


def shared(case):
    fleet, capacity, placement = case
    network = replace(fleet.cluster.network, is_shared=True)
    return replace(fleet, cluster=replace(fleet.cluster, network=network)), capacity, placement


CASES = {
    "nodes": (builders.two_node_pipeline(), {}),
    "branches": (builders.tiny_fleet(), {}),
    "shared links": (shared(builders.two_node_pipeline()), {}),
    "one stage": (chains([[slow("a")], [slow("b", blocks=30)]]), {"engine": INSIDE}),
    "stages": (chains([[slow("a"), slow("b")]], intra=LinkSpec(1e8, 2 * MS)), {"engine": INSIDE}),
}


@pytest.fixture(params=CASES, scope="module")
def both(request):
    case, how = CASES[request.param]
    load = random_load(3, 60, rate_rps=15.0, prompt=60, output=20)
    timeline = Timeline(0, LATE_NS, 10**6)
    return run(case, load, **how), run(case, load, timeline=timeline, **how), timeline


def test_recording_changes_nothing(both) -> None:
    plain, recorded, _ = both
    for part in ("requests", "nodes", "links", "series", "gaps"):
        for one in fields(getattr(plain, part)):
            ours, theirs = (getattr(getattr(run_, part), one.name) for run_ in (plain, recorded))
            assert np.array_equal(np.asarray(ours), np.asarray(theirs)), (part, one.name)
    assert plain.end_ns == recorded.end_ns


def test_iterations_add_up_to_the_work_of_each_node(both) -> None:
    _, result, timeline = both
    assert not any(timeline.dropped.values())
    own = defaultdict(list)
    for one in timeline.iterations:
        own[one.node].append(one)
    busy = dict(zip(result.nodes.node_id, result.series.busy_ns[-1].tolist(), strict=True))
    for number, node in enumerate(result.nodes.node_id):
        rows = sorted(own[node], key=lambda one: one.start_ns)
        assert len(rows) == result.nodes.batches[number]
        assert sum(one.prompt_tokens for one in rows) == result.nodes.prompt_tokens[number]
        assert sum(one.decode_seqs for one in rows) == result.nodes.decode_tokens[number]
        assert sum(one.end_ns - one.start_ns for one in rows) == busy[node]
        assert all(a.end_ns <= b.start_ns for a, b in pairwise(rows))
        assert sum(tokens for one in rows for _, tokens in one.chunks) == result.nodes.prompt_tokens[number]
    assert all(0.0 <= level.kv_used <= 1.0 and level.waiting >= 0 for level in timeline.levels)


def test_transfers_add_up_to_the_traffic_of_each_link(both) -> None:
    _, result, timeline = both
    bytes_of = defaultdict(int)
    for one in timeline.transfers:
        bytes_of[one.src, one.dst] += one.size_bytes
        assert one.start_ns <= one.end_ns <= one.arrival_ns
    links = result.links
    expected = dict(zip(zip(links.src, links.dst, strict=True), links.bytes.tolist(), strict=True))
    assert dict(bytes_of) == expected


def test_a_timeline_has_its_part_and_no_more_than_it_may_keep() -> None:
    case, load = builders.two_node_pipeline(), random_load(3, 200, rate_rps=15.0)
    whole, part = Timeline(0, LATE_NS, 10**6), Timeline(2 * SECOND, 3 * SECOND, 10**6)
    run(case, load, timeline=whole)
    result = simulate(inputs_of(case, load, timeline=part, sample_ns=100 * MS))
    assert result.end_ns == 3 * SECOND
    inside = [one for one in whole.iterations if one.end_ns >= 2 * SECOND and one.end_ns <= 3 * SECOND]
    assert [one for one in part.iterations if one.end_ns <= 3 * SECOND] == inside
    assert part.about == ""
    few = Timeline(0, LATE_NS, 10)
    run(case, load, timeline=few)
    assert (few.iterations, few.transfers) == (whole.iterations[:10], whole.transfers[:10])
    assert few.dropped["iterations"] == len(whole.iterations) - 10
    assert f"{few.dropped['iterations']} iterations" in few.about


def test_a_timeline_without_time_is_refused() -> None:
    with pytest.raises(ValueError, match="start < end"):
        Timeline(SECOND, SECOND, 10)
