"""``profiles/engines``: what is known about serving engines, one file each."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from pydantic import Field

from helixsim.datafiles import data_path
from helixsim.domain.engine import EngineSpec
from helixsim.errors import DataError, unknown_name
from helixsim.renames import Renames
from helixsim.units import NS_PER_MS, NS_PER_S, seconds_to_ns
from helixsim.validation import Count, Section, Words, base_unit, read

OVERHEADS = ("gather", "batch_overhead", "sequence_overhead", "layer_launch", "message_overhead")
"""Keys of the overheads, which are the fields ``<key>_ns`` of ``EngineSpec``."""

Transfers = Literal["batch", "request"]
MixedBatches = Literal["separate", "shared"]
Overhead = Annotated[float, base_unit("time", zero=True)]

_RENAMES = Renames({("watermark",): "min_free_share", ("sources", "watermark"): "min_free_share"})


Returns = Literal["engine", "coordinator"]
Admission = Literal["prompt", "output"]

RESERVES_NOTHING = {"max_reserved_share": 1.0, "expected_output_tokens": 1.0}
"""Rules of admission of an engine that admits a request as soon as its prompt fits."""


class EngineSources(Section):
    """Where each figure of an engine comes from."""

    memory_fraction: Words
    block_tokens: Words
    transfers: Words
    mixed_batches: Words
    returns: Words = Field("not stated", alias="return")
    admission: Words = "not stated"
    activation_copy: Words = "not stated"
    output_head: Words = "not stated"
    gather: Words
    batch_overhead: Words
    sequence_overhead: Words
    layer_launch: Words
    message_overhead: Words
    min_free_share: Words


FIGURES = tuple(EngineSources.keys())
"""Everything an engine file states, each with its source."""


class EngineFile(Section):
    """``profiles/engines/*.yaml``; overheads [s]."""

    name: Words
    memory_fraction: Annotated[float, Field(ge=0.01, le=1)]
    block_tokens: Count
    transfers: Transfers
    mixed_batches: MixedBatches
    returns: Returns = Field("coordinator", alias="return")
    admission: Admission = "output"
    activation_copy: bool = True
    output_head: bool = False
    gather: Overhead
    batch_overhead: Overhead
    sequence_overhead: Overhead
    layer_launch: Overhead
    message_overhead: Overhead
    min_free_share: Annotated[float, Field(ge=0, le=0.99)]
    sources: EngineSources


@dataclass(frozen=True, slots=True)
class EngineProfile:
    """An engine's overheads and what it does unless it is told otherwise.

    Parameters
    ----------
    memory_fraction
        Share of usable GPU memory for weights and KV cache.
    block_tokens
        Tokens of one KV block.
    transfers
        What travels as one message: a ``batch`` or a ``request``.
    admission
        ``output``: KV memory is reserved for the output that is expected; ``prompt``: a request is admitted when its
        prompt fits.
    sources
        (figure, where it comes from) pairs.
    """

    spec: EngineSpec
    memory_fraction: float
    block_tokens: int
    transfers: str
    admission: str = "output"
    sources: tuple[tuple[str, str], ...] = ()

    def figures(self) -> dict[str, Any]:
        """Return the figures as they stand in a file."""
        spec = self.spec
        return {
            "memory_fraction": self.memory_fraction,
            "block_tokens": self.block_tokens,
            "transfers": self.transfers,
            "mixed_batches": get_args(MixedBatches)[spec.shares_weight_reads],
            "return": "engine" if spec.loops_inside else "coordinator",
            "admission": self.admission,
            "activation_copy": spec.copies_activations,
            "output_head": spec.has_output_head,
            **{key: f"{getattr(spec, f'{key}_ns') / NS_PER_MS:.6g} ms" for key in OVERHEADS},
            "min_free_share": spec.min_free_share,
        }


def engine_names() -> tuple[str, ...]:
    """Return the names of the engines in ``profiles/engines``."""
    return tuple(sorted(path.stem for path in data_path("profiles", "engines").glob("*.yaml")))


def load_engine(name: str | Path) -> EngineProfile:
    """Return the engine called ``name``, or the one in the YAML file at that path.

    Raises
    ------
    DataError
        For an unknown name or a file that is not an engine profile.
    """
    text = str(name)
    if "/" in text or Path(text).suffix in {".yaml", ".yml"}:
        path = Path(text)
        if not path.is_file():
            raise DataError(f"{path}: no such file (asked for as an engine profile)")
    elif text in engine_names():
        path = data_path("profiles", "engines", f"{text}.yaml")
    else:
        raise DataError(unknown_name("engine", text, engine_names()))
    file = read(path, EngineFile, renames=_RENAMES)
    return EngineProfile(
        spec=EngineSpec(
            name=file.name,
            shares_weight_reads=file.mixed_batches == "shared",
            loops_inside=file.returns == "engine",
            copies_activations=file.activation_copy,
            has_output_head=file.output_head,
            min_free_share=file.min_free_share,
            **{f"{key}_ns": seconds_to_ns(getattr(file, key)) for key in OVERHEADS},
        ),
        memory_fraction=file.memory_fraction,
        block_tokens=file.block_tokens,
        transfers=file.transfers,
        admission=file.admission,
        sources=tuple(file.sources.model_dump(by_alias=True).items()),
    )


def document(engine: EngineProfile) -> dict[str, Any]:
    """Return the contents of an engine's file; ``load_engine`` understands it when dumped as YAML."""
    return {"name": engine.spec.name, **engine.figures(), "sources": dict(engine.sources)}


def with_overheads_s(engine: EngineProfile, name: str, overheads_s: Mapping[str, float], source: str) -> EngineProfile:
    """Return an engine of another name whose overheads in ``overheads_s`` [s] are replaced, with their source."""
    spec = engine.spec
    values = {key: getattr(spec, f"{key}_ns") for key in OVERHEADS}
    values |= {key: round(seconds * NS_PER_S) for key, seconds in overheads_s.items()}
    return replace(
        engine,
        spec=replace(spec, name=name, **{f"{key}_ns": value for key, value in values.items()}),
        sources=tuple((figure, source if figure in overheads_s else said) for figure, said in engine.sources),
    )
