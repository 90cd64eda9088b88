"""Executors of tasks: in this process, in a process pool that survives worker crashes, or on a dask cluster.

All three take a function at module level and a list of tasks, and yield (number of the task, outcome) as tasks end, in
any order. The outcome is what the function returned, or a ``HelixsimError`` where it raised: expected errors as they
are, all others as ``errors.typed_error`` has them. Results must not depend on where or when the function runs. When a
process dies its task is given to another process; after ``ATTEMPTS`` deaths the outcome is a ``WorkerError``. Processes
and connections serve one list of tasks after the other until the executor is closed, and no worker outlives the
process that started it.
"""

from __future__ import annotations

import asyncio
import ctypes
import multiprocessing
import os
import pickle
import secrets
import signal
import sys
import threading
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from helixsim.errors import ConfigError, WorkerError, typed_error
from helixsim.plugins import added_folders, make_findable
from helixsim.runtime.identity import content_key
from helixsim.writing import write_text

ATTEMPTS = 3
"""Times a task is begun before it is given up because its process died each time."""

POLL_S = 0.5
_PR_SET_PDEATHSIG = 1
_DASK_TIMEOUT_S = 8

Report = Callable[[float, str], None]
"""Tells how much of a task is done, 0..1, and what is being done."""

Work = Callable[[Any, Report], Any]
"""Carries out one task."""

OnProgress = Callable[[int, float, str], None]
"""Called with (number of the task, share done, what is being done)."""


class Executor(ABC):
    """Carries out tasks; as a context it is closed in the end."""

    @abstractmethod
    def run(self, work: Work, tasks: Sequence[Any], on_progress: OnProgress) -> Iterator[tuple[int, Any]]:
        """Yield (number, result or ``HelixsimError``) of tasks as they end; when closed early, stop what is running."""

    def carry_out(self, work: Work, tasks: Sequence[Any], report: Report) -> Iterator[tuple[int, Any]]:
        """Yield what ``run`` does; ``report`` is told how much of all tasks is done, 0..1, and what is being done."""
        shares = [0.0] * len(tasks)

        def on_progress(number: int, share: float, what: str) -> None:
            shares[number] = share
            report(sum(shares) / len(shares), what)

        for number, outcome in self.run(work, tasks, on_progress):
            on_progress(number, 1.0, "")
            yield number, outcome

    def close(self) -> None:  # noqa: B027 - not every executor has something to end
        """End what was started."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class Serial(Executor):
    """One task after the other in this process."""

    def run(self, work: Work, tasks: Sequence[Any], on_progress: OnProgress) -> Iterator[tuple[int, Any]]:
        """Yield the results in order."""
        for number, task in enumerate(tasks):

            def report(share: float, what: str, number: int = number) -> None:
                on_progress(number, share, what)

            yield number, _guarded(work, task, report)


class Processes(Executor):
    """A process pool that survives worker crashes, which ``concurrent.futures.ProcessPoolExecutor`` does not."""

    def __init__(self, count: int) -> None:
        self.count = count
        self._pool: list[_Worker] = []

    def run(self, work: Work, tasks: Sequence[Any], on_progress: OnProgress) -> Iterator[tuple[int, Any]]:
        """Yield the results as they come."""
        context = multiprocessing.get_context("spawn")
        waiting = deque(range(len(tasks)))
        begun = [0] * len(tasks)
        pool = self._pool
        try:
            while waiting or any(worker.number is not None for worker in pool):
                idle = [worker for worker in pool if worker.number is None]
                while waiting and (idle or len(pool) < self.count):
                    worker = idle.pop() if idle else _Worker(context)
                    if worker not in pool:
                        pool.append(worker)
                    number = waiting.popleft()
                    begun[number] += 1
                    worker.start(number, work, tasks[number])
                for worker in _ready(pool):
                    number = worker.number if worker.number is not None else -1
                    message = worker.receive()
                    if message is None:
                        pool.remove(worker)
                        report = worker.exit_report()
                        if begun[number] < ATTEMPTS:
                            waiting.appendleft(number)
                        else:
                            yield number, WorkerError(f"its process died {ATTEMPTS} times ({report})")
                    elif isinstance(message, _Progress):
                        on_progress(number, message.share, message.what)
                    else:
                        worker.number = None
                        yield number, message.result
        finally:
            for worker in [worker for worker in pool if worker.number is not None]:
                pool.remove(worker)
                worker.stop()

    def close(self) -> None:
        """End the processes."""
        while self._pool:
            self._pool.pop().stop()


class Dask(Executor):
    """An existing dask cluster, or one of processes on this machine; its workers see the same files."""

    def __init__(self, address: str, workers: int, shared: Path) -> None:
        self.address = address
        self.workers = workers
        self.shared = shared
        self._open = ExitStack()
        self._client: Any = None

    def run(self, work: Work, tasks: Sequence[Any], on_progress: OnProgress) -> Iterator[tuple[int, Any]]:
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
        packed = [(added_folders(), pickle.dumps((work, task))) for task in tasks]
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
            cluster = local_cluster(
                n_workers=self.workers, threads_per_worker=1, processes=True, dashboard_address=None, silence_logs=50
            )
            self._open.callback(cluster.close)
        else:
            self._ping()
        client = client_class(cluster or self.address, timeout=_DASK_TIMEOUT_S, set_as_default=False)
        self._open.callback(client.close)
        self._check_workers(client)
        return client

    def _ping(self) -> None:
        """See whether a scheduler answers: a client that gets no answer, or a strange one, takes its time to go."""
        connect = _dask()[3]

        async def ping() -> None:
            comm = await connect(self.address, timeout=_DASK_TIMEOUT_S)
            await comm.close()

        try:
            asyncio.run(ping())
        except (OSError, ValueError, TimeoutError) as error:
            raise ConfigError(
                f"--dask {self.address}: no scheduler answered within {_DASK_TIMEOUT_S} s ({error}); "
                "expected the address of a running one such as tcp://10.0.0.5:8786, or local"
            ) from error
        except Exception as error:  # whatever dask makes of bytes that are none of its own
            raise ConfigError(
                f"--dask {self.address}: what answers there is no dask scheduler ({type(error).__name__})"
            ) from error

    def _check_workers(self, client: Any) -> None:
        """Refuse a cluster without workers, of other code, or that does not see our files."""
        with suppress(TimeoutError):
            client.wait_for_workers(1, timeout=_DASK_TIMEOUT_S)
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


def available_cores() -> int:
    """Return the cores this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


@dataclass(frozen=True, slots=True)
class _Progress:
    share: float
    what: str


@dataclass(frozen=True, slots=True)
class _Done:
    result: Any


class _Worker:
    """One process of the pool and the pipe to it."""

    def __init__(self, context: Any) -> None:
        self.pipe, theirs = context.Pipe()
        is_main = threading.current_thread() is threading.main_thread()
        self.process = context.Process(target=_serve, args=(theirs, is_main), daemon=True)
        with _without_main():
            self.process.start()
        theirs.close()
        self.number: int | None = None

    def start(self, number: int, work: Work, task: Any) -> None:
        """Hand over a task."""
        self.number = number
        with suppress(OSError):  # already dead: ``receive`` tells
            self.pipe.send((work, task))

    def receive(self) -> _Progress | _Done | None:
        """Return what the process says, None if it has died."""
        try:
            message: _Progress | _Done = self.pipe.recv()
            return message
        except (EOFError, OSError):
            return None

    def exit_report(self) -> str:
        """Return how a dead process ended, and leave nothing of it."""
        self.process.join(POLL_S)
        exitcode = self.process.exitcode
        self.stop()
        return f"exit code {exitcode}"

    def stop(self) -> None:
        """End the process without waiting for its task."""
        self.process.terminate()
        self.process.join()
        self.pipe.close()


@contextmanager
def _without_main() -> Iterator[None]:
    """Start processes that do not import the script of their parent again.

    They need nothing of it, for tasks are functions of helixsim and classes of the user's own are found by import
    path. Scripts can therefore do without ``if __name__ == "__main__"``.
    """
    main = sys.modules["__main__"]
    hidden = {name: main.__dict__.pop(name) for name in ("__file__",) if name in main.__dict__}
    spec, main.__spec__ = getattr(main, "__spec__", None), None
    try:
        yield
    finally:
        main.__spec__ = spec
        main.__dict__.update(hidden)


def _ready(pool: Sequence[_Worker]) -> list[_Worker]:
    ready = wait([worker.pipe for worker in pool if worker.number is not None], POLL_S)
    return [worker for worker in pool if worker.pipe in ready]


def _serve(pipe: Connection, is_main: bool) -> None:
    """Carry out tasks until the parent is gone, which alone handles Ctrl-C.

    ``is_main``: the thread that started this process is the main one, and ends with the parent only.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    _end_with_parent(by_kernel=is_main and sys.platform == "linux")
    while True:
        try:
            work, task = pipe.recv()
        except EOFError:
            return
        pipe.send(_Done(_guarded(work, task, lambda share, what: pipe.send(_Progress(share, what)))))


def _end_with_parent(*, by_kernel: bool) -> None:
    """End this process when the one that started it ends, whatever that died of.

    ``by_kernel``: also by the kernel's own means, which reaches a process that is busy in a C library. It counts the
    end of the thread that started the process as its parent's.
    """
    parent = multiprocessing.parent_process()
    if parent is None:
        return
    if by_kernel:
        with suppress(OSError, AttributeError):
            ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)

    def watch() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _guarded(work: Work, task: Any, report: Report) -> Any:
    """Return the result, or the error that the function raised."""
    try:
        return work(task, report)
    except Exception as error:
        return typed_error(error)


def _quiet(folders: Sequence[str], packed: bytes) -> Any:
    make_findable(folders)
    work, task = pickle.loads(packed)
    return _guarded(work, task, lambda _share, _what: None)


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
