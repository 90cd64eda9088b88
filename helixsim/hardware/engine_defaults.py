"""Limits of a step that an engine chooses by GPU, as data in its file."""

from __future__ import annotations

from collections.abc import Sequence
from fnmatch import fnmatchcase
from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator, Field

from helixsim.domain.hardware import BatchLimits, GpuSpec
from helixsim.units import GIB
from helixsim.validation import Count, Section, Words, base_unit


class GpuRule(Section):
    """A value for GPUs that meet all conditions.

    Parameters
    ----------
    min_gpu_memory
        Memory that the driver reports, of one GPU [B].
    min_gpus
        GPUs of the node.
    except_gpus
        Patterns of names of GPU profiles that the rule does not apply to.
    at_least_context
        The value is raised to the context length of the model.
    """

    value: Count
    min_gpu_memory: Annotated[float, base_unit("size")] | None = None
    min_gpus: Count = 1
    except_gpus: Annotated[tuple[Words, ...], Field(strict=False)] = ()
    at_least_context: bool = False

    def applies(self, gpu: GpuSpec, gpus: int) -> bool:
        """Whether the rule applies to ``gpus`` GPUs of this kind."""
        return (
            gpu.memory_bytes >= (self.min_gpu_memory or 0)
            and gpus >= self.min_gpus
            and not any(fnmatchcase(gpu.name, pattern) for pattern in self.except_gpus)
        )

    @property
    def is_general(self) -> bool:
        """Whether the rule applies to every GPU."""
        return self.min_gpu_memory is None and self.min_gpus == 1 and not self.except_gpus

    def plain(self) -> dict[str, Any]:
        """Return the rule as it stands in a file."""
        written = self.model_dump(exclude_defaults=True, mode="json")
        if self.min_gpu_memory is not None:
            written["min_gpu_memory"] = f"{self.min_gpu_memory / GIB:.6g} GiB"
        return written


def _rules(value: Any) -> Any:
    """Return a list of rules for a number."""
    return ({"value": value},) if isinstance(value, int) and not isinstance(value, bool) else value


def _last_is_general(rules: tuple[GpuRule, ...]) -> tuple[GpuRule, ...]:
    if not rules or not rules[-1].is_general:
        raise ValueError("the last rule must have no conditions, so that every GPU has a value")
    return rules


ByGpu = Annotated[tuple[GpuRule, ...], Field(strict=False), BeforeValidator(_rules), AfterValidator(_last_is_general)]
"""A number, or rules of which the first that applies gives the value."""


def value_for(rules: Sequence[GpuRule], gpu: GpuSpec, gpus: int, context_tokens: int) -> int:
    """Return the value of the first rule that applies to a node."""
    rule = next(rule for rule in rules if rule.applies(gpu, gpus))
    return max(rule.value, context_tokens) if rule.at_least_context else rule.value


def plain_rules(rules: Sequence[GpuRule]) -> Any:
    """Return rules as they stand in a file."""
    if len(rules) == 1 and not rules[0].at_least_context:
        return rules[0].value
    return [rule.plain() for rule in rules]


class GraphRange(Section):
    """Sizes ``from``, ``from + step``, ... up to and including ``to``."""

    from_: Count = Field(alias="from")
    to: Count
    step: Count


class CudaGraphs(Section):
    """Batch sizes for which an engine captures CUDA graphs; a step is padded to the next one.

    Parameters
    ----------
    sizes
        Sizes and ranges of sizes.
    most
        The largest size that is captured; larger steps run without a graph, unpadded.
    most_per_seq
        Sizes beyond ``max_num_seqs`` times this are not captured either; None: no such limit.
    prompts
        Steps with prompt tokens are padded, too.
    """

    sizes: tuple[Count | GraphRange, ...] = Field(strict=False)
    most: ByGpu
    most_per_seq: Count | None = None
    prompts: bool = False

    def plain(self) -> dict[str, Any]:
        """Return the section as it stands in a file."""
        sizes = [size if isinstance(size, int) else size.model_dump(by_alias=True) for size in self.sizes]
        limit = {} if self.most_per_seq is None else {"most_per_seq": self.most_per_seq}
        return {"sizes": sizes, "most": plain_rules(self.most), **limit, "prompts": self.prompts}

    def captured(self, most: int, limits: BatchLimits) -> tuple[int, ...]:
        """Return the sizes up to ``most`` that a node with these limits captures, in order."""
        if self.most_per_seq is not None:
            most = min(most, self.most_per_seq * limits.max_decode_seqs)
        most = min(most, limits.max_prefill_tokens)
        sizes: set[int] = set()
        for size in self.sizes:
            sizes.update([size] if isinstance(size, int) else range(size.from_, size.to + 1, size.step))
        return tuple(sorted(size for size in sizes if size <= most))


class StepDefaults(Section):
    """Limits of a step unless an experiment states them; None: those of the GPU's measured profile.

    Parameters
    ----------
    max_num_batched_tokens
        Tokens of a step, prompts and decode steps together.
    max_num_seqs
        Sequences of a step.
    cuda_graph_sizes
        None: no padding.
    ranks_share_budget
        The tokens of a step are those of all attention ranks together, else of each.
    """

    max_num_batched_tokens: ByGpu | None = None
    max_num_seqs: ByGpu | None = None
    cuda_graph_sizes: CudaGraphs | None = None
    ranks_share_budget: bool = False

    def limits(
        self, measured: BatchLimits, gpu: GpuSpec, gpus: int, context_tokens: int, ranks: int = 1
    ) -> BatchLimits:
        """Return the limits of an attention rank, those of the measured profile where the engine states none."""
        tokens, seqs, requests = measured.max_prefill_tokens, measured.max_decode_seqs, measured.max_prefill_requests
        if self.max_num_batched_tokens is not None:
            tokens = value_for(self.max_num_batched_tokens, gpu, gpus, context_tokens)
            tokens = max(1, tokens // ranks) if self.ranks_share_budget else tokens
        if self.max_num_seqs is not None:
            seqs = requests = value_for(self.max_num_seqs, gpu, gpus, context_tokens)
        return BatchLimits(requests, tokens, seqs)

    def graph_sizes(self, limits: BatchLimits, gpu: GpuSpec, gpus: int) -> tuple[int, ...]:
        """Return the sizes that steps of a node are padded to, in order; empty: none."""
        graphs = self.cuda_graph_sizes
        return () if graphs is None else graphs.captured(value_for(graphs.most, gpu, gpus, 0), limits)


AS_MEASURED = StepDefaults()
"""Those of an engine that states no limits."""
