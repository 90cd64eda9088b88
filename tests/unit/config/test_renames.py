"""Former names of keys and values are read, with a warning that gives the new name, wherever a key can be given."""

from __future__ import annotations

import warnings

import pytest

from helixsim import Experiment, yamlio
from helixsim.cli.main import main
from helixsim.config.edit import Edit, parse_option
from helixsim.config.former import RENAMES
from helixsim.config.sweep_file import load_sweep
from helixsim.errors import ConfigError

FORMER = {
    "slo_classes": {"fast": {"ttft": "1 s"}},
    "kv": {"high_water": 0.8, "expected_output_tokens": 7},
    "engine": {"watermark": 0.1, "memory_fraction": 0.7, "max_prefill_tokens": 512, "max_decode_seqs": 8},
    "capacity": {"model": "operating"},
}
CURRENT = {
    "slo_targets": {"fast": {"ttft": "1 s"}},
    "kv": {"max_reserved_share": 0.8, "expected_output_tokens": 7},
    "engine": {"min_free_share": 0.1, "gpu_memory_utilization": 0.7, "max_num_batched_tokens": 512, "max_num_seqs": 8},
    "capacity": {"model": "kv_limited"},
}
SYSTEM = {"placement": "helix"}


@pytest.fixture
def sound(sound):
    return sound | {"systems": [SYSTEM, {"placement": "swarm"}]}


@pytest.fixture
def write(tmp_path):
    def write(document):
        path = tmp_path / "exp.yaml"
        path.write_text(yamlio.dump(document), encoding="utf-8")
        return path

    return write


def test_the_examples_hold_every_former_name():
    keys = {path for path in RENAMES.keys if "*" not in path}
    assert keys == {
        ("slo_classes",), ("kv", "high_water"), *(("engine", key) for key in FORMER["engine"]),
    }  # fmt: skip
    assert set(RENAMES.values) == {(("capacity", "model"), "operating")}


def test_a_file_with_former_names_is_the_experiment_with_current_ones(sound, write):
    own = {"systems": [SYSTEM | {"kv": {"high_water": 0.7}}]}
    with pytest.warns(FutureWarning) as said:
        old = Experiment.load(write(sound | FORMER | own))
    texts = [str(one.message) for one in said]
    assert [text.rpartition("exp.yaml:")[2].partition(" ")[2].partition(";")[0] for text in texts] == [
        "systems.0.kv.high_water is now systems.0.kv.max_reserved_share",
        "slo_classes is now slo_targets",
        "kv.high_water is now kv.max_reserved_share",
        "engine.watermark is now engine.min_free_share",
        "engine.memory_fraction is now engine.gpu_memory_utilization",
        "engine.max_prefill_tokens is now engine.max_num_batched_tokens",
        "engine.max_decode_seqs is now engine.max_num_seqs",
        "capacity.model: operating is now capacity.model: kv_limited",
    ]
    with warnings.catch_warnings(action="error"):
        new = Experiment.load(write(sound | CURRENT | {"systems": [SYSTEM | {"kv": {"max_reserved_share": 0.7}}]}))
        assert old.document == new.document
        assert old.resolve().config_hash == new.resolve().config_hash


def test_faults_below_a_former_name_have_their_line(sound, write):
    path = write({"slo_classes": {"fast": {"ttft": "soon"}}} | sound)
    with pytest.warns(FutureWarning, match="slo_classes is now slo_targets"):
        experiment = Experiment.load(path)
    with pytest.raises(ConfigError, match=r"exp\.yaml:2:16: slo_targets\.fast\.ttft: "):
        experiment.resolve()


@pytest.mark.parametrize(
    ("key", "value", "path", "current"),
    [
        ("kv.high_water", 0.5, ("kv", "max_reserved_share"), 0.5),
        ("kv", {"high_water": 0.5}, ("kv",), {"max_reserved_share": 0.5}),
        ("systems.1.kv.high_water", 0.5, ("systems", "1", "kv", "max_reserved_share"), 0.5),
        ("systems", [{"kv": {"high_water": 1}}], ("systems",), [{"kv": {"max_reserved_share": 1}}]),
        ("slo_classes.fast.ttft", "1 s", ("slo_targets", "fast", "ttft"), "1 s"),
        ("capacity.model", "operating", ("capacity", "model"), "kv_limited"),
        ("engine.watermark", 0.1, ("engine", "min_free_share"), 0.1),
    ],
)
def test_edits_have_current_names(key, value, path, current):
    with pytest.warns(FutureWarning, match="^sweep.yaml:3:1: .* is now .*; the next version will not read"):
        edit = Edit.of(key, value, "sweep.yaml:3:1")
    assert (edit.path, edit.value) == (path, current)
    with pytest.warns(FutureWarning, match=f"^--set {key.partition('.')[0]}"):
        assert parse_option(f"{key}={Edit.of('x', value).text[2:]}") == edit


def test_changes_sweeps_and_variants_take_former_names(sound, write, tmp_path):
    sound["whatif"] = [{"name": "less", "set": {"kv.high_water": 0.4}}]
    path = write(sound)
    with pytest.warns(FutureWarning, match="kv.high_water is now kv.max_reserved_share"):
        resolved = Experiment.load(path).with_({"kv.high_water": 0.6}).resolve()
    assert resolved.systems[0].kv.max_reserved_share == 0.6
    (variant,) = resolved.variants
    assert variant.experiment.systems[0].kv.max_reserved_share == 0.4
    assert variant.changes == ("kv.max_reserved_share: 0.6 → 0.4",)
    sweep = {
        "schema": 1, "base": "exp.yaml", "axes": [{"path": "kv.high_water", "values": [0.5, 0.9]}],
        "plots": [{"kind": "lines", "x": "kv.high_water", "y": "output_throughput"}],
    }  # fmt: skip
    (tmp_path / "sweep.yaml").write_text(yamlio.dump(sweep), encoding="utf-8")
    with pytest.warns(FutureWarning, match="kv.high_water is now kv.max_reserved_share"):
        plan = load_sweep(tmp_path / "sweep.yaml")
    assert [edit.key for (edit,) in plan.blocks[0].points] == ["kv.max_reserved_share"] * 2
    assert plan.plots[0].x == "kv.max_reserved_share"


def test_a_key_under_both_names_is_refused(sound, write):
    path = write(sound | {"kv": {"high_water": 0.8, "max_reserved_share": 0.9}})
    with pytest.raises(ConfigError, match=r"exp\.yaml:\d+:\d+: kv\.high_water: former name of kv\.max_reserved_share"):
        Experiment.load(path)


@pytest.mark.filterwarnings("default::FutureWarning")
def test_the_command_line_says_it_once_on_stderr(sound, write, capsys):
    path = write(sound | {"kv": {"high_water": 0.8}})
    assert main(["validate", str(path)]) == 0
    said = [line for line in capsys.readouterr().err.splitlines() if "high_water" in line]
    (line,) = said
    assert line.startswith(f"helixsim: warning: {path}:")
    assert "kv.high_water is now kv.max_reserved_share" in line
