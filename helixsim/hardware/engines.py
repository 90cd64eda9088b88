"""``profiles/engines``: what is known about serving engines, one file each."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from helixsim.datafiles import data_path
from helixsim.domain.engine import EngineSpec
from helixsim.errors import DataError, unknown_name
from helixsim.hardware.profile_file import open_profile
from helixsim.units import NS_PER_MS, NS_PER_S, seconds_to_ns

OVERHEADS = ("gather", "batch_overhead", "sequence_overhead", "layer_launch", "message_overhead")
"""Keys of the overheads, which are the fields ``<key>_ns`` of ``EngineSpec``."""

TRANSFERS = ("batch", "request")
MIXED_BATCHES = ("separate", "shared")

FIGURES = ("memory_fraction", "block_tokens", "transfers", "mixed_batches", *OVERHEADS, "watermark")
"""Everything an engine file states, each with its source."""


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
    sources
        (figure, where it comes from) pairs.
    """

    spec: EngineSpec
    memory_fraction: float
    block_tokens: int
    transfers: str
    sources: tuple[tuple[str, str], ...] = ()

    def figures(self) -> dict[str, Any]:
        """Return the figures as they stand in a file."""
        spec = self.spec
        return {
            "memory_fraction": self.memory_fraction,
            "block_tokens": self.block_tokens,
            "transfers": self.transfers,
            "mixed_batches": MIXED_BATCHES[spec.shares_weight_reads],
            **{key: f"{getattr(spec, f'{key}_ns') / NS_PER_MS:.6g} ms" for key in OVERHEADS},
            "watermark": spec.watermark,
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
    profile = open_profile(path)
    sources = profile.section("sources")
    overheads = {f"{key}_ns": seconds_to_ns(profile.quantity(key, "time", zero=True)) for key in OVERHEADS}
    engine = EngineProfile(
        spec=EngineSpec(
            name=profile.text("name"),
            shares_weight_reads=profile.choice("mixed_batches", MIXED_BATCHES) == "shared",
            watermark=profile.number("watermark", 0.0, 0.99),
            **overheads,
        ),
        memory_fraction=profile.number("memory_fraction", 0.01, 1.0),
        block_tokens=profile.integer("block_tokens"),
        transfers=profile.choice("transfers", TRANSFERS),
        sources=tuple((figure, sources.text(figure)) for figure in FIGURES),
    )
    profile.close()
    sources.close()
    return engine


def document(engine: EngineProfile) -> dict[str, Any]:
    """Return the contents of an engine's file; ``load_engine`` understands it when dumped as YAML."""
    return {"name": engine.spec.name, **engine.figures(), "sources": dict(engine.sources)}


def with_overheads_s(engine: EngineProfile, name: str, overheads_s: Mapping[str, float], source: str) -> EngineProfile:
    """Return an engine of another name whose overheads in ``overheads_s`` [s] are replaced, with their source."""
    spec = engine.spec
    values = {key: getattr(spec, f"{key}_ns") for key in OVERHEADS}
    values |= {key: round(seconds * NS_PER_S) for key, seconds in overheads_s.items()}
    return EngineProfile(
        spec=EngineSpec(
            name=name,
            shares_weight_reads=spec.shares_weight_reads,
            watermark=spec.watermark,
            **{f"{key}_ns": value for key, value in values.items()},
        ),
        memory_fraction=engine.memory_fraction,
        block_tokens=engine.block_tokens,
        transfers=engine.transfers,
        sources=tuple((figure, source if figure in overheads_s else said) for figure, said in engine.sources),
    )
