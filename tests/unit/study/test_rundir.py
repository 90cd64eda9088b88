"""A directory of results replaces only directories of results."""

from __future__ import annotations

import json

import pytest

from helixsim.errors import DataError
from helixsim.study.rundir import new_directory, refuse_foreign


def fill(target, content="new"):
    with new_directory(target) as scratch:
        (scratch / "a").write_text(content)


def test_a_directory_of_results_is_replaced_even_without_its_manifest(tmp_path):
    fill(tmp_path / "run", "old")
    fill(tmp_path / "run")
    assert (tmp_path / "run" / "a").read_text() == "new"
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


def test_results_of_an_older_version_are_known_by_their_manifest(tmp_path):
    run = tmp_path / "run"
    run.mkdir()
    (run / "manifest.json").write_text(json.dumps({"schema": 1, "identity": {}}))
    fill(run)
    assert (run / "a").read_text() == "new"


@pytest.mark.parametrize("manifest", [None, "{}", "[1]", "no JSON", '{"name": "an app", "icons": []}'])
def test_a_foreign_folder_is_refused_and_left_as_it_is(tmp_path, manifest):
    run = tmp_path / "run"
    run.mkdir()
    (run / "thesis.tex").write_text("years of work")
    if manifest is not None:
        (run / "manifest.json").write_text(manifest)
    before = sorted(path.name for path in run.iterdir())
    with pytest.raises(DataError, match="helixsim has not left there"):
        fill(run)
    assert sorted(path.name for path in run.iterdir()) == before
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


def test_an_empty_folder_is_filled(tmp_path):
    (tmp_path / "run").mkdir()
    fill(tmp_path / "run")
    assert (tmp_path / "run" / "a").read_text() == "new"


@pytest.mark.parametrize("target", ["folder", "nowhere", "file"])
def test_links_are_neither_replaced_nor_followed(tmp_path, target):
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "mine").touch()
    (tmp_path / "file").touch()
    (tmp_path / "run").symlink_to(tmp_path / target)
    with pytest.raises(DataError, match="is a link"):
        fill(tmp_path / "run")
    assert (tmp_path / "run").is_symlink()
    assert (tmp_path / "folder" / "mine").exists()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "folder", "run"]


def test_a_file_in_the_place_of_the_directory_is_refused(tmp_path):
    (tmp_path / "run").touch()
    with pytest.raises(DataError, match="is a file"):
        refuse_foreign(tmp_path / "run")


def test_a_directory_that_fails_leaves_the_old_one(tmp_path):
    fill(tmp_path / "run", "old")
    with pytest.raises(KeyError), new_directory(tmp_path / "run"):
        raise KeyError
    assert (tmp_path / "run" / "a").read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["run"]
