"""Results of a capacity search: the highest rate of each system within its objectives."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from helixsim.domain.reliability import SHARES, Availability, single_losses
from helixsim.domain.request import Slo
from helixsim.domain.summary import Summary
from helixsim.errors import DataError
from helixsim.jsonio import json_values, significant
from helixsim.metrics.model_error import ModelError, model_error
from helixsim.metrics.objectives import Target, TargetVerdict
from helixsim.metrics.slowdown import NO_SLACK, Band, SlackCurve
from helixsim.metrics.stats import CONFIDENCE
from helixsim.results.files import read_csv, read_json
from helixsim.results.purchases import Purchase
from helixsim.results.tables import error_row, per_user_and_gpu

if TYPE_CHECKING:
    import pandas as pd

SCHEMA = 1


@dataclass(frozen=True)
class Trial:
    """One simulation: its rate (NaN for a load without rate), its summary, and the verdict of every target by name."""

    seed: int
    rate_rps: float
    summary: Summary
    verdicts: dict[str, TargetVerdict]


@dataclass(frozen=True)
class CapacityEstimate:
    """The capacity of one system for one target.

    Parameters
    ----------
    by_seed
        Highest rate that passes under each seed [1/s]; 0 if none does.
    rate_rps, low_rps, high_rps
        Mean over the seeds and its 95 % interval (None for a single seed): Student's t, extended upwards by one step of
        the tolerance, since the capacity of a seed lies between the highest passing rate and the next step.
    binds
        Objectives missed at the next rate, under the first seed.
    at_capacity
        Summary at the highest rate that passes under the first seed; None if none does.
    slack
        Of the passing simulations under the first seed.
    """

    target: str
    by_seed: tuple[float, ...]
    rate_rps: float
    low_rps: float | None
    high_rps: float | None
    binds: str
    at_capacity: Summary | None
    slack: SlackCurve = NO_SLACK

    @property
    def model_error(self) -> ModelError | None:
        """How far off the figures at capacity are expected to be, by measured points; None if not known."""
        return None if self.at_capacity is None else model_error(self.at_capacity.setting)

    @property
    def error_band(self) -> Band | None:
        """80 % band of the capacity by the model error [1/s]."""
        return self.slack.band(self.rate_rps, self.model_error)

    @property
    def price_band(self) -> Band | None:
        """80 % band of the price per million output tokens at capacity by the model error [$]."""
        band, price = self.error_band, None if self.at_capacity is None else self.at_capacity.cost.usd_per_mtok
        if band is None or price is None:
            return None
        low, high = (None if rate is None else price * self.rate_rps / rate for rate in reversed(band))
        return low, high


@dataclass(frozen=True)
class LossCapacity:
    """The capacity of a system after a loss.

    Parameters
    ----------
    lost
        What is lost, as written, or the node that stands for its class.
    nodes, alike
        The lost nodes, and how many single nodes there are whose loss is equal.
    estimates
        As those of the system with all nodes; rates of 0 where nothing that is left can serve the model.
    simulations
        Number of simulations.
    is_idle
        The nodes hold no layers in the placement on all nodes, which is kept.
    down_share
        Share of time in which any one of the equal nodes is down, 0..1; None: not known.
    """

    lost: str
    nodes: tuple[str, ...]
    alike: int
    estimates: tuple[CapacityEstimate, ...]
    simulations: int = 0
    is_idle: bool = False
    down_share: float | None = None


@dataclass(frozen=True)
class SystemCapacity:
    """Results of one system.

    Parameters
    ----------
    max_flow_rps
        Max-flow estimate [requests/s], the anchor of the grid of rates.
    trials
        All simulations, in order of seed and rate; empty for results read from a file.
    simulations
        Number of simulations.
    losses
        The capacities after losses, in the order of the nodes.
    purchases
        One more node of each kind, the best value first.
    """

    system: str
    max_flow_rps: float
    estimates: tuple[CapacityEstimate, ...]
    trials: tuple[Trial, ...]
    simulations: int
    losses: tuple[LossCapacity, ...] = ()
    purchases: tuple[Purchase, ...] = ()

    def worst(self, number: int = 0) -> LossCapacity | None:
        """Return the loss with the least capacity for a target; None without losses."""
        return min(self.losses, key=lambda loss: loss.estimates[number].rate_rps, default=None)

    def availability(self, number: int = 0) -> Availability | None:
        """Return the requests/s over the states in which at most one node is down; None: it is not known how often."""
        known = [(loss.estimates[number].rate_rps, loss.alike, loss.down_share) for loss in self.losses]
        losses = [(rate_rps, alike, share) for rate_rps, alike, share in known if share is not None]
        return single_losses(self.estimates[number].rate_rps, losses) if losses else None


@dataclass(frozen=True)
class CapacityResults:
    """The capacities of all systems of an experiment, with the parameters of the search.

    Parameters
    ----------
    window_s
        (Warm-up [s], duration [s] or None: until the last request has completed).
    failed
        (Exit code, message) of systems whose search failed.
    replan
        Whether the model is placed anew after losses; None without losses.
    directory
        Directory of the results; None for results that were computed in this process.
    """

    experiment: str
    targets: tuple[Target, ...]
    tolerance: float
    seeds: tuple[int, ...]
    window_s: tuple[float, float | None]
    systems: tuple[SystemCapacity, ...]
    failed: Mapping[str, tuple[int, str]]
    directory: Path | None = None
    replan: bool | None = None

    @classmethod
    def load(cls, directory: Path) -> CapacityResults:
        """Return the results in a directory; of the single trials only their table.

        Raises
        ------
        DataError
            If it is missing, unreadable or of another schema.
        """
        path = directory / "capacity.json"
        document = read_json(path)
        if document.get("schema") != SCHEMA:
            raise DataError(f"{path}: expected capacities of schema {SCHEMA}, got {document.get('schema')!r}")
        try:
            return cls(
                experiment=document["experiment"],
                targets=tuple(_read_target(name, one) for name, one in document["targets"].items()),
                tolerance=document["tolerance"],
                seeds=tuple(document["seeds"]),
                window_s=(document["window"]["warmup_s"], document["window"]["duration_s"]),
                systems=tuple(_read_system(name, one) for name, one in document["systems"].items()),
                failed={name: (one["exit_code"], one["message"]) for name, one in document["failed"].items()},
                directory=directory,
                replan=document.get("replan"),
            )
        except (KeyError, TypeError, AttributeError) as error:
            raise DataError(f"{path}: no capacities: {type(error).__name__}: {error}") from None

    def document(self) -> dict[str, Any]:
        """Return the contents of ``capacity.json``."""
        return {
            "schema": SCHEMA,
            "experiment": self.experiment,
            "tolerance": self.tolerance,
            "confidence_level": CONFIDENCE,
            "seeds": list(self.seeds),
            "window": {"warmup_s": self.window_s[0], "duration_s": self.window_s[1]},
            "replan": self.replan,
            "targets": {target.name: _target(target) for target in self.targets},
            "systems": {
                one.system: {
                    "max_flow_requests_per_s": significant(one.max_flow_rps),
                    "simulations": one.simulations,
                    "targets": {estimate.target: _estimate(estimate) for estimate in one.estimates},
                    "purchases": [purchase.to_json() for purchase in one.purchases],
                    **_losses(one),
                }
                for one in self.systems
            },
            "failed": {name: {"exit_code": code, "message": message} for name, (code, message) in self.failed.items()},
        }

    def unmet_targets(self) -> tuple[str, ...]:
        """Return the targets that no system meets at any rate."""
        met = {one.target for system in self.systems for one in system.estimates if one.rate_rps}
        return tuple(target.name for target in self.targets if target.name not in met)

    def table(self) -> pd.DataFrame:
        """Return a row per system and target, with units in the names of the columns."""
        import pandas as pd

        rows = [
            {
                "system": one.system,
                "target": estimate.target,
                "requests_per_s": estimate.rate_rps,
                "low_requests_per_s": estimate.low_rps,
                "high_requests_per_s": estimate.high_rps,
                "max_flow_requests_per_s": one.max_flow_rps,
                "output_tokens_per_s": None if at is None else at.throughput.output_tokens_per_s,
                "ttft_p99_s": None if at is None else at.ttft.p99_s,
                "tpot_p99_s": None if at is None else at.tpot.p99_s,
                "usd_per_mtok": None if at is None else at.cost.usd_per_mtok,
                "simulations": one.simulations,
                **error_row(at),
                "band_low_requests_per_s": band[0],
                "band_high_requests_per_s": band[1],
            }
            for one in self.systems
            for estimate in one.estimates
            for at, band in ((estimate.at_capacity, estimate.error_band or (None, None)),)
        ]
        return pd.DataFrame(rows)

    def trials_table(self) -> pd.DataFrame:
        """Return a row per simulation (``trials.csv``)."""
        import pandas as pd

        if self.directory is not None:
            return read_csv(self.directory / "trials.csv")
        return pd.DataFrame([_trial_row(one.system, trial) for one in self.systems for trial in one.trials])


def _trial_row(system: str, trial: Trial) -> dict[str, Any]:
    summary = trial.summary
    return {
        "system": system,
        "seed": trial.seed,
        "rate": trial.rate_rps,
        **{f"meets_{name}": verdict.is_met for name, verdict in trial.verdicts.items()},
        **summary.vllm_keys(),
        **per_user_and_gpu(summary),
        "slo_attainment": summary.throughput.slo_attainment,
        "saturation": summary.load.saturation,
        "flow_attainment": summary.flow.attainment,
        "kv_peak": summary.cluster.kv_peak,
        "cost_usd_per_mtok": summary.cost.usd_per_mtok,
        "energy_wh_per_mtok": summary.cost.energy_wh_per_mtok,
    }


def _losses(one: SystemCapacity) -> dict[str, Any]:
    """Return the losses of a system and for each target the worst; empty without losses."""
    if not one.losses:
        return {}
    worst = {found.target: one.worst(number) for number, found in enumerate(one.estimates)}
    over_time = {found.target: one.availability(number) for number, found in enumerate(one.estimates)}
    return {
        "availability": {
            target: {
                "mean_requests_per_s": json_values(found.mean),
                "requests_per_s": {f"{share:g}": significant(found.served(share)) for share in SHARES},
                "uncounted_share": significant(found.rest_share),
            }
            for target, found in over_time.items()
            if found is not None
        },
        "worst_loss": {
            target: {"lost": loss.lost, "requests_per_s": significant(loss.estimates[number].rate_rps)}
            for number, (target, loss) in enumerate(worst.items())
            if loss is not None
        },
        "losses": [
            {
                "lost": loss.lost, "nodes": list(loss.nodes), "alike": loss.alike, "is_idle": loss.is_idle,
                "simulations": loss.simulations, "down_share": loss.down_share,
                "targets": {estimate.target: _estimate(estimate) for estimate in loss.estimates},
            }
            for loss in one.losses
        ],
    }  # fmt: skip


def _target(target: Target) -> dict[str, Any]:
    return {**target.slo.to_json(), "percentile": target.percentile, "goodput_share": target.share}


def _read_target(name: str, one: Mapping[str, Any]) -> Target:
    return Target(name, Slo.from_json(one), one["percentile"], one["goodput_share"])


def _estimate(estimate: CapacityEstimate) -> dict[str, Any]:
    low, high = estimate.low_rps, estimate.high_rps
    return {
        "requests_per_s": significant(estimate.rate_rps),
        "interval": None if low is None or high is None else [significant(low), significant(high)],
        "by_seed": [significant(rate) for rate in estimate.by_seed],
        "binds": estimate.binds,
        "at_capacity": None if estimate.at_capacity is None else estimate.at_capacity.to_json(),
        "slack": json_values(estimate.slack.points),
        "accuracy": None if estimate.model_error is None else {
            **estimate.model_error.to_json(),
            "requests_per_s": json_values(estimate.error_band), "cost_usd_per_mtok": json_values(estimate.price_band),
        },
    }  # fmt: skip


def _read_system(name: str, one: Mapping[str, Any]) -> SystemCapacity:
    estimates = tuple(_read_estimate(target, found) for target, found in one["targets"].items())
    losses = tuple(
        LossCapacity(
            loss["lost"],
            tuple(loss["nodes"]),
            loss["alike"],
            tuple(_read_estimate(target, found) for target, found in loss["targets"].items()),
            loss["simulations"],
            loss["is_idle"],
            loss.get("down_share"),
        )
        for loss in one.get("losses", ())
    )
    purchases = tuple(Purchase.from_json(purchase) for purchase in one.get("purchases", ()))
    bound_rps, simulations = one["max_flow_requests_per_s"], one["simulations"]
    return SystemCapacity(name, bound_rps, estimates, (), simulations, losses, purchases)


def _read_estimate(target: str, found: Mapping[str, Any]) -> CapacityEstimate:
    low, high = found["interval"] or (None, None)
    at_capacity = found["at_capacity"]
    return CapacityEstimate(
        target=target,
        by_seed=tuple(found["by_seed"]),
        rate_rps=found["requests_per_s"],
        low_rps=low,
        high_rps=high,
        binds=found["binds"],
        at_capacity=None if at_capacity is None else Summary.from_json(at_capacity),
        slack=SlackCurve(tuple((rate, slack) for rate, slack in found.get("slack", ()))),
    )
