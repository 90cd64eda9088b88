"""What a serving engine adds to the time its kernels take."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class EngineSpec:
    """Overheads of one serving engine, the same on every GPU and for every model.

    Parameters
    ----------
    gather_ns
        From the moment a node could start a batch, because work has come or the last batch has ended, until it has
        decided what the batch holds: it polls, unpacks and schedules. What arrives meanwhile joins the batch [ns].
    batch_overhead_ns
        Once per batch and node: scheduling, preparing inputs, taking results over [ns]. The GPU idles meanwhile.
    sequence_overhead_ns
        Once per sequence of a batch, prompt or decode step, on each node: what the host does for single requests,
        such as building block tables, slicing, packing and unpacking messages [ns].
    layer_launch_ns
        Time the host needs to launch the kernels of one layer [ns]; a layer never takes less.
    message_overhead_ns
        Handing one message over between threads and processes, on top of the network's latency [ns].
    loops_inside
        The last stage returns each token to the first one, as engines do whose scheduler runs beside the first stage;
        otherwise it goes to the coordinator, which sends the next step.
    copies_activations
        Activations are joined on the host and copied to the GPU, once per batch and node.
    has_output_head
        The node with the last layer also computes the output head and samples.
    shares_weight_reads
        Prompts and decode steps of one batch pass the layers together, so that weights are read once for both;
        otherwise they pass one after the other.
    min_free_share
        Share of a node's KV blocks that must stay free when a request is admitted (vLLM: ``watermark``), 0..1.
    """

    name: str = "ideal"
    gather_ns: int = 0
    batch_overhead_ns: int = 0
    sequence_overhead_ns: int = 0
    layer_launch_ns: int = 0
    message_overhead_ns: int = 0
    shares_weight_reads: bool = False
    loops_inside: bool = False
    copies_activations: bool = True
    has_output_head: bool = False
    min_free_share: float = 0.0


IDEAL = EngineSpec()
"""An engine that costs no time of its own."""
