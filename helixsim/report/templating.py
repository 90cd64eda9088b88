"""Templates of HTML pages, and figures inside them."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from helixsim.report.figures import FigureFile

if TYPE_CHECKING:
    from jinja2 import Template
    from markupsafe import Markup


def template(name: str) -> Template:
    """Return a template of this package."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("helixsim.report"), autoescape=True, undefined=StrictUndefined, trim_blocks=True,
        lstrip_blocks=True,
    )  # fmt: skip
    return environment.get_template(name)


def inline(figure: FigureFile) -> Markup:
    """Return the SVG element for use inside HTML: no prologue, and ids that differ between figures."""
    from markupsafe import Markup

    svg = figure.svg[figure.svg.index("<svg") :]
    prefix = f"{figure.name}-"
    svg = re.sub(r'\bid="', f'id="{prefix}', svg)
    svg = re.sub(r'href="#', f'href="#{prefix}', svg)
    svg = svg.replace("url(#", f"url(#{prefix}")
    return Markup(re.sub(r"<metadata>.*?</metadata>\s*", "", svg, flags=re.DOTALL))
