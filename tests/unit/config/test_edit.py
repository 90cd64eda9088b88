"""Edits: one language of changes, its text form and back, and what it may not hold."""

from __future__ import annotations

import subprocess
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from helixsim.config.edit import Edit, edits_of, parse_option
from helixsim.errors import ConfigError

TEXT = st.text(st.characters(exclude_categories=["Cs"]))
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=8,
)


@given(VALUES)
def test_the_text_of_an_edit_reads_back_to_the_same_edit(value):
    edit = Edit.of("a.0.b", value)
    assert parse_option(edit.text) == edit


def test_an_option_survives_the_shell():

    edit = Edit.of("name", 'it\'s $HOME "here"')
    option, text = subprocess.check_output(["sh", "-c", f"printf '%s\\n' {edit.as_option()}"], text=True).splitlines()
    assert (option, parse_option(text)) == ("--set", edit)
    assert Edit.of("a.b", 2).as_option() == "--set 'a.b=2'"


def test_edits_are_equal_if_they_do_the_same():
    assert Edit.of("a.0", [1, 2]) == Edit.of(("a", 0), (1, 2), "somewhere")
    assert len({Edit.of("a", {"x": 1, "y": 2}), Edit.of("a", {"y": 2, "x": 1}, "elsewhere")}) == 1
    assert Edit.of("a", 1) != Edit.of("a", True)
    assert Edit.of("a", "f.csv") != Edit.of("a", "f.csv", directory="elsewhere")


def test_values_become_plain_data_of_their_own():
    given = {"rates": (1, np.int64(2), np.float64(0.5)), "file": Path("a/b")}
    (edit,) = edits_of({"x": given})
    assert edit.value == {"rates": [1, 2, 0.5], "file": "a/b"}
    assert [type(one) for one in edit.value["rates"]] == [int, int, float]
    given["file"] = "changed"
    assert edit.value["file"] == "a/b"


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("", 1, "expected a key such as workload.arrivals.rate, got ''"),
        ("a..b", 1, r"got 'a\.\.b'"),
        (("a", "b.c"), 1, "a key with a dot in it cannot be edited"),
        ("a", object(), "a: expected plain data"),
        ("a", {1: 2}, "a: a key must be text, got 1"),
        ("a", np.zeros(2), "a: expected plain data"),
    ],
)
def test_what_is_no_edit_is_refused_with_its_origin(key, value, words):
    with pytest.raises(ConfigError, match=f"^sweep.yaml:3:1: .*{words}"):
        Edit.of(key, value, "sweep.yaml:3:1")
