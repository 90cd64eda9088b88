"""Names in an experiment file, and the options of what they name.

They are looked up in the plain values, whether or not the rest of the file is sound, so that every fault of a file
can be reported at once.
"""

from __future__ import annotations

import dataclasses
import types
import typing
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Protocol

from pydantic import BaseModel, ConfigDict, Field, ValidationError, create_model

from helixsim.config.engine_schema import DEFAULT_ENGINE
from helixsim.config.schema import DEFAULT_BATCHING, DEFAULT_ROUTING
from helixsim.config.source import SHORTHANDS, Source, is_file, is_folder
from helixsim.domain.autoscaling import BUILT_IN
from helixsim.domain.placement import Role
from helixsim.errors import ConfigError, DataError, Problem, shortened, unknown_name
from helixsim.hardware import catalog, engines, formats
from helixsim.plugins import BOUNDS, UncheckedOptions
from helixsim.validation import problems_of
from helixsim.workload.arrivals import PROCESSES
from helixsim.workload.lengths import registry as lengths
from helixsim.workload.readers import registry as trace_formats
from helixsim.yamlio import KeyPath

_FILE_OF = {"model": "config.json, of the folder of a downloaded model, or of a YAML file"}
_KINDS_WITH_FILES = ("model", "GPU", "link", "engine")


PHASES: tuple[Role, ...] = ("prefill", "decode")
"""Keys of the legs of a system with roles."""


class Registry(Protocol):
    """Strategies or policies by name, such as the ``registry`` module of a package."""

    def names(self) -> tuple[str, ...]:
        """Return the registered names."""
        ...

    def get(self, name: str) -> type[Any]:
        """Return the class called ``name``; ``ConfigError`` if there is none."""
        ...


class OpenRegistry(Registry, Protocol):
    """A registry that also accepts import paths of user classes and functions, and names given to functions."""

    def path_of(self, name: str) -> str:
        """Return the import path of a function that was registered in this process; other names as they are."""
        ...

    def paths(self) -> dict[str, str]:
        """Return the names of such functions with their import paths."""
        ...

    def get(self, name: str, beside: Path | None = None, *, imports: bool = True) -> type[Any]:
        """Return the class called ``name`` or imported from ``package.module:Class`` (``plugins.Registry.get``)."""
        ...


@dataclasses.dataclass(frozen=True, slots=True)
class Registries:
    """Registries of placement strategies, and of routing, batching, autoscaling and spot policies.

    ``imports``: whether user classes may be imported, which executes their files; otherwise they are only located, and
    their options are not checked. ``own``: for each registry, the import paths of user functions by name.
    """

    placement: OpenRegistry
    routing: OpenRegistry
    batching: OpenRegistry
    autoscaling: OpenRegistry
    spot: OpenRegistry
    imports: bool = True
    own: Mapping[str, Mapping[str, str]] = dataclasses.field(default_factory=dict)

    def path_of(self, key: str, name: str) -> str:
        """Return the import path of a user function; other names unchanged. ``key``: as ``placement``."""
        registry: OpenRegistry = getattr(self, key)
        return self.own.get(key, {}).get(name) or registry.path_of(name)


@dataclasses.dataclass(frozen=True, slots=True)
class Choices:
    """The resolved names of an experiment.

    ``options`` has the ``Options`` instance of each choice by its path (``("systems", 0, "placement")``),
    ``documents`` the same as plain values with all defaults, ``files`` the files that options name, ``problems`` all
    invalid names and options.
    """

    options: dict[KeyPath, Any]
    documents: dict[KeyPath, Any]
    files: dict[KeyPath, Path]
    problems: list[Problem]


def look_up(source: Source, registries: Registries) -> Choices:
    """Look up every name in ``source`` and check its options."""
    choices = Choices({}, {}, {}, list(unknown_names(source)))
    _choose(source, ("workload", "lengths"), lengths.get, choices)
    for name in _names(source, ("workload", "classes")):
        _choose(source, ("workload", "classes", name, "lengths"), lengths.get, choices)
    batching = _batching_of_engine(source)
    for number in _entries(source, ("systems",)):
        for key, registry, default in (
            ("placement", registries.placement, None),
            ("routing", registries.routing, _routing_of(source, number)),
            ("batching", registries.batching, batching),
        ):
            get = partial(registry.get, beside=source.path.parent, imports=registries.imports)
            path_of = partial(registries.path_of, key)
            _choose(source, ("systems", number, key), get, choices, default, path_of)
            for phase in PHASES if key != "batching" else ():
                _choose(source, ("systems", number, "disaggregation", phase, key), get, choices, path_of=path_of)
        _choose_autoscaling(source, ("systems", number, "autoscaling"), registries, choices)
    return choices


def unknown_names(source: Source, part: KeyPath = ()) -> Iterator[Problem]:
    """Yield the names without options in a part of an experiment that stand for nothing known, and for no file."""
    for path, kind, known in _plain_names(source):
        name = _at(source.data, path)
        if path[: len(part)] != part or not isinstance(name, str):
            continue
        if catalog.is_gpu(name) if kind == "GPU" else name in known:
            continue
        file = source.file(path, name) if kind in _KINDS_WITH_FILES and names_file(kind, name, path, source) else None
        if file is None and kind == "model" and name in catalog.hugging_face_ids():
            continue
        if file is None:
            advice = f"your own: the path of a {_FILE_OF.get(kind, 'YAML file')}" if kind in _KINDS_WITH_FILES else ""
            is_gpu = kind == "GPU"
            said = catalog.unknown_gpu(name, advice) if is_gpu else unknown_name(kind, name, known, advice=advice)
            yield source.problem(path, said)
        elif kind == "model" and is_folder(file):
            if not is_file(file / "config.json"):
                yield source.problem(path, f"the folder {file} has no config.json")
        elif not is_file(file):
            message = f"no such file: {shortened(str(file))}"
            if kind == "model" and (unknown := catalog.unknown_hugging_face_id(name)):
                message += f", and {unknown}"
            yield source.problem(path, message)


def _choose_autoscaling(source: Source, path: KeyPath, registries: Registries, choices: Choices) -> None:
    """Look up the policy of spot machines, and an autoscaling policy of the user's own, with their options."""
    written = _at(source.data, path)
    name = written.get("policy") if isinstance(written, dict) else None
    if isinstance(name, str) and name not in BUILT_IN:
        _choose_with_options(source, path, "autoscaling", name, BUILT_IN, registries, choices)
    spot = _at(source.data, (*path, "spot"))
    name = spot.get("policy", "spot_hedge") if isinstance(spot, dict) else None
    if isinstance(name, str):
        _choose_with_options(source, (*path, "spot"), "spot", name, (), registries, choices)


def _choose_with_options(
    source: Source,
    path: KeyPath,
    key: str,
    name: str,
    built_in: Sequence[str],
    registries: Registries,
    choices: Choices,
) -> None:
    """Look up the policy ``policy`` of a section whose options are in ``options``."""
    registry: OpenRegistry = getattr(registries, key)
    known = (*built_in, *registry.names())
    try:
        if ":" not in name and name not in known:
            raise ConfigError(f"{unknown_name(f'{key} policy', name, known)}; your own: 'package.module:function'")
        name = registries.path_of(key, name)
        options = registry.get(name, source.path.parent, imports=registries.imports).Options
    except ConfigError as error:
        choices.problems.extend(source.problem((*path, "policy"), problem.message) for problem in error.problems)
        return
    given = _at(source.data, (*path, "options")) or {}
    choices.documents[(*path, "policy")] = name
    if options is UncheckedOptions:
        choices.options[(*path, "options")] = UncheckedOptions()
    elif isinstance(given, dict):
        _check_options(source, (*path, "options"), given, options, choices)


def _routing_of(source: Source, number: int | str) -> str:
    """Return the routing policy of a system that states none: ``helix`` selects it with the placement."""
    placement = _at(source.data, ("systems", number, "placement"))
    strategy = placement.get("strategy") if isinstance(placement, dict) else placement
    return "auto" if strategy == "helix" else DEFAULT_ROUTING


def _batching_of_engine(source: Source) -> str:
    """Return the batching policy of systems that state none; faults of the engine are found elsewhere."""
    engine = _at(source.data, ("engine",))
    name = _at(engine, ("name",)) if isinstance(engine, dict) else engine
    name = DEFAULT_ENGINE if name is None else name
    if not isinstance(name, str):
        return DEFAULT_BATCHING
    try:
        return engines.load_engine(source.file(("engine", "name"), name) if is_file_name(name) else name).batching
    except DataError:
        return DEFAULT_BATCHING


def is_file_name(name: str) -> bool:
    """Whether the name of a profile is the path of a user file."""
    return "/" in name or Path(name).suffix in {".yaml", ".yml", ".json"}


def names_file(kind: str, name: str, path: KeyPath, source: Source) -> bool:
    """Whether a name is a path: by its form, or as an unknown model that is a folder.

    The Hugging Face id of a model in the catalogue looks like a path; it is one only if there is such a file or folder.
    """
    if kind == "model" and name in catalog.hugging_face_ids():
        return is_folder(source.file(path, name)) or is_file(source.file(path, name))
    if is_file_name(name):
        return True
    return kind == "model" and name not in catalog.model_names() and is_folder(source.file(path, name))


def options_model(options: type[Any]) -> type[BaseModel]:
    """Return a strict pydantic model of an ``Options`` dataclass with its fields and bounds."""
    hints = typing.get_type_hints(options)
    fields: dict[str, Any] = {}
    for field in dataclasses.fields(options):
        if field.default_factory is not dataclasses.MISSING:
            default = Field(default_factory=field.default_factory)
        else:
            default = Field(... if field.default is dataclasses.MISSING else field.default)
        fields[field.name] = (_bounded(hints[field.name], field.metadata), default)
    config = ConfigDict(
        extra="forbid", strict=True, allow_inf_nan=False, arbitrary_types_allowed=True, protected_namespaces=()
    )
    return create_model(options.__name__, __config__=config, **fields)


def _bounded(hint: Any, metadata: Mapping[str, Any]) -> Any:
    """Return the type of an option with the bounds in the metadata of its field, such as ``{"ge": 1, "le": 64}``.

    Bounds of a mapping apply to its values, those of an optional value not to None.
    """
    bounds = {name: metadata[name] for name in BOUNDS if name in metadata}
    if not bounds:
        return hint
    inner = [one for one in typing.get_args(hint) if one is not type(None)]
    origin = typing.get_origin(hint)
    if origin in (typing.Union, types.UnionType):
        return Annotated[inner[0], Field(**bounds)] | None
    if origin in (dict, Mapping):
        key, value = typing.get_args(hint)
        return dict.__class_getitem__((key, _bounded(value, metadata)))
    return Annotated[hint, Field(**bounds)]


def _plain_names(source: Source) -> Iterator[tuple[KeyPath, str, Collection[str]]]:
    """Yield (path, kind, known names) of every name without options."""
    yield ("model",), "model", catalog.model_names()
    engine: KeyPath = ("engine",) if isinstance(_at(source.data, ("engine",)), str) else ("engine", "name")
    yield engine, "engine", engines.engine_names()
    yield ("precision",), "precision", formats.WEIGHTS
    yield ("kv_precision",), "precision", formats.KV_BITS
    yield ("workload", "trace", "format"), "trace format", trace_formats.names()
    yield ("workload", "arrivals", "process"), "arrival process", PROCESSES
    for name in _names(source, ("workload", "classes")):
        yield ("workload", "classes", name, "arrivals", "process"), "arrival process", PROCESSES
    for number in _entries(source, ("systems",)):
        yield ("systems", number, "arrivals", "process"), "arrival process", PROCESSES
    for number in _entries(source, ("cluster", "nodes")):
        yield ("cluster", "nodes", number, "gpu"), "GPU", catalog.gpu_names()
    for key in ("intra_region", "inter_region"):
        yield ("cluster", "network", key), "link", catalog.link_names()


def _choose(
    source: Source,
    path: KeyPath,
    get: Callable[[str], type[Any]],
    choices: Choices,
    default: str | None = None,
    path_of: Callable[[str], str] = str,
) -> None:
    """Look up the choice at ``path``, if it is well formed; ``path_of`` gives the name to keep."""
    key = SHORTHANDS[str(path[-1])]
    written = _at(source.data, path)
    if written is None:
        written = default
    given = {key: written} if isinstance(written, str) else written
    if not isinstance(given, dict) or not isinstance(given.get(key), str):
        return
    try:
        given = {**given, key: path_of(given[key])}
        options = get(given[key]).Options
    except ConfigError as error:
        at = path if isinstance(written, str) else (*path, key)
        choices.problems.extend(source.problem(at, problem.message) for problem in error.problems)
        return
    values = {name: value for name, value in given.items() if name != key}
    if options is UncheckedOptions:
        choices.options[path] = UncheckedOptions()
        choices.documents[path] = given
        return
    _check_options(source, path, values, options, choices)
    choices.documents[path] = {**given, **choices.documents.get(path, {})}


def _check_options(source: Source, path: KeyPath, given: dict[str, Any], options: type[Any], choices: Choices) -> None:
    """Add the ``Options`` instance of ``given`` to ``choices``, or its problems."""
    hints = typing.get_type_hints(options)
    values = dict(given)
    for name, value in given.items():
        forms = (hints.get(name), *typing.get_args(hints.get(name)))
        if isinstance(value, str) and (Path in forms or name == "path"):
            file = choices.files[(*path, name)] = source.file((*path, name), value)
            values[name] = file if Path in forms else str(file)
            if not is_file(file):
                choices.problems.append(source.problem((*path, name), f"no such file: {shortened(str(file))}"))
        elif isinstance(value, list) and any(tuple in (form, typing.get_origin(form)) for form in forms):
            values[name] = tuple(value)
    model = options_model(options)
    try:
        checked = model.model_validate(values)
        choices.options[path] = options(**{name: getattr(checked, name) for name in model.model_fields})
    except ValidationError as error:
        choices.problems.extend(problems_of(error, source, model, path))
    except ValueError as error:
        choices.problems.append(source.problem(path, str(error)))
    except ConfigError as error:
        choices.problems.extend(source.problem(path, problem.message) for problem in error.problems)
    else:
        choices.documents[path] = {**checked.model_dump(mode="json"), **given}


def _entries(source: Source, path: KeyPath) -> range:
    """Return the indices of the list at ``path``; empty if there is no list."""
    found = _at(source.data, path)
    return range(len(found) if isinstance(found, list) else 0)


def _names(source: Source, path: KeyPath) -> list[str]:
    """Return the keys of the mapping at ``path``; empty if there is no mapping."""
    found = _at(source.data, path)
    return list(found) if isinstance(found, dict) else []


def _at(data: Any, path: KeyPath) -> Any:
    """Return the value at ``path``, None if there is none."""
    for part in path:
        if isinstance(data, dict):
            data = data.get(str(part))
        elif isinstance(data, list) and isinstance(part, int):
            data = data[part]
        else:
            return None
    return data
