"""Mooncake traces (https://github.com/kvcache-ai/Mooncake, FAST'25): JSONL with times in milliseconds.

``hash_ids`` identify blocks of 512 prompt tokens, each with all before it; the last may be incomplete. ``block_size``
states another size. Other programs write the same keys with seconds: fractions and implausible rates give a warning,
and ``unit`` states the unit.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from helixsim.domain.request import Prefix
from helixsim.jsonio import shown
from helixsim.workload.readers.base import Reading, Row
from helixsim.workload.readers.files import json_lines, listed
from helixsim.workload.readers.values import fault, time_ns, token_count
from helixsim.workload.spec import TIME_UNITS

KEYS = ("timestamp", "input_length", "output_length")

BLOCK_TOKENS = 512
"""Tokens per block of ``hash_ids``."""


def rows(reading: Reading) -> Iterator[Row]:
    """Yield the rows of a Mooncake trace."""
    if reading.options.unit is None:
        reading.log.assumed_unit = "milliseconds"
    path, unit_ns = reading.path, TIME_UNITS[reading.options.unit or "ms"]
    block_tokens = reading.options.block_size or BLOCK_TOKENS
    for line, entry in json_lines(reading):
        for key in KEYS:
            if key not in entry:
                fault(path, line, key, f"missing; {listed(list(entry))}")
        at = entry["timestamp"]
        if reading.options.unit is None and isinstance(at, float) and not at.is_integer():
            reading.warn(
                "fractions of milliseconds, which Mooncake does not write: if the times are seconds, give the unit "
                "(--unit s; workload.trace.unit)"
            )
        prompt_tokens = token_count(path, line, "input_length", entry["input_length"])
        yield Row(
            line,
            time_ns(path, line, "timestamp", at, unit_ns),
            prompt_tokens,
            token_count(path, line, "output_length", entry["output_length"]),
            prefix=_prefix(path, line, entry.get("hash_ids"), prompt_tokens, block_tokens),
        )


def _prefix(path: Path, line: int, got: object, prompt_tokens: int, block_tokens: int) -> Prefix | None:
    """Return the identity of a prompt; None without identifiers."""
    if got is None or got == []:
        return None
    if not isinstance(got, list) or not all(type(one) is int and one >= 0 for one in got):
        fault(path, line, "hash_ids", f"got {shown(got)}, expected a list of whole numbers from 0 on")
    if len(set(got)) < len(got):
        again = next(one for at, one in enumerate(got) if one in got[:at])
        fault(path, line, "hash_ids", f"{again} is there twice, but an identifier stands for all blocks before it too")
    whole, rest = divmod(prompt_tokens, block_tokens)
    if len(got) not in (whole, whole + (rest > 0)):
        message = (
            f"{len(got)} identifiers, but {prompt_tokens} prompt tokens are {whole + (rest > 0)} blocks of "
            f"{block_tokens} tokens; another size is --block-size N (workload.trace.block_size)"
        )
        fault(path, line, "hash_ids", message)
    ends = range(block_tokens, block_tokens * len(got) + 1, block_tokens)
    return Prefix(tuple(got), ends, min(prompt_tokens, block_tokens * len(got)))
