"""Contract of every registered batching policy."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from helixsim.batching import registry
from helixsim.domain.hardware import BatchLimits
from helixsim.errors import ConfigError

LIMITS = st.builds(BatchLimits, st.integers(1, 4), st.integers(1, 3000), st.integers(1, 64))


@pytest.mark.parametrize("name", registry.names())
@given(prefills=st.lists(st.integers(1, 2000), max_size=8), decodes=st.integers(0, 200), limits=LIMITS)
def test_a_plan_keeps_the_limits_and_makes_progress(name, prefills, decodes, limits):
    policy_class = registry.get(name)
    policy = policy_class(policy_class.Options())
    taken_prefills, taken_decodes = policy.plan(prefills, decodes, limits)
    assert 0 <= taken_prefills <= min(len(prefills), limits.max_prefill_requests)
    assert 0 <= taken_decodes <= min(decodes, limits.max_decode_seqs)
    assert sum(prefills[:taken_prefills]) <= limits.max_prefill_tokens or taken_prefills == 1
    assert taken_prefills + taken_decodes > 0 or not (prefills or decodes)
    assert policy.plan(prefills, decodes, limits) == (taken_prefills, taken_decodes)


def test_prefill_first_never_mixes():
    policy_class = registry.get("prefill_first")
    policy = policy_class(policy_class.Options())
    assert policy.plan([10, 20], 5, BatchLimits(4, 100, 64)) == (2, 0)
    assert policy.plan([], 5, BatchLimits(4, 100, 64)) == (0, 5)


def test_unknown_names_say_what_is_known():
    with pytest.raises(ConfigError, match=r"unknown batching policy 'continous'; did you mean 'continuous'\?"):
        registry.get("continous")


def test_a_class_that_is_no_policy_is_refused():
    with pytest.raises(ConfigError, match="lacks summary, Options, plan"):
        registry.get("collections:OrderedDict")
