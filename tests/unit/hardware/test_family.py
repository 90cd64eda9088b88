"""Families of models in the catalogue."""

from __future__ import annotations

import pytest

from helixsim.domain.family import family
from helixsim.hardware import catalog


@pytest.mark.parametrize(("model", "name"), [
    ("llama-2-70b", "dense"), ("qwen3-32b", "dense"), ("mixtral-8x7b", "moe"), ("qwen3-235b-a22b", "moe"),
    ("gpt-oss-120b", "moe-sliding"), ("deepseek-v3", "moe-mla"), ("gemma-3-27b", "sliding"),
])  # fmt: skip
def test_a_family_is_the_feed_forward_and_the_attention(model, name) -> None:
    assert family(catalog.load_model(model)) == name
