"""Look-up of strategies and policies by registered name or by import path.

A user's own class, ``module:Class``, is looked for

1. among the installed packages (and ``PYTHONPATH``), so that no file beside an experiment can stand in for one of them,
2. in the folder of the experiment file,
3. in the working directory.

Importing it runs its file, so only commands that compute something do; ``located`` finds it without running anything.
"""

from __future__ import annotations

import ast
import importlib
import operator
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path
from typing import Any

from helixsim.errors import ConfigError, did_you_mean, unknown_name


@dataclass(frozen=True, slots=True)
class NoOptions:
    """No options."""


BOUNDS: Mapping[str, Callable[[Any, Any], bool]] = {
    "ge": operator.ge, "gt": operator.gt, "le": operator.le, "lt": operator.lt
}  # fmt: skip
"""Bounds that the metadata of an option's field may state: ``field(default=8, metadata={"ge": 1, "le": 64})``."""


def bound_faults(options: Any) -> Iterator[tuple[str, str]]:
    """Yield (option, message) for each number among the options that is out of the bounds of its field.

    Experiment files are checked by the schema; this is for options that are built in Python.
    """
    for option in fields(options):
        value = getattr(options, option.name)
        if isinstance(value, (int, float)):
            for name, limit in option.metadata.items():
                if name in BOUNDS and not BOUNDS[name](value, limit):
                    yield option.name, f"{value!r} is out of range, allowed: {name} {limit!r}"


@dataclass(frozen=True, slots=True)
class UncheckedOptions:
    """Options of a class that was found but not imported: nothing is known of them."""


class Located:
    """Stands for a class that was found but not imported."""

    Options = UncheckedOptions


@dataclass(frozen=True, slots=True)
class Registry:
    """The registered classes of one extension point; the user's own are named by their import path.

    Parameters
    ----------
    kind
        What is looked up, for messages (``routing policy``).
    registered
        Name -> ``module:Class``, imported when first asked for.
    needs
        Attributes a class must have.
    """

    kind: str
    registered: Mapping[str, str]
    needs: tuple[str, ...]

    def names(self) -> tuple[str, ...]:
        """Return the registered names."""
        return tuple(self.registered)

    def get(self, name: str, beside: Path | None = None, *, imports: bool = True) -> type[Any]:
        """Return the class called ``name``, or imported from ``package.module:Class``.

        Parameters
        ----------
        beside
            Folder of the experiment file; None: the class has been imported before, or is an installed one.
        imports
            Whether a class of the user's own may be imported; otherwise it is only looked for, and ``Located``
            stands for it.

        Raises
        ------
        ConfigError
            If the name is unknown, the import fails or the class lacks a needed attribute.
        """
        if name in self.registered:
            module_name, _, class_name = self.registered[name].partition(":")
            return getattr(importlib.import_module(module_name), class_name)  # type: ignore[no-any-return]
        module_name, colon, class_name = name.partition(":")
        if not colon:
            raise ConfigError(f"{unknown_name(self.kind, name, self.registered)}; your own: 'package.module:Class'")
        if not all(part.isidentifier() for part in (*module_name.split("."), class_name)):
            raise ConfigError(f"{self.kind} {name!r}: expected 'package.module:Class'")
        what = f"{self.kind} {name!r}"
        if not imports:
            _locate(what, module_name, class_name, beside)
            return Located
        found = _imported(what, module_name, class_name, beside)
        missing = [attribute for attribute in self.needs if not hasattr(found, attribute)]
        if missing:
            raise ConfigError(f"{what} lacks {', '.join(missing)}")
        if not isinstance(found, type):
            raise ConfigError(f"{what}: expected a class, got {found!r}")
        options = getattr(found, "Options", None)
        if "Options" in self.needs and not is_dataclass(options):
            raise ConfigError(f"{what}: Options must be a dataclass, got {options!r}")
        return found


def folders(beside: Path | None) -> tuple[str, ...]:
    """Return where the user's own modules are looked for after the installed packages, in order."""
    places = (*(() if beside is None else (beside,)), Path.cwd())
    return tuple(dict.fromkeys(str(place.resolve()) for place in places))


def make_findable(places: Sequence[str]) -> None:
    """Let this process, and those that it starts, import modules from folders, after all that is installed."""
    sys.path[:] = [*(place for place in sys.path if place not in _added), *places,
                   *(place for place in _added if place not in places)]  # fmt: skip
    _added[:] = [*places, *(place for place in _added if place not in places)]


def added_folders() -> tuple[str, ...]:
    """Return what ``make_findable`` has added, for processes on other machines."""
    return tuple(_added)


_added: list[str] = []


def _imported(what: str, module_name: str, class_name: str, beside: Path | None) -> Any:
    """Import a class, which runs its file."""
    if beside is not None:
        make_findable(folders(beside))
        importlib.invalidate_caches()
        _refuse_namesake(what, module_name)
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name is not None and f"{module_name}.".startswith(f"{error.name}."):
            raise ConfigError(_not_found(what, module_name, beside)) from error
        raise ConfigError(f"{what} cannot be imported: {_told(error)}") from error
    except (Exception, SystemExit) as error:  # whatever the file does when it is run
        raise ConfigError(f"{what} cannot be imported: {_told(error)}") from error
    try:
        return getattr(module, class_name)
    except AttributeError:
        classes = [name for name, value in vars(module).items() if isinstance(value, type)]
        raise ConfigError(_no_class(what, module.__file__, class_name, classes)) from None


def _refuse_namesake(what: str, module_name: str) -> None:
    """Refuse a module of which this process has already imported another file, of another experiment's folder."""
    top = module_name.partition(".")[0]
    known = getattr(sys.modules.get(top), "__file__", None)
    spec = PathFinder.find_spec(top, sys.path)
    if known is not None and spec is not None and spec.has_location and spec.origin is not None:
        theirs, ours = Path(known).resolve(), Path(spec.origin).resolve()
        if theirs != ours and any(str(theirs).startswith(place) for place in _added):
            raise ConfigError(
                f"{what}: this process has already imported {theirs}, and cannot use {ours} under the same name; "
                "rename one of them"
            )


def _locate(what: str, module_name: str, class_name: str, beside: Path | None) -> None:
    """Find a class without running anything; ``ConfigError`` if it is not there."""
    search: Sequence[str] | None = [*(place for place in sys.path if place not in _added), *folders(beside)]
    spec: ModuleSpec | None = None
    parts = module_name.split(".")
    for number in range(1, len(parts) + 1):
        spec = None if search is None else PathFinder.find_spec(".".join(parts[:number]), search)
        if spec is None:
            raise ConfigError(_not_found(what, module_name, beside))
        search = spec.submodule_search_locations
    file = None if spec is None else spec.origin
    if file is None or not file.endswith(".py"):
        return
    try:
        tree = ast.parse(Path(file).read_bytes(), file)
    except (OSError, SyntaxError, ValueError, RecursionError) as error:
        raise ConfigError(f"{what} cannot be read: {_told(error)}") from error
    names = list(_bound(tree))
    if class_name not in names and "*" not in names:
        classes = [node.name for node in tree.body if isinstance(node, ast.ClassDef)]
        raise ConfigError(_no_class(what, file, class_name, classes))


def _bound(tree: ast.Module) -> Sequence[str]:
    """Return every name that a module may bind; ``*`` for those that it imports all at once."""
    names: list[str] = []
    for node in ast.walk(tree):
        if isinstance(node, (ast.ClassDef, ast.FunctionDef)):
            names.append(node.name)
        elif isinstance(node, (ast.Import, ast.ImportFrom)):
            names += [alias.asname or alias.name.partition(".")[0] for alias in node.names]
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            names.append(node.id)
    return names


def _not_found(what: str, module_name: str, beside: Path | None) -> str:
    places = " and ".join(folders(beside))
    return f"{what}: no module {module_name!r}, looked for among the installed packages and in {places}"


def _no_class(what: str, file: str | None, class_name: str, classes: Sequence[str]) -> str:
    hint = did_you_mean(class_name, classes) or f" (classes: {', '.join(classes) or 'none'})"
    return f"{what}: {file} has no {class_name!r}{hint}"


def _told(error: BaseException) -> str:
    """Return what went wrong on one line, with the place in the user's own file."""
    if isinstance(error, SyntaxError):
        return f"{error.filename}:{error.lineno}: {error.msg}"
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if "importlib" not in frame.filename and frame.filename != __file__]
    place = f" ({own[-1].filename}:{own[-1].lineno})" if own else ""
    return f"{type(error).__name__}: {' '.join(str(error).split())}{place}"
