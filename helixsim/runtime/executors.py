"""Tasks on a dask cluster, and the choice among the executors."""

from __future__ import annotations

import os
import pickle
import secrets
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

from helixsim.errors import ConfigError, WorkerError
from helixsim.plugins import added_folders, make_findable, write_modules, written_modules
from helixsim.runtime.identity import content_key
from helixsim.runtime.pool import Executor, OnProgress, Outcomes, Processes, Serial, Work, guarded, without_main
from helixsim.writing import write_text

_TIMEOUT_S = 8


def executor(jobs: int | None, dask: str | None, shared: Path) -> Executor:
    """Return the executor of every study.

    Parameters
    ----------
    jobs
        Number of processes; 1: this one, None: one per core.
    dask
        Address of a dask scheduler, or ``local`` for a cluster of ``jobs`` processes on this machine; None: no dask.
    shared
        Folder of results, which the workers of a dask cluster must see.
    """
    count = jobs or available_cores()
    if dask is not None:
        return Dask(dask, count, shared)
    return Serial() if count == 1 else Processes(count)


class Dask(Executor):
    """An existing dask cluster, or one of processes on this machine; its workers see the same files."""

    def __init__(self, address: str, workers: int, shared: Path) -> None:
        self.address = address
        self.count = workers
        self.shared = shared
        self._open = ExitStack()
        self._client: Any = None

    def run(self, work: Work, tasks: Sequence[Any], on_progress: OnProgress) -> Outcomes:
        """Yield the results as they come; dask itself begins a task again when its worker dies."""
        as_completed = _dask()[2]
        if not tasks:
            return
        if self._client is None:
            on_progress(0, 0.0, f"connecting to {self.address}")
            self._client = self._connect()
            on_progress(0, 0.0, "working")
        client = self._client
        # A task may hold instances of the user's own classes: it is unpickled once their folders are known.
        packed = [(added_folders(), written_modules(), pickle.dumps((work, task))) for task in tasks]
        numbers = {client.submit(_quiet, *one, pure=False): number for number, one in enumerate(packed)}
        try:
            for future in as_completed(list(numbers), loop=client.loop):
                failed = future.status != "finished"
                outcome = WorkerError(f"dask: {future.exception()}") if failed else future.result()
                yield numbers.pop(future), outcome
        finally:
            client.cancel(list(numbers))

    def close(self) -> None:
        """Leave the cluster; end a local one."""
        self._client = None
        self._open.close()

    def _connect(self) -> Any:
        client_class, local_cluster, _, _ = _dask()
        cluster = None
        if self.address == "local":
            with without_main():
                cluster = local_cluster(
                    n_workers=self.count, threads_per_worker=1, processes=True, dashboard_address=None,
                    silence_logs=50,
                )  # fmt: skip
            self._open.callback(cluster.close)
        else:
            self._ping()
        client = client_class(cluster or self.address, timeout=_TIMEOUT_S, set_as_default=False)
        self._open.callback(client.close)
        self._check_workers(client)
        return client

    def _ping(self) -> None:
        """See whether a scheduler answers: a client that gets no answer, or a strange one, takes its time to go."""
        import asyncio  # a tenth of what a short run imports

        connect = _dask()[3]

        async def ping() -> None:
            comm = await connect(self.address, timeout=_TIMEOUT_S)
            await comm.close()

        try:
            asyncio.run(ping())
        except (OSError, ValueError, TimeoutError) as error:
            raise ConfigError(
                f"--dask {self.address}: no scheduler answered within {_TIMEOUT_S} s ({error}); "
                "expected the address of a running one such as tcp://10.0.0.5:8786, or local"
            ) from error
        except Exception as error:  # whatever dask makes of bytes that are none of its own
            raise ConfigError(
                f"--dask {self.address}: what answers there is no dask scheduler ({type(error).__name__})"
            ) from error

    def _check_workers(self, client: Any) -> None:
        """Refuse a cluster without workers, of other code, or that does not see our files."""
        with suppress(TimeoutError):
            client.wait_for_workers(1, timeout=_TIMEOUT_S)
        probe = self.shared / f".probe-{os.getpid()}-{secrets.token_hex(4)}"
        self.shared.mkdir(parents=True, exist_ok=True)
        write_text(probe, content_key())
        try:
            answers = client.run(_seen_by_worker, str(probe.resolve()))
        except ModuleNotFoundError as error:
            raise ConfigError(f"--dask {self.address}: its workers have no helixsim ({error})") from error
        finally:
            probe.unlink()
        if not answers:
            raise ConfigError(f"--dask {self.address}: the scheduler has no workers")
        for worker, (code, seen, folder) in answers.items():
            if code != content_key():
                raise ConfigError(
                    f"--dask {self.address}: the worker {worker} has another helixsim, numpy, HiGHS or SimPy than this "
                    "process, and would give other results"
                )
            if seen != code:
                raise ConfigError(
                    f"--dask {self.address}: the worker {worker} does not see {self.shared.resolve()}; "
                    "--out must lie on a file system that all workers share"
                )
            if folder != str(Path.cwd()):
                raise ConfigError(
                    f"--dask {self.address}: the worker {worker} runs in {folder}, this process in {Path.cwd()}: "
                    "relative file names would lead elsewhere; start the workers in the folder of this process"
                )


def available_cores() -> int:
    """Return the cores this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _quiet(folders: Sequence[str], modules: Mapping[str, str], packed: bytes) -> Any:
    make_findable(folders)
    write_modules(modules)
    work, task = pickle.loads(packed)
    return guarded(work, task, lambda _share, _what: None)


def _seen_by_worker(path: str) -> tuple[str, str, str]:
    """Return the key of the worker's code and libraries, what it reads in a file of ours, and its working directory."""
    try:
        seen = Path(path).read_text(encoding="utf-8")
    except OSError:
        seen = ""
    return content_key(), seen, str(Path.cwd())


def _dask() -> tuple[Any, Any, Any, Any]:
    try:
        from dask.distributed import Client, LocalCluster, as_completed
        from distributed.comm.core import connect
    except ImportError as error:
        raise ConfigError("--dask needs dask.distributed: pip install 'helixsim[cluster]'") from error
    return Client, LocalCluster, as_completed, connect
