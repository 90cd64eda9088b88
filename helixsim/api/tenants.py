"""Results of tenants for scripts and notebooks."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from helixsim.api.results import RunSet
from helixsim.report.notebook import table_html
from helixsim.report.tenant_files import headline, sentences, tenant_table
from helixsim.results.tenants import TABLE_KEYS

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True, repr=False, eq=False)
class TenantRuns(Mapping[str, RunSet]):
    """The runs of tenants by name: ``tenants["chat"]``; those that share nodes have the same run.

    Parameters
    ----------
    directory
        Directory of the results of all.
    document
        Content of ``summary.json``: ``document["tenants"]["chat"]["slo_attainment"]``, ``document["totals"]``.
    """

    directory: Path
    document: Mapping[str, Any] = field(repr=False)

    @classmethod
    def load(cls, directory: str | Path) -> Self:
        """Return what a directory of the results of tenants holds."""
        path = Path(directory)
        return cls(path, json.loads((path / "summary.json").read_text(encoding="utf-8")))

    def __getitem__(self, name: str) -> RunSet:
        run = self.document["tenants"][name]["run"]
        if run is None:
            raise KeyError(f"{name} has no run: {self.document['tenants'][name]['failure']}")
        return RunSet.load(self.directory.parents[2] / run)

    def __iter__(self) -> Iterator[str]:
        return iter(self.document["tenants"])

    def __len__(self) -> int:
        return len(self.document["tenants"])

    def table(self) -> pd.DataFrame:
        """Return a row per tenant with its main figures, by its name."""
        import pandas as pd

        rows = [{key: one.get(key) for key in TABLE_KEYS} for one in self.document["tenants"].values()]
        return pd.DataFrame(rows).set_index("tenant")

    def __repr__(self) -> str:
        return "\n".join([*headline(self.document), *sentences(self.document)])

    def _repr_html_(self) -> str:
        return table_html(tenant_table(self.document))
