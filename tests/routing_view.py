"""The state of a cluster by hand, for tests of routing policies."""

from __future__ import annotations


class View:
    """A cluster where everything fits except on ``full`` nodes."""

    def __init__(self, full=(), queues=None, tokens=None, usage=None, cached=None, backlog=None):
        self.full = set(full)
        self.queues = queues or {}
        self.tokens = tokens or {}
        self.usage = usage or {}
        self.backlog = backlog or {}
        self.cached = cached or {}

    def fits(self, hop):
        return hop.node not in self.full

    def queue_length(self, node):
        return self.queues.get(node, 0)

    def prompt_backlog(self, node):
        return self.backlog.get(node, 0)

    def in_flight(self, node):
        return 0

    def in_flight_tokens(self, node):
        return self.tokens.get(node, 0)

    def kv_usage(self, node):
        return self.usage.get(node, 0.0)

    def cached_tokens(self, node):
        return self.cached.get(node, 0)

    def transfer_ns(self, node):
        return 0.0
