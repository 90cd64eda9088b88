"""How much faster a sweep is on two cores, and whether its results are the same bytes however it is run.

``python -m tests.bench.sweep_executors [SWEEP]``: the sweep in one process, in two, and on a local dask cluster of two
workers, each into an empty folder; wall and CPU seconds, and the files that differ from those of the first.
"""

from __future__ import annotations

import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

WAYS = {
    "--jobs 1": ("--jobs", "1"),
    "--jobs 2": ("--jobs", "2"),
    "--dask local --jobs 2": ("--dask", "local", "--jobs", "2"),
}
TIMED = "manifest.json"
"""The only file that tells when and how fast a run was: it may differ."""


def run(sweep: Path, out: Path, way: tuple[str, ...]) -> tuple[float, float]:
    """Return wall and CPU seconds, processes of the sweep included."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    started_s = time.perf_counter()
    subprocess.run([sys.executable, "-m", "helixsim", "sweep", sweep, "--out", out, "-q", *way], check=True,
                   stdout=subprocess.DEVNULL)  # fmt: skip
    wall_s = time.perf_counter() - started_s
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return wall_s, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def results(out: Path) -> dict[str, bytes]:
    """Return all result files of the sweep and of its points."""
    files = (path for path in sorted(out.rglob("*")) if path.is_file() and path.name != TIMED)
    return {str(path.relative_to(out)): path.read_bytes() for path in files if ".placements" not in path.parts}


def main() -> None:
    """Run the sweep in every way and print a row for each."""
    sweep = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).with_name("two-hundred-points.yaml")
    print(
        "| how | wall s | times the first | CPU s | load after | files | differ |\n|---|---|---|---|---|---|---|",
        flush=True,
    )
    first: dict[str, bytes] = {}
    first_s = 0.0
    for name, way in WAYS.items():
        with tempfile.TemporaryDirectory() as folder:
            wall_s, cpu_s = run(sweep, Path(folder), way)
            found = results(Path(folder))
        first, first_s = first or found, first_s or wall_s
        differ = [path for path in first.keys() | found.keys() if first.get(path) != found.get(path)]
        print(
            f"| {name} | {wall_s:.1f} | {first_s / wall_s:.2f} | {cpu_s:.1f} | {os.getloadavg()[0]:.1f} "
            f"| {len(found)} | {len(differ)} |",
            flush=True,
        )


main()
