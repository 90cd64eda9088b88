"""``helixsim compare``: against a measured result, calibration, two runs.

The "measured" result comes from a run whose engine has overheads that the other run does not know.
"""

from __future__ import annotations

import csv
import json

import pytest

from helixsim.benchmarks.load import MEAN_LENGTHS
from helixsim.cli import compare_common
from helixsim.cli.main import main
from helixsim.errors import ThresholdError
from helixsim.hardware.calibration import load_calibration
from helixsim.metrics.measured_run import relative_errors

EXPERIMENT = """\
schema: 1
name: one-card
model: llama-3-8b
cluster:
  nodes: [{gpu: a100-40g}]
  network: {intra_region: {bandwidth: 8 Gbit/s, latency: 1 ms}}
workload:
  lengths: {distribution: uniform, prompt_min: 50, prompt_max: 400, output_min: 5, output_max: 60}
  arrivals: {process: poisson, rate: 2, num_requests: 60}
systems:
  - {name: vllm, placement: homogeneous, routing: least_loaded}
"""

HIDDEN = ["--set", "engine.batch_overhead=8 ms"]


def run_dir(out):
    return next(path.parent for path in out.rglob("manifest.json"))


@pytest.fixture(scope="module")
def case(tmp_path_factory):
    """The experiment, a run of it, a run of the real thing, and what ``vllm bench serve`` would have said of that."""
    folder = tmp_path_factory.mktemp("compare")
    path = folder / "exp.yaml"
    path.write_text(EXPERIMENT)
    for name, settings in (("ours", []), ("real", HIDDEN)):
        assert main(["run", str(path), "-q", "--jobs", "1", "--out", str(folder / name), *settings]) == 0
    ours, real = run_dir(folder / "ours"), run_dir(folder / "real")
    summary = json.loads((real / "summary.json").read_text())["systems"]["vllm"]
    with (real / "requests" / "vllm.csv").open(newline="") as file:
        rows = [{key: int(row[key]) for key in row if key.endswith(("_ns", "_tokens"))} for row in csv.DictReader(file)]
    gap_s = [(r["finish_ns"] - r["first_token_ns"]) / 1e9 / max(r["output_tokens"] - 1, 1) for r in rows]
    result = {key: value for key, value in summary.items() if key != "helixsim"} | {
        "start_times": [r["arrival_ns"] / 1e9 for r in rows],
        "input_lens": [r["prompt_tokens"] for r in rows],
        "output_lens": [r["output_tokens"] for r in rows],
        "ttfts": [(r["first_token_ns"] - r["arrival_ns"]) / 1e9 for r in rows],
        "itls": [[gap] * (r["output_tokens"] - 1) for r, gap in zip(rows, gap_s, strict=True)],
        "errors": [""] * len(rows),
    }
    measured = folder / "measured.json"
    measured.write_text(json.dumps(result))
    return path, ours, real, measured


def test_errors_of_every_common_metric(case, capsys):
    _, ours, real, measured = case
    assert main(["compare", str(ours), str(measured), "--json"]) == 0
    errors = json.loads(capsys.readouterr().out)["errors"]
    a, b = (json.loads((path / "summary.json").read_text())["systems"]["vllm"] for path in (ours, real))
    assert errors["mean_ttft_ms"] == pytest.approx(a["mean_ttft_ms"] / b["mean_ttft_ms"] - 1)
    assert errors["mean_itl_ms"] < -0.1
    assert {"output_throughput", "p99_tpot_ms", "mean_e2el_ms"} <= set(errors)


def test_a_run_against_what_was_measured_of_itself_has_no_error(case, capsys):
    _, _, real, measured = case
    assert main(["compare", str(real), str(measured), "--tolerance", "0.0001"]) == 0
    said = capsys.readouterr().out
    # The band need not include no error: where the model is biased, measured values are expected elsewhere.
    head = "Verdict   simulated against measured: output throughput +0.0%; mean TTFT +0.0%, "
    assert said.startswith((f"{head}in the 80 % band; ", f"{head}outside the 80 % band; "))
    assert "+0.0%" in said


def test_two_runs_are_ranked_in_draws_of_the_model_error_and_equal_ones_tie(case, capsys):
    _, ours, real, _ = case
    for other, checked in ((ours, lambda share: share == 0.5), (real, lambda share: share == 1.0)):
        assert main(["compare", str(ours), str(other), "--json"]) == 0
        (shares,) = json.loads(capsys.readouterr().out)["ahead_in_draws"].values()
        assert checked(shares["mean_tpot_ms"])
    assert main(["compare", str(ours), str(real), "-v"]) == 0
    assert "A is ahead of B, in draws of the model error: " in capsys.readouterr().out


def test_tolerance_is_exit_code_6(case, capsys):
    _, ours, _, measured = case
    assert main(["compare", str(ours), str(measured), "--tolerance", "0.05"]) == 6
    assert "mean_itl_ms" in capsys.readouterr().err


def test_calibration_finds_the_hidden_overhead_and_holds_on_unseen_requests(case, capsys, tmp_path):
    path, ours, _, measured = case
    overlay = tmp_path / "mine.yaml"
    arguments = [
        "compare",
        str(ours),
        str(measured),
        "--experiment",
        str(path),
        "--calibrate",
        str(overlay),
        "-q",
        "--jobs",
        "1",
    ]
    assert main([*arguments, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)["calibration"]
    assert (found["improved"], found["path"]) == (True, str(overlay))
    assert found["error_before"] > 0.3
    assert found["error_after"] < 0.06
    assert load_calibration(overlay).host_s["batch_overhead"] > 1e-3
    assert main(arguments) == 2
    assert "--force" in capsys.readouterr().err
    assert (
        main(["compare", str(path), str(measured), "--set", f"engine.calibration={overlay}", "--replay", "--json"]) == 0
    )
    errors = json.loads(capsys.readouterr().out)["errors"]
    assert abs(errors["mean_tpot_ms"]) < 0.03


def changed(measured, folder, change, name="changed.json"):
    """The measured result after ``change`` has been at it."""
    document = json.loads(measured.read_text())
    change(document)
    path = folder / name
    path.write_text(json.dumps(document))
    return path


def streamed_in_chunks(document, tokens_per_chunk=3):
    """What a client sees of the same run if the server sends several tokens at once."""

    def chunks(gaps):
        return [sum(gaps[at : at + tokens_per_chunk]) for at in range(0, len(gaps), tokens_per_chunk)]

    document["itls"] = [chunks(gaps) for gaps in document["itls"]]
    per_chunk = [gap for gaps in document["itls"] for gap in gaps]
    document["mean_itl_ms"] = 1e3 * sum(per_chunk) / len(per_chunk)


@pytest.mark.parametrize("change", [lambda document: None, streamed_in_chunks])
def test_calibrating_a_run_against_itself_changes_nothing_and_says_so(case, capsys, tmp_path, change) -> None:
    path, ours, _, measured = case
    own = tmp_path / "own.json"
    document = json.loads(measured.read_text())
    with next((ours / "requests").glob("*.csv")).open(newline="") as file:
        rows = [{k: int(row[k]) for k in row if k.endswith(("_ns", "_tokens"))} for row in csv.DictReader(file)]
    document["start_times"] = [r["arrival_ns"] / 1e9 for r in rows]
    document["ttfts"] = [(r["first_token_ns"] - r["arrival_ns"]) / 1e9 for r in rows]
    document["itls"] = [
        [(r["finish_ns"] - r["first_token_ns"]) / 1e9 / (r["output_tokens"] - 1)] * (r["output_tokens"] - 1)
        for r in rows
    ]
    change(document)
    own.write_text(json.dumps(document))
    overlay = tmp_path / "mine.yaml"
    arguments = [
        "compare",
        str(ours),
        str(own),
        "--experiment",
        str(path),
        "--calibrate",
        str(overlay),
        "-q",
        "--jobs",
        "1",
    ]
    assert main([*arguments, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)["calibration"]
    assert (found["improved"], found["path"]) == (False, None)
    assert all(one["after"] == pytest.approx(one["before"], abs=1e-6) for one in found["constants"])
    assert [found[key] for key in ("error_before", "error_after", "gain")] == pytest.approx([0.0, 0.0, 1.0], abs=1e-6)
    assert not overlay.exists()
    assert main(arguments) == 0
    assert "nothing was gained: no file is written" in capsys.readouterr().out
    assert main([*arguments, "--always-write"]) == 0
    assert overlay.exists()


def test_streamed_chunks_are_not_taken_for_tokens(case, capsys, tmp_path) -> None:
    _, _, real, measured = case
    path = changed(measured, tmp_path, streamed_in_chunks)
    assert main(["compare", str(real), str(path), "--tolerance", "0.01", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["errors"]["mean_itl_ms"] == pytest.approx(0, abs=0.005)
    assert "p99_itl_ms" not in document["errors"]
    assert "in chunks of" in document["notes"][0]


def all_failed(document):
    for key, value in document.items():
        if isinstance(value, float):
            document[key] = 0.0
    document |= {"completed": 0, "failed": 60, "num_prompts": 60, "errors": ["refused"] * 60}


def only_errors(document):
    document["errors"] = ["refused"] * 60


@pytest.mark.parametrize("change", [all_failed, only_errors])
def test_a_benchmark_in_which_all_failed_is_an_error_and_no_pass(case, capsys, tmp_path, change) -> None:
    path = changed(case[3], tmp_path, change)
    assert main(["compare", str(case[2]), str(path), "--tolerance", "0.1"]) == 3
    assert "all requests of the benchmark failed" in capsys.readouterr().err


def test_a_tolerance_with_nothing_to_judge_is_missed(case, capsys, tmp_path) -> None:
    _, ours, real, _ = case
    path = tmp_path / "bare.json"
    path.write_text('{"request_throughput": 1.0}')
    assert main(["compare", str(real), str(path)]) == 0
    assert main(["compare", str(real), str(path), "--tolerance", "100"]) == 6
    assert "nothing was compared" in capsys.readouterr().err
    for bad in ("nan", "-1", "inf", "x"):
        assert main(["compare", str(ours), str(real), "--tolerance", bad]) == 2


def test_a_metric_that_the_run_lacks_is_missed() -> None:
    """A run in which nothing finished has no latencies; the measured ones cannot be met by that."""
    figures = {"output_throughput": 10.0, "mean_ttft_ms": 5.0}
    simulated = {"output_throughput": 10.0, "mean_ttft_ms": None}
    with pytest.raises(ThresholdError, match="mean_ttft_ms is missing from A"):
        compare_common.check(relative_errors(simulated, figures), figures, 0.1, "a")


def test_results_of_before_start_times_are_drawn_but_not_replayed(case, capsys, tmp_path) -> None:
    exp, ours, _, measured = case
    path = changed(measured, tmp_path, lambda document: document.pop("start_times"))
    figure = tmp_path / "cdf.svg"
    assert main(["compare", str(ours), str(path), "--figure", str(figure)]) == 0
    assert figure.read_bytes().startswith(b"<?xml")
    calibrate = ["--experiment", str(exp), "--calibrate", str(tmp_path / "x.yaml")]
    assert main(["compare", str(ours), str(path), *calibrate]) == 3
    assert "only since January 2026" in capsys.readouterr().err


def test_a_byte_order_mark_and_several_results_in_one_file(case, capsys, tmp_path) -> None:
    _, _, real, measured = case
    marked = tmp_path / "marked.json"
    marked.write_bytes(b"\xef\xbb\xbf" + measured.read_bytes())
    assert main(["compare", str(real), str(marked), "--tolerance", "0.0001"]) == 0
    slow = changed(measured, tmp_path, lambda document: document.update(output_throughput=1.0))
    both = tmp_path / "both.json"
    both.write_text(slow.read_text() + "\n" + measured.read_text())
    capsys.readouterr()
    assert main(["compare", str(real), str(both)]) == 3
    assert "--result N" in capsys.readouterr().err
    assert main(["compare", str(real), str(both), "--result", "1", "--tolerance", "0.1"]) == 6
    assert main(["compare", str(real), str(both), "--result", "2", "--tolerance", "0.1"]) == 0


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda document: document.update(ttfts=5), "'ttfts': got 5, expected a list"),
        (lambda document: document["ttfts"].pop(), "lists of different lengths"),
        (lambda document: document["ttfts"].__setitem__(3, None), "row 4, column 'ttfts'"),
        (lambda document: document["itls"].__setitem__(3, [0.1, -1.0]), "row 4, column 'itls'"),
        (lambda document: document["itls"].__setitem__(3, [None]), "row 4, column 'itls'"),
        (lambda document: document["itls"].__setitem__(3, 7), "row 4, column 'itls'"),
        (lambda document: document["output_lens"].__setitem__(3, 1e300), "row 4, column 'output_lens'"),
        (lambda document: document["start_times"].__setitem__(3, float("inf")), "row 4, column 'start_times'"),
    ],
)
def test_damaged_arrays_are_named(case, capsys, tmp_path, change, said) -> None:
    path = changed(case[3], tmp_path, change)
    assert main(["compare", str(case[2]), str(path)]) == 3
    assert said in capsys.readouterr().err


def test_the_figure_overlays_distributions(case, tmp_path):
    _, ours, _, measured = case
    for name, magic in (("cdf.svg", b"<?xml"), ("cdf.png", b"\x89PNG")):
        figure = tmp_path / name
        assert main(["compare", str(ours), str(measured), "--figure", str(figure)]) == 0
        assert figure.read_bytes().startswith(magic)


def test_two_runs_show_the_setting_that_differs(case, capsys):
    _, ours, real, _ = case
    assert main(["compare", str(ours), str(real)]) == 0
    text = capsys.readouterr().out
    assert text.startswith("vllm\nVerdict   A has the lowest latency")
    assert text.endswith("engine.batch_overhead: 0 ms | 8 ms\n")
    assert "p99_tpot_ms" in text
    assert "mean_itl_ms" not in text


@pytest.mark.parametrize(
    ("content", "code", "said"),
    [
        ("[]", 3, "no benchmark result of a known tool: it has []"),
        ("{", 3, "not JSON"),
        ('{"a": 1}', 3, "it has a; known: vllm bench serve"),
        (None, 3, "no such file"),
    ],
)
def test_unreadable_results_are_exit_code_3(case, capsys, tmp_path, content, code, said):
    path = tmp_path / "bad.json"
    if content is not None:
        path.write_text(content)
    assert main(["compare", str(case[1]), str(path)]) == code
    assert said in capsys.readouterr().err


def test_usage_errors(case, capsys, tmp_path):
    _, ours, real, measured = case
    for arguments, said in (
        ([str(tmp_path), str(measured)], "is not a run directory"),
        ([str(tmp_path / "absent"), str(measured)], "neither a run directory nor an experiment file"),
        ([str(ours), str(measured), "--replay"], "--replay simulates an experiment file"),
        ([str(ours), str(measured), "--set", "seed=1"], "--set changes an experiment file"),
        ([str(ours), str(measured), "--always-write"], "--always-write needs --calibrate"),
        ([str(ours), str(measured), "--add-to", str(tmp_path / "own.csv")], "--add-to needs --replay"),
        ([str(ours), str(real), str(measured)], "can be compared with one other run directory alone"),
        ([str(ours), str(measured), "--system", "vlm"], "did you mean 'vllm'"),
        ([str(ours), str(measured), "--calibrate", str(tmp_path / "x.yaml")], "--experiment"),
        ([str(ours), str(real), "--figure", "x.svg"], "needs a measured result"),
    ):
        assert main(["compare", *arguments]) == 2
        assert said in capsys.readouterr().err


def test_points_in_a_table_of_ones_own(case, capsys, tmp_path) -> None:
    path, _, _, measured = case
    table = tmp_path / "own.csv"
    for said in ("1 points added, 0 replaced, 1 in all", "0 points added, 1 replaced, 1 in all"):
        assert main(["compare", str(path), str(measured), "--replay", "--add-to", str(table), "--jobs", "1"]) == 0
        assert said in capsys.readouterr().err
    assert main(["accuracy", "--own", str(table)]) == 0
    assert "a100-40g" in capsys.readouterr().out
    assert main(["accuracy", "--own", str(table), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["over_all"]["tpot"]["points"] == len(found["points"]) == 1
    assert found["over_all"]["tpot"]["bias"] < -0.1
    assert main(["accuracy", "--own", str(table), "--all"]) == 2
    assert "leave out --all" in capsys.readouterr().err
    assert main(["accuracy", "--own", str(tmp_path / "absent.csv")]) == 3


def test_several_files_are_one_line_each_and_all_metrics_with_v(case, capsys, tmp_path) -> None:
    path, _, _, measured = case
    other = changed(measured, tmp_path, lambda document: document.update(mean_ttft_ms=1.0), "other.json")
    assert main(["compare", str(path), str(measured), str(other), "--replay", "--jobs", "1"]) == 0
    found = capsys.readouterr()
    assert [line.split()[0] for line in found.out.splitlines()[1:3]] == ["measured.json", "other.json"]
    assert "2 benchmarks" in found.out
    assert "p99_ttft_ms" not in found.out
    assert main(["compare", str(path), str(measured), str(other), "--replay", "--jobs", "1", "-v"]) == 0
    assert "p99_ttft_ms" in capsys.readouterr().out
    assert main(["compare", str(path), str(measured), str(other), "--jobs", "1", "--tolerance", "0.3"]) == 6


def test_a_load_that_differs_is_told_and_replayed_when_asked(case, capsys, tmp_path) -> None:
    path, _, real, measured = case

    def closed(document):
        document |= {"max_concurrency": 3, "request_rate": "inf", "num_prompts": 60}
        for key in ("start_times", "input_lens", "output_lens", "ttfts", "itls", "errors"):
            del document[key]
        document |= {"total_input_tokens": 6000, "total_output_tokens": 600}

    bare = changed(measured, tmp_path, closed)
    for run in (path, real):
        assert main(["compare", str(run), str(bare), "--json"]) == 0
        found = json.loads(capsys.readouterr().out)
        assert "measured with concurrency 3, simulated as poisson, rate 2" in " ".join(found["notes"])
        assert "mean output of 10 tokens measured" in " ".join(found["notes"])
    assert main(["compare", str(path), str(bare), "--replay", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["notes"][0].startswith(MEAN_LENGTHS)
    assert found["benchmarks"][0]["load"] == "concurrency 3, 100/10 tokens, 60 requests"
    same = [
        "--set",
        "workload.lengths={distribution: uniform, prompt_min: 50, prompt_max: 150, output_min: 5, output_max: 15}",
    ]
    assert main(["compare", str(path), str(bare), "--replay", "--json", *same]) == 0
    assert json.loads(capsys.readouterr().out)["notes"] == ["lengths spread as those of the experiment"]


def test_a_benchmark_of_another_model_is_told(case, capsys, tmp_path) -> None:
    path, _, _, measured = case
    for model, is_told in (("Qwen/Qwen3-32B", True), ("meta-llama/Meta-Llama-3-8B-Instruct", False), ("mine", False)):
        other = changed(measured, tmp_path, lambda document, model=model: document.update(model_id=model))
        for flags in ([], ["--replay"]):
            assert main(["compare", str(path), str(other), "--json", *flags]) == 0
            notes = json.loads(capsys.readouterr().out)["notes"]
            said = "the benchmark is of Qwen/Qwen3-32B, the experiment of llama-3-8b"
            assert (said in notes) is is_told


def test_a_load_that_the_experiment_cannot_have_is_told_with_its_file(case, capsys, tmp_path) -> None:
    path, _, _, measured = case

    def endless(document):
        document |= {"max_concurrency": 3, "total_input_tokens": 10**9}
        for key in ("start_times", "input_lens", "output_lens", "ttfts", "itls", "errors"):
            del document[key]

    other = changed(measured, tmp_path, endless)
    assert main(["compare", str(path), str(other), "--replay"]) == 2
    said = capsys.readouterr().err
    assert "changed.json" in said
    assert "context" in said
