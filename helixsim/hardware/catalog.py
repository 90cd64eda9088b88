"""Finds and loads what ``profiles/`` knows: GPUs, links, models, and the names used for them elsewhere.

Every loader takes the name of a profile or the path of the user's own file (recognised by a folder or a suffix).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Annotated, Any

from helixsim.datafiles import data_path
from helixsim.domain.cluster import LinkSpec
from helixsim.domain.hardware import GpuSpec
from helixsim.domain.model import ModelSpec
from helixsim.errors import DataError, letters, shortened, unknown_name
from helixsim.hardware.gpu_file import GpuFile, KernelsFile
from helixsim.hardware.mig import split_instance
from helixsim.hardware.models import load as models
from helixsim.units import seconds_to_ns
from helixsim.validation import Section, Words, base_unit, load, read


class LinkFile(Section):
    """``profiles/links/*.yaml``: bandwidth [bit/s] and latency [s]."""

    name: Words
    bandwidth: Annotated[float, base_unit("bandwidth")]
    latency: Annotated[float, base_unit("time")]
    source: Words


class AliasesFile(Section):
    """``profiles/aliases.yaml``: names of timing tables, drivers and Hugging Face -> names of profiles."""

    kinds: dict[str, Words]
    gpus: dict[str, Words]
    models: dict[str, Words]
    hugging_face: dict[str, Words]


_HUGGING_FACE_ID = re.compile(r"[\w-]+/[\w.-]+")


def gpu_names() -> tuple[str, ...]:
    """Return the names of the GPUs in ``profiles/gpus``."""
    return _names("gpus")


def gpu_name(name: str) -> str:
    """Return the profile that ``name`` stands for: one that differs in case and punctuation alone, or has that alias.

    A name that stands for none is returned as it is. Instances (``h100-3g.40gb``) are named after their GPU.
    """
    whole, profile = split_instance(name)
    found = whole if whole in gpu_names() else _gpu_names_by_letters().get(letters(whole))
    return name if found is None else found if profile is None else f"{found}-{profile}"


def is_gpu(name: str) -> bool:
    """Return whether ``name`` stands for a GPU of ``profiles/gpus``, or for an instance of one that can be divided."""
    whole, profile = split_instance(gpu_name(name))
    return whole in gpu_names() and (profile is None or profile in gpu_instances(whole))


def gpu_instances(name: str) -> tuple[str, ...]:
    """Return the MIG profiles of a GPU of ``profiles/gpus``; of any other, none."""
    mig = _gpu_file(name).mig if name in gpu_names() else None
    return () if mig is None else tuple(mig.profiles)


def unknown_gpu(name: str, advice: str = "") -> str:
    """Return the message for a name that stands for no GPU: with the instances that it may mean, or all GPUs."""
    whole, profile = split_instance(gpu_name(name))
    if profile is None:
        return unknown_name("GPU", name, gpu_names(), advice=advice)
    said = f"unknown GPU {shortened(name)!r}"
    if whole in gpu_names():
        known = ", ".join(f"{whole}-{one}" for one in gpu_instances(whole))
        said += f": {whole} has the MIG instances {known}" if known else f": no MIG instances of {whole} are known"
    else:
        meant = [gpu for gpu in gpu_names() if letters(gpu).startswith(letters(whole))]
        near = [f"{gpu}-{one}" for gpu in meant for one in gpu_instances(gpu) if one == profile]
        if not near:
            return unknown_name("GPU", name, gpu_names(), advice=advice)
        return f"{said}; did you mean {' or '.join(map(repr, near))}?"
    return f"{said}{advice and f'; {advice}'}"


def model_names() -> tuple[str, ...]:
    """Return the names of the models in ``profiles/models``."""
    return _names("models")


def hugging_face_ids() -> Mapping[str, str]:
    """Return the Hugging Face ids of the models in ``profiles/models``, with their names there."""
    return _aliases().hugging_face


def hugging_face_hint(name: str) -> str:
    """Return a suggestion of ids that differ from ``name`` in case, punctuation or owner alone, or an empty text."""
    ids = sorted(hugging_face_ids())
    meant = [one for one in ids if letters(one) == letters(name)]
    meant = meant or [one for one in ids if letters(one.rpartition("/")[2]) == letters(name.rpartition("/")[2])]
    meant = meant or [one for one in ids if letters(one).startswith(letters(name)) and not _is_cut_number(one, name)]
    return f"; did you mean {' or '.join(map(repr, meant))}?" if meant else ""


def _is_cut_number(name: str, start: str) -> bool:
    """Return whether a name goes on with a digit where the other one ends with a digit."""
    return start[-1:].isdigit() and letters(name)[len(letters(start)) :][:1].isdigit()


def unknown_hugging_face_id(name: str) -> str:
    """Return why ``name`` is no model where it looks like a Hugging Face id, with the known ones, or an empty text."""
    if not _HUGGING_FACE_ID.fullmatch(name) or name.endswith((".json", ".yaml", ".yml")):
        return ""
    ids = ", ".join(sorted(hugging_face_ids()))
    return f"no Hugging Face id that helixsim has the figures of{hugging_face_hint(name)} (known: {ids})"


def link_names() -> tuple[str, ...]:
    """Return the names of the link classes in ``profiles/links``."""
    return _names("links")


def load_gpu(name: str | Path) -> GpuSpec:
    """Return the GPU called ``name`` (see ``gpu_name``), or the one in the YAML file at that path.

    Raises
    ------
    DataError
        For an unknown name or a file that is not a GPU profile.
    """
    whole, profile = split_instance(gpu_name(str(name)))
    if profile is not None and whole not in gpu_names():
        raise DataError(unknown_gpu(str(name)))
    file = _gpu_file(whole)
    gpu = file.spec(_kernels(file.kernels))
    if profile is None:
        return gpu
    if file.mig is None or profile not in file.mig.profiles:
        raise DataError(unknown_gpu(str(name)))
    return file.mig.instance(gpu, profile)


def gpu_document(name: str | Path) -> dict[str, Any]:
    """Return the contents of a GPU's file, as they are written, with the constants of its kernels in it.

    Raises
    ------
    DataError
        As ``load_gpu``.
    """
    load_gpu(name)
    whole, profile = split_instance(gpu_name(str(name)))
    if profile is not None:
        raise DataError(f"{name}: a MIG instance has no file of its own (its GPU: {whole})")
    written: dict[str, Any] = load(_find("gpus", "GPU", whole)).data
    kernels = written.get("kernels", "h100")
    return written | {
        "kernels": load(_find("kernels", "kernels", kernels)).data if isinstance(kernels, str) else kernels
    }


def load_link(name: str | Path) -> LinkSpec:
    """Return the link class called ``name``, or the one in the YAML file at that path.

    Raises
    ------
    DataError
        For an unknown name or a file that is not a link profile.
    """
    file = read(_find("links", "link", str(name)), LinkFile)
    return LinkSpec(file.bandwidth, seconds_to_ns(file.latency))


def load_model(name_or_path: str | Path, precision: str | None = None, kv_precision: str | None = None) -> ModelSpec:
    """Return a model of ``profiles/models``, of a YAML file of the same form, or of a Hugging Face ``config.json``.

    Parameters
    ----------
    name_or_path
        A name, the Hugging Face id of a model that has one (a file or folder of that name goes first), or a path.
    precision
        Number format of the weights, one of ``formats.WEIGHTS``; None: what the checkpoint states, else fp16.
    kv_precision
        Number format of the KV cache, one of ``formats.KV_BITS``; None: what the checkpoint states, else 16-bit.

    Raises
    ------
    DataError
        For an unknown name, an architecture or number format that is not understood, missing or impossible figures.
    """
    path = _find("models", "model", str(name_or_path))
    is_json = path.suffix == ".json"
    checkpoint = models.read_json(path) if is_json else models.read_yaml(path)
    name = str(name_or_path) if is_json else checkpoint.name
    return models.model_spec(name, checkpoint, precision, kv_precision)


def split_kind(kind: str) -> tuple[str, int]:
    """Return (GPU name, GPUs) of a kind of node: ``l4x2`` is two ``l4``."""
    match = re.fullmatch(r"(.+)x([1-9]\d*)", kind)
    return (match.group(1), int(match.group(2))) if match else (kind, 1)


def kind_name(name: str) -> str:
    """Return the kind of node that a timing table calls ``name``."""
    return _aliases().kinds.get(name, name)


def model_name(name: str) -> str:
    """Return the model that a timing table calls ``name``."""
    return _aliases().models.get(name, name)


def _gpu_file(name: str) -> GpuFile:
    return read(_find("gpus", "GPU", name), GpuFile)


@cache
def _aliases() -> AliasesFile:
    return read(data_path("profiles", "aliases.yaml"), AliasesFile)


@cache
def _gpu_names_by_letters() -> dict[str, str]:
    return {letters(name): meant for name, meant in ({name: name for name in gpu_names()} | _aliases().gpus).items()}


def _kernels(written: str | KernelsFile) -> KernelsFile:
    return read(_find("kernels", "kernels", written), KernelsFile) if isinstance(written, str) else written


def _names(folder: str) -> tuple[str, ...]:
    return tuple(sorted(path.stem for path in data_path("profiles", folder).glob("*.yaml")))


def _find(folder: str, kind: str, name: str) -> Path:
    if folder == "models" and name in hugging_face_ids() and not Path(name).exists():
        name = hugging_face_ids()[name]
    if "/" in name or Path(name).suffix in {".yaml", ".yml", ".json"}:
        path = Path(name)
        if path.is_dir() and folder == "models":
            path = path / "config.json"
        if not path.is_file():
            hint = hugging_face_hint(name) if folder == "models" else ""
            raise DataError(f"{path}: no such file (asked for as a {kind} profile){hint}")
        return path
    known = _names(folder)
    if name not in known:
        raise DataError(unknown_name(kind, name, known))
    return data_path("profiles", folder, f"{name}.yaml")
