"""Mooncake traces (https://github.com/kvcache-ai/Mooncake, FAST'25): JSONL with milliseconds.

``hash_ids`` describe shared prefixes; they are not used, so no prefix is cached.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from helixsim.units import NS_PER_MS
from helixsim.workload.readers.base import ReadOptions, Row, fault, json_lines, time_ns, token_count

KEYS = ("timestamp", "input_length", "output_length")


def rows(path: Path, _options: ReadOptions) -> Iterator[Row]:
    """Yield the rows of a Mooncake trace."""
    for line, entry in json_lines(path):
        for key in KEYS:
            if key not in entry:
                fault(path, line, key, f"missing; the row has {', '.join(entry) or 'nothing'}")
        yield Row(
            line,
            time_ns(path, line, "timestamp", entry["timestamp"], NS_PER_MS),
            token_count(path, line, "input_length", entry["input_length"]),
            token_count(path, line, "output_length", entry["output_length"]),
        )
