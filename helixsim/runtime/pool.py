"""Executors of tasks: in this process, or in a process pool that survives worker crashes.

These and the dask cluster of ``executors`` take a function at module level and a list of tasks, and yield (number of
the task, outcome) as tasks end, in any order. The outcome is what the function returned, or a ``HelixsimError`` where
it raised: expected errors as they are, all others as ``errors.typed_error`` has them. Results must not depend on where
or when the function runs. When a process dies its task is given to another process; after ``ATTEMPTS`` deaths the
outcome is a ``WorkerError``. Processes and connections serve one list of tasks after the other until the executor is
closed, and no worker outlives the process that started it.
"""

from __future__ import annotations

import ctypes
import multiprocessing
import os
import signal
import sys
import threading
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from types import TracebackType
from typing import Any, Self

from helixsim.errors import WorkerError, typed_error

ATTEMPTS = 3
"""Times a task is begun before it is given up because its process died each time."""

POLL_S = 0.5
_PR_SET_PDEATHSIG = 1

Report = Callable[[float, str], None]
"""Tells how much of a task is done, 0..1, and what is being done."""

Work = Callable[[Any, Report], Any]
"""Carries out one task."""

OnProgress = Callable[[int, float, str], None]
"""Called with (number of the task, share done, what is being done)."""

Outcomes = Generator[tuple[int, Any], None, None]
"""Tasks by number as they end, each with its result or its ``HelixsimError``."""


class Executor(ABC):
    """Carries out tasks; as a context it is closed in the end. ``count``: tasks that it carries out at once."""

    count: int = 1

    @abstractmethod
    def run(self, work: Work, tasks: Sequence[Any], on_progress: OnProgress) -> Outcomes:
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


def in_order(
    executor: Executor, work: Work, tasks: Sequence[Any], on_progress: OnProgress
) -> Generator[Any, None, None]:
    """Yield the outcomes of ``Executor.run`` in the order of the tasks; when closed early, stop what is running."""
    waiting: dict[int, Any] = {}
    following = 0
    with closing(executor.run(work, tasks, on_progress)) as outcomes:
        for number, outcome in outcomes:
            waiting[number] = outcome
            while following in waiting:
                yield waiting.pop(following)
                following += 1


class Serial(Executor):
    """One task after the other in this process."""

    def run(self, work: Work, tasks: Sequence[Any], on_progress: OnProgress) -> Outcomes:
        """Yield the results in order."""
        for number, task in enumerate(tasks):

            def report(share: float, what: str, number: int = number) -> None:
                on_progress(number, share, what)

            yield number, guarded(work, task, report)


class Processes(Executor):
    """A process pool that survives worker crashes, which ``concurrent.futures.ProcessPoolExecutor`` does not."""

    def __init__(self, count: int) -> None:
        self.count = count
        self._pool: list[_Worker] = []

    def run(self, work: Work, tasks: Sequence[Any], on_progress: OnProgress) -> Outcomes:
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
        with without_main():
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
def without_main() -> Iterator[None]:
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
        pipe.send(_Done(guarded(work, task, lambda share, what: pipe.send(_Progress(share, what)))))


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


def guarded(work: Work, task: Any, report: Report) -> Any:
    """Return the result, or the error that the function raised."""
    try:
        return work(task, report)
    except Exception as error:
        return typed_error(error)
