"""The network of a run."""

from __future__ import annotations

from functools import partial

from helixsim.engine.inputs import SimulationInputs
from helixsim.engine.kernel import Kernel
from helixsim.engine.network import NetworkFabric
from helixsim.engine.recorded import recorded


def fabric_of(inputs: SimulationInputs, kernel: Kernel) -> NetworkFabric:
    """Return all channels of a run, made when first used, which are recorded if the run is."""
    fabric = NetworkFabric(
        kernel,
        inputs.fleet.cluster,
        inputs.fleet.model.activation_bytes_per_token,
        inputs.is_one_by_one,
        inputs.engine.message_overhead_ns,
        inputs.engine.loops_inside,
    )
    if inputs.timeline is not None:
        fabric.kind = partial(recorded, timeline=inputs.timeline)
    return fabric
