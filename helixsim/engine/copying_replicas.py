"""Replicas that can fail, and whose requests then go on from copies of their KV memory (``kv_copies``)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from helixsim.domain.disaggregation import KvTransfer
from helixsim.domain.faults import CopyStats, FailureCause
from helixsim.engine.faulty_replica import FaultyReplica
from helixsim.engine.faulty_replicas import FaultyFrontend, FaultyReplicaSystem
from helixsim.engine.inputs import SimulationInputs
from helixsim.engine.kernel import Kernel
from helixsim.engine.kv_copies import Copies, Restorable
from helixsim.engine.kv_network import KvFabric
from helixsim.engine.leg_scheduler import LegScheduler
from helixsim.engine.network import NetworkFabric
from helixsim.engine.recorder import Recorder
from helixsim.engine.replica import Replica
from helixsim.engine.sequences import Sequence as Running
from helixsim.engine.system import Link
from helixsim.errors import ConfigError, Problem


class CopyingReplica(FaultyReplica):
    """See ``FaultyReplica``."""

    scheduler_kind = LegScheduler
    scheduler: LegScheduler
    copies: Copies

    def arrive(self, sequence: Running) -> None:
        """See ``Replica.arrive``."""
        super().arrive(sequence)
        self.copies.watch(self)

    def take_in(self, sequence: Running) -> None:
        """See ``kv_copies.Holder``; it computes what the copy lacks."""
        now = self._kernel.now_ns
        self._recorder.columns["transfer_ns"][sequence.row] += now - sequence.since_ns
        sequence.since_ns = now
        self.book()
        self.scheduler.join(sequence, now)
        self._change(now)

    def clear(self) -> None:
        """See ``Replica.clear``; copies that it has are gone, too."""
        super().clear()
        self.copies.lose([self.number])

    def forsake(self, sequence: Running) -> None:
        """See ``kv_copies.Holder``."""
        self.book()
        self.scheduler.forsake(sequence)
        self._change(self._kernel.now_ns)


class CopyingFrontend(FaultyFrontend):
    """See ``FaultyFrontend``."""

    kind = Restorable
    copies: Copies

    def lose(self, replicas: Iterable[FaultyReplica], down: frozenset[int], by_plan: bool = False) -> None:
        """See ``FaultyFrontend.lose``."""
        lost = list(replicas)
        self.copies.lose([replica.number for replica in lost])
        super().lose(lost, down, by_plan)

    def announced(self) -> None:
        """See ``FaultyFrontend.announced``."""
        self.copies.watch_leaving()

    def _resume(self, replica: Replica, sequence: Running) -> int:
        assert isinstance(sequence, Restorable)
        assert isinstance(replica, CopyingReplica)
        sequence.transfer = restore = self.copies.restore(sequence, replica)
        return 0 if restore is None else restore.tokens

    def _forget(self, replica: Replica, left: list[Running]) -> None:
        super()._forget(replica, left)
        for sequence in left:
            self.copies.drop(sequence.row)

    def _fail(self, sequence: Running, cause: FailureCause) -> None:
        super()._fail(sequence, cause)
        self.copies.drop(sequence.row)

    def _reject(self, sequence: Running) -> None:
        super()._reject(sequence)
        self.copies.drop(sequence.row)


class CopyingSystem(FaultyReplicaSystem):
    """See ``FaultyReplicaSystem``.

    Raises
    ------
    ConfigError
        If there are fewer replicas than copies and the original.
    """

    replica_kind = CopyingReplica
    frontend_kind = CopyingFrontend
    frontend: CopyingFrontend

    def __init__(
        self, inputs: SimulationInputs, kernel: Kernel, fabric: NetworkFabric, recorder: Recorder, *rest: Any
    ) -> None:
        assert inputs.faults is not None
        spec = inputs.faults.replication
        assert spec is not None
        kv = KvFabric(fabric, KvTransfer(), inputs.timeline)
        self.copies = Copies(spec, kernel, inputs.fleet, kv)
        super().__init__(inputs, kernel, fabric, recorder, *rest)
        self.frontend.copies = self.copies
        self.copies.view, self.copies.retries = self.frontend.view, self.retries
        self.copies.replicas = self.replicas  # type: ignore[assignment]
        if len(self.replicas) <= spec.copies:
            message = f"needs {spec.copies + 1} replicas or more, and the placement has {len(self.replicas)}"
            raise ConfigError([Problem("", "faults.replicate.copies", message)])

    def _replica(self, number: int, ids: list[str], recorder: Recorder) -> CopyingReplica:
        made = super()._replica(number, ids, recorder)
        assert isinstance(made, CopyingReplica)
        made.copies = self.copies
        return made

    @property
    def is_drained(self) -> bool:
        """See ``System.is_drained``: also copies under way have arrived."""
        return super().is_drained and not self.copies.under_way

    def links(self) -> Sequence[Link]:
        """See ``System.links``."""
        return self.copies.fabric.with_others()

    def copied(self) -> CopyStats:
        """See ``FaultySystem.copied``."""
        return self.copies.stats()
