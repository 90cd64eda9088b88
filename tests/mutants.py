"""Do the tests notice? Small faults are put into copies of the source, one at a time, and tests must fail.

``python -m tests.mutants`` from the repository root tries all of ``mutants.yaml`` (minutes), ``python -m tests.mutants
NAME ...`` those whose names contain one of the words; ``--list`` shows them. Exit code 0: every mutant was killed, 1:
some live, 2: the list does not fit the source, or the tests fail without a mutant.
"""

from __future__ import annotations

import argparse
import os
import queue
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parent.parent
LIST = Path(__file__).with_name("mutants.yaml")
COPIED = ("helixsim", "tests", "profiles", "traces", "experiments", "docs", "pyproject.toml", "README.md")
PLUGIN = """\
from hypothesis import Phase, settings

settings.register_profile("mutants", phases=(Phase.explicit, Phase.generate), derandomize=True)
settings.load_profile("mutants")
"""
"""A failure is enough: looking for the smallest one would take most of the time."""

TIMEOUT_S = 300
"""Tests that run for longer have noticed something."""


class StaleError(Exception):
    """The list of mutants does not fit the source."""


@dataclass(frozen=True)
class Mutant:
    """One fault: ``old`` occurs once in ``file`` and becomes ``new``; ``tests`` must then fail."""

    name: str
    file: str
    old: str
    new: str
    tests: tuple[str, ...]

    def apply(self, root: Path) -> str:
        """Return the text of the file with the fault."""
        path = root / self.file
        text = path.read_text(encoding="utf-8") if path.is_file() else ""
        count = text.count(self.old)
        if count != 1 or self.old == self.new:
            raise StaleError(f"{self.name}: {self.file} has its text {count} times, needed: once: {self.old!r}")
        for test in self.tests:
            if not (root / test.partition("::")[0]).exists():
                raise StaleError(f"{self.name}: no such test: {test}")
        return text.replace(self.old, self.new)


def load(path: Path = LIST) -> list[Mutant]:
    """Return the mutants of a list: file -> tests and name -> [old, new]."""
    text = path.read_text(encoding="utf-8")
    files = [key.value for key, _ in yaml.compose(text).value]
    if len(set(files)) < len(files):
        raise StaleError(f"has two entries: {sorted({file for file in files if files.count(file) > 1})}")
    document: dict[str, Any] = yaml.safe_load(text)
    found = [
        Mutant(name, file, *change[:2], tests=tuple((change[2] if len(change) > 2 else entry["tests"]).split()))
        for file, entry in document.items()
        for name, change in entry["mutants"].items()
    ]
    names = [mutant.name for mutant in found]
    if len(set(names)) < len(names):
        raise StaleError(f"named twice: {sorted({name for name in names if names.count(name) > 1})}")
    return found


def copy_of_the_tree(directory: Path) -> Path:
    """Copy what the tests need."""
    for name in COPIED:
        source, target = ROOT / name, directory / name
        if source.is_dir():
            shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__", "*.pyc"))
        else:
            shutil.copy2(source, target)
    (directory / "without_shrinking.py").write_text(PLUGIN, encoding="utf-8")
    return directory


def run_tests(root: Path, tests: Sequence[str]) -> tuple[int, str]:
    """Run tests on a copy; return pytest's exit code (1: a test failed, also where it ran too long) and its output."""
    # Without byte code, as a mutant may have the size and second of the source before it.
    env = {**os.environ, "PYTHONPATH": str(root), "PYTHONDONTWRITEBYTECODE": "1", "MPLBACKEND": "Agg"}
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", "-p", "without_shrinking", *tests]
    try:
        done = subprocess.run(
            command, cwd=root, env=env, capture_output=True, text=True, timeout=TIMEOUT_S, check=False
        )
    except subprocess.TimeoutExpired:
        return 1, f"longer than {TIMEOUT_S} s"
    finally:
        shutil.rmtree(root / ".hypothesis", ignore_errors=True)
    return done.returncode, done.stdout + done.stderr


def attempt(mutant: Mutant, root: Path) -> tuple[int, str]:
    """Run a mutant's tests with it in place, then take it out again."""
    path = root / mutant.file
    original = path.read_text(encoding="utf-8")
    path.write_text(mutant.apply(root), encoding="utf-8")
    try:
        return run_tests(root, mutant.tests)
    finally:
        path.write_text(original, encoding="utf-8")


def chosen(mutants: Iterable[Mutant], words: Sequence[str]) -> list[Mutant]:
    """Return those whose names contain one of the words; all without words."""
    return [mutant for mutant in mutants if not words or any(word in mutant.name for word in words)]


def main(arguments: Sequence[str] | None = None) -> int:
    """Try mutants; return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m tests.mutants", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help="part of a name (default: all mutants)")
    parser.add_argument("--list", action="store_true", help="show names and files, run nothing")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, metavar="N", help="at a time (one per core)")
    args = parser.parse_args(arguments)
    try:
        mutants = chosen(load(), args.names)
        for mutant in mutants:
            mutant.apply(ROOT)
    except StaleError as error:
        print(f"stale mutant: {error}", file=sys.stderr)
        return 2
    if not mutants:
        print(f"no mutant has a name with {' or '.join(args.names)}", file=sys.stderr)
        return 2
    if args.list:
        for mutant in mutants:
            print(f"{mutant.name:36} {mutant.file}")
        return 0
    started = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="mutants-") as scratch:
        copies: queue.Queue[Path] = queue.Queue()
        for number in range(max(1, min(args.jobs, len(mutants)))):
            copies.put(copy_of_the_tree(Path(scratch, str(number))))
        code = _run(mutants, copies)
    print(f"{time.monotonic() - started:.0f} s")
    return code


def _run(mutants: Sequence[Mutant], copies: queue.Queue[Path]) -> int:
    root = copies.get()
    copies.put(root)
    code, output = run_tests(root, list(dict.fromkeys(test for mutant in mutants for test in mutant.tests)))
    if code:
        print(f"the tests fail without a mutant:\n{output[-3000:]}", file=sys.stderr)
        return 2

    def one(mutant: Mutant) -> tuple[int, str]:
        copy = copies.get()
        try:
            return attempt(mutant, copy)
        finally:
            copies.put(copy)

    alive, broken = [], []
    with ThreadPoolExecutor(copies.qsize()) as pool:
        for mutant, (code, output) in zip(mutants, pool.map(one, mutants), strict=True):
            # Any other exit code says nothing of the tests: the mutant cannot be imported, say.
            verdict = {0: "ALIVE", 1: "killed"}.get(code, f"ERROR, pytest ended with {code}")
            print(f"{verdict:8} {mutant.name}", flush=True)
            if code == 0:
                alive.append(mutant.name)
            elif code != 1:
                broken.append(mutant.name)
                print(output[-1500:], file=sys.stderr)
    print(f"{len(mutants)} mutants, {len(mutants) - len(alive) - len(broken)} killed, {len(alive)} alive", end="")
    print(f", {len(broken)} without a verdict: " if broken else ": " if alive else ", ", end="")
    print("".join(f"{name} " for name in alive + broken), end="")
    return 2 if broken else 1 if alive else 0


if __name__ == "__main__":
    sys.exit(main())
