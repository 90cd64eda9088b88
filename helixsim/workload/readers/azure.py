"""Azure LLM inference traces (https://github.com/Azure/AzurePublicDataset, data CC-BY 4.0).

2023 (Splitwise, ISCA'24): ``2023-11-16 18:17:03.9799600,4808,10``. 2024 (DynamoLLM, HPCA'25): the same columns, time
stamps with ``+00:00``, without fraction for whole seconds. 2025 (multimodal, ModServe, SoCC'25): also ``NumImages``,
whose tokens ``ContextTokens`` includes. The resolution of 100 ns is kept.
"""

from __future__ import annotations

from collections.abc import Iterator

from helixsim.workload.readers.base import Reading, Row
from helixsim.workload.readers.files import by_name, csv_rows
from helixsim.workload.readers.values import Stamps, token_count

COLUMNS = ("TIMESTAMP", "ContextTokens", "GeneratedTokens")
IMAGES = "NumImages"


def rows(reading: Reading) -> Iterator[Row]:
    """Yield the rows of an Azure trace of any year."""
    path = reading.path
    stamps = Stamps(path, COLUMNS[0])
    for line, (stamp, prompt, output, images) in csv_rows(reading, by_name(path, COLUMNS, (IMAGES,))):
        if images not in {"", "0"}:
            reading.note(
                "requests with images (NumImages): the tokens of images are part of the prompts; the time of the "
                "vision encoder is not modelled"
            )
        yield Row(
            line,
            stamps.ns(line, stamp),
            token_count(path, line, "ContextTokens", prompt),
            token_count(path, line, "GeneratedTokens", output),
        )
