"""First steps: ``init``, ``completion``, ``--version``, examples in the help, and the estimated time of a run."""

from __future__ import annotations

import contextlib
import importlib.metadata
import io
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import helixsim
from helixsim import yamlio
from helixsim.cli.examples import EXAMPLES, parsers
from helixsim.cli.main import build_parser, main
from helixsim.config.effort import effort
from helixsim.config.starter import SERVER, Offer, parse_gpus, starter
from helixsim.hardware import catalog
from helixsim.hardware.mig import is_instance

PARSERS = dict(parsers(build_parser()))


def test_init_writes_an_experiment_that_runs_as_it_is(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    asked = ["init", "--gpus", "2xl4,1xt4", "--model", "llama-2-7b", "--slo", "ttft=2s,tpot=200ms", "--rate", "0.5"]
    assert main(asked) == 0
    assert capsys.readouterr().out.startswith("exp.yaml\n")
    assert main(["validate", "exp.yaml"]) == 0
    said = capsys.readouterr().out
    assert "time       about 540 requests" in said  # of three systems: 0.5/s in 60 s of warm-up and 300 s
    short = ["--set", "workload.warmup=0 s", "--set", "workload.duration=20 s", "--jobs", "1", "-q"]
    assert main(["run", "exp.yaml", *short, "--set", "systems.0.placement=petals"]) == 0
    assert capsys.readouterr().out.startswith("Verdict ")
    before = Path("exp.yaml").read_bytes()
    assert main(asked) == 2
    assert "exp.yaml exists (--force replaces it)" in capsys.readouterr().err
    assert Path("exp.yaml").read_bytes() == before
    assert main([*asked, "--force"]) == 0


def test_init_takes_the_folder_of_a_model_and_refers_to_it_from_the_file(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    config = (
        '{"architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": 2048, "intermediate_size": 8192,'
        '"num_attention_heads": 32, "num_key_value_heads": 8, "num_hidden_layers": 16, "vocab_size": 128256,'
        '"max_position_embeddings": 4096, "tie_word_embeddings": true, "torch_dtype": "bfloat16"}'
    )
    for folder in ("model", "sub"):
        Path(folder).mkdir()
    Path("model/config.json").write_text(config, encoding="utf-8")
    for given_path in ("model", "model/config.json"):
        assert main(["init", "--gpus", "l4", "--model", given_path, "--out", "sub/x.yaml", "--force"]) == 0
        assert yamlio.load(Path("sub/x.yaml")).data["model"].startswith("../model")
        assert main(["validate", "sub/x.yaml"]) == 0
    capsys.readouterr()


def test_init_takes_the_log_of_a_gateway(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    rows = [f"2026-03-01T10:00:{second:02}+01:00,{100 + second},{20 + second}" for second in range(30)]
    Path("log.csv").write_text("\n".join(["ts,prompt_tokens,completion_tokens", *rows]) + "\n", encoding="utf-8")
    assert main(["init", "--gpus", "l4", "--model", "llama-2-7b", "--trace", "log.csv"]) == 0
    experiment = helixsim.load_experiment(Path("exp.yaml"))
    assert experiment.workload_stats.num_requests == 30
    assert experiment.workload_stats.mean_prompt_tokens == pytest.approx(114.5)
    assert main(["init", "--gpus", "l4", "--model", "llama-2-7b", "--trace", "lo.csv", "--force"]) == 2
    assert "--trace: no such file: lo.csv" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "code", "message"),
    [
        (["--gpus", "8xh1000", "--model", "qwen3-32b"], 2, "--gpus: unknown GPU 'h1000' (known: a10, "),
        (["--gpus", "8xa100", "--model", "qwen3-32b"], 2, "did you mean one of 'a100-40g', "),
        (["--gpus", "0xh100", "--model", "qwen3-32b"], 2, "expected a count of 1 or more"),
        (["--gpus", ",", "--model", "qwen3-32b"], 2, "--gpus: got no GPU"),
        (["--gpus", "h100", "--model", "Qwen/Qwen3-32"], 2, "did you mean 'Qwen/Qwen3-32B'? (known: "),
        (["--gpus", "h100", "--model", "qwen3-32"], 2, "--model: unknown model 'qwen3-32'; did you mean 'qwen3-32b'?"),
        (["--gpus", "h100", "--model", "qwen3-8b", "--slo", "ttfs=1s"], 2, "objective 'ttfs'; did you mean 'ttft'?"),
        (["--gpus", "h100", "--model", "qwen3-8b", "--slo", "tpot=50"], 2, "--slo: tpot: time '50' has no unit"),
        (["--gpus", "h100", "--model", "qwen3-8b", "--slo", "tpot=1s,tpot=2s"], 2, "tpot occurs twice"),
        (["--gpus", "h100", "--model", "qwen3-8b", "--rate", "fast"], 2, "--rate: not a rate: 'fast'"),
        (["--gpus", "1xt4", "--model", "llama-3.1-405b"], 4, "llama-3.1-405b does not fit"),
        (["--gpus", "3x9xh100", "--model", "llama-3.1-70b"], 2, "9 GPUs cannot share the 64 attention heads"),
        (["--gpus", "2x4xh100-3g.40gb", "--model", "qwen3-8b"], 2, "each other's memory, expected COUNTxh100-3g.40gb"),
        (["--gpus", "h100", "--model", "qwen3-8b", "--out", "none/x.yaml"], 2, "--out: no such folder: none"),
    ],
)
def test_init_names_what_is_wrong_and_writes_nothing(options, code, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["init", *options]) == code
    assert message in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


FLEETS = st.lists(
    st.tuples(
        st.integers(1, 40),
        st.sampled_from(["h100", "h100-3g.40gb", "l40s", "t4", "rtx-4090", "mi300x", "a100-80g"]),
    ),
    min_size=1, max_size=4,
)  # fmt: skip


@settings(max_examples=40, deadline=None)
@given(FLEETS, st.sampled_from(["llama-3.1-70b", "qwen3-32b", "llama-2-7b", "phi-4"]))
def test_nodes_of_init_have_every_gpu_once_in_sizes_that_share_the_heads(fleet, model):
    text = starter("x", model, parse_gpus(",".join(f"{count}x{gpu}" for count, gpu in fleet)), {}, Path())
    entries = yamlio.loads(text, "x").data["cluster"]["nodes"]
    for gpu in {gpu for _, gpu in fleet}:
        found = sum(one.get("gpus", 1) * one.get("count", 1) for one in entries if one["gpu"] == gpu)
        assert found == sum(count for count, name in fleet if name == gpu)
    heads = catalog.load_model(model).num_attention_heads
    for one in entries:
        assert 1 <= one.get("gpus", 1) <= (1 if is_instance(one["gpu"]) else SERVER)
        assert heads % one.get("gpus", 1) == 0


def test_a_file_that_is_not_there_is_looked_for_beside_it(tmp_path, capsys):
    (tmp_path / "chat.yaml").write_text("schema: 1", encoding="utf-8")
    assert main(["run", str(tmp_path / "chatt.yaml")]) == 2
    assert "chatt.yaml: no such file; did you mean 'chat.yaml'?" in capsys.readouterr().err


def test_gpus_per_node_may_be_given():
    assert parse_gpus("2x4xh100, l4") == [Offer("h100", 8, 4), Offer("l4", 1, None)]


def test_the_version_names_the_solver(capsys):
    assert main(["--version"]) == 0
    said = capsys.readouterr().out
    assert said.startswith(f"helixsim {helixsim.__version__}\n")
    for library in ("highspy", "numpy", "simpy"):
        assert importlib.metadata.version(library) in said


def test_every_help_has_examples_that_can_be_parsed():
    assert set(EXAMPLES) <= set(PARSERS)
    for path, parser in PARSERS.items():
        epilog = parser.epilog or ""
        assert epilog.startswith("examples:\n  "), path
        for line in epilog.split("\n\n")[0].splitlines()[1:]:
            if line.startswith("  helixsim") and "COMMAND" not in line:
                words = shlex.split(line.split(" > ")[0], comments=True)[1:]
                try:
                    build_parser().parse_all(words, parser_namespace())
                except SystemExit:
                    pytest.fail(f"{path or 'helixsim'}: {line}")


def parser_namespace():
    from argparse import Namespace

    return Namespace(verbose=0)


def script(shell: str) -> str:
    said = io.StringIO()
    with contextlib.redirect_stdout(said):
        assert main(["completion", shell]) == 0
    return said.getvalue()


@pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash")
def test_bash_completes_every_command_option_and_value(tmp_path):
    expected, calls = [], []

    def ask(*words: str) -> None:
        quoted = " ".join(map(shlex.quote, words))
        calls.append(f'COMP_WORDS=({quoted}); COMP_CWORD={len(words) - 1}; _helixsim; echo "${{COMPREPLY[*]}}"')

    for path, parser in PARSERS.items():
        names = {name for action in parser._actions for name in action.option_strings if action.help != "==SUPPRESS=="}
        ask("helixsim", *path.split(), "-")
        expected.append(names)
        for action in parser._actions:
            if action.option_strings and action.choices and action.help != "==SUPPRESS==":
                ask("helixsim", *path.split(), action.option_strings[0], "")
                expected.append({str(choice) for choice in action.choices})
    ask("helixsim", "pro")
    expected.append({"profile"})
    file = tmp_path / "completion.bash"
    file.write_text(script("bash") + "\n" + "\n".join(calls), encoding="utf-8")
    done = subprocess.run(["bash", str(file)], capture_output=True, text=True, check=True, cwd=tmp_path)
    found = [set(line.split()) for line in done.stdout.splitlines()]
    assert [names - offered for names, offered in zip(expected, found, strict=True)] == [set()] * len(expected)
    assert found[-1] == {"profile"}


@pytest.mark.parametrize("shell", ["zsh", "fish"])
def test_other_shells_have_every_command(shell):
    text = script(shell)
    for path in PARSERS:
        assert (path.split() or ["helixsim"])[-1] in text


def test_estimated_requests_are_those_that_arrive():
    experiment = helixsim.load_experiment(
        Path(__file__).parents[2] / "experiments/quickstart.yaml",
        ["systems=[{placement: swarm, routing: swarm}]", "baseline=swarm", "workload.warmup=10 s",
         "workload.duration=60 s"],
    )  # fmt: skip
    found = effort(experiment)
    result = helixsim.simulate(experiment, helixsim.place(experiment, "swarm"))
    assert found.requests == pytest.approx(len(result.requests.status), rel=0.2)
    assert found.planned == ()
    assert found.simulation_cpu_s == pytest.approx(found.output_tokens / 150_000, rel=1e-3)


def test_single_nodes_are_simulated_faster_than_pipelines():
    path = Path(__file__).parents[2] / "experiments/autoscaling.yaml"
    alone, joined = (
        effort(helixsim.load_experiment(path, [f"systems=[{{placement: {placement}}}]", "baseline=null"]))
        for placement in ("replicas", "separate")
    )
    assert alone.output_tokens == joined.output_tokens
    assert alone.simulation_cpu_s < joined.simulation_cpu_s / 5
