"""Random links around their class, drawn as in the paper's artifact for its distributed cluster."""

from __future__ import annotations

import random

from helixsim import units
from helixsim.config.schema import SpreadSection, SpreadWidthSection
from helixsim.domain.cluster import COORDINATOR, Cluster, LinkSpec
from helixsim.units import BITS_PER_BYTE, NS_PER_MS, NS_PER_S

Pair = tuple[str, str]
_BITS_PER_MEGABYTE = 1e6 * BITS_PER_BYTE


def draw_links(cluster: Cluster, spread: SpreadSection) -> dict[Pair, LinkSpec]:
    """Return a link for every pair of ends, drawn around ``cluster.link`` of the pair.

    Order, units and rounding of the draws are those of the paper's artifact, whose 24 nodes in three regions are thus
    reproduced link by link: first coordinator to each node, then each node to the coordinator, then the pairs of nodes
    in lexicographic order, whose two directions share a draw; for each a bandwidth [B/s], then a latency [s], both
    uniform. Bandwidths are truncated to MB/s above 100 MB/s and rounded to 0.1 MB/s below, latencies truncated to ms.
    Quantities without a spread are unchanged.

    Raises
    ------
    ValueError
        If a link would have no bandwidth or a negative latency.
    """
    generator = random.Random(spread.seed)  # the artifact's generator, not a stream of ``rng``
    ids = list(cluster.index)
    draws: list[tuple[Pair, ...]] = [((COORDINATOR, node),) for node in ids]
    draws += [((node, COORDINATOR),) for node in ids]
    draws += [((a, b), (b, a)) for i, a in enumerate(ids) for b in ids[i + 1 :]]
    links: dict[Pair, LinkSpec] = {}
    for directions in draws:
        src, dst = directions[0]
        same = cluster.region_of(src) == cluster.region_of(dst)
        link = _draw(generator, cluster.link(src, dst), spread.intra_region if same else spread.inter_region)
        links.update(dict.fromkeys(directions, link))
    return links


def _draw(generator: random.Random, mean: LinkSpec, width: SpreadWidthSection) -> LinkSpec:
    width_bytes_per_s = 0.0 if width.bandwidth is None else units.parse(width.bandwidth, "bandwidth") / BITS_PER_BYTE
    width_s = 0.0 if width.latency is None else units.parse(width.latency, "time")
    mean_bytes_per_s, mean_s = mean.bandwidth_bps / BITS_PER_BYTE, mean.latency_ns / NS_PER_S
    if width_bytes_per_s >= mean_bytes_per_s or width_s > mean_s:
        raise ValueError(
            f"the spread exceeds the mean of a link class ({units.format_bandwidth(mean.bandwidth_bps)}, "
            f"{units.format_seconds(mean_s)})"
        )
    # Always draw both, so that the draws of the next link do not depend on this one.
    megabytes_per_s = (mean_bytes_per_s + generator.uniform(-width_bytes_per_s, width_bytes_per_s)) / 1e6
    milliseconds = (mean_s + generator.uniform(-width_s, width_s)) * 1e3
    bandwidth_bps, latency_ns = mean.bandwidth_bps, mean.latency_ns
    if width.bandwidth is not None:
        megabytes_per_s = int(megabytes_per_s) if megabytes_per_s > 100 else round(megabytes_per_s, 1)
        bandwidth_bps = megabytes_per_s * _BITS_PER_MEGABYTE
    if width.latency is not None:
        latency_ns = int(milliseconds) * NS_PER_MS
    if not bandwidth_bps:
        raise ValueError("the bandwidth of a link class is too low for a spread: bandwidths are rounded to 0.1 MB/s")
    return LinkSpec(bandwidth_bps, latency_ns)
