"""An experiment as data, the same whether it was written as YAML or built in Python."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Self

from helixsim.config.choices import Registries
from helixsim.config.edit import Edit
from helixsim.config.experiment import ResolvedExperiment
from helixsim.config.resolve import resolve
from helixsim.config.source import Source

Changes = Mapping[str | tuple[str | int, ...], Any] | Mapping[str, Any] | Iterable[Edit]
"""Dotted keys (or sequences of keys and list numbers) with their new values, or ready-made edits."""


class Experiment:
    """What an experiment file says, as immutable plain data.

    ``with_`` is the only way to change one, and returns another. Nothing is checked or built before ``resolve``.
    Experiments can be pickled; a worker that gets one reads no experiment file again.

    Examples
    --------
    >>> from helixsim import Experiment
    >>> experiment = Experiment.load("experiments/quickstart.yaml")  # doctest: +SKIP
    >>> busier = experiment.with_({"workload.arrivals.rate": 2, "systems.0.routing": "random"})  # doctest: +SKIP
    >>> busier.resolve().workload_stats.offered_rps  # doctest: +SKIP
    2.0
    """

    __slots__ = ("_edits", "_resolved", "_source")

    _source: Source
    _edits: tuple[Edit, ...]
    _resolved: dict[tuple[bool, bool], ResolvedExperiment]

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Return the experiment that a file describes; files that it names relatively are looked for beside it.

        Raises
        ------
        ConfigError
            If the file cannot be read, or is no mapping of keys to values.
        """
        return cls._of(Source.read(Path(path)), ())

    @classmethod
    def from_data(cls, data: Mapping[str, Any], *, directory: str | Path = ".") -> Self:
        """Return the experiment that plain data describe, with the keys of exp.yaml.

        Parameters
        ----------
        data
            Mappings, lists, text, numbers, true, false and None; copied.
        directory
            Folder that relative file names count from.

        Raises
        ------
        ConfigError
            If the data hold anything else.
        """
        return cls._of(Source.of(data, Path(directory) / "experiment"), ())

    @classmethod
    def _of(cls, source: Source, edits: tuple[Edit, ...]) -> Self:
        experiment = cls.__new__(cls)
        experiment._source, experiment._edits, experiment._resolved = source, edits, {}
        return experiment

    def with_(self, changes: Changes = (), /, **keys: Any) -> Self:
        """Return the experiment with some values given anew.

        Parameters
        ----------
        changes
            Dotted keys and their values: ``{"workload.arrivals.rate": 2, "systems.0.routing": "random"}``; mappings
            that are missing on the way are made. Or edits, which know where they came from. Relative file names count
            from the working directory.
        keys
            Keys at the top: ``seed=1``.

        Raises
        ------
        ConfigError
            If a key leads nowhere: into a value that is no mapping, or to a list entry that does not exist.
        """
        given = changes.items() if isinstance(changes, Mapping) else ()
        edits: list[Edit] = [] if isinstance(changes, Mapping) else list(changes)
        for key, value in (*given, *keys.items()):
            edits.append(Edit.of(key, value, f"with_: {_dotted(key)}"))
        return self._of(self._source.edited(*edits), (*self._edits, *edits))

    def resolve(self, *, is_part: bool = False, imports: bool = True) -> ResolvedExperiment:
        """Check the experiment and build all that it names; done once.

        Parameters
        ----------
        is_part
            The nodes are a part of those that the experiment was written for: what it says of regions and nodes that
            are absent is ignored.
        imports
            Whether classes of the user's own (``module:Class``) may be imported, which runs their files.

        Raises
        ------
        ConfigError
            With every fault found, each with file, line and column, or the change that it came from.
        DataError
            If a trace, table or profile that the experiment names is unreadable or invalid.
        InfeasibleError
            If all nodes together cannot hold the model.
        """
        key = (is_part, imports)
        if key not in self._resolved:
            found = registries(imports=imports)
            self._resolved[key] = resolve(self._source, registries=found, is_part=is_part)
        return self._resolved[key]

    @property
    def document(self) -> dict[str, Any]:
        """A copy of the data as written, changes applied and the cluster file read in, without defaults."""
        document: dict[str, Any] = copy.deepcopy(self._source.completed().data)
        return document

    @property
    def path(self) -> Path:
        """The file; of data that never were in one, a name in the folder that relative file names count from."""
        return self._source.path

    @property
    def edits(self) -> tuple[Edit, ...]:
        """All changes since the experiment was loaded; ``as_option`` of each repeats them on the command line."""
        return self._edits

    def __repr__(self) -> str:
        changes = "".join(f", {edit.text}" for edit in self._edits)
        return f"<Experiment {self.path}{changes}>"

    def __reduce__(self) -> tuple[Any, ...]:
        found = registries()
        own = found.placement.paths(), found.routing.paths(), found.batching.paths()
        return _rebuilt, (type(self), self._source, self._edits, own)


def registries(*, imports: bool = True) -> Registries:
    """Return the registries of placement strategies, routing policies and batching policies.

    ``imports``: whether classes of the user's own may be imported, which runs their files.
    """
    from helixsim.batching import registry as batching
    from helixsim.placement import registry as placement
    from helixsim.routing import registry as routing

    return Registries(placement, routing, batching, imports)


def _dotted(key: str | Sequence[str | int]) -> str:
    return key if isinstance(key, str) else ".".join(map(str, key))


def _rebuilt(
    kind: type[Experiment], source: Source, edits: tuple[Edit, ...], own: tuple[Mapping[str, str], ...]
) -> Experiment:
    """Return an experiment of another process, with the names that were given to functions there."""
    found = registries()
    for registry, paths in zip((found.placement, found.routing, found.batching), own, strict=True):
        registry.adopt(paths)
    return kind._of(source, edits)
