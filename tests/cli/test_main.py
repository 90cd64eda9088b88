"""The frame of the command line: help, exit codes, what goes to which stream, and what is not imported."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import helixsim
from helixsim.cli import console
from helixsim.cli.main import main
from helixsim.cli.parsing import Parser
from helixsim.errors import ConfigError, DataError, ExitCode, InfeasibleError, SimulationError, ThresholdError

HEAVY = ("pandas", "matplotlib", "highspy", "simpy", "pydantic", "rich")


def run_python(code):
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=60)


@pytest.fixture
def failing(monkeypatch):
    """Replace the parser by one whose only command raises what it is given."""

    def install(error):
        ours = {"error": error}  # code of this file would be taken for a policy of the user's
        exec(compile("def fail(_args):\n    raise error\n", helixsim.__file__, "exec"), ours)
        parser = Parser()
        parser.set_defaults(func=ours["fail"])
        parser.add_argument("-v", dest="verbose", action="count", default=0)
        monkeypatch.setattr("helixsim.cli.main.build_parser", lambda *_: parser)

    return install


def test_help_lists_commands_and_every_exit_code(capsys):
    assert main(["--help"]) == 0
    out = capsys.readouterr().out
    assert "validate" in out
    assert all(f"  {code.value:<5}" in out for code in ExitCode)


def test_help_imports_nothing_heavy():
    listing = f"print([name for name in {HEAVY} if name in sys.modules])"
    done = run_python(f"import sys; from helixsim.cli.main import main; main(['--help']); {listing}")
    assert done.stdout.splitlines()[-1] == "[]"


def test_version_and_usage_errors(capsys):
    assert main(["--version"]) == 0
    assert capsys.readouterr().out.splitlines()[0] == f"helixsim {helixsim.__version__}"
    assert main([]) == 2
    assert main(["validte"]) == 2
    assert "validte" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (ConfigError("a\nb"), 2),
        (DataError("a\nb"), 3),
        (InfeasibleError("a\nb"), 4),
        (SimulationError("a\nb"), 5),
        (ThresholdError("a\nb"), 6),
    ],
)
def test_expected_errors_are_lines_on_stderr(failing, capsys, error, code):
    failing(error)
    assert main([]) == code
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err == "helixsim: error: a\nhelixsim: error: b\n"
    assert main(["-v"]) == code
    assert "Traceback" in capsys.readouterr().err


def test_unexpected_errors_ask_for_a_report(failing, capsys):
    failing(RuntimeError("boom"))
    assert main([]) == 1
    err = capsys.readouterr().err
    assert "RuntimeError: boom" in err
    assert "please report" in err


def test_an_interrupt_says_what_is_kept(failing, capsys):
    failing(KeyboardInterrupt())
    assert main([]) == 130
    assert "kept" in capsys.readouterr().err


def test_a_reader_that_goes_away_is_no_error():
    code = "import sys; from helixsim.cli.main import main; sys.exit(main(['inspect', 'schema', '--markdown']))"
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        process.stdout.close()
        assert process.stderr.read() == b""
        assert process.wait(timeout=60) == 0


@pytest.mark.parametrize("unbuffered", [[], ["-u"]])
def test_stdout_that_cannot_be_written_is_one_clear_error(unbuffered):
    done = subprocess.run(
        ["bash", "-c", '"$@" > /dev/full', "-", sys.executable, *unbuffered, "-m", "helixsim", "inspect", "strategies"],
        stderr=subprocess.PIPE, text=True, check=False, timeout=60,
    )  # fmt: skip
    assert done.returncode == ExitCode.DATA
    assert done.stderr == "helixsim: error: No space left on device\n"


@pytest.mark.parametrize("closed", [">&-", "2>&-", "<&-", ">&- 2>&-", "<&- >&- 2>&-"])
def test_closed_streams_do_not_change_the_answer(tmp_path, closed):
    """Without a stream of that number the next file opened would get it, and be written to."""
    out = tmp_path / "made.csv"
    arguments = ["trace", "generate", str(out), "--num-requests", "5", "--rate", "1", "--json", "-v"]
    done = subprocess.run(
        ["bash", "-c", f'"$@" {closed}', "-", sys.executable, "-m", "helixsim", *arguments],
        capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    if closed in {"2>&-", "<&-"}:
        json.loads(done.stdout)
    else:
        assert done.stdout == ""
    assert len(out.read_text(encoding="utf-8").splitlines()) == 6


def test_errors_do_not_go_to_stdout_where_stderr_is_closed():
    done = subprocess.run(
        ["bash", "-c", '"$@" 2>&-', "-", sys.executable, "-m", "helixsim", "validate", "no-such-file.yaml", "--json"],
        stdout=subprocess.PIPE, text=True, check=False, timeout=60,
    )  # fmt: skip
    assert done.returncode != 0
    assert "helixsim: error" not in done.stdout


def test_called_from_python_the_descriptors_stay_as_they_are(capfd):
    assert main(["inspect", "strategies", "--json"]) == 0
    os.write(1, b"mine\n")
    out, _ = capfd.readouterr()
    assert out.endswith("mine\n")
    assert json.loads(out.removesuffix("mine\n"))


def test_what_a_worker_process_prints_is_not_in_the_answer(tmp_path):
    (tmp_path / "worker.py").write_text(
        "import os\ndef work(task, report):\n    os.write(1, b'from a worker\\n')\n", encoding="utf-8"
    )
    script = tmp_path / "script.py"
    script.write_text(
        "import sys\n"
        "from helixsim.cli import main\n"
        "from helixsim.runtime.pool import Processes\n"
        "from worker import work\n"
        "def build(*_):\n"
        "    with Processes(1) as pool:\n"
        "        list(pool.run(work, [1], lambda *_: None))\n"
        "    print('the answer')\n"
        "    sys.exit(0)\n"
        "if __name__ == '__main__':\n"
        "    main.build_parser = build\n"
        "    sys.exit(main.main())\n",
        encoding="utf-8",
    )
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, check=False, timeout=60)
    assert (done.stdout, done.stderr, done.returncode) == ("the answer\n", "from a worker\n", 0)


def test_module_and_function_are_one_command():
    done = subprocess.run(
        [sys.executable, "-m", "helixsim", "--version"], capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout.splitlines()[0] == f"helixsim {helixsim.__version__}"


@pytest.mark.parametrize(
    ("environment", "expected"),
    [({}, False), ({"FORCE_COLOR": "1"}, True), ({"FORCE_COLOR": "1", "NO_COLOR": "1"}, False)],
)
def test_colour_is_for_terminals_and_for_those_who_ask(monkeypatch, environment, expected):
    for name in ("NO_COLOR", "FORCE_COLOR"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    with Path(os.devnull).open("w", encoding="utf-8") as stream:
        assert console.wants_colour(stream) is expected


def test_progress_without_a_terminal_is_a_line_per_tenth(monkeypatch, capsys):
    clock = iter(range(0, 10_000, 2))
    monkeypatch.setattr(console.time, "monotonic", lambda: next(clock))
    with console.progress("solving") as advance:
        for step in range(101):
            advance(step / 100)
    lines = capsys.readouterr().err.splitlines()
    spent = [2 + 2 * percent for percent in range(10, 101, 10)]  # two seconds each
    words = [f"{seconds} s" if seconds < 100 else f"{seconds / 60:.0f} min" for seconds in spent]
    assert lines == [f"solving: {10 * (n + 1)} % after {text}" for n, text in enumerate(words)]
    with console.progress("solving") as advance:
        advance(0.5, "bound 7")
    assert capsys.readouterr().err == "solving: 50 % after 2 s (bound 7)\n"
    with console.progress("solving", quiet=True) as advance:
        advance(1.0, "done")
    assert capsys.readouterr().err == ""


def test_a_file_that_cannot_be_written_is_one_clear_error(failing, capsys):
    failing(NotADirectoryError(20, "Not a directory", "README.md/runs"))
    assert main([]) == ExitCode.DATA
    assert capsys.readouterr().err == "helixsim: error: README.md/runs: Not a directory\n"
