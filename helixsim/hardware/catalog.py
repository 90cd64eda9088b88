"""Finds and loads what ``profiles/`` knows: GPUs, links, models, and the names used for them elsewhere.

Every loader takes the name of a profile or the path of the user's own file (recognised by a folder or a suffix).
"""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path

from helixsim.datafiles import data_path
from helixsim.domain.cluster import LinkSpec
from helixsim.domain.hardware import GpuSpec
from helixsim.domain.model import ModelSpec
from helixsim.errors import DataError, unknown_name
from helixsim.hardware import transformer
from helixsim.hardware.profile_file import open_profile
from helixsim.units import BITS_PER_BYTE, seconds_to_ns

_GPU_FIGURES = (
    "memory",
    "usable_memory",
    "fp16",
    "memory_bandwidth",
    "compute_efficiency",
    "bandwidth_efficiency",
    "interconnect",
    "tdp",
    "price",
)


def gpu_names() -> tuple[str, ...]:
    """Return the names of the GPUs in ``profiles/gpus``."""
    return _names("gpus")


def model_names() -> tuple[str, ...]:
    """Return the names of the models in ``profiles/models``."""
    return _names("models")


def link_names() -> tuple[str, ...]:
    """Return the names of the link classes in ``profiles/links``."""
    return _names("links")


def load_gpu(name: str | Path) -> GpuSpec:
    """Return the GPU called ``name``, or the one in the YAML file at that path.

    Raises
    ------
    DataError
        For an unknown name or a file that is not a GPU profile.
    """
    profile = open_profile(_find("gpus", "GPU", str(name)))
    sources = profile.section("sources")
    spec = GpuSpec(
        name=profile.text("name"),
        memory_bytes=round(profile.quantity("memory", "size")),
        usable_memory_bytes=round(profile.quantity("usable_memory", "size")),
        fp16_flops=profile.quantity("fp16", "flops"),
        memory_bandwidth_bytes_per_s=profile.quantity("memory_bandwidth", "bandwidth") / BITS_PER_BYTE,
        compute_efficiency=profile.number("compute_efficiency", 0.01, 1.0),
        bandwidth_efficiency=profile.number("bandwidth_efficiency", 0.01, 1.0),
        interconnect_bytes_per_s=profile.quantity("interconnect", "bandwidth") / BITS_PER_BYTE,
        tdp_w=profile.quantity("tdp", "power"),
        cost_usd_per_hour=profile.quantity("price", "price"),
        sources=tuple((figure, sources.text(figure)) for figure in _GPU_FIGURES),
        compute_capability=profile.number("compute_capability", 1.0, 99.0) if "compute_capability" in profile else None,
    )
    profile.close()
    sources.close()
    if spec.usable_memory_bytes > spec.memory_bytes:
        raise profile.fault("usable_memory", "exceeds memory")
    return spec


def load_link(name: str | Path) -> LinkSpec:
    """Return the link class called ``name``, or the one in the YAML file at that path.

    Raises
    ------
    DataError
        For an unknown name or a file that is not a link profile.
    """
    profile = open_profile(_find("links", "link", str(name)))
    profile.text("name")
    profile.text("source")
    link = LinkSpec(profile.quantity("bandwidth", "bandwidth"), seconds_to_ns(profile.quantity("latency", "time")))
    profile.close()
    return link


def load_model(name_or_path: str | Path, precision: str | None = None, kv_precision: str | None = None) -> ModelSpec:
    """Return a model of ``profiles/models``, of a YAML file of the same form, or of a Hugging Face ``config.json``.

    Parameters
    ----------
    precision
        Number format of the weights, one of ``transformer.WEIGHT_BITS``; None: what the checkpoint states, else fp16.
    kv_precision
        Number format of the KV cache, one of ``transformer.KV_BYTES``; None: what the checkpoint states, else 16-bit.

    Raises
    ------
    DataError
        For an unknown name, an architecture or number format that is not understood, missing or impossible figures.
    """
    path = _find("models", "model", str(name_or_path))
    shape = transformer.read_json(path) if path.suffix == ".json" else transformer.read_yaml(path)
    name = str(name_or_path) if path.suffix == ".json" else shape.name
    return transformer.model_spec(name, shape, precision, kv_precision)


def split_kind(kind: str) -> tuple[str, int]:
    """Return (GPU name, GPUs) of a kind of node: ``l4x2`` is two ``l4``."""
    match = re.fullmatch(r"(.+)x([1-9]\d*)", kind)
    return (match.group(1), int(match.group(2))) if match else (kind, 1)


def kind_name(name: str) -> str:
    """Return the kind of node that a timing table calls ``name``."""
    return _aliases("kinds").get(name, name)


def model_name(name: str) -> str:
    """Return the model that a timing table calls ``name``."""
    return _aliases("models").get(name, name)


@cache
def _aliases(group: str) -> dict[str, str]:
    section = open_profile(data_path("profiles", "aliases.yaml")).section(group)
    return {name: section.text(name) for name in section.names()}


def _names(folder: str) -> tuple[str, ...]:
    return tuple(sorted(path.stem for path in data_path("profiles", folder).glob("*.yaml")))


def _find(folder: str, kind: str, name: str) -> Path:
    if "/" in name or Path(name).suffix in {".yaml", ".yml", ".json"}:
        path = Path(name)
        if path.is_dir() and folder == "models":
            path = path / "config.json"
        if not path.is_file():
            raise DataError(f"{path}: no such file (asked for as a {kind} profile)")
        return path
    known = _names(folder)
    if name not in known:
        raise DataError(unknown_name(kind, name, known))
    return data_path("profiles", folder, f"{name}.yaml")
