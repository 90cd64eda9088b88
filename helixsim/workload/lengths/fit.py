"""Fit of a compact joint histogram to recorded lengths."""

from __future__ import annotations

import heapq
import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from helixsim.domain.request import Request
from helixsim.errors import DataError
from helixsim.workload.lengths.base import Tokens
from helixsim.workload.lengths.recorded import JointHistogram, cell_means
from helixsim.writing import write_text

_GROUPS = 24
_KS_TOLERANCE = 0.003
_MEAN_TOLERANCE = 0.001
"""Cells are split until the error of the CDF inside a cell is below the first, that of the mean below the second."""

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class FitErrors:
    """Errors of a fitted histogram.

    Kolmogorov-Smirnov distances of both marginals, relative errors of both means, and both correlations.
    """

    requests: int
    prompt_ks: float
    output_ks: float
    prompt_mean_error: float
    output_mean_error: float
    correlation_recorded: float
    correlation_fitted: float


def fit_lengths(requests: Iterable[Request]) -> tuple[JointHistogram, FitErrors]:
    """Return the joint histogram of the lengths of requests, and its errors.

    The cells of both marginals result from repeated splitting of the worst cell at its largest deviation, so that
    frequent lengths (prompt templates) have their own cells. Prompt cells are joined to groups of about equal weight.

    Raises
    ------
    DataError
        If there are fewer than 100 requests.
    """
    pairs = np.array([(request.prompt_tokens, request.output_tokens) for request in requests], dtype=np.int64)
    if len(pairs) < 100:
        raise DataError(f"a fit needs at least 100 requests, got {len(pairs)}")
    prompt, output = pairs.T
    prompt_edges, output_edges = _edges(prompt), _edges(output)
    prompt_counts = _counts(prompt, prompt_edges)
    target = np.arange(1, _GROUPS) * len(pairs) / _GROUPS
    ends = np.unique(np.append(np.searchsorted(np.cumsum(prompt_counts), target) + 1, len(prompt_counts)))
    borders = [prompt_edges[0], *(prompt_edges[end] for end in ends)]
    joint, _, _ = np.histogram2d(prompt, output, bins=(np.array(borders) + 0.5, np.array(output_edges) + 0.5))
    histogram = JointHistogram(
        prompt_edges=tuple(prompt_edges),
        prompt_counts=tuple(prompt_counts.tolist()),
        group_ends=tuple(ends.tolist()),
        output_edges=tuple(output_edges),
        output_counts=tuple(tuple(row) for row in joint.astype(int).tolist()),
    )
    return histogram, _errors(histogram, prompt, output)


def save_histogram(path: Path, histogram: JointHistogram, errors: FitErrors, source: Mapping[str, str]) -> None:
    """Write a histogram with its errors and source as JSON, one field per line.

    Raises
    ------
    DataError
        If the file cannot be written.
    """
    fit = {key: round(value, 6) for key, value in asdict(errors).items()}
    cells = ",\n    ".join(f"{json.dumps(key)}: {_compact(value)}" for key, value in asdict(histogram).items())
    head = ",\n  ".join(f"{json.dumps(key)}: {json.dumps(value)}" for key, value in {**source, "fit": fit}.items())
    try:
        write_text(path, f'{{\n  {head},\n  "histogram": {{\n    {cells}\n  }}\n}}\n', devices=True)
    except OSError as error:
        raise DataError(f"{path}: cannot be written ({error.strerror})") from None


def _compact(value: object) -> str:
    return json.dumps(value, separators=(",", ":"))


def _counts(lengths: Tokens, edges: list[int]) -> Tokens:
    return np.histogram(lengths, bins=np.array(edges) + 0.5)[0]


def _edges(lengths: Tokens) -> list[int]:
    """Return cell edges of one marginal; the cells are (edge, next edge]."""
    first = int(lengths.min()) - 1
    cdf = np.concatenate(([0.0], np.cumsum(np.bincount(lengths - first)[1:]) / len(lengths)))
    mean = float(lengths.mean())

    def worst(low: int, high: int) -> tuple[float, int, int, int]:
        """Return (-error, low, high, split) of a cell; offsets from ``first``."""
        straight = np.linspace(cdf[low], cdf[high], high - low + 1)
        deviation = np.abs(cdf[low : high + 1] - straight)
        split = int(deviation.argmax())
        badness = max(float(deviation[split]) / _KS_TOLERANCE, float(deviation.sum()) / (_MEAN_TOLERANCE * mean))
        return -badness, low, high, low + split

    cells = [worst(0, len(cdf) - 1)]
    while cells[0][0] < -1:
        _, low, high, split = heapq.heappop(cells)
        heapq.heappush(cells, worst(low, split))
        heapq.heappush(cells, worst(split, high))
    return [first, *sorted(first + high for _, _, high, _ in cells)]


def _errors(histogram: JointHistogram, prompt: Tokens, output: Tokens) -> FitErrors:
    joint = np.array(histogram.output_counts)
    prompt_counts, output_counts = np.array(histogram.prompt_counts), joint.sum(axis=0)
    prompt_edges, output_edges = np.array(histogram.prompt_edges), np.array(histogram.output_edges)
    prompt_mean, prompt_std = _moments(prompt_edges, prompt_counts)
    output_mean, output_std = _moments(output_edges, output_counts)
    starts = (0, *histogram.group_ends[:-1])
    prompt_of_group = np.add.reduceat(prompt_counts * cell_means(prompt_edges), starts)
    output_of_group = joint @ cell_means(output_edges) / joint.sum(axis=1)
    covariance = float(prompt_of_group @ output_of_group) / joint.sum() - prompt_mean * output_mean
    return FitErrors(
        requests=len(prompt),
        prompt_ks=_ks(prompt, prompt_edges, prompt_counts),
        output_ks=_ks(output, output_edges, output_counts),
        prompt_mean_error=prompt_mean / float(prompt.mean()) - 1,
        output_mean_error=output_mean / float(output.mean()) - 1,
        correlation_recorded=float(np.corrcoef(prompt, output)[0, 1]),
        correlation_fitted=float(covariance / (prompt_std * output_std)),
    )


def _moments(edges: Tokens, counts: Tokens) -> tuple[float, float]:
    """Return mean and standard deviation; a cell of w integers has variance (w**2 - 1) / 12."""
    centres = cell_means(edges)
    mean = float(np.average(centres, weights=counts))
    squares = centres**2 + (np.diff(edges) ** 2 - 1) / 12
    return mean, float(np.sqrt(np.average(squares, weights=counts) - mean**2))


def _ks(lengths: Tokens, edges: Tokens, counts: Tokens) -> float:
    """Return the Kolmogorov-Smirnov distance over all integers."""
    grid = np.arange(edges[0], edges[-1] + 1)
    recorded: Floats = np.searchsorted(np.sort(lengths), grid, side="right") / len(lengths)
    fitted: Floats = np.interp(grid, edges, np.concatenate(([0], np.cumsum(counts))) / len(lengths))
    return float(np.abs(recorded - fitted).max())
