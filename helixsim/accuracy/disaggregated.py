"""The disaggregated rows of public measurements (prefill and decode on different GPUs), as points.

How they were deployed: ``deployments``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from helixsim.accuracy.deployments import Run, deployed, has_counts
from helixsim.accuracy.points import DISAGGREGATED, SPREAD, Inexpressible, MeasuredPoint
from helixsim.accuracy.recipes import Recipe
from helixsim.accuracy.rows import UnknownError, concurrency_of, engine_of, means, rows_of, served, source_name


def read_runs(path: Path) -> list[MeasuredPoint | Inexpressible]:
    """Return every disaggregated run of a file; rows that cannot be expressed each for itself.

    Raises
    ------
    DataError
        If the file cannot be read or lacks a column.
    """
    with rows_of(path, "disagg") as rows:
        return _points(rows)


def _points(rows: Sequence[Mapping[str, str]]) -> list[MeasuredPoint | Inexpressible]:
    found: list[MeasuredPoint | Inexpressible] = []
    runs: list[Run] = []
    for members in _together(rows):
        try:
            runs.append(_run(members))
        except UnknownError as unknown:
            found += [Inexpressible(row["id"], str(unknown), DISAGGREGATED) for row in members]
    of_load: dict[object, list[Run]] = {}
    for run in runs:
        of_load.setdefault((_architecture(run), run.load), []).append(run)
    for run in runs:
        try:
            found.append(_point(run, deployed(run, of_load[_architecture(run), run.load])))
        except UnknownError as unknown:
            found += [Inexpressible(row["id"], str(unknown), DISAGGREGATED) for row in run.rows]
    return found


def _architecture(run: Run) -> str:
    """Return the model of a run; copies call DeepSeek V3 what others call R1."""
    return run.model.replace("deepseek-r1", "deepseek-v3")


def _together(rows: Sequence[Mapping[str, str]]) -> list[list[Mapping[str, str]]]:
    """Return the rows of each run: equal means, to the decimals that all tables have, in one setting.

    Copies call DeepSeek V3 what others call R1. The row that states the instances comes first.
    """
    groups: dict[tuple[str, ...], list[Mapping[str, str]]] = {}
    for row in rows:
        model = row["model_path"].replace("DeepSeek-R1", "DeepSeek-V3")
        numbers = (f"{float(row['silicon_ttft_ms'] or 0):.1f}", f"{float(row['silicon_tpot_ms'] or 0):.2f}")
        groups.setdefault((model, row["system"], row["backend"], row["isl"], row["osl"], *numbers), []).append(row)
    return [sorted(members, key=lambda row: not has_counts(row)) for members in groups.values()]


def _run(members: Sequence[Mapping[str, str]]) -> Run:
    row = members[0]
    gpu, model, weights = served(row)
    if model == "kimi-k2.5" and row["precision"] == "fp4":
        weights = "nvfp4"
    concurrency = concurrency_of(row)
    return Run(tuple(members), gpu, model, weights, concurrency, *means(row))


def _point(run: Run, recipe: Recipe) -> MeasuredPoint:
    row, prefill, decode = run.row, recipe.prefill, recipe.decode
    return MeasuredPoint(
        id=row["id"],
        source=source_name(row["silicon_data_source"]),
        gpu=run.gpu,
        tensor_parallel=decode.tensor_parallel,
        data_parallel=decode.data_parallel,
        expert_parallel=decode.expert_parallel,
        engine=engine_of(row["backend"], row["backend_version"]),
        engine_version=row["backend_version"],
        model=run.model,
        weights=run.weights,
        prompt_tokens=int(row["isl"]),
        output_tokens=int(row["osl"]),
        spread=SPREAD,
        concurrency=run.concurrency,
        ttft_ms=run.ttft_ms,
        tpot_ms=run.tpot_ms,
        id_of_model=row["model_path"],
        rows=len(run.rows),
        prefill_workers=prefill.count,
        prefill_tensor_parallel=prefill.tensor_parallel,
        prefill_data_parallel=prefill.data_parallel,
        prefill_expert_parallel=prefill.expert_parallel,
        decode_workers=decode.count,
        decode_seqs=recipe.decode_seqs,
        drafts=recipe.drafts,
    )
