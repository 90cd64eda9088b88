"""Leaderboard: all placement strategies on eight clusters, each under the same loads and service-level objective."""
