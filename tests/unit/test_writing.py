"""Files appear whole or not at all, and a link in their place is replaced, never followed."""

from __future__ import annotations

import os
import threading

import pytest

from helixsim.workload.lengths import fit
from helixsim.writing import new_file, write_bytes, write_text


def test_a_link_in_the_place_of_a_file_is_replaced_and_its_target_left_alone(tmp_path):
    mine = tmp_path / "mine.txt"
    mine.write_text("mine")
    (tmp_path / "a").symlink_to(mine)
    (tmp_path / "b").symlink_to(tmp_path / "nowhere")
    for name in "ab":
        write_text(tmp_path / name, "theirs\r\n")
        assert not (tmp_path / name).is_symlink()
        assert (tmp_path / name).read_bytes() == b"theirs\r\n"
    assert mine.read_text() == "mine"
    assert not (tmp_path / "nowhere").exists()


def test_what_fails_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "a"
    path.write_text("old")
    with pytest.raises(TypeError), new_file(path) as file:
        file.writelines([b"half", "no bytes"])
    assert [(one.name, one.read_text()) for one in tmp_path.iterdir()] == [("a", "old")]


def test_the_file_is_named_by_its_own_name_where_it_cannot_be_written(tmp_path):
    with pytest.raises(FileNotFoundError) as caught:
        write_text(tmp_path / "missing" / "a", "")
    assert caught.value.filename == str(tmp_path / "missing" / "a")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "x").touch()
    with pytest.raises(OSError, match="not empty"):
        write_text(tmp_path / "full", "")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["full"]


@pytest.mark.parametrize("name", ["n" * 255, "ü" * 127])
def test_the_longest_names_of_files_can_be_written(tmp_path, name):
    write_bytes(tmp_path / name, b"x")
    assert (tmp_path / name).read_bytes() == b"x"


def test_a_pipe_is_written_to_and_stays_one(tmp_path):
    path = tmp_path / "pipe"
    os.mkfifo(path)
    got = []
    reader = threading.Thread(target=lambda: got.append(path.read_bytes()))
    reader.start()
    write_text(path, "text", devices=True)
    reader.join(10)
    assert got == [b"text"]
    assert path.is_fifo()
    write_text(path, "text")  # in a folder of ours a pipe that somebody put there is replaced, not waited for
    assert path.read_bytes() == b"text"


def test_rights_of_new_files_are_those_of_the_umask(tmp_path):
    old = os.umask(0o027)
    try:
        write_text(tmp_path / "a", "")
    finally:
        os.umask(old)
    assert (tmp_path / "a").stat().st_mode & 0o777 == 0o640


def test_no_module_writes_files_in_another_way():
    """One function is safe against links and full disks; a second way would have to be made safe again."""
    from pathlib import Path

    import helixsim

    package = Path(helixsim.__file__).parent
    ways = (".write_text(", ".write_bytes(", '.open("w', '.open("x', '.open("a', ".touch(", "NamedTemporaryFile(")
    found = [
        f"{path.relative_to(package)}: {line.strip()}"
        for path in package.rglob("*.py")
        for line in path.read_text(encoding="utf-8").splitlines()
        if any(way in line for way in ways)
    ]
    assert found == []
    assert fit.save_histogram  # the rooms were imported from this checkout
