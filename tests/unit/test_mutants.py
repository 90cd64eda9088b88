"""The script that tries mutants: its list fits the source, and its verdicts are right on a tree made for it."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import pytest

PATH = Path(__file__).resolve().parents[1] / "mutants.py"


@pytest.fixture
def mutants(monkeypatch):
    spec = importlib.util.spec_from_file_location("tests_mutants", PATH)
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "tests_mutants", module)
    spec.loader.exec_module(module)
    return module


def test_every_mutant_fits_the_source(mutants) -> None:
    """If this fails, a change of the source has made a mutant stale: say in mutants.yaml what the fault is now."""
    found = mutants.load()
    assert len(found) > 100
    for mutant in found:
        assert mutant.apply(mutants.ROOT) != (mutants.ROOT / mutant.file).read_text(encoding="utf-8")


@pytest.fixture
def tree(mutants, tmp_path, monkeypatch):
    """A tree of one module and its test."""
    (tmp_path / "helixsim").mkdir()
    (tmp_path / "helixsim" / "__init__.py").write_text("")
    (tmp_path / "helixsim" / "sums.py").write_text("def total(a, b):\n    c = 0  # unused\n    return a + b\n")
    (tmp_path / "test_sums.py").write_text(
        "from helixsim.sums import total\n\ndef test_it():\n    assert total(1, 2) == 3\n"
    )
    monkeypatch.setattr(mutants, "ROOT", tmp_path)
    monkeypatch.setattr(mutants, "LIST", tmp_path / "mutants.yaml")
    monkeypatch.setattr(mutants, "COPIED", ("helixsim", "test_sums.py"))

    def run(*lines: str, arguments=("--jobs", "1")) -> int:
        mutants.LIST.write_text(
            "helixsim/sums.py:\n  tests: test_sums.py\n  mutants:\n" + "".join(f"    {x}\n" for x in lines)
        )
        monkeypatch.setattr(mutants.load, "__defaults__", (mutants.LIST,))
        return mutants.main(arguments)

    return run


def test_killed_and_alive_are_told_apart(tree, capsys) -> None:
    assert tree("minus: [a + b, a - b]") == 0
    assert "killed   minus" in capsys.readouterr().out
    assert tree("minus: [a + b, a - b]", "unused: [c = 0, c = 1]") == 1
    out = capsys.readouterr().out
    assert "ALIVE    unused" in out
    assert "2 mutants, 1 killed, 1 alive: unused" in out


def test_what_cannot_be_imported_is_no_kill(tree, capsys) -> None:
    assert tree('broken: [return a + b, "return a +"]') == 2
    assert "ERROR" in capsys.readouterr().out


@pytest.mark.parametrize(
    "line",
    ["stale: [a * b, a - b]", "twice: [a, b]", "same: [a + b, a + b]", "tests: [a + b, a - b, test_nowhere.py]"],
)
def test_a_mutant_that_does_not_fit_is_an_error(tree, capsys, line) -> None:
    assert tree(line) == 2
    assert f"stale mutant: {line.partition(':')[0]}" in capsys.readouterr().err


def test_a_file_with_two_entries_is_an_error(tree, capsys) -> None:
    again = ("helixsim/sums.py:\n", "  tests: test_sums.py\n", "  mutants:\n", "    plus: [a + b, b]")
    assert tree("minus: [a + b, a - b]\n" + "".join(again)) == 2
    assert "helixsim/sums.py" in capsys.readouterr().err


def test_names_choose_and_list_runs_nothing(tree, capsys) -> None:
    lines = ("minus: [a + b, a - b]", "unused: [c = 0, c = 1]")
    assert tree(*lines, arguments=["--list", "min"]) == 0
    assert capsys.readouterr().out.split() == ["minus", "helixsim/sums.py"]
    assert tree(*lines, arguments=["zzz"]) == 2


def test_tests_that_fail_without_a_mutant_say_nothing(tree, mutants, capsys) -> None:
    (mutants.ROOT / "test_sums.py").write_text("def test_it():\n    assert False\n")
    assert tree("minus: [a + b, a - b]") == 2
    assert "the tests fail without a mutant" in capsys.readouterr().err
