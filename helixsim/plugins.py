"""Look-up of strategies and policies by registered name or by import path."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from dataclasses import dataclass, is_dataclass
from typing import Any

from helixsim.errors import ConfigError, unknown_name


@dataclass(frozen=True, slots=True)
class NoOptions:
    """No options."""


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

    def get(self, name: str) -> type[Any]:
        """Return the class called ``name``, or imported from ``package.module:Class``.

        Raises
        ------
        ConfigError
            If the name is unknown, the import fails or the class lacks a needed attribute.
        """
        target = self.registered.get(name, name)
        module_name, colon, class_name = target.partition(":")
        if not colon:
            raise ConfigError(f"{unknown_name(self.kind, name, self.registered)}; your own: 'package.module:Class'")
        try:
            found = getattr(importlib.import_module(module_name), class_name)
        except (ImportError, AttributeError, ValueError) as error:
            raise ConfigError(f"{self.kind} {name!r} cannot be imported: {error}") from error
        missing = [attribute for attribute in self.needs if not hasattr(found, attribute)]
        if missing:
            raise ConfigError(f"{self.kind} {name!r} lacks {', '.join(missing)}")
        if "Options" in self.needs and not is_dataclass(found.Options):
            raise ConfigError(f"{self.kind} {name!r}: Options must be a dataclass, got {found.Options!r}")
        return found  # type: ignore[no-any-return]
