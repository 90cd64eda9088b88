"""Look-up of strategies and policies by registered name or by import path."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import Any

from helixsim.errors import ConfigError, unknown_name


def lookup(kind: str, name: str, registered: Mapping[str, str], needs: tuple[str, ...]) -> type[Any]:
    """Return the class called ``name``.

    Parameters
    ----------
    kind
        What is looked up, for messages (``routing policy``).
    registered
        Name -> ``module:Class``.
    needs
        Attributes the class must have.

    Raises
    ------
    ConfigError
        If the name is unknown, the import fails or the class lacks a needed attribute.
    """
    target = registered.get(name, name)
    module_name, colon, class_name = target.partition(":")
    if not colon:
        raise ConfigError(f"{unknown_name(kind, name, registered)}; your own: 'package.module:Class'")
    try:
        found = getattr(importlib.import_module(module_name), class_name)
    except (ImportError, AttributeError) as error:
        raise ConfigError(f"{kind} {name!r} cannot be imported: {error}") from error
    missing = [attribute for attribute in needs if not hasattr(found, attribute)]
    if missing:
        raise ConfigError(f"{kind} {name!r} lacks {', '.join(missing)}")
    return found  # type: ignore[no-any-return]
