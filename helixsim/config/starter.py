"""A first exp.yaml for a fleet: what ``helixsim init`` writes, with its assumptions as comments."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from helixsim import units
from helixsim.domain.hardware import GpuSpec
from helixsim.domain.model import ModelSpec
from helixsim.errors import ConfigError, DataError, HelixsimError, did_you_mean, shortened
from helixsim.hardware import catalog
from helixsim.hardware.mig import ALONE, is_instance

SERVER = 8
"""Most GPUs of a node."""

OBJECTIVES = ("ttft", "tpot", "e2el")

_FAST_LINKS_BYTES_PER_S = 100e9
"""Links among GPUs from which those of a server are taken as one node: NVLink, NVSwitch, Infinity Fabric."""

_WEIGHTS_SHARE = 0.75
"""Largest share of the memory of a node for weights; the rest is for KV cache and activations."""

_MOST_PROMPT_TOKENS, _MOST_OUTPUT_TOKENS = 8192, 1024
_ROOM_FOR_OUTPUT = 4096

_GPUS = re.compile(r"(?:(?P<first>[0-9]{1,6})[x*])?(?:(?P<second>[0-9]{1,6})[x*])?(?P<name>[^,\s]+)", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Offer:
    """GPUs of one kind; ``per_node`` None: to be chosen."""

    gpu: str
    count: int
    per_node: int | None


def parse_gpus(text: str) -> list[Offer]:
    """Return the GPUs of a fleet: ``8xh100,4xl40s``, or with GPUs per node ``2x8xh100``.

    Raises
    ------
    ConfigError
        If the text is not of this form, or names an unknown GPU.
    """
    offers = []
    for part in filter(None, (part.strip() for part in text.split(","))):
        match = _GPUS.fullmatch(part)
        if match is None:
            raise ConfigError(f"--gpus: got {shortened(part)!r}, expected COUNTxGPU or NODESxGPUSxGPU, as in 8xh100")
        first, second = (None if match[key] is None else int(match[key]) for key in ("first", "second"))
        if first == 0 or second == 0:
            raise ConfigError(f"--gpus: got {shortened(part)!r}, expected a count of 1 or more")
        name = catalog.gpu_name(match["name"])
        try:
            catalog.load_gpu(name)
        except HelixsimError as error:
            raise ConfigError(f"--gpus: {error}") from None
        count = 1 if first is None else first
        if second is not None and second > 1 and is_instance(name):
            raise ConfigError(f"--gpus: got {shortened(part)!r}: {ALONE}, expected COUNTx{name}")
        offers.append(Offer(name, count, None) if second is None else Offer(name, count * second, second))
    if not offers:
        raise ConfigError("--gpus: got no GPU, expected for example 8xh100,4xl40s")
    return offers


def parse_slo(text: str) -> dict[str, str]:
    """Return the objectives of ``ttft=1s,tpot=50ms``.

    Raises
    ------
    ConfigError
        For an unknown objective, one that is named twice, or a value without unit.
    """
    found: dict[str, str] = {}
    for part in filter(None, (part.strip() for part in text.split(","))):
        name, _, value = (piece.strip() for piece in part.partition("="))
        if name not in OBJECTIVES:
            hint = did_you_mean(name, OBJECTIVES)
            raise ConfigError(f"--slo: unknown objective {shortened(name)!r}{hint} (known: {', '.join(OBJECTIVES)})")
        if name in found:
            raise ConfigError(f"--slo: {name} occurs twice")
        try:
            if units.parse(value, "time") <= 0:
                raise ConfigError(f"--slo: {name}: got {value!r}, expected more than 0")
        except ValueError as error:
            raise ConfigError(f"--slo: {name}: {error}") from None
        found[name] = value
    return found


def starter(
    name: str, model: str, offers: Sequence[Offer], slo: Mapping[str, str], folder: Path,
    rate: str | None = None, trace: Path | None = None,
) -> str:  # fmt: skip
    """Return the text of an exp.yaml.

    Parameters
    ----------
    model
        Name of a model, its Hugging Face id, or a path from the working directory.
    folder
        Folder of the file that will be written: paths in it refer to this folder.
    rate
        Arrival rate with its unit, ``2 /s``; None: 1/s, or that of the trace.
    trace
        File with requests, from the working directory; None: conversations.

    Raises
    ------
    ConfigError, DataError
        If the model is unknown or cannot be read.
    """
    path = Path(model)
    if path.exists():
        spec = catalog.load_model(path / "config.json" if path.is_dir() else path)
        model = _relative(path, folder)
    elif "/" in model and model not in catalog.hugging_face_ids():
        unknown = catalog.unknown_hugging_face_id(model)
        raise ConfigError(f"--model: no such file: {shortened(model)}{unknown and f', and {unknown}'}")
    else:
        try:
            spec = catalog.load_model(model)
        except DataError as error:
            raise ConfigError(f"--model: {error}") from None
    lines = [
        "# Written by helixsim init. Every value can be changed; helixsim inspect schema --markdown explains the keys.",
        "#   helixsim validate FILE     # checks it, and estimates the time of a run",
        "#   helixsim run FILE          # compares the systems below",
        "#   helixsim capacity FILE     # the highest rate within the slo",
        "schema: 1",
        f"name: {name}",
        f"model: {_quoted(model)}",
        "cluster:",
        "  coordinator: {region: here}    # where requests arrive",
        "  nodes:",
        "    # A node is one instance of the serving engine: its GPUs work in tensor parallel. Assumed: with NVLink a",
        f"    # server of {SERVER} GPUs is a node; of other GPUs a node has as few as hold the whole model.",
        "    # Four instances of two GPUs instead of one of eight: {gpu: h100, gpus: 2, count: 4, region: here}",
        *(line for offer in offers for line in _nodes(offer, spec)),
        "  network:                       # assumed; helixsim profile list links has others",
        "    intra_region: ethernet-25g",
        "    inter_region: wan-1g         # used if nodes are given other regions",
        "workload:",
        *_workload(spec, rate, None if trace is None else _relative(trace, folder)),
        "engine: vllm-1                   # vLLM V1 and its defaults by GPU",
        "systems:                         # ways to use the same nodes, under the same requests",
        "  - {name: helix, placement: helix}                                     # planned; selects its routing, too",
        "  - {name: replicas, placement: replicas, routing: least_loaded}        # nodes that hold the whole model",
        "  - {name: separate, placement: separate, routing: least_loaded}        # a pipeline per kind of node",
        "baseline: separate",
        *([f"slo: {{{', '.join(f'{key}: {value}' for key, value in slo.items())}}}"] if slo else _NO_SLO),
    ]
    return "\n".join(lines) + "\n"


_NO_SLO = ("# slo: {ttft: 1 s, tpot: 50 ms}   # of 99 % of the requests; systems are then ranked by goodput",)


def _workload(model: ModelSpec, rate: str | None, trace: str | None) -> list[str]:
    """Return the entries of ``workload``: generated conversations, or the requests of a file."""
    if trace is not None:
        room = min(_ROOM_FOR_OUTPUT, model.max_context_tokens // 2)
        return [
            f"  trace: {{path: {_quoted(trace)}}}       # helixsim trace info shows what is read from it",
            f"  arrivals: {{process: trace{f', rate: {rate}' if rate else ''}}}    # rate: rescales the recorded times",
            f"  limits: {{max_prompt_tokens: {model.max_context_tokens - room}}}   # longer ones are left out",
        ]
    most_prompt = max(1, min(_MOST_PROMPT_TOKENS, model.max_context_tokens - _MOST_OUTPUT_TOKENS))
    return [
        "  # Lengths of the Azure trace of conversations; your own log: helixsim init --trace",
        "  lengths: azure-conversation",
        f"  limits: {{max_prompt_tokens: {most_prompt}, max_output_tokens: {_MOST_OUTPUT_TOKENS}}}",
        f"  arrivals: {{process: poisson, rate: {rate or '1 /s'}}}",
        "  warmup: 60 s",
        "  duration: 5 min",
    ]


def _relative(path: Path, folder: Path) -> str:
    """Return a path as seen from a folder, with a separator, so that it is not taken for a name."""
    relative = os.path.relpath(path.resolve(), folder.resolve())
    return relative if os.sep in relative else f".{os.sep}{relative}"


def _nodes(offer: Offer, model: ModelSpec) -> list[str]:
    """Return the entries of ``nodes`` for GPUs of one kind: nodes of the largest size, then of half of it."""
    size = offer.per_node or _gpus_per_node(catalog.load_gpu(offer.gpu), model)
    lines, left = [], offer.count
    while left:
        gpus = size
        while offer.per_node is None and (gpus > left or model.num_attention_heads % gpus):
            gpus //= 2
        count, left = left // gpus, left % gpus
        parts = [f"gpu: {_quoted(offer.gpu)}"]
        parts += [f"gpus: {gpus}"] if gpus > 1 else []
        parts += [f"count: {count}"] if count > 1 else []
        lines.append(f"    - {{{', '.join([*parts, 'region: here'])}}}")
    return lines


def _gpus_per_node(gpu: GpuSpec, model: ModelSpec) -> int:
    """Return how many GPUs a node has: a server if they have fast links, else the fewest that hold the whole model."""
    if is_instance(gpu.name):
        return 1
    if gpu.interconnect_bytes_per_s >= _FAST_LINKS_BYTES_PER_S:
        return SERVER
    weights_bytes = model.weight_bytes_per_layer * model.num_layers + model.embedding_bytes
    size = 1
    while weights_bytes > _WEIGHTS_SHARE * size * gpu.usable_memory_bytes:
        size *= 2
        if size > SERVER:
            return 1
    return size


def _quoted(text: str) -> str:
    """Return text as a YAML scalar, quoted where it could mean anything else."""
    return text if re.fullmatch(r"[A-Za-z][\w./-]*", text) else json.dumps(text, ensure_ascii=False)
