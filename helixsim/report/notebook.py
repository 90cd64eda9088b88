"""Results as HTML for notebooks: the tables of the terminal and of the reports, without a page around them."""

from __future__ import annotations

from collections.abc import Sequence

from helixsim.report.pages import PageTable
from helixsim.report.rows import comparison_sections, notes
from helixsim.report.selection import selection_notes
from helixsim.report.templating import template
from helixsim.results.runset import RunSet


def comparison_html(runs: RunSet) -> str:
    """Return the comparison of all systems, with what binds each of them and those that failed."""
    groups = [
        (section.title, [(row.label, *row.cells) for row in section.rows]) for section in comparison_sections(runs)
    ]
    failed = [(name, f"failed: {message}") for name, (_, message) in runs.failed.items()]
    return _html(["", *runs], groups, [*notes(runs), *selection_notes(runs), *failed])


def table_html(table: PageTable, sentences: Sequence[tuple[str, str]] = ()) -> str:
    """Return a table of a report, with (system, sentence) below it."""
    return _html(table.head, [("", list(table.rows))], sentences)


def _html(
    head: Sequence[str], groups: Sequence[tuple[str, Sequence[Sequence[str]]]], sentences: Sequence[tuple[str, str]]
) -> str:
    return template("notebook.html.j2").render(head=head, groups=groups, sentences=sentences)
