"""Joins what is known about one kind of node and one model: the ``NodeProfile`` everything else works with.

Each of timings, KV memory and limits comes from the first of: the user's own table, ``profiles/compute``, physics. What
stands for missing data is said in a sentence.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import NamedTuple

from helixsim.domain.hardware import BatchLimits, ComputeProfile, Ends, GpuSpec, NodeProfile
from helixsim.domain.memory import LayerMemory
from helixsim.domain.model import ModelSpec
from helixsim.errors import ConfigError, DataError, InfeasibleError
from helixsim.hardware import compute_file, kv_memory, measured
from helixsim.hardware.compute_file import FittedKind
from helixsim.hardware.operator_library import SYSTEMS, installed_version
from helixsim.hardware.operator_tables import operator_profile
from helixsim.hardware.profile_options import ProfileOptions
from helixsim.hardware.roofline import roofline
from helixsim.hardware.tensor_parallel import from_one_gpu, kv_shares
from helixsim.units import NS_PER_S, format_bytes

DEFAULT_LIMITS = BatchLimits(max_prefill_requests=256, max_prefill_tokens=8192, max_decode_seqs=256)
"""Batch limits of kinds nobody has measured, with engines that state none."""

PUBLISHED_WEIGHT_FRACTION = 0.5
"""Share of memory for weights behind ``max_layers`` in ``profiles/compute`` (the paper's rule), and of strategies that
do not search for the best number of layers."""

LEAST_KV_TOKENS = 4096
"""A planner leaves KV memory for one full context where ``max_context_tokens`` states it, else for that of the model
or for this many tokens if that is less: of models that take 128 k tokens or more, few are sent requests that long."""

TABLE_CONTEXT_TOKENS = 1000
"""Context of a sequence taken to be in fitted decode timings. The published tables do not state theirs, but allow for
1000 tokens per decoding sequence, and their slopes over large batches of LLaMA-1 30B, which reads 26.6 kB of KV per
token and layer, come to 800 to 1000 tokens at the memory bandwidth that layers reach (A100, L4)."""

_SIXTEEN_BIT = frozenset({"fp16", "bf16"})


def node_profile(
    model: ModelSpec, gpu: GpuSpec, gpus: int, options: ProfileOptions
) -> tuple[NodeProfile, tuple[str, ...]]:
    """Return what ``gpus`` GPUs as one node can do with ``model``, and sentences on what had to be assumed.

    Raises
    ------
    DataError
        For unreadable or senseless tables.
    InfeasibleError
        If the node cannot hold one layer with any KV memory left.
    """
    gpu = gpu.under(options.kernels or options.backend)
    gpu = replace(gpu, kernels=gpu.kernels.with_backend(options.moe_backend))
    kind = gpu.name if gpus == 1 else f"{gpu.name}x{gpus}"
    ranks = options.data_parallel_size
    sources = _Sources(model, gpu, gpus, kind, options)
    fitted = sources.fitted()
    compute = sources.compute(fitted)
    blocks, limits, max_layers, limited_by, memory = sources.tabulated() or sources.physical(fitted)
    full = sources.usual_layers(max_layers) if options.max_weight_fraction is None else max_layers
    typical, initial = max(1, round(2 * full / 3)), 0.0
    if fitted is not None and fitted.planner is not None:
        typical = min(fitted.planner.typical_layers, max_layers)
        full = min(fitted.planner.typical_layers_full, max_layers)
        initial = fitted.planner.initial_layer_tokens_per_s
    profile = NodeProfile(
        kind=kind,
        compute=compute,
        block_tokens=options.block_tokens,
        kv_blocks=blocks,
        limits=limits,
        max_layers=max_layers,
        typical_layers=typical,
        typical_layers_full=full,
        initial_layer_tokens_per_s=initial,
        ends_bytes=(
            Ends(ranks * model.vocabulary_bytes, ranks * model.vocabulary_bytes, ranks * model.embedding_bytes)
            if options.holds_ends
            else Ends()
        ),
        block_bytes=options.block_tokens * kv_memory.kv_token_bytes(model, gpus // ranks),
        limited_by=limited_by if max_layers < model.num_layers else "",
        memory=memory,
    )
    return profile, tuple(sources.notes)


class _Room(NamedTuple):
    """KV blocks and batch limits with 1, 2, ... layers, and the most layers a planner gives, with what limits them."""

    blocks: tuple[int, ...]
    limits: tuple[BatchLimits, ...]
    max_layers: int
    limited_by: str
    memory: LayerMemory | None = None


@dataclass
class _Sources:
    """Everything known about one kind of node; ``notes`` gathers what had to be assumed."""

    model: ModelSpec
    gpu: GpuSpec
    gpus: int
    kind: str
    options: ProfileOptions
    notes: list[str] = field(default_factory=list)

    def fitted(self) -> FittedKind | None:
        """Return the fitted figures of the kind, the user's before those of ``profiles/compute``."""
        return self._fitted_kind(self.kind)

    def _fitted_kind(self, kind: str) -> FittedKind | None:
        model, timings = self.model, self.options.timings
        if self.options.is_spread:  # all that was published is of tensor parallelism
            return None
        own = compute_file.read(timings) if isinstance(timings, Path) and _is_fitted(timings) else ()
        for fitted in (*own, *compute_file.committed(model.name)):
            if (fitted.model, fitted.kind) != (model.name, kind):
                continue
            if fitted.precision == model.precision or {fitted.precision, model.precision} <= _SIXTEEN_BIT:
                return fitted
            self.notes.append(
                f"timings of {model.name} on {kind} are for {fitted.precision} weights, not {model.precision}: not used"
            )
        return None

    def compute(self, fitted: FittedKind | None) -> ComputeProfile:
        """Return the user's timings, else the fitted ones, else operator tables, else the roofline."""
        model, source = self.model, self.options.timings
        if isinstance(source, Path) and not self.options.is_spread and not _is_fitted(source):
            timings = measured.find(measured.read_timings(source), model.name, self.kind)
            if timings is not None:
                return measured.compute_profile(timings, model, f"per-layer timings in {source.name}")
            self.notes.append(f"{source.name}: no timings for {model.name} on {self.kind}")
        if source == "operators":
            return self._noted(self._tabled())
        if source == "analytic":
            return self._noted(self._by_laws())
        if fitted is None:
            single = self._fitted_kind(self.gpu.name) if self.gpus > 1 else None
            return self._noted(
                self._from_tables()
                or (
                    self._by_laws()
                    if single is None
                    else from_one_gpu(self._from_fit(single, 1), model, self.gpu, self.gpus)
                )
            )
        if model.kv_precision not in _SIXTEEN_BIT:
            self.notes.append(
                f"timings of {model.name} on {self.kind} were taken with a 16-bit KV cache, not {model.kv_precision}"
            )
        return self._from_fit(fitted, self.gpus)

    def _by_laws(self) -> ComputeProfile:
        ranks, by_expert = self.options.data_parallel_size, self.options.enable_expert_parallel
        return roofline(self.model, self.gpu, self.gpus, ranks=ranks, by_expert=by_expert)

    def _tabled(self) -> ComputeProfile:
        options = self.options
        spread = options.data_parallel_size, options.enable_expert_parallel
        return operator_profile(self.model, self.gpu, self.gpus, options.backend, *spread)

    def _noted(self, computed: ComputeProfile) -> ComputeProfile:
        how = "timings of" if computed.source == "operators" else "no timings for"
        self.notes.append(f"{how} {self.model.name} on {self.kind}: {computed.provenance}")
        return computed

    def _from_tables(self) -> ComputeProfile | None:
        """Return times from operator tables if the library is there and has them; what it lacks is noted."""
        backend = self.options.backend
        if backend is None or self.gpu.name not in SYSTEMS or installed_version() is None:
            return None
        try:
            return self._tabled()
        except (ConfigError, DataError) as error:
            self.notes.append(f"operator tables not used for {self.model.name} on {self.kind}: {error}")
            return None

    def _from_fit(self, fitted: FittedKind, gpus: int) -> ComputeProfile:
        model = self.model
        return ComputeProfile(
            kind=fitted.kind,
            model=model.name,
            source="fitted",
            prefill=fitted.prefill.curve,
            decode=fitted.decode.curve,
            decode_context_ns_per_token=self._context_ns_per_token(gpus),
            reference_context_tokens=TABLE_CONTEXT_TOKENS,
            activation_copy_ns_per_token=measured.activation_copy_ns_per_token(model),
            provenance=(
                f"{fitted.source}; fitted, median error {fitted.prefill.median_error:.1%} (prefill) "
                f"and {fitted.decode.median_error:.1%} (decode)"
            ),
        )

    def _context_ns_per_token(self, gpus: int) -> float:
        """Return the time to read a token's keys and values in one layer, at the bandwidth of the timings [ns]."""
        gpu = self.gpu
        rate = gpu.memory_bandwidth_bytes_per_s * gpu.kernels.fp16.bandwidth_efficiency
        return self.model.kv_bytes_per_token_per_layer / (rate * kv_shares(self.model, gpus)) * NS_PER_S

    def tabulated(self) -> _Room | None:
        """Return the user's table of limits as it stands, None if it does not cover the kind."""
        path, block_tokens = self.options.limits, self.options.block_tokens
        if path is None:
            return None
        if self.options.is_spread:
            raise ConfigError(
                "limits: tables of KV memory are of tensor parallelism alone, not of data-parallel attention"
            )
        table = measured.find(measured.read_limits(path), self.model.name, self.kind)
        if table is None:
            self.notes.append(f"{path.name}: no limits for {self.model.name} on {self.kind}: KV memory from physics")
            return None
        for layers, tokens in enumerate(table.kv_tokens, start=1):
            if tokens % block_tokens:
                raise DataError(
                    f"{path}: kv_tokens_per_layer {tokens} of {self.kind} with {layers} layers "
                    f"is no multiple of block_tokens {block_tokens}"
                )
        self.notes.append(
            f"KV memory and layers of {self.kind} as tabulated in {path.name}: gpu_memory_utilization has no effect"
        )
        blocks = tuple(tokens // block_tokens for tokens in table.kv_tokens)
        limits = tuple(self._limited(entry) for entry in table.batch)
        return _Room(blocks, limits, len(blocks), f"as tabulated in {path.name}")

    def physical(self, fitted: FittedKind | None) -> _Room:
        """Return what the memory of the node allows, with measured workspace and batch limits where there are any."""
        model, options = self.model, self.options
        batch = fitted.batch if fitted is not None and fitted.batch else (DEFAULT_LIMITS,)
        limits = [self._limited(self._of_engine(entry)) for entry in batch]
        memory = self._memory(fitted, limits[0])
        layered = self._layered(memory)
        if layered is None:
            blocks = kv_memory.kv_blocks(model, memory, options.memory_fraction, options.block_tokens)
        else:
            each = (layered.range_blocks(layers) for layers in range(1, model.num_layers + 1))
            blocks = tuple(fewest for fewest, most in each if most)
        if not blocks:
            budget = max(memory.budget_bytes(options.memory_fraction), 0)
            raise InfeasibleError(
                f"{self.kind} cannot hold one layer of {model.name}: a layer weighs "
                f"{format_bytes(model.weight_bytes_per_layer)}, weights and KV may take {format_bytes(budget)} "
                f"(gpu_memory_utilization {options.memory_fraction:g}); leave the node out, or change precision, gpus "
                f"or the engine's limits"
            )
        limits += [limits[-1]] * (len(blocks) - len(limits))
        if options.data_parallel_size > 1:
            limits = [_of_ranks(one, options.data_parallel_size) for one in limits]
        return _Room(blocks, tuple(limits[: len(blocks)]), *self._max_layers(fitted, memory, blocks), layered)

    def _layered(self, memory: kv_memory.NodeMemory) -> LayerMemory | None:
        """Return the memory of each layer where they differ."""
        options, usual = self.options, self.options.sequence_tokens
        tokens = min(self.model.max_context_tokens, LEAST_KV_TOKENS) if usual is None else max(1, round(usual))
        found = kv_memory.layer_memory(
            self.model, memory, options.memory_fraction, options.block_tokens, tokens, has_mtp=options.has_mtp
        )
        if found is not None and self.model.keeps_parts:
            self.notes.append(f"{self.model.name}: room for windows and states as in sequences of {tokens} tokens")
        return found

    def _memory(self, fitted: FittedKind | None, limits: BatchLimits) -> kv_memory.NodeMemory:
        if fitted is not None and fitted.memory is not None:
            known = fitted.memory
            return kv_memory.node_memory(self.gpu, self.gpus, known.workspace_bytes, known.overhead_bytes_per_layer)
        tokens = limits.max_prefill_tokens
        if self.options.holds_ends:
            ranks = self.options.data_parallel_size
            workspace = kv_memory.engine_workspace_bytes(
                self.model, self.gpus, tokens, limits.max_decode_seqs, self.gpu.reserved_bytes, ranks
            )
            self.notes.append(
                f"no KV table for {self.model.name} on {self.kind}: workspace taken as {format_bytes(workspace)}: "
                f"activations of {tokens} tokens, sampling of {limits.max_decode_seqs} sequences, graphs and libraries"
            )
            return kv_memory.node_memory(self.gpu, self.gpus, workspace, ranks=ranks)
        workspace = kv_memory.activation_peak_bytes(self.model, tokens)
        self.notes.append(
            f"no KV table for {self.model.name} on {self.kind}: workspace taken as {format_bytes(workspace)}, "
            f"the activations of {tokens} tokens"
        )
        return kv_memory.node_memory(self.gpu, self.gpus, workspace)

    def _max_layers(
        self, fitted: FittedKind | None, memory: kv_memory.NodeMemory, blocks: tuple[int, ...]
    ) -> tuple[int, str]:
        """Return the most layers a planner gives the node, and which limit binds."""
        fraction, least = self.options.max_weight_fraction, self.options.least_kv_tokens
        if least is None:
            least = min(self.model.max_context_tokens, LEAST_KV_TOKENS)
        by_kv = sum(count * self.options.block_tokens >= least for count in blocks)
        room = f"KV memory for one context of {least} tokens"
        found = [(len(blocks), "memory for weights"), (by_kv, room)]
        if fitted is not None and fitted.planner is not None and fraction in (None, PUBLISHED_WEIGHT_FRACTION):
            found.append((fitted.planner.max_layers, "the number published with its timings"))
        elif fraction is not None:
            by_weight = int(fraction * memory.usable_bytes // self.model.weight_bytes_per_layer)
            found.append((by_weight, f"engine.max_weight_fraction {fraction:g}"))
        layers, limit = min(found, key=lambda one: one[0])
        if layers:
            return layers, limit
        self.notes.append(
            f"{limit} leaves no room for one layer of {self.model.name} on {self.kind}: "
            "planners may place one all the same"
        )
        return 1, limit

    def usual_layers(self, most: int) -> int:
        """Return the layers whose weights fill half of the memory, at most ``most``."""
        usable = PUBLISHED_WEIGHT_FRACTION * self.gpu.usable_memory_bytes * self.gpus
        return min(max(int(usable // self.model.weight_bytes_per_layer), 1), most)

    def _of_engine(self, measured: BatchLimits) -> BatchLimits:
        """Return the limits that the engine states, else the measured ones."""
        context_tokens, ranks = self.model.max_context_tokens, self.options.data_parallel_size
        return self.options.steps.limits(measured, self.gpu, self.gpus, context_tokens, ranks)

    def _limited(self, limits: BatchLimits) -> BatchLimits:
        """Return limits with those of the options in their place, and the sizes that steps are padded to."""
        options = self.options
        tokens = options.max_prefill_tokens or limits.max_prefill_tokens
        seqs = options.max_decode_seqs
        if seqs is None:  # a budget below the engine's number of sequences lowers it, as in vLLM
            is_budget = options.steps.max_num_seqs is not None
            seqs = min(limits.max_decode_seqs, tokens) if is_budget else limits.max_decode_seqs
        own = BatchLimits(options.max_prefill_requests or limits.max_prefill_requests, tokens, seqs)
        sizes = options.graph_sizes
        if sizes is None:
            sizes = options.steps.graph_sizes(own, self.gpu, self.gpus)
        return replace(own, graph_sizes=sizes)


def _of_ranks(limits: BatchLimits, ranks: int) -> BatchLimits:
    """Return the limits of all ranks together; CUDA graphs are those of each."""
    return replace(
        limits,
        max_prefill_requests=limits.max_prefill_requests * ranks,
        max_prefill_tokens=limits.max_prefill_tokens * ranks,
        max_decode_seqs=limits.max_decode_seqs * ranks,
    )


def _is_fitted(path: Path) -> bool:
    return path.suffix in {".yaml", ".yml"}
