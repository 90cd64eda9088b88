"""Several GPUs as one tensor-parallel node: the all-reduces, and timings derived from those of one GPU.

Each GPU does its share of a layer's work, and two all-reduces per layer, behind attention and behind the feed-forward
part, bring the results together (Shoeybi et al., Megatron-LM, 2019).
"""

from __future__ import annotations

from dataclasses import replace

from helixsim.domain.curves import Curve
from helixsim.domain.hardware import ComputeProfile, GpuSpec
from helixsim.domain.model import ModelSpec
from helixsim.hardware.kernels import ALL_REDUCES_PER_LAYER, Node
from helixsim.units import NS_PER_S


def kv_shares(model: ModelSpec, gpus: int) -> float:
    """Return over how many GPUs the KV cache is spread: beyond one head a GPU, heads are copied instead of split.

    Compressed keys and values (MLA) have one head, so every GPU keeps all of them.
    """
    kept = [layer.attention for layer in model.layers if layer.attention is not None and layer.attention.kv_numbers]
    on_one_gpu = sum(attention.kv_numbers / min(gpus, attention.num_kv_heads) for attention in kept)
    return sum(attention.kv_numbers for attention in kept) / on_one_gpu if on_one_gpu else float(gpus)


def from_one_gpu(single: ComputeProfile, model: ModelSpec, gpu: GpuSpec, gpus: int) -> ComputeProfile:
    """Return the profile of ``gpus`` GPUs as one node from that of one: its times divided, plus the all-reduces."""
    node = Node(gpu, gpus)

    def split(curve: Curve) -> Curve:
        reduces_ns = [ALL_REDUCES_PER_LAYER * node.all_reduce_s(model.hidden_size, x) * NS_PER_S for x in curve.x]
        times = (y / gpus + reduce_ns for y, reduce_ns in zip(curve.y_ns, reduces_ns, strict=True))
        return Curve(curve.x, tuple(times))

    return replace(
        single,
        kind=f"{gpu.name}x{gpus}",
        source="scaled",
        prefill=split(single.prefill),
        decode=split(single.decode),
        decode_context_ns_per_token=single.decode_context_ns_per_token / kv_shares(model, gpus),
        provenance=(f"1/{gpus} of one {gpu.name} ({single.provenance}) + {ALL_REDUCES_PER_LAYER} all-reduces a layer"),
    )
