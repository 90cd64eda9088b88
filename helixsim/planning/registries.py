"""Where strategies and policies are looked up."""

from __future__ import annotations

from helixsim.config.choices import Registries


def registries(*, imports: bool = True) -> Registries:
    """Return the registries of placement strategies, routing policies and batching policies.

    ``imports``: whether classes of the user's own may be imported, which runs their files.
    """
    from helixsim.batching import registry as batching
    from helixsim.placement import registry as placement
    from helixsim.routing import registry as routing

    return Registries(placement, routing, batching, imports)
