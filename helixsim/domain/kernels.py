"""Laws of the kernels of a GPU, and of all-reduces among GPUs."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TypeVar

from helixsim.domain.layers import Multiply
from helixsim.errors import DataError

MOST_ONE_SHOT_BYTES, MOST_DIRECT_BYTES = 512 * 1024, 8 * 1024**2
"""Where engines change the algorithm of an all-reduce (vLLM, custom_all_reduce: one step below 512 KiB with up to four
GPUs and below 256 KiB with eight, NCCL from 8 MiB on)."""

MOST_TILES = 64
_INPUT_BYTES = 2  # before they are quantised


Law = TypeVar("Law", bound="GemmLaw")


@dataclass(frozen=True, slots=True)
class GemmLaw:
    """Time of one matrix product, ``(read^p + multiply^p)^(1/p) + launch``: a roofline with a rounded knee.

    Parameters
    ----------
    bandwidth_efficiency, compute_efficiency
        Shares of the peak bandwidth and of the peak multiply rate that are reached far from the knee, 0..1.
    sharpness
        ``p``, at least 1: the larger, the closer to ``max(read, multiply)``.
    launch_s
        Constant part [s].
    tile_tokens
        Tokens that are multiplied at once where that can be told from the time: of the last tile, what is empty takes
        its time again (``rows``). Zero: time follows the tokens.
    most_bytes_per_s
        At most so fast are weights read that are converted before they are multiplied: the cores are the limit then,
        not the memory.
    least_outputs
        Rows x columns of the result that all cores compute at once, each a tile over all inputs: smaller results leave
        cores without work and take as long (``outputs``). Zero: kernels share the inputs among the cores that are left.
    quantised_bytes_per_s, quantised_padding
        How fast the inputs, of 16 bits each, are brought into the format of the weights; each token takes as long as
        so many inputs more. Infinite: the kernels before do that.
    """

    bandwidth_efficiency: float
    compute_efficiency: float
    sharpness: float
    launch_s: float
    tile_tokens: int = 0
    most_bytes_per_s: float = math.inf
    least_outputs: float = 0.0
    quantised_bytes_per_s: float = math.inf
    quantised_padding: float = 0.0

    @property
    def tiled_until(self) -> int:
        """Most tokens whose tiles are counted: of more of them, the last one is a few percent at the most."""
        return MOST_TILES * self.tile_tokens

    def rows(self, tokens: float) -> float:
        """Return the tokens that take as long as these, with the last tile full.

        A product of more than one tile is padded to whole ones, and a tile that is not full takes longer than a full
        one, by as much as is empty.
        """
        tile = self.tile_tokens
        return tokens + 2 * (-tokens % tile) if tile and tile < tokens <= self.tiled_until else tokens

    def outputs(self, tokens: float, rows: float, columns: float) -> float:
        """Return the rows x columns that take as long as those of so many tokens, computed as ``rows`` rows.

        Batches of up to half a tile are computed in halves of it, those of up to a quarter in quarters.
        """
        share = 1.0 if tokens > self.tile_tokens / 2 else 0.5 if tokens > self.tile_tokens / 4 else 0.25
        return max(rows * columns, share * self.least_outputs)

    def quantised_s(self, tokens: float, inputs: float) -> float:
        """Return the time to bring the inputs of so many tokens into the format of the weights [s]."""
        return tokens * (inputs + self.quantised_padding) * _INPUT_BYTES / self.quantised_bytes_per_s


@dataclass(frozen=True, slots=True)
class ExpertsLaw(GemmLaw):
    """Time of the grouped matrix products of routed experts, the law of one product with what moves tokens.

    Parameters
    ----------
    tile_tokens
        Most tokens of an expert that are multiplied at once; fewer if experts have fewer (``rows_of``).
    passes
        How often the hidden states of each expert that a token is sent to are read or written in 16 bits: tokens are
        gathered by expert, quantised, and added up again.
    multiply
        Format that they multiply in, where it is not that of dense products of the same weights; None: that.
    """

    passes: float = 0.0
    multiply: Multiply | None = None

    def rows_of(self, rows: float, touched: float) -> float:
        """Return the rows that take as long as those of ``touched`` experts, with tiles that are not full.

        Experts are drawn unequally, so that the last tile of each is half empty. Kernels choose a tile as large as an
        expert has rows in the mean, at most ``tile_tokens``.
        """
        return rows + 0.5 * min(self.tile_tokens * touched, rows)


@dataclass(frozen=True, slots=True)
class AttentionLaw:
    """Time of attention in one layer.

    Prompts take ``launch + FLOP / (compute_efficiency x peak)``, where every token attends to ``padding_tokens`` more
    than it has to (kernels work in tiles); decode steps ``kv_launch + KV bytes / (kv_bandwidth_efficiency x peak
    bandwidth)``, where every sequence reads ``kv_padding_tokens`` more than it has. A layer with compressed keys and
    values (MLA) takes ``latent_s`` more in each step: norms and rotary embedding of the compressed parts, putting them
    together, quantizing activations and the batched products of the heads are kernels of their own. One whose index
    picks the tokens to attend to takes ``indexed_s`` beside that: scores, the choice of the highest, and gathering.

    Without grouped heads some kernels do not split a context: one core reads each head of a sequence, at
    ``kv_core_bytes_per_s``.

    Keys and values of 8 bits or less are read at ``most_kv8_bytes_per_s`` at the most, where they are converted before
    they are multiplied.

    A prompt's pair of tokens takes an exponential in each head, which lasts as long as ``softmax_columns`` more numbers
    in a key or value: narrow heads reach less of the peak. ``compute_efficiency`` is that of heads of 128.
    """

    compute_efficiency: float
    launch_s: float
    padding_tokens: float
    kv_bandwidth_efficiency: float
    kv_launch_s: float
    kv_padding_tokens: float
    latent_s: float = 0.0
    indexed_s: float = 0.0
    most_kv8_bytes_per_s: float = math.inf
    kv_core_bytes_per_s: float = math.inf
    softmax_columns: float = 0.0


@dataclass(frozen=True, slots=True)
class Kernels:
    """Measured constants of a GPU's kernels (see ``helixsim.hardware.kernels`` for the laws).

    Parameters
    ----------
    fp16, fp8, fp4
        Matrix products in each format; 8-bit integers follow ``fp8``.
    experts, experts_by_format
        Grouped matrix products of routed experts; (number format of the weights, law) pairs where it has its own.
    elementwise_s
        Norms, rotary embedding, activation and gaps between kernels of one layer and step, whatever its size [s].
    head_norms_s
        The same for the norms of queries and keys, in layers that have them [s].
    sampler_s, sampler_s_per_sequence
        Sampling after the output head: constant, and for each sequence [s].
    fused_quantization
        Formats whose products find their activations quantised by the kernels before, so that tables which time the
        quantising with the product have too much.
    backends
        What routed experts are computed with instead, by the name of the engine's option: (name, (number format, law)
        pairs).
    sustained
        What of the multiply rate is left in service, which the laws above have lost already: times of tables have not.
    name, source
        Which file of ``profiles/kernels``, and where the constants come from.
    """

    name: str
    fp16: GemmLaw
    fp8: GemmLaw
    fp4: GemmLaw
    experts: ExpertsLaw
    attention: AttentionLaw
    elementwise_s: float
    head_norms_s: float
    sampler_s: float
    sampler_s_per_sequence: float
    source: str
    experts_by_format: tuple[tuple[str, ExpertsLaw], ...] = ()
    fused_quantization: tuple[str, ...] = ()
    sustained: float = 1.0
    backends: tuple[tuple[str, tuple[tuple[str, ExpertsLaw], ...]], ...] = ()
    backend: str | None = None

    def with_backend(self, name: str | None) -> Kernels:
        """Return the kernels with another way to compute routed experts (None: that of the engine).

        Raises
        ------
        DataError
            If its constants are not known.
        """
        if name is None:
            return self
        known = dict(self.backends)
        if name not in known:
            raise DataError(
                f"engine.moe_backend: nothing is known of {name} with {self.name} kernels "
                f"(known: {', '.join(sorted(known)) or 'none'})"
            )
        laws = dict(self.experts_by_format) | dict(known[name])
        return replace(self, experts_by_format=(*laws.items(),), backend=name)

    def scaled(self, compute: float, memory: float = 1.0) -> Kernels:
        """Return the kernels whose matrix products reach other shares of the peaks by these factors, at most all."""

        def product(law: Law) -> Law:
            return replace(
                law,
                compute_efficiency=min(1.0, law.compute_efficiency * compute),
                bandwidth_efficiency=min(1.0, law.bandwidth_efficiency * memory),
                quantised_bytes_per_s=law.quantised_bytes_per_s * compute,  # by the cores
            )

        return replace(
            self,
            fp16=product(self.fp16),
            fp8=product(self.fp8),
            fp4=product(self.fp4),
            experts=product(self.experts),
            experts_by_format=tuple((form, product(law)) for form, law in self.experts_by_format),
            backends=tuple((name, tuple((form, product(law)) for form, law in laws)) for name, laws in self.backends),
        )

    def with_cores(self, factor: float) -> Kernels:
        """Return the kernels of a GPU with so many times as many cores, each of which computes a tile at a time."""

        def product(law: GemmLaw) -> GemmLaw:
            return replace(
                law,
                least_outputs=law.least_outputs * factor,
                quantised_bytes_per_s=law.quantised_bytes_per_s * factor,
            )

        return replace(self, fp8=product(self.fp8), fp4=product(self.fp4))

    def products(self) -> dict[str, GemmLaw]:
        """Return the laws of matrix products with the names to print."""
        by_format = {f"{form} experts": law for form, law in self.experts_by_format}
        return {"fp16": self.fp16, "fp8": self.fp8, "fp4": self.fp4, "experts": self.experts, **by_format}

    def experts_of(self, form: str) -> ExpertsLaw:
        """Return the law of routed experts in a number format."""
        return dict(self.experts_by_format).get(form, self.experts)


@dataclass(frozen=True, slots=True)
class AllReduce:
    """All-reduce among ``gpus`` GPUs of a node.

    Small messages go in one step, each GPU reading all others' (``one_shot_s + (n - 1) x bytes / bytes_per_s``): up to
    ``most_one_shot_bytes``, half of it with more than four GPUs. Larger ones go in two (``two_shot_s + 2 (n - 1) / n x
    bytes / bytes_per_s``), those of more than ``MOST_DIRECT_BYTES`` round a ring (``ring_s + 2 (n - 1) / n x bytes /
    ring_bytes_per_s``), or, where that is faster, added up in the switch, which takes and returns ``(n + 1) / n`` times
    the message at ``switch_bytes_per_s`` (NVLink SHARP; 0: not known). GPUs without direct access to each other's
    memory know the ring alone: ``one_shot_s`` is None. Outside CUDA graphs the host calls each, which takes at least
    ``eager_s``.
    """

    gpus: int
    ring_s: float
    ring_bytes_per_s: float
    one_shot_s: float | None = None
    two_shot_s: float = 0.0
    bytes_per_s: float = 1.0
    eager_s: float = 0.0
    most_one_shot_bytes: float = MOST_ONE_SHOT_BYTES
    switch_bytes_per_s: float = 0.0

    def seconds(self, size_bytes: float) -> float:
        """Return the time for a message of ``size_bytes`` on each GPU [s]."""
        gpus = self.gpus
        ring = 2 * (gpus - 1) / gpus * size_bytes
        if self.one_shot_s is None or size_bytes >= MOST_DIRECT_BYTES:
            ring_s = self.ring_s + ring / self.ring_bytes_per_s
            if not self.switch_bytes_per_s:
                return ring_s
            switch_s = self.ring_s + (gpus + 1) / gpus * size_bytes / self.switch_bytes_per_s
            direct_s = self.two_shot_s + 2 * (gpus - 1) / gpus * MOST_DIRECT_BYTES / self.bytes_per_s
            return min(ring_s, max(switch_s, direct_s))  # more takes no less
        if gpus == 2 or size_bytes < self.most_one_shot_bytes / (1 if gpus <= 4 else 2):
            return self.one_shot_s + (gpus - 1) * size_bytes / self.bytes_per_s
        return self.two_shot_s + ring / self.bytes_per_s
