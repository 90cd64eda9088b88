"""The rows of public measurements, as points.

They are those of ``aiconfigurator-core`` (NVIDIA, Apache-2.0; the extra ``operators``), file ``silicon_sample.csv``:
runs of InferenceX (SemiAnalysis) and of NVIDIA. Nothing of the file is kept here; it is read where it is installed.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import cache
from importlib.resources import files
from pathlib import Path

from helixsim.accuracy.points import INFERENCEX, NVIDIA, SPREAD, Inexpressible, MeasuredPoint
from helixsim.errors import DataError
from helixsim.hardware.catalog import load_gpu, load_model
from helixsim.hardware.operator_library import SYSTEMS, check_version

MODELS: Mapping[str, tuple[str, str | None]] = {
    "MiniMaxAI/MiniMax-M2.5": ("minimax-m2.5", "fp8"),
    "Qwen/Qwen3-235B-A22B-FP8": ("qwen3-235b-a22b", None),
    "Qwen/Qwen3-32B": ("qwen3-32b", None),
    "Qwen/Qwen3.5-397B-A17B": ("qwen3.5-397b-a17b", None),
    "deepseek-ai/DeepSeek-R1": ("deepseek-r1", "fp8"),
    "deepseek-ai/DeepSeek-V3": ("deepseek-v3", "fp8"),
    "meta-llama/Llama-3.1-70B": ("llama-3.1-70b", None),
    "meta-llama/Llama-3.1-8B-Instruct": ("llama-3.1-8b", None),
    "moonshotai/Kimi-K2.5": ("kimi-k2.5", "int4"),
    "nvidia/DeepSeek-R1-NVFP4": ("deepseek-r1", "fp8"),
    "nvidia/DeepSeek-V3.1-NVFP4": ("deepseek-v3", "fp8"),
    "nvidia/Llama-3.1-8B-Instruct-FP8": ("llama-3.1-8b", None),
    "nvidia/Qwen3-32B-NVFP4": ("qwen3-32b", None),
    "openai/gpt-oss-120b": ("gpt-oss-120b", "fp4"),
    "zhipuai/GLM-5": ("glm-5", None),
}
"""Names of models there -> profile, and the precision of the profile's own checkpoint as the file calls it.

Rows that state no precision served the checkpoint as it is.

DeepSeek V3.1 has the architecture of V3; the text model of Kimi K2.5 is that of K2.
"""

ENGINES: Mapping[str, str] = {"vllm": "vllm-1", "sglang": "sglang", "trtllm": "trtllm"}

FORMATS: Mapping[str, str] = {"fp8": "fp8", "fp4": "nvfp4", "bf16": "bf16", "int4": "int4"}

_QUANTISATION = {
    "fp8": "fp8", "fp8_block": "fp8", "nvfp4": "fp4", "bfloat16": "bf16", "int4_wo": "int4",
    "w4a16_mxfp4": "fp4", "w4a8_mxfp4_mxfp8": "fp4",
}  # fmt: skip
"""Quantisation of the matrix products there -> precision, for rows that state no precision."""

_FIXED = re.compile(r"/data/\w+/\w+/")
"""Files of a source whose prompts and outputs have fixed lengths; those of InferenceX are random (``SPREAD``)."""

MOST_SHARE_OF_PEAK = 0.65
"""Share of the datasheet's multiply rate that no measured kernel of a large product exceeds much (FP8: 0.64)."""

MOST_WAIT = 4.0
"""Requests that wait longer for their first token than so many times what the others take are held back by a limit."""

SEVERAL_TOKENS = "predicts several tokens a step (MTP), of which the row states neither how many nor acceptance"
"""Reason to leave out a row."""

_SPECULATIVE = {("trtllm", "1.1.0rc2.post2"): "2026-01-14", ("trtllm", "1.2.0rc6.post3"): "2026-02-05"}
"""Engine and its version -> day from which InferenceX's runs of DeepSeek with it predict several tokens (MTP).

The rows do not say so. These runs take half to two thirds of the TPOT that the same version, or the one before it, took
days earlier in the same settings. Their settings are those of ``dsr1-*-trt-mtp`` in InferenceX, and the table that is
a dump of its database has none of them, but the runs without draft tokens.
"""

_NVLINK_GPUS: Mapping[str, int] = {"gb200": 72, "gb300": 72}
"""GPUs of one NVLink domain where there are more than eight (NVL72)."""


class UnknownError(Exception):
    """Something of a row that has no counterpart here."""


def installed_file() -> Path:
    """Return the file of the installed library.

    Raises
    ------
    ConfigError
        Without the extra ``operators``, or in a version that is not known.
    """
    check_version()
    return Path(str(files("aiconfigurator_core"))) / "systems" / "silicon_sample.csv"


def read_points(path: Path) -> list[MeasuredPoint | Inexpressible]:
    """Return every aggregated (prefill and decode on the same GPUs) run of a file, in its order.

    The file has some runs several times, from tables that hold each other; the first of these rows stands for all.

    Raises
    ------
    DataError
        If the file cannot be read or lacks a column.
    """
    with rows_of(path, "agg") as rows:
        read = [(row["silicon_data_source"].split(";")[0], _point(row)) for row in rows]
        return _without_copies(_without_impossible(read))


@contextmanager
def rows_of(path: Path, mode: str) -> Iterator[list[dict[str, str]]]:
    """Yield the rows of a mode of serving; a column that is missed while they are read is an error in the file.

    Raises
    ------
    DataError
        If the file cannot be read or lacks a column.
    """
    try:
        with path.open(newline="", encoding="utf-8") as file:
            yield [row for row in csv.DictReader(file) if row["mode"] == mode]
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: cannot be read: {error}") from error
    except KeyError as error:
        raise DataError(f"{path}: has no column {error}; expected silicon_sample.csv of aiconfigurator-core") from error


def _without_impossible(read: list[tuple[str, MeasuredPoint | Inexpressible]]) -> list[MeasuredPoint | Inexpressible]:
    """Refuse the files of NVIDIA in which a row has more prompts answered than its GPUs can multiply."""
    doubted = {
        file
        for file, point in read
        if isinstance(point, MeasuredPoint) and point.source == NVIDIA and _share_of_peak(point) > MOST_SHARE_OF_PEAK
    }
    reason = "prompts of its file were answered faster than the GPUs multiply: prefixes must have been cached"
    return [
        Inexpressible(point.id, reason) if file in doubted and isinstance(point, MeasuredPoint) else point
        for file, point in read
    ]


def _without_copies(read: Sequence[MeasuredPoint | Inexpressible]) -> list[MeasuredPoint | Inexpressible]:
    """Keep the first of the rows of one run: equal means, to the two decimals that all tables have, in one setting.

    Copies call DeepSeek V3 what others call R1; both have the same layers.
    """
    first: dict[tuple[object, ...], int] = {}
    kept: list[MeasuredPoint | Inexpressible] = []
    for point in read:
        if isinstance(point, MeasuredPoint):
            model = point.model.replace("deepseek-r1", "deepseek-v3")
            means = f"{point.ttft_ms:.1f}", f"{point.tpot_ms:.2f}"
            setting = model, point.gpu, point.engine, point.prompt_tokens, point.output_tokens, point.concurrency
            place = first.setdefault((setting, means), len(kept))
            if place < len(kept):
                earlier = kept[place]
                assert isinstance(earlier, MeasuredPoint)
                kept[place] = replace(earlier, rows=earlier.rows + 1)
                continue
        kept.append(point)
    return kept


def _share_of_peak(point: MeasuredPoint) -> float:
    """Return the share of the GPUs' multiply rate that the tokens of a point need, without attention."""
    tokens = point.prompt_tokens * (1 + point.spread) / 2 + point.mean_output_tokens
    requests_per_s = point.output_tokens_per_s / point.mean_output_tokens
    return _seconds_at_peak(point.model, point.weights, point.gpu) * tokens * requests_per_s / point.gpus


@cache
def _seconds_at_peak(model: str, weights: str | None, gpu_name: str) -> float:
    """Return the time to multiply one token by all matrices on one GPU at its peak rate [s]."""
    gpu = load_gpu(gpu_name)
    peaks, seconds = dict(gpu.flops), 0.0
    for layer in load_model(model, weights).layers:
        for matrix in layer.matrices:
            seconds += 2.0 * matrix.parameters / peaks.get(matrix.format.multiply, gpu.fp16_flops)
        if layer.experts is not None:
            form = layer.experts.matrices[0].format.multiply
            active = layer.experts.per_token * layer.experts.parameters_each
            seconds += 2.0 * active / peaks.get(form, gpu.fp16_flops)
    return seconds


def _point(row: Mapping[str, str]) -> MeasuredPoint | Inexpressible:
    try:
        return _expressed(row)
    except UnknownError as unknown:
        return Inexpressible(row["id"], str(unknown))


def served(row: Mapping[str, str]) -> tuple[str, str, str | None]:
    """Return GPU, model and format of the weights of a row; None: that of the model's checkpoint.

    Raises
    ------
    UnknownError
        If one of them, or the engine, has no profile here.
    """
    if row["model_path"] not in MODELS:
        raise UnknownError(f"no profile of the model {row['model_path']}")
    systems = {name: gpu for gpu, name in SYSTEMS.items()}
    if row["system"] not in systems:
        raise UnknownError(f"no profile of the GPU {row['system']}")
    if row["backend"] not in ENGINES:
        raise UnknownError(f"no profile of the engine {row['backend']}")
    model, own = MODELS[row["model_path"]]
    precision = row["precision"] or _QUANTISATION.get(row["gemm_quant_mode"], "")
    if not precision and own is None and row["model_path"].endswith("-FP8"):
        precision = "fp8"
    if precision and precision not in FORMATS and precision != own:
        raise UnknownError(f"no format like {precision}")
    if model == "gpt-oss-120b":
        precision = "fp4"  # released in MXFP4 alone; "fp8" in the file is the format of its activations
    return systems[row["system"]], model, None if precision in ("", own) else FORMATS[precision]


def means(row: Mapping[str, str]) -> tuple[float, float]:
    """Return the measured means of TTFT and TPOT [ms].

    Raises
    ------
    UnknownError
        If one is missing, or says that requests waited for something that is not stated.
    """
    ttft_ms, tpot_ms = float(row["silicon_ttft_ms"] or 0), float(row["silicon_tpot_ms"] or 0)
    if not (ttft_ms > 0 and tpot_ms > 0):
        raise UnknownError("no TTFT or TPOT was measured")
    if ttft_ms > MOST_WAIT * tpot_ms * int(row["osl"]):
        raise UnknownError("requests waited for much longer than they ran: a limit that is not stated held them back")
    return ttft_ms, tpot_ms


def concurrency_of(row: Mapping[str, str]) -> int:
    """Return the requests in flight of a row.

    Raises
    ------
    UnknownError
        If they are not stated.
    """
    found = re.search(r"silicon_concurrency=(\d+)", row["silicon_data_source"])
    if found is None:
        raise UnknownError("the concurrency of the load is not stated")
    return int(found[1])


def _expressed(row: Mapping[str, str]) -> MeasuredPoint:
    source = row["silicon_data_source"]
    gpu, model, weights = served(row)
    measured = re.search(r"measured=([0-9-]+)", source)
    since = _SPECULATIVE.get((row["backend"], row["backend_version"]))
    if model.startswith("deepseek") and since is not None and measured is not None and measured[1] >= since:
        raise UnknownError(SEVERAL_TOKENS)
    attention, data, experts = _parallel(row)
    if attention * data > _NVLINK_GPUS.get(gpu, 8):
        raise UnknownError("more GPUs than a node has: how they are connected and share the work is not stated")
    if attention > 8:
        raise UnknownError("GPUs of prefill and decode workers (12 to 72) given as one tensor parallelism")
    concurrency = concurrency_of(row)
    if _FIXED.search(source) and data == 1 and concurrency != _size(row, "batch_size"):
        raise UnknownError("the load of several instances, of which it is not stated how they share it")
    ttft_ms, tpot_ms = means(row)
    return MeasuredPoint(
        id=row["id"],
        source=source_name(source),
        gpu=gpu,
        tensor_parallel=attention,
        data_parallel=data,
        expert_parallel=experts,
        engine=engine_of(row["backend"], row["backend_version"]),
        engine_version=row["backend_version"],
        model=model,
        weights=weights,
        prompt_tokens=int(row["isl"]),
        output_tokens=int(row["osl"]),
        spread=1.0 if _FIXED.search(source) else SPREAD,
        concurrency=concurrency,
        ttft_ms=ttft_ms,
        tpot_ms=tpot_ms,
        id_of_model=row["model_path"],
    )


def engine_of(backend: str, version: str) -> str:
    """Return the engine profile of a version."""
    return "trtllm-1.0" if backend == "trtllm" and version.startswith("1.0") else ENGINES[backend]


def _parallel(row: Mapping[str, str]) -> tuple[int, int, int]:
    """Return attention's tensor parallelism, data parallelism and expert parallelism.

    Rows of InferenceX with expert parallelism give the product of tensor and expert parallelism over the same GPUs as
    one of the two attention sizes (64 = 8 x 8): the GPUs are those of the expert parallelism. Rows of vLLM give it as
    attention replicas too (4 and 4, experts over 16). Both are told by copies of the same runs in tables that state 8
    and 8, or 4 and 4 without replicas, and by the scripts, which start no replicas but for MiniMax in FP4, where the
    rows do not tell which have them.
    """
    tensor, data, expert = (_size(row, key) for key in ("tp_size", "attention_dp_size", "moe_ep_size"))
    sliced = _size(row, "moe_tp_size")
    if not _FIXED.search(row["silicon_data_source"]):
        if expert > 1 and sliced == expert and max(tensor, data) == expert * sliced and min(tensor, data) == 1:
            return (1, expert, expert) if data > 1 else (expert, 1, expert)
        if tensor == data and data > 1 and expert == tensor * data and row["backend"] == "vllm":
            if row["model_path"] == "MiniMaxAI/MiniMax-M2.5" and row["precision"] == "fp4":
                raise UnknownError("not stated whether attention was replicated or split (data or tensor parallelism)")
            return tensor, 1, tensor
    if expert > 1 and sliced > 1 and tensor * data == expert * sliced:
        raise UnknownError("experts both spread and split (expert parallelism within tensor parallelism)")
    if sliced * expert > tensor * data:
        raise UnknownError("not stated how many attention replicas shared the experts, and the load")
    if expert not in (1, tensor * data):
        raise UnknownError("sizes of the parallelism that do not fit together")
    return tensor, data, expert


def _size(row: Mapping[str, str], key: str) -> int:
    return max(1, int(float(row[key] or 1)))


def source_name(source: str) -> str:
    """Return the benchmark behind a row, without folders of the machine that measured it."""
    if _FIXED.search(source):
        return NVIDIA
    return INFERENCEX
