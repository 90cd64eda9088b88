"""The disaggregated rows of public measurements (prefill and decode on different GPUs), as points.

Tables of different dates hold each other. One of them states the instances of both roles; of the others, which state
the GPUs of one instance alone, the public recipes tell the rest (``recipes``), where they can be told apart:

- A load whose recipes all predict several tokens a step was run so.
- A load with one recipe was run by it. With another one of the same instances that predicts several tokens, runs are
  the slower group, within ``ALIKE`` of the slowest, if there is a faster one.
- A run that took as long as one whose instances are stated, within ``AGAIN``, is that one measured again.
"""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from helixsim.accuracy.points import DISAGGREGATED, SPREAD, Inexpressible, MeasuredPoint
from helixsim.accuracy.recipes import Recipe, Workers, recipes
from helixsim.accuracy.rows import (
    SEVERAL_TOKENS,
    UnknownError,
    concurrency_of,
    engine_of,
    means,
    served,
    source_name,
)
from helixsim.errors import DataError
from helixsim.hardware.catalog import load_model

ALIKE, AGAIN = 0.85, 0.03
"""Least TPOT of runs of one recipe as a share of the largest, and difference of TPOT of a run measured again."""

_WIDEST_MOE_TP = 16
"""GPUs over which experts are split at most: those of DeepSeek (2048 wide) have scales for blocks of 128, so that 16
GPUs have one each. Wider "tensor parallelism of experts" is expert parallelism (SGLang, ``--moe-a2a-backend``)."""


_TENSOR_OF_VLLM = 4
"""GPUs of an instance of vLLM that decodes by tensor parallelism with whole experts: the recipes of Kimi K2.5 have
attention ranks on those with more, and on those that prefill (NVIDIA/srt-slurm, recipes/vllm/kimi-k2.5: dep4, dep8 and
dep16 beside tep4), which the rows give as tensor parallelism too."""


@dataclass(frozen=True, slots=True)
class _Run:
    """A run: its rows, of which the first states the instances if any does, and what is served."""

    rows: tuple[Mapping[str, str], ...]
    gpu: str
    model: str
    weights: str | None
    concurrency: int
    ttft_ms: float
    tpot_ms: float

    @property
    def row(self) -> Mapping[str, str]:
        return self.rows[0]

    @property
    def stated(self) -> tuple[Workers, Workers] | None:
        """Instances that prefill and decode, None: not stated."""
        return (_workers(self.row, "prefill"), _workers(self.row, "decode")) if _has_counts(self.row) else None

    @property
    def load(self) -> tuple[str, str, str, int, int, int]:
        """See ``recipes.Load``."""
        row, weights = self.row, self.weights or load_model(self.model).precision
        return self.gpu, row["backend"], weights, int(row["isl"]), int(row["osl"]), self.concurrency

    @property
    def sizes(self) -> tuple[int, bool, int]:
        """What every table states: GPUs of an instance that prefills, whether it spreads experts, GPUs of a decoder."""
        row = next((row for row in self.rows if not _has_counts(row)), self.row)
        prefill, decode = _workers(row, "prefill"), _workers(row, "decode")
        return prefill.gpus, prefill.expert_parallel > 1, decode.gpus


def read_runs(path: Path) -> list[MeasuredPoint | Inexpressible]:
    """Return every disaggregated run of a file; rows that cannot be expressed each for itself.

    Raises
    ------
    DataError
        If the file cannot be read or lacks a column.
    """
    try:
        with path.open(newline="", encoding="utf-8") as file:
            rows = [row for row in csv.DictReader(file) if row["mode"] == "disagg"]
        return _points(rows)
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: cannot be read: {error}") from error
    except KeyError as error:
        raise DataError(f"{path}: has no column {error}; expected silicon_sample.csv of aiconfigurator-core") from error


def _points(rows: Sequence[Mapping[str, str]]) -> list[MeasuredPoint | Inexpressible]:
    found: list[MeasuredPoint | Inexpressible] = []
    runs: list[_Run] = []
    for members in _together(rows):
        try:
            runs.append(_run(members))
        except UnknownError as unknown:
            found += [Inexpressible(row["id"], str(unknown), DISAGGREGATED) for row in members]
    of_load: dict[object, list[_Run]] = {}
    for run in runs:
        of_load.setdefault((run.load, run.sizes), []).append(run)
    for run in runs:
        try:
            found.append(_point(run, *_deployed(run, of_load[run.load, run.sizes])))
        except UnknownError as unknown:
            found += [Inexpressible(row["id"], str(unknown), DISAGGREGATED) for row in run.rows]
    return found


def _together(rows: Sequence[Mapping[str, str]]) -> list[list[Mapping[str, str]]]:
    """Return the rows of each run: equal means, to the decimals that all tables have, in one setting.

    Copies call DeepSeek V3 what others call R1. The row that states the instances comes first.
    """
    groups: dict[tuple[str, ...], list[Mapping[str, str]]] = {}
    for row in rows:
        model = row["model_path"].replace("DeepSeek-R1", "DeepSeek-V3")
        numbers = (f"{float(row['silicon_ttft_ms'] or 0):.1f}", f"{float(row['silicon_tpot_ms'] or 0):.2f}")
        groups.setdefault((model, row["system"], row["backend"], row["isl"], row["osl"], *numbers), []).append(row)
    return [sorted(members, key=lambda row: not _has_counts(row)) for members in groups.values()]


def _run(members: Sequence[Mapping[str, str]]) -> _Run:
    row = members[0]
    gpu, model, weights = served(row)
    if model == "kimi-k2.5" and row["precision"] == "fp4":
        weights = "nvfp4"
    concurrency = concurrency_of(row)
    gpus = row["decode_tp_size"]
    is_sum = not _has_counts(row) and row["prefill_tp_size"] == gpus and int(gpus) > 8
    if is_sum and (gpu, gpus) != ("h100", "16"):
        raise UnknownError("GPUs of prefill and decode workers (12 to 72) given as one tensor parallelism")
    return _Run(tuple(members), gpu, model, weights, concurrency, *means(row))


def _has_counts(row: Mapping[str, str]) -> bool:
    return bool(row["prefill_num_workers"])


def _workers(row: Mapping[str, str], role: str) -> Workers:
    """Return the instances of a role as the columns of a row have them."""
    names = ("num_workers", "tp_size", "attention_dp_size", "moe_tp_size", "moe_ep_size")
    count, tensor, data, sliced, spread = (max(1, int(float(row[f"{role}_{name}"] or 1))) for name in names)
    is_spread = spread > 1 or sliced > _WIDEST_MOE_TP
    if row["backend"] == "vllm" and is_spread and (role == "prefill" or tensor > _TENSOR_OF_VLLM):
        tensor, data = 1, tensor * data
    return Workers(count, tensor, data, tensor * data if is_spread else 1)


def _deployed(run: _Run, alike: Sequence[_Run]) -> tuple[Workers, Workers, int]:
    """Return the instances of a run, and the sequences of a rank that decodes.

    ``alike``: the runs of its load and sizes.
    """
    known = [one for one in recipes().get(run.load, ()) if _fits(one, run)]
    if run.stated is not None:
        prefill, decode = run.stated
        same = [
            one
            for one in known
            if not one.drafts and (one.prefill.count, one.decode.count) == (prefill.count, decode.count)
        ]
        return prefill, decode, same[0].decode_seqs if same else 0
    again = next((one for one in alike if one.stated and abs(one.tpot_ms / run.tpot_ms - 1) < AGAIN), None)
    if again is not None:
        return _deployed(again, alike)
    if not known:
        raise UnknownError("the number of prefill and decode workers is not stated, and no public recipe has this load")
    plain = [one for one in known if not one.drafts]
    if not plain:
        raise UnknownError(SEVERAL_TOKENS)
    if len(plain) == 1:
        own, drafting = plain[0], [one for one in known if one.drafts]
        if not drafting:
            return own.prefill, own.decode, own.decode_seqs
        if all((one.prefill, one.decode) == (own.prefill, own.decode) for one in drafting):
            slowest = max(one.tpot_ms for one in alike)
            if run.tpot_ms < ALIKE * slowest:
                raise UnknownError(SEVERAL_TOKENS)
            if any(one.stated or one.tpot_ms < ALIKE * slowest for one in alike):
                return own.prefill, own.decode, own.decode_seqs
    raise UnknownError("the number of workers is not stated, and several public recipes have this load")


def _fits(recipe: Recipe, run: _Run) -> bool:
    """Whether a recipe has the sizes that the rows state."""
    prefill, spreads, decode = run.sizes
    own = recipe.prefill
    return (own.gpus, recipe.decode.gpus) == (prefill, decode) and (own.expert_parallel > 1) == spreads


def _point(run: _Run, prefill: Workers, decode: Workers, decode_seqs: int) -> MeasuredPoint:
    row = run.row
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
        decode_seqs=decode_seqs,
    )
