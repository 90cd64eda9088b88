"""Chains of nodes: routes that neither branch nor merge, as engines serve them."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Sequence
from typing import TypeVar

_T = TypeVar("_T", bound=Hashable)


def chains(first: Iterable[_T], following: Callable[[_T], Sequence[_T]]) -> list[list[_T]] | None:
    """Return the chain from each of the first nodes on; None: a route branches, or two have a node in common.

    Parameters
    ----------
    first
        Nodes or classes of nodes at which requests enter.
    following
        Those to which requests go on from one; none after the last of a chain. They lead forwards.
    """
    found: list[list[_T]] = []
    seen: set[_T] = set()
    for start in first:
        chain = [start]
        while onward := following(chain[-1]):
            if len(onward) > 1:
                return None
            chain.append(onward[0])
        if not seen.isdisjoint(chain):
            return None
        seen.update(chain)
        found.append(chain)
    return found
