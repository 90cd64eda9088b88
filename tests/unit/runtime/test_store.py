"""Kept results are those that were computed, or they are computed again."""

from __future__ import annotations

import errno
import json
import logging
import multiprocessing
import os
import time

import pytest

from helixsim.errors import DataError
from helixsim.runtime import store as module
from helixsim.runtime.store import Codec, Store
from helixsim.writing import write_text

KEY = "0123456789abcdef"


def as_numbers(payload):
    if not all(isinstance(one, float) for one in payload["numbers"]):
        raise ValueError("not numbers")
    return tuple(payload["numbers"])


CODEC = Codec(lambda numbers: {"numbers": list(numbers)}, as_numbers)


def store_in(path, **options):
    return Store(path / "kept", "numbers", 1, CODEC, **options)


@pytest.fixture
def filled(tmp_path):
    store = store_in(tmp_path)
    store.put(KEY, (1.5, float("inf")))
    return store


def computed():
    computed.times += 1
    return (2.5,)


@pytest.fixture(autouse=True)
def _count():
    computed.times = 0


def test_a_result_is_computed_once(tmp_path):
    store = store_in(tmp_path)
    assert store.get(KEY) is None
    assert [store.obtain(KEY, computed) for _ in range(3)] == [(2.5,)] * 3
    assert store_in(tmp_path).obtain(KEY, computed) == (2.5,)
    assert computed.times == 1
    assert [path.name for path in store.directory.iterdir()] == [f"{KEY}.json"]


def test_renew_computes_anew_and_replaces(filled, tmp_path):
    assert store_in(tmp_path, renew=True).obtain(KEY, computed) == (2.5,)
    assert filled.get(KEY) == (2.5,)


def test_what_a_value_becomes_on_disk_is_what_the_first_caller_gets_too(tmp_path):
    store = Store(tmp_path, "plain", 1, Codec(lambda value: value, lambda value: value))
    assert store.obtain(KEY, lambda: {"pair": (1, 2)}) == {"pair": [1, 2]} == store.get(KEY)


def rewritten(change):
    def damage(path):
        document = json.loads(path.read_text())
        change(document)
        path.write_text(json.dumps(document))

    return damage


def replaced_by_folder(path):
    path.unlink()
    path.mkdir()


def replaced_by_link(path):
    target = path.with_name("moved")
    path.rename(target)
    path.symlink_to(target)


def replaced_by_pipe(path):
    path.unlink()
    os.mkfifo(path)


DAMAGE = {
    "cut": lambda path: path.write_bytes(path.read_bytes()[:40]),
    "empty": lambda path: path.write_bytes(b""),
    "not text": lambda path: path.write_bytes(b"\0\xff\xfe" * 20),
    "another document": lambda path: path.write_text("{}"),
    "null": lambda path: path.write_text("null"),
    "list": lambda path: path.write_text("[1]"),
    "nested too deep": lambda path: path.write_text("[" * 100_000),
    "edited": rewritten(lambda document: document["payload"].update(numbers=[9.0])),
    "wrong types": rewritten(lambda document: document.update(payload=7)),
    "other schema": rewritten(lambda document: document.update(schema=2)),
    "other kind": rewritten(lambda document: document.update(kind="letters")),
    "of another key": rewritten(lambda document: document.update(key="f" * 16)),
    "without digest": rewritten(lambda document: document.pop("sha256")),
    "gone": lambda path: path.unlink(),
    "folder": replaced_by_folder,
    "link": replaced_by_link,
    "pipe": replaced_by_pipe,
}


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE)
def test_what_does_not_check_out_is_computed_again(filled, damage):
    damage(filled.path(KEY))
    assert filled.get(KEY) is None
    assert filled.obtain(KEY, computed) == (2.5,)
    assert filled.get(KEY) == (2.5,)
    assert computed.times == 1
    assert filled.path(KEY).is_file()
    assert not filled.path(KEY).is_symlink()


def test_a_payload_that_cannot_be_decoded_any_more_is_computed_again(tmp_path):
    Store(tmp_path / "kept", "numbers", 1, Codec(lambda text: {"numbers": text}, lambda payload: payload)).put(KEY, "x")
    assert store_in(tmp_path).obtain(KEY, computed) == (2.5,)


def test_a_link_in_the_way_is_replaced_and_its_target_left_alone(filled):
    mine = filled.directory.parent / "mine.txt"
    mine.write_text("mine")
    filled.path(KEY).unlink()
    filled.path(KEY).symlink_to(mine)
    (filled.directory / f"{KEY}.lock").symlink_to(mine)
    assert filled.obtain(KEY, computed) == (2.5,)
    assert mine.read_text() == "mine"
    assert filled.get(KEY) == (2.5,)


def test_a_failed_computation_keeps_nothing_and_frees_the_key(tmp_path):
    store = store_in(tmp_path)
    with pytest.raises(ZeroDivisionError):
        store.obtain(KEY, lambda: 1 / 0)
    assert store.obtain(KEY, computed) == (2.5,)


@pytest.mark.parametrize("number", [errno.EACCES, errno.EROFS])
def test_without_the_right_to_write_results_are_returned_and_that_is_said_once(tmp_path, monkeypatch, caplog, number):
    def refuse(path, text):
        raise OSError(number, os.strerror(number), str(path))

    monkeypatch.setattr(module, "write_text", refuse)
    monkeypatch.setattr(module, "_told", set())
    store = store_in(tmp_path)
    with caplog.at_level(logging.WARNING):
        assert store.obtain(KEY, computed) == store.obtain(KEY, computed) == (2.5,)
    assert computed.times == 2
    assert len(caplog.records) == 1


def test_a_full_disk_is_an_error_and_leaves_nothing(tmp_path, monkeypatch):
    def full(scratch, path):
        raise OSError(errno.ENOSPC, "No space left on device", str(path))

    monkeypatch.setattr(type(tmp_path), "replace", full)
    store = store_in(tmp_path)
    with pytest.raises(DataError, match="No space left"):
        store.obtain(KEY, computed)
    assert list(store.directory.iterdir()) == []


def test_a_file_where_the_folder_belongs_is_an_error(tmp_path):
    (tmp_path / "kept").write_text("x")
    with pytest.raises(DataError, match="cannot be written"):
        store_in(tmp_path).obtain(KEY, computed)
    assert (tmp_path / "kept").read_text() == "x"


def test_a_file_is_written_whole_with_the_usual_rights(tmp_path):
    before = os.umask(0o027)
    try:
        write_text(tmp_path / "a", "text")
    finally:
        os.umask(before)
    assert (tmp_path / "a").stat().st_mode & 0o777 == 0o640
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def slowly(path, log):
    def compute():
        with log.open("a") as file:
            file.write("computed\n")
        time.sleep(0.3)
        return (4.5,)

    assert store_in(path).obtain(KEY, compute) == (4.5,)


def test_while_one_process_computes_the_others_wait(tmp_path):
    log = tmp_path / "log"
    context = multiprocessing.get_context("fork")
    processes = [context.Process(target=slowly, args=(tmp_path, log)) for _ in range(4)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(30)
    assert [process.exitcode for process in processes] == [0] * 4
    assert log.read_text() == "computed\n"
    assert [path.name for path in (tmp_path / "kept").iterdir()] == [f"{KEY}.json"]
