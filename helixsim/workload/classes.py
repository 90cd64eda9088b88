"""Classes of requests: names that objectives and priorities refer to."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import replace
from hashlib import blake2b
from itertools import accumulate

from helixsim.domain.request import Request
from helixsim.rng import stream
from helixsim.workload.spec import RequestClass

_CHUNK = 1024


def classified(requests: Iterator[Request], classes: Sequence[RequestClass], seed: int) -> Iterator[Request]:
    """Return the requests with their classes and priorities.

    A request without a class is given one by the shares, from the random stream ``classes``: request i has the same one
    under every arrival process and rate, and all requests of a session have the same, by its name. A request of
    priority 0, which is that of a trace that states none, has the priority of its class.
    """
    return _classified(requests, classes, seed) if classes else requests


def _classified(requests: Iterator[Request], classes: Sequence[RequestClass], seed: int) -> Iterator[Request]:
    shared = [one for one in classes if one.share is not None]
    limits = list(accumulate(one.share or 0.0 for one in shared))[:-1]
    priority_of = {one.name: one.priority for one in classes}
    draws = _draws(seed)
    for request in requests:
        name = request.slo_class
        if shared:
            draw = next(draws)
            if request.session is not None:
                draw = _draw_of(request.session, seed)
            if name is None:
                name = shared[bisect_right(limits, draw)].name
        priority = request.priority or priority_of.get(name or "", 0)
        yield replace(request, slo_class=name, priority=priority)


def _draw_of(session: str, seed: int) -> float:
    """Return a number in [0, 1) that depends on a session and the seed alone."""
    digest = blake2b(f"{seed} {session}".encode(), digest_size=6).digest()
    return int.from_bytes(digest, "big") / 2**48


def _draws(seed: int) -> Iterator[float]:
    """Yield uniform numbers in [0, 1)."""
    generator = stream(seed, "classes")
    while True:
        yield from generator.random(_CHUNK).tolist()
