"""What all-reduces take on an interconnect that was not measured, by its kind.

Constants are those of the measured interconnect of the same kind (aiconfigurator 095f58a and its package 0.12,
Apache-2.0; vLLM in CUDA graphs), as shares of the peak rate, so that they carry over to other generations.
"""

from __future__ import annotations

import math
from typing import Literal

from helixsim.domain.kernels import AllReduce

Kind = Literal["nvswitch", "nvlink", "nvlink-bridge", "infinity-fabric", "roce", "pcie-peer", "pcie", "thunderbolt"]

TITLES: dict[Kind, str] = {
    "nvswitch": "NVSwitch",
    "nvlink": "NVLink",
    "nvlink-bridge": "NVLink pairs",
    "infinity-fabric": "Infinity Fabric",
    "roce": "RoCE",
    "pcie-peer": "PCIe, peer access",
    "pcie": "PCIe",
    "thunderbolt": "Thunderbolt",
}
"""Kinds of links between the GPUs of a node, with the names to print."""

NVLINK_BYTES_PER_S = 100e9
"""A file that does not state the kind has NVLink from this bandwidth each way on, PCIe without peer access below."""

MESH_PEERS = 7
"""GPUs that each GPU of a fully linked node of eight has a link to (MI300X, Gaudi 3)."""

_DIRECT_COUNTS = (2, 4, 8, 16)

_PEER = ((2, 4.4e-6, 0.60), (4, 13.8e-6, 0.44), (8, 27.2e-6, 0.36))
"""RTX PRO 6000 Server: GPUs, latency [s], share of PCIe 5.0 x16 (63 GB/s each way)."""

_HOST = ((2, 5.3e-6, 0.61), (4, 12.1e-6, 0.12), (8, 21.1e-6, 0.063))
"""L40S, through the memory of the host: GPUs, latency [s], share of PCIe 4.0 x16 (31.5 GB/s each way)."""

_THUNDERBOLT_S, _THUNDERBOLT_SHARE = 30e-6, 0.6
"""Assumed: time of one step round a ring of linked computers [s], share of the link's rate."""


def default_kind(bytes_per_s: float) -> Kind:
    """Return the kind of an interconnect that states its bandwidth alone."""
    return "nvlink" if bytes_per_s >= NVLINK_BYTES_PER_S else "pcie"


def usual_all_reduce(kind: Kind, bytes_per_s: float, host_bytes_per_s: float) -> tuple[AllReduce, ...]:
    """Return the laws assumed of an interconnect, for each number of GPUs.

    ``nvswitch`` and ``nvlink`` reach the mean shares of A100, H100 and B200. In a mesh (``infinity-fabric``, ``roce``),
    ``n`` GPUs use ``n - 1`` of a GPU's links. Pairs joined by a bridge reach the others through the host's PCIe with
    peer access.

    Parameters
    ----------
    bytes_per_s
        Peak rate of all links of a GPU, each way [B/s].
    host_bytes_per_s
        Peak rate of its link to the host, each way [B/s].
    """
    if kind in ("nvswitch", "nvlink"):
        return tuple(_direct(gpus, bytes_per_s) for gpus in _DIRECT_COUNTS)
    if kind in ("infinity-fabric", "roce"):
        return tuple(_direct(gpus, bytes_per_s * min(1.0, (gpus - 1) / MESH_PEERS)) for gpus in _DIRECT_COUNTS)
    if kind == "nvlink-bridge":
        return (_direct(2, bytes_per_s), *_rings(_PEER, host_bytes_per_s)[1:])
    if kind == "thunderbolt":
        return tuple(
            AllReduce(gpus, 2 * (gpus - 1) * _THUNDERBOLT_S, _THUNDERBOLT_SHARE * bytes_per_s) for gpus in (2, 4, 8)
        )
    return _rings(_PEER if kind == "pcie-peer" else _HOST, bytes_per_s)


def _direct(gpus: int, rate: float) -> AllReduce:
    return AllReduce(gpus, 35e-6, 0.7 * rate, 5e-6 + 0.3e-6 * math.log2(gpus), 12e-6, 0.6 * rate)


def _rings(shares: tuple[tuple[int, float, float], ...], rate: float) -> tuple[AllReduce, ...]:
    return tuple(AllReduce(gpus, latency_s, share * rate) for gpus, latency_s, share in shares)
