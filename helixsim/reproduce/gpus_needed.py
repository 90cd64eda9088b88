"""Part: how many GPUs of a kind a model needs, and what they cost; why clusters are mixed at all."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

from helixsim.domain.hardware import GpuSpec
from helixsim.domain.model import ModelSpec
from helixsim.hardware import catalog
from helixsim.hardware.profile_file import Section
from helixsim.reproduce.parts import Effort, PartResult, Row
from helixsim.reproduce.published import Published
from helixsim.reproduce.tasks import Results, Task


@dataclass(frozen=True)
class GpusNeeded:
    """Table: the least number of GPUs that hold a model's layers.

    Parameters
    ----------
    weight_share
        Share of a GPU's memory for weights; the paper gives half, the rest is for KV memory.
    """

    title: str
    models: tuple[str, ...]
    gpus: tuple[str, ...]
    weight_share: float

    @classmethod
    def read(cls, entry: Section, _folder: Path, _published: Published) -> GpusNeeded:
        """Return the part that an entry describes."""
        for key, known in (("models", catalog.model_names()), ("gpus", catalog.gpu_names())):
            for name in entry.texts(key):
                if name not in known:
                    raise entry.fault(key, f"{name!r} is none of {', '.join(known)}")
        share = entry.number("weight_share", 0.01, 1.0)
        return cls(entry.text("title"), entry.texts("models"), entry.texts("gpus"), share)

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
