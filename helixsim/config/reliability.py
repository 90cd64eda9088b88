"""Options ``--mtbf`` and ``--mttr`` -> Reliability."""

from __future__ import annotations

from collections.abc import Sequence

from helixsim import units
from helixsim.domain.cluster import Cluster
from helixsim.domain.reliability import Reliability
from helixsim.errors import ConfigError, unknown_name


def reliability_of(mtbf: Sequence[str], mttr: str | None, cluster: Cluster) -> Reliability | None:
    """Return how often nodes fail; None: not stated.

    Parameters
    ----------
    mtbf
        ``30 d`` for all types of nodes, ``t4=10 d`` for one.

    Raises
    ------
    ConfigError
        If one of the two is missing, a time is not above 0, or a type is unknown.
    """
    if not mtbf and mttr is None:
        return None
    if not mtbf or mttr is None:
        raise ConfigError("--mtbf and --mttr go together: --mtbf '30 d' --mttr '10 min'")
    types = sorted({node.node_type for node in cluster.nodes})
    by_type: dict[str, float] = {}
    usual = None
    for text in mtbf:
        name, given, value = text.rpartition("=")
        if given and name not in types:
            raise ConfigError(f"--mtbf {text}: {unknown_name('type of nodes', name, types)}")
        if given:
            by_type[name] = _time_s("--mtbf", value)
        else:
            usual = _time_s("--mtbf", value)
    if usual is None:
        if missing := [name for name in types if name not in by_type]:
            raise ConfigError(f"--mtbf: none for {', '.join(missing)}: add --mtbf TIME for all other types")
        usual = min(by_type.values())
    return Reliability(usual, _time_s("--mttr", mttr), by_type)


def _time_s(option: str, text: str) -> float:
    try:
        found = units.parse(text, "time")
    except ValueError as error:
        raise ConfigError(f"{option} {text}: {error}") from None
    if not found > 0:
        raise ConfigError(f"{option} {text}: expected a time above 0")
    return found
