"""A small sound experiment and registries that need no other room."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from pathlib import Path

import pytest

from helixsim import yamlio
from helixsim.config.choices import Registries
from helixsim.config.edit import parse_option
from helixsim.config.resolve import resolve
from helixsim.config.source import Source
from helixsim.errors import ConfigError, unknown_name


@dataclass(frozen=True)
class FakeOptions:
    """Options of a fake.

    Parameters
    ----------
    depth
        Most hops.
    share, file
        Said of both.
    """

    depth: int | None = None
    share: float = 0.5
    file: Path | None = None
    kinds: tuple[str, ...] = ()

    def __post_init__(self):
        if self.share > 1:
            raise ValueError("share above 1")


class Fake:
    summary = "a fake"
    Options = FakeOptions


class FakeRegistry:
    def __init__(self, *known):
        self.known = known

    def names(self):
        return self.known

    def get(self, name, beside=None, *, imports=True):
        if name not in self.known:
            raise ConfigError(unknown_name("thing", name, self.known))
        return Fake

    def path_of(self, name):
        return name


REGISTRIES = Registries(
    FakeRegistry("helix", "swarm", "petals"),
    FakeRegistry("auto", "flow_weighted", "random"),
    FakeRegistry("continuous", "prefill_first"),
    FakeRegistry(),
    FakeRegistry("spot_hedge", "on_demand"),
)

SOUND = {
    "schema": 1,
    "model": "llama-2-70b",
    "cluster": {
        "coordinator": {"region": "eu"},
        "nodes": [
            {"gpu": "a100-40g", "count": 4, "region": "eu"},
            {"gpu": "l4", "count": 2, "region": "us"},
            {"gpu": "t4", "gpus": 4, "count": 2, "region": "us"},
        ],
        "network": {
            "intra_region": {"bandwidth": "8 Gbit/s", "latency": "1 ms"},
            "inter_region": {"bandwidth": "100 Mbit/s", "latency": "50 ms"},
        },
    },
    "workload": {
        "lengths": {"distribution": "fixed", "prompt_tokens": 100, "output_tokens": 20},
        "arrivals": {"process": "poisson", "rate": 2.5},
        "duration": "600 s",
    },
    "systems": [{"placement": "helix"}, {"placement": {"strategy": "swarm", "depth": 3}, "routing": "random"}],
}


@pytest.fixture
def registries():
    return REGISTRIES


@pytest.fixture
def sound():
    """A private copy of a sound experiment, as plain values."""
    return copy.deepcopy(SOUND)


@pytest.fixture
def load(tmp_path):
    """Load an experiment given as plain values or as YAML text."""

    def run(data, *overrides):
        path = tmp_path / "exp.yaml"
        path.write_text(data if isinstance(data, str) else yamlio.dump(data), encoding="utf-8")
        return resolve(Source.read(path).edited(*map(parse_option, overrides)), registries=REGISTRIES)

    return run


@pytest.fixture
def faults(load):
    """Return the problems of an unsound experiment."""

    def run(data, *overrides):
        with pytest.raises(ConfigError) as caught:
            load(data, *overrides)
        return caught.value.problems

    return run
