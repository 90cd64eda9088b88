"""The content key of a result: its inputs, the code that decides it, the user's own code and the libraries.

Two results with the same key are equal, so one of them can stand for the other. Code that only presents results (the
command line, reports) is left out: mending a text in a report makes nothing be computed again.
"""

from __future__ import annotations

import ast
import dataclasses
import enum
import hashlib
import importlib
import importlib.metadata
import importlib.util
import json
import secrets
import sys
import sysconfig
from collections.abc import Iterable, Iterator, Mapping
from functools import lru_cache
from pathlib import Path, PurePath
from types import ModuleType
from typing import Any

import helixsim
from helixsim.config.experiment import ResolvedExperiment, SystemSpec
from helixsim.datafiles import data_path
from helixsim.metrics.model_error import known_table

PRESENTING = (
    "__init__.py", "__main__.py", "accuracy", "api", "cli", "report", "papers", "runtime", "study/rundir.py",
    "metrics/error_cells.py", "metrics/error_table.py", "metrics/model_error.py", "metrics/ranking.py",
    "metrics/slowdown.py",
)  # fmt: skip
"""Rooms and modules below ``helixsim/`` that decide no result; everything else does, new rooms included.

Model errors are among them, with their table in ``profiles/accuracy``: what is stored with a result is its setting, and
the errors are derived from it whenever results are read. Files that state them are written anew when ``errors_digest``
is another.
"""

LIBRARIES = ("highspy", "numpy", "simpy")
"""Libraries whose versions enter every key."""


def content_key(*inputs: object, code: Iterable[str] = (), plugins: Iterable[str] = ()) -> str:
    """Return the key (SHA-256, hex) of a result.

    Parameters
    ----------
    inputs
        Whatever the result is computed from: plain values, paths, enumerations, and containers and dataclasses of them.
    code
        Names of modules that decide the result although their room presents results otherwise.
    plugins
        Import paths (``module:Class``) of the user's own classes.

    Raises
    ------
    TypeError
        If an input has no canonical form, so that equal inputs might have different keys.
    """
    parts = (
        _canonical(inputs, {}),
        code_digest(),
        *(_module_digest(name) for name in sorted(set(code))),
        *(plugin_digest(name) for name in sorted(set(plugins))),
        *(f"{name} {version}" for name, version in library_versions().items()),
    )
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()


def experiment_key(experiment: ResolvedExperiment) -> str:
    """Return the key of everything that is computed from an experiment."""
    return content_key("experiment", experiment.config_hash, plugins=experiment_plugins(experiment))


def experiment_plugins(experiment: ResolvedExperiment) -> tuple[str, ...]:
    """Return the import paths of the user's own classes that an experiment and its variants name."""
    changed = [variant.experiment for variant in experiment.variants if variant.experiment is not None]
    names = (name for one in (experiment, *changed) for system in one.systems for name in system_plugins(system))
    return tuple(sorted(set(names)))


def system_plugins(system: SystemSpec) -> tuple[str, ...]:
    """Return the import paths of the user's own classes that a system names."""
    legs = system.disaggregation
    names = [system.placement, system.routing]
    for leg in legs.legs:
        names += [leg.placement, leg.routing]
    names.append(system.batching)
    if system.autoscaling is not None:
        names.append(system.autoscaling.policy.name)
        if system.autoscaling.spot is not None:
            names.append(system.autoscaling.spot.policy)
    return tuple(dict.fromkeys(name for name in names if ":" in name))


@lru_cache(maxsize=1)
def code_digest() -> str:
    """Return the SHA-256 of helixsim's modules that decide results, and of the data they read without being told to.

    Read once per process: results of this process are those of the code that it has loaded.
    """
    package = Path(helixsim.__file__).parent
    digest = hashlib.sha256(helixsim.__version__.encode())
    for path in sorted(package.rglob("*.py")):
        name = path.relative_to(package).as_posix()
        if not any(name == part or name.startswith(f"{part}/") for part in PRESENTING):
            digest.update(f"\0{name}\0".encode() + path.read_bytes())
    for path in sorted(data_path("traces", "lengths").glob("*.json")):
        digest.update(f"\0{path.name}\0".encode() + path.read_bytes())
    return digest.hexdigest()


def errors_digest() -> str:
    """Return the SHA-256 of what model errors, and with them doubts and verdicts, are derived from: table and code."""
    package = Path(helixsim.__file__).parent
    digest = hashlib.sha256(known_table().digest.encode())
    for name in PRESENTING:
        if name.startswith("metrics/"):
            digest.update(f"\0{name}\0".encode() + (package / name).read_bytes())
    return digest.hexdigest()


@lru_cache(maxsize=1)
def library_versions() -> dict[str, str]:
    """Return the versions of the libraries that decide results."""
    return {name: importlib.metadata.version(name) for name in LIBRARIES}


_known_plugins: dict[str, tuple[ModuleType, str]] = {}


def plugin_digest(import_path: str) -> str:
    """Return the SHA-256 of the source behind ``module:Class``: its module and those of the user's own that it imports.

    Of other installed packages that these import, the versions count. Data files that they read are not known. A
    module without a file has a digest that no other process shares. Read once per process and module, for the code
    that runs is the one that was loaded.
    """
    name = import_path.partition(":")[0]
    module = importlib.import_module(name)
    known = _known_plugins.get(name)
    if known is None or known[0] is not module:
        known = _known_plugins[name] = (module, _source_digest(name))
    return known[1]


@lru_cache
def _module_digest(name: str) -> str:
    """Return the SHA-256 of one module of helixsim."""
    return hashlib.sha256(Path(str(importlib.import_module(name).__file__)).read_bytes()).hexdigest()


def _source_digest(name: str) -> str:
    """Return the digest of a module and all that it imports, directly or not, of the user's own."""
    own_package = name.partition(".")[0]
    files: dict[str, Path] = {}
    versions: dict[str, str] = {}
    waiting = [name]
    while waiting:
        current = waiting.pop()
        if current in files:
            continue
        path = _file_of(current)
        top = current.partition(".")[0]
        if path is None or top == "helixsim" or top in sys.stdlib_module_names:
            continue
        if _is_installed(path) and top != own_package:
            versions[top] = str(getattr(sys.modules.get(top), "__version__", ""))
            continue
        files[current] = path
        waiting += _imports(current, path)
    if name not in files:
        return f"{name} {secrets.token_hex(16)}"
    digest = hashlib.sha256(json.dumps(versions, sort_keys=True).encode())
    for module, path in sorted(files.items()):
        digest.update(f"\0{module}\0".encode() + path.read_bytes())
    return digest.hexdigest()


def _file_of(module: str) -> Path | None:
    """Return the file of a module without importing anything; None if it has none."""
    loaded = sys.modules.get(module)
    if loaded is not None:
        origin = getattr(loaded, "__file__", None)
    else:
        parent = module.rpartition(".")[0]
        if parent and not hasattr(sys.modules.get(parent), "__path__"):  # a class or function of the parent
            return None
        try:
            spec = importlib.util.find_spec(module)
        except (ImportError, ValueError):
            return None
        origin = None if spec is None else spec.origin
    path = None if origin is None else Path(origin)
    return path if path is not None and path.is_file() else None


def _is_installed(path: Path) -> bool:
    installed = (sysconfig.get_path("purelib"), sysconfig.get_path("platlib"))
    return any(path.is_relative_to(folder) for folder in installed) or "dist-packages" in path.parts


def _imports(module: str, path: Path) -> Iterator[str]:
    """Yield the full names of everything that may be a module in the import statements of a file."""
    try:
        tree = ast.parse(path.read_bytes())
    except (SyntaxError, ValueError):  # compiled code: its bytes stand for themselves
        return
    package = module if path.name == "__init__.py" else module.rpartition(".")[0]
    for node in ast.walk(tree):
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                outer = package.split(".")[: len(package.split(".")) - node.level + 1]
                base = ".".join([*outer, *filter(None, [base])])
            names = [base, *(f"{base}.{alias.name}" for alias in node.names)] if base else []
        for name in names:
            parts = name.split(".")
            yield from (".".join(parts[:length]) for length in range(1, len(parts) + 1))


def _canonical(value: object, known: dict[int, str]) -> str:
    """Return a text that is the same for equal values; objects that occur often (profiles of nodes) are read once."""
    if isinstance(value, enum.Enum):
        return f"{type(value).__qualname__}.{value.name}"
    if isinstance(value, float):
        return float.__repr__(value)  # numpy's floats are floats with a form of their own
    if value is None or isinstance(value, (bool, int, str, bytes)):
        return repr(value)
    if id(value) in known:
        return known[id(value)]
    text = _canonical_whole(value, known)
    if len(text) > 64:
        text = hashlib.sha256(text.encode()).hexdigest()
    known[id(value)] = text  # ids stay valid: the caller holds the outermost value
    return text


def _canonical_whole(value: Any, known: dict[int, str]) -> str:
    name = type(value).__qualname__
    if isinstance(value, PurePath):
        return f"path {value.as_posix()!r}"
    if dataclasses.is_dataclass(value):
        fields = (field.name for field in dataclasses.fields(value) if field.compare)
        return f"{name}({','.join(f'{field}={_canonical(getattr(value, field), known)}' for field in fields)})"
    if isinstance(value, Mapping):
        items = sorted((_canonical(key, known), _canonical(one, known)) for key, one in value.items())
        return f"{{{','.join(f'{key}:{one}' for key, one in items)}}}"
    if isinstance(value, (tuple, list)):
        return f"[{','.join(_canonical(one, known) for one in value)}]"
    if isinstance(value, (set, frozenset)):
        return f"set[{','.join(sorted(_canonical(one, known) for one in value))}]"
    raise TypeError(f"{name} has no canonical form and cannot be part of a content key")
