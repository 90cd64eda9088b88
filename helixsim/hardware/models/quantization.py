"""Number formats that a checkpoint states, module by module.

``quantization_config`` of ``config.json`` and ``hf_quant_config.json``, which NVIDIA's ModelOpt writes beside it, name
a format and the modules that are left in 16 bits or have formats of their own. Patterns of several kinds name modules:
exact names of modules or of what they lie in, ``*`` for anything, ``re:`` regular expressions, and single words such as
``gate`` for a module of any layer.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from helixsim.domain.layers import FP16, NumberFormat
from helixsim.hardware.formats import WEIGHTS

_FP8, _INT8 = WEIGHTS["fp8"], WEIGHTS["int8"]
_BLOCKED_FP8 = replace(_FP8, is_blocked=True)
_MXFP4, _NVFP4 = WEIGHTS["mxfp4"], WEIGHTS["nvfp4"]
_MXFP8 = replace(_FP8, bits=8.25)  # an 8-bit scale for each 32 weights

_METHODS: Mapping[str, NumberFormat] = {
    "fp8": _FP8,
    "fbgemm_fp8": _FP8,
    "int8": _INT8,
    "w8a8_int8": _INT8,
    "bitsandbytes_8bit": _INT8,
    "bitsandbytes_4bit": WEIGHTS["int4"],
    "mxfp4": _MXFP4,
}
"""``quant_method`` of one format."""

_GROUPED = ("awq", "gptq", "auto-round", "autoround", "gptq_marlin", "awq_marlin")
"""``quant_method`` of weights alone, with ``bits`` and ``group_size``."""

_MODELOPT: Mapping[str, NumberFormat] = {
    "FP8": _FP8,
    "FP8_PB_REAL_QUANT": _BLOCKED_FP8,
    "FP8_PB_WO": replace(_FP8, multiply="fp16"),
    "FP8_PER_CHANNEL_PER_TOKEN": _FP8,
    "MXFP8": _MXFP8,
    "MXFP4": replace(_MXFP4, multiply="fp4"),
    "NVFP4": _NVFP4,
    "NVFP4_AWQ": _NVFP4,
    "W4A16_AWQ": WEIGHTS["int4"],
    "W4A16_NVFP4": replace(_NVFP4, multiply="fp16"),
    "W4A8_AWQ": replace(WEIGHTS["int4"], multiply="fp8"),
    "W4A8_MXFP4_FP8": replace(_MXFP4, multiply="fp8"),
    "W4A8_NVFP4_FP8": replace(_NVFP4, multiply="fp8"),
    "W8A8_SQ_PER_CHANNEL": _INT8,
}
"""``quant_algo`` of NVIDIA's ModelOpt (its documentation, and ``QuantAlgo`` of TensorRT-LLM)."""

_KV: Mapping[str, str] = {"FP8": "fp8", "NVFP4": "fp4", "INT8": "int8", "FP8_E4M3": "fp8", "FP8_E5M2": "fp8"}
_LINEAR = ("Linear", "FusedMoE", "MoEGMM")
"""Targets of a group that mean all matrices."""

_TEXT_MODEL = re.compile(r"^(?:(?:model|language_model|text_model|backbone|transformer)\.)+(?=layers\.)")
"""What stands before the layers of a text model; others, as ``mtp.layers.0``, belong to drafts and towers."""


class _UnknownFormatError(Exception):
    """The weights are in a format that is not known."""


class Modules:
    """A set of modules, given by patterns."""

    def __init__(self, patterns: Iterable[str]) -> None:
        self._exact: set[str] = set()
        self._words: set[str] = set()
        expressions: list[str] = []
        for pattern in patterns:
            name = _TEXT_MODEL.sub("", pattern)
            if pattern.startswith("re:"):
                expressions.append(f"(?:model\\.)?(?:{pattern[3:]})")
            elif "*" in name:
                expressions.append(re.escape(name).replace(r"\*", ".*") + r"(?:\..*)?$")
            elif "." in name:
                self._exact.add(name)
            else:
                self._words.add(name)
        try:
            self._expressions = re.compile("|".join(f"(?:{one})" for one in expressions)) if expressions else None
        except re.error as error:
            raise _UnknownFormatError(f"a pattern of modules that is no regular expression ({error})") from error

    def __contains__(self, module: object) -> bool:
        name = str(module)
        words = name.split(".")
        if self._words.intersection(words):
            return True
        if any(".".join(words[:depth]) in self._exact for depth in range(len(words), 1, -1)):
            return True
        if self._expressions is None:
            return False
        return bool(self._expressions.match(name) or self._expressions.match(f"model.{name}"))


@dataclass(frozen=True, slots=True)
class Quantization:
    """What a checkpoint states of its formats.

    Parameters
    ----------
    weights
        Format of the modules that no rule names; None: 16 bits, or not stated.
    excluded
        Modules left in 16 bits.
    rules
        Modules with formats of their own.
    kv
        Format of the KV cache; None: not stated.
    fault, kv_fault
        Why the stated format of weights, or of the KV cache, is not understood; empty: it is.
    """

    weights: NumberFormat | None = None
    excluded: Modules | None = None
    rules: tuple[tuple[Modules, NumberFormat], ...] = ()
    kv: str | None = None
    fault: str = ""
    kv_fault: str = ""

    @property
    def is_stated(self) -> bool:
        """Whether the checkpoint states a format of weights."""
        return self.weights is not None or bool(self.rules)

    def format_of(self, module: str) -> NumberFormat:
        """Return the format of a module's weights."""
        if self.excluded is not None and module in self.excluded:
            return FP16
        for modules, stored in self.rules:
            if module in modules:
                return stored
        return self.weights or FP16


NOT_STATED = Quantization()


def quantization_of(config: Mapping[str, Any], beside: Mapping[str, Any] | None) -> Quantization:
    """Return the number formats that a checkpoint states.

    Parameters
    ----------
    config
        ``config.json``; ``quantization_config`` (or ``compression_config``) is read, its own or of its text model.
    beside
        ``hf_quant_config.json``; what it says goes first.
    """
    text = config.get("text_config")
    places = (config, text if isinstance(text, Mapping) else {})
    keys = ("quantization_config", "compression_config")
    inside = next((place[key] for place in places for key in keys if isinstance(place.get(key), Mapping)), None)
    stated = beside.get("quantization") if isinstance(beside, Mapping) else None
    if not isinstance(stated, Mapping):
        stated = inside
    if stated is None:
        return NOT_STATED
    kv, kv_fault = _kv_of(stated)
    try:
        found = _weights_of(stated, inside or {}, config)
    except _UnknownFormatError as error:
        found = Quantization(fault=str(error))
    return replace(found, kv=kv, kv_fault=kv_fault)


def _weights_of(stated: Mapping[str, Any], inside: Mapping[str, Any], config: Mapping[str, Any]) -> Quantization:
    method = str(stated.get("quant_method", "")).lower()
    algorithm = str(stated.get("quant_algo") or "").upper()
    excluded = Modules(_patterns(stated, "exclude_modules", "ignore", "modules_to_not_convert", "ignored_layers"))
    layers = stated.get("quantized_layers")
    if algorithm == "MIXED_PRECISION" and isinstance(layers, Mapping):
        # DeepSeek-V4 in NVFP4: what is not listed stays as the original checkpoint has it
        rest = _FP8 if str(inside.get("quant_method", "")).lower() == "fp8" else None
        if rest is not None:
            excluded = Modules(())
        return Quantization(rest, excluded, _listed(layers))
    if algorithm and algorithm != "NONE":
        if algorithm not in _MODELOPT:
            raise _UnknownFormatError(f"quant_algo {algorithm}")
        return Quantization(_MODELOPT[algorithm], excluded)
    if method in ("", "modelopt") and not stated.get("config_groups"):
        return NOT_STATED
    if method in ("", "modelopt", "compressed-tensors"):
        return _groups(stated, excluded)
    if method == "bitsandbytes":
        method += "_4bit" if stated.get("load_in_4bit") or stated.get("_load_in_4bit") else "_8bit"
    if method in _METHODS:
        found = Quantization(_METHODS[method], excluded)
        if method == "fp8" and stated.get("weight_block_size"):
            found = replace(found, weights=_BLOCKED_FP8)
        if (
            method == "fp8" and str(config.get("expert_dtype")) == "fp4"
        ):  # DeepSeek-V4: experts alone, multiplied in FP8
            experts = Modules(["layers.*.ffn.experts"])
            return replace(found, rules=((experts, replace(_MXFP4, multiply="fp8")),))
        return found
    if method in _GROUPED:
        return Quantization(_grouped(method, stated), excluded)
    raise _UnknownFormatError(f"quant_method {method}")


def _grouped(method: str, stated: Mapping[str, Any]) -> NumberFormat:
    bits = stated.get("bits", stated.get("w_bit", 4))
    if bits not in (4, 8):
        raise _UnknownFormatError(f"quant_method {method} with {bits} bits")
    return _integers(bits, stated.get("group_size", stated.get("q_group_size", 128)))


def _integers(bits: int, group: Any) -> NumberFormat:
    """Return whole numbers that are multiplied in 16 bits, with a 16-bit scale for each ``group`` of them."""
    share = 16.0 / group if isinstance(group, int) and not isinstance(group, bool) and group > 0 else 0.0
    return NumberFormat(f"int{bits}", bits + share)


def _groups(stated: Mapping[str, Any], excluded: Modules) -> Quantization:
    """Read ``config_groups`` of compressed-tensors: formats and the modules they apply to."""
    groups = stated.get("config_groups")
    entries = [one for one in groups.values() if isinstance(one, Mapping)] if isinstance(groups, Mapping) else []
    rest: NumberFormat | None = None
    rules: list[tuple[Modules, NumberFormat]] = []
    for group in entries:
        stored = _group_format(group)
        targets = _patterns(group, "targets") or _LINEAR
        named = [target for target in targets if target not in _LINEAR]
        if len(named) < len(targets):
            if rest is not None and rest != stored:
                raise _UnknownFormatError("several formats for all modules")
            rest = stored
        if named:
            rules.append((Modules(named), stored))
    return Quantization(rest, excluded, tuple(rules))


def _group_format(group: Mapping[str, Any]) -> NumberFormat:
    weights = group.get("weights")
    weights = weights if isinstance(weights, Mapping) else {}
    is_multiplied = isinstance(group.get("input_activations"), Mapping) or "input_activations" not in group
    bits, kind, size = str(weights.get("num_bits")), str(weights.get("type")), weights.get("group_size")
    if (bits, kind) == ("4", "int"):
        return _integers(4, size)
    fp8 = _BLOCKED_FP8 if weights.get("strategy") == "block" else _MXFP8 if size == 32 else _FP8
    known = {("8", "float"): fp8, ("8", "int"): _INT8}
    if size in (16, 32):
        known["4", "float"] = _NVFP4 if size == 16 else replace(_MXFP4, multiply="fp4")
    stored = known.get((bits, kind))
    if stored is None:
        raise _UnknownFormatError(f"weights of {bits} bits, type {kind}" + (f" in groups of {size}" if size else ""))
    return stored if is_multiplied else replace(stored, multiply="fp16")


def _listed(layers: Mapping[str, Any]) -> tuple[tuple[Modules, NumberFormat], ...]:
    """Return the modules of each format out of ``quantized_layers``."""
    named: dict[str, list[str]] = {}
    for module, entry in layers.items():
        algorithm = str(entry.get("quant_algo") if isinstance(entry, Mapping) else entry).upper()
        named.setdefault(algorithm, []).append(module)
    for algorithm in named:
        if algorithm not in _MODELOPT:
            raise _UnknownFormatError(f"quant_algo {algorithm}")
    return tuple((Modules(modules), _MODELOPT[algorithm]) for algorithm, modules in named.items())


def _patterns(stated: Mapping[str, Any], *keys: str) -> Sequence[str]:
    found: list[Any] = next((stated[key] for key in keys if isinstance(stated.get(key), list)), [])
    return [str(pattern) for pattern in found]


def _kv_of(stated: Mapping[str, Any]) -> tuple[str | None, str]:
    """Return the format of the KV cache, and why it is not understood."""
    cache = stated.get("kv_cache_quant_algo") or stated.get("kv_cache_scheme")
    if not cache or str(cache).upper() == "NONE":
        return None, ""
    if isinstance(cache, Mapping):
        known = {("8", "float"): "fp8", ("8", "int"): "int8", ("4", "float"): "fp4"}
        scheme = known.get((str(cache.get("num_bits")), str(cache.get("type"))))
        return scheme, "" if scheme else f"a KV cache of {cache.get('num_bits')} bits, type {cache.get('type')}"
    found = _KV.get(str(cache).upper())
    return found, "" if found else f"a KV cache in {cache}"
