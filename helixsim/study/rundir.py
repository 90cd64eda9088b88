"""Run directories: ``<out>/<name>/<hash12>/``, named by the content key of the run and complete with their manifest.

A run is written into a hidden folder beside its directory (``work_folder``) and renamed at the end, so that a directory
of that name is never half written. The folder is gone when the run is complete; what a killed process left in it is
cleared when the run is next written or found.
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import secrets
import shutil
import subprocess
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TypeVar

import helixsim
from helixsim import yamlio
from helixsim.config.experiment import ResolvedExperiment
from helixsim.errors import DataError, HelixsimError
from helixsim.results.files import file_stem
from helixsim.runtime.identity import experiment_key, experiment_plugins
from helixsim.runtime.manifest import MANIFEST, finished_under, identity_document, write_manifest
from helixsim.writing import write_text

_LIBRARIES = ("simpy", "numpy", "pandas", "highspy", "matplotlib", "pydantic", "PyYAML")
Results = TypeVar("Results")

RESUMABLE = "finished placements and simulations are kept; repeat the command to continue"

_MARK = ".helixsim"
"""File by which a directory of results is known even if its manifest has been lost."""

_TRIES = 10
"""Times a folder is made anew after another process has removed its parent in between."""


def run_directory(out: Path, experiment: ResolvedExperiment) -> Path:
    """Return where the run of an experiment belongs."""
    return out / file_stem(experiment.name) / experiment_key(experiment)[:12]


def finished_run(out: Path, experiment: ResolvedExperiment, *, check: bool = False) -> Path | None:
    """Return the directory of the finished run of an experiment, None if there is none whose files all check out.

    ``check``: the run must have been made with the expensive invariants checked.
    """
    directory = run_directory(out, experiment)
    found = finished_under(directory, experiment_key(experiment))
    return directory if found is not None and (found["checked"] or not check) else None


def results_directory(
    directory: Path,
    key: str,
    compute: Callable[[], Results],
    write: Callable[[Path, Results], None],
    *,
    force: bool = False,
    plugins: Collection[str] = (),
) -> Results | None:
    """Compute results and write them into a directory, unless it has them already; return what was computed.

    Parameters
    ----------
    key, plugins
        Content key of the results, and the classes of the user's own that it names.
    write
        Fills an empty folder; the manifest is added.
    force
        Compute and write anew what is there.

    Raises
    ------
    DataError
        If something else has the name of the directory; nothing is computed then.
    KeyboardInterrupt
        If the user stops it, with a sentence on what is kept.
    """
    if not force and finished_under(directory, key) is not None:
        clear_work(directory)
        return None
    refuse_foreign(directory)
    try:
        results = compute()
    except KeyboardInterrupt:
        raise KeyboardInterrupt(RESUMABLE) from None
    with new_directory(directory) as scratch:
        write(scratch, results)
        write_manifest(scratch, {"identity": identity_document(key, plugins)})
    return results


@contextmanager
def new_directory(target: Path, *, keep: str | None = None, work: Path | None = None) -> Iterator[Path]:
    """Yield an empty directory that becomes ``target`` when the block succeeds, and vanishes when it fails.

    A ``target`` that another process has finished meanwhile under the content key ``keep`` stays. ``work``: folder in
    which it is filled; None: ``work_folder(target)``.

    Raises
    ------
    DataError
        If something else has the name ``target`` (``refuse_foreign``).
    """
    work = work or work_folder(target)
    _clear_killed(work)
    scratch = work / f"{_host()}-{os.getpid()}-{secrets.token_hex(4)}"
    former = scratch.with_name(f"{scratch.name}-former")
    _make(scratch)
    try:
        write_text(scratch / _MARK, "A directory of helixsim's results: a later run may replace it.\n")
        yield scratch
        if keep is None or finished_under(target, keep) is None:
            refuse_foreign(target)
            with suppress(FileNotFoundError):
                target.rename(former)
            try:
                scratch.rename(target)
            except OSError:  # another process was faster
                if keep is None or finished_under(target, keep) is None:
                    raise
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
        shutil.rmtree(former, ignore_errors=True)
        with suppress(OSError):
            work.rmdir()


def work_folder(target: Path) -> Path:
    """Return the hidden folder beside a directory of results that holds everything unfinished about it."""
    return target.with_name(f".{target.name}-work")


def clear_work(target: Path, kept: Collection[Path] = ()) -> None:
    """Remove what a complete directory of results no longer needs: folders ``kept``, and those of killed processes.

    Folders of other processes of this machine that are still running, and of other machines, stay.
    """
    work = work_folder(target)
    if not work.is_dir() or work.is_symlink():
        return
    for folder in kept:
        shutil.rmtree(folder, ignore_errors=True)
    _clear_killed(work)
    with suppress(OSError):
        work.rmdir()


def _clear_killed(work: Path) -> None:
    """Remove what processes of this machine left in a work folder when they were killed."""
    for left in work.glob(f"{_host()}-*"):
        pid = left.name.removeprefix(f"{_host()}-").partition("-")[0]
        if not left.is_symlink() and not _is_alive(pid):
            shutil.rmtree(left, ignore_errors=True)


def _make(scratch: Path) -> None:
    """Make a folder in a work folder, which another process may be removing because it was empty."""
    for _ in range(_TRIES):
        with suppress(FileNotFoundError):
            scratch.mkdir(parents=True)
            return
    scratch.mkdir(parents=True)


def _host() -> str:
    return platform.node() or "localhost"


def refuse_foreign(target: Path) -> None:
    """Refuse to put results where something lies that helixsim has not left there.

    Raises
    ------
    DataError
        If ``target`` is a link, a file, or a folder that is not empty and has neither the mark nor the manifest of
        results.
    """
    if target.is_symlink():
        raise DataError(f"{target}: is a link, and results do not replace links; remove it or choose another --out")
    if target.exists() and not target.is_dir():
        raise DataError(f"{target}: is a file, where a directory of results belongs; remove it or choose another --out")
    if target.is_dir() and any(target.iterdir()) and not ((target / _MARK).is_file() or _has_manifest(target)):
        raise DataError(
            f"{target}: is a folder that helixsim has not left there (it has no {MANIFEST} of results), and is not "
            "replaced; move it away or choose another --out"
        )


def _has_manifest(directory: Path) -> bool:
    try:
        document = json.loads((directory / MANIFEST).read_bytes())
    except (OSError, ValueError, RecursionError):
        return False
    return isinstance(document, dict) and "identity" in document


def _is_alive(pid: str) -> bool:
    """Return whether a process of this machine may still be running."""
    if os.name == "nt":  # where asking with signal 0 would end it
        return True
    try:
        os.kill(int(pid), 0)
    except (ProcessLookupError, ValueError, OverflowError):
        return False
    except OSError:
        return True
    return not _has_ended(pid)


def _has_ended(pid: str) -> bool:
    """Return whether a process has ended and its parent has not asked for its exit code (a zombie), where /proc tells.

    Without a parent that asks, as in a container whose first process does not, it stays so for ever.
    """
    try:
        state = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()[0]
    except (OSError, IndexError):
        return False
    return state in {b"Z", b"X"}


def write_config(directory: Path, experiment: ResolvedExperiment) -> None:
    """Write ``config.resolved.yaml``: the experiment with every default filled in."""
    write_text(directory / "config.resolved.yaml", yamlio.dump(dict(experiment.document)))


def manifest(
    experiment: ResolvedExperiment,
    timing: Mapping[str, Any],
    failed: Mapping[str, HelixsimError],
    *,
    checked: bool,
    selection: Sequence[str] = (),
) -> dict[str, Any]:
    """Return the manifest of a run; ``failed`` are the systems without results.

    ``selection`` says how placements were selected otherwise than usual, and is listed with the assumptions.

    Only ``identity`` and ``assumptions`` are the same for equal runs; ``environment`` and ``timing`` may differ, and
    ``checked`` tells whether the expensive invariants were.
    """
    return {
        "identity": {
            "experiment": experiment.name,
            "config_hash": experiment.config_hash,
            "seed": experiment.seed,
            "files": dict(experiment.file_hashes),
            **identity_document(experiment_key(experiment), experiment_plugins(experiment)),
        },
        "checked": checked,
        "environment": {
            "git": _git_state(),
            "python": platform.python_version(),
            "platform": platform.platform(),
            "cpus": os.cpu_count(),
            **{name.lower(): importlib.metadata.version(name) for name in _LIBRARIES},
        },
        "timing": dict(timing),
        "assumptions": [*experiment.assumptions, *selection],
        "failed": {name: {"exit_code": int(error.exit_code), "message": str(error)} for name, error in failed.items()},
    }


def complete(directory: Path, document: Mapping[str, Any]) -> None:
    """Write the manifest of a run; the report can be drawn again from the other files."""
    write_manifest(directory, document, rebuilt=("report.html", "figures"))


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
