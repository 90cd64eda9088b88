"""What nodes and links of a run did, iteration by iteration and message by message, for a part of its time."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import NamedTuple

from helixsim.units import NS_PER_S


class Iteration(NamedTuple):
    """One pass of a node; ``chunks`` are (request id, tokens) of prompts in it, times in ns."""

    node: str
    start_ns: int
    end_ns: int
    prompt_tokens: int
    decode_seqs: int
    chunks: tuple[tuple[int, int], ...]


class Transfer(NamedTuple):
    """A message on a link: it occupies the link from ``start_ns`` to ``end_ns`` and arrives at ``arrival_ns``."""

    src: str
    dst: str
    start_ns: int
    end_ns: int
    arrival_ns: int
    size_bytes: int


class Level(NamedTuple):
    """State of a node at the end of an iteration: KV memory in use (0..1), and requests that wait for a pass."""

    node: str
    time_ns: int
    kv_used: float
    waiting: int


@dataclass
class Timeline:
    """What is recorded of a run, between ``start_ns`` and ``end_ns``.

    Parameters
    ----------
    most
        Iterations, and transfers, kept of each; later ones are counted in ``dropped``.
    """

    start_ns: int
    end_ns: int
    most: int
    iterations: list[Iteration] = field(default_factory=list)
    transfers: list[Transfer] = field(default_factory=list)
    levels: list[Level] = field(default_factory=list)
    dropped: dict[str, int] = field(default_factory=lambda: {"iterations": 0, "transfers": 0})

    def __post_init__(self) -> None:
        if not 0 <= self.start_ns < self.end_ns:
            message = f"a timeline needs 0 <= start < end, got {self.start_ns} and {self.end_ns} ns"
            raise ValueError(message)

    def iteration(
        self, node: str, start_ns: int, end_ns: int, prompt_tokens: int, decode_seqs: int,
        chunks: Iterable[tuple[int, int]],
    ) -> bool:  # fmt: skip
        """Note an iteration that has ended; return whether it is kept."""
        if end_ns < self.start_ns or start_ns > self.end_ns:
            return False
        if len(self.iterations) >= self.most:
            self.dropped["iterations"] += 1
            return False
        self.iterations.append(Iteration(node, start_ns, end_ns, prompt_tokens, decode_seqs, tuple(chunks)))
        return True

    def level(self, node: str, time_ns: int, kv_used: float, waiting: int) -> None:
        """Note the state of a node."""
        self.levels.append(Level(node, time_ns, kv_used, waiting))

    def transfer(self, src: str, dst: str, start_ns: int, end_ns: int, arrival_ns: int, size_bytes: int) -> None:
        """Note a message that has got its place on a link."""
        if end_ns < self.start_ns or start_ns > self.end_ns:
            return
        if len(self.transfers) >= self.most:
            self.dropped["transfers"] += 1
            return
        self.transfers.append(Transfer(src, dst, start_ns, end_ns, arrival_ns, size_bytes))

    @property
    def about(self) -> str:
        """A sentence on what is left out; empty if nothing is."""
        parts = [f"{count} {name}" for name, count in self.dropped.items() if count]
        if not parts:
            return ""
        span = f"{self.start_ns / NS_PER_S:g} s to {self.end_ns / NS_PER_S:g} s"
        return f"{' and '.join(parts)} from {span} are left out: only the first {self.most} of each are kept"
