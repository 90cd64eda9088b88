"""The user's functions as policies: ``@helixsim.routing(name)``, ``placement`` and ``batching`` alike.

Each of these rooms makes a class of a function in its module ``functions``.
"""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable, Sequence
from dataclasses import field, make_dataclass
from types import ModuleType
from typing import Any, TypeVar

from helixsim.errors import ConfigError
from helixsim.plugins import POLICY, Registry

Function = TypeVar("Function", bound=Callable[..., Any])


class DecoratorModule(ModuleType):
    """A room whose name is also the decorator that registers a function: ``@helixsim.routing("fewest")``."""

    def __call__(self, name: str) -> Callable[[Function], Function]:
        """Return the decorator that registers a function under a name (``register`` of the module ``functions``)."""
        decorator: Callable[[Function], Function] = importlib.import_module(f"{self.__name__}.functions").register(name)
        return decorator


def registering(registry: Registry, name: object, attach: Callable[[str, Any], None]) -> Callable[[Function], Function]:
    """Return the decorator that makes a class of a function and registers it under a name."""
    if not isinstance(name, str):
        raise ConfigError(f"{registry.kind}: expected a name, as in @helixsim.routing('fewest'), got {name!r}")

    def register(function: Function) -> Function:
        attach(name, function)
        registry.add(name, function)
        return function

    return register


def stand_for(function: Callable[..., Any], policy: type[Any]) -> None:
    """Let a function stand for the class that calls it, under the import path of the function."""
    policy.__name__ = policy.__qualname__ = function.__name__
    policy.__module__ = function.__module__
    setattr(function, POLICY, policy)


def summary_of(function: Callable[..., Any]) -> str:
    """Return the first line of a function's docstring, without the full stop."""
    return (inspect.getdoc(function) or "a function of the user's own").partition("\n")[0].rstrip(".")


def options_of(what: str, function: Callable[..., Any], arguments: Sequence[str]) -> type[Any]:
    """Return the options of a function: its keyword-only parameters, which need a type and a default.

    Raises
    ------
    ConfigError
        If the function does not take the positional arguments, or a parameter has no type or default.
    """
    if not callable(function) or isinstance(function, type):
        raise ConfigError(f"{what}: expected a function, got {function!r}")
    expected = f"expected def {function.__name__}({', '.join(arguments)})"
    options: list[tuple[str, Any, Any]] = []
    positional = 0
    for parameter in inspect.signature(function).parameters.values():
        if parameter.kind in {parameter.POSITIONAL_ONLY, parameter.POSITIONAL_OR_KEYWORD}:
            positional += 1
        elif parameter.kind is parameter.KEYWORD_ONLY:
            if parameter.annotation is parameter.empty or parameter.default is parameter.empty:
                raise ConfigError(f"{what}: option {parameter.name} needs a type and a default: weight: float = 1.0")
            options.append((parameter.name, parameter.annotation, field(default=parameter.default)))
        else:
            raise ConfigError(f"{what}: {expected}, options after *, got *{parameter.name}")
    if positional != len(arguments):
        raise ConfigError(f"{what}: {expected}, options after *, got {positional} arguments")
    made = make_dataclass("Options", options, frozen=True)
    made.__module__, made.__qualname__ = function.__module__, f"{function.__name__}.{POLICY}.Options"
    return made
