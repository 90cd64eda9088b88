"""The commands of docs/measurements.md run as they stand."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from helixsim.cli.main import main
from helixsim.hardware.calibration import load_calibration

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "measurements.md").read_text(encoding="utf-8")


def arguments(command: str) -> list[str]:
    """The words of a command, with files of experiments/ as absolute paths and stars filled in, as a shell does."""
    words = []
    for word in shlex.split(command):
        is_file = word.startswith("experiments/")
        words += [str(path) for path in sorted(ROOT.glob(word))] if is_file else [word]
    return words


@pytest.mark.slow
def test_the_commands_run_and_calibrate_the_example(tmp_path: Path, monkeypatch, capsys) -> None:
    commands = re.findall(r"^(?:(\w+)=(\S+) )?python -m helixsim (.*)$", PAGE, flags=re.M)
    assert len(commands) == 6
    monkeypatch.chdir(tmp_path)
    for variable, value, command in commands:
        if variable:
            monkeypatch.setenv(variable, value)
        assert main([*arguments(command), "--jobs", "1"]) == 0, capsys.readouterr().err
    found = load_calibration(tmp_path / "mine.yaml")
    assert found.host_s["batch_overhead"] > 0.8e-3
    assert 0.7 < found.gpus["h100"]["compute_efficiency"] < 0.9
    text = capsys.readouterr().out
    assert "vllm: Model error validated:" in " ".join(text.split())
    for line in ("batch_overhead", "sequence_overhead", "h100 compute_efficiency"):
        assert line in text
