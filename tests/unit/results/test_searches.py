"""Results of searches: documents read back, and tables that name units."""

from __future__ import annotations

import json
import math

import pandas as pd
import pytest

from helixsim.config.edit import Edit
from helixsim.domain.request import Slo
from helixsim.errors import DataError
from helixsim.metrics.objectives import Target, TargetVerdict
from helixsim.results.capacity import CapacityEstimate, CapacityResults, SystemCapacity, Trial
from helixsim.results.files import write_json
from helixsim.results.fleet import FleetResults, TriedFleet

TARGETS = (Target("slo", Slo(ttft_s=1.0, tpot_s=0.2)), Target("fast", Slo(ttft_s=0.1), 90.0, 0.5))


@pytest.fixture(scope="module")
def capacities(fake_runs) -> CapacityResults:
    summary = fake_runs["helix"].summary
    verdicts = {target.name: TargetVerdict(target.name == "slo", (), "TTFT p99", 2.0) for target in TARGETS}
    trial = Trial(0, 3.0, summary, verdicts)
    met = CapacityEstimate("slo", (3.0, 10 / 3), 19 / 6, 1.05, 5.28, "TTFT p99 1.1 s, allowed 1 s", summary)
    missed = CapacityEstimate("fast", (0.0, 0.0), 0.0, 0.0, 0.0, "no rate", None)
    system = SystemCapacity("helix", 5.0, (met, missed), (trial,), 1)
    return CapacityResults("fake", TARGETS, 0.02, (0, 1), (10.0, None), (system,), {"swarm": (4, "does not fit")})


def test_capacities_read_back_make_the_same_document(capacities, tmp_path) -> None:
    write_json(tmp_path / "capacity.json", capacities.document())
    again = CapacityResults.load(tmp_path)
    assert again.document() == capacities.document()
    assert again.targets == capacities.targets
    assert again.failed == capacities.failed
    assert again.systems[0].estimates[0].at_capacity == capacities.systems[0].estimates[0].at_capacity
    pd.testing.assert_frame_equal(again.table(), capacities.table(), rtol=1e-8)


def test_targets_that_no_system_meets_are_told_by_name(capacities) -> None:
    assert capacities.unmet_targets() == ("fast",)


def test_a_trial_is_a_row_with_its_verdicts(capacities) -> None:
    (row,) = capacities.trials_table().to_dict("records")
    assert (row["system"], row["rate"], row["meets_slo"], row["meets_fast"]) == ("helix", 3.0, True, False)
    assert row["saturation"] == capacities.systems[0].trials[0].summary.load.saturation


@pytest.mark.parametrize("change", [{"schema": 9}, {"systems": {"helix": {}}}, {"targets": []}])
def test_damaged_capacities_are_refused(capacities, tmp_path, change) -> None:
    write_json(tmp_path / "capacity.json", {**capacities.document(), **change})
    with pytest.raises(DataError, match=r"capacity\.json"):
        CapacityResults.load(tmp_path)


def test_a_fleet_that_could_not_be_simulated_has_no_figures_and_the_others_all(fake_runs) -> None:
    summary = fake_runs["helix"].summary
    good = TriedFleet("2 l4", (2,), 1.5, True, (), 1.2, "TTFT p99", 4.0, summary, (Edit.of("cluster.nodes", []),))
    bad = TriedFleet("1 l4", (1,), 0.75, False, ("does not fit",), math.nan, "", None, None, ())
    found = FleetResults(
        "fake", None, None, 2.0, TARGETS[0], 1.5, (good,), (bad, good), math.nan, (), (), "2 l4", 4.0, ""
    )
    document = json.loads(json.dumps(found.document(), allow_nan=False))
    assert [one["headroom"] for one in document["tried"]] == [None, 1.0]
    assert document["tried"][1]["p99_ttft_ms"] == summary.vllm_keys()["p99_ttft_ms"]
    assert document["tried"][0]["p99_ttft_ms"] is None
    assert list(document["tried"][0]) == list(document["tried"][1])
    assert found.table()["misses"].tolist() == ["does not fit", ""]
