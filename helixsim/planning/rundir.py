"""Run directories: ``<out>/<name>/<hash12>/``, complete when ``manifest.json`` is there.

A run is written into a hidden sibling and renamed at the end, so that a directory of that name is never half written.
"""

from __future__ import annotations

import importlib.metadata
import os
import platform
import re
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import helixsim
from helixsim import yamlio
from helixsim.config.experiment import ResolvedExperiment
from helixsim.errors import HelixsimError
from helixsim.report.files import write_json

SCHEMA = 1
_LIBRARIES = ("simpy", "numpy", "pandas", "highspy", "matplotlib", "pydantic", "PyYAML")


def run_directory(out: Path, experiment: ResolvedExperiment) -> Path:
    """Return where the run of an experiment belongs."""
    name = re.sub(r"[^A-Za-z0-9._-]", "_", experiment.name)
    return out / name / experiment.config_hash[:12]


def is_complete(directory: Path) -> bool:
    """Return whether a run directory holds a finished run."""
    return (directory / "manifest.json").is_file()


@contextmanager
def new_directory(target: Path, *, replace: bool = True) -> Iterator[Path]:
    """Yield an empty directory that becomes ``target`` when the block succeeds, and vanishes when it fails.

    Without ``replace`` a complete ``target`` that another process has finished meanwhile stays: runs of one
    configuration are equal. What processes of this machine left behind when they were killed is cleared away.
    """
    host = platform.node() or "localhost"
    for left in target.parent.glob(f".{target.name}-{host}-*"):
        if not _is_alive(left.name.rpartition("-")[2]):
            shutil.rmtree(left, ignore_errors=True)
    scratch = target.with_name(f".{target.name}-{host}-{os.getpid()}")
    shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir(parents=True)
    try:
        yield scratch
        if replace or not is_complete(target):
            shutil.rmtree(target, ignore_errors=True)
            try:
                scratch.rename(target)
            except OSError:
                if not is_complete(target):
                    raise
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _is_alive(pid: str) -> bool:
    """Return whether a process of this machine may still be running."""
    if os.name == "nt":  # where asking with signal 0 would end it
        return True
    try:
        os.kill(int(pid), 0)
    except (ProcessLookupError, ValueError):
        return False
    except OSError:
        return True
    return True


def write_config(directory: Path, experiment: ResolvedExperiment) -> None:
    """Write ``config.resolved.yaml``: the experiment with every default filled in."""
    (directory / "config.resolved.yaml").write_text(yamlio.dump(dict(experiment.document)), encoding="utf-8")


def manifest(
    experiment: ResolvedExperiment, timing: Mapping[str, Any], failed: Mapping[str, HelixsimError]
) -> dict[str, Any]:
    """Return the manifest of a run; ``failed`` are the systems without results.

    Only ``identity`` and ``assumptions`` are the same for equal runs; ``environment`` and ``timing`` may differ.
    """
    return {
        "schema": SCHEMA,
        "identity": {
            "experiment": experiment.name,
            "config_hash": experiment.config_hash,
            "seed": experiment.seed,
            "helixsim": helixsim.__version__,
            "files": dict(experiment.file_hashes),
        },
        "environment": {
            "git": _git_state(),
            "python": platform.python_version(),
            "platform": platform.platform(),
            "cpus": os.cpu_count(),
            **{name.lower(): importlib.metadata.version(name) for name in _LIBRARIES},
        },
        "timing": dict(timing),
        "assumptions": list(experiment.assumptions),
        "failed": {name: {"exit_code": int(error.exit_code), "message": str(error)} for name, error in failed.items()},
    }


def write_manifest(directory: Path, document: Mapping[str, Any]) -> None:
    """Write ``manifest.json``, which marks the run as complete."""
    write_json(directory / "manifest.json", document)


def _git_state() -> str | None:
    """Return the commit of the checkout helixsim runs from, with ``-dirty`` if it has changes; None elsewhere."""
    root = Path(helixsim.__file__).parent.parent
    if not (root / ".git").exists():
        return None
    command = ["git", "-C", str(root), "describe", "--always", "--dirty", "--abbrev=12"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None
