"""Experiments as data, from YAML or Python."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self

from helixsim.config.choices import Registries
from helixsim.config.edit import Edit
from helixsim.config.experiment import ResolvedExperiment
from helixsim.config.resolve import resolve
from helixsim.config.source import Source
from helixsim.config.tenants import entries_of, has_tenants
from helixsim.domain.cluster import Node
from helixsim.errors import ConfigError

Changes = Mapping[str | tuple[str | int, ...], Any] | Mapping[str, Any] | Iterable[Edit]
"""Dotted keys (or sequences of keys and list indices) with their new values, or edits."""


class Experiment:
    """An experiment as immutable plain data.

    ``with_`` returns a changed copy. Nothing is checked or built before ``resolve``. Experiments can be pickled, with
    the contents of their files.

    Examples
    --------
    >>> from helixsim import Experiment
    >>> experiment = Experiment.load("experiments/quickstart.yaml")  # doctest: +SKIP
    >>> busier = experiment.with_({"workload.arrivals.rate": 2, "systems.0.routing": "random"})  # doctest: +SKIP
    >>> busier.resolve().workload_stats.offered_rps  # doctest: +SKIP
    2.0
    """

    __slots__ = ("_edits", "_own", "_resolved", "_source")

    _source: Source
    _edits: tuple[Edit, ...]
    _own: Mapping[str, Mapping[str, str]] | None
    _resolved: dict[tuple[bool, bool, str], ResolvedExperiment]

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Return the experiment in a file; relative file names in it refer to its folder.

        Raises
        ------
        ConfigError
            If the file cannot be read or is not a mapping.
        """
        return cls._of(Source.read(Path(path)), ())

    @classmethod
    def from_data(cls, data: Mapping[str, Any], *, directory: str | Path = ".") -> Self:
        """Return the experiment given by plain data with the keys of exp.yaml.

        Parameters
        ----------
        data
            Mappings, lists, text, numbers, true, false and None; copied.
        directory
            Base folder of relative file names.

        Raises
        ------
        ConfigError
            If the data contain anything else.
        """
        return cls._of(Source.of(data, Path(directory) / "experiment"), ())

    @classmethod
    def _of(cls, source: Source, edits: tuple[Edit, ...], own: Mapping[str, Mapping[str, str]] | None = None) -> Self:
        experiment = cls.__new__(cls)
        experiment._source, experiment._edits, experiment._own, experiment._resolved = source, edits, own, {}
        return experiment

    def with_(self, changes: Changes = (), /, **keys: Any) -> Self:
        """Return the experiment with changed values.

        Parameters
        ----------
        changes
            Dotted keys and their values: ``{"workload.arrivals.rate": 2, "systems.0.routing": "random"}``; missing
            mappings on the path are created. Or edits. Relative file names refer to the working directory.
        keys
            Top-level keys: ``seed=1``.

        Raises
        ------
        ConfigError
            If a path leads into a value that is not a mapping, or to a missing list entry.
        """
        given = changes.items() if isinstance(changes, Mapping) else ()
        edits: list[Edit] = [] if isinstance(changes, Mapping) else list(changes)
        for key, value in (*given, *keys.items()):
            edits.append(Edit.of(key, value, f"with_: {_dotted(key)}"))
        return self._of(self._source.edited(*edits), (*self._edits, *edits), self._own)

    def resolve(self, *, is_part: bool = False, imports: bool = True) -> ResolvedExperiment:
        """Return the checked experiment with all names resolved; the result is cached.

        Parameters
        ----------
        is_part
            The nodes are a part of those of the experiment, whose references to absent regions and nodes are ignored.
        imports
            Whether user classes (``module:Class``) may be imported, which executes their files.

        Raises
        ------
        ConfigError
            With all faults, each with file, line and column, or its edit.
        DataError
            If a trace, table or profile that the experiment names is unreadable or invalid.
        InfeasibleError
            If all nodes together cannot hold the model.
        """
        if self.has_tenants:
            raise ConfigError(
                f"{self.path}: has tenants, which are several experiments: the commands run, validate, capacity and "
                "sweep take them, and helixsim.run_tenants; for others, write one tenant as an experiment of its own"
            )
        found = self._registries(imports=imports)
        key = (is_part, imports, json.dumps(found.own, sort_keys=True))
        if key not in self._resolved:
            self._resolved[key] = resolve(self._source, registries=found, is_part=is_part)
        return self._resolved[key]

    @property
    def has_tenants(self) -> bool:
        """Whether the data describe several tenants of one cluster, each with an experiment (``tenants``)."""
        return has_tenants(self._source)

    def tenants(self) -> Tenants:
        """Return the tenants, each with its experiment on all nodes; the experiments are not checked yet.

        Raises
        ------
        ConfigError
            With all faults of the tenants, and of the nodes that are stated for them.
        """
        found = entries_of(self._source)
        tenants = tuple(
            Tenant(tuple(Member(*terms) for terms in one.members), Experiment._of(one.source, (), self._own), one.nodes)
            for one in found.tenants
        )
        return Tenants(found.name, tenants, found.nodes, found.division)

    @property
    def document(self) -> dict[str, Any]:
        """A copy of the data with edits and the contents of the cluster file, without defaults."""
        document: dict[str, Any] = copy.deepcopy(self._source.completed().data)
        return document

    @property
    def path(self) -> Path:
        """The file; for data built in Python, a name in the base folder of relative file names."""
        return self._source.path

    @property
    def edits(self) -> tuple[Edit, ...]:
        """All edits since the experiment was loaded; ``as_option`` gives the equivalent command-line options."""
        return self._edits

    def __repr__(self) -> str:
        changes = "".join(f", {edit.text}" for edit in self._edits)
        return f"<Experiment {self.path}{changes}>"

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuilt, (type(self), self._source, self._edits, self._registries(imports=True).own)

    def _registries(self, *, imports: bool) -> Registries:
        """Return the registries, with the user functions as they are now, or were in the process that sent this."""
        found = registries(imports=imports)
        return found if self._own is None else replace(found, own=self._own)


@dataclass(frozen=True, slots=True)
class Member:
    """A tenant: its name, the weight of its share of requests within the objectives, and its priority, lowest first."""

    name: str
    weight: float
    priority: int


@dataclass(frozen=True)
class Tenant:
    """A tenant of a cluster, or several that share nodes: each is a class of requests of their experiment.

    Parameters
    ----------
    members
        One, or those that share nodes.
    experiment
        Their experiment on all nodes of the cluster.
    nodes
        Ids of their own nodes; None: to be planned.
    """

    members: tuple[Member, ...]
    experiment: Experiment
    nodes: tuple[str, ...] | None

    @property
    def name(self) -> str:
        """The name of the tenant, or those of all that share nodes: ``chat+rag``."""
        return "+".join(one.name for one in self.members)

    @property
    def weight(self) -> float:
        """The weight of all members together."""
        return sum(one.weight for one in self.members)

    @property
    def priority(self) -> int:
        """The lowest value, by which nodes are planned."""
        return min(one.priority for one in self.members)

    def class_of(self, member: Member) -> str | None:
        """Return the class of a member's requests; None: all requests are its own."""
        return member.name if len(self.members) > 1 else None

    def on(self, nodes: Iterable[str], of: Iterable[Node]) -> Experiment:
        """Return its experiment on a part of the nodes ``of`` the cluster; the others are none of its costs."""
        own = set(nodes)
        others = [node.id for node in of if node.id not in own]
        if not others:
            return self.experiment
        removed = self.experiment.document["cluster"].get("removed") or []
        return self.experiment.with_({"cluster.removed": [*removed, *others]})


@dataclass(frozen=True)
class Tenants:
    """Several experiments on one cluster, whose ``nodes`` in service are divided among them.

    ``division``: how, if no tenant states its nodes: ``joint``, ``proportional`` or ``equal``.
    """

    name: str
    tenants: tuple[Tenant, ...]
    nodes: tuple[Node, ...]
    division: str = "joint"


def registries(*, imports: bool = True) -> Registries:
    """Return the registries of placement strategies, and of routing, batching and autoscaling policies.

    ``imports``: whether user classes may be imported, which executes their files.
    """
    from helixsim.autoscaling import registry as autoscaling
    from helixsim.autoscaling import spot_registry as spot
    from helixsim.batching import registry as batching
    from helixsim.placement import registry as placement
    from helixsim.routing import registry as routing

    rooms = {"placement": placement, "routing": routing, "batching": batching, "autoscaling": autoscaling, "spot": spot}
    return Registries(
        placement, routing, batching, autoscaling, spot, imports, {name: room.paths() for name, room in rooms.items()}
    )


def _dotted(key: str | Sequence[str | int]) -> str:
    return key if isinstance(key, str) else ".".join(map(str, key))


def _rebuilt(
    kind: type[Experiment], source: Source, edits: tuple[Edit, ...], own: Mapping[str, Mapping[str, str]]
) -> Experiment:
    return kind._of(source, edits, own)
