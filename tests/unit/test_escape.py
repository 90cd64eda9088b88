"""Text that acts nowhere: not in terminals, not in spreadsheets, not in Markdown."""

from __future__ import annotations

import csv
import json
import re
from xml.etree import ElementTree

import pandas as pd
from hypothesis import given
from hypothesis import strategies as st

from helixsim import escape
from helixsim.report.style import new_figure, png_bytes, styled, svg_bytes
from helixsim.results.files import write_csv

TEXTS = st.text(st.characters(), max_size=20) | st.sampled_from(
    ["=1+1", "-x", "+x", "@x", "\tx", "\rx", "'=x", "-5", ""]
)


@given(TEXTS)
def test_printable_text_is_printable_and_says_what_it_was(text):
    shown = escape.printable(text, one_line=True)
    assert not re.search("[\x00-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]", shown)
    assert escape.printable(shown) == shown
    if "\\" not in text and '"' not in text:
        assert json.loads(f'"{shown}"') == text or any(0xD800 <= ord(one) < 0xE000 for one in text)


@given(TEXTS)
def test_cells_of_csv_are_no_formulas_and_are_read_back(text):
    cell = escape.csv_text(text)
    assert cell[:1] not in set("=+-@\t\r") or re.fullmatch(r"[-+].*(\d\.?|inf|infinity|nan)", cell, re.IGNORECASE)
    assert escape.csv_read(cell) == (text if cell == text else escape.printable(text))


def test_numbers_stay_numbers():
    for number in ("-1", "+2.5", "-1e-300", "-inf", "nan", "3."):
        assert escape.csv_text(number) == number
    assert escape.csv_text(-3.5) == -3.5
    assert escape.csv_text(None) is None


def test_tables_hold_no_formulas_in_cells_and_titles(tmp_path):
    write_csv(tmp_path / "a.csv", pd.DataFrame({"=a": ["@x", "b"], "n": [-1, 2], "mixed": [-1, "=1+1"]}))
    rows = list(csv.reader((tmp_path / "a.csv").read_text(encoding="utf-8").splitlines()))
    assert rows == [["'=a", "n", "mixed"], ["'@x", "-1", "-1"], ["b", "2", "'=1+1"]]


@given(TEXTS)
def test_markdown_holds_no_markup(text):
    line = escape.markdown(text)
    assert "<" not in line
    assert "\n" not in line
    assert not re.search(r"(?<!\\)(\\\\)*[|`*]", line)


def test_markdown_neither_links_nor_loads():
    assert escape.markdown("![a](http://x) <script>alert(1)</script> &lt; a|b") == (
        "![a\\](http://x) &lt;script>alert(1)&lt;/script> &amp;lt; a\\|b"
    )
    assert escape.markdown("# no title") == "\\# no title"
    assert escape.markdown("5 % of a100-40g at 2 * 3, R&D") == "5 % of a100-40g at 2 \\* 3, R&D"


def test_names_in_figures_are_not_formulas():
    """Dollar signs in a name once ended the report in matplotlib's parser."""
    with styled():
        figure = new_figure(2)
        axis = figure.subplots()
        axis.plot([1, 1000], [1, 2], label="$\\frac{$")
        axis.set_title('a$x^{2}$ " onload="x --><script>')
        axis.set_yticks([1, 2], ["a\x1b]0;b", "$\\frac{$"])
        axis.set_xscale("log")
        axis.legend()
        svg = svg_bytes(figure).decode()
        assert png_bytes(figure)
    assert "\x1b" not in svg
    assert "<script" not in svg
    elements = list(ElementTree.fromstring(svg).iter())
    assert not any("onload" in attribute for element in elements for attribute in element.attrib)
    assert any(text.endswith('" onload="x --><script>') for element in elements if (text := element.text))
    assert "10\N{SUPERSCRIPT TWO}" in svg
    assert "mathdefault" not in svg
