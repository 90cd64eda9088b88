"""Replicas on spot machines and on demand (``spot_pool``), whose requests are sent again when one is preempted."""

from __future__ import annotations

from typing import Any

from helixsim.domain.faults import FaultSpec
from helixsim.engine.autoscaler import ScaledPool
from helixsim.engine.faults import Retries
from helixsim.engine.faulty_scaled import FaultyScaledSystem
from helixsim.engine.inputs import FaultPlan, SimulationInputs
from helixsim.engine.kernel import Kernel
from helixsim.engine.network import NetworkFabric
from helixsim.engine.recorder import Recorder
from helixsim.engine.spot_pool import SpotPool


class SpotSystem(FaultyScaledSystem):
    """See ``FaultyScaledSystem``; without ``retries`` the limits are the defaults of ``faults``."""

    def __init__(
        self, inputs: SimulationInputs, kernel: Kernel, fabric: NetworkFabric, recorder: Recorder,
        retries: Retries | None = None, first_route: int = 0,
    ) -> None:  # fmt: skip
        usual = FaultSpec()
        own = Retries(FaultPlan((), 0, usual.retry_limit, usual.timeout_ns), kernel, recorder)
        super().__init__(inputs, kernel, fabric, recorder, retries or own, first_route)
        self.frontend.gives_up = retries is not None  # else the next spot machines are waited for

    def _pool(self, *arguments: Any) -> ScaledPool:
        autoscaling, frontend = self.inputs.autoscaling, self.frontend
        assert autoscaling is not None
        assert autoscaling.spec.spot is not None
        return SpotPool(
            autoscaling.spec.spot, self.inputs.seed, lambda replica: frontend.lose([replica], frontend.view.down),
            frontend.announced, lambda: frontend.is_over, *arguments,
        )  # fmt: skip

    def start(self) -> None:
        """See ``System.start``."""
        super().start()
        for pool in self.autoscaler.pools:
            assert isinstance(pool, SpotPool)
            pool.begin()
