"""Keys and values of exp.yaml that have been renamed."""

from __future__ import annotations

from typing import Final

from helixsim.renames import Renames

RENAMES: Final = Renames(
    keys={
        ("slo_classes",): "slo_targets",
        ("kv", "high_water"): "max_reserved_share",
        ("systems", "*", "kv", "high_water"): "max_reserved_share",
        ("engine", "watermark"): "min_free_share",
        ("engine", "memory_fraction"): "gpu_memory_utilization",
        ("engine", "max_prefill_tokens"): "max_num_batched_tokens",
        ("engine", "max_decode_seqs"): "max_num_seqs",
    },
    values={(("capacity", "model"), "operating"): "kv_limited"},
)
