"""A model from its file: a ``config.json`` with what lies beside it, or a profile with the same keys."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from helixsim import jsonio, validation
from helixsim.domain.model import ModelSpec
from helixsim.errors import DataError, unknown_name
from helixsim.hardware.formats import KV_BITS, WEIGHTS
from helixsim.hardware.models.config import Config
from helixsim.hardware.models.families import NESTED, family_of, strange_type
from helixsim.hardware.models.family import Family
from helixsim.hardware.models.parts import FormatOf, Layers
from helixsim.hardware.models.quantization import NOT_STATED, Quantization, quantization_of

QUANTIZATION_FILE = "hf_quant_config.json"
"""What NVIDIA's ModelOpt writes beside ``config.json``."""

_PROFILE_KEYS = ("name", "model_type", "source", "quantization_config")
_TOWERS = {"vision_config": "vision", "audio_config": "audio"}
_EXPERT_KEYS = (
    "num_local_experts",
    "num_experts",
    "n_routed_experts",
    "num_experts_per_tok",
    "moe_intermediate_size",
)
_LATENT_KEYS = ("kv_lora_rank", "q_lora_rank")
_DRAFTS = ("num_nextn_predict_layers", "num_mtp_modules", "num_mtp_layers", "mtp_num_hidden_layers")


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A model as its file describes it."""

    name: str
    model_type: str
    family: Family
    config: Config
    quantization: Quantization
    source: str
    notes: tuple[str, ...] = ()

    def layers(self, format_of: FormatOf | None = None) -> Layers:
        """Return the layers in the formats of the checkpoint, or those that ``format_of`` returns."""
        return self.family.layers(self.config, format_of or self.quantization.format_of)


def read_yaml(path: Path) -> Checkpoint:
    """Return the model in a profile; keys that its type does not have are refused.

    Raises
    ------
    DataError
        With file, line and column.
    """
    document = validation.load(path)
    data = document.data
    if not isinstance(data, dict):
        raise DataError(f"{document.where(())}: must be a mapping")
    for key in ("name", "source", "model_type"):
        if not isinstance(data.get(key), str) or not data[key]:
            raise DataError(f"{document.where((key,))}: {key}: must be text, got {jsonio.shown(data.get(key))}")
    model_type = data["model_type"]
    family = family_of(model_type)
    if family is None:
        said = strange_type(model_type) or f"{model_type} has its text model in text_config; give the type of that"
        raise DataError(f"{document.where(('model_type',))}: model_type: {said}")
    config = Config(str(path), data, family.defaults, lambda key: document.key_where((key,)))
    found = _checked(data["name"], model_type, family, config, quantization_of(data, None), data["source"])
    config.refuse_unread(_PROFILE_KEYS)
    return found


def read_json(path: Path) -> Checkpoint:
    """Return the model in a Hugging Face ``config.json``; keys that do not matter here are passed over.

    Raises
    ------
    DataError
        If it is no JSON object, its ``model_type`` is not understood, or keys are missing or make no sense.
    """
    outer = _object(path)
    where, model_type, data = str(path), str(outer.get("model_type")), outer
    if said := strange_type(model_type):
        raise DataError(f"{path}: {said}")
    notes = []
    if model_type in NESTED:
        text = outer.get("text_config")
        if not isinstance(text, Mapping):
            raise DataError(f"{path}: a {model_type} model needs text_config, got {jsonio.shown(text)}")
        model_type = str(text.get("model_type") or NESTED[model_type])
        if family_of(model_type) is None:
            raise DataError(f"{path}: text_config: {strange_type(model_type) or f'nested {model_type}'}")
        shared: dict[str, Any] = {key: outer[key] for key in ("tie_word_embeddings", "expert_dtype") if key in outer}
        data = {**shared, **text}
    family = family_of(model_type)
    if family is None:
        raise DataError(f"{path}: a {model_type} model needs text_config")
    towers = [tower for key, tower in _TOWERS.items() if outer.get(key)]
    if towers or outer is not data:
        which = f"{' and '.join(towers)} towers are" if towers else "what else the checkpoint holds is"
        notes.append(f"the text model alone is counted: {which} left out")
    beside = path.with_name(QUANTIZATION_FILE)
    stated = quantization_of(outer, _object(beside) if beside.is_file() else None)
    config = Config(where, data, family.defaults)
    source = f"config.json, model_type {model_type}"
    return _checked(where, model_type, family, config, stated, source, notes)


def files_of(name: str, path: Path) -> list[tuple[str, Path]]:
    """Return (name in hashes, path) of every file that decides the model at ``path``, called ``name``."""
    beside = path.with_name(QUANTIZATION_FILE)
    also = [(f"{name}: {QUANTIZATION_FILE}", beside)] if path.suffix == ".json" and beside.is_file() else []
    return [(name, path), *also]


def model_spec(name: str, checkpoint: Checkpoint, precision: str | None, kv_precision: str | None) -> ModelSpec:
    """Return a model in the given number formats; None: what its checkpoint states, else 16 bits.

    A layer's memory counts each weight tensor as serving engines load it (Q, K and V in one; gate and up in one; all
    experts of a kind in one), rounded up to the allocator's step. Norms and biases are below 0.01 % and left out.

    Raises
    ------
    DataError
        For a number format that is not understood.
    """
    stated = checkpoint.quantization
    _check_formats(name, checkpoint, precision, kv_precision)
    notes = list(checkpoint.notes)
    made = checkpoint.layers()
    main, others = _formats_of(made)
    if stated.is_stated and precision in (None, main):
        kept = f"; in {', '.join(others)}" if others else ""
        notes.append(f"weights in {main}, as its checkpoint states{kept}")
    elif precision is not None:
        if stated.is_stated:
            notes.append(f"weights in {precision} as asked for, although its checkpoint states {main}")
        uniform = WEIGHTS[precision]
        made, main = checkpoint.layers(lambda _module: uniform), precision
    if kv_precision is None and stated.kv is not None:
        notes.append(f"KV cache in {stated.kv}, as its checkpoint states")
    kv_format = kv_precision or stated.kv or "fp16"
    config = checkpoint.config
    per_token = max((layer.experts.per_token for layer in made.layers if layer.experts), default=1)
    return ModelSpec(
        name=name,
        layers=made.layers,
        hidden_size=config.whole("hidden_size"),
        intermediate_size=max(-(-made.width // per_token), 1),
        vocab_size=config.whole("vocab_size"),
        is_tied=config.flag("tie_word_embeddings", default=checkpoint.family.is_tied),
        precision=main,
        kv_precision=kv_format,
        kv_bits=KV_BITS[kv_format],
        max_context_tokens=_context(config, checkpoint.model_type),
        source=checkpoint.source,
        notes=tuple(f"{name}: {note}" for note in notes),
    )


def _checked(
    name: str,
    model_type: str,
    family: Family,
    config: Config,
    quantization: Quantization,
    source: str,
    notes: Sequence[str] = (),
) -> Checkpoint:
    """Return a checkpoint whose keys have all been read once."""
    family.require(config, model_type)
    family.layers(config, NOT_STATED.format_of)
    _refuse_other_layers(config, model_type)
    config.flag("tie_word_embeddings")
    _context(config, model_type)
    drafts = next((config.value(key) for key in _DRAFTS if config.value(key)), 0)
    said = (*notes, *family.notes)
    if drafts:
        said += (f"layers that draft further tokens ({drafts}) are left out",)
    return Checkpoint(name, model_type, family, config, quantization, source, said)


def _refuse_other_layers(config: Config, model_type: str) -> None:
    """Refuse keys of layers that nothing has read: without them a model would be far too small."""
    for keys, what in ((_EXPERT_KEYS, "experts"), (_LATENT_KEYS, "compressed attention (MLA)")):
        strange = [key for key in keys if config.data.get(key) and key not in config.asked]
        if strange:
            raise DataError(
                f"{config.where}: {strange[0]}: a model with {what} is no {model_type!r}; "
                "give the model_type that it has"
            )


def _check_formats(name: str, checkpoint: Checkpoint, precision: str | None, kv_precision: str | None) -> None:
    """Require formats that are known, and that the checkpoint states one or the user gives one in its place."""
    for what, got, allowed in (("precision", precision, WEIGHTS), ("kv_precision", kv_precision, KV_BITS)):
        if got is not None and got not in allowed:
            raise DataError(f"model {name}: {unknown_name(what, got, allowed)}")
    stated = checkpoint.quantization
    if stated.fault and precision is None:
        raise DataError(
            f"{name}: the checkpoint is quantized with {stated.fault}, which helixsim does not know; give the closest "
            f"format, for example precision: int4 (known: {', '.join(WEIGHTS)})"
        )
    if stated.kv_fault and kv_precision is None:
        raise DataError(
            f"{name}: the checkpoint states {stated.kv_fault}, which helixsim does not know; give the closest format, "
            f"for example kv_precision: fp8 (known: {', '.join(KV_BITS)})"
        )


def _formats_of(made: Layers) -> tuple[str, list[str]]:
    """Return the format of most weights, and for each other one the kinds of matrices that are kept in it."""
    weights: Counter[str] = Counter()
    kinds: dict[str, dict[str, None]] = {}
    for layer, count in Counter(made.layers).items():
        experts = layer.experts
        routed = [(matrix, experts.count) for matrix in experts.matrices] if experts else []
        for matrix, copies in [*((matrix, 1) for matrix in layer.matrices), *routed]:
            weights[matrix.format.name] += count * copies * matrix.parameters
            label = f"experts' {matrix.name}" if copies > 1 else matrix.name
            kinds.setdefault(matrix.format.name, {}).setdefault(label.replace("_", " "))
    main = weights.most_common(1)[0][0]
    return main, [f"{name}: {', '.join(kinds[name])}" for name in kinds if name != main]


def _object(path: Path) -> dict[str, Any]:
    """Return the object in a JSON file."""
    found = jsonio.load(path)
    if not isinstance(found, dict):
        raise DataError(f"{path}: expected a JSON object, got {type(found).__name__}")
    return found


def _context(config: Config, model_type: str) -> int:
    """Return the longest context [tokens], as vLLM derives max_model_len.

    YaRN multiplies the original length, linear and dynamic scaling the stated one (not for Gemma 3, whose figure is the
    scaled one); the others change no length.
    """
    positions = config.whole("max_position_embeddings", "model_max_length")
    scaling = config.value("rope_scaling")
    config.value("rope_parameters")
    if scaling is None:
        scaling = config.value("rope_parameters")
    if not isinstance(scaling, Mapping):
        return positions
    kind = scaling.get("rope_type", scaling.get("type"))
    if kind not in ("yarn", "deepseek_yarn", "linear", "dynamic") or model_type.startswith("gemma"):
        return positions
    factor, original = scaling.get("factor", 1.0), scaling.get("original_max_position_embeddings", positions)
    if not isinstance(factor, int | float) or not 1 <= factor <= 1e6 or not isinstance(original, int) or original < 1:
        raise config.fault(("rope_scaling",), "expected a factor of at least 1 and a whole original length")
    if kind in ("linear", "dynamic"):
        return round(factor * positions)
    return max(positions, round(factor * original))
