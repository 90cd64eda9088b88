"""How the disaggregated systems of InferenceX were deployed, from its public configurations.

``profiles/accuracy/recipes.csv`` states them as SemiAnalysisAI/InferenceX does (``.github/configs/nvidia-master.yaml``
of February 2026, and the names of the recipes there, in ishandhanani/srt-slurm, branch sa-submission-q1-2026): GPU,
engine, format of the weights, longest prompt and output, draft tokens of a step, instances that prefill and decode,
sequences of a rank that decodes (SGLang states those of all ranks, ``max-running-requests``), and the loads.
``3xdep4`` are three instances of four GPUs. Attention is split over
the GPUs (``tp``, ``tep``) or replicated (``dtp``, ``dep``), experts are split (``tp``, ``dtp``) or spread (``tep``,
``dep``). The loads of TensorRT-LLM on H200, which the source states for each instance that decodes, are multiplied by
their number, as the runs state them; those of one request by ``number + 2``.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache

from helixsim.datafiles import data_path
from helixsim.errors import DataError

_WORKERS = re.compile(r"([1-9][0-9]*)x(tp|tep|dtp|dep)([1-9][0-9]*)")


@dataclass(frozen=True, slots=True)
class Workers:
    """Equal instances of a role.

    Parameters
    ----------
    count
        Instances.
    tensor_parallel, data_parallel, expert_parallel
        As those of ``MeasuredPoint``.
    """

    count: int
    tensor_parallel: int
    data_parallel: int = 1
    expert_parallel: int = 1

    @property
    def gpus(self) -> int:
        """GPUs of an instance."""
        return self.tensor_parallel * self.data_parallel

    @classmethod
    def parse(cls, text: str) -> Workers:
        """Return what a text such as ``3xdep4`` says.

        Raises
        ------
        ValueError
            For another text.
        """
        found = _WORKERS.fullmatch(text)
        if found is None:
            raise ValueError(f"expected a number of instances, x, tp, tep, dtp or dep, and their GPUs, got {text!r}")
        count, kind, gpus = int(found[1]), found[2], int(found[3])
        tensor, data = (1, gpus) if kind.startswith("d") else (gpus, 1)
        return cls(count, tensor, data, gpus if kind.endswith("ep") else 1)


@dataclass(frozen=True, slots=True)
class Recipe:
    """A public deployment; ``drafts``: tokens that a step predicts beyond its own, ``decode_seqs`` 0: not stated."""

    prefill: Workers
    decode: Workers
    drafts: int
    decode_seqs: int


Load = tuple[str, str, str, int, int, int]
"""GPU, engine, format of the weights, longest prompt and output [tokens], and requests in flight."""


@cache
def recipes() -> Mapping[Load, tuple[Recipe, ...]]:
    """Return the recipes of each load.

    Raises
    ------
    DataError
        If the table cannot be read.
    """
    path = data_path("profiles", "accuracy", "recipes.csv")
    found: dict[Load, tuple[Recipe, ...]] = {}
    try:
        with path.open(newline="", encoding="utf-8") as file:
            for row in csv.DictReader(file):
                workers = Workers.parse(row["prefill"]), Workers.parse(row["decode"])
                recipe = Recipe(*workers, int(row["drafts"]), int(row["max_num_seqs"] or 0))
                lengths = int(row["prompt_tokens"]), int(row["output_tokens"])
                for concurrency in map(int, row["concurrency"].split()):
                    load = (row["gpu"], row["engine"], row["weights"], *lengths, concurrency)
                    found[load] = (*found.get(load, ()), recipe)
    except (OSError, UnicodeDecodeError, KeyError, ValueError) as error:
        raise DataError(f"{path}: no table of recipes: {error!r}") from error
    return found
