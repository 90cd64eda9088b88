"""The lock file names every library that is declared, and other versions are told."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

from helixsim.papers.helix import locked

ROOT = Path(__file__).parents[4]


def number(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", version))


def test_every_declared_library_is_locked_at_no_less_than_its_lowest_version() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = project["optional-dependencies"]
    versions = locked.locked_versions()
    for declared in [*project["dependencies"], *extras["dev"], *extras["cluster"], *extras["parquet"], *extras["zst"]]:
        name, lowest = re.fullmatch(r"([\w.-]+)(?:\[\w+\])?>=([\d.]+)(?:;.*)?", declared).groups()
        assert number(versions[name.lower()]) >= number(lowest)


def test_other_versions_are_named(monkeypatch) -> None:
    running = locked.library_versions()
    monkeypatch.setattr(locked, "locked_versions", lambda: running)
    assert locked.differences() == []
    monkeypatch.setattr(locked, "locked_versions", lambda: {**running, "numpy": "1.0"})
    assert locked.differences() == [f"numpy {running['numpy']} instead of 1.0"]


def test_the_command_warns_of_other_versions(monkeypatch, capsys, tmp_path) -> None:
    from helixsim.cli.main import main

    monkeypatch.setattr(locked, "locked_versions", lambda: {**locked.library_versions(), "numpy": "1.0"})
    assert main(["reproduce", "table8", "--quick", "--jobs", "1", "--out", str(tmp_path)]) == 0
    assert "warning: numpy" in capsys.readouterr().err
    assert "instead of 1.0" in (tmp_path / "index.html").read_text(encoding="utf-8")
