"""Small pools of replicas whose number changes."""

from __future__ import annotations

from dataclasses import astuple

from replica_cases import chains, kind_of
from simulating import SECOND, run

from helixsim.autoscaling import spot_registry
from helixsim.domain.autoscaling import AutoscalingSpec, Entry, PolicySpec, Pool
from helixsim.domain.cluster import LinkSpec
from helixsim.domain.engine import EngineSpec
from helixsim.domain.request import Slo
from helixsim.domain.spot import SpotSpec
from helixsim.engine.autoscaler import first_number
from helixsim.engine.inputs import Autoscaling

INSIDE = EngineSpec("inside", loops_inside=True, copies_activations=False, chunks_prompts=True, admission="prompt")
NEAR = LinkSpec(1e12, 0)
KIND = kind_of("kind", blocks=30, seqs=4)


def case_of(count, kind=KIND):
    """Replicas of one node each."""
    return chains([[kind]] * count, intra=NEAR)


def scaled(case, load, policy, *, start=None, floor=1, startup_s=0.0, interval_s=1.0, stabilisation_s=5.0, slo=None,
           engine=INSIDE, routing="least_loaded", **how):  # fmt: skip
    """Simulate a load on a pool of all nodes of a case."""
    nodes = tuple(case[2].ranges)
    spec = AutoscalingSpec(policy, (), interval_s=interval_s, stabilisation_s=stabilisation_s)
    first = first_number(spec, start, floor, len(nodes))
    pool = Pool("kind", nodes, floor, len(nodes), first, 1, 2.0, round(startup_s * SECOND))
    plan = Autoscaling(spec, (pool,), slo or Slo(ttft_s=1.0))
    return run(case, load, engine=engine, routing=routing, autoscaling=plan, **how)


def columns(result):
    """Return the requests of a run column by column, to be compared."""
    return [column.tolist() for column in astuple(result.requests)]


POLICIES = [
    PolicySpec("target", metric="in_flight", target=3.0),
    PolicySpec("target", metric="rate", target=2.0),
    PolicySpec("target", metric="kv_use", target=0.5, tolerance=0.0),
    PolicySpec("queue", high=1.0, low=0.5),
    PolicySpec("kv_use", high=0.6, low=0.2),
    PolicySpec("goodput", least=0.9),
    PolicySpec("schedule", entries=(Entry(0, 1), Entry(3, 3), Entry(7, 1), Entry(9, 2)), period_s=12),
]


def spot(policy, *, available_s=8.0, short_s=4.0, notice_s=0.5, price_share=0.3, **options):
    """Return a mixture of spot machines and of those on demand."""
    made = spot_registry.get(policy).Options(**options)
    return SpotSpec(policy, made, price_share, None, available_s, short_s, notice_s)
