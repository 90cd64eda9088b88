"""Measured points: what their rows say of the load and of the server, and rows that cannot be judged."""

import csv

import pytest

from helixsim.accuracy import settings
from helixsim.accuracy.express import document
from helixsim.accuracy.points import Inexpressible, MeasuredPoint
from helixsim.accuracy.rows import installed_file, read_points

INFERENCEX = "source_file=any.csv; model=any; silicon_concurrency={}"
NVIDIA = "source_file=/home/data/h200_sxm/vllm/0.12.0/any.csv; silicon_concurrency={}"
ROW = {
    "mode": "agg", "backend": "vllm", "backend_version": "1", "model_path": "meta-llama/Llama-3.1-70B",
    "system": "h200_sxm", "precision": "fp8", "isl": "1024", "osl": "1024", "gemm_quant_mode": "fp8",
    "batch_size": "16", "tp_size": "4", "pp_size": "1", "attention_dp_size": "1", "moe_tp_size": "4",
    "moe_ep_size": "1", "silicon_ttft_ms": "200", "silicon_tpot_ms": "12",
}  # fmt: skip
EIGHT_B = {"model_path": "meta-llama/Llama-3.1-8B-Instruct", "tp_size": "1", "moe_tp_size": "1"}


def read(tmp_path, *changes, source=INFERENCEX):
    path = tmp_path / "rows.csv"
    rows = [
        {**ROW, "silicon_data_source": source.format(16), **change, "id": str(i)} for i, change in enumerate(changes)
    ]
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, sorted({key for row in rows for key in row}))
        writer.writeheader()
        writer.writerows(rows)
    return read_points(path)


def test_the_format_of_keys_and_values_is_that_of_the_server(tmp_path):
    trtllm = {"backend": "trtllm"}
    oss = {"model_path": "openai/gpt-oss-120b", "precision": "fp4"}
    points = read(tmp_path, {}, trtllm, oss, {**oss, "system": "b200_sxm"}, {**EIGHT_B, **trtllm})
    assert [settings.kv_format(point) for point in points] == ["fp8", "fp8", None, "fp8", None]
    assert document(points[0])["kv_precision"] == "fp8"
    assert "kv_precision" not in document(points[2])
    (own,) = read(tmp_path, {**EIGHT_B, **trtllm}, source=NVIDIA)
    assert settings.kv_format(own) == "fp8"  # as the quantised checkpoint has it


def test_a_version_with_a_profile_of_its_own_has_it(tmp_path):
    versions = ({"backend": "trtllm", "backend_version": version} for version in ("1.0.0rc3", "1.2.0rc2"))
    assert [point.engine for point in read(tmp_path, *versions)] == ["trtllm-1.0", "trtllm"]


def test_prefix_caching_and_budgets_are_those_of_the_server(tmp_path):
    vllm, trtllm = read(tmp_path, {}, {"backend": "trtllm", "isl": "8192", "system": "b200_sxm"})
    assert document(vllm)["engine"] == {"name": "vllm-1", "timings": "analytic", "enable_prefix_caching": False}
    assert document(trtllm)["engine"]["max_num_batched_tokens"] == 16384


def test_outputs_of_equal_length_end_together_where_first_tokens_came_together(tmp_path):
    together = {"backend": "sglang", "model_path": "Qwen/Qwen3-32B", "precision": ""}
    vllm, sglang = read(tmp_path, {}, together, source=NVIDIA)
    assert document(vllm)["workload"]["lengths"]["output_max"] > 1024 > settings.output_lengths(vllm)[0]
    assert settings.output_lengths(sglang) == (1024, 1024)
    assert document(vllm)["workload"]["lengths"]["prompt_min"] == 1024
    (random,) = read(tmp_path, {})
    assert settings.output_lengths(random) == (819, 1024)


@pytest.mark.parametrize(
    ("change", "source", "reason"),
    [
        ({"silicon_ttft_ms": "90000"}, INFERENCEX, "waited for much longer than they ran"),
        ({"batch_size": "4"}, NVIDIA, "the load of several instances"),
        ({"silicon_ttft_ms": ""}, INFERENCEX, "no TTFT or TPOT"),
    ],
)
def test_rows_whose_load_is_not_stated_are_refused_with_the_reason(tmp_path, change, source, reason):
    sound, refused = read(tmp_path, {}, change, source=source)
    assert isinstance(sound, MeasuredPoint)
    assert isinstance(refused, Inexpressible)
    assert reason in refused.reason


def test_a_file_with_more_prompts_than_its_gpus_multiply_is_refused_as_a_whole(tmp_path):
    fast = {**EIGHT_B, "isl": "2000", "osl": "100", "silicon_ttft_ms": "30", "silicon_tpot_ms": "2"}
    points = read(tmp_path, fast, {**EIGHT_B, "silicon_tpot_ms": "9"}, source=NVIDIA)
    assert [isinstance(point, Inexpressible) for point in points] == [True, True]
    assert "prefixes must have been cached" in points[1].reason
    assert all(isinstance(point, MeasuredPoint) for point in read(tmp_path, fast))  # of InferenceX: only so many rows
    slow = {**fast, "silicon_tpot_ms": "20"}
    assert isinstance(read(tmp_path, slow, source=NVIDIA)[0], MeasuredPoint)


@pytest.mark.parametrize(
    ("stated", "parallel"),
    [
        ({}, (4, 1, 1)),
        ({"tp_size": "64", "moe_tp_size": "8", "moe_ep_size": "8"}, (8, 1, 8)),
        ({"tp_size": "1", "attention_dp_size": "64", "moe_tp_size": "8", "moe_ep_size": "8"}, (1, 8, 8)),
        ({"tp_size": "1", "attention_dp_size": "8", "moe_tp_size": "1", "moe_ep_size": "8"}, (1, 8, 8)),
        ({"attention_dp_size": "4", "moe_tp_size": "1", "moe_ep_size": "16"}, (4, 1, 4)),
    ],
)
def test_the_layout_of_an_instance_is_that_of_the_run_whatever_the_table_made_of_it(tmp_path, stated, parallel):
    (point,) = read(tmp_path, stated)
    assert (point.tensor_parallel, point.data_parallel, point.expert_parallel) == parallel


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"tp_size": "28", "moe_tp_size": "28", "system": "gb200"}, "prefill and decode workers"),
        ({"tp_size": "8", "moe_tp_size": "2", "moe_ep_size": "4"}, "both spread and split"),
        ({"tp_size": "1", "moe_tp_size": "4"}, "how many attention replicas"),
        (
            {
                "model_path": "MiniMaxAI/MiniMax-M2.5", "precision": "fp4", "attention_dp_size": "4",
                "moe_tp_size": "1", "moe_ep_size": "16",
            },
            "replicated or split",
        ),
        ({"silicon_data_source": "source_file=any.csv"}, "concurrency"),
        ({"model_path": "some/other"}, "no profile of the model"),
        ({"system": "tpu"}, "no profile of the GPU"),
        ({"backend": "other"}, "no profile of the engine"),
        ({"precision": "fp7"}, "no format"),
    ],
)  # fmt: skip
def test_a_row_is_a_point_or_has_a_reason(tmp_path, change, reason):
    (refused,) = read(tmp_path, change)
    assert isinstance(refused, Inexpressible)
    assert reason in refused.reason


def test_copies_of_a_run_are_one_point(tmp_path):
    exact = {"silicon_ttft_ms": "200.0412", "silicon_tpot_ms": "12.0013"}
    rounded = {"silicon_ttft_ms": "200.04", "silicon_tpot_ms": "12.0", "tp_size": "4"}
    points = read(tmp_path, exact, {"backend": "sglang"}, rounded, {"silicon_tpot_ms": "12.1"}, exact)
    assert [(point.id, point.rows) for point in points] == [("0", 3), ("1", 1), ("3", 1)]
    twins = [{"model_path": f"deepseek-ai/DeepSeek-{name}", "system": "b200_sxm"} for name in ("R1", "V3")]
    assert [(point.model, point.rows) for point in read(tmp_path, *twins)] == [("deepseek-r1", 2)]


def test_every_installed_row_is_a_point_or_has_a_reason():
    pytest.importorskip("aiconfigurator_core")
    with installed_file().open(newline="", encoding="utf-8") as file:
        count = sum(row["mode"] == "agg" for row in csv.DictReader(file))
    rows = read_points(installed_file())
    points = [row for row in rows if isinstance(row, MeasuredPoint)]
    refused = [row for row in rows if isinstance(row, Inexpressible)]
    assert sum(point.rows for point in points) + len(refused) == count
    assert all(row.reason for row in refused)
    assert sum(point.rows for point in points) >= 0.85 * count


def test_runs_with_draft_tokens_that_the_row_does_not_state_are_refused(tmp_path):
    run = {"model_path": "deepseek-ai/DeepSeek-R1", "backend": "trtllm", "backend_version": "1.1.0rc2.post2"}
    days = [f"source_file=any.csv; silicon_concurrency=16; measured=2025-{day}" for day in ("12-15", "12-31")]
    days += ["source_file=any.csv; silicon_concurrency=16; measured=2026-01-14T00:00:00Z"]
    rows = [{**run, "silicon_data_source": day, "silicon_tpot_ms": str(9 + i)} for i, day in enumerate(days)]
    before, later, refused = read(tmp_path, *rows)
    assert isinstance(before, MeasuredPoint)
    assert isinstance(later, MeasuredPoint)
    assert isinstance(refused, Inexpressible)
    assert "MTP" in refused.reason
