"""Part: how many GPUs of a kind a model needs, and what they cost; why clusters are mixed at all."""

from __future__ import annotations

import math
from typing import Annotated, Literal

from pydantic import Field, ValidationInfo, field_validator

from helixsim.domain.hardware import GpuSpec
from helixsim.domain.model import ModelSpec
from helixsim.hardware import catalog
from helixsim.papers.helix.parts import Effort, Part, PartResult, Row, check_titles
from helixsim.papers.helix.tasks import Results, Task
from helixsim.validation import Words


class GpusNeeded(Part):
    """Table: the least number of GPUs that hold a model's layers.

    Parameters
    ----------
    weight_share
        Share of a GPU's memory for weights; the paper gives half, the rest is for KV memory.
    """

    kind: Literal["gpus"]
    models: list[Words]
    gpus: list[Words]
    weight_share: Annotated[float, Field(ge=0.01, le=1)]

    @field_validator("models", "gpus")
    @classmethod
    def _are_known(cls, value: list[str], info: ValidationInfo) -> list[str]:
        return check_titles(value, catalog.model_names() if info.field_name == "models" else catalog.gpu_names())

    def tasks(self, effort: Effort) -> list[Task]:
        """See ``Part.tasks``."""
        return []

    def result(self, effort: Effort, results: Results) -> PartResult:
        """See ``Part.result``."""
        rows: list[Row] = []
        for name in self.models:
            model = catalog.load_model(name)
            row: Row = {
                "model": name,
                "layers": model.num_layers,
                "weights, GB": model.num_layers * model.weight_bytes_per_layer / 1e9,
            }
            for gpu_name in self.gpus:
                gpu = catalog.load_gpu(gpu_name)
                count = gpus_needed(model, gpu, self.weight_share)
                row |= {gpu_name: count, f"{gpu_name}, $/h": None if count is None else count * gpu.cost_usd_per_hour}
            rows.append(row)
        note = f"Whole layers, in {self.weight_share:.0%} of each GPU's memory; fp16. A dash: not one layer fits."
        return PartResult(rows, notes=[note])


def gpus_needed(model: ModelSpec, gpu: GpuSpec, weight_share: float) -> int | None:
    """Return how many GPUs hold all layers of a model, whole layers each; None if none fits."""
    layers_each = math.floor(weight_share * gpu.memory_bytes / model.weight_bytes_per_layer)
    return math.ceil(model.num_layers / layers_each) if layers_each else None
