"""Files of GPUs and engines with fitted constants."""

from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy
from typing import Any

from helixsim.hardware.engines import EngineProfile, with_overheads_s
from helixsim.hardware.fit_steps import FittedTerm

LEAST_SAID = 0.1
"""Share of a constant's uncertainty that rows must have removed for them to be named as its source, unless they moved
it by more than ``LEAST_MOVED``: a bound hides what they say."""

LEAST_MOVED = 0.01
"""Relative."""


def fitted_gpu(
    written: Mapping[str, Any], terms: tuple[FittedTerm, ...], reserved_bytes: int | None, source: str
) -> dict[str, Any]:
    """Return the contents of a GPU's file with fitted constants; its name has ``-fitted`` behind it.

    Parameters
    ----------
    written
        The file to start from, with the constants of its kernels in it (``catalog.gpu_document``).
    reserved_bytes
        Memory that the engine takes outside weights, activations and KV cache [B]; None: as it was.
    """
    made = deepcopy(dict(written))
    kernels, sources = made["kernels"], made["sources"]
    made["name"] = kernels["name"] = f"{made['name']}-fitted"
    fitted = []
    for term in terms:
        if term.is_host:
            continue
        is_fitted = term.said_by_rows >= LEAST_SAID or abs(term.after / term.before - 1) > LEAST_MOVED
        if is_fitted:
            fitted.append(term.name)
        law, _, share = term.name.partition(".")
        if law == "fp16":
            made[share] = round(term.after, 4)
            if is_fitted:
                sources[share] = source
        elif share:
            law_written = kernels.get(law, kernels["fp8"]) if law == "fp4" else kernels[law]
            kernels[law] = dict(law_written) | {share: round(term.after, 4)}
        else:
            kernels[law] = f"{term.after * 1e6:.4g} us"
    if fitted:
        kernels["source"] = f"{', '.join(fitted)}: {source}; all else: {kernels['source']}"
        sources["kernels"] = source
    if reserved_bytes is not None:
        made["reserved_memory"] = f"{reserved_bytes} B"
        sources["reserved_memory"] = source
    return made


def fitted_engine(engine: EngineProfile, name: str, terms: tuple[FittedTerm, ...], source: str) -> EngineProfile:
    """Return the engine with the fitted host times."""
    return with_overheads_s(engine, name, {term.name: term.after for term in terms if term.is_host}, source)
