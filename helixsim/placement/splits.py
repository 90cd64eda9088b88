"""Even splits of the layers over the nodes of a pipeline."""

from __future__ import annotations

from collections.abc import Sequence

from helixsim.domain.cluster import Deployment, Node
from helixsim.domain.hardware import Ends


def even_split(fleet: Deployment, nodes: Sequence[Node], most: Sequence[int]) -> list[int]:
    """Return the layers of each node, as even as the most that each may hold allows, larger shares last.

    Where the last node holds the output head too, it is the last to get a larger share and the first node, with the
    embedding, the one before it, as in vLLM (``get_pp_indices``).
    """
    layers = [0] * len(nodes)
    order = list(reversed(range(len(nodes))))
    if fleet.profile(nodes[0].id).ends_bytes != Ends():
        order = [*order[1:], order[0]]
    for _ in range(fleet.model.num_layers):
        open_nodes = [i for i in order if layers[i] < most[i]]
        smallest = min(layers[i] for i in open_nodes)
        layers[next(i for i in open_nodes if layers[i] == smallest)] += 1
    return layers
