"""Files of the leaderboard: page, table and document."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from helixsim.escape import csv_text
from helixsim.papers.leaderboard.page import write_page
from helixsim.writing import write_rows, write_text

NAME = "leaderboard"


def write(document: Mapping[str, Any], out: Path) -> Path:
    """Write ``leaderboard.html``, ``.csv`` and ``.json`` below ``out``, and return the page."""
    out.mkdir(parents=True, exist_ok=True)
    rates = {(one["cluster"], one["strategy"]): one["rate_rps"] for one in document["slo_rates"]}
    rows = [
        {key: csv_text(value) for key, value in row.items()}
        | {"rate_within_slo_rps": csv_text(rates.get((row["cluster"], row["strategy"])))}
        for row in document["rows"]
    ]
    write_rows(out / f"{NAME}.csv", rows)
    write_text(out / f"{NAME}.json", json.dumps(document, indent=2, ensure_ascii=False) + "\n")
    page = out / f"{NAME}.html"
    write_page(page, document)
    return page
