"""How a run with prefill and decode apart was deployed: what its rows, equal runs and the public recipes tell.

Tables of different dates hold each other. One of them states the instances of both roles; of the others, which state
the GPUs of one instance alone, or of all together, these rules tell the rest:

- A run that took as long as one of the same load whose instances are stated, within ``AGAIN``, is that one measured
  again.
- Models without public recipes were deployed as the run of the same load whose instances are stated.
- A load with one recipe was run by it.
- Of several recipes, some of which predict several tokens a step (MTP), runs are those that do not if they are the
  slower group, within ``ALIKE`` of the slowest, and there is a faster one; the faster ones predict.
- Two recipes and two groups of runs, apart by more than ``AGAIN``, that differ in draft tokens or in the number of
  instances that decode alone: draft tokens and more instances are the faster group.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from helixsim.accuracy.recipes import Recipe, Workers, recipes
from helixsim.accuracy.rows import UnknownError
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

_OF_RECIPES = ("deepseek", "gpt-oss")
"""Models that the recipes serve, by the beginning of their names."""


@dataclass(frozen=True, slots=True)
class Run:
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
        """Row that tells most."""
        return self.rows[0]

    @property
    def stated(self) -> tuple[Workers, Workers] | None:
        """Instances that prefill and decode, None: not stated."""
        return (_workers(self.row, "prefill"), _workers(self.row, "decode")) if has_counts(self.row) else None

    @property
    def load(self) -> tuple[str, str, str, int, int, int]:
        """See ``recipes.Load``."""
        row, weights = self.row, self.weights or load_model(self.model).precision
        return self.gpu, row["backend"], weights, int(row["isl"]), int(row["osl"]), self.concurrency

    @property
    def is_sum(self) -> bool:
        """Whether the GPUs of all instances are given as one tensor parallelism."""
        gpus = self.row["decode_tp_size"]
        is_equal = not has_counts(self.row) and self.row["prefill_tp_size"] == gpus
        return is_equal and int(gpus) > 8 and (self.gpu, gpus) != ("h100", "16")

    @property
    def gpus(self) -> int:
        """GPUs of all instances, 0: not stated."""
        if self.is_sum:
            return int(self.row["decode_tp_size"])
        return 0 if self.stated is None else sum(one.count * one.gpus for one in self.stated)

    @property
    def sizes(self) -> tuple[int, int]:
        """GPUs of an instance that prefills and of one that decodes."""
        row = next((row for row in self.rows if not has_counts(row)), self.row)
        return _workers(row, "prefill").gpus, _workers(row, "decode").gpus

    @property
    def spreads(self) -> bool:
        """Whether instances that prefill spread experts."""
        row = next((row for row in self.rows if not has_counts(row)), self.row)
        return _workers(row, "prefill").expert_parallel > 1


def has_counts(row: Mapping[str, str]) -> bool:
    """Whether a row states the instances."""
    return bool(row["prefill_num_workers"])


def _workers(row: Mapping[str, str], role: str) -> Workers:
    """Return the instances of a role as the columns of a row have them."""
    names = ("num_workers", "tp_size", "attention_dp_size", "moe_tp_size", "moe_ep_size")
    count, tensor, data, sliced, spread = (max(1, int(float(row[f"{role}_{name}"] or 1))) for name in names)
    is_spread = spread > 1 or sliced > _WIDEST_MOE_TP
    if row["backend"] == "vllm" and is_spread and (role == "prefill" or tensor > _TENSOR_OF_VLLM):
        tensor, data = 1, tensor * data
    return Workers(count, tensor, data, tensor * data if is_spread else 1)


def deployed(run: Run, of_load: Sequence[Run]) -> Recipe:
    """Return how a run was deployed; ``of_load``: all runs of its model and load.

    Raises
    ------
    UnknownError
        If several recipes, or none, may be that of the run.
    """
    known = _recipes(run)
    if run.stated is not None:
        prefill, decode = run.stated
        counts = prefill.count, decode.count
        same = [one for one in known if not one.drafts and (one.prefill.count, one.decode.count) == counts]
        return Recipe(prefill, decode, 0, same[0].decode_seqs if same else 0)
    alike = [one for one in of_load if (one.gpus == run.gpus if run.is_sum else one.sizes == run.sizes)]
    stated = [one for one in alike if one.stated is not None]
    again = next((one for one in stated if abs(one.tpot_ms / run.tpot_ms - 1) < AGAIN), None)
    if again is None and len(stated) == 1 and not run.model.startswith(_OF_RECIPES):
        again = stated[0]
    if again is not None:
        return deployed(again, of_load)
    if run.is_sum:
        raise UnknownError("GPUs of prefill and decode workers (12 to 72) given as one tensor parallelism")
    if not known:
        raise UnknownError("the number of prefill and decode workers is not stated, and no public recipe has this load")
    found = _told_apart(run, known, [one for one in alike if one.spreads == run.spreads])
    if found is None:
        raise UnknownError("the number of workers is not stated, and several public recipes have this load")
    return found


def _recipes(run: Run) -> list[Recipe]:
    """Return the recipes of a run's load and sizes.

    Those of TensorRT-LLM spread experts of prompts everywhere, which some tables give as tensor parallelism.
    """
    if run.is_sum or not run.model.startswith(_OF_RECIPES):
        return []
    fitting = [one for one in recipes().get(run.load, ()) if (one.prefill.gpus, one.decode.gpus) == run.sizes]
    as_stated = [one for one in fitting if (one.prefill.expert_parallel > 1) == run.spreads]
    return fitting if not as_stated and run.row["backend"] == "trtllm" else as_stated


def _told_apart(run: Run, known: Sequence[Recipe], alike: Sequence[Run]) -> Recipe | None:
    """Return which of the recipes of a load a run has, None: not told; ``alike``: the runs of its load and sizes."""
    plain, drafting = ([one for one in known if bool(one.drafts) == drafts] for drafts in (False, True))
    if plain and drafting:
        slowest = max(one.tpot_ms for one in alike)
        if run.tpot_ms < ALIKE * slowest:
            plain = []
        elif any(one.stated or one.tpot_ms < ALIKE * slowest for one in alike):
            drafting = []
    found = [*plain, *drafting]
    if len(found) == 1:
        return found[0]
    ordered = _by_speed(found)
    groups = _groups([one.tpot_ms for one in alike])
    if ordered is None or len(groups) != len(ordered):
        return None
    return ordered[next(number for number, group in enumerate(groups) if run.tpot_ms in group)]


def _by_speed(found: Sequence[Recipe]) -> tuple[Recipe, Recipe] | None:
    """Return two recipes that differ in draft tokens or in the instances that decode alone, the faster one first."""
    if len(found) != 2:
        return None
    first, second = found
    if replace(first, drafts=second.drafts, decode_seqs=second.decode_seqs) == second:
        return (first, second) if first.drafts > second.drafts else (second, first)
    more, fewer = (first, second) if first.decode.count > second.decode.count else (second, first)
    one_each = (replace(one, decode=replace(one.decode, count=1), decode_seqs=0) for one in (more, fewer))
    return (more, fewer) if len(set(one_each)) == 1 else None


def _groups(values: Sequence[float]) -> list[list[float]]:
    """Return values in ascending groups, within which each is at most ``AGAIN`` above the one before."""
    groups: list[list[float]] = []
    for value in sorted(values):
        if groups and value <= groups[-1][-1] * (1 + AGAIN):
            groups[-1].append(value)
        else:
            groups.append([value])
    return groups
