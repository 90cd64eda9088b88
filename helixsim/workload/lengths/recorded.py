"""Length distributions of recorded traces: the pairs of a trace, or a compact joint histogram."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np

from helixsim import jsonio
from helixsim.datafiles import data_path
from helixsim.domain.request import Request
from helixsim.errors import ConfigError, DataError
from helixsim.workload.lengths.base import NoOptions, Tokens, inside
from helixsim.workload.readers.registry import read_trace
from helixsim.workload.readers.values import MAX_TOKENS
from helixsim.workload.spec import LengthLimits, ReadOptions


@dataclass(frozen=True, slots=True)
class TraceOptions:
    """A trace file; arrival times are not required.

    ``format`` None: detected. ``chars_per_token`` estimates the lengths of ShareGPT texts. ``prompt_column`` and
    ``output_column`` name the columns of lengths, ``where`` (``COLUMN=VALUE``) selects rows.
    """

    path: str
    format: str | None = None
    chars_per_token: float | None = None
    prompt_column: str | None = None
    output_column: str | None = None
    where: str | None = None


class RecordedPairs:
    """The length pairs of recorded requests, drawn with replacement."""

    summary: ClassVar[str] = "the length pairs of a trace, drawn with replacement"
    Options: ClassVar[type[TraceOptions]] = TraceOptions

    def __init__(self, requests: Iterable[Request]) -> None:
        pairs = [(request.prompt_tokens, request.output_tokens) for request in requests]
        if not pairs:
            raise DataError("no recorded request to draw lengths from; check trace.start and trace.duration")
        self._prompt, self._output = np.array(pairs, dtype=np.int64).T

    def longest_prompt_tokens(self, limits: LengthLimits) -> int:
        """Return the longest prompt within the limits [tokens], 0 if there is none."""
        return int(self._prompt[inside(limits, self._prompt, self._output)].max(initial=0))

    def sample(self, rng: np.random.Generator, n: int) -> tuple[Tokens, Tokens]:
        """Return ``n`` of the pairs [tokens]."""
        chosen = rng.integers(0, len(self._prompt), n)
        return self._prompt[chosen], self._output[chosen]

    def mean(self) -> tuple[float, float]:
        """Return the recorded means [tokens]."""
        return float(self._prompt.mean()), float(self._output.mean())


class Trace(RecordedPairs):
    """The length pairs of a trace file."""

    def __init__(self, options: TraceOptions) -> None:
        path = Path(options.path)
        columns = (("prompt", options.prompt_column), ("output", options.output_column))
        column, equals, value = (options.where or "").partition("=")
        if options.where is not None and not (column and equals):
            raise ConfigError(f"where: got {options.where!r}, expected COLUMN=VALUE")
        reading = ReadOptions(
            chars_per_token=options.chars_per_token,
            columns=tuple((part, name) for part, name in columns if name is not None),
            where=((column, value),) if equals else (),
        )
        super().__init__(read_trace(path, options.format, reading, times="ignored"))


@dataclass(frozen=True)
class JointHistogram:
    """A joint histogram of integers, uniform within each cell.

    Cell ``i`` of either axis has the lengths ``edges[i] + 1 .. edges[i + 1]``. The fine cells of prompts are joined to
    groups, and the output depends on the group of the prompt.

    Parameters
    ----------
    prompt_edges, prompt_counts
        Cells of the prompt length [tokens] and requests in each.
    group_ends
        Index after the last prompt cell of each group.
    output_edges, output_counts
        Cells of the output length [tokens]; ``output_counts[group][cell]`` requests.
    """

    prompt_edges: tuple[int, ...]
    prompt_counts: tuple[int, ...]
    group_ends: tuple[int, ...]
    output_edges: tuple[int, ...]
    output_counts: tuple[tuple[int, ...], ...]

    def __post_init__(self) -> None:
        counts = np.array(self.output_counts)
        groups = np.add.reduceat(self.prompt_counts, (0, *self.group_ends[:-1]))
        if (
            len(self.prompt_edges) != len(self.prompt_counts) + 1
            or counts.shape != (len(self.group_ends), len(self.output_edges) - 1)
            or self.group_ends[-1] != len(self.prompt_counts)
            or not np.array_equal(groups, counts.sum(axis=1))
            or min(*np.diff(self.prompt_edges), *np.diff(self.output_edges), *groups) < 1
            or min(self.prompt_edges[0], self.output_edges[0], *self.prompt_counts, counts.min()) < 0
        ):
            raise ValueError("edges and counts of the joint histogram are inconsistent")

    @classmethod
    def load(cls, path: Path) -> JointHistogram:
        """Read a file written by ``helixsim trace fit-lengths``; ``DataError`` if it is not one."""
        try:
            document = jsonio.load(path)["histogram"]
            return cls(
                **{
                    key: _whole_numbers(document[key])
                    for key in ("prompt_edges", "prompt_counts", "group_ends", "output_edges")
                },
                output_counts=tuple(_whole_numbers(row) for row in document["output_counts"]),
            )
        except DataError as error:
            raise DataError(f"{error}; expected a length histogram of `helixsim trace fit-lengths`") from None
        except (ValueError, KeyError, TypeError, IndexError) as error:
            raise DataError(f"{path}: not a length histogram of `helixsim trace fit-lengths` ({error!r})") from None


def _whole_numbers(values: Sequence[object]) -> tuple[int, ...]:
    """Return integers within the limits of lengths; ``ValueError`` for any other value."""
    numbers = tuple(value for value in values if isinstance(value, int) and 0 <= value <= MAX_TOKENS)
    if len(numbers) != len(values):
        raise ValueError(f"expected whole numbers from 0 to {MAX_TOKENS}")
    return numbers


class HistogramLengths:
    """A length distribution given by a ``JointHistogram``."""

    def __init__(self, histogram: JointHistogram) -> None:
        self._prompt_edges = np.array(histogram.prompt_edges)
        self._output_edges = np.array(histogram.output_edges)
        counts = np.array(histogram.prompt_counts)
        self._prompt_shares = counts / counts.sum()
        joint = np.array(histogram.output_counts)
        self._output_shares = joint.sum(axis=0) / joint.sum()
        self._prompt_cumulative = np.cumsum(counts) / counts.sum()
        self._group_of_cell = np.repeat(np.arange(len(joint)), np.diff((0, *histogram.group_ends)))
        # One increasing array for all groups (group number + share) allows a single vectorised search.
        within = np.cumsum(joint, axis=1) / joint.sum(axis=1, keepdims=True)
        self._output_cumulative = (np.arange(len(joint))[:, None] + within).ravel()

    def sample(self, rng: np.random.Generator, n: int) -> tuple[Tokens, Tokens]:
        """Return ``n`` pairs [tokens]."""
        draws = rng.random((4, n))
        prompt_cell = np.searchsorted(self._prompt_cumulative, draws[0], side="right")
        group = self._group_of_cell[prompt_cell]
        # A draw just below 1 can round up into the range of the next group.
        cells = len(self._output_edges) - 1
        found = np.searchsorted(self._output_cumulative, group + draws[1], side="right")
        output_cell = np.minimum(found - group * cells, cells - 1)
        return (
            _within_cell(self._prompt_edges, prompt_cell, draws[2]),
            _within_cell(self._output_edges, output_cell, draws[3]),
        )

    def mean(self) -> tuple[float, float]:
        """Return the exact means [tokens]."""
        return (
            float(self._prompt_shares @ cell_means(self._prompt_edges)),
            float(self._output_shares @ cell_means(self._output_edges)),
        )


def cell_means(edges: Tokens) -> np.ndarray[tuple[int, ...], np.dtype[np.float64]]:
    """Return the mean length of each cell [tokens]."""
    return (edges[:-1] + 1 + edges[1:]) / 2


def _within_cell(edges: Tokens, cell: Tokens, draws: np.ndarray[tuple[int, ...], np.dtype[np.float64]]) -> Tokens:
    low = edges[cell]
    return low + 1 + (draws * (edges[cell + 1] - low)).astype(np.int64)


@dataclass(frozen=True, slots=True)
class FittedOptions:
    """A file written by ``helixsim trace fit-lengths``."""

    path: str


class Fitted(HistogramLengths):
    """A joint histogram from a user file."""

    summary: ClassVar[str] = "joint histogram from `helixsim trace fit-lengths`"
    Options: ClassVar[type[FittedOptions]] = FittedOptions

    def __init__(self, options: FittedOptions) -> None:
        super().__init__(JointHistogram.load(Path(options.path)))


class AzureConversation(HistogramLengths):
    """Conversations of the Azure LLM inference trace 2023, fitted (traces/lengths/azure-conversation.json)."""

    summary: ClassVar[str] = "Azure 2023 conversation trace: mean 1155 prompt and 211 output tokens"
    Options: ClassVar[type[NoOptions]] = NoOptions

    def __init__(self, _options: NoOptions) -> None:
        super().__init__(JointHistogram.load(data_path("traces", "lengths", "azure-conversation.json")))


class AzureCode(HistogramLengths):
    """Code completion of the Azure LLM inference trace 2023, fitted (traces/lengths/azure-code.json)."""

    summary: ClassVar[str] = "Azure 2023 code trace: mean 2048 prompt and 28 output tokens"
    Options: ClassVar[type[NoOptions]] = NoOptions

    def __init__(self, _options: NoOptions) -> None:
        super().__init__(JointHistogram.load(data_path("traces", "lengths", "azure-code.json")))
