"""What a serving engine adds to the time its kernels take."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from helixsim.domain.placement import LayerRange
from helixsim.domain.speculation import Speculation

NEW_TOKEN_RATIO, LEAST_NEW_TOKEN_RATIO, RATIO_DECAY_STEPS = 0.7, 0.14, 600
"""SGLang (``SGLANG_INIT_NEW_TOKEN_RATIO``, ``SGLANG_MIN_NEW_TOKEN_RATIO_FACTOR``,
``SGLANG_NEW_TOKEN_RATIO_DECAY_STEPS``): what an idle server begins with, the share of it that is left in the end, and
after how many decode steps it is."""

RETRACT_STEPS = 20
"""Decode steps for which SGLang keeps memory after it has preempted (``SGLANG_RETRACT_DECODE_STEPS``)."""

MOST_NEW_TOKENS = 4096
"""Output that admission expects at the most there (``SGLANG_CLIP_MAX_NEW_TOKENS_ESTIMATION``)."""


@dataclass(frozen=True, slots=True)
class NewTokenRatio:
    """Share of the output that running sequences may still generate for which admission keeps memory (SGLang), 0..1.

    It falls from ``first`` to ``least`` in equal parts, one each decode step.
    """

    first: float
    least: float

    def after(self, start: float, steps: int) -> float:
        """Return the share so many decode steps after it was ``start``."""
        if not steps:
            return start
        return max(self.least, start - steps * ((self.first - self.least) / RATIO_DECAY_STEPS))

    @staticmethod
    def retracted(generated: int, sequences: int, expected: int) -> float:
        """Return the share after a preemption that leaves sequences with so many tokens of those they may generate."""
        return min(1.0, (generated + RETRACT_STEPS * sequences) / (expected + 1))


@dataclass(frozen=True, slots=True)
class AttentionBalance:
    """How long prompts wait until every attention rank has one (TensorRT-LLM: ``attention_dp_config``), in steps.

    Parameters
    ----------
    timeout_iters
        Steps after which they are admitted though a rank has none.
    batching_wait_iters
        Further steps for which they wait when every rank has one.
    """

    timeout_iters: int
    batching_wait_iters: int


@dataclass(frozen=True, slots=True)
class KvTier:
    """Memory of a node behind that of its GPUs, for KV blocks that its prefix cache evicts.

    Parameters
    ----------
    name
        ``host`` or ``disk``.
    size_bytes
        Of a node [B].
    bytes_per_s
        Of the link over which blocks come back: of each GPU for the host, of a node for the disk [B/s].
    latency_ns
        What a load takes besides [ns].
    """

    name: Literal["host", "disk"]
    size_bytes: int
    bytes_per_s: float
    latency_ns: int


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
    host_ns, sequence_host_ns
        What the host does for a step, and for each sequence of it, while the GPU computes (asynchronous scheduling): a
        step takes at least so long [ns].
    layer_launch_ns
        Time the host needs to launch the kernels of one layer [ns]; outside CUDA graphs, a layer never takes less.
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
    version
        The release whose defaults the profile states; empty: none.
    admission
        KV memory that must be free to admit a request: that of its ``prompt``, also that of the ``output`` expected, or
        that of the longest output allowed (``max_output``).
    schedule_conservativeness
        SGLang's factor of the output that admission keeps memory for; None: all that is expected. A request enters if
        there is memory for its prompt and its whole expected output beside a share of what the running ones may still
        generate (``new_token_ratio``).
    chunks_prompts
        A prompt longer than what is left of the token budget is cut (chunked prefill).
    long_prefill_token_threshold
        Most tokens of one prompt in a step [tokens]; 0: no limit but the token budget.
    scheduler_recv_interval
        Decode steps after which the scheduler looks for new requests, as it also does behind prompts (SGLang).
    attention_balance
        Prompts of attention ranks wait for each other; None: each is admitted as soon as there is room.
    scheduling_policy
        Order of waiting requests: ``fcfs``, or ``priority`` (lowest value first, then arrival).
    caches_prefixes
        KV blocks of finished requests stay until their memory is needed, and prompts that begin alike share them.
    kv_tiers
        Host memory and disks for blocks that the prefix cache evicts, in this order; none: they are lost.
    pads_prompts
        Steps with prompt tokens are padded to the sizes of CUDA graphs, too, not only those of decode steps alone.
    speculation
        Draft tokens that decode steps verify; None: none.
    """

    name: str = "ideal"
    gather_ns: int = 0
    batch_overhead_ns: int = 0
    sequence_overhead_ns: int = 0
    host_ns: int = 0
    sequence_host_ns: int = 0
    layer_launch_ns: int = 0
    message_overhead_ns: int = 0
    shares_weight_reads: bool = False
    loops_inside: bool = False
    copies_activations: bool = True
    has_output_head: bool = False
    min_free_share: float = 0.0
    version: str = ""
    admission: Literal["prompt", "output", "max_output"] = "output"
    schedule_conservativeness: float | None = None
    chunks_prompts: bool = False
    long_prefill_token_threshold: int = 0
    scheduler_recv_interval: int = 1
    attention_balance: AttentionBalance | None = None
    scheduling_policy: Literal["fcfs", "priority"] = "fcfs"
    caches_prefixes: bool = False
    kv_tiers: tuple[KvTier, ...] = ()
    pads_prompts: bool = False
    speculation: Speculation | None = None

    @property
    def new_token_ratio(self) -> NewTokenRatio | None:
        """How much of the output that running sequences may still generate admission keeps memory for; None: all."""
        if self.schedule_conservativeness is None:
            return None
        first = min(1.0, NEW_TOKEN_RATIO * self.schedule_conservativeness)
        return NewTokenRatio(first, first * LEAST_NEW_TOKEN_RATIO)

    @property
    def drafts(self) -> int:
        """Draft tokens that each decoding sequence verifies in a step."""
        return 0 if self.speculation is None else self.speculation.k

    def drafters(self, held: LayerRange, num_layers: int) -> list[tuple[float, EngineSpec, LayerRange]]:
        """Return what a node computes in a step to make draft tokens: how often, under which engine, which layers."""
        law, found = self.speculation, []
        if law is not None and law.draft_cost:
            alone = replace(self, speculation=None, host_ns=0, sequence_host_ns=0)
            found.append((law.draft_cost * law.k, alone, held))
        if law is not None and law.is_mtp and held.end == num_layers:
            module = EngineSpec(
                batch_overhead_ns=round(law.overhead_ns / law.k),
                layer_launch_ns=self.layer_launch_ns,
                shares_weight_reads=self.shares_weight_reads,
                copies_activations=False,
                has_output_head=self.has_output_head,
            )
            found.append((float(law.k), module, LayerRange(num_layers - 1, num_layers)))
        return found


IDEAL = EngineSpec()
"""An engine that costs no time of its own."""
