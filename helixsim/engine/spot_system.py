"""Replicas on spot machines and on demand (``spot_pool``), whose requests are sent again when one is preempted."""

from __future__ import annotations

from typing import Any

from helixsim.domain.faults import FaultSpec
from helixsim.engine.autoscaler import ScaledPool
from helixsim.engine.faults import Retries
from helixsim.engine.faulty_replicas import FaultyFrontend, FaultyReplicaSystem, FaultyView
from helixsim.engine.inputs import FaultPlan, SimulationInputs
from helixsim.engine.kernel import Kernel
from helixsim.engine.network import NetworkFabric
from helixsim.engine.recorder import Recorder
from helixsim.engine.scaled_system import ScaledFrontend, ScaledSystem, ScaledView
from helixsim.engine.spot_pool import SpotPool


class SpotView(ScaledView, FaultyView):
    """See ``ScaledView``."""


class SpotFrontend(ScaledFrontend, FaultyFrontend):
    """See ``ScaledFrontend``; limits of retries are those of ``faults``."""

    view: SpotView


class SpotSystem(ScaledSystem, FaultyReplicaSystem):
    """See ``ScaledSystem``."""

    frontend: SpotFrontend
    view_kind = SpotView

    def __init__(self, inputs: SimulationInputs, kernel: Kernel, fabric: NetworkFabric, recorder: Recorder) -> None:
        usual = FaultSpec()
        plan = FaultPlan((), 0, usual.retry_limit, usual.timeout_ns)
        super().__init__(inputs, kernel, fabric, recorder, Retries(plan, kernel, recorder))

    def _frontend(self, recorder: Recorder) -> SpotFrontend:
        return SpotFrontend(*self._feeding(recorder, self.inputs))

    def _pool(self, *arguments: Any) -> ScaledPool:
        autoscaling, frontend = self.inputs.autoscaling, self.frontend
        assert autoscaling is not None
        assert autoscaling.spec.spot is not None
        return SpotPool(
            autoscaling.spec.spot, self.inputs.seed, lambda replica: frontend.lose([replica], frozenset()),
            lambda: frontend.is_over, *arguments,
        )  # fmt: skip

    def start(self) -> None:
        """See ``System.start``."""
        super().start()
        for pool in self.autoscaler.pools:
            assert isinstance(pool, SpotPool)
            pool.begin()
