"""Disaggregated rows: what they and the public recipes say of the instances, and the experiments made of them."""

import csv
from dataclasses import replace
from pathlib import Path

import pytest

import helixsim as hx
from helixsim.accuracy.deployments import AGAIN, ALIKE
from helixsim.accuracy.disaggregated import read_runs
from helixsim.accuracy.express import document, experiment_of
from helixsim.accuracy.points import DISAGGREGATED, Inexpressible, MeasuredPoint
from helixsim.accuracy.recipes import Recipe, Workers, recipes
from helixsim.accuracy.rows import installed_file
from helixsim.accuracy.run import simulated_means
from helixsim.domain.figures import GpuShare
from helixsim.metrics.error_table import KINDS
from helixsim.metrics.model_error import shipped_table

SOURCE = "source_file=any.csv; model=any; silicon_concurrency={}; measured=2026-01-29"
SIZES = ("num_workers", "tp_size", "attention_dp_size", "moe_tp_size", "moe_ep_size")
ROW = {
    "mode": "disagg", "backend": "trtllm", "backend_version": "0.8.1.post1", "model_path": "deepseek-ai/DeepSeek-R1",
    "system": "b200_sxm", "precision": "fp4", "isl": "1024", "osl": "1024", "gemm_quant_mode": "nvfp4",
    "silicon_ttft_ms": "200", "silicon_tpot_ms": "6",
}  # fmt: skip


def sizes(role, *values):
    return {f"{role}_{name}": str(value) for name, value in zip(SIZES, values, strict=True)}


STATED = sizes("prefill", 1, 1, 4, 1, 4) | sizes("decode", 5, 8, 1, 1, 8)
OTHERS = sizes("prefill", "", 4, 1, 1, 4) | sizes("decode", "", 8, 1, 2, 4)
"""The same deployment in the table that states the instances, and in the others."""


def read(tmp_path, *changes):
    path = tmp_path / "rows.csv"
    rows = [
        {**ROW, **OTHERS, "silicon_data_source": SOURCE.format(change.pop("c", 10)), **change, "id": str(number)}
        for number, change in enumerate(map(dict, changes))
    ]
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, sorted({key for row in rows for key in row}))
        writer.writeheader()
        writer.writerows(rows)
    return read_runs(path)


def workers(point):
    prefill = Workers(
        point.prefill_workers,
        point.prefill_tensor_parallel,
        point.prefill_data_parallel,
        point.prefill_expert_parallel,
    )
    decode = Workers(point.decode_workers, point.tensor_parallel, point.data_parallel, point.expert_parallel)
    return prefill, decode, point.decode_seqs


def test_workers_are_read_as_recipes_name_them():
    assert Workers.parse("3xdep4") == Workers(3, 1, 4, 4)
    assert Workers.parse("1xtep8") == Workers(1, 8, 1, 8)
    assert Workers.parse("2xtp16") == Workers(2, 16, 1, 1)
    assert Workers.parse("1xdtp8") == Workers(1, 1, 8, 1)
    for text in ("dep4", "0xtp4", "2xpp4", "2xtp"):
        with pytest.raises(ValueError, match="got"):
            Workers.parse(text)


def test_recipes_differ_for_each_load():
    assert len(recipes()) > 300
    for load, found in recipes().items():
        assert len(set(found)) == len(found), load
        assert all(isinstance(one, Recipe) and one.drafts in range(4) for one in found)


def test_stated_instances_are_taken_and_the_recipe_gives_the_batch(tmp_path):
    (point,) = read(tmp_path, STATED)
    assert point.kind == DISAGGREGATED
    assert workers(point) == (Workers.parse("1xdep4"), Workers.parse("5xtep8"), 32)
    assert (point.gpus, point.in_flight) == (8, 2.0)
    (unknown,) = read(tmp_path, {**STATED, "c": 11})
    assert unknown.decode_seqs == 0


def test_copies_of_a_run_are_one_point_by_the_row_that_states_the_instances(tmp_path):
    (point,) = read(tmp_path, {}, {**STATED, "model_path": "deepseek-ai/DeepSeek-V3"}, {"silicon_tpot_ms": "6.0004"})
    assert (point.id, point.rows, point.decode_workers) == ("1", 3, 5)


def test_a_load_with_one_recipe_was_run_by_it(tmp_path):
    (point,) = read(tmp_path, {"c": 450})
    assert workers(point) == (Workers.parse("1xdep4"), Workers.parse("6xtep8"), 64)


def test_runs_with_draft_tokens_are_the_faster_ones_of_one_recipe(tmp_path):
    slow, fast = read(tmp_path, {"c": 25, "silicon_tpot_ms": "7"}, {"c": 25, "silicon_tpot_ms": str(7 * ALIKE - 0.1)})
    assert (slow.decode_workers, slow.drafts) == (5, 0)
    assert (fast.decode_workers, fast.drafts) == (5, 3)
    (alone,) = read(tmp_path, {"c": 25, "silicon_tpot_ms": "7"})  # with draft tokens, or without?
    assert "several public recipes" in alone.reason
    (only,) = read(tmp_path, {"c": 875})
    assert workers(only) == (Workers.parse("1xdep4"), Workers.parse("5xdep8"), 16)
    assert only.drafts == 3


def test_two_groups_of_runs_with_two_recipes_are_told_by_their_speed(tmp_path):
    """Draft tokens make the same instances faster; of two numbers of instances, more decode faster."""
    near = [{"c": 25, "silicon_tpot_ms": str(tpot)} for tpot in (6.5, 7.0, 7.05)]
    assert [run.drafts for run in read(tmp_path, *near)] == [3, 0, 0]
    same = [{"c": 25, "silicon_tpot_ms": str(tpot)} for tpot in (6.9, 7.0)]
    assert all("several public recipes" in run.reason for run in read(tmp_path, *same))
    gpt_oss = {
        "system": "gb200", "model_path": "openai/gpt-oss-120b", "c": 2048,
        **sizes("prefill", "", 1, 1, 1, 1), **sizes("decode", "", 2, 1, 2, 1),
    }  # fmt: skip
    runs = read(tmp_path, {**gpt_oss, "silicon_tpot_ms": "14"}, {**gpt_oss, "silicon_tpot_ms": "24"})
    assert [workers(run)[1] for run in runs] == [Workers.parse("2xdep2"), Workers.parse("1xdep2")]


def test_all_gpus_in_one_tensor_parallelism_are_told_by_a_run_that_took_as_long(tmp_path):
    """One instance of four GPUs that prefills and five of eight that decode: 44 GPUs."""
    both = sizes("prefill", "", 44, 1, 44, 1) | sizes("decode", "", 44, 1, 44, 1)
    stated, again, other = read(tmp_path, STATED, {**both, "silicon_ttft_ms": "300"}, {**both, "silicon_tpot_ms": "9"})
    assert workers(again) == workers(stated)
    assert "given as one tensor parallelism" in other.reason


def test_models_without_recipes_are_deployed_as_the_run_whose_instances_are_stated(tmp_path):
    kimi = {"model_path": "moonshotai/Kimi-K2.5", "system": "gb200", "c": 192}
    others = sizes("prefill", "", 4, 1, 4, 1) | sizes("decode", "", 8, 1, 8, 1)
    stated = STATED | {"prefill_tp_size": "1", "decode_num_workers": "4"}
    first, second = read(tmp_path, {**kimi, **stated}, {**kimi, **others, "silicon_tpot_ms": "7"})
    assert workers(first) == workers(second)
    (alone,) = read(tmp_path, {**kimi, **others})
    assert "no public recipe" in alone.reason


def test_drafts_are_those_of_the_model_with_published_acceptance(tmp_path):
    (point,) = read(tmp_path, {"c": 875})
    written = document(point)["engine"]["speculative"]
    assert written == {"method": "mtp", "k": 3, "acceptance": [0.92, 0.66, 0.24]}
    assert "speculative" not in document(replace(point, drafts=0))["engine"]
    engine = experiment_of(point).resolve().engine
    assert engine.speculation.is_mtp
    assert engine.speculation.mean_tokens == pytest.approx(2.82)


@pytest.mark.parametrize(("engine", "gpu", "waits"), [("sglang", "h200", True), ("sglang", "b200", False),
                                                       ("trtllm", "h200", False)])  # fmt: skip
def test_steps_that_draft_wait_for_the_host_where_attention_is_planned_there(tmp_path, engine, gpu, waits):
    (point,) = read(tmp_path, {"c": 875})
    written = document(replace(point, engine=engine, gpu=gpu, weights=None))["engine"]["speculative"]
    assert ("overhead" in written) == waits


def test_experts_without_cuda_graphs_add_to_steps_of_attention_ranks_on_two_machines(tmp_path):
    (point,) = read(tmp_path, {"c": 875})
    ranked = replace(point, gpu="h100", weights=None, tensor_parallel=1, data_parallel=16)
    of_ranks, split = (document(one)["engine"]["batch_overhead"] for one in (ranked, replace(ranked, data_parallel=1)))
    assert (of_ranks, split) == ("17 ms", "0 ms")


def test_a_run_measured_again_has_the_instances_of_the_first(tmp_path):
    again = {"silicon_tpot_ms": str(6 * (1 + AGAIN / 2)), "c": 33}
    first, second = read(tmp_path, {**STATED, "c": 33}, again)
    assert workers(first) == workers(second)
    assert (first.rows, second.rows) == (1, 1)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"c": 33}, "no public recipe has this load"),
        (sizes("prefill", "", 36, 1, 36, 1) | sizes("decode", "", 36, 1, 36, 1), "given as one tensor parallelism"),
        ({"silicon_data_source": "any"}, "the concurrency of the load is not stated"),
        ({**STATED, "silicon_ttft_ms": "90000"}, "waited for much longer than they ran"),
        ({"model_path": "any/model"}, "no profile of the model"),
    ],
)
def test_rows_that_cannot_be_expressed_have_a_reason_each(tmp_path, change, reason):
    refused = read(tmp_path, change, {**change, "precision": "fp4"})
    assert [type(one) for one in refused] == [Inexpressible] * 2
    assert all(reason in one.reason and one.kind == DISAGGREGATED for one in refused)


def test_experts_too_narrow_to_be_split_are_spread(tmp_path):
    (point,) = read(tmp_path, sizes("prefill", 10, 1, 4, 4, 1) | sizes("decode", 1, 1, 32, 32, 1))
    assert (point.prefill_expert_parallel, point.expert_parallel) == (1, 32)


def test_instances_of_vllm_have_attention_ranks_but_small_ones_that_decode(tmp_path):
    vllm = {"backend": "vllm", "model_path": "moonshotai/Kimi-K2.5", "system": "gb200"}
    prefill = sizes("prefill", 1, 4, 1, 1, 4)
    few, many = read(
        tmp_path,
        {**vllm, **prefill, **sizes("decode", 4, 4, 1, 1, 4)},
        {**vllm, **prefill, **sizes("decode", 1, 16, 1, 1, 16), "c": 64, "silicon_tpot_ms": "9"},
    )
    assert workers(few)[:2] == (Workers.parse("1xdep4"), Workers.parse("4xtep4"))
    assert workers(many)[:2] == (Workers.parse("1xdep4"), Workers.parse("1xdep16"))


def test_the_experiment_has_the_instances_with_their_parallelism(tmp_path):
    (point,) = read(tmp_path, STATED)
    written = document(point)
    legs = written["systems"][0]["disaggregation"]
    assert legs["prefill"]["data_parallel_size"] == 4
    assert legs["decode"] == {"max_num_seqs": 32, "enable_expert_parallel": True}
    assert written["engine"]["enable_prefix_caching"] is False
    assert written["kv_precision"] == "fp8"
    resolved = experiment_of(point).resolve()
    system = resolved.systems[0]
    found = {(node.role, node.gpus, profile.compute.ranks)
             for node, profile in zip(system.fleet.cluster.nodes, system.fleet.profiles, strict=True)}  # fmt: skip
    assert found == {("prefill", 4, 4), ("decode", 8, 1)}
    placement = hx.place(resolved, "instance", by_flow=True)
    assert len(set(placement.placement.pipelines.values())) == 6


def test_a_run_like_measured_ones_is_validated_by_its_instances_that_decode(tmp_path):
    (point,) = read(tmp_path, {**STATED, "osl": "64"})
    setting = experiment_of(point).run()["instance"].summary.setting
    assert setting.is_disaggregated
    assert (setting.nodes, setting.stages) == ((GpuShare("b200", 8, 1.0),), 1.0)
    assert setting.timings == ("roofline",)
    assert 0.5 < setting.batch <= point.in_flight
    found = shipped_table().estimate(setting)
    assert found.label == "validated"
    apart = sum(cell.points for cell in shipped_table().cells if cell.is_disaggregated and "b200" in cell.gpu)
    assert 0 < found.points <= apart
    together = replace(setting, is_disaggregated=False)
    assert shipped_table().estimate(together).points != found.points


def test_other_gpus_that_only_prefill_are_part_of_the_setting():
    experiment = hx.load(Path(__file__).parents[3] / "experiments" / "disaggregation.yaml")
    run = experiment.with_({"workload.warmup": "5 s", "workload.duration": "20 s"}).run()["split"]
    assert run.summary.setting.nodes == (GpuShare("l20", 1, 0.5), GpuShare("rtx-4090", 1, 0.5))
    assert KINDS["kind"] in shipped_table().estimate(run.summary.setting).sentence


def test_a_batch_limit_makes_requests_wait_and_keeps_steps_short(tmp_path):
    (point,) = read(tmp_path, {**STATED, "c": 20, "osl": "64"})
    narrow, wide = (simulated_means(replace(point, decode_seqs=limit)) for limit in (1, 32))
    assert narrow["ttft_ms"] > wide["ttft_ms"]
    assert narrow["tpot_ms"] < wide["tpot_ms"]


def test_every_installed_row_is_a_point_or_has_a_reason():
    pytest.importorskip("aiconfigurator_core")
    with installed_file().open(newline="", encoding="utf-8") as file:
        count = sum(row["mode"] == "disagg" for row in csv.DictReader(file))
    rows = read_runs(installed_file())
    points = [row for row in rows if isinstance(row, MeasuredPoint)]
    refused = [row for row in rows if isinstance(row, Inexpressible)]
    assert sum(point.rows for point in points) + len(refused) == count
    assert all(row.reason for row in refused)
    assert sum(point.rows for point in points) >= 0.8 * count
