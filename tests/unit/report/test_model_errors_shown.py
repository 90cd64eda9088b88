"""Labels and bands of the model error in tables, pages and documents of results."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace

import pytest

from helixsim.domain.request import FeedMode, Slo
from helixsim.metrics.error_cells import METRICS
from helixsim.metrics.objectives import Target
from helixsim.metrics.ranking import follows_load, shares_ahead
from helixsim.metrics.slowdown import SlackCurve
from helixsim.metrics.verdict_text import answer
from helixsim.report.capacity_files import capacity_notes, capacity_table
from helixsim.report.fleet_files import fleet_table, sentences
from helixsim.report.html import Charts, render_html
from helixsim.report.rows import AS_LOAD, comparison_sections, error_notes
from helixsim.report.sweep_files import best_table
from helixsim.report.tables import comparison_text
from helixsim.results.capacity import CapacityEstimate, CapacityResults, SystemCapacity
from helixsim.results.fleet import FleetResults, TriedFleet
from helixsim.results.runset import RunSet
from helixsim.results.sweep import SweepResults, error_of, mean_rows, run_rows
from helixsim.units import percent

TARGET = Target("slo", Slo(ttft_s=1.0))


@pytest.fixture
def stored(run_dir, tmp_path):
    shutil.copytree(run_dir, tmp_path, dirs_exist_ok=True)
    path = tmp_path / "summary.json"

    def change(how) -> RunSet:
        document = json.loads(path.read_text(encoding="utf-8"))
        for system in document["systems"].values():
            how(system["helixsim"])
        path.write_text(json.dumps(document), encoding="utf-8")
        return RunSet.load(tmp_path)

    return change


def rows_of(runs, title="Model error, 80 % band"):
    (section,) = (one for one in comparison_sections(runs) if one.title == title)
    return {row.label: row.cells for row in section.rows}


def test_every_system_has_a_label_points_and_bands_in_table_document_and_frame(fake_runs) -> None:
    rows = rows_of(fake_runs)
    for number, (name, run) in enumerate(fake_runs.items()):
        error = run.model_error
        assert rows["by measured points"][number] == error.label == "extrapolated"
        assert rows["  number of points"][number] == str(error.points)
        document = fake_runs.document()["systems"][name]["helixsim"]["accuracy"]
        assert document["band"].keys() == set(METRICS)
        assert document["band"]["tpot"] == pytest.approx(error.band("tpot"))
        assert fake_runs.table()["tpot_band_low_ratio"][name] == error.band("tpot").low
        served = rows["output tokens/s, %"][number]
        assert (served == AS_LOAD) == follows_load(run.summary)


def test_the_order_in_draws_is_that_of_the_document_and_the_baseline_has_none(fake_runs) -> None:
    cells = dict(zip(fake_runs, rows_of(fake_runs)["  in TPOT, % of draws"], strict=True))
    assert cells[fake_runs.baseline] == "–"
    shares = fake_runs.document()["systems"]["petals"]["helixsim"]["accuracy"]["ahead_of_baseline"]
    assert shares["mean_tpot_ms"] == pytest.approx(fake_runs.shares_ahead("petals")["mean_tpot_ms"])


def test_the_points_behind_bands_are_told_once_in_terminal_and_page(fake_runs) -> None:
    notes = error_notes({name: run.model_error for name, run in fake_runs.items()})
    assert sum(len(names.split(", ")) for names, _ in notes) == len(fake_runs)
    page = render_html(fake_runs, Charts([], [], []), {}, "")
    assert "Model error extrapolated" in page
    assert "Model error extrapolated" in comparison_text(fake_runs)
    assert len({sentence for _, sentence in notes}) == len(notes)


def test_the_verdict_says_how_sure_the_order_is(fake_runs) -> None:
    best, second = fake_runs.verdict.ranking[:2]
    shares = shares_ahead(fake_runs[best].summary, fake_runs[second].summary)
    lead = fake_runs.verdict.lead
    assert lead.ahead_in_draws == shares[lead.drawn] is not None
    text = f"ahead in {{}} in {percent(lead.ahead_in_draws)} % of draws of the model error"
    said = dict(answer(fake_runs.verdict))["Margin"]
    assert any(text.format(name) in said for name in ("throughput", "mean TTFT", "mean TPOT"))


def test_model_errors_are_derived_anew_when_results_are_read(fake_runs, stored) -> None:
    again = stored(lambda system: system["accuracy"].update(label="validated", table="of another version"))
    assert again.document() == fake_runs.document()


def test_summaries_of_before_are_read_without_model_errors(stored) -> None:
    former = stored(lambda system: [system.pop("accuracy"), system.pop("setting")])
    assert [run.model_error for run in former.values()] == [None] * len(former)
    assert not any("Model error" in section.title for section in comparison_sections(former))
    assert all("accuracy" not in one["helixsim"] for one in former.document()["systems"].values())
    assert former.table()["accuracy"].isna().all()
    comparison_text(former)


def test_a_capacity_has_a_band_around_rate_and_price(fake_runs, tmp_path) -> None:
    summary = fake_runs["helix"].summary
    curve = SlackCurve(((0.1, 90.0), (3.0, 1.2)))
    found = CapacityEstimate("slo", (3.0,), 3.0, None, None, "TTFT", summary, curve)
    low, high = found.error_band
    assert low < 3.0 < high
    cheap, dear = found.price_band
    assert cheap * high == pytest.approx(dear * low) == pytest.approx(summary.cost.usd_per_mtok * 3.0)
    system = SystemCapacity("helix", 5.0, (found,), (), 1)
    results = CapacityResults("fake", (TARGET,), 0.02, (0,), (10.0, None), (system,), {})
    (tmp_path / "capacity.json").write_text(json.dumps(results.document()), encoding="utf-8")
    again = CapacityResults.load(tmp_path)
    assert again.document() == results.document()
    table = capacity_table(again)
    assert "–" in table.rows[0][table.head.index("80 % model error")]
    assert any("by the model error" in sentence for _, sentence in capacity_notes(again))
    (row,) = again.table().to_dict("records")
    assert row["band_low_requests_per_s"] == pytest.approx(low)


def test_the_low_end_of_a_band_below_all_simulations_is_not_made_up(fake_runs) -> None:
    summary = fake_runs["helix"].summary
    found = CapacityEstimate("slo", (3.0,), 3.0, None, None, "TTFT", summary, SlackCurve(((3.0, 1.01),)))
    low, high = found.error_band
    assert low is None
    assert high > 3.0
    assert found.price_band[1] is None
    system = SystemCapacity("helix", 5.0, (found,), (), 1)
    table = capacity_table(CapacityResults("fake", (TARGET,), 0.02, (0,), (10.0, None), (system,), {}))
    assert table.rows[0][table.head.index("80 % model error")].startswith("below ")


def test_a_fleet_serves_the_load_in_a_share_of_draws(fake_runs) -> None:
    summary = fake_runs["helix"].summary
    curve = SlackCurve(((0.1, 90.0), (4.0, 1.2)))
    searched = TriedFleet("2 l4", (2,), 1.5, True, (), 1.2, "TTFT p99", 4.0, summary, (), curve)
    other = TriedFleet("1 l4", (1,), 0.7, False, ("late",), 0.9, "TTFT p99", None, summary, ())
    found = FleetResults(
        "fake", None, None, 3.5, TARGET, 1.5, (searched,), (other, searched), 0.0, (), (), "", None, ""
    )
    document = json.loads(json.dumps(found.document(), allow_nan=False))
    share = document["ranked"][0]["accuracy"]["serves_load_in_draws"]
    assert 0.3 < share < 1.0
    assert document["tried"][0]["accuracy"]["serves_load_in_draws"] is None
    table = fleet_table(document)
    assert table.rows[0][-1] == f"{100 * share:.0f}"
    assert any("80 % band of its capacity" in line for line in sentences(document))
    assert found.table()["accuracy"].tolist() == ["extrapolated", "extrapolated"]


def test_the_best_points_of_a_sweep_have_the_widest_band_over_the_seeds(fake_runs) -> None:
    rows = [
        {"point": 0, "rate": 1, "seed": seed, "run": "", **row}
        for seed, factor in ((0, 1.0), (1, 1.5))
        for row in run_rows(fake_runs)
        for row in [{**row, "tpot_band_high_ratio": row["tpot_band_high_ratio"] * factor}]
    ]
    results = SweepResults("s", None, ("rate",), (0, 1), "mean_tpot_ms", False, False, tuple(rows), (), None, Slo())
    means = mean_rows(results)
    (swarm,) = (row for row in means if row["system"] == "swarm")
    error = fake_runs["swarm"].model_error
    assert swarm["tpot_band_high_ratio"] == pytest.approx(1.5 * error.band("tpot").high)
    assert (swarm["accuracy"], swarm["accuracy_points"]) == (error.label, error.points)
    table = best_table(results, means)
    assert all(" to +" in row[table.head.index("model error, 80 %")] for row in table.rows)


@pytest.mark.parametrize(("key", "metric"), [
    ("p99_ttft_ms", ("ttft", False)), ("mean_tpot_ms", ("tpot", False)), ("itl_p50_s", ("tpot", False)),
    ("output_throughput", ("throughput", False)), ("cost_usd_per_mtok", ("throughput", True)),
    ("max_flow_tokens_per_s", None), ("slo_attainment", None), ("cost_usd_per_hour", None),
])  # fmt: skip
def test_results_have_the_error_of_what_they_follow_from(key, metric) -> None:
    assert error_of(key) == metric


def test_a_closed_loop_has_a_band_of_throughput(fake_runs) -> None:
    run = fake_runs["helix"]
    closed = replace(run.summary, load=replace(run.summary.load, feed=FeedMode.CLOSED_LOOP))
    alone = replace(fake_runs, runs={"helix": replace(run, summary=closed)}, baseline="helix")
    rows = rows_of(alone)
    assert " to +" in rows["output tokens/s, %"][0]
    assert "–" in rows["$ per million output tokens"][0]
    assert not any("draws" in label for label in rows)
