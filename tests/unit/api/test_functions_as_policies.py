"""Functions as policies: by name in this process, by import path in others, and with their source in every key."""

from __future__ import annotations

import pickle
import subprocess
import sys
from pathlib import Path

import pytest

import helixsim as hx
from helixsim import plugins, yamlio
from helixsim.cli.main import main
from helixsim.errors import ConfigError, PluginError
from helixsim.routing import registry
from helixsim.runtime.identity import experiment_key

ROOT = Path(__file__).parents[3]

SCRIPT = """\
import sys
import helixsim as hx
from helixsim.runtime.identity import experiment_key

WEIGHTS = {"l4": 1.0, "t4": FACTOR}

def load_of(view, hop):
    return view.in_flight(hop.node) * WEIGHTS["t4"]

@hx.routing("fewest")
def fewest(hops, view):
    return min(hops, key=lambda hop: load_of(view, hop))  # COMMENT

@hx.placement("halves")
def halves(problem, *, first: int = 16):
    layers = problem.fleet.model.num_layers
    return {"l4-0": (0, first), "l4-1": (first, layers), "t4-0": (0, first), "t4-1": (first, layers)}

@hx.batching("one_by_one")
def one_by_one(prefill_tokens, decode_seqs, limits):
    return (1, 0) if prefill_tokens else (0, min(decode_seqs, limits.max_decode_seqs))

exp = hx.Experiment(
    "llama-2-7b", hx.Cluster({"l4": 2, "t4": 2}, link="8 Gbit/s, 1 ms"), load=hx.poisson(2, (200, 20)),
    window=("2 s", "10 s"), systems=[{"placement": "halves", "routing": "fewest", "batching": "one_by_one"}, "swarm"],
)
print(experiment_key(exp.resolve()))
if "run" in sys.argv:
    print(list(exp.run(jobs=2)))
if "sweep" in sys.argv:
    points = hx.sweep(exp, {"systems.1.routing": ["fewest", "random"], "systems.0.placement.first": [15, 16]}, jobs=2)
    print(len(points.table()), points.failures)
"""


def run_script(folder, text, *arguments):
    (folder / "script.py").write_text(text, encoding="utf-8")
    return subprocess.run(
        [sys.executable, "script.py", *arguments], cwd=folder, env={"PYTHONPATH": str(ROOT), "PATH": ""},
        capture_output=True, text=True, check=False,
    )  # fmt: skip


def tiny(**system):
    return hx.Experiment(
        "llama-2-7b", hx.Cluster({"l4": 2, "t4": 2}, link="8 Gbit/s, 1 ms"), load=hx.poisson(2, (200, 20)),
        window=("2 s", "10 s"), systems=[{"placement": "swarm", **system}],
    )  # fmt: skip


@pytest.fixture(autouse=True)
def own_names():
    """Names that a test gives vanish with it."""
    before = dict(registry.REGISTRY.own)
    yield
    registry.REGISTRY.own.clear()
    registry.REGISTRY.own.update(before)


def test_functions_of_a_script_serve_in_its_worker_processes(tmp_path):
    done = run_script(tmp_path, SCRIPT.replace("FACTOR", "1.0"), "run", "sweep")
    assert done.returncode == 0, done.stderr
    key, names, points = done.stdout.splitlines()
    assert len(key) == 64
    assert names == "['halves', 'swarm']"
    assert points == "8 ()"


def test_the_key_follows_all_that_a_function_uses_but_not_its_comments(tmp_path):
    base = SCRIPT.replace("FACTOR", "1.0")
    variants = {
        "same": base,
        "elsewhere": base.replace("COMMENT", "another comment").replace("print(", "print('', end=''); print("),
        "constant": SCRIPT.replace("FACTOR", "2.0"),
        "helper": base.replace("view.in_flight(hop.node)", "view.queue_length(hop.node)"),
        "function": base.replace("return min(hops", "return max(hops"),
    }
    keys = {name: run_script(tmp_path, text).stdout for name, text in variants.items()}
    assert all(len(key) == 65 for key in keys.values()), keys
    assert keys["same"] == keys["elsewhere"]
    assert len({keys[name] for name in ("same", "constant", "helper", "function")}) == 4


def test_a_function_of_a_module_is_the_one_that_exp_yaml_names(tmp_path, monkeypatch):
    name = f"policies_{tmp_path.name}".replace("-", "_")
    code = "import helixsim as hx\n\n@hx.routing('fewest')\ndef fewest(hops, view):\n    return hops[0]\n"
    (tmp_path / f"{name}.py").write_text(code, encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    __import__(name)
    by_name, by_path = tiny(routing="fewest").resolve(), tiny(routing=f"{name}:fewest").resolve()
    assert by_name.systems[0].routing == f"{name}:fewest"
    assert by_name.config_hash == by_path.config_hash
    assert experiment_key(by_name) == experiment_key(by_path)
    written = yamlio.dump(tiny(routing=f"{name}:fewest").document)
    (tmp_path / "exp.yaml").write_text(written, encoding="utf-8")
    assert main(["run", str(tmp_path / "exp.yaml"), "--out", str(tmp_path / "runs"), "-q", "--jobs", "1"]) == 0


def test_closures_and_options_are_part_of_a_function(tmp_path):
    limit = 3

    def busy(view, hop):
        return view.in_flight(hop.node) > limit

    @hx.routing("capped")
    def capped(hops, view, *, weight: float = 1.0):
        free = [hop for hop in hops if not busy(view, hop)]
        return min(free or hops, key=lambda hop: weight * view.queue_length(hop.node))

    keys = []
    for weight, cap in ((1.0, 3), (2.0, 3), (1.0, 4)):
        limit = cap
        resolved = tiny(routing={"policy": "capped", "weight": weight}).resolve()
        assert resolved.systems[0].routing_options.weight == weight
        keys.append(experiment_key(resolved))
    assert len(set(keys)) == 3
    with pytest.raises(ConfigError, match="weight"):
        tiny(routing={"policy": "capped", "weight": "heavy"}).resolve()
    with pytest.raises(ConfigError, match="did you mean 'capped'"):
        tiny(routing="caped").resolve()


def test_the_function_decides(tmp_path):
    @hx.routing("last")
    def last(hops, view):
        return max(hops, key=lambda hop: hop.node)

    assert tiny().run(tmp_path, jobs=1)["swarm"].requests["route"].nunique() > 1
    run = tiny(routing="last").run(tmp_path, jobs=1)["swarm"]
    assert run.requests["route"].nunique() == 1


def test_what_cannot_be_passed_on_or_called_is_refused_with_its_name(tmp_path):
    handle = object()

    @hx.routing("holds")
    def holds(hops, view):
        return hops[0] if handle else hops[1]

    with pytest.raises(ConfigError, match=r"routing policy 'holds': it uses handle, a object"):
        tiny(routing="holds").resolve()
    with pytest.raises(ConfigError, match="one of helixsim's own"):
        hx.routing("random")(holds)
    with pytest.raises(ConfigError, match=r"expected a name, as in @helixsim.routing"):
        hx.routing(holds)
    with pytest.raises(ConfigError, match=r"expected def wrong\(hops, view\)"):

        @hx.routing("wrong")
        def wrong(hops):
            return hops[0]

    hx.routing("nameless")(lambda hops, view: hops[0])
    with pytest.raises(ConfigError, match="defined with def"):
        tiny(routing="nameless").resolve()

    @hx.routing("lost")
    def lost(hops, view):
        return None

    resolved = tiny(routing="lost").resolve()
    with pytest.raises(PluginError, match="expected one of the hops"):
        hx.simulate(resolved, hx.place(resolved, "swarm"))


def test_source_that_is_nowhere_is_one_clear_error(tmp_path):
    lines = SCRIPT.replace("FACTOR", "1.0")
    code = f"exec(compile({lines!r}, '<string>', 'exec'))"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env={"PYTHONPATH": str(ROOT), "PATH": ""}, capture_output=True,
        text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 1
    assert "cannot be read" in done.stderr
    assert "define it in a file or in a cell of a notebook" in done.stderr


def test_functions_of_notebook_cells_serve(tmp_path):
    """Notebooks register the source of a cell with ``linecache`` and have no ``__file__``."""
    code = f"""
import linecache, sys
cell = {SCRIPT.replace("FACTOR", "1.0")!r}
linecache.cache["<cell 1>"] = (len(cell), None, cell.splitlines(keepends=True), "<cell 1>")
linecache.checkcache = lambda *_: None  # as IPython does for its cells
sys.modules["__main__"].__dict__.pop("__file__", None)
sys.argv.append("run")
exec(compile(cell, "<cell 1>", "exec"), sys.modules["__main__"].__dict__)
"""
    done = run_script(tmp_path, code)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[1:] == ["['halves', 'swarm']"]


def test_workers_that_do_not_see_our_files_get_the_modules(tmp_path):
    @hx.routing("far")
    def far(hops, view):
        return hops[-1]

    path = registry.path_of("far")
    code = (
        "from helixsim.plugins import write_modules; from helixsim.routing import registry\n"
        f"write_modules({plugins.written_modules()!r}); print(registry.get({path!r}).__name__)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env={"PYTHONPATH": str(ROOT), "PATH": ""}, capture_output=True,
        text=True, check=False,
    )  # fmt: skip
    assert done.stdout == "far\n", done.stderr


def test_a_function_that_is_defined_again_is_the_one_that_counts():
    experiment = tiny(routing="mine")
    keys = []
    for pick in (min, max, min):

        @hx.routing("mine")
        def mine(hops, view):
            return pick(hops, key=lambda hop: hop.node)  # noqa: B023 - this is what is tested

        keys.append(experiment_key(experiment.resolve()))
    assert keys[0] == keys[2] != keys[1]


def test_an_experiment_takes_its_functions_along():
    @hx.routing("mine")
    def mine(hops, view):
        return hops[0]

    sent = pickle.dumps(tiny(routing="mine"))
    key = experiment_key(tiny(routing="mine").resolve())

    @hx.routing("mine")
    def other(hops, view):
        return hops[-1]

    assert experiment_key(tiny(routing="mine").resolve()) != key
    assert experiment_key(pickle.loads(sent).with_(seed=0).resolve()) == key
    assert experiment_key(pickle.loads(sent).resolve()) == key
    assert pickle.loads(sent).resolve(imports=False).systems[0].routing.endswith(":mine")


@pytest.mark.slow
def test_functions_of_a_script_serve_on_a_dask_cluster(tmp_path):
    pytest.importorskip("distributed")
    text = SCRIPT.replace("FACTOR", "1.0").replace("jobs=2", "jobs=2, dask='local'")
    done = run_script(tmp_path, text, "run", "sweep")
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[1:] == ["['halves', 'swarm']", "8 ()"]
