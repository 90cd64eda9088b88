"""Sphinx configuration: the Markdown of this folder, READMEs of other folders, and a reference made from the code.

    pip install -e '.[docs]' && python -m sphinx -W --keep-going docs site

Generated pages are written to ``docs/generated`` (not kept). Links to files outside of this folder lead to the
page that is made of them, or become plain text.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import os.path
import re
from pathlib import Path
from types import ModuleType

from sphinx.application import Sphinx

import helixsim
from helixsim.cli.main import build_parser, main

ROOT = Path(__file__).parents[1]
GENERATED = ROOT / "docs" / "generated"

project = "helixsim"
author = "the helixsim developers"
copyright = "the helixsim developers, Apache-2.0"  # the name that Sphinx reads
release = version = helixsim.__version__
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
myst_enable_extensions = ["deflist"]
myst_heading_anchors = 4
napoleon_google_docstring = False
autodoc_member_order = "bysource"
autodoc_typehints = "none"  # signatures have them
html_theme = "furo"
html_title = f"helixsim {release}"
html_show_sphinx = False
exclude_patterns = ["images"]

READMES = {
    "profiles": "profiles/README.md",
    "traces": "traces/README.md",
    "what-if": "experiments/whatif/README.md",
    "compare-example": "experiments/compare/README.md",
    "paper-placement": "experiments/paper/PLACEMENT.md",
    "changes": "CHANGELOG.md",
}
"""Generated page -> file of the repository."""

_LINK = re.compile(r"(!?\[([^\[\]]*)\])\((?!https?:|#|mailto:)([^)#\s]+)(#[^)\s]*)?\)")


def generate(_app: Sphinx) -> None:
    """Write the generated pages."""
    GENERATED.mkdir(exist_ok=True)
    pages = {name: rewritten((ROOT / path).read_text(encoding="utf-8"), ROOT / path, GENERATED)
             for name, path in READMES.items()}  # fmt: skip
    pages["commands"] = commands()
    pages["experiment-file"] = output("inspect", "schema", "--markdown")
    pages["sweep-file"] = output("inspect", "schema", "--markdown", "--sweep")
    pages["fleet-file"] = output("inspect", "schema", "--markdown", "--fleet")
    pages["tenants-file"] = output("inspect", "schema", "--markdown", "--tenants")
    pages["strategies"] = f"# Strategies and policies\n\n```text\n{output('inspect', 'strategies')}```\n"
    pages["python-reference"] = api()
    for name, text in pages.items():
        path = GENERATED / f"{name}.md"
        if not path.exists() or path.read_text(encoding="utf-8") != text:  # unchanged pages are not built again
            path.write_text(text, encoding="utf-8")


def output(*arguments: str) -> str:
    """Return what a command prints."""
    text = io.StringIO()
    with contextlib.redirect_stdout(text):
        if main(list(arguments)) != 0:
            raise RuntimeError(f"helixsim {' '.join(arguments)} failed")
    return text.getvalue()


def commands() -> str:
    """Return a page with the help of every command."""
    parts = ["# Commands\n"]

    def add(parser: argparse.ArgumentParser) -> None:
        parts.append(f"## {parser.prog}\n\n```text\n{parser.format_help()}```\n")
        for action in parser._actions:
            if isinstance(action, argparse._SubParsersAction):
                for one in dict.fromkeys(action.choices.values()):
                    add(one)

    add(build_parser())
    return "\n".join(parts)


def api() -> str:
    """Return a page with the public names of the package."""
    parts = ["# Python reference\n"]
    for name in helixsim.__all__:
        if name.startswith("__"):
            continue
        thing = getattr(helixsim, name)
        if isinstance(thing, ModuleType):  # a room whose name is a decorator, too
            parts.append(f"```{{eval-rst}}\n.. autofunction:: helixsim.{name}.functions.register\n```\n")
            continue
        kind = "autoclass" if isinstance(thing, type) else "autofunction" if callable(thing) else "autodata"
        members = "\n:members:\n:inherited-members: Mapping" if kind == "autoclass" else ""
        parts.append(f"```{{eval-rst}}\n.. {kind}:: helixsim.{name}{indented(members)}\n```\n")
    return "\n".join(parts)


def indented(lines: str) -> str:
    """Return lines as options of a directive."""
    return lines.replace("\n", "\n   ")


def rewritten(text: str, file: Path, folder: Path) -> str:
    """Return a page with links that lead from ``folder`` to where their targets are on the site.

    Parameters
    ----------
    file
        Where the text stands in the repository.
    """

    pages = {(ROOT / path).resolve(): GENERATED / f"{name}.md" for name, path in READMES.items()}

    def link(found: re.Match[str]) -> str:
        target = (file.parent / found[3]).resolve()
        page = pages.get(target, target)
        if ROOT / "docs" not in page.parents:
            return found[2]  # the site does not have the file
        return f"{found[1]}({Path(os.path.relpath(page, folder)).as_posix()}{found[4] or ''})"

    return _LINK.sub(link, text)


def rewrite(_app: Sphinx, name: str, content: list[str]) -> None:
    """Rewrite the links of a page of this folder."""
    if not name.startswith("generated/"):
        file = ROOT / "docs" / f"{name}.md"
        content[0] = rewritten(content[0], file, file.parent)


def setup(app: Sphinx) -> None:
    """Connect the steps to Sphinx."""
    app.connect("builder-inited", generate)
    app.connect("source-read", rewrite)
