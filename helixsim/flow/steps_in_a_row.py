"""How often the steps of a pipeline go round: several at a time, one behind the other, with chunks of prompts in some.

A replica of ``n`` stages has up to ``n`` steps in flight (docs/engine.md). Each carries the same sequences round after
round, and in some rounds also chunks of the prompts that have taken the place of sequences that ended. Such a step
takes many times longer than the others, on every stage; those behind it wait, those in front of it catch up with it,
and stages idle meanwhile. With ``x_ij`` the time of step ``j`` on station ``i``, which is a stage or the link behind
one, and ``d_i`` the latency behind that, the end of the step there is

    e_ij = max(e_(i-1)j + d_(i-1), e_i(j-1)) + x_ij,    e_0j = e_m(j-n) + d_m

(the recursion of a closed tandem queue, first in, first out; a step enters when the one ``n`` before it has left the
last of ``m`` stations). It is solved for steps whose chunks are drawn at random: a sequence ends with probability
1 / (its mean number of steps) in each of them, so that the number of new prompts is a Poisson variable; their lengths
are gamma-distributed with the mean and the spread of the load. The draws are the same for all pipelines, which are thus
compared alike. A single stage needs no recursion: the mean of its steps is all.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from helixsim.flow.station import OperatingLoad, Station

_DRAWS = 64
"""Independent draws of the recursion."""

_SETTLING, _ROUNDS = 4, 16
"""Rounds before the time of a round is taken, and until its end."""

_LENGTHS = 2**13
"""Prompt lengths that are drawn; a step with new prompts takes the next ones."""

_FEWEST_CHUNK_TOKENS, _CHUNK_SIZES = 16.0, 12
"""Sizes of chunks whose times are computed; between them times are interpolated."""

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Wire:
    """The link from a stage to the next one: time of a token on it, and from its end to the arrival [s]."""

    token_s: float
    fixed_s: float


def rounds_s(
    stations: Sequence[Station], wires: Sequence[Wire], return_s: float, load: OperatingLoad, requests: Sequence[float]
) -> list[float]:
    """Return the mean time from one step of a sequence to its next [s], for each number of running requests.

    ``wires`` are the links between stages, ``return_s`` the time from the end of a step to the start of its next round.
    """
    in_flight = [max(1, min(len(stations), int(running))) for running in requests]
    found = dict.fromkeys(range(len(requests)), 0.0)
    for together in sorted(set(in_flight)):
        levels = [number for number, steps in enumerate(in_flight) if steps == together]
        times_s = _rounds_s(stations, wires, return_s, load, [requests[number] for number in levels], together)
        found.update(zip(levels, times_s, strict=True))
    return list(found.values())


def _rounds_s(
    stations: Sequence[Station],
    wires: Sequence[Wire],
    return_s: float,
    load: OperatingLoad,
    requests: Sequence[float],
    in_flight: int,
) -> list[float]:
    decodes = [running / in_flight for running in requests]
    budget = min(station.token_budget for station in stations)
    shape = _ROUNDS * in_flight, _DRAWS
    chunks = np.stack([_chunks(load, one, budget, shape) for one in decodes], axis=1)
    tokens = chunks + np.array(decodes)[:, None] * load.tokens_per_decode
    of_kind = {id(station): station for station in stations}
    times_s = {key: _times_s(station, decodes, chunks, load) for key, station in of_kind.items()}
    on_stages = [times_s[id(station)] for station in stations]
    if in_flight == 1:
        means_s = [stage_s.mean(axis=(0, 2)) for stage_s in on_stages]
        means_s += [wire.token_s * tokens.mean(axis=(0, 2)) + wire.fixed_s for wire in wires]
        return [float(one) + return_s for one in np.sum(means_s, axis=0)]
    rows: list[tuple[Floats, float]] = []  # times of each station, and the latency behind it
    on_wires = {wire.token_s: wire.token_s * tokens for wire in wires}
    for stage_s, wire in zip(on_stages, (*wires, None), strict=True):
        if wire is None:
            rows.append((stage_s, return_s))
        else:
            rows += [(stage_s, 0.0), (on_wires[wire.token_s], wire.fixed_s)]
    free_s = [np.zeros(chunks.shape[1:]) for _ in rows]
    back_s = [np.zeros(chunks.shape[1:]) for _ in range(in_flight)]
    settled_s = back_s[0]
    for step in range(shape[0]):
        at_s = back_s[step % in_flight]
        for number, (row_s, behind_s) in enumerate(rows):
            end_s = np.maximum(free_s[number], at_s, out=free_s[number])
            end_s += row_s[step]
            at_s = end_s + behind_s if behind_s else end_s
        back_s[step % in_flight] = at_s if return_s else at_s.copy()
        if step + 1 == _SETTLING * in_flight:
            settled_s = free_s[-1].copy()
    return [float(one) for one in (free_s[-1] - settled_s).mean(axis=1) / (_ROUNDS - _SETTLING)]


def _chunks(load: OperatingLoad, decodes: float, budget: float, shape: tuple[int, int]) -> Floats:
    """Return the prompt tokens of steps (step, draw); what exceeds the budget is left to the next step of a draw."""
    counts = _counts(decodes / load.mean_steps, shape)
    ends = counts.cumsum().reshape(shape)
    lengths = _lengths(load.prompt_spread)
    found = load.mean_prompt_tokens * (_up_to(lengths, ends) - _up_to(lengths, ends - counts))
    room = max(1.0, budget - decodes * load.tokens_per_decode)
    if load.engine.chunks_prompts and found.max() > room:
        left = np.zeros(shape[1])
        for row in (*found.copy(), *found):  # a draw begins with what is left at its end
            left += row
            np.minimum(left, room, out=row)
            left -= row
    return found


def _up_to(lengths: Floats, number: NDArray[np.int64]) -> Floats:
    """Return the sum of so many lengths, which are repeated without end."""
    found: Floats = lengths[number % _LENGTHS] + lengths[-1] * (number // _LENGTHS)
    return found


@lru_cache(maxsize=8)
def _lengths(spread: float) -> Floats:
    """Return the sums of the first 0, 1, ... prompt lengths, of mean one; ``spread``: the mean of their squares."""
    drawn = np.random.default_rng(0).gamma(1 / (spread - 1), size=_LENGTHS) if spread > 1 else np.ones(_LENGTHS)
    return np.concatenate(([0.0], np.cumsum(drawn / drawn.mean())))


@lru_cache(maxsize=64)
def _uniform(size: int) -> Floats:
    """Return evenly spaced numbers in (0, 1) in a random order."""
    return np.random.default_rng(1).permutation((np.arange(size) + 0.5) / size)


def _counts(mean: float, shape: tuple[int, int]) -> NDArray[np.int64]:
    """Return Poisson variables of a mean."""
    terms = [math.exp(-mean)] if mean < 500 else []
    while terms and len(terms) < mean + 10 * math.sqrt(mean) + 10:
        terms.append(terms[-1] * mean / len(terms))
    if not terms:  # as good as even
        return np.full(shape, round(mean), dtype=np.int64)
    return np.searchsorted(np.cumsum(terms), _uniform(shape[0] * shape[1])).reshape(shape).astype(np.int64)


def _times_s(station: Station, decodes: Sequence[float], chunks: Floats, load: OperatingLoad) -> Floats:
    """Return the time of each step on a station, by the chunks of (step, number of requests, draw)."""
    found = np.empty_like(chunks)
    for number, seqs in enumerate(decodes):
        most = float(chunks[:, number].max())
        sizes = np.zeros(1)
        if most:
            sizes = np.concatenate((sizes, np.geomspace(min(_FEWEST_CHUNK_TOKENS, most / 2), most, _CHUNK_SIZES)))
        times_s = [station.mixed_s(seqs, size) for size in sizes.tolist()]
        found[:, number] = np.interp(chunks[:, number], sizes, times_s)
    return found
