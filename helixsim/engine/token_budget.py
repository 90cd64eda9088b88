"""The token budget of a node that schedules what reaches it: prompts are cut where it ends (chunked prefill).

Only the first stage of a route cuts a prompt. Each chunk travels as a message of its own, and later stages compute it
as a whole; see "Branching routes" in docs/engine.md.
"""

from __future__ import annotations

from collections.abc import Sequence

from helixsim.domain.hardware import BatchLimits
from helixsim.engine.state import Cohort, Parcel


class TokenBudget:
    """What the steps of one node take, within ``limits.max_prefill_tokens`` tokens of prompts and decodes together.

    ``longest_chunk`` is the most that this node takes of one prompt in a step [tokens]. ``cut`` are the prompts whose
    first tokens are in the step that was planned last, while the others stay in the queue.
    """

    __slots__ = ("_early", "_is_prompt_due", "_limits", "_passed", "cut", "longest_chunk")

    def __init__(self, limits: BatchLimits, threshold: int) -> None:
        self.longest_chunk = min(limits.max_prefill_tokens, threshold or limits.max_prefill_tokens)
        self.cut: list[Cohort] = []
        self._limits = limits
        self._is_prompt_due = False
        self._passed: dict[int, int] = {}
        self._early: dict[tuple[int, int], Parcel] = {}

    def in_order(self, parcel: Parcel) -> list[Parcel]:
        """Return the chunks that may be computed now that this one has come; it may have overtaken an earlier one.

        On a link that is shared evenly short chunks are faster than long ones, but each needs the keys and values of
        those before it. One that has to wait arrives with the one that it waits for.
        """
        (cohort,) = parcel.cohorts
        if not cohort.hop or (cohort.is_last and not cohort.past):
            return [parcel]
        number, ready = cohort.number, []
        self._early[number, cohort.past] = parcel
        past, arrived_ns = self._passed.get(number, 0), parcel.arrived_ns
        while (following := self._early.pop((number, past), None)) is not None:
            following.arrived_ns = arrived_ns = max(arrived_ns, following.arrived_ns)
            ready.append(following)
            past += following.tokens
        self._passed[number] = past
        if ready and ready[-1].cohorts[0].is_last:
            del self._passed[number]
        return ready

    def plan(self, queue: Sequence[Parcel], decode_seqs: int) -> tuple[list[Parcel], list[Parcel], int]:
        """Return the chunks of the next step, the prompts and chunks that stay in the queue, and the decodes.

        Decodes go first, then prompts in the order of ``queue``, of which the first that does not fit ends the step. If
        none has fitted, the next step takes the first one before its decodes.
        """
        limits = self._limits
        budget = limits.max_prefill_tokens
        due = self._fitting(queue[0], budget) if self._is_prompt_due else 0
        decodes = min(decode_seqs, limits.max_decode_seqs, budget - due)
        left = budget - decodes
        taken: list[Parcel] = []
        kept: list[Parcel] = []
        self.cut = []
        for position, parcel in enumerate(queue):
            tokens = self._fitting(parcel, left) if position < limits.max_prefill_requests else 0
            if not tokens:
                kept += queue[position:]
                break
            left -= tokens
            if tokens < parcel.tokens:
                taken.append(parcel.cut(tokens))
                kept.append(parcel)
                self.cut.append(parcel.cohorts[0])
            else:
                taken.append(parcel)
        self._is_prompt_due = not taken
        return taken, kept, decodes

    def _fitting(self, parcel: Parcel, left: int) -> int:
        """Return how many tokens of a prompt or chunk a step with ``left`` tokens of its budget takes."""
        cohort = parcel.cohorts[0]
        if cohort.hop:
            return parcel.tokens if parcel.tokens <= left else 0
        return min(parcel.tokens, left, cohort.path.longest_chunk)
