"""Which of several tables of measured kernels times an operator of a served engine.

Tables are of one version of an engine, and of the kernel that their collector started for each shape. A served engine
is of another version, or chooses its kernels: where the tables of the version nearest to it, those of the newest, and
those of other engines on the same GPU differ, one of them counts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from helixsim.domain.curves import Curve
from helixsim.domain.hardware import GpuSpec
from helixsim.domain.kernels import Kernels
from helixsim.domain.layers import Attention, Experts, NumberFormat
from helixsim.errors import DataError
from helixsim.hardware.operator_library import Tables
from helixsim.units import NS_PER_S

_TUNED = frozenset({("trtllm", "fp4")})
"""Backend and format of the products whose kernels the engine picks by timing them when it starts (TensorRT-LLM's
``AutoTuner``), among them those that FlashInfer has from it. Its own table has one kernel for all sizes, which takes as
long for one row as for 512 (36 us for 14 336 inputs on B200, where those of vLLM and SGLang take 19)."""

_MOST_APART = 1.5
"""Ratio of the times of two versions of an engine above which the older was timed with a kernel that is not run: int4
experts of Kimi K2.5 on H200 take 947 us in the table of vLLM 0.19 (Triton) and 326 us in that of 0.24 (Marlin), FP8
experts of MiniMax M2.5 on B200 315 and 192 us for 256 tokens, 89 and 76 us for 16."""


_UNMEASURED = frozenset({"marlin"})
"""Kernels of routed experts that a server can be told to use (``moe_backend``) and of which no table has times."""


@dataclass(frozen=True)
class Timed:
    """An operator as text, with the tables that time it: of several the fastest.

    Parameters
    ----------
    law_s
        Time for so many tokens by a law [s], where no table has it.
    assumed_ns
        What the library adds to the time of the table without a measurement, left out [ns].
    newer
        Tables of a newer version, which count where ``tables`` have more than ``_MOST_APART`` times as much.
    multiply_s, read_s
        Of products: time to multiply one row, and to read the weights, at the peak rates [s].
    sustained
        What of the multiply rate is left in service, of that when a kernel is timed alone.
    """

    text: str
    tables: tuple[Tables, ...]
    multiply_s: float = 0.0
    read_s: float = 0.0
    sustained: float = 1.0
    newer: Tables | None = None
    law_s: Callable[[float], float] | None = None
    assumed_ns: float = 0.0

    def ns(self, seqs: int, tokens: int = 1, past: int = 0, *, is_prompt: bool = False) -> float:
        """Return the time [ns]."""
        alone_ns = sum(self._alone(seqs, tokens, past, is_prompt).values()) - self.assumed_ns
        if self.sustained == 1.0:
            return alone_ns
        multiply_s = self.multiply_s * seqs
        return alone_ns * (1.0 + (1.0 / self.sustained - 1.0) * multiply_s / (multiply_s + self.read_s))

    def by_source(self, seqs: int, tokens: int = 1, past: int = 0, *, is_prompt: bool = False) -> dict[str, float]:
        """Return the same, split by how the tables know it, at the rates of a kernel alone."""
        return self._alone(seqs, tokens, past, is_prompt)

    def _alone(self, seqs: int, tokens: int, past: int, is_prompt: bool) -> dict[str, float]:
        if self.law_s is not None:
            return {"laws": self.law_s(seqs) * NS_PER_S}

        def of(one: Tables) -> dict[str, float]:
            return one.by_source(self.text, seqs, tokens, past, is_prompt=is_prompt)

        found = min(map(of, self.tables), key=lambda times: sum(times.values()))
        if self.newer is None:
            return found
        newest = of(self.newer)
        return newest if sum(found.values()) > _MOST_APART * sum(newest.values()) else found


def timed(tables: Tables, operators: Iterable[Any]) -> tuple[Timed, ...]:
    """Return operators timed by tables alone."""
    return tuple(Timed(tables.build.text([one]), (tables,)) for one in operators)


def sampled(xs: Sequence[int], law: Callable[[int], float]) -> Curve:
    """Return a law as a curve."""
    return Curve(tuple(map(float, xs)), tuple(map(law, xs)))


def growing(xs: Sequence[int], law: Callable[[int], float]) -> Curve:
    """Return a law as a curve that nowhere falls.

    Single values of tables are too long by up to three times, while few rows take no longer than more of them, to which
    they can be padded.
    """
    ys = [law(x) for x in xs]
    for place in reversed(range(len(ys) - 1)):
        ys[place] = min(ys[place], ys[place + 1])
    return Curve(tuple(map(float, xs)), tuple(ys))


def products(tables: Tables, shapes: Iterable[tuple[int, int, NumberFormat]]) -> tuple[Timed, ...]:
    """Return matrix products (inputs, outputs, format) of a served engine."""
    found = []
    for inputs, outputs, form in shapes:
        text = tables.build.text([tables.build.product(inputs, outputs, form, in_service=True)])
        choices = (tables, *tables.siblings()) if (tables.backend, form.multiply) in _TUNED else (tables,)
        found.append(Timed(text, _having(text, choices) or (tables,)))
    return tuple(found)


def by_law(kernels: Kernels, form: NumberFormat) -> bool:
    """Return whether routed experts of a format are computed by kernels that no table has."""
    return kernels.backend in _UNMEASURED and form.name in dict(dict(kernels.backends)[kernels.backend])


def all_reduce(tables: Tables, gpu: GpuSpec, width: int, gpus: int) -> Timed:
    """Return an all-reduce of a served engine.

    On Blackwell with NVLink vLLM fuses it with the norm behind, in the kernels of TensorRT-LLM (FlashInfer,
    ``fuse_allreduce_rms``); its table has those that it uses elsewhere.
    """
    text = tables.build.text([tables.build.all_reduce(width, gpus)])
    is_fused = tables.backend == "vllm" and gpu.compute_capability is not None and int(gpu.compute_capability) == 10
    others = _having(text, [one for one in tables.siblings() if one.backend == "trtllm"]) if is_fused else ()
    return Timed(text, others or (tables,))


def experts(tables: Tables, one: Experts, gpus: int, *, by_expert: bool, has_shared: bool) -> Timed:
    """Return the routed experts of a served engine, in whole ones where slices are not known.

    Those of the tables nearest to the engine's version count, but for times that are far above those of the newest; if
    neither has them, those of other engines, with which they share kernels.

    Raises
    ------
    DataError
        If no table of the GPU has them.
    """
    cuts = [
        tables.build.text([tables.build.experts(one, gpus, by_expert=whole, has_shared=has_shared)])
        for whole in dict.fromkeys((by_expert, True))
    ]
    is_tuned = (tables.backend, one.matrices[0].format.multiply) in _TUNED
    for text in cuts:
        older = tables.older()
        own = _having(text, [tables] if older is None else [older, tables])
        if own:
            others = _having(text, tables.siblings()) if is_tuned else ()
            return Timed(text, own[:1] + others, newer=own[1] if len(own) > 1 else None)
    for text in cuts:
        if others := _having(text, tables.siblings()):
            return Timed(text, others)
    return Timed(cuts[0], (tables,))  # which says what it lacks


def latent_attention(tables: Tables, attention: Attention, gpus: int, kv: str) -> tuple[Timed, tuple[Timed, ...]]:
    """Return the attention of compressed keys and values (MLA) of prompts and of decode steps, without its matrices.

    vLLM's tables have it as a module that was timed outside CUDA graphs: no less than 100 us, however small. It runs
    the kernels of the other engines (FlashMLA, FlashInfer), of which the fastest counts.

    Raises
    ------
    DataError
        If no table of the GPU has it.
    """
    prompt, decodes = tables.build.latent_attention(attention, gpus, kv)
    found = []
    for operator in (prompt, *decodes):
        text, is_prompt = tables.build.text([operator]), operator is prompt
        choices = _having(text, (tables,), is_prompt=is_prompt) or _having(text, tables.siblings(), is_prompt=is_prompt)
        found.append(Timed(text, choices or (tables,)))
    return found[0], tuple(found[1:])


def _having(text: str, tables: Iterable[Tables], *, is_prompt: bool = False) -> tuple[Tables, ...]:
    """Return those of the tables that have an operator."""
    found = []
    for one in tables:
        try:
            one.ns(text, 1, 1, is_prompt=is_prompt)
        except DataError:
            continue
        found.append(one)
    return tuple(found)
