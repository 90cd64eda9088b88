"""Batch jobs of Alibaba's ServeGen (https://github.com/alibaba/ServeGen, ``data/offline``): lengths without times.

One JSON object a line with ``input_length``, ``output_length``, ``type`` (text or multimodal) and ``duration`` [ms].
Those with ``hash_ids`` instead of output lengths (``trace_a`` to ``trace_c``) cannot be simulated.
"""

from __future__ import annotations

from collections.abc import Iterator

from helixsim.workload.readers.base import Reading, Row
from helixsim.workload.readers.files import json_lines
from helixsim.workload.readers.values import fault, token_count

KEYS = ("request_id", "type", "input_length")


def rows(reading: Reading) -> Iterator[Row]:
    """Yield the rows of a trace."""
    path = reading.path
    reading.lacks_times("ServeGen's batch jobs record no arrivals")
    for line, entry in json_lines(reading):
        if "output_length" not in entry:
            fault(path, line, "output_length", "missing: the traces with hash_ids state no output lengths")
        if entry.get("type") == "multimodal":
            reading.note("multimodal requests: the time of the vision encoder is not modelled")
        prompt, output = (token_count(path, line, key, entry.get(key)) for key in ("input_length", "output_length"))
        yield Row(line, 0, prompt, output)
