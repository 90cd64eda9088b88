"""vLLM's options with which a model server serves as simulated."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from helixsim import units
from helixsim.domain.cluster import Deployment
from helixsim.domain.placement import Placement
from helixsim.errors import ConfigError

_KV_DTYPES = {"fp8": "fp8", "fp16": "auto", "bf16": "auto"}


def common_options(engine: Mapping[str, Any], fleet: Deployment) -> tuple[dict[str, str], list[str]]:
    """Return the options that all servers have, and notes on what they cannot state."""
    model = fleet.model
    options = {
        "gpu-memory-utilization": f"{engine['gpu_memory_utilization']:g}",
        "block-size": str(engine["block_tokens"]),
        "enable-chunked-prefill" if engine["enable_chunked_prefill"] else "no-enable-chunked-prefill": "",
        "enable-prefix-caching" if engine["enable_prefix_caching"] else "no-enable-prefix-caching": "",
        "scheduling-policy": engine["scheduling_policy"],
    }
    notes = []
    if engine["long_prefill_token_threshold"]:
        options["long-prefill-token-threshold"] = str(engine["long_prefill_token_threshold"])
    if engine.get("enable_expert_parallel"):
        options["enable-expert-parallel"] = ""
    if model.kv_precision in _KV_DTYPES:
        options["kv-cache-dtype"] = _KV_DTYPES[model.kv_precision]
    else:
        notes.append(f"The KV cache was simulated in {model.kv_precision}: set --kv-cache-dtype accordingly.")
    if model.precision not in {"fp16", "bf16"}:
        notes.append(f"The weights were simulated in {model.precision}: the checkpoint must have that format.")
    if (engine.get("attention_dp_config") or {}).get("enable_balance"):
        notes.append("Prompts of attention ranks were simulated as waiting for each other (attention_dp_config).")
    speculative = engine.get("speculative")
    if speculative and speculative["k"]:
        notes.append(
            f"Speculative decoding was simulated with {speculative['k']} draft tokens: add --speculative-config with "
            "your draft model."
        )
    return options, notes


def own_options(
    fleet: Deployment, placement: Placement, chain: list[str], engine: Mapping[str, Any]
) -> tuple[dict[str, str], list[str]]:
    """Return the options that depend on the machines of a server, and notes.

    Raises
    ------
    ConfigError
        If its machines have unequal numbers of GPUs.
    """
    widths = {node: fleet.cluster.node(node).gpus for node in chain}
    gpus = widths[chain[0]]
    if len(set(widths.values())) > 1:
        given = ", ".join(f"{node} {width}" for node, width in widths.items())
        raise ConfigError(
            "--export: vLLM gives every stage of a pipeline the same number of GPUs (--tensor-parallel-size), but the "
            f"placement has {given}"
        )
    ranks = fleet.profile(chain[0]).compute.ranks
    options = {"tensor-parallel-size": str(gpus // ranks)}
    if ranks > 1:
        options["data-parallel-size"] = str(ranks)
    if len(chain) > 1:
        options["pipeline-parallel-size"] = str(len(chain))
    limits = [fleet.profile(node).limits[placement.ranges[node].layers - 1] for node in chain]
    options["max-num-seqs"] = str(min(limit.max_decode_seqs for limit in limits))
    options["max-num-batched-tokens"] = str(min(limit.max_prefill_tokens for limit in limits))
    kv_tokens = min(fleet.kv_blocks(node, placement.ranges[node]) * fleet.profile(node).block_tokens for node in chain)
    notes = []
    host = (engine.get("kv_offloading") or {}).get("host")
    if host is not None and not fleet.cluster.is_disaggregated:
        machines = len({fleet.cluster.node(node).machine or node for node in chain})
        options["kv-offloading-size"] = f"{units.parse(host['size'], 'size') * machines / 2**30:g}"
        options["kv-offloading-backend"] = "native"
    context = fleet.model.max_context_tokens
    if kv_tokens < context:
        options["max-model-len"] = str(kv_tokens)
        notes.append(f"its KV cache keeps {kv_tokens} tokens, less than the {context} that the model accepts.")
    return options, notes
