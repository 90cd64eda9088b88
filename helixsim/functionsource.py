"""The source of a function together with all that it uses, as a module of its own.

A function that is defined in a script, or in a cell of a notebook, cannot be imported by another process. Its source
can: with the functions, classes and constants of the script that it uses, and the imports that they need.
"""

from __future__ import annotations

import ast
import builtins
import dis
import hashlib
import importlib.util
import inspect
import linecache
import sys
import textwrap
from collections.abc import Callable, Iterator, Mapping
from types import CodeType, FunctionType, ModuleType
from typing import Any

from helixsim.errors import ConfigError


def import_path(function: Callable[..., Any]) -> str | None:
    """Return ``module:function`` if another process can import it by that, else None."""
    name, attribute = function.__module__, function.__qualname__
    module = sys.modules.get(name)
    if name == "__main__" or not attribute.isidentifier() or getattr(module, "__file__", None) is None:
        return None
    if getattr(module, attribute, None) is not function:
        return None
    try:
        return f"{name}:{attribute}" if importlib.util.find_spec(name) is not None else None
    except (ImportError, ValueError):
        return None


def module_of(what: str, function: Callable[..., Any]) -> tuple[str, str]:
    """Return name and text of a module that defines a function and all that it uses.

    Equal texts have equal names; comments and layout do not count.

    Parameters
    ----------
    what
        The function, for messages.

    Raises
    ------
    ConfigError
        If the source cannot be read, or the function uses a value that cannot be written down.
    """
    pieces = _Pieces(what)
    pieces.function(function, is_outermost=True)
    text = "\n".join(["from __future__ import annotations", *dict.fromkeys(pieces.imports), *pieces.texts]) + "\n"
    digest = hashlib.sha256(text.encode()).hexdigest()[:12]
    return f"{function.__name__}_{digest}", text


class _Pieces:
    """Imports and definitions, each after those that it needs when it is executed."""

    def __init__(self, what: str) -> None:
        self.what = what
        self.imports: list[str] = []
        self.texts: list[str] = []
        self.known: dict[str, Any] = {}

    def function(self, function: Callable[..., Any], *, is_outermost: bool = False) -> None:
        """Add a function and what it uses; decorators of the outermost one are left out."""
        if not isinstance(function, FunctionType):
            raise ConfigError(f"{self.what}: expected a function defined with def, got {function!r}")
        node = self._definition(function)
        if not isinstance(node, ast.FunctionDef) or node.name != function.__name__:
            raise ConfigError(f"{self.what}: expected a function defined with def, got {function.__name__}")
        self.known[function.__name__] = function
        if is_outermost:
            node.decorator_list = []
        for argument in (*node.args.posonlyargs, *node.args.args, node.args.vararg, node.args.kwarg):
            if argument is not None:
                argument.annotation = None
        node.returns = None
        types = [argument.annotation for argument in node.args.kwonlyargs]
        now = [*node.decorator_list, *node.args.defaults, *filter(None, (*node.args.kw_defaults, *types))]
        names = [*(name for one in now for name in _names(one)), *_globals_of(function.__code__)]
        self._add(names, node, _scope(function))

    def _class(self, kind: type[Any]) -> None:
        node = _class_in_cell(kind) or self._definition(kind)
        self.known[kind.__name__] = kind
        self._add(_names(node), node, vars(sys.modules[kind.__module__]))

    def _add(self, names: list[str], node: ast.stmt, scope: Mapping[str, Any]) -> None:
        for name in dict.fromkeys(names):
            if name in scope and (name not in self.known or self.known[name] is not scope[name]):
                self._value(name, scope[name], node)
        self.texts.append(ast.unparse(node))

    def _value(self, name: str, value: Any, user: ast.stmt) -> None:
        if name in self.known:
            raise ConfigError(f"{self.what}: {name} means two different things in what it uses; rename one")
        self.known[name] = value
        if isinstance(value, ModuleType):
            self.imports += [f"import {value.__name__} as {name}", *_submodules(name, value, user)]
        elif _is_importable(value):
            imported = value.__qualname__
            self.imports.append(f"from {value.__module__} import {imported} as {name}")
        elif isinstance(value, FunctionType) and value.__name__ == name:
            self.function(value)
        elif isinstance(value, type) and value.__name__ == name:
            self._class(value)
        else:
            self.texts.append(f"{name} = {self._literal(name, value)}")

    def _literal(self, name: str, value: Any) -> str:
        text = repr(value)
        try:
            if ast.literal_eval(text) == value:
                return text
        except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
            pass
        raise ConfigError(
            f"{self.what}: it uses {name}, a {type(value).__name__}, which cannot be passed to worker processes; "
            f"define {name} in a module of its own and import it, or move the policy into one"
        )

    def _definition(self, defined: Callable[..., Any]) -> ast.stmt:
        try:
            return ast.parse(textwrap.dedent(inspect.getsource(defined))).body[0]
        except (OSError, TypeError, SyntaxError) as error:
            raise ConfigError(
                f"{self.what}: the source of {defined.__name__} cannot be read ({error}), and other processes need it; "
                f"define it in {'a file' if isinstance(defined, type) else 'a file or in a cell of a notebook'}"
            ) from error


def _class_in_cell(kind: type[Any]) -> ast.stmt | None:
    """Return the definition of a class by the source of its methods, which alone know their cell of a notebook."""
    for method in vars(kind).values():
        if isinstance(method, FunctionType):
            code = method.__code__
            try:
                tree = ast.parse("".join(linecache.getlines(code.co_filename)))
            except SyntaxError:
                continue
            for node in ast.walk(tree):
                if not isinstance(node, ast.ClassDef) or node.name != kind.__name__:
                    continue
                if node.lineno <= code.co_firstlineno <= (node.end_lineno or node.lineno):
                    return node
    return None


def _scope(function: FunctionType) -> dict[str, Any]:
    """Return what the names in a function mean."""
    closure = function.__closure__ or ()
    inner = {}
    for name, cell in zip(function.__code__.co_freevars, closure, strict=True):
        try:
            inner[name] = cell.cell_contents
        except ValueError:  # not assigned yet
            continue
    return {**function.__globals__, **inner}


def _globals_of(code: CodeType) -> Iterator[str]:
    """Yield the names that code looks up outside of itself, functions within it included."""
    yield from code.co_freevars
    for step in dis.get_instructions(code):
        if step.opname in {"LOAD_GLOBAL", "LOAD_NAME", "DELETE_GLOBAL", "STORE_GLOBAL"}:
            yield str(step.argval)
    for inner in code.co_consts:
        if isinstance(inner, CodeType):
            yield from (name for name in _globals_of(inner) if name not in code.co_cellvars)


def _names(node: ast.AST) -> list[str]:
    return [one.id for one in ast.walk(node) if isinstance(one, ast.Name) and isinstance(one.ctx, ast.Load)]


def _is_importable(value: Any) -> bool:
    """Return whether a function or class is found in the module that it says it is from."""
    name, attribute = getattr(value, "__module__", None), getattr(value, "__qualname__", None)
    if not isinstance(name, str) or not isinstance(attribute, str) or name == "__main__":
        return False
    module = sys.modules.get(name)
    is_found = module is not None and getattr(module, attribute, None) is value
    return is_found and (module is builtins or getattr(module, "__spec__", None) is not None)


def _submodules(name: str, module: ModuleType, user: ast.AST) -> Iterator[str]:
    """Yield imports of the modules inside a package that a definition reaches by attributes: ``scipy.optimize``."""
    for node in ast.walk(user):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == name:
            inner = f"{module.__name__}.{node.attr}"
            if inner in sys.modules:
                yield f"import {inner}"
