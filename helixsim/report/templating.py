"""Templates of HTML pages, and their figures."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import TYPE_CHECKING

from helixsim.escape import printable

if TYPE_CHECKING:
    from jinja2 import Template
    from markupsafe import Markup


def template(name: str, package: str = "helixsim.report", **filters: Callable[..., object]) -> Template:
    """Return a template of a package, which may include those of this one; ``filters`` are functions by name."""
    from jinja2 import ChoiceLoader, Environment, PackageLoader, StrictUndefined

    loaders = [PackageLoader(one) for one in dict.fromkeys((package, "helixsim.report"))]
    environment = Environment(
        loader=ChoiceLoader(loaders), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True,
        finalize=_shown,
    )  # fmt: skip
    environment.filters.update(filters)
    return environment.get_template(name)


def _shown(value: object) -> object:
    """Return a value as shown by a template: text without control characters, markup unchanged."""
    return printable(value) if type(value) is str else value


def inline(name: str, text: str) -> Markup:
    """Return the SVG element for use inside HTML: without prologue, and with ``name`` before each id."""
    from markupsafe import Markup

    svg = text[text.index("<svg") :]
    prefix = f"{name}-"
    svg = re.sub(r'\bid="', f'id="{prefix}', svg)
    svg = re.sub(r'href="#', f'href="#{prefix}', svg)
    svg = svg.replace("url(#", f"url(#{prefix}")
    return Markup(re.sub(r"<metadata>.*?</metadata>\s*", "", svg, flags=re.DOTALL))
