from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from helixsim.api import load_experiment
from helixsim.cli.main import main
from helixsim.datafiles import data_path
from helixsim.workload.feed import make_feed
from helixsim.workload.readers.registry import FORMATS as READ_FORMATS
from helixsim.workload.readers.registry import detect_format, read_trace

ROOT = Path(__file__).parents[2]
SAMPLE = str(data_path("traces", "sample.csv"))


def test_info_says_what_a_trace_holds(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["trace", "info", SAMPLE]) == 0
    plain = capsys.readouterr()
    assert "requests            300" in plain.out
    assert plain.err == ""
    assert main(["trace", "info", SAMPLE, "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert (document["format"], document["requests"], document["dropped"]) == ("csv", 300, {})


def test_generate_is_reproducible_and_refuses_to_overwrite(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["trace", "generate", "--rate", "2.5", "--num-requests", "40", "--seed", "3"]
    one, two = tmp_path / "one.csv", tmp_path / "two.csv"
    assert main([*arguments, str(one)]) == main([*arguments, str(two)]) == 0
    assert one.read_bytes() == two.read_bytes()
    assert "wrote 40 requests" in capsys.readouterr().out
    assert main([*arguments, str(one)]) == 2
    assert "--force" in capsys.readouterr().err
    assert main([*arguments, "--force", "--seed", "4", str(one)]) == 0
    assert one.read_bytes() != two.read_bytes()


def test_shipped_samples_come_from_the_commands_in_their_readme(tmp_path: Path) -> None:
    rows = [line.split("|") for line in data_path("traces", "README.md").read_text().splitlines()]
    commands = [(row[1].strip(" `"), row[3].strip(" `")) for row in rows if len(row) == 5 and "--rate" in row[3]]
    whole = [(name, command) for name, command in commands if "as above" not in command]
    assert len(whole) == 6
    for name, command in whole:
        assert main(["trace", "generate", str(tmp_path / name), "-q", *command.split()]) == 0
        assert (tmp_path / name).read_bytes() == data_path("traces", name).read_bytes()


def test_convert_cuts_filters_and_stretches(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out.jsonl.gz"
    options = ["--start", "20 s", "--duration", "1 min", "--rate", "10", "--max-prompt-tokens", "1000", "--json"]
    assert main(["trace", "convert", SAMPLE, str(out), *options]) == 0
    document = json.loads(capsys.readouterr().out)
    requests = list(read_trace(out))
    assert document["requests"] == len(requests)
    assert max(request.prompt_tokens for request in requests) <= 1000
    assert (len(requests) - 1) / (requests[-1].arrival_ns / 1e9) == pytest.approx(10, rel=1e-6)
    window = [r for r in read_trace(Path(SAMPLE)) if 20 <= r.arrival_ns / 1e9 < 80]
    assert len(requests) + sum(document["dropped"].values()) == len(window)


def test_convert_sorts_only_on_demand(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    mixed = tmp_path / "mixed.csv"
    mixed.write_text("arrival_s,prompt_tokens,output_tokens\n5,1,1\n3,2,2\n")
    out = tmp_path / "sorted.csv"
    assert main(["trace", "convert", str(mixed), str(out)]) == 3
    assert "row 3: time decreases" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == [mixed]
    assert main(["trace", "convert", str(mixed), str(out), "--sort"]) == 0
    assert [request.prompt_tokens for request in read_trace(out)] == [2, 1]


def test_what_a_format_cannot_hold_is_said_on_stderr(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["trace", "convert", SAMPLE, str(tmp_path / "m.jsonl"), "--to", "mooncake"]
    assert main(arguments) == 0
    assert "resolution below 1 ms" in capsys.readouterr().err
    assert main([*arguments, "--force", "-q"]) == 0
    assert capsys.readouterr().err == ""


def test_fitted_lengths_can_be_used(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fit = tmp_path / "fit.json"
    assert main(["trace", "fit-lengths", SAMPLE, str(fit), "--origin", "a test", "--json"]) == 0
    errors = json.loads(capsys.readouterr().out)["fit"]
    assert errors["requests"] == 300
    assert json.loads(fit.read_text())["origin"] == "a test"
    out = tmp_path / "out.csv"
    generate = ["trace", "generate", str(out), "--rate", "1", "--duration", "60 s", "--lengths", "fitted"]
    assert main([*generate, "--length-option", f"path={fit}"]) == 0
    assert all(request.arrival_ns < 60e9 for request in read_trace(out))


def test_a_gateway_log_is_mapped_filtered_and_converted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    log = tmp_path / "log.jsonl"
    rows = [(f"2025-03-01T12:00:0{n}+01:00", 200 if n % 2 == 0 else 500) for n in range(6)]
    log.write_text("".join(f'{{"when": "{at}", "status": {code}, "n": {{"p": 7, "o": 9}}}}\n' for at, code in rows))
    assert main(["trace", "info", str(log)]) == 3
    said = capsys.readouterr().err
    for word in ("it has when, status, n.p, n.o", "required: arrival (", "--column", "workload.trace.columns"):
        assert word in said
    flags = ["--column", "arrival=when", "--column", "prompt=n.p", "--column", "output=n.o", "--where", "status=200"]
    out = tmp_path / "out.csv"
    assert main(["trace", "convert", str(log), str(out), *flags, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["dropped"] == {"not status=200": 3}
    assert [request.arrival_ns for request in read_trace(out)] == [0, 2_000_000_000, 4_000_000_000]


LOGS_OF_OTHERS = {"aiperf", "otel", "servegen"}
"""Formats in which other programs record what they did, which helixsim does not write."""


def test_every_format_that_is_read_is_written(tmp_path: Path) -> None:
    assert READ_FORMATS.keys() > LOGS_OF_OTHERS
    for name in READ_FORMATS.keys() - LOGS_OF_OTHERS:
        written = tmp_path / f"trace.{name}"
        assert main(["trace", "convert", SAMPLE, str(written), "--to", name, "-q"]) == 0
        assert detect_format(written) == name
        estimate = ["--chars-per-token", "4"] if name == "sharegpt" else []
        again = tmp_path / f"again.{name}.csv"
        assert main(["trace", "convert", str(written), str(again), "-q", *estimate]) == 0
        assert len(list(read_trace(again))) == 300


def test_warnings_are_said_even_when_quiet(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "m.jsonl"
    path.write_text("".join(f'{{"timestamp": {at}, "input_length": 5, "output_length": 6}}\n' for at in (0, 0.5, 2)))
    assert main(["trace", "info", str(path), "-q"]) == 0
    assert "warning" in capsys.readouterr().err
    assert main(["trace", "info", str(path), "--unit", "s", "--json"]) == 0
    captured = capsys.readouterr()
    assert captured.err == ""
    assert json.loads(captured.out)["span_s"] == 2.0


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["info", "missing.csv"], 3, "missing.csv: no such file"),
        (["info", SAMPLE, "--format", "azur"], 2, "did you mean 'azure'"),
        (["generate", "out.csv"], 2, "arrivals.rate: missing"),
        (["generate", "out.csv", "--rate", "1"], 2, "the load is endless"),
        (["generate", "out.csv", "--process", "saturate"], 2, "generates no arrival times"),
        (["generate", "out.csv", "--rate", "1", "--num-requests", "5", "--lengths", "azure"], 2, "did you mean"),
        (["generate", "out.csv", "--rate", "1", "--length-option", "x"], 2, "expected KEY=VALUE"),
        (["generate", "out.xyz", "--rate", "1", "--num-requests", "5"], 2, "no format has this suffix"),
        (["generate", "out.csv", "--rate", "-1"], 2, "negative"),
        (["generate", "out.csv", "--rate", "0"], 2, "above 0"),
        (["convert", SAMPLE, "out.csv", "--start", "3 hours"], 2, "unit 'hours'"),
        (["convert", SAMPLE, "out.csv", "--to", "parquet"], 2, "unknown output format"),
        (["convert", SAMPLE, "out.csv", "--start", "2 h"], 3, "there are no requests"),
        (["convert", SAMPLE, "nowhere/out.csv"], 3, "cannot be written"),
        (["convert", SAMPLE, "out.csv", "--rate", "1e-9"], 2, "expected 1e-06 .. 1e+06"),
        (["convert", SAMPLE, "out.csv", "--rate", "1e8"], 2, "expected 1e-06 .. 1e+06"),
        (["convert", SAMPLE, "out.csv", "--start", "1e9 s"], 2, "is beyond"),
        (["convert", SAMPLE, "out.csv", "--min-prompt-tokens", "-5"], 2, "expected 1 or more"),
        (["convert", SAMPLE, "out.csv", "--min-prompt-tokens", "9", "--max-prompt-tokens", "8"], 2, "is below"),
        (["convert", SAMPLE, "out.csv", "--column", "x=y"], 2, "unknown part 'x'"),
        (["convert", SAMPLE, "out.csv", "--where", "x"], 2, "expected NAME=VALUE"),
        (["convert", SAMPLE, "out.csv", "--column", "prompt=a", "--column", "prompt=b"], 2, "given twice"),
        (["generate", "out.csv", "--rate", "1", "--num-requests", "5", "--seed", "-1"], 2, "expected a whole number"),
    ],
)
def test_faults_have_their_exit_code_and_say_why(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    code: int,
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["trace", *arguments]) == code
    captured = capsys.readouterr()
    assert message in captured.err
    assert captured.out == ""
    assert list(tmp_path.iterdir()) == []


def test_help_stays_light() -> None:
    program = (
        "import sys, argparse; from helixsim.cli import trace; "
        "trace.add_parser(argparse.ArgumentParser().add_subparsers()); "
        "print([name for name in ('numpy', 'pandas', 'matplotlib', 'highspy') if name in sys.modules])"
    )
    shown = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert shown.stdout.strip() == "[]"


def test_generated_sessions_are_read_back_with_their_prefixes(tmp_path, capsys):
    out = tmp_path / "chat.jsonl"
    common = ["--rate", "5", "--num-requests", "400", "--lengths", "lognormal", "--length-option", "prompt_mean=100"]
    common += [f"--length-option={key}" for key in ("prompt_cv=1", "output_mean=50", "output_cv=1")]
    shared = ["--turns", "4", "--think-time", "5", "--system-prompts", "3", "--system-prompt-tokens", "200"]
    assert main(["trace", "generate", str(out), *common, *shared]) == 0
    capsys.readouterr()
    assert main(["trace", "info", str(out), "--json"]) == 0
    info = json.loads(capsys.readouterr().out)
    assert info["reusable_share"] > 0.5
    assert main(["trace", "convert", str(out), str(tmp_path / "m.jsonl"), "--to", "mooncake", "-q"]) == 0
    capsys.readouterr()
    assert main(["trace", "info", str(tmp_path / "m.jsonl"), "--json"]) == 0
    blocks = json.loads(capsys.readouterr().out)
    assert 0 < blocks["reusable_share"] < info["reusable_share"]


@pytest.mark.parametrize(
    "faulty",
    [["--turns", "3"], ["--think-time", "3"], ["--turns", "0", "--think-time", "3"], ["--system-prompts", "2"],
     ["--system-prompt-tokens", "0"]],
)  # fmt: skip
def test_incomplete_or_impossible_sessions_are_refused(tmp_path, capsys, faulty):
    command = ["trace", "generate", str(tmp_path / "t.csv"), "--rate", "1", "--num-requests", "5", *faulty]
    assert main(command) == 2
    assert "--" in capsys.readouterr().err
    assert not (tmp_path / "t.csv").exists()


@pytest.mark.parametrize("suffix", ["csv", "jsonl"])
def test_generated_classes_and_priorities_are_those_of_an_experiment(tmp_path, suffix):
    out = tmp_path / f"t.{suffix}"
    limits = ["--max-prompt-tokens", "4000", "--max-output-tokens", "90"]
    classes = ["--class", "chat=0.75:-1", "--class", "batch=0.25:5"]
    assert (
        main(["trace", "generate", str(out), "--rate", "5", "--num-requests", "400", "--seed", "3", *classes, *limits])
        == 0
    )
    experiment = load_experiment(
        ROOT / "tests/golden/constant.yaml",
        ["seed=3", "workload={lengths: azure-conversation, arrivals: {process: poisson, rate: 5, num_requests: 400}, "
         "limits: {max_prompt_tokens: 4000, max_output_tokens: 90}, "
         "classes: {chat: {share: 0.75, priority: -1}, batch: {share: 0.25, priority: 5}}}"],
    )  # fmt: skip
    written = list(read_trace(out, suffix))
    requests = list(make_feed(experiment.workload, 3, num_nodes=1).requests)
    assert written == [replace(one, arrival_ns=one.arrival_ns - requests[0].arrival_ns) for one in requests]
    assert {(one.slo_class, one.priority) for one in written} == {("chat", -1), ("batch", 5)}
    assert sum(one.slo_class == "chat" for one in written) == pytest.approx(300, abs=40)


@pytest.mark.parametrize(
    ("classes", "message"),
    [(["a=0.5"], "add up to 1, got 0.5"), (["a=0.5", "a=0.5"], "given twice"), (["a"], "NAME=VALUE"),
     (["a=x"], "NAME=SHARE"), (["a=1:x"], "NAME=SHARE"), (["a=0"], "more than 0"), (["a b=1"], "letters"),
     (["a=nan"], "more than 0"), (["a=1:9999999999"], "priority")],
)  # fmt: skip
def test_impossible_classes_are_refused(tmp_path, capsys, classes, message):
    command = ["trace", "generate", str(tmp_path / "t.csv"), "--rate", "1", "--num-requests", "5"]
    assert main([*command, *(word for one in classes for word in ("--class", one))]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "t.csv").exists()
