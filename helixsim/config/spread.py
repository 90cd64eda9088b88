"""Links that differ at random around their class, drawn as the paper's artifact draws its distributed cluster."""

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

    The order of the draws, the unit they are made in and the rounding are those of the paper's artifact, so that its
    24 nodes in three regions come out link by link: first coordinator to each node, then each node to the
    coordinator, then the pairs of nodes in lexicographic order, whose two directions share a draw; for each a
    bandwidth [B/s], then a latency [s], both uniform. Bandwidths are cut to whole MB/s above 100 MB/s and rounded to
    0.1 MB/s below, latencies cut to whole milliseconds. A figure without a spread stays as it is.

    Raises
    ------
    ValueError
        If a link would be left without bandwidth or with a latency below zero.
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
    # Both figures are always drawn: what one link leaves out must not shift the draws of the next.
    megabytes_per_s = (mean_bytes_per_s + generator.uniform(-width_bytes_per_s, width_bytes_per_s)) / 1e6
    milliseconds = (mean_s + generator.uniform(-width_s, width_s)) * 1e3
    bandwidth_bps, latency_ns = mean.bandwidth_bps, mean.latency_ns
    if width.bandwidth is not None:
        megabytes_per_s = int(megabytes_per_s) if megabytes_per_s > 100 else round(megabytes_per_s, 1)
        bandwidth_bps = megabytes_per_s * _BITS_PER_MEGABYTE
    if width.latency is not None:
        latency_ns = int(milliseconds) * NS_PER_MS
    if not bandwidth_bps:
        raise ValueError("a link class is too slow to be spread: bandwidths are rounded to 0.1 MB/s")
    return LinkSpec(bandwidth_bps, latency_ns)
