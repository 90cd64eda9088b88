"""Tables for notebooks have all cells of the comparison, and no markup of names."""

from __future__ import annotations

import re
from dataclasses import replace
from html import unescape

from helixsim.report.notebook import comparison_html
from helixsim.report.rows import comparison_sections, notes


def test_the_comparison_has_every_row_and_note_and_names_are_text(fake_runs) -> None:
    html = comparison_html(replace(fake_runs, failed={"other": (4, "no <b> room")}))
    assert html.startswith("<table")
    assert "<i>" not in html
    assert "no &lt;b&gt; room" in html
    cells = [unescape(cell) for cell in re.findall(r"<td[^>]*>(.*?)</td>", html)]
    expected = [
        cell for section in comparison_sections(fake_runs) for row in section.rows for cell in (row.label, *row.cells)
    ]
    assert cells == expected
    assert all(sentence in unescape(html) for _, sentence in notes(fake_runs))
