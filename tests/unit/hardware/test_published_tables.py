"""Against the tables published with the paper's artifact, where they lie beside the repository."""

import csv
from collections import defaultdict
from pathlib import Path

import numpy as np
import pytest

from helixsim.hardware import catalog, compute_file, fit, measured
from helixsim.hardware.profiles import ProfileOptions, node_profile

TABLES = Path(__file__).parents[3] / "../shared/reference/data"

pytestmark = [
    pytest.mark.shared,
    pytest.mark.skipif(not TABLES.is_dir(), reason="published tables are not beside the repository"),
]


def _kv_tokens() -> dict[tuple[str, str], list[int]]:
    tables: dict[tuple[str, str], list[int]] = defaultdict(list)
    with (TABLES / "node_limits.csv").open() as file:
        for row in csv.DictReader(file):
            key = (catalog.model_name(row["model"]), catalog.kind_name(row["gpu"]))
            tables[key].append(int(row["kv_tokens_per_layer"]))
    return tables


def test_kv_memory_from_physics_is_within_one_percent_of_every_published_row() -> None:
    tables = _kv_tokens()
    assert len(tables) == 14
    for (model, kind), tokens in tables.items():
        gpu, gpus = catalog.split_kind(kind)
        options = ProfileOptions(memory_fraction=0.8)
        profile, _ = node_profile(catalog.load_model(model), catalog.load_gpu(gpu), gpus, options)
        assert len(profile.kv_blocks) > len(tokens)
        for layers, published in enumerate(tokens, start=1):
            assert profile.kv_tokens(layers) == pytest.approx(published, rel=0.01)


def test_single_gpus_are_within_two_blocks_in_a_thousand() -> None:
    for (model, kind), tokens in _kv_tokens().items():
        if kind in {"a100-40g", "v100", "t4"}:
            gpu, gpus = catalog.split_kind(kind)
            options = ProfileOptions(memory_fraction=0.8)
            profile, _ = node_profile(catalog.load_model(model), catalog.load_gpu(gpu), gpus, options)
            for layers, published in enumerate(tokens, start=1):
                assert profile.kv_tokens(layers) == pytest.approx(published, rel=0.001)


def test_the_published_files_work_as_the_users_own() -> None:
    options = ProfileOptions(timings=TABLES / "profiles.csv", limits=TABLES / "node_limits.csv")
    profile, _ = node_profile(catalog.load_model("llama-2-70b"), catalog.load_gpu("a100-40g"), 1, options)
    assert profile.kv_blocks[11] == 17591
    assert profile.max_layers == 12
    assert (profile.limits[11].max_decode_seqs, profile.limits[11].max_prefill_tokens) == (300, 6144)
    assert (profile.typical_layers, profile.initial_layer_tokens_per_s) == (8, 80)
    for table in measured.read_timings(TABLES / "profiles.csv"):
        if (table.model, table.kind) == ("llama-2-70b", "a100-40g"):
            assert all(profile.compute.prefill(x) == y * 1e6 for x, y in table.prefill)
            assert all(profile.compute.decode(x) == y * 1e6 for x, y in table.decode)


def test_committed_profiles_are_what_the_fit_gives() -> None:
    fitted = fit.fit_tables(TABLES / "profiles.csv", TABLES / "node_limits.csv", "fp16", 0.8, "")
    assert len(fitted) == 14
    for ours in fitted:
        (kept,) = [entry for entry in compute_file.committed(ours.model) if entry.kind == ours.kind]
        assert kept.batch == ours.batch
        assert kept.prefill.curve.x == ours.prefill.curve.x
        assert kept.decode.curve.y_ns == pytest.approx(ours.decode.curve.y_ns, rel=1e-3)
        assert kept.planner is not None
        assert ours.planner is not None
        assert kept.planner.max_layers == ours.planner.max_layers


def test_all_curves_but_one_are_within_twelve_percent_of_their_tables_beyond_the_tables_rounding() -> None:
    """V100 with LLaMA-2 70B falls from 6.7 ms at 85 sequences to 4.5 ms at 90; a rising curve cannot."""
    off = {}
    for table in measured.read_timings(TABLES / "profiles.csv"):
        for phase, points in (("prefill", table.prefill), ("decode", table.decode)):
            curve = fit.fit_curve(points).curve
            x, y = np.array([point for point in points if point[0] > 0]).T
            errors = np.abs([curve(batch) / 1e6 for batch in x] - y) - fit.resolution(y) / 2
            off[table.model, table.kind, phase] = (errors / y).max()
    assert len(off) == 28
    assert [name for name, error in off.items() if error > 0.12] == [("llama-2-70b", "v100", "decode")]
