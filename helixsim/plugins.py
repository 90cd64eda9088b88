"""Look-up of strategies and policies by registered name or by import path.

A user class, ``module:Class``, is searched

1. among the installed packages (and ``PYTHONPATH``), which files beside an experiment therefore cannot replace,
2. in the folder of the experiment file,
3. in the working directory.

Importing a class executes its file, so only commands that compute do; otherwise the class is located without executing
code.

A function registered in this process (``helixsim.routing``, ``placement``, ``batching``) also has a short name.
Experiments contain its import path instead, which other processes can resolve; a function of a script or a notebook is
written into a separate module for this purpose (``functionsource``).
"""

from __future__ import annotations

import ast
import atexit
import importlib
import operator
import shutil
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, fields, is_dataclass
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

from helixsim.errors import ConfigError, did_you_mean, unknown_name
from helixsim.functionsource import import_path, module_of
from helixsim.writing import write_text


@dataclass(frozen=True, slots=True)
class NoOptions:
    """No options."""


BOUNDS: Mapping[str, Callable[[Any, Any], bool]] = {
    "ge": operator.ge, "gt": operator.gt, "le": operator.le, "lt": operator.lt
}  # fmt: skip
"""Bounds in the metadata of the field of an option: ``field(default=8, metadata={"ge": 1, "le": 64})``."""


def bound_faults(options: Any) -> Iterator[tuple[str, str]]:
    """Yield (option, message) for each number outside the bounds of its field.

    For options built in Python; those of experiment files are checked by the schema.
    """
    for option in fields(options):
        value = getattr(options, option.name)
        if isinstance(value, (int, float)):
            for name, limit in option.metadata.items():
                if name in BOUNDS and not BOUNDS[name](value, limit):
                    yield option.name, f"{value!r} is out of range, allowed: {name} {limit!r}"


@dataclass(frozen=True, slots=True)
class UncheckedOptions:
    """Unknown options of a class that was located but not imported."""


class Located:
    """Placeholder of a class that was located but not imported."""

    Options = UncheckedOptions


@dataclass(frozen=True, slots=True)
class Registry:
    """The registered classes of an extension point; user classes are named by their import path.

    Parameters
    ----------
    kind
        Kind of the classes, for messages (``routing policy``).
    registered
        Name -> ``module:Class``, imported on first use.
    needs
        Required attributes of a class.
    functions
        Module whose ``attach`` makes a class of a function.
    own
        The user's functions by the names that they were given in this process.
    """

    kind: str
    registered: Mapping[str, str]
    needs: tuple[str, ...]
    functions: str
    own: dict[str, Callable[..., Any]] = field(default_factory=dict)

    def names(self) -> tuple[str, ...]:
        """Return the registered names."""
        return (*self.registered, *self.own)

    def add(self, name: str, function: Callable[..., Any]) -> None:
        """Let a function of the user's own, of which a class has been made, go by a name in this process.

        The same name may be given again in a script or notebook, and where a module is imported again.

        Raises
        ------
        ConfigError
            If the name is one of helixsim's own, or was given to a function of another module.
        """
        if not name.isidentifier():
            raise ConfigError(f"{self.kind} {name!r}: expected a name of letters, digits and underscores")
        if name in self.registered:
            raise ConfigError(f"{self.kind} {name!r} is one of helixsim's own: choose another name")
        former = self.own.get(name)
        if former is not None:
            modules = former.__module__, function.__module__
            if modules[0] != modules[1] and "__main__" not in modules:
                raise ConfigError(f"{self.kind} {name!r}: {modules[0]} and {modules[1]} both give this name")
        self.own[name] = function

    def paths(self) -> dict[str, str]:
        """Return the names of the user's functions with the import paths that other processes find them by."""
        found = {}
        for name in self.own:
            with suppress(ConfigError):  # one that no experiment names does no harm
                found[name] = self.path_of(name)
        return found

    def path_of(self, name: str) -> str:
        """Return the import path of a function of the user's own; other names as they are.

        Raises
        ------
        ConfigError
            If no other process can find the function (``functionsource.module_of``).
        """
        function = self.own.get(name)
        if function is None:
            return name
        path = import_path(function)
        if path is None:
            module, text = module_of(f"{self.kind} {name!r}", function)
            write_modules({module: text + _ATTACHED.format(self.functions, name, function.__name__)})
            path = f"{module}:{function.__name__}"
        return path

    def get(self, name: str, beside: Path | None = None, *, imports: bool = True) -> type[Any]:
        """Return the class called ``name``, or imported from ``package.module:Class``.

        Parameters
        ----------
        beside
            Folder of the experiment file; None: the class is installed or has been imported before.
        imports
            Whether user classes may be imported; otherwise they are located only, and ``Located`` is returned.

        Raises
        ------
        ConfigError
            If the name is unknown, the import fails or the class lacks a required attribute.
        """
        if name in self.registered:
            module_name, _, class_name = self.registered[name].partition(":")
            return getattr(importlib.import_module(module_name), class_name)  # type: ignore[no-any-return]
        name = self.path_of(name)
        module_name, colon, class_name = name.partition(":")
        if not colon:
            raise ConfigError(f"{unknown_name(self.kind, name, self.names())}; your own: 'package.module:Class'")
        if not all(part.isidentifier() for part in (*module_name.split("."), class_name)):
            raise ConfigError(f"{self.kind} {name!r}: expected 'package.module:Class'")
        what = f"{self.kind} {name!r}"
        if not imports:
            _locate(what, module_name, class_name, beside)
            return Located
        found = _imported(what, module_name, class_name, beside)
        found = getattr(found, POLICY, found)
        missing = [attribute for attribute in self.needs if not hasattr(found, attribute)]
        if missing:
            raise ConfigError(f"{what} lacks {', '.join(missing)}")
        if not isinstance(found, type):
            raise ConfigError(f"{what}: expected a class, or a function that is registered, got {found!r}")
        options = getattr(found, "Options", None)
        if "Options" in self.needs and not is_dataclass(options):
            raise ConfigError(f"{what}: Options must be a dataclass, got {options!r}")
        return found


POLICY = "helixsim_policy"
"""Attribute of a registered function: the class that calls it."""

_ATTACHED = """
from {0} import attach as _attach
_attach({1!r}, {2})
"""


def write_modules(texts: Mapping[str, str]) -> None:
    """Write modules where this process, and those that it starts on this machine, find them."""
    if texts and not _folder:
        _folder.append(mkdtemp(prefix="helixsim-"))
        atexit.register(shutil.rmtree, _folder[0], ignore_errors=True)
    for name, text in texts.items():
        if name not in _written:
            path = Path(_folder[0], f"{name}.py")
            write_text(path, text)
            make_findable([str(path.parent)])
            importlib.invalidate_caches()
            _written[name] = text


def written_modules() -> dict[str, str]:
    """Return the modules that this process has written, for processes on other machines."""
    return dict(_written)


_folder: list[str] = []
"""The folder of the written modules, once there are any."""

_written: dict[str, str] = {}


def folders(beside: Path | None) -> tuple[str, ...]:
    """Return the folders of user modules, which are searched after the installed packages, in order."""
    places = (*(() if beside is None else (beside,)), Path.cwd())
    return tuple(dict.fromkeys(str(place.resolve()) for place in places))


def make_findable(places: Sequence[str]) -> None:
    """Append folders to the module search path, after the installed packages."""
    sys.path[:] = [*(place for place in sys.path if place not in _added), *places,
                   *(place for place in _added if place not in places)]  # fmt: skip
    _added[:] = [*places, *(place for place in _added if place not in places)]


def added_folders() -> tuple[str, ...]:
    """Return the folders added by ``make_findable``, for processes on other machines."""
    return tuple(place for place in _added if place not in _folder)


_added: list[str] = []


def _imported(what: str, module_name: str, class_name: str, beside: Path | None) -> Any:
    """Import a class, which executes its file."""
    if beside is not None:
        make_findable(folders(beside))
        importlib.invalidate_caches()
        _refuse_namesake(what, module_name)
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name is not None and f"{module_name}.".startswith(f"{error.name}."):
            raise ConfigError(_not_found(what, module_name, beside)) from error
        raise ConfigError(f"{what} cannot be imported: {_described(error)}") from error
    except (Exception, SystemExit) as error:  # any exception of the file
        raise ConfigError(f"{what} cannot be imported: {_described(error)}") from error
    try:
        return getattr(module, class_name)
    except AttributeError:
        known = [name for name, value in vars(module).items() if isinstance(value, type) or hasattr(value, POLICY)]
        raise ConfigError(_no_such(what, module.__file__, class_name, known)) from None


def _refuse_namesake(what: str, module_name: str) -> None:
    """Refuse a module if another file of the same name has been imported from the folder of another experiment."""
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
    """Locate a class without executing code; ``ConfigError`` if it is not found."""
    search: Sequence[str] | None = [
        *(place for place in sys.path if place not in _added),
        *folders(beside),
        *_folder,
    ]
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
        raise ConfigError(f"{what} cannot be read: {_described(error)}") from error
    names = list(_bound(tree))
    if class_name not in names and "*" not in names:
        known = [
            node.name
            for node in tree.body
            if isinstance(node, ast.ClassDef) or (isinstance(node, ast.FunctionDef) and node.decorator_list)
        ]
        raise ConfigError(_no_such(what, file, class_name, known))


def _bound(tree: ast.Module) -> Sequence[str]:
    """Return all names that a module may bind; ``*`` for star imports."""
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
    return f"{what}: no module {module_name!r} among the installed packages and in {places}"


def _no_such(what: str, file: str | None, name: str, known: Sequence[str]) -> str:
    hint = did_you_mean(name, known) or f" (classes and policies: {', '.join(known) or 'none'})"
    return f"{what}: {file} has no {name!r}{hint}"


def _described(error: BaseException) -> str:
    """Return an error on one line, with its place in the user file."""
    if isinstance(error, SyntaxError):
        return f"{error.filename}:{error.lineno}: {error.msg}"
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if "importlib" not in frame.filename and frame.filename != __file__]
    place = f" ({own[-1].filename}:{own[-1].lineno})" if own else ""
    return f"{type(error).__name__}: {' '.join(str(error).split())}{place}"
