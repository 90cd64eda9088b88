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

The sequences of a step are a group. One that ends is replaced by a request that comes from afar, and joins the group
whose turn is next when it arrives. The longer the time before its turn, the more requests a group gets; and the more it
has, the longer its steps take. So groups stay equal where a request arrives before the next turn; else one may grow at
the expense of the others, until its prompts no longer fit the token budget and are left to the next group. Stages then
idle most of the time. Groups settle where as many sequences join as leave; rounds are played and sequences moved until
they do.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from copy import copy
from dataclasses import dataclass
from functools import lru_cache, partial

import numpy as np
from numpy.typing import NDArray

from helixsim.domain.cluster import Deployment
from helixsim.flow.network import token_bytes
from helixsim.flow.station import OperatingLoad, Station
from helixsim.units import BITS_PER_BYTE

_DRAWS = 64
"""Independent draws of the recursion."""

_SETTLING, _ROUNDS = 4, 16
"""Rounds before the time of a round is taken, and until its end."""

_LENGTHS = 2**13
"""Prompt lengths that are drawn; a step with new prompts takes the next ones."""

_FEWEST_CHUNK_TOKENS, _CHUNK_SIZES = 16.0, 12
"""Sizes of chunks whose times are computed; between them times are interpolated."""

_FEW_DRAWS, _FEW_ROUNDS, _REGROUPINGS, _REGROUPED = 16, 12, 12, 0.05
"""Draws and rounds of a run between which groups change, most of such runs, and the change that ends them (share)."""

_SHIFTED = 2
"""Rounds after which the turns of groups are shifted by chance as much as they will ever be."""

_UNLIKE = 0.6
"""The first groups that are tried have up to this share more or fewer sequences than others on average."""

_GRID = 12
"""Numbers of sequences of ``_Grid``."""

Floats = NDArray[np.float64]
Law = Callable[[float, Floats], Floats]
"""Times of steps of a station [s], by the number of sequences and the sizes of chunks."""


@dataclass(frozen=True, slots=True)
class Wire:
    """A direction of a link: time of a token on it, and from its end to the arrival [s]."""

    token_s: float
    fixed_s: float

    @classmethod
    def between(cls, fleet: Deployment, src: str, dst: str, load: OperatingLoad) -> Wire:
        """Return that of two ends of a cluster."""
        link = fleet.cluster.link(src, dst)
        return cls(BITS_PER_BYTE * token_bytes(fleet, src, dst) / link.bandwidth_bps, load.latency_s(link))


def rounds_s(
    stations: Sequence[Station],
    wires: Sequence[Wire],
    return_s: float,
    load: OperatingLoad,
    requests: Sequence[float],
    delay_s: float = 0.0,
) -> list[float]:
    """Return the mean time from one step of a sequence to its next [s], for each number of running requests.

    ``wires`` are the links between stages, ``return_s`` the time from the end of a step to the start of its next round,
    ``delay_s`` that from the end of a sequence to the arrival of the one that takes its place.
    """
    in_flight = [max(1, min(len(stations), int(running))) for running in requests]
    found = dict.fromkeys(range(len(requests)), 0.0)
    for together in sorted(set(in_flight)):
        levels = [number for number, steps in enumerate(in_flight) if steps == together]
        row = _Row(stations, wires, return_s, load, together)
        times_s = row.rounds_s([requests[number] for number in levels], delay_s)
        found.update(zip(levels, times_s, strict=True))
    return list(found.values())


class _Row:
    """A pipeline with so many steps in flight, each of a group of sequences.

    Arrays of groups are by (group, number of requests), those of steps by (step, number of requests, draw).
    """

    def __init__(
        self,
        stations: Sequence[Station],
        wires: Sequence[Wire],
        return_s: float,
        load: OperatingLoad,
        in_flight: int,
    ) -> None:
        self._stations, self._wires, self._return_s = stations, wires, return_s
        self._load, self._in_flight = load, in_flight
        self._budget = min(station.token_budget for station in stations)
        self._laws: dict[int, Law] = {id(station): partial(_exact_s, station) for station in stations}

    def rounds_s(self, requests: Sequence[float], delay_s: float) -> list[float]:
        """Return the mean time of a round, for each number of requests."""
        decodes = np.tile(np.array(requests) / self._in_flight, (self._in_flight, 1))
        if self._in_flight == 1:
            chunks, _ = _chunks(self._load, decodes, decodes, self._budget, _ROUNDS, _DRAWS)
            tokens = chunks + decodes[0, :, None] * self._load.tokens_per_decode
            means_s = [stage_s.mean(axis=(0, 2)) for stage_s in self._on_stages(decodes, chunks)]
            means_s += [wire.token_s * tokens.mean(axis=(0, 2)) + wire.fixed_s for wire in self._wires]
            return [float(one) + self._return_s for one in np.sum(means_s, axis=0)]
        found = self._played_s(decodes, decodes)
        # Steps leave the last stage at least as far apart as the shortest takes there: one that ends before the next
        # group's turn is replaced there, so that all groups are equal.
        if delay_s > self._stations[-1].step_s(1.0):
            row = self._interpolated(max(requests))
            of_groups, of_turns = row._settled_groups(max(requests), delay_s)
            # A few long prompts would be in the way less often where they gather; simulated pipelines gain nothing.
            found = np.maximum(found, row._played_s(of_groups * decodes, of_turns * decodes))
        return [float(one) for one in found]

    def _interpolated(self, most_seqs: float) -> _Row:
        """Return the pipeline with times of steps interpolated, for groups that change."""
        row = copy(self)
        row._laws = {id(one): _Grid(one, most_seqs, self._budget) for one in self._stations}
        return row

    def _played_s(self, decodes: Floats, joining: Floats) -> Floats:
        """Return the mean time of a round of groups, whose prompts come with so many sequences."""
        chunks, _ = _chunks(self._load, decodes, joining, self._budget, _ROUNDS, _DRAWS)
        ended_s = self._ends_s(decodes, chunks)
        settled_s = ended_s[-1] - ended_s[_SETTLING * self._in_flight - 1]
        mean_s: Floats = settled_s.mean(axis=1) / (_ROUNDS - _SETTLING)
        return mean_s

    def _settled_groups(self, requests: float, delay_s: float) -> tuple[Floats, Floats]:
        """Return the sizes of groups, and the requests that come at their turns, both over the mean."""
        mean, per_token = requests / self._in_flight, self._load.mean_steps / self._load.mean_prompt_tokens
        decodes = joining = mean * np.linspace(1 + _UNLIKE, 1 - _UNLIKE, self._in_flight)[:, None]
        for _ in range(_REGROUPINGS):
            chunks, left = _chunks(self._load, decodes, joining, self._budget, _FEW_ROUNDS, _FEW_DRAWS)
            joining = _arriving(self._ends_s(decodes, chunks), decodes, delay_s)
            joined = np.maximum(0.0, joining + per_token * (np.roll(left, 1, axis=0) - left))
            before, decodes = decodes, (decodes + joined) / 2
            if np.abs(decodes - before).max() < _REGROUPED * mean:
                break
        return decodes / mean, joining / mean

    def _on_stages(self, decodes: Floats, chunks: Floats) -> list[Floats]:
        """Return the times of steps on each stage."""
        times_s = {key: _times_s(law, decodes, chunks) for key, law in self._laws.items()}
        return [times_s[id(station)] for station in self._stations]

    def _ends_s(self, decodes: Floats, chunks: Floats) -> Floats:
        """Return when each step is back at the first stage, where the next one of its group begins."""
        tokens = chunks + np.resize(decodes, chunks.shape[:2])[:, :, None] * self._load.tokens_per_decode
        rows: list[tuple[Floats, float]] = []  # times of each station, and the latency behind it
        on_wires = {wire.token_s: wire.token_s * tokens for wire in self._wires}
        for stage_s, wire in zip(self._on_stages(decodes, chunks), (*self._wires, None), strict=True):
            if wire is None:
                rows.append((stage_s, self._return_s))
            else:
                rows += [(stage_s, 0.0), (on_wires[wire.token_s], wire.fixed_s)]
        free_s = [np.zeros(chunks.shape[1:]) for _ in rows]
        found = np.zeros((self._in_flight + len(chunks), *chunks.shape[1:]))
        for step in range(len(chunks)):
            at_s = found[step]
            for number, (row_s, behind_s) in enumerate(rows):
                end_s = np.maximum(free_s[number], at_s, out=free_s[number])
                end_s += row_s[step]
                at_s = end_s + behind_s if behind_s else end_s
            found[step + self._in_flight] = at_s
        return found[self._in_flight :]


def _arriving(ended_s: Floats, decodes: Floats, delay_s: float) -> Floats:
    """Return how many of the sequences are replaced at the turn of each group, by when the steps of all end."""
    groups = len(decodes)
    settled_s = ended_s[_SETTLING * groups :]
    rounds = len(settled_s) // groups
    round_s = (settled_s[-1] - settled_s[groups - 1]).mean(axis=1) / (rounds - 1)
    # After a few rounds, turns are shifted as much as they will ever be.
    late_s = (delay_s - np.maximum(0.0, np.floor(delay_s / round_s) - _SHIFTED) * round_s)[:, None]
    leaving_s = settled_s[: (rounds - _SHIFTED - 2) * groups]
    found, on_way = np.zeros_like(decodes), np.ones(leaving_s.shape, dtype=bool)
    for turn in range(len(settled_s) - len(leaving_s)):
        caught = on_way & (settled_s[turn : turn + len(leaving_s)] >= leaving_s + late_s)
        shares = caught.reshape(-1, groups, *caught.shape[1:]).mean(axis=(0, 3))
        found += np.roll(decodes * shares, turn, axis=0)
        on_way &= ~caught
        if not on_way.any():
            break
    arriving: Floats = found * (decodes.sum(axis=0) / found.sum(axis=0))
    return arriving


def _chunks(
    load: OperatingLoad, decodes: Floats, joining: Floats, budget: float, rounds: int, draws: int
) -> tuple[Floats, Floats]:
    """Return the prompt tokens of steps, and how many of them each group leaves to the next one on average.

    What exceeds the budget is left to the next step of a draw.
    """
    steps = rounds * len(decodes)
    found = np.stack([_prompts(load, of_groups, (steps, draws)) for of_groups in joining.T], axis=1)
    rooms = np.maximum(1.0, budget - decodes * load.tokens_per_decode)
    left_by = np.zeros((*decodes.shape, draws))
    if load.engine.chunks_prompts and found.max() > rooms.min():
        left = np.zeros(found.shape[1:])
        own = found.copy()
        for number in range(2 * steps):  # a draw begins with what is left at its end
            step, group = number % steps, number % len(decodes)
            if number == steps:
                left_by[:] = 0.0
            left += own[step]
            np.minimum(left, rooms[group, :, None], out=found[step])
            left -= found[step]
            left_by[group] += left
    return found, left_by.mean(axis=2) / rounds


def _prompts(load: OperatingLoad, joining: Floats, shape: tuple[int, int]) -> Floats:
    """Return the tokens of prompts (step, draw) that take the places of those that end of so many sequences."""
    counts = _counts(joining / load.mean_steps, shape)
    ends = counts.cumsum().reshape(shape)
    lengths = _lengths(load.prompt_spread)
    found: Floats = load.mean_prompt_tokens * (_up_to(lengths, ends) - _up_to(lengths, ends - counts))
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


def _counts(means: Floats, shape: tuple[int, int]) -> NDArray[np.int64]:
    """Return Poisson variables of the means of groups, whose steps follow each other."""
    found, uniform = np.empty(shape, dtype=np.int64), _uniform(shape[0] * shape[1]).reshape(shape)
    for mean, steps in _turns(means):
        terms = [math.exp(-mean)] if mean < 500 else []
        while terms and len(terms) < mean + 10 * math.sqrt(mean) + 10:
            terms.append(terms[-1] * mean / len(terms))
        # Large ones are as good as even.
        found[steps] = np.searchsorted(np.cumsum(terms), uniform[steps]) if terms else round(mean)
    return found


def _turns(values: Floats) -> list[tuple[float, slice]]:
    """Return the value of each group with the steps that are its turns; equal ones of all are one."""
    if (values == values[0]).all():
        return [(float(values[0]), slice(None))]
    return [(value, slice(group, None, len(values))) for group, value in enumerate(values.tolist())]


def _exact_s(station: Station, seqs: float, sizes: Floats) -> Floats:
    """Return the times of steps of so many sequences, one for each size of chunks."""
    return np.array([station.mixed_s(seqs, size) for size in sizes.tolist()])


class _Grid:
    """The times of steps, interpolated between numbers of sequences and sizes of chunks, for groups that change."""

    def __init__(self, station: Station, most_seqs: float, budget: float) -> None:
        self._seqs = np.geomspace(1.0, max(2.0, most_seqs), _GRID)
        self._sizes = np.concatenate((np.zeros(1), np.geomspace(_FEWEST_CHUNK_TOKENS, budget, _CHUNK_SIZES)))
        self._times_s = np.array([_exact_s(station, seqs, self._sizes) for seqs in self._seqs.tolist()])

    def __call__(self, seqs: float, sizes: Floats) -> Floats:
        """Return the times of steps of so many sequences, one for each size of chunks."""
        above = int(np.clip(np.searchsorted(self._seqs, seqs), 1, _GRID - 1))
        low, high = self._seqs[above - 1], self._seqs[above]
        share = min(1.0, max(0.0, (seqs - low) / (high - low)))
        times_s = (1 - share) * self._times_s[above - 1] + share * self._times_s[above]
        found: Floats = np.interp(sizes, self._sizes, times_s)
        return found


def _times_s(law: Law, decodes: Floats, chunks: Floats) -> Floats:
    """Return the time of each step on a station."""
    found = np.empty_like(chunks)
    for number, of_groups in enumerate(decodes.T):
        most = float(chunks[:, number].max())
        sizes = np.zeros(1)
        if most:
            sizes = np.concatenate((sizes, np.geomspace(min(_FEWEST_CHUNK_TOKENS, most / 2), most, _CHUNK_SIZES)))
        for seqs, steps in _turns(of_groups):
            found[steps, number] = np.interp(chunks[steps, number], sizes, law(seqs, sizes))
    return found
