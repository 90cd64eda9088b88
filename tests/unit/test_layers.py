"""The house rules on imports: downward only, and each heavy library in its one room."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[2] / "helixsim"

LAYERS = (
    {"escape", "writing"},
    {"units", "errors", "rng"},
    {"functionsource"},
    {"yamlio", "jsonio", "solver", "datafiles", "plugins"},
    {"renames"},
    {"validation", "decorators"},
    {"domain"},
    {"hardware", "workload"},
    {"benchmarks"},
    {"config"},
    {"flow"},
    {"placement"},
    {"routing", "batching", "autoscaling"},
    {"experiment"},
    {"engine"},
    {"metrics"},
    {"runtime"},
    {"results", "deploy"},
    {"report"},
    {"study"},
    {"planning"},
    {"api"},
    {"papers"},
    {"accuracy"},
    {"cli"},
)
"""From the ground up. A module may import from its own room and from any layer below."""

HOMES = {
    "simpy": {"engine"},
    "highspy": {"solver"},
    "pydantic": {"validation", "hardware", "config", "papers"},
    "yaml": {"yamlio"},
    "matplotlib": {"report", "papers", "api"},
    "jinja2": {"report"},
    "dask": {"runtime"},
    "torch": {"hardware"},
}

PUBLIC = (
    "helixsim.datafiles", "helixsim.domain", "helixsim.errors", "helixsim.escape", "helixsim.flow",
    "helixsim.hardware.catalog", "helixsim.jsonio", "helixsim.metrics", "helixsim.placement", "helixsim.report.style",
    "helixsim.report.templating", "helixsim.results", "helixsim.runtime", "helixsim.units", "helixsim.validation",
    "helixsim.writing",
)  # fmt: skip
"""Modules and rooms that docs/python.md offers beside ``import helixsim as hx``; papers build on these alone."""

MODULES = sorted(PACKAGE.rglob("*.py"))


def room(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imports(path: Path) -> list[str]:
    """Every module named in an import statement of the file, inside functions too."""
    found = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"relative import in {path}"
            found += [f"{node.module}.{alias.name}" for alias in node.names]
    return found


def level(name: str) -> int:
    return next(number for number, layer in enumerate(LAYERS) if name in layer)


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_go_downward_and_libraries_stay_at_home(path):
    own = room(path)
    for name in imports(path):
        parts = name.split(".")
        homes = HOMES.get(parts[0], {own})
        assert own in homes, f"{parts[0]} belongs into {homes}"
        if parts[0] == "helixsim" and own not in {"__init__", "__main__"} and parts[1:]:
            target = parts[1]
            if target in {"__version__", "__file__"}:
                continue
            assert target == own or level(target) < level(own), f"{own} must not import {target}"


def test_no_modules_need_each_other():
    """Not even by an import inside a function or for types: a circle is one module in several files."""
    dotted = {".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts): path for path in MODULES}
    waiting = {
        name: {found for one in imports(path) for found in (one, one.rpartition(".")[0])} & dotted.keys() - {name}
        for name, path in dotted.items()
    }
    while ready := [name for name, needs in waiting.items() if not needs & waiting.keys()]:
        for name in ready:
            del waiting[name]
    assert waiting == {}


@pytest.mark.parametrize("path", sorted((PACKAGE / "papers").rglob("*.py")), ids=lambda path: path.name)
def test_papers_build_on_the_public_api(path):
    own = "helixsim.papers"
    for name in imports(path):
        if name.startswith("helixsim."):
            assert any(f"{name}.".startswith(f"{one}.") for one in (*PUBLIC, own)), f"{name} is not public"


def test_the_python_page_names_all_public_modules():
    page = (PACKAGE.parent / "docs" / "python.md").read_text(encoding="utf-8")
    assert [name for name in PUBLIC if f"`{name}`" not in page] == []


def test_every_room_has_its_place():
    assert {room(path) for path in MODULES} - {"__init__", "__main__"} == set().union(*LAYERS)


def test_no_module_outgrows_the_house():
    long = {
        str(p.relative_to(PACKAGE)): n for p in MODULES if (n := len(p.read_text(encoding="utf-8").splitlines())) > 400
    }
    assert long == {}
