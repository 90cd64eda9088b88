"""Figures from Python: they show themselves in notebooks, are saved, and look the same whatever the user has set."""

from __future__ import annotations

import matplotlib as mpl
import pandas as pd
import pytest
from matplotlib.figure import Figure

import helixsim as hx

PNG = b"\x89PNG"


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    experiment = hx.Experiment(
        "llama-2-7b",
        hx.Cluster({"l4": 2, "t4": 2}, link="8 Gbit/s, 1 ms"),
        load=hx.poisson(2, (200, 20)),
        window=("2 s", "20 s"),
        systems=["helix", "petals"],
    )
    return experiment.run(tmp_path_factory.mktemp("runs"), jobs=1)


@pytest.mark.parametrize(
    "name",
    ["throughput", "latency", "throughput_over_time", "utilisation", "kv_memory", "requests", "links"],
)
def test_every_figure_is_drawn_of_all_systems_and_of_one(runs, name):
    for plot, systems in ((runs.plot, ["helix", "petals"]), (runs["petals"].plot, ["petals"])):
        figure = getattr(plot, name)()
        assert isinstance(figure, Figure)
        assert figure._repr_png_().startswith(PNG)
        shown = {text.get_text().split("\n")[0] for text in figure.findobj(mpl.text.Text)}
        if name not in {"utilisation", "kv_memory", "links"}:  # one system has no panel titles there
            assert set(systems) <= shown
            assert systems == ["helix", "petals"] or "helix" not in shown
        assert name in repr(plot)


def test_throughput_over_time_adds_up_to_the_tokens_of_the_run(runs):
    from helixsim.report.time_figures import throughput_over_time

    table = pd.DataFrame(throughput_over_time(runs)[1])
    for name, run in runs.items():
        own = table[table["system"] == name]
        spans = own["time_s"].diff().fillna(own["time_s"].iloc[0])
        tokens = run.series["output_tokens"]
        assert (own["output_tokens_per_s"] * spans).sum() == pytest.approx(tokens.iloc[-1] - tokens.iloc[0])


def test_placements_are_drawn(runs, tmp_path):
    placement = runs["helix"].placement
    nodes = {text.get_text() for text in placement.plot().findobj(mpl.text.Text)}
    assert {"l4-0", "l4-1", "t4-0", "t4-1"} <= nodes
    path = tmp_path / "placement.svg"
    placement.plot().savefig(path)
    assert "<svg" in path.read_text(encoding="utf-8")
    assert placement.plot_frontier()._repr_png_().startswith(PNG)
    assert runs["petals"].placement.plot_frontier()._repr_png_().startswith(PNG)


def test_the_users_settings_neither_reach_a_figure_nor_are_changed(runs):
    plain = runs.plot.requests()._repr_png_()
    with mpl.rc_context({"font.size": 25, "figure.facecolor": "red", "savefig.facecolor": "red"}):
        figure = runs.plot.requests()
        assert figure._repr_png_() == plain
        assert mpl.rcParams["font.size"] == 25


def test_figures_are_not_kept_by_pyplot(runs):
    import matplotlib.pyplot as plt

    runs.plot.latency()
    assert plt.get_fignums() == []


def test_a_report_is_written_on_demand(runs):
    path = runs.report()
    assert path.name == "report.html"
    assert (path.parent / "figures" / "over_time.svg").is_file()
    assert hx.read(runs.directory).document() == runs.document()
