"""The site of the documentation: every page is reachable, and links that leave docs/ are not left dangling."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
CONF = (DOCS / "conf.py").read_text(encoding="utf-8")
GENERATED = set(re.findall(r'^    "([\w-]+)": "', CONF, re.M)) | set(re.findall(r'pages\["([\w-]+)"\]', CONF))


def test_every_page_is_in_the_index_and_every_entry_is_a_page():
    index = (DOCS / "index.md").read_text(encoding="utf-8")
    listed = [line for block in re.findall(r"\{toctree\}(.*?)```", index, re.S) for line in block.splitlines()]
    entries = [line for line in listed if line and not line.startswith(":")]
    pages = {path.relative_to(DOCS).with_suffix("").as_posix() for path in DOCS.rglob("*.md")}
    own = {page for page in pages if not page.startswith("generated/")} - {"index"}
    assert len(entries) == len(set(entries))
    assert set(entries) == own | {f"generated/{name}" for name in GENERATED}


def test_the_files_that_pages_are_made_of_exist():
    sources = re.findall(r'^    "[\w-]+": "([\w/.-]+)",$', CONF, re.M)
    assert len(sources) > 3
    for source in sources:
        assert (ROOT / source).is_file(), source
