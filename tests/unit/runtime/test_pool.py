"""Executors give the same results, outlive their workers' deaths, and stop when told to."""

from __future__ import annotations

import multiprocessing
import os
import signal
import socket
import threading

import pytest
from working import die_until_marked, fail_on_three, own_process, sleep, square

from helixsim.errors import ConfigError, PluginError, WorkerError
from helixsim.runtime.executors import Dask
from helixsim.runtime.pool import Processes, Serial


def silent(_number, _share, _what):
    pass


@pytest.mark.parametrize("executor", [Serial(), Processes(1), Processes(3)], ids=["serial", "one", "three"])
def test_every_task_is_done_once(executor):
    heard = []
    with executor:
        done = list(executor.run(square, list(range(7)), lambda number, share, what: heard.append((number, share))))
    assert sorted(done) == [(number, number * number) for number in range(7)]
    assert sorted(heard) == [(number, 0.5) for number in range(7)]


@pytest.mark.parametrize("executor", [Serial(), Processes(2)], ids=["serial", "two"])
def test_a_task_that_fails_unforeseen_does_not_stop_the_others(executor):
    with executor:
        done = dict(executor.run(fail_on_three, [1, 2, 3, 4], silent))
    assert [done[number] for number in (0, 1, 3)] == [1, 2, 4]
    assert isinstance(done[2], PluginError)  # these tests are code of the user's own to helixsim
    assert "working.py:" in str(done[2])
    assert "in fail_on_three: ZeroDivisionError: three" in str(done[2])


def test_a_task_whose_process_dies_is_begun_again_and_given_up_in_the_end(tmp_path):
    tasks = [(str(tmp_path / "twice"), 2), (str(tmp_path / "never"), 0), (str(tmp_path / "always"), 99)]
    with Processes(2) as executor:
        done = dict(executor.run(die_until_marked, tasks, silent))
    assert (done[0], done[1]) == (2, 0)
    assert isinstance(done[2], WorkerError)
    assert "died 3 times (exit code -9)" in str(done[2])


def test_closing_stops_the_processes():
    with Processes(2) as executor:
        running = executor.run(sleep, [60, 0, 60], silent)
        assert next(running) == (1, None)
        running.close()
        assert len(multiprocessing.active_children()) == 1  # the idle one, ready for what comes next
    assert multiprocessing.active_children() == []


def test_processes_serve_one_list_of_tasks_after_the_other():
    with Processes(2) as executor:
        first = {pid for _, pid in executor.run(own_process, [0, 1, 2], silent)}
        assert {pid for _, pid in executor.run(own_process, [0, 1, 2], silent)} <= first
        os.kill(min(first), signal.SIGKILL)
        assert len(list(executor.run(own_process, [0, 1, 2, 3], silent))) == 4
        assert multiprocessing.active_children() != []
    assert multiprocessing.active_children() == []


@pytest.fixture
def stranger():
    """The address of a server that answers, but not as a dask scheduler would."""

    def answer(server):
        while True:
            try:
                client, _ = server.accept()
            except OSError:
                return
            client.sendall(b"HTTP/1.1 400 Bad Request" * 4)
            client.close()

    with socket.create_server(("127.0.0.1", 0)) as server:
        threading.Thread(target=answer, args=(server,), daemon=True).start()
        yield f"tcp://127.0.0.1:{server.getsockname()[1]}"
        server.shutdown(socket.SHUT_RDWR)


def test_an_address_that_is_no_schedulers(stranger, tmp_path):
    pytest.importorskip("dask.distributed")
    for address, message in (
        (stranger, "no dask scheduler|no scheduler answered"),
        ("nonsense://x", "unknown address"),
    ):
        with Dask(address, 1, tmp_path) as executor, pytest.raises(ConfigError, match=message):
            list(executor.run(square, [1], silent))


@pytest.mark.slow
def test_one_dask_cluster_serves_one_list_of_tasks_after_the_other(tmp_path):
    pytest.importorskip("dask.distributed")
    with Dask("local", 1, tmp_path) as executor:
        first = dict(executor.run(own_process, [0, 1], silent))
        assert set(first) == {0, 1}
        assert dict(executor.run(own_process, [0, 1], silent)) == first
        failed = dict(executor.run(fail_on_three, [3, 4], silent))
        assert isinstance(failed[0], PluginError)
        assert failed[1] == 4


def test_workers_outlive_the_thread_that_started_them():
    with Processes(1) as executor:
        first = []
        thread = threading.Thread(target=lambda: first.extend(executor.run(own_process, [0], silent)))
        thread.start()
        thread.join()
        assert list(executor.run(own_process, [0], silent)) == first
