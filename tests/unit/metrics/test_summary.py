"""The summary has the agreed names, plain JSON values, and ratios that fit."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

from helixsim.domain.figures import Limits
from helixsim.domain.flowplan import CutElement
from helixsim.domain.request import Slo
from helixsim.domain.result import RequestColumns
from helixsim.domain.summary import Summary, milliseconds, seconds
from helixsim.errors import DataError
from helixsim.jsonio import json_values, significant
from helixsim.metrics.bottleneck import cut_sentence
from helixsim.metrics.compare import Comparison, compared, paired
from helixsim.metrics.summary import summarise, timing
from helixsim.units import NS_PER_S

VLLM_KEYS = {
    "duration", "completed", "failed", "total_input_tokens", "total_output_tokens", "request_throughput",
    "request_goodput", "output_throughput", "total_token_throughput",
} | {
    f"{statistic}_{metric}_ms"
    for statistic in ("mean", "median", "std", "p50", "p75", "p90", "p95", "p99")
    for metric in ("ttft", "tpot", "itl", "e2el")
}  # fmt: skip
OWN_KEYS = {
    "max_flow_tokens_per_s", "upper_bound_tokens_per_s", "gap", "mean_hops", "max_hops", "flow_attainment",
    "utilisation", "kv_peak", "preemptions", "rejected", "offered_rate", "saturation", "cost_usd_per_mtok",
    "energy_wh_per_mtok", "sim_seconds", "events", "prefix_hit_tokens", "prefix_hit_rate", "recomputed_tokens",
    "window", "steady", "confidence", "bottleneck", "kv_tokens_per_node", "conservation", "tpot_excluded",
}  # fmt: skip


@pytest.fixture
def summary_of(fakes):
    def build(run, slo=Slo(ttft_s=1.0), fleet=None):  # noqa: B008
        fleet = fleet or fakes.fleet()
        return summarise(
            run, slo=slo, fleet=fleet, placement=fakes.placement(fleet), plan=fakes.plan(fleet),
            mean_prompt_tokens=250.0, mean_output_tokens=30.0, offered_rps=4.0,
        )  # fmt: skip

    return build


def test_all_agreed_keys_are_there_and_none_else_at_the_top(fakes, summary_of) -> None:
    run = fakes.queue_run().run
    system = summary_of(run).to_json()
    assert set(system) - {"helixsim"} == VLLM_KEYS
    assert set(system["helixsim"]) >= OWN_KEYS
    assert not {"cpu_seconds", "peak_rss_bytes", "placement_seconds"} & set(system["helixsim"])


def test_hits_of_prefix_caches_are_those_of_the_prompts_computed_in_the_window(fakes, summary_of) -> None:
    run = fakes.queue_run().run
    figures = summary_of(run).throughput
    first, columns = run.requests.first_token_ns, run.requests
    counted = (first > run.window_start_ns) & (first <= run.window_end_ns)
    assert figures.prompt_tokens == columns.prompt_tokens[counted].sum()
    assert figures.prefix_hit_tokens == columns.cached_tokens[counted].sum() > 0
    assert figures.prefix_hit_rate == pytest.approx(figures.prefix_hit_tokens / figures.prompt_tokens)


def test_the_largest_gap_is_that_of_the_window(fakes, summary_of) -> None:
    run = fakes.queue_run().run
    largest_s = run.gaps.value_ns.max() / NS_PER_S
    assert largest_s <= summary_of(run).itl_max_s <= largest_s + run.gaps.resolution_ns / NS_PER_S


def test_an_empty_run_is_still_valid_json(fakes, summary_of) -> None:
    run = fakes.queue_run().run
    empty = replace(
        run,
        window_end_ns=run.window_start_ns,
        gaps=fakes.histogram(np.empty(0, dtype=np.int64), 10),
        requests=RequestColumns(*(getattr(run.requests, name)[:0] for name in RequestColumns.__dataclass_fields__)),
    )
    summary = summary_of(empty)
    document = {**summary.to_json(), **compared(summary, summary, empty, empty).to_json()}
    assert json.loads(json.dumps(document, allow_nan=False)) == document
    assert summary.throughput.output_tokens_per_s is None
    assert summary.itl.p99_s is None
    assert summary.itl_max_s is None
    assert Summary.from_json(summary.to_json()) == summary


def test_a_summary_read_back_is_the_one_that_was_written(fakes, summary_of) -> None:
    summary = summary_of(fakes.queue_run().run)
    text = json.dumps(summary.to_json(), allow_nan=False)
    again = Summary.from_json(json.loads(text))
    assert again == summary
    assert json.dumps(again.to_json()) == text
    assert isinstance(again.ttft.mean_interval_s, Limits)


def test_milliseconds_of_the_document_have_the_digits_of_the_seconds(fakes, summary_of) -> None:
    """Whatever nine digits a time has, seconds and back are the same float, not one a rounding error away."""
    rng = np.random.default_rng(5)
    for value_ms in map(significant, 10 ** rng.uniform(-3, 9, 2000)):
        assert milliseconds(seconds(value_ms)) == value_ms


@pytest.mark.parametrize("missing", ["duration", "p99_ttft_ms", "helixsim"])
def test_a_document_that_lacks_a_figure_is_refused_by_its_name(fakes, summary_of, missing) -> None:
    document = summary_of(fakes.queue_run().run).to_json()
    del document[missing]
    with pytest.raises(DataError, match=missing):
        Summary.from_json(document)


def test_figures_that_older_versions_did_not_write_are_missing_and_no_fault(fakes, summary_of) -> None:
    document = summary_of(fakes.queue_run().run).to_json()
    del document["helixsim"]["kv_limited_tokens_per_s"]
    assert Summary.from_json(document).flow.kv_limited_tokens_per_s is None


def test_figures_are_read_under_their_former_names(fakes, summary_of) -> None:
    summary = summary_of(fakes.queue_run().run)
    document = summary.to_json()
    own = document["helixsim"]
    for name, former in (
        ("kv_limited_tokens_per_s", "operating_tokens_per_s"),
        ("kv_limited_attainment", "operating_attainment"),
        ("bottleneck", "what_binds"),
    ):
        own[former] = own.pop(name)
    assert Summary.from_json(document) == summary


def test_equal_runs_give_equal_bytes_however_fast_the_machine(fakes, summary_of) -> None:
    run = fakes.queue_run().run
    slow = replace(run, cpu_s=99.0, wall_s=99.0)
    assert json.dumps(summary_of(run).to_json()) == json.dumps(summary_of(slow).to_json())
    assert timing(slow, fakes.placement(fakes.fleet()))["cpu_seconds"] == 99.0


def test_intervals_contain_what_they_are_about(fakes, summary_of) -> None:
    summary = summary_of(fakes.queue_run().run)
    means = summary.vllm_keys()
    assert set(summary.confidence()) == {"output_throughput", "mean_ttft_ms", "mean_tpot_ms", "mean_e2el_ms"}
    for metric, (low, high) in summary.confidence().items():
        assert low <= means[metric] <= high


def test_conservation_counts_add_up(fakes, summary_of) -> None:
    counts = summary_of(fakes.queue_run().run).integrity.conservation
    assert counts["arrived"] == sum(counts[state] for state in ("waiting", "running", "finished", "rejected"))


def test_the_max_flow_in_requests_and_output_tokens_is_the_same_rate(fakes, summary_of) -> None:
    flow = summary_of(fakes.queue_run().run).flow
    assert flow.max_flow_requests_per_s * 280 == pytest.approx(flow.max_flow_tokens_per_s)
    assert flow.max_flow_requests_per_s * 30 == pytest.approx(flow.max_flow_output_tokens_per_s)


def test_ratios_are_quotients_and_invert(fakes, summary_of) -> None:
    runs = {"a": fakes.queue_run().run, "b": fakes.queue_run(rate_rps=12.0, count=1500).run}
    summaries = {name: summary_of(run) for name, run in runs.items()}
    figures = {name: summary.vllm_keys() for name, summary in summaries.items()}

    def against(name: str, base: str) -> Comparison:
        return compared(summaries[name], summaries[base], runs[name], runs[base])

    ours, theirs = against("b", "a"), against("a", "b")
    assert against("a", "a").output_tokens_ratio == 1
    for metric, ratio in ours.ratios.items():
        assert ratio == pytest.approx(figures["b"][metric] / figures["a"][metric], rel=1e-6)
    for metric, (low, high) in ours.intervals.items():
        assert low < ours.ratios[metric] < high
        if metric != "output_throughput":
            assert theirs.intervals[metric] == pytest.approx([1 / high, 1 / low], rel=1e-6)
    below, above = theirs.intervals["output_throughput"]
    assert below < theirs.ratios["output_throughput"] < above


def test_pairing_cancels_what_both_systems_share(fakes, summary_of) -> None:
    run = fakes.queue_run().run
    half = replace(run, series=replace(run.series, output_tokens=run.series.output_tokens // 2))
    summaries = {"whole": summary_of(run), "half": summary_of(half)}
    own = compared(summaries["half"], summaries["whole"], half, run)
    low, high = own.output_tokens_ratio_interval
    unpaired = summaries["half"].throughput.output_interval
    assert low <= own.output_tokens_ratio <= high
    assert high - low < 0.01 < (unpaired.high - unpaired.low) / summaries["half"].throughput.output_tokens_per_s


def test_paired_comparison_sees_a_constant_slowdown_exactly(fakes) -> None:
    base = fakes.queue_run().run
    later = replace(
        base.requests,
        finish_ns=np.where(base.requests.finish_ns >= 0, base.requests.finish_ns + 5_000_000, -1),
        first_token_ns=np.where(base.requests.first_token_ns >= 0, base.requests.first_token_ns + 5_000_000, -1),
    )
    result = paired(replace(base, requests=later), base)
    assert result["ttft_difference_ms"] == pytest.approx(5.0)
    assert result["e2el_difference_ms"] == pytest.approx(5.0)
    assert result["e2el_difference_interval_ms"] == pytest.approx([5.0, 5.0])
    assert result["tpot_difference_ms"] == pytest.approx(0.0)
    assert result["ttft_faster_share"] == 0


def test_requests_of_other_lengths_do_not_pair(fakes) -> None:
    base = fakes.queue_run().run
    other = replace(base, requests=replace(base.requests, prompt_tokens=base.requests.prompt_tokens + 1))
    assert paired(other, base) == {"requests": 0}


def test_the_cut_is_named_with_its_capacity(fakes) -> None:
    fleet = fakes.fleet()
    plan = fakes.plan(fleet)
    text = cut_sentence(plan, fleet.cluster)
    assert "3 t4x2 nodes (t4-0, t4-1, t4-2: 4 000 tokens/s)" in text
    links = replace(plan, min_cut=(CutElement("link", "a100-0 -> t4-0", 12.0), CutElement("nic", "t4-1 out", 5.0)))
    assert "1 network link (a100-0 -> t4-0: 12.0 tokens/s)" in cut_sentence(links, fleet.cluster)
    assert "1 NIC (t4-1 out: 5.00 tokens/s)" in cut_sentence(links, fleet.cluster)


def test_json_values_rounds_and_replaces_what_json_lacks() -> None:
    assert json_values({"a": [1.23456789012345, float("nan"), float("inf")], "b": np.int64(3), "c": None}) == {
        "a": [1.23456789, None, None],
        "b": 3,
        "c": None,
    }


def test_the_bottleneck_is_told_by_the_measurements(fakes, summary_of) -> None:
    calm = fakes.queue_run().run
    flooded = fakes.queue_run(rate_rps=12.0, count=1500).run
    full = replace(flooded.nodes, kv_peak_blocks=flooded.nodes.kv_blocks)
    idle = replace(flooded.series, busy_ns=flooded.series.busy_ns // 3)

    def words(run) -> str:
        return summary_of(run).cluster.bottleneck

    assert "limited by the offered load" in words(calm)
    assert "limited by t4-2, which computes 90% of the time" in words(flooded)
    assert "limited by KV memory, which caps the requests in flight" in words(replace(flooded, nodes=full, series=idle))
    empty = replace(flooded.nodes, kv_peak_blocks=flooded.nodes.kv_peak_blocks // 2)
    assert "network delay" in words(replace(flooded, nodes=empty, series=idle))
