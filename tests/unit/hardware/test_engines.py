"""``profiles/engines``: shipped files, overlays, faults."""

from __future__ import annotations

import pytest

from helixsim import yamlio
from helixsim.errors import DataError
from helixsim.hardware import engines


@pytest.mark.parametrize("name", engines.engine_names())
def test_shipped_engines_carry_their_name_and_a_source_for_every_figure(name):
    engine = engines.load_engine(name)
    assert engine.spec.name == name
    assert [figure for figure, _ in engine.sources] == list(engines.FIGURES)
    assert all(len(said) > 8 for _, said in engine.sources)


def test_the_ideal_engine_costs_nothing():
    spec = engines.load_engine("ideal").spec
    assert all(getattr(spec, f"{key}_ns") == 0 for key in engines.OVERHEADS)
    assert spec.min_free_share == 0


def test_an_overlay_changes_only_what_it_names_and_can_be_read_back(tmp_path):
    base = engines.load_engine("helix-vllm-0.4")
    overlay = engines.with_overheads_s(base, "mine", {"batch_overhead": 0.0123}, "fitted to a run")
    path = tmp_path / "mine.yaml"
    path.write_text(yamlio.dump(engines.document(overlay)), encoding="utf-8")
    read = engines.load_engine(path)
    assert read == overlay
    assert read.spec.batch_overhead_ns == 12_300_000
    assert read.spec.layer_launch_ns == base.spec.layer_launch_ns
    assert dict(read.sources)["batch_overhead"] == "fitted to a run"


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("mixed_batches", "shard", "did you mean 'shared'"),
        ("batch_overhead", "-1 ms", "batch_overhead"),
        ("min_free_share", 1.5, "must be less than or equal to 0.99, got 1.5"),
        ("colour", "red", "unknown key 'colour'"),
    ],
)
def test_faults_name_the_place(tmp_path, key, value, said):
    path = tmp_path / "bad.yaml"
    path.write_text(yamlio.dump(engines.document(engines.load_engine("ideal")) | {key: value}), encoding="utf-8")
    with pytest.raises(DataError, match=said):
        engines.load_engine(path)


def test_the_former_name_of_a_figure_is_read_with_a_warning(tmp_path):
    ideal = engines.load_engine("ideal")
    text = yamlio.dump(engines.document(ideal)).replace("min_free_share", "watermark")
    path = tmp_path / "old.yaml"
    path.write_text(text, encoding="utf-8")
    with pytest.warns(FutureWarning, match="watermark is now"):
        assert engines.load_engine(path) == ideal
    path.write_text(f"{text}min_free_share: 0.1\n", encoding="utf-8")
    with pytest.raises(DataError, match="watermark: former name of min_free_share, which is given as well"):
        engines.load_engine(path)


def test_an_unknown_engine_is_guessed():
    with pytest.raises(DataError, match="did you mean 'ideal'"):
        engines.load_engine("idael")
