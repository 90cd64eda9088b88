"""Autoscaling policies of the user's own by name."""

from __future__ import annotations

from helixsim.plugins import Registry

REGISTRY = Registry("autoscaling policy", {}, ("summary", "Options", "decide"), "helixsim.autoscaling.functions")

names = REGISTRY.names
get = REGISTRY.get
path_of = REGISTRY.path_of
paths = REGISTRY.paths
