"""Systems kept for an interrupted run come back as they were, or not at all."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from helixsim.study.finished import Simulated, SimulatedStore

KEY = "0" * 64


@pytest.fixture
def simulated(fake_runs) -> Simulated:
    simulation = fake_runs["helix"].simulation
    return Simulated(simulation.placement, simulation.result)


def plain(value):
    """Return nested lists and values that compare with ``==``."""
    if isinstance(value, np.ndarray):
        return (value.dtype.str, value.tolist())
    if dataclasses.is_dataclass(value):
        return {field.name: plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, dict):
        return {key: plain(one) for key, one in value.items()}
    return [plain(one) for one in value] if isinstance(value, (list, tuple)) else value


def test_a_system_comes_back_as_it_was(simulated, tmp_path):
    store = SimulatedStore(tmp_path / "systems")
    assert store.get(KEY) is None
    store.keep(KEY, simulated)
    assert plain(store.get(KEY)) == plain(simulated)
    assert store.get("1" * 64) is None
    assert SimulatedStore(tmp_path / "systems", renew=True).get(KEY) is None


def test_a_damaged_file_or_that_of_another_key_does_not_count(simulated, tmp_path):
    store = SimulatedStore(tmp_path)
    store.keep(KEY, simulated)
    whole = store.path(KEY).read_bytes()
    store.path("1" * 64).write_bytes(whole)
    assert store.get("1" * 64) is None
    changed = 0
    for place in range(40, len(whole), len(whole) // 200):
        store.path(KEY).write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        found = store.get(KEY)
        changed += found is None
        assert found is None or plain(found) == plain(simulated)  # a byte that nobody reads
    assert changed > 180
    for length in (0, 100, len(whole) // 2, len(whole) - 1):
        store.path(KEY).write_bytes(whole[:length])
        assert store.get(KEY) is None
