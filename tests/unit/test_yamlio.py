"""Strict YAML: the rules of YAML 1.2, positions, refusals, and that what is dumped can be loaded again."""

from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from helixsim import yamlio
from helixsim.errors import ConfigError


def value(text):
    return yamlio.loads(f"a: {text}\n", "f").data["a"]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("1e6", 1e6),
        ("010", 10),
        ("0x10", 16),
        ("0o17", 15),
        ("-.5", -0.5),
        ("no", "no"),
        ("on", "on"),
        ("12:30", "12:30"),
        ("1_000", "1_000"),
        ("'1'", "1"),
        ("true", True),
        ("~", None),
        ("", None),
        (".inf", math.inf),
        ("2026-01-01", "2026-01-01"),
    ],
)
def test_scalars_follow_yaml_1_2(text, expected):
    got = value(text)
    assert got == expected
    assert type(got) is type(expected)


def test_not_a_number_is_a_float():
    assert math.isnan(value(".nan"))


def test_positions_of_values_keys_and_missing_keys():
    document = yamlio.loads("a: 1\nb:\n  - {c: 5 s}\n", "f.yaml")
    assert document.where(("b", 0, "c")) == "f.yaml:3:9"
    assert document.key_where(("b", 0, "c")) == "f.yaml:3:6"
    assert document.where(("b", 0, "missing")) == document.where(("b", 0)) == "f.yaml:3:5"


def test_duplicate_key_names_both_positions_and_all_faults_are_gathered():
    with pytest.raises(ConfigError) as caught:
        yamlio.loads("a: 1\nb: &x 2\na: 3\n", "f")
    assert "f:2:4" in str(caught.value)
    assert "f:3:1: a: duplicate key, first at f:1:1" in str(caught.value)


def test_the_first_of_two_duplicates_keeps_its_position():
    problems = []
    document = yamlio.loads("a: 1\na: {b: 2}\n", "f", problems)
    assert (document.data, document.where(("a",)), len(problems)) == ({"a": 1}, "f:1:4", 1)


@pytest.mark.parametrize(
    ("text", "where"),
    [
        ("a: [1", "f:"),
        ("a: &x 1\nb: *x\n", "f:2:4"),
        ("a: !!str 1", "f:1:4"),
        ("<<: {a: 1}", "f:1:1"),
        ("1: a", "f:1:1"),
        ("? [a]\n: 1", "f:1:3"),
        ("---\na: 1\n---\nb: 1\n", "f:3:1"),
        ("a: " + "[" * 200, "f:1:"),
        ("a: " + "9" * 5000, "f:1:4"),
        ("a: \x01", "f"),
    ],
)
def test_refusals_say_where(text, where):
    with pytest.raises(ConfigError) as caught:
        yamlio.loads(text, "f")
    assert any(problem.where.startswith(where) for problem in caught.value.problems)


def test_missing_file_and_wrong_encoding(tmp_path):
    with pytest.raises(ConfigError, match=r"nowhere\.yaml: cannot be read"):
        yamlio.load(tmp_path / "nowhere.yaml")
    (tmp_path / "latin.yaml").write_bytes(b"a: 1\nb: \xe9\n")
    with pytest.raises(ConfigError, match=r"latin\.yaml:2:4: byte 0xe9 is not UTF-8"):
        yamlio.load(tmp_path / "latin.yaml")


plain = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(st.characters(codec="utf-8")),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text("abn1.e:- ", min_size=1), inner, max_size=4),
    max_leaves=12,
)


@settings(deadline=None, max_examples=60)
@given(st.dictionaries(st.sampled_from(["a", "no", "1e6", "null", "x y"]), plain, max_size=4))
def test_what_is_dumped_is_loaded_again(data):
    assert yamlio.loads(yamlio.dump(data), "f").data == data
