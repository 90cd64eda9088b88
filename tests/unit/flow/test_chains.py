"""Chains: routes that neither branch nor merge."""

from __future__ import annotations

import pytest

from helixsim.domain.chains import chains


@pytest.mark.parametrize(
    ("first", "following", "expected"),
    [
        ("ab", {"a": "c", "c": "d"}, [["a", "c", "d"], ["b"]]),
        ("a", {"a": "bc"}, None),  # branches
        ("ab", {"a": "c", "b": "c"}, None),  # merges
        ("ab", {"a": "b"}, None),  # enters behind the first node, too
        ("", {}, []),
    ],
)
def test_routes_are_chains_unless_they_branch_or_meet(first, following, expected):
    assert chains(first, lambda node: following.get(node, "")) == expected
